"""Lay one photo over another: what a copy looks like that was cropped, turned, framed or painted.

Keypoints of both (SIFT, Lowe 2004, compared as Arandjelović and Zisserman 2012 do) give an affine
map by RANSAC. Under it the photos are compared window by window, after blurring: where two photos
are the same pixels, nearly every window correlates by nearly one, and what was painted over costs
its own windows only. An object that was photographed again has keypoints in common as well, but
its windows do not agree to the last pixel.

Needs OpenCV, which is the extra `audit`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

MODULE = "cv2"
SIDE = 128  # of the pictures that are laid over one another
# Longest side at which keypoints are looked for, how many are kept, and the contrast that is enough
# for one. On TrashNet and pets, 320 and 384 pixels find no more of the copies and take two and
# three times as long. Where photos are many, fewer pixels have to do.
LONG_SIDE, SHORTER_SIDE = 256, 128
MOST_KEYPOINTS, CONTRAST = 160, 0.01
ENLARGED_FROM = 64  # pixels; a photo that is smaller still is enlarged as much as one of that size
RATIO = 0.85  # of the distances to the nearest and the second nearest keypoint
TOLERANCE = 2.5  # of a keypoint from where the map puts it, in pixels of SIDE
# Keypoints that are paired, and those of them that agree on a map. Of 1,080 altered copies of
# photos of TrashNet and CIFAR-10, none that is found has fewer than 8 and 7, nor is one found by
# any but the way in which most are paired.
FEWEST_PAIRS, FEWEST = 8, 6
WAYS = 2  # of four that are tried: as it is, mirrored, inverted, and both
MOST_DRAWS = 200  # of three keypoints, in search of a map
AT_ONCE = 8  # photos whose keypoints are compared with those of one
LARGEST, LONGEST = 5.0, 3.0  # the map's scale, and how far it may stretch one way

BLUR = 1.5
WINDOW = 11
TEXTURED = 3.0  # deviation of the grey values in a window, below which it says nothing
TINY = 1e-3  # variance that stands for none
SAME_WINDOW = 0.9  # correlation of one that shows the same pixels
SAME_PIXEL = 8.0  # grey levels
FEWEST_PIXELS = 200  # of SIDE x SIDE
LEAST_SHARE = 0.3  # that one of the photos shows of the other

# What tells a copy from an object that was photographed again: light falls otherwise, so that the
# contrast of windows changes unevenly. Its spread is below 0.06 for 99 % of cropped, turned and
# brightened copies of TrashNet and pets, below 0.03 for painted ones, and above 0.07 for 95 % of
# objects seen twice.
WHOLE_EVEN, WHOLE_SAME = 0.06, 0.9
PAINTED_EVEN, PAINTED_SAME = 0.03, 0.2
PIXELS_SAME = 0.7
# Boxes with the same print, and bottles of one kind, agree on fewer windows or fewer keypoints.
OBJECT_KEYPOINTS, OBJECT_WINDOWS = 15, 0.6

OF_KEYPOINT = 128 + 4  # bytes
_PLACE = 65535  # the right or lower edge, as a place is stored


class Look(NamedTuple):
    """What photos are aligned by.

    `picture` (H, W, C) uint8 is the whole photo, in any size and shape. `places` (K, 2) float32 are
    those of its keypoints in pixels of (SIDE, SIDE), `descriptors` (K, 128) float32 have length
    one.
    """

    picture: np.ndarray
    places: np.ndarray
    descriptors: np.ndarray


class Alignment(NamedTuple):
    """How the picture of one photo lies in that of another.

    Attributes:
        matrix: (2, 3), from pixels of the one (mirrored first, if it is) to pixels of the other.
        mirrored: whether one of the two is mirrored left to right.
        inverted: whether one of the two is a negative.
        num_keypoints: that agree on the map.
        shares: of each of the two photos, what the other one shows of it.
        same: share of the windows in common that show the same pixels.
        spread: of the logarithm of the contrast of one over that of the other, among the windows
            that show the same pixels; its median absolute deviation, scaled as a standard one.
        pixels: share of the pixels in common whose brightness differs by little.
    """

    matrix: np.ndarray
    mirrored: bool
    inverted: bool
    num_keypoints: int
    shares: tuple[float, float]
    same: float
    spread: float
    pixels: float

    @property
    def is_copy(self) -> bool:
        """Whether the two are the same pixels but for what was painted over them."""
        whole = self.same >= WHOLE_SAME and self.spread <= WHOLE_EVEN
        painted = self.same >= PAINTED_SAME and self.spread <= PAINTED_EVEN
        much = max(self.shares) >= LEAST_SHARE and self.pixels >= PIXELS_SAME
        return much and (whole or painted)

    @property
    def is_same_object(self) -> bool:
        """Whether the two show one object or scene that was photographed again."""
        return (
            max(self.shares) >= LEAST_SHARE
            and self.num_keypoints >= OBJECT_KEYPOINTS
            and self.same >= OBJECT_WINDOWS
            and not (self.mirrored or self.inverted)
        )


def available() -> bool:
    """Return whether OpenCV is installed, from whichever of its packages."""
    return importlib.util.find_spec(MODULE) is not None


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep OpenCV and products of matrices to the calling thread.

    Photos are looked at in several threads, and the products are so small that to divide one
    among the cores takes thirty times as long.
    """
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)


