"""Signed updates of a node: what is fetched, checked, tried and kept. See docs/ota.md.

Belongs to the bootloader: an update replaces the application, never these files.
"""
