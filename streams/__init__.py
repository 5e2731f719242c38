"""The language of the log, the pure market code, the feature stage. Decisions: consumers/. Models: models/."""
