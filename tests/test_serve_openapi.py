"""The document against the server: what it promises is answered, what it shows as an example is one, and nobody finds an answer that it
does not tell of."""

import logging
from urllib.parse import quote

import jsonschema
import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz import fuzz
from data.schema import EVENT_TYPES
from serve.api import answers, create_app
from serve.api.documents import BODIES
from tests.engines import published, started


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    with started(published(folder / "releases", "v1", items=40, room=400), folder / "state") as made:
        yield made


@pytest.fixture(scope="module")
def app(engine):
    return create_app(engine)


@pytest.fixture(scope="module")
def http(app):
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def document(http):
    return http.get("/openapi.json").json()


def test_it_is_openapi_3_1_and_every_example_in_it_is_of_its_schema(document):
    assert document["openapi"].startswith("3.1")
    shown = 0
    for name, schema in document["components"]["schemas"].items():
        for value in schema.get("examples", []):
            jsonschema.validate(value, {**document, "$ref": f"#/components/schemas/{name}"})
            shown += 1
    assert shown >= 8


def test_what_is_posted_by_example_is_taken(http):
    for model, path in (
        (BODIES[1], "/v1/quiz"),
        (BODIES[1], "/v1/users/exemplary/quiz"),
        (BODIES[2], "/v1/events"),
        (BODIES[3], "/v1/items"),
    ):
        for example in model.model_json_schema()["examples"]:
            known = example | ({"item_id": "i1"} if path == "/v1/events" else {})
            response = http.post(path, json=known)
            assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/recommendations?user_id=u9&count=5", answers.Recommendations),
        ("/v1/recommendations?user_id=a%20stranger", answers.Recommendations),
        ("/v1/explanations?user_id=u9&explain=i4", answers.Explanation),
        ("/v1/explanations?user_id=u9&explain=i4&diversity=calibrated&count=2", answers.Explanation),
        ("/v1/items?query=the%201&count=2", answers.Items),
        ("/v1/items/i4", answers.Item),
        ("/v1/items/i4/similar", answers.SlateAnswer),
        ("/v1/users", answers.Users),
        ("/v1/users/u9", answers.User),
        ("/v1/users/a%20stranger", answers.User),
        ("/v1/service", answers.Service),
        ("/readyz", answers.Ready),
        ("/v1/recommendations?user_id=", answers.Refusal),
        ("/v1/items/none", answers.Refusal),
        ("/nowhere", answers.Refusal),
        ("/web/nowhere.js", answers.Refusal),
    ],
)
def test_an_answer_is_what_its_model_says(http, path, model):
    model.model_validate(http.get(path).json())


@pytest.mark.parametrize("user_id", ["two\nlines", "a line\n", "\n", "a/b", "..", "/quiz", "\u2028?#%"])
def test_an_id_in_a_path_is_asked_for_as_it_was_sent(http, user_id):
    assert http.get(f"/v1/users/{quote(user_id, safe='').replace('.', '%2E')}").json()["user_id"] == user_id
    assert http.get(f"/v1/items/{quote(user_id, safe='').replace('.', '%2E')}").json()["field"] == "item_id"


