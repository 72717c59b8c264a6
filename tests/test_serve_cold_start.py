"""The quiz: what answers say, what a question is worth, and what becomes of a stranger who answers. Numbers are worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features import DISLIKED, EVENT_TYPE_CODE
from serve.cold_start import (
    LEAST,
    LEAST_GAIN,
    MOST,
    Quiz,
    Verdicts,
    blend,
    draw_users,
    entropy,
    fit_quiz,
    kmeans,
    passed_over,
    shares,
    verdicts,
)
from serve.manifest import ReleaseError

LIKE, NO, SHRUG = True, False, None


def hand_worked() -> Quiz:
    """Two prototypes as likely as each other. Item 7 divides them, item 9 tells nothing, item 4 tells little and few know it."""
    probability_PQ3 = np.array(
        [
            [[0.6, 0.2, 0.2], [0.5, 0.3, 0.2], [0.2, 0.0, 0.8]],
            [[0.2, 0.6, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]],
        ]
    )
    query_PD = np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.5]], np.float32)
    return Quiz(1, np.array([0.5, 0.5]), query_PD, np.array([7, 9, 4]), probability_PQ3)


def random_quiz(seed: int, prototypes: int = 6, items: int = 25) -> Quiz:
    rng = np.random.default_rng(seed)
    query_PD = rng.normal(size=(prototypes, 4)).astype(np.float32)
    query_PD[:, :3] /= np.linalg.norm(query_PD[:, :3], axis=1, keepdims=True)
    item_row_Q = rng.permutation(100)[:items]
    return Quiz(1, rng.dirichlet(np.ones(prototypes)), query_PD, item_row_Q, rng.dirichlet(np.ones(3), (prototypes, items)))


def test_one_answer_moves_the_belief_by_bayes():
    quiz = hand_worked()
    np.testing.assert_allclose(quiz.posterior({7: LIKE}), [0.75, 0.25])
    np.testing.assert_allclose(quiz.posterior({7: NO}), [0.25, 0.75])
    np.testing.assert_allclose(quiz.posterior({7: SHRUG, 9: LIKE}), [0.5, 0.5])
    np.testing.assert_allclose(quiz.posterior({7: LIKE, 4: LIKE}), [0.6 * 0.2 / 0.14, 0.2 * 0.1 / 0.14])


def test_a_question_is_worth_the_nats_it_is_expected_to_bring():
    quiz = hand_worked()
    # H(0.4, 0.4, 0.2) − H(0.6, 0.2, 0.2); both prototypes have the same entropy
    by_hand = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2)) + 0.6 * math.log(0.6) + 0.4 * math.log(0.2)
    assert by_hand == pytest.approx(0.104650, abs=1e-6)
    # H(0.15, 0.05, 0.8) − (H(0.2, 0, 0.8) + H(0.1, 0.1, 0.8)) / 2
    few_know_it = -(0.15 * math.log(0.15) + 0.05 * math.log(0.05)) + (0.2 * math.log(0.2) + 0.2 * math.log(0.1)) / 2
    np.testing.assert_allclose(quiz.gains({}), [by_hand, 0.0, few_know_it], atol=1e-12)
    assert quiz.next({}) == 7


def test_the_taste_is_the_mean_query_as_long_as_a_prototypes():
    quiz = hand_worked()
    np.testing.assert_allclose(quiz.taste({}), [math.sqrt(0.5), math.sqrt(0.5), 0.4], rtol=1e-6)
    np.testing.assert_allclose(quiz.taste({7: LIKE}), [3 / math.sqrt(10), 1 / math.sqrt(10), 0.35], rtol=1e-6)
    assert quiz.taste({}).dtype == np.float32


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_no_question_is_expected_to_make_the_audience_less_clear(seed):
    """The expected entropy after an answer is the entropy now, less the gain, and the gain is never below 0."""
    quiz, rng = random_quiz(seed), np.random.default_rng(seed)
    answers = {int(row): (LIKE, NO, SHRUG)[rng.integers(3)] for row in quiz.item_row_Q[: rng.integers(0, 8)]}
    now, gain_Q = entropy(quiz.posterior(answers)), quiz.gains(answers)
    for place in range(len(answers), len(quiz.item_row_Q)):
        chance_3 = quiz.posterior(answers) @ quiz.probability_PQ3[:, place]
        after_3 = [entropy(quiz.posterior(answers | {int(quiz.item_row_Q[place]): answer})) for answer in (LIKE, NO, SHRUG)]
        assert chance_3 @ after_3 == pytest.approx(now - gain_Q[place], abs=1e-9)
        assert chance_3 @ after_3 <= now + 1e-12


@given(st.permutations(range(8)), st.lists(st.sampled_from((LIKE, NO, SHRUG)), min_size=8, max_size=8))
@settings(deadline=None)
def test_answers_say_the_same_in_any_order(order, given_answers):
    quiz = random_quiz(1)
    rows = quiz.item_row_Q.tolist()
    in_turn = {rows[place]: given_answers[place] for place in range(8)}
    shuffled = {rows[place]: given_answers[place] for place in order}
    np.testing.assert_array_equal(quiz.posterior(in_turn), quiz.posterior(shuffled))
    assert quiz.next(in_turn) == quiz.next(shuffled)


@given(st.integers(0, 1000), st.lists(st.sampled_from((LIKE, NO, SHRUG)), min_size=MOST, max_size=MOST))
@settings(deadline=None)
def test_nothing_is_asked_twice_and_the_quiz_ends_between_five_and_ten(seed, given_answers):
    quiz, answers = random_quiz(seed), {}
    for answer in given_answers:
        item_row = quiz.next(answers)
        if item_row is None:
            assert len(answers) >= LEAST and quiz.gains(answers)[~np.isin(quiz.item_row_Q, list(answers))].max() < LEAST_GAIN
            return
        assert item_row not in answers and item_row in quiz.item_row_Q
        answers[item_row] = answer
    assert quiz.next(answers) is None


def test_it_ends_early_once_nothing_is_left_to_learn_and_never_before_five():
    rng = np.random.default_rng(0)
    same_Q3 = rng.dirichlet(np.ones(3), 20)
    quiz = Quiz(0, np.array([0.5, 0.5]), np.eye(2, dtype=np.float32), np.arange(20), np.stack([same_Q3, same_Q3]))
    answers = {}
    while (item_row := quiz.next(answers)) is not None:
        answers[item_row] = LIKE
    assert len(answers) == LEAST
    few = Quiz(0, quiz.weight_P, quiz.query_PD, np.arange(3), quiz.probability_PQ3[:, :3])
    assert few.next({0: LIKE, 1: NO, 2: SHRUG}) is None


def test_whoever_skips_it_all_has_the_taste_of_everybody():
    quiz = random_quiz(3)
    np.testing.assert_allclose(quiz.posterior({}), quiz.weight_P)
    strangers_to_this_release = {1000: LIKE, 1001: NO}
    np.testing.assert_array_equal(quiz.taste(strangers_to_this_release), quiz.taste({}))


def audience(kinds: int = 4, each: int = 60, items: int = 40, seed: int = 0) -> tuple[np.ndarray, Verdicts]:
    """Users of several kinds: kind k likes the items of its own share of the catalogue, dislikes the others' and knows half of all."""
    rng = np.random.default_rng(seed)
    kind_U = np.repeat(np.arange(kinds), each)
    query_UD = np.eye(kinds)[kind_U] + 0.1 * rng.normal(size=(len(kind_U), kinds))
    query_UD = np.c_[query_UD / np.linalg.norm(query_UD, axis=1, keepdims=True), np.full(len(kind_U), 2.0)].astype(np.float32)
    user_N, item_N = np.nonzero(rng.random((len(kind_U), items)) < 0.5)
    return query_UD, Verdicts(user_N, item_N, item_N % kinds == kind_U[user_N])


