"""`ab`: what came of each arm."""

import argparse
import math
from dataclasses import asdict

from serve.commands.parts import store_of
from serve.commands.telling import add, table, tell
from serve.engine import Engine
from serve.settings import Settings, SettingsError


def report(chosen: Settings, arguments: argparse.Namespace) -> None:
    """Print what came of each arm: figures, and differences to the champion with 95 % intervals."""
    with store_of(chosen) as store:
        try:
            told = Engine.reported(store, chosen.arms.shares)
        except ValueError as error:  # slates of an arm that has no share now
            raise SettingsError(f"arms.shares: {error}") from error
    of = table(
        "What came of each arm", "Arm", "Users", "Slates", "Figure", "Value", "To champion [95 %]", numbers=("Users", "Slates", "Value")
    )
    for one in told.arms:
        for figure, value in one.figures.items():
            gap = one.differences.get(figure)
            said = "" if gap is None or math.isnan(gap.value) else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
            add(of, one.arm, f"{one.users:,}", f"{one.slates:,}", figure, "–" if math.isnan(value) else f"{value:.4f}", said)
    mismatch = "" if told.mismatch_p is None else f"Shares kept: p = {told.mismatch_p:.3g}. "
    said = f"{mismatch}Users in several arms: {told.users_in_several_arms}. Events of no slate: {told.events_unmatched}."
    tell(arguments.json, asdict(told), of, said)
