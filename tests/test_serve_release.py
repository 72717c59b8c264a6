"""A release is used whole or not at all, and what is current stays so until something better is."""

import json
import math
import os
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.content import write_recipe
from data.features import NUMBERS, PROFILE, Vocabulary
from data.log import read_catalogue
from serve import manifest as seals
from serve import publication, tags
from serve.index import exact
from serve.manifest import FILES, MANIFEST
from serve.release import Release, ReleaseError, current, differences, promote, publish, rollback, seal, versions
from serve.tags import TagTable
from tests.releases import FEATURES, GENRES, RECIPE, TAGS, write_release
from towers.ranker import HEADS

KEYS = {
    "version": "v1", "runs": {"retrieval": "r1", "ranker": "r2"}, "width": 8, "history_length": 12, "liked_from": 3.5, "backend": "python",
    "item_count": 50, "feature_count": FEATURES, "numbers": list(NUMBERS), "profile": list(PROFILE), "heads": list(HEADS),
    "learned": list(HEADS),
    "relevance_head": HEADS.index("value"),
}  # fmt: skip
SEALED = (*FILES, *(f"triton/{model}/{file}" for model in ("user_tower", "item_tower", "ranker") for file in seals.MODEL_FILES["python"]))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """One sealed release, version v1; copy it before you break it."""
    return write_release(tmp_path_factory.mktemp("release") / "written")


