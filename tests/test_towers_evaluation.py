"""The evaluation door: a brute force, laws and hand-worked numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.split import seen_items_stay, seen_targets_miss, seen_targets_stay
from towers.evaluation import (
    BEYOND,
    DotProduct,
    ItemLists,
    beside_popularity,
    beyond_accuracy,
    item_lists,
    per_user,
    rank,
    slices,
    summary,
)

NEVER = -math.inf


RUNNING = {  # is an item in the running that is (seen, a target)?
    seen_targets_miss: lambda seen, target: not seen,
    seen_targets_stay: lambda seen, target: target or not seen,
    seen_items_stay: lambda seen, target: True,
}


def slow_ranks(score_I: list[float], targets: list[int], running: list[int], depth: int) -> list[int]:
    """What `rank` promises, one comparison at a time."""
    ranks = []
    for place, target in enumerate(targets):
        before = 1
        for other in running:
            if other in targets:
                earlier = targets.index(other) < place
                before += score_I[other] > score_I[target] or (earlier and score_I[other] == score_I[target])
            else:
                before += score_I[other] >= score_I[target]
        ranks.append(before if target in running and before <= depth and score_I[target] > NEVER else BEYOND)
    return ranks


@st.composite
def small_worlds(draw):
    users, items = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    score = st.sampled_from([NEVER, -2.0, -1.0, 0.0, 1.0, 2.0])
    rows = draw(st.lists(st.lists(score, min_size=items, max_size=items), min_size=users, max_size=users))
    some = st.lists(st.integers(0, items - 1), unique=True, max_size=items)
    targets = draw(st.lists(some, min_size=users, max_size=users))
    seen = draw(st.lists(st.lists(st.integers(0, items - 1), max_size=items), min_size=users, max_size=users))  # what is had may repeat
    return rows, targets, seen, draw(st.integers(1, 10)), draw(st.integers(1, 6))


@given(small_worlds(), st.sampled_from(list(RUNNING)))
@settings(max_examples=300, deadline=None)
def test_ranks_and_lists_are_those_of_a_brute_force(world, seen_policy):
    rows, targets, seen, depth, block_users = world
    score_UI = torch.tensor(rows)
    before_UI = score_UI.clone()
    ranking = rank(
        lambda user_row_B: score_UI[user_row_B],
        torch.arange(len(rows)),
        item_lists(targets),
        item_lists(seen),
        item_count=len(rows[0]),
        depth=depth,
        block_users=block_users,
        seen_policy=seen_policy,
    )
    may_run = RUNNING[seen_policy]
    running = [[i for i in range(len(rows[0])) if may_run(i in s, i in t)] for t, s in zip(targets, seen, strict=True)]
    expected = [slow_ranks(*user, depth) for user in zip(rows, targets, running, strict=True)]
    assert ranking.rank_T.tolist() == [rank for ranks in expected for rank in ranks]
    assert ranking.seen_target_count == sum(len(set(t) & set(s)) for t, s in zip(targets, seen, strict=True))
    assert torch.equal(score_UI, before_UI)

    for user, row in enumerate(rows):
        shown = [item for item in ranking.top_item_row_UK[user].tolist() if item >= 0]
        may_stand = [i for i in running[user] if row[i] > NEVER]
        assert len(set(shown)) == len(shown) == min(depth, len(may_stand))
        assert set(shown) <= set(may_stand)
        scores = ranking.top_score_UK[user].tolist()
        assert scores == sorted((row[i] for i in may_stand), reverse=True)[:depth] + [NEVER] * (depth - len(shown))
        assert [row[i] for i in shown] == scores[: len(shown)]
        for target, place in zip(targets[user], expected[user], strict=True):
            assert (shown[place - 1] == target) if place != BEYOND else (target not in shown)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_a_scorer_that_knows_nothing_hits_nothing(constant, depth):
    """As long as `depth` items that are no targets are in the running."""
    row = torch.full((1,), constant).expand(50, -1).T  # one stored row for all, as popularity hands out
    targets, seen = item_lists([[0, 49], [7], [1, 2, 3]]), item_lists([[4, 5], [], [0, 10, 20, 30, 40]])
    ranking = rank(lambda user_row_B: row.expand(len(user_row_B), -1), torch.arange(3), targets, seen, item_count=50, depth=depth)
    for value_U in per_user(ranking, [depth]).values():
        assert value_U.tolist() == [0.0, 0.0, 0.0]


def test_a_hand_worked_ranking():
    """Item 3 is seen. Targets 0 and 4 tie with item 1 at 5, target 2 is last: 9, then 5 (item 1), 5 (0), 5 (4), 1 (2)."""
    score_UI = torch.tensor([[5.0, 5.0, 1.0, 100.0, 5.0, 9.0]])
    ranking = rank(lambda b: score_UI[b], torch.tensor([0]), item_lists([[0, 2, 4]]), item_lists([[3]]), item_count=6, depth=4)
    assert ranking.rank_T.tolist() == [3, BEYOND, 4]
    assert ranking.top_item_row_UK.tolist() == [[5, 1, 0, 4]]
    assert ranking.top_score_UK.tolist() == [[9.0, 5.0, 5.0, 5.0]]
    values = per_user(ranking, [3, 4])
    assert values["recall_at_3"].tolist() == [1 / 3]
    assert values["recall_at_4"].tolist() == [2 / 3]
    assert values["mrr_at_4"].tolist() == [1 / 3]
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["ndcg_at_3"].tolist() == pytest.approx([(1 / math.log2(4)) / ideal])


def test_what_becomes_of_a_seen_target_is_the_named_policys():
    """Items 0 to 3 by falling score; 0 and 1 were had before, 1 twice, and 1 is the target: it is out, or first since its rival alone is
    out, or second to a rival that is in the running like it."""
    score_UI = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    asked = (lambda b: score_UI[b], torch.tensor([0]), item_lists([[1]]), item_lists([[0, 1, 1]]))
    by = {policy: rank(*asked, item_count=4, depth=4, seen_policy=policy) for policy in RUNNING}
    assert {policy: of.rank_T.tolist() for policy, of in by.items()} == {
        seen_targets_miss: [BEYOND],
        seen_targets_stay: [1],
        seen_items_stay: [2],
    }
    assert [of.top_item_row_UK.tolist() for of in by.values()] == [[[2, 3, -1, -1]], [[1, 2, 3, -1]], [[0, 1, 2, 3]]]
    assert all(of.seen_target_count == 1 and of.seen_policy is policy for policy, of in by.items())
    assert rank(*asked, item_count=4).seen_policy is seen_targets_miss


def test_a_model_that_repeats_the_history_is_flattered_by_one_policy_alone():
    """Users had ten of a thousand items, and their target is one of those: whoever scores what was had above all else finds it first where
    it alone stays, nowhere where it is out, and by chance, one in ten, where all stay."""
    rng = torch.Generator().manual_seed(0)
    seen = [torch.randperm(1000, generator=rng)[:10].tolist() for _ in range(200)]
    score_UI = torch.rand(200, 1000, generator=rng)
    score_UI[torch.arange(200)[:, None], torch.tensor(seen)] += 1
    asked = (lambda b: score_UI[b], torch.arange(200), item_lists([[one[0]] for one in seen]), item_lists(seen))
    first = {p: float(per_user(rank(*asked, item_count=1000, depth=10, seen_policy=p), [1])["recall_at_1"].mean()) for p in RUNNING}
    assert first[seen_targets_stay] == 1 and first[seen_targets_miss] == 0 and 0.05 < first[seen_items_stay] < 0.15


def test_ranks_do_not_depend_on_the_block_and_follow_user_row():
    torch.manual_seed(0)
    score = DotProduct(torch.randn(40, 8), torch.randn(300, 8))
    user_row_U = torch.randperm(40)[:23]
    rows = [torch.randperm(300)[:5].tolist() for _ in range(23)]
    one, many = (rank(score, user_row_U, item_lists(rows), item_lists([[]] * 23), item_count=300, depth=50, block_users=b) for b in (1, 23))
    assert torch.equal(one.rank_T, many.rank_T)
    full = (score(user_row_U)).argsort(1, descending=True).argsort(1)
    exact_T = torch.cat([full[u][rows[u]] + 1 for u in range(23)])
    assert torch.equal(many.rank_T, torch.where(exact_T <= 50, exact_T, BEYOND))


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_refused_wherever_it_stands(place, dtype):
    score_UI = torch.arange(12, dtype=dtype).reshape(2, 6)
    score_UI[1, place] = math.nan
    with pytest.raises(ValueError, match="NaN for 1 users of this block, the first at place 1 "):
        rank(lambda b: score_UI[b], torch.arange(2), item_lists([[0], [1]]), item_lists([[2], [3]]), item_count=6, depth=1)


def test_what_does_not_fit_is_refused_by_name():
    score_UI, user = torch.zeros(1, 3), torch.tensor([0])
    none = item_lists([[]])
    with pytest.raises(ValueError, match=r"expected floats \(1, 4\)"):
        rank(lambda b: score_UI[b], user, none, none, item_count=4)
    with pytest.raises(ValueError, match=r"seen.item_row\[1\] is 3, outside the catalogue of 3"):
        rank(lambda b: score_UI[b], user, none, item_lists([[0, 3]]), item_count=3)
    with pytest.raises(ValueError, match="targets lists item_row 2 twice for the user at place 0"):
        rank(lambda b: score_UI[b], user, item_lists([[2, 1, 2]]), none, item_count=3)
    with pytest.raises(ValueError, match=r"targets\.offset has 3 entries"):
        rank(lambda b: score_UI[b], user, item_lists([[2], []]), none, item_count=3)
    with pytest.raises(ValueError, match="never fall"):
        rank(lambda b: score_UI[b], user, ItemLists(torch.tensor([0, 2]), torch.tensor([1])), none, item_count=3)
    ranking = rank(lambda b: score_UI[b], user, none, none, item_count=3, depth=2)
    with pytest.raises(ValueError, match="no user has a target"):
        per_user(ranking, [1])
    with pytest.raises(ValueError, match="depth of 2"):
        per_user(ranking, [3])


def test_results_can_be_used_with_gradients():
    score_UI = torch.zeros(1, 3, requires_grad=True)
    ranking = rank(lambda b: score_UI[b], torch.tensor([0]), item_lists([[1]]), item_lists([[]]), item_count=3, depth=2)
    assert not any(t.is_inference() for t in (ranking.rank_T, ranking.top_item_row_UK, ranking.top_score_UK))


def test_slices_ask_for_their_targets_at_the_ranks_of_the_full_list():
    """User 0 (no history) finds item 0 at rank 1 and cold item 3 at 2; user 1 (5 items) has item 2 at rank 2."""
    score_UI = torch.tensor([[4.0, 0.0, 1.0, 3.0], [9.0, 0.0, 5.0, 3.0]])
    ranking = rank(lambda b: score_UI[b], torch.arange(2), item_lists([[0, 3], [2]]), item_lists([[], []]), item_count=4, depth=4)
    found = slices(ranking, [1], history_length_U=torch.tensor([0, 5]), train_count_I=torch.tensor([8, 3, 1, 0]))
    of = {name.removesuffix("/recall_at_1"): value for name, value in found.items() if name.endswith("/recall_at_1")}
    assert of == {"history_0": 0.5, "history_4_10": 0.0, "cold_items": 0.0, "popularity_decile_7": 1.0, "popularity_decile_1": 0.0}
    assert found["history_0/users"] == found["cold_items/users"] == 1.0


def test_summary_names_the_ends_of_the_interval():
    assert summary({"recall_at_20": torch.tensor([0.5, 0.5])}) == {"recall_at_20": 0.5, "recall_at_20_low": 0.5, "recall_at_20_high": 0.5}


def test_beyond_accuracy_of_popularity_against_itself_has_no_serendipity():
    count_I = torch.tensor([3, 2, 1])
    ranking = rank(
        lambda b: count_I.float().expand(len(b), -1), torch.arange(2), item_lists([[0], [1]]), item_lists([[]] * 2), item_count=3, depth=1
    )
    found = beyond_accuracy(ranking, 1, train_count_I=count_I, item_vector_ID=torch.eye(3), expected_item_row_UK=ranking.top_item_row_UK)
    assert found["serendipity_at_1"] == 0.0
    assert found["catalogue_coverage_at_1"] == 1 / 3
    assert found["average_popularity_at_1"] == 3.0
    assert found["novelty_at_1"] == pytest.approx(-math.log2(4 / 9))
    assert found["exposure_gini_at_1"] == pytest.approx(2 / 3)


def test_ranking_is_not_rounded_under_autocast():
    """Scores a thousandth apart stay apart: bfloat16 has eight bits, and ties count against the target."""
    item = torch.stack([torch.full((50,), 1.0), torch.linspace(0, 0.05, 50)], dim=1)
    asked = (
        torch.arange(2),
        ItemLists(torch.tensor([0, 1, 2]), torch.tensor([49, 48])),
        ItemLists(torch.tensor([0, 0, 0]), torch.tensor([])),
    )
    score = DotProduct(torch.ones(2, 2), item)
    plain = rank(score, *asked, item_count=50, depth=10).rank_T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rank(score, *asked, item_count=50, depth=10).rank_T, plain)
    assert plain.tolist() == [1, 2]


def test_every_step_stays_where_its_data_are():
    """Where new tensors would be made elsewhere (on meta, which computes nothing), evaluation answers as ever: it names its device."""
    torch.manual_seed(0)
    score, user = DotProduct(torch.randn(9, 4), torch.randn(60, 4)), torch.arange(9)
    targets, seen = (item_lists([torch.randperm(60)[:many].tolist() for _ in range(9)]) for many in (3, 8))
    count_I, length_U, vector_ID = torch.randint(0, 9, (60,)), torch.arange(9), torch.randn(60, 4)

    def everything() -> list:
        of = rank(score, user, targets, seen, item_count=60, depth=20, block_users=4)
        told = slices(of, [10], history_length_U=length_U, train_count_I=count_I)
        told |= beside_popularity(of, seen, 10, train_count_I=count_I, item_vector_ID=vector_ID)
        return [of.rank_T, of.top_item_row_UK, of.top_score_UK, summary(per_user(of, [5, 20]), resamples=20), told]

    here = everything()
    with torch.device("meta"):
        elsewhere = everything()
    assert all(torch.equal(*pair) for pair in zip(here[:3], elsewhere[:3], strict=True)) and here[3:] == elsewhere[3:]


def test_means_of_several_metrics_are_drawn_together_and_are_those_of_each_alone():
    value_UM = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = summary(dict(zip("abc", value_UM.unbind(1), strict=True)), resamples=200)
    drawn = torch.randint(50, (200, 50), generator=torch.Generator().manual_seed(0))
    for place, name in enumerate("abc"):
        mean_R = value_UM[:, place][drawn].mean(1)
        assert [together[f"{name}{end}"] for end in ("", "_low", "_high")] == pytest.approx(
            [float(value_UM[:, place].mean()), float(mean_R.quantile(0.025)), float(mean_R.quantile(0.975))]
        )
