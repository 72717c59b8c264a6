"""Today, as it happens: a thread that follows the store, so that every process counts what any process was told.

Sources read `Live.tops`, one reference to an immutable value: nobody waits for anybody, and nothing is counted or ranked on the path of a
request. What the release has counted is not counted again: only events after its log's end are, and slates after the last it knows.

Shapes: E events.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from data.features import DAY_MS, EVENT_TYPE_CODE, event_code, is_liked
from serve.store import Store, StoreError
from serve.tops import Tops

logger = logging.getLogger(__name__)
PERIOD_S = 1.0
BUSY = 0.2  # of its time the thread may take at most: a large catalogue is ranked less often, and requests keep the processor
EVENTS_AT_ONCE, SLATES_AT_ONCE = 100_000, 10_000
WAITING = 10_000  # events of items not known yet that are kept until they are
STORED = 10_000  # times of storing that are kept until what was stored is counted


def wall_ms() -> int:
    """ms UTC by the clock on the wall."""
    return time.time_ns() // 1_000_000


class Live:
    """The tops of a release and of everything the store was told since. Safe to share between threads; one thread of its own.

    `failures` counts the polls that the store failed, and `failing` says whether the last did: what was counted stays, and the next poll
    goes on where the last good one ended. `unknown` counts events and shown items that nobody knows (yet), `early` events that the
    release has counted already (or that came too late for it).
    """

    def __init__(
        self,
        tops: Tops,
        store: Store,
        *,
        rows: Callable[[Sequence[str]], np.ndarray],
        users: pl.DataFrame,
        liked_from: float,
        now_ms: Callable[[], int] = wall_ms,
        period_s: float = PERIOD_S,
        known: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`tops` are the release's; `rows` gives item rows, −1 for an unknown id; `users` says where a user is at home; `now_ms` is the
        clock by which an event from the future counts as just now; `known` is told how many seconds passed from `stored` to counted."""
        self.failures, self.failing, self.unknown, self.early = 0, False, 0, 0
        self._tops, self._trends, self._store = tops, tops.trends, store
        self._rows, self._home, self._liked_from = rows, users.select("user_id", "region"), liked_from
        self._now_ms, self._period_s = now_ms, period_s
        self._event, self._slate = 0, 0  # the numbers of the last ones read
        self._posted: deque[tuple[np.ndarray, int]] = deque()
        self._waiting: pl.DataFrame | None = None
        self._known, self._caught_up = known, time.monotonic()
        self._stored: deque[float] = deque(maxlen=STORED)
        self._turn, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live-counts", daemon=True)

    def tops(self) -> Tops:
        """The newest tops. Costs nothing."""
        return self._tops

    def start(self) -> None:
        """Follow the store from now on, in a thread that ends with `close` or with the process."""
        self._thread.start()

    @property
    def following(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Follow no longer. A poll that is under way is not waited for longer than two periods."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(2 * self._period_s)

    def add_items(self, item_row_P: np.ndarray, posted_at: int) -> None:
        """Items that were posted at `posted_at` (ms UTC) and have these rows: explored from the next poll on. Never waits.

        Events told of them before anyone knew their rows are counted then.
        """
        self._posted.append((np.asarray(item_row_P, np.int64), posted_at))

    def stored(self) -> None:
        """Events have just been stored, which a poll from now on will count. Never waits."""
        self._stored.append(time.monotonic())

    @property
    def age_s(self) -> float:
        """Seconds since all that was stored had been counted."""
        return time.monotonic() - self._caught_up

    def poll(self) -> None:
        """Read all that is new and rank what it changed. What the thread does once a period; where none runs, whoever calls."""
        with self._turn:
            self._take_posted()
            began = time.monotonic()
            try:
                self._read_events()
                self._read_slates()
            except StoreError as error:
                self.failures += 1
                if not self.failing:
                    logger.warning("live counts stand still: %s", error)
                self.failing = True
            else:
                if self.failing:
                    logger.info("live counts go on")
                self.failing = False
            if self._trends is not self._tops.trends:
                self._tops = self._tops.after(self._trends)
            if not self.failing:
                self._caught_up_with(began)

    def _caught_up_with(self, began: float) -> None:
        """What was stored before `began` is counted by now."""
        self._caught_up = began
        while self._stored and self._stored[0] <= began:
            self._known(time.monotonic() - self._stored.popleft())

    def _follow(self) -> None:
        pause_s = self._period_s
        while not self._stopped.wait(pause_s):
            began = time.monotonic()
            self.poll()
            pause_s = max(self._period_s, (time.monotonic() - began) / BUSY)

    def _take_posted(self) -> None:
        posted = bool(self._posted)
        while self._posted:
            item_row_P, posted_at = self._posted.popleft()
            exposure = self._trends.exposure.posted(item_row_P, np.full(len(item_row_P), posted_at / DAY_MS))
            self._trends = replace(self._trends, exposure=exposure)
        if posted and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.unknown -= len(waiting)
            self._count(waiting)

    def _read_events(self) -> None:
        while True:
            events = self._store.events_since(self._event, limit=EVENTS_AT_ONCE)
            if len(events):
                later = events.filter(pl.col("timestamp") > self._trends.log_end)
                self.early += len(events) - len(later)
                self._count(later)
                self._event = int(events["sequence"][-1])
            if len(events) < EVENTS_AT_ONCE:
                return

    def _count(self, events: pl.DataFrame) -> None:
        rating_E = events["rating"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        type_E = events["event_type"].replace_strict(EVENT_TYPE_CODE, return_dtype=pl.Int64).to_numpy()
        liked = events.filter(is_liked(event_code(type_E, rating_E, liked_from=self._liked_from)))
        item_row_E = self._rows(liked["item_id"].to_list())
        self._wait(liked.filter(item_row_E < 0))
        counted, item_row_E = liked.filter(item_row_E >= 0), item_row_E[item_row_E >= 0]
        timestamp_E = np.minimum(counted["timestamp"].to_numpy(), max(self._now_ms(), self._trends.log_end + 1))
        self._trends = self._trends.taken_up(item_row_E, timestamp_E, self._regions(counted))

    def _regions(self, events: pl.DataFrame) -> np.ndarray:
        """Where each event was: what it says, else where its user is at home. Objects, None where nobody knows."""
        home = self._home.filter(pl.col("user_id").is_in(events["user_id"].unique().implode()))
        joined = events.join(home, on="user_id", how="left", suffix="_home", maintain_order="left")
        return np.array(joined.select(pl.coalesce("region", "region_home")).to_series().to_list(), object)

    def _wait(self, events: pl.DataFrame) -> None:
        self.unknown += len(events)
        if len(events):
            self._waiting = events if self._waiting is None else pl.concat([self._waiting, events]).tail(WAITING)

    def _read_slates(self) -> None:
        while True:
            slates = self._store.slates_since(self._slate, limit=SLATES_AT_ONCE)
            later = [slate for _, slate in slates if slate.timestamp > self._trends.shown_end]
            shown_E = self._rows([item_id for slate in later for item_id in slate.item_ids])
            here_E = self._trends.exposure.holds(shown_E)
            self.unknown += int((~here_E).sum())
            if here_E.any():
                self._trends = replace(self._trends, exposure=self._trends.exposure.shown(shown_E[here_E]))
            if slates:
                self._slate = slates[-1][0]
            if len(slates) < SLATES_AT_ONCE:
                return
