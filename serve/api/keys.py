"""API keys: who may read, write or administer. Only SHA-256 of a key is kept, and the file is read again whenever it changes.

A key is 256 random bits, so one round of SHA-256 keeps it: there is nothing to guess that a slow hash would protect.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.manifest import write_whole

logger = logging.getLogger(__name__)
ROLES = ("reader", "writer", "admin")
"""Each may what those before it may."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PREFIX = "tw_"


class KeysError(RuntimeError):
    """The file of keys cannot be read or changed. The message names it; nobody is let in by what it said before."""


class UnknownKey(LookupError):
    """There is no key of this name."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: never the key. Times are ms UTC; `expires_at` None is never."""

    name: str
    role: str
    key_id: str
    made_at: int
    expires_at: int | None
    digest: str

    def valid(self, now_ms: int) -> bool:
        """Whether it still opens anything at `now_ms`."""
        return self.expires_at is None or now_ms < self.expires_at

    def may(self, role: str) -> bool:
        """Whether its role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """The keys in one JSON file; a file that is not there holds none. Safe to share between threads."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, ...] | None = None
        self._of: dict[str, Key] = {}

    def who(self, token: str, now_ms: int) -> Key | None:
        """Whose key this is; None where it is nobody's, was revoked or has expired.

        Raises:
            KeysError: the file is there and cannot be read.
        """
        key = self._read().get(hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest())
        return key if key is not None and key.valid(now_ms) else None

    def all(self) -> tuple[Key, ...]:
        """Every key, by name. Raises KeysError."""
        return tuple(sorted(self._read().values(), key=lambda key: key.name))

    def add(self, name: str, role: str, *, now_ms: int, expires_at: int | None = None) -> str:
        """Make a key and return it: it is told this once.

        Raises:
            ValueError: a name that is none or is taken, a role that is none, or an end before now.
            KeysError: the file cannot be read or written.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: expected up to 100 letters, digits, dots, dashes and underscores, no dot first")
        if role not in ROLES:
            raise ValueError(f"role {role!r}: expected one of {', '.join(ROLES)}")
        if expires_at is not None and expires_at <= now_ms:
            raise ValueError("a key that has expired before it is made opens nothing; expected an end in the future")
        with self._alone():
            keys = self.all()
            if any(key.name == name for key in keys):
                raise ValueError(f"name {name!r} is taken; revoke that key first, or choose another name")
            key_id = secrets.token_hex(4)
            token = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
            self._write((*keys, Key(name, role, key_id, now_ms, expires_at, hashlib.sha256(token.encode()).hexdigest())))
        return token

    def revoke(self, name: str) -> None:
        """Have a key open nothing any more, in every server that reads this file.

        Raises:
            UnknownKey: no key has this name.
            KeysError: the file cannot be read or written.
        """
        with self._alone():
            left = tuple(key for key in self.all() if key.name != name)
            if len(left) == len(self._of):
                raise UnknownKey(f"{self.path} has no key {name!r}; `python -m serve key list` tells those it has")
            self._write(left)

    def _read(self) -> dict[str, Key]:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._stamp, self._of = None, {}
            return self._of
        except OSError as error:
            raise KeysError(f"{self.path} cannot be read ({error.strerror})") from error
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            try:
                told = [Key(**one) for one in json.loads(self.path.read_bytes())["keys"]]
                if odd := [key.role for key in told if key.role not in ROLES]:
                    raise ValueError(f"a key of the role {odd[0]!r}")
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._stamp = None
                raise KeysError(
                    f"{self.path} is no file of keys ({type(error).__name__}); restore it, or remove it and make new ones"
                ) from error
            self._stamp, self._of = stamp, {key.digest: key for key in told}
        return self._of

    def _write(self, keys: tuple[Key, ...]) -> None:
        try:
            write_whole(self.path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=1))
            self.path.chmod(0o600)
        except OSError as error:
            raise KeysError(f"{self.path} cannot be written ({error.strerror})") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
