"""The language of the log, the pure market code, and the feature stage. Decisions are in consumers/, models in models/."""
