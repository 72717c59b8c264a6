"""What `python -m serve <command>` does. Each takes the settings and the command line, and may return an exit code."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.schema import SchemaError
from serve import logs
from serve.api.keys import KeysError, UnknownKey
from serve.commands import asking, experiments, jobs, keys, listening, quizzing, releases
from serve.commands.parts import engine, no_stand_in, store_of
from serve.commands.telling import safe
from serve.engine import Unavailable
from serve.limits import InvalidRequest
from serve.manifest import ReleaseError
from serve.settings import Settings, SettingsError, settings
from serve.slates import UnknownItem
from serve.store import StoreError
from serve.triton import TritonError

__all__ = ["COMMANDS", "engine", "no_stand_in", "run", "store_of"]

COMMANDS: Mapping[str, Callable[[Settings, argparse.Namespace], int | None]] = {
    "up": listening.up,
    "recommend": asking.recommend, "explain": asking.explain, "similar": asking.similar,
    "quiz": quizzing.quiz,
    "precompute": jobs.precompute, "refresh": jobs.refresh, "retrain": jobs.retrain, "forget": jobs.forget,
    "release list": releases.listed, "release check": releases.check, "release rollback": releases.rollback,
    "release promote": releases.promote, "release challenge": releases.challenge, "release withdraw": releases.withdraw,
    "ab report": experiments.report,
    "key add": keys.add, "key list": keys.listed, "key revoke": keys.revoke,
}  # fmt: skip
ASKED = (SettingsError, InvalidRequest, UnknownItem, UnknownKey, HydraException, OmegaConfBaseException)
THERE = (ReleaseError, TritonError, StoreError, SchemaError, KeysError, Unavailable, OSError)
BROKEN, WRONG, INTERRUPTED, UNREAD, TERMINATED = 1, 2, 130, 141, 143
TALKATIVE = ("up", "precompute", "refresh", "retrain")  # they take their time, and say what they are at


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, and turn what can go wrong into one line and an exit code: 2 for what was asked, 1 for what is there."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=logs.TEXT)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a title is told even where the terminal lacks its letters
    command = arguments.command if arguments.command in COMMANDS else f"{arguments.command} {arguments.action}"
    logging.getLogger().setLevel(logging.INFO if command in TALKATIVE else logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0 if command == "up" else TERMINATED))
    try:
        return COMMANDS[command](settings(jobs.serve_words(command, arguments.overrides)), arguments) or 0
    except KeyboardInterrupt:
        return 0 if command == "up" else INTERRUPTED
    except jobs.Interrupted as error:
        return _said(error, INTERRUPTED)
    except BrokenPipeError:  # whoever read has read enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # and the interpreter has somewhere to flush to
        return UNREAD
    except ASKED as error:
        return _said(error, WRONG)
    except THERE as error:
        return _said(error, BROKEN)


def _said(error: Exception, code: int) -> int:
    told = str(error)
    if isinstance(error, HydraException):  # it advises to add the key, which then nothing reads
        told = f"{told.splitlines()[0]} There is no such key, or no such value; the files in conf list the keys there are"
    print(f"serve: {safe(' '.join(told.split()))}", file=sys.stderr)
    return code
