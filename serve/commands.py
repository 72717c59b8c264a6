"""What `python -m serve <command>` does. Each takes the settings and the command line, and may return an exit code."""

import argparse
import json
import logging
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.table import Table

from serve import forget as forgetting
from serve import logs, publication, slates
from serve import precompute as ahead
from serve import retrain as retraining_job
from serve.api import as_json, create_app
from serve.clock import Clock
from serve.contract import Request, Slate
from serve.engine import Engine
from serve.fleet import Fleet
from serve.gauges import Gauges
from serve.limits import check
from serve.new_items import MAX_BODY_BYTES
from serve.recommender import Recommender
from serve.release import Release
from serve.retraining import check_installed, retraining
from serve.served import NOBODY, last_resort, opened
from serve.settings import Settings, SettingsError
from serve.store import Store, open_store
from serve.triton import Client

logger = logging.getLogger("serve")
DRAIN_S, RETRY_S = 30, 30.0


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
    """The store of the settings, open for as long as the block lasts."""
    chosen.state.mkdir(parents=True, exist_ok=True)
    store = open_store(
        chosen.store or chosen.state / "live.sqlite", history_length=chosen.history_length, shown_days=chosen.rules.shown_days,
        now_ms=(clock or Clock("now")).now_ms,
    )  # fmt: skip
    try:
        yield store
    finally:
        store.close()


