"""The words of `python -m serve`, also called `towers`: what may be asked, in which words, and what a shell completes them to.

This file imports little: a shell that completes a word waits for it.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import argcomplete
import yaml
from argcomplete.completers import DirectoriesCompleter

from serve.contract import CONTEXTS, DIVERSITIES

CONF = Path(__file__).resolve().parent.parent / "conf"
JOBS = ("retrain", "refresh")  # each has a file in conf of its own
SAID = {
    "time": ("now", "log-end"),
    "log": ("text", "json"),
    "access.reading": ("open", "keyed"),
    "access.writing": ("open", "keyed"),
    "gate.figure": ("ndcg_at_20", "recall_at_20"),
}
FOLDERS = ("releases", "state", "runs")
SHELLS = ("bash", "zsh")
ROLES = ("reader", "writer", "admin")  # of serve.api.keys, which a shell that completes does not wait for
EXITS = {
    0: "done",
    1: "what is there is broken",
    2: "what was asked cannot be",
    3: "the job refused to go on, and says why; nothing that is served has changed",
}


class Operand(NamedTuple):
    """The one word of a command that is no key=value."""

    name: str
    what: str
    completer: Callable[..., Sequence[str]]


class Words(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def read(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, the program's own unless told. `overrides` holds every key=value, wherever it stood. Where a shell asks how a word
    may go on, it is told, and the process ends.

    Raises:
        SystemExit: for help, or for words that say nothing; with what is wrong on stderr, and 2.
    """
    top = parser()
    argcomplete.autocomplete(top, default_completer=None, append_space=False)
    told, rest = top.parse_known_args(words)  # argparse takes no more positional words after a flag, and people write them there
    given = [word for word in (told.operand, *told.overrides, *rest) if word is not None]
    told.overrides = [word for word in given if _is_override(word)]
    operands = [word for word in given if not _is_override(word)]
    if len(operands) > told.operands or any(word.startswith("-") for word in operands):
        top.error(f"unrecognized arguments: {' '.join(operands[told.operands :] or operands)}")
    told.operand = operands[0] if operands else None
    return told


def completion(shell: str | None) -> int:
    """Print what a shell runs once so that TAB knows our words: the exit code."""
    if shell not in SHELLS:
        print(f"serve: completion needs the name of a shell: {' or '.join(SHELLS)}", file=sys.stderr)
        return 2
    print(argcomplete.shellcode(["towers"], shell=shell))
    return 0


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def keys(conf: str) -> tuple[str, ...]:
    """Every key of conf/<conf>.yaml that holds a value, as an override names it."""
    return tuple(_keys(yaml.safe_load((CONF / f"{conf}.yaml").read_text()), ""))


def _keys(told: dict, within: str) -> Iterator[str]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{within}{name}.")
        elif name != "hydra":
            yield within + name


def parser() -> Words:
    """The whole command line. `operand` is the one word of a command that is no key=value, `operands` how many it takes."""
    named = Path(sys.argv[0]).name
    top = Words(
        prog=named if named == "towers" else "python -m serve",
        description="Serve recommendations, ask for them, and keep what is served up to date.",
        epilog="Every command takes key=value words that override conf/serve.yaml, like releases=elsewhere or triton.url=host:8001."
        " All are described, with what they print, in docs/commands.md.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=14),
    )
    choices = top.add_subparsers(dest="command", required=True, metavar="command", parser_class=Words)
    up = _add(choices, "up", "serve over HTTP until stopped", "up port=9000 triton.url=triton.internal:8001", (0, 1, 2))
    up.set_defaults(json=False)
    _asking(choices)
    _jobs(choices)
    _releases(choices)
    _experiments(choices)
    _keeping(choices)
    return top


