"""Bodies of requests, read by ourselves: who may not write is sent away before a byte is read, what is too large before all of it is."""

from fastapi import Request as HttpRequest


class TooLarge(ValueError):
    """More bytes than are read."""


class NotJson(ValueError):
    """A body of another kind; a page elsewhere could have a browser send it without asking (a form), and JSON it could not."""


async def body(request: HttpRequest, most: int) -> bytes:
    """The bytes sent, `most` at most.

    Raises:
        NotJson: the Content-Type is not application/json.
        TooLarge: there are more.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise NotJson(f"Content-Type is {kind!r}; expected application/json.")
    told = request.headers.get("Content-Length", "")
    if told.isdecimal() and int(told) > most:
        raise TooLarge(f"body has {int(told):,} bytes; expected at most {most:,}: send less at once.")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > most:
            raise TooLarge(f"body is larger than {most:,} bytes; send less at once.")
    return bytes(read)
