"""What a ranker learns and how it is judged, by hand; and the whole task on a small world."""

import numpy as np
import pytest
import torch

from data.bias import Bias, Chances
from data.examination import certain
from data.features import MOMENT, NUMBERS, PROFILE
from data.judgements import LABELS
from data.propensity import even
from towers.averaging import growing, moving_average
from towers.ranker import HEADS, TASKS
from towers.ranking_batch import RankingBatch, corrected, feature_matrix
from towers.ranking_data import held_out
from towers.ranking_figures import graded_ndcg, judged, xauc

NAN = float("nan")
LEFT = Bias(even, certain, floor=0.01)


def chances(exposure, slope, offset=0.0) -> Chances:
    return Chances(np.array(exposure), np.array(slope), np.full(len(slope), offset), np.array(slope))


def test_what_was_shown_surely_and_looked_at_surely_is_learned_as_it_is():
    place = torch.tensor([[1, 0, 0.75, 0, 0.5], [0, 0, 0.25, 0, NAN]])
    nothing = torch.tensor([[0, 0, 0.25, 0, 0.0]] * 2)
    target, weight = corrected(place, nothing, chances([1.0, 1.0], [1.0, 1.0]), torch.zeros(2), LEFT)
    torch.testing.assert_close(target, place, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(weight, torch.ones(2, 5))


def test_what_nobody_looked_at_is_undone_by_hand():
    """Shown with probability 0.5 and looked at with 0.25: a click counts 4, completion too; from the place of 0 seconds, 0.25, a place of
    0.75 departs by 0.5, which makes 2.25; a rating stays what it is and weighs 1 / (0.5 · 0.25)."""
    place = torch.tensor([[1, 1, 0.75, 0, 0.5], [0, 0, 0.25, 0, NAN]])
    nothing = torch.tensor([[0, 0, 0.25, 0, 0.0]] * 2)
    target, weight = corrected(place, nothing, chances([0.5, 0.5], [0.25, 0.25]), torch.zeros(2), LEFT)
    torch.testing.assert_close(target, torch.tensor([[4, 4, 2.25, 0, 0.5], [0, 0, 0.25, 0, NAN]]), equal_nan=True)
    assert weight.tolist() == [[2, 2, 2, 2, 8]] * 2


def test_what_is_known_only_after_a_click_is_weighed_and_not_divided():
    place = torch.tensor([[1, 1, 0.75, 0, NAN], [0, NAN, NAN, NAN, NAN]])
    target, weight = corrected(place, torch.zeros(2, 5), chances([0.5, 0.5], [0.25, 0.25], 0.1), torch.zeros(2), LEFT)
    assert target[0, 1:4].tolist() == [1, 0.75, 0] and target[0, 0].item() == pytest.approx((1 - 0.1) / 0.25)
    assert weight[0].tolist() == [2, 8, 8, 8, 8]


def test_no_shown_row_outweighs_the_cap():
    """Exposures of 1, 1, 1 and .01: weights of 1, 1, 1 and 100, their mean 25.75, of which a cap of 2 leaves 51.5."""
    place, bias = torch.tensor([[1.0, 0, 0, 0, NAN]] * 4), Bias(even, certain, floor=1e-6, cap=2)
    weight = corrected(place, torch.zeros(4, 5), chances([1.0, 1.0, 1.0, 0.01], [1.0] * 4), torch.zeros(4), bias).weight_NT
    assert weight[:, 0].tolist() == [1, 1, 1, 51.5] and weight[:, 4].tolist() == [1, 1, 1, 51.5]


def test_a_right_guess_leaves_nothing_to_weigh_up():
    place, guess = torch.tensor([[0.25 * 0.4, 0, 0, 0, NAN]]), torch.tensor([0.4])  # a click as likely as the guess says
    assert corrected(place, torch.zeros(1, 5), chances([1.0], [0.25]), guess, LEFT).target_NT[0, 0].item() == pytest.approx(0.4)


def test_xauc_by_hand():
    """Of (3, 1), (3, 2), (1, 2) the answers put two in order and tie one: 2.5 of 3. Pairs of one amount are none."""
    assert xauc(torch.tensor([5.0, 1.0, 1.0]), torch.tensor([3.0, 1.0, 2.0])) == pytest.approx(2.5 / 3)
    assert xauc(torch.tensor([5.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])) == pytest.approx(0)
    assert xauc(torch.ones(3), torch.tensor([3.0, 1.0, 2.0])) == 0.5
    with pytest.raises(ValueError, match="no pair"):
        xauc(torch.rand(3), torch.ones(3))


def test_xauc_counts_pairs():
    rng = np.random.default_rng(0)
    answer, amount = rng.integers(0, 6, 60), rng.integers(0, 9, 60)
    higher, same = answer[:, None] > answer[None], answer[:, None] == answer[None]
    pairs = amount[:, None] > amount[None]
    assert xauc(torch.as_tensor(answer), torch.as_tensor(amount)) == pytest.approx((higher + 0.5 * same)[pairs].mean())


def test_graded_ndcg_by_hand():
    """Gains 1 and 3 the wrong way round; a group of one gain has no order; what is unknown is not there, however it scores."""
    score = torch.tensor([[2.0, 1, 9], [1, 2, 3], [1, 2, 3]])
    gain = torch.tensor([[1.0, 3, NAN], [2, 2, 2], [0, 0, 1]])
    second = 1 / np.log2(3)
    assert graded_ndcg(score, gain).tolist() == pytest.approx([(1 + 3 * second) / (3 + second), 1])


def test_a_tenth_is_held_out_the_latest_of_the_last_part():
    now_G = np.arange(100)[::-1]
    one = held_out(np.ones(100, int), now_G, np.ones(100, bool))
    assert np.flatnonzero(one).tolist() == list(range(10))
    part_G, learn_G = np.array([0] * 50 + [1] * 40 + [2] * 10), np.array([True] * 90 + [False] * 10)
    assert np.flatnonzero(held_out(part_G, now_G, learn_G)).tolist() == list(range(50, 59))
    few = held_out(np.array([0] * 90 + [1] * 10), now_G, np.ones(100, bool))
    assert np.flatnonzero(few).tolist() == list(range(90, 95))
    assert not held_out(np.zeros(1, int), np.zeros(1), np.ones(1, bool)).any()


def batch(groups=40, items=5) -> RankingBatch:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    there = draw(groups, items) < 0.9
    click = (draw(groups, items) < 0.4).float()
    label = torch.stack([click, click * (draw(groups, items) < 0.5), click * 60 * draw(groups, items), torch.zeros_like(click)], dim=2)
    label = torch.cat([label, torch.full((groups, items, 1), NAN)], dim=2)
    weight = there[..., None] * torch.ones(5)
    return RankingBatch(
        torch.arange(groups) // 2, draw(groups, 3), torch.zeros(groups, len(MOMENT), dtype=torch.int64), draw(groups, 2 + len(PROFILE)),
        torch.randint(7, (groups, items), generator=generator), draw(groups, items, len(NUMBERS)), there, label, label.clone(), weight,
    )  # fmt: skip


def test_a_perfect_ranker_is_judged_as_one_and_what_cannot_be_judged_is_left_out():
    known = batch()
    label = known.label_BKY.nan_to_num()
    logit = 40 * (label - 0.5)
    answer = torch.cat([label, label[..., :1]], dim=2)
    answer[..., [0, 1, 3]] = answer[..., [0, 1, 3]].clamp(1e-6, 1 - 1e-6)
    figures = judged(logit, answer, known, known.label_BKY[..., 0])
    for name in ("click_auc", "click_gauc", "click_user_gauc", "complete_auc", "watch_xauc", "value_ndcg", "click_ndcg"):
        assert figures[name] == pytest.approx(1)
    assert figures["watch_mae_seconds"] == 0 and figures["click_calibration_error"] == pytest.approx(0, abs=1e-5)
    assert "skip_auc" not in figures and "rating_rmse" not in figures
    assert len(HEADS) == len(TASKS) + 1 == len(LABELS) + 1


def test_a_table_has_every_feature_of_every_item_that_is_there():
    known, row_IW = batch(), torch.arange(7 * 8, dtype=torch.float16).view(7, 8)
    table, columns = feature_matrix(known, row_IW, 4)
    assert (
        table.shape == (int(known.there_BK.sum()), 3 + len(MOMENT) + 2 + len(PROFILE) + 4 + len(NUMBERS)) and len(columns) == table.shape[1]
    )
    group, place = (index[17] for index in known.there_BK.nonzero(as_tuple=True))
    row = dict(zip(columns, table[17], strict=True))
    assert row["query_2"] == known.query_BD[group, 2] and row["genre_share_1"] == known.profile_BU[group, 1]
    assert row["candidate_3"] == row_IW[known.item_row_BK[group, place], 3] and row["hour"] == 0
    assert row["tag_match"] == known.number_BKX[group, place, NUMBERS.index("tag_match")]
    assert row["log_history_count"] == known.profile_BU[group, 3]


def test_the_average_of_weights_by_hand():
    """A tenth of the old at first (step 0), then 2/11 (step 1), 0.5 at last."""
    averaged, update = [torch.tensor([0.0])], growing(0.5)
    update(averaged, [torch.tensor([1.0])], torch.tensor(0))
    assert averaged[0].item() == pytest.approx(0.9)
    update(averaged, [torch.tensor([0.0])], torch.tensor(1))
    assert averaged[0].item() == pytest.approx(0.9 * 2 / 11)
    update(averaged, [torch.tensor([1.0])], torch.tensor(1000))
    assert averaged[0].item() == pytest.approx(0.9 * 2 / 11 / 2 + 0.5)
    with pytest.raises(ValueError, match=r"decay is 1\.0"):
        moving_average(1.0)
