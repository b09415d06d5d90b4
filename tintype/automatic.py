"""What a recipe leaves open: a backbone's own preprocessing; for photos the backbone, what of it to train, how long.

Every choice is returned with its reason and printed; the recipe holds the result, so that a run repeats without choosing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from tintype.data.cache import Progress
from tintype.data.source import DataSpec, DataSplits
from tintype.distributed import Choice, autocast
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.backbone import for_inference
from tintype.pretrained import (
    OwnRun,
    fetch_weights,
    is_backbone,
    model_of_weights,
    own_preprocessing,
    own_run,
    weights_available,
)
from tintype.recipe import Recipe, parse_duration

# In this order where weights are at hand: what gives most for its cost in transfer on each kind of device.
PREFERRED = {"cpu": ("mobilenet_v3_large", "mobilenet_v2", "efficientnet_b0"), "gpu": ("convnext_tiny", "resnet50")}
DEFAULT_SECONDS = 300.0
# A training step costs about three times an inference: forward, and two products backward.
TRAINING_COST = 3.0
HEAD_EPOCHS, HEAD_VIEWS = 60, 4
FEWEST_TO_FINE_TUNE = 500  # images; below, a head on fixed features generalises as well, and is done at once

FROM_SCRATCH: dict[str, Any] = {
    "model": "fast-cnn", "tune": "all", "augment": "standard", "epochs": 30, "batch_size": 64, "optimizer": "muon", "lr": 0.24,
    "momentum": 0.6, "schedule": "linear", "label_smoothing": 0.1, "tta": "flip",
}  # fmt: skip
FROM_NOISE: dict[str, Any] = {  # as faces-gan
    "tune": "all", "augment": {"flip": True}, "steps": 5000, "batch_size": 32, "optimizer": "adam", "lr": 4e-4,
    "betas": (0.5, 0.999), "schedule": "cosine", "ema": 0.999, "evaluate_every": 20,
}  # fmt: skip
HEAD: dict[str, Any] = {
    "tune": "head", "augment": "photos", "batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "schedule": "cosine",
    "tta": "flip", "epochs": HEAD_EPOCHS,
}  # fmt: skip
FINE_TUNE: dict[str, Any] = {
    "tune": "all", "augment": "photos", "batch_size": 32, "optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05,
    "layer_decay": 0.8, "schedule": "cosine", "warmup": 0.1, "label_smoothing": 0.1, "tta": "flip",
}  # fmt: skip


def choose_model(
    recipe: Recipe, device: torch.device, progress: Progress | None = None, asked: Collection[str] = ()
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a model in place of "auto", and with a backbone's weights and preprocessing filled in.

    Weights of an earlier run bring its network.

    Args:
        recipe: with or without model and weights.
        device: where it will compute.
        progress: called as progress(what, done, total) while weights are downloaded.
        asked: the fields that the user set.

    Raises:
        UserError: the weights' file name tells no model, or they are those of another model than the user asked for.
    """
    choices = []
    run = own_run(recipe.weights) if recipe.task == "classify" else None
    if run is not None:
        recipe, choice = _with_network_of(run, recipe, asked)
        choices.append(choice)
    elif recipe.model == "auto":
        recipe, choice = _with_model(recipe, device, progress)
        choices.append(choice)
    if not is_backbone(recipe.model):
        return recipe, choices
    weights = recipe.weights or "default"
    own = own_preprocessing(recipe.model, weights)
    assert own is not None
    changes: dict[str, Any] = {"weights": weights}
    if recipe.image_size is None:
        changes["image_size"] = own.image_size
    if weights != "none" and run is None:
        changes["channels"] = 3
    if recipe.crop_fraction is None:
        changes["crop_fraction"] = own.crop_fraction if recipe.resize == "crop" else 1.0
    if recipe.interpolation is None:
        changes["interpolation"] = own.interpolation
    return recipe.with_(**changes), choices


def _with_network_of(run: OwnRun, recipe: Recipe, asked: Collection[str]) -> tuple[Recipe, Choice]:
    """Return the recipe with the network of an earlier run, which sees images as it did there."""
    if "model" in asked and recipe.model not in ("auto", run.model):
        raise UserError(
            f"the network of {run.folder} is {run.model}, not {recipe.model}. Leave out --model, or give other --weights."
        )
    own_options = any(key.startswith(("model_options", "model.")) for key in asked)
    own = run.preprocessing
    changes: dict[str, Any] = {
        "model": run.model,
        "model_options": {**run.options, **(recipe.model_options if own_options else {})},
        "image_size": own.image_size if recipe.image_size is None else recipe.image_size,
        "channels": len(own.mean) if recipe.channels is None else recipe.channels,
        "crop_fraction": own.crop_fraction if recipe.crop_fraction is None else recipe.crop_fraction,
        "interpolation": own.interpolation if recipe.interpolation is None else recipe.interpolation,
    }
    if "resize" not in recipe.model_fields_set:
        changes["resize"] = own.mode
    return recipe.with_(**changes), Choice("model", run.model, f"the network of {run.folder.name}, a run of your own")


