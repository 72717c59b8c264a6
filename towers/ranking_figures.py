"""How well a ranker answers for groups whose outcomes are known: figures of each head, of its calibration, and of value.

Shapes: B groups · K items per group · T tasks · H heads · N items that are there · P pairs.
"""

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from data.judgements import LABELS
from towers.metrics import bootstrap_difference, calibration_error, grouped_auc, log_loss, mean_absolute_error
from towers.ranker import HEADS, TASKS
from towers.ranking_batch import RankingBatch
from towers.reliability import Reliability, reliability


def judged(logit_BKT: Tensor, answer_BKH: Tensor, batch: RankingBatch, worth_BK: Tensor) -> dict[str, float]:
    """The figures of a batch: logits before calibration, the ranker's answers, and what each item turned out to be worth (NaN unknown).

    click, complete, skip: AUC over all, within groups (`gauc`) and within users (`user_gauc`), log loss, calibration error of the answer
    and of the bare logit (`_before`). watch: mean absolute error in seconds, and XAUC. rating: root mean squared error in its own unit.
    value and click: NDCG within groups. A figure is left out where nothing is there to judge it by.
    """
    there = batch.there_BK
    label = dict(zip(LABELS, batch.label_BKY.masked_fill(~there[..., None], torch.nan).unbind(-1), strict=True))
    answer = dict(zip(HEADS, answer_BKH.unbind(-1), strict=True))
    figures = {}
    for name in ("click", "complete", "skip"):
        logit_BK = logit_BKT[..., TASKS.index(name)]
        figures |= of_order(name, logit_BK, label[name], batch.user_row_B) | of_probability(name, logit_BK, answer[name], label[name])
    for name in ("watch_seconds", "rating"):
        known = ~label[name].isnan()
        if known.any():
            figures |= of_amount(name, answer[name][known].cpu(), label[name][known].cpu())
    for name, gain_BK in (("value", worth_BK.masked_fill(~there, torch.nan)), ("click", label["click"])):
        ndcg_G = graded_ndcg(answer[name], gain_BK)
        figures |= {f"{name}_ndcg": float(ndcg_G.mean())} if len(ndcg_G) else {}
    return figures


def reliable(answer_BKH: Tensor, batch: RankingBatch) -> dict[str, Reliability]:
    """The reliability of every head that answers with a probability, over the items whose outcome is known; none where nothing happened."""
    told = {}
    for name in ("click", "complete", "skip"):
        label_BK = batch.label_BKY[..., LABELS.index(name)]
        known = batch.there_BK & ~label_BK.isnan()
        if bool((label_BK[known] > 0).any()):
            told[name] = reliability(answer_BKH[..., HEADS.index(name)][known].cpu(), label_BK[known].cpu())
    return told


def beside_retrieval(value_BK: Tensor, dot_BK: Tensor, batch: RankingBatch, worth_BK: Tensor) -> dict[str, float]:
    """How well retrieval's own order of what was shown does, and how far the ranker leads: NDCG within groups, with 95 % intervals."""
    worth_BK = worth_BK.masked_fill(~batch.there_BK, torch.nan)
    click_BK = batch.label_BKY[..., 0].masked_fill(~batch.there_BK, torch.nan)
    order = of_order("click", dot_BK, click_BK, batch.user_row_B)
    figures = {f"retrieval_alone/{name}": value for name, value in order.items()}
    for name, gain_BK in (("value_ndcg", worth_BK), ("click_ndcg", click_BK)):
        mine_G, theirs_G = graded_ndcg(value_BK, gain_BK), graded_ndcg(dot_BK, gain_BK)
        if len(mine_G):
            lead = bootstrap_difference(mine_G, theirs_G)
            figures |= {f"retrieval_alone/{name}": float(theirs_G.mean())}
            figures |= {f"lead_over_retrieval/{name}{end}": value for end, value in zip(("", "_low", "_high"), lead, strict=True)}
    return figures


