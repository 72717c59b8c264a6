"""The retrieval task: negatives, the law of several processes, resuming, leaving a model behind and starting warm from it."""

import math
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
import torch.multiprocessing

from data.bias import Bias
from data.datamodule import Events, RetrievalData, by_hour, shuffled
from data.examination import certain
from data.features import HOUR_MS
from data.log import read_log
from data.propensity import even, popularity
from data.schema import Tables
from data.split import TEST, VALIDATION, LeakError, by_time, leave_last_out
from tests.logs import small
from towers.encoders import MeanEncoder
from towers.evaluation import ItemLists, per_user, rank
from towers.losses import sampled_softmax
from towers.negatives import InBatchNegatives, InBatchOfTheHour, WholeCatalogue, distinct
from towers.retrieval import RetrievalTask
from towers.saved import SavedModelError, SavedRetrieval, check_checkpoint, save_retrieval
from towers.two_tower import PRIOR_SCALE, IdItemTower, IdUserTower, ItemTower, UnitNorm, UserTower, prior
from towers.warm_start import start_warm


def data_of(log, **change):
    known = {
        "batch_size": 128,
        "history_length": 10,
        "bias": Bias(even, certain, floor=1.0),
        "recency_half_life_days": None,
        "order": shuffled,
        "seed": 0,
    }
    return RetrievalData(log, **known | change)


def task_of(data, **change):
    torch.manual_seed(0)
    known = {
        "width": 16, "temperature": 0.2, "table_lr": 0.05, "table_std": 0.1, "table_start": 0.0,
        "popularity_half_lives_days": (), "popularity_age_days": 0, "ks": (10, 20),
        "item_tower": partial(ItemTower, hidden=32, content_std=0.1, id_dropout=0.1, dropout=0.1, norm=UnitNorm()),
        "user_tower": partial(UserTower, hidden=32, dropout=0.1, norm=UnitNorm(), encoder=MeanEncoder),
        "negatives": partial(InBatchNegatives, uniform=8), "dense_optimizer": partial(torch.optim.AdamW, lr=3e-3),
    }  # fmt: skip
    return RetrievalTask(data=data, **known | change)


def trainer(**change):
    known = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "reload_dataloaders_every_n_epochs": 1, "use_distributed_sampler": False, "limit_val_batches": 0,
    }  # fmt: skip
    return L.Trainer(**known | change)


def test_distinct_is_unique():
    rows = torch.tensor([5, 2, 5, 9, 2])
    row_R, place_N = distinct(rows, 10)
    assert row_R.tolist() == [2, 5, 9] and torch.equal(row_R[place_N], rows)


def test_candidates_hold_each_query_its_own_item_once():
    torch.manual_seed(0)
    rows = torch.tensor([3, 3, 7, 1])
    candidates = InBatchNegatives(count_I=np.arange(1, 11), batch_size=4, uniform=5)(rows)
    assert torch.equal(candidates.row_M[candidates.target_B], rows)
    assert candidates.row_M.tolist() == sorted(set(candidates.row_M.tolist()))
    whole = WholeCatalogue(count_I=np.arange(1, 11), batch_size=4)
    everything = whole(rows)
    assert torch.equal(everything.row_M[everything.target_B], rows) and len(everything.row_M) == 10
    assert (whole.log_q(everything.row_M, torch.zeros(10, 0)) == 0).all()


def test_popularity_of_the_hour_cancels_out_of_the_softmax():
    """A query of no taste that gives popularity the power one finds every candidate as likely: the loss is log M, whatever was popular."""
    negatives = InBatchOfTheHour(count_I=np.arange(1, 11), batch_size=4)
    candidates = negatives(torch.tensor([3, 3, 7, 1]))
    columns = prior(torch.tensor([[5.0, 2.0], [0.0, 0.3], [80.0, 10.0]]))
    query, log_q_M = torch.full((4, 2), 0.1 / PRIOR_SCALE / 2), negatives.log_q(candidates.row_M, columns)
    loss = sampled_softmax(
        query,
        columns,
        target_B=candidates.target_B,
        log_q_M=log_q_M,
        weight_B=torch.ones(4),
        temperature=0.1,
    )
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)


