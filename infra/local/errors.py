"""What can go wrong with the local stack; each text says what to do about it."""


class StackError(Exception):
    """The local stack cannot do what it was asked; the text is meant for a person."""


class MissingTools(StackError):
    """Programs of the host are missing and could not be installed."""


class PortTaken(StackError):
    """Somebody else listens on a port that the stack needs."""


class NotReady(StackError):
    """A server did not answer in time; the text ends with the tail of its log."""


class PartitionCountDiffers(StackError):
    """A topic exists with another number of partitions than declared."""
