// Reads the events as they should be read: committed ones only, their offsets after the work.
import { decompress } from 'fzstd'
import kafkajs from 'kafkajs'

// What schemas/event.v1.schema.json says. `unknown` comes as the API sends it: usually a string.
export interface Event {
  event_id: string
  source: string
  conn_id?: string | number | null
  date: string
  occurred_at: string
  occurred_at_ambiguous?: true
  channel?: unknown
  from?: unknown
  from_name?: unknown
  to_name?: unknown
  message?: unknown
  message_bytes?: number
  message_sha256?: string
  customer_id?: unknown
  customer_phone?: unknown
  feeling?: unknown
  agent_name?: unknown
  customer_name?: unknown
  extra?: { message?: Record<string, unknown>; conversation?: Record<string, unknown> }
}

// Your work. It sees an event again after a crash: let `event_id` be its primary key.
async function work(event: Event): Promise<void> {
  const line = `${event.event_id} ${event.occurred_at}\n`
  await new Promise<void>((done) => process.stdout.write(line, () => done()))
}

// The publisher compresses by zstd, which this client leaves to its user.
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.ZSTD] = () => ({
  compress: () => Promise.reject(new Error('a consumer compresses nothing')),
  decompress: async (bytes: Buffer) => Buffer.from(decompress(bytes)),
})
const { KAFKA_BOOTSTRAP_SERVERS: servers, TOPIC: topic, GROUP: group } = process.env
const brokers = servers?.split(',') ?? ['localhost:9092']
const consumer = new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.WARN }).consumer({
  groupId: group ?? 'example',
  readUncommitted: false, // what an aborted transaction left is never seen
  sessionTimeout: 6000, heartbeatInterval: 2000, // a crashed member is replaced so much later
})
consumer.on('consumer.crash', ({ payload }) => void (payload.restart || (process.exitCode = 1)))
await consumer.connect()
await consumer.subscribe({ topic: topic ?? 'wolkvox.messages', fromBeginning: true })
await consumer.run({
  autoCommit: false,
  eachBatch: async ({ batch, heartbeat }) => {
    for (const record of batch.messages) {
      if (record.value) await work(JSON.parse(record.value.toString()) as Event)
      await heartbeat()
    }
    const offset = (BigInt(batch.lastOffset()) + 1n).toString()
    await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset }])
  },
})
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => void consumer.disconnect())
