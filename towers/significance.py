"""Whether two models differ: a paired t-test that knows of users and of seeds, and what is left of it where many were made.

Shapes: U users · S, R seeds (trainings) of two settings · H hypotheses.
"""

from collections.abc import Mapping
from math import isfinite, nan, sqrt
from typing import NamedTuple

from scipy.stats import t
from torch import Tensor

LEAST_USERS = 30
"""Of fewer, differences of hits and misses are too skew for Student's t, and no test is made."""


class Tested(NamedTuple):
    """A mean difference, its 95 % interval, the probability of one as far from 0 where there is none, and the t distribution's degrees of
    freedom; NaN where nothing can be told of how it varies."""

    mean: float
    low: float
    high: float
    p: float
    degrees: float


def paired_t(one_SU: Tensor, other_RU: Tensor, *, confidence: float = 0.95) -> Tested:
    """`one_SU` less `other_RU`, of the same users in one order, each the mean of its seeds.

    With one seed each it is Student's paired t over users: mean / √(s² / U), U − 1 degrees of freedom. It then speaks of these two
    trainings: another seed might lie elsewhere. With several seeds users and trainings both are drawn, and the variances of the two means
    add up: of the users' differences over U, of the first's means over S, of the other's over R. The degrees of freedom are Satterthwaite's
    (1946), so that two or three seeds cost what they should. What users and seeds vary in together is in both, so the sum errs on the wide
    side (as the pigeonhole bootstrap does, Owen 2007, arXiv 0712.1111).

    Trainings share their test here and differ by nothing but chance, so the factor of Nadeau & Bengio (2003), for trainings on overlapping
    draws of the data, has no place: it would stand for other data, of which these runs know nothing.

    All differences 0 is no difference: p = 1. Fewer than `LEAST_USERS` users, or a difference that does not vary, is not tested.

    Raises:
        ValueError: the users are not as many on both sides.
    """
    if one_SU.shape[1] != other_RU.shape[1]:
        raise ValueError(f"paired_t: {one_SU.shape[1]} and {other_RU.shape[1]} users; pairs need the same users in one order.")
    one_SU, other_RU = one_SU.double(), other_RU.double()
    difference_U = one_SU.mean(0) - other_RU.mean(0)
    mean, users = float(difference_U.mean()), len(difference_U)
    if users < LEAST_USERS:
        return Tested(mean, nan, nan, nan, nan)
    if not bool(difference_U.any()) and len(one_SU) == len(other_RU) == 1:
        return Tested(0.0, 0.0, 0.0, 1.0, users - 1)
    parts = [(float(difference_U.var()) / users, users - 1)]
    parts += [(float(of.mean(1).var()) / len(of), len(of) - 1) for of in (one_SU, other_RU) if len(of) > 1]
    variance = sum(part for part, _ in parts)
    if not variance > (1e-6 * mean) ** 2:  # what rounding leaves is no variance
        return Tested(mean, nan, nan, nan, nan)
    degrees = variance**2 / sum(part**2 / free for part, free in parts)
    error = sqrt(variance)
    wide = error * float(t.isf((1 - confidence) / 2, degrees))
    return Tested(mean, mean - wide, mean + wide, float(2 * t.sf(abs(mean) / error, degrees)), degrees)


def holm(p_by_name: Mapping[str, float]) -> dict[str, float]:
    """Each p as it stands where all were looked at: below α they are wrong, any of them, with probability α at most, however they hang
    together. p₍ᵢ₎ ↦ max over j ≤ i of min(1, (H − j + 1) p₍ⱼ₎). Holm, Scandinavian Journal of Statistics 1979. NaN, no test, stays."""
    order = sorted((name for name, p in p_by_name.items() if isfinite(p)), key=p_by_name.__getitem__)
    adjusted, least = dict(p_by_name), 0.0
    for place, name in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p_by_name[name]))
        adjusted[name] = least
    return adjusted
