"""Distances between generated and real images, and the networks whose features they compare.

Every figure carries the name of its features, and stands beside its floor: the same figure of real
against real images.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec, ImageSource
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.parts.backbone import backbone_parts
from tintype.models.parts.head import before_head, find_head
from tintype.models.parts.weights import read_weights
from tintype.plugins import default_task
from tintype.progress import Progress
from tintype.recipe import options_of
from tintype.runs.packaged_weights import PACKAGES
from tintype.runs.pretrained import fetch_file, load_pretrained, own_preprocessing
from tintype.tasks.frozen import FrozenBackbone

WEIGHTS_SIDE = 128  # pixels that images are brought to for ImageNet weights
PIXELS_SIDE = 8
COMPARED = 5_000  # images of each kind in figures that compare all pairs
STANDARD = "inception"  # the features of FID; no other network has this name
FEWEST = 5  # images to measure against: precision and recall look at the third neighbour
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# ---- mathematics on given features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to features (N, D) and (M, D), in float64.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017). The
    trace of the root comes from the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric, so no
    imaginary part has to be dropped. It depends on N and M: compare figures of equal counts only.

    Raises:
        ValueError: fewer than two rows, or other columns.
    """
    if min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"features of shapes {tuple(real.shape)} and {tuple(fake.shape)} cannot be compared"
        )
    (mean_1, cov_1), (mean_2, cov_2) = _moments(real), _moments(fake)
    values, vectors = torch.linalg.eigh(cov_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ cov_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * trace_of_root
    return max(0.0, float(distance))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy (KID, Binkowski et al. 2018).

    The kernel is (x.y / D + 1)^3. All pairs are used where the paper averages over random subsets;
    the expectation is the same and nothing is drawn.
    """
    real, fake = real.double(), fake.double()

    def kernel_sum(a: Tensor, b: Tensor) -> Tensor:
        parts = [((part @ b.T) / a.shape[1] + 1).pow(3).sum() for part in a.split(1000)]
        return torch.stack(parts).sum()

    def own(a: Tensor) -> Tensor:
        diagonal = (a.square().sum(1) / a.shape[1] + 1).pow(3).sum()
        return (kernel_sum(a, a) - diagonal) / (len(a) * (len(a) - 1))

    return float(own(real) + own(fake) - 2 * kernel_sum(real, fake) / (len(real) * len(fake)))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Return the share of generated images near real ones, and of real ones near generated ones.

    Near is within the distance of a point to its k-th neighbour of its own kind (Kynkäänniemi et
    al. 2019).
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision and recall need more than {k} images of each kind")
    return _covered(real, fake, k), _covered(fake, real, k)


def _covered(points: Tensor, others: Tensor, k: int) -> float:
    """Return the share of `others` that lie within the radius of any of `points`."""
    points = points.float()
    others = others.float()
    # The point itself is its nearest, at distance zero.
    radius = torch.cat(
        [torch.cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(1000)]
    )
    near = [(torch.cdist(part, points) <= radius).any(1) for part in others.split(1000)]
    return float(torch.cat(near).float().mean())


def pairwise_distance(images: Tensor) -> float:
    """Return the mean root-mean-square distance of all pairs of images (N, ...)."""
    flat = images.flatten(1).float()
    if len(flat) < 2:
        return 0.0
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def nearest(queries: Tensor, blocks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the position and distance of the image nearest to each query (N, ...).

    `blocks` is an iterable of uint8 tensors (B, ...), in order. The distance is the root mean
    square over 0..255.
    """
    flat = queries.flatten(1).float()
    best = torch.full((len(flat),), torch.inf)
    where = torch.zeros(len(flat), dtype=torch.int64)
    start = 0

    for block in blocks:
        distance, index = torch.cdist(flat, block.flatten(1).float().to(flat.device)).cpu().min(1)
        better = distance < best
        best = torch.where(better, distance, best)
        where = torch.where(better, index + start, where)
        start += len(block)

    return where.numpy(), (best / flat.shape[1] ** 0.5).numpy()


def figures(name: str, real: Tensor, made: Tensor, among_real: Tensor | None) -> dict[str, float]:
    """Return all distances of features `name`, real (N, D) against made (M, D), with their floor.

    Precision, recall and KID compare all pairs, so they are taken on at most `COMPARED` images of
    each kind.
    """
    some_real = real[:COMPARED]
    some_made = made[:COMPARED]
    precision, recall = precision_recall(some_real, some_made)
    label = "fid" if name == STANDARD else f"fd_{name}"
    found = {
        label: frechet_distance(real, made),
        f"kid_{name}": kernel_distance(some_real, some_made),
        f"precision_{name}": precision,
        f"recall_{name}": recall,
    }

    if among_real is not None and len(among_real) >= FEWEST:
        found[f"{label}_floor"] = frechet_distance(real, among_real)
        found[f"kid_{name}_floor"] = kernel_distance(some_real, among_real[:COMPARED])

    return found


# ---- networks that give features


@dataclass(frozen=True)
class FeatureNetwork:
    """Gives features of images; its name and protocol are part of every figure made with it.

    Attributes:
        name: as in "fd_mobilenet_v2".
        protocol: how images become features, in a sentence.
        extract: images (N, C, H, W) uint8 -> features (N, D) float32, and class probabilities (N,
            K) or None.
        class_names: of the probabilities.
        of_photos: features (N, D) float32 of all images of a source, of which only those are
            computed that the cache lacks; None where no cache keeps them.
    """

    name: str
    protocol: str
    extract: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    class_names: tuple[str, ...] = ()
    of_photos: Callable[[ImageSource], Tensor] | None = None

    @property
    def distance(self) -> str:
        """The name of the Fréchet distance; "fid" only by the standard protocol."""
        return "fid" if self.name == STANDARD else f"fd_{self.name}"


def pixel_features() -> FeatureNetwork:
    """Return features without a network: the image averaged to at most 8x8 pixels, in 0..1."""

    def extract(images: Tensor) -> tuple[Tensor, None]:
        side = (min(PIXELS_SIDE, images.shape[2]), min(PIXELS_SIDE, images.shape[3]))
        return F.adaptive_avg_pool2d(images.float() / 255, side).flatten(1), None

    return FeatureNetwork(
        "pixels8", "pixels averaged to at most 8x8, values of 0 to 1, no network", extract
    )


def load_features(what: str | None, device: torch.device) -> FeatureNetwork:
    """Return the features named by `what`: pixels (None), a classifier's run, a network or a file.

    A network is one whose weights are an installed package (efficientnet_lite0). A weight file is
    named as its network is (mobilenet_v2.safetensors).

    Raises:
        UserError: it is none of these, is broken, or no classifier.
    """
    if what is None:
        return pixel_features()
    path = Path(what).expanduser()
    if path.is_dir():
        return _of_run(path, device)
    if path.suffix == ".safetensors" and path.is_file():
        return _of_weights(path, device)
    if what in PACKAGES:
        return _of_package(what, "default", device)
    expected = (
        "a classifier's run folder, a file like mobilenet_v2.safetensors, or efficientnet_lite0, "
        "whose weights are installed"
    )
    raise UserError(f"features: there is no {what}. Expected {expected}.")


def _of_run(path: Path, device: torch.device) -> FeatureNetwork:
    from tintype.runs.folder import RunFolder
    from tintype.runs.model import load_model

    run = RunFolder.open(path)
    network, spec, description = load_model(run, device, whole=True)
    task = description.get("task", default_task())
    if not options_of(task).lends_network:
        raise UserError(
            f"features: {path} is a run of task {task}, whose features say nothing of images. "
            "Expected a classifier's run folder."
        )
    if run.name == STANDARD:
        raise UserError(
            f"features: a run named {STANDARD} would be taken for the network of FID. Rename {run}."
        )
    size = f"{spec.channels}x{spec.height}x{spec.width}"
    weights = hashlib.blake2b(
        (run.path / "model.safetensors").read_bytes(), digest_size=4
    ).hexdigest()
    extract = _features_of(
        network,
        (spec.height, spec.width),
        spec.channels,
        spec.mean,
        spec.std,
        device,
        description.get("temperature", 1.0),
    )
    protocol = f"penultimate features of the classifier run {run.name}, weights {weights} ({size})"
    return FeatureNetwork(run.name, protocol, extract, spec.class_names)


def _of_weights(path: Path, device: torch.device) -> FeatureNetwork:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from tintype.hardware.vision import torchvision

    if path.stem in PACKAGES:
        return _of_package(path.stem, str(path), device)
    if path.stem not in torchvision.models.list_models():
        raise UserError(
            f"features: {path.name} is not named as a network of torchvision, as "
            "mobilenet_v2.safetensors is."
        )
    try:
        tensors = load_file(path)
        with torch.random.fork_rng(devices=[]):
            network = torchvision.models.get_model(path.stem, weights=None)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        line = str(error).split("\n")[0]
        raise UserError(
            f"features: {path} does not hold the weights of {path.stem} ({line})."
        ) from None
    extract, of_photos = _of_photos(network, path.stem, IMAGENET_MEAN, IMAGENET_STD, device)
    digest = hashlib.blake2b(json.dumps(sorted(tensors)).encode(), digest_size=4)
    digest.update(
        b"".join(tensors[name].flatten()[:64].float().numpy().tobytes() for name in sorted(tensors))
    )
    protocol = (
        f"penultimate features of {path.stem}, weights {digest.hexdigest()}, "
        f"bilinear to {WEIGHTS_SIDE}x{WEIGHTS_SIDE}"
    )
    return FeatureNetwork(path.stem, protocol, extract, of_photos=of_photos)


def _of_package(name: str, weights: str, device: torch.device) -> FeatureNetwork:
    """Return the features of a network whose ImageNet weights come as a package, or of its file."""
    spec = _spec_of_imagenet()
    network = build_model(name, spec, {}, seed=0)
    origin = load_pretrained(network, name, spec, weights)
    own = own_preprocessing(name)
    assert own is not None

    protocol = (
        f"penultimate features of {name} (ImageNet), weights {origin['sha256'][:8]}, "
        f"bilinear to {WEIGHTS_SIDE}x{WEIGHTS_SIDE}; this is not FID"
    )
    extract, of_photos = _of_photos(network, name, own.mean, own.std, device)
    return FeatureNetwork(name, protocol, extract, of_photos=of_photos)


def _spec_of_imagenet() -> DataSpec:
    classes = Classes(tuple(str(k) for k in range(1000)))
    return DataSpec("", 3, WEIGHTS_SIDE, WEIGHTS_SIDE, classes, (), (), "")


def _of_photos(
    network: nn.Module,
    name: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> tuple[Callable[[Tensor], tuple[Tensor, None]], Callable[[ImageSource], Tensor] | None]:
    """Return functions to the features of a network of ImageNet, whose classes say nothing.

    The first takes images, the second a source of photos, and keeps their features. Where the
    network does not end in a linear layer (SqueezeNet), there is no second one.
    """
    side = (WEIGHTS_SIDE, WEIGHTS_SIDE)
    network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore
    network = network.eval()
    spec = replace(_spec_of_imagenet(), mean=mean, std=std)
    try:
        parts = backbone_parts(network, spec)
    except ValueError:
        both = _features_of(network, side, 3, mean, std, device)
        return lambda images: (both(images)[0], None), None

    scale, shift = _pixel_statistics(mean, std, device)
    backbone = FrozenBackbone(
        network, name, spec, device, torch.float32, lambda x: (x - shift) / scale, parts
    )

    def prepared(images: Tensor, _: Sequence[bytes] = ()) -> Tensor:
        return _brought_to(side, 3, images.to(device))

    def extract(images: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(backbone.compute(prepared(images))), None

    def of_photos(source: ImageSource) -> Tensor:
        return backbone.features_of(source, {"bilinear, in colour": prepared})[:, 0].cpu()

    return extract, of_photos


def _features_of(
    network: nn.Module,
    size: tuple[int, int],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    temperature: float = 1.0,
) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """Return a function from images to penultimate features and class probabilities.

    The features are what the network's head sees.
    """
    head = find_head(network, torch.zeros(1, channels, *size))
    scale, shift = _pixel_statistics(mean, std, device)

    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        x = _brought_to(size, channels, images.to(device))
        with before_head(network, head) as seen:
            logits = network(((x - shift) / scale).contiguous(memory_format=torch.channels_last))
        return seen[0].float(), torch.softmax(logits.float() / temperature, 1)

    return extract


def _pixel_statistics(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return deviation and mean (1, C, 1, 1) of pixels of 0..255."""
    scale, shift = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (std, mean))
    return scale * 255, shift * 255


def _brought_to(size: tuple[int, int], channels: int, images: Tensor) -> Tensor:
    """Return images (N, C, H, W) uint8 as float32 of another size and number of channels."""
    x = images.float()
    if x.shape[1] != channels:
        x = x.mean(1, keepdim=True) if channels == 1 else x.expand(-1, channels, -1, -1)
    if x.shape[2:] != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x


def inception_features(
    weights: str, device: torch.device, progress: Progress | None = None
) -> FeatureNetwork:
    """Return the features of standard FID: TensorFlow's Inception network, through torch-fidelity.

    Args:
        weights: the file pt_inception-2015-12-05-6726825d.pth, as torch-fidelity takes it, or the
            same as safetensors;
            "download" fetches it once, 91 MB, from where torch-fidelity has it.
        device: where to compute.
        progress: called as progress(what, done, total), in bytes, while they are downloaded.

    Raises:
        UserError: torch-fidelity is not installed, no network, or the file is missing or something
            else.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore
            URL_INCEPTION_V3,
            FeatureExtractorInceptionV3,
        )
    except ImportError:
        raise UserError(
            "FID needs torch-fidelity, which is not installed: pip install 'tintype[fid]'"
        ) from None
    path = Path(weights).expanduser()
    if weights == "download":
        path = fetch_file(
            URL_INCEPTION_V3,
            "Inception",
            "name it in place of download, or measure a distance that is not FID, by weights that "
            "are installed: --features efficientnet_lite0",
            progress,
        )
    if not path.is_file():
        raise UserError(
            f"there is no file {weights}. "
            "Expected Inception weights as torch-fidelity takes them (.pth)."
        )
    tensors = read_weights(path).tensors
    try:
        # torch-fidelity would run code that hides in the file, so it is given a copy that holds
        # nothing but these tensors.
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            copy = str(Path(folder) / "inception.pth")
            torch.save(tensors, copy)
            network = (
                FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], copy).to(device).eval()
            )
    except Exception as error:
        line = str(error).split("\n")[0]
        raise UserError(
            f"{weights} does not hold the Inception weights of torch-fidelity ({line})."
        ) from None

    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, None]:
        return network(images.to(device).expand(-1, 3, -1, -1).contiguous())[0].float(), None

    return FeatureNetwork(
        STANDARD, "TensorFlow-compatible Inception v3, 2048 features, torch-fidelity", extract
    )
