"""What full ranking costs beyond what it cannot do without: towers.evaluation beside the bare matrix product and top-k of the same blocks.

    python -m bench.evaluate                                    # 100,000 users × 50,000 items, D = 64; some minutes
    python -m bench.evaluate --users 5000 --items 20000         # less
    python -m bench.evaluate --device cuda

*Bare* is `(query @ items.T).topk(100)` in blocks of users as large as evaluation takes them, and its results thrown away. *Evaluated* is
everything from vectors to figures: scores of the whole catalogue, seen items removed, every target ranked with ties against it, the list of
each user, recall, hit rate, NDCG, MRR and precision at 10, 20 and 100 for every user, and their means with bootstrap intervals. Both take
turns over the same few thousand users, now the one first, now the other, so that what else runs on the machine slows both; the ratio of the
sums is the claim, the median over the turns says how far to trust it.

Users have up to 50 seen items and 1 to 5 targets, drawn as popularity goes (Zipf); vectors are Gaussian, which costs what trained ones do.

Shapes: U users · I catalogue · D width.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from towers.evaluation import BLOCK_CELLS, DotProduct, ItemLists, per_user, rank, summary
from towers.record import commit

RESULTS = Path(__file__).parent / "results" / "evaluate.json"
K, KS = 100, (10, 20, 100)


def lists(users: int, items: int, least: int, most: int, generator: torch.Generator) -> ItemLists:
    """`least` to `most` items for each user, by 1 / rank, those left out that were drawn before."""
    count_U = torch.randint(least, most + 1, (users,), generator=generator)
    kept = []
    for count_B in count_U.split(4096):
        row_BN = (items ** torch.rand(len(count_B), most, generator=generator, dtype=torch.float64)).long() - 1
        before_BN = (row_BN[:, :, None] == row_BN[:, None, :]).tril(-1).any(2)
        kept.append((row_BN, (torch.arange(most) < count_B[:, None]) & ~before_BN))
    length_U = torch.cat([keep_BN.sum(1) for _, keep_BN in kept])
    return ItemLists(torch.nn.functional.pad(length_U.cumsum(0), (1, 0)), torch.cat([row_BN[keep_BN] for row_BN, keep_BN in kept]))


def of_users(lists: ItemLists, start: int, stop: int) -> ItemLists:
    """The lists of users `start` to `stop`."""
    offset = lists.offset[start : stop + 1]
    return ItemLists(offset - offset[0], lists.item_row[int(offset[0]) : int(offset[-1])])


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """How long it takes until the device has done it, and what it answers."""
    start = time.perf_counter()
    found = work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start, found


def main() -> None:
    """Print the table and write bench/results/evaluate.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=12, help="blocks of users in each turn")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    generator = torch.Generator().manual_seed(0)
    query_UD, item_ID = (torch.randn(rows, chosen.width, generator=generator).to(device) for rows in (chosen.users, chosen.items))
    seen, targets = (lists(chosen.users, chosen.items, *ends, generator) for ends in ((20, 50), (1, 5)))
    block = max(1, BLOCK_CELLS.get(device.type, 2**28) // chosen.items)

    def bare(query_UD: Tensor) -> None:
        for query_BD in query_UD.split(block):
            (query_BD @ item_ID.T).topk(K, dim=1)

    def evaluated(start: int, stop: int) -> dict[str, Tensor]:
        asked = (of_users(lists, start, stop) for lists in (targets, seen))
        ranking = rank(DotProduct(query_UD, item_ID), torch.arange(start, stop, device=device), *asked, item_count=chosen.items, depth=K)
        return per_user(ranking, KS)

    turns, values, step = [], [], chosen.blocks * block
    bare(query_UD[:block]), evaluated(0, block)  # what is done once is not counted
    for turn, start in enumerate(range(0, chosen.users, step)):
        stop = min(start + step, chosen.users)
        work = [lambda at=start, end=stop: bare(query_UD[at:end]), lambda at=start, end=stop: evaluated(at, end)]
        took = [seconds(work[which], device) for which in ((0, 1) if turn % 2 == 0 else (1, 0))]
        (bare_s, _), (mine_s, value) = took if turn % 2 == 0 else took[::-1]
        turns.append((stop - start, bare_s, mine_s))
        values.append(value)
    means_s, figures = seconds(lambda: summary({name: torch.cat([of[name] for of in values]) for name in values[0]}), device)

    bare_s, rank_s = (sum(turn[which] for turn in turns) for which in (1, 2))
    rows = {
        "bare product and top-k": bare_s,
        "ranked, values of each user": rank_s,
        "means and intervals": means_s,
        "evaluated": rank_s + means_s,
    }
    print(f"{chosen.users:,} users × {chosen.items:,} items, D = {chosen.width}, on {device}, {torch.get_num_threads()} threads\n")
    print("| | seconds | users/s | × bare |\n|---|---:|---:|---:|")
    for name, took in rows.items():
        print(f"| {name} | {took:.1f} | {chosen.users / took:,.0f} | {took / bare_s:.2f} |")
    ratios = [mine / base for _, base, mine in turns]
    print(
        f"\nmedian of {len(turns)} turns: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), without the intervals"
    )
    machine = {
        "commit": commit(), "torch": torch.__version__, "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0],
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
    }  # fmt: skip
    known = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    label = f"{chosen.users:,} × {chosen.items:,}, D = {chosen.width}, {device.type}"
    found = {
        "seconds": rows, "users_per_second": chosen.users / (rank_s + means_s), "ratio": (rank_s + means_s) / bare_s,
        "median_ratio_of_turns": statistics.median(ratios), "turns": turns, "block_users": block, "ndcg_at_20": figures["ndcg_at_20"],
    }  # fmt: skip
    RESULTS.write_text(json.dumps(known | {label: machine | found}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
