"""One way to make a slate: what is made ahead is the live answer, a stopped run goes on where it was, and the rule says when it will do."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve import precompute
from serve.contract import History, Known, Precomputed, Request, UserFields
from serve.panel import BUDGETS, Budget
from serve.precompute import DEPTH, HOUR_MS, MINUTE_MS, Rule, why_live
from serve.recommender import Recommender
from serve.release import Release
from serve.shelves import page_order
from serve.slates import passing_store
from serve.sqlite_store import SqliteStore
from serve.store import Event
from serve.tally import Tally
from serve.triton import Client, TritonError
from tests.engines import small_triton
from tests.releases import START_MS, write_release

NOW = START_MS + 20 * HOUR_MS
PATIENT = {name: Budget(budget.candidates, 20_000) for name, budget in BUDGETS.items()}
USERS = [f"u{number}" for number in range(10)]


def known(*, made=True, at=NOW - HOUR_MS, version="v1", sequence=3, made_sequence=3, last=NOW - 2 * HOUR_MS, events=12, answers=()):
    history = History(("i",) * events, np.ones(events, np.int64), np.full(events, np.nan), np.full(events, last))
    ahead = Precomputed(at, made_sequence, version, np.zeros(2, np.float32), ()) if made else None
    return Known(history, UserFields(region="DE"), sequence, {}, answers, ahead)


@pytest.mark.parametrize(
    ("request_", "user", "why"),
    [
        ({}, {}, None),
        ({}, {"made": False}, "none made"),
        ({"live": True}, {"made": False}, "none made"),
        ({"live": True}, {}, "asked for"),
        ({"context": "search-empty"}, {}, "asked for"),
        ({"count": DEPTH}, {}, None),
        ({"count": DEPTH + 1}, {}, "asked for"),
        ({"mmr_lambda": 0.5}, {}, "asked for"),
        ({"diversity": "dpp"}, {}, "asked for"),
        ({"region": "FR"}, {}, "asked for"),
        ({"region": "DE"}, {}, None),
        ({"device": "tv"}, {}, None),
        ({}, {"version": "v0"}, "another release"),
        ({}, {"sequence": 4}, "did something since"),
        ({}, {"made_sequence": 0, "sequence": 0}, None),
        ({}, {"last": NOW - 60 * MINUTE_MS}, None),
        ({}, {"last": NOW - 60 * MINUTE_MS + 1}, "active"),
        ({}, {"last": NOW + HOUR_MS}, "active"),  # a clock that runs ahead
        ({}, {"events": 0}, None),
        ({}, {"at": NOW - 24 * HOUR_MS}, None),
        ({}, {"at": NOW - 24 * HOUR_MS - 1}, "stale"),
        ({}, {"at": NOW + 1}, None),  # by a clock that runs ahead, or in a log-end session that began later
        ({}, {"answers": (("i1", True),)}, None),  # a history speaks for itself
        ({}, {"answers": (("i1", True),), "events": 9}, "answered the quiz"),
        ({}, {"answers": (("i1", True),), "events": 0}, "answered the quiz"),
    ],
)
def test_when_a_precomputed_slate_will_do(request_, user, why):
    assert why_live(Rule(), Request("u", NOW, **request_), known(**user), "v1") == why


def test_the_rule_is_what_it_is_told():
    asked, user = Request("u", NOW), known(last=NOW - 10 * MINUTE_MS, at=NOW - 3 * HOUR_MS)
    assert why_live(Rule(active_minutes=10, stale_hours=3), asked, user, "v1") is None
    assert why_live(Rule(active_minutes=10.01, stale_hours=3), asked, user, "v1") == "active"
    assert why_live(Rule(active_minutes=0, stale_hours=2.99), asked, user, "v1") == "stale"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=60, width=8, seed=3))


@pytest.fixture(scope="module")
def url():
    return small_triton()


def store_of(release, path):
    store = SqliteStore(path)
    store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=release.manifest.version)
    return store


@pytest.fixture
def recommender(release, url, tmp_path):
    with closing(Client(url, timeout_ms=20_000)) as client, closing(store_of(release, tmp_path / "live.sqlite")) as store:
        made = Recommender.of(release, client, store=store, budgets=PATIENT)
        yield made
        made.panel.close()


def kept(store):
    """What is kept of every user, as plain values."""
    return {
        user: (one.made_at, one.sequence, one.model_version, one.query_D.tolist(), list(one.recommendations))
        for user in USERS
        if (one := store.read(user).precomputed) is not None
    }


def test_what_is_made_ahead_is_the_live_answer_and_is_served_until_something_happens(recommender, tmp_path):
    told = []
    count = precompute.precompute(recommender, tmp_path / "marker", now=NOW, threads=2, tell=told.append)
    assert count == 10 and told == [10] and not (tmp_path / "marker").exists()
    for user, (made_at, sequence, version, query_D, recommendations) in kept(recommender.store).items():
        known = replace(recommender.store.read(user), precomputed=None)
        live = recommender.answer(Request(user, NOW, count=DEPTH), known, Tally())
        read = [recommendations[place] for place in page_order([one.row for one in recommendations])]
        assert [replace(one, score=None) for one in read] == [replace(one, score=None, genres=()) for one in live.recommendations]
        assert [one.score for one in read] == pytest.approx([one.score for one in live.recommendations], abs=1e-6)
        assert (made_at, sequence, version) == (NOW, 0, "v1") and len(query_D) == 8
    later = NOW + HOUR_MS
    assert recommender.recommend(Request("u7", later)).answered_by == "precomputed"
    recommender.store.append([Event("e", "u7", "i3", "complete", later - 2 * HOUR_MS)])
    assert recommender.recommend(Request("u7", later)).answered_by.startswith("personalised")
    assert recommender.recommend(Request("u6", later)).answered_by == "precomputed"


KILLED = """
import os, signal, sys
from pathlib import Path
from serve import precompute
from tests.test_serve_precompute import *
path, url, live, marker = sys.argv[1:]
precompute.AT_ONCE = 4
release = Release.open(path)
recommender = Recommender.of(release, Client(url, timeout_ms=20_000), store=SqliteStore(live), budgets=PATIENT)
precompute.precompute(recommender, Path(marker), now=NOW, threads=2, tell=lambda count: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_run_that_was_killed_goes_on_after_its_last_whole_batch(release, url, recommender, tmp_path, monkeypatch):
    monkeypatch.setattr(precompute, "AT_ONCE", 4)
    precompute.precompute(recommender, tmp_path / "unbroken", now=NOW, threads=2)
    marker, place = tmp_path / "marker", tmp_path / "killed.sqlite"
    store_of(release, place).close()
    root = Path(__file__).parent.parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(release.path), url, str(place), str(marker)],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with closing(SqliteStore(place)) as store:
        assert sorted(kept(store)) == USERS[:4] and marker.exists()
        told = []
        assert precompute.precompute(replace(recommender, store=store), marker, now=NOW, threads=2, tell=told.append) == 6
        assert told == [4, 6] and not marker.exists()
        assert kept(store) == kept(recommender.store)


@pytest.mark.parametrize(
    ("marker", "count"),
    [
        ('{"version": "v0", "after": "u5"}', 10),  # of another release: anew
        ('{"version": "v1", "after": "u5"}', 4),
        ('{"version": "v1", "aft', 10),  # cannot be read: anew
    ],
)
def test_where_a_run_begins(recommender, tmp_path, marker, count):
    (tmp_path / "marker").write_text(marker)
    assert precompute.precompute(recommender, tmp_path / "marker", now=NOW, threads=2) == count
    assert sorted(kept(recommender.store)) == USERS[10 - count :] and not (tmp_path / "marker").exists()


def test_without_models_nothing_is_made_and_the_run_says_so(release, tmp_path):
    with closing(Client("127.0.0.1:9", timeout_ms=200)) as client, closing(passing_store(release)) as store:
        recommender = Recommender.of(release, client, store=store, budgets=PATIENT)
        with pytest.raises(TritonError):
            precompute.precompute(recommender, tmp_path / "marker", now=NOW, threads=2)
        assert kept(store) == {} and not (tmp_path / "marker").exists()
        recommender.panel.close()
