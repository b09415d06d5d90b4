"""Pretrained weights and their preprocessing: find, download, check and load them.

Reading weights runs no code: safetensors, or PyTorch files with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from tintype.data.cache import cache_folder
from tintype.data.decode import INTERPOLATIONS, Resize
from tintype.data.source import DataSpec
from tintype.data.targets import Classes, TargetKind, described
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.models import timm_zoo, torchvision_zoo
from tintype.models.parts.head import head_of
from tintype.models.parts.weights import (
    as_expected,
    read_weights,
    without_prefix,
    without_shared_prefix,
)
from tintype.plugins import canonical, default_task
from tintype.progress import Progress
from tintype.recipe import options_of
from tintype.runs import packaged_weights
from tintype.runs.folder import RunFolder
from tintype.runs.packed import is_packed, unpacked

CHUNK = 1 << 20  # bytes
PATIENCE = 60  # seconds without an answer
SHOWN = 3  # names of tensors in a message
INSTEAD = "give --weights FILE, or start without: --weights none"

# Old files of DenseNet number their layers "norm.1", where today's network has "norm1".
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
# models that a file of weights may be named after
_NAMED = (*torchvision_zoo.NAMES, *packaged_weights.PACKAGES)
# heads of GoogLeNet and Inception that help in training from scratch
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_HEADS = ("fc", "classifier", "head", "heads")
_BUFFERS = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
)


class Preprocessing(NamedTuple):
    """How a network saw images when it was trained: size, cut and filter, mean and deviation of
    values in 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | tuple[int, int]
    crop_fraction: float
    interpolation: str
    mode: str = "crop"

    @property
    def resize(self) -> Resize:
        """How pictures are brought to size, for `open_data`."""
        return Resize(self.mode, self.crop_fraction, self.interpolation)

    def normalising(self, spec: DataSpec) -> DataSpec:
        """Return `spec` with this mean and deviation; for grey images, their average."""
        if spec.channels == len(self.mean):
            return replace(spec, mean=self.mean, std=self.std)
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return replace(spec, mean=(mean,) * spec.channels, std=(std,) * spec.channels)


