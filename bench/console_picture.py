"""The picture of the console: a real server with a champion and a challenger, some minutes of traffic, and a headless Chromium that looks.

    python -m bench.console_picture releases/            # writes docs/pictures/console.png; four minutes
    python -m bench.console_picture releases/ --minutes 1 --folder /tmp/pictures --scheme dark --width 390

The current release is served under three names, a week apart, by one Triton. Users are asked for at random; some of what they are shown is
clicked, watched and completed, and some requests find a precomputed slate. Nothing of it touches `releases/`.
"""

import argparse
import json
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import uvicorn

from serve import local_triton, publication
from serve.api import create_app
from serve.api.app import OPEN
from serve.api.keys import Keys
from serve.commands import engine
from serve.engine import Engine
from serve.live import wall_ms
from serve.manifest import MANIFEST, seal
from serve.release import Release
from serve.settings import settings

ROOT = Path(__file__).resolve().parents[1]
DAYS_AGO = (15, 8, 1)  # the release before, the current one, the challenger
BROWSER = ["--no-sandbox", "--disable-background-networking", "--hide-scrollbars"]
ASKING, PAUSE_S, AHEAD = 3, 0.08, 120


def staged(releases: Path, folder: Path) -> Path:
    """A folder of three releases that are the current one of `releases` under other names; the newest one challenges the one before."""
    source = (releases / publication.current(releases)).resolve()
    told = json.loads((source / MANIFEST).read_bytes())
    told = {name: value for name, value in told.items() if name not in ("files", "checksum")}
    made = [(datetime.now(UTC) - timedelta(days=days)).replace(microsecond=0) for days in DAYS_AGO]
    for at in made:
        version = f"{at:%Y%m%d-%H%M%S}"
        staging = folder / f".staging-{version}"
        shutil.copytree(source, staging, copy_function=shutil.copyfile)
        seal(staging, told | {"version": version, "created_at": at.isoformat()})
        publication.shelve(staging, folder, version)
    first, current, newest = sorted(publication.versions(folder))
    publication.promote(folder, first)
    publication.promote(folder, current)
    publication.challenge(folder, newest)
    return folder


@contextmanager
def serving(releases: Path, state: Path) -> Iterator[tuple[Engine, str, str]]:
    """(the engine, the address of its door, an admin's key)."""
    keys = Keys(state / "keys.json")
    key = keys.add("picture", "admin", now_ms=wall_ms())
    opened = Release.open(releases / publication.current(releases))
    models = tuple(spec.name for spec in (opened.user_tower, opened.item_tower, opened.ranker))
    with local_triton.start(opened.path / "triton", log_path=state / "triton.log", models=models) as triton:
        chosen = settings(
            [
                f"releases={releases}", f"state={state}", f"triton.url={triton.grpc_url}", "time=log-end", "judged=0.1",
                "arms.shares={champion: 0.7, challenger: 0.3}", "precomputed.active_minutes=0", "editorial=null",
            ]
        )  # fmt: skip
        with engine(chosen) as made, made.fleet.watching():
            app = create_app(made, replace(OPEN, keys=keys.path))
            server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.05)
            yield made, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", key
            server.should_exit = True
            thread.join()


def precomputed(made: Engine, count: int = AHEAD) -> None:
    """Make the slates of some users ahead."""
    with made.fleet.champion() as served:
        users = made.store.user_ids(limit=count)
        made.store.put_precomputed({user_id: served.recommender.ahead(user_id, made.now_ms()) for user_id in users})


def visiting(address: str, users: list[str], stopping: threading.Event, seed: int) -> None:
    """Be one user after another until told to stop."""
    chance = random.Random(seed)
    with httpx.Client(base_url=address, timeout=30) as client:
        while not stopping.wait(chance.expovariate(1 / PAUSE_S)):
            user_id = chance.choice(users) if chance.random() < 0.9 else f"stranger {chance.randrange(10**6)}"
            answer = client.get("/v1/recommendations", params={"user_id": user_id, "count": chance.choice([10, 25, 40])}).json()
            told = {"user_id": user_id, "request_id": answer["request_id"]}
            likely = 0.45 if answer["arm"] == "challenger" else 0.35
            for shown in answer["recommendations"][:3]:
                if chance.random() < likely / 3:
                    kind = chance.choice(["click", "watch", "complete"])
                    seconds = {} if kind == "click" else {"watch_duration_seconds": float(chance.randrange(60, 4000))}
                    client.post("/v1/events", json=told | {"item_id": shown["item_id"], "event_type": kind} | seconds)
            if chance.random() < 0.02:
                client.get("/v1/recommendations", params={"user_id": user_id, "count": 0})


@contextmanager
def visited(address: str, users: list[str]) -> Iterator[None]:
    """Visitors, for as long as the block lasts."""
    stopping = threading.Event()
    threads = [threading.Thread(target=visiting, args=(address, users, stopping, seed)) for seed in range(ASKING)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def pictured(address: str, key: str, path: Path, *, scheme: str, width: int, height: int, whole: bool) -> None:
    """Look at the console and keep what is seen."""
    from playwright.sync_api import sync_playwright  # of the extra dev

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB")
        page.goto(f"{address}/console#key={key}")
        page.select_option("#window", "300")
        page.wait_for_selector("#chart-answers .legend li")
        page.wait_for_selector("#releases-told tr")
        page.wait_for_selector("#arms-told table, #arms-told .notice")
        page.screenshot(path=path, full_page=whole)
        browser.close()


def main() -> None:
    """Serve, visit, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=1180)
    parser.add_argument("--whole", action="store_true", help="the whole page rather than its beginning")
    parser.add_argument("--stay", action="store_true", help="go on until interrupted, to look at it by hand")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="console-") as passing:
        (state := Path(passing) / "state").mkdir()
        (releases := Path(passing) / "releases").mkdir()
        staged(chosen.releases, releases)
        with serving(releases, state) as (made, address, key):
            precomputed(made)
            users = made.store.user_ids(limit=400)
            with visited(address, users):
                print(f"{address}/console#key={key}", flush=True)
                time.sleep(60 * chosen.minutes)
                while chosen.stay:
                    time.sleep(1)
                chosen.folder.mkdir(parents=True, exist_ok=True)
                path = chosen.folder / "console.png"
                pictured(
                    address, key, path, scheme=chosen.scheme, width=chosen.width, height=chosen.height, whole=chosen.whole
                )  # fmt: skip
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
