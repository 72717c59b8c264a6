"""Short videos in the layout that KuaiRand publishes, read as they stand."""

import os
from pathlib import Path

import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from data.readers.kuairand import read
from data.schema import SchemaError

ROOT = Path(os.environ.get("DATA_ROOT") or Path(__file__).parents[2] / "shared" / "data")
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,duration_ms,"
    "profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
ROWS = [
    "1,10,20220425,0,1000000,1,1,0,0,0,0,1,61000,49000,0,0,0,0,1",  # watched to the end and beyond, and liked
    "1,10,20220425,0,1000000,1,1,0,0,0,0,1,61000,49000,0,0,0,0,1",  # the row above once more
    "1,10,20220425,100,1000000,1,1,0,0,0,0,1,61000,49000,0,0,0,0,1",  # and once more, an hour on
    "1,11,20220425,0,2000000,1,0,0,0,0,0,0,10000,,0,0,0,0,1",  # clicked, not for long
    "1,12,20220425,0,3000000,0,0,0,0,0,0,0,2999,8000,0,0,0,0,1",  # left within three seconds
    "2,12,20220425,0,3000000,0,0,0,0,0,0,0,3000,8000,0,0,0,0,2",  # left at three seconds
    "2,11,20220425,0,4000000,0,0,0,0,0,0,0,0,,0,0,0,0,0",  # a cover that was passed over
    "2,10,20220425,0,5000000,0,0,0,0,0,1,0,500,49000,0,0,0,0,1",  # hated
]
RANDOM = ["2,11,20220425,0,6000000,0,0,0,0,0,0,0,700,,0,0,0,1,1"]
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,music_type,"
    "tag\n"
    '10,7,NORMAL,2022-04-10,LongImport,0.0,49000.0,720.0,1280.0,9,9.0,"39,68"\n'
    "11,7,AD,2022-04-09,Web,0.0,,1280.0,720.0,9,,\n"
    "12,8,NORMAL,2022-04-11,Kmovie,0.0,8000.0,720.0,720.0,9,4.0,2\n"
)
USERS = "user_id,user_active_degree,is_lowactive_period\n1,full_active,0\n2,low_active,0\n3,high_active,0\n"


def write(folder: Path, rows: list[str] = ROWS, videos: str = VIDEOS) -> Path:
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text("\n".join([LOG, *rows]) + "\n")
    (folder / "video_features_basic_pure.csv").write_text(videos)
    (folder / "user_features_pure.csv").write_text(USERS)
    return folder


def test_every_row_is_a_request_of_its_own_with_what_came_of_it(tmp_path):
    shown = read(write(tmp_path)).impressions
    assert shown["position"].to_list() == [1] * 6 and shown["request_id"].n_unique() == 6 and shown["propensity"].is_null().all()
    assert shown["device"].to_list() == ["tab 1", "tab 1", "tab 1", "tab 2", "tab 0", "tab 1"]
    assert shown.select("clicked", "completed", "skipped", "watch_duration_seconds").rows() == [
        (True, True, False, 61.0), (True, False, False, 10.0), (False, False, True, pytest.approx(2.999)),
        (False, False, False, 3.0), (False, False, None, 0.0), (False, False, True, 0.5),
    ]  # fmt: skip


def test_rows_that_repeat_are_counted_by_how_they_repeat(tmp_path):
    told = read(write(tmp_path)).report
    assert (told["rows_read"], told["rows_duplicate"], told["rows_of_one_moment"], told["impressions_read"]) == (8, 1, 1, 6)


def test_an_event_is_the_most_a_row_came_to_and_is_known_when_it_ended(tmp_path):
    events = read(write(tmp_path)).events
    assert events.select("user_id", "item_id", "event_type", "timestamp", "rating").rows() == [
        ("1", "10", "complete", 1_061_000, 1.0), ("1", "11", "click", 2_010_000, 0.0), ("1", "12", "skip", 3_002_999, None),
        ("2", "12", "view", 3_003_000, None), ("2", "10", "not_interested", 5_000_500, None),
    ]  # fmt: skip


