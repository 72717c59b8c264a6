"""A reason is given only if it is one: without it, the item would have scored lower, and by more than without just anything.

The small release's models are a formula (`tests.releases`), so that every item can be left out by hand and the outcome compared.
"""

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import PackedHistory
from serve import explain
from serve.explain import NOTICEABLE, REFUSED, SUSPECTS, causes, history_items, most_missed, no_causes
from serve.release import Release
from serve.scoring import Scorer
from serve.triton import Client
from tests.engines import small_triton
from tests.erasure import CODE, NOW, WIDTH, by_formula, left_out, person
from tests.releases import LENGTH, write_release

ITEMS = 60
NEAR = 2e-4  # fp16 rows and fp32 sums: what lies nearer to a bound than this may fall on either side


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    release = Release.open(write_release(tmp_path_factory.mktemp("release") / "v1", items=ITEMS, width=WIDTH, seed=3))
    with closing(Client(small_triton(), timeout_ms=20_000)) as client:
        yield Scorer(release, client)


def what_was_said(events, item):
    """What the user last did with it, looking at it only if that is all they did."""
    did = [name for row, name, _ in events if row == item]
    return next((name for name in did[::-1] if name != "view"), "view")


@pytest.mark.parametrize(
    ("loss_X", "cause"),
    [
        ([0.0, 0.5, 0.0], 1),  # one item carries it
        ([0.2, 0.2, 0.2], -1),  # any item's absence costs as much: nobody's in particular
        ([0.049, 0.0, 0.0], -1),  # too little to notice
        ([0.05, 0.0, 0.0], 0),
        ([-0.3, -0.2, -0.1], -1),  # without them it would have scored higher
        ([0.3], 0),  # the only item there is
        ([0.3, 0.3, 0.1], -1),  # no more than the median
        ([0.3, 0.3, 0.1, 0.1], 0),  # the median is .2
        ([0.04], -1),
        ([0.0, 0.1, 0.3, 0.0], 2),
    ],
)
def test_the_most_missed_item_is_a_cause_only_if_it_is_missed_noticeably_and_more_than_the_others(loss_X, cause):
    assert most_missed(np.array([loss_X]), np.ones((1, len(loss_X)), bool)).tolist() == [cause]


def test_what_may_not_be_named_counts_for_the_median_and_gives_way_to_the_next():
    nameable_NX = np.array([[False, True, True]] * 3)
    loss_NX = np.array([[0.9, 0.3, 0.1], [0.9, 0.3, 0.4], [0.9, 0.3, 0.3]])  # medians .3, .4 and .3
    assert most_missed(loss_NX, nameable_NX).tolist() == [-1, -1, -1]
    assert most_missed(np.array([[0.0, 0.3, 0.1]]), nameable_NX[:1]).tolist() == [1]
    assert most_missed(np.array([[0.9]]), np.array([[False]])).tolist() == [-1]


def test_of_each_item_the_last_word_counts_and_a_look_is_none():
    events = [(5, "disliked", 9), (1, "complete", 8), (2, "watch", 7), (2, "skip", 6), (3, "view", 5), (1, "view", 4), (5, "view", 3)]
    rows, codes = history_items(person(events), 12)
    assert rows.tolist() == [5, 1, 3, 2] and codes.tolist() == [CODE[name] for name in ("disliked", "complete", "view", "skip")]
    rows, codes = history_items(person(events), 2)  # what the models read is the last two events; what was said before still counts
    assert rows.tolist() == [5, 1] and codes.tolist() == [CODE["disliked"], CODE["complete"]]
    assert [len(part) for part in history_items(person([]), 12)] == [0, 0]


