"""An index finds what brute force finds: exactly, or as nearly as is stated; and a broken file is refused by its name."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serve import index as indexes
from serve.index import LEAST_PROBES, Index, IndexFileError, automatic, exact, hnsw, ivf_sq8, recall


def clustered(count: int, width: int, seed: int, spread: float = 0.8) -> np.ndarray:
    """Unit vectors around a hundred common centres, whatever the seed."""
    centre = np.random.default_rng(0).normal(size=(100, width))
    rng = np.random.default_rng(seed)
    vector = centre[rng.integers(100, size=count)] + spread * rng.normal(size=(count, width))
    return (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)


ITEMS, QUERIES = clustered(20_000, 32, 1), clustered(50, 32, 2)
BUILDERS = {"exact": exact, "ivf_sq8": ivf_sq8, "hnsw": hnsw}


@pytest.fixture(scope="module")
def built():
    return {kind: build(ITEMS) for kind, build in BUILDERS.items()}


def test_exact_is_brute_force(built):
    score_BK, row_BK = built["exact"].search(QUERIES, 20)
    all_BI = QUERIES @ ITEMS.T
    assert row_BK.dtype == np.int64 and score_BK.dtype == np.float32
    np.testing.assert_array_equal(row_BK, np.argsort(-all_BI, axis=1, kind="stable")[:, :20])
    np.testing.assert_allclose(score_BK, np.take_along_axis(all_BI, row_BK, 1), atol=1e-5)


def test_the_judge_finds_itself(built):
    assert recall(built["exact"], built["exact"], QUERIES, 500) == 1.0


def test_recall_by_hand():
    """The nearest two to (1, 0) are rows 0 and 1 of one catalogue, 0 and 2 of the other: half is found."""
    one = exact(np.array([[1, 0], [0.9, 0], [0.1, 0]]))
    other = exact(np.array([[1, 0], [0.1, 0], [0.9, 0]]))
    assert recall(other, one, np.array([[1.0, 0.0]]), 2) == 0.5


@pytest.mark.parametrize("kind, at_least", [("ivf_sq8", 0.98), ("hnsw", 0.99)])
def test_recall_at_500_on_clusters(built, kind, at_least):
    assert built[kind].kind == kind
    assert recall(built[kind], built["exact"], QUERIES, 500) >= at_least


def test_neighbours_of_an_item_are_found_by_a_quarter_of_the_probes():
    """Clusters as wide as they lie apart, so that a neighbourhood is many cells; a sixteenth finds visibly less."""
    items = clustered(20_000, 32, 1, spread=1.0)
    some, index, judge = items[:50], ivf_sq8(items, nprobe=280), exact(items)
    _, true_BK = judge.search(some, 50)

    def share(probe_share):
        _, found_BK = index.search(some, 50, probe_share=probe_share)
        return np.mean([np.isin(true_K, found_K).mean() for true_K, found_K in zip(true_BK, found_BK, strict=True)])

    assert share(0.25) >= 0.97 and share(0.25) <= share(1.0)
    assert share(0.0) == share(LEAST_PROBES / 280)


def test_probes_follow_the_queries_given():
    """Queries that lie between clusters need more cells than the items' own neighbourhoods do."""
    between = clustered(64, 32, 3, spread=8.0)
    tuned = ivf_sq8(ITEMS, query_BD=between)
    assert recall(tuned, exact(ITEMS), between, 500) >= 0.98
    assert recall(ivf_sq8(ITEMS), exact(ITEMS), between, 500) < 0.98


def test_a_queue_unless_told_is_long_enough_for_the_queries_given():
    loose = clustered(5_000, 32, 5, spread=3.0)
    queries = clustered(64, 32, 6, spread=3.0)
    assert recall(hnsw(loose, query_BD=queries), exact(loose), queries, 500) >= 0.99
    assert recall(hnsw(loose, links=4, ef_search=500), exact(loose), queries, 500) < 0.99


def test_a_graph_that_cannot_find_all_says_how_much_it_finds(caplog):
    """Two groups far apart with two links each: whoever enters one does not come to the other."""
    angle = np.repeat([0.0, np.pi], 300)[:, None] + np.random.default_rng(0).normal(scale=0.01, size=(600, 1))
    vector = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    hnsw(vector, links=2, ef_construction=2)
    assert "not connected" in caplog.text