def test_what_is_under_way_when_the_next_is_shown_is_no_history_of_it(tmp_path):
    """The second video is shown while the first still plays: nobody knows yet that it will be seen to the end."""
    rows = ["1,10,0,0,1000,1,0,0,0,0,0,1,5000,0,0,0,0,0,1", "1,12,0,0,4000,1,0,0,0,0,0,1,5000,0,0,0,0,0,1"]
    rows.append("1,11,0,0,9500,1,0,0,0,0,0,1,5000,0,0,0,0,0,1")
    tables = read(write(tmp_path, rows))
    known = {
        item_id: len(tables.events.filter(pl.col("timestamp") < now))
        for item_id, now in tables.impressions.select("item_id", "timestamp").rows()
    }
    assert known == {"10": 0, "12": 0, "11": 2}


def test_rows_drawn_at_random_are_an_arm_of_their_own_without_a_propensity(tmp_path):
    (write(tmp_path) / "log_random_4_22_to_5_08_pure.csv").write_text("\n".join([LOG, *RANDOM]) + "\n")
    shown = read(tmp_path).impressions
    assert shown.filter(arm="random").select("user_id", "item_id", "timestamp", "propensity").rows() == [("2", "11", 6_000_000, None)]
    assert len(shown.filter(arm="standard")) == 6


def test_videos_and_people(tmp_path):
    tables = read(write(tmp_path).parent, folder=tmp_path.name)
    first, second, third = tables.items.select("genres", "tags", "duration_seconds", "creator", "release_date").rows()
    assert first[:4] == (["topic 39", "topic 68"], ["video normal", "upload longimport", "music 9", "picture tall"], 49.0, "7")
    assert second[:3] == (None, ["video ad", "upload web", "picture wide"], None) and str(second[4]) == "2022-04-09"
    assert third[0] == ["topic 2"]
    assert tables.users.rows() == [("1", None, "full_active", None), ("2", None, "low_active", None), ("3", None, "high_active", None)]


@pytest.mark.parametrize(
    "row, said",
    [
        ("1,10,20220425,0,1000000,yes,1,0,0,0,0,1,61000,49000,0,0,0,0,1", r"'is_click', row 1: found 'yes', expected 0 or 1"),
        ("1,10,20220425,0,1000000,1,1,0,0,0,0,1,-5,49000,0,0,0,0,1", r"'play_time_ms', row 1: found '-5', expected a number of at least 0"),
        ("1,10,20220425,0,,1,1,0,0,0,0,1,5,49000,0,0,0,0,1", r"'time_ms', row 1: found None"),
    ],
)
def test_a_wrong_value_is_named_by_file_column_and_row(tmp_path, row, said):
    with pytest.raises(SchemaError, match=rf"log_standard_4_22_to_5_08_pure\.csv, column {said}"):
        read(write(tmp_path, [ROWS[0], row]))


def test_what_is_missing_is_named_with_its_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="set DATA_ROOT"):
        read(None)
    with pytest.raises(FileNotFoundError, match=r"^Neither"):
        read(tmp_path)
    (write(tmp_path) / "log_standard_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no log_\*_pure.csv"):
        read(tmp_path)
    write(tmp_path, videos=VIDEOS.replace("upload_dt", "uploaded"))
    with pytest.raises(SchemaError, match="no column 'upload_dt'"):
        read(tmp_path)


@pytest.mark.skipif(not (ROOT / "kuairand-pure").is_dir(), reason="set DATA_ROOT to the folder that holds kuairand-pure")
def test_the_data_as_they_lie_there(monkeypatch):
    """228,329 rows, of which 5,460 repeat; fourteen days, whatever the file's name says; a split by time that loses nobody."""
    monkeypatch.setenv("DATA_ROOT", str(ROOT))
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        cfg = compose("train", ["data=kuairand"])
    tables = instantiate(cfg.data)
    assert (tables.report["rows_read"], tables.report["rows_duplicate"]) == (228_329, 5_460)
    first, last = (
        pl.from_epoch(pl.Series([time]), "ms")[0] for time in (tables.impressions["timestamp"].min(), tables.impressions["timestamp"].max())
    )
    assert (str(first.date()), str(last.date())) == ("2022-04-24", "2022-05-08")  # UTC: the 25th had begun in China
    assert tables.users["user_id"].n_unique() > tables.impressions["user_id"].n_unique() == 25_156
    assert instantiate(cfg.split)(tables).cut_ms is not None
