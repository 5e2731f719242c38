"""The outside world to Kafka. Reading Kafka is in consumers/ and streams/."""
