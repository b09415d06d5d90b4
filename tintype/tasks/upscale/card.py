"""What a model card says of a network that enlarges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.tasks.contract.card import Metric, TaskCard, measured_split


class Card(TaskCard):
    """PSNR and SSIM beside bicubic."""

    pipeline = "image-to-image"
    metrics = (Metric("psnr_y", "psnr", "PSNR (Y)"),)
    pieces = "tiles of photos"
    whole = "photos"
    command = "tintype upscale RUN photo.jpg"
    call = 'run.upscale("photo.jpg").save("large.png")'

    def sentence(self, model: Mapping[str, Any]) -> str:
        return f"It enlarges pictures {model.get('scale', '')} times."

    def table(self, evaluation: Mapping[str, Any], splits: Mapping[str, Any]) -> list[str]:
        first = splits[measured_split(evaluation)]
        if "psnr_y" not in first:
            return super().table(evaluation, splits)

        lines = [
            f"Measured by the protocol `{first['protocol']}`. PSNR depends on the photo, so "
            "compare the splits by the gain:",
            "",
            "| split | images | PSNR | bicubic | gain | 95 % interval | SSIM |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figures in splits.items():
            between = figures["gain_ci95"]
            interval = "too few pictures"
            if between:
                interval = f"{between[0]:+.2f} to {between[1]:+.2f} dB"
            lines.append(
                f"| {name} | {figures['num_images']:,} | {figures['psnr_y']:.2f} dB | "
                f"{figures['bicubic']['psnr_y']:.2f} dB | {figures['gain']:+.2f} dB | {interval} | "
                f"{figures['ssim_y']:.4f} |"
            )
        return lines
