"""The types in which images travel: DataSpec, Images, Batch, ImageSource and DataSplits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tintype.data.pixels import PixelStore, ReadsAhead
from tintype.data.targets import TargetKind


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the images: their shape, their targets and their statistics.

    `mean` and `std` hold one value for each channel, of pixels scaled to 0..1, measured on the
    training split. `fingerprint` changes when any image, label or the membership of a split
    changes.
    """

    name: str
    channels: int
    height: int
    width: int
    target: TargetKind
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    # the value that is white in pictures of more than 8 bits, where the set says so
    white: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.height, self.width

    @property
    def num_outputs(self) -> int:
        """The number of values that a network gives for one image."""
        return self.target.num_outputs

    def normalised(self, how: str | None) -> DataSpec:
        """Return it with the mean and deviation that stand for a way to normalise pixels.

        That is "none" for pixels of 0..255 as they are, "scale" for pixels divided by 255 and
        nothing else, "mean-std" or None for its own statistics.
        """
        if how in (None, "mean-std"):
            return self
        deviation = 1.0 if how == "scale" else 1 / 255
        return replace(self, mean=(0.0,) * self.channels, std=(deviation,) * self.channels)

    # Tasks and models that know their targets to be classes read them under these names.

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.target.names if self.target.offer == "class" else ()

    @property
    def num_classes(self) -> int:
        return self.target.num_outputs


class Looks(NamedTuple):
    """What photos show, by which copies are found, whatever the size that a model takes them at.

    `digests` (N, 16) uint8 are equal for equal pixels. `thumbnails` (N, S, S, C) uint8 is None
    where only exact copies are looked for, and `note` says why if that is not plain.
    """

    digests: np.ndarray
    thumbnails: np.ndarray | None
    note: str = ""


class Shards(NamedTuple):
    """Images that lie together in files, and are read file by file.

    Attributes:
        numbers: (N,) int64, the shard of each image.
        window: how many shards are shuffled with one another.
    """

    numbers: np.ndarray
    window: int

    def at(self, index: np.ndarray) -> Shards:
        """Return those of the images at `index`."""
        return self._replace(numbers=self.numbers[index])


@dataclass
class Images:
    """Every image of one data set, before it is divided.

    A file in `tintype/data/sets/` hands it over. Such a file has one function: `load(name, *,
    data_root, image_size, channels, resize, progress) -> Images`. Where its literal `TARGETS`
    offers other targets than classes, `load` has the argument `target` as well, the kind that is
    asked for.

    `split` holds "train", "val", "test" or "" (free) for each image where the data bring splits.
    `groups` names what must stay on one side of a split ("" stands alone). `weights` are those of
    the images in the loss. `columns` hold further texts by which figures are given, one for each
    image. `paths` are the files of images that are files. `fingerprint` is a hash of the pixels
    where one is known. `on_disk` says that `pixels` maps a file of the cache, in the size asked
    for. `white` is that of `DataSpec`. `looks` returns what photos show at the size that is chosen
    where none is asked for, or None where `pixels` is that; it may decode them once more.
    `split_by` holds texts, all different, by which a split is decided in place of the names.
    `shards` says which images lie together, where they are read so; `pixels` may then be a store.
    """

    # (N, H, W, C) uint8, in memory or a memory map; or what decodes them when they are taken
    pixels: np.ndarray | PixelStore
    targets: np.ndarray  # (N, *target.shape) of target.dtype
    names: list[str]  # all different
    target: TargetKind
    split: np.ndarray | None = None  # (N,) str
    groups: np.ndarray | None = None  # (N,) str
    weights: np.ndarray | None = None  # (N,) float32
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    fingerprint: str = ""
    on_disk: bool = False
    white: float | None = None
    paths: list[str] | None = None
    looks: Callable[[], Looks | None] | None = None
    split_by: Sequence[str] | None = None
    shards: Shards | None = None

    @property
    def array(self) -> np.ndarray:
        """The pixels, of a set whose pixels lie in memory or in a memory map."""
        assert isinstance(self.pixels, np.ndarray)
        return self.pixels


class Glance(NamedTuple):
    """What a data set is before its pixels are read.

    Attributes:
        num_images: about as many as can be read.
        side: the median of the images' shorter sides in pixels.
    """

    num_images: int
    side: int


class Batch(NamedTuple):
    """Some images with their targets and their positions in the source that they came from.

    `weights` are those of the images in the loss, None where all count the same.
    """

    images: Tensor  # (N, C, H, W) uint8, channels_last in memory
    targets: Tensor  # (N, *shape), as the kind of target says
    index: Tensor  # (N,) int64
    weights: Tensor | None = None  # (N,) float32


