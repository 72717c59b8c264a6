"""The arrangement's laws: sorting where nothing asks for more, reserved places, caps, turns, and the shorter page begins the longer."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import Vocabulary
from data.schema import ITEMS
from serve import page, serendipity
from serve.catalogue import Catalogue
from serve.contract import Request
from serve.page import SPARE, Scored, arrange
from serve.rules import DAY_MS, KINDS, Rules, Turn, is_new

NOW = 20_000 * DAY_MS
GENRES = ("comedy", "drama", "western")
SOURCES = ("trending", "popular", "begun")


def catalogue_of(rng, items: int, makers: int) -> Catalogue:
    columns = {
        "item_id": [f"i{row}" for row in range(items)],
        "genres": [list(rng.choice(GENRES, size=rng.integers(3), replace=False)) for _ in range(items)],
        "release_date": [None if rng.random() < 0.2 else 20_000 - int(rng.integers(60)) for _ in range(items)],
        "creator": [None if rng.random() < 0.3 else f"c{rng.integers(makers)}" for _ in range(items)],
        "franchise": [None if rng.random() < 0.7 else f"f{rng.integers(makers)}" for _ in range(items)],
    }
    frame = pl.DataFrame(columns, schema_overrides={"genres": pl.List(pl.String), "release_date": pl.Int32, "creator": pl.String,
                                                    "franchise": pl.String}).cast({"release_date": pl.Date})  # fmt: skip
    missing = [pl.lit(None, column.dtype).alias(name) for name, column in ITEMS.items() if name not in frame.columns]
    return Catalogue(frame.with_columns(missing).select(*ITEMS), Vocabulary(GENRES))


@st.composite
def case(draw, least=0):
    """A catalogue larger than its candidates, what was proposed by whom, and rules: all of them random, caps tight."""
    rng, count = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.integers(least, 90))
    catalogue = catalogue_of(rng, count + 5, draw(st.integers(1, 20)))
    probability_K = rng.random(count).astype(np.float32)
    scored = Scored(
        rng.permutation(count + 5)[:count],
        probability_K,
        probability_K * np.float32(rng.choice([1, 1.5], count)),
        rng.normal(size=(count, 4)).astype(np.float16),
        {name: rng.random(count) < 0.3 for name in SOURCES[:2]} | {"begun": np.zeros(count, bool)},
    )
    kinds = draw(st.lists(st.sampled_from(KINDS), unique=True))
    capped = draw(st.lists(st.sampled_from(("genre", "creator", "franchise")), unique=True))
    policy = Rules(
        turns={kind: Turn(draw(st.integers(1, 12)), draw(st.integers(1, 12))) for kind in kinds},
        caps={name: draw(st.integers(1, 8)) for name in capped},
    )
    places = draw(st.lists(st.integers(1, 40), unique=True, max_size=4))
    reserved = dict(zip(places, rng.permutation(count + 5)[: len(places)].tolist(), strict=True))
    return scored, catalogue, policy, reserved, rng.normal(size=(draw(st.integers(0, 5)), 4))


def arranged(told, **request):
    scored, catalogue, policy, reserved, history_vector_ED = told
    asked = Request("u", NOW, **request)
    share_G = np.array([0.5, 0.5, 0.0], np.float32)
    return arrange(scored, catalogue, policy, asked, reserved=reserved, share_G=share_G, history_vector_ED=history_vector_ED, now=NOW)


@settings(max_examples=40, deadline=None)
@given(case(), st.integers(1, 120))
def test_with_nothing_else_to_heed_it_is_sorting_by_worth(told, count):
    scored, catalogue, _, _, history = told
    made = arranged((scored, catalogue, Rules(), {}, history), count=count, mmr_lambda=1.0)
    assert made.order_N.tolist() == np.argsort(-scored.worth_K, kind="stable")[:count].tolist()
    assert set(made.kind_N) <= {""} and not made.held and not made.skipped


@settings(max_examples=40, deadline=None)
@given(case(), st.integers(1, 120), st.sampled_from(["mmr", "dpp", "calibrated"]), st.sampled_from(["homepage", "search-empty"]))
def test_each_item_once_and_as_many_as_there_are(told, count, diversity, context):
    made = arranged(told, count=count, diversity=diversity, context=context)
    assert len(set(made.order_N.tolist())) == len(made.order_N) == len(made.kind_N) == min(count, len(told[0].item_row_K))


@settings(max_examples=40, deadline=None)
@given(case(45), st.integers(1, 120))
def test_reserved_places_hold_on_a_homepage_and_nowhere_else(told, count):
    scored, _, _, reserved, _ = told
    there = {row: place for place, row in reserved.items() if row in scored.item_row_K}
    made = arranged(told, count=count)
    rows = scored.item_row_K[made.order_N].tolist()
    shown = {row: (place, kind) for place, (row, kind) in enumerate(zip(rows, made.kind_N, strict=True), start=1)}
    for row, place in there.items():
        assert shown.get(row) == ((place, "editorial") if place <= count else None)
    assert Counter(made.kind_N)["editorial"] == sum(place <= count for place in there.values())
    assert "editorial" not in arranged(told, count=count, context="search-empty").kind_N


@settings(max_examples=80, deadline=None)
@given(case(), st.integers(1, 100))
def test_caps_hold_or_their_breach_is_counted_and_only_where_nothing_else_is_left(told, count):
    scored, catalogue, policy, _, history = told
    made = arranged((scored, catalogue, policy, {}, history), count=count)
    row_N = scored.item_row_K[made.order_N]
    relaxed = {name: made.skipped.get(f"{name} cap relaxed", 0) for name in policy.caps}
    bears = {
        "genre": [set(np.flatnonzero(catalogue.genre_IG[row])) for row in range(len(catalogue))],
        "creator": [{code} - {-1} for code in catalogue.creator_I.tolist()],
        "franchise": [{code} - {-1} for code in catalogue.franchise_I.tolist()],
    }
    seen = {name: Counter() for name in policy.caps}
    broken = 0
    for place, row in enumerate(row_N.tolist()):
        most = {name: cap * (place // 25 + 1) for name, cap in policy.caps.items()}
        over = [name for name in policy.caps if any(seen[name][label] >= most[name] for label in bears[name][row])]
        if over:
            broken += 1
            left = set(scored.item_row_K.tolist()) - set(row_N[:place].tolist())
            for other in left:  # every other candidate would have broken one too
                assert any(seen[name][label] >= most[name] for name in policy.caps for label in bears[name][other])
        for name in policy.caps:
            seen[name].update(bears[name][row])
    assert broken == sum(relaxed.values())


def test_a_cap_holds_although_what_it_caps_fills_all_that_variety_chose():
    """One maker's 60 items are worth more than the other's 60: beyond SPARE, the others still come before the cap is broken."""
    rng = np.random.default_rng(0)
    catalogue = catalogue_of(rng, 120, 2)
    catalogue.creator_I[:] = np.arange(120) // 60
    worth_K = np.linspace(0.9, 0.1, 120).astype(np.float32)
    none_K = np.zeros(120, bool)
    scored = Scored(np.arange(120), worth_K, worth_K, rng.normal(size=(120, 4)), dict.fromkeys(SOURCES, none_K))
    made = arranged((scored, catalogue, Rules(caps={"creator": 5}), {}, np.zeros((0, 4))), count=10, mmr_lambda=1.0)
    assert made.order_N.tolist() == [0, 1, 2, 3, 4, 60, 61, 62, 63, 64]
    assert made.held == dict.fromkeys(range(5, 60), "creator") and made.skipped == {"creator cap": 55}
    assert 10 + SPARE < 60  # else this says nothing


@settings(max_examples=40, deadline=None)
@given(case(), st.integers(1, 100))
def test_a_kind_has_no_more_places_than_turns_so_far_and_gives_what_is_of_it(told, count):
    scored, catalogue, policy, _, history = told
    made = arranged(told, count=count)
    new_K = is_new(catalogue, scored.item_row_K, now=NOW, new_days=policy.new_days)
    different = serendipity.different(scored.probability_K, scored.vector_KD, history)
    of = {"trending": scored.proposed["trending"], "popular": scored.proposed["popular"], "new": new_K,
          "different": np.isin(np.arange(len(new_K)), different)}  # fmt: skip
    for kind in KINDS:
        given_by = [int(position) for position, said in zip(made.order_N, made.kind_N, strict=True) if said == kind]
        assert kind in policy.turns or not given_by
        assert all(of[kind][position] for position in given_by)
        if kind in policy.turns:
            turn = policy.turns[kind]
            places = [place for place, said in enumerate(made.kind_N, start=1) if said == kind]
            for number, place in enumerate(places):  # on its turn, or later where another was first
                assert place >= turn.first + number * turn.every
        if not policy.caps and kind != "different":
            assert scored.worth_K[given_by].tolist() == sorted(scored.worth_K[given_by].tolist(), reverse=True)
    if len(policy.turns) == 1 and not told[3]:
        (kind, turn), *_ = policy.turns.items()
        assert all((place - turn.first) % turn.every == 0 for place, said in enumerate(made.kind_N, start=1) if said == kind)


@settings(max_examples=40, deadline=None)
@given(case(), st.integers(1, 100))
def test_turns_are_of_the_homepage_alone(told, count):
    made = arranged(told, count=count, context="search-empty")
    assert set(made.kind_N) <= {""}


@settings(max_examples=80, deadline=None)
@given(case(), st.integers(1, 50), st.integers(0, 50), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.sampled_from(["mmr", "calibrated", "dpp"]))
def test_a_longer_page_begins_with_the_shorter_unless_caps_hold_more_than_the_spare_back(told, count, more, mmr_lambda, diversity):
    """Greedy choice begins alike whatever is asked for, so one list of SPARE more does for both: until caps alone have used the spare up.
    Beyond it the shorter page goes by worth where the longer one still knows variety."""
    short, long = (arranged(told, count=length, mmr_lambda=mmr_lambda, diversity=diversity) for length in (count, count + more))
    if len(short.held) <= SPARE or mmr_lambda == 1.0:
        assert long.order_N[:count].tolist() == short.order_N.tolist()
        assert long.kind_N[:count] == short.kind_N
    assert long.main.order_N[: len(short.main.order_N)].tolist() == short.main.order_N.tolist()


@settings(max_examples=40, deadline=None)
@given(case(5), st.integers(1, 40))
def test_what_was_begun_stands_first_in_the_order_it_was_proposed_in(told, count):
    scored, catalogue, policy, reserved, history = told
    begun_K = np.arange(len(scored.item_row_K)) % 7 == 3
    told = (replace(scored, proposed=dict(scored.proposed) | {"begun": begun_K}), catalogue, policy, reserved, history)
    made = arranged(told, count=count, context="continue")
    begun = np.flatnonzero(begun_K)[:count].tolist()
    assert made.order_N[: len(begun)].tolist() == begun
    assert made.kind_N == ("begun",) * len(begun) + ("",) * (len(made.kind_N) - len(begun))


@settings(max_examples=30, deadline=None)
@given(case(), st.integers(1, 30))
def test_boosts_decide_the_order_and_never_what_is_different(told, count):
    """`worth` is what is sorted and weighed; what is unexpected and likely goes by the model's own probability."""
    scored, catalogue, policy, _, history = told
    other = replace(scored, worth_K=scored.worth_K[::-1].copy())
    kinds = [page.kinds(one, catalogue, policy, history, NOW) for one in (scored, other)]
    assert kinds[0]["different"].tolist() == kinds[1]["different"].tolist()
    assert sorted(kinds[0]["new"].tolist()) == sorted(kinds[1]["new"].tolist())
    made = arranged((other, catalogue, Rules(), {}, history), count=count, mmr_lambda=1.0)
    assert made.order_N.tolist() == np.argsort(-other.worth_K, kind="stable")[:count].tolist()


