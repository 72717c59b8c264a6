"""`recommend`, `explain`, `similar`: what a request is answered, without a server."""

import argparse
from collections.abc import Callable
from itertools import groupby

from rich.console import RenderableType

from serve import publication, slates
from serve.api import as_json
from serve.commands.parts import engine, store_of
from serve.commands.telling import add, table, tell
from serve.contract import Request, Slate
from serve.limits import check
from serve.recommender import Recommender
from serve.release import Release
from serve.settings import Settings
from serve.triton import Client

LOSSES = 10


def recommend(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Answer one request in this process and print it."""
    asked = _asked(arguments, item_id=arguments.item)
    check(asked(0))  # before a server is started for it
    with engine(chosen) as made:
        slate, arm = made.recommend(asked(made.now_ms()))
    tell(arguments.json, as_json(slate) | {"arm": arm}, *shown(slate, f"For user {arguments.user} ({arm})"))


def explain(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print everything that decided about one item."""
    asked = _asked(arguments, item_id=None)
    check(asked(0))
    with engine(chosen) as made:
        told = made.explain(asked(made.now_ms()), arguments.item)
    of = table(f"{told['title']} for user {arguments.user}", "What", "Said")
    for name, value in told.items():
        add(of, name, _said(name, value))
    tell(arguments.json, told, of)


def _said(name: str, value: object) -> object:
    if name == "contributions" and value:
        return "\n".join(f"{one['loss']:+.3f} without {one['title']}" for one in value[:LOSSES])
    if name == "steps" and value:
        own = ["" if step["this_item"] is None else f" (this item {step['this_item']:.4f})" for step in value]
        return "\n".join(f"{step['step']}. {step['item_id']} {step['score']:.4f}{more}" for step, more in zip(value, own, strict=True))
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_short(said)}" for key, said in value.items()) or None
    return None if value in ([], None) else _short(value)


def _short(value: object) -> object:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def similar(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print what lies near an item; needs no Triton and no user."""
    loaded = Release.open(chosen.releases / publication.current(chosen.releases))
    with store_of(chosen) as store:
        recommender = Recommender.of(loaded, Client("127.0.0.1:0"), store=store, budgets=chosen.sources)
        try:
            slate = slates.similar(recommender, arguments.item, arguments.count)
        finally:
            recommender.close()
    tell(arguments.json, as_json(slate), *shown(slate, f"Like {arguments.item}"))


def shown(slate: Slate, title: str) -> list[RenderableType]:
    """A slate as people read it: its rows, and below them how it was made."""
    of = table(title, "#", "Title", "Item", "Score", "Why", numbers=("#", "Score"))
    places = enumerate(slate.recommendations, start=1)
    for row, items in groupby(places, key=lambda one: one[1].row):
        add(of, "", row, "", "", "", style="bold")
        for place, one in items:
            add(of, place, one.title, one.item_id, None if one.score is None else f"{one.score:.3f}", one.reason)
    stages = " · ".join(f"{stage} {ms:.1f}" for stage, ms in slate.stage_ms.items())
    told = [of, f"Release {slate.model_version} · {slate.answered_by} · {slate.generated_in_ms:.1f} ms ({stages})"]
    if slate.answered_by == "popular":
        told.append("Nothing is known of this user: the answer is for nobody in particular.")
    if slate.dropped:
        told.append("Left out: " + ", ".join(f"{why} {count}" for why, count in slate.dropped.items()))
    return told


def _asked(arguments: argparse.Namespace, *, item_id: str | None) -> Callable[[int], Request]:
    """The request of a command line, at a time that is told later."""

    def at(timestamp: int) -> Request:
        return Request(
            arguments.user, timestamp, count=arguments.count, context=arguments.context, item_id=item_id, device=arguments.device,
            region=arguments.region, mmr_lambda=arguments.mmr_lambda, diversity=arguments.diversity, live=arguments.live,
        )  # fmt: skip

    return at
