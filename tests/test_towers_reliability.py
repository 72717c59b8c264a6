"""Whether probabilities come true: bins by hand, and a model that knows the truth."""

import pytest
import torch

from towers import report
from towers.evaluation import ItemLists, item_lists
from towers.reliability import reliability, softmax_reliability


def test_bins_expect_as_much_each_and_have_wilsons_interval():
    """Four predictions of 1/4 expect one event, two of 1/2 another; one of four came true, and one of two: Wilson's ends by his formula."""
    probability = torch.tensor([0.5, 0.25, 0.25, 0.5, 0.25, 0.25])
    found = reliability(probability, torch.tensor([1.0, 0, 1, 0, 0, 0]), bins=2)
    assert found.predicted_b.tolist() == found.observed_b.tolist() == [0.25, 0.5] and found.events_b.tolist() == [1, 1]
    assert found.low_b.tolist() == pytest.approx([0.0456, 0.0945], abs=1e-4)
    assert found.high_b.tolist() == pytest.approx([0.6994, 0.9055], abs=1e-4)


def test_trials_are_as_many_predictions():
    """Three trials of one prediction are three predictions."""
    once = reliability(torch.tensor([0.1, 0.1, 0.1, 0.6]), torch.tensor([1.0, 1, 0, 1]), bins=3)
    told = reliability(torch.tensor([0.1, 0.6]), torch.tensor([2.0, 1]), torch.tensor([3, 1]), bins=3)
    assert once.observed_b.tolist() == pytest.approx([2 / 3, 1]) and told.observed_b.tolist() == pytest.approx([2 / 3, 1])
    assert told.predicted_b.tolist() == pytest.approx(once.predicted_b.tolist())


def test_what_expects_nothing_is_refused():
    with pytest.raises(ValueError, match="2 predictions expect no event at all"):
        reliability(torch.zeros(2), torch.ones(2))


def test_what_was_seen_is_out_of_the_softmax_unless_it_is_wanted_again():
    """Scores ln 1, ln 2, ln 3: without the last, 1/3 and 2/3; where the last is wanted though seen, 1/6, 2/6, 3/6."""
    query, vector = torch.ones(1, 1), torch.tensor([1.0, 2.0, 3.0]).log()[:, None]
    found = softmax_reliability(query, vector, item_lists([[1]]), item_lists([[2]]), temperature=1.0)
    assert found.predicted_b.tolist() == pytest.approx([1 / 3, 2 / 3]) and found.observed_b.tolist() == [0, 1]
    again = softmax_reliability(query, vector, item_lists([[2]]), item_lists([[2]]), temperature=1.0)
    assert again.predicted_b.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6]) and again.observed_b.tolist() == [0, 0, 1]


def wanted_by(softmax_QI: torch.Tensor, count: int, generator: torch.Generator) -> ItemLists:
    drawn_QT = softmax_QI.multinomial(count, replacement=True, generator=generator)
    return item_lists([row.unique().tolist() for row in drawn_QT])


def test_the_truth_means_what_it_says_and_a_colder_softmax_promises_too_much():
    generator = torch.Generator().manual_seed(0)
    query, vector = torch.randn(4000, 8, generator=generator), torch.randn(60, 8, generator=generator)
    targets, nothing = wanted_by((query @ vector.T / 2).softmax(1), 1, generator), item_lists([[]] * 4000)
    true = softmax_reliability(query, vector, targets, nothing, temperature=2.0)
    assert int(((true.low_b <= true.predicted_b) & (true.predicted_b <= true.high_b)).sum()) >= 8
    assert int(true.events_b.sum()) == 4000  # all questions fit
    cold = softmax_reliability(query, vector, targets, nothing, temperature=1.0)
    assert cold.high_b[-1] < cold.predicted_b[-1] and cold.low_b[0] > cold.predicted_b[0]
    few = softmax_reliability(query, vector, targets, nothing, temperature=2.0, cells=600)
    assert int(few.events_b.sum()) == 10  # 600 scores are ten questions


def test_the_diagram_shows_every_bin(tmp_path):
    """A bin in which nothing came true has no logarithm: it stands at the foot, open."""
    found = reliability(torch.tensor([0.01] * 100 + [0.5] * 2), torch.tensor([0.0] * 100 + [1.0, 0.0]), bins=2)
    figure = report.reliability_diagram({"click": found}, of="test")
    axes = figure.axes[0]
    (marks,) = axes.containers
    assert marks.lines[0].get_xdata().tolist() == [0.5] and marks.lines[0].get_ydata().tolist() == [0.5]
    assert [len(points.get_offsets()) for points in axes.collections if points.get_offsets().any()] == [1]
    assert axes.get_legend().get_texts()[0].get_text() == "click: 1 came true"
    figure.savefig(tmp_path / "calibration.png")
