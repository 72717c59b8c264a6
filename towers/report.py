"""The figures and the table a run leaves in MLflow.

Plain numbers in, a Matplotlib Figure out, for `mlflow.log_figure`. Figures are made without pyplot, which would keep
every one of them alive and choose a backend for the whole process.

Shape letters: U evaluated users · K list depth · I catalogue · D width.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from towers.evaluation import Ranking
from towers.metrics import Interval
from towers.reliability import Reliability

_Key = TypeVar("_Key", str, int)
_SURFACE, _INK, _QUIET, _REST = "#ffffff", "#1f2430", "#6b7280", "#c9ced6"
_HUES = ("#3366cc", "#dc7633", "#2a9d8f", "#b5446e", "#8a6fc9", "#7a8b2e", "#c2a23a", "#4aa3c7")


def _axes(title: str, x_label: str, y_label: str, *, width_in: float = 6.4, height_in: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), dpi=120, facecolor=_SURFACE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=_INK, fontsize=11)
    axes.set_xlabel(x_label, color=_QUIET)
    axes.set_ylabel(y_label, color=_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_REST)
    axes.tick_params(colors=_QUIET)
    axes.grid(axis="y", color=_REST, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def recall_by_k(ks: Sequence[int], recall_by_model: Mapping[str, Sequence[float]]) -> Figure:
    """Recall against k, one line per model; k on a logarithmic axis, since the top matters most."""
    figure, axes = _axes("Recall by list length", "k", "recall@k")
    for place, (model, values) in enumerate(recall_by_model.items()):
        if len(values) != len(ks):
            raise ValueError(f"recall_by_k: {model!r} has {len(values)} values for {len(ks)} ks.")
        axes.plot(ks, values, color=_HUES[place % len(_HUES)], marker="o", markersize=4, linewidth=2, label=model)
    axes.set_xscale("log")
    axes.set_xticks(list(ks), [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    if len(recall_by_model) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    return figure


def metric_by_popularity_decile(metric: str, interval_by_decile: Mapping[int, Interval], users_by_decile: Mapping[int, int]) -> Figure:
    """A metric by the popularity decile of the target: 1 the rarest tenth of the items, 10 the most popular, 0 cold.

    Deciles that are absent had no target; bars carry their bootstrap interval and the number of users.
    """
    names = {decile: "cold" if decile == 0 else str(decile) for decile in sorted(interval_by_decile)}
    title = f"{metric} by popularity of the target"
    return _bars(title, "popularity decile of the target", metric, names, interval_by_decile, users_by_decile)


def metric_by_history_length(metric: str, interval_by_slice: Mapping[str, Interval], users_by_slice: Mapping[str, int]) -> Figure:
    """A metric by how many items the user had in training; slices as `metrics.history_slices` names them, in the order given."""
    names = {name: name.removeprefix("history_").replace("_up", "+").replace("_", "–") for name in interval_by_slice}
    title = f"{metric} by length of history"
    return _bars(title, "items in the training history", metric, names, interval_by_slice, users_by_slice)


def _bars(
    title: str,
    x_label: str,
    metric: str,
    names: Mapping[_Key, str],
    interval_by_key: Mapping[_Key, Interval],
    users_by_key: Mapping[_Key, int],
) -> Figure:
    figure, axes = _axes(title, x_label, metric)
    for place, key in enumerate(names):
        mean, low, high = interval_by_key[key]
        axes.bar(place, mean, width=0.7, color=_HUES[0])
        axes.errorbar(place, mean, yerr=[[mean - low], [high - mean]], color=_INK, linewidth=1, capsize=3)
        axes.annotate(f"{users_by_key[key]:,}", (place, high), (0, 4), textcoords="offset points", ha="center", color=_QUIET, fontsize=8)
    axes.set_xticks(range(len(names)), list(names.values()))
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    return figure


def frontier_figure(title: str, point_by_line: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Mean relevance against mean intra-list distance: a line per chooser of slates, of points (distance, relevance, λ), its ends named."""
    figure, axes = _axes(title, "mean intra-list distance, 1 − cosine", "mean relevance of the slate")
    for hue, (name, points) in zip(_HUES, point_by_line.items(), strict=False):
        distance, relevance, lambdas = zip(*points, strict=True)
        axes.plot(distance, relevance, color=hue, marker="o", markersize=4, linewidth=2, label=name)
        for end in (0, -1):
            axes.annotate(
                f"λ = {lambdas[end]:g}", (distance[end], relevance[end]), (4, 4), textcoords="offset points", color=hue, fontsize=8
            )
    axes.legend(frameon=False, labelcolor=_INK)
    return figure


