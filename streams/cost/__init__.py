"""Running cost and budgets: every figure is a difference of two bills of the same ledger. Pure, but
for the process (`__main__`, `job`)."""
