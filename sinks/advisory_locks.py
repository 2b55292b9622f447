"""PostgreSQL's advisory locks, each number once: two of one number keep each other waiting."""

from enum import IntEnum, unique


@unique
class Lock(IntEnum):
    """What one process, or one transaction, does at a time."""

    NEW_DEVICE = 7301
    ROLLUP = 7302
    COST = 7303
    BILLING = 7304
    PRESENCE = 7305
    COMMANDS = 7309
