"""What there is to know of an item, of a user, and of what is served, as plain values."""

import math

from data.features import EVENT_TYPE_CODE
from data.schema import EVENT_TYPES
from serve.contract import CONTEXTS, DIVERSITIES, Known
from serve.release import Release
from serve.slates import row_of

NEWEST = 50  # events of a history that are told
WORD = {code: name for name, code in EVENT_TYPE_CODE.items()}


def item(release: Release, item_id: str) -> dict[str, object]:
    """The columns of the catalogue that people read. Raises UnknownItem."""
    row = row_of(release, item_id)
    catalogue = release.catalogue
    told = catalogue.frame.row(row, named=True)
    posted_at = int(catalogue.posted_at_I[row])
    words = {name: told[name] for name in ("creator", "franchise", "regions", "maturity", "duration_seconds")}
    lists = {name: told[name] or [] for name in ("genres", "tags")}
    released = told["release_date"]
    return {
        "item_id": item_id, "title": catalogue.titles[row], **lists, **words,
        "release_date": None if released is None else released.isoformat(), "posted_at": posted_at if posted_at >= 0 else None,
    }  # fmt: skip


def user(release: Release, user_id: str, known: Known) -> dict[str, object]:
    """What the store knows of a user, the newest event first."""
    history, catalogue = known.history, release.catalogue
    newest = range(len(history.item_ids) - 1, max(-1, len(history.item_ids) - 1 - NEWEST), -1)
    rows = {one: catalogue.row_of.get(history.item_ids[one], -1) for one in newest}
    genres = catalogue.frame["genres"]
    did = [
        {
            "item_id": history.item_ids[one], "title": catalogue.titles[row] if row >= 0 else history.item_ids[one],
            "genres": (genres[row].to_list() if genres[row] is not None else []) if row >= 0 else [],
            "event_type": WORD[int(history.event_type_L[one])], "rating": _number(history.rating_L[one]),
            "timestamp": int(history.timestamp_L[one]),
        }
        for one, row in rows.items()
    ]  # fmt: skip
    fields = known.fields
    return {
        "user_id": user_id, "region": fields.region, "subscription_tier": fields.subscription_tier, "birth_year": fields.birth_year,
        "events": len(history.item_ids), "answers": len(known.answers), "history": did,
    }  # fmt: skip


def service(release: Release) -> dict[str, object]:
    """What may be asked of a release."""
    liked_from = release.manifest.liked_from
    return {
        "model_version": release.manifest.version, "items": len(release.catalogue), "genres": list(release.genres),
        "regions": list(release.vocabulary.region.words), "devices": list(release.vocabulary.device.words), "contexts": list(CONTEXTS),
        "diversities": list(DIVERSITIES), "event_types": list(EVENT_TYPES),
        "liked_rating": liked_from if math.isfinite(liked_from) else 1.0,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
