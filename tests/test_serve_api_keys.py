"""Keys: kept as hashes, turned without a restart, and none of them ever written where somebody reads."""

import json
import logging
import threading
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from serve.api import create_app
from serve.api.app import OPEN
from serve.api.keys import Key, Keys, KeysError, UnknownKey
from serve.store import wall_clock_ms
from tests.engines import published, started

EVENT = {"user_id": "keyed", "item_id": "i1", "event_type": "view"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    with started(published(folder / "releases", "v1", items=40), folder / "state") as made:
        yield made


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys.json")


def door(engine, keys, **settings):
    return TestClient(
        create_app(engine, replace(OPEN, **{"writing": "keyed", "keys": keys.path} | settings)), raise_server_exceptions=False
    )


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_only_a_hash_is_kept_and_the_file_is_its_owners(keys):
    token = keys.add("page", "writer", now_ms=0)
    assert token.startswith("tw_") and len(token) > 50
    text = keys.path.read_text()
    assert token not in text and token.split("_")[2] not in text
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert keys.who(token, 0).name == "page"
    assert keys.who(token[:-1], 0) is None and keys.who("", 0) is None
    assert token not in repr(keys.all())


def test_a_role_holds_what_those_below_it_hold():
    may = {
        role: [Key("n", role, "", 0, None, "").may(other) for other in ("reader", "writer", "admin")]
        for role in ("reader", "writer", "admin")
    }
    assert may == {"reader": [True, False, False], "writer": [True, True, False], "admin": [True, True, True]}


def test_a_key_ends_when_it_was_said_to(keys):
    token = keys.add("guest", "reader", now_ms=1_000, expires_at=2_000)
    assert keys.who(token, 1_999).name == "guest"
    assert keys.who(token, 2_000) is None


@pytest.mark.parametrize(
    ("name", "role", "end"), [("../x", "reader", None), ("", "reader", None), ("n", "owner", None), ("n", "reader", 5)]
)
def test_a_key_that_cannot_be_is_refused(keys, name, role, end):
    with pytest.raises(ValueError, match=r"expected"):
        keys.add(name, role, now_ms=10, expires_at=end)
    assert keys.all() == ()


def test_a_name_is_had_once_and_a_revoked_key_opens_nothing(keys):
    token = keys.add("page", "writer", now_ms=0)
    with pytest.raises(ValueError, match="'page' is taken"):
        keys.add("page", "reader", now_ms=0)
    other = Keys(keys.path)  # of another process
    assert other.who(token, 0)
    keys.revoke("page")
    assert keys.who(token, 0) is None and other.who(token, 0) is None
    with pytest.raises(UnknownKey, match="key list"):
        keys.revoke("page")


def test_many_who_add_at_once_lose_none(keys):
    def add(number):
        Keys(keys.path).add(f"k{number}", "reader", now_ms=0)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(keys.all()) == 20


def test_a_damaged_file_lets_nobody_in_and_says_so(engine, keys):
    token = keys.add("page", "writer", now_ms=0)
    with door(engine, keys) as http:
        assert http.post("/v1/events", json=EVENT, headers=bearer(token)).status_code == 200
        keys.path.write_text('{"keys": [{')
        response = http.post("/v1/events", json=EVENT, headers=bearer(token))
        assert response.status_code == 503 and "is no file of keys" in response.json()["detail"]
        assert http.get("/v1/users").status_code == 200  # nobody asks for a key there, and none was sent
    with pytest.raises(KeysError):
        keys.all()


def test_each_door_opens_to_its_role_and_the_ones_above(engine, keys):
    tokens = {role: keys.add(role, role, now_ms=0) for role in ("reader", "writer", "admin")}
    with door(engine, keys, reading="keyed") as http:

        def statuses(method, path, **told):
            asked = [http.request(method, path, headers=bearer(token), **told).status_code for token in tokens.values()]
            return [
                http.request(method, path, **told).status_code,
                http.request(method, path, headers=bearer("tw_x"), **told).status_code,
                *asked,
            ]

        assert statuses("GET", "/v1/recommendations?user_id=u1&count=2") == [401, 401, 200, 200, 200]
        assert statuses("POST", "/v1/events", json=EVENT) == [401, 401, 403, 200, 200]
        assert statuses("POST", "/v1/items", json={"item_id": "n", "title": "N"}) == [401, 401, 403, 200, 200]
        assert statuses("POST", "/v1/users/u1/quiz", json={"answers": []}) == [401, 401, 403, 200, 200]
        assert statuses("POST", "/v1/quiz", json={"answers": []}) == [401, 401, 200, 200, 200]
        assert http.get("/healthz").status_code == http.get("/readyz").status_code == http.get("/").status_code == 200
        refused = http.post("/v1/events", content=b"not read", headers=bearer(tokens["reader"]))
        assert refused.status_code == 403 and "'reader' is a reader's; writing needs a key of the role writer" in refused.json()["detail"]
        assert http.get("/v1/users").headers["WWW-Authenticate"] == "Bearer"


def test_a_key_is_turned_without_a_restart(engine, keys):
    old = keys.add("old", "writer", now_ms=0)
    with door(engine, keys) as http:
        assert http.post("/v1/events", json=EVENT, headers=bearer(old)).status_code == 200
        new = Keys(keys.path).add("new", "writer", now_ms=0)
        assert http.post("/v1/events", json=EVENT, headers=bearer(new)).status_code == 200
        Keys(keys.path).revoke("old")
        assert http.post("/v1/events", json=EVENT, headers=bearer(old)).status_code == 401
        assert http.post("/v1/events", json=EVENT, headers=bearer(new)).status_code == 200


def test_a_key_ends_by_the_wall_though_an_old_log_is_served(engine, keys):
    now = wall_clock_ms()
    assert engine.now_ms() < now - 86_400_000  # the engine lives in 2023
    ended = keys.add("ended", "writer", now_ms=now - 10_000, expires_at=now - 1)
    going = keys.add("going", "writer", now_ms=now, expires_at=now + 3_600_000)
    with door(engine, keys) as http:
        assert [http.post("/v1/events", json=EVENT, headers=bearer(token)).status_code for token in (ended, going)] == [401, 200]


def test_no_key_is_in_a_log_or_an_answer(engine, keys, caplog):
    caplog.set_level(logging.DEBUG)
    good, strange = keys.add("page", "writer", now_ms=0), "tw_" + "s3cret" * 8
    with door(engine, keys) as http:
        said = [http.post("/v1/events", json=EVENT, headers=bearer(token)).text for token in (good, strange)]
        said += [http.post("/v1/events", content=b"{", headers=bearer(good) | {"Content-Type": "application/json"}).text]
        said += [http.get("/metrics").text, http.get(f"/v1/users?key={strange}").text]
        logged = [json.dumps(one.__dict__, default=str) for one in caplog.records if one.name.startswith("serve")]
    assert any('"key": "page"' in one for one in logged)  # whose it was is told
    for text in (*said, *logged):
        assert good not in text and strange not in text


def test_who_asks_too_often_waits_and_others_do_not(engine, keys):
    one, other = (keys.add(name, "writer", now_ms=0) for name in ("one", "other"))
    with door(engine, keys, rates={"writing": "3/hour", "reading": "2/hour"}) as http:
        statuses = [http.post("/v1/events", json=EVENT, headers=bearer(one)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = http.post("/v1/events", json=EVENT, headers=bearer(one))
        assert 0 < int(refused.headers["Retry-After"]) <= 3_600
        assert refused.json()["field"] is None and "access.rates.writing" in refused.json()["detail"]
        assert http.post("/v1/events", json=EVENT, headers=bearer(other)).status_code == 200
        assert [http.get("/v1/users").status_code for _ in range(3)] == [200, 200, 429]  # by address
        assert http.get("/healthz").status_code == 200