def of_order(name: str, score_BK: Tensor, label_BK: Tensor, user_row_B: Tensor) -> dict[str, float]:
    """AUC over all, within groups and within users, of labels 0, 1 or NaN; each where anybody has both labels."""
    known = ~label_BK.isnan()
    score, label = score_BK[known].cpu(), label_BK[known].cpu()
    group_B = torch.arange(len(known), device=known.device)
    owners = {"auc": torch.zeros_like(group_B), "gauc": group_B, "user_gauc": user_row_B}
    figures = {}
    for kind, owner_B in owners.items():
        owner_N = owner_B[:, None].expand_as(known)[known].cpu()
        positive, negative = owner_N[label > 0].unique(), owner_N[label == 0].unique()
        if torch.isin(positive, negative).any():  # where every request showed one item, none has an order
            figures[f"{name}_{kind}"] = grouped_auc(score, label, owner_N).value
    return figures


def of_probability(name: str, logit_BK: Tensor, probability_BK: Tensor, label_BK: Tensor) -> dict[str, float]:
    """Log loss and calibration of a head that answers with a probability; `label_BK` is 0, 1 or NaN. Only the log loss where all are the
    same."""
    known = ~label_BK.isnan()
    logit, probability, label = (column[known].cpu() for column in (logit_BK, probability_BK, label_BK))
    if not len(label):
        return {}
    loss = {f"{name}_log_loss": log_loss(torch.logit(probability.double()), label)}
    if label.min() == label.max():
        return loss
    return loss | {
        f"{name}_calibration_error": calibration_error(probability, label),
        f"{name}_calibration_error_before": calibration_error(logit.sigmoid(), label),
    }


def of_amount(name: str, answer_N: Tensor, label_N: Tensor) -> dict[str, float]:
    """Figures of watch time or rating: `watch_mae_seconds` and `watch_xauc`, or `rating_rmse`."""
    if name == "rating":
        return {"rating_rmse": float((answer_N.double() - label_N.double()).square().mean().sqrt())}
    ordered = {"watch_xauc": xauc(answer_N, label_N)} if label_N.min() < label_N.max() else {}
    return ordered | {"watch_mae_seconds": mean_absolute_error(answer_N, label_N)}


def xauc(answer_N: Tensor, amount_N: Tensor) -> float:
    """Of the pairs whose amounts differ, the share that the answers put in the same order, ties half (Zhan et al., KDD 2022).

    From Kendall's τ_b, which counts pairs in N log N: P(same order) − P(opposite) = τ_b · √(P_answers / P_amounts), where P are the pairs
    that differ.

    Raises:
        ValueError: no two amounts differ.
    """
    answer_N, amount_N = answer_N.double().cpu().numpy(), amount_N.double().cpu().numpy()
    differ_answer, differ_amount = (_pairs_that_differ(column_N) for column_N in (answer_N, amount_N))
    if not differ_amount:
        raise ValueError(f"xauc: all {len(amount_N)} amounts are the same, so there is no pair to order.")
    if not differ_answer:
        return 0.5
    return float(0.5 + kendalltau(answer_N, amount_N).statistic * (differ_answer / differ_amount) ** 0.5 / 2)


def _pairs_that_differ(column_N: np.ndarray) -> float:
    count = np.unique(column_N, return_counts=True)[1].astype(np.float64)
    return (len(column_N) ** 2 - (count**2).sum()) / 2


def graded_ndcg(score_BK: Tensor, gain_BK: Tensor) -> Tensor:
    """Σ gain / log2(1 + rank) over its greatest possible, of each group whose known gains differ, (G,). A gain of NaN is not there.

    Gains as they are, to the last rank (Järvelin & Kekäläinen, TOIS 2002).
    """
    known_BK = ~gain_BK.isnan()
    gain_BK = gain_BK.nan_to_num().double()
    low, high = gain_BK.masked_fill(~known_BK, torch.inf).amin(1), gain_BK.masked_fill(~known_BK, -torch.inf).amax(1)
    judged_B = high > low
    gain_BK, known_BK = gain_BK[judged_B], known_BK[judged_B]
    discount_K = 1 / torch.log2(torch.arange(2, gain_BK.shape[1] + 2, dtype=torch.float64, device=gain_BK.device))
    order_BK = score_BK[judged_B].masked_fill(~known_BK, -torch.inf).argsort(dim=1, descending=True, stable=True)
    best_BK = gain_BK.masked_fill(~known_BK, 0).sort(dim=1, descending=True).values
    return (gain_BK.gather(1, order_BK) @ discount_K) / (best_BK @ discount_K)
