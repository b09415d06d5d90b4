"""Autoencoding: images through a bottleneck and back, measured by PSNR.

A task of one's own in one file: `tintype train digits --task examples/my_task.py --set noise=0.1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource
from tintype.models import build_model
from tintype.recipe import TaskOptions
from tintype.statistics import mean_interval
from tintype.tasks.task import Evaluation, Phase, StepContext, Task


class Options(TaskOptions):
    """The fields that the task adds to a recipe, and what a run has where nothing else is said."""

    needs_test: ClassVar[bool] = False  # so that a run may keep all images for training
    from_scratch: ClassVar[Mapping[str, Any]] = {"epochs": 40, "batch_size": 64, "lr": 0.003}

    noise: float = Field(default=0.0, ge=0, description="Deviation of the noise to be removed.")


class Net(nn.Module):
    """The network of the task, where the recipe names no other."""

    def __init__(self, channels: int, height: int, width: int, bottleneck: int = 16) -> None:
        super().__init__()
        self.shape = (channels, height, width)
        size = channels * height * width
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, bottleneck))
        self.decoder = nn.Sequential(
            nn.Linear(bottleneck, 256), nn.ReLU(), nn.Linear(256, size), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images)).view(-1, *self.shape)


class Autoencoder(Task):
    score_name = "psnr"
    watched = ("psnr",)  # beside the loss, in metrics.csv

    def __init__(
        self, network: nn.Module, spec: DataSpec, device: torch.device, noise: float = 0.0
    ) -> None:
        self.networks = {"network": network.to(device)}
        self.main = "network"
        self.phases = [Phase("train", "network")]
        self.spec = spec
        self.device = device
        self.noise = noise

    @classmethod
    def make(
        cls,
        splits: DataSplits,
        *,
        device: torch.device,
        model: str,
        model_options: dict[str, Any],
        seed: int,
        noise: float,
    ) -> Autoencoder:
        """Begin a run; the parameters are fields of the recipe."""
        network = build_model(model, splits.spec, model_options, seed)
        return cls(network, splits.spec, device, noise)

    @classmethod
    def restore(
        cls,
        network: nn.Module,
        spec: DataSpec,
        description: dict[str, Any],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Autoencoder:
        """Open a finished run."""
        return cls(network, spec, device)

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = self._in_unit(batch.images)
        noise = torch.randn(images.shape, generator=context.generator, device=images.device)
        rebuilt = self.networks["network"](images + self.noise * noise)
        return (rebuilt - images).square().mean(), {}

    @torch.no_grad()
    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        was_training = network.training
        network.eval()
        parts = [
            self._psnr(
                network, source.take(torch.arange(start, min(start + 256, len(source)))).images
            )
            for start in range(0, len(source), 256)
        ]
        network.train(was_training)

        psnr = torch.cat(parts)
        interval = mean_interval(psnr.double().numpy())
        figures = {"psnr": float(psnr.mean()), "psnr_ci95": interval, "num_images": len(psnr)}
        return Evaluation(figures)

    def answer_columns(self, images: Tensor) -> dict[str, list[float]]:
        """Say how well an image is rebuilt: badly, if it is unlike those of the training."""
        psnr = self._psnr(self.networks["network"], images)
        return {"psnr": [float(psnr[i]) for i in range(len(psnr))]}

    def _psnr(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the PSNR of each image (N, C, H, W) uint8, in dB."""
        images = self._in_unit(images)
        errors = (network(images) - images).square().mean((1, 2, 3))
        return -10 * errors.clamp(min=1e-10).log10().cpu()

    def _in_unit(self, images: Tensor) -> Tensor:
        return images.to(self.device).float() / 255
