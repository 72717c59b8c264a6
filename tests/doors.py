"""The command line as a test uses it: in this process, over a small world of releases."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.__main__ import main
from serve.publication import publish
from tests.releases import write_release

Door = Callable[..., tuple[int, str, str]]


def releases(folder: Path, *versions: str) -> Path:
    """`folder` with `releases` in it, the last version current."""
    for version in versions:
        root = folder / "releases"
        publish(write_release(root / f".staging-{version}", items=30, room=5, version=version), root, version)
    return folder


@contextmanager
def door(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Iterator[Door]:
    """Runs a command line over `folder`: (exit code, stdout, stderr)."""
    before, level = signal.getsignal(signal.SIGTERM), logging.getLogger().level

    def run(*words: str) -> tuple[int, str, str]:
        there = {"releases": folder / "releases", "state": folder / "state"}
        own = [f"{key}={path}" for key, path in there.items() if not any(word.startswith(f"{key}=") for word in words)]
        monkeypatch.setattr(sys, "argv", ["towers", *words, *own])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)
    logging.getLogger().setLevel(level)
