"""What one request cost and lost on the way, and how long it may still take."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tally:
    """Stage by stage in ms, what was lost, reason by reason, and how many candidates each source proposed. Models are waited for until
    `within_ms` after the start."""

    within_ms: float = math.inf
    stage_ms: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    proposed: dict[str, int] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """When the request's time is up, by `time.monotonic`."""
        return self.start + self.within_ms / 1000

    @property
    def elapsed_ms(self) -> float:
        """Since the start."""
        return 1000 * (time.monotonic() - self.start)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that was entered before goes on."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def drop(self, counts: Mapping[str, int]) -> None:
        """Count what was left out, by reason."""
        for why, count in counts.items():
            if count:
                self.dropped[why] = self.dropped.get(why, 0) + count
