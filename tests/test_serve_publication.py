"""The link beside `current`: who challenges, and how that ends."""

import os
from pathlib import Path

import pytest

from serve import publication
from serve.manifest import ReleaseError
from serve.publication import challenge, challenger, current, drop_challenger, line, promote, rollback, shelve
from tests.releases import write_release


@pytest.fixture
def root(tmp_path) -> Path:
    """Releases v1, v2 and v3, of which v1 was current and v2 is."""
    for version in ("v1", "v2", "v3"):
        shelve(write_release(tmp_path / f".staging-{version}", version=version), tmp_path, version)
    promote(tmp_path, "v1")
    promote(tmp_path, "v2")
    return tmp_path


def test_what_is_shelved_is_there_and_not_served(root):
    assert publication.versions(root) == ("v1", "v2", "v3") and current(root) == "v2" and challenger(root) is None
    assert line(root) == ("v2", "v1")
    with pytest.raises(ReleaseError, match="is what the link is called"):
        shelve(root / "v3", root, "challenger")


def test_a_challenger_stands_beside_the_current_release_until_it_is_dropped(root):
    challenge(root, "v1")
    challenge(root, "v3")
    assert (challenger(root), current(root), line(root)) == ("v3", "v2", ("v2", "v1"))
    assert publication.versions(root) == ("v1", "v2", "v3")
    assert drop_challenger(root) == "v3" and drop_challenger(root) is None and challenger(root) is None
    assert (root / "v3").is_dir() and not os.path.lexists(root / "challenger")


def test_promoted_or_gone_back_to_it_challenges_no_more(root):
    challenge(root, "v3")
    promote(root, "v3")
    assert (current(root), challenger(root)) == ("v3", None) and not os.path.lexists(root / "challenger")
    challenge(root, "v2")
    assert rollback(root) == "v2" and challenger(root) is None and not os.path.lexists(root / "challenger")
    challenge(root, "v3")
    promote(root, "v1")
    assert challenger(root) == "v3"  # another one was promoted


def test_what_cannot_challenge_leaves_the_one_that_does(root):
    challenge(root, "v3")
    (root / "v1" / "items.f16").write_bytes(b"")
    for version, why in (("v1", "items.f16"), ("v2", "which is current"), ("v9", "missing"), ("../v1", "no name")):
        with pytest.raises(ReleaseError, match=why):
            challenge(root, version)
    assert challenger(root) == "v3"
    (root / "current").unlink()
    with pytest.raises(ReleaseError, match="nothing was published"):
        challenge(root, "v3")


def test_a_crash_between_promotion_and_clearing_leaves_no_challenger(root):
    challenge(root, "v3")
    publication._point(root, "current", "v3")  # what a promotion that was killed there has done
    assert challenger(root) is None and drop_challenger(root) is None and not os.path.lexists(root / "challenger")
