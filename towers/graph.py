"""Items by the graph of who liked what, and a user as the sum of what they liked: light graph convolution (LightGCN, He et al. 2020,
arXiv 2002.02126) without an embedding for each user, so that it answers strangers.

Shapes: B rows · L history · D width · C moment columns · I catalogue · N flattened events.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from data.datamodule import RetrievalBatch
from data.features import LIKED_OF_CODE
from data.log import Log
from data.split import TRAIN
from towers.two_tower import PRIOR_SCALE, beside, taste_of


class ItemGraph(nn.Module):
    """Rows of items and those of their neighbours: D_item^-½ · Σ over 0 ≤ k ≤ `hops` of Pᵏ·row, where P = NᵀN and
    N = D_user^-γ/2 · R · D_item^-½ of the liked events R of a training log, (U, I), with γ = `user_power`.

    A hop goes from an item to whoever liked it and on to what else they liked: with γ = 1, two of LightGCN's layers, and the plain sum
    over a history is what its user's row is there, but for its length. There all that a user liked weighs as much as all that another
    did; a lower γ lets those who liked more say more of what goes together (LinkProp, Fu et al. 2022, arXiv 2203.15789, chooses it too).

    Raises:
        ValueError: `hops` below 0.
    """

    def __init__(self, *, log: Log, hops: int, user_power: float):
        super().__init__()
        if hops < 0:
            raise ValueError(f"hops is {hops}; expected 0 (each item by itself) or more")
        self.hops = hops
        liked_E = log.liked(TRAIN)
        user_row_E, item_row_E = log.user_row_E[liked_E], log.item_row_E[liked_E]
        count_I = log.item_count()
        share_E = (np.bincount(user_row_E)[user_row_E] ** user_power * count_I[item_row_E]) ** -0.5
        shape = (len(log.user_ids), len(count_I))
        graph_UI = csr_array((share_E.astype(np.float32), (user_row_E, item_row_E)), shape=shape)
        self.register_buffer("share_I1", torch.as_tensor(np.maximum(count_I, 1)[:, None] ** -0.5, dtype=torch.float32), persistent=False)
        self.graph_UI, self.graph_IU = _Sparse(graph_UI), _Sparse(graph_UI.T.tocsr())

    def forward(self, row_ID: Tensor) -> Tensor:
        """(I, D) → (I, D)."""
        total_ID = row_ID
        graph_UI, graph_IU = self.graph_UI(), self.graph_IU()
        for _ in range(self.hops):
            row_ID = _Hop.apply(row_ID, graph_UI, graph_IU)
            total_ID = total_ID + row_ID
        return self.share_I1 * total_ID


class _Sparse(nn.Module):
    """A sparse matrix kept as its three parts, which unlike it can be copied, moved and saved like any other tensors."""

    def __init__(self, matrix: csr_array):
        super().__init__()
        self.shape = matrix.shape
        self.register_buffer("start", torch.as_tensor(matrix.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("column", torch.as_tensor(matrix.indices.astype(np.int64)), persistent=False)
        self.register_buffer("value", torch.as_tensor(matrix.data), persistent=False)

    def forward(self) -> Tensor:
        """The matrix."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
            return torch.sparse_csr_tensor(self.start, self.column, self.value, size=self.shape)


class _Hop(torch.autograd.Function):
    """P = NᵀN is symmetric, so its gradient is itself; PyTorch would transpose N anew at each step."""

    @staticmethod
    def forward(ctx, row_ID, graph_UI, graph_IU):
        ctx.graph = graph_UI, graph_IU
        return graph_IU @ (graph_UI @ row_ID)

    @staticmethod
    def backward(ctx, grad_ID):
        graph_UI, graph_IU = ctx.graph
        return graph_IU @ (graph_UI @ grad_ID), None, None


class SumTower(nn.Module):
    """A user is the sum of the rows of what they liked: no weights of its own, so whoever likes a first thing has a query.

    Trained with `data.datamodule.WholeLists` and `towers.asking.every_list`, each user is asked for all they liked by all they liked, as
    LightGCN asks. `users`, `moment_sizes`, ages and moments are told to every user tower and not used here.

    Popularity columns count for all alike, as a prior of power `popularity` at a temperature of 0.1. It is not learned: what a model has
    seen it fits by itself, and so learns too little of how much popularity says of what it has not seen. Validation may choose it.
    """

    def __init__(self, *, width: int, moment_sizes: tuple[int, ...], users: int, priors: int, norm: nn.Module, popularity: float):
        super().__init__()
        self.taste = width - priors
        self.norm = norm
        self.register_buffer("prior", torch.full((priors,), popularity * 0.1 / PRIOR_SCALE / max(priors, 1)))
        self.register_buffer("liked", torch.as_tensor(LIKED_OF_CODE), persistent=False)

    def forward(self, history: Tensor, event_code: Tensor, age_minutes: Tensor, moment: Tensor) -> Tensor:
        """Query (B, D) from item inputs (B, L, D) and event codes (B, L; 0 pads)."""
        liked_BL = self.liked[event_code].to(self.prior.dtype)
        return self.query(torch.bmm(liked_BL.unsqueeze(1), history.to(liked_BL.dtype)).squeeze(1))

    def query(self, sum_BD: Tensor) -> Tensor:
        """Queries (B, D) of sums (B, D)."""
        return beside(self.norm(taste_of(sum_BD, self.taste)), self.prior.expand(len(sum_BD), -1))

    @torch.jit.unused
    def ask(self, batch: RetrievalBatch, input_RD: Tensor, history_BL: Tensor) -> Tensor:
        """Queries (B, D) of a batch whose history stands at places `history_BL` of `input_RD`; most cells of a long one are empty."""
        row_N, cell_N = self.liked[batch.event_code_BL].nonzero(as_tuple=True)
        sum_BD = input_RD.new_zeros(len(history_BL), input_RD.shape[1])
        return self.query(sum_BD.index_add(0, row_N, F.embedding(history_BL[row_N, cell_N], input_RD)))

    @torch.jit.unused
    def tables(self) -> list[nn.Parameter]:
        """Tables looked up sparsely: none."""
        return []
