"""What may be asked and told: the same bounds for a Python program and over HTTP, and one sentence for whatever is beyond them."""

from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from serve.contract import CONTEXTS, DIVERSITIES, MAX_COUNT, MAX_ID_BYTES, Request

M = TypeVar("M", bound=BaseModel)
LATEST_MS = 253_402_300_799_000  # the end of the year 9999


class InvalidRequest(ValueError):
    """A field of the request cannot be. `field` is its name; the message is a sentence that starts with it."""

    def __init__(self, name: str, sentence: str):
        super().__init__(f"{name} {sentence}")
        self.field = name


def check_count(count: int) -> None:
    """Raises InvalidRequest unless a slate of `count` items can be asked for."""
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("count", f"must be a whole number from 1 to {MAX_COUNT}.")


def check_id(name: str, value: str) -> None:
    """Raises InvalidRequest unless `value` can be the id in field `name`."""
    if not value or "\0" in value:
        raise InvalidRequest(name, "is empty; expected an id." if not value else "holds a NUL character; expected an id.")
    if len(value) > MAX_ID_BYTES or len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise InvalidRequest(name, f"has {len(value):,} characters; expected at most {MAX_ID_BYTES} bytes of UTF-8.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidRequest(name, "holds half of a character (a lone surrogate); expected UTF-8.")


def one_or_many(body: bytes, *, most: int, what: str) -> list[tuple[str, object]]:
    """What a JSON text tells of one thing or of a list of them, each with the beginning of its fields' names ("[3]." in a list).

    Raises:
        InvalidRequest: it is not JSON, or holds none or more than `most` of `what` it tells.
    """
    try:
        read = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest("body", f"is not JSON: {error}.") from error
    told = [(f"[{number}].", one) for number, one in enumerate(read)] if isinstance(read, list) else [("", read)]
    if not 1 <= len(told) <= most:
        raise InvalidRequest("body", f"holds {len(told):,} {what}; expected 1 to {most:,}.")
    return told


def validated(kind: type[M], raw: object, within: str, what: str) -> M:
    """`raw` as a `kind`; `within` says where it stands, `what` what it should be.

    Raises:
        InvalidRequest: it is no object, or the first field that cannot be.
    """
    if not isinstance(raw, dict):
        raise InvalidRequest(within.rstrip(".") or "body", f"is not an object with the fields of {what}.")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise refusal(error, within=within) from error


def check(request: Request) -> None:
    """Raises InvalidRequest unless every field of the request can be answered."""
    check_id("user_id", request.user_id)
    check_count(request.count)
    for name, value in (("device", request.device), ("region", request.region)):
        if value is not None:
            check_id(name, value)
    if request.context not in CONTEXTS:
        raise InvalidRequest("context", f"must be one of {', '.join(CONTEXTS)}.")
    if request.diversity not in DIVERSITIES:
        raise InvalidRequest("diversity", f"must be one of {', '.join(DIVERSITIES)}.")
    if request.item_id is not None:
        check_id("item_id", request.item_id)
    if (request.context == "item") != (request.item_id is not None):
        raise InvalidRequest("item_id", "and context=item belong together: the item the user is looking at.")
    if not 0 <= request.mmr_lambda <= 1:  # NaN is not
        raise InvalidRequest("lambda", "must be a number from 0 (varied) to 1 (best first).")
    if not 0 <= request.timestamp <= LATEST_MS:
        raise InvalidRequest("time", "must be milliseconds since 1970 UTC, before the year 10000.")


def refusal(error: ValidationError | RequestValidationError, *, within: str = "") -> InvalidRequest:
    """The first of pydantic's complaints as one sentence that starts with the field's name; `within` says where it stands."""
    found = error.errors()[0]
    name = within + ".".join(str(part) for part in found["loc"] if part not in ("query", "path", "header"))
    match found["type"]:
        case "missing":
            return InvalidRequest(name, "is missing.")
        case "extra_forbidden":
            return InvalidRequest(name, "is not known here; look for a typing error or leave it out.")
        case _:
            message = found["msg"].removeprefix("Input ").removeprefix("Value error, ")
            return InvalidRequest(name, f"{message[:1].lower()}{message[1:]}.")
