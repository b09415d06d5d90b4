"""The pretrained backbone that photos get where the user names none, and what a head sees of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tintype.data.source import Glance
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.plugins import canonical
from tintype.progress import Progress
from tintype.recipe import Recipe
from tintype.runs import packaged_weights
from tintype.runs.pretrained import fetch_weights, weights_available
from tintype.training.speed import seconds_of

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
LARGER = 10 / 7  # the second size at which a photo is looked at: 320 pixels beside 224
# The last two stages cost what one does, and so do all their blocks; docs/log.md compares ways of
# pooling.
POOLED: Mapping[str, Any] = {"stages": 2, "each_block": True, "pooling": "rms"}
SHARE_OF_FEATURES = 0.25  # of the time
# Of the time, with a second look: on TrashNet it gives about half a point, and takes twice as long
# again. A thousand photos are done in a minute without.
SHARE_WITH_SECOND = 0.15
# Of fine-tuning. With fewer, heads on the features of two stages do better.
ENOUGH_EPOCHS = 10
# A training step costs more than six times an inference, whose norms are folded: EfficientNet-Lite0
# at 224 pixels takes a thread of a Zen 4 8 ms a photo for the one and 52 for the other.
TRAINING_COST = 6.5

MULTIPLY_ADDS = {INSTALLED: 0.39e9, BETTER: 0.86e9}  # at their own sizes
# Multiply-adds a second: of a thread of an AMD EPYC (Zen 3 in float32, Zen 4 in bfloat16).
PER_THREAD = {torch.float32: 14e9, torch.bfloat16: 45e9}
ON_A_GPU = 1e12


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
        needed = seconds_of_features(BETTER, seen, device, dtype, recipe.threads)
        allowed = SHARE_OF_FEATURES * seconds_of(recipe)
        cost = f"its features of {seen.num_images:,} photos take about {needed:.0f} s"
        if needed <= allowed or model == BETTER:
            model, why = BETTER, f"pretrained, from the extra offline; {cost}"
        else:
            why = f"{why}; {BETTER} is as well, but {cost}, and {allowed:.0f} s are for features"

    why = f"{why}; {instead_of}" if instead_of else why
    return recipe.replace(model=model), [*choices, Choice("model", model, why)]


def choose_looks(
    recipe: Recipe, device: torch.device, dtype: torch.dtype, look: Look
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with what the head sees of each photo, as the time allows.

    That is the last two stages, which cost nothing more, and the photo at a second, larger size.
    Options that the user has given stay.

    Args:
        recipe: with its model; what is tuned is a head, or left open.
        device: where it will compute.
        dtype: in which precision.
        look: returns what a first look at the images says.
    """
    model = canonical("models", recipe.model)
    if model not in MULTIPLY_ADDS or recipe.model_options:
        return recipe, []
    small = packaged_weights.PACKAGES[model].image_size
    large = round(small * LARGER / 16) * 16
    recipe = recipe.replace(model_options=dict(POOLED))
    seen = look()
    if recipe.image_size is not None or seen is None:
        return recipe, [Choice("features", "of the last two stages", "they cost what one does")]

    one = seconds_of_features(model, seen, device, dtype, recipe.threads)
    both = one * (1 + (large / small) ** 2)
    allowed = SHARE_WITH_SECOND * seconds_of(recipe)
    refused = ""
    if _time_to_tune_all(recipe, seen, one, device):
        refused = "there may be time to train all layers, where each look costs"
    elif both > allowed:
        refused = f"a second look at {large} pixels would bring them to about {both:.0f} s"
    if refused:
        why = f"{_cost(one, allowed, seen)}; {refused}"
        return recipe, [Choice("features", f"of two stages at {small} pixels", why)]

    options = {**POOLED, "scales": [small, large]}
    why = _cost(both, allowed, seen)
    choice = Choice("features", f"of two stages at {small} and at {large} pixels", why)
    return recipe.replace(model_options=options, image_size=large), [choice]


def choose_crop(recipe: Recipe) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with all that the short side of a photo holds.

    What ImageNet's figures are measured with cuts an eighth off the sides of a photo. Of one's own
    photos that is a part of what they show; at 224 pixels the gain is within 0.2 points, and
    docs/log.md has the figures. Where the user says how to cut, it stays.
    """
    cuts = recipe.resize == "crop" and recipe.crop_fraction is None
    if canonical("models", recipe.model) not in MULTIPLY_ADDS or not cuts:
        return recipe, []
    why = "the edges that are cut off for ImageNet's figures show something in most photos"
    return recipe.replace(crop_fraction=1.0), [Choice("crop", "the whole short side", why)]


def _cost(seconds: float, allowed: float, seen: Glance) -> str:
    return (
        f"about {seconds:.0f} s for {seen.num_images:,} photos, where {allowed:.0f} s are for "
        "features"
    )


def prefers_head(recipe: Recipe, device: torch.device) -> bool:
    """Return whether a head is enough: on a CPU, where the user has given no time.

    The features of a photo are computed once; an epoch of all layers takes about five times as
    long as one look at each photo.
    """
    return device.type == "cpu" and recipe.time is None


def _time_to_tune_all(recipe: Recipe, seen: Glance, one: float, device: torch.device) -> bool:
    """Return whether fine-tuning may fit into the time, by what the features of one look take."""
    if prefers_head(recipe, device) or recipe.fields()["tune"] == "head":
        return False
    epoch = TRAINING_COST * one / LOOKS
    return seconds_of(recipe) - one >= ENOUGH_EPOCHS * epoch


def seconds_of_features(
    model: str, seen: Glance, device: torch.device, dtype: torch.dtype, threads: int | str
) -> float:
    """Return about how long the features of all photos take, as they are and mirrored.

    By the usual speed of such a device and not by a measurement: the same photos shall lead to the
    same network whenever they are asked for, so that their features are in the cache.
    """
    count = threads if isinstance(threads, int) else torch.get_num_threads()
    speed = count * PER_THREAD[dtype] if device.type == "cpu" else ON_A_GPU
    return LOOKS * seen.num_images * MULTIPLY_ADDS[model] / speed
