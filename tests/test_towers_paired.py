"""Two answers for the same rows: a user who counts twice counts as if their rows stood there twice."""

import numpy as np
import pytest

from towers import paired
from towers.paired import Rows, Said, compare, figures, mean

USERS, N = 60, 600


@pytest.fixture(scope="module")
def drawn() -> tuple[Rows, Said, Said]:
    rng = np.random.default_rng(0)
    user_N, taste_N = rng.integers(0, USERS, N), rng.normal(size=N)
    click_N = (taste_N + rng.normal(size=N) > 0).astype(float)
    complete_N = np.where(rng.random(N) < 0.2, np.nan, (taste_N + rng.normal(size=N) > 1).astype(float))
    watch_N = np.round(np.exp(taste_N + rng.normal(size=N)) * 3)  # whole seconds: ties
    good = Said(np.round(taste_N, 1), taste_N, np.exp(taste_N), np.exp(taste_N))
    return Rows(user_N, click_N, complete_N, watch_N), good, Said(*(rng.normal(size=(4, N)).round(1)))


def repeated(columns, count_N):
    return type(columns)(*(np.repeat(column, count_N) for column in columns))


def test_a_user_who_counts_twice_has_their_rows_twice(drawn):
    rows, said, _ = drawn
    count_U = np.random.default_rng(1).integers(0, 4, USERS)
    wanted = figures(repeated(said, count_U[rows.user_N]), repeated(rows, count_U[rows.user_N]))
    every_pair = np.stack(np.meshgrid(np.arange(N), np.arange(N)), axis=-1).reshape(-1, 2)
    every_pair = every_pair[rows.watch_seconds_N[every_pair[:, 0]] != rows.watch_seconds_N[every_pair[:, 1]]]
    weighed = paired._weighed(said, rows, every_pair, dict.fromkeys(wanted))
    assert set(weighed) == {"click_auc", "click_gauc", "complete_auc", "complete_gauc", "watch_mae_seconds", "watch_xauc"}
    wanted["click_gauc"] = wanted["complete_gauc"] = None  # a user who counts twice is two groups, below
    for name, figure in weighed.items():
        if wanted[name] is not None:
            assert figure(count_U.astype(float)) == pytest.approx(wanted[name], abs=1e-6), name
    twin_N = np.concatenate([rows.user_N + USERS * copy for copy in range(3)])
    keep_N = np.concatenate([count_U[rows.user_N] > copy for copy in range(3)])
    apart = Rows(twin_N, *(np.tile(column, 3) for column in rows[1:]))
    tripled = Said(*(np.tile(column, 3) for column in said))
    of_twins = figures(Said(*(column[keep_N] for column in tripled)), Rows(*(column[keep_N] for column in apart)))
    for name in ("click_gauc", "complete_gauc"):
        assert weighed[name](count_U.astype(float)) == pytest.approx(of_twins[name], abs=1e-12)


def test_two_rankers_by_hand():
    """Of the four pairs of a click and none, the first orders three, and has one tie, the other orders two."""
    rows = Rows(np.array([5, 5, 9, 9]), np.array([1.0, 0, 1, 0]), np.full(4, np.nan), np.array([10.0, 0, 4, 2]))
    one = Said(np.array([0.9, 0.2, 0.5, 0.5]), np.zeros(4), np.array([8.0, 1, 4, 4]), np.array([8.0, 1, 4, 4]))
    other = Said(np.array([0.1, 0.2, 0.5, 0.1]), np.zeros(4), np.array([2.0, 2, 2, 2]), np.array([2.0, 2, 2, 2]))
    told = compare(one, other, rows, resamples=50, pairs=100)
    assert set(told) == {"click_auc", "click_gauc", "watch_mae_seconds", "watch_xauc"}
    assert told["click_auc"][:2] == (3.5 / 4, 2.5 / 4) and told["click_gauc"][:2] == (0.75, 0.5)
    assert told["watch_mae_seconds"][:2] == ((2 + 1 + 0 + 2) / 4, (8 + 2 + 2 + 0) / 4)
    assert told["watch_xauc"][:2] == pytest.approx((5.5 / 6, 0.5))
    assert told["click_auc"].interval().mean == 0.25


def test_an_interval_holds_the_difference_and_not_nought_where_one_is_better(drawn):
    rows, good, chance = drawn
    for name, pair in compare(good, chance, rows, resamples=200, pairs=20_000).items():
        lead, low, high = pair.interval()
        assert (lead < 0 if name == "watch_mae_seconds" else lead > 0) and low < lead < high and low * high > 0, name


def test_the_mean_of_several_trainings_is_taken_draw_by_draw(drawn):
    """Two trainings that lead by as much as they trail differ in nothing, in every draw of users."""
    rows, good, chance = drawn
    there, back = (compare(*pair, rows, resamples=20, pairs=1_000) for pair in ((good, chance), (chance, good)))
    for name in there:
        both = mean([there[name], back[name]])
        assert both.one == pytest.approx(both.other) and both.drawn_R == pytest.approx(np.zeros(20)), name


def test_a_ranker_against_itself_differs_in_nothing(drawn):
    rows, good, _ = drawn
    assert all(pair.interval() == (0.0, 0.0, 0.0) for pair in compare(good, good, rows, resamples=20, pairs=1_000).values())
