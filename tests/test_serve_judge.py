"""What the index finds of the exact search: all of it where it is exact, less where it looks into too few cells."""

import dataclasses
import threading

import numpy as np
import polars as pl
import pytest

from data.schema import ITEMS
from serve.index import exact, hnsw, ivf_sq8
from serve.judge import DEPTH, Judge, share_found
from serve.release import Release
from tests.releases import write_release

WIDTH, ITEM_COUNT = 8, 2_000


@pytest.fixture
def release(tmp_path):
    return Release.open(write_release(tmp_path / "v1", items=ITEM_COUNT, width=WIDTH, seed=3, room=5))


def queries(count=10):
    rng = np.random.default_rng(1)
    query_BD = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return query_BD / np.linalg.norm(query_BD, axis=1, keepdims=True)


def vectors(release):
    return np.asarray(release.items)[:ITEM_COUNT, WIDTH:]


def test_an_exact_index_finds_everything(release):
    assert [share_found(release, query_BD) for query_BD in queries()[:, None]] == [1.0] * 10


def test_a_poor_index_finds_less_as_brute_force_says(release):
    poor = dataclasses.replace(release, index=ivf_sq8(vectors(release), nlist=8, nprobe=1))
    shares = []
    for query_BD in queries()[:, None]:
        nearest = set(np.argsort(-(vectors(release).astype(np.float64) @ query_BD[0].astype(np.float64)))[:DEPTH].tolist())
        found = set(poor.index.search(query_BD, DEPTH)[1][0].tolist())
        shares.append(len(nearest & found) / DEPTH)
        assert share_found(poor, query_BD) == shares[-1]
    assert min(shares) > 0 and np.mean(shares) < 0.9
    whole = dataclasses.replace(release, index=ivf_sq8(vectors(release), nlist=8, nprobe=8))
    assert share_found(whole, queries(1)) > 0.9  # eight bits round, and that is all


def test_of_a_small_catalogue_all_is_the_depth(tmp_path):
    small = Release.open(write_release(tmp_path / "small", items=20, width=WIDTH))
    assert share_found(small, queries(1)) == 1.0
    assert share_found(dataclasses.replace(small, index=hnsw(np.asarray(small.items)[:20, WIDTH:])), queries(1)) == 1.0


def test_items_that_tie_with_the_last_count_as_found_alike(release):
    """A hundred of a thousand equal items: whichever the index gives."""
    release.items[:1_000, WIDTH:] = release.items[0, WIDTH:]
    tied = dataclasses.replace(release, index=exact(vectors(release)))
    assert share_found(tied, np.asarray(release.items)[:1, WIDTH:].astype(np.float32)) == 1.0


def posted(release, vector_D, name="new"):
    schema = {name: column.dtype for name, column in ITEMS.items()} | {"posted_at": pl.Int64}
    item = pl.DataFrame([dict.fromkeys(ITEMS) | {"item_id": name, "posted_at": 1}], schema=schema)
    return release.add(item, np.concatenate([vector_D, vector_D])[None].astype(np.float16))


class Growing:
    """An index to which an item comes just before it is searched."""

    def __init__(self, release, vector_D):
        self.release, self.vector_D = release, vector_D

    def search(self, query_BD, k):
        posted(self.release, self.vector_D)
        return self.release.index.search(query_BD, k)


def test_what_was_posted_is_judged_with_the_rest_also_while_it_comes(release):
    query_BD = queries(1)
    growing = dataclasses.replace(release, index=Growing(release, query_BD[0]))
    assert share_found(growing, query_BD) == 1.0
    assert release.index.search(query_BD, 1)[1][0, 0] == ITEM_COUNT  # it is the nearest of all
    assert share_found(release, query_BD) == 1.0
    forgot = dataclasses.replace(release, index=exact(vectors(release)))
    assert share_found(forgot, query_BD) == 1 - 1 / DEPTH


def test_the_judge_tells_the_share_of_the_queries_it_takes(release):
    told, heard = [], threading.Event()
    judge = Judge(release, share=1.0, tell=lambda share: (told.append(share), heard.set()))
    query_BD = queries(1)
    judge.offer(query_BD)
    query_BD[:] = np.nan  # it has a copy
    assert heard.wait(60)
    judge.close()
    assert told == [1.0]
    judge.offer(queries(1))
    assert told == [1.0] and not judge._thread.is_alive()


def test_a_judge_of_no_share_takes_none_and_a_query_of_no_numbers_ends_none(release):
    told = []
    none = Judge(release, share=0.0, tell=told.append)
    none.offer(queries(1))
    none.close()
    assert told == []
    heard = threading.Event()
    judge = Judge(release, share=1.0, tell=lambda share: heard.set())
    judge.offer(np.full((1, WIDTH), np.nan, np.float32))
    judge.offer(queries(1))
    assert heard.wait(60)
    judge.close()


def test_at_most_one_query_waits_and_close_passes_over_it(release):
    told, entered, go_on = [], threading.Event(), threading.Event()

    def tell(share):
        told.append(share)
        entered.set()
        assert go_on.wait(60)

    judge = Judge(release, share=1.0, tell=tell)
    judge.offer(queries(1))
    assert entered.wait(60)
    for query_BD in queries()[:, None]:
        judge.offer(query_BD)  # one waits, nine are passed over, and nobody was kept
    assert judge._waiting.qsize() == 1
    closing = threading.Thread(target=judge.close)
    closing.start()
    go_on.set()
    closing.join(60)
    assert not closing.is_alive() and len(told) <= 2
