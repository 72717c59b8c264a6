"""Groups to rank as batches: what `data.judgements` found, with the features that serving will compute.

Shapes: G groups · B groups of a batch · K items per group · X numbers · Y labels · L history length · D width · I catalogue.
"""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.bias import Bias
from data.datamodule import Batches, shuffled, whole_part
from data.features import MOMENT, ItemClock, PackedHistory, candidate_numbers, pack
from data.impressions import Rows, observed
from data.judgements import Judgements, retrieved, shown
from data.log import Log, Queries, queries
from data.split import TEST, VALIDATION
from towers.saved import SavedRetrieval

logger = logging.getLogger(__name__)


class RankingBatch(NamedTuple):
    """B groups: query (B, D), moment (B, C), item rows (B, K), numbers (B, K, X), labels (B, K, 3; NaN unknown), weights (B, K; 0 pads)."""

    query_BD: Tensor
    moment_BC: Tensor
    item_row_BK: Tensor
    number_BKX: Tensor
    label_BKY: Tensor
    weight_BK: Tensor


def history_at(log: Log, start_G: np.ndarray, end_G: np.ndarray, now_G: np.ndarray, length: int) -> PackedHistory:
    """The histories of many moments of one log."""
    return pack(log.item_row_E, log.event_code_E, log.timestamp_E, start_B=start_G, end_B=end_G, now_B=now_G, length=length)


@torch.no_grad()
def ask(model: SavedRetrieval, history: PackedHistory, moment_GC: np.ndarray, *, block: int = 4096) -> Tensor:
    """Query vectors (G, D) of the served user tower, on the CPU."""
    row_BL, code_BL, age_BL = (torch.as_tensor(array) for array in history.arrays())
    moment = torch.as_tensor(moment_GC)
    input_ID = model.row_IW[:, : model.width]
    blocks = [slice(start, start + block) for start in range(0, len(moment), block)]
    answers = [model.user_tower(input_ID[row_BL[rows]], code_BL[rows], age_BL[rows], moment[rows]) for rows in blocks]
    return torch.cat(answers) if answers else torch.zeros(0, model.width)