@pytest.fixture
def copied(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copied"))


@pytest.fixture
def staged(written, tmp_path):
    """Stage a copy under a version of its own: a function of the name."""

    def stage(version: str) -> Path:
        folder = Path(shutil.copytree(written, tmp_path / "releases" / f".staging-{version}"))
        seal(folder, KEYS | {"version": version})
        return folder

    return stage


@pytest.fixture
def root(tmp_path, staged) -> Path:
    """Releases v1 and v2, of which v2 is current."""
    for version in ("v1", "v2"):
        publish(staged(version), tmp_path / "releases", version)
    return tmp_path / "releases"


def test_what_was_written_is_what_is_opened(written):
    opened = Release.open(written)
    manifest = opened.manifest
    assert (manifest.version, manifest.width, manifest.history_length, manifest.liked_from) == ("v1", 8, 12, 3.5)
    assert (
        set(manifest.files) == set(SEALED)
        and abs((datetime.fromisoformat(manifest.created_at).timestamp()) - os.path.getmtime(written)) < 60
    )
    assert opened.items.shape == (50, 16) and opened.items.dtype == np.float16
    assert [opened.user_tower.name, opened.item_tower.name, opened.ranker.name] == ["user_tower", "item_tower", "ranker"]
    assert opened.ranker.outputs[0].shape == (-1, 6) and opened.item_tower.inputs[0].shape == (FEATURES,)
    _, nearest = opened.index.search(opened.items[:50, 8:].astype(np.float32), 1)
    assert nearest[:, 0].tolist() == list(range(50))
    assert opened.vocabulary.sizes[2:5] == (3, 3, 3) and opened.genres == GENRES
    hour = np.array([1_700_000_000_000 // 3_600_000 + 1 + 168])
    np.testing.assert_allclose(opened.clock.before(np.array([3]), hour)[0], (1 + 21) * 2 ** (-169 / 168), rtol=1e-6)
    assert opened.users["birth_year"].to_list() == list(range(1980, 1990))


def test_the_catalogue_knows_its_rows(written):
    catalogue = Release.open(written).catalogue
    assert catalogue.rows(["i3", "nothing", "i0", "i49"]).tolist() == [3, -1, 0, 49]
    assert catalogue.rows([]).dtype == np.int64 and len(catalogue.rows([])) == 0
    assert catalogue.titles[:3] == ["The 0th Käse", "i1", "The 2th Käse"] and catalogue.item_ids[2] == "i2"


def test_genres_and_days_stand_in_item_rows(written):
    opened = Release.open(written)
    for row, genres in enumerate(opened.catalogue.frame["genres"]):
        assert opened.genre_IG[row].tolist() == [float(name in genres) for name in GENRES]
    assert opened.release_day_I[:3].tolist() == [18_000.0, 18_001.0, 18_002.0] and math.isnan(opened.release_day_I[3])


def test_tags_and_durations_read_as_the_tables_that_training_has(written):
    opened = Release.open(written)
    catalogue = read_catalogue(opened.catalogue.frame, RECIPE)
    row_BK = np.array([[0, 7, 49], [4, 4, 11]])
    assert np.array_equal(opened.tag_IT[row_BK], catalogue.tag_IT[row_BK]) and opened.tag_IT[row_BK].shape == (2, 3, len(TAGS))
    assert opened.tag_IT[np.array([3, 9])].tolist() == [[1, 0, 0, 1, *[0] * 6], [0] * 10]  # tag 3 and tag 0; no tags known
    assert np.array_equal(opened.duration_seconds_I[:50], catalogue.duration_seconds_I, equal_nan=True)
    assert opened.duration_seconds_I.dtype == catalogue.duration_seconds_I.dtype and math.isnan(opened.duration_seconds_I[5])


@pytest.mark.parametrize("count", [0, 1, 8, 9, 128])
def test_tags_are_packed_to_bits_and_back(tmp_path, count):
    tag_IT = np.random.default_rng(count).integers(0, 2, (5, count)).astype(np.float32)
    tags.write(tmp_path, tag_IT, rows=7)
    assert (tmp_path / "tags.u8").stat().st_size == 7 * {0: 1, 1: 1, 8: 1, 9: 2, 128: 16}[count]
    table = TagTable.open(tmp_path, replace(RECIPE, tags=Vocabulary(tuple(map(str, range(count))))), rows=7)
    assert np.array_equal(table[np.arange(5)], tag_IT) and not table[np.array([5, 6])].any()
    table.add(tag_IT[:1], np.array([6]))
    assert np.array_equal(table[np.array([[6]])], tag_IT[None, :1])
    with pytest.raises(ReleaseError, match=r"tags.u8 holds .* expected 8 rows"):
        TagTable.open(tmp_path, replace(RECIPE, tags=Vocabulary(tuple(map(str, range(count))))), rows=8)


def test_room_to_grow_is_room_beyond_the_catalogue(copied):
    with (copied / "items.f16").open("ab") as file:
        np.zeros((7, 16), np.float16).tofile(file)
    with (copied / "content.f16").open("ab") as file:
        np.zeros((7, RECIPE.content_width), np.float16).tofile(file)
    with (copied / "tags.u8").open("ab") as file:
        file.write(bytes(7 * 2))
    seal(copied, KEYS)
    opened = Release.open(copied)
    assert opened.items.shape == (57, 16) and opened.catalogue.room == 7 and len(opened.catalogue) == 50
    assert opened.genre_IG.shape == (57, 3) and not opened.genre_IG[50:].any() and np.isnan(opened.release_day_I[50:]).all()
    assert not opened.tag_IT[np.arange(50, 57)].any() and np.isnan(opened.duration_seconds_I[50:]).all()


def test_rows_written_stay_in_this_process_and_the_file_as_it_was_sealed(copied):
    opened = Release.open(copied)
    opened.items[3] = 1
    assert (opened.items[3] == 1).all() and not (Release.open(copied).items[3] == 1).all()


def test_content_vectors_of_another_recipe_are_refused(copied):
    exact(np.eye(50, 7, dtype=np.float16)).save(copied / "content.faiss")
    seal(copied, KEYS)
    with pytest.raises(ReleaseError, match=rf"content.faiss does not go.*found \(50, 7\), expected \(50, {RECIPE.content_width}\)"):
        Release.open(copied)


def test_a_recipe_of_other_features_than_the_tower_takes_is_refused(copied):
    write_recipe(copied / "recipe.npz", replace(RECIPE, embedding_width=3))
    seal(copied, KEYS)
    with pytest.raises(ReleaseError, match=f"recipe.npz does not go.*found {FEATURES + 1}, expected {FEATURES}"):
        Release.open(copied)
    (copied / "recipe.npz").write_bytes(b"none at all")
    seal(copied, KEYS)
    with pytest.raises(ReleaseError, match=r"recipe.npz cannot be read"):
        Release.open(copied)


@pytest.mark.parametrize("liked_from", [-math.inf, None])
def test_without_a_threshold_every_rating_is_liked(copied, liked_from):
    seal(copied, KEYS | {"liked_from": liked_from})
    assert Release.open(copied).manifest.liked_from == -math.inf


@pytest.mark.parametrize("file", [*SEALED, MANIFEST])
def test_missing_cut_short_or_altered_it_is_refused_by_name(copied, file):
    whole = (copied / file).read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", bytes(altered), whole + b" "):
        if file == MANIFEST and broken == whole + b" ":
            continue  # white space after JSON says nothing
        (copied / file).write_bytes(broken)
        with pytest.raises(ReleaseError, match=f"copied: {file} .*export it again"):
            Release.open(copied)
    (copied / file).unlink()
    with pytest.raises(ReleaseError, match=f"copied: {file} is missing"):
        Release.open(copied)


def test_a_link_or_a_folder_is_no_file(copied):
    (copied / "items.f16").rename(copied.parent / "elsewhere")
    (copied / "items.f16").symlink_to(copied.parent / "elsewhere")
    with pytest.raises(ReleaseError, match=r"items.f16 is not a plain file"):
        Release.open(copied)
    with pytest.raises(ReleaseError, match=r"items.f16 is not a plain file"):
        seal(copied, KEYS)
    assert not (copied / MANIFEST).exists()


@pytest.mark.parametrize(
    "change, word",
    [
        ({"extra": 1}, "'extra'"),
        ({"width": "8"}, "width"),
        ({"width": 0}, "width"),
        ({"relevance_head": 6}, "relevance_head"),
        ({"relevance_head": True}, "relevance_head"),
        ({"backend": "onnx"}, "backend"),
        ({"numbers": ["dot"]}, r"made for the numbers \['dot'\], this version computes \['dot', 'genre_match', 'tag_match'"),
        ({"profile": ["age"]}, r"made for the profile \['age'\], this version computes \['log_session_minutes', 'log_history_count'\]"),
        ({"heads": ["click", "like"], "relevance_head": 0}, r"heads \['click', 'like'\], this version orders by 'value'"),
        ({"relevance_head": 0}, "relevance_head is 0 of the heads .* orders by 'value'"),
    ],
)
def test_a_manifest_that_cannot_be_is_not_sealed(copied, change, word):
    with pytest.raises(ReleaseError, match=f"manifest.json.*{word}"):
        seal(copied, KEYS | change)
    with pytest.raises(ReleaseError, match="never sealed"):
        Release.open(copied)


def test_a_manifest_that_lacks_something_or_lists_too_much_is_refused(copied):
    with pytest.raises(ReleaseError, match="lacks 'heads'"):
        seal(copied, {name: value for name, value in KEYS.items() if name != "heads"})
    seal(copied, KEYS)
    told = json.loads((copied / MANIFEST).read_bytes())
    for change, word in (
        ({"files": told["files"] | {"../v1/x": "0"}}, "outside"),
        ({"files": {}}, "lists no items.f16"),
        ({"new": 1}, "'new'"),
    ):
        other = {name: value for name, value in told.items() if name != "checksum"} | change
        (copied / MANIFEST).write_text(json.dumps(other | {"checksum": seals._digest(other)}))
        with pytest.raises(ReleaseError, match=f"{MANIFEST}.*{word}"):
            Release.open(copied)


def test_a_release_of_before_the_ranker_was_told_of_tags_is_refused_with_what_to_do(copied):
    seal(copied, KEYS)
    told = json.loads((copied / MANIFEST).read_bytes())
    old = {"numbers": ["dot", "genre_match", "log_popularity"], "heads": ["click", "complete"], "relevance_head": 0}
    other = {name: value for name, value in told.items() if name not in ("checksum", "profile")} | old
    (copied / MANIFEST).write_text(json.dumps(other | {"checksum": seals._digest(other)}))
    with pytest.raises(
        ReleaseError, match=r"made for the numbers \['dot', .*'tag_match'.*; train its ranker again and export it, or go back by"
    ):
        Release.open(copied)


def test_files_that_do_not_go_together_are_refused(copied):
    seal(copied, KEYS | {"item_count": 49})
    with pytest.raises(ReleaseError, match=r"catalogue.parquet does not go with 49 items"):
        Release.open(copied)
    frame = pl.read_parquet(copied / "catalogue.parquet")
    frame[[*range(49), 0]].write_parquet(copied / "catalogue.parquet")
    seal(copied, KEYS)
    with pytest.raises(ReleaseError, match=r"catalogue.parquet does not go"):
        Release.open(copied)
    frame.write_parquet(copied / "catalogue.parquet")
    (copied / "items.f16").write_bytes((copied / "items.f16").read_bytes()[:-32])
    seal(copied, KEYS)
    with pytest.raises(ReleaseError, match=r"items.f16 does not go"):
        Release.open(copied)


def test_what_python_caches_beside_a_model_is_not_sealed(copied):
    cache = copied / "triton/ranker/1/__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"one")
    seal(copied, KEYS)
    (cache / "model.cpython-311.pyc").write_bytes(b"another")
    Release.open(copied)


def models(folder: Path):
    """`infer` in process, by the release's own TorchScript."""
    script = {name: torch.jit.load(folder / f"triton/{name}/1/model.pt") for name in ("user_tower", "item_tower", "ranker")}
    return lambda spec, *arrays: (script[spec.name](*map(torch.as_tensor, arrays)).detach().numpy(),)


def test_the_models_answer_as_they_did(written):
    assert differences(Release.open(written), models(written)) == []


@pytest.mark.parametrize(
    "change, largest",
    [
        (lambda answer: answer + np.float32(0.01), 0.01),
        (lambda answer: np.where(answer == answer.max(), np.nan, answer), math.inf),
        (lambda answer: answer[:, :-1], math.inf),
    ],
)
def test_another_answer_is_a_difference_by_name(written, change, largest):
    infer = models(written)

    def altered(spec, *arrays):
        return (change(infer(spec, *arrays)[0]),) if spec.name == "user_tower" else infer(spec, *arrays)

    (found,) = differences(Release.open(written), altered)
    assert (found.model, found.tensor) == ("user_tower", "query__0") and found.largest == pytest.approx(largest, rel=1e-3)


def test_what_another_machine_rounds_is_no_difference(written):
    infer = models(written)
    rounded = {"item_tower": lambda row: np.nextafter(row, np.float16(1)), "user_tower": lambda query: query * np.float32(1 + 2e-6)}
    keep = lambda answer: answer  # noqa: E731
    assert differences(Release.open(written), lambda spec, *arrays: (rounded.get(spec.name, keep)(infer(spec, *arrays)[0]),)) == []


def test_a_difference_stops_the_server_from_being_trusted(written):
    class Liar:
        @staticmethod
        def infer(spec, *arrays):
            return tuple(np.zeros((len(arrays[0]), 1), np.float32) for _ in spec.outputs)

    with pytest.raises(ReleaseError, match=r"golden.npz.*user_tower/query__0.*item_tower/row__0.*ranker/value__0"):
        Release.open(written).check_golden(Liar)


def test_published_is_current_and_its_folder_open_to_triton(root, staged):
    assert current(root) == "v2" and versions(root) == ("v1", "v2")
    assert Release.open(root / "current").path == (root / "v2").resolve()
    folder = staged("v3")
    folder.chmod(0o700)
    assert publish(folder, root, "v3") == root / "v3" and not folder.exists()
    assert (root / "v3").stat().st_mode & 0o777 == 0o755
    assert os.readlink(root / "current") == "v3" and Release.open(root / "current").manifest.version == "v3"


def test_a_broken_release_is_not_published_and_the_old_stays(root, staged):
    for file in ("index.faiss", MANIFEST, "triton/ranker/1/model.pt"):
        folder = staged("v3")
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])
        with pytest.raises(ReleaseError, match=file):
            publish(folder, root, "v3")
        assert current(root) == "v2" and versions(root) == ("v1", "v2")
        shutil.rmtree(folder)


@pytest.mark.parametrize("version", ["", ".", "..", "../v9", "a/b", ".hidden", "current", "x" * 101, "v 1", "v1\n"])
def test_a_name_that_is_none_is_refused(root, staged, version):
    with pytest.raises(ReleaseError, match=r"name|link"):
        publish(staged("v3"), root, version)
    assert current(root) == "v2"


def test_a_version_is_never_overwritten_and_carries_its_own_name(root, staged):
    with pytest.raises(ReleaseError, match="v1 exists already"):
        publish(staged("v1"), root, "v1")
    with pytest.raises(ReleaseError, match="sealed as 'v3'"):
        publish(staged("v3"), root, "v4")
    assert current(root) == "v2"


@pytest.mark.parametrize("step", ["flush", "write_whole", "_point"])
def test_a_crash_on_the_way_leaves_the_old_current(root, staged, monkeypatch, step):
    """Whatever is done after the rename, dying there leaves v2 served; a second attempt by `promote` then succeeds."""

    class PowerCut(BaseException):
        pass

    def die(*arguments):
        raise PowerCut

    folder = staged("v3")
    with monkeypatch.context() as broken:
        broken.setattr(publication, step, die)
        with pytest.raises(PowerCut):
            publish(folder, root, "v3")
    assert current(root) == "v2" and Release.open(root / "current").manifest.version == "v2"
    promote(root, "v3")
    assert current(root) == "v3" and rollback(root) == "v2" and rollback(root) == "v1"


def test_a_crash_before_the_rename_leaves_only_a_staged_folder(root, staged):
    staged("v3")
    assert current(root) == "v2" and versions(root) == ("v1", "v2")


def test_rollback_goes_back_and_never_forth(root, staged):
    publish(staged("v3"), root, "v3")
    assert [rollback(root), rollback(root)] == ["v2", "v1"]
    with pytest.raises(ReleaseError, match="'v1' and nothing was current before it"):
        rollback(root)
    publish(staged("v4"), root, "v4")
    assert rollback(root) == "v1"
    promote(root, "v3")
    assert current(root) == "v3" and rollback(root) == "v1"


def test_rollback_to_what_is_broken_is_refused_and_the_current_stays(root):
    (root / "v1/items.f16").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"v1: items.f16"):
        rollback(root)
    assert current(root) == "v2"


