"""A release is exchanged under load without anybody noticing, and one that is broken changes nothing."""

import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve import local_triton, publication
from serve.ab import arm
from serve.contract import Request
from serve.course import Policy
from serve.fleet import Fleet
from serve.manifest import ReleaseError
from serve.panel import BUDGETS, Budget
from serve.recommender import Recommender
from serve.release import Release
from serve.sqlite_store import SqliteStore
from serve.triton import Client
from tests.releases import START_MS, write_release

ALL_CHAMPION = {"champion": 1.0}
HALVES = {"champion": 0.5, "challenger": 0.5}
NOW = START_MS + 10**9


def published(root: Path, *versions: str) -> Path:
    for version in versions:
        publication.shelve(write_release(root / f".staging-{version}", version=version), root, version)
    return root


class Yard:
    """Opens folders of `root` by reading their seals; remembers what was opened and closed."""

    def __init__(self, root: Path) -> None:
        self.root, self.opened, self.closed = root, [], []

    def __call__(self, version: str):
        publication.verify(self.root / version)
        self.opened.append(version)
        return f"answers of {version}", lambda: self.closed.append(version)


@pytest.fixture
def root(tmp_path) -> Path:
    """Releases v1, v2 and v3, of which v1 was current and v2 is."""
    published(tmp_path, "v1", "v2", "v3")
    publication.promote(tmp_path, "v1")
    publication.promote(tmp_path, "v2")
    return tmp_path


def broken(root: Path, version: str) -> contextmanager:
    @contextmanager
    def breaking():
        file = root / version / "items.f16"
        whole = file.read_bytes()
        file.write_bytes(whole[:-2])
        yield
        file.write_bytes(whole)

    return breaking()


def test_every_user_is_answered_by_the_release_of_their_arm(root):
    publication.challenge(root, "v3")
    fleet = Fleet(root, Yard(root), salt="s", shares=HALVES)
    for number in range(50):
        with fleet.lease(f"u{number}") as (name, answers):
            assert name == arm(f"u{number}", "s", HALVES) and answers == {"champion": "answers of v2", "challenger": "answers of v3"}[name]
    assert fleet.status().whole
    fleet.close()


def test_without_a_challenger_everyone_is_the_champions(root):
    fleet = Fleet(root, Yard(root), salt="s", shares=HALVES)
    for number in range(20):
        with fleet.lease(f"u{number}") as (name, _):
            assert name == "champion"
    fleet.close()


def test_what_is_held_is_closed_after_the_last_lease_and_not_before(root):
    yard = Yard(root)
    fleet = Fleet(root, yard, salt="s", shares=ALL_CHAMPION)
    with fleet.lease("u") as (_, first), fleet.lease("w"):
        publication.promote(root, "v3")
        fleet.refresh()
        with fleet.lease("u") as (_, second):
            assert (first, second) == ("answers of v2", "answers of v3")
        fleet.refresh()
        assert yard.closed == [] and fleet.status().retiring == ("v2",)
    fleet.refresh()
    assert yard.closed == ["v2"] and fleet.status().retiring == ()
    fleet.close()
    assert yard.closed == ["v2", "v3"]


def test_what_is_held_too_long_is_closed_under_its_holder(root, caplog):
    yard = Yard(root)
    fleet = Fleet(root, yard, salt="s", shares=ALL_CHAMPION, drain_s=0.0)
    with fleet.lease("u"):
        publication.promote(root, "v3")
        fleet.refresh()
        assert yard.closed == ["v2"] and "under 1 requests" in caplog.text
    fleet.close()


def test_a_challenger_that_is_promoted_is_not_opened_again(root):
    yard = Yard(root)
    publication.challenge(root, "v3")
    fleet = Fleet(root, yard, salt="s", shares=HALVES)
    publication.promote(root, "v3")
    fleet.refresh()
    assert yard.opened == ["v2", "v3"] and yard.closed == ["v2"] and publication.challenger(root) is None
    assert [(one.arm, one.serving) for one in fleet.status().arms] == [("champion", "v3")]
    with fleet.lease("anybody") as (name, answers):
        assert (name, answers) == ("champion", "answers of v3")
    fleet.close()
    assert yard.closed == ["v2", "v3"]


def test_a_challenger_that_is_dropped_is_closed(root):
    yard = Yard(root)
    publication.challenge(root, "v3")
    fleet = Fleet(root, yard, salt="s", shares=HALVES)
    assert publication.drop_challenger(root) == "v3"
    fleet.refresh()
    assert yard.closed == ["v3"] and len(fleet.status().arms) == 1
    fleet.close()


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_a_broken_release_changes_nothing_and_is_tried_again(root, name, caplog):
    yard = Yard(root)
    fleet = Fleet(root, yard, salt="s", shares=HALVES, retry_s=0.3)
    {"champion": publication.promote, "challenger": publication.challenge}[name](root, "v3")
    with broken(root, "v3"):
        for _ in range(3):
            fleet.refresh()
        found = {one.arm: one for one in fleet.status().arms}[name]
        assert (found.wanted, found.serving) == ("v3", "v2" if name == "champion" else None)
        assert "items.f16" in found.error and found.retry_in_s <= 0.3 and not fleet.status().whole
        assert yard.opened == ["v2"] and yard.closed == []
        assert sum("cannot be served" in record.message for record in caplog.records) == 1  # said once, not once a second
        with fleet.lease("u") as (_, answers):
            assert answers == "answers of v2"
    deadline = time.monotonic() + 20
    while not fleet.status().whole and time.monotonic() < deadline:
        fleet.refresh()
    assert fleet.status().whole and yard.opened == ["v2", "v3"]
    fleet.close()