class OwnRun(NamedTuple):
    """A finished run of one's own that another one starts from: its folder, and what model.json
    says.
    """

    folder: Path
    description: dict[str, Any]

    @property
    def model(self) -> str:
        """The network's name."""
        return self.description["architecture"]["name"]

    @property
    def options(self) -> dict[str, Any]:
        """The network's options."""
        return self.description["architecture"]["options"]

    @property
    def target(self) -> TargetKind:
        """What the network answers with."""
        return described(self.description)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the network saw images."""
        how = self.description["preprocessing"]
        height, width = how["height"], how["width"]
        size = height if height == width else (height, width)
        cut, filtered = how.get("crop_fraction", 1.0), how.get("interpolation", "bilinear")
        return Preprocessing(
            tuple(how["mean"]), tuple(how["std"]), size, cut, filtered, how["resize"]
        )


def own_run(weights: str | None) -> OwnRun | None:
    """Return the run that weights belong to, or None for other weights.

    A run is given by its folder, its packed file, or its model.safetensors.

    Raises:
        UserError: the run has no finished classifier, or cannot be read.
    """
    if weights in (None, "none", "default"):
        return None
    path = Path(str(weights)).expanduser()
    if is_packed(path):
        path = unpacked(path)
    folder = path.parent if path.name == "model.safetensors" and path.is_file() else path
    if not (folder / "model.json").is_file():
        if (folder / "recipe.yaml").is_file():
            raise UserError(
                f"{folder} has no finished model yet. Finish it: tintype train --resume {folder}"
            )
        return None

    run = OwnRun(folder, RunFolder(folder).read("model.json"))
    task = run.description.get("task", default_task())
    if not options_of(task).lends_network:
        raise UserError(
            f"{folder} is a run of task {task}, whose network no other run can start from."
        )
    try:
        _ = run.model, run.options, run.target, run.preprocessing
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model.json'} is incomplete or broken ({error}).") from None
    return run


def is_backbone(name: str) -> bool:
    """Return whether a model can be had with pretrained weights."""
    name = canonical("models", name)
    return name.startswith("timm/") or name in _NAMED


def own_preprocessing(name: str, weights: str = "default") -> Preprocessing | None:
    """Return the preprocessing that a backbone's weights were trained with, if it has any.

    Args:
        name: the model.
        weights: as for `load_pretrained`; a file is recognised by its name, else the default
            weights count.

    Raises:
        UserError: unknown model.
    """
    run = own_run(weights)
    if run is not None:
        return run.preprocessing

    name = canonical("models", name)
    if name.startswith("timm/"):
        config = timm_zoo.default_config(name)
        mode = "squash" if config.crop_mode == "squash" else "crop"
        known = config.interpolation if config.interpolation in INTERPOLATIONS else "bicubic"
        return Preprocessing(
            config.mean, config.std, config.input_size[-1], config.crop_pct, known, mode
        )

    if name in packaged_weights.PACKAGES:
        package = packaged_weights.PACKAGES[name]
        level = (0.5, 0.5, 0.5)
        return Preprocessing(level, level, package.image_size, package.crop_fraction, "bicubic")

    if name not in torchvision_zoo.NAMES:
        return None
    transforms = _entry(name, weights).transforms()
    size, before = transforms.crop_size[0], transforms.resize_size[0]
    mean, std = tuple(transforms.mean), tuple(transforms.std)

    return Preprocessing(mean, std, size, min(1.0, size / before), transforms.interpolation.value)


def weights_available(name: str) -> bool:
    """Return whether a backbone's default weights are on this machine already.

    Raises:
        UserError: unknown model.
    """
    name = canonical("models", name)
    if name.startswith("timm/"):
        hub = timm_zoo.default_config(name).hf_hub_id
        try:
            from huggingface_hub import try_to_load_from_cache  # pyright: ignore
        except ImportError:  # timm can do without, but then it downloads nothing
            return False
        files = ("model.safetensors", "pytorch_model.bin")
        return bool(hub) and any(
            isinstance(try_to_load_from_cache(hub, file), str) for file in files
        )

    if name in packaged_weights.PACKAGES:
        return packaged_weights.installed(name)
    return (
        name in torchvision_zoo.NAMES
        and _downloaded(_file_name(_entry(name, "default"))) is not None
    )


def require_weights(name: str) -> None:
    """Refuse a backbone whose weights are those of a package that is not there, or damaged.

    It costs little, and comes before the images are read.

    Raises:
        UserError: the package is not installed, or holds other weights.
    """
    name = canonical("models", name)
    if name in packaged_weights.PACKAGES:
        packaged_weights.weights_file(name)


def fetch_weights(name: str, progress: Progress | None = None, *, instead: str = INSTEAD) -> Path:
    """Return the file with a torchvision backbone's default weights, downloaded if need be.

    Args:
        name: of the backbone.
        progress: called as progress(what, done, total), in bytes.
        instead: what to type where it cannot be downloaded.

    Raises:
        UserError: there are none, or the download failed.
    """
    name = canonical("models", name)
    if name not in torchvision_zoo.NAMES:
        raise UserError(_no_such_weights(name, "default"))
    return _fetched(_entry(name, "default"), name, progress, instead)


def model_of_weights(path: str | Path) -> str | None:
    """Return the backbone that a weight file is for, by its name or its number of parameters.

    Names are such as "resnet18-f37072fd.pth" or "my_mobilenet_v2.safetensors".

    Raises:
        UserError: the name says nothing, and the file is damaged.
    """
    file = Path(path).name
    entries = {
        _file_name(entry): name
        for name in torchvision_zoo.NAMES
        for entry in _entries(name).values()
    }
    if file in entries:
        return entries[file]

    words = "_" + re.sub(r"[^a-z0-9]+", "_", file.lower()) + "_"
    named = max((name for name in _NAMED if f"_{name}_" in words), key=len, default=None)
    if named is None and Path(path).is_file():
        return _model_that_fits(read_weights(Path(path)).tensors)

    return named


def load_pretrained(
    network: nn.Module,
    name: str,
    spec: DataSpec,
    weights: str = "default",
    progress: Progress | None = None,
    target: TargetKind | None = None,
    *,
    instead: str = INSTEAD,
) -> dict[str, Any]:
    """Load pretrained weights into a network; its head stays as it is where the classes are others.

    Args:
        network: as `build_model` returns it.
        name: the model.
        spec: the images that the network is for.
        weights: "default" (of an installed package, or downloaded once), the name of other weights
            in torchvision ("IMAGENET1K_V1"), a file (.safetensors, .pth, .pt), a run of one's own
            (folder or packed), a folder with model.safetensors, or "none".
        progress: called as progress(what, done, total), in bytes, while a file is downloaded.
        target: what the network is to answer with; the head of a run of one's own is kept only for
            the same classes or numbers.
        instead: what to type where weights cannot be downloaded.

    Returns:
        What model.json keeps: source, file, sha256, head ("new" or "loaded"), and what is known of
        licence and training.

    Raises:
        UserError: no such weights, no network, a damaged file, a file that needs code, or one for
            another model.
    """
    name = canonical("models", name)
    if weights == "none":
        return {"source": "none"}

    run = own_run(weights)
    path = Path(weights).expanduser() if run is None else run.folder
    if path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"

    if path.is_file():
        origin: dict[str, Any] = {} if run is None else {"run": run.folder.name}
    elif name.startswith("timm/") and weights == "default":
        return _load_from_timm(network, name, instead)
    elif name in packaged_weights.PACKAGES and weights == "default":
        path, origin = packaged_weights.weights_file(name), packaged_weights.origin(name)
    elif name in torchvision_zoo.NAMES and weights in _entries(name):
        entry = _entries(name)[weights]
        path, origin = _fetched(entry, name, progress, instead), _origin(entry)
    else:
        raise UserError(_no_such_weights(name, weights))

    content = read_weights(path)
    other_target = run is not None and target is not None and target != run.target
    tensors = packaged_weights.renamed(content.tensors, network)
    taken = _put_into(network, name, spec, tensors, str(path), new_head=other_target)
    details = {"averaged": content.averaged, "remark": content.remark, **taken}
    found = {key: value for key, value in details.items() if value}

    return {
        "source": "file",
        **content.metadata,
        **origin,
        "file": path.name,
        "sha256": _sha256(path),
        **found,
    }


def _put_into(
    network: nn.Module,
    name: str,
    spec: DataSpec,
    tensors: dict[str, Tensor],
    source: str,
    *,
    new_head: bool = False,
) -> dict[str, Any]:
    """Load tensors into a network, and return what became of the head and the names.

    The head is "loaded" or "new".

    Raises:
        UserError: they do not fit; the message names the first that do not.
    """
    expected = network.state_dict()
    head_name = head_of(network, spec)
    head = [key for key in expected if key.startswith(f"{head_name}.")]
    backbone = {key: value for key, value in expected.items() if key not in head}
    bare, prefix = without_prefix(tensors, backbone, source)
    given = _as_today(bare, network)
    fitting = {
        key: as_expected(given[key], value) for key, value in expected.items() if key in given
    }
    head_fits = not new_head and all(fitting.get(key) is not None for key in head)
    missing = [
        key for key in backbone if key not in given and not key.endswith("num_batches_tracked")
    ]
    unexpected = [
        key for key in given if key not in expected and not key.startswith(f"{head_name}.")
    ]
    others = [
        f"{key} {_shape(given[key])} instead of {_shape(value)}"
        for key, value in backbone.items()
        if key in given and fitting[key] is None
    ]
    if missing or unexpected or others:
        found = [
            _first(missing, "missing"),
            _first(unexpected, "unexpected"),
            _first(others, "of another shape"),
        ]
        raise _of_another_model(name, bare, source, "; ".join(filter(None, found)))

    used = {
        key: value
        for key, value in fitting.items()
        if value is not None and (head_fits or key not in head)
    }
    _check_finite(used, source)
    network.load_state_dict({**expected, **used})
    return {
        "head": "loaded" if head_fits else "new",
        "prefix": prefix,
        "left_out": len(tensors) - len(bare),
    }


def _of_another_model(name: str, tensors: dict[str, Tensor], source: str, found: str) -> UserError:
    """Return the error of weights that do not fit, with the model that they are of if it is known.

    `found` says what does not fit.
    """
    other = _model_that_fits(tensors)
    hint = "Give the weights of that model."
    if other and other != name:
        hint = f"They fit {other}: --model {other}"
    return UserError(f"the weights in {source} do not fit model {name}: {found}. {hint}")


def _check_finite(tensors: dict[str, Tensor], source: str) -> None:
    broken = [
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        raise UserError(
            f"the weights in {source} are not finite: {_first(broken, 'tensors')}. "
            "Get the file again."
        )


def _as_today(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return tensors under the names of today's networks, without auxiliary heads, at the network's
    image size.
    """
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
    state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    position = state.get("encoder.pos_embedding")
    if position is not None and hasattr(network, "patch_size") and position.ndim == 3:
        from torchvision.models.vision_transformer import interpolate_embeddings

        size, patch = cast(int, network.image_size), cast(int, network.patch_size)
        state["encoder.pos_embedding"] = position.float()
        state = dict(interpolate_embeddings(size, patch, cast(Any, state)))
    return state


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return ("x".join(map(str, tensor.shape)) or "one number") + kind


