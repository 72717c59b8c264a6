"""What every request passes: ids, logs, headers, deadlines, other origins; and what no request gets at."""

import ast
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from serve import publication
from serve.api import create_app
from serve.api.app import OPEN
from serve.cold_start import Quiz
from serve.manifest import ReleaseError, seal
from serve.release import Release
from tests.engines import published, started
from tests.releases import write_release

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    with started(published(folder / "releases", "v1", items=40), folder / "state") as made:
        yield made


@pytest.fixture(scope="module")
def http_client(engine):
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2_3", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("x\tinjected", False)]
)
def test_a_good_request_id_is_kept_and_any_other_replaced(http_client, sent, kept):
    for path in ("/v1/users", "/v1/users?count=0", "/nowhere", "/", "/healthz"):
        answered = http_client.get(path, headers={"X-Request-ID": sent}).headers["X-Request-ID"]
        assert (answered == sent) == kept and re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answered)


def test_a_refusal_bears_the_id_it_is_logged_under(http_client, caplog):
    caplog.set_level("INFO", "serve.access")
    refused = http_client.get("/v1/users?count=0", headers={"X-Request-ID": "mine"}).json()
    assert refused["request_id"] == "mine"
    (line,) = [one for one in caplog.records if one.name == "serve.access"]
    assert (line.request_id, line.method, line.route, line.status) == ("mine", "GET", "/v1/users", 422)


def test_the_log_names_routes_and_no_user(http_client, caplog):
    caplog.set_level("INFO", "serve")
    http_client.get("/v1/users/somebody%20private")
    http_client.get("/v1/recommendations?user_id=somebody%20private&count=2")
    http_client.get("/somebody%20private")
    lines = [one for one in caplog.records if one.name == "serve.access"]
    assert [one.route for one in lines] == ["/v1/users/{user_id:id}", "/v1/recommendations", "no route"]
    assert "somebody" not in json.dumps([one.__dict__ for one in lines], default=str)


