"""The pretrained backbone that photos get where the user names none."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tintype.data.source import DataSpec, Glance
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.progress import Progress
from tintype.recipe import Recipe
from tintype.runs import packaged_weights
from tintype.runs.pretrained import fetch_weights, own_preprocessing, weights_available
from tintype.training.speed import inference_speed, seconds_of

Look = Callable[[], Glance | None]

# Its weights are installed with tintype: nothing is downloaded, and a fresh machine does as any
# other. The better one is an extra.
INSTALLED = "efficientnet_lite0"
BETTER = "efficientnet_lite2"
# In this order where weights were downloaded before: what gives most for its cost in transfer on
# each kind of device.
DOWNLOADED = {
    "cpu": ("mobilenet_v3_large", "mobilenet_v2", "efficientnet_b0"),
    "gpu": ("convnext_tiny", "resnet50"),
}
SMALLEST_PHOTO = 64  # pixels; smaller images are no photos, and are not enlarged unless asked for
LOOKS = 2  # at each photo, as it is and mirrored
SHARE_OF_FEATURES = 0.25  # of the time


def choose_backbone(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    look: Look,
    progress: Progress | None = None,
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a pretrained backbone, or with a network that starts from scratch.

    Args:
        recipe: without a model; its weights are "default", "none" or left open.
        device: where it will compute.
        dtype: in which precision.
        look: returns what a first look at the images says.
        progress: called as progress(what, done, total) while weights are downloaded.
    """
    weights = recipe.fields()["weights"]
    if weights == "none":
        return _from_scratch(recipe, "as asked")

    seen = look()
    small = weights is None and seen is not None and seen.side < SMALLEST_PHOTO
    kind = "cpu" if device.type == "cpu" else "gpu"
    choices: list[Choice] = []
    if not small and kind == "cpu":
        found, choices = _installed(recipe, device, dtype, seen)
        if found is not None:
            return found, choices

    known = [model for model in DOWNLOADED[kind] if weights_available(model)]
    if known:
        why = "pretrained, its weights are at hand"
        return recipe.replace(model=known[0]), [*choices, Choice("model", known[0], why)]

    wanted = DOWNLOADED[kind][0]
    try:
        fetch_weights(wanted, progress)
    except UserError as error:
        failure = str(error).split(". ")[0]
    else:
        why = "pretrained, downloaded once"
        return recipe.replace(model=wanted), [*choices, Choice("model", wanted, why)]

    if not small and kind == "gpu":
        found, choices = _installed(recipe, device, dtype, seen, instead_of=failure)
        if found is not None:
            return found, choices
    size = f"the images have {seen.side} pixels a side, and " if small and seen else ""
    why = f"{size}{failure}; --weights FILE takes a file, and gives far better results"
    found, more = _from_scratch(recipe, why)
    return found, [*choices, *more]


def _from_scratch(recipe: Recipe, why: str) -> tuple[Recipe, list[Choice]]:
    usual = recipe.options.from_scratch["model"]
    return recipe.replace(model=usual), [Choice("model", usual, f"from scratch: {why}")]


def _installed(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    seen: Glance | None,
    instead_of: str = "",
) -> tuple[Recipe | None, list[Choice]]:
    """Return the recipe with a backbone whose weights are an installed package.

    It is None where no package can be used; the choices say why.
    """
    choices: list[Choice] = []
    usable: list[str] = []
    wanted = [INSTALLED, BETTER] if packaged_weights.installed(BETTER) else [INSTALLED]
    for model in wanted:
        try:
            packaged_weights.weights_file(model)
            usable.append(model)
        except UserError as error:
            choices.append(Choice("weights", f"not those of {model}", str(error).rstrip(".")))
    if not usable:
        return None, choices

    model = usable[0]
    why = "pretrained, its weights are installed with tintype"
    if BETTER in usable and seen is not None:
        needed = seconds_of_features(recipe, BETTER, seen, device, dtype)
        allowed = SHARE_OF_FEATURES * seconds_of(recipe)
        cost = f"its features of {seen.num_images:,} photos take about {needed:.0f} s"
        if needed <= allowed or model == BETTER:
            model, why = BETTER, f"pretrained, from the extra offline; {cost}"
        else:
            why = f"{why}; {BETTER} is as well, but {cost}, and {allowed:.0f} s are for features"

    why = f"{why}; {instead_of}" if instead_of else why
    return recipe.replace(model=model), [*choices, Choice("model", model, why)]


def seconds_of_features(
    recipe: Recipe, model: str, seen: Glance, device: torch.device, dtype: torch.dtype
) -> float:
    """Return about how long the features of all photos take, as they are and mirrored."""
    own = own_preprocessing(model)
    assert own is not None
    size = own.image_size if recipe.image_size is None else recipe.image_size
    height, width = (size, size) if isinstance(size, int) else size
    spec = DataSpec("", 3, height, width, Classes(("", " ")), own.mean, own.std, "")
    network = recipe.replace(model=model)
    return LOOKS * seen.num_images / inference_speed(network, spec, device, dtype)
