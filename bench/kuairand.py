"""Does the ranker order short videos at least as well as boosted trees on the very same features?

    DATA_ROOT=path/to/data python -m bench.kuairand [overrides of conf/train.yaml for both trainings]

Three seeds, each from the start: retrieval on the first part of the time, ranker and trees on the second, both asked about the third
(`conf/experiment/kuairand_…`). Per figure: both, and the ranker less the trees with a 95 % interval over users, the mean of the seeds taken
draw by draw. Prints the table and writes bench/results/kuairand.json, unless there are overrides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from towers import paired, trees
from towers.record import commit
from towers.saved import load_script

SEEDS = (0, 1, 2)
FIRST_LEAVES = (15, 31, 63)
"""Numbers of leaves that the first seed's trees try, of which the others take the best for clicks: one search serves all."""
ROOT = Path(__file__).parents[1]


def train(experiment: str, folder: Path, seed: int, *overrides: str) -> Path:
    """A run through train.py; its folder."""
    run = folder / f"{experiment}_{seed}"
    command = [sys.executable, ROOT / "train.py", f"experiment={experiment}", f"seed={seed}", f"name={run.name}", f"hydra.run.dir={run}"]
    subprocess.run([*map(str, command), f"mlflow=sqlite:///{folder}/mlflow.db", *overrides], cwd=folder, check=True)
    return run


def measured(folder: Path, seed: int, overrides: list[str], leaves: tuple[int, ...]) -> tuple[trees.Measured, dict[str, float]]:
    """Ranker and trees of one seed, and the seconds of each training."""
    clock = [time.perf_counter()]
    retrieval = train("kuairand_two_tower", folder, seed, *overrides)
    clock.append(time.perf_counter())
    run = train("kuairand_ranker", folder, seed, f"task.retrieval={retrieval}/model", *overrides)
    clock.append(time.perf_counter())
    found = trees.measure(trees.data_of(run), load_script(run / "model" / "ranker.pt"), leaves=leaves, seed=seed)
    return found, {"retrieval": round(clock[1] - clock[0]), "ranker": round(clock[2] - clock[1]), "trees": found.notes["trees_seconds"]}


def main() -> None:
    """Measure, print, write."""
    line = argparse.ArgumentParser(prog="python -m bench.kuairand", description=__doc__.splitlines()[0])
    line.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    line.add_argument("overrides", nargs="*")
    asked = line.parse_intermixed_args()
    begun, by_seed, seconds, leaves = time.perf_counter(), [], [], FIRST_LEAVES
    with tempfile.TemporaryDirectory() as folder:
        for seed in asked.seeds:
            found, spent = measured(Path(folder), seed, asked.overrides, leaves)
            leaves = (found.notes["leaves"]["click"],)
            by_seed.append(found)
            seconds.append(spent)
            print(trees.lines(trees.told(found)), flush=True)
    together = {name: paired.mean([found.figures[name] for found in by_seed]) for name in by_seed[0].figures}
    orders = {name: sum(found.lambdarank[name] for found in by_seed) / len(by_seed) for name in by_seed[0].lambdarank}
    told = trees.told(by_seed[0]._replace(figures=together, lambdarank=orders, notes={}))
    print(f"mean of {len(by_seed)} seeds\n{trees.lines(told)}")
    if not asked.overrides:
        result = {
            "commit": commit(), "hardware": f"{os.cpu_count()} cores", "seconds": round(time.perf_counter() - begun),
            "seeds": list(asked.seeds), "mean": told,
            "by_seed": [trees.told(found) | {"seconds": spent} for found, spent in zip(by_seed, seconds, strict=True)],
        }  # fmt: skip
        (ROOT / "bench" / "results" / "kuairand.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
