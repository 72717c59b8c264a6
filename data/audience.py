"""Who lives in the simulated world and what is on its shelves. `data.world` lets the two meet.

Tastes and titles are points on one sphere of `WIDTH` dimensions, whose landmarks are genres and tags, so that an item nobody
has seen yet is still described by its own columns. Letters: B users of a block, I items of the catalogue, D the latent width.
"""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)  # a Monday
DAYS = 56
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = int(START.timestamp() * 1000)
END_MS = START_MS + DAYS * DAY_MS

WIDTH = 16
TASTE_STRENGTH = 5.5  # logits of attraction per unit of cosine between taste and item
FRESHNESS = 1.0  # logits of attraction of an item on its first day
FRESH_DAYS = 10.0  # e-folding time of that
EVENING_LENGTH = 0.25  # logits by which a long title gains at 20:00 local time and loses at 8:00
BASE_LOGIT = -2.4

REGIONS = ("BR", "DE", "IN", "JP", "US")
UTC_OFFSET_HOURS = np.array([-3, 1, 5, 9, -6])
DEVICES = ("mobile", "desktop", "tv")
TIERS = ("free", "standard", "premium")
TIER_ACTIVITY = np.array([0.7, 1.0, 1.4])
MATURITIES = (0, 6, 12, 16, 18)

NOUNS_BY_GENRE = {
    "Action": "Strike Pursuit Fortress Bullet Escape Ambush Detonator Convoy",
    "Adventure": "Voyage Island Summit Expedition Compass River Caravan Treasure",
    "Animation": "Dragonfly Toyshop Moonbear Tinker Puddle Balloon Acorn Firefly",
    "Comedy": "Wedding Neighbours Holiday Impostor Reunion Landlord Picnic Mix-Up",
    "Crime": "Heist Witness Alibi Informant Ledger Verdict Precinct Ransom",
    "Documentary": "Glacier Harvest Reef Archive Migration Workshop Census Orchard",
    "Drama": "Daughters Letters Inheritance Winter Silence House Promise Sister",
    "Fantasy": "Oracle Crown Enchanter Thornwood Griffin Spell Throne Ember",
    "Horror": "Cellar Hollow Whisper Asylum Séance Marionette Crypt Fog",
    "Music": "Chorus Ballad Orchestra Encore Rhythm Piano Nocturne Band",
    "Romance": "Kiss Summer Valentine Bookshop Waltz Proposal Heart Lighthouse",
    "Science Fiction": "Orbit Android Colony Signal Eclipse Starship Paradox Horizon",
}
GENRES = tuple(NOUNS_BY_GENRE)
_NOUNS = [nouns.split() for nouns in NOUNS_BY_GENRE.values()]
TAGS = (
    "slow burn,fast-paced,based on a true story,ensemble cast,strong heroine,twist ending,dark humour,coming of age,small town,big city,"
    "period piece,near future,found family,revenge,road trip,courtroom,underdog,forbidden love,survival,time loop,satire,feel-good,"
    "tearjerker,cult classic"
).split(",")
_ADJECTIVES = (
    "Silent Crimson Forgotten Last Hidden Golden Broken Distant Restless Hollow Electric Gentle Burning Frozen Secret Wild Velvet Northern "
    "Lonely Bright Crooked Endless Borrowed Paper Scarlet Second Stolen Sunken Quiet Infinite"
).split()
_PLACES = (
    "Lisbon,Kestrel Point,Osaka,Marrow Creek,Havana,Blackwater,Oslo,Saint Elmo,Vienna,Dry Gulch,Naples,Port Ansel,Jaipur,Cedar Falls,"
    "Tangier,Halfmoon Bay,Prague,Elder Row,Valparaíso,Winterbourne"
).split(",")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items: what everyone may read (`table`) and what only the simulation knows.

    `vector_ID` unit latent vectors; `quality_I` logits; `length_I` log duration in standard deviations; `released_ms_I` midnight
    UTC of the release date.
    """

    table: pl.DataFrame
    vector_ID: np.ndarray
    quality_I: np.ndarray
    length_I: np.ndarray
    duration_seconds_I: np.ndarray
    maturity_I: np.ndarray
    released_ms_I: np.ndarray
    belief_error_I: np.ndarray  # standard normal; how the logging policy misjudges each item's appeal, in units of its error


@dataclass(frozen=True, slots=True)
class Audience:
    """The users: what everyone may read (`table`) and what only the simulation knows.

    A taste turns from `taste_UD` towards `later_UD` (orthogonal, both of length 1) while the log runs, so that recent history says
    more than old. `shift_UD` is what region and age add.
    """

    table: pl.DataFrame
    taste_UD: np.ndarray
    later_UD: np.ndarray
    shift_UD: np.ndarray
    misjudged_UD: np.ndarray  # unit vectors; where the logging policy's estimate of a taste errs
    region_U: np.ndarray
    device_U: np.ndarray
    age_U: np.ndarray
    activity_U: np.ndarray  # share of all requests; sums to 1
    peak_hour_U: np.ndarray  # local time
    joined_day_U: np.ndarray

    def taste_at(self, user_row_B: np.ndarray, time_ms_B: np.ndarray, turn: float) -> np.ndarray:
        """The latent taste at a time, [B, D]; `turn` is the angle in radians it sweeps over the whole log."""
        angle_B = (turn * (time_ms_B - START_MS) / (END_MS - START_MS)).astype(np.float32)[:, None]
        return np.cos(angle_B) * self.taste_UD[user_row_B] + np.sin(angle_B) * self.later_UD[user_row_B] + self.shift_UD[user_row_B]

    def local_hour(self, user_row_B: np.ndarray, time_ms_B: np.ndarray) -> np.ndarray:
        """Hour of the day where the user lives, [B], in [0, 24)."""
        return (time_ms_B / HOUR_MS + UTC_OFFSET_HOURS[self.region_U[user_row_B]]) % 24


def freshness(released_ms: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
    """Logits that a new item gains: `FRESHNESS` on its first day, fading by e every `FRESH_DAYS`. Shapes broadcast."""
    return FRESHNESS * np.exp(-np.maximum(time_ms - released_ms, 0) / (FRESH_DAYS * DAY_MS))


def attraction_logit(cosine, quality, length, released_ms, time_ms, local_hour) -> np.ndarray:
    """How much an item attracts a user who looks at it, in logits; all arguments broadcast. It knows nothing of positions."""
    evening = EVENING_LENGTH * np.cos((local_hour - 20) * (2 * np.pi / 24)) * length
    return BASE_LOGIT + quality + TASTE_STRENGTH * cosine + freshness(released_ms, time_ms) + evening


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit))."""
    return 1 / (1 + np.exp(-logit))


