"""What was learnt of a run, in words: its conclusion, in MLflow a tag to find it by and the last part of its note.

python -m towers.conclude models/<name> "The last item tells what the mean does not: kept."
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from towers.lab_book import PageError, note, page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write it; one that was there is written over. 2 where there is no such run."""
    line = argparse.ArgumentParser(prog="python -m towers.conclude", description=__doc__.splitlines()[0])
    line.add_argument("run", type=Path, metavar="RUN", help="the folder of a run or of a sweep, or models/NAME")
    line.add_argument("words", metavar="WORDS", help="what was learnt")
    asked = line.parse_args(arguments)
    try:
        client, run = page(asked.run)
    except PageError as error:
        print(error, file=sys.stderr)
        return 2
    note(client, run.info.run_id, conclusion=asked.words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
