"""What a loss costs: memory of the full softmax and of large batches, seconds of an epoch over every item.

    DATA_ROOT=path/to/data python -m bench.losses [--threads 2]

Each row of a table is a process of its own. Memory is what its peak (VmHWM) rises by from just before a step to after its gradient.

Blocks of a MiB and more are fresh from the kernel then, which costs seconds that training, whose malloc keeps them, does not spend.

- full softmax: queries against all of a catalogue, 64 wide, loss and both gradients; beside it the vectors and their gradients, which are
  (B + I)·D numbers twice, and the B × I logits that are never stored.
- large batches: one step of `task=two_tower` on Gowalla, histories of 50, its queries kept, or in chunks of 1,024 (`towers.asking`).
- users once: training of `task=id_two_tower` on Gowalla against every item: any row beside any other, or stretches of few users.
"""

import argparse
import ctypes
import json
import os
import time
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import torch

from towers.losses import sampled_softmax
from towers.memory import M_MMAP_THRESHOLD, keep_memory
from towers.record import commit

D, CHUNK = 64, 1_024
SOFTMAX = ((1_024, 50_000), (8_192, 50_000), (1_024, 500_000), (8_192, 500_000))
ATTENTION = "task.module.user_tower.encoder._target_=towers.encoders.AttentionEncoder"
LARGE = (("mean", 1_024), ("mean", 16_384), ("mean", 65_536), ("attention", 1_024), ("attention", 8_192), ("attention", 65_536))
KEPT_UP_TO = {"mean": 65_536, "attention": 8_192}  # what a laptop holds
USERS_ONCE = (("shuffled", 1_024, 12), ("by_user", 1_024, 60), ("shuffled", 8_192, 3), ("by_user", 8_192, 20))
GOWALLA = ("data=gowalla", "split=given")


def peak() -> int:
    """Bytes of this process's peak so far."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def rise(step) -> dict[str, float]:
    """How much the peak rises while `step` runs, and its seconds."""
    malloc = ctypes.CDLL(None)
    malloc.mallopt(M_MMAP_THRESHOLD, 1 << 20)  # blocks of a MiB are given back when freed: the peak is what is held, not what malloc keeps
    malloc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before, start = peak(), time.perf_counter()
    step()
    return {"seconds": time.perf_counter() - start, "bytes": peak() - before}


def full_softmax(rows: int, items: int) -> dict[str, float]:
    """One loss and its gradients."""
    torch.manual_seed(0)
    query_BD, item_ID = (torch.nn.functional.normalize(torch.randn(count, D)).requires_grad_() for count in (rows, items))
    known = {"target_B": torch.randint(items, (rows,)), "log_q_M": torch.zeros(items), "weight_B": torch.ones(rows), "temperature": 0.1}
    found = rise(lambda: sampled_softmax(query_BD, item_ID, **known).backward())
    return found | {"vectors_and_gradients": 2 * 4 * D * (rows + items), "logits_never_stored": 4 * rows * items}


def gowalla(*overrides: str):
    """Data and task, as train.py makes them."""
    from hydra.utils import instantiate

    from bench.fits import configuration

    cfg = configuration(*GOWALLA, *overrides)
    data = instantiate(cfg.task.datamodule)(instantiate(cfg.log)(instantiate(cfg.split)(instantiate(cfg.data))))
    torch.manual_seed(0)
    return data, instantiate(cfg.task.module)(data=data), cfg


def large_batch(encoder: str, rows: int, ask: str) -> dict[str, float]:
    """One step: forward, loss, backward."""
    from data.datamodule import Events

    words = [ATTENTION] if encoder == "attention" else []
    words += [f"task.module.ask._target_=towers.asking.{ask}", *([f"+task.module.ask.rows={CHUNK}"] if ask == "in_chunks" else [])]
    data, task, _ = gowalla("task=two_tower", f"task.batch_size={rows}", *words)
    events = Events.of(data.train_log, data.weight_E, torch.device("cpu"))
    chosen = torch.as_tensor(data.train_event)[torch.randperm(len(data.train_event))[:rows]]
    batch = events.batch(chosen, length=data.history_length)
    task.epoch_loss, task.epoch_rows = torch.zeros(()), 0
    return rise(lambda: task.training_step(batch, 0).backward())


def users_once(order: str, rows: int, steps: int) -> dict[str, float]:
    """Pairs a second of so many steps of an epoch, the first of them left out."""
    import pytorch_lightning as L
    from hydra.utils import instantiate

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, task, outputs, batch, step):
            self.users.append(len(batch.user_row_B.unique()))
            self.at.append(time.perf_counter())

    watch = Watch()
    watch.at, watch.users = [], []
    words = (f"task.datamodule.order._target_=data.datamodule.{order}", "task.module.negatives._target_=towers.negatives.WholeCatalogue")
    data, task, cfg = gowalla("task=id_two_tower", f"task.batch_size={rows}", *words)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    instantiate(cfg.trainer.trainer, callbacks=[watch], max_epochs=1, **quiet | {"limit_train_batches": steps}).fit(task, data)
    pairs_per_second = rows * (steps - 1) / (watch.at[-1] - watch.at[0])
    epoch = len(data.train_event) / pairs_per_second
    return {"pairs_per_second": pairs_per_second, "seconds_an_epoch": epoch, "users_a_batch": sum(watch.users) / len(watch.users)}


def alone(function, *arguments, threads: int):
    """What a function says in a fresh process."""
    with get_context("spawn").Pool(1, initializer=prepare, initargs=(threads,)) as pool:
        return pool.apply(function, arguments)


def prepare(threads: int) -> None:
    """As train.py treats its memory."""
    keep_memory()
    torch.set_num_threads(threads)


def main() -> None:
    """Print the tables and write bench/results/losses.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    result = {"commit": commit(), "threads": threads, "torch": torch.__version__, "width": D, "chunk": CHUNK}
    result |= {"full_softmax": [], "large_batches": [], "users_once": []}
    gib = lambda count: f"{count / 2**30:.3f}"  # noqa: E731

    print("full softmax: queries, items, GiB risen, GiB of vectors and gradients, GiB of logits never stored, seconds")
    for rows, items in SOFTMAX:
        found = alone(full_softmax, rows, items, threads=threads)
        result["full_softmax"].append({"queries": rows, "items": items} | found)
        print(rows, items, *(gib(found[of]) for of in ("bytes", "vectors_and_gradients", "logits_never_stored")), f"{found['seconds']:.1f}")

    print("large batches: encoder, rows, how asked, GiB risen, seconds")
    for encoder, rows in LARGE:
        for ask in (["every_row"] if rows <= KEPT_UP_TO[encoder] else []) + (["in_chunks"] if rows > CHUNK else []):
            found = alone(large_batch, encoder, rows, ask, threads=threads)
            result["large_batches"].append({"encoder": encoder, "rows": rows, "ask": ask} | found)
            print(encoder, rows, ask, gib(found["bytes"]), f"{found['seconds']:.1f}")

    print("users once, Gowalla's full softmax: order, rows, users a batch, pairs/s, seconds an epoch")
    for order, rows, steps in USERS_ONCE:
        found = alone(users_once, order, rows, steps, threads=threads)
        result["users_once"].append({"order": order, "rows": rows} | found)
        print(order, rows, *(f"{found[of]:.0f}" for of in ("users_a_batch", "pairs_per_second", "seconds_an_epoch")))

    (Path(__file__).parent / "results" / "losses.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
