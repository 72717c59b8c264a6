"""The published tables, by the experiments that anyone can rerun: ours beside what others published for the same files and protocol.

    DATA_ROOT=path/to/data python -m bench.tables [experiment …] [--seeds 0 1 2] [--again]      # those not yet recorded
    python -m bench.tables --write                                                              # README from the records, nothing is run

Each run is `python train.py experiment=NAME seed=S hydra.run.dir=runs/tables/…` in this folder, and what came of it is read from MLflow; a
killed one goes on where it was. bench/results/tables.json keeps one record for each experiment, seed and commit. What has a record
with the settings that the experiment has now is not run again. An experiment's row is of its newest record and all with the same settings
and data: changed settings begin a new mean, and never join an old one. The README's tables stand between two comments, and a test holds
them against the records.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from towers.lab_book import VALUE, page

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "results" / "tables.json"
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
TITLES = {"recall_at_20": "Recall@20", "ndcg_at_20": "NDCG@20", "hit_rate_at_10": "HR@10", "ndcg_at_10": "NDCG@10"}
SEEDS = (0, 1, 2)
FREE = {"seed", "name", "question", "mlflow", "experiment_name", "resume", "data"}
"""Not settings: who asks, where it is written, which seed; and the data, which their fingerprint tells apart wherever they lie."""


@dataclass(frozen=True, slots=True)
class Published:
    """A model of somebody else's, its figures in the order of the table's metrics (None: not published), and where they stand."""

    name: str
    figures: tuple[float | None, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Table:
    """One data set: how it is split, what is measured, what others reached, what is to be reached, and the experiments that try."""

    title: str
    metrics: tuple[str, ...]
    experiments: tuple[str, ...]
    published: tuple[Published, ...]
    bar: tuple[float, ...] | None


BARS, ESASREC, QUALITY = "BARS, gowalla_m1", "eSASRec, transformer benchmark", "`bench.quality`, tuned"
BASELINES = json.loads((ROOT / "bench" / "results" / "quality_movietweetings.json").read_text())["populations"]["all"]["models"]
LAST_OUT, IN_20 = ("hit_rate_at_10", "ndcg_at_10"), ("recall_at_20", "ndcg_at_20")

TABLES = (
    Table(
        "Gowalla, train and test lists as given; a tenth of train held out to choose by, then all of it learned from",
        IN_20,
        ("gowalla_graph", "gowalla_two_tower"),
        (
            Published("SimpleX", (0.1872, 0.1557), BARS),
            Published("UltraGCN", (0.1862, 0.1580), BARS),
            Published("MF-CCL", (0.1837, 0.1493), BARS),
            Published("LightGCN", (0.1820, 0.1547), BARS),
            Published("YoutubeDNN (two-tower)", (0.1754, 0.1473), BARS),
            Published("MF-BPR", (0.1627, 0.1378), BARS),
        ),
        (0.1880, 0.1590),
    ),
    Table(
        "Amazon Beauty, last item out",
        LAST_OUT,
        ("beauty_sasrec", "beauty_hstu"),
        (
            Published("eSASRec", (0.0928, 0.0523), ESASREC),
            Published("SASRec + sampled softmax", (0.0921, 0.0531), ESASREC),
            Published("FuXi-α", (0.0809, 0.0451), ESASREC),
            Published("HSTU", (0.0788, 0.0439), ESASREC),
            Published("TIGER", (0.0648, 0.0384), ESASREC),
            Published("SASRec, as first reported", (0.0605, 0.0318), ESASREC),
        ),
        (0.0950, 0.0545),
    ),
    Table(
        "Amazon Sports and Outdoors, last item out",
        LAST_OUT,
        ("sports_sasrec", "sports_hstu"),
        (
            Published("SASRec + sampled softmax", (0.0569, 0.0314), ESASREC),
            Published("eSASRec", (0.0560, 0.0323), ESASREC),
            Published("HSTU", (0.0437, 0.0243), ESASREC),
            Published("TIGER", (0.0400, 0.0225), ESASREC),
            Published("SASRec, as first reported", (0.0350, 0.0192), ESASREC),
        ),
        (0.0580, 0.0330),
    ),
    Table(
        "Amazon Toys and Games, last item out",
        LAST_OUT,
        ("toys_sasrec", "toys_hstu"),
        (
            Published("SASRec + sampled softmax", (0.0970, 0.0580), ESASREC),
            Published("eSASRec", (0.0939, 0.0538), ESASREC),
            Published("HSTU", (0.0778, 0.0450), ESASREC),
            Published("TIGER", (0.0712, 0.0432), ESASREC),
            Published("S3Rec", (0.0700, 0.0376), ESASREC),
        ),
        (0.0990, 0.0590),
    ),
    Table(
        "MovieTweetings 100K, by time; nobody published this split, so beside it stand baselines of ours",
        IN_20,
        ("movietweetings_two_tower",),
        tuple(
            Published(name, tuple(model[metric][0] for metric in IN_20), QUALITY)
            for name, model in BASELINES.items()
            if name != "two-tower"
        ),
        None,
    ),
)
EXPERIMENTS = tuple(name for table in TABLES for name in table.experiments)


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one run: `epochs` is the one that was kept, `seconds` what training, validation and test took, those of the run that
    chose too; `validation` is of that epoch. `settings` is a digest of the whole configuration but `FREE`."""

    experiment: str
    seed: int
    commit: str
    settings: str
    data: str
    hardware: str
    epochs: int
    seconds: int
    users: int
    validation: dict[str, float]
    test: dict[str, float]

    @property
    def group(self) -> tuple[str, str, str]:
        """Records that differ by their seed alone, and may stand in one mean."""
        return self.experiment, self.settings, self.data