def test_batches_by_the_hour_are_stretches_of_time():
    _, log = small()
    time = torch.as_tensor(log.timestamp_E)
    order = by_hour(time, 50, torch.Generator().manual_seed(0))
    assert len(order.unique()) == len(order) > len(time) - 100
    ends = [(stretch.min(), stretch.max()) for stretch in time[order].split(50)]
    for low, high in ends:
        assert not any(low < other_low and other_high < high for other_low, other_high in ends)
    assert not torch.equal(order, by_hour(time, 50, torch.Generator().manual_seed(1)))


def test_what_a_batch_knows_of_popularity_is_older_than_all_its_rows(tmp_path):
    """Whatever happens from the batch's earliest hour on, its popularity columns stay the same."""
    _, log = small()
    data = data_of(log, order=by_hour)
    task = task_of(data, popularity_half_lives_days=(2.0,), negatives=InBatchOfTheHour)
    now_B = torch.as_tensor(np.sort(log.before(VALIDATION).timestamp_E)[500:600])
    task.clocks = task.clocks_of(data.train_log)
    whole = task.priors(torch.arange(120), task.hour_known(now_B))
    hour_start = int(now_B.min()) // HOUR_MS * HOUR_MS
    task.clocks = task.clocks_of(log.where(log.timestamp_E < hour_start))
    assert torch.equal(task.priors(torch.arange(120), task.hour_known(now_B)), whole) and whole.max() > 0


def test_a_model_with_popularity_columns_trains_saves_and_is_refreshed(tmp_path):
    _, log = small()
    data = data_of(log, order=by_hour)
    task = task_of(data, popularity_half_lives_days=(2.0,), negatives=InBatchOfTheHour)
    trainer(max_epochs=1).fit(task, data)
    save_retrieval(task, data, tmp_path)
    saved = SavedRetrieval.open(tmp_path)
    torch.testing.assert_close(saved.rows_after(data.train_log), saved.row_IW)
    later = saved.rows_after(log)
    assert torch.equal(later[:, :-1], saved.row_IW[:, :-1]) and not torch.equal(later[:, -1], saved.row_IW[:, -1])


