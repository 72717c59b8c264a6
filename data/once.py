"""An estimate is made once of one log, however often rows are asked about."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from data.impressions import Observed

Found = TypeVar("Found")


def once(estimate: Callable[..., Found]) -> Callable[..., Found]:
    """`estimate(observed, **how)`, remembered for the log that was asked about last and each way it was asked in."""
    last: list = []

    @wraps(estimate)
    def remembered(observed: Observed, **how) -> Found:
        if not last or last[0] is not observed.shown:
            last[:] = [observed.shown, {}]
        key = repr(sorted(how.items()))
        if key not in last[1]:
            last[1][key] = estimate(observed, **how)
        return last[1][key]

    return remembered
