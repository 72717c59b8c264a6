"""How heavy the homepage is, and how soon after the answer it is painted.

    python -m bench.page --releases releases --label world
    python -m bench.page --releases /elsewhere/releases --loads 21

Debian's Chromium opens the homepage of some users of a release, served by this process on loopback, each time with nothing in its
caches, on a wide and on a narrow screen. Weight is what everything loaded for it holds without compression, the answers of the API
among it. Paint is when the first card is on the screen with its title, art when the first of the drawn covers is (Element Timing of the
browser), both counted from the end of the answer of /v1/recommendations (Resource Timing): what the page itself costs. Shift is
Cumulative Layout Shift of the whole load. The load average of the machine is kept beside them: paint on two cores that ten programs
share is another matter.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser

from bench.opened import keep, machine
from serve.api import create_app
from serve.commands import engine
from serve.settings import settings
from tests.browser import NARROW, WIDE, chromium, served

SCREENS = {"wide": WIDE, "narrow": NARROW}
WATCH = """window.seen = { shift: 0, title: null, cover: null };
const watch = (type, each) => new PerformanceObserver((list) => list.getEntries().forEach(each)).observe({ type, buffered: true });
watch("layout-shift", (one) => { seen.shift += one.value; });
watch("element", (one) => { if (one.element?.closest("#rows")) seen[one.identifier] ??= one.renderTime; });"""
TOLD = """() => { const answer = performance.getEntriesByType("resource").find((one) => one.name.includes("/v1/recommendations"));
const answer_ms = answer.responseEnd;
return { paint_ms: seen.title - answer_ms, art_ms: seen.cover - answer_ms, answer_ms, shift: seen.shift }; }"""


def load(browser: Browser, url: str, screen: dict[str, int]) -> dict[str, float]:
    """One homepage from nothing: its figures."""
    context = browser.new_context(viewport=screen)
    page, sizes = context.new_page(), []
    page.on("response", lambda answer: sizes.append(len(answer.body())) if answer.url.startswith("http") else None)
    page.add_init_script(WATCH)
    page.goto(url, wait_until="networkidle")
    page.wait_for_function("() => seen.cover !== null && seen.title !== null")
    told = page.evaluate(TOLD) | {"bytes": sum(sizes), "requests": len(sizes)}
    context.close()
    return told


def measure(releases: Path, loads: int) -> dict[str, dict[str, object]]:
    """{screen: figures of so many loads, after one that is not counted}."""
    with tempfile.TemporaryDirectory() as state:
        chosen = settings([f"releases={releases}", f"state={state}", "time=log-end", "editorial=null"])
        with engine(chosen) as made, served(create_app(made)) as server, chromium() as browser:
            users = made.users(loads)
            return {
                name: summed([load(browser, f"{server.url}/?user_id={user_id}", screen) for user_id in [users[0], *users]][1:])
                for name, screen in SCREENS.items()
            }


def summed(found: Sequence[dict[str, float]]) -> dict[str, object]:
    """Medians and the worst, and every paint."""
    paint = [round(one["paint_ms"], 1) for one in found]
    return {
        "loads": len(found), "paint_ms": paint, "paint_ms_median": float(np.median(paint)), "paint_ms_most": max(paint),
        "answer_ms_median": round(float(np.median([one["answer_ms"] for one in found])), 1),
        "art_ms_median": round(float(np.median([one["art_ms"] for one in found])), 1),
        "bytes_most": max(one["bytes"] for one in found), "requests_most": max(one["requests"] for one in found),
        "shift_most": round(max(one["shift"] for one in found), 4),
    }  # fmt: skip


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    parser.add_argument("--loads", type=int, default=11)
    parser.add_argument("--label", help="keep the figures in bench/results/page.json under this name")
    asked = parser.parse_args()
    found = measure(asked.releases, asked.loads)
    print(f"{'screen':8}{'loads':>6}{'paint after answer, ms':>24}{'worst':>8}{'art':>8}{'answer':>8}{'kB':>8}{'requests':>10}{'shift':>8}")
    for name, one in found.items():
        print(
            f"{name:8}{one['loads']:6}{one['paint_ms_median']:24.1f}{one['paint_ms_most']:8.1f}{one['art_ms_median']:8.1f}"
            f"{one['answer_ms_median']:8.0f}{one['bytes_most'] / 1000:8.1f}{one['requests_most']:10}{one['shift_most']:8.4f}"
        )
    if asked.label:
        keep("page", asked.label, {"machine": machine(), "screens": found})


if __name__ == "__main__":
    main()