def test_scores_of_eight_bits_are_near(built):
    score_BK, row_BK = built["ivf_sq8"].search(QUERIES, 100)
    np.testing.assert_allclose(score_BK, np.take_along_axis(QUERIES @ ITEMS.T, row_BK, 1), atol=0.01)


def test_one_query_is_answered_as_in_a_batch(built):
    for index in built.values():
        _, together = index.search(QUERIES, 50)
        for query, row_K in zip(QUERIES[:10], together, strict=False):
            assert set(index.search(query[None], 50)[1][0]) == set(row_K)


@pytest.mark.parametrize("kind", BUILDERS)
def test_more_than_there_is_gives_every_item_once(kind):
    few = clustered(40, 8, 4)
    score_BK, row_BK = BUILDERS[kind](few).search(few[:3], 1000)
    assert score_BK.shape == row_BK.shape == (3, 40)
    assert [sorted(row_K) for row_K in row_BK.tolist()] == [list(range(40))] * 3


def test_too_few_in_the_probed_cells_searches_them_all():
    poor = ivf_sq8(ITEMS, nlist=200, nprobe=1)
    score_BK, row_BK = poor.search(QUERIES, 5_000)
    assert row_BK.shape == (50, 5_000)
    assert row_BK.min() >= 0
    assert all(len(set(row_K)) == 5_000 for row_K in row_BK.tolist())
    assert (np.diff(score_BK) <= 0).all()


def test_half_precision_and_one_item():
    one = automatic(np.array([[0.6, 0.8]], np.float16))
    score_BK, row_BK = one.search(np.array([[1.0, 0.0]], np.float16), 5)
    assert row_BK.tolist() == [[0]]
    np.testing.assert_allclose(score_BK, [[0.6]], atol=1e-3)


def test_no_queries_no_answers(built):
    for index in built.values():
        assert index.search(np.empty((0, 32)), 7)[1].shape == (0, 7)


def test_threads_search_at_once_and_agree(built):
    for index in built.values():
        alone = [index.search(query[None], 100)[1] for query in QUERIES]
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda query, index=index: index.search(query[None], 100)[1], QUERIES))
        np.testing.assert_array_equal(alone, together)


def test_automatic_is_exact_until_it_is_large(monkeypatch):
    assert automatic(ITEMS).kind == "exact"
    monkeypatch.setattr(indexes, "EXACT_BELOW", 20_000)
    assert automatic(ITEMS).kind == ("exact" if indexes.faiss.get_num_gpus() else "ivf_sq8")


