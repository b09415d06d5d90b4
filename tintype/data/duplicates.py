"""Find the same picture twice: exact copies, and near-duplicates.

Near-duplicates were resized, re-encoded or mirrored. A picture is reduced to 32 x 32 grey values.
Its hash is the direction of its lowest 63 DCT coefficients (the perceptual hash of Zauner 2010,
kept as numbers instead of bits). Mirroring left to right changes the sign of every odd horizontal
frequency, so that one product over the even and one over the odd coefficients compare a pair in
both directions at once. Pairs whose hashes agree are then verified on the detail that the hash does
not see.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from tintype.data.source import Images
from tintype.hardware.cores import num_cores

SIDE = 32  # of the grey values that are compared
LOW = 8  # frequencies in each direction that make the hash
# Measured on TrashNet, pets and CIFAR-10, each photo against itself re-encoded, resized, mirrored,
# grey or brightened: 95 % of the copies lie above 0.99, 0.93 and 0.85; other photos of the same
# things seldom above 0.95, 0.85 and 0.8.
HASH = 0.95
DETAIL = 0.9
LOCAL = 0.75
# A piece of sky has no detail that survives JPEG. It passes if it is the same to within a grey
# level (root mean square, of 255), and this is little against its own deviation; no two photos of
# the sets above come within 3.
SAME = 1.0
SAME_SHARE = 0.4
FLAT = 2.0  # deviation of the grey values below which a picture has nothing to compare
# Drawings, letters and scans in one frame resemble each other without being copies. There pairs
# that come near the threshold connect a large part of the images (8 % of 120 digits, 11 % of 1,000
# of MNIST, 13 % of 5,000); among photos 0.3 % (CIFAR-10, TrashNet), and where each was cropped in
# four ways, those four.
ALIKE_FROM, ALIKE_SHARE, ALIKE_IMAGES, ALIKE_SAMPLE = 0.75, 0.05, 8, 50_000
MOST_CANDIDATES = 4_000_000
BLOCK = 2048

QUICK_SIDE = 48  # in smaller pictures only exact copies count when a run starts
QUICK_IMAGES = 20_000  # from here on as well: the search compares all pairs
THUMBNAIL = 64


@dataclass(frozen=True)
class NearPairs:
    """Pairs (P, 2) of near-duplicates, i < j, with their `similarity` (P,).

    `mirrored` (P,) says whether one of the two is mirrored. `alike` says that these pictures
    resemble each other too much to find near-duplicates; pairs is empty.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    mirrored: np.ndarray
    alike: bool = False


@dataclass(frozen=True)
class Duplicates:
    """Which images show the same picture.

    `group` (N,) holds the position of the first image of each picture. `copy_of` (N,) holds the
    position of the first image with equal pixels. `same_way` (N,) is alike for images of a group
    that show the picture the same way round, and not mirrored; None where nothing is mirrored.
    `note` says what was not looked at.
    """

    group: np.ndarray
    copy_of: np.ndarray
    note: str = ""
    same_way: np.ndarray | None = None

    @classmethod
    def of(cls, copies: np.ndarray, near: NearPairs, note: str = "") -> Duplicates:
        """Return the groups that exact copies (N,) and near-duplicates make together."""
        num_images = len(copies)
        first, second = near.pairs.T
        # Each image has two nodes, i as it is and i + N mirrored. A mirrored pair joins nodes of
        # different kinds.
        as_is = np.stack([first, np.where(near.mirrored, second + num_images, second)], axis=1)
        turned = np.stack(
            [first + num_images, np.where(near.mirrored, second, second + num_images)], axis=1
        )
        same_way = joined(
            np.concatenate([copies, copies + num_images]), np.concatenate([as_is, turned])
        )

        return cls(joined(copies, near.pairs), copies, note, same_way[:num_images])

    def told_apart(self, differing: Callable[[np.ndarray], bool]) -> Duplicates:
        """Return the groups with mirrored pictures of other targets apart.

        Left and right may be what they differ in. Only groups whose targets differ are divided,
        into the images that show the picture the same way round. `differing` tells whether the
        images at some positions have other targets.
        """
        if self.same_way is None:
            return self
        group = self.group.copy()
        for rows in self.groups:
            if differing(rows):
                first = {
                    int(way): int(row)
                    for way, row in zip(self.same_way[rows][::-1], rows[::-1], strict=True)
                }
                group[rows] = [first[int(way)] for way in self.same_way[rows]]
        return replace(self, group=group)

    @property
    def groups(self) -> list[np.ndarray]:
        """The positions of each group of at least two images."""
        return members(self.group)


