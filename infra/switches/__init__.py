"""Simulated relays of every family, with the topics and the manners of the real ones."""
