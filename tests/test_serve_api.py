"""Over HTTP: what is answered is JSON of numbers, what is refused says which field and why, and never is anything a 500."""

import json
import re
import time

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.api import WEB, create_app
from serve.contract import CONTEXTS
from serve.gauges import Gauges
from tests.engines import published, started
from tests.releases import START_MS

JSON = {"Content-Type": "application/json"}
NOW = START_MS + 20 * 3_600_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with started(published(folder / "releases", "v1", items=40), folder / "state", "precomputed.active_minutes=0") as made:
        yield made


@pytest.fixture(scope="module")
def http(engine):
    with TestClient(create_app(engine)) as client:
        yield client


def get(http, path, **params):
    response = http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_has_what_was_promised(http):
    answer = get(http, "/v1/recommendations", user_id="u9", count=5, device="tv", region="FR", time=NOW, **{"lambda": 1})
    assert set(answer) == {
        "recommendations", "rows", "model_version", "generated_in_ms", "answered_by", "request_id", "stage_ms", "dropped", "explored",
        "arm", "next",
    }  # fmt: skip
    assert (answer["model_version"], answer["answered_by"], len(answer["recommendations"])) == ("v1", "personalised", 5)
    for shown in answer["recommendations"]:
        assert set(shown) == {"item_id", "title", "genres", "score", "reason", "row", "sources"}
        assert 0 <= shown["score"] <= 1
    assert sum(answer["stage_ms"].values()) <= answer["generated_in_ms"] + 0.1


def test_a_posted_event_changes_the_very_next_answer(http):
    before = get(http, "/v1/recommendations", user_id="posting", count=40)
    assert before["answered_by"] == "popular"
    event = {"event_id": "p1", "user_id": "posting", "item_id": before["recommendations"][3]["item_id"], "event_type": "complete"}
    assert http.post("/v1/events", json=event).json() == {"stored": 1, "repeated": 0}
    assert http.post("/v1/events", json=[event]).json() == {"stored": 0, "repeated": 1}
    after = get(http, "/v1/recommendations", user_id="posting", count=40)
    assert after["answered_by"] == "personalised"
    shown = [item["item_id"] for item in after["recommendations"]]
    assert len(shown) == 39
    assert event["item_id"] not in shown


@pytest.mark.parametrize(
    ("status", "field", "query"),
    [
        (422, "count", "user_id=u&count=0"),
        (422, "count", "user_id=u&count=-1"),
        (422, "count", "user_id=u&count=1000000000"),
        (422, "count", "user_id=u&count=many"),
        (422, "count", "user_id=u&count=" + "9" * 5000),
        (422, "user_id", "count=3"),
        (422, "user_id", "user_id="),
        (422, "user_id", "user_id=%00"),
        (422, "user_id", "user_id=" + "x" * 60_000),
        (422, "lambda", "user_id=u&lambda=nan"),
        (422, "lambda", "user_id=u&lambda=1e999"),
        (422, "lambda", "user_id=u&mmr_lambda=1"),
        (422, "time", "user_id=u&time=-5"),
        (422, "time", "user_id=u&time=yesterday"),
        (422, "context", "user_id=u&context=kitchen"),
        (422, "item_id", "user_id=u&context=item"),
        (422, "conut", "user_id=u&conut=3"),
        (404, "item_id", "user_id=u&context=item&item_id=i99"),
    ],
)
def test_a_refusal_names_the_field_in_a_sentence(http, status, field, query):
    response = http.get(f"/v1/recommendations?{query}")
    assert response.status_code == status
    told = response.json()
    assert told["field"].replace("mmr_", "") == field
    assert field in told["detail"] or "'i99'" in told["detail"]
    assert told["detail"].endswith(".")
    assert len(told["detail"]) < 300


def test_unknown_items_are_404_with_a_sentence_everywhere(http):
    for response in (
        http.get("/v1/items/i99/similar"),
        http.get("/v1/items/a%2Fb/similar"),
        http.post("/v1/events", json={"user_id": "u", "item_id": "i99", "event_type": "click"}),
    ):
        assert response.status_code == 404
        assert re.fullmatch(r"There is no item '(i99|a/b)' in the catalogue of release v1\.", response.json()["detail"])


