"""A client of a Towers server: typed, by httpx; for programs that are no server, so it brings nothing of one."""

from serve.client.calls import Event, NewItem
from serve.client.deadlines import deadline
from serve.client.errors import Misread, Refused, TooLate, TowersError, Unreachable
from serve.client.retries import NEVER, Retries
from serve.client.towers import AsyncTowers, Towers

__all__ = [
    "AsyncTowers", "Event", "Misread", "NEVER", "NewItem", "Refused", "Retries", "TooLate", "Towers", "TowersError", "Unreachable",
    "deadline",
]  # fmt: skip