def _first(names: list[str], what: str) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{len(names):,} {what} ({', '.join(names[:SHOWN])}{more})" if names else ""


def _model_that_fits(tensors: dict[str, Tensor]) -> str | None:
    """Return the torchvision model with as many parameters as these would be with a head for 1,000
    classes.
    """
    bare = without_shared_prefix(tensors)
    own = {key: value for key, value in bare.items() if not key.endswith(_BUFFERS)}
    plain = {key: value for key, value in own.items() if not key.startswith(_AUXILIARY)}
    counts = {sum(value.numel() for value in some.values()) for some in (own, plain)}

    heads = [
        value for key, value in plain.items() if value.ndim > 1 and key.partition(".")[0] in _HEADS
    ]
    for num_outputs, num_features in [head.shape[:2] for head in heads]:
        counts |= {
            count + (1000 - num_outputs) * (num_features + bias)
            for count in counts
            for bias in (0, 1)
        }

    fitting = [
        name
        for name in torchvision_zoo.NAMES
        if _entry(name, "default").meta["num_params"] in counts
    ]
    return fitting[0] if len(fitting) == 1 else None


def _entries(name: str) -> dict[str, Any]:
    """Return all weights that torchvision knows for a model, "default" among them."""
    from tintype.hardware.vision import torchvision

    known = torchvision.models.get_model_weights(name)
    return {"default": known["DEFAULT"], **{entry.name: entry for entry in known}}


