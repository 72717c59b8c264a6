"""The nearest items by inner product: the sole home of faiss.

Four ways to build one `Index`, each usable as a config's `_target_`. Row r of the vectors is `item_row` r. On a GPU when there is one.
Built for vectors of length one: HNSW and the lists of IVF find the largest inner product only among vectors of like length.

Johnson, Douze, Jégou, Billion-scale similarity search with GPUs, 2017. Malkov, Yashunin, Efficient and robust approximate nearest neighbor
search using hierarchical navigable small world graphs, 2016.

Shapes: B batch · I catalogue · D width · K candidates.
"""

import bisect
import itertools
import logging
import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np

from serve.vectors import Segment, catalogue, merged, queries

logger = logging.getLogger(__name__)
EXACT_BELOW = 50_000
TRAIN_PER_LIST = 64
QUERIES_PER_THREAD = 16
LEAST_PROBES = 32
PROBE_SHARE, PROBE_K, PROBE_QUERIES = 0.99, 500, 128


class IndexFileError(ValueError):
    """A file holds no whole index. The message names the file and the remedy."""


@dataclass(slots=True, eq=False)
class Index:
    """Searchable vectors. Any number of threads may search at once, while one adds; on a GPU they take turns.

    `kind` is exact, ivf_sq8 or hnsw: how what it was built of is searched. What was added since is searched exactly.
    """

    kind: str
    _faiss: faiss.Index
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _added: Segment | None = field(default=None, repr=False)

    @property
    def item_count(self) -> int:
        """How many vectors there are: rows run from 0 to one less, unless vectors were added under other rows."""
        return self._faiss.ntotal + (0 if self._added is None else len(self._added.row_S))

    @property
    def width(self) -> int:
        """D of the vectors and of the queries."""
        return self._faiss.d

    def search(self, query_BD: np.ndarray, k: int, *, probe_share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest items of each query, best first: scores float32 (B, K) and item rows int64 (B, K).

        An IVF makes `probe_share` of its probes, at least `LEAST_PROBES`: a quarter is enough for the neighbours of an item, which lie
        about its own cell. Of the 85 nearest of 60,000 items in clusters as wide as they lie apart it finds .978 where all find .990.

        K is `k`, or the size of the catalogue if that is smaller. Every row is valid: where an IVF finds fewer than K in the lists it
        probes, those queries search all lists. An HNSW graph that is not connected can still find fewer; then K is what the
        poorest query found. Scores of ivf_sq8 are inner products with vectors rounded to 8 bits (about ±.01 at length one), the others'
        are float32.

        Raises:
            ValueError: the queries are not (B, D) and finite, or `k` is below 1.
        """
        query_BD = queries(query_BD, self.width)
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        added = self._added  # once: another may take its place meanwhile
        k = min(k, self._faiss.ntotal + (0 if added is None else len(added.row_S)))
        # OpenMP keeps this number per calling thread. The few queries of one request need no team: its members spin while they wait for
        # work (14 ms of a core for 5 queries, on a busy machine), and 16 request threads would start 16 teams.
        faiss.omp_set_num_threads(max(1, min(len(query_BD) // QUERIES_PER_THREAD, os.cpu_count() or 1)))
        score_BK, row_BK = self._search_built(query_BD, min(k, self._faiss.ntotal), probe_share)
        if added is not None:
            score_BS, place_BS = faiss.knn(query_BD, added.vector_SD, min(k, len(added.row_S)), metric=faiss.METRIC_INNER_PRODUCT)
            score_BK, row_BK = merged(score_BK, row_BK, score_BS, added.row_S[place_BS], k)
        found = int((row_BK >= 0).sum(1).min(initial=k))
        return score_BK[:, :found], row_BK[:, :found]

    def _search_built(self, query_BD: np.ndarray, k: int, probe_share: float) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self._faiss, faiss.IndexHNSW):
            wider = faiss.SearchParametersHNSW(efSearch=max(k, self._faiss.hnsw.efSearch))  # a shorter queue cannot hold k
            return self._faiss.search(query_BD, k, params=wider)
        if self.kind != "ivf_sq8":
            return self._take_turns(query_BD, k, None)
        least = min(LEAST_PROBES, self._faiss.nprobe)
        probes = faiss.SearchParametersIVF(nprobe=max(least, round(probe_share * self._faiss.nprobe)))
        score_BK, row_BK = self._take_turns(query_BD, k, probes)
        short_B = (row_BK < 0).any(1)
        if short_B.any():
            everywhere = faiss.SearchParametersIVF(nprobe=self._faiss.nlist)
            score_BK[short_B], row_BK[short_B] = self._take_turns(query_BD[short_B], k, everywhere)
        return score_BK, row_BK

    def _take_turns(self, query_BD: np.ndarray, k: int, params: faiss.SearchParameters | None) -> tuple[np.ndarray, np.ndarray]:
        if not _gpu_count():
            return self._faiss.search(query_BD, k, params=params)
        with self._turn:  # a GPU index shares its scratch memory between searches
            return self._faiss.search(query_BD, k, params=params)

    def add(self, vector_ND: np.ndarray, row_N: np.ndarray | None = None) -> None:
        """Have these vectors found from the next search on, under rows that follow on those there are, or under `row_N`.

        A row that was added before gets the new vector. One thread adds at a time; searches need not wait: they see all N or none.

        Raises:
            ValueError: the vectors are not (N, D) and finite, or a row is one that the index was built of, or stands twice.
        """
        vector_ND = queries(vector_ND, self.width)
        added = self._added or Segment.empty(self.width)
        first = 1 + int(added.row_S.max(initial=self._faiss.ntotal - 1))
        row_N = first + np.arange(len(vector_ND)) if row_N is None else np.asarray(row_N, np.int64)
        if row_N.shape != (len(vector_ND),) or row_N.min(initial=first) < self._faiss.ntotal or len(np.unique(row_N)) < len(row_N):
            raise ValueError(f"rows {row_N} for {len(vector_ND)} vectors; expected each once and none below {self._faiss.ntotal}")
        if len(row_N):
            self._added = added.with_rows(vector_ND, row_N)

    def save(self, path: Path | str) -> None:
        """Write one file that `open` reads on any machine, with a GPU or without; faiss's own format.

        Raises:
            ValueError: vectors were added: build an index of all.
        """
        if self._added is not None:
            raise ValueError(f"{len(self._added.row_S)} vectors were added since this index was built; build one of all to save it")
        plain = faiss.index_gpu_to_cpu(self._faiss) if _gpu_count() and self.kind != "hnsw" else self._faiss
        faiss.write_index(plain, str(path))

    @classmethod
    def open(cls, path: Path | str) -> "Index":
        """Read what `save` wrote.

        Bytes altered inside an otherwise whole file are not seen here; a release's checksum sees them.

        Raises:
            FileNotFoundError: nothing is there.
            IndexFileError: the file is cut short or is no index of one of the three kinds.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no index there; export the release again")
        try:
            plain = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise IndexFileError(
                f"{path}: not a whole index (cut short or altered); export the release again. faiss says: {reason}"
            ) from error
        match plain:
            case faiss.IndexFlatIP():
                return cls("exact", _placed(plain))
            case faiss.IndexIVFScalarQuantizer():
                return cls("ivf_sq8", _placed(plain))
            case faiss.IndexHNSWFlat():
                return cls("hnsw", plain)
        raise IndexFileError(f"{path}: holds a {type(plain).__name__}, none of exact, ivf_sq8, hnsw; export the release again")


def exact(vector_ID: np.ndarray, *, query_BD: np.ndarray | None = None) -> Index:
    """Every inner product: the judge of the others, and the choice for small catalogues and for GPUs. Of queries nothing is to be learned.

    Raises:
        ValueError: the vectors (fp16 or fp32) are not (I, D) and finite, or there are none. So do the builders below.
    """
    vector_ID = catalogue(vector_ID)
    index = _placed(faiss.IndexFlatIP(vector_ID.shape[1]))
    index.add(vector_ID)
    return Index("exact", index)


def ivf_sq8(
    vector_ID: np.ndarray,
    *,
    nlist: int | None = None,
    nprobe: int | None = None,
    train_sample: int | None = None,
    query_BD: np.ndarray | None = None,
) -> Index:
    """The fastest on a CPU: k-means cells, 8 bits a number, of which the `nprobe` nearest cells are searched.

    `nlist` is 4√I cells unless told, `train_sample` 64 vectors a cell, drawn evenly. `nprobe`, unless told, is measured: the fewest probes
    that find 99 % of the 500 nearest that all probes find, for `query_BD` (a sample of the queries to come) or, without one, for 128 of the
    items themselves. What users ask is not shaped as items are, so give queries where you have them.

    Raises:
        ValueError: more cells than vectors to learn them from, or more probes than cells.
    """
    vector_ID = catalogue(vector_ID)
    item_count = len(vector_ID)
    nlist = min(round(4 * math.sqrt(item_count)), item_count) if nlist is None else nlist
    train_sample = min(item_count, TRAIN_PER_LIST * nlist) if train_sample is None else train_sample
    if not 1 <= nlist <= train_sample <= item_count:
        raise ValueError(
            f"nlist {nlist} and train_sample {train_sample} of {item_count} vectors; expected 1 ≤ nlist ≤ train_sample ≤ vectors"
        )
    if nprobe is not None and not 1 <= nprobe <= nlist:
        raise ValueError(f"nprobe is {nprobe}; expected from 1 to nlist, {nlist}")
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    plain = faiss.index_factory(vector_ID.shape[1], f"IVF{nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
    plain.cp.min_points_per_centroid = 1  # faiss would warn of fewer than 39 on stderr; the sample is the caller's choice
    placed = _placed(plain)
    placed.train(vector_ID[_evenly(item_count, train_sample)])
    placed.add(vector_ID)
    if nprobe is None:
        nprobe = _enough_probes(placed, _sample(vector_ID, query_BD))
    placed.nprobe = nprobe
    return Index("ivf_sq8", placed)


def hnsw(
    vector_ID: np.ndarray,
    *,
    links: int = 32,
    ef_construction: int = 80,
    ef_search: int | None = None,
    query_BD: np.ndarray | None = None,
) -> Index:
    """A graph of near neighbours, walked greedily with a queue of `ef_search`; needs no training. Stays on the CPU.

    A smaller `ef_search` is quicker and finds less; a search for more than that lengthens its queue to k. Unless told it is measured: the
    first of 500, 707, 1,000, … that finds 99 % of the 500 nearest, of the same queries as for `ivf_sq8`. Where no queue is long enough,
    because the graph is not connected, the log says what is found.

    Raises:
        ValueError: a parameter below 1, or fewer than 2 links.
    """
    vector_ID = catalogue(vector_ID)
    if links < 2 or ef_construction < 1 or (ef_search is not None and ef_search < 1):
        raise ValueError(f"links {links}, ef_construction {ef_construction}, ef_search {ef_search}; expected at least 2, 1 and 1")
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    index = faiss.IndexHNSWFlat(vector_ID.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    index.add(vector_ID)
    index.hnsw.efSearch = _enough_queue(index, vector_ID, _sample(vector_ID, query_BD)) if ef_search is None else ef_search
    return Index("hnsw", index)


def automatic(vector_ID: np.ndarray, *, query_BD: np.ndarray | None = None) -> Index:
    """`exact` on a GPU or below 50,000 items, where it takes a few milliseconds; `ivf_sq8` from there on."""
    return exact(vector_ID) if _gpu_count() or len(vector_ID) < EXACT_BELOW else ivf_sq8(vector_ID, query_BD=query_BD)


def recall(index: Index, judge: Index, query_BD: np.ndarray, k: int) -> float:
    """The mean share of the `judge`'s k nearest items that `index` finds among its own k."""
    _, found_BK = index.search(query_BD, k)
    _, true_BK = judge.search(query_BD, k)
    return _share_found(found_BK, true_BK)


def _share_found(found_BK: np.ndarray, true_BK: np.ndarray) -> float:
    return float(np.mean([np.isin(true_K, found_K).mean() for true_K, found_K in zip(true_BK, found_BK, strict=True)]))


def _enough_probes(ivf: faiss.Index, query_BD: np.ndarray) -> int:
    """The fewest probes that find `PROBE_SHARE` of what all probes find. More probes never find less, so halving finds it."""
    k = min(PROBE_K, ivf.ntotal)
    _, all_BK = ivf.search(query_BD, k, params=faiss.SearchParametersIVF(nprobe=ivf.nlist))

    def enough(nprobe: int) -> bool:
        return _share_found(ivf.search(query_BD, k, params=faiss.SearchParametersIVF(nprobe=nprobe))[1], all_BK) >= PROBE_SHARE

    return 1 + bisect.bisect_left(range(1, ivf.nlist + 1), True, key=enough)


def _enough_queue(graph: faiss.IndexHNSW, vector_ID: np.ndarray, query_BD: np.ndarray) -> int:
    """The shortest queue, in steps of √2, that finds `PROBE_SHARE` of what brute force finds."""
    k = min(PROBE_K, len(vector_ID))
    _, true_BK = faiss.knn(query_BD, vector_ID, k, metric=faiss.METRIC_INNER_PRODUCT)
    queues = (min(round(PROBE_K * 2 ** (step / 2)), len(vector_ID)) for step in itertools.count())

    def share(queue: int) -> float:
        return _share_found(graph.search(query_BD, k, params=faiss.SearchParametersHNSW(efSearch=queue))[1], true_BK)

    queue = next(queue for queue in queues if queue == len(vector_ID) or share(queue) >= PROBE_SHARE)
    if queue == len(vector_ID) and (found := share(queue)) < PROBE_SHARE:
        logger.warning("hnsw finds %.3f of the %d nearest at most: its graph is not connected; build it with more links", found, k)
    return queue


def _sample(vector_ID: np.ndarray, query_BD: np.ndarray | None) -> np.ndarray:
    if query_BD is None:
        return vector_ID[_evenly(len(vector_ID), min(PROBE_QUERIES, len(vector_ID)))]
    return queries(query_BD, vector_ID.shape[1])


def _evenly(total: int, wanted: int) -> np.ndarray:
    return np.linspace(0, total - 1, wanted).astype(np.int64)


def _gpu_count() -> int:
    return faiss.get_num_gpus()


def _placed(index: faiss.Index) -> faiss.Index:
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index) if _gpu_count() else index
