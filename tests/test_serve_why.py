"""Why an item is on a page and another is not: verdict and numbers agree with what can be found out without asking."""

import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest

from serve.contract import Request
from serve.course import Policy
from serve.panel import BUDGETS, LIMIT, Budget
from serve.recommender import Recommender
from serve.release import Release
from serve.rules import Boost, Rules, Turn
from serve.slates import UnknownItem, passing_store
from serve.sources import resting
from serve.store import Event
from serve.tally import Tally
from serve.triton import Client
from serve.why import why
from tests.engines import small_triton
from tests.erasure import NOW, WIDTH, by_formula, left_out
from tests.releases import heads, write_release

PATIENT = {name: Budget(budget.candidates, 20_000) for name, budget in BUDGETS.items()}
EVENTS = [(4, "watch", 90), (17, "complete", 60), (30, "skip", 50), (41, "watch", 24), (9, "not_interested", 20), (22, "click", 2)]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=60, width=WIDTH, seed=3))


@pytest.fixture(scope="module")
def client():
    with closing(Client(small_triton(), timeout_ms=20_000)) as client:
        yield client


@pytest.fixture
def made(release, client):
    """What makes a recommender of rules, budgets and sources; "me" did `EVENTS`."""
    opened = []

    def of(rules=None, *, budgets=PATIENT, sources=None, release=release):
        store = passing_store(release)
        told = [Event(f"e{n}", "me", f"i{row}", name, NOW - hours * 3_600_000) for n, (row, name, hours) in enumerate(EVENTS)]
        store.append(told)
        recommender = Recommender.of(release, client, store=store, budgets=budgets, policy=Policy(rules or Rules()), sources=sources)
        opened.append((recommender, store))
        return recommender

    yield of
    for recommender, store in opened:
        recommender.panel.close()
        store.close()


def ask(recommender, item, **request):
    told = why(recommender, Request("me", NOW, **request), recommender.store.read("me"), item)
    assert json.loads(json.dumps(told, allow_nan=False)) == told  # an HTTP answer as it is
    return told


def slate(recommender, **request):
    """The slate in the order of choice, by item id: (score, sources). Nothing is made of rows: context=search-empty keeps the order."""
    course = recommender.course(Request("me", NOW, **request), recommender.store.read("me"), Tally())
    ids = [recommender.release.catalogue.item_ids[row] for row in course.scored.item_row_K[course.page.order_N]]
    return ids, course


def test_of_a_shown_item_everything_agrees_with_the_slate_and_the_formula(made, release):
    recommender = made(Rules(boosts={"all": Boost(0.5), "western": Boost(1.0, genre="western")}))
    ids, course = slate(recommender, count=8)
    served = recommender.answer(Request("me", NOW, count=8), recommender.store.read("me"), Tally())
    assert {shown.item_id for shown in served.recommendations} == set(ids)
    for shown in served.recommendations:
        told, row = ask(recommender, shown.item_id, count=8), release.catalogue.row_of[shown.item_id]
        place = ids.index(shown.item_id) + 1
        assert told["verdict"] == f"It is on the page, at place {place} of the slate, by worth and variety."
        assert (told["place"], told["place_given_by"], told["cap"], told["title"]) == (place, "worth and variety", None, shown.title)
        assert {name for name, at in told["sources"].items() if at is not None} == set(shown.sources)
        probability = by_formula(release, EVENTS, np.array([row]))[0]
        assert told["probability"] == told["heads"]["value"] == pytest.approx(probability, abs=1e-4)
        assert told["heads"] == pytest.approx(heads(probability), rel=1e-3)
        western = 2.0 if release.catalogue.bears("western", np.array([row]))[0] else 1.0
        assert told["boosts"] == {"all": 1.5, "western": western}
        assert told["worth"] == pytest.approx(1.5 * western * probability, abs=3e-4)
        assert told["rank"] == 1 + sum(worth > told["worth"] for worth in course.scored.worth_K.tolist())
        assert all(told["filters"].values()) and told["model_version"] == "v1"


def test_a_sources_place_is_the_place_at_which_it_proposed_the_item(made):
    recommender = made()
    request, known = Request("me", NOW, count=5), recommender.store.read("me")
    course = recommender.course(request, known, Tally())
    names, share_of = recommender.asked(request, course.who, 0)
    asked = recommender.ask(request, course.who, course.query_BD)
    item = int(course.scored.item_row_K[course.page.order_N[0]])
    told = ask(recommender, f"i{item}", count=5)["sources"]
    assert set(told) == set(names)
    for name in names:
        proposed = recommender.panel.alone(name, asked, share_of).tolist()
        assert told[name] == (proposed.index(item) + 1 if item in proposed else None)
    assert any(place is not None for place in told.values())


