"""The Open Bandit layout, by a log of five rows that a hand can read."""

from pathlib import Path

import pytest

from data.readers.open_bandit import read_open_bandit
from data.schema import SchemaError

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,"
    "user-item_affinity_0,user-item_affinity_1"
)
BTS = """0,2019-11-24 00:00:01.500000+00:00,1,3,0,0.25,aaaaaaaa11,b,c,d,0.0,0.0
1,2019-11-24 00:00:02+00:00,0,1,1,0.75,aaaaaaaa11,b,c,d,0.0,2.0
2,2019-11-24 09:00:00+09:00,0,2,0,1.0,aaaaaaaa11,b,c,e,0.0,0.0"""
RANDOM = """0,2019-11-24 00:00:05+00:00,1,1,1,0.5,aaaaaaaa11,b,c,e,0.0,0.0
1,2019-11-24 00:00:06+00:00,0,1,0,0.5,x,b,c,d,0.0,0.0"""
CONTEXT = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n0,0,-0.5,{0}1,{0}2,{0}3\n1,1,0.25,{0}1,{0}4,{0}3\n"


@pytest.fixture
def layout(tmp_path) -> Path:
    for policy, rows in (("bts", BTS), ("random", RANDOM)):
        folder = tmp_path / policy / "men"
        folder.mkdir(parents=True)
        (folder / "men.csv").write_text(f"{HEADER}\n{rows}\n")
        (folder / "item_context.csv").write_text(CONTEXT.format(f"{policy}-"))
    return tmp_path


def test_rows_by_hand(layout):
    tables = read_open_bandit(layout)
    shown = tables.impressions
    assert shown["arm"].to_list() == ["bts"] * 3 + ["random"] * 2
    assert shown["propensity"].to_list() == [0.25, 0.75, 1.0, 0.5, 0.5] and shown["position"].to_list() == [3, 1, 2, 1, 1]
    assert shown["clicked"].to_list() == [False, True, False, True, False]
    assert shown["timestamp"].to_list() == [1574553601500, 1574553602000, 1574553600000, 1574553605000, 1574553606000]
    assert shown["request_id"].n_unique() == 5  # which rows stood beside each other is not told
    assert shown["user_id"].to_list() == ["aaaaaaaa-b-c-d"] * 2 + ["aaaaaaaa-b-c-e"] * 2 + ["x-b-c-d"]
    assert tables.events.select("item_id", "event_type", "request_id").rows() == [
        ("0", "click", "bts-men-1"),
        ("1", "click", "random-men-0"),
    ]
    assert tables.items["tags"].to_list()[1] == ["item_feature_1=bts-1", "item_feature_2=bts-4", "item_feature_3=bts-3"]
    assert tables.items["content_embedding"].to_list() == [[-0.5], [0.25]]
    assert tables.report["affinity_columns_left_out"] == 2
    assert read_open_bandit(layout, policies=["random"]).items["tags"][0][0] == "item_feature_1=random-1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2019-11-24 00:00:01+00:00,0,1,0,0.0,a,b,c,d,0,0", r"men\.csv, column 'propensity_score', row 0: found '0\.0', expected a prob"),
        ("2019-11-24 00:00:01+00:00,0,1,0,1.5,a,b,c,d,0,0", r"column 'propensity_score', row 0: found '1\.5'"),
        ("2019-11-24 00:00:01+00:00,0,1,0,nan,a,b,c,d,0,0", r"column 'propensity_score', row 0: found 'nan'"),
        ("2019-11-24 00:00:01+00:00,0,4,0,0.5,a,b,c,d,0,0", r"column 'position', row 0: found '4', expected 1, 2 or 3"),
        ("yesterday,0,1,0,0.5,a,b,c,d,0,0", r"column 'timestamp', row 0: found 'yesterday'"),
        ("2019-11-24 00:00:01+00:00,0,1,2,0.5,a,b,c,d,0,0", r"column 'click', row 0: found '2', expected 0 or 1"),
    ],
)
def test_a_wrong_value_is_named_by_file_column_and_row(layout, row, message):
    (layout / "bts" / "men" / "men.csv").write_text(f"{HEADER}\n0,{row}\n")
    with pytest.raises(SchemaError, match=message):
        read_open_bandit(layout)


def test_what_is_missing_is_named(layout):
    with pytest.raises(FileNotFoundError, match=r"women\.csv is missing; the layout is"):
        read_open_bandit(layout, campaign="women")
    context = layout / "random" / "men" / "item_context.csv"
    context.write_text(context.read_text().replace("0.25", "0.26"))
    with pytest.raises(SchemaError, match="other items than those of bts"):
        read_open_bandit(layout)
    (layout / "bts" / "men" / "men.csv").write_text(HEADER.replace("propensity_score", "pscore") + "\n")
    with pytest.raises(SchemaError, match="has no column 'propensity_score'"):
        read_open_bandit(layout)