def up(chosen: Settings, _: argparse.Namespace) -> None:
    """Listen until told to stop, then finish what is in flight and take Triton down."""
    logs.configure(chosen.log)
    with _door(chosen) as door, engine(chosen, stand_in=last_resort) as made, made.fleet.watching():
        config = uvicorn.Config(
            create_app(made, chosen.access),
            http="h11",
            h11_max_incomplete_event_size=MAX_BODY_BYTES,  # a request line of a megabyte is refused by us, in words
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        host, port = door.getsockname()[:2]
        logger.info("listening on http://%s:%s", host, port)
        uvicorn.Server(config).run(sockets=[door])


def recommend(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Answer one request in this process and print it."""
    asked = _asked(arguments, item_id=arguments.item)
    check(asked(0))  # before a server is started for it
    with engine(chosen) as made:
        slate, arm = made.recommend(asked(made.now_ms()))
        _print(slate, f"For user {arguments.user} ({arm})", arguments.json)


def explain(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print everything that decided about one item."""
    asked = _asked(arguments, item_id=None)
    check(asked(0))
    with engine(chosen) as made:
        told = made.explain(asked(made.now_ms()), arguments.item)
    if arguments.json:
        print(json.dumps(told, ensure_ascii=False, indent=2))
        return
    table = Table("What", "Said", title=f"{told['title']} for user {arguments.user}", show_lines=True)
    for name, value in told.items():
        if name == "contributions" and value:
            value = "\n".join(f"{one['loss']:+.3f} without {one['title']}" for one in value[:10])
        elif name == "steps" and value:
            own = ["" if step["this_item"] is None else f" (this item {step['this_item']:.4f})" for step in value]
            value = "\n".join(f"{step['step']}. {step['item_id']} {step['score']:.4f}{more}" for step, more in zip(value, own, strict=True))
        elif isinstance(value, dict):
            value = "\n".join(f"{key}: {said}" for key, said in value.items())
        table.add_row(name, "–" if value is None else str(value))
    Console().print(table, markup=False)


def _asked(arguments: argparse.Namespace, *, item_id: str | None):
    """The request of a command line, at a time that is told later."""

    def at(timestamp: int) -> Request:
        return Request(
            arguments.user, timestamp, count=arguments.count, context=arguments.context, item_id=item_id, device=arguments.device,
            region=arguments.region, mmr_lambda=arguments.mmr_lambda, diversity=arguments.diversity, live=arguments.live,
        )  # fmt: skip

    return at


def similar(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print what lies near an item; needs no Triton and no user."""
    loaded = Release.open(chosen.releases / publication.current(chosen.releases))
    with store_of(chosen) as store:
        recommender = Recommender.of(loaded, Client("127.0.0.1:0"), store=store, budgets=chosen.sources)
        _print(slates.similar(recommender, arguments.item, arguments.count), f"Like {arguments.item}", arguments.json)
        recommender.close()


def _print(slate: Slate, title: str, as_text: bool) -> None:
    if as_text:
        print(json.dumps(as_json(slate), ensure_ascii=False, allow_nan=False, indent=2))
        return
    table = Table("#", "Item", "Title", "Score", "Why", "Row", title=title)
    for place, shown in enumerate(slate.recommendations, start=1):
        score = "–" if shown.score is None else f"{shown.score:.3f}"
        table.add_row(str(place), shown.item_id, shown.title, score, shown.reason, shown.row)
    console = Console()
    console.print(table)
    stages = " · ".join(f"{stage} {ms:.1f}" for stage, ms in slate.stage_ms.items())
    console.print(f"Release {slate.model_version} · {slate.answered_by} · {slate.generated_in_ms:.1f} ms ({stages})", markup=False)
    if slate.answered_by == "popular":
        console.print("Nothing is known of this user: the answer is for nobody in particular.")
    if slate.dropped:
        console.print("Left out: " + ", ".join(f"{why} {count}" for why, count in slate.dropped.items()), markup=False)


def precompute(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Make everybody's slate, and nobody's for those of whom none was made."""
    if arguments.threads < 1:
        raise SettingsError(f"--threads {arguments.threads}: expected at least 1")
    with engine(chosen) as made, made.fleet.champion() as served:
        recommender = served.recommender
        now = made.now_ms()
        made.store.put_precomputed({NOBODY: recommender.ahead(NOBODY, now)})
        count = ahead.precompute(
            recommender, chosen.state / "precompute.json", now=now, threads=arguments.threads,
            tell=lambda done: logger.info("precomputed: %s users", f"{done:,}"),
        )  # fmt: skip
    print(f"{count:,} slates of release {recommender.release.manifest.version} are ready")


def forget(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Erase a user everywhere, and say what was erased and what a release still holds."""
    job = retraining([f"releases={chosen.releases}", f"state={chosen.state}"])
    with store_of(chosen) as store:
        told = forgetting.forget(
            arguments.user, store, [job.folder, job.runs, Path("mlruns")], releases=chosen.releases, forgotten=job.forgotten
        )
    for what, count in told.items():
        print(f"{count:>8,}  {what}")
    print(f"user {arguments.user} is forgotten: no release loaded later brings them back, no training reads them")


def retrain(chosen: Settings, arguments: argparse.Namespace) -> int:
    """Train, evaluate, gate, export, challenge; 3 where the gate refused."""
    job = retraining([one for one in arguments.overrides if not one.startswith("store=")])
    check_installed()
    with store_of(chosen) as store:
        told = retraining_job.retrain(store, job, stamp=arguments.stamp)
    retraining_job.show(told)
    return 0 if told["verdict"] == "challenger" else retraining_job.REFUSED_EXIT


def release(chosen: Settings, arguments: argparse.Namespace) -> None:
    """List, check, or move what is served. A server that is up follows within a second."""
    root, version = chosen.releases, arguments.version
    if (version is not None) != (arguments.action in ("promote", "challenge")):
        raise SettingsError("--version belongs to promote and challenge, and they need it")
    match arguments.action:
        case "list":
            _list(chosen)
        case "check":
            publication.verify(root / publication.current(root))
            with engine(chosen) as made, made.fleet.champion() as served:
                print(f"release {served.recommender.release.manifest.version} is whole and answers as it did at export")
        case "rollback":
            print(f"current is now {publication.rollback(root)}")
        case "promote":
            publication.promote(root, version)
            print(f"current is now {version}")
        case "challenge":
            publication.challenge(root, version)
            print(f"challenger is now {version}, of {chosen.arms.shares.get('challenger', 0):.0%} of the users")
        case "withdraw":
            print(f"no longer challenger: {publication.drop_challenger(root)}")


def _list(chosen: Settings) -> None:
    current, challenger = publication.current(chosen.releases), publication.challenger(chosen.releases)
    table = Table("Release", "Served")
    for version in publication.versions(chosen.releases):
        table.add_row(version, "current" if version == current else "challenger" if version == challenger else "")
    Console().print(table)


def ab(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print what came of each arm: figures, and differences to the champion with 95 % intervals."""
    with store_of(chosen) as store:
        told = Engine.reported(store, chosen.arms.shares)
    if arguments.json:
        print(json.dumps(retraining_job.finite(asdict(told)), ensure_ascii=False, allow_nan=False, indent=2))
        return
    table = Table("Arm", "Users", "Slates", "Figure", "Value", "Minus champion [95 %]")
    for one in told.arms:
        for figure, value in one.figures.items():
            gap = one.differences.get(figure)
            said = "" if gap is None or math.isnan(gap.value) else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
            table.add_row(one.arm, f"{one.users:,}", f"{one.slates:,}", figure, "–" if math.isnan(value) else f"{value:.4f}", said)
    console = Console()
    console.print(table)
    mismatch = "" if told.mismatch_p is None else f"Shares kept: p = {told.mismatch_p:.3g}. "
    console.print(
        f"{mismatch}Users in several arms: {told.users_in_several_arms}. Events of no slate: {told.events_unmatched}.", markup=False
    )


def _door(chosen: Settings) -> socket.socket:
    try:
        door = socket.create_server((chosen.host, chosen.port), backlog=2048)
    except OSError as error:
        where = f"{chosen.host}:{chosen.port}"
        raise OSError(f"{where} cannot be listened on ({error.strerror}); stop what holds it, or choose another by port=…") from error
    # Accepted connections inherit it. asyncio sets it only where a socket says that it is TCP, and else waits 40 ms for an acknowledgement.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door
