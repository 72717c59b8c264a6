"""Whatever part is missing, hangs or is corrupt: an answer from the next best thing, marked so, counted and visible; and no restart
after."""

import os
import signal
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.api import create_app
from serve.sources import Content
from tests.engines import published, started

TIMELY = ("triton.timeout_ms=400", "deadline_ms=1500")
SLOW_S = 5.0


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    return published(tmp_path_factory.mktemp("releases"), "v1")


@pytest.fixture
def http(releases, tmp_path, redis_server):
    """(the client, the engine): a server over Redis, so that every part can be taken away."""
    url = redis_server.emptied()
    with started(releases, tmp_path / "state", f"store={url}") as engine, TestClient(create_app(engine)) as client:
        yield client, engine


def asked(client, user="u9", **more):
    """(the answer, the seconds it took)."""
    start = time.monotonic()
    response = client.get("/v1/recommendations", params={"user_id": user, "count": 10} | more)
    assert response.status_code == 200, response.text
    return response.json(), time.monotonic() - start


def until(client, by, user="u9"):
    """Ask until answered so; a part that came back needs no restart."""
    deadline = time.monotonic() + 150
    while (answer := asked(client, user)[0])["answered_by"] != by:
        assert time.monotonic() < deadline, answer["answered_by"]
        time.sleep(0.2)
    return answer


def seen(client, answered_by):
    return f'towers_answers_total{{answered_by="{answered_by}"}}' in client.get("/metrics").text


@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_without_redis_the_page_is_nobodys(http, redis_server, how):
    client, _ = http
    assert asked(client)[0]["answered_by"] == "personalised"
    redis_server.kill() if how == "gone" else redis_server.hang()
    try:
        answer, seconds = asked(client)
        assert (answer["answered_by"], len(answer["recommendations"])) == ("popular (without history)", 10)
        assert answer["dropped"]["history unavailable"] == 1
        assert seconds < SLOW_S
        assert seen(client, "popular (without history)")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["store"] != "ready") == (503, True)
        posted = client.post("/v1/events", json={"user_id": "u", "item_id": "i1", "event_type": "click"})
        assert posted.status_code == 503  # never acknowledged, so never lost
    finally:
        redis_server.start() if how == "gone" else redis_server.go_on()
    until(client, "personalised")
    assert client.get("/readyz").json()["parts"]["store"] == "ready"


def triton_pid(engine):
    with engine.fleet.champion() as served:
        url = served.recommender.scorer.client.url
    port = url.rpartition(":")[2]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"--grpc-port={port}" in path.read_bytes().decode(errors="replace"):
                return int(path.parent.name)
        except OSError:
            continue  # it ended meanwhile
    raise AssertionError("no Triton")


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_without_triton_the_page_is_what_was_precomputed_or_trends_here(releases, tmp_path, how):
    with started(releases, tmp_path / "state") as patient, patient.fleet.champion() as served:
        patient.store.put_precomputed({"u9": served.recommender.ahead("u9", patient.now_ms() - 1000)})
    with started(releases, tmp_path / "state", "triton.url=null", *TIMELY) as engine, TestClient(create_app(engine)) as client:
        until(client, "personalised", user="u8")
        pid = triton_pid(engine)
        os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        try:
            answer, seconds = asked(client, live="true")
            assert (answer["answered_by"], len(answer["recommendations"])) == ("precomputed (ranking unavailable)", 10)
            assert seconds < SLOW_S
            answer, seconds = asked(client, user="u8")
            assert (answer["answered_by"], len(answer["recommendations"])) == ("trending (ranking unavailable)", 10)
            assert seconds < SLOW_S
            assert seen(client, "trending (ranking unavailable)")
            if how == "hangs":  # a killed one may be back by now
                assert "does not answer" in client.get("/readyz").json()["parts"]["triton"]
        finally:
            if how == "hangs":
                os.kill(pid, signal.SIGCONT)
        until(client, "personalised", user="u8")
        assert client.get("/readyz").json()["parts"]["triton"] == "ready"


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_without_one_source_the_others_fill_the_page(releases, tmp_path, monkeypatch, how):
    propose = Content.propose

    def broken(self, ask, count):
        if how == "fails":
            raise ZeroDivisionError
        time.sleep(SLOW_S)
        return propose(self, ask, count)

    with started(releases, tmp_path / "state", "sources.content.timeout_ms=50") as engine, TestClient(create_app(engine)) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Content, "propose", broken)
            answer, seconds = asked(client)
            assert (answer["answered_by"], len(answer["recommendations"])) == ("personalised (without content)", 10)
            assert answer["dropped"][f"source content: {'failed' if how == 'fails' else 'late'}"] == 1
            assert seconds < SLOW_S
            assert seen(client, "personalised (without content)")
            assert client.get("/readyz").json()["parts"]["source content"] != "ready"
        until(client, "personalised")
        assert client.get("/readyz").json()["parts"]["source content"] == "ready"


