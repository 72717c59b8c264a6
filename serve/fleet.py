"""Champion and challenger, both loaded, and exchanged for others while requests run.

    fleet = Fleet(releases, open_release, salt="autumn", shares={"champion": 0.9, "challenger": 0.1})
    with fleet.watching(), fleet.lease(user_id) as (arm, recommender):
        ...

A request leases what it is answered by. A release whose link moved on takes no more leases and is closed after its last one ended; the
next one was opened before that, on a thread that no request waits for. A release that cannot be opened changes nothing but `status`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from data.schema import SchemaError
from serve import publication
from serve.ab import arm
from serve.manifest import ReleaseError
from serve.store import StoreError
from serve.triton import TritonError

logger = logging.getLogger(__name__)
CHAMPION, CHALLENGER = "champion", "challenger"
CANNOT_OPEN = (ReleaseError, TritonError, StoreError, SchemaError, OSError)

T = TypeVar("T")
Open = Callable[[str], tuple[T, Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """One arm: `wanted` is what its link names (None: no link, or none that can be read), `serving` what answers, `leases` the requests
    it is answering now, `error` why the two differ, `retry_in_s` when it is tried again unless the link moves first; `opened_at` is when
    what it serves was seen to answer as at export (ms UTC)."""

    arm: str
    wanted: str | None
    serving: str | None
    leases: int
    error: str | None
    retry_in_s: float | None
    opened_at: int | None


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """`retiring` are releases that wait for their last lease; `watch_error` is what the last look at the links failed by, if it did."""

    arms: tuple[ArmStatus, ...]
    retiring: tuple[str, ...]
    watch_error: str | None

    @property
    def whole(self) -> bool:
        """Whether every arm serves what its link names."""
        return self.watch_error is None and all(one.error is None and one.wanted == one.serving for one in self.arms)


class _Berth(Generic[T]):
    """An opened release and how many requests hold it; counted under the fleet's lock."""

    def __init__(self, version: str, recommender: T, close: Callable[[], None]) -> None:
        self.version, self.recommender, self.close = version, recommender, close
        self.leases, self.close_by_s, self.opened_at = 0, 0.0, time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Failure:
    version: str | None
    message: str
    retry_at_s: float


