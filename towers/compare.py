"""Finished runs beside each other: the same questions asked of all, and what slates of each would have earned.

    python -m towers.compare runs/<one> runs/<another> [more …]         # tables; --json for a document; models/<name> is as good
    python -m towers.compare … --share 0.1 --draws state/…/draws.parquet

Ranking metrics are of the lists that the runs left behind (test_topk.parquet), paired by user against the first run: with an interval, a
t-test, and what is left of it where so many were made (`towers.significance`). Runs that differ by their seed alone are one setting. Where
the test part was shown by chance whose probability is known, the value of each model's slates stands beside them, by every estimator that
the log allows, or the reason why there is none (`towers.logged_slates`).

Shapes: U users of the test · T targets · K depth of the lists · S seeds.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import polars as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.log import Log, queries
from data.split import TEST
from towers.evaluation import Ranking, per_user, target_slices
from towers.intervals import bootstrap, bootstrap_difference
from towers.logged_slates import Logged, NoVerdictError, earned, had_all_been_looked_at, logged_slates, verdicts
from towers.metrics import Interval, bootstrap_mean, catalogue_coverage
from towers.metrics import bootstrap_difference as paired
from towers.off_policy import Terms
from towers.rivals import in_log_order, off_policy
from towers.run_folder import CompareError, Run, ranking_of, same_log, settings
from towers.significance import holm, paired_t
from towers.slate_policy import item_position_snips

KS, SLICED, LEVEL = (10, 20, 100), "ndcg_at_20", 0.05


def ranking_figures(rankings: Mapping[str, Sequence[Ranking]], log: Log) -> dict:
    """Of each metric, and of NDCG@20 in each slice of users and items: every setting's mean over its seeds with an interval, and how far it
    is from the first's. Metrics are one family of tests, slices another."""
    everyone = [one for several in rankings.values() for one in several]
    ks = tuple(k for k in KS if k <= min(ranking.depth for ranking in everyone))
    length_U = torch.as_tensor(np.diff(queries(log, TEST).seen_offset))
    slices = target_slices(everyone[0], history_length_U=length_U, train_count_I=torch.as_tensor(log.item_count()))
    figures = {metric: _beside(value) for metric, value in _values(rankings, ks).items()}
    sliced = {f"{name}/{SLICED}": _beside(_values(rankings, (20,), keep_T)[SLICED]) for name, keep_T in slices.items() if 20 in ks}
    for family in (figures, sliced):
        _correct(family)
    for k in ks:
        lists = {name: [one.top_item_row_UK[:, :k] for one in several] for name, several in rankings.items()}
        shares = {name: [catalogue_coverage(top_UK, len(log.catalogue.item_ids)) for top_UK in of] for name, of in lists.items()}
        sliced[f"catalogue_coverage_at_{k}"] = {name: {"value": float(np.mean(of))} for name, of in shares.items()}
    return figures | sliced


def _values(rankings: Mapping[str, Sequence[Ranking]], ks: Sequence[int], keep_T: Tensor | None = None) -> dict[str, dict[str, Tensor]]:
    """Metric → setting → values (S, U)."""
    found = {name: [per_user(one, ks, keep_T) for one in several] for name, several in rankings.items()}
    metrics = next(iter(found.values()))[0]
    return {metric: {name: torch.stack([of[metric] for of in several]) for name, several in found.items()} for metric in metrics}


def _beside(value_SU_by_setting: Mapping[str, Tensor]) -> dict:
    first_SU, made = next(iter(value_SU_by_setting.values())), {}
    for name, value_SU in value_SU_by_setting.items():
        alone = len(value_SU) == 1
        mean = bootstrap_mean(value_SU[0]) if alone else Interval(*paired_t(value_SU, torch.zeros_like(value_SU[:1]))[:3])
        made[name] = {"users": value_SU.shape[1], "seeds": len(value_SU), **_ends(mean, "value")}
        if value_SU is not first_SU:
            tested = paired_t(value_SU, first_SU)
            alone = alone and len(first_SU) == 1
            apart = paired(value_SU[0], first_SU[0]) if alone else Interval(*tested[:3])
            base = float(first_SU.mean())
            made[name]["difference"] = {
                **_ends(apart, "value"), "relative": apart.mean / base if base else None,
                "over": "users" if alone else "users and seeds", **_finite(p=tested.p, degrees=tested.degrees),
            }  # fmt: skip
    return made


def _correct(family: Mapping[str, dict]) -> None:
    """Tell each difference its p as it stands among all tests of the family (Holm), and how many those are."""
    differences = {(metric, name): of["difference"] for metric, by in family.items() for name, of in by.items() if "difference" in of}
    adjusted = holm({key: float("nan") if of["p"] is None else of["p"] for key, of in differences.items()})
    tests = sum(of["p"] is not None for of in differences.values())
    for key, of in differences.items():
        of |= {**_finite(p_holm=adjusted[key]), "tests": tests}


