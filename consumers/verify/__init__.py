"""The `observator verify` and `observator bench` commands: what this system claims of itself, run for real."""
