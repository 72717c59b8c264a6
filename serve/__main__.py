"""The engineer's door: `python -m serve up`, and everything else one asks of a release from a shell."""

import argparse
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import uvicorn
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from data.features import HOUR_MS
from data.schema import SchemaError
from serve import local_triton, publication
from serve.api import as_json, create_app
from serve.contract import CONTEXTS, Request, Slate
from serve.events import MAX_BODY_BYTES
from serve.limits import InvalidRequest, check
from serve.manifest import ReleaseError
from serve.new_items import NewItems
from serve.recommender import Recommender, UnknownItem
from serve.release import Release
from serve.settings import Settings, SettingsError, settings
from serve.sqlite_store import SqliteStore
from serve.store import StoreError
from serve.triton import Client, TritonError

logger = logging.getLogger("serve")
STALE_DAYS = 30
DRAIN_S = 30


@contextmanager
def opened(chosen: Settings) -> Iterator[Recommender]:
    """The current release with its histories in the store and its models on Triton, compared with the golden answers."""
    version = publication.current(chosen.releases)
    loaded = Release.open(chosen.releases / version)
    logger.info("release %s: %s items, whole", version, f"{loaded.manifest.item_count:,}")
    store = _store(chosen, loaded)
    try:
        with _triton_url(chosen, loaded) as url:
            recommender = Recommender.verified(
                loaded, Client(url, timeout_ms=chosen.triton.timeout_ms), store=store, budgets=chosen.sources
            )
            follower = NewItems(loaded, recommender.scorer.client, store)  # after the golden slates, which know no new item
            try:
                follower.start()
                yield recommender
            finally:
                follower.close()
                recommender.close()
    finally:
        store.close()


def _store(chosen: Settings, loaded: Release) -> SqliteStore:
    chosen.state.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(chosen.state / "live.sqlite", history_length=chosen.history_length)
    version = loaded.manifest.version
    if store.load_histories(loaded.path / "histories.parquet", loaded.path / "users.parquet", version=version):
        logger.info("store %s: histories of release %s loaded", store.path, version)
    return store


@contextmanager
def _triton_url(chosen: Settings, loaded: Release) -> Iterator[str]:
    if chosen.triton.url is not None:
        yield chosen.triton.url
        return
    if loaded.manifest.backend != "python":
        raise SettingsError(
            f"release {loaded.manifest.version} was exported for Triton's {loaded.manifest.backend} backend, which the local server lacks:"
            " give triton.url=host:port of a server that has it, or export with backend=python"
        )
    models = tuple(spec.name for spec in (loaded.user_tower, loaded.item_tower, loaded.ranker))
    log_path = chosen.state / "triton.log"
    with local_triton.kept(loaded.path / "triton", log_path=log_path, models=models) as server:
        logger.info("triton: started on %s, log in %s", server.grpc_url, log_path)
        yield server.grpc_url
        logger.info("triton: stopping")


def now_ms(chosen: Settings, recommender: Recommender) -> Callable[[], int]:
    """The clock requests are answered by: the wall's, or one that stood at the end of the log when serving began."""
    began = time.time_ns() // 1_000_000
    log_end = recommender.last_hour * HOUR_MS
    stale_days = (began - log_end) // (24 * HOUR_MS)
    offset = log_end - began if chosen.time == "log-end" else 0
    if not offset and stale_days > STALE_DAYS:
        logger.warning(
            "the log ended %s days ago and its popularity has faded; time=log-end serves as if it had just ended", f"{stale_days:,}"
        )
    return lambda: time.time_ns() // 1_000_000 + offset


def _door(chosen: Settings) -> socket.socket:
    try:
        door = socket.create_server((chosen.host, chosen.port), backlog=2048)
    except OSError as error:
        where = f"{chosen.host}:{chosen.port}"
        raise OSError(f"{where} cannot be listened on ({error.strerror}); stop what holds it, or choose another by port=…") from error
    # Accepted connections inherit it. asyncio sets it only where a socket says that it is TCP, and else waits 40 ms for an acknowledgement.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


def up(chosen: Settings) -> None:
    """Listen until told to stop, then finish what is in flight and take Triton down."""
    with _door(chosen) as door, opened(chosen) as recommender:
        app = create_app(recommender, now_ms=now_ms(chosen, recommender))
        config = uvicorn.Config(
            app,
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
    asked = Request(
        arguments.user, 0, count=arguments.count, context=arguments.context, item_id=arguments.item, device=arguments.device,
        region=arguments.region,
    )  # fmt: skip
    check(asked)  # before a server is started for it
    with opened(chosen) as recommender:
        request = replace(asked, timestamp=now_ms(chosen, recommender)())
        _print(recommender.recommend(request), f"For user {arguments.user}", arguments.json)


def similar(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print what lies near an item; needs no Triton and no user."""
    loaded = Release.open(chosen.releases / publication.current(chosen.releases))
    store = _store(chosen, loaded)
    recommender = Recommender.of(loaded, Client("127.0.0.1:0"), store=store, budgets=chosen.sources)
    _print(recommender.similar(arguments.item, arguments.count), f"Like {arguments.item}", arguments.json)
    recommender.close()
    store.close()


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


def list_releases(chosen: Settings) -> None:
    """Print the releases there are, and which is served."""
    current = publication.current(chosen.releases)
    table = Table("Release", "Served")
    for version in publication.versions(chosen.releases):
        table.add_row(version, "current" if version == current else "")
    Console().print(table)


def roll_back(chosen: Settings) -> None:
    """Make the release before the current one current."""
    print(f"current is now {publication.rollback(chosen.releases)}; restart `python -m serve up` to serve it")


def check_release(chosen: Settings) -> None:
    """Open the current release, compare its checksums, and its models on Triton with the golden answers."""
    with opened(chosen) as recommender:
        print(f"release {recommender.release.manifest.version} is whole and answers as it did at export")


def parser() -> argparse.ArgumentParser:
    """The command line; what follows the flags overrides conf/serve.yaml."""
    top = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in (("up", "serve over HTTP until stopped"), ("recommend", "answer one user"), ("similar", "what lies near an item")):
        commands.add_parser(name, help=text)
    ask, near = commands.choices["recommend"], commands.choices["similar"]
    ask.add_argument("--user", required=True)
    ask.add_argument("--context", default="homepage", choices=CONTEXTS)
    ask.add_argument("--item", help="the item the user is looking at, with --context item")
    ask.add_argument("--device")
    ask.add_argument("--region")
    near.add_argument("--item", required=True)
    for command, count in ((ask, 25), (near, 12)):
        command.add_argument("--count", type=int, default=count)
        command.add_argument("--json", action="store_true", help="print what HTTP would answer")
    about = commands.add_parser("release", help="list releases, go back to the one before, check the current one")
    about.add_argument("action", choices=("list", "rollback", "check"))
    for command in commands.choices.values():
        command.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of conf/serve.yaml, like triton.url=host:8001")
    return top


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    chosen = settings(arguments.overrides)
    match arguments.command:
        case "up":
            up(chosen)
        case "recommend":
            recommend(chosen, arguments)
        case "similar":
            similar(chosen, arguments)
        case "release":
            {"list": list_releases, "rollback": roll_back, "check": check_release}[arguments.action](chosen)


def main() -> int:
    """Run, and turn what can go wrong into one line and an exit code: 2 for what was asked, 1 for what is there."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        run(parser().parse_args())
    except KeyboardInterrupt:
        return 0
    except (SettingsError, InvalidRequest, UnknownItem, HydraException, OmegaConfBaseException) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    except (ReleaseError, TritonError, StoreError, SchemaError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
