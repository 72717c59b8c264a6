"""How the server speaks: lines for people, or a line of JSON for whatever collects them."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

TEXT = "%(asctime)s %(levelname)s %(message)s"
FIELDS = "{asctime}{levelname}{name}{message}"


def configure(kind: str) -> None:
    """Have everything that is logged written to stderr, as "text" or "json". What was set up before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    rename = {"asctime": "time", "levelname": "level", "name": "logger"}
    handler.setFormatter(JsonFormatter(FIELDS, style="{", rename_fields=rename) if kind == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