def test_a_current_release_that_was_removed_can_be_rolled_back(root):
    shutil.rmtree(root / "v2")
    with pytest.raises(ReleaseError, match="'v2', which is not there"):
        current(root)
    assert rollback(root) == "v1" == current(root)


def test_where_nothing_was_published_it_is_said(tmp_path):
    assert versions(tmp_path) == ()
    for ask in (current, rollback):
        with pytest.raises(ReleaseError, match="nothing was published; run"):
            ask(tmp_path)


def test_promotions_that_were_altered_are_named(root):
    (root / "promotions.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"promotions.json is cut short.*remove it"):
        rollback(root)
    assert current(root) == "v2"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.just("publish"), st.just("rollback"), st.integers(0, 5)), max_size=25))
def test_whatever_the_order_current_and_what_lies_behind_it_is_a_stack(tmp_path_factory, steps):
    """Publishing pushes; rollback pops; promoting pops down to a version that lies in the stack, else pushes it."""
    root, stack, names = tmp_path_factory.mktemp("releases"), [], []
    for step in steps:
        if step == "publish":
            names.append(f"v{len(names)}")
            (root / names[-1]).mkdir()
            (root / names[-1] / MANIFEST).write_text("")
            publication._promote(root, names[-1])
            stack.append(names[-1])
        elif step == "rollback":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(publication, "verify", lambda folder: None)
                if len(stack) < 2:
                    with pytest.raises(ReleaseError):
                        rollback(root)
                else:
                    stack.pop()
                    assert rollback(root) == stack[-1]
        elif step < len(names):
            publication._promote(root, names[step])
            stack = stack[: stack.index(names[step]) + 1] if names[step] in stack else [*stack, names[step]]
        if stack:
            assert current(root) == stack[-1]
