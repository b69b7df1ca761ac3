#!/usr/bin/env bash
# How the official image of Kafka starts: its own wrapper turns the KAFKA_... variables into
# server.properties and formats the data folder; then the broker takes this process over.
set -u
export CLASSPATH='/opt/kafka/libs/*'

# A folder that an earlier start has formatted makes the wrapper fail; that is no failure.
said=$(java kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) ||
  grep -i "already formatted" <<<"$said" || { printf '%s\n' "$said"; exit 1; }

exec java -Xmx1G kafka.Kafka /opt/kafka/config/server.properties