def keypoints(photo: np.ndarray, side: int = LONG_SIDE) -> np.ndarray:
    """Return the keypoints of a photo, packed into (MOST_KEYPOINTS, OF_KEYPOINT) uint8.

    Args:
        photo: (H, W, C) uint8 with one or three channels; best `side` pixels long.
        side: to which a smaller one is enlarged, if it is not tiny.
    """
    import cv2

    image = Image.fromarray(photo if photo.shape[2] == 3 else photo[:, :, 0])
    scale = side / max(*image.size, ENLARGED_FROM)
    if scale > 1:
        larger = (round(image.width * scale), round(image.height * scale))
        image = image.resize(larger, Image.Resampling.BICUBIC)
    finder = cv2.SIFT.create(
        nfeatures=MOST_KEYPOINTS, contrastThreshold=CONTRAST, enable_precise_upscale=True
    )
    grey = np.asarray(image.convert("L"))
    found, descriptors = finder.detectAndCompute(grey, None)  # pyright: ignore[reportArgumentType]
    found = found[:MOST_KEYPOINTS]

    packed = np.zeros((MOST_KEYPOINTS, OF_KEYPOINT), np.uint8)
    if found:
        size = np.array([image.width, image.height])
        places = (np.array([each.pt for each in found]) + 0.5) / size
        stored = np.rint(places.clip(0, 1) * _PLACE).astype("<u2")
        packed[: len(found), :128] = descriptors[: len(found)]
        packed[: len(found), 128:] = stored.view(np.uint8).reshape(len(found), 4)
    return packed


def look_of(picture: np.ndarray, packed: np.ndarray) -> Look:
    """Return what a photo is aligned by.

    Args:
        picture: (H, W, C) uint8, the whole photo in any size and shape.
        packed: what `keypoints` returned for it.
    """
    there = packed[:, :128].any(axis=1)
    descriptors = descriptors_of(packed[there])
    stored = np.ascontiguousarray(packed[there, 128:]).view("<u2")
    return Look(picture, stored.astype(np.float32) / _PLACE * SIDE - 0.5, descriptors)


def descriptors_of(packed: np.ndarray) -> np.ndarray:
    """Return the descriptors (..., 128) float32 of packed keypoints; zeros where there is none."""
    values = np.sqrt(packed[..., :128].astype(np.float32))
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.divide(values, length, out=values, where=length > 0)


def align(one: Look, other: Look) -> Alignment | None:
    """Return how one photo lies in the other, or None if they have too little in common."""
    return align_all(one, [other])[0]


def align_all(one: Look, others: Sequence[Look]) -> list[Alignment | None]:
    """Return how one photo lies in each of some others, as `align` does, in less time."""
    found = []
    for start in range(0, len(others), AT_ONCE):
        some = others[start : start + AT_ONCE]
        found += [_aligned(one, *each) for each in zip(some, _matches(one, some), strict=True)]
    return found


def _aligned(
    one: Look, other: Look, matches: list[tuple[bool, bool, np.ndarray]]
) -> Alignment | None:
    best: tuple[int, np.ndarray, bool, bool] | None = None
    for mirrored, inverted, pairs in matches:
        if best is not None and len(pairs) <= best[0]:
            break
        there = one.places[pairs[:, 0]]
        if mirrored:
            there = there * (-1, 1) + (SIDE - 1, 0)
        found = _fitted(there, other.places[pairs[:, 1]])
        if found is not None and (best is None or found[0] > best[0]):
            best = (*found, mirrored, inverted)

    if best is None:
        return None
    count, matrix, mirrored, inverted = best
    grey, other_grey = _grey(one.picture), _grey(other.picture)
    grey = grey[:, ::-1] if mirrored else grey
    grey = 255 - grey if inverted else grey

    # A copy that was enlarged is blurred, and agrees better where the other is laid over it.
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]
    first: Alignment | None = None
    for under, over, way in ((grey, other_grey, matrix), (other_grey, grey, back)):
        compared = _compared(under, over, way)
        if compared is None:
            break
        (share, other_share), *agreement = compared
        shares = (other_share, share) if way is back else (share, other_share)
        found = Alignment(matrix, mirrored, inverted, count, shares, *agreement)
        if found.is_copy:
            return found
        first = first or found
    return first