def test_every_route_tells_how_it_refuses(document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                assert {"200", "422", "429", "503"} <= set(operation["responses"]), (path, method)
                assert ("415" in operation["responses"]) == ("requestBody" in operation)
            for response in operation["responses"].values():
                assert "X-Request-ID" in response["headers"]
            assert operation["summary"]


def test_links_lead_from_real_answers_to_real_answers(document):
    by_id = {operation["operationId"]: operation for operations in document["paths"].values() for operation in operations.values()}
    followed = 0
    for operation in by_id.values():
        for link in operation["responses"]["200"].get("links", {}).values():
            known = {one["name"] for one in by_id[link["operationId"]]["parameters"]}
            assert set(link["parameters"]) <= known
            followed += 1
    assert followed >= 8


def test_nothing_is_answered_that_the_document_does_not_tell_of(app):
    """Six hundred requests; `python -m bench.fuzz` makes as many as one likes."""
    logging.disable(logging.ERROR)
    try:
        told = fuzz(schemathesis.openapi.from_asgi("/openapi.json", app), requests=600)
    finally:
        logging.disable(logging.NOTSET)
    assert told.findings == {}
    assert told.requests >= 600
    answered = {what.rsplit(" ", 1)[0] for what in told.counts if what.endswith(" 200")}
    assert {"GET /v1/recommendations", "GET /v1/items/{item_id}/similar", "POST /v1/items", "POST /v1/quiz"} <= answered


def test_the_fuzz_finds_what_is_not_documented(app):
    """The law above can fail: a document without its 404s is found out."""
    raw = {**app.openapi(), "paths": {"/v1/items/{item_id}": app.openapi()["paths"]["/v1/items/{item_id}"]}}
    kept = {
        "200": {"description": "", "content": {"application/json": {}}},
        "422": {"description": "", "content": {"application/json": {}}},
    }
    raw["paths"] = {"/v1/items/{item_id}": {"get": {**raw["paths"]["/v1/items/{item_id}"]["get"], "responses": kept}}}
    schema = schemathesis.openapi.from_dict(raw)
    schema.app = app
    logging.disable(logging.ERROR)
    try:
        assert any("UndefinedStatusCode" in what for what in fuzz(schema, requests=1).findings)
    finally:
        logging.disable(logging.NOTSET)


field = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just("i1")
)
good = st.fixed_dictionaries(
    {"user_id": st.text("ab\u0416\U0001f600", min_size=1, max_size=8), "item_id": st.sampled_from(["i1", "i2", "i30"])}
    | {"event_type": st.sampled_from(EVENT_TYPES), "rating": st.floats(0, 5, width=32), "timestamp": st.integers(0, 2**42)}
)
spoiled = st.builds(
    lambda one, name, value: one | {name: value}, good, st.sampled_from(["user_id", "item_id", "event_type", "rating", "x"]), field
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=st.lists(good | spoiled, min_size=1, max_size=6))
def test_of_events_nothing_is_lost_and_nothing_let_in(http, engine, told):
    """All of a body or none of it: what was acknowledged stands in the log word for word, what was refused left no trace."""
    before = engine.store.events_since(limit=10**9)
    response = http.post("/v1/events", json=told)
    after = engine.store.events_since(limit=10**9)[len(before) :]
    if response.status_code != 200:
        assert response.status_code in (404, 422) and len(after) == 0
        return
    assert response.json() == {"stored": len(told), "repeated": 0}
    for event, row in zip(told, after.to_dicts(), strict=True):
        if event.get("rating") is not None:
            event = event | {"rating": float(np.float32(event["rating"]))}  # as the tables hold it
        assert {name: row[name] for name in event} == event
        assert set(event) <= {"user_id", "item_id", "event_type", "rating", "timestamp"}


item = st.fixed_dictionaries(
    {"item_id": st.text("xyz", min_size=1, max_size=6).map(lambda text: f"new-{text}"), "title": st.text(min_size=1, max_size=12)},
    optional={"genres": st.lists(st.sampled_from(["comedy", "western", "unheard of"]), max_size=3), "maturity": st.integers(0, 21)},
)
odd = st.builds(
    lambda one, name, value: one | {name: value}, item, st.sampled_from(["item_id", "title", "genres", "maturity", "price"]), field
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=st.lists(item | odd, min_size=1, max_size=3))
def test_of_items_nothing_is_lost_and_nothing_let_in(http, engine, told):
    def known():
        return [item_id for _, item_id, _ in engine.store.items_since(0, limit=10**6)]

    before = known()
    response = http.post("/v1/items", json=told)
    if response.status_code != 200:
        assert response.status_code in (409, 422) and known() == before
        return
    assert response.json() == {"stored": len(told)}
    for one in told:
        shown = http.get(f"/v1/items/{one['item_id']}").json()
        assert (shown["title"], shown["genres"], shown["maturity"]) == (one["title"], one.get("genres") or [], one.get("maturity"))
        assert set(one) <= {"item_id", "title", "genres", "maturity"}
