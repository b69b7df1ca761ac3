# Stands in for the official image of Kafka where that cannot be pulled: Kafka's jars from Maven,
# a user of its own, the same folders, and a start that does the same in the same order.
# The build context is a folder with the jars in lib/ and kafka.sh.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 appuser \
 && install -d -o appuser -g appuser /opt/kafka/config /etc/kafka/docker /mnt/shared/config \
      /var/lib/kafka/data
COPY lib /opt/kafka/libs
COPY kafka.sh /etc/kafka/docker/run
USER appuser
VOLUME ["/var/lib/kafka/data", "/mnt/shared/config"]
CMD ["bash", "/etc/kafka/docker/run"]
