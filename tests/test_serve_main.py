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

import numpy as np
import pytest

from serve import command_line
from serve.clock import Clock
from serve.commands import COMMANDS
from serve.commands.telling import add, table, tell
from serve.manifest import seal
from tests.doors import door as opened
from tests.doors import releases
from towers.ranker import HEADS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def root(tmp_path):
    return releases(tmp_path, "v1", "v2")


@pytest.fixture
def door(root, monkeypatch, capsys):
    with opened(root, monkeypatch, capsys) as run:
        yield run


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
    assert set(answer) == documented_keys()["recommend"]


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
        (2, ("nonsense",), "invalid choice: 'nonsense'"),
        (2, ("recommend",), "--user"),
        (2, ("recommend", "--user", "u1", "--cuont", "3"), "--cuont"),
        (2, ("recommend", "--user", ""), "user_id is empty"),
        (2, ("precompute", "--threads", "0"), "--threads 0"),
        (2, ("refresh", "--stamp", "../x"), "--stamp '../x'"),
        (2, ("refresh", "nice=99"), "nice=99"),
        (2, ("retrain", "triton.url=x:1"), "triton"),
        (2, ("completion", "fish"), "bash or zsh"),
        (1, ("ab", "report", "state=/dev/null"), "/dev/null cannot be the folder"),
        (1, ("release", "list", "releases=/nowhere"), "/nowhere: the folder is not there"),
        (2, ("up", "sources.popular.candidates=many"), "sources.popular.candidates=many: should be a valid integer"),
        (2, ("similar", "--item", "i99"), "There is no item 'i99'"),
        (2, ("similar", "--item", "i1", "--count", "0"), "count must be"),
        (1, ("recommend", "--user", "u1", "triton.url=127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_an_exit_code(door, code, words, said):
    got, out, err = door(*words)
    assert (got, out) == (code, "")
    assert said in err
    assert "Traceback" not in err and err.count("\n") == 1


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
    code, out, _ = door("precompute", "--json", "time=log-end", "deadline_ms=20000")
    assert (code, json.loads(out)) == (0, {"version": "v2", "slates": 10})
    code, out, _ = door("recommend", "--user", "u9", "--count", "3", "--json", "time=log-end", "precomputed.active_minutes=0")
    assert json.loads(out)["answered_by"] == "precomputed"
    code, out, _ = door("recommend", "--user", "u9", "--live", "--count", "3", "--json", "time=log-end", "deadline_ms=20000")
    assert json.loads(out)["answered_by"] == "personalised"


def test_why_is_told_on_the_command_line(door):
    code, out, _ = door("explain", "--user", "u9", "--item", "i4", "--json", "time=log-end", "deadline_ms=20000")
    told = json.loads(out)
    assert (code, told["item_id"], set(told)) == (0, "i4", documented_keys()["explain"])
    assert told["verdict"].endswith(".")
    assert set(told["heads"]) == set(HEADS)
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


def test_a_release_that_answers_otherwise_is_not_whole_though_every_file_is(door, root):
    """The one before it stands in for it; that is no reason to call it whole."""
    folder = root / "releases" / "v2"
    with np.load(folder / "golden.npz") as golden:
        tensors = dict(golden)
    np.savez(folder / "golden.npz", **tensors | {"user_tower/query__0": tensors["user_tower/query__0"] + 1})
    sealed = json.loads((folder / "manifest.json").read_text())
    seal(folder, {name: value for name, value in sealed.items() if name not in ("files", "checksum")})
    code, out, err = door("release", "check")
    assert (code, out) == (1, "") and "v1 stands in for it" in err


def test_who_is_forgotten_is_told_with_what_still_holds_them(door, root):
    code, out, _ = door("forget", "--user", "u9", "--json")
    told = json.loads(out)
    assert (code, told["user_id"]) == (0, "u9")
    assert told["still_held"] == {
        str(root / "releases" / version / f"{name}.parquet"): 1 for version in ("v1", "v2") for name in ("histories", "users")
    }
    assert "a release is sealed" in door("forget", "--user", "u9")[1]


def test_a_reader_who_has_read_enough_is_no_error(root):
    command = f"{sys.executable} -m serve release list --json releases={root / 'releases'} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command.replace("| head", "| sleep 0 | head")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_job_that_is_stopped_ends_in_a_line_that_says_how_it_goes_on(root):
    words = ["precompute", f"releases={root / 'releases'}", f"state={root / 'state'}", "time=log-end"]
    job = subprocess.Popen([sys.executable, "-m", "serve", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not servers_of(root):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=60)
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 130 and err.endswith("serve: stopped; run it again\n") and "Traceback" not in err
    assert not servers_of(root)


def test_what_titles_hold_is_shown_and_not_obeyed(capsys):
    """Markup is no markup, an escape sequence none, and a smiley's name no smiley: in cells, titles and sentences; JSON gives them back."""
    evil = "[bold red]x[/] \x1b[31m :smiley: \x9b2J \u202e"
    of = table(evil, evil)
    add(of, evil)
    tell(False, None, of, evil)
    out = capsys.readouterr().out
    assert out.count("[bold red]x[/]") == 4 and out.count(":smiley:") == 4
    assert not {"\x1b", "\x9b", "\u202e"} & set(out)
    tell(True, {"title": evil, "score": float("nan")})
    out = capsys.readouterr().out
    assert json.loads(out) == {"title": evil, "score": None} and not {"\x1b", "\x9b", "\u202e"} & set(out)


def parsers(parser=None, named=()):
    """Every command that can be run, by its words, and its parser."""
    parser = parser or command_line.parser()
    below = [action.choices for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)]
    if not below:
        return {" ".join(named): parser}
    return {words: one for name, child in below[0].items() for words, one in parsers(child, (*named, name)).items()}


def test_every_command_is_described_with_an_example_that_parses_its_exit_codes_and_its_section():
    documented = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^### `(.+?)`\n(.*?)(?=^##|\Z)", documented, re.MULTILINE | re.DOTALL))
    there = parsers()
    assert set(there) == {*COMMANDS, "completion"} == set(sections)
    for words, one in there.items():
        text = one.format_help()
        example = re.search(r"example:\n  (?:eval .\$\()?towers ([^)\n]+)", text)[1]
        assert example.startswith(words) and command_line.read(example.split())
        assert re.findall(r"^  (\d)  ", text, re.MULTILINE)[0] == "0"
        assert "towers " + words in sections[words]
        for flag in re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE):
            assert flag == "--json" or flag in sections[words], f"{words} has {flag}, which docs/commands.md does not tell"


def documented_keys():
    told = re.findall(r"^### `([^`]+)`(?:(?!^###).)*?^JSON: ([^.:]+)", (ROOT / "docs" / "commands.md").read_text(), re.M | re.S)
    return {words: set(re.findall(r"`(\w+)`", line)) for words, line in told}


ASKED = (
    ("release list", ""), ("release check", ""), ("release challenge", "v1"), ("release withdraw", ""), ("release rollback", ""),
    ("release promote", "v2"), ("ab report", ""), ("key add", "--name n --role reader"), ("key list", ""), ("key revoke", "n"),
    ("forget", "--user u1"), ("similar", "--item i1"),
)  # fmt: skip


def test_what_docs_tell_of_json_is_what_is_printed(door, root):
    """The keys of each command's document, as its section lists them; nothing else on stdout."""
    keys = documented_keys()
    assert set(keys) == {*COMMANDS, "completion"} - {"up", "completion"}
    for words, more in ASKED:
        calm = ["time=log-end", "deadline_ms=20000", f"access.keys={root / 'keys.json'}"]
        code, out, err = door(*words.split(), *more.split(), "--json", *calm)
        assert (code, set(json.loads(out))) == (0, keys[words]), (words, err)


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
