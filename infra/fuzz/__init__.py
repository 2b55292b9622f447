"""Payloads that nobody should send, through the whole pipeline, and what became of each."""
