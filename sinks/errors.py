"""Which of the database's errors pass by themselves."""

import psycopg

_TRANSIENT = ("08", "57P", "57014", "40001", "40P01", "53", "55P03", "25006", "25P04", "25P03")
_NEVER_HEALS = ("53400",)  # Timescale's "tuple decompression limit exceeded"


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statements can succeed later: an outage, a deadlock, a full disk.

    An error without SQLSTATE is libpq's own word that the connection is gone.
    """
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state.startswith(_TRANSIENT) and not state.startswith(_NEVER_HEALS)
