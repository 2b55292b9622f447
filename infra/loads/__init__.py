"""Loads of simulated nodes: driving them, and what became of each of their readings."""