def test_a_posted_item_is_found_by_its_title_and_its_neighbours_and_may_have_events(http):
    item = {"item_id": "new/1", "title": "A title nobody had", "genres": ["drama"], "content_embedding": [0.1, 0.2]}
    assert http.post("/v1/items", json=item).json() == {"stored": 1}
    assert http.post("/v1/items", json=[item, item | {"item_id": "new/2"}]).json() == {"stored": 2}
    assert [found["item_id"] for found in get(http, "/v1/items", query="nobody had")["items"]] == ["new/1", "new/2"]
    assert get(http, "/v1/items/new%2F1/similar", count=1)["recommendations"][0]["item_id"] == "new/2"
    event = {"user_id": "taker", "item_id": "new/1", "event_type": "complete"}
    assert http.post("/v1/events", json=event).json() == {"stored": 1, "repeated": 0}
    assert "new/2" in [shown["item_id"] for shown in get(http, "/v1/recommendations", user_id="taker", count=40)["recommendations"]]


def test_a_posted_item_that_cannot_be_is_refused_in_words(http):
    full = [{"item_id": f"x{number}", "title": "t"} for number in range(30)]
    for body, status, field in (
        ({"item_id": "i3", "title": "t"}, 409, "item_id"), ({"item_id": "x"}, 422, "title"), (full, 409, None),
    ):  # fmt: skip
        response = http.post("/v1/items", json=body)
        assert (response.status_code, response.json()["field"]) == (status, field)
    assert http.post("/v1/items", content=b"{", headers=JSON).json()["field"] == "body"


@pytest.mark.parametrize(
    ("status", "field", "kind", "body"),
    [
        (422, "body", "application/json", b"{"),
        (422, "body", "application/json; charset=utf-8", b""),
        (422, "body", "application/json", b'{"user_id": NaN}'),
        (413, "body", "application/json", b" " * 3_000_000),
        (415, "Content-Type", "text/plain", b'{"user_id": "u1", "item_id": "i1", "event_type": "view"}'),
        (415, "Content-Type", "application/x-www-form-urlencoded", b"user_id=u1"),
    ],
)
def test_a_body_that_is_broken_too_large_or_of_another_kind_says_so(http, status, field, kind, body):
    response = http.post("/v1/events", content=body, headers={"Content-Type": kind})
    assert (response.status_code, response.json()["field"]) == (status, field)


anything = st.text(max_size=300) | st.sampled_from(
    ["u1", "i3", "nan", "-inf", "1e400", "0x1", "١", "\ud7ff", "\ufffe", "a\0b", "'; --", "%", "+"]
)
number = st.integers().map(str) | st.floats().map(str) | anything
odd = {
    "user_id": anything, "count": st.integers(1, 40).map(str) | number, "context": st.sampled_from(CONTEXTS), "item_id": anything,
    "device": anything, "region": anything, "time": number, "lambda": st.floats(0, 1).map(str) | number, "verbose": anything,
}  # fmt: skip
changes = st.lists(st.sampled_from(sorted(odd)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: odd[name] for name in names})
)
asked = st.sampled_from([{"user_id": "u4"}, {"user_id": "nobody"}, {"user_id": "u4", "context": "item", "item_id": "i3"}])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked, changes)
def test_whatever_is_asked_is_answered_or_refused_in_words(http, usual, changed):
    response = http.get("/v1/recommendations", params=usual | changed)
    assert response.status_code in (200, 404, 422)
    told = json.loads(response.text, parse_constant=pytest.fail)
    assert ("recommendations" in told) == (response.status_code == 200)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything.filter(lambda text: text not in (".", "..")), number)
def test_whatever_item_is_asked_about(http, item_id, count):
    response = http.get("/v1/items/" + "".join(f"%{byte:02X}" for byte in item_id.encode()) + "/similar", params={"count": count})
    assert response.status_code in (200, 404, 422)


def test_health_readiness_and_what_prometheus_reads(http):
    assert get(http, "/healthz") == {"status": "alive"}
    ready = get(http, "/readyz")
    assert (ready["status"], ready["model_version"], set(ready["parts"].values())) == ("ready", "v1", {"ready"})
    get(http, "/v1/recommendations", user_id="u3")
    text = http.get("/metrics").text
    assert re.search(r'towers_answers_total\{answered_by="personalised"\} [1-9]', text)
    assert re.search(r'towers_arm_answers_total\{arm="champion"\} [1-9]', text)
    assert re.search(r'towers_part_ready\{part="store"\} 1', text)
    assert re.search(r'towers_request_seconds_count\{stage="ranker"\} [1-9]', text)


def test_the_page_comes_whole_from_this_server_and_writes_no_html(http):
    page = http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert http.get(address).status_code == 200
    for file in (*WEB.glob("*.html"), *WEB.glob("*.js"), *WEB.glob("*.css")):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?:|//[a-z]|innerHTML|insertAdjacentHTML|document\.write|\beval\b| on[a-z]+=\"", text), file