def _asking(choices) -> None:
    recommend = _add(choices, "recommend", "answer one user", "recommend --user 42 --count 10", (0, 1, 2))
    explain = _add(
        choices, "explain", "why an item is, or is not, in a user's answer", "explain --user 42 --item 1", (0, 1, 2)
    )  # fmt: skip
    for one in (recommend, explain):
        one.add_argument("--user", required=True, help="whom to answer; a stranger gets what is popular")
        one.add_argument("--context", default="homepage", choices=CONTEXTS, help="where the answer is to stand")
        one.add_argument("--device", help="what the user looks at it on")
        one.add_argument("--region", help="where the user is; their home, unless told")
        one.add_argument("--lambda", dest="mmr_lambda", type=float, default=0.7, metavar="λ", help="0 is varied, 1 best first (0.7)")
        one.add_argument("--diversity", default="mmr", choices=DIVERSITIES, help="how variety is sought")
        one.add_argument("--live", action="store_true", help="made now, even where a precomputed slate would do")
        one.add_argument("--count", type=int, default=25, metavar="N", help="items of the answer (25)")
    recommend.add_argument("--item", help="the item the user is looking at, with --context item")
    explain.add_argument("--item", required=True, help="the item asked about")
    similar = _add(choices, "similar", "what lies near an item", "similar --item 1 --count 5", (0, 1, 2))
    similar.add_argument("--item", required=True, help="beside which item")
    similar.add_argument("--count", type=int, default=12, metavar="N", help="items of the answer (12)")
    quiz = _add(
        choices, "quiz", "ask a newcomer what they like, and show the page that makes of it", "quiz --user newcomer --keep", (0, 1, 2)
    )  # fmt: skip
    quiz.add_argument("--user", help="who answers; nobody in particular, unless told")
    quiz.add_argument("--keep", action="store_true", help="remember the answers, in place of earlier ones of this --user")
    quiz.add_argument(
        "--answers", action="append", metavar="ITEM=like,…", help="what was answered so far (like, dislike, unknown), rather than asking"
    )  # fmt: skip
    quiz.add_argument("--count", type=int, default=10, metavar="N", help="items of the page (10)")


def _jobs(choices) -> None:
    precompute = _add(
        choices, "precompute", "make everybody's slate ahead of their requests; a stopped run goes on where it was",
        "precompute --threads 8", (0, 1, 2),
    )  # fmt: skip
    refresh = _add(
        choices, "refresh", "the hourly job: a release of what was logged since, by the same trained models", "refresh nice=5", (0, 1, 2, 3)
    )  # fmt: skip
    refresh.add_argument("--no-precompute", action="store_true", help="leave out making everybody's slate afterwards")
    retrain = _add(
        choices, "retrain", "the daily job: train from the logs since, and challenge what is served, or say why not",
        "retrain test_days=1 gate.tolerance=0.01", (0, 1, 2, 3),
    )  # fmt: skip
    for one in (precompute, refresh):
        one.add_argument("--threads", type=int, default=4, metavar="N", help="slates made at a time (4)")
    for one in (refresh, retrain):
        one.add_argument("--stamp", help="go on with the job of this name; a new one is named by the time")
    forget = _add(choices, "forget", "erase a user, and say what was erased", "forget --user 42", (0, 1, 2))
    forget.add_argument("--user", required=True, help="whom to forget")


def _releases(choices) -> None:
    actions = _group(choices, "release", "what is served: list, check, promote, go back, challenge")
    _add(actions, "list", "the releases there are, and which are served", "release list", (0, 1, 2))
    _add(actions, "check", "whether the current release is whole and answers as it did at export", "release check", (0, 1, 2))
    _add(actions, "rollback", "serve what was current before", "release rollback", (0, 1, 2))
    which = Operand("release", "the release, by its name", _releases_there)
    promote = _add(actions, "promote", "serve another release", "release promote 20261125-090000", (0, 1, 2), which)
    challenge = _add(
        actions, "challenge", "serve another release to some users, beside the current one", "release challenge 20261125-090000",
        (0, 1, 2), which,
    )  # fmt: skip
    for one in (promote, challenge):
        one.add_argument("--version", help="the same, as a flag").completer = _releases_there
    _add(actions, "withdraw", "serve the current release alone", "release withdraw", (0, 1, 2))


