"""The quiz by command: the engine's questions, the page of the answers, and what is kept; in a real terminal too."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve.commands import store_of
from serve.commands.quizzing import answered
from serve.settings import SettingsError, settings
from tests.doors import door as opened
from tests.doors import releases

ROOT = Path(__file__).parents[1]
CALM = ("time=log-end", "deadline_ms=20000", "triton.timeout_ms=10000")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases(tmp_path_factory.mktemp("quiz"), "v1")


@pytest.fixture
def door(root, monkeypatch, capsys):
    with opened(root, monkeypatch, capsys) as run:
        yield run


def kept(root, user_id):
    with store_of(settings([f"state={root / 'state'}"])) as store:
        return dict(store.read(user_id).answers)


def test_answers_lead_from_the_first_question_to_a_page_and_are_kept(door, root):
    code, out, _ = door("quiz", "--json", *CALM)
    first = json.loads(out)
    assert (code, first["answers"], first["page"], first["kept"]) == (0, [], None, None)
    known = first["question"]["item_id"]
    others = ",".join(f"i{row}={'like' if row % 2 else 'dislike'}" for row in range(20) if f"i{row}" != known)
    nine = ",".join(others.split(",")[:9])
    last = json.loads(
        door("quiz", "--json", "--user", "me", "--keep", "--answers", f"{known}=unknown", "--answers", nine, "--count", "4", *CALM)[1]
    )
    assert last["question"] is None and last["kept"] == 9 and len(last["page"]["recommendations"]) == 4
    assert kept(root, "me") == dict(answered([nine]))


@pytest.mark.parametrize("wrong", ["i1", "i1=maybe", "=like", "i1=like,i1=dislike"])
def test_what_is_no_answer_is_refused(wrong):
    with pytest.raises(SettingsError, match="--answers"):
        answered([wrong])


def test_an_id_may_hold_the_sign_between_it_and_the_answer():
    assert answered(["a=b=like,c=unknown"]) == [("a=b", True), ("c", None)]


def test_in_a_terminal_it_asks_until_one_quits_and_shows_the_page(root):
    outside, inside = pty.openpty()
    words = ["quiz", "--user", "typist", "--keep", f"releases={root / 'releases'}", f"state={root / 'state'}", *CALM]
    asking = subprocess.Popen(
        [sys.executable, "-m", "serve", *words], stdin=inside, stdout=inside, stderr=subprocess.DEVNULL, cwd=ROOT,
        env=os.environ | {"COLUMNS": "100", "TERM": "xterm"},
    )  # fmt: skip
    os.close(inside)
    said, deadline = "", time.monotonic() + 90
    try:
        for number, typed in enumerate(("l", "x", "d", "q"), start=1):  # x is no answer: it asks again
            while len(re.findall(r"\[l/d/u/q\]", said)) < number:
                assert time.monotonic() < deadline and asking.poll() is None, said
                if select.select([outside], [], [], 1)[0]:
                    said += os.read(outside, 65536).decode(errors="replace")
            os.write(outside, f"{typed}\n".encode())
        while time.monotonic() < deadline:
            try:
                said += os.read(outside, 65536).decode(errors="replace")
            except OSError:  # EIO: the other end is closed
                break
        assert asking.wait(30) == 0
    finally:
        asking.kill()
        asking.wait()
        os.close(outside)
    assert "Do you like these?" in said and "The page of 2 answers" in said and "answers of user typist are kept" in said
    assert sorted(kept(root, "typist").values()) == [False, True]
