"""Latency tables in the formats of other projects."""