def _with_model(recipe: Recipe, device: torch.device, progress: Progress | None) -> tuple[Recipe, Choice]:
    weights = recipe.weights
    if weights not in (None, "none", "default"):
        model = model_of_weights(Path(str(weights)))
        if not Path(str(weights)).exists():
            raise UserError(f"there is no weight file {weights}.")
        if model is None:
            raise UserError(f"the name of {weights} tells no model. Say which it is, as in --model resnet18.")
        return recipe.with_(model=model), Choice("model", model, "told by the name of the weights")
    if weights != "none":
        wanted = PREFERRED["cpu" if device.type == "cpu" else "gpu"]
        for model in wanted:
            if weights_available(model):
                return recipe.with_(model=model), Choice("model", model, "pretrained, its weights are at hand")
        try:
            fetch_weights(wanted[0], progress)
            return recipe.with_(model=wanted[0]), Choice("model", wanted[0], "pretrained, downloaded once")
        except UserError as error:
            failure = str(error).split(". ")[0]
            reason = f"from scratch: {failure}; --weights FILE takes a file, and gives far better results"
    else:
        reason = "from scratch, as asked"
    return recipe.with_(**_not_given(recipe, FROM_SCRATCH)), Choice("model", "fast-cnn", reason)


def choose_training(
    recipe: Recipe, splits: DataSplits, device: torch.device, dtype: torch.dtype
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with a way to train and a length in place of tune "auto", by number of images and time budget."""
    if recipe.tune != "auto":
        told = f"tune is {recipe.tune}, so the recipe's own length stands; --tune auto chooses by the time"
        return recipe, [Choice("time", "without effect", told)] if recipe.time else []
    if recipe.weights in (None, "none"):
        wanted = FROM_NOISE if recipe.task == "generate" else {**FROM_SCRATCH, "model": recipe.model}
        return recipe.with_(**_not_given(recipe, wanted)), []
    budget = parse_duration(recipe.time) if recipe.time else DEFAULT_SECONDS
    recipe = recipe.with_(time=None)  # used up by the choice
    speed = inference_speed(recipe, splits.spec, device, dtype)
    train = len(splits.train)
    others = 2 * (len(splits.val) + len(splits.test)) + 2 * train  # measuring, with mirrored views
    epoch = TRAINING_COST * train / speed
    spare = budget - others / speed
    if train >= FEWEST_TO_FINE_TUNE and spare >= 4 * epoch:
        epochs = int(min(20, spare / epoch))
        why = f"{train:,} training images, {epochs} epochs of about {epoch:.0f} s fit into {budget:.0f} s"
        return recipe.with_(**{"epochs": epochs, **_not_given(recipe, FINE_TUNE)}), [Choice("tune", "all", why)]
    views = int(min(HEAD_VIEWS, max(0, spare / (train / speed))))
    few = train < FEWEST_TO_FINE_TUNE
    reason = f"{train:,} training images are few" if few else f"an epoch of all layers takes about {epoch:.0f} s"
    why = (
        f"{reason}; the features of each image and of {views} augmented copies are computed once ({speed:.0f} images/s)"
    )
    return recipe.with_(**{"views": views, **_not_given(recipe, HEAD)}), [Choice("tune", "head", why)]


def _not_given(recipe: Recipe, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return those of the wanted settings that the user has not set."""
    given = recipe.model_fields_set - {"model", "tune"}
    lengths = {"epochs", "steps"}
    return {k: v for k, v in wanted.items() if k not in given and not (k in lengths and given & lengths)}


@torch.no_grad()
def inference_speed(recipe: Recipe, spec: DataSpec, device: torch.device, dtype: torch.dtype) -> float:
    """Return how many images a second the recipe's network takes on this device, measured for about a second."""
    network = for_inference(build_model(recipe.model, spec, recipe.model_options, recipe.seed).to(device), spec)
    images = torch.zeros(16, spec.channels, spec.height, spec.width, device=device)
    images = images.to(memory_format=torch.channels_last)

    def seconds(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    with autocast(device, dtype):
        network(images)  # the first call is slower
        return len(images) / min(seconds(lambda: network(images)) for _ in range(2))
