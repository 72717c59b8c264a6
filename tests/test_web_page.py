"""The page in a real browser over a real engine: the ten journeys of a person, wide and narrow, and what holds of the page at any time."""

import json
import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx
import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from serve.api import create_app
from serve.api.app import OPEN
from serve.api.keys import Keys
from serve.manifest import seal
from serve.publication import publish
from tests.browser import NARROW, WIDE, Complaints, chromium, served
from tests.engines import started
from tests.releases import write_release

EVIL = ("<img src=x onerror=\"document.title='owned'\">", "</span><script>document.title='owned'</script>", "${alert(1)} {{7*7}} &lt;b&gt;")
FIRST, LAST = (
    "Velvet Crimson Silent Northern Hollow Golden Restless Paper".split(),
    "Voyage Orchard Winter Detective Meadow Lighthouse".split(),
)
TITLES = [f"{first} {last}" for last in LAST for first in FIRST]
SCREENS = {"wide": WIDE, "narrow": NARROW}


def titled(folder):
    """A small release whose titles people would give, and three that nobody should."""
    write_release(folder, items=140, room=20, seed=3)
    catalogue = pl.read_parquet(folder / "catalogue.parquet")
    given = [*EVIL, *TITLES, *(f"The {title}, Part Two" for title in TITLES), *(f"{title} Returns" for title in TITLES)][: len(catalogue)]
    catalogue.with_columns(title=pl.Series(given)).write_parquet(folder / "catalogue.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    seal(folder, {name: value for name, value in manifest.items() if name not in ("files", "checksum", "created_at")})
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    publish(titled(folder / "releases" / ".staging"), folder / "releases", "v1")
    rules = ("rules.shown_most=10000", "rules.explore.epsilon=0", "precomputed.active_minutes=1000000")
    with started(folder / "releases", folder / "state", *rules) as made:
        yield made


@pytest.fixture(scope="module")
def server(engine):
    with served(create_app(engine)) as made:
        yield made


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(params=SCREENS)
def screen(request):
    return request.param


@pytest.fixture
def visit(browser, server):
    """Open a path on a screen, as it stands when all of it came. Whatever the page complained of by the end of the test fails it."""
    opened = []

    def go(path="/?user_id=u7", screen="wide", *, expected=(), at=server, **options):
        narrow = {"is_mobile": True, "has_touch": True} if screen == "narrow" else {}
        size = SCREENS[screen] if isinstance(screen, str) else screen
        context = browser.new_context(viewport=size, reduced_motion="reduce", base_url=at.url, **narrow | options)
        page = context.new_page()
        opened.append((context, Complaints(page), expected))
        page.goto(path)
        if not expected:
            expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")
            expect(page.locator(".known")).to_contain_text("event")
        return page

    yield go
    for context, complaints, expected in opened:
        context.close()
        assert [one for one in complaints if not any(word in one for word in expected)] == []


def answer_to(page, act):
    """The next answer of /v1/recommendations that an act of the person brings, when the page stands."""
    with page.expect_response(lambda answer: "/v1/recommendations" in answer.url) as held:
        act()
    told = held.value.json()
    expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")
    return told


def ids(page, where="#rows"):
    return page.locator(f"{where} .card").evaluate_all("cards => cards.map(card => card.dataset.item)")


def ask(server, path, **query):
    answer = httpx.get(server.url + path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def bar(page, screen):
    """The bar, unfolded where the screen is narrow."""
    if screen == "narrow" and page.locator("details.bar").get_attribute("open") is None:
        page.locator("details.bar > summary").click()
    return page.locator("#asked")


# ---- the ten journeys


def test_journey_open(visit, screen, server):
    page = visit("/", screen)
    told = answer_to(page, page.reload)
    expect(page.get_by_role("heading", level=1)).to_have_text("For u0")
    assert page.locator("#rows h2").all_inner_texts() == told["rows"]
    shown = {one["item_id"]: one["title"] for one in told["recommendations"]}
    assert sorted(ids(page)) == sorted(shown) and len(shown) == 40
    for card in page.locator("#rows .card").all()[:5]:
        assert card.get_by_role("link").inner_text().lower() == shown[card.get_attribute("data-item")].lower()
    row = page.locator("#rows .strip").first
    before = row.evaluate("row => row.scrollLeft")
    if screen == "wide":
        page.locator("#rows .turn [data-way='1']").first.click()
    else:
        row.evaluate("row => row.scrollBy(300, 0)")
    page.wait_for_function("was => document.querySelector('#rows .strip').scrollLeft > was", arg=before)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_journey_reason(visit, screen):
    page = visit(screen=screen)
    told = answer_to(page, page.reload)
    reasons = {one["item_id"]: one["reason"] for one in told["recommendations"]}
    said = page.locator("#rows .card").evaluate_all(
        "cards => cards.map(card => [card.dataset.item, card.querySelector('.reason span').textContent])"
    )
    assert dict(said) == reasons
    expect(page.locator("#rows .reason").first).to_be_visible()


SAID = {"like": "You like", "not_interested": "Not for you:", "complete": "You watched"}


@pytest.mark.parametrize("act, screen", [("like", "wide"), ("like", "narrow"), ("not_interested", "wide"), ("complete", "narrow")])
def test_journey_tell_and_see_the_row_change(visit, screen, server, act):
    user = f"teller-{act}-{screen}"
    httpx.post(server.url + "/v1/events", json={"user_id": user, "item_id": "i30", "event_type": "complete"})
    page = visit(f"/?user_id={user}", screen)
    before, card = ids(page), page.locator("#rows .card").nth(1)
    item, title = card.get_attribute("data-item"), card.get_by_role("link").get_attribute("title")
    page.evaluate("scrollTo(0, 120)")
    told = answer_to(page, card.locator(f"[data-act={act}]").click)
    after = [one["item_id"] for one in told["recommendations"]]
    assert item not in after
    assert sorted(ids(page)) == sorted(after)
    expect(page.locator("#toast")).to_contain_text(f"{SAID[act]} {title}. Now")
    expect(page.locator("#said")).to_contain_text(title)
    fresh = set(after) - set(before)
    assert set(page.locator(".card:has(.mark.new)").evaluate_all("cards => cards.map(card => card.dataset.item)")) == fresh and fresh
    expect(page.locator(".moved")).to_contain_text(f"{len(fresh)} new")
    assert page.evaluate("scrollY") == 120
    assert page.evaluate("document.activeElement.closest('.card') !== null"), "the focus was lost with the card"
    last, liked = ask(server, f"/v1/users/{user}")["history"][0], ask(server, "/v1/service")["liked_rating"]
    assert (last["item_id"], last["event_type"], last["rating"]) == (item, *(("rate", liked) if act == "like" else (act, None)))
    expect(page.locator(".lately a").first).to_have_attribute("title", title)


def test_journey_more_like_this(visit, screen, server):
    page = visit(screen=screen)
    cover = page.locator("#rows .card .open").first
    item, title = page.locator("#rows .card").first.get_attribute("data-item"), cover.get_attribute("title")
    cover.click()
    dialog = page.get_by_role("dialog", name=title)
    expect(dialog.get_by_role("heading", name="More like this")).to_be_visible()
    like = [one["item_id"] for one in ask(server, f"/v1/items/{item}/similar", count=12)["recommendations"]]
    assert ids(page, "#item") == like
    assert parse_qs(urlsplit(page.url).query)["item"] == [item]
    dialog.locator(".card .open").first.click()
    expect(page.locator("#item article")).to_have_attribute("data-item", like[0])
    page.go_back()
    expect(page.locator("#item article")).to_have_attribute("data-item", item)
    page.go_forward()
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    expect(cover).to_be_focused()
    assert "item" not in parse_qs(urlsplit(page.url).query)


def test_journey_why(visit, screen, server):
    page = visit(screen=screen)
    item = ids(page)[0]
    with page.expect_response(lambda answer: "/v1/explanations" in answer.url) as held:
        page.locator("#rows .reason").first.click()
    told, drawer = held.value.json(), page.locator("#why")
    expect(drawer.locator(".verdict")).to_have_text(told["verdict"])
    assert told["item_id"] == item and told["place"] is not None
    places = {name: place for name, place in told["sources"].items() if isinstance(place, int)}
    expect(drawer.get_by_text(f"Proposed by {len(places)} of {len(told['sources'])} sources")).to_be_visible()
    assert sorted(drawer.locator(".sources .yes b").all_inner_texts()) == sorted(f"no. {place}" for place in places.values())
    most = sorted(told["contributions"], key=lambda one: -abs(one["loss"]))[:8]
    assert [text.lower() for text in drawer.locator(".station .moved li > span").all_inner_texts()] == [
        one["title"].lower() for one in most
    ]
    widths = drawer.locator(".moved .bar").evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('width')))")
    assert widths == pytest.approx([100 * abs(one["loss"]) / max(0.01, abs(most[0]["loss"])) for one in most])
    expect(drawer.locator("svg.steps circle.chosen")).to_have_count(len(told["steps"]))
    expect(drawer.get_by_role("heading", name=f"Place {told['place']} of the slate")).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(page.locator("#rows .reason").first).to_be_focused()


