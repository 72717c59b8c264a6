"""Groups to rank as batches: what `data.judgements` found, with the features that serving will compute.

Shapes: G groups · B groups of a batch · K items per group · X numbers · T tasks · L history length · D width · I catalogue.
"""

import logging
from collections.abc import Callable
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
from data.features import MOMENT, ItemClock, PackedHistory, candidate_numbers, pack, profile
from data.impressions import OPEN, Rows, observed
from data.judgements import LABELS, Judgements, retrieved, shown
from data.leaks import check_test_is_last
from data.log import Log, Queries, queries
from data.split import TEST, VALIDATION
from towers.piecewise import Spread
from towers.ranker import TASKS
from towers.ranking_batch import DURATION, Features, RankingBatch, answers_of, corrected, targets
from towers.saved import SavedRetrieval
from towers.watch_time import WatchTime

logger = logging.getLogger(__name__)


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


def held_out(part_G: np.ndarray, now_G: np.ndarray, learn_G: np.ndarray) -> np.ndarray:
    """Which of the groups to learn from are kept aside, bool (G,): the latest of the last part among them, as many as a tenth of all, but
    at most half of that part.

    They stand to the others as the test does: later. Drawn at random they would share hours and users with what was learned, and go on
    rewarding what is learned by heart; and of the last part retrieval has learned least.
    """
    last = np.flatnonzero(learn_G & (part_G == part_G[learn_G].max(initial=0)))
    count = min(-(-int(learn_G.sum()) // 10), len(last) // 2)
    held_G = np.zeros(len(learn_G), bool)
    held_G[last[np.argsort(now_G[last], kind="stable")[len(last) - count :]]] = True
    return held_G


def _rows(groups: Judgements, which_GK: np.ndarray) -> Rows:
    """Of the groups' items, what the estimators of bias ask."""
    device_GK = np.broadcast_to(groups.moment_GC[:, [MOMENT.index("device")]], which_GK.shape)
    columns = (groups.item_row_GK, groups.propensity_GK, groups.position_GK, device_GK)
    return Rows(*(column[which_GK] for column in columns))


class RankingData(L.LightningDataModule):
    """Groups to rank, from impressions where there are any, else from liked events beside retrieved negatives.

    Trains on `parts` of the split (by default the validation part, which retrieval did not learn from), holding out some to choose and to
    calibrate by (`held_out`); tests on the test part. `depth` is how many candidates retrieval proposes.
    `watch_time(second_N, log_duration_N)` makes the quantile functions of watch time from the rows to learn from.
    """

    def __init__(
        self, log: Log, *, retrieval: str, batch_size: int, depth: int, negatives: int, clock_half_life_days: float,
        bias: Bias, watch_time: Callable[[np.ndarray, np.ndarray], WatchTime], parts: tuple[int, ...], seed: int,
    ):  # fmt: skip
        super().__init__()
        self.log, self.batch_size, self.depth, self.seed, self.bias = log, batch_size, depth, seed, bias
        self.model = SavedRetrieval.open(Path(retrieval))
        self.model.check_same_items(log)
        check_test_is_last(log)
        # where a cut parts all users, the hour before a row to learn from lies before the test; elsewhere others' tests lie in the past
        self.clock: ItemClock = (log if log.split.cut_ms else log.before(TEST)).clock(half_life_days=clock_half_life_days)
        self.half_life_days = clock_half_life_days
        self.asked: Queries = queries(log, TEST)
        self._rows: dict[int, Tensor] = {}
        if len(log.split.tables.impressions):
            groups = shown(log)
        else:
            groups = self._beside_retrieved({*parts, TEST}, negatives)
        if open_groups := int((groups.part_G == OPEN).sum()):
            logger.info("groups: %s slates were shown before a cut and answered after it, and belong to no part", f"{open_groups:,}")
        self.groups = groups
        self.observed = observed(log, before=TEST)
        learn_G = np.isin(groups.part_G, parts)
        held_G = held_out(groups.part_G, groups.now_G, learn_G)
        self.fit_groups, self.choose_groups = groups.where(learn_G & ~held_G), groups.where(held_G)
        self.test_groups = groups.where(groups.part_G == TEST)
        if not len(self.fit_groups.now_G):
            raise ValueError(
                f"no group to learn from in parts {list(parts)} of the split: no slate, or no liked event whose item is among the {depth}"
                " retrieved; give task.datamodule.parts others, a split with them, or a larger task.datamodule.depth"
            )
        self._held: dict[int, RankingBatch] = {}
        told = self.features(self.fit_groups)
        row_N = self.fit_groups.item_row_GK[self.fit_groups.there_GK]
        self.query_spread = Spread.of(told.query_GD.numpy())
        self.candidate_spread = Spread.of(self.model.row_IW[torch.as_tensor(row_N), : self.model.width].float().numpy())
        self.number_spread = Spread.of(told.number_GKX.numpy()[self.fit_groups.there_GK])
        self.profile_spread = Spread.of(told.profile_GU.numpy())
        self.answers = answers_of(self.fit_groups, told.number_GKX.numpy(), watch_time)
        self.fit_batch = self.batch(self.fit_groups, told)

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

    def diagnostics(self) -> dict[str, float]:
        """What the bias leaves of the clicked rows to learn from and of those held out (`data.overlap`), by name."""
        found = {}
        for part, groups in (("train", self.fit_groups), ("val", self.choose_groups)):
            clicked = _rows(groups, groups.there_GK & (groups.label_GKY[..., LABELS.index("click")] > 0))
            found |= {f"{part}_{name}": value for name, value in self.bias.diagnosed(self.observed, clicked).numbers().items()}
        return found

    def vectors(self, part: int) -> Tensor:
        """Retrieval vectors (I, D) as they stood before `part` began (for the training part: as it ended)."""
        if part not in self._rows:
            self._rows[part] = self.model.rows_after(self.log.before(max(part, VALIDATION)))[:, self.model.width :].float()
        return self._rows[part]

    def features(self, groups: Judgements, *, block: int = 2048) -> Features:
        """What the ranker is told of every group: queries by the served user tower, profiles and numbers by `data.features`."""
        rows = np.arange(len(groups.now_G))
        blocks = [self._features(groups.where(rows[start : start + block])) for start in range(0, max(len(rows), 1), block)]
        return Features(*(torch.cat(columns) for columns in zip(*blocks, strict=True)))

    def _features(self, groups: Judgements) -> Features:
        """The dot product is of the vectors as they are served (float16 rows), just before the group's part."""
        history = history_at(self.log, groups.start_G, groups.end_G, groups.now_G, self.model.history_length)
        query_GD = ask(self.model, history, groups.moment_GC)
        dot_GK = torch.zeros(groups.item_row_GK.shape)
        for part in np.unique(groups.part_G):
            vector_ID, mine = self.vectors(int(part)), np.flatnonzero(groups.part_G == part)
            dot_GK[mine] = torch.einsum("gd,gkd->gk", query_GD[mine], vector_ID[torch.as_tensor(groups.item_row_GK[mine])])
        number_GKX = candidate_numbers(
            dot_BK=dot_GK.numpy(), item_row_BK=groups.item_row_GK, history=history, now_B=groups.now_G, clock=self.clock, **self.of_items()
        )
        return Features(query_GD, torch.as_tensor(profile(history, self.log.catalogue.genre_IG)), torch.as_tensor(number_GKX))

    def of_items(self) -> dict[str, np.ndarray]:
        """What `candidate_numbers` asks of the catalogue."""
        names = ("genre_IG", "tag_IT", "release_day_I", "duration_seconds_I")
        return {name: getattr(self.log.catalogue, name) for name in names}

    def batch(self, groups: Judgements, told: Features) -> RankingBatch:
        """Groups with their features, targets and weights."""
        there = torch.as_tensor(groups.there_GK)
        label_GKY, log_duration_N = torch.as_tensor(groups.label_GKY), told.number_GKX[there][:, DURATION].contiguous()
        place_NT = targets(label_GKY[there], log_duration_N, self.answers)
        nothing_NY = torch.zeros_like(label_GKY[there])
        nothing_NT = targets(nothing_NY, log_duration_N, self.answers)
        chances = self.bias.chances(self.observed, _rows(groups, groups.there_GK))
        imputed_N = torch.zeros(len(place_NT))
        if self.bias.imputation is not None:
            number_NX, group_N = told.number_GKX[there].numpy(), np.nonzero(groups.there_GK)[0]
            weight_N = self.bias.weigh(chances.exposure_N)
            slope_offset = (chances.slope_N, chances.offset_N)
            imputed_N = torch.as_tensor(self.bias.imputation(number_NX, place_NT[:, 0].numpy(), *slope_offset, weight_N, group_N))
        target_GKT, weight_GKT = torch.full((*there.shape, len(TASKS)), torch.nan), torch.zeros(*there.shape, len(TASKS))
        target_GKT[there], weight_GKT[there] = corrected(place_NT, nothing_NT, chances, imputed_N, self.bias)
        user_row_G, moment_GC, item_row_GK = (torch.as_tensor(array) for array in (groups.user_row_G, groups.moment_GC, groups.item_row_GK))
        return RankingBatch(
            user_row_G, told.query_GD, moment_GC, told.profile_GU, item_row_GK, told.number_GKX, there, label_GKY, target_GKT, weight_GKT
        )

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
            groups = {VALIDATION: self.choose_groups, TEST: self.test_groups}[part]
            self._held[part] = RankingBatch(*(column.to(device) for column in self.batch(groups, self.features(groups))))
        return self._held[part]

    def transfer_batch_to_device(self, batch: NamedTuple, device: torch.device, dataloader_idx: int) -> NamedTuple:
        """Nothing to do: batches are cut on the device."""
        return batch
