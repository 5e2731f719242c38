"""Pure market code: books, features, tick sizes, costs, matching, ledger. No I/O, no clock, no settings."""
