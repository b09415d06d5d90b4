"""Pictures compared by the features of a network that was trained to see: a loss (Johnson et al.

2016), and LPIPS.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.parts.weights import read_weights
from tintype.runs.pretrained import (
    fetch_weights,
    is_backbone,
    load_pretrained,
    model_of_weights,
    own_preprocessing,
)

# Johnson et al. take relu1_2, relu2_2, relu3_3 and relu4_3 of VGG16. Of other networks: their first
# stages.
LAYERS = {
    "vgg16": ("features.3", "features.8", "features.15", "features.22"),
    "squeezenet1_0": ("features.1", "features.4", "features.7"),
    "squeezenet1_1": ("features.1", "features.4", "features.7"),
    "mobilenet_v2": ("features.1", "features.3", "features.6"),
    "efficientnet_lite0": ("blocks.0", "blocks.1", "blocks.2"),
    "efficientnet_lite2": ("blocks.0", "blocks.1", "blocks.2"),
}

INSTEAD = (
    "give --weights FILE, compare by weights that are installed: "
    "--set task.feature_network=efficientnet_lite0, or train without the perceptual loss: "
    "--weights none"
)
INSTEAD_OF_LPIPS = "name that file in place of {name}, or measure without LPIPS"

# What LPIPS was fitted on, as torchvision and as the package calls it.
TRUNKS = {"alexnet": "alex", "vgg16": "vgg", "squeezenet1_1": "squeeze"}


class PerceptualLoss(nn.Module):
    """Mean squared difference of features, averaged over layers with equal weight.

    Pictures of 0..1 are normalised inside as they were when the network was trained. Each layer's
    difference is divided by the mean square of the original's features, so that no layer outweighs
    the others.

    Args:
        name: a network of torchvision, or one whose weights are a package (efficientnet_lite0).
        weights: "default" (of the package, or downloaded once), or a weight file.
        layers: names of submodules; by default those of `LAYERS`.

    Raises:
        UserError: unknown network or layer, or no weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "vgg16", weights: str = "default", layers: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        from tintype.hardware.vision import feature_extraction

        if not is_backbone(name):
            raise UserError(
                f"{name} has no pretrained features to compare by. "
                "Try vgg16, squeezenet1_0 or another backbone."
            )
        chosen = list(layers or LAYERS.get(name, ()))
        if not chosen:
            raise UserError(
                f"which layers of {name}? Set task.feature_layers, as in [features.3, features.8]."
            )
        classes = tuple(str(k) for k in range(1000))
        spec = DataSpec("", 3, 224, 224, Classes(classes), (), (), "")
        network = build_model(name, spec, {}, seed=0)
        load_pretrained(network, name, spec, weights, instead=INSTEAD)
        # What a layer computes inside is none of its business, and may not be traceable.
        layers_alone = [type(m) for m in network.modules() if next(m.children(), None) is None]
        try:
            self.network = feature_extraction.create_feature_extractor(
                network.eval(), chosen, tracer_kwargs={"leaf_modules": layers_alone}
            )
        except ValueError as error:
            raise UserError(f"{name} has no such layer: {str(error).splitlines()[0]}") from None
        for weight in self.network.parameters():
            weight.requires_grad_(False)
        own = own_preprocessing(name, weights)
        mean, std = (own.mean, own.std) if own else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @classmethod
    def of(
        cls, network: str | None, weights: str | None, layers: Sequence[str] | None
    ) -> PerceptualLoss:
        """Return the loss of a recipe; the network is that of the weight file, or vgg16.

        Raises:
            UserError: see the class; or a weight file does not name its network.
        """
        if weights not in (None, "default") and not Path(str(weights)).exists():
            raise UserError(f"there is no weight file {weights}.")

        own = weights in (None, "default")
        name = network or ("vgg16" if own else model_of_weights(Path(str(weights))))
        if name is None:
            raise UserError(
                f"the name of {weights} does not say which network it is for. "
                "Set task.feature_network."
            )
        return cls(name, weights or "default", layers)

    def forward(self, pictures: Tensor, originals: Tensor) -> Tensor:
        """Return the loss of pictures (N, 3, H, W) of 0..1 against the originals, a scalar."""
        ours = self.network((pictures - self.mean) / self.std)
        with torch.no_grad():
            wanted = self.network((originals - self.mean) / self.std)
        parts = [
            F.mse_loss(ours[k], wanted[k]) / wanted[k].square().mean().clamp(min=1e-12)
            for k in wanted
        ]
        return torch.stack(parts).mean()


class PerceptualDistance:
    """LPIPS 0.1 of whole images: how different they look, by weighted features (Zhang et al. 2018).

    The weights of the judgement come with the package `lpips`, those of the network under it from
    torchvision or a file.

    Args:
        trunk: "alexnet", "vgg16" or "squeezenet1_1", whose weights are downloaded once, or their
            weight file.

    Attributes:
        name: "lpips_alex" and so on; figures of different trunks cannot be compared.

    Raises:
        UserError: the package is not there, unknown network, or no weights.
    """

    def __init__(self, trunk: str, device: torch.device) -> None:
        try:
            import lpips
        except ImportError:
            raise UserError(
                "LPIPS needs the package lpips. Type: pip install 'tintype[lpips]'"
            ) from None

        name: str | None = None
        if trunk in TRUNKS:
            name = trunk
        elif Path(trunk).is_file():
            name = model_of_weights(trunk)
        if name not in TRUNKS:
            raise UserError(
                f"LPIPS knows no network {trunk}. "
                f"Expected {', '.join(TRUNKS)}, or the weight file of one."
            )

        downloaded = trunk == name
        instead = INSTEAD_OF_LPIPS.format(name=name)
        file = fetch_weights(name, instead=instead) if downloaded else Path(trunk)

        tensors = read_weights(file).tensors
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision as one did in 2021
            self.network = lpips.LPIPS(net=TRUNKS[name], pnet_rand=True, verbose=False).to(device)

        # slice2.3.weight of the package is features.3.weight of torchvision.
        wanted = {key: f"features.{key.split('.', 1)[1]}" for key in self.network.net.state_dict()}
        missing = [source for source in wanted.values() if source not in tensors]
        if missing:
            raise UserError(f"{trunk} lacks {missing[0]}, so it is not the weight file of {name}.")

        self.network.net.load_state_dict(
            {key: tensors[source].float() for key, source in wanted.items()}
        )
        self.name = f"lpips_{TRUNKS[name]}"
        self.device = device

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, original: np.ndarray) -> float:
        """Return the distance of pictures (H, W, 1 or 3) uint8; 0 for equal ones."""
        pair = [
            torch.from_numpy(p.copy()).permute(2, 0, 1)[None].expand(-1, 3, -1, -1)
            for p in (picture, original)
        ]
        one, other = (p.to(self.device).float() / 127.5 - 1 for p in pair)
        return float(self.network(one, other))
