"""Packed batches ask every question once, and know of each what came before it in its window."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.beside import nothing_beside
from data.datamodule import Events, shuffled
from data.sequences import NOBODY, Packed, rows_of, windows


def events_of(lengths, seed=0):
    """Users with so many events each, of items never twice the same, a minute apart."""
    rng = np.random.default_rng(seed)
    offset = np.concatenate([[0], np.cumsum(lengths)])
    count = int(offset[-1])
    user = np.repeat(np.arange(len(lengths)), lengths)
    stamp = (np.arange(count) - offset[user]) * 60_000
    columns = (offset, user, np.arange(count), rng.integers(1, 5, count), stamp, np.zeros((count, 6), np.int64), np.ones(count, np.float32))
    return Events(*(torch.as_tensor(column) for column in columns), nothing_beside(count).on(torch.device("cpu")))


def epoch(events, asked, length=4, batch_size=12, **change):
    return Packed(events, torch.as_tensor(asked), length=length, order=shuffled, batch_size=batch_size, **{"seed": 0, "epoch": 0} | change)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 99))
def test_windows_hold_every_event_but_the_last_once(lengths, length, seed):
    offset = np.concatenate([[0], np.cumsum(lengths)])
    cut = windows(offset, np.ones(offset[-1], bool), length=length, rng=np.random.default_rng(seed))
    held = [e for first, size in zip(*cut, strict=True) for e in range(first, first + size)]
    assert sorted(held) == [e for u, n in enumerate(lengths) for e in range(offset[u], offset[u] + n - 1)]
    assert (cut.length_W <= length).all()
    for u, n in enumerate(lengths):  # who fits is not cut
        if 0 < n <= length + 1:
            assert cut.length_W[(cut.first_W >= offset[u]) & (cut.first_W < offset[u + 1])].tolist() == [n - 1]


def test_a_window_without_a_question_is_left_out():
    """Two users of five and three events; only the last event of the second is asked about."""
    asked = np.zeros(8, bool)
    asked[7] = True
    assert [column.tolist() for column in windows(np.array([0, 5, 8]), asked, length=4, rng=np.random.default_rng(0))] == [[5], [2]]


def test_rows_by_hand():
    """3 and 1 fill a row of four, 2 and 2 another; 3 stands alone, as 2 more would not fit."""
    assert [column.tolist() for column in rows_of(np.array([3, 1, 2, 2, 3, 2]), 4)] == [[0, 0, 1, 1, 2, 3], [0, 3, 0, 2, 0, 0]]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=12), st.integers(0, 99))
def test_a_question_knows_what_came_before_it_and_nothing_else(lengths, seed):
    events = events_of(lengths, seed)
    asked = np.flatnonzero(np.random.default_rng(seed).random(sum(lengths)) < 0.7)
    if not len(asked):
        return
    first = events.offset_U1[events.user_row_E]
    for batch in epoch(events, asked, epoch=seed):
        for b in range(len(batch.item_row_B)):
            event, state = int(batch.item_row_B[b]), int(batch.state_B[b])
            assert event in asked and int(batch.user_row_B[b]) == int(events.user_row_E[event])
            if state == NOBODY:
                assert event == int(first[event])
                continue
            row, column = divmod(state, 4)
            mine = batch.window_BL[row] == batch.window_BL[row, column]
            known = batch.history_row_BL[row][mine & (torch.arange(4) <= column)].tolist()
            assert known == list(range(event - len(known), event)) and known[0] >= int(first[event])
            assert batch.place_BL[row, column] == len(known) - 1 and batch.since_minutes_B[b] == 1
            assert batch.event_code_BL[row, column] == events.event_code_E[event - 1]
            ages = batch.age_minutes_BL[row][mine].tolist()
            assert ages == list(range(len(ages), 0, -1))


def test_an_epoch_asks_every_question_once_but_those_of_the_rows_left_over():
    events, asked = events_of([5, 1, 3, 4, 2, 5, 5, 5]), np.arange(30)
    batches = list(epoch(events, asked, batch_size=4))
    assert sorted(torch.cat([batch.item_row_B for batch in batches]).tolist()) == asked.tolist()
    assert len(batches) == len(epoch(events, asked, batch_size=4))
    large = list(epoch(events, asked, batch_size=12))
    assert len(large) == len(batches) // 3 and all(batch.history_row_BL.shape == (3, 4) for batch in large)


def test_seed_and_epoch_decide_alone():
    events, asked = events_of([9, 8, 7, 9, 8, 7]), np.arange(48)
    asks = [[batch.item_row_B.tolist() for batch in epoch(events, asked, **change)] for change in ({}, {}, {"epoch": 1}, {"seed": 1})]
    assert asks[0] == asks[1] and asks[0] != asks[2] and asks[0] != asks[3]


def test_ranks_share_a_batch():
    events, asked = events_of([5] * 16), np.arange(80)
    whole = list(epoch(events, asked, batch_size=16))
    parts = [list(epoch(events, asked, batch_size=8, rank=rank, ranks=2)) for rank in (0, 1)]
    for both, one, other in zip(whole, *parts, strict=True):
        assert sorted(both.item_row_B.tolist()) == sorted(one.item_row_B.tolist() + other.item_row_B.tolist())