def landmarks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the genres, pairwise orthogonal, and of the tags."""
    genre_GD = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][: len(GENRES)]
    return genre_GD, _unit(rng.standard_normal((len(TAGS), WIDTH)))


def draw_catalogue(items: int, genre_GD: np.ndarray, tag_TD: np.ndarray, rng: np.random.Generator) -> Catalogue:
    """`items` titles; a fifth of them are released while the log runs, the rest in the thirty years before."""
    genre_I3, genre_count_I = _some_of(items, len(GENRES), 3, np.array([0.45, 0.4, 0.15]), rng)
    tag_I4, tag_count_I = _some_of(items, len(TAGS), 4, np.array([0.1, 0.3, 0.4, 0.2]), rng)
    vector_ID = _unit(
        _mean_of(genre_GD, genre_I3, genre_count_I)
        + 0.4 * _mean_of(tag_TD, tag_I4, tag_count_I)
        + 0.45 * _unit(rng.standard_normal((items, WIDTH)))
    )
    age_days_I = np.ceil(30 * 365 * rng.random(items) ** 2).astype(np.int64)
    during_I = rng.random(items) < 0.2
    released_day_I = np.where(during_I, rng.integers(0, DAYS - 3, items), -age_days_I)
    length_I = rng.standard_normal(items)
    duration_seconds_I = np.round(3600 * np.exp(0.5 * np.clip(length_I, -2.2, 2.2))).astype(np.float32)  # 20 minutes to 3 hours
    maturity_I = rng.choice(MATURITIES, items, p=(0.3, 0.2, 0.25, 0.15, 0.1))
    epoch_day = START_MS // DAY_MS
    table = pl.DataFrame(
        {
            "item_id": ids("i", np.arange(items)),
            "title": _titles(genre_I3[:, 0], rng),
            "genres": [[GENRES[g] for g in row[:count]] for row, count in zip(genre_I3.tolist(), genre_count_I.tolist(), strict=True)],
            "tags": [[TAGS[t] for t in row[:count]] for row, count in zip(tag_I4.tolist(), tag_count_I.tolist(), strict=True)],
            "release_date": pl.Series((epoch_day + released_day_I).astype(np.int32)).cast(pl.Date),
            "duration_seconds": duration_seconds_I,
            "maturity": maturity_I.astype(np.int16),
        }
    )
    return Catalogue(
        table=table,
        vector_ID=vector_ID.astype(np.float32),
        quality_I=0.6 * rng.standard_normal(items).astype(np.float32),
        length_I=length_I.astype(np.float32),
        duration_seconds_I=duration_seconds_I,
        maturity_I=maturity_I,
        released_ms_I=START_MS + released_day_I * DAY_MS,
        belief_error_I=rng.standard_normal(items).astype(np.float32),
    )


def draw_audience(users: int, genre_GD: np.ndarray, rng: np.random.Generator) -> Audience:
    """`users` people; a fifth of them come for the first time while the log runs."""
    region_U = rng.choice(len(REGIONS), users, p=(0.15, 0.2, 0.2, 0.15, 0.3))
    tier_U = rng.choice(len(TIERS), users, p=(0.4, 0.4, 0.2))
    birth_year_U = START.year - np.round(6 + 70 * rng.beta(2, 3, users)).astype(np.int16)
    age_U = START.year - birth_year_U
    shift_by_region = 0.3 * _unit(rng.dirichlet(np.full(len(GENRES), 0.3), len(REGIONS)) @ genre_GD)
    older = 0.2 * _unit(rng.standard_normal(WIDTH) @ genre_GD.T @ genre_GD)
    taste_UD = _draw_tastes(users, genre_GD, rng)
    later_UD = _draw_tastes(users, genre_GD, rng)
    later_UD = _unit(later_UD - (later_UD * taste_UD).sum(1, keepdims=True) * taste_UD)
    activity_U = TIER_ACTIVITY[tier_U] * np.exp(0.6 * rng.standard_normal(users))
    evening_U = rng.choice([20.5, 13.0, 7.5], users, p=(0.7, 0.15, 0.15))
    table = pl.DataFrame(
        {
            "user_id": ids("u", np.arange(users)),
            "region": pl.Series(REGIONS)[region_U],
            "subscription_tier": pl.Series(TIERS)[tier_U],
            "birth_year": birth_year_U,
        }
    )
    return Audience(
        table=table,
        taste_UD=taste_UD.astype(np.float32),
        later_UD=later_UD.astype(np.float32),
        shift_UD=(shift_by_region[region_U] + older * ((age_U - 34) / 15)[:, None]).astype(np.float32),
        misjudged_UD=_unit(rng.standard_normal((users, WIDTH))).astype(np.float32),
        region_U=region_U,
        device_U=rng.choice(len(DEVICES), users, p=(0.5, 0.2, 0.3)),
        age_U=age_U,
        activity_U=activity_U / activity_U.sum(),
        peak_hour_U=evening_U + rng.standard_normal(users),
        joined_day_U=np.where(rng.random(users) < 0.2, rng.integers(0, DAYS - 2, users), 0),
    )


def draw_request_times(audience: Audience, user_row_R: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """When each request comes, ms UTC, [R], within the log: around the user's own hour, oftener at weekends, not before the user joined."""
    weight = np.where(np.arange(DAYS) % 7 >= 5, 1.4, 1.0)
    before = np.concatenate([[0.0], np.cumsum(weight)])
    joined_R = before[audience.joined_day_U[user_row_R]]
    day_R = np.searchsorted(before, joined_R + rng.random(len(user_row_R)) * (before[-1] - joined_R), side="right") - 1
    local_hour_R = (audience.peak_hour_U[user_row_R] + 2.2 * rng.standard_normal(len(user_row_R))) % 24
    utc_hour_R = (local_hour_R - UTC_OFFSET_HOURS[audience.region_U[user_row_R]]) % 24
    return START_MS + day_R * DAY_MS + (utc_hour_R * HOUR_MS).astype(np.int64)


