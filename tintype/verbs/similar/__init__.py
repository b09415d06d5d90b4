"""The photos of a folder that are most like one photo, by what a network sees in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.errors import UserError
from tintype.interface.calls import public
from tintype.progress import Progress, working
from tintype.runs.folder import RunFolder
from tintype.verbs.similar.result import Similar as Similar

if TYPE_CHECKING:
    from tintype.tasks.contract.network_predictor import NetworkPredictor

TOP = 12  # photos that are found unless a caller says otherwise


@public(hint="Expected tintype.similar(PHOTO, FOLDER).")
def similar(
    photo: Any,
    folder: str | Path | Sequence[str | Path],
    *,
    run: str | Path | RunFolder | None = None,
    top: int = TOP,
    device: str = "auto",
    verbose: bool | None = None,
) -> Similar:
    """Find the photos of a folder that are most like one photo.

    They are compared by the cosine of the features that a network has before its head. Features
    are kept in the cache, so that the next photo is found at once.

    Args:
        photo: a file, its bytes, a Pillow image or an array. Where it is in the folder itself, it
            is left out.
        folder: a folder, searched with those below it, or files and folders.
        run: whose network looks at them; a folder or a packed run. By default EfficientNet-Lite0
            with ImageNet weights, which are installed with tintype.
        top: how many are found.
        device: where to compute.
        verbose: False shows no progress.

    Raises:
        UserError: the photo cannot be read, there are no others, or the run has no features.
    """
    from tintype.verbs.similar.looking import predictor_of

    predictor, name = predictor_of(run, device)
    with working(verbose) as progress:
        return find(predictor, name, photo, folder, top=top, progress=progress)


def find(
    predictor: NetworkPredictor[Any],
    name: str,
    photo: Any,
    folder: str | Path | Sequence[str | Path],
    *,
    top: int = TOP,
    progress: Progress | None = None,
) -> Similar:
    """Do what `similar` does with a model that is ready, called `name`."""
    from tintype.verbs.predict.files import list_images
    from tintype.verbs.similar.looking import search

    if top < 1:
        raise UserError(f"top is {top}. Expected how many photos to find, as in top={TOP}.")
    places = [folder] if isinstance(folder, str | Path) else list(folder)
    if not places:
        raise UserError("there is no folder to look in: the list is empty.")
    return search(predictor, name, photo, list_images(places), top, progress)