class ImageSource(ABC):
    """Images that fit a `DataSpec`, taken by position. Subclasses differ in where the pixels lie.

    Attributes:
        spec: shape, targets and statistics.
        targets: (N, *spec.target.shape), on the CPU.
        names: a stable name for each image (a relative path, or "train/00017" where there is no
            file).
        kind: where the pixels are kept, as `PixelStore.kind` has it.
        weights: (N,) float32 of the images in the loss, of mean 1 over the training images, on the
            CPU; None where all count the same.
        shards: which images lie together; None where they are taken in any order as fast.
    """

    spec: DataSpec
    targets: Tensor
    names: Sequence[str]
    kind: str
    weights: Tensor | None = None
    shards: Shards | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """Return the images at `index` (N,) int64 as a Batch."""

    @abstractmethod
    def subset(self, index: Tensor | np.ndarray) -> ImageSource:
        """Return a source of the images at `index`, in that order, which shares the pixels."""

    def ahead(self) -> ReadsAhead | None:
        """Return what may be asked to read images before they are taken, None where nothing is."""
        return None


class StoredSource(ImageSource):
    """Images whose pixels lie in a `PixelStore`, in the order of their targets."""

    def __init__(
        self,
        spec: DataSpec,
        store: PixelStore,
        targets: Tensor,
        names: Sequence[str],
        weights: Tensor | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.spec = spec
        self.store = store
        self.shards = shards
        self.targets = targets.cpu()
        self.names = names
        self.kind = store.kind
        self.weights = weights
        # next to the pixels
        self._targets_there = self.targets.to(store.device)
        self._weights_there = None if weights is None else weights.to(store.device)

    def take(self, index: Tensor) -> Batch:
        there = index.to(self.store.device, non_blocking=True)
        weights = None if self._weights_there is None else self._weights_there[there]
        return Batch(self.store.take(there), self._targets_there[there], index, weights)

    def subset(self, index: Tensor | np.ndarray) -> StoredSource:
        index = torch.as_tensor(index, dtype=torch.int64)
        names = [self.names[int(i)] for i in index]
        weights = None if self.weights is None else self.weights[index]
        store = self.store.subset(index)
        shards = None if self.shards is None else self.shards.at(index.numpy())
        return StoredSource(self.spec, store, self.targets[index], names, weights, shards)

    def ahead(self) -> ReadsAhead | None:
        return self.store if isinstance(self.store, ReadsAhead) else None


class JoinedSource(ImageSource):
    """The images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = [source for source in sources if len(source)]
        first = self.sources[0]
        self.spec = first.spec
        self.kind = first.kind
        self.targets = torch.cat([source.targets for source in self.sources])
        self.names = [name for source in self.sources for name in source.names]
        self.starts = np.cumsum([0, *(len(source) for source in self.sources)])
        if all(source.weights is not None for source in self.sources):
            self.weights = torch.cat([w for s in self.sources if (w := s.weights) is not None])

    def take(self, index: Tensor) -> Batch:
        order = index.cpu()
        images: Tensor | None = None
        for source, start in zip(self.sources, self.starts, strict=False):
            inside = (order >= start) & (order < start + len(source))
            if not inside.any():
                continue
            found = source.take(order[inside] - int(start)).images
            if images is None:
                images = found.new_empty((len(order), *found.shape[1:]))
            images[inside.to(images.device)] = found

        if images is None:
            images = self.sources[0].take(order).images
        weights = None if self.weights is None else self.weights[order]
        return Batch(images, self.targets[order], index, weights)

    def subset(self, index: Tensor | np.ndarray) -> ImageSource:
        raise NotImplementedError("its images are only taken")


@dataclass(frozen=True)
class DataSplits:
    """The three splits of one data set, and what was noticed while they were read.

    `notes` are lines for the user ("validation: 10 % of training, stratified, seed 0"); `skipped`
    names each file that could not be read, with the reason. `leaked` holds, for "val" and "test",
    the positions (K,) int64 in that split of images that the run has seen before it is measured on
    them: copies and near-duplicates of training images (and for test, of validation images). A
    split without any is left out. `groups` names the group of each image that belongs together with
    others, by the image's name: groups that the data or the user names, and near-duplicates.
    `folds` numbers the fold of each image, 1 and up, by its name, where folds are asked for.
    `columns` hold by column the text of each image, by its name, by which figures are also given.
    """

    spec: DataSpec
    train: ImageSource
    val: ImageSource
    test: ImageSource
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = field(default=())
    leaked: dict[str, np.ndarray] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __getitem__(self, split: str) -> ImageSource:
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def group_numbers(names: Sequence[str], groups: Mapping[str, str]) -> np.ndarray | None:
    """Return a number for each image (N,), equal for images of one group; None where all differ.

    `groups` names the group of an image by the image's name; an image without one stands alone.
    """
    # An image may be called as a group is, so that a label says which of the two it is.
    labels: dict[tuple[str, bool], int] = {}
    numbers = []
    for name in names:
        group = groups.get(name)
        label = (group, True) if group else (name, False)
        numbers.append(labels.setdefault(label, len(labels)))

    return np.array(numbers, np.int64) if len(labels) < len(names) else None