def test_journey_why_not(visit, screen, server):
    watched = ask(server, "/v1/users/u7")["history"][0]
    page = visit(screen=screen)
    page.get_by_role("combobox", name="Search titles").fill(watched["title"])
    page.locator("#found li").first.click()
    page.get_by_role("button", name="Why not on my page?").click()
    expect(page.locator("#why .verdict")).to_have_text("It was left out: already watched.")
    expect(page.locator("#why .filters .no")).to_contain_text("already watched")
    page.go_back()
    expect(page.locator("#why")).to_be_hidden()
    expect(page.locator("#item")).to_be_visible()


def test_journey_quiz(visit, screen, server):
    page = visit(screen=screen)
    page.get_by_role("button", name="Quiz").click()
    name = f"newcomer-{screen}"
    page.get_by_label("Your name here").fill(name)
    asked = []
    for turn in range(10):
        group = page.locator("#quiz .answers")
        title = page.locator("#quiz .question .lettering").inner_text()
        assert title not in asked, "asked twice"
        asked.append(title)
        with page.expect_response(lambda answer: "/quiz" in answer.url) as held:
            group.get_by_role("button", name=["Like it", "Not for me", "Don't know it"][turn % 3]).click()
        if "question" not in held.value.json() or held.value.json()["question"] is None:
            break
        expect(page.locator("#quiz progress")).to_have_js_property("value", turn + 1)
        expect(page.locator("#quiz .question .lettering")).not_to_have_text(title)
    expect(page.locator("#quiz")).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"For {name}")
    expect(page.locator(".known")).to_contain_text("quiz answers")
    assert ask(server, f"/v1/users/{name}")["answers"] == sum(turn % 3 != 2 for turn in range(len(asked)))
    assert parse_qs(urlsplit(page.url).query)["user_id"] == [name]


