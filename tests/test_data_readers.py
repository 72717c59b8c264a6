"""Each reader on files whose right tables are known, and on files that are wrong."""

import hashlib
import io
import zipfile
from datetime import date
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate

from data import schema
from data.readers import interactions, movielens
from data.schema import SchemaError

CONF = Path(__file__).parents[1] / "conf"
RATINGS = "userId,movieId,rating,timestamp\n1,010,4.0,964982703\n2,020,0.5,964982704\n"
MOVIES = (
    "movieId,title,genres\n"
    '010,"American President, The (1995)",Comedy|Drama\n'
    "020,Babylon 5,(no genres listed)\n"
    "030,Death Note: Desu nôto (2006–2007),Crime\n"
    "040,(1995),Drama\n"
)
TAGS = "userId,movieId,tag,timestamp\n1,010,Will Ferrell,100\n2,010, will ferrell,200\n2,010,a tale,300\n1,999,nowhere,400\n"


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    for name, text in (("ratings.csv", RATINGS), ("movies.csv", MOVIES), ("tags.csv", TAGS)):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def archive_of(folder, path):
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"ml-latest-small/{file.name}")
    path.with_name(path.name + ".md5").write_text(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n")
    return path.as_uri()


# movielens


def test_movielens_events_and_items(films):
    read = movielens.read_csv_layout(films)
    assert read.events.select("user_id", "item_id", "event_type", "rating", "timestamp").rows() == [
        ("1", "010", "rate", 4.0, 964982703000),
        ("2", "020", "rate", 0.5, 964982704000),
    ]
    assert read.items.select("item_id", "title", "genres", "release_date", "tags").rows() == [
        ("010", "American President, The", ["Comedy", "Drama"], date(1995, 1, 1), ["will ferrell", "a tale"]),
        ("020", "Babylon 5", [], None, None),
        ("030", "Death Note: Desu nôto", ["Crime"], date(2006, 1, 1), None),
        ("040", "(1995)", ["Drama"], date(1995, 1, 1), None),
    ]
    assert movielens.read_csv_layout(films.parent).fingerprint() == read.fingerprint()


def test_movielens_tags_given_after_a_cut_are_left_out(films):
    read = movielens.read_csv_layout(films, tags_before_ms=300_000)
    assert read.items["tags"][0].to_list() == ["will ferrell"]
    assert (read.report["tags_read"], read.report["tags_left_out"]) == (4, 2)


def test_movielens_bad_values_are_named(films):
    (films / "ratings.csv").write_text(RATINGS + "3,010,good,5\n")
    with pytest.raises(SchemaError, match="column 'rating', row 2: found 'good'"):
        movielens.read_csv_layout(films)
    (films / "ratings.csv").write_text(RATINGS + "3,010,4,yesterday\n")
    with pytest.raises(SchemaError, match=r"ratings.csv, column 'timestamp', row 2: found 'yesterday', expected whole seconds"):
        movielens.read_csv_layout(films)
    (films / "ratings.csv").write_text("user,movieId,rating,timestamp\n")
    with pytest.raises(SchemaError, match=r"has no column 'userId'.*Columns there: user, movieId"):
        movielens.read_csv_layout(films)
    (films / "movies.csv").unlink()
    (films / "ratings.csv").write_text(RATINGS)
    with pytest.raises(FileNotFoundError, match=r"movies.csv is missing"):
        movielens.read_csv_layout(films)
    with pytest.raises(FileNotFoundError, match=r"set DATA_ROOT or data.path"):
        movielens.read_csv_layout(films / "nowhere")


def test_movielens_without_a_path_is_fetched_once_and_checked(films, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = archive_of(films, tmp_path / "films.zip")
    fetched = movielens.read_csv_layout(url=url)
    assert fetched.fingerprint() == movielens.read_csv_layout(films).fingerprint()
    (tmp_path / "films.zip").unlink()
    assert movielens.read_csv_layout(url=url).fingerprint() == fetched.fingerprint()
    assert [file.name for file in (tmp_path / "cache" / "towers").iterdir()] == ["ml-latest-small"]


def test_movielens_an_altered_archive_is_refused_with_both_sums(films, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = archive_of(films, tmp_path / "films.zip")
    published = (tmp_path / "films.zip.md5").read_text().split()[0]
    altered = (tmp_path / "films.zip").read_bytes()[:-1]
    (tmp_path / "films.zip").write_bytes(altered)
    with pytest.raises(movielens.DownloadError, match=f"sum is {hashlib.md5(altered).hexdigest()}, expected {published}"):
        movielens.read_csv_layout(url=url)
    (tmp_path / "films.zip.md5").write_text("<html>not found</html>")
    with pytest.raises(movielens.DownloadError, match="holds 0 MD5 sums, expected one"):
        movielens.read_csv_layout(url=url)
    assert not list((tmp_path / "cache" / "towers").iterdir())


def test_movielens_what_cannot_be_fetched_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(movielens.DownloadError, match=r"Tried to fetch http://127.0.0.1:9/films.zip: .*pass data.path="):
        movielens.read_csv_layout(url="http://127.0.0.1:9/films.zip")
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "films.zip").write_bytes(buffer.getvalue())
    (tmp_path / "films.zip.md5").write_text(hashlib.md5(buffer.getvalue()).hexdigest())
    with pytest.raises(movielens.DownloadError, match=r"not a zip of ml-latest-small/ratings.csv"):
        movielens.read_csv_layout(url=(tmp_path / "films.zip").as_uri())


def test_movielens_dat_layout(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::0074::8::1365029107\n2::0111::10::1365029108\n")
    (tmp_path / "movies.dat").write_text("0074::Fantômas - À l'ombre (1913)::Crime|Drama\n0111::Bus, The (1974)::\n", encoding="utf-8")
    read = movielens.read_dat_layout(tmp_path)
    assert read.events.select("user_id", "item_id", "rating", "timestamp").rows() == [
        ("1", "0074", 8.0, 1365029107000),
        ("2", "0111", 10.0, 1365029108000),
    ]
    assert read.items.select("title", "genres", "release_date").rows() == [
        ("Fantômas - À l'ombre", ["Crime", "Drama"], date(1913, 1, 1)),
        ("Bus, The", [], date(1974, 1, 1)),
    ]
    (tmp_path / "ratings.dat").write_text("1::0074::8::1365029107\n2,0111,10,1365029108\n")
    with pytest.raises(
        SchemaError, match=r"ratings.dat, line 2: found '2,0111,10,1365029108', expected userId::movieId::rating::timestamp"
    ):
        movielens.read_dat_layout(tmp_path)
    (tmp_path / "movies.dat").write_bytes("0074::Fantômas (1913)::Crime\n".encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::0074::8::1365029107\n")
    with pytest.raises(SchemaError, match=r"movies.dat, line 1: not utf-8 text; .*data.encoding=latin-1"):
        movielens.read_dat_layout(tmp_path)
    assert movielens.read_dat_layout(tmp_path, encoding="latin-1").items["title"].to_list() == ["Fantômas"]
    with pytest.raises(FileNotFoundError, match="set DATA_ROOT"):
        movielens.read_dat_layout(None)


# interactions


def lists(tmp_path, train, test):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text(test)
    return tmp_path / "train.txt", tmp_path / "test.txt"


def test_lists_keep_their_order_their_part_and_their_users(tmp_path):
    read = interactions.read_lists(*lists(tmp_path, "0 9 7 \n1 7\n2\n", "0 5  7\r\n1\n3 9"))
    assert read.events.select("user_id", "item_id", "timestamp", "split", "event_type").rows() == [
        ("0", "9", 0, "train", "click"),
        ("0", "7", 1, "train", "click"),
        ("1", "7", 0, "train", "click"),
        ("0", "5", 2, "test", "click"),
        ("0", "7", 3, "test", "click"),
        ("3", "9", 0, "test", "click"),
    ]
    assert read.users["user_id"].to_list() == ["0", "1", "2", "3"]
    assert read.items["item_id"].to_list() == ["9", "7", "5"]
    assert (read.report["users_with_an_empty_train_list"], read.report["users_with_an_empty_test_list"]) == (1, 1)


def test_sequences_may_repeat_an_item_and_lose_nothing(tmp_path):
    (tmp_path / "all.txt").write_text("u 5 5 5 6\nv\n")
    read = interactions.read_sequences(tmp_path / "all.txt")
    assert read.events.select("user_id", "item_id", "timestamp").rows() == [("u", "5", 0), ("u", "5", 1), ("u", "5", 2), ("u", "6", 3)]
    assert read.report["users_with_an_empty_list"] == 1 and read.report["events_duplicate"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n\n1 2\n", "line 2: found an empty line"),
        ("0 1 2\n1,2,3\n", "line 2: found a comma, semicolon, quote or control character in '1,2,3'"),
        ("0 1 2\n1 2\n0 3\n", "line 3: found a user who has a line above in '0 3'"),
        ("0 1 2\n1 \x00\n", "line 2: found a comma, semicolon, quote or control character"),
        ("", "the file is empty"),
        (" \n \n", "the file is empty"),
    ],
)
def test_bad_lists_are_refused_by_file_and_line(tmp_path, text, message):
    (tmp_path / "all.txt").write_text(text)
    with pytest.raises(SchemaError, match=f"all.txt(, |: ){message}"):
        interactions.read_sequences(tmp_path / "all.txt")


def test_lists_that_are_missing_or_not_text_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"test.txt: no such file; set data.test="):
        interactions.read_lists(lists(tmp_path, "0 1", "")[0], tmp_path / "no" / "test.txt")
    (tmp_path / "all.txt").write_bytes(b"0 1\n2 \xff\n")
    with pytest.raises(SchemaError, match=r"all.txt, line 2: not UTF-8"):
        interactions.read_sequences(tmp_path / "all.txt")
    (tmp_path / "all.txt").write_text("0\n1\n")
    with pytest.raises(SchemaError, match="no row left to learn from"):
        interactions.read_sequences(tmp_path / "all.txt")


# the configuration files


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """Composes `split` and `data` as the training script does."""
    door = tmp_path / "door"
    door.mkdir()
    (door / "door.yaml").write_text(f"defaults:\n- split: by_time\n- data: null\n- _self_\nhydra:\n  searchpath: ['{CONF.as_uri()}']\n")

    def config(*overrides):
        with initialize_config_dir(str(door), version_base="1.3"):
            return compose("door", [f"data={overrides[0]}", *overrides[1:]])

    return config


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("movielens", "leave_last_out"),
        ("movietweetings", "by_time"),
        ("interactions", "as_given"),
        ("gowalla", "as_given"),
        ("sequences", "leave_last_out"),
        ("beauty", "leave_last_out"),
        ("tables", "by_time"),
    ],
)
def test_each_data_set_brings_its_split_and_the_command_line_may_take_another(composed, name, split):
    assert composed(name).split._target_ == f"data.split.{split}"
    assert composed(name, "split=given").split._target_ == "data.split.as_given"