@pytest.mark.parametrize("how", ["missing", "corrupt"])
def test_without_an_index_file_the_vectors_are_searched_one_by_one(tmp_path, how):
    releases = published(tmp_path / "releases", "v1")
    path = releases / "v1" / "index.faiss"
    whole = path.read_bytes()
    path.unlink() if how == "missing" else path.write_bytes(whole[:100])
    with started(releases, tmp_path / "state") as engine, TestClient(create_app(engine)) as client:
        answer, _ = asked(client)
        assert (answer["answered_by"], len(answer["recommendations"])) == ("personalised", 10)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "index.faiss" in ready.json()["parts"]["release"]
        path.write_bytes(whole)
        time.sleep(0.3)
        engine.fleet.refresh()
        assert client.get("/readyz").json()["parts"]["release"] == "ready"
        assert asked(client)[0]["answered_by"] == "personalised"


def test_without_its_catalogue_a_release_gives_way_to_the_one_before_it(tmp_path):
    releases = published(tmp_path / "releases", "v1", "v2")
    path = releases / "v2" / "catalogue.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with started(releases, tmp_path / "state") as engine, TestClient(create_app(engine)) as client:
        answer, _ = asked(client)
        assert (answer["model_version"], answer["answered_by"]) == ("v1", "personalised")
        assert "catalogue.parquet" in client.get("/readyz").json()["parts"]["release"]
        path.write_bytes(whole)
        time.sleep(0.3)
        engine.fleet.refresh()
        assert asked(client)[0]["model_version"] == "v2"
        assert client.get("/readyz").status_code == 200


def test_without_any_catalogue_the_page_is_what_was_precomputed_for_the_user_or_for_nobody(tmp_path):
    releases = published(tmp_path / "releases", "v1")
    with started(releases, tmp_path / "state") as engine, engine.fleet.champion() as served:
        now = engine.now_ms()
        for user in ("u9", "nobody in particular"):
            engine.store.put_precomputed({user: served.recommender.ahead(user, now)})
    path = releases / "v1" / "catalogue.parquet"
    whole = path.read_bytes()
    path.unlink()
    with started(releases, tmp_path / "state") as engine, TestClient(create_app(engine)) as client:
        for user in ("u9", "a stranger"):
            answer, seconds = asked(client, user=user)
            assert (answer["answered_by"], len(answer["recommendations"])) == ("precomputed (release unavailable)", 10)
            assert seconds < SLOW_S
        assert client.get("/v1/items/i1/similar").status_code == 503
        assert "catalogue.parquet" in client.get("/readyz").json()["parts"]["release"]
        path.write_bytes(whole)
        time.sleep(0.3)
        engine.fleet.refresh()
        assert asked(client)[0]["answered_by"] in ("personalised", "precomputed")
        assert client.get("/readyz").status_code == 200
