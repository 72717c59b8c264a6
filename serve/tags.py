"""Which tags each item bears, a bit for each: 500,000 items by 128 tags are 8 MB, which as numbers were 256.

Shapes: I catalogue · T tags · F item features · N items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from data.content import ContentRecipe
from serve.manifest import ReleaseError

FILE = "tags.u8"


@dataclass(frozen=True, slots=True)
class TagTable:
    """Bits (rows, at least one byte), memory-mapped, with room beyond the catalogue's I rows. What is added is this process's own.

    `table[item_row]` reads as the table of numbers that training has: (…, T) of 0 and 1, for item rows of any shape.
    """

    bit_IB: np.ndarray
    count: int

    @classmethod
    def open(cls, folder: Path, recipe: ContentRecipe, *, rows: int) -> Self:
        """Read tags.u8 of a release whose item table has so many `rows`, those with room among them.

        Raises:
            ReleaseError: it is missing, cut short, or does not go with the recipe.
        """
        count = len(recipe.tags.words)
        try:
            flat = np.memmap(folder / FILE, np.uint8, "c")
        except (OSError, ValueError) as error:
            raise ReleaseError(folder, FILE, f"cannot be read ({error})") from error
        if len(flat) != rows * bytes_of(count):
            raise ReleaseError(folder, FILE, f"holds {len(flat)} bytes, expected {rows} rows of {bytes_of(count)} for {count} tags")
        return cls(np.asarray(flat).reshape(rows, bytes_of(count)), count)

    def __getitem__(self, item_row: np.ndarray) -> np.ndarray:
        return np.unpackbits(self.bit_IB[item_row], axis=-1, count=self.count)

    def add(self, tag_NT: np.ndarray, row_N: np.ndarray) -> None:
        """Have these items, 0 or 1 by tag, read under their item rows. One thread at a time; readers need not wait."""
        self.bit_IB[row_N] = bits(tag_NT)


def tags(feature_NF: np.ndarray, recipe: ContentRecipe) -> np.ndarray:
    """0 or 1 by tag (N, T), of what `recipe.features` says of items."""
    before, count = recipe.blocks[:2]
    return feature_NF[:, before : before + count]


def bits(tag_IT: np.ndarray) -> np.ndarray:
    """What `TagTable` keeps of 0 or 1 by tag: uint8 (I, bytes)."""
    bit_IB = np.zeros((len(tag_IT), bytes_of(tag_IT.shape[1])), np.uint8)
    packed = np.packbits(tag_IT > 0, axis=1)
    bit_IB[:, : packed.shape[1]] = packed
    return bit_IB


def write(folder: Path, tag_IT: np.ndarray, *, rows: int) -> None:
    """Write tags.u8 of a catalogue whose item table has so many `rows`."""
    bit_IB = bits(tag_IT)
    with (folder / FILE).open("wb") as file:
        bit_IB.tofile(file)
        file.truncate(rows * bit_IB.shape[1])


def bytes_of(count: int) -> int:
    """Bytes a row of so many tags has: one even for none, for no empty file can be mapped."""
    return max(1, -(-count // 8))
