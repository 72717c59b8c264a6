"""How things stand now, in numbers that no counter has: what is under way, what waits, what was shown within the hour, how old it is."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from serve.fleet import ArmStatus
from serve.manifest import Manifest, ReleaseError
from serve.shown import Shown


@dataclass(frozen=True, slots=True)
class ArmVitals:
    """One arm: its release, exported at `created_s` (s since 1970 UTC) and of `items` items; the requests it is answering; and of the items
    it showed within the hour the share of the catalogue and the ages. None is not known."""

    arm: str
    version: str
    in_flight: int
    created_s: float | None
    items: int | None
    coverage: float | None
    newest_age_s: float | None
    median_age_s: float | None


@dataclass(frozen=True, slots=True)
class Vitals:
    """One process. `live_counts_age_s` is the time since all that was stored had been counted, None while no release can be opened."""

    arms: tuple[ArmVitals, ...]
    turns_waiting: int
    slates_waiting: int
    live_counts_age_s: float | None


def of_arm(one: ArmStatus, root: Path, shown: Shown, now_ms: int) -> ArmVitals:
    """How an arm that serves a release of the folder `root` stands at `now_ms` (ms UTC)."""
    lately = shown.lately(one.serving, now_ms)
    created_s, sealed_count = _sealed(root / one.serving)
    if lately is None:
        nothing = None if sealed_count is None else 0.0
        return ArmVitals(one.arm, one.serving, one.leases, created_s, sealed_count, nothing, None, None)
    return ArmVitals(one.arm, one.serving, one.leases, created_s, *lately)


@lru_cache(16)
def _sealed(folder: Path) -> tuple[float | None, int | None]:
    """When a release was exported, and how many items it has; what is served was read before, so a release never changes."""
    try:
        manifest = Manifest.read(folder)
        return datetime.fromisoformat(manifest.created_at).timestamp(), manifest.item_count
    except (ReleaseError, ValueError):
        return None, None  # a stand-in, or broken: /readyz says so