def test_a_link_that_moves_on_is_followed_at_once(root):
    yard = Yard(root)
    fleet = Fleet(root, yard, salt="s", shares=ALL_CHAMPION, retry_s=3600)
    publication.promote(root, "v3")
    with broken(root, "v3"):
        fleet.refresh()
        assert not fleet.status().whole
        publication.promote(root, "v1")
        fleet.refresh()
        assert fleet.status().whole and fleet.status().arms[0].serving == "v1"
    fleet.close()


def test_a_current_that_is_broken_at_start_is_replaced_by_the_one_before_until_it_is_whole(root):
    yard = Yard(root)
    publication.promote(root, "v3")
    with broken(root, "v3"), broken(root, "v2"):
        fleet = Fleet(root, yard, salt="s", shares=ALL_CHAMPION, retry_s=0.0)
        (found,) = fleet.status().arms
        assert (found.wanted, found.serving) == ("v3", "v1") and "items.f16" in found.error
        fleet.refresh()
        assert fleet.status().arms[0].serving == "v1"
    fleet.refresh()
    assert fleet.status().whole and fleet.status().arms[0].serving == "v3" and yard.closed == ["v1"]
    fleet.close()


def test_with_nothing_whole_nothing_starts(root):
    with broken(root, "v1"), broken(root, "v2"), pytest.raises(ReleaseError, match=r"v2: items\.f16"):
        Fleet(root, Yard(root), salt="s", shares=ALL_CHAMPION)
    with pytest.raises(ReleaseError, match="nothing was published"):
        Fleet(root / "v1", Yard(root), salt="s", shares=ALL_CHAMPION)


def test_links_that_cannot_be_read_change_nothing(root):
    fleet = Fleet(root, Yard(root), salt="s", shares=ALL_CHAMPION)
    (root / "current").unlink()
    fleet.refresh()
    assert "nothing was published" in fleet.status().arms[0].error and fleet.status().arms[0].serving == "v2"
    publication.promote(root, "v2")
    fleet.refresh()
    assert fleet.status().whole
    fleet.close()


def test_what_nobody_foresaw_is_shown_and_the_watch_goes_on(root, caplog):
    yard, bugs = Yard(root), [ZeroDivisionError("a bug")]

    def fails_once(version: str):
        if version == "v3" and bugs:
            raise bugs.pop()
        return yard(version)

    fleet = Fleet(root, fails_once, salt="s", shares=ALL_CHAMPION)
    with fleet.watching(every_s=0.01):
        publication.promote(root, "v3")
        deadline = time.monotonic() + 20
        while fleet.status().arms[0].serving != "v3" and time.monotonic() < deadline:
            time.sleep(0.01)
    assert fleet.status().arms[0].serving == "v3" and "a bug" in caplog.text
    fleet.close()


class Served:
    """Real releases with a Triton of their own each, one store, golden answers compared."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.state, self.store = root, state, SqliteStore(state / "live.sqlite")
        self.store.load_histories(root / "v1" / "histories.parquet", root / "v1" / "users.parquet", version="v1")

    def __call__(self, version: str):
        release = Release.open(self.root / version)
        models = tuple(spec.name for spec in (release.user_tower, release.item_tower, release.ranker))
        server = local_triton.start(release.path / "triton", log_path=self.state / f"triton-{version}.log", models=models)
        try:
            client = Client(server.grpc_url, timeout_ms=20_000)
            # patient: while the next release's server loads, it takes both cores
            patient = {name: Budget(usual.candidates, 20_000) for name, usual in BUDGETS.items()}
            recommender = Recommender.verified(release, client, store=self.store, budgets=patient, policy=Policy(deadline_ms=20_000))
        except BaseException:
            server.close()
            raise

        def close() -> None:
            recommender.close()
            server.close()

        return recommender, close


@contextmanager
def asked_without_end(fleet: Fleet, threads: int = 3):
    """(version, answered_by) of everything that threads were answered, and what they failed by, while the block runs."""
    answers, errors, stopping = [], [], threading.Event()

    def ask(number: int) -> None:
        try:
            while not stopping.is_set():
                user_id = f"u{1 + number}"
                with fleet.lease(user_id) as (_, recommender):
                    slate = recommender.recommend(Request(user_id, NOW, count=5))
                    answers.append((slate.model_version, slate.answered_by, len(slate.recommendations)))  # before the lease ends
        except BaseException as error:
            errors.append(error)
            raise

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in asking:
        thread.start()
    try:
        yield answers, errors
    finally:
        stopping.set()
        for thread in asking:
            thread.join()


def more(answers: list, count: int = 30) -> None:
    goal, deadline = len(answers) + count, time.monotonic() + 60
    while len(answers) < goal and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(answers) >= goal, "the threads stopped asking"


def test_under_load_a_swap_drops_nothing_and_a_broken_release_neither(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    root = published(tmp_path / "releases", "v1", "v2", "v3")
    publication.promote(root, "v1")
    served = Served(root, tmp_path)
    fleet = Fleet(root, served, salt="s", shares=ALL_CHAMPION, retry_s=3600)
    with asked_without_end(fleet) as (answers, errors):
        more(answers)
        publication.promote(root, "v2")
        fleet.refresh()
        more(answers)
        while fleet.status().retiring:
            fleet.refresh()
        swapped = len(answers)
        more(answers)
        publication.promote(root, "v3")
        with broken(root, "v3"):
            fleet.refresh()
            more(answers)
    assert errors == [] and {version for version, _, _ in answers} == {"v1", "v2"}
    assert {version for version, _, _ in answers[swapped:]} == {"v2"}
    assert {(by, count) for _, by, count in answers} == {("personalised", 5)}  # no slate was made without models
    assert "items.f16" in fleet.status().arms[0].error and fleet.status().arms[0].serving == "v2"
    fleet.close()
    served.store.close()
