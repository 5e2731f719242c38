"""The exchange that stands in for Upbit: its protocols, its market, its ledger."""
