"""The order executor: journal, gateway, reconciliation."""
