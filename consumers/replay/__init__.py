"""What was recorded, run again: into a prefixed run of the log, or in memory."""
