"""One pure file a device family: from a command to the message that the device understands."""
