"""Real servers started from package registries: Kafka."""
