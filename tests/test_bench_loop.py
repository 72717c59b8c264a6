"""The loop that bench/loop.py closes: one small round of it, and what its people and its figures are."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from bench.crowd import Crowd, Shown, figures, gini
from bench.loop import BARE, ROOT, Setting, lived, words
from data import judgements
from data.impressions import frame
from data.outcomes import Slates
from data.split import TEST, TRAIN, VALIDATION
from serve.settings import settings

SMALL = ("trainer.trainer.max_epochs=1", "task.batch_size=128")
SETTING = Setting(
    users=60, items=48, events=900, days=1, visits=25, count=6, exponent=0.3, epsilon=0.5, candidates=300, pool=50, mmr_lambda=1.0,
    rounds=1, train=(*SMALL, "task.module.width=16"), ranker=(SMALL[0], "task.datamodule.depth=30"),
)  # fmt: skip


def test_what_people_did_before_the_real_server_is_what_the_next_training_reads(tmp_path):
    before, told = lived(tmp_path, "none", 0, SETTING)
    assert told["shown"] == 6 * told["pages"] > 60 and 0 < told["clicked"] < told["examined"] < told["shown"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*words(tmp_path, "none", 0, 2, SETTING), "task=two_tower", *SETTING.train])
    log = instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data)))
    shown = frame(log)
    here = shown["release"] == "round-1"
    served, base = shown.filter(here), shown.filter(~here)
    assert (len(served), served["clicked"].sum(), served["request_id"].n_unique()) == (told["shown"], told["clicked"], told["pages"])
    assert base.filter(arm="policy")["request_id"].n_unique() == before["pages"] and set(base["release"]) == {"simulated"}
    assert shown["clicked"].null_count() == shown["watch_duration_seconds"].null_count() == 0
    assert set(served["propensity"].drop_nulls()) > {0.5} and served["position"].max() == 6  # chance kept its item, or drew another
    of_round_G = (shown.unique("request_id", keep="first", maintain_order=True)["release"] == "round-1").to_numpy()
    part_G = judgements.shown(log).part_G  # of the last round, what orders learns; of all before it, what finds
    assert set(part_G[of_round_G]) <= {VALIDATION, TEST} and (part_G[of_round_G] == VALIDATION).mean() > 0.5
    learned = instantiate(cfg.task.datamodule)(log).train_log
    assert len(learned.item_row_E) == (log.part_E == TRAIN).sum() >= 0.9 * base["clicked"].sum()


def test_no_rule_decides_but_the_models_and_chance():
    rules = settings([*BARE, *SETTING.serving()]).rules
    assert not (rules.boosts or rules.caps or rules.turns) and (rules.explore.places, rules.explore.epsilon) == ((3, 6), 0.5)


def test_the_two_tower_and_chance_alone_propose():
    of = {name: budget.candidates for name, budget in settings([*SETTING.serving()]).sources.items()}
    assert (of.pop("collaborative"), of.pop("explore")) == (300, 50) and set(of.values()) == {1}


@pytest.fixture(scope="module")
def crowd():
    return Crowd.of(SETTING.world(0))


def test_people_come_as_often_as_they_are_active_and_nobody_twice_a_day(crowd):
    rng = np.random.default_rng(0)
    came_U = np.bincount(np.concatenate([crowd.visits(day, 20, rng).user_row_R for day in range(400)]), minlength=60)
    expected_U = 400 * np.minimum(20 * crowd.audience.activity_U, 1)
    assert (np.abs(came_U - expected_U) <= 5 * np.sqrt(expected_U * (1 - expected_U / 400)) + 1e-9).all()
    requests = crowd.visits(3, 40, rng)
    assert len(set(requests.user_row_R)) == len(requests.user_row_R)


def test_people_look_by_position_and_click_by_attraction(crowd):
    """Over many pages of the same items: looked at as often as k^-.3, clicked as often as that times the true attraction."""
    rng = np.random.default_rng(1)
    requests = crowd.visits(0, 3_000, rng)
    item_RS = np.tile(np.arange(6), (len(requests.user_row_R), 1))
    examined, clicked, expected = np.zeros(6), np.zeros(6), np.zeros(6)
    for _ in range(30):
        slates, events = crowd.respond(requests, item_RS, rng)
        examined, clicked = examined + slates.examined.mean(0) / 30, clicked + slates.clicked.mean(0) / 30
        expected += (slates.examination * slates.attraction).mean(0) / 30
        assert len(events.filter(events["event_type"] != "rate")) == slates.clicked.sum()
    np.testing.assert_allclose(examined, np.arange(1.0, 7) ** -0.3, atol=5 * 0.5 / np.sqrt(30 * len(item_RS)))
    np.testing.assert_allclose(clicked, expected, atol=5 * 0.5 / np.sqrt(30 * len(item_RS)))


def test_an_empty_place_is_not_shown(crowd):
    requests = crowd.visits(0, 3_000, np.random.default_rng(2))
    item_RS = np.tile([3, 1, -1], (len(requests.user_row_R), 1))
    slates, _ = crowd.respond(requests, item_RS, np.random.default_rng(3))
    assert slates.shown.tolist() == [[True, True, False]] * len(item_RS) and not slates.examined[:, 2].any()


def test_figures_by_hand():
    """Two pages of two places, from a catalogue of four: item 0 three times, item 1 once."""
    slates = Slates.empty(2, 2)
    slates.item[:], slates.shown[:] = [[0, 1], [0, 0]], True
    slates.attraction[:], slates.examination[:] = [[0.8, 0.4], [0.2, 0.6]], [[1.0, 0.5], [1.0, 0.5]]
    told = figures(Shown.of([slates]), items=4)
    assert told["satisfaction"] == pytest.approx(0.5) and told["clicks_expected"] == pytest.approx((0.8 + 0.2 + 0.2 + 0.3) / 2)
    assert (told["coverage"], told["top_share"], told["pages"]) == (0.5, 0.75, 2)
    assert told["gini"] == pytest.approx(0.625)  # (3 + 3 + 2 + 2 + 1 + …): Σ|x − y| = 20 over 2 · 16 · mean 1
    assert told["effective_share"] == pytest.approx((4 / 3) ** 0.75 * 4**0.25 / 4)
    assert told["gini_seen"] == pytest.approx(gini(np.array([2.5, 0.5, 0, 0])))


def test_gini_is_0_where_all_are_alike_and_nearly_1_where_one_has_all():
    assert gini(np.ones(7)) == 0 and gini(np.eye(100)[3]) == pytest.approx(0.99)
