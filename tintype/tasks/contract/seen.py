"""Which images a run has seen before, by the digests of its photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tintype.data.identity import Identities, identify
from tintype.data.source import ImageSource
from tintype.runs.folder import PHOTOS_FILE, RunFolder

UNKNOWN = (
    "Whether these images were seen in training cannot be checked: "
    "the run holds no digests of its photos."
)


@dataclass(frozen=True)
class SeenBefore:
    """Which of some images training or validation has seen.

    Attributes:
        before: (N,) bool.
        counts: how many in "train" and in "val", and how many of both as a "near" copy.
    """

    before: np.ndarray
    counts: dict[str, int]

    @property
    def new(self) -> np.ndarray | None:
        """The positions of the images that are new; None where all are, or none is."""
        if not self.before.any() or self.before.all():
            return None
        return np.flatnonzero(~self.before)

    def remark(self) -> str:
        """Return a sentence on the images that the run has seen before."""
        num_images, num_seen = len(self.before), int(self.before.sum())
        if not num_seen:
            return f"None of the {num_images:,} images was seen in training or validation."

        places = ((self.counts["train"], "training"), (self.counts["val"], "validation"))
        where = " and ".join(f"{count:,} in {word}" for count, word in places if count)
        num_near = self.counts["near"]
        near = f"; {num_near:,} of them saved again, resized or mirrored" if num_near else ""

        what = f"{num_seen:,} of {num_images:,} images were seen before ({where}{near})"
        if num_seen == num_images:
            return f"WARNING: {what}: these figures say nothing about new images."
        return f"WARNING: {what}; the second row leaves them out."


def seen_before(run: RunFolder, source: ImageSource) -> SeenBefore | None:
    """Return which images the run has seen; None where that is not known."""
    photos = Identities.load(run.path / PHOTOS_FILE)
    spec = source.spec
    if photos is None or photos.shape != (spec.height, spec.width, spec.channels):
        return None

    in_split, near = photos.seen(identify({"test": source}))
    before = np.isin(in_split, ("train", "val"))
    counts: dict[str, Any] = {name: int((in_split == name).sum()) for name in ("train", "val")}
    return SeenBefore(before, {**counts, "near": int((near & before).sum())})
