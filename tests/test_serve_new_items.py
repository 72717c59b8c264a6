"""A new item is live the moment it is posted, in every process; its row is what the item tower makes of it; no reader sees half of it."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.features import HOUR_MS
from serve import new_items
from serve.contract import Request
from serve.course import Policy
from serve.limits import InvalidRequest
from serve.new_items import Exists, NewItems, encode, parse, post, read, texts
from serve.panel import BUDGETS, Budget
from serve.recommender import Recommender
from serve.release import NoRoom, Release
from serve.slates import similar
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError
from serve.triton import Client, TritonError
from tests.engines import small_triton
from tests.releases import RECIPE, START_MS, write_release

NOW = START_MS + 20 * HOUR_MS
PATIENT = {name: Budget(budget.candidates, 10_000) for name, budget in BUDGETS.items()}
WHOLE = {
    "item_id": "n1", "title": "The Western Bus", "genres": ["western", "drama"], "tags": ["slow", "tag 4"], "release_date": "2023-11-20",
    "duration_seconds": 5400, "creator": "Ana", "franchise": "Bus", "regions": ["DE", "AT"], "maturity": 16,
    "content_embedding": [3, 4], "popularity_score": 1.5, "avg_rating": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "v1", items=40, room=30, seed=3)


@pytest.fixture(scope="module")
def client():
    with closing(Client(small_triton(), timeout_ms=10_000)) as patient:
        yield patient


@pytest.fixture
def release(written):
    """As another process would open it: what one test adds, no other sees."""
    return Release.open(written)


@pytest.fixture
def store(tmp_path, written):
    with closing(SqliteStore(tmp_path / "live.sqlite")) as opened:
        opened.load_histories(written / "histories.parquet", written / "users.parquet", version="v1")
        yield opened


def posted(release, *items, now=NOW):
    return parse(json.dumps([{"title": "untitled"} | item for item in items]).encode(), now, release)


def tower(release):
    return torch.jit.load(release.path / "triton/item_tower/1/model.pt")


def test_a_row_is_what_the_tower_makes_of_the_recipes_features_in_any_number(release, client):
    """By hand: two genres of three, a tag of ten, tf-idf of three known terms, the embedding at length one, then the numbers."""
    items = posted(release, WHOLE, *({"item_id": f"m{number}", "genres": ["comedy"]} for number in range(99)))
    feature = RECIPE.features(items)
    tfidf = np.array([2.0, 1.0, 1 * 3.0 * (1 + np.log(2))]) / np.linalg.norm([2, 1, 3 * (1 + np.log(2))])
    tag_T = np.eye(10)[4]
    np.testing.assert_allclose(feature[0, :16], [0, 1, 1, *tag_T, tfidf[0], 0.6, 0.8], rtol=1e-6)
    row = encode(items, release, client)
    assert row.shape == (100, 16) and row.dtype == np.float16
    np.testing.assert_array_equal(row, tower(release)(torch.as_tensor(feature)).detach().numpy())


def test_posted_it_is_stored_found_by_vector_ranked_and_said(release, client, store):
    recommender = Recommender.of(release, client, store=store, budgets=PATIENT, policy=Policy(deadline_ms=20_000))
    assert post(posted(release, WHOLE), release, client, store) == (1,)
    row = release.catalogue.row_of["n1"]
    assert row == 40 and release.posted_at_I[[39, 40]].tolist() == [-1, NOW]
    assert release.catalogue.posted_since(NOW).tolist() == [40] and release.catalogue.posted_since(NOW + 1).tolist() == []
    near = similar(recommender, "n1", 1).recommendations[0].item_id
    assert "n1" in [shown.item_id for shown in similar(recommender, near, 40).recommendations]
    # a user whose one liked item is the nearest: the query is that item's own vector, and n1 is scored by the ranker, popularity 0
    store.append([Event("e1", "fan", near, "complete", NOW)])
    assert "n1" not in [
        shown.item_id for shown in recommender.recommend(Request("fan", NOW, count=40)).recommendations
    ]  # nobody knows where
    slate = recommender.recommend(Request("fan", NOW, count=40, region="DE"))
    assert [shown.title for shown in slate.recommendations if shown.item_id == "n1"] == ["The Western Bus"]
    vector_ID = np.asarray(release.items, np.float64)
    query = vector_ID[release.catalogue.row_of[near], :8] / np.linalg.norm(vector_ID[release.catalogue.row_of[near], :8])
    expected = 1 / (1 + np.exp(1 - 3 * query @ vector_ID[row, :8]))
    assert next(s.score for s in slate.recommendations if s.item_id == "n1") == pytest.approx(expected, abs=2e-3)
    # and its own history counts: what is like n1 is now explained by it
    store.append([Event("e2", "fan", "n1", "complete", NOW)])
    assert "n1" not in [shown.item_id for shown in recommender.recommend(Request("fan", NOW, count=40, region="DE")).recommendations]
    recommender.panel.close()


def test_nobody_touched_it_yet_says_the_clock_beyond_its_last_row(release):
    row = np.array([[39, 40, 69]])
    popularity, rating = release.clock.before(row, np.full_like(row, NOW // HOUR_MS))
    assert popularity[0, 0] > 0 and popularity[0, 1:].tolist() == [0, 0] and rating[0, 1:].tolist() == [3.5, 3.5]


def test_everything_of_the_row_is_there(release, client, store):
    post(posted(release, WHOLE, {"item_id": "n2", "regions": []}, {"item_id": "n3", "creator": "Ana"}), release, client, store)
    catalogue = release.catalogue
    assert np.flatnonzero(release.tag_IT[np.array([40, 41])]).tolist() == [4]  # item 40's; "slow" is no tag the recipe knows
    assert release.duration_seconds_I[40] == 5400 and np.isnan(release.duration_seconds_I[41])
    assert catalogue.titles[40:] == ["The Western Bus", "untitled", "untitled"] and catalogue.item_ids[40:] == ["n1", "n2", "n3"]
    assert release.genre_IG[40].tolist() == [0, 1, 1] and release.release_day_I[40] == 19_681 and np.isnan(release.release_day_I[41])
    assert catalogue.maturity_I[[0, 40, 41]].tolist() == [0, 16, 0]
    assert catalogue.creator_I[[39, 40, 41, 42]].tolist() == [-1, 0, -1, 0] and catalogue.creators.words == ["Ana"]
    assert catalogue.franchises.words[catalogue.franchise_I[40]] == "Bus"
    rows = np.array([0, 40, 41])
    assert [catalogue.available(rows, region).tolist() for region in ("DE", "FR", None)] == [
        [True, True, False], [True, False, False], [True, False, False],
    ]  # fmt: skip
    assert catalogue.frame["item_id"].to_list()[38:] == ["i38", "i39", "n1", "n2", "n3"] and len(catalogue) == 43


def test_posted_again_it_is_replaced_where_it_stands_and_stays_as_old_as_it_is(release, client, store):
    post(posted(release, WHOLE, {"item_id": "n2"}), release, client, store)
    before = np.array(release.items[40:42])
    again = posted(release, {"item_id": "n1", "title": "Renamed", "genres": ["comedy"]}, now=NOW + 9)
    post(again, release, client, store)
    assert release.catalogue.row_of["n1"] == 40 and release.catalogue.titles[40:] == ["Renamed", "untitled"]
    assert release.posted_at_I[40] == NOW and len(release.catalogue) == 42 == release.index.item_count
    assert not (release.items[40] == before[0]).all() and (release.items[41] == before[1]).all()
    vector = release.items[[40], 8:].astype(np.float32)
    assert release.index.search(vector, 42)[1][0].tolist().count(40) == 1 and release.index.search(vector, 1)[1].tolist() == [[40]]
    assert [(item_id, json.loads(text)["title"]) for _, item_id, text in store.items_since()] == [("n2", "untitled"), ("n1", "Renamed")]
    assert release.catalogue.frame["title"].to_list()[40:] == ["Renamed", "untitled"]
    assert release.catalogue.available(np.array([40]), "FR").tolist() == [True]


def test_the_seal_on_disk_stays_intact_and_other_openings_see_nothing(written, client, store):
    one, other = Release.open(written), Release.open(written)
    post(posted(one, WHOLE), one, client, store)
    assert np.any(one.items[40]) and not np.any(other.items[40]) and "n1" not in other.catalogue.row_of
    assert Release.open(written).manifest == one.manifest  # every checksum still holds


def test_every_process_follows_and_one_that_starts_later_has_all(written, client, store):
    here, there = Release.open(written), Release.open(written)
    follower = NewItems(there, client, store, poll_s=0.02)
    follower.start()
    post(posted(here, {"item_id": "a"}, {"item_id": "b", "genres": ["drama"]}), here, client, store)
    wait_until(lambda: {"a", "b"} <= there.catalogue.row_of.keys())
    post(posted(here, {"item_id": "a", "title": "Anew"}), here, client, store)
    wait_until(lambda: "Anew" in there.catalogue.titles)
    follower.close()
    later = Release.open(written)
    late = NewItems(later, client, store)
    late.start()
    late.close()
    for other in (there, later):
        for item_id in ("a", "b"):
            mine, its = here.catalogue.row_of[item_id], other.catalogue.row_of[item_id]
            np.testing.assert_array_equal(here.items[mine], other.items[its])
            assert here.catalogue.posted(item_id) == other.catalogue.posted(item_id)
    assert later.catalogue.item_ids[40:] == ["b", "a"]  # rows are each process's own


def test_what_is_here_already_is_not_encoded_again(release, client, store, monkeypatch):
    post(posted(release, WHOLE, {"item_id": "n2"}), release, client, store)
    monkeypatch.setattr(new_items, "encode", lambda *_: pytest.fail("nothing is to be encoded"))
    assert NewItems(release, client, store).catch_up() == 0


def test_a_store_that_fails_is_said_once_and_tried_again(release, client, store, caplog):
    class Moody:
        calls = 0

        def items_since(self, sequence):
            self.calls += 1
            if self.calls in (2, 3, 4):
                raise StoreError("the store is away")
            return store.items_since(sequence)

    moody = Moody()
    follower = NewItems(release, client, moody, poll_s=0.02)
    follower.start()
    wait_until(lambda: follower.failing == "the store is away")
    store.put_items(texts(posted(release, {"item_id": "n1"})))
    wait_until(lambda: "n1" in release.catalogue.row_of and follower.failing is None)
    follower.close()
    assert caplog.text.count("the store is away") == 1


def test_without_triton_nothing_is_stored(release, store):
    with closing(Client("127.0.0.1:9", timeout_ms=1_000)) as nowhere, pytest.raises(TritonError):
        post(posted(release, WHOLE), release, nowhere, store)
    assert store.items_since() == [] and len(release.catalogue) == 40


def test_a_full_table_refuses_with_the_remedy_and_a_follower_counts_what_it_leaves_out(release, client, store, caplog):
    first = posted(release, *({"item_id": f"a{number}"} for number in range(28)))
    post(first, release, client, store)
    three = posted(release, *({"item_id": f"b{number}"} for number in range(3)))
    with pytest.raises(NoRoom, match=r"room for 2 items more, 3 were posted; export again"):
        post(three, release, client, store)
    assert len(store.items_since()) == 28
    with pytest.raises(NoRoom, match="room for 2 items more, 3 are"):
        release.add(three, np.zeros((3, 16), np.float16))
    store.put_items(texts(three))
    follower = NewItems(release, client, store)
    assert follower.catch_up() == 2 and follower.left_out == 1 and "no room for 1 posted" in caplog.text
    assert release.catalogue.room == 0 and follower.catch_up() == 0
    post(posted(release, {"item_id": "a3", "title": "Replaced in a full table"}), release, client, store)
    assert release.catalogue.titles[43] == "Replaced in a full table"


def test_what_a_later_release_sealed_is_what_it_knows_of_the_item(release, client, store):
    store.put_items({"i3": json.dumps({"item_id": "i3", "title": "Posted before it was sealed", "posted_at": 1})})
    assert NewItems(release, client, store).catch_up() == 0 and release.catalogue.titles[3] == "The 3th Käse"


def test_an_embedding_for_another_release_is_left_out_and_said(release, client, store, caplog):
    store.put_items({"n1": json.dumps({"item_id": "n1", "title": "t", "posted_at": 1, "content_embedding": [1.0, 2.0, 3.0]})})
    assert NewItems(release, client, store).catch_up() == 1
    assert "n1: its embedding of 3 numbers is left out" in caplog.text
    store.put_items({"n2": "{"})
    with pytest.raises(StoreError, match="damaged"):
        NewItems(release, client, store).catch_up()


def test_a_tower_that_gives_no_numbers_adds_nothing(release, store):
    class Diverged:
        @staticmethod
        def infer(spec, feature):
            return (np.full((len(feature), 16), np.nan, np.float16),)

    with pytest.raises(TritonError, match="no numbers for item 'n1'"):
        post(posted(release, WHOLE), release, Diverged, store)
    assert store.items_since() == [] and release.index.item_count == 40


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "item_id"),
        ({"item_id": "x"}, "title"),
        ({"item_id": "", "title": "t"}, "item_id"),
        ({"item_id": "x" * 300, "title": "t"}, "item_id"),
        ({"item_id": "x", "title": ""}, "title"),
        ({"item_id": "x", "title": "a\0b"}, "title"),
        ({"item_id": "x", "title": "t", "tags": ["ok", "a\0b"]}, "tags"),
        ({"item_id": "x", "title": "t", "genre": ["drama"]}, "genre"),
        ({"item_id": "x", "title": "t", "genres": "drama"}, "genres"),
        ({"item_id": "x", "title": "t", "genres": [""]}, "genres.0"),
        ({"item_id": "x", "title": "t", "release_date": 86400}, "release_date"),
        ({"item_id": "x", "title": "t", "release_date": "2023-02-29"}, "release_date"),
        ({"item_id": "x", "title": "t", "release_date": "20230228"}, "release_date"),
        ({"item_id": "x", "title": "t", "maturity": 22}, "maturity"),
        ({"item_id": "x", "title": "t", "maturity": 1.5}, "maturity"),
        ({"item_id": "x", "title": "t", "duration_seconds": -1}, "duration_seconds"),
        ({"item_id": "x", "title": "t", "content_embedding": [1, 2, 3]}, "content_embedding"),
        ({"item_id": "x", "title": "t", "content_embedding": []}, "content_embedding"),
        ({"item_id": "x", "title": "t", "content_embedding": [1, None]}, "content_embedding.1"),
        ({"item_id": "x", "title": "t", "posted_at": 5}, "posted_at"),
        ([], "body"),
        ("x", "body"),
        ([{"item_id": "x", "title": "t"}, 3], "[1]"),
        ([{"item_id": "x", "title": "t"}, {"item_id": "y"}], "[1].title"),
        ([{"item_id": "x", "title": "t"}, {"item_id": "x", "title": "u"}], "[1].item_id"),
        ([{"item_id": f"x{number}", "title": "t"} for number in range(101)], "body"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(release, body, field):
    with pytest.raises(InvalidRequest) as refused:
        parse(json.dumps(body).encode(), NOW, release)
    assert refused.value.field == field and str(refused.value).startswith(field)


def test_a_body_that_is_no_json_or_too_large_is_refused(release):
    for body in (b"{", b"", b'{"item_id": NaN}', b" " * (new_items.MAX_BODY_BYTES + 1)):
        with pytest.raises(InvalidRequest, match=r"^body"):
            parse(body, NOW, release)


def test_a_sealed_item_exists(release):
    with pytest.raises(Exists, match=r"item_id 'i3' exists in release v1"):
        parse(b'{"item_id": "i3", "title": "t"}', NOW, release)


word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
optional = {
    "genres": st.lists(word, max_size=3), "tags": st.lists(word, max_size=3), "release_date": st.dates().map(str), "creator": word,
    "franchise": word, "regions": st.lists(word, max_size=3), "maturity": st.integers(0, 21),
    "duration_seconds": st.floats(0, 1e9), "popularity_score": st.floats(-1e9, 1e9), "avg_rating": st.integers(-9, 9),
    "content_embedding": st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2),
}  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"item_id": word.map("new ".__add__), "title": word}, optional=optional))
def test_what_the_store_kept_is_read_as_it_was_posted(release, item):
    items = parse(json.dumps(item).encode(), NOW, release)
    assert read(list(texts(items).values()), release.recipe).equals(items)
    assert set(item) | {"posted_at"} == {name for name, value in items.row(0, named=True).items() if value is not None}


def test_readers_never_see_half_of_an_item(release, client, store):
    """While items are added one by one, whatever a reader finds, by vector or by id, has its title, its row and its arrays."""
    items = posted(release, *({"item_id": f"n{number}", "title": f"n{number}", "maturity": 7} for number in range(30)))
    row_NW = encode(items, release, client)
    query = row_NW[:1, 8:].astype(np.float32)
    done, wrong = threading.Event(), []

    def look():
        catalogue = release.catalogue
        while not done.is_set():
            for row in (*release.index.search(query, 70)[1][0].tolist(), *list(catalogue.row_of.values())[40:]):
                if row >= 40 and not (
                    catalogue.item_ids[row] == catalogue.titles[row] == f"n{row - 40}"
                    and catalogue.maturity_I[row] == 7
                    and np.any(release.items[row])
                    and len(catalogue.frame) > row
                ):
                    wrong.append(row)

    with ThreadPoolExecutor(3) as readers:
        looking = [readers.submit(look) for _ in range(3)]
        for number in range(30):
            release.add(items[number : number + 1], row_NW[number : number + 1])
            time.sleep(0.002)
        done.set()
        for reader in looking:
            reader.result()  # or what it stumbled over
    assert not wrong and len(release.catalogue) == 70


def test_what_add_cannot_take_it_takes_none_of(release, client):
    items = posted(release, {"item_id": "n1"}, {"item_id": "n2"})
    row = encode(items, release, client)
    twice = pl.concat([items[:1], items[:1]])
    sealed = items.with_columns(item_id=pl.Series(["n1", "i3"]))
    for frame, rows, word in (
        (items, row[:1], "expected finite"), (items, row.astype(np.float32), "expected finite"),
        (items, row * np.float16(np.nan), "expected finite"),
        (twice, row, "twice"), (sealed, row, "'i3' is one of the sealed"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            release.add(frame, rows)
    assert len(release.catalogue) == 40 == release.index.item_count and release.add(items[:0], row[:0]) == []


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
