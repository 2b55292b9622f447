"""One file a device family: bytes in, values out. No clock, no environment, no I/O."""
