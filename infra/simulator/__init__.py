"""Simulated meters, plugs and nodes of every family: the same seed and start, the same bytes."""
