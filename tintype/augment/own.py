"""An augmentation of the user's own: a function of uint8 batches, or a transform of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tintype import own_code, plugins
from tintype.errors import UserError
from tintype.seeds import drawing_from

TRIED = 8  # images that an augmentation is tried on before a run


class OwnAugmentation:
    """Call the user's own augmentation, and hold it to what one must return.

    It is called with images (N, C, H, W) uint8 and its options, and returns as many of the same
    shape and type. Transforms of torchvision decide once for all that they are given, so they are
    called with one image (C, H, W) at a time. What is drawn from the global generators of torch,
    NumPy and Python follows from the step's own generator.

    Args:
        reference: see `tintype.own_code`, or the name of a plug-in.
        options: passed to a function at every call, and to a class when it is called first.

    Raises:
        UserError: there is no such augmentation.
    """

    def __init__(self, reference: str, options: Mapping[str, Any]) -> None:
        self.name = own_code.name_of(reference)
        self.reference = plugins.reference("augmentations", reference) or ""
        self.options = dict(options)

        found = own_code.find(self.reference, "augmentation", "augment")
        if isinstance(found, type):
            with own_code.running(f"the augmentation {self.name}"):
                found = found(**self.options)
            self.options = {}
        self.function = found
        self.of_torchvision = _of_torchvision(found)

    def __call__(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Return images (N, C, H, W) uint8; the argument is not modified.

        Raises:
            UserError: it fails, or returns something else.
        """
        device = images.device
        draw = torch.randint(2**62, (), generator=generator, device=device)
        with (
            drawing_from(int(draw), str(device)),
            own_code.running(f"the augmentation {self.name}"),
        ):
            returned = self._called(images.clone())

        if not isinstance(returned, Tensor):
            raise self._wrong(type(returned).__name__)
        if returned.dtype != torch.uint8:
            raise self._wrong(f"{str(returned.dtype).removeprefix('torch.')} images")
        if returned.shape != images.shape:
            raise self._wrong(f"shape {tuple(returned.shape)} for {tuple(images.shape)}")
        return returned.to(device)

    def try_on(self, shape: tuple[int, int, int]) -> None:
        """Try the augmentation on random images of a shape (C, H, W), before anything is written.

        Raises:
            UserError: it fails, returns something else, or draws numbers of its own.
        """
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            0, 256, (TRIED, *shape), dtype=torch.uint8, generator=generator
        ).contiguous(memory_format=torch.channels_last)
        first, again = (self(images, torch.Generator().manual_seed(1)) for _ in range(2))
        if not torch.equal(first, again):
            raise UserError(
                f"the augmentation {self.name} changes the same images differently with the same "
                "seed, so that a run could not be resumed. Expected random numbers of the global "
                "generators of torch, NumPy or random."
            )

    @property
    def identity(self) -> str:
        """What tells this augmentation, with its options, from every other one."""
        code = own_code.code_of(self.reference)
        known = code.sha256 if not self.reference.startswith(own_code.IN_PYTHON) else ""
        return f"{self.name} {self.options} {known or own_code.PROCESS}"

    def _called(self, images: Tensor) -> Any:
        if self.of_torchvision:
            return torch.stack([self.function(image) for image in images])
        return self.function(images, **self.options)

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"the augmentation {self.name} returns {what}. Expected as many images of the same "
            "shape (N, C, H, W), uint8: tintype resizes and normalises them itself."
        )


def _of_torchvision(thing: Any) -> bool:
    """Return whether an object is a transform of torchvision, or is made of them."""
    parts = list(thing.modules()) if isinstance(thing, nn.Module) else [thing]
    modules = [base.__module__ for part in parts for base in type(part).__mro__]
    return any(module.startswith("torchvision.transforms") for module in modules)
