"""Super-resolution: one network enlarges images; measured by PSNR and SSIM against bicubic."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype import statistics
from tintype.augment.pixels import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from tintype.data.source import Batch, DataSpec, DataSplits, ImageSource, group_numbers
from tintype.data.targets import NoTarget
from tintype.errors import UserError, unknown_name
from tintype.hardware.device import Choice, autocast
from tintype.models import build_model, count_multiply_adds, count_parameters
from tintype.models.parts import resample
from tintype.models.parts.contracts import Enlarger, Mergeable
from tintype.models.parts.gan_parts import PatchDiscriminator
from tintype.models.parts.own import try_out
from tintype.own_code import is_own
from tintype.plugins import names
from tintype.tasks.evaluating import answered
from tintype.tasks.losses import (
    RESTORATION,
    check_finite,
    discriminator_loss,
    generator_loss,
    restoration_loss,
)
from tintype.tasks.task import Evaluation, Phase, StepContext, Summary, Task
from tintype.tasks.upscale import quality
from tintype.tasks.upscale.degrade import degraded
from tintype.tasks.upscale.perceptual import PerceptualDistance, PerceptualLoss
from tintype.tasks.upscale.sets.pairs import open_pairs as open_data

TARGETS = ("pictures",)

__all__ = ["Upscale", "make", "open_data", "restore"]

FAINT = 8  # of 255: an alpha below which a colour is hardly seen
FARTHEST = 32  # small pixels that a network looks at around one, where it does not say
TILE = 256  # side of a tile in pixels of the small picture, without its overlap
COLOURS = ("luma", "rgb")
JITTERED = ("brightness", "contrast", "saturation", "hue")
# the loss between real patches and enlarged ones, in pairs, as ESRGAN has it
ADVERSARIAL = "relativistic"
DEGRADATIONS = (
    "bicubic",
    "photo",
)  # photo: blur, noise and JPEG as well, see tintype.tasks.upscale.degrade
SHOWN = 6  # test pictures kept for the report
# photos; of two the interval is ten times as wide as they differ, and says nothing
FEWEST_FOR_INTERVAL = 3
LARGEST_SHOWN = 512  # pixels of a side; of a larger picture the middle is kept

# ITU-R BT.601: Y = 16 + weights . RGB, for values of 0..255; grey moves Y by 219/255 of itself.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_GREY = sum(_LUMA)


def make(
    splits: DataSplits,
    *,
    device: torch.device,
    dtype: torch.dtype,
    model: str,
    model_options: dict[str, Any],
    seed: int,
    augment: str | dict[str, Any],
    scale: int = 2,
    patch: int = 96,
    colour: str = "luma",
    loss: str | dict[str, float] = "l1",
    symmetries: bool | str = True,
    colour_jitter: float | dict[str, float] = 0.0,
    degrade: str = "bicubic",
    weights: str | None = None,
    feature_network: str | None = None,
    feature_layers: list[str] | None = None,
    adversarial_from: float = 0.5,
    discriminator_lr: float = 1.0,
    lpips: str | None = None,
) -> Upscale:
    """Build the network and the task around it; the parameters are fields of the recipe.

    Raises:
        UserError: unknown model or option, or values that do not fit each other.
    """
    if not is_own(model) and model not in names("models", "upscale"):
        raise unknown_name(
            "model that enlarges",
            model,
            names("models", "upscale"),
            "`tintype list models` shows all.",
        )
    if augment != "none":
        raise UserError(
            "augment is for classification; "
            "here it is --set task.symmetries and --set task.colour_jitter."
        )
    if "scale" in model_options and model_options["scale"] != scale:
        raise UserError(
            f"model.scale is {model_options['scale']}, but task.scale {scale}. Set task.scale only."
        )

    losses = _checked_losses(loss)
    channels = 1 if colour == "luma" else 3
    perceptual = None
    choices: list[Choice] = []

    if "perceptual" in losses and weights == "none":
        losses, choice = _without_perceptual(losses)
        choices.append(choice)
    if "perceptual" in losses:
        if channels == 1:
            raise UserError("the perceptual loss sees colours. Set task.colour=rgb.")
        perceptual = PerceptualLoss.of(feature_network, weights, feature_layers).to(device)

    spec = DataSpec(
        splits.spec.name,
        channels,
        patch,
        patch,
        NoTarget(),
        (0.0,) * channels,
        (1.0,) * channels,
        "",
    )
    network = build_model(model, spec, {**model_options, "scale": scale}, seed)
    if is_own(model):
        what = f"the picture, {scale} times as wide and as high"
        choices += try_out(model, network, spec, (channels, patch * scale, patch * scale), what)
    network = network.to(device)
    discriminator = _discriminator(channels, seed).to(device) if "adversarial" in losses else None
    task = Upscale(
        network, spec, device, dtype=dtype, scale=scale, losses=losses, perceptual=perceptual,
        symmetries=symmetries, colour_jitter=colour_jitter, degrade=degrade,
        discriminator=discriminator, discriminator_lr=discriminator_lr,
        adversarial_from=adversarial_from,
    )  # fmt: skip
    task.choices = choices
    task.measure_by(lpips)

    return task


def _without_perceptual(losses: dict[str, float]) -> tuple[dict[str, float], Choice]:
    """Return the other losses: there is no sense in comparing by a network that was never trained.

    Raises:
        UserError: none is left that sees the original.
    """
    others = {name: weight for name, weight in losses.items() if name != "perceptual"}
    if not others:
        raise UserError(
            "weights none leaves the perceptual loss without a network to compare by, and there is "
            "no other loss. "
            "Add one, as in --set task.loss=mse."
        )
    reason = "weights none leaves the perceptual loss without a network to compare by"
    return _checked_losses(others), Choice("loss", " + ".join(others), reason)


def _discriminator(channels: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator(channels)


def _checked_losses(loss: Any) -> dict[str, float]:
    """Return the losses that are summed, with weights: `l1`, or `{mse: 1, perceptual: 0.01}`."""
    losses = {loss: 1.0} if isinstance(loss, str) else loss
    known = (*RESTORATION, "perceptual", "adversarial")
    if not isinstance(losses, dict) or not losses:
        raise UserError(
            f"loss is {loss!r}. Expected a name such as l1, "
            "or names and weights such as {mse: 1, ssim: 0.1}."
        )

    for name, weight in losses.items():
        if name not in known:
            raise unknown_name("loss", str(name), known)
        if not isinstance(weight, int | float) or isinstance(weight, bool) or weight <= 0:
            raise UserError(f"the weight of loss {name} is {weight!r}. Expected a number above 0.")

    if set(losses) == {"adversarial"}:
        raise UserError(
            "the adversarial loss alone does not see the original. Set e.g. {l1: "
            "1, adversarial: 0.01}."
        )
    return {name: float(weight) for name, weight in losses.items()}


def restore(
    network: nn.Module,
    spec: DataSpec,
    description: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Upscale:
    """Return the task around a finished network, its branches merged where it has some."""
    return Upscale(
        merged(network),
        spec,
        device,
        dtype=dtype,
        scale=description["scale"],
        degrade=description["degrade"],
    )


class Upscale(Task):
    """Super-resolution by a factor.

    Args:
        network: maps small images (N, C, h, w) float32 of 0..1 to large ones (N, C, scale * h,
            scale * w). It has an
            attribute `halo`: how many small pixels around one it looks at, at most. With one
            channel it is given Y, and red, green and blue are enlarged by bicubic and moved by the
            change of Y, which leaves the colour as it is.
        spec: channels, and the side of training patches.
        scale: how many times larger.
        losses: names of tintype.tasks.losses.RESTORATION, "perceptual" or "adversarial", with their
            weights in the sum.
        perceptual: the perceptual loss, where it is one of them.
        discriminator: the network that tells enlarged patches from real ones, where "adversarial"
            is one of them.
        discriminator_lr: its factor on the learning rate.
        adversarial_from: share (0..1) of the run after which it has a say; before, pixels alone
            count, as in ESRGAN.
        symmetries: train on mirrored and turned patches too; "flip" for patches mirrored left to
            right alone.
        degrade: how small pictures are made: "bicubic", or "photo" with blur, noise and JPEG.
        colour_jitter: how far brightness and contrast (about middle grey) of a patch are changed,
            as a part of one; or
            a mapping of some of `JITTERED`, which changes them as tintype.augment does.
        dtype: arithmetic of the network.
    """

    score_name = "psnr_y"
    watched = ("psnr_y", "ssim_y", "gain")
    monitors: Mapping[str, bool] = MappingProxyType({"ssim_y": True, "gain": True})

    def __init__(
        self,
        network: nn.Module,
        spec: DataSpec,
        device: torch.device,
        *,
        scale: int,
        losses: dict[str, float] | None = None,
        perceptual: PerceptualLoss | None = None,
        symmetries: bool | str = True,
        colour_jitter: float | dict[str, float] = 0.0,
        degrade: str = "bicubic",
        discriminator: nn.Module | None = None,
        discriminator_lr: float = 1.0,
        adversarial_from: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.networks = {"upscaler": network}
        self.main = "upscaler"
        self.phases = [Phase("train", "upscaler")]

        if discriminator is not None:
            self.networks["discriminator"] = discriminator
            self.phases.append(
                Phase(
                    "discriminator",
                    "discriminator",
                    lr_scale=discriminator_lr,
                    start=adversarial_from,
                )
            )

        self.adversarial_from = adversarial_from
        self.distance: PerceptualDistance | None = None
        # enlarged and real patches of each part and piece, for the discriminator's turn
        self._made: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.scale = scale
        self.options_of_model = {"scale": scale}
        self.losses = losses or {"l1": 1.0}
        self.perceptual = perceptual
        self.symmetries = symmetries
        self.colour_jitter = colour_jitter
        self.degrade = degrade
        self._floors: weakref.WeakKeyDictionary[ImageSource, list[dict[str, dict[str, float]]]]
        self._floors = weakref.WeakKeyDictionary()

    def describe(self) -> dict[str, Any]:
        parameters = count_parameters(merged(self.networks[self.main]))
        colour = "luma" if self.spec.channels == 1 else "rgb"
        return {
            "scale": self.scale,
            "colour": colour,
            "degrade": self.degrade,
            "parameters_merged": parameters,
        }

    def multiply_adds(self) -> int:
        """Return the multiply-adds for a picture of 1280x720, as papers give them."""
        spec = DataSpec("", self.spec.channels, 48, 48, NoTarget(), (), (), "")
        small_pixels = 1280 * 720 / self.scale**2
        return round(
            count_multiply_adds(merged(self.networks[self.main]), spec) / 48**2 * small_pixels
        )

    # ---- training

    def loss(
        self, phase: Phase, batch: Batch, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        place = (context.part, context.piece)
        if phase.name == "discriminator" and place in self._made:
            real, fake = self._judged(*self._made[place])
            return discriminator_loss(ADVERSARIAL, real, fake), {
                "discriminator_accuracy": (real > fake).float().mean()
            }

        low, high = self.pairs(batch, context.generator)
        if self.spec.channels == 1:
            low, high = _luma(low), _luma(high)
        with autocast(self.device, self.dtype):
            answer = self.networks[self.main](low / 255).float()
        judged = context.progress >= self.adversarial_from
        names = [name for name in self.losses if judged or name != "adversarial"]
        parts = {name: self._part(name, answer, high / 255) for name in names}
        total = sum(self.losses[name] * parts[name] for name in names)
        if "adversarial" in names:
            self._made[place] = (answer.detach(), high / 255)

        return torch.as_tensor(total), parts if len(parts) > 1 else {}

    def _part(self, name: str, answer: Tensor, high: Tensor) -> Tensor:
        if name == "perceptual" and self.perceptual is not None:
            return self.perceptual(answer, high)
        if name == "adversarial":
            return generator_loss(ADVERSARIAL, *self._judged(answer, high))
        return restoration_loss(name, answer, high)

    def _judged(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discriminator's logits of real and of enlarged patches."""
        with autocast(self.device, self.dtype):
            return self.networks["discriminator"](real), self.networks["discriminator"](fake)

    def pairs(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return patches of blocks, small and large, (N, 3, p, p) float of 0..255."""
        scale = self.scale
        patch = self.spec.height
        high = batch.images.to(self.device, non_blocking=True)
        given = batch.targets.to(self.device) if batch.targets.ndim == 4 else None
        side = high.shape[-1]
        step = 1 if given is None else scale
        crop = min(patch if given is not None else patch + 4 * scale, side)
        corners = torch.randint(
            (side - crop) // step + 1, (len(high), 2), generator=generator, device=generator.device
        )
        offsets = (corners * step).tolist()
        high = _cropped(high, offsets, crop)

        if given is not None:
            given = _cropped(
                given, [[top // scale, left // scale] for top, left in offsets], crop // scale
            )
        if self.symmetries:
            count = 2 if self.symmetries == "flip" else 8
            turns = torch.randint(
                count, (len(high),), generator=generator, device=generator.device
            ).to(self.device)
            high = _turned(high, turns)
            given = None if given is None else _turned(given, turns)

        high = high.float()
        if isinstance(self.colour_jitter, dict):
            amounts = _factors(len(high), self.colour_jitter, generator, self.device)
            given = None if given is None else _recoloured(given.float(), amounts, about=high)
            high = _recoloured(high, amounts, about=high).round_()
        elif self.colour_jitter:
            gain, shift = _jitter(len(high), self.colour_jitter, generator, self.device)
            high = (gain * high + shift).clamp_(0, 255).round_()
            given = None if given is None else (gain * given + shift).clamp(0, 255)

        if given is not None:
            return given.float(), high
        low = self._made_small(high, generator).float()
        margin = (crop - patch) // (2 * scale)  # small pixels that saw beyond the crop's edge
        low = low[:, :, margin : margin + patch // scale, margin : margin + patch // scale]
        top = margin * scale

        return low, high[:, :, top : top + patch, top : top + patch]

    # ---- enlarging

    @torch.inference_mode()
    def enlarge(
        self,
        network: nn.Module,
        low: Tensor,
        *,
        tile: int = TILE,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Return a picture (C, h, w) of uint8 or int32 (16 bits) at `scale` times the size.

        C is 1 or 3, 2 or 4 with alpha.

        It is made in tiles of `tile` small pixels, each with as much around it as the network sees,
        so that memory is bounded and no seam is there.
        """
        halo = max(2, network.halo if isinstance(network, Enlarger) else FARTHEST)
        return self._in_tiles(
            low,
            self._any_alpha(low, lambda part: self.enlarged(network, part)),
            halo,
            tile,
            on_progress,
        )

    @torch.inference_mode()
    def bicubic(self, low: Tensor, *, tile: int = TILE) -> Tensor:
        """Return a picture (C, h, w) enlarged by bicubic interpolation, as `enlarge` does."""
        return self._in_tiles(
            low,
            self._any_alpha(low, lambda part: resample.enlarge(part, self.scale)),
            2,
            tile,
            None,
        )

    def _any_alpha(
        self, low: Tensor, function: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Return a function for pictures with the channels of `low` from one for colours alone."""
        if len(low) in (1, 3):
            return function
        return lambda part: _weighted_by_alpha(part, function, self.scale)

    def _in_tiles(
        self,
        low: Tensor,
        function: Callable[[Tensor], Tensor],
        halo: int,
        tile: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        white = 255 if low.dtype == torch.uint8 else 65535
        (channels, height, width), s = low.shape, self.scale
        # Laid out as pictures are kept, so that the caller needs no copy of what may be large.
        large = torch.empty(height * s, width * s, channels, dtype=low.dtype).permute(2, 0, 1)

        tops = range(0, height, tile)
        lefts = range(0, width, tile)
        for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
            bottom = min(top + tile, height)
            right = min(left + tile, width)
            y, x = max(0, top - halo), max(0, left - halo)
            part = low[:, y : bottom + halo, x : right + halo].to(self.device).float()[None] * (
                255 / white
            )
            done = function(part)[
                0, :, (top - y) * s : (bottom - y) * s, (left - x) * s : (right - x) * s
            ]
            done = (done * (white / 255)).round_().clamp_(0, white)
            large[:, top * s : bottom * s, left * s : right * s] = done.to(low.dtype).cpu()
            if on_progress:
                on_progress(number + 1, len(tops) * len(lefts))

        return large

    def enlarged(self, network: nn.Module, low: Tensor) -> Tensor:
        """Return images (N, 1 or 3, h, w) float of 0..255 enlarged, neither rounded nor clipped."""
        grey = low.shape[1] == 1
        if self.spec.channels == 3:
            with autocast(self.device, self.dtype):
                answer = network((low.expand(-1, 3, -1, -1) if grey else low) / 255).float() * 255
            return answer.mean(1, keepdim=True) if grey else answer

        y = 16 + _GREY * low if grey else _luma(low)
        with autocast(self.device, self.dtype):
            answer = network(y / 255).float() * 255
        if grey:
            return (answer - 16) / _GREY

        large = resample.enlarge(low, self.scale)
        return large + (answer - _luma(large)) / _GREY

    # ---- measuring

    def measure_by(self, lpips: str | None) -> None:
        """Also measure LPIPS on a network's name or weight file; None leaves it out.

        Raises:
            UserError: there is no such network, its weights, or the package.
        """
        self.distance = PerceptualDistance(lpips, self.device) if lpips else None
        self._floors.clear()

    def _compared(self, picture: np.ndarray, original: np.ndarray) -> dict[str, float]:
        figures = quality.compare(picture, original, self.scale)
        return (
            {**figures, self.distance.name: self.distance(picture, original)}
            if self.distance
            else figures
        )

    def evaluate(
        self,
        network: nn.Module,
        source: ImageSource,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        photos = source.whole()  # pyright: ignore[reportAttributeAccessIssue]
        network = merged(network)
        floors = self._floors_of(photos)

        def compared(index: Tensor) -> dict[str, float]:
            low, high = self.measured_pair(photos, int(index))
            return self._compared(_pixels(self.enlarge(network, low)), high)

        answers = answered(len(photos), compared, at_once=1, on_progress=on_progress)
        measured = [found for _, found in answers]
        keys = list(measured[0])
        columns = {key: np.array([row[key] for row in measured]) for key in keys}
        check_finite(*map(torch.from_numpy, columns.values()))
        how = quality.protocol(self.scale) + (
            ", degraded as photos are" if self.degrade == "photo" else ""
        )
        figures: dict[str, Any] = {"num_images": len(photos), "protocol": how}
        figures |= {key: float(columns[key].mean()) for key in keys}

        for name in ("bicubic", "nearest"):
            figures[name] = {
                key: float(np.mean([floor[name][key] for floor in floors])) for key in keys
            }
            columns |= {
                f"{name}_{key}": np.array([floor[name][key] for floor in floors]) for key in keys
            }

        gains = columns["psnr_y"] - columns["bicubic_psnr_y"]
        figures["gain"] = float(gains.mean())
        groups = group_numbers(photos.names, self.groups) if self.groups else None
        independent = len(gains) if groups is None else int(groups.max()) + 1
        enough = independent >= FEWEST_FOR_INTERVAL
        figures["gain_ci95"] = statistics.mean_interval(gains, groups=groups) if enough else None
        if groups is not None:
            figures["num_groups"] = independent

        return Evaluation(figures, columns)

    def measured_pair(self, photos: ImageSource, number: int) -> tuple[Tensor, np.ndarray]:
        """Return a photo's small version (C, h, w) uint8, and its pixels (H, W, C) uint8."""
        batch = photos.take(torch.tensor([number]))
        if batch.targets.ndim == 4:
            return batch.targets[0], _pixels(batch.images[0])
        # The same damage each time that a photo is measured.
        low = self._made_small(batch.images, torch.Generator().manual_seed(number))
        return low[0], _pixels(batch.images[0])

    def _made_small(self, high: Tensor, generator: torch.Generator) -> Tensor:
        """Return the small versions (N, C, h, w) uint8 of images (N, C, H, W) of 0..255."""
        if self.degrade == "photo":
            return degraded(high, self.scale, generator)
        return resample.shrink(high, self.scale)

    def _floors_of(self, photos: ImageSource) -> list[dict[str, dict[str, float]]]:
        """Return what bicubic and nearest reach on each photo, measured once."""
        if photos not in self._floors:

            def compared(index: Tensor) -> dict[str, dict[str, float]]:
                low, high = self.measured_pair(photos, int(index))
                return {
                    "bicubic": self._compared(_pixels(self.bicubic(low)), high),
                    "nearest": self._compared(_pixels(nearest(low, self.scale)), high),
                }

            answers = answered(len(photos), compared, at_once=1)
            self._floors[photos] = [found for _, found in answers]
        return self._floors[photos]

    def summarise(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> Summary:
        evaluation: dict[str, Any] = {"task": "upscale", "scale": self.scale, "warnings": []}
        evaluation["splits"] = {split: evaluations[split].figures for split in evaluations}
        evaluation["verdict"] = _verdict(evaluations["test"].figures, "adversarial" in self.losses)
        keys = [
            "psnr_y",
            "ssim_y",
            "psnr_rgb",
            "ssim_rgb",
            "bicubic_psnr_y",
            "bicubic_ssim_y",
            "nearest_psnr_y",
        ]

        rows = []
        for split in ("val", "test"):
            photos = sources[split]
            details = evaluations[split].details
            for i, name in enumerate(photos.names):
                rows.append([split, i, name, *(f"{details[key][i]:.6f}" for key in keys)])

        header = ["split", "position", "name", *keys]
        if any(row[2] in self.groups for row in rows):
            header.append("group")
            rows = [[*row, self.groups.get(row[2], "")] for row in rows]

        return Summary(evaluation, (header, rows), self._samples(evaluations, sources))

    def _samples(
        self, evaluations: dict[str, Evaluation], sources: dict[str, ImageSource]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return low, bicubic, ours and original of some test images, by rising gain."""
        details = evaluations["test"].details
        photos = sources["test"]
        network = merged(self.networks[self.main])
        order = np.argsort(details["psnr_y"] - details["bicubic_psnr_y"], kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]

        items = []
        for i in chosen.tolist():
            low, high = self.measured_pair(photos, i)
            pictures = {"low": _pixels(low), "bicubic": _pixels(self.bicubic(low))}
            pictures |= {"ours": _pixels(self.enlarge(network, low)), "original": high}
            figures = {key: round(float(details[key][i]), 4) for key in ("psnr_y", "ssim_y")}
            figures |= {
                f"bicubic_{key}": round(float(details[f"bicubic_{key}"][i]), 4)
                for key in ("psnr_y", "ssim_y")
            }
            for kind, pixels in pictures.items():
                part = _middle(
                    pixels, LARGEST_SHOWN // self.scale, 1 if kind == "low" else self.scale
                )
                item = {"file": f"test-{i:06d}-{kind}.png", "picture": part, "kind": kind}
                items.append(
                    {
                        **item,
                        "position": i,
                        "name": str(photos.names[i]),
                        "scale": self.scale,
                        **figures,
                    }
                )

        return {"pictures": items}


def merged(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode, with parallel branches merged into one convolution."""
    if isinstance(network, Mergeable):
        return network.merged().eval()
    return copy.deepcopy(network).eval()


def _weighted_by_alpha(low: Tensor, function: Callable[[Tensor], Tensor], scale: int) -> Tensor:
    """Return pictures (N, C + alpha, h, w) float of 0..255 enlarged.

    Colours are enlarged by `function`, alpha by bicubic.

    A pixel between a solid and a faint one takes its colour from both by their alpha, or it would
    show a rim in the colour of the faint one. A network knows no weights, so it is moved by what
    they change in the bicubic picture.
    """
    colour = low[:, :-1]
    alpha = low[:, -1:]
    large_alpha = resample.enlarge(alpha, scale)
    weighted = resample.enlarge(colour * alpha, scale) / large_alpha.clamp(min=1)
    shift = weighted - resample.enlarge(colour, scale)

    # Quotients of small numbers say nothing; what is solid stays as it is, to the bit.
    shift = torch.where(
        (large_alpha < FAINT) | (shift.abs() < 0.01), torch.zeros_like(shift), shift
    )
    return torch.cat([function(colour) + shift, large_alpha], 1)


def _verdict(figures: dict[str, Any], adversarial: bool) -> dict[str, Any]:
    """Describe the gain over bicubic on test; "sharpens" if its interval lies above zero."""
    gain = figures["gain"]
    interval = figures["gain_ci95"]
    count = figures["num_images"]
    if interval is not None and interval[0] > 0:
        word = "sharpens"
    elif interval is not None and interval[1] < 0:
        word = "does not sharpen"
    else:
        word = "may sharpen" if gain > 0 else "is not shown to sharpen"

    photos = "one test photo" if count == 1 else f"{count} test photos"
    if "num_groups" in figures:
        photos += f" in {figures['num_groups']} groups"

    if interval:
        text = (
            f"{word}: {gain:+.2f} dB over bicubic on {photos} "
            f"(95 % interval {interval[0]:+.2f} to {interval[1]:+.2f})."
        )
    else:
        text = f"{word}: {gain:+.2f} dB over bicubic, but on {photos} only."

    if adversarial:
        text += (
            " Trained against a discriminator, which costs PSNR: "
            "look at the pictures, or measure LPIPS."
        )
    return {"word": word, "text": text}


def nearest(low: Tensor, scale: int) -> Tensor:
    """Return a picture (C, h, w) with each pixel repeated."""
    return F.interpolate(low[None], scale_factor=scale, mode="nearest")[0]


def _luma(images: Tensor) -> Tensor:
    """Return Y (N, 1, H, W) of 16..235 of images (N, 3, H, W) of 0..255, not rounded."""
    red, green, blue = images.split(1, 1)
    return 16 + _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _pixels(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).contiguous().cpu().numpy()


def _middle(pixels: np.ndarray, side: int, scale: int) -> np.ndarray:
    """Return the middle of a picture, at most `side` small pixels long and wide."""
    top, left = (max(0, (length // scale - side) // 2) * scale for length in pixels.shape[:2])
    return pixels[top : top + side * scale, left : left + side * scale]


def _cropped(images: Tensor, offsets: list[list[int]], side: int) -> Tensor:
    parts = zip(images, offsets, strict=True)
    return torch.stack(
        [image[:, top : top + side, left : left + side] for image, (top, left) in parts]
    )


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """Mirror and turn each image (N, C, S, S) by its number of 0..7."""
    across, down, swap = (((turns >> bit) & 1).bool().view(-1, 1, 1, 1) for bit in range(3))
    images = torch.where(across, images.flip(3), images)
    images = torch.where(down, images.flip(2), images)
    return torch.where(swap, images.transpose(2, 3), images)


def _factors(
    count: int, jitter: dict[str, float], generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Return factors on brightness, contrast and saturation, and a shift of hue, (N,)."""
    drawn = (
        torch.rand(len(JITTERED), count, generator=generator, device=generator.device).to(device)
        * 2
        - 1
    )
    changes = {
        name: jitter.get(name, 0.0) * draw for name, draw in zip(JITTERED, drawn, strict=True)
    }
    return {name: change if name == "hue" else 1 + change for name, change in changes.items()}


def _recoloured(images: Tensor, amounts: dict[str, Tensor], about: Tensor) -> Tensor:
    """Return images (N, C, H, W) float of 0..255 recoloured, both of a pair alike."""
    about = adjust_brightness(about, amounts["brightness"], 255)
    images = adjust_brightness(images, amounts["brightness"], 255)
    images = adjust_contrast(images, amounts["contrast"], 255, about)
    if images.shape[1] == 3:
        images = adjust_hue(
            adjust_saturation(images, amounts["saturation"], 255), amounts["hue"], 255
        )
    return images


def _jitter(
    count: int, strength: float, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return factors on contrast about middle grey, and shifts of brightness, (N, 1, 1, 1)."""
    drawn = torch.rand(count, 2, generator=generator, device=generator.device).to(device) * 2 - 1
    contrast = (1 + strength * drawn[:, 0]).view(-1, 1, 1, 1)
    brightness = (strength * drawn[:, 1]).view(-1, 1, 1, 1)
    return contrast, 127.5 * (1 - contrast) + 127.5 * brightness
