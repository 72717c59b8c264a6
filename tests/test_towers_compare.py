"""Runs beside each other: the same questions, and what their slates would have earned, against a world where that is known."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from data.bias import Bias
from data.examination import Examination
from data.log import Log, queries, read_log
from data.propensity import even
from data.split import TEST, by_time
from tests.logs import small
from tests.saved_models import write_model
from tests.worlds import SMALL_MILD, simulated
from towers import compare, report
from towers.evaluation import per_user
from towers.intervals import bootstrap
from towers.logged_slates import NoVerdictError, earned, eligible, had_all_been_looked_at, inclusion, logged_slates, verdicts
from towers.off_policy import Terms
from towers.ranking_data import ask, history_at
from towers.rivals import answers
from towers.run_folder import CompareError, Run, ranking_of, same_log, settings
from towers.saved import SavedRetrieval
from towers.significance import holm, paired_t


def write_run(folder: Path, log: Log, vector_ID: np.ndarray, /, **changes) -> Path:
    """A finished run whose model knows items by `vector_ID`, as train.py leaves it."""
    write_model(folder / "model", log, vector_ID)
    asked = queries(log, TEST)
    user_ids = pl.Series(log.user_ids, dtype=pl.String).gather(asked.user_row_Q)
    ranking = answers(SavedRetrieval.open(folder / "model"), log, asked)
    report.topk_frame(user_ids, log.catalogue.item_ids, ranking).write_parquet(folder / "test_topk.parquet")
    sizes = {name: getattr(SMALL_MILD, name) for name in ("users", "items", "events", "seed")}
    cfg = {
        "data": {"_target_": "data.world.mild", **sizes},
        "split": {"_target_": "data.split.by_time", "_partial_": True},
        "log": {"_target_": "data.log.read_log", "_partial_": True},
        "bias": {"examination": {"_target_": "data.examination.certain"}},
    }  # fmt: skip
    OmegaConf.save(OmegaConf.merge(cfg, changes), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """One that knows genres, and one that knows nothing."""
    _, log = small()
    folder = tmp_path_factory.mktemp("runs")
    genre_IG = log.catalogue.genre_IG
    noise_IG = np.random.default_rng(0).standard_normal(genre_IG.shape)
    return [write_run(folder / "genres", log, genre_IG), write_run(folder / "noise", log, noise_IG)]


@pytest.fixture(scope="module")
def told(runs) -> dict:
    return compare.compare([Run.open(folder) for folder in runs], small()[1])


def test_the_lists_that_a_run_left_are_what_its_model_answers(runs):
    _, log = small()
    run = Run.open(runs[0])
    assert Run.open(runs[0] / "model").name == "genres"  # where models/<name> leads
    from_lists, anew = ranking_of(run, log), answers(run.model, log, queries(log, TEST))
    assert torch.equal(from_lists.rank_T, anew.rank_T) and torch.equal(from_lists.top_item_row_UK, anew.top_item_row_UK)


def test_every_run_is_told_beside_the_first(told, runs):
    _, log = small()
    assert told["runs"] == ["genres", "noise"] and told["data_fingerprint"] == log.split.tables.fingerprint()
    figure = told["ranking"]["ndcg_at_20"]
    mine = [per_user(ranking_of(Run.open(folder), log), (20,))["ndcg_at_20"] for folder in runs]
    assert figure["genres"]["value"] == pytest.approx(float(mine[0].mean())) and "difference" not in figure["genres"]
    assert figure["noise"]["difference"]["value"] == pytest.approx(float((mine[1] - mine[0]).mean()))
    assert figure["noise"]["difference"]["high"] < 0
    sliced = {name: of["genres"]["users"] for name, of in told["ranking"].items() if name.startswith("history_") and "/" in name}
    assert sum(sliced.values()) == figure["genres"]["users"]  # every user has one length of history


def test_a_run_is_as_good_as_itself(runs):
    run = Run.open(runs[0])
    same = compare.compare([run, replace(run, name="again")], small()[1], shares=(0.3,))
    for name in ("recall_at_10", "mrr_at_20"):
        apart = same["ranking"][name]["again"]["difference"]
        assert [apart[key] for key in ("value", "low", "high", "relative", "p", "p_holm")] == [0, 0, 0, 0, 1, 1]
        assert compare.sentence(name, "again", "genres", same["ranking"][name]["again"]) == (
            f"{name}: no difference can be told between again and genres: +0.0000 (+0.0%), 95 % interval +0.0000 to +0.0000,"
            " p = 1.0000 after Holm over 15 tests, over users"
        )
    first, again = (same["off_policy"][0]["policies"][name] for name in ("genres", "again"))
    assert first["verdicts"] == again["verdicts"] and again["difference_by_snips"]["value"] == 0


def test_the_document_is_plain_and_the_tables_name_every_estimator(told, capsys):
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert [of["share"] for of in told["off_policy"]] == [0.0, 0.1] and told["off_policy_had_all_been_looked_at"] == []
    compare.show(told, Console(width=200))
    said = capsys.readouterr().out
    apart = [name for name, by in told["ranking"].items() if "/" in name and (by["noise"]["difference"]["p_holm"] or 1) < 0.05]
    sentences = re.findall(r"^(\S+): (?:noise is worse than|no difference can be told between noise and) genres", said, re.MULTILINE)
    assert apart and set(apart) <= set(sentences) and len(sentences) >= 15
    for word in ("ndcg_at_20", "IPS", "clipped IPS", "SNIPS", "DR", "SWITCH-DR", "DM", "genres", "noise", "weak: an effective sample of"):
        assert word in said
    for of in told["off_policy"]:
        for policy in of["policies"].values():
            overlap = policy["overlap"]
            assert 0 < overlap["effective"] <= overlap["positions"] and (overlap["effective"] < 500) == bool(overlap["said"])


MILD = Bias(even, lambda observed, rows: Examination(rows.position_N**-0.33, np.zeros(len(rows.position_N))), floor=0.01)
"""The world's own attention, which a log does not tell."""


