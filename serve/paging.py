"""Pages after the first: a cursor that knows what the pages before it showed, so that nothing comes twice whatever happened meanwhile.

A cursor is 4 bytes an item that was shown, CRC-32 of its id, behind a version and a checksum: no server keeps anything for it, and any
release of any process can read it. Two ids of one mark in half a million items cost somebody one item in some thousand pages.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable, Sequence

from serve.limits import InvalidRequest

VERSION, HEAD = 1, struct.Struct("<BI")
MOST = 500  # items that a cursor remembers; after them the pages end


def mark(item_id: str) -> int:
    """What a cursor keeps of an item: CRC-32 of its id."""
    return zlib.crc32(item_id.encode("utf-8", "surrogatepass"))


def cursor(before: Sequence[int], item_ids: Iterable[str], *, asked: int) -> str | None:
    """The cursor of the page after one that showed `item_ids`, after pages that showed `before`; None where there is none: fewer were shown
    than were asked for, or more than a cursor remembers."""
    shown = [mark(item_id) for item_id in item_ids]
    told = [*before, *shown]
    if len(shown) < asked or len(told) > MOST:
        return None
    body = struct.pack(f"<{len(told)}I", *told)
    return base64.urlsafe_b64encode(HEAD.pack(VERSION, zlib.crc32(body)) + body).decode().rstrip("=")


def read(text: str) -> tuple[int, ...]:
    """The marks in a cursor, in the order in which their items were shown.

    Raises:
        InvalidRequest: no cursor of ours.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, checksum = HEAD.unpack_from(raw)
    except (ValueError, binascii.Error, struct.error) as error:
        raise InvalidRequest("cursor", "is not one that this server gave.") from error
    body = raw[HEAD.size :]
    if version != VERSION or checksum != zlib.crc32(body) or len(body) % 4 or len(body) > 4 * MOST:
        raise InvalidRequest("cursor", "is not one that this server gave.")
    return struct.unpack(f"<{len(body) // 4}I", body)