def _entry(name: str, weights: str) -> Any:
    """Return torchvision's description of the weights that are meant, of a file by its name, else
    the default ones.
    """
    entries = _entries(name)
    by_file = {_file_name(entry): entry for entry in entries.values()}
    return entries.get(weights) or by_file.get(Path(weights).name) or entries["default"]


def _file_name(entry: Any) -> str:
    return str(entry.url).rsplit("/", 1)[-1]


def _no_such_weights(name: str, weights: str) -> str:
    if name not in _NAMED and not name.startswith("timm/"):
        return (
            f"there are no pretrained weights '{weights}' for model {name}. "
            "Choose a backbone such as --model mobilenet_v2 (`tintype list models`), "
            "give --weights FILE, or --weights none."
        )
    known = ", ".join(_entries(name)) if name in torchvision_zoo.NAMES else "default"
    return (
        f"there is no weight file '{weights}'. "
        f"Expected a .safetensors or .pth file, none, or one of: {known}."
    )


def _fetched(entry: Any, name: str, progress: Progress | None, instead: str) -> Path:
    """Return the file with torchvision's weights, downloaded if need be."""
    file = _file_name(entry)
    path = _downloaded(file) or cache_folder() / "weights" / file
    if not path.exists():
        _download(entry.url, path, name, progress, instead=instead)
    return path


def fetch_file(url: str, name: str, instead: str, progress: Progress | None = None) -> Path:
    """Return the file of weights at an address, downloaded if need be.

    Args:
        url: of the file; its name is that of the file.
        name: what it holds, for messages.
        instead: what to type where it cannot be downloaded.

    Raises:
        UserError: no network.
    """
    file = url.rsplit("/", 1)[1]
    path = _downloaded(file) or cache_folder() / "weights" / file
    if not path.exists():
        _download(url, path, name, progress, instead=instead, checked=False)
    return path


