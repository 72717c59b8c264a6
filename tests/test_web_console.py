"""The console in a real browser: it shows what the server counts, moves releases with a key and says why when it may not, is readable by
anybody, and runs nothing that a server's words could smuggle in."""

import re
import time
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from serve.api.app import WEB

WIDE, NARROW = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
PATIENCE_MS, AGAIN_MS = 30_000, 3_000
HOSTILE = '<img src=x onerror="window.smuggled=1"><script>window.smuggled=1</script>'


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-background-networking"])
        yield found
        found.close()


@pytest.fixture(scope="module", autouse=True)
def visited(watched):
    """There was traffic, and the pulse has seen it, and has beaten often enough that a chart has points to go between."""
    watched.visit()
    deadline = time.monotonic() + 60
    points = []
    while len(points) < 4 or not any(point["answers"] for point in points):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        points = httpx.get(f"{watched.address}/v1/console").json()["points"]


@pytest.fixture
def opened(browser, watched):
    """Opens the console; in the end nothing was complained of, and nothing asked of another server."""
    pages, complaints = [], []

    def look(fragment="", viewport=WIDE, scheme="light", before=lambda page: None):
        page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith((watched.address, "data:")) else complaints.append(request.url))
        before(page)
        page.goto(f"{watched.address}/console{fragment}")
        pages.append(page)
        return page

    look.complaints = complaints
    yield look
    for page in pages:
        page.context.close()
    assert complaints == []


def legend(page, chart):
    return page.locator(f"#chart-{chart} .legend")


@pytest.mark.parametrize("viewport, scheme", [(WIDE, "light"), (NARROW, "dark")])
def test_anybody_can_read_what_happened(opened, viewport, scheme):
    page = opened(viewport=viewport, scheme=scheme)
    expect(page.locator("#state")).to_have_text("Ready", timeout=PATIENCE_MS)
    for chart, words in (
        ("answers", "personalised"), ("latency", "p95"), ("stages", "ranker"), ("precomputed", "used"), ("proposed", "collaborative"),
        ("shown", "popular"), ("coverage", "champion"), ("recall", "found"), ("arm", "champion"), ("events", "events stored"),
    ):  # fmt: skip
        expect(legend(page, chart)).to_contain_text(words, timeout=PATIENCE_MS)
    expect(page.locator("#parts li.not")).to_have_count(0)
    expect(page.locator("#releases-told tr")).to_have_count(3)
    expect(page.locator("#arms-told")).to_contain_text("Click-through")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    for unit in page.locator(".chart .unit").all():
        assert unit.text_content()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_every_chart_says_its_unit_what_it_means_and_is_read_with_the_arrow_keys(opened):
    page = opened()
    expect(legend(page, "answers")).to_contain_text("personalised")
    page.click("#pause")
    charts = page.locator(".chart").all()
    assert len(charts) >= 15
    for chart in charts:
        assert len(chart.locator(".means").text_content()) > 20
    plot = page.locator("#chart-answers .plot")
    plot.focus()
    plot.press("Home")
    expect(page.locator("#chart-answers .unit")).to_contain_text("at ")
    first = page.locator("#chart-answers .unit").text_content()
    for _ in range(2):
        plot.press("ArrowRight")
    assert page.locator("#chart-answers .unit").text_content() != first
    assert "answers a second" in plot.get_attribute("aria-label")


def test_a_pause_asks_nothing_and_going_on_asks_again(opened):
    page = opened(before=lambda page: page.clock.install())
    expect(page.locator("#state")).to_have_text("Ready")
    page.click("#pause")
    expect(page.locator("#state")).to_have_text("Paused")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(120_000)
    assert asked == []
    page.click("#pause")
    expect(page.locator("#state")).to_have_text("Ready")
    assert any("/v1/console?since=" in url for url in asked)


def test_without_a_key_nothing_can_be_pressed_and_with_a_writers_the_server_says_why_not(opened, watched):
    page = opened()
    expect(page.locator("#releases-told tr")).to_have_count(3)
    assert all(button.is_disabled() for button in [*page.locator("#releases-told button").all(), page.locator("#rollback")])
    page.fill("#key", watched.keys["writer"])
    page.click("#key-form button[type=submit]")
    page.get_by_role("button", name="Promote v3").click()
    assert "in place of v2" in page.locator("#confirm-text").text_content()
    page.click("#confirm-yes")
    expect(page.locator("#moved")).to_have_text("The key 'writer' is a writer's; administering needs a key of the role admin.")
    assert httpx.get(f"{watched.address}/v1/releases").json()["current"] == "v2"
    opened.complaints[:] = [said for said in opened.complaints if "403" not in said]  # Chromium tells of every refusal


