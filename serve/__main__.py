"""The engineer's door: `python -m serve up`, and everything else one asks of releases, users and experiments from a shell."""

import argparse
import logging
import os
import signal
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a request is one thread's; teams that wait for one another take 40 % more CPU

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.schema import SchemaError
from serve import commands
from serve.contract import CONTEXTS, DIVERSITIES
from serve.engine import Unavailable
from serve.limits import InvalidRequest
from serve.manifest import ReleaseError
from serve.settings import SettingsError, settings
from serve.slates import UnknownItem
from serve.store import StoreError
from serve.triton import TritonError

COMMANDS = {
    "up": (commands.up, "serve over HTTP until stopped"),
    "recommend": (commands.recommend, "answer one user"),
    "explain": (commands.explain, "why an item is, or is not, in a user's answer"),
    "similar": (commands.similar, "what lies near an item"),
    "precompute": (commands.precompute, "make everybody's slate ahead of their requests; a stopped run goes on where it was"),
    "retrain": (commands.retrain, "the daily job: train from the logs since, and challenge what is served, or say why not"),
    "forget": (commands.forget, "erase a user, and say what was erased"),
    "release": (commands.release, "list releases, check the current one, go back, promote, challenge"),
    "ab": (commands.ab, "what came of each arm"),
}
SHARED = ("releases=", "state=", "store=")  # overrides of `retrain` that conf/serve.yaml is told too; all others are conf/retrain.yaml's


def parser() -> argparse.ArgumentParser:
    """The command line; what follows the flags overrides conf/serve.yaml."""
    top = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    choices = top.add_subparsers(dest="command", required=True)
    command = {name: choices.add_parser(name, help=text) for name, (_, text) in COMMANDS.items()}
    for name in ("recommend", "explain"):
        command[name].add_argument("--user", required=True)
        command[name].add_argument("--context", default="homepage", choices=CONTEXTS)
        command[name].add_argument("--device")
        command[name].add_argument("--region")
        command[name].add_argument("--lambda", dest="mmr_lambda", type=float, default=0.7, help="0 is varied, 1 best first")
        command[name].add_argument("--diversity", default="mmr", choices=DIVERSITIES)
        command[name].add_argument("--live", action="store_true", help="made now, even where a precomputed slate would do")
    command["recommend"].add_argument("--item", help="the item the user is looking at, with --context item")
    command["explain"].add_argument("--item", required=True, help="the item asked about")
    command["similar"].add_argument("--item", required=True)
    command["forget"].add_argument("--user", required=True)
    for name, count in (("recommend", 25), ("explain", 25), ("similar", 12)):
        command[name].add_argument("--count", type=int, default=count)
    command["precompute"].add_argument("--threads", type=int, default=4)
    command["release"].add_argument("action", choices=("list", "check", "rollback", "promote", "challenge", "withdraw"))
    command["release"].add_argument("--version", help="of promote and challenge")
    command["retrain"].add_argument("--stamp", help="go on with the job of this name; a new one is named by the time")
    command["ab"].add_argument("action", choices=("report",))
    for name in ("recommend", "explain", "similar", "ab"):
        command[name].add_argument("--json", action="store_true", help="print what HTTP would answer")
    for one in command.values():
        one.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="overrides of conf/serve.yaml, like triton.url=host:8001 (retrain: of conf/retrain.yaml)",
        )
    return top


def main() -> int:
    """Run, and turn what can go wrong into one line and an exit code: 2 for what was asked, 1 for what is there."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        top = parser()
        arguments, rest = top.parse_known_args()  # argparse takes no more positional words after a flag, and people write them there
        if odd := [word for word in rest if word.startswith("-") or not ("=" in word or word.startswith("~"))]:
            top.error(f"unrecognized arguments: {' '.join(odd)}")
        arguments.overrides += rest
        shared = [one for one in arguments.overrides if arguments.command != "retrain" or one.startswith(SHARED)]
        return COMMANDS[arguments.command][0](settings(shared), arguments) or 0
    except KeyboardInterrupt:
        return 0
    except (SettingsError, InvalidRequest, UnknownItem, HydraException, OmegaConfBaseException) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    except (ReleaseError, TritonError, StoreError, SchemaError, Unavailable, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
