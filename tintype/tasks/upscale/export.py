"""What is exported of a network that enlarges, and how its pictures are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype import statistics
from tintype.errors import UserError
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.agreement import compare_pictures, picture_lines, refused
from tintype.tasks.contract.export import Answer, Exportable, Graph
from tintype.tasks.contract.own_data import not_there
from tintype.tasks.upscale import quality
from tintype.tasks.upscale.measure import open_own
from tintype.tasks.upscale.sets.pairs import open_whole
from tintype.tasks.upscale.task import Upscale

MOST_PHOTOS = 16
LARGEST = 256  # pixels of a side of the small picture
MOST_DB = 0.3  # that a quantised model may lose by default

Pair = tuple[np.ndarray, np.ndarray]  # small (h, w, 3) and large (H, W, 3), uint8


class UpscalerGraph(nn.Module):
    """Pictures (N, H, W, 3) uint8 of any size to pictures (N, scale * H, scale * W, 3) uint8."""

    def __init__(self, task: Upscale, network: nn.Module) -> None:
        super().__init__()
        self.network, self.enlarged = network, task.enlarged

    def forward(self, images: Tensor) -> Tensor:
        large = self.enlarged(self.network, images.permute(0, 3, 1, 2).float())
        return large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class Export(Exportable[Upscale]):
    """A network that enlarges: its pictures must be PyTorch's, and 8 bits may cost some PSNR."""

    described_by = ("class_names", "preprocessing", "scale")
    keeps_ends = True
    pairs: list[Pair]

    def read_images(self, data: str | None) -> None:
        self.pairs = photo_pairs(self.run, self.task, self.description, data)

    def graph(self, network: nn.Module) -> Graph:
        images = torch.arange(2 * 24 * 20 * 3).reshape(2, 24, 20, 3).to(torch.uint8)
        dynamic = {"images": {0: "batch", 1: "height", 2: "width"}}
        return Graph(UpscalerGraph(self.task, network), {"images": images}, "large", dynamic)

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        for low, _ in self.pairs:
            yield {"images": low[None]}

    def check(self, answer: Answer, precision: str, max_loss: float | None) -> dict[str, Any]:
        words = f"{len(self.pairs)} validation photos"
        expected = [self._pytorch(low) for low, _ in self.pairs]
        got = [answer({"images": low[None]})[0] for low, _ in self.pairs]
        if precision != "int8":
            return compare_pictures(expected, got, words, precision)
        return self._quality_lost(expected, got, words, MOST_DB if max_loss is None else max_loss)

    def _pytorch(self, low: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(low).permute(2, 0, 1)
        large = self.task.enlarge(self.task.networks[self.task.main], planes)
        return large.permute(1, 2, 0).numpy()

    def _quality_lost(
        self, expected: list[np.ndarray], got: list[np.ndarray], words: str, max_loss: float
    ) -> dict[str, Any]:
        before, after = self._psnr(expected), self._psnr(got)
        lost = float((before - after).mean())
        interval = statistics.mean_interval(before - after)
        if lost > max_loss:
            allow = math.ceil(10 * lost) / 10
            raise refused(
                f"PSNR falls by {lost:.2f} dB on {words}. "
                f"Allow it with --max-loss {allow:g}, or leave --int8 out."
            )

        return {
            "images": words,
            "num_images": len(self.pairs),
            "psnr_y_pytorch": float(before.mean()),
            "psnr_y": float(after.mean()),
            "psnr_lost": lost,
            "psnr_lost_ci95": None if interval is None else list(interval),
        }

    def _psnr(self, answers: list[np.ndarray]) -> np.ndarray:
        pairs = zip(answers, self.pairs, strict=True)
        scale = self.task.scale
        return np.array(
            [quality.compare(large, high, scale)["psnr_y"] for large, (_, high) in pairs]
        )

    def lines(self, checked: Mapping[str, Any]) -> list[str]:
        if "psnr_least" in checked:
            return picture_lines(checked)

        between = checked["psnr_lost_ci95"]
        interval = ""
        if between:
            interval = f" (95 % paired interval {between[0]:+.2f} to {between[1]:+.2f})"
        return [f"checked   on {checked['images']}: {checked['psnr_lost']:+.2f} dB lost{interval}"]

    def timed(self, answer: Answer, graph: Graph) -> tuple[Callable[[], Any], Callable[[], Any]]:
        network = self.task.networks[self.task.main]
        low = self.pairs[0][0]
        planes = torch.from_numpy(low).permute(2, 0, 1)
        return (
            lambda: answer({"images": low[None]}),
            lambda: self.task.enlarge(network, planes),
        )


def photo_pairs(
    run: RunFolder, task: Upscale, description: Mapping[str, Any], data: str | None
) -> list[Pair]:
    """Return small pictures with their originals: of validation photos, or of `data`.

    Of a large photo the upper left part is taken.

    Raises:
        UserError: the data is not there.
    """
    try:
        photos = open_whole(data, task.scale, None) if data else open_own(run, description).val
    except UserError as error:
        raise not_there(run.recipe.data, data, error) from None

    found = []
    for number in range(min(len(photos), MOST_PHOTOS)):
        low, high = task.measured_pair(photos, number)
        small = low[:, :LARGEST, :LARGEST].permute(1, 2, 0).numpy()
        side = LARGEST * task.scale
        found.append((_rgb(small), _rgb(high[:side, :side])))
    return found


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))
