"""What operators ask and do over HTTP: the console's numbers are what happened, releases move and the fleet follows, and nobody without an
admin's key moves one."""

import json
import time
from contextlib import contextmanager

import httpx
import pytest

from serve import publication
from serve.api.operations import Console, Experiments
from serve.live import wall_ms
from serve.releases import Check, Releases, ReleaseTold

MOVES = ("v1/check", "v1/promote", "v3/challenge", "rollback", "withdraw")


@pytest.fixture(scope="module")
def http(watched):
    with httpx.Client(base_url=watched.address, timeout=60) as client:
        yield client


@pytest.fixture
def admin(http, watched):
    """Posts with an admin's key."""
    return lambda path: http.post(f"/v1/releases/{path}", headers=bearer(watched, "admin"))


@pytest.fixture(scope="module")
def root(watched):
    """The folder of releases: v2 is current, v1 was before it, v3 was rolled back."""
    return watched.root


def bearer(watched, role):
    return {"Authorization": f"Bearer {watched.keys[role]}"}


def get(http, path, model, **params):
    response = http.get(path, params=params)
    assert response.status_code == 200, response.text
    model.model_validate_json(response.text)
    return json.loads(response.text, parse_constant=pytest.fail)


def settled(http):
    """The releases, once every arm serves what its link names."""
    deadline = time.monotonic() + 60
    while not (told := get(http, "/v1/releases", Releases))["settled"]:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    return told


def serving(told):
    return {arm["arm"]: arm["serving"] for arm in told["arms"]}


@contextmanager
def altered(root, version, file):
    """A release one byte of which is another."""
    path = root / version / file
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(whole)


def test_the_console_tells_what_happened_and_then_only_what_is_new(http, watched):
    with httpx.Client(base_url=watched.address) as other:  # let what was asked before be counted
        time.sleep(2 * get(other, "/v1/console", Console)["every_seconds"])
        since = get(other, "/v1/console", Console)["points"][-1]["at"]
    for number in range(1, 5):
        assert http.get("/v1/recommendations", params={"user_id": f"u{number}", "count": 5, "live": True}).status_code == 200
    event = {"user_id": "u1", "item_id": "i5", "event_type": "click"}
    assert http.post("/v1/events", json=event, headers=bearer(watched, "writer")).status_code == 200
    assert http.get("/v1/recommendations", params={"user_id": "u1", "count": 0}).status_code == 422
    deadline, points = time.monotonic() + 30, []
    while not (points and points[-1]["known_lag"]["count"] and points[-1]["latency"]["total"]["count"] >= 4):
        assert time.monotonic() < deadline, points
        time.sleep(0.2)
        points = get(http, "/v1/console", Console, since=since)["points"]
    console = get(http, "/v1/console", Console, since=since)
    assert (console["every_seconds"], console["window_seconds"]) == (0.5, 60.0)
    total = {name: {} for name in ("answers", "arms", "events", "refused", "precomputed")}
    for point in console["points"]:
        for name, counts in total.items():
            for key, count in point[name].items():
                counts[key] = counts.get(key, 0) + count
    precomputed = total.pop("precomputed")
    assert total == {
        "answers": {"personalised": 4}, "arms": {"champion": 4}, "events": {"stored": 1}, "refused": {"422": 1},
    }  # fmt: skip
    assert sum(precomputed.values()) == 4 and set(precomputed) <= {"asked for", "none made"}
    last = console["points"][-1]
    assert last["latency"]["ranker"]["p50"] <= last["latency"]["total"]["p99"]
    assert last["stored_lag"]["count"] >= last["known_lag"]["count"] >= 1
    assert 0 < last["recall"]["mean"] <= 1
    (arm,) = last["standing"]
    assert (arm["arm"], arm["version"], arm["items"]) == ("champion", "v2", 40)
    assert 5 / 40 <= arm["coverage"] <= 1
    assert (console["ready"], console["model_version"], console["parts"]["triton"]) == (True, "v2", "ready")
    assert all(point["at"] > last["at"] for point in get(http, "/v1/console", Console, since=last["at"])["points"])
    assert http.get("/v1/console?since=-1").json()["field"] == "since"


