"""Long trials of what must always hold, each on stacks of its own."""
