"""Asks devices themselves: over HTTP while their MQTT is silent, over RPC for what they stored."""