def reliability_diagram(reliability_by_name: Mapping[str, Reliability], *, of: str) -> Figure:
    """The share that came true against the probability that was said, logarithmic, with intervals; on the diagonal a model means what it
    says, below it promises too much. A bin in which nothing came true stands as an open triangle at the foot."""
    figure, axes = _axes(f"Does it come true as often as said? ({of})", "predicted probability", "share that came true", height_in=4.6)
    said, seen = (torch.cat([part[column] for part in reliability_by_name.values()]) for column in (0, 1))
    least = float(torch.cat([said[said > 0], seen[seen > 0]]).min()) / 2
    most = min(1.0, 2 * float(torch.cat([said, seen]).max()))
    axes.plot([least, most], [least, most], color=_REST, linewidth=1.5, zorder=1)
    for hue, (name, part) in zip(_HUES, reliability_by_name.items(), strict=False):
        predicted_b, observed_b, low_b, high_b, events_b = (column.numpy() for column in part)
        there = observed_b > 0
        ends = [(observed_b - low_b)[there], (high_b - observed_b)[there]]
        label = f"{name}: {int(events_b.sum()):,} came true"
        axes.errorbar(predicted_b[there], observed_b[there], yerr=ends, color=hue, marker="o", markersize=4, capsize=3, label=label)
        axes.scatter(predicted_b[~there], [least] * int((~there).sum()), marker="^", facecolors="none", edgecolors=hue, clip_on=False)
    for scale, limits in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
        scale("log")
        limits(least, most)
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    return figure


def plane(vector_ID: Tensor) -> Tensor:
    """The two directions of greatest variance, (I, 2) float32: PCA, each axis signed so that its largest loading is positive."""
    centred_ID = vector_ID.detach().float().cpu()
    centred_ID = centred_ID - centred_ID.mean(0)
    _, axis_DD = torch.linalg.eigh(centred_ID.T @ centred_ID)
    axis_D2 = axis_DD[:, -2:].flip(1)
    sign_2 = axis_D2.gather(0, axis_D2.abs().argmax(0, keepdim=True)).sign()
    return centred_ID @ (axis_D2 * sign_2)


def embedding_map_by_label(vector_ID: Tensor, label_I: Sequence[str | None], *, labels_shown: int = 8) -> Figure:
    """Item vectors on their principal plane, coloured by a label (the first genre); rarer labels and None are grey."""
    _check_aligned("label_I", len(label_I), len(vector_ID))
    if not 0 <= labels_shown <= len(_HUES):
        raise ValueError(f"embedding_map_by_label: labels_shown is {labels_shown}; there are {len(_HUES)} colours that can be told apart.")
    point_I2 = plane(vector_ID).numpy()
    label_I = np.array([label or "" for label in label_I])
    names, counts = np.unique(label_I[label_I != ""], return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:labels_shown]
    figure, axes = _axes("Item embeddings by label", "1st principal direction", "2nd", width_in=7.6, height_in=5.6)
    rest_I = ~np.isin(label_I, shown)
    axes.scatter(*point_I2[rest_I].T, s=5, color=_REST, linewidths=0, label="other", rasterized=True)
    for hue, name in zip(_HUES, shown, strict=False):
        axes.scatter(*point_I2[label_I == name].T, s=6, color=hue, linewidths=0, alpha=0.75, label=name, rasterized=True)
    axes.grid(False)
    axes.legend(frameon=False, labelcolor=_INK, markerscale=3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def embedding_map_by_popularity(vector_ID: Tensor, train_count_I: Tensor) -> Figure:
    """Item vectors on their principal plane, darker where training saw the item more often (logarithmic)."""
    _check_aligned("train_count_I", len(train_count_I), len(vector_ID))
    point_I2 = plane(vector_ID).numpy()
    count_I = train_count_I.detach().cpu().numpy()
    order_I = np.argsort(count_I, kind="stable")  # popular items are drawn last, on top
    figure, axes = _axes("Item embeddings by popularity", "1st principal direction", "2nd", width_in=7.6, height_in=5.6)
    points = axes.scatter(*point_I2[order_I].T, s=6, c=np.log10(1 + count_I[order_I]), cmap="viridis_r", linewidths=0, rasterized=True)
    axes.grid(False)
    figure.colorbar(points, ax=axes, label="log10(1 + training events)")
    return figure


def topk_frame(user_ids: Sequence[str] | pl.Series, item_ids: Sequence[str] | pl.Series, ranking: Ranking) -> pl.DataFrame:
    """The lists of a ranking as `test_topk.parquet` holds them: user_id, item_ids, scores, best first, one row per user.

    `user_ids[row]` and `item_ids[row]` are the vocabularies: the ids of every user_row and item_row. A list is shorter
    than the ranking's depth where a user's items ran out.
    """
    item_row_UK = ranking.top_item_row_UK.cpu().numpy()
    item_id = pl.Series(item_ids, dtype=pl.String).gather(np.maximum(item_row_UK, 0).ravel())
    score = pl.Series(ranking.top_score_UK.cpu().numpy().ravel())
    padded = pl.DataFrame(
        {
            "user_id": pl.Series(user_ids, dtype=pl.String).gather(ranking.user_row_U.cpu().numpy()),
            "item_ids": item_id.reshape((-1, ranking.depth)).arr.to_list(),
            "scores": score.reshape((-1, ranking.depth)).arr.to_list(),
            "length": (item_row_UK >= 0).sum(1),
        }
    )
    return padded.select("user_id", pl.col("item_ids", "scores").list.head(pl.col("length")))


def _check_aligned(name: str, length: int, item_count: int) -> None:
    if length != item_count:
        raise ValueError(f"{name} has {length} entries for {item_count} item vectors; expected one each.")