def _experiments(choices) -> None:
    actions = _group(choices, "ab", "the experiment that a challenger is")
    _add(actions, "report", "what came of each arm, with intervals", "ab report", (0, 1, 2))


def _keeping(choices) -> None:
    actions = _group(choices, "key", "who may read, write or administer over HTTP")
    add = _add(actions, "add", "make a key, and print it: this once", "key add --name shop --role writer --expires-days 90", (0, 1, 2))
    add.add_argument("--name", required=True, help="what it is called in lists and logs")
    add.add_argument("--role", required=True, choices=ROLES, help="each may what those before it may")
    add.add_argument("--expires-days", type=float, metavar="D", help="until when it is good; for ever, unless told")
    _add(actions, "list", "the keys there are: names and roles, never secrets", "key list", (0, 1, 2))
    which = Operand("name", "the key, by its name", _keys_there)
    _add(actions, "revoke", "have a key open nothing any more", "key revoke shop", (0, 1, 2), which)
    completion = _add(
        choices, "completion", "a script that has a shell complete the words of `towers`", 'eval "$(towers completion bash)"', (0, 2),
        Operand("shell", " or ".join(SHELLS), lambda **_: SHELLS),
    )  # fmt: skip
    completion.set_defaults(json=False)


def _group(choices, name: str, what: str):
    group = choices.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return group.add_subparsers(dest="action", required=True, metavar="action", parser_class=Words)


def _add(choices, name: str, what: str, example: str, codes: tuple[int, ...], operand: Operand | None = None) -> Words:
    ends = "\n".join(f"  {code}  {EXITS[code]}" for code in codes)
    one = choices.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {example if 'towers' in example else f'towers {example}'}\n\nexit codes:\n{ends}",
    )  # fmt: skip
    one.set_defaults(operand=None, operands=int(operand is not None))
    if operand is not None:  # it may stand among the key=value words, so argparse may not find it; who needs it says so
        one.add_argument("operand", nargs="?", metavar=operand.name, help=operand.what).completer = operand.completer
    if name not in ("up", "completion"):
        one.add_argument("--json", action="store_true", help="print one JSON document, and nothing else, on stdout")
    job = name if name in JOBS else None
    of = {"retrain": "conf/retrain.yaml", "refresh": "conf/refresh.yaml or conf/serve.yaml"}.get(name, "conf/serve.yaml")
    words = one.add_argument("overrides", nargs="*", metavar="key=value", help=f"override a key of {of}")
    words.completer = lambda prefix, **_: _overrides(prefix, (*((job,) if job else ()), "serve"))
    return one


def _overrides(prefix: str, confs: Sequence[str]) -> list[str]:
    key, said, value = prefix.partition("=")
    if not prefix:  # over a hundred keys would drown the few words that stand here
        return []
    if not said:
        return [f"{key}=" for conf in confs for key in keys(conf)]
    if key in FOLDERS:
        return [f"{key}={path}" for path in DirectoriesCompleter()(value)]
    return [f"{key}={one}" for one in SAID.get(key, ())]


def _typed(key: str) -> str:
    """What the line being completed, or the configuration, says of a key of conf/serve.yaml."""
    typed = re.findall(rf"(?:^|\s){re.escape(key)}=(\S+)", os.environ.get("COMP_LINE", ""))
    if typed:
        return typed[-1]
    told = yaml.safe_load((CONF / "serve.yaml").read_text())
    for name in key.split("."):
        told = told[name]
    return str(told)


def _releases_there(**_: object) -> list[str]:
    return [path.parent.name for path in Path(_typed("releases")).glob("*/manifest.json") if not path.parent.is_symlink()]


def _keys_there(**_: object) -> list[str]:
    try:
        return [one["name"] for one in yaml.safe_load(Path(_typed("access.keys")).read_text())["keys"]]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return []  # a word that is being typed is no place for a complaint
