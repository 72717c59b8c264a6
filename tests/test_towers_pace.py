"""Gradient norms by hand, beside a loss whose gradient is known."""

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from towers.pace import EVERY, Pace


class Known(L.LightningModule):
    """∂/∂w = (3, 4) at every step; a table's row 1 is looked up twice, so its gradient is (2, 2), and stored in two parts."""

    def __init__(self):
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.zeros(2)), nn.Embedding(5, 2, sparse=True)

    def training_step(self, *_):
        return self.weight @ torch.tensor([3.0, 4.0]) + self.table(torch.tensor([1, 1])).sum()

    def validation_step(self, *_):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_norm_is_that_of_the_whole_gradient_and_of_the_tables(tmp_path):
    steps = DataLoader(torch.zeros(EVERY + 2, 1))
    trainer = L.Trainer(
        max_epochs=2, logger=CSVLogger(tmp_path), callbacks=[Pace()], enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Known(), steps, DataLoader(torch.zeros(1, 1)))
    told = trainer.callback_metrics
    assert float(told["train/grad_norm"]) == pytest.approx((9 + 16 + 8) ** 0.5)
    assert float(told["train/grad_norm_tables"]) == pytest.approx(8**0.5)
    assert float(told["train/seconds"]) > 0 and float(told["val/seconds"]) > 0
    assert 100 < float(told["system/memory_mib"]) < 64 * 1024