class Fleet(Generic[T]):
    """Safe from any number of threads. `open_release(version)` gives what answers, verified, and what closes it.

    Everything is opened and closed on one thread of the fleet's own, which lives until `close`: a Triton that is started there lives as
    long. `shares` are of the arms "champion" and, where there is one, "challenger"; while no challenger is loaded, all are the champion's.
    """

    def __init__(
        self, root: Path, open_release: Open[T], *, salt: str, shares: Mapping[str, float], retry_s: float = 30.0, drain_s: float = 30.0,
        last_resort: Open[T] | None = None,
    ) -> None:  # fmt: skip
        """Open what `current` names or, where that cannot be, the newest before it that can, or by `last_resort`; and the challenger. What
        stands in for the current release is exchanged for it as soon as it can be opened.

        Raises:
            ReleaseError, TritonError, StoreError, SchemaError, OSError: neither the current release nor one before it can be opened.
            ValueError: shares that are none, or of other arms.
        """
        if not set(shares) <= {CHAMPION, CHALLENGER}:
            raise ValueError(f"shares are of {', '.join(shares)}; expected {CHAMPION} and {CHALLENGER}")
        arm("", salt, shares)  # raises where they are none
        self.root, self._open, self._salt, self._shares = Path(root), open_release, salt, dict(shares)
        self._retry_s, self._drain_s, self._last_resort = retry_s, drain_s, last_resort
        self._lock = threading.Lock()  # of the tables below; never held while something is opened or closed
        self._loaded: dict[str, _Berth[T]] = {}
        self._wanted: dict[str, str | None] = {}
        self._failed: dict[str, _Failure] = {}
        self._retiring: list[_Berth[T]] = []
        self._watch_error: str | None = None
        self._yard = ThreadPoolExecutor(1, "fleet")
        try:
            self._yard.submit(self._first).result()
        except BaseException:
            self.close()  # Ctrl-C may come while a release is being opened: what was opened is closed
            raise

    @contextmanager
    def lease(self, user_id: str) -> Iterator[tuple[str, T]]:
        """(the user's arm, what answers in it), held until the end of the block, whatever is swapped meanwhile."""
        name = arm(user_id, self._salt, self._shares)
        with self._held(name) as (served, berth):
            yield served, berth.recommender

    @contextmanager
    def champion(self) -> Iterator[T]:
        """What answers where nobody in particular asks: the champion, held until the end of the block."""
        with self._held(CHAMPION) as (_, berth):
            yield berth.recommender

    @contextmanager
    def preview(self, name: str) -> Iterator[T]:
        """What answers in an arm, whoever's it is, held until the end of the block.

        Raises:
            LookupError: nothing answers in it now.
        """
        with self._held(name) as (served, berth):
            if served != name:
                raise LookupError(f"There is no {name} now; `python -m serve release challenge` makes one.")
            yield berth.recommender

    def arm(self, user_id: str) -> str:
        """The arm by which a user would be answered now."""
        name = arm(user_id, self._salt, self._shares)
        with self._lock:
            return name if name in self._loaded else CHAMPION

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of the users that each arm has while it is there."""
        return dict(self._shares)

    @contextmanager
    def _held(self, name: str) -> Iterator[tuple[str, _Berth[T]]]:
        with self._lock:
            served = name if name in self._loaded else CHAMPION
            berth = self._loaded[served]
            berth.leases += 1
        try:
            yield served, berth
        finally:
            with self._lock:
                berth.leases -= 1

    def refresh(self) -> None:
        """Look at the links; open what is new, exchange it for what answered, and close what nobody holds any more.

        A release that cannot be opened is tried again after `retry_s`, or at once when the link moves.
        """
        self._yard.submit(self._refresh).result()

    @contextmanager
    def watching(self, every_s: float = 1.0) -> Iterator[None]:
        """`refresh` again and again while the block lasts. What fails unexpectedly is logged, shown by `status`, and tried again."""
        stopping = threading.Event()

        def watch() -> None:
            while not stopping.wait(every_s):
                error = self._yard.submit(self._refresh).exception()
                if error is not None and self._watch_error != repr(error):
                    logger.error("fleet: %r", error, exc_info=error)
                self._watch_error = None if error is None else repr(error)

        watcher = threading.Thread(target=watch, name="fleet-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stopping.set()
            watcher.join()

    def status(self) -> FleetStatus:
        """What is served, what should be, and why they differ: for /readyz."""
        now = time.monotonic()
        with self._lock:
            arms = []
            for name in (CHAMPION, CHALLENGER):
                berth, failed, wanted = self._loaded.get(name), self._failed.get(name), self._wanted.get(name)
                if berth or failed or wanted:
                    error, retry = (failed.message, max(failed.retry_at_s - now, 0.0)) if failed else (None, None)
                    serving, leases, since = (berth.version, berth.leases, berth.opened_at) if berth else (None, 0, None)
                    arms.append(ArmStatus(name, wanted, serving, leases, error, retry, since))
            return FleetStatus(tuple(arms), tuple(berth.version for berth in self._retiring), self._watch_error)

    def close(self) -> None:
        """Wait for leases to end, at most `drain_s`, then close everything. Nothing can be leased after."""
        self._yard.submit(self._close_all).result()
        self._yard.shutdown()

    def _first(self) -> None:
        versions = publication.line(self.root)
        errors = []
        for version in versions:
            try:
                self._dock(CHAMPION, version)
                break
            except CANNOT_OPEN as error:
                logger.error("release %s cannot be served: %s", version, error)
                errors.append(error)
        else:
            if self._last_resort is None:
                raise errors[0]
            version = f"a stand-in for {versions[0]}"
            self._loaded[CHAMPION] = _Berth(version, *self._last_resort(versions[0]))
        self._wanted[CHAMPION] = versions[0]
        if errors:
            self._fail(CHAMPION, versions[0], errors[0])
            logger.error("release %s is served in place of %s", version, versions[0])
        self._refresh_arm(CHALLENGER, lambda: publication.challenger(self.root))

    def _refresh(self) -> None:
        self._sweep()
        self._refresh_arm(CHAMPION, lambda: publication.line(self.root)[0])
        self._refresh_arm(CHALLENGER, lambda: publication.challenger(self.root))
        self._sweep()

    def _refresh_arm(self, name: str, read: Callable[[], str | None]) -> None:
        try:
            wanted = read()
        except CANNOT_OPEN as error:
            self._note(name, None, error)
            return
        with self._lock:
            self._wanted[name] = wanted
            serving, failed = self._loaded.get(name), self._failed.get(name)
            if serving is not None and serving.version == wanted:
                self._failed.pop(name, None)
                return
            if wanted is None:
                self._failed.pop(name, None)
                self._retire(name)
                return
        if failed is not None and failed.version == wanted and time.monotonic() < failed.retry_at_s:
            return
        try:
            self._dock(name, wanted)
        except CANNOT_OPEN as error:
            self._note(name, wanted, error)

    def _dock(self, name: str, version: str) -> None:
        """Have `version` answer in an arm: as it is loaded already (a challenger that was promoted), or opened."""
        with self._lock:
            berth = next((berth for berth in self._loaded.values() if berth.version == version), None)
        if berth is None:
            berth = _Berth(version, *self._open(version))
        with self._lock:
            old = self._loaded.get(name)
            self._loaded[name] = berth
            self._failed.pop(name, None)
            if old is not None:
                self._put_aside(old)
        logger.info("%s is now release %s%s", name, version, f", after {old.version}" if old else "")

    def _retire(self, name: str) -> None:
        berth = self._loaded.pop(name, None)
        if berth is not None:
            self._put_aside(berth)
            logger.info("%s: release %s is served no more", name, berth.version)

    def _put_aside(self, berth: _Berth[T]) -> None:
        if all(berth is not other for other in self._loaded.values()):
            berth.close_by_s = time.monotonic() + self._drain_s
            self._retiring.append(berth)

    def _sweep(self) -> None:
        """Close what was put aside and nobody holds, or someone has held for too long."""
        with self._lock:
            now = time.monotonic()
            done = [berth for berth in self._retiring if not berth.leases or now >= berth.close_by_s]
            self._retiring = [berth for berth in self._retiring if berth not in done]
        for berth in done:
            if berth.leases:
                logger.error("release %s is closed under %s requests that held it for %g s", berth.version, berth.leases, self._drain_s)
            berth.close()
            logger.info("release %s closed", berth.version)

    def _note(self, name: str, wanted: str | None, error: Exception) -> None:
        known = self._failed.get(name)
        if known is None or (known.version, known.message) != (wanted, str(error)):
            logger.error("%s: release %s cannot be served, what was goes on: %s", name, wanted, error)
        self._fail(name, wanted, error)

    def _fail(self, name: str, wanted: str | None, error: Exception) -> None:
        with self._lock:
            self._failed[name] = _Failure(wanted, str(error), time.monotonic() + self._retry_s)

    def _close_all(self) -> None:
        with self._lock:
            for name in list(self._loaded):
                self._retire(name)
        while self._retiring:
            self._sweep()
            time.sleep(0.01)
