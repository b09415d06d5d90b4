"""The straight line between the weights that fine-tuning starts from and those that it ends with.

Networks on it are often better than both of its ends (WiSE-FT; Wortsman et al., "Robust fine-tuning
of zero-shot models", 2022). With batch norm that keeps its statistics every point of the line is a
network as good as they are; statistics that were trained are interpolated like weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the way from the first weights to the last


def copied(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all tensors of a network."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def between(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return (1 - share) * first + share * last; 0 and 1 give the ends to the bit.

    What is no number with a fraction (counters) is that of `last`.
    """
    return {
        name: torch.lerp(first[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }


@dataclass(frozen=True)
class Line:
    """What networks on the line answer to the images that choose among them.

    Attributes:
        answers: (A, N, K), for each of `SHARES`.
        losses: (A, N), what each answer costs.
    """

    answers: np.ndarray
    losses: np.ndarray

    @property
    def chosen(self) -> int:
        """The position in `SHARES` of least mean loss."""
        return int(self.losses.mean(1).argmin())

    def out_of_fold(self, folds: np.ndarray) -> np.ndarray:
        """Return the answers (N, K), each of the network that the images of other folds choose."""
        answers = self.answers[self.chosen].copy()
        for fold in np.unique(folds):
            inside = folds == fold
            if not inside.all():
                chosen = int(self.losses[:, ~inside].mean(1).argmin())
                answers[inside] = self.answers[chosen][inside]
        return answers
