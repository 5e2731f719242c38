"""SQL tables; the owner is named on line 1 of each file."""
