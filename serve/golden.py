"""Whole requests that were answered at export, asked again before anyone else is answered."""

import json
from typing import TYPE_CHECKING

import numpy as np

from data.features import EVENT_TYPE_CODE, HOUR_MS
from serve.contract import History, Known, Request, UserFields
from serve.histories import NOTHING
from serve.manifest import ReleaseError

if TYPE_CHECKING:
    from serve.recommender import Recommender

WARM_UP = 3  # requests: a process's first are slow in a dozen small ways
SAME = 0.8  # of the items of each slate: another machine's rounding may swap neighbours, another program answers otherwise


def check_slates(recommender: "Recommender") -> None:
    """Answer every request of golden.json again, from the history it was answered from.

    Raises:
        ReleaseError: a slate shares less than `SAME` of its items with the one recorded; the message shows both.
        TritonError: the server does not answer.
    """
    folder = recommender.release.path
    for told in json.loads((folder / "golden.json").read_bytes()):
        history = History(
            tuple(told["history"]["item_ids"]),
            np.array(told["history"]["event_type_L"], np.int64),
            np.array(told["history"]["rating_L"], np.float32),  # null becomes NaN
            np.array(told["history"]["timestamp_L"], np.int64),
        )
        request = Request(**told["request"])
        slate = recommender.answer(request, Known(history, UserFields(**told["fields"])))
        shown, expected = [shown.item_id for shown in slate.recommendations], told["item_ids"]
        same = len(set(shown) & set(expected)) / max(len(shown), len(expected), 1)
        if (shown or expected) and same < SAME:
            now = f"recorded {expected}, now {shown} ({slate.answered_by})"
            raise ReleaseError(folder, "golden.json", f"has another answer to {request.request_id}, user {request.user_id!r}: {now}")


def warm(recommender: "Recommender") -> None:
    """Answer some requests that nobody asked, of nobody and of somebody who watched the first items, so that the first real one finds
    everything loaded.

    Raises:
        TritonError: the server does not answer.
    """
    item_ids = tuple(recommender.release.catalogue.item_ids[: recommender.release.manifest.history_length])
    now = recommender.last_hour * HOUR_MS
    code_L = np.full(len(item_ids), EVENT_TYPE_CODE["watch"], np.int64)
    history = History(item_ids, code_L, np.full(len(item_ids), np.nan, np.float32), np.full(len(item_ids), now - HOUR_MS))
    for _ in range(WARM_UP):
        for known in (history, NOTHING):
            recommender.answer(Request("nobody", now), Known(known, UserFields()))
