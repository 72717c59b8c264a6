"""Which release is served: published by a rename, taken back by moving one link.

    <root>/<version>/                the releases; what they hold is in `Release`
    <root>/current -> <version>      what is served; moves last and in one step
    <root>/challenger -> <version>   what is served beside it to some users, where there is one
    <root>/promotions.json           {version: the version that was current before it}

A rollback goes to the version that was current before, a second rollback to the one before that: never forth again. What was rolled
back stays on disk, and `promote` makes it current again. What is published next has before it the version that was rolled back to.
"""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.manifest import MANIFEST, ReleaseError, flush, verify, write_whole


class NoSuchRelease(ReleaseError):
    """Nothing of this name was published here."""


VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CURRENT, CHALLENGER, PROMOTIONS = "current", "challenger", "promotions.json"


def publish(staging: Path, root: Path, version: str) -> Path:
    """Make a sealed folder a release of `root` and then the current one; its new path. `staging` must lie on the file system of `root`.

    A crash on the way leaves what was current current; a release that was renamed but not promoted lies there and can be (`promote`).

    Raises:
        ReleaseError: it is not whole, sealed under another version, or the name is taken or no name. What was current stays so.
    """
    path = shelve(staging, root, version)
    with _alone(Path(root)):
        _promote(Path(root), version)
    return path


def shelve(staging: Path, root: Path, version: str) -> Path:
    """Make a sealed folder a release of `root` that nobody is served from yet; its new path. Raises as `publish`."""
    staging, root = Path(staging), Path(root)
    path = _named(root, version)
    if version in (CURRENT, CHALLENGER):
        raise ReleaseError(path, version, "is what the link is called", "choose another version")
    sealed = verify(staging).version
    if sealed != version:
        raise ReleaseError(path, MANIFEST, f"in {staging} was sealed as {sealed!r}", "publish it under that name or seal it again")
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        if os.path.lexists(path):
            raise ReleaseError(path, version, "exists already and is never overwritten", "choose another version, or promote this one")
        try:
            staging.rename(path)
        except OSError as error:
            remedy = f"stage in a folder of {root}, such as {root}/.staging-{version}"
            raise ReleaseError(path, version, f"could not take the place of {staging} ({error})", remedy) from error
        path.chmod(0o755)  # a folder from tempfile is closed to all others, and Triton may run as another user
        flush(root)
    return path


def promote(root: Path, version: str) -> None:
    """Make a published release current, whole as it must be. One that lies behind the current one is gone back to, as if by rollbacks.
    The challenger, promoted, challenges no more.

    Raises:
        ReleaseError: it is not there or not whole. What was current stays so.
    """
    root = Path(root)
    verify(_named(root, version))
    with _alone(root):
        _promote(root, version)


def rollback(root: Path) -> str:
    """Make current the version that was current before the current one came; its name.

    Raises:
        ReleaseError: there is none before it, or it is gone or not whole any more. What was current stays so.
    """
    root = Path(root)
    with _alone(root):
        now = _pointed(root)
        before = _predecessors(root).get(now)
        if before is None:
            raise ReleaseError(root, CURRENT, f"is {now!r} and nothing was current before it", "publish another release")
        verify(_named(root, before))
        _serve(root, before)
    return before


def challenge(root: Path, version: str) -> None:
    """Have a published release served beside the current one, in place of an earlier challenger.

    Raises:
        ReleaseError: it is not there or not whole, it is the current one, or there is none to challenge. What challenged goes on.
    """
    root = Path(root)
    verify(_named(root, version))
    with _alone(root):
        if _pointed(root) == version:
            raise ReleaseError(root, CHALLENGER, f"cannot be {version!r}, which is current", "challenge with another release")
        _point(root, CHALLENGER, version)


def challenger(root: Path) -> str | None:
    """The version that is served beside the current one, or None. Whether it is whole is found out by opening it."""
    root = Path(root)
    link = root / CHALLENGER
    try:
        version = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReleaseError(root, CHALLENGER, f"is no link ({error.strerror})", "remove it, and challenge again") from error
    return None if version == _pointed(root) else version  # a crash while it was promoted may have left the link


