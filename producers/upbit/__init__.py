"""Upbit's public market data to the topics."""