def test_journey_search(visit, screen, server):
    page = visit(screen=screen)
    box = page.get_by_role("combobox", name="Search titles")
    box.press_sequentially("velv", delay=15)
    found = ask(server, "/v1/items", query="velv", count=8)["items"]
    expect(page.locator("#found [role=option]")).to_have_count(len(found))
    assert page.locator("#found strong").all_inner_texts() == [one["title"] for one in found]
    expect(page.locator("#said")).to_have_text(f"{len(found)} titles found")
    box.press("ArrowDown")
    box.press("ArrowDown")
    expect(page.locator("#found [aria-selected=true]")).to_contain_text(found[1]["title"])
    expect(box).to_have_attribute("aria-activedescendant", "found-1")
    box.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading", level=2).first).to_have_text(found[1]["title"])
    page.keyboard.press("Escape")
    box.fill("zzzz")
    expect(page.locator(".found")).to_contain_text("No title holds “zzzz”.")


def test_journey_another_user_hour_and_device(visit, screen, server):
    page = visit(screen=screen)
    before = ids(page)
    asked = bar(page, screen)
    told = answer_to(
        page, lambda: (asked.get_by_label("User", exact=True).fill("u9"), asked.get_by_label("User", exact=True).press("Enter"))
    )
    expect(page.get_by_role("heading", level=1)).to_have_text("For u9")
    after = [one["item_id"] for one in told["recommendations"]]
    fresh = set(after) - set(before)
    expect(page.locator("#rows .mark.new")).to_have_count(len(fresh))
    both = [item for item in before if item in after]
    moved = [item for place, item in enumerate(one for one in after if one in before) if both.index(item) != place]
    assert moved, "another user's page in the same order"
    expect(page.locator("#rows .mark:not(.new)")).to_have_count(len(moved))
    now = ask(server, "/v1/service")["now"]
    with page.expect_request(lambda request: "/v1/recommendations" in request.url) as held:
        answer_to(page, lambda: asked.get_by_label("Hour (UTC)").select_option("20"))
    time = int(parse_qs(urlsplit(held.value.url).query)["time"][0])
    assert (time // 3_600_000) % 24 == 20 and now <= time < now + 24 * 3_600_000
    expect(page.locator(".intro")).to_contain_text(re.compile("Tried out|moved|new"))
    answer_to(page, lambda: asked.get_by_label("Device").select_option("tv"))
    told = answer_to(
        page,
        lambda: asked.get_by_role("slider").evaluate(
            "rail => { rail.value = 0; rail.dispatchEvent(new Event('input', {bubbles: true})); }"
        ),
    )
    assert {name: value[0] for name, value in parse_qs(urlsplit(page.url).query).items()} == {
        "user_id": "u9",
        "hour": "20",
        "device": "tv",
        "lambda": "0",
    }
    shared = answer_to(page, page.reload)
    assert [one["item_id"] for one in shared["recommendations"]] == [one["item_id"] for one in told["recommendations"]]
    page.go_back()
    page.go_back()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("For u7")


# ---- what holds at any time


def test_by_keyboard_alone(visit):
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the rows")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    while page.evaluate("!document.activeElement.matches('#rows .card .open')"):
        page.keyboard.press("Tab")
    first, second = ids(page)[:2]
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('.card').dataset.item") == second
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.closest('.card').dataset.item") == first
    stops = page.locator("#rows .strip").first.evaluate(
        "strip => [...strip.querySelectorAll('a, button')].filter(one => one.tabIndex === 0).length"
    )
    assert stops == 5, "a row is one stop for the cover, its reason and its three buttons"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(f"#rows [data-item='{first}'] .open").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.dataset.act")
    assert focused == "like"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('.card').dataset.item") == second
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Search titles")).to_be_focused()


VIEWS = {"home": "", "item": "&item=i0", "why": "&why=i40", "quiz": "&quiz=new"}


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_violation(visit, view):
    page = visit(f"/?user_id=u7{VIEWS[view]}")
    within = None if view == "home" else {"include": [[f"#{view}"]]}  # what lies beneath is the homepage
    if within:
        expect(page.locator(f"#{view} .lettering").first).to_be_attached()
    for size in SCREENS.values():
        page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, context=within, options={"resultTypes": ["violations"]}).response["violations"]
            assert [(one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"]) for one in found] == [], (size, scheme)


def test_nothing_shifts_and_little_is_loaded(visit, screen, browser, server):
    page = visit("about:blank", screen, expected=("nothing",))
    loaded = {}
    page.on("response", lambda answer: loaded.setdefault(answer.url, len(answer.body())) if answer.url.startswith("http") else None)
    page.add_init_script(
        """window.shift = 0;
        new PerformanceObserver((list) => { for (const one of list.getEntries()) if (!one.hadRecentInput) shift += one.value; })
          .observe({ type: "layout-shift", buffered: true });"""
    )
    page.goto("/?user_id=u7")
    expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("shift") < 0.02
    assert sum(loaded.values()) <= 200_000, loaded
    assert all(url.startswith(server.url) for url in loaded)


def test_titles_are_only_text(visit, server):
    httpx.post(
        server.url + "/v1/events", json=[{"user_id": "<b>bold</b>", "item_id": f"i{row}", "event_type": "watch"} for row in range(3)]
    )
    page = visit("/?user_id=%3Cb%3Ebold%3C%2Fb%3E&item=i0")
    assert page.get_by_role("heading", level=1).inner_text() == "For <b>bold</b>"
    assert page.locator("#item h2").first.inner_text() == EVIL[0]
    for row, title in enumerate(EVIL):
        assert page.locator(f".lately [data-item=i{row}] .lettering").text_content() == title
    page.goto("/?user_id=%3Cimg%20src=x%20onerror=alert(1)%3E&why=i1")
    expect(page.locator("#why h2")).to_have_text(EVIL[1])
    assert page.locator("img[src=x], main script").count() == 0 and "owned" not in page.title()


COVERS = """async () => {
  const { coverOf } = await import("/web/covers/covers.js");
  const { families, printings } = await import("/web/covers/inks.js");
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (hex) => channels(hex).reduce((sum, c, at) => sum + [0.2126, 0.7152, 0.0722][at] * linear(c / 255), 0.05);
  const contrast = (a, b) => Math.max(light(a), light(b)) / Math.min(light(a), light(b));
  const brush = new OffscreenCanvas(200, 118).getContext("2d", { willReadFrequently: true });
  const titles = ["One", "Two at Sea", "Three"];
  const item = (genre, title) => ({ item_id: title, title: `${title} ${genre}`, genres: [genre] });
  const covers = families.flatMap((genre) => titles.map((title) => coverOf(item(genre, title))));
  const strays = [];
  for (const { src, sky } of covers) {
    const art = Object.assign(new Image(), { width: 200, height: 300, src: src() });
    await art.decode();
    brush.drawImage(art, 0, 0, 200, 300);
    const want = channels(sky), { data } = brush.getImageData(12, 10, 176, 100);
    strays.push(data.reduce((most, c, at) => (at % 4 === 3 ? most : Math.max(most, Math.abs(c - want[at % 4]))), 0));
  }
  const inks = families.flatMap((genre) => printings(genre));
  const [one, again] = ["a", "b"].map((item_id) => coverOf({ item_id, title: "Two at Sea", genres: ["Drama", "Crime"] }));
  const alike = one.src() === again.src() && one.src() === one.src();
  const contrasts = inks.map(({ sky, letter }) => contrast(sky, letter));
  return { alike, contrasts, strays, distinct: new Set(covers.map(({ src }) => src())).size };
}"""


def test_covers_are_drawn_alike_and_their_lettering_stands_out(visit):
    page = visit()
    seen = page.evaluate(COVERS)
    assert seen["alike"], "the same item looks different elsewhere"
    assert min(seen["contrasts"]) >= 4.5
    assert max(seen["strays"]) <= 3, "something is drawn where the lettering stands"
    assert seen["distinct"] == len(seen["strays"])
    drawn = {row: page.locator(f".card[data-item={row}] img").first.get_attribute("src") for row in ids(page)[:6]}
    answer_to(page, page.reload)
    assert all(art.startswith("data:image/svg+xml,") for art in drawn.values())
    for row, art in drawn.items():
        if page.locator(f".card[data-item={row}] img").count():
            assert page.locator(f".card[data-item={row}] img").first.get_attribute("src") == art


def test_more_never_repeats(visit):
    page = visit()
    first = ids(page)
    while page.get_by_role("button", name="Show more").count():
        before = page.locator("#more .card").count()
        page.get_by_role("button", name="Show more").click()
        page.wait_for_function(
            "was => document.querySelectorAll('#more .card').length > was || !document.querySelector('#more [data-do=more]')", arg=before
        )
    every = first + ids(page, "#more")
    assert len(every) == len(set(every)) and len(every) > 60
    expect(page.locator("#more")).to_contain_text("That is everything there is for now.")


@pytest.mark.parametrize("wide", [320, 768])
def test_no_page_scrolls_sideways(visit, wide):
    page = visit("/?user_id=somebody-with-a-very-long-name-that-goes-on-and-on-and-on&item=i0", {"width": wide, "height": 640})
    page.locator("details.bar").evaluate("bar => { bar.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    assert page.locator("#item").evaluate("sheet => sheet.scrollWidth <= sheet.clientWidth")


def test_fingers_find_what_they_press(visit):
    page = visit(screen="narrow")
    small = page.locator("button:visible, a:visible, select:visible, input:visible, summary:visible").evaluate_all(
        """all => all.filter((one) => !one.closest(".skip, #asked .some"))
          .filter((one) => { const box = one.getBoundingClientRect(); return box.height < 43.5 || box.width < 43.5; })
          .map((one) => one.outerHTML.slice(0, 90))"""
    )
    assert small == []


def test_the_server_goes_away_and_comes_back(visit, browser, engine):
    with served(create_app(engine)) as server:
        page = visit(expected=("ERR_CONNECTION_REFUSED", "net::ERR"), at=server)
        expect(page.locator("#rows .card").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        before = ids(page)
        server.stop()
        bar(page, "wide").get_by_label("Device").select_option("tv")
        expect(page.get_by_role("alert")).to_contain_text("The server is away")
        assert ids(page) == before, "what was there is gone"
        page.locator("[data-act=like]").first.click()
        expect(page.locator("#toast")).to_contain_text("Nothing was noted.")
        server.start()
        expect(page.locator("#toast")).to_contain_text("The server is back.", timeout=15_000)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_nobody_known_is_offered_the_quiz(visit):
    page = visit("/?user_id=never-seen")
    expect(page.get_by_role("heading", name="Nothing is known of never-seen yet")).to_be_visible()
    page.get_by_role("button", name="Take the quiz").click()
    expect(page.get_by_label("Your name here")).to_have_value("never-seen")


def test_what_cannot_be_asked_is_said_by_name(visit):
    page = visit("/?user_id=u7&device=toaster%00", expected=("422",))
    expect(page.get_by_role("alert")).to_contain_text("This device cannot be asked for")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#rows .card").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_is_asked_for_where_one_is_needed(visit, engine, tmp_path):
    keys = tmp_path / "keys.json"
    made = Keys(keys).add("page", "writer", now_ms=engine.now_ms())
    access = replace(OPEN, writing="keyed", keys=keys)
    with served(create_app(engine, access)) as server:
        page = visit("/?user_id=u8", expected=("401",), at=server)
        page.locator("[data-act=complete]").first.click()
        dialog = page.get_by_role("dialog", name="Your key")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Key", exact=True).fill(made)
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")
        told = answer_to(page, page.locator("[data-act=complete]").first.click)
        assert told["recommendations"]
        expect(page.locator("#toast")).to_contain_text("You watched")
        brought = visit(f"/?user_id=u8#key={made}", at=server)
        assert "key" not in brought.url and made not in brought.url
        assert brought.evaluate("sessionStorage.getItem('towers-key')") == made and brought.evaluate("localStorage.length") == 0
        assert "key" not in brought.evaluate("document.cookie")
