"""The seal of a release: what manifest.json says, and that every file is still what it was when that was written."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from data.features import NUMBERS, PROFILE
from serve.contract import ORDERED_BY

MANIFEST = "manifest.json"
FILES = (
    "items.f16", "index.faiss", "catalogue.parquet", "vocabulary.json", "recipe.npz", "clock.npz",
    "histories.parquet", "users.parquet", "quiz.npz", "golden.npz", "golden.json",
    "tags.u8", "content.f16", "content.faiss", "trends.parquet", "day_parts.parquet", "exposure.npy", "trends.json",
)  # fmt: skip
MODELS = ("user_tower", "item_tower", "ranker")
MODEL_FILES = {"python": ("config.pbtxt", "1/model.pt", "1/model.py"), "pytorch": ("config.pbtxt", "1/model.pt")}
EXPORT_AGAIN = "export it again, or go back by `python -m serve release rollback`"
TRAIN_AGAIN = "train its ranker again and export it, or go back by `python -m serve release rollback`"


class ReleaseError(Exception):
    """A release cannot be used, published or taken back. The message names the release, the file in it and the remedy."""

    def __init__(self, release: Path | str, file: str, what: str, remedy: str = EXPORT_AGAIN) -> None:
        super().__init__(f"release {release}: {file} {what}; {remedy}")
        self.release, self.file = str(release), file

    @property
    def plain(self) -> str:
        """The message for whoever asks from afar: it names the release and not where it lies."""
        return str(self).replace(self.release, Path(self.release).name) + "."


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says. `liked_from` is −∞ (null in the file) where every rating says liked; `files` maps paths to SHA-256.

    `numbers` and `profile` (its columns after the shares of the genres) are what the ranker is told, `heads` what it answers,
    and `learned` those of them that its log had labels for; `relevance_head` is the place of `ORDERED_BY` among them.
    """

    version: str
    created_at: str
    runs: Mapping[str, str]
    width: int
    history_length: int
    liked_from: float
    backend: str
    item_count: int
    feature_count: int
    numbers: tuple[str, ...]
    profile: tuple[str, ...]
    heads: tuple[str, ...]
    learned: tuple[str, ...]
    relevance_head: int
    files: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and check the manifest itself: its own checksum, its keys and what they may be.

        Raises:
            ReleaseError: it is missing, cut short, altered, or of another version of this program.
        """
        try:
            told = json.loads((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise ReleaseError(folder, MANIFEST, "is missing: no release, or one that was never sealed") from error
        except ValueError as error:
            raise ReleaseError(folder, MANIFEST, f"is cut short or altered ({error})") from error
        if not isinstance(told, dict) or told.pop("checksum", None) != _digest(told):
            raise ReleaseError(folder, MANIFEST, "does not match its own checksum: altered since it was sealed")
        if other := _other(told):
            raise ReleaseError(folder, MANIFEST, other, TRAIN_AGAIN)
        if wrong := _wrong(told):
            raise ReleaseError(folder, MANIFEST, wrong)
        told |= {"liked_from": -math.inf if told["liked_from"] is None else float(told["liked_from"])}
        return cls(**told | {name: tuple(told[name]) for name in ("numbers", "profile", "heads", "learned")})


KINDS = {
    "version": str, "created_at": str, "runs": dict, "width": int, "history_length": int, "liked_from": int | float | None, "backend": str,
    "item_count": int, "feature_count": int, "numbers": list, "profile": list, "heads": list, "learned": list,
    "relevance_head": int, "files": dict,
}  # fmt: skip


def _other(told: Mapping) -> str | None:
    """What a whole manifest says of a ranker that this version cannot ask, or None: it is told otherwise, or answers otherwise."""
    for name, computed in (("numbers", NUMBERS), ("profile", PROFILE)):
        if name in told and told[name] != list(computed):
            return f"was made for the {name} {told[name]}, this version computes {list(computed)}"
    heads, place = told.get("heads"), told.get("relevance_head")
    if isinstance(heads, list) and ORDERED_BY not in heads:
        return f"has a ranker of the heads {heads}, this version orders by {ORDERED_BY!r}"
    if isinstance(heads, list) and place != heads.index(ORDERED_BY):
        return f"says relevance_head is {place!r} of the heads {heads}, this version orders by {ORDERED_BY!r}"
    return None


def _wrong(told: Mapping) -> str | None:
    """The first thing about a manifest that cannot be, or None."""
    for name in (field.name for field in fields(Manifest)):
        if name not in told:
            return f"lacks {name!r}"
        if isinstance(told[name], bool) or not isinstance(told[name], KINDS[name]):
            return f"says {name} is {told[name]!r}"
    if set(told) - set(KINDS):
        return f"has a key {min(set(told) - set(KINDS))!r} that this version does not know"
    for name in ("width", "history_length", "item_count"):
        if told[name] < 1:
            return f"says {name} is {told[name]}, expected at least 1"
    if told["backend"] not in MODEL_FILES:
        return f"says backend is {told['backend']!r}, expected one of {', '.join(MODEL_FILES)}"
    needed = (*FILES, *(f"triton/{model}/{file}" for model in MODELS for file in MODEL_FILES[told["backend"]]))
    missing = [file for file in needed if file not in told["files"]]
    if missing:
        return f"lists no {missing[0]}"
    outside = [file for file in told["files"] if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    return f"lists {outside[0]!r}, which lies outside" if outside else None


def seal(folder: Path, manifest: Mapping) -> None:
    """Write manifest.json, last and flushed after everything it vouches for, with the checksum of every file in `folder`.

    `manifest` holds the keys of `Manifest`; `files` is found out here, `created_at` is now unless told. Sealing again replaces the seal.

    Raises:
        ReleaseError: a key or a file is missing or wrong, or a link stands for a file. No manifest is left.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    told = {"created_at": datetime.now(UTC).isoformat(timespec="seconds")} | dict(manifest)
    if told.get("liked_from") == -math.inf:
        told["liked_from"] = None  # JSON has no word for it
    told["files"] = {str(path.relative_to(folder)): _sum_of(folder, path) for path in _contents(folder)}
    if wrong := _other(told) or _wrong(told):
        raise ReleaseError(folder, MANIFEST, f"cannot be written: it {wrong}", "mend the export")
    for path in _contents(folder):
        flush(path)
    for path in sorted({parent for file in _contents(folder) for parent in file.parents if parent.is_relative_to(folder)}):
        flush(path)
    write_whole(folder / MANIFEST, json.dumps(told | {"checksum": _digest(told)}, indent=1))


def verify(folder: Path, *, but: Collection[str] = ()) -> Manifest:
    """The manifest of a release whose every file was read and found to be what was sealed, `but` for those named. About 1 s a gigabyte.

    Raises:
        ReleaseError: the manifest or a file is missing, cut short or altered.
    """
    manifest = Manifest.read(folder)
    for file, expected in manifest.files.items():
        if file not in but and _sum_of(folder, folder / file) != expected:
            raise ReleaseError(folder, file, "does not match its checksum: cut short or altered since it was sealed")
    return manifest


def write_whole(path: Path, text: str) -> None:
    """Put a small file in the place of another in one step, flushed: a reader sees the old or the new, and so does a restart."""
    passing = path.with_name(f".{path.name}-{os.getpid()}")
    passing.write_text(text)
    flush(passing)
    passing.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _contents(folder: Path) -> Iterator[Path]:
    """The files a seal vouches for: all but the manifest, and what Python caches beside a model that Triton has loaded."""
    return (
        path
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and path != folder / MANIFEST and path.parent.name != "__pycache__"
    )


def _sum_of(folder: Path, path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        raise ReleaseError(folder, str(path.relative_to(folder)), "is missing" if not path.exists() else "is not a plain file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(told: Mapping) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
