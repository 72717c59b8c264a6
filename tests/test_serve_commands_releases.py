"""Releases and keys by command: what is listed is what is there, and what is moved is what was named."""

import json
import os
import time

import pytest

from serve import command_line
from serve.api.keys import ROLES, Keys
from tests.doors import door as opened
from tests.doors import releases


@pytest.fixture
def root(tmp_path):
    return releases(tmp_path, "v1", "v2")


@pytest.fixture
def door(root, monkeypatch, capsys):
    with opened(root, monkeypatch, capsys) as run:
        yield run


def told(door, *words):
    code, out, _ = door(*words, "--json")
    assert code == 0
    return json.loads(out, parse_constant=pytest.fail)


def test_a_list_says_of_each_release_what_it_is_and_how_it_is_served(door, root):
    listed = told(door, "release", "list")
    assert (listed["current"], listed["challenger"], listed["rollback"]) == ("v2", None, "v1")
    by_version = {one["version"]: one for one in listed["releases"]}
    assert by_version["v1"]["served"] is None and by_version["v2"]["served"] == "current"
    one = by_version["v2"]
    assert (one["items"], one["backend"], one["runs"], one["error"]) == (30, "python", {"retrieval": "r1", "ranker": "r2"}, None)
    assert one["bytes"] == sum(path.stat().st_size for path in (root / "releases" / "v2").rglob("*") if path.is_file())
    _, table, _ = door("release", "list")
    assert "retrieval r1" in table and "rollback" in table and all(len(line) <= 80 for line in table.split("\n")[2:])


def test_a_damaged_manifest_is_listed_as_such_and_hides_nothing(door, root):
    (root / "releases" / "v1" / "manifest.json").write_text("{")
    listed = told(door, "release", "list")
    assert ["manifest.json is cut short" in (one["error"] or "") for one in listed["releases"]] == [True, False]
    assert "v1: release" in door("release", "list")[1]


def test_where_none_is_current_the_list_says_so_and_promote_makes_one(door, root):
    os.unlink(root / "releases" / "current")
    assert told(door, "release", "list")["current"] is None
    assert "none is current" in door("release", "list")[1]
    assert told(door, "release", "promote", "v1") == {"current": "v1", "before": None}


def test_a_release_is_promoted_by_a_word_wherever_it_stands_and_by_a_flag(door):
    assert told(door, "release", "promote", "v1") == {"current": "v1", "before": "v2"}
    assert door("release", "promote", "--json", "v2")[0] == 0
    assert told(door, "release", "promote", "--version", "v1")["current"] == "v1"
    assert told(door, "release", "promote", "log=json", "v2")["current"] == "v2"
    assert told(door, "release", "rollback")["current"] == "v1"


def test_a_challenger_is_named_listed_and_withdrawn(door):
    assert told(door, "release", "challenge", "v1") == {"challenger": "v1", "share": 0.1}
    assert told(door, "release", "list")["challenger"] == "v1"
    assert told(door, "release", "withdraw") == {"withdrawn": "v1"}
    assert told(door, "release", "withdraw") == {"withdrawn": None}
    assert told(door, "release", "list")["challenger"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("promote",), "needs one release"),
        (("promote", "v1", "v2"), "unrecognized arguments: v2"),
        (("promote", "v1", "--version", "v2"), "needs one release"),
        (("promote", "../x"), "'../x' is no name of a release"),
        (("challenge", "--version", "../../etc"), "'../../etc' is no name of a release"),
        (("promote", "v9"), "there is no release v9"),
        (("challenge", "v2"), "cannot challenge itself"),
        (("list", "v1"), "unrecognized arguments: v1"),
    ],
)
def test_what_is_no_release_is_refused_by_name_and_nothing_moves(door, root, words, said):
    code, out, err = door("release", *words)
    assert (code, out, said in err, err.count("\n")) == (2, "", True, 1)
    assert os.readlink(root / "releases" / "current") == "v2"


def test_a_secret_is_told_once_and_opens_until_it_is_revoked(door, root):
    at = f"access.keys={root / 'keys.json'}"
    code, secret, said = door("key", "add", "--name", "shop", "--role", "writer", "--expires-days", "2", at)
    assert (code, secret.count("\n")) == (0, 1) and "told this once" in said
    now = time.time_ns() // 1_000_000
    keys, secret = Keys(root / "keys.json"), secret.strip()
    assert keys.who(secret, now).role == "writer" and keys.who(secret, now + 2 * 86_400_000 + 1) is None
    listed = told(door, "key", "list", at)["keys"]
    assert [(one["name"], one["role"], one["expired"]) for one in listed] == [("shop", "writer", False)]
    for out in (door("key", "list", at)[1], json.dumps(listed), (root / "keys.json").read_text()):
        assert secret not in out and secret.rsplit("_", 1)[-1] not in out
    assert told(door, "key", "revoke", "shop", at) == {"revoked": "shop"}
    assert keys.who(secret, now) is None and told(door, "key", "list", at) == {"keys": []}
    assert told(door, "key", "add", "--name", "other", "--role", "reader", at).keys() >= {"secret", "key_id", "expires_at"}


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("add", "--name", "../x", "--role", "reader"), "name '../x'"),
        (2, ("add", "--name", "x", "--role", "king"), "'king'"),
        (2, ("add", "--name", "x", "--role", "reader", "--expires-days", "nan"), "--expires-days nan"),
        (2, ("add", "--name", "x", "--role", "reader", "access.keys=null"), "access.keys is null"),
        (2, ("revoke",), "needs the name"),
        (2, ("revoke", "nobody"), "no key 'nobody'"),
        (1, ("list", "access.keys=/dev/null"), "/dev/null is no file of keys"),
    ],
)
def test_what_is_no_key_is_one_line(door, root, code, words, said):
    at = () if any("access.keys" in word for word in words) else (f"access.keys={root / 'keys.json'}",)
    got, out, err = door("key", *words, *at)
    assert (got, out, said in err, err.count("\n")) == (code, "", True, 1)


def test_the_roles_of_the_command_line_are_those_of_the_keys():
    assert command_line.ROLES == ROLES
