"""What looks at photos, and the search for those that look alike to it; memory is bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.features import BATCH, Network, photo_features
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.hardware.device import choose_device
from tintype.interface.tables import Table
from tintype.models import build_model
from tintype.models.parts.backbone import for_inference
from tintype.progress import Progress
from tintype.runs.folder import RunFolder
from tintype.runs.pretrained import load_pretrained, own_preprocessing
from tintype.tasks.contract.network_predictor import NetworkPredictor
from tintype.tasks.contract.predict import AnswerOptions, Picture, Rows
from tintype.verbs.predict.inputs import Named, name_of, num_decoders
from tintype.verbs.predict.opening import open_run
from tintype.verbs.predict.pipeline import Read, in_batches
from tintype.verbs.similar.result import Similar

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORK = "efficientnet_lite0"  # which looks at photos where no run is given
PIXELS = 128 << 20  # bytes of photos that are in memory at once
ANSWERS_NOTHING = "this network was made for no classes of yours. Give a run to predict with."


def predictor_of(
    run: str | Path | RunFolder | None, device: str
) -> tuple[NetworkPredictor[Any], str]:
    """Return what looks at photos, a run or the network that is installed, and its name.

    Raises:
        UserError: there is no such run, or its network is no network of torch.
    """
    if run is None:
        return InstalledNetwork(NETWORK, device), NETWORK

    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    predictor = open_run(folder, device)
    assert isinstance(predictor, NetworkPredictor)  # that of a run always is
    return predictor, folder.name


class InstalledTask:
    """What a network with installed weights is shown: colour photos, normalised as it learned."""

    def __init__(self, name: str, device: str) -> None:
        own = own_preprocessing(name)
        assert own is not None
        self.preprocessing = own
        side = own.image_size
        assert isinstance(side, int)
        classes = Classes(tuple(map(str, range(1000))))
        self.spec = DataSpec(name, 3, side, side, classes, own.mean, own.std, "")

        network = build_model(name, self.spec, {}, seed=0)
        load_pretrained(network, name, self.spec)
        self.device, _ = choose_device(device)
        self.dtype = torch.float32
        self.main = "network"
        self.networks: dict[str, nn.Module] = {
            self.main: for_inference(network, self.spec).to(self.device)
        }

    def normalise(self, images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1) * 255
            for values in (self.spec.mean, self.spec.std)
        )
        return (images.to(self.device).float() - mean) / std


class InstalledNetwork(NetworkPredictor[InstalledTask]):
    """A network with installed weights, which has features and no answers."""

    def __init__(self, name: str, device: str) -> None:
        self.task = InstalledTask(name, device)
        own = self.task.preprocessing
        side = own.image_size
        super().__init__(
            {
                "channels": 3,
                "height": side,
                "width": side,
                "resize": own.mode,
                "crop_fraction": own.crop_fraction,
                "interpolation": own.interpolation,
            }
        )

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> NoReturn:
        raise UserError(ANSWERS_NOTHING)

    def rows(self, options: AnswerOptions) -> Rows:
        raise UserError(ANSWERS_NOTHING)


class Eye:
    """Features of prepared photos by one network; those that were computed before are kept.

    Args:
        predictor: how photos are prepared, and what they are shown to.
        name: of the network, for the cache.
    """

    def __init__(self, predictor: NetworkPredictor[Any], name: str) -> None:
        self.predictor = predictor
        self.name = name

    def features(self, pixels: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Return the features (N, F) float32 of photos (N, H, W, C) uint8, each of length one.

        Raises:
            UserError: the network has none, or they are not finite.
        """
        found = photo_features(
            digests_of(pixels),
            ["as it is"],
            lambda rows, _: self._computed(pixels[rows]),
            self._identity,
            progress,
        )
        features = found.values[:, 0].astype(np.float64)
        if not np.isfinite(features).all():
            raise UserError(f"the features of {self.name} are not finite: its training diverged.")
        length = np.linalg.norm(features, axis=1, keepdims=True)
        return (features / np.maximum(length, 1e-12)).astype(np.float32)

    def _computed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of at most BATCH photos, whose bits do not depend on how many."""
        full = pixels[np.arange(BATCH) % len(pixels)]
        try:
            return self.predictor.features(full)[: len(pixels)]
        except ValueError as error:
            raise UserError(f"{self.name} has no features: {error}") from None

    @cached_property
    def _identity(self) -> Network:
        """What tells these features from those of others, down to the last bits."""
        task = self.predictor.task
        digest = hashlib.blake2b(str(self.predictor.network).encode(), digest_size=16)
        for name, tensor in self.predictor.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )

        spec = task.spec
        size = f"{self.predictor.height}x{self.predictor.width}"
        bits = (torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())
        what = (
            size,
            spec.mean,
            spec.std,
            str(task.dtype),
            task.device.type,
            torch.__version__,
            *bits,
        )
        digest.update(repr(what).encode())
        return Network(digest.hexdigest(), f"{self.name} at {size}")


def digests_of(pixels: np.ndarray) -> list[bytes]:
    """Return a digest of each photo (N, H, W, C), as the cache of features knows it."""
    return [
        hashlib.blake2b(np.ascontiguousarray(each).data, digest_size=16).digest() for each in pixels
    ]


def search(
    predictor: NetworkPredictor[Any],
    name: str,
    photo: Any,
    files: Sequence[Path],
    top: int,
    progress: Progress | None = None,
) -> Similar:
    """Return the photos among `files` that are most like `photo`; equal ones in the files' order.

    Raises:
        UserError: the photo cannot be read, none of the others can, or there are none.
    """
    asked = name_of(photo, 0)
    others = [file for file in files if not _is(photo, file)]
    if not others:
        raise UserError(f"there is no photo but {asked} to compare it with.")

    eye = Eye(predictor, name)
    query = np.empty(0)
    own_digest = b""
    own_pixels = np.empty(0)
    scores: list[tuple[float, bool, str]] = []
    skipped: list[tuple[str, str]] = []

    # The photo itself is the first, so that the network computes it together with others.
    everything: list[Named] = [(asked, photo), *((str(file), file) for file in others)]
    done = 0
    for chunk in _chunks(predictor, everything):
        readable = [(file, found.pixels) for file, found in chunk if isinstance(found, Picture)]
        failed = [(file, found) for file, found in chunk if isinstance(found, str)]
        if not done and failed and failed[0][0] == asked:
            raise UserError(failed[0][1])
        skipped += [
            (file, reason.removeprefix(f"{file} cannot be read as an image: "))
            for file, reason in failed
        ]

        if readable:
            pixels = np.stack([each for _, each in readable])
            features = eye.features(pixels, _counted(progress, done, len(chunk), len(everything)))
            digests = digests_of(pixels)
            if not done:
                query, own_digest, own_pixels = features[0], digests[0], pixels[0]
            cosines = features.astype(np.float64) @ query.astype(np.float64)
            first = 0 if done else 1
            scores += [
                (float(cosine), digest == own_digest, file)
                for (file, _), cosine, digest in zip(readable, cosines, digests, strict=True)
            ][first:]
        done += len(chunk)

    if not scores:
        raise UserError(f"{skipped[0][0]} cannot be read as an image: {skipped[0][1]} None can.")
    best = sorted(scores, key=lambda score: -score[0])[:top]
    rows = Table(
        {"file": file, "similarity": round(min(cosine, 1.0), 6), "same_pixels": same}
        for cosine, same, file in best
    )
    return Similar(asked, name, rows, len(scores), tuple(skipped), own_pixels)


def _chunks(predictor: NetworkPredictor[Any], named: Sequence[Named]) -> Iterator[list[Read]]:
    """Yield photos as the network takes them, as many at a time as memory is granted for."""
    of_one = predictor.height * predictor.width * predictor.channels
    size = max(1, PIXELS // of_one // BATCH) * BATCH
    for start in range(0, len(named), size):
        some = named[start : start + size]
        found = in_batches(predictor, some, decoders=num_decoders())
        yield [each for batch in found for each in batch]


def _counted(
    progress: Progress | None, before: int, size: int, total: int
) -> Callable[[str, int, int], None] | None:
    """Return what reports on a chunk of `size` photos after `before` others, of a known total."""
    if progress is None:
        return None

    def report(what: str, done: int, new: int) -> None:
        del what
        progress("comparing photos", before + size - new + done, total)

    return report


def _is(photo: Any, file: Path) -> bool:
    """Return whether a file is the photo itself."""
    return isinstance(photo, str | Path) and Path(photo).resolve() == file.resolve()
