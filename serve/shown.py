"""What was shown of late: which share of the catalogue, and how old it was. Counted in this process, in 8 bytes an item.

Shapes: R rows with room for items to come · S items shown.
"""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.features import DAY_MS
from serve.release import Release

WITHIN_S = 3_600.0
RELEASES = 4  # that are remembered, those shown last: a champion, a challenger and what they replaced


class Lately(NamedTuple):
    """Of a release's `count` items: the share that was shown within `WITHIN_S`, and the ages of those in seconds, None where none of
    known age was."""

    count: int
    coverage: float
    newest_age_s: float | None
    median_age_s: float | None


class Shown:
    """When each item was last shown, release by release. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[Release, np.ndarray]] = {}  # seconds of `time.monotonic`, −∞ for never

    def tell(self, release: Release, item_ids: Sequence[str]) -> None:
        """These items were shown just now."""
        row_S = release.catalogue.rows(item_ids)
        self._of(release)[row_S[row_S >= 0]] = time.monotonic()

    def lately(self, version: str, now_ms: int) -> Lately | None:
        """What was shown of this release by the time `now_ms` (ms UTC, of ages); None where nothing ever was."""
        found = self._last.get(version)
        if found is None:
            return None
        (release, last_R), count = found, len(found[0].catalogue)
        row_S = np.flatnonzero(last_R > time.monotonic() - WITHIN_S)
        age_S = (now_ms - born_ms(release, row_S)) / 1000
        age_S = age_S[np.isfinite(age_S)]
        newest, median = (float(age_S.min()), float(np.median(age_S))) if len(age_S) else (None, None)
        return Lately(count, len(row_S) / max(count, 1), newest, median)

    def _of(self, release: Release) -> np.ndarray:
        version = release.manifest.version
        found = self._last.get(version)
        if found is None or found[0] is not release:
            with self._lock:
                found = self._last.get(version)
                if found is None or found[0] is not release:
                    kept = [(name, one) for name, one in self._last.items() if name != version][1 - RELEASES :]
                    found = (release, np.full(len(release.posted_at_I), -np.inf))
                    self._last = dict(kept) | {version: found}
        return found[1]


def born_ms(release: Release, row_S: np.ndarray) -> np.ndarray:
    """When items came into the world, float64 (S) ms UTC: when they were posted, else their release date; NaN where neither is known."""
    posted_S = release.posted_at_I[row_S]
    return np.where(posted_S >= 0, posted_S, release.release_day_I[row_S] * DAY_MS)
