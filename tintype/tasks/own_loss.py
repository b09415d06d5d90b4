"""A loss of the user's own: a function `(outputs, targets) -> scalar or (N,)`, or a module."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tintype import own_code, plugins
from tintype.errors import UserError

KEY = "own_loss"  # of its buffers in a checkpoint
TRIED = 8  # images that a loss is tried on before a run


class OwnLoss:
    """Call the user's own loss, and hold it to what a loss must return.

    It is called in float32 with outputs (N, K) of the network and with targets, and returns a
    scalar, or one number for each image, of which the mean is taken. A class is called without
    arguments first. The buffers of a module are part of its state; weights of its own it may not
    have.

    Args:
        reference: see `tintype.own_code`, or the name of a plug-in.
        device: where it computes.
        weighted: whether it is called with weights of images.

    Attributes:
        name: what it is called.

    Raises:
        UserError: there is no such loss, or it has weights of its own.
    """

    def __init__(self, reference: str, device: torch.device, *, weighted: bool = False) -> None:
        self.name = own_code.name_of(reference)
        self.device = device
        self.weighted = weighted

        found = own_code.find(plugins.reference("losses", reference) or "", "loss", "loss")
        if isinstance(found, type):
            with own_code.running(f"the loss {self.name}"):
                found = found()
        if not callable(found):
            raise UserError(
                f"the loss {self.name} cannot be called. Expected a function (outputs, targets), "
                "or a torch module."
            )

        self.function = found
        self.module = found.to(device) if isinstance(found, nn.Module) else None
        if self.module is not None and any(p.requires_grad for p in self.module.parameters()):
            raise UserError(
                f"the loss {self.name} has weights of its own, which would not be trained. "
                "Put them into the network, or make them buffers."
            )

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar in float32; `weights` (N,) are those of the images.

        Raises:
            UserError: it fails, or returns neither a scalar nor a number for each image; of images
                with weights only the latter will do.
        """
        with own_code.running(f"the loss {self.name}"):
            value = self.function(outputs.float(), targets)

        if not isinstance(value, Tensor):
            raise self._wrong(f"a {type(value).__name__}")
        if value.shape not in ((), (1,), (len(outputs),)):
            raise self._wrong(f"shape {tuple(value.shape)} for {len(outputs)} images")
        if weights is None:
            return value.float().mean()
        if value.shape != (len(outputs),):
            raise UserError(
                f"the loss {self.name} returns a scalar, which sample_weight cannot weigh. "
                "Return a number for each image (N,), as with reduction='none'."
            )
        return (value.float() * weights).mean()

    @torch.no_grad()
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the loss of outputs (N, K), wherever they are; the state stays as it was."""
        with self._as_it_was():
            return float(self(outputs.to(self.device), targets.to(self.device)))

    def try_on(self, targets: Tensor, num_outputs: int) -> None:
        """Try the loss on random outputs, so that a wrong one is refused before training.

        Args:
            targets: (N, ...) as training will give them.
            num_outputs: K.

        Raises:
            UserError: it fails, is not finite, or gives no gradient.
        """
        targets = targets[:TRIED].to(self.device)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(len(targets), num_outputs, generator=generator).to(self.device)
        outputs = drawn.requires_grad_()

        weights = torch.ones(len(targets), device=self.device) if self.weighted else None
        with self._as_it_was():
            value = self(outputs, targets, weights)
        if not value.requires_grad:
            raise UserError(
                f"the loss {self.name} gives no gradient. Expected one that computes with the "
                "outputs in torch, without detach, argmax or numpy."
            )

        with own_code.running(f"the gradient of the loss {self.name}"):
            (gradient,) = torch.autograd.grad(value, outputs, allow_unused=True)
        if gradient is None:
            raise UserError(f"the loss {self.name} does not depend on the outputs of the network.")
        if not bool(value.isfinite()) or not bool(gradient.isfinite().all()):
            raise UserError(
                f"the loss {self.name}, or its gradient, is not finite on outputs drawn from a "
                f"normal distribution (the loss is {value.item():g})."
            )

    def in_checkpoint(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the loss: the buffers of a module, if it has some."""
        buffers = {} if self.module is None else self.module.state_dict()
        return {KEY: buffers} if buffers else {}

    def from_checkpoint(self, state: dict[str, Any]) -> None:
        """Take back what `in_checkpoint` returned."""
        if self.module is not None and KEY in state:
            self.module.load_state_dict(state[KEY])

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Leave the buffers as they were before the block."""
        before = copy.deepcopy(self.in_checkpoint())
        yield
        self.from_checkpoint(before)

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"the loss {self.name} returns {what}. Expected a scalar tensor, or one number for "
            "each image (N,)."
        )
