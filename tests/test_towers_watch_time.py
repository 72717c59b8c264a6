"""Watch times as places among those of a duration, and back to seconds."""

import numpy as np
import pytest
import torch

from towers.watch_time import WatchTime, mean, median, places


def test_watch_time_by_hand():
    """Two groups, short and long, and one of unknown durations. Of 0, 0, 10, 20, 30 s the quartiles are 0, 0, 10, 20, 30: 0 lies between 0
    and a quarter, 15 s half way from a half to three quarters; 60 s of a long item is its middle."""
    short, long = np.log1p(60.0), np.log1p(600.0)
    seconds = np.array([0, 0, 10, 20, 30, 0, 30, 60, 90, 120.0])
    watch_time = WatchTime.fit(seconds, np.repeat([short, long], 5), groups=2, points=5, rows=5)
    asked = torch.tensor([0.0, 10, 15, 99, 60, 60, torch.nan])
    duration = torch.tensor([short, short, short, short, short, long, long], dtype=torch.float32)
    quantile = watch_time.quantile(asked, duration)
    assert quantile[:-1].tolist() == [0.125, 0.5, 0.625, 1, 1, 0.5] and quantile[-1].isnan()
    assert watch_time(quantile[[1, 3, 5]], duration[[1, 3, 5]]).tolist() == pytest.approx(
        [12, 30, 60]
    )  # the mean of all; the last; the mean
    assert watch_time.group(torch.tensor([0.0, short, long], dtype=torch.float32)).tolist() == [0, 1, 2]


def test_places_are_known_by_their_mean_alone():
    """The mean asked for, and a geometric series: at a half all places alike, else as many times more from each to the next."""
    place_PP = places(9)
    torch.testing.assert_close(place_PP @ torch.arange(9.0).double() / 8, torch.linspace(0, 1, 9).double())
    torch.testing.assert_close(place_PP[4], torch.full((9,), 1 / 9).double())
    ratio = place_PP[1:-1, 1:] / place_PP[1:-1, :-1]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_whoever_may_watch_is_expected_to_watch_something():
    """Where 80 % never watch, the mean rises with the place from the first; the median is 0 until half are likelier to watch than not."""
    second_P = torch.tensor([0.0] * 80 + list(range(100, 600, 25)) + [600.0])  # at 101 even steps
    watch_time = WatchTime(torch.tensor([1.0]), second_P.expand(2, -1), centre=mean)
    place = torch.linspace(0, 1, 101)
    answer = watch_time(place, torch.full_like(place, 2.0))
    assert answer[0] == 0 and answer[-1] == 600 and (answer.diff() > 0).all()
    assert answer[50].item() == pytest.approx(second_P.mean().item(), rel=1e-5) and answer[20] > 1
    least = median(second_P.double()[None])[0]
    assert least[50] == 0 and (least.diff() >= 0).all() and 300 < least[95] < 600


def test_a_place_is_where_it_stands():
    rng = np.random.default_rng(1)
    seconds = np.where(rng.random(900) < 0.4, 0, rng.exponential(100, 900))
    watch_time = WatchTime.fit(seconds, np.zeros(900), groups=3, points=101, rows=50)
    place = watch_time.quantile(torch.as_tensor(seconds, dtype=torch.float32), torch.zeros(900)).numpy()
    midrank = (seconds[:, None] > seconds).mean(1) + (seconds[:, None] == seconds).mean(1) / 2
    assert np.abs(place - midrank).max() < 0.02 and (place[seconds == 0] < 0.4).all()


def test_a_duration_tells_nothing_of_the_place():
    """D2Q's own law: where longer items are watched longer and nothing else differs, places are spread alike in every group."""
    rng = np.random.default_rng(2)
    log_duration = np.log1p(rng.choice([60.0, 600.0, 6000.0], 6000))
    seconds = np.expm1(log_duration) * rng.random(6000)
    watch_time = WatchTime.fit(seconds, log_duration, groups=3, points=101, rows=50)
    place = watch_time.quantile(torch.as_tensor(seconds, dtype=torch.float32), torch.as_tensor(log_duration, dtype=torch.float32)).numpy()
    assert [place[log_duration == group].mean() for group in np.unique(log_duration)] == pytest.approx([0.5] * 3, abs=1e-3)


def test_without_watch_times_there_is_still_a_function():
    watch_time = WatchTime.fit(np.zeros(0), np.zeros(0), groups=3, points=5, rows=10)
    assert watch_time(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3)).tolist() == pytest.approx([0, 0.5, 1])
