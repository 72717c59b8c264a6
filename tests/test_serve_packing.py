"""What is packed comes back, and damage is noticed when it is read and not when it is looked at."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import packing
from serve.contract import Draw, LoggedSlate, Precomputed, Recommendation

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
SCORE = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)
RECOMMENDATION = st.builds(Recommendation, TEXT, TEXT, SCORE, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple))
PRECOMPUTED = st.builds(
    Precomputed,
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    TEXT,
    st.lists(st.floats(width=32, allow_nan=False), max_size=8).map(lambda query: np.array(query, np.float32)),
    st.lists(RECOMMENDATION, max_size=9).map(tuple),
)
IDS = st.lists(TEXT, max_size=4).map(tuple)
DRAW = st.builds(Draw, st.floats(0, 1), st.lists(st.integers(0, 99), max_size=3).map(tuple), IDS, st.lists(st.none() | TEXT).map(tuple))
SLATE = st.builds(
    LoggedSlate,
    TEXT, TEXT, st.integers(0, 2**63 - 1), TEXT, TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, IDS, st.lists(IDS, max_size=4).map(tuple),
    st.lists(st.none() | st.floats(0, 1), max_size=4).map(tuple), st.none() | DRAW,
)  # fmt: skip


@given(PRECOMPUTED)
def test_a_precomputed_slate_comes_back(slate):
    back = packing.unpack_precomputed(packing.pack_precomputed(slate))
    assert (back.made_at, back.sequence, back.model_version) == (slate.made_at, slate.sequence, slate.model_version)
    np.testing.assert_array_equal(back.query_D, slate.query_D)
    assert back.query_D.dtype == np.float32
    assert len(back.recommendations) == len(slate.recommendations)
    assert back.recommendations == slate.recommendations and back.recommendations[:2] == slate.recommendations[:2]
    assert packing.pack_precomputed(back) == packing.pack_precomputed(slate)


@given(PRECOMPUTED, st.data())
def test_a_slate_with_one_byte_changed_or_missing_is_noticed_at_once(slate, data):
    packed = bytearray(packing.pack_precomputed(slate))
    place = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ValueError, match=r"no slate|checksum"):
        packing.unpack_precomputed(bytes(packed[:place]))
    packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        packing.unpack_precomputed(bytes(packed))


@given(SLATE)
def test_a_logged_slate_comes_back(slate):
    assert packing.unpack_slate(packing.pack_slate(slate)) == slate


def test_a_logged_slate_cut_short_is_noticed():
    slate = LoggedSlate("r", "u", 1, "a", "v1", "personalised", None, "DE", ("i",), (("popular",),), (None,), None)
    with pytest.raises(ValueError, match="decompress"):
        packing.unpack_slate(packing.pack_slate(slate)[:-3])


def test_shown_items_are_counted_over_all_slates():
    slates = [packing.join_ids(ids) for ids in (("a", "b"), ("a",), ("b", "a", "ä"))]
    assert packing.count_ids(packing.SEPARATOR.join(slates)) == {"a": 3, "b": 2, "ä": 1}
    assert packing.count_ids(None) == packing.count_ids("") == {}
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="NUL"):
            packing.join_ids(("a", wrong))


def test_fields_and_answers_come_back():
    for fields in (packing.UserFields(), packing.UserFields("DE", "premium", 1980)):
        assert packing.unpack_fields(packing.pack_fields(dataclasses.astuple(fields))) == fields
    answers = (("a", True), ("Käse 🧀", False))
    assert packing.unpack_answers(packing.pack_answers(answers)) == answers
