"""Laws of what a batch chooses among, and every choice of the researcher's table trained through the task."""

import shlex
from functools import cache, partial, reduce
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from data.datamodule import by_user
from data.frequency import inclusion
from data.split import VALIDATION
from tests.logs import small
from tests.test_docs import rows as cells
from tests.test_docs import sections
from towers.evaluation import per_user
from towers.mining import at_the_end
from towers.negatives import SampledNegatives

ROOT = Path(__file__).parents[1]
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}


def task_of(*overrides, task="two_tower"):
    """(task, data) of conf/train.yaml with overrides, on a small world."""
    with initialize(version_base="1.3", config_path="../conf"):
        cfg = compose("train", ["name=test", "question=test", f"task={task}", "task.batch_size=128", *overrides])
    L.seed_everything(0, verbose=False)
    data = instantiate(cfg.task.datamodule)(small()[1])
    return instantiate(cfg.task.module)(data=data), data, partial(instantiate, cfg.trainer.trainer, **QUIET)


def test_chances_by_hand():
    """Of two draws the heaviest takes one for certain; the rest share the other."""
    np.testing.assert_allclose(inclusion(np.array([1.0, 8.0, 1.0, 2.0]), 2), [0.25, 1, 0.25, 0.5])
    np.testing.assert_allclose(inclusion(np.ones(4), 3), 0.75)
    with pytest.raises(ValueError, match="count is 0"):
        inclusion(np.ones(4), 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.integers(1, 60))
def test_chances_sum_to_the_count_and_go_with_the_weights_up_to_one(weights, count):
    weight_I = np.array(weights)
    chance_I = inclusion(weight_I, count)
    np.testing.assert_allclose(chance_I.sum(), min(count, len(weights)), rtol=1e-9)
    per_weight_I = chance_I / weight_I
    assert (chance_I <= 1).all() and (per_weight_I[chance_I < 1] >= per_weight_I.max() * (1 - 1e-9)).all()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_what_is_drawn_is_drawn_as_often_as_log_q_says(power):
    torch.manual_seed(0)
    negatives = SampledNegatives(count_I=np.arange(30), batch_size=3, count=8, power=power)
    own, often_I = torch.tensor([2, 29, 2]), torch.zeros(30)
    for _ in range(3_000):
        row_M, target_B, negative_N = negatives(own)
        assert torch.equal(row_M[target_B], own) and len(row_M.unique()) == len(row_M) and len(negative_N.unique()) == len(negative_N)
        often_I[row_M[negative_N]] += 1 / 3_000
    torch.testing.assert_close(often_I, negatives.log_q(torch.arange(30), torch.zeros(30, 0)).exp(), atol=0.03, rtol=0)


def test_stretches_hold_every_row_once_and_batches_few_users():
    timestamp = torch.arange(10_000)
    order = by_user(timestamp, 1_000, torch.Generator().manual_seed(0), stretch=100)
    assert torch.equal(order.sort().values, timestamp)
    users = order.div(25, rounding_mode="floor")  # users of 25 rows each
    assert max(len(batch.unique()) for batch in users.split(1_000)) <= 10 * 5 + 2
    assert not torch.equal(order, by_user(timestamp, 1_000, torch.Generator().manual_seed(1), stretch=100))


@cache
def mined():
    task, data, trainer = task_of(*mined_words())
    trainer(max_epochs=2).fit(task, data)
    return task, data


def mined_words():
    return (
        "task.module.negatives._target_=towers.mining.MinedNegatives",
        *(f"+task.module.negatives.{of}" for of in ("pool=20", "hard=2")),
    )


def test_what_is_mined_is_what_the_model_would_propose_now_and_the_user_never_took():
    _, data = mined()
    task, log = mined()[0].eval(), data.train_log
    negatives, asked = task.negatives, at_the_end(log)
    query, item = task.vectors(asked)
    for user, at in list(zip(asked.user_row_Q, range(len(query)), strict=True))[::40]:
        taken = set(log.item_row_E[log.offset_U1[user] : log.offset_U1[user + 1]])
        best = [int(row) for row in (item @ query[at]).argsort(descending=True) if int(row) not in taken][:20]
        negatives.user_row_B = torch.tensor([user])
        found = negatives.best(query[at : at + 1], item, _of(asked, at))
        assert found[0].tolist() == best
        assert not taken & set(negatives.mined_UK[user].tolist())


def _of(asked, at):
    """One of the questions."""
    start, end = asked.seen_offset[at : at + 2]
    return asked.__class__(
        asked.history, asked.user_row_Q[at : at + 1], asked.start_Q[at : at + 1], asked.end_Q[at : at + 1], asked.now_Q[at : at + 1],
        asked.moment_QC[at : at + 1], np.zeros(2, np.int64), np.zeros(0, np.int64), np.array([0, end - start]), asked.seen_row[start:end],
        asked.seen_policy,
    )  # fmt: skip


def test_a_mined_candidate_is_there_as_often_as_log_q_says():
    task, data = mined()
    log, event, negatives = data.train_log, data.train_event, task.negatives
    rng, often_I = np.random.default_rng(0), np.zeros(len(log.catalogue.item_ids))
    torch.manual_seed(0)
    for _ in range(3_000):
        drawn = rng.choice(event, 128)
        negatives.user_row_B = torch.as_tensor(log.user_row_E[drawn])
        often_I[negatives(torch.as_tensor(log.item_row_E[drawn])).row_M.numpy()] += 1 / 3_000
    everything = torch.arange(len(often_I))
    np.testing.assert_allclose(often_I, negatives.log_q(everything, torch.zeros(len(everything), 0)).exp(), atol=0.035)


def test_a_resumed_run_mines_what_it_would_have_mined(tmp_path):
    """Vectors at the epoch's start are all that mining looks at."""
    whole, _ = mined()
    first, data, trainer = task_of(*mined_words())
    half = trainer(max_epochs=1)
    half.fit(first, data)
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest, data, trainer = task_of(*mined_words())
    torch.manual_seed(123)
    trainer(max_epochs=2).fit(rest, data, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert all(torch.equal(whole.state_dict()[name], rest.state_dict()[name]) for name in whole.state_dict())


def test_more_to_mine_than_there_is_is_refused():
    task, data, trainer = task_of(*mined_words(), "task.module.negatives.pool=120")
    with pytest.raises(ValueError, match=r"fewer than skip \+ pool = 0 \+ 120 items"):
        trainer(max_epochs=1).fit(task, data)


def choices():
    """What → words of the table of losses and negatives."""
    told = {what: override.strip("`") for what, override in cells(sections(ROOT / "docs" / "researcher.md")["Losses and negatives"])}
    return {what: shlex.split(words) for what, words in told.items() if "=" in words}


@pytest.mark.parametrize(("what", "task"), list(zip(choices(), cycle(["two_tower", "id_two_tower"]), strict=False)))
def test_every_choice_of_the_table_learns(what, task):
    """Two epochs find more than none: on the validation part, by the words that the table gives, of the one task or the other."""
    fewer = {
        "ask.rows=1024": "ask.rows=50",
        "count=1000": "count=60",
        "count=256": "count=60",
        "task.batch_size=65536": "task.batch_size=128",
    }
    words = [reduce(lambda word, of: word.replace(*of), fewer.items(), word) for word in choices()[what]]
    task, data, trainer = task_of(*words, task=task)
    asked = data.questions(VALIDATION)
    ndcg = lambda: float(per_user(task.eval().rank(asked), (20,))["ndcg_at_20"].mean())  # noqa: E731
    before = ndcg()
    trainer(max_epochs=2).fit(task, data)
    assert ndcg() > 1.2 * before
