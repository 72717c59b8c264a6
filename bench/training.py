"""Pairs per second of an id two-tower (D=64) through train.py's own parts, beside a bare loop with the same mathematics.

    python -m bench.training data.train=…/gowalla/train.txt data.test=…/gowalla/test.txt

The bare loop is plain PyTorch: embeddings gathered by hand, the logits of all distinct items stored, cross-entropy, autograd, row-wise
Adagrad on the rows touched. Rounds alternate between the two, and medians are printed; the ratio is what counts on a noisy machine.
SASRec and HSTU beside a peer's: `python -m bench.sequence_training`.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py, for both loops

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize
from hydra.utils import instantiate

from bench.stopwatch import Stopwatch
from data.frequency import log_in_batch
from towers.memory import keep_memory
from towers.record import commit

BATCHES = (512, 1024, 8192)
ROUNDS, SECONDS = 5, 4.0


def ours(cfg, log, batch_size: int) -> float:
    """Pairs per second of RetrievalTask under Lightning."""
    cfg.task.batch_size = batch_size
    data = instantiate(cfg.task.datamodule)(log)
    task = instantiate(cfg.task.module)(data=data)
    watch = Stopwatch(SECONDS, 20, lambda batch: batch_size)
    trainer = instantiate(
        cfg.trainer.trainer,
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        limit_val_batches=0,
        max_epochs=1000,
        enable_progress_bar=False,
    )
    trainer.fit(task, data)
    return watch.per_second


def bare(log, batch_size: int, *, temperature: float = 0.1, lr: float = 0.3) -> float:
    """Pairs per second of the same step written out in one function."""
    train = log.before(1)
    event = train.liked(0)
    user_E, item_E = torch.as_tensor(train.user_row_E[event]), torch.as_tensor(train.item_row_E[event])
    log_q_I = torch.as_tensor(log_in_batch(np.bincount(item_E.numpy(), minlength=len(log.catalogue.item_ids)), batch_size=batch_size))
    tables = [torch.randn(len(log.user_ids), 64) * 0.1, torch.randn(len(log.catalogue.item_ids), 64) * 0.1]
    sums = [torch.zeros(len(table)) for table in tables]
    steps, start = 0, 0.0
    while True:
        order = torch.randperm(len(event))
        for first in range(0, len(event) - batch_size + 1, batch_size):
            rows = order[first : first + batch_size]
            user_R, user_place = user_E[rows].unique(return_inverse=True)
            item_M, item_place = item_E[rows].unique(return_inverse=True)
            user_RD, item_MD = (table[row].requires_grad_() for table, row in zip(tables, (user_R, item_M), strict=True))
            logit_BM = F.normalize(user_RD, dim=1)[user_place] @ F.normalize(item_MD, dim=1).T / temperature - log_q_I[item_M]
            F.cross_entropy(logit_BM, item_place).backward()
            for table, total, row, value in zip(tables, sums, (user_R, item_M), (user_RD, item_MD), strict=True):
                total[row] += value.grad.pow(2).mean(1)
                table[row] -= lr * value.grad / (total[row].sqrt() + 1e-8)[:, None]
            steps += 1
            if steps == 20:
                start = time.perf_counter()
            elif steps > 20 and (elapsed := time.perf_counter() - start) > SECONDS:
                return (steps - 20) * batch_size / elapsed


def main() -> None:
    """Print the table and write bench/results/training.json."""
    keep_memory()  # as in train.py, for both loops
    with initialize(version_base="1.3", config_path="../conf"):
        cfg = compose("train", ["data=interactions", "task=id_two_tower", "name=bench", "question=bench", *sys.argv[1:]])
    log = instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data)))
    result = {"commit": commit(), "threads": torch.get_num_threads(), "torch": torch.__version__, "pairs": len(log.liked(0)), "batches": {}}
    print(f"{'batch':>6} {'ours':>10} {'bare loop':>10} {'ratio':>6}   pairs/s, medians of {ROUNDS} rounds of {SECONDS:.0f} s")
    for batch_size in BATCHES:
        rounds = [(ours(cfg, log, batch_size), bare(log, batch_size)) for _ in range(ROUNDS)]
        mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        result["batches"][batch_size] = {"ours": mine, "bare": other, "ratio": ratio, "rounds": rounds}
        print(f"{batch_size:>6} {mine:>10,.0f} {other:>10,.0f} {ratio:>6.2f}")
    path = Path(__file__).parent / "results" / "training.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