def test_a_prototypes_own_answers_lead_to_its_taste():
    query_UD, said = audience()
    quiz = fit_quiz(query_UD, said, priors=1)
    assert sorted(quiz.weight_P) == pytest.approx([0.25] * 4)
    for prototype in range(4):
        answers = {}
        while (item_row := quiz.next(answers)) is not None:
            place = quiz.item_row_Q.tolist().index(item_row)
            answers[item_row] = bool(quiz.probability_PQ3[prototype, place, 0] > quiz.probability_PQ3[prototype, place, 1])
        np.testing.assert_allclose(quiz.taste(answers), quiz.query_PD[prototype], atol=0.02)


def test_a_count_is_drawn_towards_the_items_overall_rate():
    """Two kinds of two users; of kind 0 both like item 0, of kind 1 one dislikes it. Ten imagined users are like all four."""
    query_UD = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    said = Verdicts(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 1]), np.array([True, True, False, True]))
    quiz = fit_quiz(query_UD, said, priors=0, prototypes=2, users_per_prototype=2, raters=1, smoothing=10.0)
    first = int(quiz.query_PD[:, 0].argmax())
    assert quiz.item_row_Q.tolist() == [0, 1]
    overall = np.array([2 + 1 / 3, 1 + 1 / 3, 1 + 1 / 3]) / 5
    np.testing.assert_allclose(quiz.probability_PQ3[first, 0], (np.array([2, 0, 0]) + 10 * overall) / 12)
    np.testing.assert_allclose(quiz.probability_PQ3[1 - first, 0], (np.array([0, 1, 1]) + 10 * overall) / 12)


def test_the_same_audience_makes_the_same_quiz_and_only_the_well_known_is_asked_about():
    query_UD, said = audience()
    rare = Verdicts(np.r_[said.user_row_N, 0], np.r_[said.item_row_N, 40], np.r_[said.liked_N, True])
    one, other = (fit_quiz(query_UD, rare, priors=1) for _ in range(2))
    for name in Quiz.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert 40 not in one.item_row_Q and len(one.item_row_Q) == 40
    assert len(one.weight_P) == 240 // 50
    np.testing.assert_allclose(one.probability_PQ3.sum(2), 1)
    with pytest.raises(ValueError, match="no user has liked or disliked anything"):
        fit_quiz(query_UD, Verdicts(*(column[:0] for column in said)), priors=1)