def test_the_configured_reader_and_split_are_called(composed, tmp_path, monkeypatch, films):
    monkeypatch.setenv("DATA_ROOT", str(films.parent))
    config = composed("movielens")
    assert instantiate(config.data).events.height == 2
    (tmp_path / "log.csv").write_text("visitor,item_id,timestamp\n" + "".join(f"{n},{n},{n}\n" for n in range(10)))
    mapped = [f"data.events={tmp_path}/log.csv", "data.columns.user_id=visitor", "data.timestamp_unit=s"]
    config = composed("tables", *mapped, "split.test_quantile=0.5", "split.validation_quantile=null")
    split = instantiate(config.split)(instantiate(config.data))
    assert split.cut_ms == (None, 4_000)


def test_a_misspelt_column_or_key_is_hydras_error(composed):
    for wrong in ("data.columns.usr_id=visitor", "data.timestamp_units=s"):
        with pytest.raises(ConfigCompositionException):
            composed("tables", wrong)


def test_the_column_maps_list_every_column_of_the_schema(composed):
    data = composed("tables").data
    for key, its in (
        ("columns", schema.EVENTS),
        ("item_columns", schema.ITEMS),
        ("user_columns", schema.USERS),
        ("impression_columns", schema.IMPRESSIONS),
    ):
        assert dict(data[key]) == dict.fromkeys(its)


def test_a_named_set_without_data_root_says_what_is_missing(composed, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    with pytest.raises(Exception, match=r"DATA_ROOT/gowalla/train\.txt: no such file; set data.train="):
        instantiate(composed("gowalla").data)
    with pytest.raises(Exception, match="set DATA_ROOT"):
        instantiate(composed("movietweetings").data)