def _compared(
    under: np.ndarray, over: np.ndarray, matrix: np.ndarray
) -> tuple[tuple[float, float], float, float, float] | None:
    """Return `shares`, `same`, `spread` and `pixels` of an Alignment; None where they disagree."""
    moved, common = _moved(over, matrix)
    windows = _windows(under, moved, common)
    if windows is None or windows[0] < PAINTED_SAME:
        return None
    share = float(common.mean())
    shares = (share, min(1.0, share * abs(float(np.linalg.det(matrix[:, :2])))))
    return shares, *windows, _same_pixels(under, moved, common)


def _grey(picture: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, C) uint8 as the grey values (SIDE, SIDE) float32 of all of it."""
    image = Image.fromarray(picture if picture.shape[2] == 3 else picture[:, :, 0]).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def transform_words(
    alignment: Alignment, size: tuple[int, int], other_size: tuple[int, int]
) -> str:
    """Return what was done to one photo to make the other, as "turned by 90 degrees".

    Args:
        alignment: of the two.
        size: (width, height) of the one.
        other_size: of the other.
    """
    turn = _turn(alignment, size, other_size)
    said = []
    if alignment.mirrored and turn > 135:
        said.append("upside down")
        turn = 180 - turn
    elif alignment.mirrored:
        said.append("mirrored")
    if turn >= 0.75:
        degrees = f"{turn:.0f} degree{'' if round(turn) == 1 else 's'}"
        said.append(f"turned by {degrees}")
    if alignment.inverted:
        said.append("inverted")
    least, most = sorted(alignment.shares)
    if least < 0.97 and most >= 0.9:
        said.append(f"cropped to {100 * least:.0f} %")
    elif least < 0.97:
        said.append(f"shifted, {100 * least:.0f} % in common")
    if alignment.same < 0.95:
        said.append("partly painted over")
    return ", ".join(said) or "changed a little"


def _turn(alignment: Alignment, size: tuple[int, int], other_size: tuple[int, int]) -> float:
    """Return by how many degrees (0..180) the one has to be turned."""
    undone = np.diag([SIDE / size[0], SIDE / size[1]])
    done = np.diag([other_size[0] / SIDE, other_size[1] / SIDE])
    linear = done @ alignment.matrix[:, :2] @ undone
    left, _, right = np.linalg.svd(linear)
    rotation = left @ right
    return abs(math.degrees(math.atan2(rotation[1, 0], rotation[0, 0])))


def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Return where each value of a descriptor goes when its photo is mirrored, and inverted.

    A descriptor has 4 x 4 cells of 8 directions, in a frame turned to its keypoint's own direction.
    Mirroring swaps the sides of the frame and the sense of the directions. Inversion turns the
    frame by half a turn, and every direction with it.
    """
    cells = np.arange(128).reshape(4, 4, 8)
    mirrored = cells[::-1][:, :, (-np.arange(8)) % 8]
    inverted = cells[::-1, ::-1]
    return mirrored.ravel(), inverted.ravel()


_MIRRORED, _INVERTED = _permutations()


def _matches(one: Look, others: Sequence[Look]) -> list[list[tuple[bool, bool, np.ndarray]]]:
    """Return, for each other photo, whether mirrored, whether inverted, and pairs (P, 2) of
    keypoints, of the WAYS with the most pairs; none of fewer than FEWEST_PAIRS.

    A keypoint is paired with the nearest of the other photo where the second nearest is clearly
    farther, and each of the other photo once.
    """
    num, most = len(one.descriptors), max(len(other.descriptors) for other in others)
    if min(num, most) < FEWEST_PAIRS:
        return [[] for _ in others]
    ways = [one.descriptors, one.descriptors[:, _INVERTED]]
    ways += [way[:, _MIRRORED] for way in ways]
    there = np.zeros((len(others), most, 128), np.float32)
    for place, other in zip(there, others, strict=True):
        place[: len(other.descriptors)] = other.descriptors

    # One product for all, since the products of single pairs cost more to start than to compute.
    cosine = np.concatenate(ways) @ there.reshape(-1, 128).T
    cosine = cosine.reshape(len(ways), num, len(others), most)
    nearest = cosine.argmax(axis=3)
    best = np.take_along_axis(cosine, nearest[..., None], axis=3)[..., 0]
    np.put_along_axis(cosine, nearest[..., None], -1, axis=3)
    clear = 1 - best < RATIO**2 * (1 - cosine.max(axis=3))

    count = clear.sum(axis=1)
    best_ways = np.argsort(-count, axis=0, kind="stable")[:WAYS]
    found = []
    for j in range(len(others)):
        said = [
            (way >= 2, way % 2 == 1, _once(clear[way, :, j], nearest[way, :, j], best[way, :, j]))
            for way in best_ways[:, j].tolist()
            if count[way, j] >= FEWEST_PAIRS
        ]
        said = [each for each in said if len(each[2]) >= FEWEST_PAIRS]
        found.append(sorted(said, key=lambda each: -len(each[2])))
    return found


