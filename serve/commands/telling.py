"""How a command says what it found: tables for people, or one JSON document and nothing else."""

import json
import re
import sys
from datetime import UTC, datetime

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from serve.job import finite

# C0 but for a line's end, DEL, C1, and what turns the direction of writing: a title may hold them, and a terminal would obey
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def tell(as_json: bool, document: object, *shown: RenderableType) -> None:
    """Print the document, or what shows it to people: 80 columns wide where no terminal says otherwise, and in colour only on one.

    In strings nothing is markup. NaN and infinities are null in JSON.
    """
    if as_json:
        text = json.dumps(finite(document), ensure_ascii=False, allow_nan=False, indent=2)
        say(OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    with console.capture() as held:
        for one in shown:
            console.print(safe(one) if isinstance(one, str) else one)
    say("\n".join(line.rstrip() for line in held.get().rstrip("\n").split("\n")))


def say(text: str) -> None:
    """Put lines on stdout at once, so that a reader who has gone is noticed here. Raises BrokenPipeError."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def safe(text: object) -> str:
    """Text that a terminal shows and does not obey."""
    return OBEYED.sub("�", str(text))


def table(title: str | None, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table with these columns; those of `numbers` stand to the right."""
    made = Table(title=title and safe(title), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(safe(name), justify="right" if name in numbers else "left", overflow="fold", vertical="top")
    return made


def add(made: Table, *cells: object, style: str | None = None) -> None:
    """A row, each cell as it stands; None is –."""
    made.add_row(*("–" if cell is None else safe(cell) for cell in cells), style=style)


def moment(time_ms: int) -> str:
    """A time, ms UTC, to the second."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
