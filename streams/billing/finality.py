"""When a bill is issued."""

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from streams.tariffs.month import Cycle

LONGEST_WAIT = timedelta(days=3)


def is_final(cycle: Cycle, complete: NDArray[np.bool_], now: datetime) -> bool:
    """Whether the bill of a cycle can be issued at `now` (aware).

    `complete` says of each quarter hour whether the stream is done with it. Three days after the
    end of the cycle it is issued anyway; what nobody measured by then costs nothing.
    """
    if now < cycle.end:
        return False
    return bool(complete.all()) or now >= cycle.end + LONGEST_WAIT