def test_contributions_are_what_is_lost_without_each_item_of_the_history(made, release):
    told = ask(made(), "i50")["contributions"]
    items, loss_NX = left_out(release, EVENTS, np.array([50]))
    expected = {f"i{item}": loss for item, loss in zip(items, loss_NX[0], strict=True)}
    assert {one["item_id"]: one["loss"] for one in told} == pytest.approx(expected, abs=2e-4)
    assert [one["loss"] for one in told] == sorted((one["loss"] for one in told), reverse=True)
    assert [one["title"] for one in told] == [release.catalogue.titles[int(one["item_id"][1:])] for one in told]


def test_the_step_of_variety_its_likeness_and_its_score(made, release):
    recommender = made()
    _, course = slate(recommender, count=6, mmr_lambda=0.4)
    vector_KD = np.asarray(release.items)[course.scored.item_row_K, WIDTH:].astype(np.float64)
    vector_KD /= np.linalg.norm(vector_KD, axis=1, keepdims=True)
    chosen: list[int] = []
    for step in range(6):  # the greedy choice, anew
        closest_K = (vector_KD @ vector_KD[chosen].T).max(1) if chosen else np.zeros(len(vector_KD))
        score_K = 0.4 * course.scored.worth_K - 0.6 * closest_K
        score_K[chosen] = -np.inf
        chosen.append(int(score_K.argmax()))
        told = ask(recommender, f"i{course.scored.item_row_K[chosen[-1]]}", count=6, mmr_lambda=0.4)
        assert told["diversity"]["method"] == "mmr" and told["diversity"]["step"] == told["place"] == step + 1
        assert told["diversity"]["similarity"] == pytest.approx(closest_K[chosen[-1]], abs=1e-4)
        assert told["diversity"]["score"] == pytest.approx(score_K[chosen[-1]], abs=1e-4)


@pytest.mark.parametrize(
    ("item", "reason"),
    [("i4", "already watched"), ("i17", "already watched"), ("i22", "already watched"), ("i9", "not wanted")],
)
def test_what_a_filter_left_out(made, item, reason):
    told = ask(made(), item)
    assert told["verdict"] == f"It was left out: {reason}."
    assert [name for name, passed in told["filters"].items() if not passed] == [reason]
    assert told["place"] is told["rank"] is told["worth"] is told["boosts"] is None
    assert told["probability"] is not None and told["contributions"]  # what the models say of it is told all the same


def test_what_no_source_proposed_was_never_ranked(made, release):
    recommender = made(budgets={name: Budget(2, 20_000) for name in BUDGETS})
    course = recommender.course(Request("me", NOW), recommender.store.read("me"), Tally())
    left = sorted(set(range(60)) - set(course.proposed.item_row_K.tolist()))
    assert left
    told = ask(recommender, f"i{left[0]}")
    assert told["verdict"] == "No source proposed it, so it was never ranked."
    assert set(told["sources"].values()) == {None} and told["filters"] is None
    assert told["probability"] == pytest.approx(by_formula(release, EVENTS, np.array(left[:1]))[0], abs=1e-4)


def test_what_a_cap_held_back(made, release):
    recommender = made(Rules(caps={"genre": 1}))
    ids, course = slate(recommender, count=12, mmr_lambda=1.0)
    genre_IG = release.catalogue.genre_IG
    taken_G = genre_IG[[release.catalogue.row_of[item] for item in ids]].sum(0)
    assert taken_G.max() == 1
    worth_of = dict(zip(course.scored.item_row_K.tolist(), course.scored.worth_K.tolist(), strict=True))
    last = min(worth_of[release.catalogue.row_of[item]] for item in ids)
    held = [row for row, worth in worth_of.items() if worth > last and f"i{row}" not in ids]
    assert held  # better than what stands last, and of a genre that is full
    for row in held:
        assert (genre_IG[row] * taken_G).any()
        told = ask(recommender, f"i{row}", count=12, mmr_lambda=1.0)
        assert told["verdict"] == "The cap on one genre held it back." and told["cap"] == "genre" and told["place"] is None


def test_what_ranks_too_low_or_comes_too_late(made, release):
    recommender = made()
    _, course = slate(recommender, count=3, mmr_lambda=1.0)
    order = course.scored.item_row_K[np.argsort(-course.scored.worth_K, kind="stable")].tolist()
    told = ask(recommender, f"i{order[-1]}", count=3, mmr_lambda=1.0)
    assert told["rank"] == len(order) and told["place"] is told["diversity"] is None
    assert told["verdict"].startswith(f"It ranks {len(order)} of {len(order)} by worth")
    told = ask(recommender, f"i{order[5]}", count=3, mmr_lambda=1.0)
    assert told["rank"] == told["diversity"]["step"] == 6
    assert told["verdict"] == "mmr would have it at step 6, behind the 3 that were shown."