def settings_of(experiment: str) -> str:
    """The digest of what an experiment comes to now."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("train", [f"experiment={experiment}"]), resolve=False)
    told = json.dumps({key: value for key, value in cfg.items() if key not in FREE}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def hardware() -> str:
    """What a run of now is run on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    threads = torch.get_num_threads()
    return f"{named[1] if named else 'CPU'}, {threads} thread{'s'[: threads > 1]}"


def folder_of(experiment: str, seed: int, settings: str) -> Path:
    """Where a run lies, so that one that was killed is found again."""
    return ROOT / "runs" / "tables" / f"{experiment}_{seed}_{settings}"


def run(experiment: str, seed: int, settings: str) -> Record:
    """Train and test by the command that anyone would type."""
    folder = folder_of(experiment, seed, settings)
    words = ["train.py", f"experiment={experiment}", f"seed={seed}", f"hydra.run.dir={folder.relative_to(ROOT)}"]
    print("$ python", *words, flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    os.chdir(ROOT)  # MLflow's store is told of relative to it
    return recorded(folder, experiment, seed, settings)


def recorded(folder: Path, experiment: str, seed: int, settings: str) -> Record:
    """What MLflow knows of a finished run."""
    client, tested = page(folder)
    parts = [(client, tested)]
    if (folder / "choosing").is_dir():
        parts.append(page(folder / "choosing"))
    chose = parts[-1][1]
    validation, epoch = kept(client, chose)
    plain = {name.removeprefix("test/"): value for name, value in tested.data.metrics.items() if name.startswith("test/")}
    spent = [point.value for each, part in parts for name in ("train", "val", "test") for point in history(each, part, f"{name}/seconds")]
    return Record(
        experiment, seed, tested.data.tags["git_commit"], settings, tested.data.tags["data_fingerprint"], hardware(), epoch,
        round(sum(spent)), round(plain["users"]), validation, {name: plain[name] for name in TITLES},
    )  # fmt: skip


def history(client: MlflowClient, run: Run, name: str) -> list:
    """The points of a curve, in the order of its steps."""
    points = client.get_metric_history(run.info.run_id, name)
    return sorted(points, key=lambda point: point.step)


def kept(client: MlflowClient, run: Run) -> tuple[dict[str, float], int]:
    """The validation figures of the epoch whose model was kept, and which that was, from 1: not every epoch need be validated."""
    curve = history(client, run, run.data.params["trainer/monitor"])
    place = min(range(len(curve)), key=lambda place: abs(curve[place].value - run.data.metrics[VALUE]))
    epoch_of_step = {point.step: round(point.value) for point in history(client, run, "epoch")}
    return {name: history(client, run, f"val/{name}")[place].value for name in TITLES}, epoch_of_step[curve[place].step] + 1


def read(path: Path = RECORDS) -> list[Record]:
    """All records, oldest first."""
    return [Record(**record) for record in json.loads(path.read_text())] if path.exists() else []


def keep(records: Sequence[Record], record: Record, path: Path = RECORDS) -> list[Record]:
    """Write a record behind the others, in the place of one of the same experiment, seed and commit."""
    same = lambda one: (one.experiment, one.seed, one.commit)  # noqa: E731
    records = [*(one for one in records if same(one) != same(record)), record]
    path.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    return records


def of(experiment: str, records: Sequence[Record]) -> list[Record]:
    """The newest record of an experiment and those of its group, the newest of each seed, by seed."""
    own = [record for record in records if record.experiment == experiment]
    by_seed = {record.seed: record for record in own if record.group == own[-1].group}
    return [by_seed[seed] for seed in sorted(by_seed)]


def figure(value: float | None) -> str:
    """.0921; a dash where there is none."""
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def mean(values: Sequence[float]) -> str:
    """The mean, and the sample standard deviation where there are two or more."""
    return figure(statistics.fmean(values)) + (f" ± {figure(statistics.stdev(values))}" if len(values) > 1 else "")


def words(values: Sequence) -> str:
    """Each once, in their order."""
    return ", ".join(dict.fromkeys(map(str, values)))


def short(commit: str) -> str:
    """A commit as it is told: seven digits, and whether the tree differed from it."""
    head, _, changes = commit.partition("+")
    return head[:7] + ("+" if changes else "")


def row(experiment: str, table: Table, records: Sequence[Record]) -> str:
    """An experiment's line. Figures whose mean over three seeds or more reaches the bar are bold."""
    label, mine = f"[`{experiment}`](conf/experiment/{experiment}.yaml)", of(experiment, records)
    if not mine:
        return f"| {label} |{' |' * len(table.metrics)} not run | | | | |"
    cells = []
    for place, metric in enumerate(table.metrics):
        values = [record.test[metric] for record in mine]
        reached = table.bar and len(values) >= len(SEEDS) and statistics.fmean(values) >= table.bar[place]
        cells.append(f"**{mean(values)}**" if reached else mean(values))
    seconds = round(statistics.fmean(record.seconds for record in mine))
    facts = [len(mine), " ".join(str(record.epochs) for record in mine), f"{seconds:,}", words([record.hardware for record in mine])]
    return f"| {label} | {' | '.join(map(str, [*cells, *facts, words([short(record.commit) for record in mine])]))} |"


def rendered(records: Sequence[Record]) -> str:
    """All tables as Markdown."""
    lines = []
    for table in TABLES:
        heads = ["", *(TITLES[metric] for metric in table.metrics), "seeds", "epochs", "seconds", "hardware", "commit, or where"]
        lines += [f"**{table.title}**", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 3) + "---|---|"]
        lines += [row(experiment, table, records) for experiment in table.experiments]
        if table.bar:
            lines.append(f"| *to be reached, by the mean of three seeds* | {' | '.join(map(figure, table.bar))} | | | | | |")
        for other in sorted(table.published, key=lambda other: other.figures, reverse=True):
            lines.append(f"| {other.name} | {' | '.join(map(figure, other.figures))} | | | | | {other.where} |")
        lines.append("")
    return "\n".join(lines)


