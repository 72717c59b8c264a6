"""Does the ranker order short videos at least as well as boosted trees on the very same features?

    DATA_ROOT=path/to/data python -m bench.kuairand [--keep FOLDER] [overrides of conf/train.yaml for both trainings]

Three seeds, each from the start: retrieval on the first part of the time, ranker and trees on the second, both asked about the third
(`conf/experiment/kuairand_…`). Per figure: both, and the ranker less the trees with a 95 % interval over users, the mean of the seeds taken
draw by draw. Prints the table and writes bench/results/kuairand.json, unless there are overrides. What stands finished in FOLDER is
not done again: a bench of hours that was cut off goes on.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from towers import paired, trees
from towers.record import commit
from towers.saved import load_script

SEEDS = (0, 1, 2)
FIRST_LEAVES = trees.Leaves(trees.TRIED, trees.TRIED)
"""What the first seed's trees try; the other seeds' take the best: one search serves all."""
ROOT = Path(__file__).parents[1]


def train(experiment: str, folder: Path, seed: int, *overrides: str) -> Path:
    """A run through train.py; its folder. One that is finished is kept."""
    run = folder / f"{experiment}_{seed}"
    if (run / "seconds").exists():
        return run
    begun = time.perf_counter()
    command = [sys.executable, ROOT / "train.py", f"experiment={experiment}", f"seed={seed}", f"name={run.name}", f"hydra.run.dir={run}"]
    subprocess.run([*map(str, command), f"mlflow=sqlite:///{folder}/mlflow.db", *overrides], cwd=folder, check=True)
    (run / "seconds").write_text(f"{time.perf_counter() - begun:.0f}")
    return run


def measured(folder: Path, seed: int, overrides: list[str], leaves: trees.Leaves) -> tuple[trees.Measured, dict[str, float]]:
    """Ranker and trees of one seed, and the seconds of each training."""
    retrieval = train("kuairand_two_tower", folder, seed, *overrides)
    run = train("kuairand_ranker", folder, seed, f"task.retrieval={retrieval}/model", *overrides)
    kept = folder / f"measured_{seed}.pickle"
    if not kept.exists():
        kept.write_bytes(
            pickle.dumps(trees.measure(trees.data_of(run), load_script(run / "model" / "ranker.pt"), leaves=leaves, seed=seed))
        )
    found = pickle.loads(kept.read_bytes())
    seconds = {name: int((of / "seconds").read_text()) for name, of in (("retrieval", retrieval), ("ranker", run))}
    return found, seconds | {"trees": found.notes["trees_seconds"]}


def main() -> None:
    """Measure, print, write."""
    line = argparse.ArgumentParser(prog="python -m bench.kuairand", description=__doc__.splitlines()[0])
    line.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    line.add_argument("--keep", type=Path, help="where the runs stay; by default nowhere")
    line.add_argument("overrides", nargs="*")
    asked = line.parse_intermixed_args()
    by_seed, seconds, leaves = [], [], FIRST_LEAVES
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
    with nullcontext(asked.keep.resolve()) if asked.keep else tempfile.TemporaryDirectory() as folder:
        for seed in asked.seeds:
            found, spent = measured(Path(folder), seed, asked.overrides, leaves)
            leaves = trees.Leaves(*([found.notes["leaves"][name]] for name in ("click", "place")))
            by_seed.append(found)
            seconds.append(spent)
            print(trees.lines(trees.told(found)), flush=True)
    together = {name: paired.mean([found.figures[name] for found in by_seed]) for name in by_seed[0].figures}
    orders = {name: sum(found.lambdarank[name] for found in by_seed) / len(by_seed) for name in by_seed[0].lambdarank}
    told = trees.told(by_seed[0]._replace(figures=together, lambdarank=orders, notes={}))
    print(f"mean of {len(by_seed)} seeds\n{trees.lines(told)}")
    if not asked.overrides:
        result = {
            "commit": commit(), "hardware": f"{os.cpu_count()} cores", "seconds": sum(sum(spent.values()) for spent in seconds),
            "seeds": list(asked.seeds), "mean": told,
            "by_seed": [trees.told(found) | {"seconds": spent} for found, spent in zip(by_seed, seconds, strict=True)],
        }  # fmt: skip
        (ROOT / "bench" / "results" / "kuairand.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
