"""Firmware for nodes: signed documents, images, and how far a roll-out goes."""
