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

import pytest

from serve.__main__ import main
from serve.clock import Clock
from serve.publication import publish
from tests.releases import write_release


@pytest.fixture
def root(tmp_path):
    for version in ("v1", "v2"):
        publish(
            write_release(tmp_path / "releases" / f".staging-{version}", items=30, room=5, version=version), tmp_path / "releases", version
        )
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
    code, out, _ = door("recommend", "--user", "u9", "--count", "3", "--json", "time=log-end", "deadline_ms=20000")
    answer = json.loads(out)
    assert (code, answer["answered_by"], len(answer["recommendations"])) == (0, "personalised", 3)


def test_similar_needs_no_server(door, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("nothing is to be started"))
    code, out, _ = door("similar", "--item", "i4", "--count", "3", "--json")
    assert (code, len(json.loads(out)["recommendations"])) == (0, 3)


def test_releases_are_listed_and_taken_back(door):
    assert re.search(r"v2\W+current", door("release", "list")[1])
    assert door("release", "rollback")[:2] == (0, "current is now v1\n")
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
        (2, ("up", "arms.shares.challenger=0.5"), "arms.shares: shares are"),
        (2, ("up", "rules.caps.director=3"), "director"),
        (2, ("up", "+rules.caps.director=3"), "there is no 'director'"),
        (2, ("recommend", "--user", "u1", "--lambda", "2"), "lambda must be"),
        (2, ("release", "promote"), "--version belongs to promote"),
        (1, ("release", "challenge", "--version", "v9"), "v9"),
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


def test_a_damaged_release_is_checked_by_name_and_none_is_said(door, root):
    path = root / "releases" / "v2" / "items.f16"
    path.write_bytes(path.read_bytes()[:-2])
    code, _, err = door("release", "check")
    assert (code, "items.f16 does not match its checksum" in err) == (1, True)
    os.unlink(root / "releases" / "current")
    code, _, err = door("up", "port=0")
    assert (code, "run `python export.py` first" in err) == (1, True)


def test_a_damaged_release_gives_way_to_the_one_before_it(door, root, caplog):
    path = root / "releases" / "v2" / "items.f16"
    path.write_bytes(path.read_bytes()[:-2])
    code, out, _ = door("recommend", "--user", "u9", "--count", "3", "--json", "time=log-end", "deadline_ms=20000")
    assert (code, json.loads(out)["model_version"]) == (0, "v1")
    assert "items.f16 does not match its checksum" in caplog.text


def test_everybody_is_precomputed_once_and_answered_from_it(door, root):
    code, out, _ = door("precompute", "time=log-end", "deadline_ms=20000")
    assert (code, out) == (0, "10 slates of release v2 are ready\n")
    code, out, _ = door("recommend", "--user", "u9", "--count", "3", "--json", "time=log-end", "precomputed.active_minutes=0")
    assert json.loads(out)["answered_by"] == "precomputed"
    code, out, _ = door("recommend", "--user", "u9", "--live", "--count", "3", "--json", "time=log-end", "deadline_ms=20000")
    assert json.loads(out)["answered_by"] == "personalised"


def test_why_is_told_on_the_command_line(door):
    code, out, _ = door("explain", "--user", "u9", "--item", "i4", "--json", "time=log-end", "deadline_ms=20000")
    told = json.loads(out)
    assert (code, told["item_id"]) == (0, "i4")
    assert told["verdict"].endswith(".")
    assert set(told["heads"]) == {"click", "complete", "watch_seconds"}
    _, table, _ = door("explain", "--user", "u9", "--item", "i4", "--count", "5", "time=log-end", "deadline_ms=20000")
    assert "this_item" not in table


def test_a_report_of_arms_that_showed_nothing_has_no_figures_and_is_json(door):
    code, out, _ = door("ab", "report", "--json")
    told = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert [(one["arm"], one["users"], one["figures"]["completion"]) for one in told["arms"]] == [
        ("champion", 0, None),
        ("challenger", 0, None),
    ]
    assert "nan" not in door("ab", "report")[1]


def test_a_challenger_is_named_listed_and_withdrawn(door):
    assert door("release", "challenge", "--version", "v1")[0] == 0
    assert re.search(r"v1\W+challenger", door("release", "list")[1])
    assert door("release", "withdraw")[:2] == (0, "no longer challenger: v1\n")
    assert not re.search("challenger", door("release", "list")[1])


def test_log_end_is_a_clock_that_goes_on_from_the_end_of_the_first_log_it_is_told_of(caplog):
    clock = Clock("log-end")
    clock.log_ended(400_000)  # in 2015
    clock.log_ended(400_500)
    assert 0 <= clock.now_ms() - 400_000 * 3_600_000 < 60_000
    assert not caplog.records
    wall = Clock("now")
    wall.log_ended(400_000)
    assert abs(wall.now_ms() - time.time() * 1000) < 60_000
    assert "the log ended" in caplog.text
