"""Figures carry the numbers they were given; the table holds the lists and nothing else."""

import math
import sys

import polars as pl
import pytest
import torch

from towers.evaluation import item_lists, rank
from towers.metrics import Interval
from towers.report import (
    embedding_map_by_label,
    embedding_map_by_popularity,
    metric_by_history_length,
    metric_by_popularity_decile,
    plane,
    recall_by_k,
    topk_frame,
)


def test_recall_by_k_draws_the_values_of_each_model():
    figure = recall_by_k([5, 20, 100], {"two_tower": [0.1, 0.2, 0.4], "popularity": [0.05, 0.1, 0.2]})
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["two_tower", "popularity"]
    assert lines[0].get_ydata().tolist() == [0.1, 0.2, 0.4]
    with pytest.raises(ValueError, match="'popularity' has 1 values for 2 ks"):
        recall_by_k([5, 20], {"popularity": [0.1]})


def test_bars_stand_in_order_with_their_names_and_users(tmp_path):
    figure = metric_by_popularity_decile("recall_at_20", {10: Interval(0.5, 0.4, 0.6), 0: Interval(0.1, 0.0, 0.3)}, {10: 1200, 0: 7})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cold", "10"]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 0.5]
    assert [text.get_text() for text in axes.texts] == ["7", "1,200"]
    figure.savefig(tmp_path / "decile.png")
    slices = {name: Interval(0.2, 0.1, 0.3) for name in ("history_0", "history_1_3", "history_4_10", "history_11_up")}
    axes = metric_by_history_length("ndcg_at_20", slices, dict.fromkeys(slices, 3)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1–3", "4–10", "11+"]


def test_the_plane_keeps_the_two_widest_directions():
    """Points on a scaled cross along axes 2 and 0 of three: variance 50 and 8, the third direction 0."""
    vector_ID = torch.tensor([[2.0, 7.0, 0.0], [-2.0, 7.0, 0.0], [0.0, 7.0, 5.0], [0.0, 7.0, -5.0]])
    assert torch.allclose(plane(vector_ID), torch.tensor([[0.0, 2.0], [0.0, -2.0], [5.0, 0.0], [-5.0, 0.0]]), atol=1e-5)


def test_embedding_maps_draw_every_item(tmp_path):
    vector_ID = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    labels = ["drama"] * 12 + ["comedy"] * 10 + ["western"] * 3 + [None] * 5
    by_label = embedding_map_by_label(vector_ID, labels, labels_shown=2)
    assert {c.get_label(): len(c.get_offsets()) for c in by_label.axes[0].collections} == {"other": 8, "drama": 12, "comedy": 10}
    by_count = embedding_map_by_popularity(vector_ID, torch.arange(30))
    assert by_count.axes[0].collections[0].get_array().tolist() == pytest.approx([math.log10(1 + n) for n in range(30)])
    by_label.savefig(tmp_path / "label.png")
    by_count.savefig(tmp_path / "count.png")
    with pytest.raises(ValueError, match="label_I has 30 entries for 29"):
        embedding_map_by_label(vector_ID[1:], labels)


def test_figures_leave_pyplot_alone():
    recall_by_k([1], {"a": [0.0]})
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_topk_frame_holds_ids_in_order_and_drops_the_padding():
    """User row 2 ranks b, a (c is seen); user row 0 has seen everything."""
    score_UI = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    ranking = rank(lambda b: score_UI[b], torch.tensor([2, 0]), item_lists([[0], []]), item_lists([[2], [0, 1, 2]]), item_count=3, depth=3)
    frame = topk_frame(["u0", "u1", "u2"], pl.Series(["a", "b", "c"]), ranking)
    assert frame.schema == {"user_id": pl.String, "item_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)}
    assert frame.rows() == [("u2", ["b", "a"], [2.0, 1.0]), ("u0", [], [])]