def quick_audit(images: Images) -> Duplicates:
    """Return which images of a data set show the same picture.

    It takes about a second for 50,000 images of 32x32 or 2,500 of 224x224. Exact copies are always
    found. Near-duplicates are sought among pictures of 48 pixels and more, of which there are at
    most 20,000: digits of 8x8 or 28x28 pixels look alike without being copies.
    """
    num_images, height, width, _ = images.array.shape
    searched, note = near_search(num_images, min(height, width))
    if not searched:
        copies = exact_copies(images.array)
        return Duplicates(copies, copies, note)

    thumbs = thumbnails(images.array, THUMBNAIL)
    return _with_near(exact_copies(images.array, thumbs), thumbs)


def photo_audit(images: Images) -> Duplicates:
    """Return what `quick_audit` does, but from the photos alone, whatever size they were given."""
    looks = images.looks() if images.looks else None
    if looks is None:
        return quick_audit(images)

    copies = exact_copies(looks.digests)
    if looks.thumbnails is None:
        return Duplicates(copies, copies, looks.note)
    return _with_near(copies, looks.thumbnails)


def near_search(num_images: int, side: int) -> tuple[bool, str]:
    """Return whether near-duplicates are looked for in images of this short side, and why not."""
    if side < QUICK_SIDE:
        return False, ""
    if num_images > QUICK_IMAGES:
        note = (
            "near-duplicates are not looked for at the start of a "
            f"run on more than {QUICK_IMAGES:,} images"
        )
        return False, f"{note}; `tintype audit` does"
    return True, ""


def _with_near(copies: np.ndarray, thumbs: np.ndarray) -> Duplicates:
    near = near_pairs(thumbs, np.flatnonzero(copies == np.arange(len(copies))))
    alike = (
        "the images resemble each other too much to tell near-duplicates; only exact copies count"
    )
    return Duplicates.of(copies, near, alike if near.alike else "")


def exact_copies(pixels: np.ndarray, thumbs: np.ndarray | None = None) -> np.ndarray:
    """Return (N,) int64: for each image the position of the first one with equal pixels.

    Args:
        pixels: (N, H, W, C) uint8; a memory map is read image by image.
        thumbs: smaller pictures of the same images, which are compared first.
    """
    content = pixels if thumbs is None else thumbs

    def digest(i: int) -> bytes:
        return hashlib.blake2b(np.ascontiguousarray(content[i]).data, digest_size=16).digest()

    first = np.arange(len(pixels))
    seen: dict[bytes, list[int]] = {}
    for i in range(len(pixels)):
        firsts = seen.setdefault(digest(i), [])
        same = next(
            (j for j in firsts if thumbs is None or np.array_equal(pixels[i], pixels[j])), None
        )
        if same is None:
            firsts.append(i)
        else:
            first[i] = same
    return first


def thumbnails(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return (N, side, side, C) uint8, each picture averaged over boxes of equal size."""
    if pixels.shape[1:3] == (side, side):
        return pixels
    result = np.empty((len(pixels), side, side, pixels.shape[3]), np.uint8)

    def reduce(start: int) -> None:
        for i in range(start, min(start + 64, len(pixels))):
            result[i] = thumbnail(pixels[i], side)

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(reduce, range(0, len(pixels), 64)))
    return result


def thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (H, W, C) uint8 averaged over boxes of equal size, (side, side, C) uint8."""
    if pixels.shape[:2] == (side, side):
        return pixels
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX))
    return small[:, :, None] if grey else small