def test_what_slates_would_have_earned_where_it_is_known(runs):
    """A position earns the mean attraction of the items that the target policy puts there: found by the log's chance alone (rewards being
    the attraction itself), and by clicks corrected by the true examination within three of their own standard errors."""
    _, log = small()
    _, truth = simulated(SMALL_MILD)
    logged = had_all_been_looked_at(logged_slates(log), MILD)
    slates, there_GK = logged.slates, logged.slates.there_GK
    place = {user_id: row for row, user_id in enumerate(log.split.tables.users["user_id"])}
    attraction_GI = truth.relevance(np.array([place[log.user_ids[row]] for row in logged.user_G]), slates.now_G)
    attraction_GK = np.take_along_axis(attraction_GI, slates.item_row_GK, 1) * there_GK
    for folder in runs:
        model = Run.open(folder).model
        history = history_at(log, slates.start_G, slates.end_G, slates.now_G, model.history_length)
        score_GI = (ask(model, history, slates.moment_GC) @ model.row_IW[:, model.width :].float().T).numpy()
        inclusion_GI = inclusion(score_GI, eligible(log, slates), there_GK.sum(1), share=0.3)
        known = (inclusion_GI * attraction_GI).sum() / logged.size_G.sum()
        made = earned(logged, model, share=0.3)
        seen, found = verdicts(logged._replace(click_GK=attraction_GK), made, cap=50.0)
        assert seen.effective > 500 and not seen.refusal and [verdict.estimator for verdict in found] == ["IPS", "clipped IPS", "SNIPS"]
        for verdict in (found[0], found[2]):
            assert verdict.low < known < verdict.high and verdict.high - verdict.low < 0.3 * known, verdict
        apart_G = (made.ratio_GK * (logged.click_GK - attraction_GK)).sum(1)
        assert abs(apart_G.sum()) < 3 * np.sqrt((apart_G**2).sum())


def test_the_reward_model_has_learnt_what_is_clicked_and_dr_stands_on_it(runs):
    """Of what the test showed, which it never saw, it expects about as many clicks as came, and more of the clicked than of others."""
    _, log = small()
    logged = logged_slates(log)
    made = earned(logged, Run.open(runs[0]).model, share=0.3)
    there = logged.slates.there_GK
    predicted, click = made.predicted_GK[there], logged.click_GK[there]
    assert predicted.mean() == pytest.approx(click.mean(), rel=0.2) and predicted[click == 1].mean() > 1.1 * predicted[click == 0].mean()
    by_name = {verdict.estimator: verdict for verdict in verdicts(logged, made, cap=50.0)[1]}
    nothing = made._replace(predicted_GK=np.zeros_like(made.predicted_GK), expected_G=np.zeros_like(made.expected_G))
    plain = {verdict.estimator: verdict for verdict in verdicts(logged, nothing, cap=50.0)[1]}
    assert plain["DR"].value == pytest.approx(plain["IPS"].value) and plain["DM"].value == 0.0
    right = {verdict.estimator: verdict for verdict in verdicts(logged._replace(click_GK=made.predicted_GK), made, cap=50.0)[1]}
    assert right["DR"].value == pytest.approx(right["DM"].value) == pytest.approx(by_name["DM"].value)  # weights matter where it errs


