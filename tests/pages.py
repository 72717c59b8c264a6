"""What runs the fenced blocks of a page, in order, in one folder that is like a clone of the repository in which `make demo` ran once, in a
real shell that stops at the first error (`tests/stand_ins.py` says what is made smaller). What is done with a block follows from its
language alone:

    bash       run, as written. The environment and the folder are those that the block before left
    python     run, in the page's namespace; where its first line is a comment that is a path, it is that file and is written
    yaml json  parsed; likewise written where the first line is a path
    toml
    console    what needs an engine that cannot be started here (Docker, a cluster): its commands, after `$ `, must be a shell's syntax
    text       shown: a drawing, or output

Any other language is an error, and so is a `<placeholder>` that nothing stands for. The list of blocks and what was done is printed.
"""

import csv
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tests import stand_ins

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
CLONED = (
    "train.py",
    "export.py",
    "Makefile",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "conf",
    "data",
    "towers",
    "serve",
    "bench",
    "deploy",
)
ENGINES = ("docker", "kubectl", "helm", "towers ", "/opt/")
"""Without one of these in it a `console` block could run here, and has to be `bash`."""
FENCE = re.compile(r"^(?P<mark>```+|~~~+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=mark)[ ]*$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package _global_\n)?# (?P<path>[\w./-]+\.\w+)\n")
PLACEHOLDER = re.compile(r"(?<![<\w])<[a-z][a-z _-]*>")
FIRST = "20261125-090000"
"""The release that a page may speak of besides the current one."""
STOOD_FOR = {"path/to/data": "data-root"}
"""What a page's placeholders stand for in its folder."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.language}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    told = page.read_text()
    return [
        Block(page.name, told.count("\n", 0, fence.start()) + 1, fence["language"].strip(), fence["text"]) for fence in FENCE.finditer(told)
    ]


def their_data(folder: Path) -> None:
    """What walk-throughs call theirs: logs/*.parquet and films.csv of a shop's, the same as lists, and ratings.csv."""
    rng = np.random.default_rng(0)
    taste_U = rng.integers(0, 4, 120)
    user_E = rng.integers(0, 120, 2400)
    film_E = 4 * rng.integers(0, 15, 2400) + taste_U[user_E]
    at_E = 1_700_000_000 + 60 * np.arange(2400)
    (folder / "logs").mkdir()
    log = pl.DataFrame({"visitor": [f"v{user}" for user in user_E], "sku": [f"s{film}" for film in film_E], "at": at_E})
    for part, name in enumerate(("2023-11", "2023-12")):
        log[1200 * part : 1200 * (part + 1)].write_parquet(folder / "logs" / f"{name}.parquet")
    lists = log.group_by("visitor", maintain_order=True).agg(pl.col("sku").unique(maintain_order=True))
    for name, part in {"sequences": slice(None), "train": slice(-2), "test": slice(-2, None)}.items():
        told = [f"{visitor} {' '.join(items[part])}\n" for visitor, items in lists.rows()]
        (folder / f"{name}.txt").write_text("".join(told))
    held_E = np.arange(2400) % 8 == 0  # what chance showed
    judged_E = rng.integers(1, 4, 2400) + 2 * (film_E % 4 == taste_U[user_E])
    ratings = {"user": user_E, "item": np.where(held_E, rng.integers(0, 60, 2400), film_E), "rating": judged_E, "at": at_E}
    pl.DataFrame(ratings).with_columns(split=np.where(held_E, "test", "train")).write_csv(folder / "ratings.csv")
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("sku", "name", "genre"), *((f"s{film}", f"Film {film}", f"{'abcd'[film % 4]}|all") for film in range(60))]
        )


@pytest.fixture(scope="session")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`python`, `towers`, `mlflow` and `make`, as stand_ins has them."""
    folder = tmp_path_factory.mktemp("bin")
    for tool in ("python", "towers", "mlflow", "make"):
        path = folder / tool
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_ins.__file__}" {tool} "$@"\n')
        path.chmod(0o755)
    return folder


@dataclass
class Shell:
    """Runs blocks in a page's folder."""

    folder: Path
    port: int
    bin_folder: Path
    forge: str

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "DATA_ROOT"))}
        return kept | {
            "PATH": os.pathsep.join([str(self.bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "STAND_IN_PORT": str(self.port), "STAND_IN_FORGE": self.forge, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "COLUMNS": "160", "TERM": "dumb",
        }  # fmt: skip

    def bash(self, command: str, *, timeout_s: float = 300) -> str:
        """What a block prints. It goes on in the folder and with the environment that the one before left."""
        left = self.folder / stand_ins.KEPT
        left.mkdir(exist_ok=True)
        before = f'[ ! -f {left}/env ] || . {left}/env; cd "$(cat {left}/cwd 2>/dev/null || echo {self.folder})"\n'
        after = f"\ndeclare -px > {left}/env; pwd > {left}/cwd\n"
        with (left / "out").open("w+") as out:  # a file and not a pipe, which a server that stays would hold open
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", before + command + after], cwd=self.folder, env=self.environment(), stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False,
            )  # fmt: skip
        said = (left / "out").read_text()
        assert done.returncode == 0, f"ended with {done.returncode}:\n{command}\n{said[-6000:]}"
        return said

    def put(self, text: str) -> str:
        """A block's text with what its placeholders stand for."""
        told = text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        if told != text and not (self.folder / stand_ins.KEPT / "up.pid").exists() and "serve up" not in text:
            self.bash("make up")
        if "127.0.0.1:8001" in told:
            told = told.replace("127.0.0.1:8001", stand_ins.triton_url(self.folder))
        for placeholder, meant in STOOD_FOR.items():
            told = told.replace(placeholder, str(self.folder / meant))
        return told

    def close(self) -> None:
        """Stop what still runs."""
        stand_ins.down(self.folder)
        stand_ins.down(self.folder, "triton")


@pytest.fixture(scope="session")
def demonstrated(tmp_path_factory, bin_folder, forge) -> Path:
    """A clone in which the world was trained once, by the commands of `make release`, and exported twice: FIRST, then what is current. The
    first of a test run's processes that wants it makes it for all."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "demonstrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "demonstrated.done").exists():
            demonstrate(shared / "demonstrated", bin_folder, forge)
            (shared / "demonstrated.done").touch()
    return shared / "demonstrated"


def demonstrate(folder: Path, bin_folder: Path, forge: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what one that failed left
    folder.mkdir()
    for name in CLONED:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(
            ROOT / name, folder / name, **({"ignore": ignored} if (ROOT / name).is_dir() else {})
        )
    venv = folder / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(bin_folder / "python")
    (venv / "activate").write_text(f'PATH="{bin_folder}:$PATH"\n')
    for ready in (".ready", ".ready-dev"):
        (folder / ".venv" / ready).touch()
    shell = Shell(folder, free_port(), bin_folder, forge)
    shell.bash("python train.py experiment=world_two_tower && python train.py experiment=world_ranker")
    shell.bash(f"python export.py version={FIRST}\nmake release")


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


@pytest.fixture
def shell(demonstrated, bin_folder, forge, tmp_path, monkeypatch) -> Iterator[Shell]:
    folder = tmp_path / "towers"
    shutil.copytree(demonstrated, folder, symlinks=True)
    for kept in ("env", "cwd"):
        (folder / stand_ins.KEPT / kept).unlink(missing_ok=True)
    their_data(folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    shell = Shell(folder, free_port(), bin_folder, forge)
    yield shell
    shell.close()


def run_bash(block: Block, shell: Shell, _: dict) -> str:
    text = shell.put(block.text)
    assert not (left := PLACEHOLDER.findall(text)), f"{left[0]} stands for nothing; name it in STOOD_FOR, or write something that runs"
    shell.bash(text)
    return "run"


def run_python(block: Block, shell: Shell, namespace: dict) -> str:
    if written := write(block, shell):
        compile(block.text, written, "exec")
        return f"written as {written}"
    exec(compile(shell.put(block.text), str(block), "exec"), namespace)
    return "run"


def parsed(parse: Callable[[str], object]) -> Callable[[Block, Shell, dict], str]:
    def take(block: Block, shell: Shell, _: dict) -> str:
        parse(block.text)
        written = write(block, shell)
        return f"parsed, written as {written}" if written else "parsed"

    return take


def write(block: Block, shell: Shell) -> str | None:
    """The path that a block's first line says it is, written there; None where it says nothing."""
    found = FILE.match(block.text)
    if found is None:
        return None
    path = shell.folder / found["path"]
    assert path.resolve().is_relative_to(shell.folder.resolve()), f"{found['path']} lies outside of the clone"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    return found["path"]


def check_console(block: Block, *_: object) -> str:
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.text, re.MULTILINE)
    assert commands, "a console block has no command after `$ `; output alone is `text`"
    assert any(engine in block.text for engine in ENGINES), "nothing here needs an engine that cannot be started; make it a bash block"
    done = subprocess.run(["bash", "-n"], input="\n".join(commands), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return f"{len(commands)} commands are a shell's syntax"


HOW: dict[str, Callable[[Block, Shell, dict], str]] = {
    "bash": run_bash,
    "python": run_python,
    "yaml": parsed(lambda text: list(yaml.safe_load_all(text))),
    "json": parsed(json.loads),
    "toml": parsed(tomllib.loads),
    "console": check_console,
    "text": lambda *_: "shown",
}


def run_blocks(page: Path, request: pytest.FixtureRequest) -> None:
    told, done = blocks(page), []
    needs_shell = any(block.language not in ("console", "text") for block in told)
    shell, namespace = (request.getfixturevalue("shell") if needs_shell else None), {"__name__": "__main__"}
    for block in told:
        began = time.monotonic()
        try:
            how = HOW[block.language](block, shell, namespace)
        except BaseException as error:
            error.add_note(f"in the block at {block}")
            raise
        done.append(f"{block}: {how} ({time.monotonic() - began:.1f} s)")
    print(*done, sep="\n")  # seen with pytest -rP
    assert len(done) == len(told)