def test_turns_fall_on_their_places_counted_from_one():
    rng = np.random.default_rng(5)
    worth_K = np.linspace(0.9, 0.1, 60).astype(np.float32)
    proposed = {"trending": np.arange(60) >= 30, "popular": np.arange(60) >= 45, "begun": np.zeros(60, bool)}
    scored = Scored(np.arange(60), worth_K, worth_K, rng.normal(size=(60, 4)), proposed)
    rules = Rules(turns={"trending": Turn(6, 4), "popular": Turn(12, 4)})
    made = arranged((scored, catalogue_of(rng, 60, 3), rules, {}, np.zeros((0, 4))), count=20, mmr_lambda=1.0)
    at = {place: kind for place, kind in enumerate(made.kind_N, start=1) if kind}
    assert at == {4: "trending", 5: "popular", 10: "trending", 16: "trending", 17: "popular"}  # of two on one place the other has the next
    assert made.order_N.tolist() == [0, 1, 2, 30, 45, 3, 4, 5, 6, 31, 7, 8, 9, 10, 11, 32, 46, 12, 13, 14]


def test_what_variety_chose_is_told_step_by_step():
    rng = np.random.default_rng(5)
    catalogue = catalogue_of(rng, 40, 3)
    worth_K = rng.random(40).astype(np.float32)
    scored = Scored(np.arange(40), worth_K, worth_K, rng.normal(size=(40, 4)), dict.fromkeys(SOURCES, np.zeros(40, bool)))
    made = arranged((scored, catalogue, Rules(), {}, np.zeros((0, 4))), count=10)
    unit_KD = scored.vector_KD / np.linalg.norm(scored.vector_KD, axis=1, keepdims=True)
    assert len(made.main.order_N) == 10 + SPARE
    for step, position in enumerate(made.main.order_N.tolist()):
        before = made.main.order_N[:step]
        closest = max((unit_KD[before] @ unit_KD[position]).tolist(), default=0.0)
        assert made.main.similarity_N[step] == pytest.approx(closest, abs=1e-5)
        assert made.main.score_N[step] == pytest.approx(0.7 * worth_K[position] - 0.3 * closest, abs=1e-5)