def test_what_turns_and_reserved_places_left_no_place_for(made):
    recommender = made(Rules(turns={"trending": Turn(1, 1)}))
    ids, course = slate(recommender, count=4, mmr_lambda=1.0)
    best = [int(course.scored.item_row_K[position]) for position in course.page.main.order_N[:4]]
    pushed = [row for row in best if f"i{row}" not in ids]
    assert pushed
    told = ask(recommender, f"i{pushed[0]}", count=4, mmr_lambda=1.0)
    assert told["verdict"].startswith(f"mmr would have it at step {best.index(pushed[0]) + 1}, but turns of other kinds")
    assert ask(recommender, ids[0], count=4, mmr_lambda=1.0)["place_given_by"] == "trending"


class Broken:
    name = "trending"

    def propose(self, ask, count):
        raise ArithmeticError("no trends today")


def test_step_by_step_what_was_chosen_scored_no_less_than_the_item_would_have(made):
    recommender = made()
    ids, course = slate(recommender, count=8)
    last = next(
        recommender.release.catalogue.item_ids[row]
        for row in course.scored.item_row_K
        if row not in recommender.release.catalogue.rows(ids)
    )
    for item in (ids[4], last):
        told = ask(recommender, item, count=8)
        steps = told["steps"]
        assert [step["item_id"] for step in steps] == ids[: len(steps)]
        assert len(steps) == (5 if item == ids[4] else 8)
        assert all(step["score"] >= step["this_item"] - 1e-5 for step in steps)
        assert (abs(steps[-1]["score"] - steps[-1]["this_item"]) < 1e-5) == (item == ids[4])
        assert steps[0]["this_item"] == pytest.approx(0.7 * told["worth"], abs=1e-6)
    assert {step["this_item"] for step in ask(recommender, last, count=8, diversity="dpp")["steps"]} == {None}


def test_a_source_that_failed_is_said_to_have(made, release):
    sources = [Broken() if source.name == "trending" else source for source in resting(release)]
    recommender = made(sources=sources)
    ids, _ = slate(recommender, count=3)
    told = ask(recommender, ids[0], count=3)
    assert told["sources"]["trending"] == "failed" and told["sources"]["collaborative"] is not None


def test_an_item_of_which_the_ranker_says_nothing_has_no_place(made, tmp_path):
    release = Release.open(write_release(tmp_path / "v1", items=60, width=WIDTH, seed=3))
    recommender = made(release=release)
    assert "i50" in slate(recommender, count=60)[0]
    release.items[50, :WIDTH] = np.nan  # this process's own copy; the index still finds it
    told = ask(recommender, "i50", count=60)
    assert told["verdict"] == "The ranker gave it no number, so it has no place."
    assert told["probability"] is None and set(told["heads"].values()) == {None} and told["rank"] is None


def test_a_head_that_no_label_taught_says_nothing(made, tmp_path):
    release = Release.open(write_release(tmp_path / "v1", items=60, width=WIDTH, seed=3))
    taught = dataclasses.replace(release, manifest=dataclasses.replace(release.manifest, learned=("click", "value")))
    told = ask(made(release=taught), "i50", count=60)
    assert {name for name, value in told["heads"].items() if value is not None} == {"click", "value"} and told["probability"] is not None


def test_an_item_cut_because_too_many_were_proposed_is_said_to_be(made, tmp_path):
    release = Release.open(write_release(tmp_path / "v1", items=LIMIT + 200, width=WIDTH, seed=3))
    recommender = made(release=release, budgets={name: Budget(LIMIT + 200, 60_000) for name in BUDGETS})
    course = recommender.course(Request("me", NOW, count=5), recommender.store.read("me"), Tally())
    cut = sorted(set(range(LIMIT + 200)) - set(course.proposed.item_row_K.tolist()))
    assert len(course.proposed.item_row_K) == LIMIT and len(cut) == 200
    told = ask(recommender, f"i{cut[0]}", count=5)
    assert told["verdict"] == "It was proposed, but behind the 1,000 that are ranked at most." and told["rank"] is None


def test_of_an_unknown_item_nothing_can_be_said(made):
    with pytest.raises(UnknownItem, match="'i60'"):
        ask(made(), "i60")


def test_a_stranger_has_no_contributions_and_is_asked_fewer_sources(made):
    recommender = made()
    told = why(recommender, dataclasses.replace(Request("me", NOW), user_id="stranger"), recommender.store.read("stranger"), "i7")
    assert told["contributions"] == [] and set(told["sources"]) == {"trending", "popular", "editorial", "explore"}
