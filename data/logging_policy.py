"""Who decides what the simulated log shows, and with which probability.

What serving does with slots, this policy does with whole slates: chance enters where its probability can be written down.
Letters: B users of a block, R requests, S slots of a slate, I items of the catalogue.
"""

from dataclasses import dataclass

import numpy as np

from data.audience import Audience, Catalogue, freshness


@dataclass(frozen=True, slots=True)
class Policy:
    """A blend of believed popularity, estimated taste and chance. Weights are in logits; the errors do not shrink as data comes in."""

    slots: int = 8
    popularity: float = 1.0
    popularity_error: float = 1.0  # standard deviation of the misjudged appeal of an item, in logits
    taste: float = 4.0
    taste_error: float = 0.8  # length of the vector added to a taste of length 1
    order_noise: float = 0.5  # Gumbel scale, in logits: how much the order departs from the score
    floor: float = 0.1  # share of a policy slate's mass that is uniform
    most: float = 0.8  # no inclusion probability of a policy slate exceeds this
    uniform_share: float = 0.1  # requests of the arm `uniform`

    def score(self, catalogue: Catalogue, audience: Audience, user_row_B: np.ndarray, time_ms: int, turn: float) -> np.ndarray:
        """What the policy thinks of each item for each user at `time_ms`, in logits, [B, I]. It does not see attention."""
        now_B = np.full(len(user_row_B), time_ms)
        estimate_BD = audience.taste_at(user_row_B, now_B, turn) + self.taste_error * audience.misjudged_UD[user_row_B]
        appeal_I = catalogue.quality_I + self.popularity_error * catalogue.belief_error_I + freshness(catalogue.released_ms_I, time_ms)
        return self.popularity * appeal_I.astype(np.float32) + self.taste * (estimate_BD @ catalogue.vector_ID.T)

    def draw_slates(
        self, score_BI: np.ndarray, eligible_BI: np.ndarray, owner_R: np.ndarray, arm_R: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each request items [R, S] from the top down, -1 where none, and their inclusion probabilities, [R, S].

        `owner_R` is the request's row in the block, `arm_R` 0 for `policy` and 1 for `uniform`. A user with fewer eligible items than
        slots gets a shorter slate.
        """
        item_RS = np.full((len(owner_R), self.slots), -1)
        propensity_RS = np.zeros(item_RS.shape)
        for arm, inclusion_BI in enumerate((self._by_score(score_BI, eligible_BI), self._uniform(eligible_BI))):
            here = np.flatnonzero(arm_R == arm)
            item_RS[here] = systematic_sample(inclusion_BI, owner_R[here], self.slots, rng)
            propensity_RS[here] = inclusion_BI[owner_R[here, None], item_RS[here]]
        noise_RS = rng.gumbel(size=item_RS.shape)
        by_score_RS = score_BI[owner_R[:, None], item_RS] + self.order_noise * noise_RS
        rank_RS = np.where(arm_R[:, None] == 0, by_score_RS, noise_RS)
        order_RS = np.argsort(np.where(item_RS < 0, np.inf, -rank_RS), axis=1)
        return np.take_along_axis(item_RS, order_RS, 1), np.take_along_axis(propensity_RS, order_RS, 1)

    def _by_score(self, score_BI: np.ndarray, eligible_BI: np.ndarray) -> np.ndarray:
        inclusion_BI = np.exp(score_BI - score_BI.max(1, keepdims=True))
        inclusion_BI *= eligible_BI
        inclusion_BI *= (1 - self.floor) / _row_sum(inclusion_BI)
        inclusion_BI += eligible_BI * (self.floor / _row_sum(eligible_BI))
        for _ in range(4):  # what the ceiling cut off goes to the others; a sum a little short of S only shortens the slate
            inclusion_BI *= self.slots / _row_sum(inclusion_BI)
            np.minimum(inclusion_BI, np.float32(self.most), out=inclusion_BI)
        return inclusion_BI

    def _uniform(self, eligible_BI: np.ndarray) -> np.ndarray:
        return eligible_BI * np.minimum(self.slots / _row_sum(eligible_BI), np.float32(1))


def systematic_sample(inclusion_BI: np.ndarray, owner_R: np.ndarray, slots: int, rng: np.random.Generator) -> np.ndarray:
    """For each request a set of items, [R, slots], -1 where none, that holds item i with probability exactly inclusion_BI[owner, i].

    Madow (1949): lay the probabilities end to end in random order and take what lies under u, u+1, u+2, … for one uniform u. Rows of
    `inclusion_BI` sum to at most `slots`; no entry exceeds 1, so that no item is drawn twice.
    """
    items = inclusion_BI.shape[1]
    order_I = rng.permutation(items)
    asking_B, owner_R = np.unique(owner_R, return_inverse=True)
    end_BI = np.cumsum(inclusion_BI[np.ix_(asking_B, order_I)], axis=1, dtype=np.float64)
    point_RS = rng.random((len(owner_R), 1)) + np.arange(slots)
    inside_RS = point_RS < end_BI[owner_R, -1:] - 1e-9  # rounding must not step into the next user's row
    one_line = (end_BI + (slots + 1.0) * np.arange(len(asking_B))[:, None]).ravel()
    found_RS = np.searchsorted(one_line, point_RS + (slots + 1.0) * owner_R[:, None], side="right") - items * owner_R[:, None]
    return np.where(inside_RS, order_I[np.where(inside_RS, found_RS, 0)], -1)


def _row_sum(value_BI: np.ndarray) -> np.ndarray:
    """Sums of the rows, [B, 1]; 1 where a row is all zero, which then stays zero whatever it is divided by."""
    total_B1 = value_BI.sum(1, keepdims=True, dtype=np.float32)
    return np.where(total_B1 == 0, np.float32(1), total_B1)