def test_the_target_slate_by_hand():
    score = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
    able = np.array([[True, False, True, True, True], [True] * 5, [False, False, False, False, True]])
    best = inclusion(score, able, np.array([2, 2, 2]), share=0.0)
    assert best.tolist() == [[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    wider = inclusion(score, able, np.array([2, 2, 2]), share=0.75)  # ⌈.75·4⌉ = 3, ⌈.75·5⌉ = 4
    assert wider == pytest.approx(np.array([[2 / 3, 0, 2 / 3, 2 / 3, 0], [0.5, 0.5, 0.5, 0.5, 0], [0, 0, 0, 0, 1]]))


def test_what_may_not_be_shown_is_not_eligible():
    _, log = small()
    slates = logged_slates(log).slates
    able = eligible(log, slates)
    row, place = np.nonzero(slates.there_GK)
    assert able[row, slates.item_row_GK[row, place]].mean() > 0.999  # what was shown might have been
    with_history = int(np.flatnonzero(slates.end_G > slates.start_G)[0])
    took = log.item_row_E[slates.start_G[with_history] : slates.end_G[with_history]]
    assert not able[with_history, took].any()
    future = log.catalogue.release_day_I[None] * 86_400_000 > slates.now_G[:, None]
    assert future.any() and not able[future].any()


def changed(**columns) -> Log:
    """A log whose impressions have these columns instead, and whose events do not tell which impression they answer."""
    tables, _ = simulated(SMALL_MILD)
    mute = tables.events.with_columns(request_id=pl.lit(None, pl.String))
    return read_log(by_time(replace(tables, events=mute, impressions=tables.impressions.with_columns(**columns))))


def test_a_log_that_cannot_tell_says_why():
    tables, _ = simulated(SMALL_MILD)
    bare = read_log(by_time(replace(tables, impressions=tables.impressions.clear())))
    with pytest.raises(NoVerdictError, match="no impressions"):
        logged_slates(bare)
    with pytest.raises(NoVerdictError, match="no impression of the test part has a propensity"):
        logged_slates(changed(propensity=pl.lit(None, pl.Float64)))
    slot = pl.when(pl.col("position") == 3).then("propensity")
    with pytest.raises(NoVerdictError, match=r"no whole slate, so only policies of single slots can be judged: give --draws"):
        logged_slates(changed(propensity=slot))
    with pytest.raises(NoVerdictError, match="do not say what was clicked"):
        logged_slates(changed(clicked=pl.lit(None, pl.Boolean)))
    with pytest.raises(NoVerdictError, match="no slate was shown in the test part"):
        logged_slates(changed(timestamp=pl.lit(tables.impressions["timestamp"].min())))


def test_no_overlap_is_said_instead_of_a_number(runs):
    """A log that never shows the best half of what a model would is no witness of it."""
    _, log = small()
    logged = logged_slates(log)
    made = earned(logged, Run.open(runs[0]).model, share=0.3)
    half = made._replace(ratio_GK=np.where(np.arange(len(made.ratio_GK))[:, None] % 2, made.ratio_GK, 0.0))
    seen, found = verdicts(logged, half, cap=50.0)
    assert 0.3 < seen.outside < 0.6 and "of what this policy would show was never shown by the log" in seen.refusal
    assert all(np.isnan(verdict.value) and verdict.said == seen.refusal for verdict in found if verdict.estimator != "DM")
    nowhere, found = verdicts(logged, made._replace(ratio_GK=np.zeros_like(made.ratio_GK)), cap=50.0)
    assert nowhere.refusal.startswith("no overlap: none of") and np.isnan(found[0].value)


def test_runs_that_answered_other_questions_are_refused(runs, tmp_path, capsys):
    _, log = small()
    genre_IG = log.catalogue.genre_IG
    other_split = write_run(tmp_path / "split", log, genre_IG, split={"test_quantile": 0.9})
    other_data = write_run(tmp_path / "data", log, genre_IG, data={"users": 40, "items": 48, "events": 400})
    first = Run.open(runs[0])
    with pytest.raises(CompareError, match=r"split has another split than genres \(split\.test_quantile is 0\.9, not None\)"):
        same_log([first, Run.open(other_split)])
    with pytest.raises(CompareError, match=r"data has other data than genres \(data\.events is 400, not 8000; fingerprints"):
        same_log([first, Run.open(other_data)])
    short = replace(first, lists=first.lists[1:])
    with pytest.raises(CompareError, match=r"its lists are of .* users and not of the .* that the test part now asks"):
        ranking_of(short, log)
    (tmp_path / "ranker").mkdir()
    assert compare.main([str(runs[0]), str(tmp_path / "ranker")]) == 2
    assert "ranker holds no config.yaml: give the folders of finished retrieval runs" in capsys.readouterr().err


def test_the_interval_of_what_was_shown_is_over_users(told):
    _, log = small()
    logged = logged_slates(log)
    assert told["off_policy"][0]["as_shown"]["low"] == bootstrap(Terms(logged.click_GK.sum(1), logged.size_G), logged.user_G).low


def test_a_difference_is_told_with_its_test_and_what_is_left_of_it_among_all(told):
    """NDCG@20 of the fifteen metrics: SciPy's paired t, then Holm over them; slices are a family of their own."""
    figures = {name: by["noise"]["difference"] for name, by in told["ranking"].items() if "difference" in by["noise"]}
    whole, sliced = ({name: of for name, of in figures.items() if ("/" in name) is inside} for inside in (False, True))
    assert {of["tests"] for of in whole.values()} == {15} == {len(whole)}
    assert {of["tests"] for of in sliced.values()} == {sum(of["p"] is not None for of in sliced.values())}
    assert {name: of["p_holm"] for name, of in whole.items()} == holm({name: of["p"] for name, of in whole.items()})
    value = {name: told["ranking"]["ndcg_at_20"][name]["value"] for name in ("genres", "noise")}
    apart = figures["ndcg_at_20"]
    assert apart["relative"] == pytest.approx(value["noise"] / value["genres"] - 1) and apart["over"] == "users"
    assert len(sliced) > 5 and all((of["p"] is None) == (told["ranking"][name]["noise"]["users"] < 30) for name, of in sliced.items())


def test_runs_that_differ_by_their_seed_are_one_setting(runs, tmp_path):
    """Two seeds each of genres and of noise: their mean, an interval over users and seeds, and no question of another text seed."""
    _, log = small()
    genre_IG, folders = log.catalogue.genre_IG, []
    for width in (0.0, 3.0):
        for seed in (0, 1):
            vector = genre_IG + np.random.default_rng(seed).standard_normal(genre_IG.shape) * (width or 0.3)
            part = {"seed": seed, "task": {"datamodule": {"seed": seed}, "width": width}, "log": {"seed": seed}}
            folders.append(write_run(tmp_path / f"{width:.0f}_{seed}", log, vector, **part))
    several = [Run.open(folder) for folder in folders]
    known = compare.compare(several, same_log(several))
    assert known["settings"] == {"0_0 and 1 more seed": ["0_0", "0_1"], "3_0 and 1 more seed": ["3_0", "3_1"]}
    values = [per_user(ranking_of(run, log), (20,))["ndcg_at_20"] for run in several]
    figure = known["ranking"]["ndcg_at_20"]["3_0 and 1 more seed"]
    tested = paired_t(torch.stack(values[2:]), torch.stack(values[:2]))
    assert figure["value"] == pytest.approx(float((values[2] + values[3]).mean() / 2)) and figure["seeds"] == 2
    apart = figure["difference"]
    assert [apart[key] for key in ("value", "low", "high", "p", "degrees")] == pytest.approx(tuple(tested)) and tested.high < 0
    assert apart["over"] == "users and seeds" and known["off_policy"][0]["policies"].keys() == {"0_0", "0_1", "3_0", "3_1"}
    sentence = compare.sentence("ndcg_at_20", "3_0 and 1 more seed", "0_0 and 1 more seed", figure)
    assert sentence.startswith("ndcg_at_20: 3_0 and 1 more seed is worse than 0_0 and 1 more seed by -0.") and "users and seeds" in sentence
    assert list(settings(several[:2])) == ["0_0", "0_1"]  # nothing else to hold them to
    twice = [several[0], several[2], replace(several[2], name="again")]
    assert list(settings(twice)) == ["0_0", "3_0", "again"]  # one seed twice: a rerun is no other seed
