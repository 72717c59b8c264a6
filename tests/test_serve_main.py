"""The door: it serves until told to stop and leaves nothing behind, and whatever is wrong is one line with a remedy."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve.__main__ import main, now_ms
from serve.publication import publish
from serve.settings import settings
from tests.releases import write_release


@pytest.fixture
def root(tmp_path):
    for version in ("v1", "v2"):
        publish(write_release(tmp_path / "releases" / f".staging-{version}", items=30, version=version), tmp_path / "releases", version)
    return tmp_path


@pytest.fixture
def door(root, monkeypatch, capsys):
    """Runs a command line in this process: (exit code, stdout, stderr)."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["serve", *words, f"releases={root / 'releases'}", f"state={root / 'state'}"])
        code = main()
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


def servers_of(folder: Path) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [command for command in commands if str(folder) in command and "tritonserver" in command]


def asked(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_up_serves_the_current_release_until_told_to_stop_and_takes_triton_down(root):
    overrides = [f"releases={root / 'releases'}", f"state={root / 'state'}", "port=0"]
    with (root / "stderr").open("w") as log:
        serving = subprocess.Popen([sys.executable, "-m", "serve", "up", *overrides], stderr=log, cwd=Path(__file__).parent.parent)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", (root / "stderr").read_text())):
            assert serving.poll() is None, (root / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        port = int(found[1])
        status, answer = asked(port, "/v1/recommendations?user_id=u9&count=5")
        assert (status, answer["model_version"], len(answer["recommendations"])) == (200, "v2", 5)
        status, refusal = asked(port, "/v1/recommendations?user_id=" + "x" * 1_000_000)
        assert (status, refusal["field"]) == (422, "user_id")
        assert servers_of(root)
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(40) == 0
        assert not servers_of(root)
        assert "Traceback" not in (root / "stderr").read_text()
    finally:
        serving.kill()
        serving.wait()


def test_recommend_starts_what_it_needs_answers_and_ends(door):
    code, out, _ = door("recommend", "--user", "u9", "--count", "3", "--json", "time=log-end")
    answer = json.loads(out)
    assert (code, answer["answered_by"], len(answer["recommendations"])) == (0, "personalised", 3)


def test_similar_needs_no_server(door, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("nothing is to be started"))
    code, out, _ = door("similar", "--item", "i4", "--count", "3", "--json")
    assert (code, len(json.loads(out)["recommendations"])) == (0, 3)


def test_releases_are_listed_and_taken_back(door):
    assert re.search(r"v2\W+current", door("release", "list")[1])
    assert door("release", "rollback")[:2] == (0, "current is now v1; restart `python -m serve up` to serve it\n")
    code, _, err = door("release", "rollback")
    assert (code, "nothing was current before it" in err) == (1, True)


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("up", "prot=80"), "prot"),
        (2, ("up", "triton.timeout=80"), "timeout"),
        (2, ("up", "port=http"), "port=http: should be a valid integer"),
        (2, ("up", "sources.popular.candidates=0"), "sources.popular=Budget(candidates=0"),
        (2, ("up", "time=then"), "time=then: should be 'now' or 'log-end'"),
        (2, ("up", "sources.popular.candidates=many"), "sources.popular.candidates=many: should be a valid integer"),
        (2, ("similar", "--item", "i99"), "There is no item 'i99'"),
        (2, ("similar", "--item", "i1", "--count", "0"), "count must be"),
        (1, ("recommend", "--user", "u1", "triton.url=127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_an_exit_code(door, code, words, said):
    got, _, err = door(*words)
    assert got == code
    assert said in err
    assert "Traceback" not in err


def test_a_port_in_use_is_said_before_anything_is_started(door):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = door("up", f"port={port}")
    assert (code, f"127.0.0.1:{port} cannot be listened on" in err) == (1, True)


def test_no_release_and_a_damaged_one_are_named(door, root):
    path = root / "releases" / "v2" / "items.f16"
    path.write_bytes(path.read_bytes()[:-2])
    code, _, err = door("up", "port=0")
    assert (code, "items.f16 does not match its checksum" in err) == (1, True)
    os.unlink(root / "releases" / "current")
    code, _, err = door("up", "port=0")
    assert (code, "run `python export.py` first" in err) == (1, True)


def test_log_end_is_a_clock_that_goes_on_from_the_end_of_the_log(caplog):
    last_hour = 400_000  # in 2015
    stopped = SimpleNamespace(last_hour=last_hour)
    tell = now_ms(settings(["time=log-end"]), stopped)
    assert 0 <= tell() - last_hour * 3_600_000 < 60_000
    assert not caplog.records
    assert abs(now_ms(settings([]), stopped)() - time.time() * 1000) < 60_000
    assert "the log ended" in caplog.text