def test_releases_are_told_with_what_a_rollback_would_bring_and_the_check_of_their_opening(http):
    told = settled(http)
    assert (told["current"], told["challenger"], told["rollback_to"]) == ("v2", None, "v1")
    of = {one["version"]: one for one in told["releases"]}
    assert {version: (one["role"], one["before"]) for version, one in of.items()} == {
        "v1": (None, None), "v2": ("current", "v1"), "v3": (None, None),
    }  # fmt: skip
    assert (of["v2"]["items"], of["v2"]["serves"], of["v1"]["serves"]) == (40, ["champion"], [])
    check = of["v2"]["check"]
    assert (check["by"], check["passed"], check["golden"]) == ("opening", True, True)
    assert 0 <= wall_ms() - check["at"] < 600_000
    assert get(http, "/v1/releases/v2", ReleaseTold) == of["v2"]


def test_a_check_reads_every_file_and_asks_the_models_where_they_are_loaded(http, admin, root):
    loaded, other = admin("v2/check"), admin("v1/check")
    Check.model_validate_json(loaded.text)
    assert (loaded.json()["passed"], loaded.json()["golden"]) == (True, True)
    assert (other.json()["passed"], other.json()["golden"]) == (True, False)
    with altered(root, "v1", "items.f16"):
        found = admin("v1/check").json()
    assert (found["passed"], found["said"][:22]) == (False, "release v1: items.f16 ")
    assert str(root) not in found["said"]
    assert get(http, "/v1/releases/v1", ReleaseTold)["check"] == found
    assert admin("v1/check").json()["passed"]


def test_promoting_rolling_back_and_challenging_over_http_move_what_is_served(http, admin, root):
    assert admin("v3/promote").json()["current"] == publication.current(root) == "v3"
    assert serving(settled(http)) == {"champion": "v3"}
    assert http.get("/v1/recommendations", params={"user_id": "u1"}).json()["model_version"] == "v3"
    assert admin("v1/challenge").json()["challenger"] == "v1"
    assert serving(settled(http)) == {"champion": "v3", "challenger": "v1"}
    assert admin("withdraw").json()["challenger"] is None
    assert admin("withdraw").status_code == 409
    told = admin("rollback").json()
    assert (told["current"], told["rollback_to"]) == ("v2", "v1")
    assert serving(settled(http)) == {"champion": "v2"}


def test_what_cannot_be_moved_says_why_and_nothing_moves(http, admin, root):
    with altered(root, "v3", "items.f16"):
        refused = admin("v3/promote")
    assert refused.status_code == 409
    assert "items.f16 does not match its checksum" in refused.json()["detail"]
    assert str(root) not in refused.text
    assert admin("v2/challenge").status_code == 409  # it is current
    for path in ("v9/promote", "v9/check", "v9/challenge"):
        told = admin(path)
        assert (told.status_code, told.json()["field"]) == (404, "version")
    assert http.get("/v1/releases/v9").status_code == 404
    assert publication.current(root) == "v2"


@pytest.mark.parametrize(
    "name", ["..", "../v1", "%2e%2e%2fv1", "..%2F..%2Fetc%2Fpasswd", "%2Fetc", "a%00b", ".hidden", "x" * 101, "current"]
)
def test_a_name_that_is_none_is_refused_before_any_path_is_made_of_it(http, watched, root, name, monkeypatch):
    monkeypatch.setattr(publication, "_named", lambda *_: pytest.fail("a path was made"))
    for action in ("check", "promote", "challenge"):
        told = http.post(f"/v1/releases/{name}/{action}".replace("/../", "/%2e%2e/"), headers=bearer(watched, "admin"))
        assert (told.status_code, told.json()["field"]) == (422, "version"), told.text
    assert http.get(f"/v1/releases/{name}".replace("/..", "/%2e%2e")).status_code == 422


@pytest.mark.parametrize("path", MOVES)
def test_only_an_admin_moves_or_checks(http, watched, root, path):
    assert http.post(f"/v1/releases/{path}").status_code == 401
    for role in ("reader", "writer"):
        told = http.post(f"/v1/releases/{path}", headers=bearer(watched, role))
        assert (told.status_code, set(told.json())) == (403, {"field", "detail", "request_id"})
    assert (publication.current(root), publication.challenger(root)) == ("v2", None)


def test_the_arms_are_reported_with_intervals_and_not_more_often_than_the_log_can_bear(http):
    told = get(http, "/v1/experiments", Experiments)
    assert told["shares"] == {"champion": 0.9, "challenger": 0.1}
    assert [arm["arm"] for arm in told["arms"]] == ["champion", "challenger"]
    challenger = told["arms"][1]
    assert set(challenger["differences"]["click_through"]) == {"value", "low", "high"}
    assert challenger["figures"]["click_through"] is None  # nobody was answered by it
    http.get("/v1/recommendations", params={"user_id": "u7"})
    assert get(http, "/v1/experiments", Experiments) == told
