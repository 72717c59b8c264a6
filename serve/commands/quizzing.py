"""`quiz`: the questions that tell most about a newcomer, and the page that their answers make."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.prompt import Prompt

from serve.api import as_json
from serve.commands.asking import shown
from serve.commands.parts import engine
from serve.commands.telling import safe, tell
from serve.contract import Known, Request, Slate, UserFields
from serve.engine import Engine
from serve.histories import NOTHING
from serve.limits import check
from serve.served import NOBODY
from serve.settings import Settings, SettingsError

SAYS = {"like": True, "dislike": False, "unknown": None}
QUIT = "quit"
TYPED = {"l": "like", "d": "dislike", "u": "unknown", "q": QUIT}

Answers = list[tuple[str, bool | None]]


def quiz(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Ask in a terminal until the quiz is over or the user leaves; elsewhere, take what was answered and tell what is asked next. The page
    is shown when no question is left."""
    if arguments.keep and arguments.user is None:
        raise SettingsError("--keep needs --user: whose answers to keep")
    user_id = NOBODY if arguments.user is None else arguments.user
    check(Request(user_id, 0, count=arguments.count))
    answers = answered(arguments.answers or ())
    talks = not arguments.json and arguments.answers is None and sys.stdin.isatty() and sys.stdout.isatty()
    with engine(chosen) as made:
        if talks:
            answers = _asked_out(made)
        question = None if talks else made.question(answers)
        kept = made.answered(user_id, answers) if arguments.keep else None
        page = None if question else _page(made, arguments.user, user_id, answers, arguments.count)
    document = {
        "answers": [{"item_id": item_id, "liked": liked} for item_id, liked in answers],
        "question": question, "kept": kept, "page": page and as_json(page),
    }  # fmt: skip
    said = [f"{kept} answers of user {user_id} are kept."] if arguments.keep else []
    if question:
        tell(arguments.json, document, f"{_named(question)}? Answer {question['item_id']}=like, =dislike or =unknown.", *said)
    else:
        tell(arguments.json, document, *shown(page, f"The page of {len(answers)} answers"), *said)


def answered(words: Sequence[str]) -> Answers:
    """Answers as they are typed: item=like,item=dislike,item=unknown, any number of times.

    Raises:
        SettingsError: one that says none of these, or two about one item.
    """
    told: dict[str, bool | None] = {}
    for word in (one for several in words for one in several.split(",") if one):
        item_id, _, said = word.rpartition("=")
        if not item_id or said not in SAYS:
            raise SettingsError(f"--answers {word}: expected item=like, item=dislike or item=unknown")
        if item_id in told:
            raise SettingsError(f"--answers: {item_id} is answered twice; say it once")
        told[item_id] = SAYS[said]
    return list(told.items())


def _asked_out(made: Engine) -> Answers:
    """Ask until the quiz is over, or until quit, the end of input or Ctrl-C."""
    console = Console(markup=False, emoji=False, highlight=False)
    answers: Answers = []
    console.print("Do you like these? l like · d dislike · u don't know it · q quit")
    while question := made.question(answers):
        try:
            typed = Prompt.ask(
                f"{len(answers) + 1}. {_named(question)}", console=console, choices=[*TYPED], show_choices=True, case_sensitive=False
            )  # fmt: skip
        except (EOFError, KeyboardInterrupt):
            console.print()
            break
        if TYPED[typed] == QUIT:
            break
        answers.append((question["item_id"], SAYS[TYPED[typed]]))
    return answers


def _named(question: dict) -> str:
    genres = f" ({', '.join(question['genres'])})" if question["genres"] else ""
    return safe(f"{question['title']}{genres}")


def _page(made: Engine, user: str | None, user_id: str, answers: Answers, count: int) -> Slate:
    """What would be answered to somebody who said this. It is shown to whoever asks, so it is not logged as shown to the user."""
    known = Known(NOTHING, UserFields()) if user is None else made.store.read(user_id)
    said = tuple((item_id, liked) for item_id, liked in answers if liked is not None)
    with made.fleet.champion() as served:
        return served.recommender.answer(Request(user_id, made.now_ms(), count=count), replace(known, answers=said))
