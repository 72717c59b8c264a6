"""The pictures of the page in docs/pictures, taken anew: python -m bench.pictures, or make pictures.

Debian's Chromium looks at the current release, served by this process over a store that holds nothing but the release's own histories, with
nothing left to chance: the same release gives the same pictures.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from serve.api import create_app
from serve.commands import engine
from serve.settings import settings
from tests.browser import NARROW, chromium, served

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
SCREEN = {"width": 1280, "height": 860}
LARGEST = 400_000  # bytes of a picture


def picture(
    browser: Browser, base: str, name: str, path: str, *, act: Callable[[Page], None] | None = None, screen=SCREEN, **options
) -> None:
    """Open a path, do something there, and keep what is seen."""
    context = browser.new_context(viewport=screen, base_url=base, reduced_motion="reduce", locale="en-GB", **options)
    page = context.new_page()
    page.goto(path, wait_until="networkidle")
    expect(page.locator("#rows .card").first).to_be_visible()
    if act:
        act(page)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=FOLDER / f"{name}.png")
    context.close()
    size = (FOLDER / f"{name}.png").stat().st_size
    assert size <= LARGEST, f"{name}.png holds {size:,} bytes; at most {LARGEST:,} are wanted"
    print(f"{name}.png {size / 1000:.0f} kB")


def typed(page: Page) -> None:
    """Some letters in the search, and what is found."""
    page.get_by_role("combobox", name="Search titles").fill("the")
    expect(page.locator("#found li").first).to_be_visible()
    page.keyboard.press("ArrowDown")


def opened(page: Page) -> None:
    """An item and what is like it."""
    page.locator("#rows .open").nth(1).click()
    expect(page.locator("#item .shelf")).to_be_visible()


def explained(page: Page) -> None:
    """Why the sixth card is there."""
    page.locator("#rows .reason").nth(5).click()
    expect(page.locator("#why .station").last).to_be_attached()


def answered(page: Page) -> None:
    """Three questions of the quiz."""
    for turn, words in enumerate(("Like it", "Not for me", "Like it")):
        page.locator("#quiz .answers").get_by_role("button", name=words).click()
        expect(page.locator("#quiz progress")).to_have_js_property("value", turn + 1)
        page.wait_for_load_state("networkidle")


def told(page: Page) -> None:
    """A title liked, and what moved."""
    page.locator("#rows .card").nth(2).locator("[data-act=like]").click()
    expect(page.locator(".mark").first).to_be_visible()


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    parser.add_argument(
        "--user", help="whose page; where none is named, one whose history is short, so that most cards name what caused them"
    )
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as state:
        chosen = settings([f"releases={asked.releases}", f"state={state}", "time=log-end", "editorial=null", "rules.explore.epsilon=0"])
        with engine(chosen) as made, served(create_app(made)) as server, chromium() as browser:
            user = asked.user or next(
                (one for one in made.users(200) if 6 <= len(made.store.read(one).history.item_ids) <= 9), made.users(1)[0]
            )
            home = f"/?user_id={user}"
            picture(browser, server.url, "home", home)
            picture(browser, server.url, "home-dark", home, color_scheme="dark")
            phone = {"screen": NARROW, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
            picture(browser, server.url, "home-narrow", home, **phone)
            picture(browser, server.url, "item", home, act=opened)
            picture(browser, server.url, "why", home, act=explained, screen=SCREEN | {"height": 1180})
            picture(browser, server.url, "quiz", f"{home}&quiz=new", act=answered)
            picture(browser, server.url, "search", home, act=typed)
            picture(browser, server.url, "changed", home, act=told)


if __name__ == "__main__":
    main()
