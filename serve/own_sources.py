"""Sources of one's own, named in conf/serve.yaml: made for a release, held to what every source promises, each failing alone.

    own_sources:
      awards: {_target_: awards.Awards, candidates: 50, timeout_ms: 250, path: awards.txt}

is `awards.Awards(name="awards", release=release, path="awards.txt")`, a `serve.sources.Source` that is asked for every homepage, beside the
usual ones and with the user's query. It is made again with each release; what it proposes may be rows of items posted since.
"""

import logging
from collections.abc import Mapping, Sized
from dataclasses import dataclass

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from serve.release import Release
from serve.settings import OwnSource
from serve.sources import Ask, Source

logger = logging.getLogger(__name__)


class ProposalError(ValueError):
    """What a source proposed cannot be proposed. The message says what it is."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A source whose proposals are looked at before anybody relies on them. `catalogue` is as long as there are items."""

    source: Source
    catalogue: Sized
    name: str

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        """What the source proposes.

        Raises:
            ProposalError: it is no row of at most `count` different items that there are.
        """
        item_row = np.asarray(self.source.propose(ask, count))
        if item_row.ndim != 1 or (len(item_row) and not np.issubdtype(item_row.dtype, np.integer)):
            raise ProposalError(f"proposed {item_row.dtype} of shape {item_row.shape}; expected item rows, whole numbers in one dimension")
        if len(item_row) > count:
            raise ProposalError(f"proposed {len(item_row)} items; asked for were at most {count}")
        if len(np.unique(item_row)) < len(item_row):
            raise ProposalError("proposed an item more than once")
        items = len(self.catalogue)
        if len(item_row) and not 0 <= item_row.min() <= item_row.max() < items:
            raise ProposalError(f"proposed rows from {item_row.min()} to {item_row.max()}; there are items at 0 to {items - 1}")
        return item_row.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Unmade:
    """A source that could not be made for this release: it fails whenever it is asked, and the others answer."""

    why: Exception
    name: str

    def propose(self, ask: Ask, count: int) -> np.ndarray:
        raise ProposalError("could not be made for this release") from self.why


def own(chosen: Mapping[str, OwnSource], release: Release) -> tuple[Source, ...]:
    """The sources that the settings name, in their order, for one release."""
    return tuple(_made(name, one, release) for name, one in chosen.items())


def _made(name: str, chosen: OwnSource, release: Release) -> Source:
    try:
        return Checked(instantiate(chosen.made_by, name=name, release=release), release.catalogue, name)
    except InstantiationException as error:
        logger.error("own_sources.%s cannot be made for release %s: %s", name, release.manifest.version, error)
        return Unmade(error, name)
