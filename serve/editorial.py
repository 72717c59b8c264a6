"""A list that people curate: what is shown when, where, and in which reserved slot. A YAML file, read again whenever it changes.

- item_id: "42"
  from: 2026-12-01            # a day, from its beginning (UTC), or an ISO time
  until: 2026-12-24           # a day, to its end, or the ISO time when it is over
  regions: [DE, FR]           # optional: everywhere
  place: 1                    # optional: the slot reserved for it, counted from the top
"""

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from data.features import DAY_MS
from serve.contract import MAX_COUNT

logger = logging.getLogger(__name__)
LOOK_S = 1.0
KEYS = {"item_id", "from", "until", "regions", "place"}


class EditorialError(ValueError):
    """The list cannot be read as one. The message names the entry and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list, active from `start` and before `end` (ms UTC) in `regions`, or everywhere where that is None."""

    item_id: str
    start: int
    end: int
    regions: tuple[str, ...] | None
    place: int | None

    def active(self, region: str | None, timestamp: int) -> bool:
        """Whether it is shown there and then. Where the region is not known, what is meant for some regions is not shown."""
        return self.start <= timestamp < self.end and (self.regions is None or region in self.regions)


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a list, in its order.

    Raises:
        EditorialError: it is no YAML, no list, or an entry is not what it must be.
    """
    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise EditorialError(f"is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, list | None):
        raise EditorialError(f"is a {type(told).__name__}; expected a list of entries")
    return tuple(_entry(number, raw) for number, raw in enumerate(told or (), start=1))


def _entry(number: int, raw: object) -> Entry:
    def wrong(what: str) -> EditorialError:
        return EditorialError(f"entry {number} {what}")

    if not isinstance(raw, dict):
        raise wrong(f"is {raw!r}; expected item_id, from and until")
    if unknown := [key for key in raw if key not in KEYS]:
        raise wrong(f"has a key {unknown[0]!r} that is none of {', '.join(sorted(KEYS))}")
    item_id, regions, place = raw.get("item_id"), raw.get("regions"), raw.get("place")
    if not isinstance(item_id, str) or not item_id:
        raise wrong(f"has the item_id {item_id!r}; expected text, in quotes where it is a number")
    start, end = (_moment(raw.get(name), day_counts) for name, day_counts in (("from", 0), ("until", DAY_MS)))
    if start is None or end is None or start >= end:
        raise wrong(f"runs from {raw.get('from')} until {raw.get('until')}; expected two dates or ISO times, the first before the second")
    if regions is not None and not (isinstance(regions, list) and regions and all(isinstance(region, str) for region in regions)):
        raise wrong(f'has the regions {regions!r}; expected a list of text (YAML reads NO as false: write "NO")')
    if place is not None and (type(place) is not int or not 1 <= place <= MAX_COUNT):
        raise wrong(f"has the place {place!r}; expected a whole number from 1 to {MAX_COUNT}")
    return Entry(item_id, start, end, None if regions is None else tuple(regions), place)


def _moment(told: object, day_counts: int) -> int | None:
    """ms UTC of a date (plus `day_counts`) or a time; a time without a zone is UTC. None where it is neither."""
    try:
        if isinstance(told, str):
            told = dt.date.fromisoformat(told) if len(told) == len("2026-12-24") else dt.datetime.fromisoformat(told)
    except ValueError:
        return None
    if isinstance(told, dt.datetime):
        told = told if told.tzinfo else told.replace(tzinfo=dt.UTC)
        return round(told.timestamp() * 1000)
    return (told - dt.date(1970, 1, 1)).days * DAY_MS + day_counts if isinstance(told, dt.date) else None


class EditorialFile:
    """The list as it stands in its file, of which `rows` knows the item rows (−1: unknown). Safe to share between threads.

    The file is looked at once in `LOOK_S` seconds at most, and read when its time or size is another. While it is missing or broken the
    last good list stays, and `failures` counts the changes that could not be read. An item that the catalogue does not know is skipped,
    named in the log once, and counted in `unknown`.
    """

    def __init__(self, path: Path | str | None, rows: Callable[[Sequence[str]], np.ndarray]) -> None:
        """None for `path` is a list without entries."""
        self.path, self.failures, self.unknown = None if path is None else Path(path), 0, 0
        self._rows, self._looking = rows, threading.Lock()
        self._entries: tuple[Entry, ...] = ()
        self._stamp: object = None
        self._named: set[str] = set()
        self._next_look = 0.0

    def entries(self) -> tuple[tuple[Entry, int], ...]:
        """The entries of items that there are, each with its item row, in the file's order."""
        if self.path is not None and time.monotonic() >= self._next_look and self._looking.acquire(blocking=False):
            try:  # whoever comes meanwhile goes on with the list as it was
                self._look(self.path)
            finally:
                self._next_look = time.monotonic() + LOOK_S
                self._looking.release()
        entries = self._entries
        row_N = self._rows([entry.item_id for entry in entries])  # each time anew: what was posted since is known by now
        if len(missing := [entry.item_id for entry, row in zip(entries, row_N, strict=True) if row < 0]):
            self._name(missing)
        return tuple((entry, int(row)) for entry, row in zip(entries, row_N, strict=True) if row >= 0)

    def _look(self, path: Path) -> None:
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._entries = parse(path.read_text())
        except (OSError, UnicodeDecodeError, EditorialError) as error:
            if isinstance(error, OSError):
                if self._stamp == str(error):
                    return
                self._stamp = str(error)
            self.failures += 1
            logger.error("editorial list %s: %s; the %s entries before it stay", path, error, len(self._entries))

    def _name(self, missing: Sequence[str]) -> None:
        new = sorted(set(missing) - self._named)
        if new:
            self._named.update(new)
            self.unknown = len(self._named)
            logger.warning("editorial list %s: no item of the catalogue is called %s", self.path, ", ".join(map(repr, new)))
