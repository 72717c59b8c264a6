"""Over HTTP: what is answered is JSON of numbers, what is refused says which field and why, and never is anything a 500."""

import json
import re
import time

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve import local_triton
from serve.api import WEB, create_app
from serve.contract import CONTEXTS
from serve.panel import Budget
from serve.recommender import BUDGETS, Recommender
from serve.release import Release
from serve.sqlite_store import SqliteStore
from serve.triton import Client
from tests.releases import START_MS, write_release

NOW = START_MS + 20 * 3_600_000
PATIENT = {name: Budget(budget.candidates, 10_000) for name, budget in BUDGETS.items()}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=40, room=20))


@pytest.fixture(scope="module")
def server(release, tmp_path_factory):
    log_path = tmp_path_factory.mktemp("triton") / "triton.log"
    with local_triton.start(release.path / "triton", log_path=log_path, models=("user_tower", "item_tower", "ranker")) as started:
        yield started


def http_over(release, url, folder):
    store = SqliteStore(folder / "live.sqlite")
    store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version="v1")
    recommender = Recommender.of(release, Client(url, timeout_ms=10_000), store=store, budgets=PATIENT)
    with TestClient(create_app(recommender, now_ms=lambda: NOW)) as http:
        yield http
    recommender.close()
    store.close()


@pytest.fixture(scope="module")
def http(release, server, tmp_path_factory):
    yield from http_over(release, server.grpc_url, tmp_path_factory.mktemp("store"))


def get(http, path, **params):
    response = http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_has_what_was_promised(http):
    answer = get(http, "/v1/recommendations", user_id="u9", count=5, device="tv", region="FR", time=NOW, **{"lambda": 1})
    assert set(answer) == {"recommendations", "model_version", "generated_in_ms", "answered_by", "request_id", "stage_ms", "dropped"}
    assert (answer["model_version"], answer["answered_by"], len(answer["recommendations"])) == ("v1", "personalised", 5)
    for shown in answer["recommendations"]:
        assert set(shown) == {"item_id", "title", "score", "reason", "row"}
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
        ({"item_id": "i3", "title": "t"}, 409, "item_id"), ({"item_id": "x"}, 422, "title"), (full, 507, "body"),
    ):  # fmt: skip
        response = http.post("/v1/items", json=body)
        assert (response.status_code, response.json()["field"]) == (status, field)
    assert http.post("/v1/items", content=b"{").json()["field"] == "body"


def test_a_body_that_is_broken_or_too_large_is_422(http):
    for body in (b"{", b"", b" " * 3_000_000, b'{"user_id": NaN}'):
        response = http.post("/v1/events", content=body)
        assert (response.status_code, response.json()["field"]) == (422, "body")


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
    assert get(http, "/readyz") == {"status": "ready", "model_version": "v1"}
    get(http, "/v1/recommendations", user_id="u3")
    text = http.get("/metrics").text
    assert re.search(r'towers_answers_total\{answered_by="personalised"\} [1-9]', text)
    assert re.search(r'towers_request_seconds_count\{stage="ranker"\} [1-9]', text)


def test_the_page_comes_whole_from_this_server_and_writes_no_html(http):
    page = http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert http.get(address).status_code == 200
    for file in WEB.iterdir():
        text = file.read_text()
        assert not re.search(r"https?:|//[a-z]|innerHTML|insertAdjacentHTML|document\.write|\beval\b| on[a-z]+=\"", text), file


def test_users_to_pick_and_titles_to_find(http):
    assert get(http, "/v1/users", count=3)["user_ids"] == ["u0", "u1", "u2"]
    assert [item["item_id"] for item in get(http, "/v1/items", query="the 12TH k")["items"]] == ["i12"]


def test_without_triton_pages_are_popular_and_readiness_says_no(release, tmp_path):
    for http in http_over(release, "127.0.0.1:9", tmp_path):
        began = time.monotonic()
        answer = get(http, "/v1/recommendations", user_id="u3", count=4)
        assert time.monotonic() - began < 5
        assert answer["answered_by"] == "popular (ranking unavailable)"
        assert [shown["score"] for shown in answer["recommendations"]] == [None] * 4
        ready = http.get("/readyz")
        assert ready.status_code == 503
        assert "127.0.0.1:9 does not answer" in ready.json()["status"]
        refused = http.post("/v1/items", json={"item_id": "late", "title": "t"})
        assert refused.status_code == 503
        assert http.get("/v1/items/late/similar").status_code == 404
        assert 'towers_dropped_total{reason="ranking unavailable"} 1' in http.get("/metrics").text
