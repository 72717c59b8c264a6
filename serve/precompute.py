"""Everybody's slate, made ahead of their requests, and the rule that says when one is good enough.

A precomputed slate is the live pipeline's own answer, a hundred items long: there is one way to make a slate. Requests are answered from
it unless the user did something since, the request asks about something that only a live answer knows, or it is stale.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cold_start import ENOUGH
from serve.contract import Known, Request
from serve.manifest import write_whole

if TYPE_CHECKING:
    from serve.recommender import Recommender

logger = logging.getLogger(__name__)
DEPTH = 100
AT_ONCE = 500
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


@dataclass(frozen=True, slots=True)
class Rule:
    """When a precomputed slate is good enough. Users who did something within `active_minutes` are answered live, slates older than
    `stale_hours` are not used."""

    active_minutes: float = 60.0
    stale_hours: float = 24.0


def why_live(rule: Rule, request: Request, known: Known, version: str) -> str | None:
    """Why this request wants a live answer; None where the precomputed slate will do.

    Hour and device are those of the moment, and a precomputed slate knows neither: who cares about them asks with `live`. A region other
    than the user's own is another page. An answer of the quiz has no number, so while answers count (`cold_start.blend`) they may be news.
    """
    made, usual = known.precomputed, Request("", 0)
    if made is None:
        return "none made"
    if request.live or request.context != "homepage" or request.count + len(request.before) > DEPTH:
        return "asked for"
    if (request.mmr_lambda, request.diversity) != (usual.mmr_lambda, usual.diversity) or request.region not in (None, known.fields.region):
        return "asked for"
    if made.model_version != version:
        return "another release"
    if made.sequence != known.sequence:
        return "did something since"
    if known.answers and len(known.history.item_ids) < ENOUGH:
        return "answered the quiz"
    newest = int(known.history.timestamp_L[-1]) if len(known.history.timestamp_L) else 0
    if max(request.timestamp - newest, 0) < rule.active_minutes * MINUTE_MS:
        return "active"
    return "stale" if request.timestamp - made.made_at > rule.stale_hours * HOUR_MS else None


def precompute(recommender: "Recommender", marker: Path, *, now: int, threads: int, tell: Callable[[int], None] = lambda _: None) -> int:
    """Write the slate of every user the store knows, and return how many were written in this call.

    A run that was stopped goes on after the last batch that was written whole, as `marker` says, if it was of the same release; the marker
    is removed at the end. `tell` is told the number so far.

    Raises:
        StoreError: the store cannot be read or written.
        TritonError: a user's slate could not be made whole: a model or a source was away. What was written stays, and the next run goes on
            from there.
    """
    version = recommender.release.manifest.version
    after = _resumed(marker, version)
    written = 0
    with ThreadPoolExecutor(threads, "precompute") as pool:
        while user_ids := recommender.store.user_ids(after=after, limit=AT_ONCE):
            made = pool.map(lambda user_id: recommender.ahead(user_id, now), user_ids)
            recommender.store.put_precomputed(dict(zip(user_ids, made, strict=True)))
            after = user_ids[-1]
            write_whole(marker, json.dumps({"version": version, "after": after}))
            written += len(user_ids)
            tell(written)
    marker.unlink(missing_ok=True)
    return written


def _resumed(marker: Path, version: str) -> str:
    try:
        told = json.loads(marker.read_bytes())
    except FileNotFoundError:
        return ""
    except ValueError:
        logger.warning("%s cannot be read: precomputing from the first user on", marker)
        return ""
    return told["after"] if told.get("version") == version else ""
