"""From scored candidates to the places of a page: worth and variety, turns of each kind, caps and reserved slots. Pure numpy.

Shapes: K candidates · D width · G genres · N places · E history items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serve import calibration, dpp, mmr, rules, serendipity, slots
from serve.catalogue import Catalogue
from serve.contract import Request
from serve.mmr import Selection
from serve.rules import Rules

SPARE = 10  # chosen beyond the page, for places that a cap leaves to the next; behind them all others follow by worth


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of K candidates that no filter dropped: `worth_K` is the probability after boosts; `proposed` says which of them each
    source proposed (bool (K))."""

    item_row_K: np.ndarray
    probability_K: np.ndarray
    worth_K: np.ndarray
    vector_KD: np.ndarray
    proposed: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Page:
    """Positions among the candidates, first to last, and what gave each its place: "" is worth and variety, else the kind whose turn it
    was.

    `main` is what worth and variety alone chose; `held` names the cap that kept a candidate from a place it would have had; `skipped`
    counts what each rule did.
    """

    order_N: np.ndarray
    kind_N: tuple[str, ...]
    main: Selection
    held: Mapping[int, str]
    skipped: Mapping[str, int]


def arrange(
    scored: Scored, catalogue: Catalogue, policy: Rules, request: Request, *, reserved: Mapping[int, int], share_G: np.ndarray,
    history_vector_ED: np.ndarray, now: int,
) -> Page:  # fmt: skip
    """The page of a request. `reserved` are editorial slots: place (from 1) → item row; they hold only on a homepage, and only for items
    that came through the filters. What was begun stands first, the newest first."""
    main = select(scored, catalogue, request, share_G)
    place_of = {int(row): position for position, row in enumerate(scored.item_row_K)}
    begun = [int(position) for position in np.flatnonzero(scored.proposed["begun"])]
    held = dict(enumerate(begun))
    groups = {}
    if request.context == "homepage":
        held |= {place - 1: place_of[row] for place, row in reserved.items() if row in place_of}
        groups = kinds(scored, catalogue, policy, history_vector_ED, now)
    filled = slots.fill(
        np.concatenate([main.order_N, by_worth(scored)]),
        count=request.count,
        groups=groups,
        plan={kind: slots.Turn(turn.every, turn.first - 1) for kind, turn in policy.turns.items() if kind in groups},
        reserved=held,
        caps={name: slots.Cap(label, policy.caps[name]) for name, label in rules.labels(policy.caps, catalogue, scored.item_row_K).items()},
    )
    reserved_kind = dict.fromkeys(begun, "begun")
    kind_N = tuple(
        reserved_kind.get(int(position), "editorial") if kind == slots.RESERVED else kind
        for position, kind in zip(filled.order_N, filled.kind_N, strict=True)
    )
    skipped = {f"{name} cap": count for name, count in filled.skipped.items()}
    skipped |= {f"{name} cap relaxed": count for name, count in filled.relaxed.items()}
    return Page(filled.order_N, kind_N, main, filled.held, skipped)


def select(scored: Scored, catalogue: Catalogue, request: Request, share_G: np.ndarray) -> Selection:
    """The order that worth and variety alone give, `SPARE` longer than the page."""
    how = {"count": request.count + SPARE, "mmr_lambda": request.mmr_lambda}
    match request.diversity:
        case "dpp":
            return dpp.select(scored.worth_K, scored.vector_KD, **how)
        case "calibrated":
            return calibration.select(scored.worth_K, catalogue.genre_IG[scored.item_row_K], share_G, **how)
        case _:
            return mmr.select(scored.worth_K, scored.vector_KD, **how)


def kinds(scored: Scored, catalogue: Catalogue, policy: Rules, history_vector_ED: np.ndarray, now: int) -> dict[str, np.ndarray]:
    """Each kind's own order, best first: what is trending, new, popular by worth, and what is different as `serendipity` has it."""
    order_K = by_worth(scored)
    new_K = rules.is_new(catalogue, scored.item_row_K, now=now, new_days=policy.new_days)
    which = {"trending": scored.proposed["trending"], "new": new_K, "popular": scored.proposed["popular"]}
    return {kind: order_K[which_K[order_K]] for kind, which_K in which.items()} | {
        "different": serendipity.different(scored.probability_K, scored.vector_KD, history_vector_ED),
    }


def by_worth(scored: Scored) -> np.ndarray:
    """Positions of all candidates, the worthiest first, of equals the first: int64 (K)."""
    return np.argsort(-scored.worth_K, kind="stable")