def test_by_hand_the_only_item_of_a_history_is_the_cause_of_what_lies_near_it(scorer):
    """One item v watched now: q = v. Of itself p = σ(3 + pop − 1), without it σ(pop − 1): much is lost; of its opposite nothing is."""
    release = scorer.release
    vector_ID = np.asarray(release.items)[:, WIDTH:].astype(np.float64)
    cosine_I = vector_ID @ vector_ID[7]
    near, far = (int(row) for row in (np.argsort(-cosine_I)[1], cosine_I.argmin()))
    who, shown = person([(7, "watch", 0)]), np.array([near, far])
    found = causes(scorer, who, shown, by_formula(release, [(7, "watch", 0)], shown).astype(np.float32))
    assert cosine_I[near] > 0.5 > -0.5 > cosine_I[far]
    assert found.item_row_N.tolist() == [7, -1] and found.event_code_N.tolist() == [CODE["watch"], -1]
    popularity = 0.1 * np.log1p(release.clock.before(shown, np.full(2, NOW // 3_600_000))[0].astype(float))
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = 1 - sigma(popularity[0] - 1) / sigma(3 * cosine_I[near] + popularity[0] - 1)
    assert found.loss_N == pytest.approx([expected, 0], abs=1e-3)


def test_nothing_is_shown_because_of_itself(scorer):
    """An item looked at may be shown again: it is nearest to itself, and lost without itself."""
    events = [(4, "view", 1), (9, "watch", 0)]
    probability_N = by_formula(scorer.release, events, np.array([4])).astype(np.float32)
    assert left_out(scorer.release, events, np.array([4]))[1][0].tolist()[1] > NOTICEABLE  # without 4, the older
    assert causes(scorer, person(events), np.array([4]), probability_N).item_row_N.tolist() != [4]


def test_of_nobody_and_of_nothing_nothing_is_said(scorer):
    for who, count in ((person([]), 3), (person([(1, "watch", 0)]), 0)):
        found = causes(scorer, who, np.arange(count), np.full(count, 0.5, np.float32))
        assert found.item_row_N.tolist() == [-1] * count == no_causes(count).item_row_N.tolist()


events_of = st.lists(st.tuples(st.integers(0, ITEMS - 1), st.sampled_from(sorted(CODE)), st.integers(0, 200)), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(events_of, st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=12, unique=True))
def test_everything_named_is_a_cause_by_brute_force_and_nothing_nearby_that_is_one_goes_unnamed(scorer, events, shown):
    events = sorted(events, key=lambda event: -event[2])
    who, shown = person(events), np.array(shown)
    probability_N = by_formula(scorer.release, events, shown)
    found = causes(scorer, who, shown, probability_N.astype(np.float32))
    items, loss_NX = left_out(scorer.release, events, shown)
    vector_ID = np.asarray(scorer.release.items)[:, WIDTH:].astype(np.float64)
    cosine_NX = vector_ID[shown] @ vector_ID[items].T
    for number, (row, code, loss) in enumerate(zip(found.item_row_N, found.event_code_N, found.loss_N, strict=True)):
        loss_X = loss_NX[number]
        near_X = cosine_NX[number] >= np.sort(cosine_NX[number])[::-1][: min(SUSPECTS, len(items))][-1] - 1e-6
        may_X = np.array([CODE[what_was_said(events, item)] not in REFUSED and item != shown[number] for item in items])
        if row >= 0:
            place = items.index(row)
            assert may_X[place] and near_X[place]
            assert code == CODE[what_was_said(events, row)]
            assert loss == pytest.approx(loss_X[place], abs=NEAR)
            assert loss >= NOTICEABLE and (len(items) == 1 or loss_X[place] > np.median(loss_X) - NEAR)
            assert loss_X[place] >= loss_X[near_X & may_X].max() - NEAR
        elif (near_X & may_X).any():
            most = loss_X[near_X & may_X].max()
            bound = max(np.median(loss_X[near_X]), np.median(loss_X)) if len(items) > 1 else -np.inf
            assert loss == 0 and code == -1
            assert most < NOTICEABLE + NEAR or most <= bound + NEAR


def test_short_and_long_histories_have_causes_for_that_law_to_be_about(scorer):
    rng, named = np.random.default_rng(0), {True: 0, False: 0}
    for length in (3, 5, 7, 25, 25, 25):
        events = [(int(row), "watch", length - place) for place, row in enumerate(rng.integers(0, ITEMS, length))]
        found = causes(scorer, person(events), np.arange(ITEMS), by_formula(scorer.release, events, np.arange(ITEMS)).astype(np.float32))
        named[len(history_items(person(events), LENGTH)[0]) > SUSPECTS] += int((found.item_row_N >= 0).sum())
    assert min(named.values()) >= 20


def test_the_quiz_counts_while_an_item_is_left_out(scorer):
    """With a taste from the quiz a short history is blended: what is lost is lost of the blend, asked about one history at a time."""
    release, events = scorer.release, [(4, "watch", 30), (9, "complete", 20), (23, "rate", 3)]
    taste_D = np.asarray(release.items)[11, WIDTH:].astype(np.float32)
    who, shown = person(events, taste_D=taste_D), np.array([5, 10, 11, 24, 40, 41, 42])

    def asked(left):
        pad = [0] * (LENGTH - len(left))
        columns = ([row for row, _, _ in left], [CODE[name] for _, name, _ in left], [60 * hours for _, _, hours in left])
        history = PackedHistory(*(np.array([pad + column], np.int64) for column in columns))
        query_BD = scorer.query(history, who.moment_BC, taste_D)
        return scorer.probability(query_BD, history, who.moment_BC, shown, NOW)[0]

    whole_N = asked(events)
    loss_NX = np.stack([1 - asked([one for one in events if one[0] != item]) / whole_N for item in (4, 9, 23)], axis=1)
    found = causes(scorer, who, shown, whole_N)
    most_N = loss_NX.argmax(1)
    named_N = (loss_NX.max(1) >= NOTICEABLE) & (loss_NX.max(1) > np.median(loss_NX, axis=1))
    assert found.item_row_N.tolist() == np.where(named_N, np.array([4, 9, 23])[most_N], -1).tolist()
    assert named_N.any() and found.loss_N[named_N] == pytest.approx(loss_NX.max(1)[named_N], abs=1e-5)
    without = causes(scorer, person(events), shown, whole_N)
    assert found.loss_N.tolist() != without.loss_N.tolist()


def test_an_item_without_a_probability_lost_none(scorer):
    who = person([(4, "watch", 30)])
    loss_NX = explain.losses(scorer, who, explain.leave_out(scorer, who), np.array([4, 5]), np.array([0.0, 0.5], np.float32))
    assert loss_NX[0, 0] == 0 and np.isfinite(loss_NX).all()
