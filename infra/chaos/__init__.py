"""Faults on purpose: what the pipeline must survive, and losses that the accounting must see."""
