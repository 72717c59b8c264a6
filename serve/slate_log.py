"""The log of what was shown: every slate, with its sources, arm, positions and the propensity of what chance put there.

Answers do not wait for it. Slates go to the store in batches, from a thread; what does not fit into the queue, because the store is away
for long, is dropped and counted. Tomorrow's training reads them back as the Impressions table.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import polars as pl

from data.schema import IMPRESSIONS
from serve.chance import propensities
from serve.contract import LoggedSlate, Request, Slate
from serve.store import Store, StoreError

logger = logging.getLogger(__name__)
ROOM, AT_ONCE, EVERY_S = 10_000, 500, 0.2


def logged(request: Request, slate: Slate, arm: str) -> LoggedSlate:
    """A slate as the log keeps it."""
    return LoggedSlate(
        slate.request_id,
        request.user_id,
        request.timestamp,
        arm,
        slate.model_version,
        slate.answered_by,
        request.device,
        request.region,
        tuple(shown.item_id for shown in slate.recommendations),
        tuple(shown.sources for shown in slate.recommendations),
        propensities(slate.draw, len(slate.recommendations)),
        slate.draw,
        first=len(request.before) + 1,
    )


def impressions(slates: Sequence[LoggedSlate]) -> pl.DataFrame:
    """The rows of `data.schema.IMPRESSIONS`, one for each item shown; what came of them stands in the events of their request_id."""
    rows = [
        {
            "request_id": one.request_id, "item_id": item, "user_id": one.user_id, "position": place, "sources": list(sources),
            "propensity": propensity, "arm": one.arm, "release": one.release, "timestamp": one.timestamp, "device": one.device,
            "region": one.region,
        }
        for one in slates
        for place, (item, sources, propensity) in enumerate(zip(one.item_ids, one.sources, one.propensities, strict=True), start=one.first)
    ]  # fmt: skip
    schema = {name: column.dtype for name, column in IMPRESSIONS.items()}
    return pl.DataFrame(rows, schema=schema)


class SlateLog:
    """Writes slates to a store from a thread of its own until closed; what is queued then is still written."""

    def __init__(self, store: Store, *, dropped: Callable[[int], None] = lambda _: None) -> None:
        """`dropped` is told how many slates are lost: no room was left for them, the store refused them, or it was away at the end."""
        self._store, self._dropped = store, dropped
        self._waiting: queue.Queue[LoggedSlate] = queue.Queue(ROOM)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slate-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many slates wait in the queue; up to `AT_ONCE` more are being written."""
        return self._waiting.qsize()

    def put(self, slate: LoggedSlate) -> None:
        """Have it written, soon. Never waits."""
        try:
            self._waiting.put_nowait(slate)
        except queue.Full:
            self._dropped(1)
        if not self._thread.is_alive():
            self._lose_rest()

    def close(self) -> None:
        """Write what is queued, and end. What comes later is told as dropped."""
        self._closing.set()
        self._thread.join()
        self._lose_rest()

    def _lose_rest(self) -> None:
        with suppress(queue.Empty):
            while self._waiting.get_nowait():
                self._dropped(1)

    def _run(self) -> None:
        batch: list[LoggedSlate] = []
        told = ""
        while not (self._closing.wait(EVERY_S) and self._waiting.empty() and not batch):
            while len(batch) < AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                if batch:
                    self._store.log_slates(batch)
                batch, told = [], ""
            except StoreError as error:
                if str(error) != told:  # five times a second would be too often
                    told = str(error)
                    logger.warning("%d slates wait to be logged: %s", len(batch) + self._waiting.qsize(), error)
                if self._closing.is_set():
                    self._dropped(len(batch))
                    return
            except ValueError as error:  # it would be refused again
                logger.error("%d slates cannot be logged: %s", len(batch), error)
                self._dropped(len(batch))
                batch = []