def sentence(metric: str, name: str, first: str, of: Mapping) -> str:
    """A difference in a sentence."""
    apart = of["difference"]
    share = "" if apart["relative"] is None else f" ({apart['relative']:+.1%})"
    told = f"{apart['value']:+.4f}{share}" + (f", 95 % interval {_interval(apart, '+')}" if apart["low"] is not None else "")
    if apart["p_holm"] is None:
        return f"{metric}: {name} against {first}: {told}; too few users, or nothing that varies, for a test"
    p = _probability(apart["p_holm"])
    likely = f"p {p if p[0] == '<' else f'= {p}'} after Holm over {apart['tests']} tests, over {apart['over']}"
    if _told_apart(apart):
        return f"{metric}: {name} is {'better' if apart['value'] > 0 else 'worse'} than {first} by {told}, {likely}"
    return f"{metric}: no difference can be told between {name} and {first}: {told}, {likely}"


def _told_apart(difference: Mapping) -> bool:
    return difference["p_holm"] is not None and difference["p_holm"] < LEVEL


def _ends(interval: Interval, name: str) -> dict[str, float | None]:
    return {key: at if isfinite(at) else None for key, at in zip((name, "low", "high"), interval, strict=True)}


def _finite(**figures: float) -> dict[str, float | None]:
    return {name: at if isfinite(at) else None for name, at in figures.items()}


def slate_figures(logged: Logged, runs: Sequence[Run], *, share: float, cap: float) -> dict:
    """What slates of each model would have earned, by every estimator, and by SNIPS how far it is from the first run's."""
    shown, policies, earns = Terms(logged.click_GK.sum(1), logged.size_G), {}, {}
    for run in runs:
        earns[run.name] = earned(logged, in_log_order(run.model, logged.log), share=share)
        seen, found = verdicts(logged, earns[run.name], cap=cap)
        policies[run.name] = {
            "overlap": {
                "positions": seen.rounds, "effective": seen.effective, "largest_weight": seen.largest_weight,
                "supported": _ends(seen.supported, "value"), "refused": bool(seen.refusal), "said": seen.refusal or seen.caution,
            },
            "verdicts": [verdict.as_json() for verdict in found],
        }  # fmt: skip
    told = [name for name in earns if not policies[name]["overlap"]["refused"]]
    for name in told[1:] if runs[0].name in told else ():
        pair = [item_position_snips(logged.click_GK, earns[one].ratio_GK) for one in (name, runs[0].name)]
        policies[name]["difference_by_snips"] = _ends(bootstrap_difference(*pair, logged.user_G), "value")
    return {
        "slates": len(logged.slates.now_G), "users": len(set(logged.user_G.tolist())), "left_out": logged.left_out, "share": share,
        "cap": cap, "as_shown": _ends(bootstrap(shown, logged.user_G), "value"), "policies": policies,
    }  # fmt: skip


def compare(runs: Sequence[Run], log: Log, *, shares: Sequence[float] = (0.0, 0.1), cap: float = 50.0, draws: Sequence[Path] = ()) -> dict:
    """Everything that is told of runs on one log (`same_log`), as plain values; `off_policy` has `said` where the log can tell nothing.

    Raises:
        CompareError: a run's lists are no answers to the test's questions.
    """
    by_setting = settings(runs)
    told = {
        "runs": [run.name for run in runs],
        "settings": {name: [run.name for run in several] for name, several in by_setting.items()},
        "data_fingerprint": log.split.tables.fingerprint(),
        "ranking": ranking_figures({name: [ranking_of(run, log) for run in several] for name, several in by_setting.items()}, log),
    }
    try:
        logged = logged_slates(log)
        told["off_policy"] = [slate_figures(logged, runs, share=share, cap=cap) for share in shares]
        told["off_policy_had_all_been_looked_at"] = []
        for bias in _examined(runs):
            looked_at = had_all_been_looked_at(logged, instantiate(bias))
            of = [slate_figures(looked_at, runs, share=share, cap=cap) for share in shares]
            told["off_policy_had_all_been_looked_at"] += [{"bias": OmegaConf.to_container(bias), **figures} for figures in of]
    except NoVerdictError as reason:
        told["off_policy"] = {"said": str(reason)}
    if draws:
        drawn = pl.concat([pl.read_parquet(path) for path in draws])
        models = [in_log_order(run.model, log) for run in runs]
        at_least = max(shares) or 1.0
        told["slots"] = {
            run.name: off_policy(models[0], model, log, drawn, share=at_least) for run, model in zip(runs[1:], models[1:], strict=True)
        }
    return told


