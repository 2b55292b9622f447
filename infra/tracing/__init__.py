"""From a quarter hour of the ledger back to the bytes that it came from."""
