"""RecTools' SASRec and HSTU, run by `bench.sequence_training` with the interpreter of an environment that has `rectools[torch]`.

A line of JSON in, what to train and for how many seconds; a line of JSON out, how fast it went.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import pandas as pd
import pytorch_lightning as L
import rectools
import torch
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.hstu import HSTUModel

from bench.stopwatch import Stopwatch

MODELS = {"SASRec": SASRecModel, "HSTU": HSTUModel}


def sequences(path: Path) -> Dataset:
    """The training part of leave last out: all but the last two events of each user, a day between one and the next."""
    events = [
        (user, item, pd.Timestamp("2020-01-01") + pd.Timedelta(days=place))
        for user, *items in map(str.split, path.read_text().splitlines())
        for place, item in enumerate(items[:-2])
    ]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "datetime"])
    return Dataset.construct(frame.assign(weight=1.0))


def speed(dataset: Dataset, *, model: str, seconds: float, warm_up: int, **settings) -> dict[str, float]:
    """One short fit. A token is a position with a target; padding is none."""

    def trainer() -> L.Trainer:
        watch = Stopwatch(seconds, warm_up, lambda batch: int((batch["y"] > 0).sum()))
        return L.Trainer(
            max_epochs=1000, logger=False, callbacks=[watch], enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip

    fitted = MODELS[model](item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer, **settings).fit(dataset)
    watch = next(callback for callback in fitted.fit_trainer.callbacks if isinstance(callback, Stopwatch))  # a fit copies its trainer
    return {"per_second": watch.per_second, "per_cpu_second": watch.per_cpu_second, "per_step": watch.per_step}


def main() -> None:
    """Answer until nobody asks."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what Lightning prints is no answer
    torch.set_num_threads(int(sys.argv[2]))
    dataset = sequences(Path(sys.argv[1]))
    print(json.dumps({"rectools": rectools.__version__, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(speed(dataset, **json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
