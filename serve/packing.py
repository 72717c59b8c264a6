"""What stores keep as bytes besides histories: precomputed slates, logged slates, answers, what was shown. Pure functions, for every store.

A precomputed slate is a checksum, its numbers as they are, and its words as JSON, column by column and deflated: about 3.5 KB for 100 items
and a query of 256 numbers, of which the query is 1 KB. A request that is answered live reads the slate and never looks at its words, and to
make 100 recommendations of them costs five times the read (.2 ms): so they stay packed until somebody looks.

Shapes: D width · N slate.
"""

import hashlib
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import overload

import numpy as np

from serve.contract import Draw, Known, LoggedSlate, Precomputed, Recommendation, UserFields

SEPARATOR = "\0"
HEAD = struct.Struct("<IqqHHH")  # crc32 of the rest, made_at, sequence, bytes of the version, D, N


class PackedRecommendations(Sequence[Recommendation]):
    """Recommendations that are unpacked when somebody looks at them; how many there are costs nothing."""

    def __init__(self, score_N: np.ndarray, words: bytes) -> None:
        self._score_N, self._words = score_N, words

    @cached_property
    def _unpacked(self) -> tuple[Recommendation, ...]:
        item_ids, titles, reasons, rows, sources = json.loads(zlib.decompress(self._words))
        scores = [None if math.isnan(score) else score for score in self._score_N.tolist()]
        return tuple(map(Recommendation, item_ids, titles, scores, reasons, rows, map(tuple, sources)))

    def __len__(self) -> int:
        return len(self._score_N)

    @overload
    def __getitem__(self, place: int) -> Recommendation: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, place):
        return self._unpacked[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._unpacked == tuple(other)

    def __hash__(self) -> int:
        return hash(self._unpacked)

    def __repr__(self) -> str:
        return repr(self._unpacked)


def pack_precomputed(slate: Precomputed) -> bytes:
    """One blob. Scores are kept as float32, as the models give them."""
    shown, version = slate.recommendations, slate.model_version.encode()
    score_N = np.array([math.nan if one.score is None else one.score for one in shown], "<f4")
    words = [[one.item_id for one in shown], [one.title for one in shown], [one.reason for one in shown], [one.row for one in shown]]
    body = zlib.compress(_json([*words, [one.sources for one in shown]]))
    rest = b"".join((version, np.asarray(slate.query_D, "<f4").tobytes(), score_N.tobytes(), body))
    head = HEAD.pack(0, slate.made_at, slate.sequence, len(version), len(slate.query_D), len(shown))[4:] + rest
    return zlib.crc32(head).to_bytes(4, "little") + head


def unpack_precomputed(packed: bytes) -> Precomputed:
    """What `pack_precomputed` packed; `query_D` is read-only.

    Raises:
        ValueError: it is something else, or was damaged.
    """
    if len(packed) < HEAD.size:
        raise ValueError(f"{len(packed)} bytes are no slate")
    checksum, made_at, sequence, version_bytes, width, count = HEAD.unpack_from(packed)
    if checksum != zlib.crc32(memoryview(packed)[4:]):
        raise ValueError("its checksum differs")
    query_at = HEAD.size + version_bytes
    score_at = query_at + 4 * width
    score_N = np.frombuffer(packed, "<f4", count, score_at)
    shown = PackedRecommendations(score_N, packed[score_at + 4 * count :])
    return Precomputed(made_at, sequence, packed[HEAD.size : query_at].decode(), np.frombuffer(packed, "<f4", width, query_at), shown)


def pack_slate(slate: LoggedSlate) -> bytes:
    """One blob: deflated JSON of the fields, in their order."""
    draw = slate.draw and [getattr(slate.draw, name) for name in Draw.__slots__]
    told = {name: getattr(slate, name) for name in LoggedSlate.__slots__} | {"draw": draw}
    return zlib.compress(_json(list(told.values())))


def unpack_slate(packed: bytes) -> LoggedSlate:
    """What `pack_slate` packed.

    Raises:
        ValueError: it is something else, or was damaged.
    """
    try:
        told = json.loads(zlib.decompress(packed))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    slate = LoggedSlate(*told)  # without its last field, where it was logged before there were second pages
    draw = slate.draw and Draw(slate.draw[0], *map(tuple, slate.draw[1:]))
    lists = {"item_ids": tuple(slate.item_ids), "sources": tuple(map(tuple, slate.sources)), "propensities": tuple(slate.propensities)}
    return replace(slate, **lists, draw=draw)


def pack_answers(answers: Iterable[tuple[str, bool]]) -> bytes:
    """(item_id, liked) pairs, as JSON."""
    return _json([[item_id, bool(liked)] for item_id, liked in answers])


def unpack_answers(packed: bytes) -> tuple[tuple[str, bool], ...]:
    """What `pack_answers` packed. Raises ValueError where it is something else."""
    return tuple((item_id, liked) for item_id, liked in json.loads(packed))


def pack_fields(fields: Sequence[str | int | None]) -> bytes:
    """The values of `UserFields` in their order, as JSON."""
    return _json(fields)


def unpack_fields(packed: bytes) -> UserFields:
    """What `pack_fields` packed. Raises ValueError where it is something else."""
    return UserFields(*json.loads(packed))


def join_ids(item_ids: Iterable[str]) -> str:
    """Item ids as one text, to be joined to others by `SEPARATOR`.

    Raises:
        ValueError: an id is empty or holds a NUL.
    """
    item_ids = tuple(item_ids)
    for item_id in item_ids:
        if not item_id or SEPARATOR in item_id:
            raise ValueError(f"the item id {item_id!r} is empty or holds a NUL; expected text without")
    return SEPARATOR.join(item_ids)


def count_ids(joined: str | None) -> Mapping[str, int]:
    """How often each id stands in what `join_ids` joined."""
    return dict(Counter(joined.split(SEPARATOR))) if joined else {}


def fingerprint(user_id: str) -> bytes:
    """SHA-256 of a user's id: what is kept of somebody who is to be forgotten, so that no release brings them back."""
    return hashlib.sha256(user_id.encode()).digest()


def without(fingerprints: Set[bytes], rows: Iterable[tuple]) -> Iterable[tuple]:
    """The rows, led by a user's id, of everybody but those forgotten."""
    return rows if not fingerprints else (row for row in rows if fingerprint(row[0]) not in fingerprints)


def count_known(known: Known) -> dict[str, int]:
    """How many there are to be erased of each: events of the history, fields that are known, answers, slates, items counted as shown."""
    fields = (getattr(known.fields, name) for name in UserFields.__slots__)
    return {
        "events": 0,
        "history": len(known.history.item_ids),
        "fields": sum(value is not None for value in fields),
        "answers": len(known.answers),
        "precomputed": int(known.precomputed is not None),
        "slates": 0,
        "shown": sum(known.shown.values()),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
