"""A model folder is used by a version that can tell its model what it learned from, or refused by name."""

import json

import pytest

from data.features import NUMBERS, PROFILE
from towers.ranker import HEADS
from towers.saved import SavedModelError, read_ranking

FACTS = {"kind": "ranking", "numbers": list(NUMBERS), "profile": list(PROFILE), "heads": list(HEADS)}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"numbers": ["dot"]}, r"has the numbers \['dot'\], this version \['dot', 'genre_match'"),
        ({"profile": None}, r"has the profile None, this version \['log_session_minutes'"),
        ({"heads": ["click"]}, r"has the heads \['click'\]"),
        ({"kind": "retrieval"}, "is the model of a retrieval run"),
    ],
)
def test_a_ranker_of_other_columns_is_not_exported(tmp_path, change, said):
    (tmp_path / "meaning.json").write_text(json.dumps(FACTS))
    assert read_ranking(tmp_path) == FACTS
    (tmp_path / "meaning.json").write_text(json.dumps(FACTS | change))
    with pytest.raises(SavedModelError, match=said):
        read_ranking(tmp_path)
