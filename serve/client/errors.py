"""What can go wrong with a call: one family, each with what the server said or why nothing came. No key is in any of them, nor in a frame
that they come from: they are raised without a cause, for the frames of a cause may hold the headers that were sent."""


class TowersError(Exception):
    """A call that was not answered as it should be.

    `status` is that of the answer, None where there was none; `field` and `detail` are the server's words, or ours where there were none;
    `request_id` is the `X-Request-ID` by which both sides log the call; `attempts` says how often it was sent.
    """

    def __init__(
        self, detail: str, *, request_id: str, attempts: int = 1, status: int | None = None, field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.detail, self.request_id, self.attempts = detail, request_id, attempts
        self.status, self.field, self.retry_after_s = status, field, retry_after_s

    def __str__(self) -> str:
        status = "" if self.status is None else f"{self.status}: "
        return f"{status}{self.detail} (request {self.request_id}, attempt {self.attempts})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, field={self.field!r})"


class Refused(TowersError):
    """The server said no, by a status of 400 or more; `retry_after_s` is how long it asks to be left alone."""


class Unreachable(TowersError):
    """There was no connection, or it broke before the answer was whole."""


class TooLate(TowersError):
    """The deadline passed. What was asked may have been done all the same."""


class Misread(TowersError):
    """An answer came that is not what was promised: fields are missing, by name, or it is not JSON at all."""