@pytest.mark.parametrize("kind", BUILDERS)
def test_saved_and_opened_answers_the_same(built, kind, tmp_path):
    built[kind].save(tmp_path / "index.faiss")
    opened = Index.open(tmp_path / "index.faiss")
    assert (opened.kind, opened.item_count, opened.width) == (kind, 20_000, 32)
    for before, after in zip(built[kind].search(QUERIES, 200), opened.search(QUERIES, 200), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_file_cut_short_is_refused_by_name(built, kind, tmp_path):
    path = tmp_path / "index.faiss"
    built[kind].save(path)
    whole = path.read_bytes()
    for kept in (0, 3, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(IndexFileError, match=r"index.faiss.*export"):
            Index.open(path)


def test_what_is_no_index_of_ours_is_refused_by_name(tmp_path):
    path = tmp_path / "other.faiss"
    path.write_bytes(b"not an index at all" * 100)
    with pytest.raises(IndexFileError, match=r"other.faiss"):
        Index.open(path)
    indexes.faiss.write_index(indexes.faiss.IndexLSH(8, 8), str(path))
    with pytest.raises(IndexFileError, match="IndexLSH"):
        Index.open(path)
    with pytest.raises(FileNotFoundError, match=r"absent.faiss"):
        Index.open(tmp_path / "absent.faiss")


@pytest.mark.parametrize("build", BUILDERS.values())
def test_refuses_vectors_it_cannot_order(build):
    with pytest.raises(ValueError, match="empty"):
        build(np.empty((0, 8)))
    with pytest.raises(ValueError, match="row 1 is not finite"):
        build(np.array([[1.0, 0.0], [np.nan, 1.0]]))


def test_refuses_searches_that_make_no_sense(built):
    index = built["exact"]
    for query, k, word in [
        (QUERIES, 0, "k is 0"),
        (QUERIES[:, :8], 5, "8 wide"),
        (QUERIES[0], 5, "two dimensions"),
        (np.full((1, 32), np.nan), 5, "queries: row 0"),
    ]:
        with pytest.raises(ValueError, match=word):
            index.search(query, k)


@pytest.mark.parametrize(
    "parameters, word", [({"nlist": 30_000}, "nlist"), ({"nlist": 10, "nprobe": 11}, "nprobe"), ({"train_sample": 30_000}, "train_sample")]
)
def test_refuses_cells_that_cannot_be(parameters, word):
    with pytest.raises(ValueError, match=word):
        ivf_sq8(ITEMS, **parameters)


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_was_added_is_found_as_if_it_had_been_there(built, kind):
    """Exact: the same answer as an index built of all. The others find as much as such an index does, to a rounded neighbour in 200."""
    grown = BUILDERS[kind](ITEMS[:18_000])
    for part in (ITEMS[18_000:18_001], ITEMS[18_001:19_500], ITEMS[19_500:]):
        grown.add(part)
    assert grown.item_count == 20_000
    for k in (1, 50, 500):
        score_BK, row_BK = grown.search(QUERIES, k)
        assert (np.diff(score_BK) <= 0).all() and all(len(set(row_K)) == k for row_K in row_BK.tolist())
        if kind == "exact":
            np.testing.assert_array_equal(row_BK, built["exact"].search(QUERIES, k)[1])
            np.testing.assert_allclose(score_BK, built["exact"].search(QUERIES, k)[0], rtol=1e-6)
        elif k > 1:
            assert recall(grown, built["exact"], QUERIES, k) >= recall(built[kind], built["exact"], QUERIES, k) - 0.005


def test_added_under_rows_of_its_own_and_replaced():
    """By hand: rows 0 and 1 were built, 7 and 5 are added, then 7 anew."""
    index = exact(np.array([[1.0, 0.0], [0.0, 1.0]]))
    index.add(np.array([[0.9, 0.0], [0.8, 0.0]]), np.array([7, 5]))
    score_BK, row_BK = index.search(np.array([[1.0, 0.0]]), 10)
    assert row_BK.tolist() == [[0, 7, 5, 1]]
    np.testing.assert_allclose(score_BK, [[1.0, 0.9, 0.8, 0.0]], rtol=1e-6)
    index.add(np.array([[0.5, 0.0]]), np.array([7]))
    assert index.search(np.array([[1.0, 0.0]]), 3)[1].tolist() == [[0, 5, 7]]
    index.add(np.array([[2.0, 0.0]]))
    assert index.search(np.array([[1.0, 0.0]]), 2)[1].tolist() == [[8, 0]] and index.item_count == 5


def test_refuses_to_add_what_it_cannot_tell_apart(tmp_path):
    index = exact(ITEMS[:10])
    for vector, row, word in (
        (ITEMS[:2], [10, 10], "each once"), (ITEMS[:2], [9, 10], "none below 10"), (ITEMS[:2], [10], "each once"),
        (ITEMS[:1, :8], None, "8 wide"), (np.full((1, 32), np.inf), None, "not finite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            index.add(vector, row)
    index.add(ITEMS[:0])
    assert index.item_count == 10
    index.add(ITEMS[10:12])
    with pytest.raises(ValueError, match="2 vectors were added"):
        index.save(tmp_path / "index.faiss")


def test_searches_need_not_wait_for_who_adds():
    """Any answer is of some whole state: the vectors so far, in order of their scores, each row once."""
    line = np.linspace(1, 0, 400, dtype=np.float32)[:, None] * np.array([[1, 0]], np.float32)
    index = exact(line[:100])

    def look(_):
        row_K = index.search(np.array([[1.0, 0.0]]), 400)[1][0].tolist()
        return row_K == list(range(len(row_K))) and len(row_K) % 10 == 0

    with ThreadPoolExecutor(4) as threads:
        looked = threads.map(look, range(400))
        for start in range(100, 400, 10):
            index.add(line[start : start + 10])
        assert all(looked)
    assert index.item_count == 400
