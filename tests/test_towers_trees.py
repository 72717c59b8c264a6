"""Trees learn from what the ranker is told, and are judged as it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.features import MOMENT, NUMBERS, PROFILE
from data.judgements import LABELS
from data.split import TEST, VALIDATION
from towers import trees
from towers.paired import figures
from towers.ranker import HEADS, TASKS
from towers.ranking_batch import DURATION, RankingBatch
from towers.watch_time import WatchTime

WIDTH, ITEMS, SLATE = 4, 50, 3


def batch(rows: int, seed: int, slate: int) -> RankingBatch:
    """Whether something is wanted depends on who and on what, how long it is watched on that and on its length. Some places are empty, and
    some seconds unknown."""
    generator = torch.Generator().manual_seed(seed)
    query, item = torch.randn(rows, WIDTH, generator=generator), torch.randint(0, ITEMS, (rows, slate), generator=generator)
    number = torch.randn(rows, slate, len(NUMBERS), generator=generator)
    number[..., DURATION] = 2 + 2 * torch.rand(rows, slate, generator=generator)
    taste = query[:, :1] + number[..., 0] + 0.1 * torch.randn(rows, slate, generator=generator)
    label = torch.full((rows, slate, len(LABELS)), torch.nan)
    label[..., LABELS.index("click")] = (taste > 0).float()
    label[..., LABELS.index("complete")] = (taste > 0.7).float()
    label[..., LABELS.index("watch_seconds")] = torch.expm1(number[..., DURATION]) * taste.sigmoid()
    label[::7, 0, LABELS.index("watch_seconds")] = torch.nan
    there = torch.rand(rows, slate, generator=generator) > (0.2 if slate > 1 else 0)
    label[~there] = torch.nan
    target = torch.full((rows, slate, len(TASKS)), torch.nan)
    target[..., TASKS.index("watch")] = taste.sigmoid()
    target[label[..., LABELS.index("watch_seconds")].isnan()] = torch.nan
    weight = there[..., None].float().expand(-1, -1, len(TASKS)).clone()
    moment = torch.randint(0, 3, (rows, len(MOMENT)), generator=generator)
    return RankingBatch(
        torch.arange(rows) // 10, query, moment, torch.zeros(rows, 1 + len(PROFILE)), item, number, there, label, target, weight
    )


def data(slate: int):
    """What trees ask of `RankingData`."""
    batches = {place: batch(rows, place, slate) for place, rows in ((0, 600), (VALIDATION, 200), (TEST, 300))}
    fit = batches[0]
    known = ~fit.label_BKY[..., 2].isnan()
    watch_time = WatchTime.fit(fit.label_BKY[known][:, 2].numpy(), fit.number_BKX[known][:, DURATION].numpy(), groups=5, points=21, rows=50)
    return SimpleNamespace(
        model=SimpleNamespace(row_IW=torch.randn(ITEMS, 2 * WIDTH, generator=torch.Generator().manual_seed(9)), width=WIDTH),
        answers=SimpleNamespace(watch_time=watch_time), fit_batch=fit, held=lambda part, device: batches[part],
    )  # fmt: skip


def knows_nothing(query, moment, profile, candidate, number):
    """A ranker that gives everything the same, but for noise that is the same in each call."""
    noise = torch.randn(*number.shape[:2], 1, generator=torch.Generator().manual_seed(len(query)))
    return noise.sigmoid().expand(-1, -1, len(HEADS))


@pytest.fixture(scope="module")
def measured() -> dict:
    return trees.told(trees.measure(data(SLATE), knows_nothing, leaves=trees.Leaves((8,), (8,)), seed=0, resamples=100))


def test_trees_that_learned_beat_a_ranker_that_knows_nothing(measured):
    told = measured["figures"]
    assert set(told) == {"click_auc", "click_gauc", "complete_auc", "complete_gauc", "watch_mae_seconds", "watch_xauc", "gain_ndcg"}
    for name, row in told.items():
        assert row["difference"] == pytest.approx(row["ranker"] - row["trees"])
        assert (row["low"] > 0) if name == "watch_mae_seconds" else (row["high"] < 0), name
    assert told["click_auc"]["trees"] > 0.95 and told["complete_auc"]["trees"] > 0.95 and told["watch_xauc"]["trees"] > 0.85
    assert "gain_ndcg" in trees.lines(measured).split() and measured["rows"]["features"] == 2 * WIDTH + len(MOMENT) + 3 + len(NUMBERS)


def test_only_rows_that_are_there_and_known_are_learned_from(measured):
    fit = data(SLATE).fit_batch
    assert measured["rows"]["fit"] == int(fit.there_BK.sum()) < fit.there_BK.numel()


def test_where_every_request_showed_one_item_the_order_is_within_users():
    asked = data(1)
    fit = trees.Table.of(asked.fit_batch, asked)
    held = trees.Table.of(asked.held(VALIDATION, None), asked)
    assert (trees._within(fit) == fit.user_N).all()
    several = data(SLATE)
    table = trees.Table.of(several.fit_batch, several)
    assert (trees._within(table) == table.group_N).all()
    learned = trees.learned(asked, fit, held, leaves=trees.Leaves((4,), (4,)), seed=0)
    assert figures(learned.said(held), held.rows())["click_auc"] > 0.95
    order_N = learned.booster["order"].predict(held.feature_NF)
    assert np.corrcoef(order_N, trees._gain(held))[0, 1] > 0.6


def test_a_row_without_weight_teaches_nothing():
    """Clicks of half the rows are turned round and weigh nothing: what is learned is the other half."""
    asked = data(1)
    told = asked.fit_batch
    label, weight = told.label_BKY.clone(), told.weight_BKT.clone()
    label[::2, :, 0] = 1 - label[::2, :, 0]
    weight[::2] = 0
    turned = trees.Table.of(told._replace(label_BKY=label, weight_BKT=weight), asked)
    held = trees.Table.of(asked.held(VALIDATION, None), asked)
    booster = trees._best(turned, held, trees._label("click"), "binary", (4,), 0)
    right = (booster.predict(held.feature_NF) > 0.5) == (held.rows().click_N > 0)
    assert right.mean() > 0.8