def test_training_beats_popularity_on_a_world_with_tastes():
    log = small()[1]
    data, task = data_of(log), task_of(data_of(log))
    trainer(max_epochs=8).fit(task, data)
    asked = data.questions(TEST)
    learned = per_user(task.eval().rank(asked), (10,))["ndcg_at_10"].mean()
    fresh = per_user(task_of(data).eval().rank(asked), (10,))["ndcg_at_10"].mean()
    count_I = torch.as_tensor(log.item_count()).float()
    lists = [
        ItemLists(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in ((asked.target_offset, asked.target_row), (asked.seen_offset, asked.seen_row))
    ]
    popular = rank(lambda u: count_I.expand(len(u), -1), torch.arange(len(asked.user_row_Q)), *lists, item_count=len(count_I))
    assert learned > 1.15 * float(per_user(popular, (10,))["ndcg_at_10"].mean()) and learned > 2 * fresh


def test_weights_of_one_change_no_bit():
    log = small()[1]
    states = []
    for exposure in (even, partial(popularity, power=0.0)):
        data = data_of(log, bias=Bias(exposure, certain, floor=1.0))
        task = task_of(data)
        trainer(max_epochs=1).fit(task, data)
        states.append(task.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_resumed_run_is_the_run_it_would_have_been(tmp_path):
    data = data_of(small()[1])
    whole = task_of(data)
    trainer(max_epochs=3).fit(whole, data)
    first = task_of(data)
    half = trainer(max_epochs=1)
    half.fit(first, data)
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = task_of(data)
    torch.manual_seed(123)
    trainer(max_epochs=3).fit(rest, data, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert all(torch.equal(whole.state_dict()[name], rest.state_dict()[name]) for name in whole.state_dict())


def test_what_was_saved_answers_as_what_was_trained(tmp_path):
    log = small()[1]
    data, task = data_of(log), task_of(data_of(log))
    trainer(max_epochs=1).fit(task, data)
    save_retrieval(task, data, tmp_path)
    saved = SavedRetrieval.open(tmp_path)
    saved.check_same_items(log)
    batch = Events.of(log, np.ones(len(log.item_row_E), np.float32), torch.device("cpu")).batch(torch.arange(50, 60), length=10)
    input_ID = task.item_rows(log)[:, :16]
    scripted = saved.user_tower(saved.row_IW[batch.history_row_BL, :16], batch.event_code_BL, batch.age_minutes_BL, batch.moment_BC)
    torch.testing.assert_close(scripted, task.user_tower.ask(batch, input_ID, batch.history_row_BL), atol=2e-3, rtol=2e-3)
    other = read_log(by_time(Tables(log.split.tables.events, log.split.tables.items.reverse(), *_rest(log))))
    with pytest.raises(SavedModelError, match="other item_ids than this log"):
        saved.check_same_items(other)
    with (tmp_path / "user_tower.pt").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(SavedModelError, match=r"user_tower\.pt cannot be read"):
        SavedRetrieval.open(tmp_path)


def _rest(log):
    return log.split.tables.users, log.split.tables.impressions


def test_warm_start_moves_rows_by_name(tmp_path):
    log = small()[1]
    data, task = data_of(log), task_of(data_of(log))
    trainer(max_epochs=1).fit(task, data)
    save_retrieval(task, data, tmp_path)
    turned = read_log(by_time(Tables(log.split.tables.events, log.split.tables.items.reverse(), *_rest(log))))
    warm = task_of(data_of(turned))
    said = start_warm(warm, data_of(turned), tmp_path)
    assert "120 of 120 items known" in said
    torch.testing.assert_close(warm.item_id.weight, task.item_id.weight.flip(0))
    torch.testing.assert_close(warm.user_tower.moment[2].weight, task.user_tower.moment[2].weight)
    genres = len(log.catalogue.recipe.genres.words)
    torch.testing.assert_close(warm.item_tower.content[0].weight[:, :genres], task.item_tower.content[0].weight[:, :genres])
    fewer = log.split.tables.items.head(100)
    events = log.split.tables.events.join(fewer, on="item_id", how="semi")
    known = read_log(by_time(Tables(events, fewer, *_rest(log))))
    older = task_of(data_of(known))
    save_retrieval(older, data_of(known), tmp_path / "older")
    grown = task_of(data_of(log))
    fresh = grown.item_id.weight[100:].clone()
    assert "100 of 120 items known" in start_warm(grown, data_of(log), tmp_path / "older")
    torch.testing.assert_close(grown.item_id.weight[:100], older.item_id.weight)
    assert torch.equal(grown.item_id.weight[100:], fresh)


def test_a_warm_start_from_a_model_that_knows_the_test_is_refused(tmp_path):
    world = small()[1].split.tables
    early, late = (read_log(by_time(world, test_quantile=quantile, validation_quantile=quantile - 0.1)) for quantile in (0.6, 0.9))
    for name, log in (("early", early), ("late", late)):
        save_retrieval(task_of(data_of(log)), data_of(log), tmp_path / name)
    assert start_warm(task_of(data_of(late)), data_of(late), tmp_path / "early").endswith("nothing")
    until, cut = late.before(VALIDATION).timestamp_E.max(), early.split.cut_ms.test
    with pytest.raises(LeakError, match=rf"late has learned of events up to {until} ms, and this run is tested on those from {cut} ms on"):
        start_warm(task_of(data_of(early)), data_of(early), tmp_path / "late")
    lasts = read_log(leave_last_out(world))
    assert "whether it knows of this run's test, nothing tells" in start_warm(task_of(data_of(lasts)), data_of(lasts), tmp_path / "early")


def test_an_id_two_tower_trains_through_the_same_task():
    log = small()[1]
    data = data_of(log, history_length=0)
    task = task_of(
        data,
        item_tower=partial(IdItemTower, norm=UnitNorm()),
        user_tower=partial(IdUserTower, norm=UnitNorm()),
        negatives=InBatchNegatives,
        table_lr=0.2,
    )
    before = task.rank(data.questions(VALIDATION))
    trainer(max_epochs=5).fit(task, data)
    after = task.rank(data.questions(VALIDATION))
    assert per_user(after, (20,))["recall_at_20"].mean() > per_user(before, (20,))["recall_at_20"].mean() * 1.5


def _one_rank(rank: int, folder: str) -> None:
    """One of two gloo processes: the gradient of its half of a batch, averaged as Lightning's DDP would."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradient = _gradient(slice(rank * 32, rank * 32 + 32))
    for tensor in gradient.values():
        torch.distributed.all_reduce(tensor)
        tensor /= 2
    torch.save(gradient, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _gradient(rows: slice) -> dict[str, torch.Tensor]:
    log = small()[1]
    data = data_of(log, bias=Bias(partial(popularity, power=1.0), certain, floor=0.05), batch_size=64)
    task = task_of(data, negatives=InBatchNegatives).eval()  # no dropout: what is random differs between processes
    task.epoch_loss, task.epoch_rows = torch.zeros(()), 0
    batch = Events.of(data.train_log, data.weight_E, torch.device("cpu")).batch(torch.as_tensor(data.train_event[:640:10])[rows], length=10)
    task.training_step(batch, 0).backward()
    return {name: p.grad.to_dense() for name, p in task.named_parameters() if p.grad is not None}


def test_two_processes_have_the_gradient_of_one_on_the_joined_batch():
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_one_rank, args=(folder,), nprocs=2)
        halves = [torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1)]
    whole = _gradient(slice(0, 64))
    assert whole.keys() == halves[0].keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[0][name], gradient, atol=1e-6, rtol=1e-4)
        assert torch.equal(halves[0][name], halves[1][name])


def test_an_item_without_a_training_event_is_its_content_alone():
    _, log = small()
    data = data_of(log)
    met_I = np.bincount(data.train_log.item_row_E, minlength=len(log.catalogue.item_ids)) > 0
    assert 0 < (~met_I).sum() < len(met_I)
    task = task_of(data, negatives=InBatchNegatives)
    trainer(max_epochs=1).fit(task, data)
    task.eval()
    by_content = task.item_tower(task.feature_IF).float()
    rows = task.item_rows(data.train_log)
    torch.testing.assert_close(rows[~met_I], by_content[~met_I], atol=2e-3, rtol=0)
    assert (rows[met_I] - by_content[met_I]).abs().max() > 0.05


def test_negatives_of_the_hour_need_popularity_columns():
    with pytest.raises(ValueError, match="popularity_half_lives_days at least one"):
        InBatchOfTheHour(count_I=np.ones(3), batch_size=2).log_q(torch.tensor([0, 1]), torch.zeros(2, 0))


def test_a_checkpoint_cut_short_is_refused_by_name(tmp_path):
    torch.save({"weights": torch.zeros(1000)}, tmp_path / "last.ckpt")
    check_checkpoint(tmp_path / "last.ckpt")
    whole = (tmp_path / "last.ckpt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nothing of the kind"):
        (tmp_path / "last.ckpt").write_bytes(damaged)
        with pytest.raises(SavedModelError, match=r"last\.ckpt cannot be read"):
            check_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(SavedModelError, match="absent"):
        check_checkpoint(tmp_path / "absent")


def test_a_scheduler_moves_the_rates_of_tables_and_networks_alike():
    """A straight line to 0 in four epochs: after two, half of what each began with."""
    data = data_of(small()[1])
    task, fit = task_of(data, scheduler=partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=4)), trainer(max_epochs=2)
    fit.fit(task, data)
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == pytest.approx([0.05 / 2, 3e-3 / 2])