def test_users_to_pick_and_titles_to_find(http):
    assert get(http, "/v1/users", count=3)["user_ids"] == ["u0", "u1", "u2"]
    assert [item["item_id"] for item in get(http, "/v1/items", query="the 12TH k")["items"]] == ["i12"]


def test_why_an_item_is_shown_and_why_another_is_not(http):
    shown = get(http, "/v1/recommendations", user_id="u8", count=5, live=True)["recommendations"][0]
    told = get(http, "/v1/explanations", user_id="u8", count=5, explain=shown["item_id"])
    assert told["place"] is not None
    assert told["heads"]["value"] == pytest.approx(shown["score"], abs=1e-5)
    assert all(told["filters"].values())
    assert {source for source, place in told["sources"].items() if place} == set(shown["sources"])
    assert "on the page" in told["verdict"]
    http.post("/v1/events", json={"user_id": "why", "item_id": "i5", "event_type": "complete"})
    watched = get(http, "/v1/explanations", user_id="why", explain="i5")
    assert watched["verdict"] in ("It was left out: already watched.", "No source proposed it, so it was never ranked.")
    assert http.get("/v1/explanations", params={"user_id": "u8", "explain": "i99"}).status_code == 404
    assert http.get("/v1/explanations", params={"user_id": "u8"}).json()["field"] == "explain"


def test_the_quiz_asks_until_it_knows_enough_and_a_stranger_who_answered_gets_a_page_of_their_own(http):
    answers, asked = [], []
    while (question := http.post("/v1/quiz", json={"answers": answers}).json()["question"]) is not None:
        assert set(question) == {"item_id", "title", "genres"}
        asked.append(question["item_id"])
        answers.append({"item_id": question["item_id"], "liked": [True, False, None][len(asked) % 3]})
    assert 5 <= len(asked) <= 10
    assert len(set(asked)) == len(asked)
    before = get(http, "/v1/recommendations", user_id="quiz taker", count=10)
    kept = http.post("/v1/users/quiz taker/quiz", json={"answers": answers}).json()["kept"]
    assert kept == sum(answer["liked"] is not None for answer in answers)
    after = get(http, "/v1/recommendations", user_id="quiz taker", count=10)
    assert (before["answered_by"], after["answered_by"]) == ("popular", "personalised")
    for body in ({"answers": [{"item_id": "i99", "liked": True}]}, {"answers": [{"item_id": "i1"}]}, {"answers": answers * 5}):
        assert http.post("/v1/quiz", json=body).status_code in (404, 422)


def test_not_interested_and_two_skips_are_the_last_of_an_item(http):
    first = [shown["item_id"] for shown in get(http, "/v1/recommendations", user_id="picky", count=40)["recommendations"]]
    refused, skipped = first[:2]
    tell = lambda item, kind: http.post("/v1/events", json={"user_id": "picky", "item_id": item, "event_type": kind}).json()  # noqa: E731
    for item, kind in ((refused, "not_interested"), (skipped, "skip")):
        assert tell(item, kind) == {"stored": 1, "repeated": 0}
    after = [shown["item_id"] for shown in get(http, "/v1/recommendations", user_id="picky", count=40)["recommendations"]]
    assert refused not in after
    assert skipped in after
    tell(skipped, "skip")
    assert skipped not in [shown["item_id"] for shown in get(http, "/v1/recommendations", user_id="picky", count=40)["recommendations"]]


def test_every_slate_is_logged_with_its_arm_sources_places_and_propensities(http, engine):
    answer = get(http, "/v1/recommendations", user_id="logged", count=25, live=True)
    deadline = time.monotonic() + 30
    while not (found := [slate for _, slate in engine.store.slates_since() if slate.request_id == answer["request_id"]]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (slate,) = found
    assert list(slate.item_ids) == [shown["item_id"] for shown in answer["recommendations"]]
    assert [list(sources) for sources in slate.sources] == [shown["sources"] for shown in answer["recommendations"]]
    assert (slate.arm, slate.release, slate.user_id) == ("champion", "v1", "logged")
    explored = answer["explored"]
    by_chance = [place for place, propensity in enumerate(slate.propensities, start=1) if propensity is not None]
    assert by_chance == sorted(explored["places"] if explored else [])


def test_what_was_lost_is_counted():
    gauges = Gauges()
    gauges.lost("slates not logged", 3)
    assert b'towers_lost_total{what="slates not logged"} 3.0' in gauges.text()
