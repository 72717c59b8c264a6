"""Groups to rank: slates as they were shown, or liked events beside proposals the user never touched."""

import numpy as np
import polars as pl

from data.impressions import OPEN, events_before, frame
from data.judgements import LABELS, retrieved, shown
from data.log import read_log
from data.split import TEST, TRAIN, VALIDATION, by_time, leave_last_out
from tests.logs import small, tables


def test_every_impression_stands_in_its_slate_in_order():
    _, log = small()
    groups, impressions = shown(log), log.split.tables.impressions
    assert groups.there_GK.sum() == len(impressions)
    order = impressions.sort("request_id", "position")
    assert [log.catalogue.item_ids[row] for row in groups.item_row_GK[groups.there_GK][:200]] == order["item_id"].to_list()[:200]
    np.testing.assert_array_equal(groups.label_GKY[groups.there_GK][:, 0], order["clicked"].cast(pl.Float32).to_numpy())
    assert np.isnan(groups.label_GKY[~groups.there_GK]).all()
    np.testing.assert_array_equal(groups.label_GKY[groups.there_GK][:, LABELS.index("skip")], order["skipped"].cast(pl.Float32).to_numpy())


def test_a_rating_belongs_to_the_impression_that_brought_it():
    _, log = small()
    groups, tables = shown(log), log.split.tables
    order = tables.impressions.sort("request_id", "position")
    rated = dict(
        tables.events.filter(pl.col("event_type") == "rate")
        .sort("timestamp")
        .select(pl.concat_str("request_id", "item_id"), "rating")
        .rows()
    )
    expected = [rated.get(key, float("nan")) for key in order.select(pl.concat_str("request_id", "item_id")).to_series()]
    assert len(rated) > 100
    np.testing.assert_array_equal(groups.label_GKY[groups.there_GK][:, LABELS.index("rating")], np.array(expected, np.float32))


def test_a_slate_sees_only_what_was_before_it_and_its_part_is_its_time():
    split, log = small()
    groups = shown(log)
    for group in range(0, len(groups.now_G), 53):
        user = groups.user_row_G[group]
        mine = slice(log.offset_U1[user], log.offset_U1[user + 1])
        assert groups.end_G[group] - groups.start_G[group] == (log.timestamp_E[mine] < groups.now_G[group]).sum()
    cut, whole_G = split.cut_ms, groups.part_G != OPEN
    assert (~whole_G).sum() == len(answered_later(log)) == 3
    np.testing.assert_array_equal(groups.part_G == TRAIN, whole_G & (groups.now_G < cut.validation))
    np.testing.assert_array_equal(groups.part_G == TEST, groups.now_G >= cut.test)


def answered_later(log) -> set[str]:
    """Requests shown before a cut that an event of at or after it bears."""
    cut = log.split.cut_ms
    shown_at, found = dict(log.split.tables.impressions.select("request_id", "timestamp").iter_rows()), set()
    for request_id, at in log.split.tables.events.select("request_id", "timestamp").drop_nulls().iter_rows():
        found |= {request_id} if any(shown_at[request_id] < line <= at for line in cut) else set()
    return found


def test_events_before_by_hand():
    log = read_log(leave_last_out(tables([("u", "a", "click", 5), ("u", "b", "click", 5), ("u", "c", "click", 9), ("v", "a", "click", 1)])))
    assert events_before(log, np.array([0, 0, 0, 1, 1]), np.array([5, 6, 10, 1, 2])).tolist() == [0, 2, 3, 3, 4]


def test_negatives_are_proposals_the_user_had_not_touched_by_the_end_of_that_part():
    rows = [("u", item, "click", at) for at, item in enumerate("abc")] + [("v", "def"[at], "click", at) for at in range(3)]
    log = read_log(leave_last_out(tables(rows)))
    row = {item: place for place, item in enumerate(log.catalogue.item_ids)}
    event = log.liked(VALIDATION)
    proposal = np.array([[row[item] for item in "abcdef"]] * len(event))
    groups = retrieved(log, proposal, event, negatives=4, seed=0)
    names = [
        [log.catalogue.item_ids[r] for r, there in zip(rows, keep, strict=True) if there]
        for rows, keep in zip(groups.item_row_GK, groups.there_GK, strict=True)
    ]
    assert [group[0] for group in names] == ["b", "e"]
    assert [sorted(group[1:]) for group in names] == [["c", "d", "e", "f"], ["a", "b", "c", "f"]]  # c and f are tests: nobody knows yet
    assert groups.label_GKY[0, :, 0][groups.there_GK[0]].tolist() == [1, 0, 0, 0, 0]
    assert np.isnan(groups.label_GKY[..., 1:]).all()


def test_a_liked_event_brings_its_rating_along():
    rows = [("u", item, "rate", at, stars) for at, (item, stars) in enumerate(zip("abc", (3.0, 4.5, 5.0), strict=True))]
    log = read_log(leave_last_out(tables([*rows, *(("v", item, "click", at) for at, item in enumerate("def"))])))
    proposal = np.arange(6)[None].repeat(len(event := log.liked(VALIDATION)), 0)
    rating = retrieved(log, proposal, event, negatives=2, seed=0).label_GKY[..., LABELS.index("rating")]
    assert rating[0, 0] == 4.5 and np.isnan(rating[0, 1:]).all() and np.isnan(rating[1]).all()


def test_what_retrieval_did_not_propose_makes_no_group():
    log = read_log(leave_last_out(tables([(user, item, "click", at) for user in "uv" for at, item in enumerate("abc")])))
    row = {item: place for place, item in enumerate(log.catalogue.item_ids)}
    proposal = np.array([[row["c"], row["b"]], [row["c"], row["a"]]])
    groups = retrieved(log, proposal, log.liked(VALIDATION), negatives=1, seed=0)
    assert groups.user_row_G.tolist() == [0] and groups.item_row_GK.tolist() == [[row["b"], row["c"]]]


def test_requests_without_a_cut_follow_their_users_next_event():
    world = small()[0].tables
    log = read_log(leave_last_out(world))
    groups = shown(log)
    for group in range(0, len(groups.now_G), 101):
        last = log.offset_U1[groups.user_row_G[group] + 1] - 1
        part = log.part_E[min(groups.end_G[group], last)]
        assert groups.part_G[group] in (part, OPEN)
    ids, bearing = frame(log)["request_id"].unique(maintain_order=True), log.split.events.select("request_id", "part").drop_nulls()
    latest = dict(bearing.group_by("request_id").agg(pl.col("part").max()).iter_rows())
    for group in np.flatnonzero(groups.part_G == OPEN):  # two clicks, of which the later is held out
        last = log.offset_U1[groups.user_row_G[group] + 1] - 1
        assert latest[ids[int(group)]] > log.part_E[min(groups.end_G[group], last)]
    for group in np.flatnonzero(groups.part_G == TRAIN):
        assert latest.get(ids[int(group)], TRAIN) == TRAIN
    assert by_time(world).cut_ms is not None
