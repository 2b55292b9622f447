"""What a home's ledger tells: demand, habits, circuits, carbon, sun. All pure."""
