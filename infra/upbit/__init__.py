"""Upbit's wire structs, signing, rate limits, as documented, without meaning."""
