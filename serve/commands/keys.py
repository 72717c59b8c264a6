"""`key`: who may read, write or administer over HTTP. A server that is up follows at once."""

import argparse
import math
import sys

from serve.api.keys import Key, Keys
from serve.commands.telling import add as row
from serve.commands.telling import moment, table, tell
from serve.settings import Settings, SettingsError
from serve.store import wall_clock_ms

DAY_MS = 86_400_000
MOST_DAYS = 36_500


def add(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Make a key. Its secret is all that stands on stdout, so that a script can keep it; nothing keeps it here."""
    days, now = arguments.expires_days, wall_clock_ms()
    if days is not None and not 0 < days <= MOST_DAYS:  # NaN is not
        raise SettingsError(f"--expires-days {days}: expected more than 0 and at most {MOST_DAYS:,}")
    expires_at = None if days is None else now + math.ceil(days * DAY_MS)
    keys = _keys(chosen)
    try:
        secret = keys.add(arguments.name, arguments.role, now_ms=now, expires_at=expires_at)
    except ValueError as error:
        raise SettingsError(f"key add: {error}") from error
    (made,) = (key for key in keys.all() if key.name == arguments.name)
    tell(arguments.json, _told(made, now) | {"secret": secret}, secret)
    until = "for ever" if expires_at is None else f"until {moment(expires_at)} UTC"
    print(f"key {made.name} has the role {made.role} {until}; it is told this once", file=sys.stderr)


def listed(chosen: Settings, arguments: argparse.Namespace) -> None:
    """The keys there are."""
    keys, now = _keys(chosen), wall_clock_ms()
    told = [_told(key, now) for key in keys.all()]
    of = table(f"Keys in {keys.path}, times UTC", "Name", "Role", "Id", "Made", "Expires")
    for one in told:
        until = None if one["expires_at"] is None else moment(one["expires_at"]) + (", has expired" if one["expired"] else "")
        row(of, one["name"], one["role"], one["key_id"], moment(one["made_at"]), until)
    tell(arguments.json, {"keys": told}, of if told else f"{keys.path} holds no key; `key add` makes one")


def revoke(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Have a key open nothing any more."""
    if arguments.operand is None:
        raise SettingsError("key revoke needs the name of a key; `key list` tells those there are")
    _keys(chosen).revoke(arguments.operand)
    tell(arguments.json, {"revoked": arguments.operand}, f"key {arguments.operand} opens nothing any more")


def _keys(chosen: Settings) -> Keys:
    if chosen.access.keys is None:
        raise SettingsError("access.keys is null, so no key is kept; name a file by access.keys=…")
    return Keys(chosen.access.keys)


def _told(key: Key, now: int) -> dict[str, object]:
    return {
        "name": key.name, "role": key.role, "key_id": key.key_id, "made_at": key.made_at, "expires_at": key.expires_at,
        "expired": not key.valid(now),
    }  # fmt: skip
