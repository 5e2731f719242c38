"""The daily report: what was traded against what the replay says. Parity itself is in `consumers.verify`."""
