"""Benchmark of messages and of the API: rates, large messages, latency, memory of a full inbox."""
