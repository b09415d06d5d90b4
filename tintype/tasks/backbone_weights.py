"""Other pretrained weights for the runs of a study that start from a backbone."""

from __future__ import annotations

from pathlib import Path

from tintype.errors import UserError
from tintype.recipe import Recipe

ENDINGS = (".safetensors", ".pth", ".pt")


def with_weights(recipe: Recipe, weights: str, *, varied: bool) -> Recipe:
    """Return a recipe with other pretrained weights, if it starts from some.

    The name of a file may say another backbone than the recipe. A recipe that asks for none takes
    the backbone too: it is what the pretrained one is compared with.

    Raises:
        UserError: a folder without a file for the backbone, or a file for another one where the
            study varies the model.
    """
    from tintype.runs.pretrained import is_backbone, model_of_weights

    if not _starts_pretrained(recipe):
        if varied or not is_backbone(recipe.model) or not Path(weights).is_file():
            return recipe
        return recipe.replace(model=model_of_weights(weights) or recipe.model)
    if weights in ("default", "none"):
        return recipe.replace(weights=weights)

    path = Path(weights)
    if path.is_dir():
        return recipe.replace(weights=str(_file_in(path, recipe.model)))

    model = model_of_weights(path) or recipe.model
    if varied and model != recipe.model:
        raise UserError(
            f"{path.name} holds weights of {model}, and the study varies the model. Expected a "
            f"folder with a file for each, such as {recipe.model}.safetensors, or --weights none."
        )
    return recipe.replace(model=model, weights=weights)


def _file_in(folder: Path, model: str) -> Path:
    for ending in ENDINGS:
        if (folder / f"{model}{ending}").is_file():
            return folder / f"{model}{ending}"
    raise UserError(
        f"{folder} holds no {model}.safetensors or .pth. Put it there, or leave the model out."
    )


def _starts_pretrained(recipe: Recipe) -> bool:
    """Return whether a recipe takes pretrained weights: those it names, or else the usual ones."""
    from tintype.runs.pretrained import is_backbone

    weights = recipe.fields().get("weights")
    if weights is not None:
        return weights != "none"
    return recipe.model == "auto" or is_backbone(recipe.model)
