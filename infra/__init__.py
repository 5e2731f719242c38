"""Settings, the log and its edge, tables, servers, supervisor. Knows no prices."""
