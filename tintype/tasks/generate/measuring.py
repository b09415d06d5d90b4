"""Measure a generator against real images, keeping the features that do not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tintype.data.source import ImageSource
from tintype.errors import UserError
from tintype.progress import Progress
from tintype.tasks.evaluating import answered
from tintype.tasks.generate import distances
from tintype.tasks.generate.distances import FeatureNetwork

AT_ONCE = 100  # images that are made and measured together


class Measure:
    """Distances between generated and real images on the chosen features, each with its floor.

    Args:
        features: None for pixels, a classifier's run folder, or a weight file.
        inception_weights: file for FID by the standard protocol, or None.
        train: training images, for the floor.
        progress: called as progress(what, done, total) while weights are downloaded.

    Raises:
        UserError: there are no such features.
    """

    def __init__(
        self,
        features: str | None,
        inception_weights: str | None,
        device: torch.device,
        train: ImageSource | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.network = distances.load_features(features, device)
        self.inception = None
        if inception_weights:
            self.inception = distances.inception_features(inception_weights, device, progress)
        self.train = train
        self._of_real: dict[tuple[str, int, int], Tensor] = {}
        self._of_made: dict[str, tuple[tuple[str, int], tuple[Tensor, Tensor | None]]] = {}
        # so that no other source gets the id of one that was seen
        self._kept: dict[int, ImageSource] = {}
        self._floors: dict[int, ImageSource] = {}
        self._names_of_train: frozenset[str] | None = None

    def protocol(self) -> dict[str, str]:
        """Return how each distance is measured, in a sentence."""
        pairs = f"; KID, precision and recall on at most {distances.COMPARED:,} images of each kind"
        used = {
            f.distance: f.protocol + pairs for f in filter(None, (self.network, self.inception))
        }
        if self.inception is None:
            used["fid"] = (
                "left out: no Inception weights were given (--inception-weights FILE or download)"
            )
        return used

    def figures(
        self,
        network: nn.Module,
        make: Callable[[Sequence[int]], Tensor],
        source: ImageSource,
        count: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Return the figures of `count` images of each kind, and probabilities (N, K) if known.

        Args:
            network: the generator, whose weights tell whether its images were measured before.
            make: indices -> images (N, C, H, W) uint8.
            source: real images; `count` of them are drawn.

        Raises:
            UserError: the generated images are not finite.
        """
        floor = self._floor_of(source, count)
        figures = {}
        probabilities = None

        for features in filter(None, (self.network, self.inception)):
            real = self._real(features, source, count)
            made, classes = self._made(features, network, make, count, on_progress)
            among_real = None if floor is None else self._real(features, floor, len(floor))
            figures.update(distances.figures(features.name, real, made, among_real))
            probabilities = classes if features is self.network else probabilities
        return figures, probabilities

    def _floor_of(self, source: ImageSource, count: int) -> ImageSource | None:
        """Return `count` training images for the floor; None if `source` is of training."""
        if self.train is None:
            return None
        if self._names_of_train is None:
            self._names_of_train = frozenset(self.train.names)
        if source.names[0] in self._names_of_train:
            return None
        if count not in self._floors:
            self._floors[count] = self.train.subset(drawn(self.train, count))
        return self._floors[count]

    def _real(self, features: FeatureNetwork, source: ImageSource, count: int) -> Tensor:
        key = (features.name, id(source), count)
        if key not in self._of_real:
            self._of_real[key] = self._computed(features, source, drawn(source, count))
            self._kept[id(source)] = source
        return self._of_real[key]

    def _computed(self, features: FeatureNetwork, source: ImageSource, index: Tensor) -> Tensor:
        if features.of_photos is not None:
            return features.of_photos(source.subset(index))
        parts = [features.extract(source.take(i).images)[0].cpu() for i in index.split(AT_ONCE)]
        return torch.cat(parts)

    def _made(
        self,
        features: FeatureNetwork,
        network: nn.Module,
        make: Callable[[Sequence[int]], Tensor],
        count: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return features and probabilities of generated images, cached by weights and count."""
        key = (_digest(network), count)
        known, both = self._of_made.get(features.name, (None, None))
        if both is None or known != key:

            def seen(part: Tensor) -> list[Tensor]:
                return [
                    each.cpu() for each in features.extract(make(part.tolist())) if each is not None
                ]

            found = []
            probabilities = []
            answers = answered(count, seen, at_once=AT_ONCE, on_progress=on_progress)
            for _, (values, *probs) in answers:
                found.append(values)
                probabilities += probs
            both = torch.cat(found), torch.cat(probabilities) if probabilities else None
            if not bool(both[0].isfinite().all()):
                raise UserError(
                    "the generated images are not finite: training has diverged. Try a lower --lr."
                )
            self._of_made[features.name] = (key, both)

        return both


def drawn(source: ImageSource, count: int) -> Tensor:
    """Return positions of `count` images in an order drawn with a fixed seed.

    Neighbours are often of one class. Each image comes once as long as there are enough, so the
    first ones are a fair sample as well.
    """
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    return order[torch.arange(count) % len(source)]


def class_figures(
    probabilities: Tensor, names: Sequence[str], asked: Sequence[int] | None
) -> dict[str, Any]:
    """Return what a classifier sees in generated images: which classes, how evenly, how surely.

    Args:
        probabilities: (N, K).
        names: of the K classes.
        asked: the class (N,) that each image was to show, or None.
    """
    count = len(probabilities)
    guesses = probabilities.argmax(1)
    shares = torch.bincount(guesses, minlength=len(names)) / count
    figures = {
        "classes_present": int((shares >= 0.1 / len(names)).sum()),
        "largest_class_share": float(shares.max()),
        "mean_confidence": float(probabilities.max(1).values.mean()),
        "class_shares": {
            name: round(float(share), 4) for name, share in zip(names, shares, strict=True)
        },
    }
    if asked is not None:
        figures["class_accuracy"] = float((guesses == torch.as_tensor(asked)).float().mean())

    return figures


def _digest(network: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