def test_releases_are_checked_promoted_and_rolled_back_with_a_key_from_the_fragment(opened, watched):
    page = opened(f"#key={watched.keys['admin']}")
    assert page.evaluate("location.hash") == ""
    assert page.evaluate("sessionStorage.getItem('towers-key')") == watched.keys["admin"]
    page.get_by_role("button", name="Check v1").click()
    page.click("#confirm-yes")
    expect(page.locator("#moved")).to_contain_text("v1 is all right: whole")
    page.get_by_role("button", name="Promote v3").click()
    page.get_by_role("button", name="Leave it as it is").click()
    assert httpx.get(f"{watched.address}/v1/releases").json()["current"] == "v2"
    try:
        page.get_by_role("button", name="Promote v3").click()
        page.click("#confirm-yes")
        expect(page.locator("#moved")).to_have_text("Current is now v3.")
        expect(page.locator("#releases-told tr", has_text="v3").locator(".role")).to_have_text("current")
        expect(page.locator("#follows")).to_be_hidden(timeout=PATIENCE_MS)
        expect(page.locator("#about")).to_contain_text("Release v3", timeout=PATIENCE_MS)
        expect(page.locator("#rollback-note")).to_have_text("would make v2 current again, in place of v3")
    finally:
        page.click("#rollback")
        page.click("#confirm-yes")
        expect(page.locator("#moved")).to_have_text("Current is now v2.")
        expect(page.locator("#about")).to_contain_text("Release v2", timeout=PATIENCE_MS)
    page.click("#forget-key")
    assert page.evaluate("sessionStorage.getItem('towers-key')") is None


def test_the_fleet_is_seen_to_follow(opened, watched):
    told = httpx.get(f"{watched.address}/v1/releases").json()
    behind = told | {"settled": False, "current": "v3", "arms": [told["arms"][0] | {"wanted": "v3", "error": "v3: items.f16 is cut short"}]}
    answers = [behind, told]
    page = opened(before=lambda page: page.route("**/v1/releases", lambda route: route.fulfill(json=answers.pop(0) if answers else told)))
    expect(page.locator("#follows")).to_have_text("The fleet follows. champion: v2 → v3 (v3: items.f16 is cut short)")
    expect(page.locator("#follows")).to_be_hidden()


def test_a_server_without_traffic_and_one_that_is_away_say_so(opened, watched):
    empty = httpx.get(f"{watched.address}/v1/console").json() | {"points": []}

    def nobody(page):
        page.clock.install()
        page.route("**/v1/console*", lambda route: route.fulfill(json=empty))

    page = opened(before=nobody)
    expect(page.locator("#chart-answers .nothing")).to_contain_text("No point yet")
    page.unroute("**/v1/console*")
    page.route("**/v1/**", lambda route: route.abort())
    page.clock.run_for(AGAIN_MS)
    expect(page.locator("#state")).to_have_text("Server away")
    expect(page.locator("#trouble")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/**")
    page.clock.run_for(AGAIN_MS)
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#trouble")).to_be_hidden()
    opened.complaints[:] = [said for said in opened.complaints if "ERR_FAILED" not in said]


def test_another_process_behind_the_same_address_is_noticed(opened, watched):
    one = httpx.get(f"{watched.address}/v1/console").json()
    answers = [one, one | {"process": "other:7"}]

    def two(page):
        page.clock.install()
        page.route("**/v1/console*", lambda route: route.fulfill(json=answers[0]))

    page = opened(before=two)
    expect(page.locator("#state")).to_have_text("Ready")
    del answers[0]
    page.clock.run_for(AGAIN_MS)
    expect(page.locator("#trouble")).to_contain_text("Another process answers now (other:7)")


HOSTILE_KEYS = ("personalised", "collaborative", "store", "already watched", "click_through")


def hostile(told):
    """The same document, every word of which is an attack."""
    if isinstance(told, dict):
        return {
            (HOSTILE if key in ("personalised", "collaborative", "store", "already watched") else key): hostile(value)
            for key, value in told.items()
        }
    if isinstance(told, list):
        return [hostile(value) for value in told]
    return HOSTILE if isinstance(told, str) else told


def test_words_of_the_server_run_nothing(opened, watched):
    paths = ("/v1/console", "/v1/experiments", "/v1/releases")
    told = {path: hostile(httpx.get(f"{watched.address}{path}").json()) for path in paths}

    def smuggle(page):
        page.route("**/v1/**", lambda route: route.fulfill(json=told[urlsplit(route.request.url).path]))

    page = opened("#key=x", before=smuggle)
    expect(page.locator("#releases-told tr").first).to_contain_text("<img src=x")
    expect(page.locator("#parts")).to_contain_text("<img src=x")
    expect(legend(page, "answers")).to_contain_text("<img src=x")
    page.locator("#releases-told button").first.click()
    expect(page.locator("#confirm-title")).to_contain_text("<img src=x")
    assert page.evaluate("window.smuggled") is None
    assert page.locator("main img, main script").count() == 0


def test_the_console_is_light_and_its_library_bears_its_licence(watched):
    page = httpx.get(f"{watched.address}/console")
    assert not re.search(r"<script>|<style|style=|onclick|unsafe-inline", page.text + page.headers["content-security-policy"])
    files = set(re.findall(r'(?:src|href)="(/web/[^"]+)"', page.text))
    files |= {f"/web/{file.name}" for file in WEB.glob("console_*.js")}
    weight = len(page.content) + sum(len(httpx.get(watched.address + file).content) for file in files)
    assert weight <= 120_000
    assert "MIT License" in (WEB / "vendor" / "uplot" / "LICENSE").read_text()
