"""A script that is killed, by SIGKILL, the N-th time it comes to a place: before, in the middle of, or after what happens there.

python tests/killed.py before towers.retrieval.RetrievalTask.validation_step 2 train.py experiment=…
python tests/killed.py half torch.save 1 train.py …         # half of the file stands there
"""

import functools
import importlib
import io
import os
import runpy
import signal
import sys
from pathlib import Path


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def owner_of(place: str) -> tuple[object, str]:
    """The module or class, and the name in it, that a dotted path means."""
    path, _, name = place.rpartition(".")
    try:
        return importlib.import_module(path), name
    except ModuleNotFoundError:
        module, _, owner = path.rpartition(".")
        return getattr(importlib.import_module(module), owner), name


def kill(when: str, place: str, number: int) -> None:
    """Have the process die at a place."""
    owner, name = owner_of(place)
    then, left = getattr(owner, name), [number]

    @functools.wraps(then)
    def instead(*words, **named):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            die()
        if left[0] == 0 and when == "half":
            whole = io.BytesIO()
            then(words[0], whole, *words[2:], **named)
            Path(words[1]).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
            die()
        answer = then(*words, **named)
        if left[0] == 0:
            die()
        return answer

    setattr(owner, name, instead)


if __name__ == "__main__":
    when, place, number, *sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
    kill(when, place, int(number))
    runpy.run_path(sys.argv[0], run_name="__main__")
