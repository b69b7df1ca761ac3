// Reads the events as they should be read: committed ones only, their offsets after the work.
import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import com.fasterxml.jackson.databind.annotation.JsonNaming;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.*;

public class Consume {
    static volatile boolean running = true;

    // What schemas/event.v1.schema.json says. JsonNode comes as the API sends it: usually text.
    @JsonNaming(SnakeCaseStrategy.class)
    record Event(
        String eventId, String source, JsonNode connId, String date, String occurredAt,
        Boolean occurredAtAmbiguous, JsonNode channel, JsonNode from, JsonNode fromName,
        JsonNode toName, JsonNode message, Long messageBytes, String messageSha256,
        JsonNode customerId, JsonNode customerPhone, JsonNode feeling, JsonNode agentName,
        JsonNode customerName, JsonNode extra) {}

    // Your work. It sees an event again after a crash: let eventId be its primary key.
    static void work(Event event) {
        System.out.println(event.eventId + " " + event.occurredAt);
    }

    public static void main(String[] args) throws Exception {
        var env = System.getenv();
        var json = JsonMapper.builder() // a later release may add fields
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES).build();
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", env.getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
            "group.id", env.getOrDefault("GROUP", "example"),
            "isolation.level", "read_committed", // what an aborted transaction left is never seen
            "auto.offset.reset", "earliest", "enable.auto.commit", false,
            "session.timeout.ms", 6000, // after a crash another member takes over so much later
            "heartbeat.interval.ms", 2000);
        var consumer = new KafkaConsumer<>(
            settings, new StringDeserializer(), new ByteArrayDeserializer());
        var main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { // SIGTERM: Java then exits with 143
            running = false;
            try { main.join(); } catch (InterruptedException ignored) { }
        }));
        try (consumer) { // close() leaves the group
            consumer.subscribe(List.of(env.getOrDefault("TOPIC", "wolkvox.messages")));
            while (running) {
                var records = consumer.poll(Duration.ofMillis(500));
                for (var record : records) work(json.readValue(record.value(), Event.class));
                try {
                    if (!records.isEmpty()) consumer.commitSync();
                } catch (CommitFailedException | RebalanceInProgressException moved) {
                    // Another member has these partitions now, and does the work again.
                }
            }
        }
    }
}
