"""What a command opens for as long as it runs: the store, and the engine of one serving process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.clock import Clock
from serve.engine import Engine
from serve.fleet import Fleet
from serve.gauges import Gauges
from serve.served import opened
from serve.settings import Settings
from serve.store import Store, StoreError, open_store

RETRY_S = 30.0


def no_stand_in(*_: object) -> None:
    """Where no release can be opened there is no answer, and the reason is said: for whoever asks once, from a shell."""


@contextmanager
def engine(chosen: Settings, *, stand_in: Callable = no_stand_in, retry_s: float = RETRY_S) -> Iterator[Engine]:
    """Everything one serving process holds, for as long as the block lasts: the store, the releases, what follows them. A release that
    could not be opened is tried again after `retry_s`."""
    gauges, clock = Gauges(), Clock(chosen.time)
    with store_of(chosen, clock) as store:
        open_release = opened(chosen, store, gauges, clock)
        fleet = Fleet(
            chosen.releases,
            open_release,
            salt=chosen.arms.salt,
            shares=chosen.arms.shares,
            retry_s=retry_s,
            last_resort=stand_in(open_release, store),
        )
        made = Engine(store, fleet, gauges, clock.now_ms)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def store_of(chosen: Settings, clock: Clock | None = None) -> Iterator[Store]:
    """The store of the settings, open for as long as the block lasts.

    Raises:
        StoreError: it cannot be opened, or there can be no folder `state`.
    """
    try:
        chosen.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{chosen.state} cannot be the folder of what serving writes ({error.strerror}); give another by state=…"
        ) from error
    store = open_store(
        chosen.store or chosen.state / "live.sqlite", history_length=chosen.history_length, shown_days=chosen.rules.shown_days,
        now_ms=(clock or Clock("now")).now_ms,
    )  # fmt: skip
    try:
        yield store
    finally:
        store.close()
