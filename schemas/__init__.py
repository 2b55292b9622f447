"""Every message, topic name and table row, once. Knows no other room."""