def _origin(entry: Any) -> dict[str, str]:
    """Return what torchvision says of weights."""
    licence = entry.meta.get("license", "not stated; trained on ImageNet-1K")
    training = entry.meta.get("recipe", "")
    return {
        "source": f"torchvision {entry}",
        "url": entry.url,
        "training": training,
        "licence": licence,
    }


def _downloaded(file: str) -> Path | None:
    """Return where a file lies already: in tintype's cache, or where torch keeps its downloads."""
    places = [cache_folder() / "weights", Path(torch.hub.get_dir()) / "checkpoints"]
    return next((folder / file for folder in places if (folder / file).is_file()), None)


class _NoDownload(Exception):
    """A download that failed, with the reason."""


def _download(
    url: str,
    path: Path,
    name: str,
    progress: Progress | None,
    *,
    instead: str,
    checked: bool = True,
) -> None:
    """Download a file, and check that it is the one expected.

    The name of one that is `checked` ends in the first digits of its SHA-256, as all of
    torchvision's do.

    TINTYPE_WEIGHTS_MIRROR is a web folder that is asked in place of torchvision's.

    Raises:
        UserError: no network, or not the file that was expected.
    """
    mirror = os.environ.get("TINTYPE_WEIGHTS_MIRROR")
    url = f"{mirror.rstrip('/')}/{path.name}" if mirror else url

    digest = hashlib.sha256()
    try:
        with written_whole(path) as temporary, temporary.open("wb") as file:
            done = total = 0
            for total, chunk in _chunks(url):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(f"downloading {name}", done, max(total, done))
            if done < total:
                raise _NoDownload(f"the connection broke after {done:,} of {total:,} bytes")
            wanted = re.search(r"-([0-9a-f]{8,})\.", path.name)
            if checked and wanted and not digest.hexdigest().startswith(wanted[1]):
                raise _NoDownload("it is not the file expected: its SHA-256 differs")
    except _NoDownload as error:
        raise UserError(
            f"the weights of {name} could not be downloaded from {url} ({error}). "
            f"Download that file elsewhere and {instead}"
        ) from None


def _chunks(url: str) -> Iterator[tuple[int, bytes]]:
    """Yield (length of the whole, next bytes).

    Only failures of the network become _NoDownload; those of the disk pass.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "tintype"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(CHUNK):
                yield total, chunk
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise _NoDownload(str(reason).strip() or type(error).__name__) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _load_from_timm(network: nn.Module, name: str, instead: str) -> dict[str, Any]:
    """Load timm's own weights, which timm downloads and brings to the network's image size."""
    config = timm_zoo.default_config(name)
    try:
        # without a network, the hub's client tries for a minute
        if config.hf_hub_id and not weights_available(name):
            hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            next(_chunks(f"{hub}/{config.hf_hub_id}/resolve/main/config.json"), None)
        size: Any = (
            getattr(getattr(network, "patch_embed", None), "img_size", None)
            or config.input_size[1:]
        )
        spec = DataSpec(
            "", 3, int(size[0]), int(size[1]), Classes(("",) * 2), (0.5,) * 3, (0.5,) * 3, ""
        )
        source = timm_zoo.create(name, spec, pretrained=True)
    except (OSError, RuntimeError, ValueError, _NoDownload) as error:
        line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(
            f"the weights of {name} could not be loaded from "
            f"{config.hf_hub_id or config.url} ({line[:150]}). "
            f"Download them elsewhere and {instead}"
        ) from None

    head = head_of(source, spec)
    tensors = {
        key: value for key, value in source.state_dict().items() if not key.startswith(f"{head}.")
    }
    kept = {**network.state_dict(), **tensors}
    network.load_state_dict(kept)
    licence = getattr(config, "license", None) or "not stated"

    return {
        "source": f"timm {config.architecture}.{config.tag}",
        "url": config.hf_hub_id,
        "licence": licence,
        "head": "new",
    }
