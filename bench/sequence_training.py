"""Tokens per second of SASRec and HSTU through train.py's own parts, beside RecTools' on the same sequences.

    python -m bench.sequence_training path/to/Beauty.txt [--peer path/to/an/environment/bin/python]

The peer is `pip install 'rectools[torch]'` in an environment of its own; without `--peer` ours are measured alone, and the table says so.
A token is a position with a target, for both; padding is none. Rounds alternate between the two, medians are printed. One thread, so that
tokens per CPU second are those of an idle machine, whatever else this one does; seconds of the clock are written beside them.

Alike: training part (leave last out), width, blocks, heads, dropout, history of 50, tokens a step. Not alike: a feed-forward layer is 4
widths wide in our SASRec and one in theirs. Ours packs many users into a row, theirs pads each to 50. `whole catalogue` is the full
softmax in both. `sampled` is ours as `task=id_sequence` has it, the items of the batch and 1,024 more shared by all tokens; in theirs
each token, padding too, has 256 of its own: as many as ours would be 8 GB of negatives at width 256.
"""

import argparse
import json
import os
import statistics
import subprocess
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import torch
from hydra import compose, initialize
from hydra.utils import instantiate

from bench.stopwatch import Stopwatch
from data.sequences import NOBODY
from towers.memory import keep_memory
from towers.record import commit

ROOT = Path(__file__).parents[1]
BLOCKS, HEADS, DROPOUT, LENGTH, PEER_NEGATIVES = 2, 1, 0.2, 50, 256
WHOLE = ["task.module.negatives._target_=towers.negatives.WholeCatalogue", "~task.module.negatives.uniform"]
NEGATIVES = {"sampled": ([], {"loss": "sampled_softmax", "n_negatives": PEER_NEGATIVES}), "whole catalogue": (WHOLE, {"loss": "softmax"})}


def ours(path: Path, model: str, width: int, overrides: list[str], *, seconds: float, warm_up: int) -> dict[str, float]:
    """One short fit of `task=id_sequence`."""
    tower = "task.module.user_tower"
    words = [
        "data=sequences", f"data.path={path}", "task=id_sequence", "name=bench", "question=bench", f"task.history_length={LENGTH}",
        f"task.module.width={width}", f"{tower}.dropout={DROPOUT}", f"{tower}.encoder._target_=towers.encoders.{model}",
        f"{tower}.encoder.blocks={BLOCKS}", f"{tower}.encoder.heads={HEADS}", f"{tower}.encoder.dropout={DROPOUT}", *overrides,
    ]  # fmt: skip
    with initialize(version_base="1.3", config_path="../conf"):
        cfg = compose("train", words)
    data = instantiate(cfg.task.datamodule)(instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data))))
    watch = Stopwatch(seconds, warm_up, lambda batch: int((batch.state_B != NOBODY).sum()))
    trainer = instantiate(
        cfg.trainer.trainer, accelerator="cpu", logger=False, callbacks=[watch], enable_checkpointing=False, limit_val_batches=0,
        max_epochs=1000, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(instantiate(cfg.task.module)(data=data), data)
    return {"per_second": watch.per_second, "per_cpu_second": watch.per_cpu_second, "per_step": watch.per_step}


class Peer:
    """RecTools in a process of its own, which waits where nothing is asked of it."""

    def __init__(self, python: str, path: Path, threads: int):
        command = [python, "-m", "bench.rectools_worker", str(path), str(threads)]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.versions = self.answer()

    def answer(self) -> dict:
        """The next line it says.

        Raises:
            RuntimeError: it says no more; its own words are above.
        """
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the peer ended; does its environment have rectools[torch]?")
        return json.loads(line)

    def speed(self, **asked: object) -> dict[str, float]:
        """One short fit."""
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self.answer()


def main() -> None:
    """Print the table and write bench/results/sequence_training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="one user a line: user item item …, oldest first")
    parser.add_argument("--peer", help="python of an environment with rectools[torch]")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--negatives", nargs="+", default=[*NEGATIVES], choices=[*NEGATIVES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=int, default=3, help="steps")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    keep_memory()
    torch.set_num_threads(asked.threads)
    path, timing = asked.path.resolve(), {"seconds": asked.seconds, "warm_up": asked.warm_up}
    targets = [max(len(line.split()) - 4, 0) for line in path.read_text().splitlines()]  # less the user, two held out, the first event
    tokens_a_user = statistics.mean(min(count, LENGTH) for count in targets if count)
    peer = Peer(asked.peer, path, asked.threads) if asked.peer else None
    result = {
        "commit": commit(), "threads": asked.threads, "torch": torch.__version__, "peer": peer.versions if peer else None,
        "sequences": path.name, "blocks": BLOCKS, "heads": HEADS, "dropout": DROPOUT, "history_length": LENGTH, **timing, "rows": [],
    }  # fmt: skip
    print(
        f"tokens per CPU second, medians of {asked.rounds} rounds; RecTools " + (str(peer.versions) if peer else "not measured: no --peer")
    )
    print(f"{'model':>7} {'width':>5} {'negatives':>15} {'ours':>8} {'RecTools':>9} {'ratio':>6}")
    for width in asked.widths:
        for model in ("SASRec", "HSTU"):
            for name in asked.negatives:
                overrides, loss = NEGATIVES[name]
                row = {"model": model, "width": width, "negatives": name, "ours": [], "peer": []}
                for _ in range(asked.rounds):
                    row["ours"].append(ours(path, model, width, overrides, **timing))
                    if peer:
                        users = round(row["ours"][-1]["per_step"] / tokens_a_user)
                        settings = {"n_blocks": BLOCKS, "n_heads": HEADS, "n_factors": width, "dropout_rate": DROPOUT, **loss}
                        row["peer"].append(peer.speed(model=model, session_max_len=LENGTH, batch_size=users, **settings, **timing))
                for side in ("ours", "peer") if peer else ("ours",):
                    row |= {f"{side}_{of}": statistics.median(r[of] for r in row[side]) for of in ("per_second", "per_cpu_second")}
                pairs = zip(row["ours"], row["peer"], strict=False)
                row["ratio"] = statistics.median(a["per_cpu_second"] / b["per_cpu_second"] for a, b in pairs) if peer else None
                theirs = f"{row['peer_per_cpu_second']:>9,.0f} {row['ratio']:>6.1f}" if peer else f"{'–':>9} {'–':>6}"
                print(f"{model:>7} {width:>5} {name:>15} {row['ours_per_cpu_second']:>8,.0f} {theirs}", flush=True)
                result["rows"].append(row)
                (ROOT / "bench" / "results" / "sequence_training.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