def drop_challenger(root: Path) -> str | None:
    """Serve the current release alone; the version that challenged it, None where nothing did. The release stays on disk."""
    root = Path(root)
    with _alone(root):
        version = challenger(root)
        (root / CHALLENGER).unlink(missing_ok=True)
        flush(root)
    return version


def line(root: Path) -> tuple[str, ...]:
    """The version that `current` names, then the one that was current before it, and so on: whether or not they are whole, or there.

    Raises:
        ReleaseError: nothing was published in `root`, or promotions.json cannot be read.
    """
    root = Path(root)
    before, found = _predecessors(root), [_pointed(root)]
    while (earlier := before.get(found[-1])) is not None:
        found.append(earlier)
    return tuple(found)


def current_name(root: Path) -> str | None:
    """The version that `current` names, whether or not it is there; None where nothing was published."""
    return os.readlink(Path(root) / CURRENT) if (Path(root) / CURRENT).is_symlink() else None


def current(root: Path) -> str:
    """The version that is served.

    Raises:
        ReleaseError: nothing was published in `root`, or what was has been removed.
    """
    root = Path(root)
    version = _pointed(root)
    if not (_named(root, version) / MANIFEST).is_file():
        raise ReleaseError(
            root, CURRENT, f"is {version!r}, which is not there any more", "publish another, or `python -m serve release rollback`"
        )
    return version


def published(root: Path, version: str) -> Path:
    """The folder of a release, by a name that anybody may have sent.

    Raises:
        NoSuchRelease: there is none, whole or not, of this name.
        ReleaseError: it is no name of a release; no path was made of it.
    """
    path = _named(Path(root), version)
    if version not in versions(root):
        raise NoSuchRelease(version, MANIFEST, "is not there: no release of this name was published here", "list what was")
    return path


def versions(root: Path) -> tuple[str, ...]:
    """Every release in `root`, by name; not those still being staged."""
    return tuple(
        sorted(
            path.parent.name
            for path in Path(root).glob(f"*/{MANIFEST}")
            if VERSION.fullmatch(path.parent.name) and not path.parent.is_symlink()
        )
    )


def _promote(root: Path, version: str) -> None:
    """Remember what was current, then point. Remembering first: a crash between leaves a line about a version that is not current."""
    before = _predecessors(root)
    now = _pointed(root) if (root / CURRENT).is_symlink() else None
    behind = now
    while behind is not None and behind != version:
        behind = before.get(behind)
    if behind is None:  # not among those behind the current one, so the line of predecessors stays free of rings
        write_whole(root / PROMOTIONS, json.dumps(before | {version: now}, indent=1))
    _serve(root, version)


def _serve(root: Path, version: str) -> None:
    _point(root, CURRENT, version)
    if (root / CHALLENGER).is_symlink() and os.readlink(root / CHALLENGER) == version:
        (root / CHALLENGER).unlink()
        flush(root)


def _point(root: Path, link: str, version: str) -> None:
    passing = root / f".{link}-{uuid.uuid4().hex}"
    passing.symlink_to(version, target_is_directory=True)
    passing.replace(root / link)
    flush(root)


def _pointed(root: Path) -> str:
    if not (root / CURRENT).is_symlink():
        raise ReleaseError(root, CURRENT, "is not there: nothing was published", "run `python export.py` first")
    return os.readlink(root / CURRENT)


def _predecessors(root: Path) -> dict[str, str | None]:
    try:
        return json.loads((root / PROMOTIONS).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ReleaseError(
            root, PROMOTIONS, f"is cut short or altered ({error})", f"remove it: `{CURRENT}` stays, its predecessors are forgotten"
        ) from error


def _named(root: Path, version: str) -> Path:
    if not VERSION.fullmatch(version):
        raise ReleaseError(
            root, version, "is no name of a release", "use up to 100 letters, digits, dots, dashes and underscores, no dot first"
        )
    return root / version


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Whoever publishes or rolls back in `root` does so alone; the lock goes with the process."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
