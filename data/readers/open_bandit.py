"""The Open Bandit Dataset, official layout: what two policies of a fashion shop showed, with which probability, and what was clicked.

`<policy>/<campaign>/<campaign>.csv` beside `item_context.csv`, policies `bts` (Bernoulli Thompson sampling) and `random` (even), campaigns
all, men, women (Saito et al., NeurIPS 2021 Datasets, doi:10.48550/arXiv.2008.07146).

A row is one item at one of three positions; which three stood beside each other is not told, so each row is a request of its own, and its
`propensity` that of the item *at that position*. Nor are there user ids: `user_id` names the *kind* of user that the four hashed features
tell, so what such a "user" did is what everybody of the kind did. The policy is the `arm`.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from data.schema import SchemaError, Tables, check

USER = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
ITEM = ("item_feature_1", "item_feature_2", "item_feature_3")
LOG = ("timestamp", "item_id", "position", "click", "propensity_score", *USER)


def read_open_bandit(path: str | Path, *, campaign: str = "men", policies: Sequence[str] = ("bts", "random")) -> Tables:
    """Read the logs of `policies` in one campaign, one after another; `path` is the folder that holds them.

    Hashed item features are tags, and the one number is the content embedding; they are those of the first policy's file, for each file
    was hashed with a salt of its own. The affinities of user and item are not read, and counted as `affinity_columns_left_out`.

    Raises:
        FileNotFoundError: a file of the layout is missing.
        SchemaError: a column is missing, a value is wrong (by file, column and row), or the policies chose among different items.
    """
    logs, contexts, left_out = [], [], 0
    for policy in policies:
        folder = Path(path) / policy / campaign
        log, affinities = _log(folder / f"{campaign}.csv", policy)
        logs.append(log)
        left_out = max(left_out, affinities)
        contexts.append(_csv(folder / "item_context.csv", ("item_id", "item_feature_0", *ITEM)).sort("item_id"))
        if not contexts[-1].select("item_id", "item_feature_0").equals(contexts[0].select("item_id", "item_feature_0")):
            raise SchemaError(f"{folder / 'item_context.csv'}: other items than those of {policies[0]}; read one policy, or one campaign.")
    impressions = pl.concat(logs)
    clicks = impressions.filter("clicked").select("user_id", "item_id", "timestamp", "request_id", event_type=pl.lit("click"))
    return check(
        clicks,
        items=_items(contexts[0]),
        impressions=impressions,
        source=f"{path} ({campaign}: {', '.join(policies)})",
        report={"affinity_columns_left_out": left_out},
    )


def _log(file: Path, policy: str) -> tuple[pl.DataFrame, int]:
    raw = _csv(file, LOG)
    affinities = sum(name.startswith("user-item_affinity") for name in _header(file))
    time = raw["timestamp"].str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False)
    if (bad := time.is_null()).any():
        row = int(bad.arg_true()[0])
        raise SchemaError(
            f"{file}, column 'timestamp', row {row}: found {raw['timestamp'][row]!r}, expected 2019-11-24 00:01:03.979311+00:00."
        )
    if (bad := ~raw["click"].is_in(["0", "1"])).any():
        row = int(bad.arg_true()[0])
        raise SchemaError(f"{file}, column 'click', row {row}: found {raw['click'][row]!r}, expected 0 or 1.")
    log = raw.select(
        request_id=pl.format("{}-{}", pl.lit(f"{policy}-{file.stem}"), pl.int_range(pl.len())),
        item_id="item_id",
        user_id=pl.concat_str([pl.col(name).str.head(8) for name in USER], separator="-"),
        position=pl.col("position").cast(pl.Int32, strict=False),
        propensity=pl.col("propensity_score").cast(pl.Float64, strict=False),
        arm=pl.lit(policy),
        timestamp=time.dt.epoch("ms"),
        clicked=pl.col("click") == "1",
    )
    for name, there in (("propensity", "propensity_score"), ("position", "position")):
        if (bad := log[name].is_null() | ~log[name].is_between(0, 1 if name == "propensity" else 3) | (log[name] == 0)).any():
            row = int(bad.arg_true()[0])
            expected = "a probability in (0, 1]" if name == "propensity" else "1, 2 or 3"
            raise SchemaError(f"{file}, column {there!r}, row {row}: found {raw[there][row]!r}, expected {expected}.")
    return log, affinities


def _items(context: pl.DataFrame) -> pl.DataFrame:
    return context.select(
        item_id="item_id",
        tags=pl.concat_list([pl.format("{}={}", pl.lit(name), pl.col(name).str.head(8)) for name in ITEM]),
        content_embedding=pl.concat_list(pl.col("item_feature_0").cast(pl.Float32, strict=False)),
    )


def _header(file: Path) -> list[str]:
    return pl.read_csv(file, n_rows=0).columns


def _csv(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """These columns as text."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; the layout is <policy>/<campaign>/<campaign>.csv beside item_context.csv.")
    try:
        there = _header(file)
        for name in columns:
            if name not in there:
                raise SchemaError(f"{file} has no column {name!r}; expected {', '.join(columns)}.")
        return pl.read_csv(file, columns=list(columns), infer_schema=False)
    except pl.exceptions.PolarsError as broken:
        raise SchemaError(f"{file}: not a CSV file with a header {','.join(columns)}: {broken}") from broken
