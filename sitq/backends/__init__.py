"""Backends: the durable store of a queue."""