def test_users_are_drawn_with_all_they_said_and_nothing_of_others():
    said = Verdicts(np.array([3, 3, 8, 5, 8]), np.array([1, 2, 1, 4, 0]), np.array([True, False, True, True, False]))
    user_row_U, all_of_it = draw_users(said)
    assert user_row_U.tolist() == [3, 5, 8] and all_of_it.user_row_N.tolist() == [0, 0, 2, 1, 2]
    user_row_U, some = draw_users(said, most=2, seed=1)
    assert len(user_row_U) == 2 and set(user_row_U) < {3, 5, 8}
    whole = [(user, item, liked) for user, item, liked in zip(*said, strict=True) if user in user_row_U]
    assert [(user_row_U[user], item, liked) for user, item, liked in zip(*some, strict=True)] == whole


def test_clusters_are_the_ones_that_are_there():
    rng = np.random.default_rng(0)
    point_UT = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]), 30, axis=0) + 0.1 * rng.normal(size=(90, 2))
    cluster_U = kmeans(point_UT, 3, rng)
    assert [len(set(cluster_U[start : start + 30])) for start in (0, 30, 60)] == [1, 1, 1] and len(set(cluster_U)) == 3
    assert set(kmeans(np.ones((5, 2)), 3, rng)) == {0}  # no more clusters than there are points


def test_the_last_word_counts_and_a_view_says_nothing():
    code = EVENT_TYPE_CODE
    events = [(0, 5, code["click"]), (0, 5, code["not_interested"]), (0, 6, code["skip"]), (0, 6, code["complete"])]
    events += [(1, 5, code["view"]), (1, 6, DISLIKED), (1, 6, code["view"]), (1, 7, code["rate"])]
    said = verdicts(*np.array(events).T)
    found = {(int(u), int(i)): bool(liked) for u, i, liked in zip(*said, strict=True)}
    assert found == {(0, 5): False, (0, 6): True, (1, 6): False, (1, 7): True}


def test_what_was_shown_and_left_alone_is_disliked_once():
    said = Verdicts(np.array([0, 1]), np.array([5, 6]), np.array([True, False]))
    shown = np.array([(0, 5), (0, 6), (0, 6), (1, 6), (1, 9)]).T
    all_said = passed_over(said, *shown)
    found = sorted((int(u), int(i), bool(liked)) for u, i, liked in zip(*all_said, strict=True))
    assert found == [(0, 5, True), (0, 6, False), (1, 6, False), (1, 9, False)]
    nothing = np.zeros(0, np.int64)
    for before, after in zip(said, passed_over(said, nothing, nothing), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_history_takes_over_by_tenths():
    query_D, taste_D = np.array([1, 0, 2], np.float32), np.array([0, 1, 4], np.float32)
    np.testing.assert_allclose(blend(query_D, taste_D, 0, priors=1), taste_D)
    np.testing.assert_allclose(blend(query_D, taste_D, 5, priors=1), [math.sqrt(0.5), math.sqrt(0.5), 3], rtol=1e-6)
    np.testing.assert_allclose(blend(query_D, taste_D, 8, priors=1), [0.8 / math.sqrt(0.68), 0.2 / math.sqrt(0.68), 2.4], rtol=1e-6)
    for n in (10, 11, 500):
        np.testing.assert_array_equal(blend(query_D, taste_D, n, priors=1), query_D)


def test_budgets_move_to_the_collaborative_source_by_tenths():
    assert shares(0) == {"collaborative": 0.0, "content": 2.0, "trending": 2.0, "popular": 2.0}
    assert shares(4) == {"collaborative": 0.4, "content": 1.6, "trending": 1.6, "popular": 1.6}
    assert shares(10) == shares(300) == dict.fromkeys(("collaborative", "content", "trending", "popular"), 1.0)


def test_a_quiz_is_read_as_it_was_written(tmp_path: Path):
    quiz = random_quiz(5)
    quiz.save(tmp_path)
    again = Quiz.open(tmp_path)
    for name in Quiz.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(quiz, name))
    whole = (tmp_path / "quiz.npz").read_bytes()
    (tmp_path / "quiz.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReleaseError, match=r"quiz\.npz cannot be read"):
        Quiz.open(tmp_path)
    Quiz(1, quiz.weight_P[:-1], quiz.query_PD, quiz.item_row_Q, quiz.probability_PQ3).save(tmp_path)
    with pytest.raises(ReleaseError, match="do not go with 5 prototypes"):
        Quiz.open(tmp_path)
    (tmp_path / "quiz.npz").unlink()
    with pytest.raises(ReleaseError, match=r"quiz\.npz cannot be read"):
        Quiz.open(tmp_path)
