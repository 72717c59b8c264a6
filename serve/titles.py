"""Search over titles as one types: in any case, with or without accents, the likeliest first.

Shapes: I catalogue.
"""

import polars as pl

from serve.catalogue import Catalogue

SIGNS = r"[^\p{L}\p{N}]+"


def folded(titles: pl.Series) -> pl.Series:
    """Titles as they are compared: lower case, without accents, words parted by one space."""
    bare = titles.str.normalize("NFKD").str.replace_all(r"\p{M}", "").str.to_lowercase()
    return bare.str.replace_all(SIGNS, " ").str.strip_chars(" ")


class Titles:
    """The titles of a catalogue that grows, folded once. Safe to share between threads: what two make at once is the same."""

    def __init__(self, catalogue: Catalogue, popularity: pl.Series) -> None:
        """`popularity` (float, as long as the catalogue was at first) orders what is found alike."""
        self._catalogue, self._popularity = catalogue, popularity
        self._of: tuple[pl.DataFrame, pl.Series] | None = None

    def find(self, words: str, *, first: int, count: int) -> pl.DataFrame:
        """`count` of the items whose titles hold all the words, from the one numbered `first` on: item_id, title, genres.

        Titles that begin with what was typed come first, then those with a word that begins so, then the rest; popular ones before others.
        Nothing typed finds everything.
        """
        frame, title_I = self._folded()
        typed = folded(pl.Series([words])).item()
        column = pl.lit(title_I)
        parts = typed.split()
        spaced = pl.concat_str(pl.lit(" "), column)
        holds = pl.all_horizontal([pl.lit(True), *(column.str.contains(part, literal=True) for part in parts)])
        begins = pl.all_horizontal([pl.lit(True), *(spaced.str.contains(f" {part}", literal=True) for part in parts)])
        rank = column.str.starts_with(typed).cast(pl.Int8) * 2 + begins.cast(pl.Int8)
        popularity = self._popularity.extend_constant(0.0, len(frame) - len(self._popularity))
        found = frame.lazy().with_columns(rank=rank, popularity=popularity).filter(holds)
        ordered = found.sort("rank", "popularity", descending=True, maintain_order=True).slice(first, count)
        return ordered.select("item_id", "title", "genres").collect()

    def _folded(self) -> tuple[pl.DataFrame, pl.Series]:
        known, frame = self._of, self._catalogue.frame
        if known is None or known[0] is not frame:
            titles = frame["title"].fill_null(frame["item_id"]) if len(frame) else pl.Series([], dtype=pl.String)
            known = self._of = (frame, folded(titles))
        return known
