"""A request on a real Triton: what is shown, in which order, why, and what is said when something is missing."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from serve import index
from serve.contract import Request
from serve.course import Policy
from serve.filters import MERE
from serve.limits import InvalidRequest
from serve.manifest import ReleaseError, seal
from serve.panel import BUDGETS, Budget
from serve.recommender import Recommender
from serve.release import Release
from serve.rules import Explore, Rules, Turn
from serve.scoring import Scorer
from serve.slate_log import logged
from serve.slates import UnknownItem, similar
from serve.sqlite_store import SqliteStore
from serve.store import Event, StoreError
from serve.triton import Client
from tests.engines import small_triton
from tests.releases import START_MS, write_release

NOW = START_MS + 20 * 3_600_000
PATIENT = {name: Budget(budget.candidates, 10_000) for name, budget in BUDGETS.items()}
SLOW = Policy(deadline_ms=30_000)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=60, width=8, seed=3))


@pytest.fixture(scope="module")
def url():
    return small_triton()


def histories(release, folder):
    store = SqliteStore(folder / "live.sqlite", now_ms=lambda: NOW)
    store.load_histories(release.path / "histories.parquet", release.path / "users.parquet", version=release.manifest.version)
    return store


@pytest.fixture
def recommender(release, url, tmp_path):
    with closing(Client(url, timeout_ms=10_000)) as client, closing(histories(release, tmp_path)) as store:
        made = Recommender.of(release, client, store=store, budgets=PATIENT, policy=SLOW)
        yield made
        made.panel.close()


def taken_up(store, user):
    """The items a user did more with than look at or skip."""
    history = store.read(user).history
    return {item for item, code in zip(history.item_ids, history.event_type_L, strict=True) if code not in MERE}


def ids(slate):
    return [shown.item_id for shown in slate.recommendations]


def test_the_library_needs_a_release_and_a_server_and_nothing_else(release, url):
    recommender = Recommender.load(release.path, url)
    slate = recommender.recommend(Request("u9", NOW, count=10))
    assert slate.model_version == "v1"
    assert slate.answered_by == "personalised"
    assert len(set(ids(slate))) == 10
    recommender.close()


@pytest.mark.parametrize("user", [f"u{number}" for number in range(10)])
@pytest.mark.parametrize("context", ["homepage", "search-empty"])
def test_nothing_watched_is_shown_again_and_nothing_twice(recommender, user, context):
    slate = recommender.recommend(Request(user, NOW, count=60, context=context))
    watched = taken_up(recommender.store, user)
    assert not watched & set(ids(slate))
    assert len(set(ids(slate))) == len(slate.recommendations) == 60 - len(watched)


def test_lambda_one_is_sorting_by_score_row_by_row_and_less_is_not(recommender):
    best_first = recommender.recommend(Request("u7", NOW, count=30, mmr_lambda=1.0)).recommendations
    for row in {shown.row for shown in best_first}:
        scores = [shown.score for shown in best_first if shown.row == row]
        assert scores == sorted(scores, reverse=True)
    assert best_first[0].score == max(shown.score for shown in best_first)
    varied = [shown.score for shown in recommender.recommend(Request("u7", NOW, count=30, mmr_lambda=0.3)).recommendations]
    assert varied[0] == best_first[0].score
    assert varied != sorted(varied, reverse=True)


@pytest.mark.parametrize("diversity", ["dpp", "calibrated"])
def test_other_ways_to_variety_give_other_pages_of_the_same_items_scores(recommender, diversity):
    usual = {shown.item_id: shown.score for shown in recommender.recommend(Request("u9", NOW, count=60)).recommendations}
    other = recommender.recommend(Request("u9", NOW, count=20, mmr_lambda=0.3, diversity=diversity))
    assert len(set(ids(other))) == 20
    assert ids(other) != ids(recommender.recommend(Request("u9", NOW, count=20, mmr_lambda=0.3)))
    for shown in other.recommendations:
        assert shown.score == pytest.approx(usual[shown.item_id], abs=1e-6)


def test_the_score_is_the_relevance_head_of_the_ranker_on_the_query_of_the_user(recommender, release):
    slate = recommender.recommend(Request("u5", NOW, count=60))
    history = recommender.store.read("u5").history
    age = (NOW - history.timestamp_L) // 60_000
    row_L = release.catalogue.rows(history.item_ids)
    query = (release.items[row_L, :8].astype(np.float64) / (1 + age / 1440)[:, None]).sum(0)
    query /= np.linalg.norm(query)
    for shown in slate.recommendations:
        row = release.catalogue.row_of[shown.item_id]
        popularity, _ = release.clock.before(np.array([row]), np.array([NOW // 3_600_000]))
        logit = 3 * query @ release.items[row, :8].astype(np.float64) + 0.1 * np.log1p(popularity[0]) - 1
        assert shown.score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)


def test_a_time_before_the_logs_end_is_another_hour_and_not_another_popularity(recommender):
    end = recommender.last_hour * 3_600_000
    now, then = (recommender.recommend(Request("u7", end - days * 86_400_000, count=20)) for days in (0, 7))
    assert ids(now) == ids(then) and [one.score for one in now.recommendations] == [one.score for one in then.recommendations]


def test_an_event_changes_the_very_next_answer(recommender):
    before = recommender.recommend(Request("newcomer", NOW, count=5))
    assert before.answered_by == "popular"
    assert {shown.row for shown in before.recommendations} == {"Popular now"}
    liked = ids(before)[0]
    recommender.store.append([Event("e1", "newcomer", liked, "complete", NOW - 1000)])
    after = recommender.recommend(Request("newcomer", NOW, count=5))
    assert after.answered_by == "personalised"
    assert liked not in ids(after)
    assert ids(after) != ids(before)
    assert after.dropped["already watched"] == 1


def test_an_event_of_an_item_that_left_the_catalogue_is_left_out_and_counted(recommender):
    recommender.store.append([Event("e2", "nostalgic", "gone", "watch", NOW - 5), Event("e3", "nostalgic", "i5", "watch", NOW - 4)])
    slate = recommender.recommend(Request("nostalgic", NOW, count=5))
    assert slate.answered_by == "personalised"
    assert slate.dropped["event of an unknown item"] == 1


def test_continue_shows_what_was_begun_first_and_then_what_is_new(recommender):
    events = [("a", "i10", "watch"), ("b", "i11", "complete"), ("c", "i12", "watch")]
    recommender.store.append([Event(name, "halfway", item, kind, NOW - 9 + place) for place, (name, item, kind) in enumerate(events)])
    slate = recommender.recommend(Request("halfway", NOW, count=12, context="continue"))
    assert set(ids(slate)[:2]) == {"i10", "i12"}
    assert [shown.row == "Continue watching" for shown in slate.recommendations] == [True] * 2 + [False] * 10
    assert "i11" not in ids(slate)


def test_beside_an_item_stand_its_neighbours_and_never_itself(recommender, release):
    slate = recommender.recommend(Request("u0", NOW, count=60, context="item", item_id="i2"))
    assert "i2" not in ids(slate)
    assert len(slate.recommendations) == 59
    assert {shown.row for shown in slate.recommendations} == {"More like The 2th Käse"}
    near = similar(recommender, "i2", 5)
    cosine_I = release.items[:60, 8:].astype(np.float32) @ release.items[2, 8:].astype(np.float32)
    assert ids(near) == [f"i{row}" for row in np.argsort(-cosine_I)[1:6]]
    assert [shown.score for shown in near.recommendations] == pytest.approx(np.sort(cosine_I)[::-1][1:6], abs=2e-3)


@pytest.fixture
def orthogonal(recommender, release):
    """Items 0 to 3 are four directions; items 4, 5, 6, … point where 0, 1, 2, 3, 0, … point. A query is what was touched."""
    vector_ID = np.eye(8, dtype=np.float16)[np.arange(60) % 4]
    rows = np.concatenate([vector_ID, vector_ID], axis=1)
    crafted = dataclasses.replace(release, items=rows, index=index.exact(vector_ID))
    made = Recommender.of(crafted, recommender.scorer.client, store=recommender.store, budgets=PATIENT, policy=SLOW)
    yield made
    made.panel.close()


def test_the_reason_is_the_one_item_without_which_the_score_would_fall(orthogonal):
    orthogonal.store.append([Event(f"o{row}", "three", f"i{row}", "watch", NOW - 5) for row in (0, 2, 3)])
    slate = orthogonal.recommend(Request("three", NOW, count=57))
    titles = orthogonal.release.catalogue.titles
    for shown in slate.recommendations:
        cause = orthogonal.release.catalogue.row_of[shown.item_id] % 4
        assert shown.reason.startswith("Because") == (cause != 1)
        assert cause == 1 or shown.reason == f"Because you watched {titles[cause]}"


def test_who_only_skipped_something_is_told_no_reason_by_it(orthogonal):
    orthogonal.store.append([Event("s0", "skipper", "i0", "skip", NOW - 5), Event("s2", "skipper", "i2", "watch", NOW - 5)])
    slate = orthogonal.recommend(Request("skipper", NOW, count=57))
    assert {shown.reason for shown in slate.recommendations if shown.reason.startswith("Because")} == {
        f"Because you watched {orthogonal.release.catalogue.titles[2]}"
    }
    assert "i0" in ids(slate)  # once is not twice
    orthogonal.store.append([Event("s1", "skipper", "i0", "skip", NOW - 4)])
    again = orthogonal.recommend(Request("skipper", NOW, count=57))
    assert "i0" not in ids(again)
    assert again.dropped["not wanted"] == 1


def test_a_late_source_is_missing_by_name_and_the_page_is_there(recommender, release, monkeypatch):
    never, search = threading.Event(), index.Index.search
    slow = dataclasses.replace(release, index=dataclasses.replace(release.index))
    monkeypatch.setattr(index.Index, "search", lambda self, *asked: never.wait(10) if self is slow.index else search(self, *asked))
    impatient = Recommender.of(
        slow, recommender.scorer.client, store=recommender.store, policy=SLOW,
        budgets=PATIENT | {"collaborative": Budget(10, 50), "because": Budget(10, 50)},
    )  # fmt: skip
    slate = impatient.recommend(Request("u5", NOW, count=5))
    never.set()
    assert slate.answered_by == "personalised (without collaborative, because)"
    assert slate.dropped["source collaborative: late"] == 1
    assert len(slate.recommendations) == 5
    impatient.panel.close()


def test_without_triton_the_page_is_what_is_trending_here_then_popular_and_says_so(recommender, release):
    with closing(Client("127.0.0.1:9", timeout_ms=1_000)) as nowhere:
        alone = Recommender.of(release, nowhere, store=recommender.store, budgets=PATIENT, policy=SLOW)
        slate = alone.recommend(Request("u9", NOW, count=40))
        beside = alone.recommend(Request("u9", NOW, count=8, context="item", item_id="i3"))
        alone.panel.close()
    assert slate.answered_by == "trending (ranking unavailable)"
    assert slate.dropped["ranking unavailable"] == 1
    assert not taken_up(recommender.store, "u9") & set(ids(slate))
    rising = [shown for shown in slate.recommendations if shown.reason == "Trending in DE"]
    rows = [release.catalogue.row_of[shown.item_id] for shown in rising]
    assert rows == sorted(rows, reverse=True)
    assert rows
    assert all(row % 2 == 0 for row in rows)  # as tests.releases has it trend
    rest = slate.recommendations[len(rising) :]
    assert {(shown.reason, shown.score) for shown in rest} == {("Popular right now", None)}
    popularity, _ = release.clock.before(np.arange(60), np.full(60, NOW // 3_600_000))
    shown = [popularity[release.catalogue.row_of[shown.item_id]] for shown in rest]
    assert shown == sorted(shown, reverse=True)
    assert beside.answered_by == "similar (ranking unavailable)"
    watched = taken_up(recommender.store, "u9")
    assert ids(beside) == [item for item in ids(similar(recommender, "i3", 30)) if item not in watched][:8]


def test_a_precomputed_slate_is_the_next_best_when_models_are_away(recommender, release):
    recommender.store.put_precomputed({"u9": recommender.ahead("u9", NOW - 3_600_000)})
    with closing(Client("127.0.0.1:9", timeout_ms=1_000)) as nowhere:
        alone = Recommender.of(release, nowhere, store=recommender.store, budgets=PATIENT, policy=SLOW)
        slate = alone.recommend(Request("u9", NOW, count=8, live=True))
        alone.panel.close()
    assert slate.answered_by == "precomputed (ranking unavailable)"
    assert all(shown.score is not None for shown in slate.recommendations)
    assert len(ids(slate)) == 8


def test_who_did_nothing_since_gets_the_precomputed_slate_and_who_did_a_live_one(recommender):
    live = recommender.recommend(Request("u9", NOW, count=10, request_id="r"))
    recommender.store.put_precomputed({"u9": recommender.ahead("u9", NOW - 60_000)})
    before = recommender.recommend(Request("u9", NOW, count=10, request_id="r"))
    assert (live.answered_by, before.answered_by) == ("personalised", "precomputed")
    assert set(ids(before)) == set(ids(live))
    assert "user_tower" not in before.stage_ms
    assert recommender.recommend(Request("u9", NOW, count=10, live=True)).answered_by == "personalised"
    seen = ids(before)[0]
    recommender.store.append([Event("w1", "u9", seen, "complete", NOW - 1)])
    after = recommender.recommend(Request("u9", NOW, count=10))
    assert after.answered_by == "personalised"
    assert seen not in ids(after)


class Away(SqliteStore):
    def read(self, user_id):
        raise StoreError("away; start it")


def test_without_the_store_the_page_is_nobodys_and_says_so(recommender, release, tmp_path):
    away = Recommender.of(release, recommender.scorer.client, store=Away(tmp_path / "x.sqlite"), budgets=PATIENT, policy=SLOW)
    slate = away.recommend(Request("u9", NOW, count=5))
    away.panel.close()
    assert slate.answered_by == "popular (without history)"
    assert slate.dropped["history unavailable"] == 1
    assert len(ids(slate)) == 5


@pytest.mark.parametrize(("numbers", "by"), [(0, "trending (ranking unavailable)"), (3, "personalised")])
def test_a_ranker_that_gives_no_number_does_not_break_the_page_nor_hide(recommender, monkeypatch, numbers, by):
    def broken(self, query_BD, history, moment, row_K, now):
        value_K = np.where(np.arange(len(row_K)) < numbers, 0.5, np.nan)
        return np.tile(value_K[None, :, None], (len(query_BD), 1, 6))

    monkeypatch.setattr(Scorer, "values", broken)
    slate = recommender.recommend(Request("u5", NOW, count=5))
    assert (slate.answered_by, len(slate.recommendations)) == (by, numbers or 5)
    lost = {"score is not a number": 60 - len(taken_up(recommender.store, "u5")) - 3} if numbers else {"ranking unavailable": 1}
    assert {name: count for name, count in slate.dropped.items() if name != "already watched"} == lost


def test_young_people_are_shown_what_was_made_for_them_and_places_what_is_sold_there(recommender, monkeypatch):
    catalogue = recommender.release.catalogue
    maturity_I, of_age = catalogue.maturity_I.copy(), np.arange(60) % 3 > 0
    maturity_I[:60][~of_age] = 18
    monkeypatch.setattr(catalogue, "maturity_I", maturity_I)
    slate = recommender.recommend(Request("u3", NOW - 20 * 365 * 86_400_000, count=60))  # born in 1983, so of about 20 then
    assert "made for older people" not in slate.dropped
    slate = recommender.recommend(Request("u3", NOW - 25 * 365 * 86_400_000, count=60))
    assert slate.dropped["made for older people"] > 10
    assert all(of_age[catalogue.row_of[item]] for item in ids(slate))
    monkeypatch.setattr(type(catalogue), "available", lambda self, row_K, region: row_K % 2 == (region == "FR"))
    here = recommender.recommend(Request("u3", NOW, count=60, region="FR"))
    assert all(catalogue.row_of[item] % 2 for item in ids(here))
    assert here.dropped["not available in the region"] > 20


def test_an_item_shown_too_often_rests(release, recommender, tmp_path):
    tired = dataclasses.replace(recommender, policy=Policy(Rules(shown_most=2), deadline_ms=30_000))
    first = tired.recommend(Request("u6", NOW, count=5))
    for number in range(2):
        tired.store.log_slates(
            [logged(Request("u6", NOW, request_id=f"s{number}"), dataclasses.replace(first, request_id=f"s{number}"), "champion")]
        )
    after = tired.recommend(Request("u6", NOW, count=60))
    assert not set(ids(first)) & set(ids(after))
    assert after.dropped["shown often enough"] == 5


def test_turns_and_explore_slots_are_where_the_rules_have_them(recommender):
    rules = Rules(turns={"trending": Turn(4, 2)}, explore=Explore((3,), 1.0), new_days=0.0)
    ruled = dataclasses.replace(recommender, policy=Policy(rules, deadline_ms=30_000))
    slate = ruled.recommend(Request("u9", NOW, count=12, request_id="r1"))
    rising = [shown for shown in slate.recommendations if shown.row == "Trending in DE"]
    assert len(rising) == 3
    assert all("trending" in shown.sources for shown in rising)
    (slot,) = slate.draw.slots
    assert slate.draw.drawn == (ids(slate)[slot],)
    assert "explore" in slate.recommendations[slot].sources
    assert len(slate.draw.pool) >= 10
    assert not set(slate.draw.pool) & (set(ids(slate)) - {ids(slate)[slot]})
    others = {ruled.recommend(Request("u9", NOW, count=12, request_id=f"r{number}")).draw.drawn for number in range(12)}
    assert len(others) > 3


def test_answers_of_the_quiz_stand_in_for_a_history_and_make_room_for_it(recommender, release):
    recommender.store.put_answers("quizzed", [("i0", True), ("i2", True), ("i1", False)])
    slate = recommender.recommend(Request("quizzed", NOW, count=10))
    assert slate.answered_by == "personalised"
    likes_0 = release.items[:60, 8:].astype(np.float32) @ release.items[0, 8:].astype(np.float32)
    liked, all_of_them = [likes_0[release.catalogue.row_of[item]] for item in ids(slate)], likes_0.mean()
    assert np.mean(liked) > all_of_them + 0.1


def test_whoever_watched_everything_gets_an_empty_page(recommender):
    recommender.store.append([Event(f"all{row}", "everything", f"i{row}", "complete", NOW - 100 + row) for row in range(60)])
    slate = recommender.recommend(Request("everything", NOW))
    assert (slate.recommendations, slate.answered_by, slate.dropped["already watched"]) == ((), "personalised", 60)


def test_threads_get_the_answers_they_would_get_alone(recommender):
    requests = [Request(f"u{number % 10}", NOW, count=20) for number in range(40)]
    alone = [ids(recommender.recommend(request)) for request in requests[:10]]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda request: ids(recommender.recommend(request)), requests))
    assert together == alone * 4


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("count", {"count": 0}),
        ("count", {"count": 201}),
        ("user_id", {"user_id": ""}),
        ("user_id", {"user_id": "ü" * 129}),
        ("user_id", {"user_id": "a\0"}),
        ("user_id", {"user_id": "\ud800"}),
        ("lambda", {"mmr_lambda": float("nan")}),
        ("time", {"timestamp": -1}),
        ("context", {"context": "kitchen"}),
        ("item_id", {"context": "item"}),
        ("item_id", {"item_id": "i1"}),
        ("region", {"region": ""}),
        ("diversity", {"diversity": "random"}),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(recommender, field, change):
    with pytest.raises(InvalidRequest, match=f"^{field} ") as refused:
        recommender.recommend(dataclasses.replace(Request("u1", NOW), **change))
    assert refused.value.field == field


def test_an_unknown_item_is_named(recommender):
    with pytest.raises(UnknownItem, match=r"'i999' in the catalogue of release v1"):
        similar(recommender, "i999", 3)
    with pytest.raises(UnknownItem, match="'i999'"):
        recommender.recommend(Request("u1", NOW, context="item", item_id="i999"))


def golden_of(recommender, user):
    request = Request(user, NOW, count=10, request_id=f"golden-{user}")
    history = recommender.store.read(user).history
    told = {name: getattr(history, name) for name in history.__slots__}
    told = {name: list(values) if name == "item_ids" else values.tolist() for name, values in told.items()}
    told["rating_L"] = [None if np.isnan(rating) else rating for rating in told["rating_L"]]
    fields = dataclasses.asdict(recommender.store.read(user).fields)
    return {"request": dataclasses.asdict(request), "history": told, "fields": fields, "item_ids": ids(recommender.recommend(request))}


def test_whole_answers_recorded_at_export_must_come_back(recommender, url, tmp_path):
    folder = write_release(tmp_path / "v1", items=60, width=8, seed=3)
    golden = [golden_of(recommender, user) for user in ("u0", "u4", "u9")]
    manifest = {
        name: value for name, value in json.loads((folder / "manifest.json").read_text()).items() if name not in ("files", "checksum")
    }
    (folder / "golden.json").write_text(json.dumps(golden))
    seal(folder, manifest)
    Recommender.load(folder, url).close()
    golden[1]["item_ids"] = [*golden[2]["item_ids"][:7], "i0", "i1", "i2"]
    (folder / "golden.json").write_text(json.dumps(golden))
    seal(folder, manifest)
    with pytest.raises(ReleaseError, match=r"golden\.json has another answer to golden-u4"):
        Recommender.load(folder, url)
