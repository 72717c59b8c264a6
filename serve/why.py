"""Why an item is on somebody's page, and why another is not: one request taken again, and every station of its way told.

Shapes: K candidates · H heads · X history items · N places.
"""

from typing import TYPE_CHECKING

import numpy as np

from serve import explain, slates
from serve.contract import Known, Request
from serve.likeness import unit
from serve.panel import LIMIT
from serve.tally import Tally

if TYPE_CHECKING:
    from serve.course import Course
    from serve.recommender import Recommender


def why(recommender: "Recommender", request: Request, known: Known, item_id: str) -> dict[str, object]:
    """Everything that decided about one item in the answer to one request, as plain values:

    `verdict` is a sentence. `sources` tells for each source asked the place (from 1) at which it proposed the item, null where it did not,
    or why it is missing. `filters` tells which let it pass; `heads` what the ranker predicts of it, of which `probability` is the one that
    pages are ordered by; `boosts` by what factor each multiplied that; `contributions` how much of it is lost without each item of the
    history (all that the models read), the largest loss first; `diversity` the step at which variety chose it, its likeness to what was
    chosen before (calibrated: the divergence of the genres so far) and the score of that step; `steps` what was chosen at each step by
    which score, and by MMR this item's own score there; `cap` the rule that held it back from a place it would have had; `place` its place
    in the slate, from 1. Numbers that are none are null.

    Nothing is drawn by chance here: the slate is that before the explore slots and before its rows are gathered.

    Raises:
        TritonError: a model did not answer.
        UnknownItem: there is no such item.
    """
    row = slates.row_of(recommender.release, item_id)
    tally = Tally()
    course = recommender.course(request, known, tally)
    told: dict[str, object] = {
        "item_id": item_id,
        "title": recommender.release.catalogue.titles[row],
        "model_version": recommender.release.manifest.version,
        "sources": _sources(recommender, request, course, known, row),
        "filters": None, "boosts": None, "heads": None, "probability": None, "worth": None, "rank": None, "contributions": None,
        "diversity": None, "steps": None, "cap": None, "place": None, "place_given_by": None,
    }  # fmt: skip
    told |= _alone(recommender, course, row)
    proposed = np.flatnonzero(course.proposed.item_row_K == row)
    if not len(proposed):
        cut = any(isinstance(place, int) for place in told["sources"].values())
        why_not = (
            f"It was proposed, but behind the {LIMIT:,} that are ranked at most."
            if cut
            else "No source proposed it, so it was never ranked."
        )
        return told | {"verdict": why_not}
    told["filters"] = {reason: bool(stay_K[proposed[0]]) for reason, stay_K in course.stays.items()}
    if failed := [reason for reason, passed in told["filters"].items() if not passed]:
        return told | {"verdict": f"It was left out: {', '.join(failed)}."}
    if told["probability"] is None:
        return told | {"verdict": "The ranker gave it no number, so it has no place."}
    position = int(np.flatnonzero(course.scored.item_row_K == row)[0])
    told["boosts"] = {name: float(factor_K[position]) for name, factor_K in course.factors.items()}
    told["worth"] = float(course.scored.worth_K[position])
    told["rank"] = int((course.scored.worth_K > course.scored.worth_K[position]).sum()) + 1
    told["cap"] = course.page.held.get(position)
    told["steps"] = _steps(recommender, request, course, position)
    chosen = np.flatnonzero(course.page.main.order_N == position)
    if len(chosen):
        step = int(chosen[0])
        likeness, score = float(course.page.main.similarity_N[step]), float(course.page.main.score_N[step])
        told["diversity"] = {
            "method": request.diversity,
            "step": step + 1,
            "divergence" if request.diversity == "calibrated" else "similarity": likeness,
            "score": score,
        }
    place = np.flatnonzero(course.page.order_N == position)
    if not len(place):
        return told | {"verdict": _not_shown(request, told, len(course.scored.item_row_K))}
    kind = course.page.kind_N[int(place[0])]
    told |= {"place": int(place[0]) + 1, "place_given_by": kind or "worth and variety"}
    return told | {"verdict": f"It is on the page, at place {told['place']} of the slate, by {told['place_given_by']}."}


