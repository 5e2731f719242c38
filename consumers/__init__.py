"""Kafka to decisions and stores. Features are in streams/, models in models/."""