def _once(clear: np.ndarray, nearest: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return pairs (P, 2) of keypoints, of those with the same second the most similar."""
    first = np.flatnonzero(clear)
    first = first[np.argsort(-best[first], kind="stable")]
    _, once = np.unique(nearest[first], return_index=True)
    first = first[once]
    return np.stack([first, nearest[first]], axis=1)


def _fitted(there: np.ndarray, here: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Return how many keypoints agree on an affine map (2, 3), and the map."""
    import cv2

    num = len(there)
    matrix, agree = cv2.estimateAffine2D(
        there.astype(np.float64),
        here.astype(np.float64),
        method=cv2.RANSAC,
        ransacReprojThreshold=TOLERANCE,
        # Three of FEWEST that agree are drawn ten times on average, if there are as many.
        maxIters=min(MOST_DRAWS, num * (num - 1) * (num - 2) // 12),
        confidence=0.99,
        refineIters=0,  # would take as long as the search, and most pairs have nothing in common
    )
    agree = np.zeros(num, bool) if matrix is None else agree[:, 0] > 0
    count = int(agree.sum())
    if count < FEWEST:
        return None

    from_points = np.c_[there[agree], np.ones(count)]
    matrix = np.linalg.lstsq(from_points, here[agree], rcond=None)[0].T
    long, short = np.linalg.svd(matrix[:, :2], compute_uv=False)
    mirrors = np.linalg.det(matrix[:, :2]) < 0  # which the descriptors would have said
    if mirrors or long > LARGEST or short * LARGEST < 1 or long > LONGEST * short:
        return None
    return count, matrix


def _moved(other: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (S, S) as the map lays it over the one, and where it has pixels."""
    import cv2

    size = other.shape
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    moved = cv2.warpAffine(other, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    whole = np.full(size, 255, np.uint8)
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
    return moved, cv2.warpAffine(whole, matrix, size, flags=flags) > 0


def _windows(one: np.ndarray, other: np.ndarray, common: np.ndarray) -> tuple[float, float] | None:
    """Return `same` and `spread` of an Alignment; None where nothing has texture."""
    import cv2

    inside = _inner(common, WINDOW)
    one = cv2.GaussianBlur(np.ascontiguousarray(one), (0, 0), BLUR)
    other = cv2.GaussianBlur(other, (0, 0), BLUR)
    mean, other_mean, square, other_square, product = (
        cv2.blur(values, (WINDOW, WINDOW))
        for values in (one, other, one * one, other * other, one * other)
    )
    variance = (square - mean**2).clip(0)
    other_variance = (other_square - other_mean**2).clip(0)
    textured = inside & (np.maximum(variance, other_variance) > TEXTURED**2)
    if textured.sum() < FEWEST_PIXELS // 4:
        return None

    variance, other_variance = variance[textured], other_variance[textured]
    correlation = (product - mean * other_mean)[textured]
    correlation /= np.sqrt(variance * other_variance + 1)
    same = correlation > SAME_WINDOW
    if not same.any():
        return 0.0, np.inf

    ratio = np.maximum(other_variance[same], TINY) / np.maximum(variance[same], TINY)
    contrast = np.log(ratio) / 2
    spread = 1.4826 * float(np.median(np.abs(contrast - np.median(contrast))))
    return float(same.mean()), spread


def _same_pixels(one: np.ndarray, other: np.ndarray, common: np.ndarray) -> float:
    """Return the share of pixels that differ by little after a change of brightness and contrast.

    The change is fitted to the pixels that it fits, again and again.
    """
    import cv2

    inside = _inner(common, 5)
    x = cv2.GaussianBlur(np.ascontiguousarray(one), (0, 0), 1.0)[inside].astype(np.float64)
    y = cv2.GaussianBlur(other, (0, 0), 1.0)[inside].astype(np.float64)
    fits = np.ones(len(x), bool)
    difference = np.zeros(len(x))
    for _ in range(5):
        if fits.sum() < FEWEST_PIXELS // 2:
            return 0.0
        shifted = x[fits] - x[fits].mean()
        gain = float(shifted @ y[fits]) / max(float(shifted @ shifted), 1e-6)
        difference = np.abs(y - y[fits].mean() - gain * (x - x[fits].mean()))
        fits = difference < max(SAME_PIXEL / 2, 2 * float(np.median(difference[fits])))
    return float((difference < SAME_PIXEL).mean())


def _inner(common: np.ndarray, size: int) -> np.ndarray:
    """Return which pixels have only such pixels within a square of this size."""
    import cv2

    return cv2.erode(common.astype(np.uint8), np.ones((size, size)), borderValue=0) > 0