def _steps(recommender: "Recommender", request: Request, course: "Course", position: int) -> list[dict[str, object]]:
    """Step by step as long as the page: what was chosen, its score, and what this item's would have been, until it was chosen itself."""
    main, scored, ids = course.page.main, course.scored, recommender.release.catalogue.item_ids
    order_N = main.order_N[: request.count]
    unit_KD = unit(scored.vector_KD[np.append(order_N, position)])
    likeness_N = np.maximum.accumulate(np.append(-np.inf, unit_KD[:-1] @ unit_KD[-1]))[:-1]
    likeness_N[:1] = 0.0  # the first choice has nothing to resemble
    own_N = request.mmr_lambda * scored.worth_K[position] - (1 - request.mmr_lambda) * likeness_N
    steps = []
    for step, chosen in enumerate(order_N.tolist()):
        own = float(own_N[step]) if request.diversity == "mmr" else None
        item_id = ids[scored.item_row_K[chosen]]
        steps.append({"step": step + 1, "item_id": item_id, "score": float(main.score_N[step]), "this_item": own})
        if chosen == position:
            break
    return steps


def _not_shown(request: Request, told: dict, candidates: int) -> str:
    if told["cap"]:
        return f"The cap on one {told['cap']} held it back."
    if told["diversity"]:
        method, step = told["diversity"]["method"], told["diversity"]["step"]
        if step <= request.count:
            return (
                f"{method} would have it at step {step}, but turns of other kinds and reserved places left it none of the {request.count}."
            )
        return f"{method} would have it at step {step}, behind the {request.count} that were shown."
    return f"It ranks {told['rank']} of {candidates} by worth, and what was chosen before it was worth more or less alike what stood there."


def _sources(recommender: "Recommender", request: Request, course: "Course", known: Known, row: int) -> dict[str, object]:
    """Each source's place for the item, asked one by one as the page asked them."""
    names, share_of = recommender.asked(request, course.who, len(known.answers))
    ask = recommender.ask(request, course.who, course.query_BD)
    told: dict[str, object] = {}
    for name in names:
        if name in course.missing:
            told[name] = course.missing[name]
            continue
        found = np.flatnonzero(recommender.panel.alone(name, ask, share_of) == row)
        told[name] = int(found[0]) + 1 if len(found) else None
    return told


def _alone(recommender: "Recommender", course: "Course", row: int) -> dict[str, object]:
    """What the ranker says of the item whether or not it was a candidate, and what each history item contributes to it."""
    scorer, release, row_N = recommender.scorer, recommender.release, np.array([row])
    value_H = scorer.values(course.query_BD, course.history, course.who.moment_BC, row_N, course.who.now)[0, 0]
    probability_N = value_H[[release.manifest.relevance_head]]
    contributions = []
    if (left_out := explain.leave_out(scorer, course.who)) is not None:
        history_row_X = left_out.history_row_X
        loss_X = explain.losses(scorer, course.who, left_out, row_N, probability_N)[0]
        contributions = [
            {
                "item_id": release.catalogue.item_ids[history_row_X[x]],
                "title": release.catalogue.titles[history_row_X[x]],
                "loss": _number(loss_X[x]),
            }
            for x in np.argsort(-loss_X, kind="stable")
        ]
    learned = release.manifest.learned
    heads = {name: _number(value) if name in learned else None for name, value in zip(release.manifest.heads, value_H, strict=True)}
    probability = _number(probability_N[0]) if np.isfinite(value_H).all() else None
    return {"heads": heads, "probability": probability, "contributions": contributions}


def _number(value: np.floating) -> float | None:
    """As JSON can tell it."""
    return float(value) if np.isfinite(value) else None
