"""How often "because you watched <the nearest item>" would have been false, against the reasons that serving verifies.

    python -m bench.explain --releases releases --label world
    python -m bench.explain --releases /elsewhere/releases --users 300

A homepage for each of some users of a trained release. For every item shown, every item of the history that the models read is left out by
brute force: its events are taken from the log's list, and both TorchScript files answer anew in this process, one history item after the
other, with no Triton and nothing of `serve.explain`. A sentence is true if without its item the shown item's probability is at least 5 %
lower, and lower by more than without the median item. The rival names the history item nearest by cosine: of all, and of those that serving
may name (taken up, not refused). Intervals are of the mean over users, by bootstrap.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.opened import keep, machine, opened
from data.features import HOUR_MS, candidate_numbers, pack, profile
from serve.contract import Request
from serve.explain import NOTICEABLE, REFUSED
from serve.likeness import unit
from serve.recommender import Recommender
from serve.release import Release
from serve.scoring import Person
from serve.settings import settings
from serve.tally import Tally

ROUNDING = 1e-4  # of a loss: sums in another order differ by so much, and no sentence hangs on it
RESAMPLES = 2_000


class Models(NamedTuple):
    """The TorchScript of a release, in this process."""

    user_tower: torch.jit.ScriptModule
    ranker: torch.jit.ScriptModule

    @classmethod
    def of(cls, release: Release) -> "Models":
        """The files that Triton serves."""
        return cls(*(torch.jit.load(str(release.path / "triton" / name / "1" / "model.pt")).eval() for name in cls._fields))


@torch.no_grad()
def probability(models: Models, release: Release, who: Person, without: int | None, item_row_N: np.ndarray) -> np.ndarray:
    """float64 (N): what the ranker says of items to somebody who never touched the item row `without`."""
    keep_E = np.ones(len(who.item_row_E), bool) if without is None else who.item_row_E != without
    row_E, code_E, then_E = who.item_row_E[keep_E], who.event_code_E[keep_E], who.timestamp_E[keep_E]
    width, now_B = release.manifest.width, np.array([who.now])
    history = pack(
        row_E, code_E, then_E, start_B=np.array([0]), end_B=np.array([len(row_E)]), now_B=now_B, length=release.manifest.history_length
    )
    table_RW = np.asarray(release.items)
    moment = torch.from_numpy(who.moment_BC)
    read = torch.from_numpy(table_RW[history.item_row_BL, :width])
    query = models.user_tower(read, torch.from_numpy(history.event_code_BL), torch.from_numpy(history.age_minutes_BL), moment)
    vector_ND = table_RW[item_row_N, width:].astype(np.float32)
    number_BKX = candidate_numbers(
        dot_BK=query.numpy() @ vector_ND.T, item_row_BK=item_row_N[None], history=history, now_B=now_B, clock=release.clock,
        genre_IG=release.genre_IG, tag_IT=release.tag_IT, release_day_I=release.release_day_I,
        duration_seconds_I=release.duration_seconds_I,
    )  # fmt: skip
    profile_BU = torch.from_numpy(profile(history, release.genre_IG))
    candidate_BKD = torch.from_numpy(table_RW[None, item_row_N, :width])
    value = models.ranker(query, moment, profile_BU, candidate_BKD, torch.from_numpy(number_BKX))
    return value[0, :, release.manifest.relevance_head].double().numpy()


class User(NamedTuple):
    """What was found of one homepage: counts of sentences, by who said them."""

    shown: int
    said: int
    said_false: int
    said_close: int
    possible: int
    nearest_false: int
    nameable: int
    nearest_nameable_false: int
    nearest_loss: float


def examine(recommender: Recommender, models: Models, user_id: str, now: int) -> User | None:
    """One homepage, held against brute force; None for a user without history."""
    release, request = recommender.release, Request(user_id, now, live=True, request_id=f"explain-{user_id}")
    known = recommender.store.read(user_id)
    slate = recommender.answer(request, known)
    who = recommender.person(request, known, Tally())
    if slate.answered_by != "personalised":
        return None
    item_row_N = release.catalogue.rows([shown.item_id for shown in slate.recommendations])
    newest = dict(zip(who.item_row_E.tolist(), who.event_code_E.tolist(), strict=True))
    history_X = np.array(list(dict.fromkeys(who.item_row_E[-release.manifest.history_length :].tolist())))
    whole_N = probability(models, release, who, None, item_row_N)
    loss_XN = np.stack([1 - probability(models, release, who, row, item_row_N) / whole_N for row in history_X.tolist()])
    median_N = np.median(loss_XN, axis=0) if len(history_X) > 1 else np.full(len(item_row_N), -np.inf)
    margin_XN = np.minimum(loss_XN - NOTICEABLE, np.where(loss_XN > median_N, loss_XN - median_N, -np.inf))
    true_XN = margin_XN >= 0

    table_RW, width = np.asarray(release.items), release.manifest.width
    cosine_XN = unit(table_RW[history_X, width:]) @ unit(table_RW[item_row_N, width:]).T
    may_X = np.array([newest[row] not in REFUSED for row in history_X.tolist()])
    place_N = np.arange(len(item_row_N))
    nearest_N = cosine_XN.argmax(0)
    nearest_may_N = np.where(may_X[:, None], cosine_XN, -np.inf).argmax(0)
    said = false = close = 0
    for place, shown in enumerate(slate.recommendations):
        if not shown.reason.startswith("Because"):
            continue
        said += 1
        named = [x for x, row in enumerate(history_X.tolist()) if shown.reason.endswith(f" {release.catalogue.titles[row]}")]
        margin = max((float(margin_XN[x, place]) for x in named), default=-np.inf)
        false += margin < -ROUNDING
        close += -ROUNDING <= margin < 0
    return User(
        len(item_row_N), said, false, close, int((true_XN & may_X[:, None]).any(0).sum()), int((~true_XN[nearest_N, place_N]).sum()),
        len(item_row_N) if may_X.any() else 0, int((~true_XN[nearest_may_N, place_N]).sum()) if may_X.any() else 0,
        float(np.median(loss_XN[nearest_N, place_N])),
    )  # fmt: skip


def ratio(users: list[User], part: str, whole: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """(Σ part / Σ whole, its 2.5 % and 97.5 % over resampled users)."""
    part_U, whole_U = (np.array([getattr(user, name) for user in users], np.float64) for name in (part, whole))
    drawn = rng.integers(0, len(users), (RESAMPLES, len(users)))
    sums = part_U[drawn].sum(1) / np.maximum(whole_U[drawn].sum(1), 1)
    return float(part_U.sum() / max(whole_U.sum(), 1)), *map(float, np.percentile(sums, [2.5, 97.5]))


SAID = {
    "verified reasons that brute force finds false": ("said_false", "said"),
    "… that are true within rounding alone": ("said_close", "said"),
    "nearest history item, said of every shown item: false": ("nearest_false", "shown"),
    "nearest of those that may be named: false": ("nearest_nameable_false", "nameable"),
    "shown items with a verified reason on the page": ("said", "shown"),
    "shown items for which some true reason exists": ("possible", "shown"),
}


def show(users: list[User]) -> Mapping[str, object]:
    """Print the table in Markdown; the same for the JSON."""
    rng = np.random.default_rng(0)
    found = {}
    print(f"\n{len(users)} homepages, {sum(user.shown for user in users):,} shown items")
    print("\n| | share | 95 % over users | of |\n|---|---:|---:|---:|")
    for what, (part, whole) in SAID.items():
        share, low, high = ratio(users, part, whole, rng)
        of = sum(getattr(user, whole) for user in users)
        found[what] = {"share": share, "low": low, "high": high, "count": sum(getattr(user, part) for user in users), "of": of}
        print(f"| {what} | {share:.1%} | {low:.1%} – {high:.1%} | {of:,} |")
    found["loss without the nearest item, median over users of the median shown item"] = loss = float(
        np.median([u.nearest_loss for u in users])
    )
    print(f"\nWithout the nearest history item the median shown item loses {loss:.1%} of its probability.", flush=True)
    return found


def main() -> None:
    """Print the table and write bench/results/explain.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.explain", description=__doc__.partition("\n")[0])
    parser.add_argument("--releases", type=Path, default=Path("releases"), help="a folder that export.py published into")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="what the JSON files these figures under; the folder's name unless told")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        patient = ["deadline_ms=30000", "triton.timeout_ms=30000", "editorial=null"]
        with opened(settings([f"releases={chosen.releases.resolve()}", f"state={folder}", *patient])) as parts:
            recommender, models = parts.recommender(), Models.of(parts.release)
            ids = parts.release.users["user_id"].to_list()
            order = np.random.default_rng(chosen.seed).permutation(len(ids))
            found = (examine(recommender, models, ids[place], recommender.last_hour * HOUR_MS) for place in order)
            users = [user for user, _ in zip((one for one in found if one is not None), range(chosen.users), strict=False)]
            recommender.panel.close()
            version = parts.release.manifest.version
    told = {"release": version, "users": len(users), "seed": chosen.seed, "machine": machine(), "found": show(users)}
    keep("explain", chosen.label or chosen.releases.resolve().parent.name, told)


if __name__ == "__main__":
    main()