def _examined(runs: Sequence[Run]) -> list[DictConfig]:
    """The different choices of bias, among the runs', that say how likely a position is to be looked at."""
    chosen: list[DictConfig] = []
    for run in runs:
        bias = run.cfg.get("bias")
        if bias is not None and bias.examination._target_ != "data.examination.certain" and bias not in chosen:
            chosen.append(bias)
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and show; 2 where the runs cannot be compared."""
    line = argparse.ArgumentParser(prog="python -m towers.compare", description=__doc__.splitlines()[0])
    line.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folders of finished retrieval runs, the first of which the others are held to"
    )
    line.add_argument("--share", type=float, default=0.1, help="of a user's eligible items, from which the wider policy draws evenly")
    line.add_argument("--cap", type=float, default=50.0, help="weight at which clipped IPS cuts and SWITCH turns to the reward model")
    line.add_argument("--draws", type=Path, nargs="*", default=(), help="draws.parquet of the folders that serving wrote: slot policies")
    line.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = line.parse_args(arguments)
    try:
        runs = [Run.open(folder) for folder in asked.runs]
        if len({run.name for run in runs}) < len(runs):
            raise CompareError("two of the folders have one name, by which their figures are told apart: rename or link one")
        told = compare(runs, same_log(runs), shares=(0.0, asked.share), cap=asked.cap, draws=asked.draws)
    except CompareError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(told, indent=1))
    else:
        show(told, Console())
    return 0


def show(told: dict, console: Console) -> None:
    """The document as tables."""
    table = Table(title="Ranking, by the users of the test", title_justify="left")
    for column in ("metric", "run", "users", "value", "95 % interval", "less the first", "95 % interval", "p", "p (Holm)"):
        table.add_column(column, justify="left" if column in ("metric", "run") else "right")
    for metric, by_run in told["ranking"].items():
        for place, (name, of) in enumerate(by_run.items()):
            apart, users = of.get("difference", {}), f"{of['users']:,}" if "users" in of else ""
            ends = (_figure(apart.get("value"), "+"), _interval(apart, "+"), *(_probability(apart.get(p)) for p in ("p", "p_holm")))
            table.add_row("" if place else metric, name, users, _figure(of["value"]), _interval(of), *ends)
    console.print(table)
    first = next(iter(told["settings"]))
    for metric, by_setting in told["ranking"].items():
        for name, of in by_setting.items():
            if "difference" in of and ("/" not in metric or _told_apart(of["difference"])):  # of slices those that differ
                console.print(sentence(metric, name, first, of))
    if isinstance(told["off_policy"], dict):
        console.print(f"No off-policy verdict: {told['off_policy']['said']}.")
    else:
        for of in told["off_policy"]:
            _show_slates(of, "", console)
        for of in told["off_policy_had_all_been_looked_at"]:
            _show_slates(of, f", had all been looked at ({of['bias']['examination']['_target_']})", console)
    for name, of in told.get("slots", {}).items():
        said = of.get("said") or (
            f"{of['slots']:,} drawn slots, clicked {_figure(of['challenger'])} against {_figure(of['champion'])}, difference"
            f" {_figure(of['difference'], '+')} ({_interval(of, '+')}), effective {', '.join(f'{n:,.0f}' for n in of['effective_slots'])}"
        )
        console.print(f"Slots that chance filled, {name} against {told['runs'][0]}: {said}")


def _show_slates(of: dict, how: str, console: Console) -> None:
    target = "their best eligible items" if not of["share"] else f"an even draw from the best {of['share']:.0%} of the eligible items"
    shown = f"as shown {_figure(of['as_shown']['value'])} ({_interval(of['as_shown'])})"
    table = Table(title=f"Click-through of a position, of slates of {target}{how}; {shown}", title_justify="left")
    for column in ("run", "estimator", "value", "95 % interval", "effective", "largest weight", "supported", "said"):
        table.add_column(column, justify="left" if column in ("run", "estimator", "said") else "right")
    for name, policy in of["policies"].items():
        seen = policy["overlap"]
        supported = f"{_figure(seen['supported']['low'])} to {_figure(seen['supported']['high'])}"
        facts = (f"{seen['effective']:,.0f} of {seen['positions']:,}", f"{seen['largest_weight']:,.1f}", supported)
        for place, verdict in enumerate(policy["verdicts"]):
            rest = ("", "", "", verdict["said"] if verdict["estimator"] == "DM" else "") if place else (*facts, seen["said"])
            table.add_row("" if place else name, verdict["estimator"], _figure(verdict["value"]), _interval(verdict), *rest)
        if apart := policy.get("difference_by_snips"):
            table.add_row("", "SNIPS less the first", _figure(apart["value"], "+"), _interval(apart, "+"), "", "", "", "")
    console.print(table)
    left_out = (
        f"; {of['left_out']:,} slates left out, not all of whose positions have a propensity and an outcome" if of["left_out"] else ""
    )
    console.print(f"{of['slates']:,} slates of {of['users']:,} users{left_out}.")


def _figure(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _probability(p: float | None) -> str:
    return "" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _interval(of: Mapping, sign: str = "") -> str:
    return "" if of.get("low") is None or of.get("high") is None else f"{of['low']:{sign}.4f} to {of['high']:{sign}.4f}"


if __name__ == "__main__":
    sys.exit(main())
