"""`release`: which release is served, and another one in its place. A server that is up follows within a second."""

import argparse
from pathlib import Path

from serve import publication
from serve.commands.parts import engine
from serve.commands.telling import add, safe, table, tell
from serve.manifest import Manifest, ReleaseError
from serve.settings import Settings, SettingsError

KILO = 1000


def listed(chosen: Settings, arguments: argparse.Namespace) -> None:
    """The releases there are, newest last, and which of them are served."""
    root = _root(chosen)
    told = _document(root)
    of = table(f"Releases in {root}, times UTC", "Release", "Served", "Made", "Items", "Backend", "Size", numbers=("Items", "Size"))
    for one in told["releases"]:
        served = one["served"] or ("rollback" if one["version"] == told["rollback"] else "")
        made = (one["created_at"] or "").removesuffix("+00:00").replace("T", " ")
        items = None if one["items"] is None else f"{one['items']:,}"
        add(of, one["version"], served, made or None, items, one["backend"], _size(one["bytes"]))
    broken = [f"{one['version']}: {one['error']}" for one in told["releases"] if one["error"]]
    runs = table(None, "Release", "Made from the runs")
    for one in told["releases"]:
        add(runs, one["version"], "\n".join(f"{kind} {run}" for kind, run in (one["runs"] or {}).items()) or None)
    gone = [f"current is {told['current']}, which is not there; release rollback, or promote another"] * (
        told["current"] is not None and told["current"] not in publication.versions(root)
    )
    none = ["none is current: release promote makes one so"] if told["current"] is None else []
    tell(arguments.json, told, of, runs, *broken, *gone, *none)


def _document(root: Path) -> dict[str, object]:
    versions = publication.versions(root)
    published = (root / publication.CURRENT).is_symlink()
    if not versions and not published:
        publication.current(root)  # says that nothing was published, and what to do
    line = publication.line(root) if published else ()
    current, before = (*line, None, None)[:2]
    challenger = publication.challenger(root) if published else None
    served = {current: "current", challenger: "challenger"}
    releases = [_one(root / version) | {"served": served.get(version)} for version in versions]
    releases.sort(key=lambda one: (one["created_at"] or "", one["version"]))
    return {"current": current, "challenger": challenger, "rollback": before, "releases": releases}


def _one(folder: Path) -> dict[str, object]:
    told: dict[str, object] = dict.fromkeys(("created_at", "items", "backend", "runs", "error"))
    try:
        manifest = Manifest.read(folder)
        told |= {"created_at": manifest.created_at, "items": manifest.item_count, "backend": manifest.backend, "runs": dict(manifest.runs)}
    except ReleaseError as error:
        told["error"] = str(error)
    return {"version": folder.name, **told, "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())}


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < KILO:
            return f"{count:.0f} {unit}" if unit == "B" or count >= KILO / 10 else f"{count:.1f} {unit}"
        count /= KILO
    return f"{count:,.1f} GB"


def check(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Read every file of the current release, and have its models asked what they were asked at export."""
    root = _root(chosen)
    version = publication.current(root)
    files = len(publication.verify(root / version).files)
    with engine(chosen) as made, made.fleet.champion() as served:
        if (found := served.recommender.release.manifest.version) != version:
            why = "; ".join(one.error for one in made.fleet.status().arms if one.error)
            raise ReleaseError(root / version, "golden.npz", f"is not answered as at export, {found} stands in for it ({why})")
    said = f"release {version} is whole and answers as it did at export"
    tell(arguments.json, {"version": version, "whole": True, "files": files}, said)


def rollback(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Serve what was current before the current release came."""
    root = _root(chosen)
    before = publication.current_name(root)
    _moved(arguments, publication.rollback(root), before)


def promote(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Serve another release."""
    root = _root(chosen)
    version = _version(arguments, root)
    before = publication.current_name(root)
    publication.promote(root, version)
    _moved(arguments, version, before)


def challenge(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Serve another release beside the current one, to the challenger's share of the users."""
    root = _root(chosen)
    version = _version(arguments, root)
    if publication.current(root) == version:
        raise SettingsError(f"release {version} is current and cannot challenge itself; challenge with another")
    publication.challenge(root, version)
    share = chosen.arms.shares.get("challenger", 0.0)
    said = f"challenger is now {version}, of {share:.0%} of the users"
    tell(arguments.json, {"challenger": version, "share": share}, said)


def withdraw(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Serve the current release alone."""
    version = publication.drop_challenger(_root(chosen))
    tell(arguments.json, {"withdrawn": version}, "there was no challenger" if version is None else f"no longer challenger: {version}")


def _moved(arguments: argparse.Namespace, version: str, before: str | None) -> None:
    tell(arguments.json, {"current": version, "before": before}, f"current is now {version}")


def _root(chosen: Settings) -> Path:
    if not chosen.releases.is_dir():
        raise ReleaseError(chosen.releases, "the folder", "is not there", "run `python export.py` first, or give another by releases=…")
    return chosen.releases


def _version(arguments: argparse.Namespace, root: Path) -> str:
    """The release that was named, by a word or by --version: one that is there."""
    named = {arguments.operand, arguments.version} - {None}
    if len(named) != 1:
        raise SettingsError(f"release {arguments.action} needs one release by its name, like `release {arguments.action} V`")
    version = named.pop()
    if not publication.VERSION.fullmatch(version):
        raise SettingsError(f"{version!r} is no name of a release: up to 100 letters, digits, dots, dashes and underscores, no dot first")
    if version not in (there := publication.versions(root)):
        raise SettingsError(f"there is no release {safe(version)} in {root}; there are {', '.join(there) or 'none'}")
    return version