def near_pairs(
    thumbs: np.ndarray,
    rows: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NearPairs:
    """Return the pairs of near-duplicates among thumbnails.

    All pairs of hashes are compared block by block, which takes memory for some blocks only. Two
    pictures pass whose hashes have a cosine of at least 0.95, and whose detail (less its local
    mean) correlates by at least 0.9 as it is and by at least 0.75 with its local contrast evened
    out; or whose grey values are equal within one level. Copies of which an edge was cut off are
    not found.

    Args:
        thumbs: (N, S, S, C) uint8, S a multiple of 32; the aspect ratio does not count.
        rows: the positions to compare, ascending; by default all. Flat pictures are passed over.
        progress: called as progress(done, total) after each block.
    """
    rows = np.arange(len(thumbs)) if rows is None else np.asarray(rows)
    grey, deviation = _grey(thumbs, rows)
    rows = rows[deviation >= FLAT]
    grey = grey[deviation >= FLAT]
    nothing = NearPairs(np.empty((0, 2), np.int64), np.empty(0), np.empty(0, bool))
    if len(rows) < 2:
        return nothing

    hashes = _hashes(grey)
    candidates, complete = _candidates(hashes, progress)
    mirrored = _mirrored(hashes, candidates)
    if not complete or (len(candidates) and _alike(grey, candidates, mirrored)):
        return replace(nothing, alike=True)
    if not len(candidates):
        return nothing

    similarity, passes = _verified(grey, candidates, mirrored)
    found = candidates[passes]
    mirrored = mirrored[passes]
    # A symmetric picture is the same both ways, and is then no mirrored one.
    mirrored &= ~_verified(grey, found, np.zeros(len(found), bool))[1]

    return NearPairs(rows[found], similarity[passes], mirrored)


def perceptual_hashes(thumbs: np.ndarray) -> np.ndarray:
    """Return (N, 64) float32 of length one for thumbnails (N, S, S, C) uint8.

    They are zeros where a picture is flat. Copies of a picture have a cosine near one. Mirroring
    changes the sign of the last 32 values.
    """
    grey, deviation = _grey(thumbs, np.arange(len(thumbs)))
    return np.where(deviation[:, None] >= FLAT, _hashes(grey), 0).astype(np.float32)


def joined(group: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return groups (N,) int64, named by their first member, that are joined by pairs."""
    group = group.copy()

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = int(group[i])
        return i

    for i, j in pairs.tolist():
        first, second = sorted((root(i), root(j)))
        group[second] = first
    return np.array([root(i) for i in range(len(group))], np.int64)


def members(group: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each group of at least two, in order of the first."""
    together: dict[int, list[int]] = defaultdict(list)
    for i in np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1).tolist():
        together[int(group[i])].append(i)
    return [np.array(each) for _, each in sorted(together.items())]


def kept_together(
    duplicates: Duplicates, names: Sequence[str], groups: np.ndarray | None
) -> np.ndarray | None:
    """Return group names (N,) under which duplicates stay on one side of a split.

    Without duplicates they are `groups`. Given groups stay: duplicates of an image in a group join
    it; where images of several given groups are duplicates, the others join the first.
    """
    found = duplicates.groups
    if not found:
        return groups
    result: list[str] = [""] * len(names) if groups is None else [str(group) for group in groups]
    for rows in found:
        given = [result[i] for i in rows if result[i]]
        name = given[0] if given else f"same picture as {names[rows[0]]}"
        for i in rows:
            result[i] = result[i] or name
    return np.array(result)


def leaked_rows(duplicates: Duplicates, splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the positions in "val" and "test" of images that the run saw before.

    An image of validation is seen if training holds a duplicate of it; one of test, if training or
    validation does. A split without such images is left out.
    """
    leaked: dict[str, np.ndarray] = {}
    for split, before in (("val", ("train",)), ("test", ("train", "val"))):
        seen = np.concatenate([duplicates.group[splits[name]] for name in before])
        positions = np.flatnonzero(np.isin(duplicates.group[splits[split]], seen))
        if len(positions):
            leaked[split] = positions
    return leaked


def _grey(thumbs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 32, 32) float32 grey values, and the deviation of each picture."""
    _, size, _, channels = thumbs.shape
    step = size // SIDE
    if step * SIDE != size:
        raise ValueError(f"thumbnails of {size} pixels; expected a multiple of {SIDE}")

    # luma of ITU-R BT.601
    weights = np.array([0.299, 0.587, 0.114] if channels == 3 else [1.0], np.float32)
    grey = np.empty((len(rows), SIDE, SIDE), np.float32)
    for start in range(0, len(rows), 256):
        part = thumbs[rows[start : start + 256]]
        # Boxes are summed before colours are weighed, which touches a quarter of the values or
        # less.
        boxes = sum(
            (part[:, y::step, x::step].astype(np.uint32) for y in range(step) for x in range(step)),
            np.uint32(0),
        )
        values = boxes.reshape(-1, channels).astype(np.float32) @ (weights / step**2)
        grey[start : start + 256] = values.reshape(len(part), SIDE, SIDE)

    return grey, grey.std((1, 2))


def _hashes(grey: np.ndarray) -> np.ndarray:
    """Return the lowest DCT coefficients without the mean (N, 64), odd horizontal ones last."""
    basis = _cosines()
    low = np.einsum("ki,nij,lj->nlk", basis, grey, basis, optimize=True)
    low[:, 0, 0] = 0
    low = np.concatenate([low[:, ::2], low[:, 1::2]], axis=1).reshape(len(grey), -1)
    return low / np.linalg.norm(low, axis=1, keepdims=True).clip(1e-6)


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """Return (8, 32) float32: the lowest rows of the DCT-II."""
    angles = np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)
    return np.cos(angles).astype(np.float32)


def _candidates(
    hashes: np.ndarray, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, bool]:
    """Return the pairs (P, 2), i < j, whose hashes agree in any way, and whether these are all."""
    half = hashes.shape[1] // 2
    even = torch.from_numpy(hashes[:, :half].copy())
    odd = torch.from_numpy(hashes[:, half:].copy())
    found: list[torch.Tensor] = []

    total = 0
    for i in range(0, len(hashes), BLOCK):
        for j in range(i, len(hashes), BLOCK):
            cosine = even[i : i + BLOCK] @ even[j : j + BLOCK].T
            cosine += (odd[i : i + BLOCK] @ odd[j : j + BLOCK].T).abs_()
            if float(cosine.max()) < HASH:
                continue
            pairs = torch.nonzero(cosine >= HASH) + torch.tensor([i, j])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            found.append(pairs)
            total += len(pairs)
        if total > MOST_CANDIDATES:
            return np.empty((0, 2), np.int64), False
        if progress:
            progress(min(i + BLOCK, len(hashes)), len(hashes))

    return (torch.cat(found).numpy() if found else np.empty((0, 2), np.int64)), True


def _mirrored(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return (P,) bool: whether the pair agrees better with one of the two mirrored."""
    half = hashes.shape[1] // 2
    return np.concatenate(
        [(hashes[p[:, 0], half:] * hashes[p[:, 1], half:]).sum(1) < 0 for p in _chunks(pairs)]
        or [np.empty(0, bool)]
    )


def _alike(grey: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray) -> bool:
    """Return whether so many images nearly pass with one another that passing says little."""
    sample = np.linspace(0, len(pairs) - 1, min(len(pairs), ALIKE_SAMPLE)).astype(np.int64)
    similarity, passes = _verified(grey, pairs[sample], mirrored[sample])
    near = joined(np.arange(len(grey)), pairs[sample][(similarity >= ALIKE_FROM) & ~passes])
    return int(np.bincount(near).max()) > max(ALIKE_IMAGES, ALIKE_SHARE * len(grey))


def _verified(
    grey: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of the detail of each pair (P,), and whether the pair passes (P,)."""
    similarity, local, difference = np.empty((3, len(pairs)))
    start = 0
    for chunk in _chunks(pairs):
        stop = start + len(chunk)
        rows, index = np.unique(chunk, return_inverse=True)
        index = index.reshape(chunk.shape)
        flip = mirrored[start:stop]
        for result, values in zip((similarity, local), _details(grey[rows]), strict=True):
            result[start:stop] = (values[index[:, 0]] * _turned(values[index[:, 1]], flip)).sum(
                (1, 2)
            )
        one = grey[chunk[:, 0]]
        other = _turned(grey[chunk[:, 1]], flip)
        difference[start:stop] = np.sqrt(((one - other) ** 2).mean((1, 2)))
        difference[start:stop] /= np.minimum(1, SAME_SHARE / SAME * one.std((1, 2)))
        start = stop

    similarity[difference <= SAME] = similarity[difference <= SAME].clip(DETAIL)
    return similarity, ((similarity >= DETAIL) & (local >= LOCAL)) | (difference <= SAME)


def _turned(values: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    values[mirrored] = values[mirrored][:, :, ::-1]
    return values


def _details(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what differs from the local mean (N, 32, 32), and that with even local contrast."""
    blur = _blur()
    detail = grey - blur @ grey @ blur.T
    contrast = np.sqrt(blur @ (detail * detail) @ blur.T)
    return _unit(detail), _unit(detail / (contrast + 4))  # of 255: noise of JPEG stays noise


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.sqrt((values * values).sum((1, 2), keepdims=True)).clip(1e-6)


@lru_cache(maxsize=1)
def _blur(sigma: float = 3.0) -> np.ndarray:
    """Return (32, 32) float32 that blurs a column by a Gaussian, mirrored at the ends."""
    there = np.arange(SIDE)
    sources = np.stack([there, -1 - there, 2 * SIDE - 1 - there])
    weights = np.exp(-((there[:, None, None] - sources) ** 2) / (2 * sigma**2)).sum(1)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _chunks(pairs: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
