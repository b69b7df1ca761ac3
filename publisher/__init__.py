"""Publishes Wolkvox chat conversations to Kafka, each message exactly once."""

__version__ = "0.1.0"
