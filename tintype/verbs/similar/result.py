"""What a search for similar photos found: a table, a page, a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.interface.lazy import Lazy
from tintype.interface.tables import Table

if TYPE_CHECKING:
    import pandas
else:
    pandas = Lazy("pandas")


@dataclass(frozen=True, repr=False)
class Similar:
    """The photos that are most like one photo, the most similar first.

    Attributes:
        photo: the name of the one photo.
        network: whose features were compared.
        found: a row for each photo found, with its `file`, its `similarity` (the cosine of the
            features, at most 1), and whether the network is shown the `same_pixels`.
        num_photos: how many were compared.
        skipped: files that could not be read, each with the reason.
    """

    photo: str
    network: str
    found: Table
    num_photos: int
    skipped: tuple[tuple[str, str], ...] = ()
    picture: Any = field(default=None, compare=False)  # (H, W, C) uint8, as the network saw it

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        return f"<{len(self.found)} of {self.num_photos:,} photos like {self.photo}>"

    def table(self) -> Table:
        """Return a row for each photo found, as a list of dictionaries."""
        return self.found

    def frame(self) -> pandas.DataFrame:
        """Return the table as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return self.found.frame()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as --json prints it."""
        return {
            "photo": self.photo,
            "network": self.network,
            "num_photos": self.num_photos,
            "similar": list(self.found),
            "skipped": [list(each) for each in self.skipped],
        }

    def write(self, path: str | Path) -> Path:
        """Write a page (.html), a contact sheet (.png), or the table (.csv, .json) to a new file.

        A page of an earlier call is replaced.

        Raises:
            UserError: another kind of file, one that is there already, or one that cannot be
                written.
        """
        from tintype.verbs.similar import output

        path = Path(path)
        output.check(path)
        return output.write(path, self)

    def _repr_html_(self) -> str:
        from tintype.verbs.similar.output import grid

        return grid(self)
