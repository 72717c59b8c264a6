"""What an epoch costs, and how steep it was: seconds, memory, and the norm of the gradient, as curves in MLflow."""

import resource
import time

import pytorch_lightning as L
import torch

EVERY = 50
"""Steps between two looks at the gradient, each of which reads it once:
of a training on Gowalla at batch 1,024, 1.5 % of its CPU at the median of five rounds."""


class Pace(L.Callback):
    """Logs, by epoch, `train/grad_norm` (root mean square, over every `EVERY`-th step, of the norm of the whole gradient, before any
    clipping), `train/grad_norm_tables` (of what is looked up sparsely, where there is such), `train/seconds`, `val/seconds` and the most
    memory that was held so far, `system/memory_mib`, on a GPU `system/device_memory_mib`; and `test/seconds`."""

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Begin anew."""
        self.steps, self.looks, self.square = 0, 0, {"": torch.zeros(()), "_tables": torch.zeros(())}
        self.begun, self.validated = time.perf_counter(), 0.0

    def on_before_optimizer_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Look at every so many steps. Nothing is waited for: the sums stay on the device until the epoch is over."""
        if self.steps % EVERY == 0:
            grads = [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
            tables = [grad.coalesce().values() for grad in grads if grad.is_sparse]
            whole = [grad for grad in grads if not grad.is_sparse]
            for name, parts in (("", [*tables, *whole]), ("_tables", tables)):
                if parts:
                    self.square[name] = self.square[name].to(parts[0].device) + torch.stack(torch._foreach_norm(parts)).square().sum()
            self.looks += 1
        self.steps += 1

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """What comes now is not training."""
        self.validating = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """And this was."""
        self.validated += time.perf_counter() - self.validating

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Tell."""
        told = {"train/seconds": time.perf_counter() - self.begun - self.validated}
        told |= {"val/seconds": self.validated} if self.validated else {}
        told |= {f"train/grad_norm{name}": (square / self.looks).sqrt() for name, square in self.square.items() if float(square)}
        task.log_dict(told | memory())

    def on_test_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """The test begins."""
        self.begun = time.perf_counter()

    def on_test_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """And ends."""
        task.log_dict({"test/seconds": time.perf_counter() - self.begun})


def memory() -> dict[str, float]:
    """The most that this process has held so far, MiB, and on a GPU that torch has."""
    held = {"system/memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    return held | ({"system/device_memory_mib": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {})