def ids(letter: str, number: np.ndarray) -> pl.Series:
    """`u0000007` for 7: sorts as the number does up to ten million."""
    return letter + pl.Series(number).cast(pl.String).str.zfill(7)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _draw_tastes(users: int, genre_GD: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    liked = rng.dirichlet(np.full(len(GENRES), 0.2), users) @ genre_GD
    return _unit(_unit(liked) + 0.4 * _unit(rng.standard_normal((users, WIDTH))))


def _some_of(rows: int, kinds: int, most: int, share: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each row up to `most` different kinds out of `kinds`, [rows, most], and how many of them count, [rows]."""
    picks = np.argpartition(rng.random((rows, kinds)), most, axis=1)[:, :most]
    return picks, 1 + rng.choice(most, rows, p=share)


def _mean_of(vector_KD: np.ndarray, picks: np.ndarray, count: np.ndarray) -> np.ndarray:
    used = (np.arange(picks.shape[1]) < count[:, None]) / count[:, None]
    return np.einsum("nk,nkd->nd", used, vector_KD[picks])


def _titles(genre_I: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Titles in the words of their first genre; a title met again is numbered as its sequel."""
    draws = rng.integers(0, 1 << 30, (len(genre_I), 4)).tolist()
    met: dict[str, int] = {}
    titles = []
    for genre, (shape, a, b, c) in zip(genre_I.tolist(), draws, strict=True):
        noun, adjective, place = _NOUNS[genre][a % 8], _ADJECTIVES[b % len(_ADJECTIVES)], _PLACES[c % len(_PLACES)]
        title = (f"The {adjective} {noun}", f"{adjective} {noun}", f"{noun} in {place}", f"The {noun} of {place}")[shape % 4]
        met[title] = met.get(title, 0) + 1
        titles.append(title if met[title] == 1 else f"{title} {met[title]}")
    return titles
