"""The daily job: train on the logs since, measure against the champion, and make it the challenger, or say why not.

    logs        what the store logged since the champion was trained → state/retrain/<stamp>/logs
    retrieval   train.py with the champion's own configuration, its data continued, started warm from its model
    rivals      both models on the last days' users, and in the slots that chance filled: python -m towers.rivals
    gate        may it challenge?
    ranker      train.py with the configuration of the champion's ranker, beside the new retrieval
    export      export.py: a release, held against golden answers, that nobody is served from yet
    challenge   the link

Training and export run as processes of their own, since serving knows no torch. state/retrain/<stamp>/report.json is written anew after
every step. A job that was killed may be run again: under its stamp it goes on, steps that ended well under the same command are not
repeated; under a new one it begins from the champion.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import OmegaConf

from data.features import DAY_MS
from serve import continuation, publication
from serve.job import ROOT, Champion, Refused, Report, Runner, alone, champion_of, export_words, quoted, since, trained_on
from serve.manifest import Manifest, write_whole
from serve.retraining import READ, READ_WITHOUT_SLATES, Retraining, continued, verdict, with_retrieval
from serve.store import Store

LEAST_SLATES = 20


def retrain(store: Store, chosen: Retraining, *, stamp: str | None = None) -> dict[str, Any]:
    """Run the whole job; the report. Its `verdict` is "challenger" (`version` is the release) or "refused" (`why` says so).

    Relative paths in the champion's configuration are read from the working directory, as its training read them.

    Raises:
        StoreError, ReleaseError, OSError: the store or the releases cannot be used. report.json says "running" up to that step.
        BlockingIOError: another retraining is under way here.
    """
    stamp = stamp or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = chosen.folder / stamp
    folder.mkdir(parents=True, exist_ok=True)
    with alone(chosen.folder, "retraining"):
        report = Report(folder, stamp)
        try:
            version = _job(store, chosen, folder, stamp, report)
        except Refused as error:
            return report.end("refused", str(error))
        report.told["version"] = version
        return report.end("challenger", None)


def _job(store: Store, chosen: Retraining, folder: Path, stamp: str, report: Report) -> str:
    with report.step("champion") as figures:
        champion = champion_of(chosen.releases, chosen.runs)
        against = folder / "champion"
        if against.is_file() and not _of_the_same_runs(chosen.releases, against.read_text(), champion):
            raise Refused(f"{folder} was begun against release {against.read_text()}, current is {champion.version}: take another stamp")
        write_whole(against, champion.version)
        figures |= {"version": champion.version, "retrieval": str(champion.retrieval), "ranker": str(champion.ranker)}
    with report.step("logs") as figures:
        before = trained_on(champion)
        reached, counts = continuation.read(folder / "logs") or continuation.write(store, folder / "logs", since(store, before))
        figures |= {"rows": counts, "reached": asdict(reached)}
        if counts["events"] < chosen.least_events:
            raise Refused(f"{counts['events']} events since the champion was trained, fewer than least_events={chosen.least_events}")
    run = Runner(folder, nice=chosen.nice, timeout_minutes=chosen.timeout_minutes)
    model = chosen.runs / f"{stamp}_retrieval" / "model"
    with report.step("retrieval") as figures:
        cfg = continued(champion.retrieval_cfg, chosen, stamp=stamp, kind="retrieval", logs=folder / "logs", read=READ)
        _train(run, chosen, folder, "retrieval", cfg | {"warm_start": str((champion.retrieval / "model").resolve())})
        figures["run"] = str(model.parent)
    with report.step("rivals") as figures:
        log_end = continuation.trained_to(chosen.releases / champion.version)
        draws = [str(logs / "draws.parquet") for logs in (*before, folder / "logs")]
        run(
            "rivals", "-m", "towers.rivals", "--run", str(model.parent), "--champion", str(champion.retrieval / "model"),
            "--share", str(chosen.gate.share), "--champion-log-end", str(log_end), "--out", str(folder / "rivals.json"), "--draws", *draws,
        )  # fmt: skip
        measured = json.loads((folder / "rivals.json").read_bytes())
        figures |= measured
    with report.step("gate") as figures:
        figures |= asdict(chosen.gate)
        if why := verdict(measured, chosen.gate):
            raise Refused(why)
    with report.step("ranker") as figures:
        slates = _slates_to_learn_from([*before, folder / "logs"], chosen)
        read = READ if slates else READ_WITHOUT_SLATES
        cfg = continued(champion.ranker_cfg, chosen, stamp=stamp, kind="ranker", logs=folder / "logs", read=read)
        _train(run, chosen, folder, "ranker", with_retrieval(cfg, model))
        figures |= {"run": str(chosen.runs / f"{stamp}_ranker"), "learnt_from": "slates" if slates else "likes beside what was retrieved"}
    with report.step("export") as figures:
        ranker = chosen.runs / f"{stamp}_ranker" / "model"
        told = {"retrieval": model, "ranker": ranker, "releases": chosen.releases, "hydra.run.dir": chosen.runs / f"{stamp}_export"}
        paths = [f"{key}={quoted(path)}" for key, path in told.items()]
        if stamp not in publication.versions(chosen.releases):
            words = [*paths, f"version={quoted(stamp)}", "promote=none", *export_words(champion), *chosen.export]
            run("export", str(ROOT / "export.py"), *words)
        figures["release"] = stamp
    with report.step("challenge"):
        publication.challenge(chosen.releases, stamp)
    return stamp


def _of_the_same_runs(releases: Path, version: str, champion: Champion) -> bool:
    """Whether a job that was begun against release `version` may go on: a refresh in between has changed no model."""
    if version == champion.version:
        return True
    return version in publication.versions(releases) and dict(Manifest.read(releases / version).runs) == {
        "retrieval": champion.retrieval.name, "ranker": champion.ranker.name,
    }  # fmt: skip


def _train(run: Runner, chosen: Retraining, folder: Path, kind: str, cfg: Mapping[str, Any]) -> None:
    name = f"retrain_{kind}"
    text = OmegaConf.to_yaml(OmegaConf.create(dict(cfg)))
    (folder / f"{name}.yaml").write_text(text)
    where = ["--config-dir", str(folder.resolve()), "--config-name", name]
    run(kind, str(ROOT / "train.py"), *where, *chosen.overrides, told=text)


def _slates_to_learn_from(folders: list[Path], chosen: Retraining) -> bool:
    """Whether enough slates were logged in the validation days, which the ranker learns from, and any in the test days: where there are
    slates it learns from them alone."""
    shown, events = ([pl.scan_parquet(folder / f"{name}.parquet") for folder in folders] for name in ("impressions", "events"))
    end = pl.concat(events).select(pl.col("timestamp").max()).collect().item() + 1
    days_R = pl.concat(shown).select("request_id", days=(end - pl.col("timestamp")) / DAY_MS).unique("request_id").collect()["days"]
    in_test = (days_R <= chosen.test_days).sum()
    return in_test > 0 and (days_R <= chosen.test_days + chosen.validation_days).sum() - in_test >= LEAST_SLATES


def said(told: Mapping[str, Any]) -> str:
    """What became of a job, by its report, in a line."""
    return f"challenger: release {told['version']}" if told["verdict"] == "challenger" else f"{told['verdict']}: {told['why']}"


def in_short(step: Mapping[str, Any]) -> str:
    """A step's figures in a line."""
    figures = step["figures"]
    if step["step"] == "rivals" and figures:
        compared = [
            f"{name} {one['champion']:.4f} → {one['challenger']:.4f} (difference {one['low']:+.4f} to {one['high']:+.4f})"
            for name, one in figures["figures"].items()
        ]
        drawn = figures["off_policy"]
        return "; ".join([f"{figures['users']} users", *compared, drawn.get("said", f"{drawn['slots']} randomised slots")])
    return ", ".join(f"{name} {value}" for name, value in (figures.get("rows") or figures).items())