def test_browsers_are_told_what_they_may_do(http_client):
    for path in ("/", "/v1/users", "/nowhere"):
        headers = http_client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_other_origins_may_nothing_unless_they_are_named(engine, http_client):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert "Access-Control-Allow-Origin" not in http_client.options("/v1/events", headers=asked).headers
    assert "Access-Control-Allow-Origin" not in http_client.get("/v1/users", headers=asked).headers
    with TestClient(create_app(engine, replace(OPEN, origins=("https://shop.example",)))) as client:
        assert client.options("/v1/events", headers=asked).headers["Access-Control-Allow-Origin"] == "https://shop.example"
        other = client.options("/v1/events", headers=asked | {"Origin": "https://else.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_a_deadline_that_travelled_here_is_kept(http_client):
    path = "/v1/recommendations?user_id=u9&count=3"
    assert http_client.get(path, headers={"X-Deadline-Ms": "15000"}).json()["answered_by"] == "personalised"
    late = http_client.get(path, headers={"X-Deadline-Ms": "0.01"}).json()
    assert "ranking unavailable" in late["answered_by"] and len(late["recommendations"]) == 3
    for odd in ("0", "-1", "nan", "soon", "1e12"):
        refused = http_client.get(path, headers={"X-Deadline-Ms": odd})
        assert (refused.status_code, refused.json()["field"]) == (422, "X-Deadline-Ms")


def test_what_is_the_same_is_not_sent_again(http_client):
    for path in ("/v1/items?query=the&count=3", "/v1/items/i4"):
        first = http_client.get(path)
        for told in (first.headers["ETag"], f"W/{first.headers['ETag']}", f'"other", {first.headers["ETag"]}', "*"):
            again = http_client.get(path, headers={"If-None-Match": told})
            assert (again.status_code, again.content) == (304, b"")
        assert http_client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
    item = http_client.get("/v1/items/i4").headers["ETag"]
    assert item != http_client.get("/v1/items/i5").headers["ETag"]


@pytest.mark.parametrize(
    "path",
    [
        "/web/../app.py", "/web/%2e%2e/app.py", "/web/..%2f..%2fengine.py", "/web//etc/passwd", "/docs/files/../../../pyproject.toml",
        "/v1/items/..%2f..%2fetc%2fpasswd", "/v1/items/%2e%2e/similar",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_its_folder(http_client, path):
    response = http_client.get(path)
    assert response.status_code == 404
    assert "import" not in response.text and "root:" not in response.text


def test_an_error_nobody_thought_of_is_told_by_its_id_and_not_by_its_words(engine):
    app = create_app(engine)

    @app.get("/breaks")
    def breaks():
        raise RuntimeError("secret words")

    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/breaks", headers={"X-Request-ID": "mine"})
    assert (response.status_code, response.json()["request_id"]) == (500, "mine")
    assert "secret" not in response.text


def test_an_arm_can_be_looked_at_by_anybody_and_is_not_logged(tmp_path):
    releases = published(tmp_path / "releases", "v1", "v2", items=30)
    publication.challenge(releases, "v1")
    with started(releases, tmp_path / "state") as engine, TestClient(create_app(engine)) as client:
        arms = [client.get(f"/v1/recommendations?user_id=u9&count=3{arm}").json() for arm in ("&arm=champion", "&arm=challenger")]
        assert [(one["arm"], one["model_version"]) for one in arms] == [("champion", "v2"), ("challenger", "v1")]
        why = client.get("/v1/explanations?user_id=u9&explain=i4&arm=challenger").json()
        assert why["model_version"] == "v1"
        assert client.get("/v1/service").json()["challenger"] == "v1"
        seen = client.get("/v1/recommendations?user_id=u9&count=3").json()["request_id"]
        deadline = time.monotonic() + 30
        while not (logged := [slate.request_id for _, slate in engine.store.slates_since()]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert logged == [seen]


def test_nothing_that_serves_reads_a_pickle():
    """torch.jit.load reads tensors and TorchScript by an unpickler of its own that makes nothing else; the rest is numbers and JSON."""
    for path in [*(ROOT / "serve").rglob("*.py"), *(ROOT / "deploy").rglob("*.py"), ROOT / "data" / "content.py"]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve"} & set(named), path
        assert not re.search(r"allow_pickle\s*=\s*True|torch\.load\(|read_pickle", text), path


class Trap:
    """What a pickle does that somebody put into a release: it writes a file, when it is loaded."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return (Path.write_text, (self.sprung, "sprung"))


def pickled(trap: Trap, file: str) -> bytes:
    raw, held = io.BytesIO(), np.empty(1, object)
    held[0] = trap
    if file == "model.pt":
        torch.save(trap, raw)
    else:
        with np.load(trap.sprung.with_name("v1") / file) as there:
            names = there.files
        np.savez(raw, **dict.fromkeys(names, held))
    return raw.getvalue()


@pytest.mark.parametrize("file", ["quiz.npz", "clock.npz", "recipe.npz"])
def test_a_pickle_in_a_sealed_release_is_refused_and_not_run(tmp_path, file):
    folder, sprung = write_release(tmp_path / "v1", items=20), tmp_path / "sprung"
    (folder / file).write_bytes(pickled(Trap(sprung), file))
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    seal(folder, {name: value for name, value in told.items() if name not in ("files", "checksum", "created_at")})
    with pytest.raises(ReleaseError, match=file):
        _opened(folder)
    assert not sprung.exists()


def _opened(folder: Path) -> None:
    Release.open(folder)
    Quiz.open(folder)


def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    (tmp_path / "model.pt").write_bytes(pickled(Trap(sprung), "model.pt"))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(tmp_path / "model.pt"))  # as the models of a release are loaded by Triton
    assert not sprung.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert sprung.exists()  # the trap works


def test_a_server_told_to_stop_finishes_what_it_began_and_speaks_json(tmp_path):
    releases = published(tmp_path / "releases", "v1", items=30)
    told = [f"releases={releases}", f"state={tmp_path / 'state'}", "port=0", "log=json", "access.writing=open", "editorial=null"]
    with (tmp_path / "log").open("w") as log:
        serving = subprocess.Popen([sys.executable, "-m", "serve", "up", *told], stderr=log, cwd=ROOT)
    try:
        deadline = time.monotonic() + 90
        while not (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", (tmp_path / "log").read_text())):
            assert serving.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        body = json.dumps({"user_id": "u1", "item_id": "i1", "event_type": "view"}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.putrequest("POST", "/v1/events")
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), "X-Request-ID": "half-told"}.items():
            connection.putheader(name, str(value))
        connection.endheaders(body[:10])
        time.sleep(0.5)
        serving.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert serving.poll() is None
        connection.send(body[10:])
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"stored": 1, "repeated": 0})
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert any(line.get("request_id") == "half-told" and line["route"] == "/v1/events" and line["status"] == 200 for line in lines)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
