"""Bills of homes: what they hold, when they are issued, what late data changes.

Pure, but for `job` and `__main__`, the process that issues them.
"""