class RankingData(L.LightningDataModule):
    """Groups to rank, from impressions where there are any, else from liked events beside retrieved negatives.

    Trains on `parts` of the split (by default the validation part, which retrieval did not learn from), holding out every tenth group to
    choose by; tests on the test part. `depth` is how many candidates retrieval proposes.
    """

    def __init__(
        self, log: Log, *, retrieval: str, batch_size: int, depth: int, negatives: int, clock_half_life_days: float,
        bias: Bias, parts: tuple[int, ...], seed: int,
    ):  # fmt: skip
        super().__init__()
        self.log, self.batch_size, self.depth, self.seed, self.bias = log, batch_size, depth, seed, bias
        self.model = SavedRetrieval.open(Path(retrieval))
        self.model.check_same_items(log)
        self.clock: ItemClock = log.clock(half_life_days=clock_half_life_days)
        self.half_life_days = clock_half_life_days
        self.asked: Queries = queries(log, TEST)
        self._rows: dict[int, Tensor] = {}
        if len(log.split.tables.impressions):
            groups = shown(log)
        else:
            groups = self._beside_retrieved({*parts, TEST}, negatives)
        self.groups = groups
        self.observed = observed(log, before=TEST)
        learn_G = np.isin(groups.part_G, parts)
        held_G = learn_G & (np.arange(len(learn_G)) % 10 == 0)
        self.fit_groups, self.choose_groups = groups.where(learn_G & ~held_G), groups.where(held_G)
        self.test_groups = groups.where(groups.part_G == TEST)
        if not len(self.fit_groups.now_G):
            raise ValueError(
                f"no group to learn from in parts {list(parts)} of the split: no slate, or no liked event whose item is among the {depth}"
                " retrieved; give task.datamodule.parts others, a split with them, or a larger task.datamodule.depth"
            )
        self._held: dict[int, RankingBatch] = {}
        self.fit_batch = self.tensors(self.fit_groups)
        self.number_mean, self.number_std = self._scale(self.fit_batch.number_BKX, self.fit_groups.there_GK)

    def _beside_retrieved(self, parts: set[int], negatives: int) -> Judgements:
        event = np.sort(np.concatenate([self.log.liked(part) for part in parts]))
        log, depth = self.log, min(self.depth, len(self.model.row_IW))
        start, now = log.offset_U1[log.user_row_E[event]], log.timestamp_E[event]
        query_ND = ask(self.model, history_at(log, start, event, now, self.model.history_length), log.moment_EC[event])
        proposal_NK = np.zeros((len(event), depth), np.int64)
        for part in parts:
            vector_ID = self.vectors(part)
            mine = np.flatnonzero(log.part_E[event] == part)
            for rows in np.split(mine, range(512, len(mine), 512)):
                proposal_NK[rows] = (query_ND[rows] @ vector_ID.T).topk(depth, dim=1).indices.numpy()
        groups = retrieved(log, proposal_NK, event, negatives=negatives, seed=self.seed)
        logger.info(
            "groups: %s of %s liked events, those whose item stands among %s retrieved", f"{len(groups.now_G):,}", f"{len(event):,}", depth
        )
        return groups

    def vectors(self, part: int) -> Tensor:
        """Retrieval vectors (I, D) as they stood before `part` began (for the training part: as it ended)."""
        if part not in self._rows:
            self._rows[part] = self.model.rows_after(self.log.before(max(part, VALIDATION)))[:, self.model.width :].float()
        return self._rows[part]

    def tensors(self, groups: Judgements) -> RankingBatch:
        """Every group with its features: queries by the served user tower, numbers by `data.features.candidate_numbers`."""
        history = history_at(self.log, groups.start_G, groups.end_G, groups.now_G, self.model.history_length)
        query_GD = ask(self.model, history, groups.moment_GC)
        number = self.numbers(query_GD, history, groups)
        there = groups.there_GK
        device_GK = np.broadcast_to(groups.moment_GC[:, [MOMENT.index("device")]], there.shape)
        weight_GK = np.zeros(there.shape, np.float32)
        weight_GK[there] = self.bias.click_weight(
            self.observed, Rows(groups.item_row_GK[there], groups.propensity_GK[there], groups.position_GK[there], device_GK[there])
        )
        columns = (groups.moment_GC, groups.item_row_GK, number, groups.label_GKY, weight_GK)
        return RankingBatch(query_GD, *(torch.as_tensor(column) for column in columns))

    def numbers(self, query_GD: Tensor, history: PackedHistory, groups: Judgements) -> np.ndarray:
        """(G, K, X) float32; the dot product is of the vectors as they are served (float16 rows), just before the group's part."""
        dot_GK = torch.zeros(groups.item_row_GK.shape)
        for part in np.unique(groups.part_G):
            vector_ID, mine = self.vectors(int(part)), np.flatnonzero(groups.part_G == part)
            for rows in np.split(mine, range(2048, len(mine), 2048)):
                dot_GK[rows] = torch.einsum("gd,gkd->gk", query_GD[rows], vector_ID[torch.as_tensor(groups.item_row_GK[rows])])
        catalogue = self.log.catalogue
        return candidate_numbers(
            dot_BK=dot_GK.numpy(), item_row_BK=groups.item_row_GK, history=history, now_B=groups.now_G, clock=self.clock,
            genre_IG=catalogue.genre_IG, release_day_I=catalogue.release_day_I,
        )  # fmt: skip

    @staticmethod
    def _scale(number_GKX: Tensor, there_GK: np.ndarray) -> tuple[Tensor, Tensor]:
        flat = number_GKX[torch.as_tensor(there_GK)]
        return flat.mean(0), flat.std(0).clamp_min(1e-3)

    def train_dataloader(self) -> Batches:
        """This epoch's batches of groups, on the trainer's device."""
        device, trainer = self.trainer.strategy.root_device, self.trainer
        table = RankingBatch(*(column.to(device) for column in self.fit_batch))
        return Batches(
            torch.arange(len(table.query_BD), device=device), lambda row_B: RankingBatch(*(column[row_B] for column in table)),
            order=partial(shuffled, torch.arange(len(table.query_BD))), batch_size=self.batch_size, seed=self.seed,
            epoch=trainer.current_epoch, rank=trainer.global_rank, ranks=trainer.world_size,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        """The held-out groups as one batch: the number of the validation part, for `held`."""
        return whole_part(VALIDATION, there=bool(len(self.choose_groups.now_G)))

    def test_dataloader(self) -> DataLoader:
        """The groups of the test part as one batch: its number, for `held`."""
        return whole_part(TEST, there=True)

    def held(self, part: int, device: torch.device) -> RankingBatch:
        """All groups to choose by (VALIDATION) or to test on (TEST), with their features, on `device`."""
        if part not in self._held:
            groups = self.tensors({VALIDATION: self.choose_groups, TEST: self.test_groups}[part])
            self._held[part] = RankingBatch(*(column.to(device) for column in groups))
        return self._held[part]

    def transfer_batch_to_device(self, batch: NamedTuple, device: torch.device, dataloader_idx: int) -> NamedTuple:
        """Nothing to do: batches are cut on the device."""
        return batch