def written(text: str, records: Sequence[Record]) -> str:
    """A page with its tables made anew.

    Raises:
        ValueError: it does not say where they stand.
    """
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md: expected one {BEGIN} and, after it, one {END}; the tables stand between them.")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n\n{rendered(records)}\n{after}"


def write(records: Sequence[Record], path: Path = ROOT / "README.md") -> None:
    """The README's tables from the records."""
    path.write_text(written(path.read_text(), records))


def main() -> None:
    """Run what is not recorded, record it, and write the tables after each run."""
    line = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__.splitlines()[0])
    line.add_argument("experiments", nargs="*", metavar="experiment", help=f"of {', '.join(EXPERIMENTS)}; all of them where none is named")
    line.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    line.add_argument("--again", action="store_true", help="also what is recorded already; its folder in runs/tables goes")
    line.add_argument("--write", action="store_true", help="run nothing: only write the README from the records")
    asked = line.parse_intermixed_args()
    if unknown := set(asked.experiments) - set(EXPERIMENTS):
        line.error(f"no table has a row {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}")
    records = read()
    for experiment in () if asked.write else asked.experiments or EXPERIMENTS:
        settings = settings_of(experiment)
        there = {record.seed for record in records if (record.experiment, record.settings) == (experiment, settings)}
        for seed in asked.seeds:
            if seed in there and not asked.again:
                print(f"{experiment}, seed {seed}: recorded; --again runs it again")
                continue
            if asked.again:
                shutil.rmtree(folder_of(experiment, seed, settings), ignore_errors=True)
            record = run(experiment, seed, settings)
            records = keep(read(), record)  # what another call wrote meanwhile stays
            write(records)
    write(records)
    print(rendered(records))


if __name__ == "__main__":
    main()
