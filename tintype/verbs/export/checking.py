"""Is the exported model the same one? Its answers beside PyTorch's, on real images, and how long
both take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from tintype import statistics
from tintype.data.decode import Resize, fit
from tintype.errors import UserError
from tintype.tasks.classify.task import Classify
from tintype.tasks.generate import sampling
from tintype.tasks.generate.task import SAMPLE_SEED, Generate
from tintype.tasks.upscale import quality
from tintype.tasks.upscale.task import Upscale
from tintype.verbs.export.formats import Answer
from tintype.verbs.export.images import CheckImages

SAME = 0.999  # of the top-1 answers must be identical
# dB between the pictures of both; 50 is half a level off on average
LEAST_PSNR = {"float32": 50.0, "float16": 35.0}
MOST_RESIZED = 64  # images that are also given at another size
ODD = (1.37, 1.61)  # of the height and the width: no whole factor, not the same
FURTHEST = 0.02  # mean difference of probabilities that resizing in the graph may make
SECONDS = 1.0  # for each latency


def check_classifier(
    task: Classify, images: CheckImages, answer: Answer, resize: Resize, *, max_loss: float | None
) -> dict[str, Any]:
    """Return how the answers of an exported classifier agree with PyTorch's in float32, on `images`.

    Args:
        task: the task around the network of the run.
        images: validation images that calibration has not seen.
        answer: the exported graph.
        resize: how the model brings pictures to size.
        max_loss: None where the answers must be the same; for a quantised model, how much accuracy
            it may surely lose.

    Raises:
        UserError: they do not agree, or too much accuracy is lost.
    """
    expected = _pytorch(task, images.pixels)
    got = _in_batches(answer, images.rgb())
    if not np.isfinite(got).all():
        raise _refused("some answers are not finite numbers.")

    same = expected.argmax(1) == got.argmax(1)
    right_before, right_after = (answers.argmax(1) == images.targets for answers in (expected, got))
    figures: dict[str, Any] = {
        "images": images.words,
        "num_images": len(same),
        "top1_same": float(same.mean()),
        "largest_difference": float(np.abs(expected - got).max()),
        "accuracy_pytorch": float(right_before.mean()),
        "accuracy": float(right_after.mean()),
    }

    if max_loss is None:
        if figures["top1_same"] < SAME:
            raise _refused(
                f"the top-1 answers are the same for {same.mean():.2%} of {images.words}; expected {SAME:.1%} "
                f"(largest difference of a probability {figures['largest_difference']:.2g})."
            )
        figures["any_size"] = _check_resizing(task, images, answer, resize)
    else:
        only_before, only_after = (
            int((right_before & ~right_after).sum()),
            int((~right_before & right_after).sum()),
        )
        lost = (only_before - only_after) / len(same)
        low, high = statistics.paired_interval(only_before, only_after, len(same))
        figures |= {"accuracy_lost": lost, "accuracy_lost_ci95": [low, high]}
        if low > max_loss:
            raise _refused(
                f"accuracy falls by {100 * lost:.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f}) on "
                f"{images.words}. Allow it with --max-loss {math.ceil(100 * low)}, or leave --int8 out."
            )

    return figures


def _check_resizing(
    task: Classify, images: CheckImages, answer: Answer, resize: Resize
) -> dict[str, Any]:
    """Return how the graph agrees on pictures of another size, which it resizes itself, with Pillow
    and PyTorch.
    """
    spec, some = task.spec, images.pixels[:MOST_RESIZED]
    size = (math.ceil(ODD[1] * spec.width), math.ceil(ODD[0] * spec.height))
    odd = [
        np.asarray(Image.fromarray(_plain(p)).resize(size, Image.Resampling.BICUBIC)) for p in some
    ]
    to_size: dict[str, Any] = {
        "height": spec.height, "width": spec.width, "channels": spec.channels, "resize": resize,
    }  # fmt: skip
    expected = _pytorch(task, np.stack([fit(picture, **to_size) for picture in odd]))
    got = _in_batches(
        answer, np.stack([np.asarray(Image.fromarray(p).convert("RGB")) for p in odd])
    )
    difference = np.abs(expected - got)
    figures = {
        "num_images": len(odd),
        "size": f"{size[0]}x{size[1]}",
        "top1_same": float((expected.argmax(1) == got.argmax(1)).mean()),
        "largest_difference": float(difference.max()),
    }
    if difference.mean() > FURTHEST:
        raise _refused(
            f"pictures of {figures['size']} pixels give other answers than Pillow's resizing does (probabilities differ by "
            f"up to {figures['largest_difference']:.2g})."
        )

    return figures


def check_generator(task: Generate, answer: Answer, precision: str) -> dict[str, Any]:
    """Return how the pictures of an exported generator agree with PyTorch's for the same noise.

    Raises:
        UserError: they do not agree.
    """
    count = 32
    inputs: dict[str, np.ndarray] = {
        "noise": sampling.latents(SAMPLE_SEED, range(count), task.generator.latent_shape)
    }
    classes = task.turns(range(count)) if task.conditional else [0] * count
    if task.conditional:
        inputs["classes"] = np.array(classes, np.int64)
    network = task.networks[task.main]
    expected = task.make_images(network, inputs["noise"], classes).permute(0, 2, 3, 1).cpu().numpy()

    return _pictures_agree(
        list(expected), list(answer(inputs)), f"{count} generated images", precision
    )


def check_upscaler(
    task: Upscale,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    answer: Answer,
    precision: str,
    *,
    max_loss: float,
) -> dict[str, Any]:
    """Return how the pictures of an exported network that enlarges agree with PyTorch's.

    Args:
        task: the task around the network of the run.
        pairs: small pictures (h, w, 3) uint8 and their originals.
        answer: the exported graph.
        precision: "float32", "float16" or "int8", of which the last may lose quality.
        max_loss: how many dB a quantised network may lose.

    Raises:
        UserError: they do not agree, or too much quality is lost.
    """
    network, words = task.networks[task.main], f"{len(pairs)} validation photos"
    expected = [
        task.enlarge(network, torch.from_numpy(low).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        for low, _ in pairs
    ]
    got = [answer({"images": low[None]})[0] for low, _ in pairs]
    if precision != "int8":
        return _pictures_agree(expected, got, words, precision)

    before, after = (
        np.array(
            [
                quality.compare(a, high, task.scale)["psnr_y"]
                for a, (_, high) in zip(answers, pairs, strict=True)
            ]
        )
        for answers in (expected, got)
    )
    lost, interval = float((before - after).mean()), statistics.mean_interval(before - after)
    figures = {
        "images": words, "num_images": len(pairs), "psnr_y_pytorch": float(before.mean()), "psnr_y": float(after.mean()),
        "psnr_lost": lost, "psnr_lost_ci95": None if interval is None else list(interval),
    }  # fmt: skip

    if lost > max_loss:
        allow = math.ceil(10 * lost) / 10
        raise _refused(
            f"PSNR falls by {lost:.2f} dB on {words}. Allow it with --max-loss {allow:g}, or leave --int8 out."
        )

    return figures


def _pictures_agree(
    expected: list[np.ndarray], got: list[np.ndarray], words: str, precision: str
) -> dict[str, Any]:
    pairs = list(zip(expected, got, strict=True))
    psnr = [quality.psnr(a, b) for a, b in pairs]
    largest = max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)
    if min(psnr) < LEAST_PSNR[precision]:
        raise _refused(
            f"its pictures differ from PyTorch's by up to {largest} levels of 255 (PSNR {min(psnr):.1f} dB on {words}; "
            f"expected {LEAST_PSNR[precision]:.0f})."
        )

    return {
        "images": words, "num_images": len(pairs), "largest_difference": largest, "psnr_least": min(psnr),
        "psnr_mean": float(np.mean(psnr)),
    }  # fmt: skip


def latency(call: Callable[[], Any]) -> float:
    """Return the median milliseconds of a call, after some to warm up."""
    for _ in range(3):
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < SECONDS and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def _pytorch(task: Classify, pixels: np.ndarray) -> np.ndarray:
    network = task.networks[task.main]
    return np.concatenate([
        task.probabilities(network, torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2)).cpu().numpy()
        for part in _batches(pixels)
    ])  # fmt: skip


def _in_batches(answer: Answer, rgb: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [answer({"images": np.ascontiguousarray(part)}) for part in _batches(rgb)]
    )


def _batches(pixels: np.ndarray) -> list[np.ndarray]:
    """Cut pictures into batches of about a million values, and of at most 50, so that the batch
    size is seen to change.
    """
    size = int(max(1, min(50, 4_000_000 // pixels[0].size)))
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]


def _plain(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def _refused(reason: str) -> UserError:
    return UserError(f"the export is not kept, because it is not the same model: {reason}")
