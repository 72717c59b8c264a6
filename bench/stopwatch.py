"""How fast a Lightning fit goes: used by ours and, in an environment of its own, by a peer's."""

import time
from collections.abc import Callable

import pytorch_lightning as L


class Stopwatch(L.Callback):
    """Ends the fit after `seconds` past the warm-up steps, and counts between: pairs or tokens, `count(batch)` of each."""

    def __init__(self, seconds: float, warm_up: int, count: Callable[[object], int]):
        self.seconds, self.warm_up, self.count, self.steps, self.counted = seconds, warm_up, count, 0, 0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        """Count a step."""
        self.steps += 1
        if self.steps == self.warm_up:
            self.start, self.cpu_start = time.perf_counter(), time.process_time()
        elif self.steps > self.warm_up:
            self.counted += self.count(batch)
            if (elapsed := time.perf_counter() - self.start) > self.seconds:
                self.per_second, self.per_cpu_second = self.counted / elapsed, self.counted / (time.process_time() - self.cpu_start)
                self.per_step = self.counted / (self.steps - self.warm_up)
                trainer.should_stop = True
