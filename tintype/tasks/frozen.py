"""The frozen part of a network, and the features of photos that it computes or has cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from tintype.data.features import BATCH, Network, photo_features
from tintype.data.identity import pixel_digests
from tintype.data.source import DataSpec, ImageSource
from tintype.hardware.device import autocast
from tintype.models.parts.backbone import Parts, backbone_parts, for_inference
from tintype.models.parts.head import features_before
from tintype.progress import Progress

# Images that a CPU computes at once: what more of them need leaves its cache (EfficientNet-Lite0 at
# 224 pixels in bfloat16: 9.1 ms each with 8, 10.4 with 32; at 320 pixels 19.5 and 25.6).
AT_ONCE_ON_CPU = 8

# From images (M, C, H, W) uint8, and some bytes for each of them, to what the network is shown. All
# that is random has to follow from the bytes, which are the same wherever a photo is met again.
View = Callable[[Tensor, Sequence[bytes]], Tensor]


class FrozenBackbone:
    """What a network computes before its head, while its weights stay as they are.

    Args:
        network: ends in a linear layer, on `device`.
        name: what a user calls the network.
        spec: the shape of the images, and the mean and deviation that `normalise` uses.
        device: where the network is.
        dtype: the precision in which it computes.
        normalise: makes images of 0..255 what the network expects.
        parts: of the network, where they are known; to find them takes a pass through it.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        spec: DataSpec,
        device: torch.device,
        dtype: torch.dtype,
        normalise: Callable[[Tensor], Tensor],
        parts: Parts | None = None,
    ) -> None:
        self.network = network
        # now, since a task may put a larger head in place
        self.parts = parts or backbone_parts(network, spec)
        self.name = name
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.normalise = normalise
        self.notes: list[str] = []  # about what the cache could not do

    def features_of(
        self, source: ImageSource, views: Mapping[str, View], progress: Progress | None = None
    ) -> Tensor:
        """Return the features (N, V, F) float32 of photos, of which only new ones are computed.

        Args:
            source: the photos.
            views: by a name that says all that decides on the view, apart from the photo.
            progress: called as progress(what, done, total), where only new photos count.
        """
        digests = pixel_digests(source)
        names = list(views)

        def compute(rows: np.ndarray, number: int) -> np.ndarray:
            name = names[number]
            images = source.take(torch.from_numpy(rows)).images
            return self.compute(views[name](images, [digests[i] + name.encode() for i in rows]))

        found = photo_features(digests, names, compute, self.identity, progress)
        self.notes += found.notes
        return torch.from_numpy(found.values).to(self.device)

    @torch.no_grad()
    def compute(self, images: Tensor) -> np.ndarray:
        """Return the features (M, F) float32 of at most BATCH images.

        The network always sees as many at once, some more than once if need be: kernels are chosen
        by the size of a batch, and the last bits of a photo's features would follow from how many
        others were new with it.
        """
        at_once = self._at_once
        whole = -(-len(images) // at_once) * at_once
        repeated = torch.arange(whole, device=images.device) % len(images)
        full = images.permute(0, 2, 3, 1).index_select(0, repeated).permute(0, 3, 1, 2)

        with autocast(self.device, self.dtype):
            parts = [self._extract(self.normalise(part)) for part in full.split(at_once)]
        return torch.cat(parts)[: len(images)].float().cpu().numpy()

    @property
    def _at_once(self) -> int:
        return AT_ONCE_ON_CPU if self.device.type == "cpu" else BATCH

    @cached_property
    def _extract(self) -> Callable[[Tensor], Tensor]:
        """The function from images to features, by a copy of the network made for inference."""
        return features_before(for_inference(self.network, self.spec), self.parts.head_name)

    @cached_property
    def identity(self) -> Network:
        """What tells these features from those of others, down to the last bits.

        Other threads or instructions add in another order, and a resumed run would not end
        bit-equal.
        """
        bits = (
            torch.get_num_threads(),
            torch.backends.cpu.get_cpu_capability(),
            torch.__version__,
            self.device.type,
            *([torch.cuda.get_device_name(self.device)] if self.device.type == "cuda" else []),
        )

        spec = self.spec
        size = (spec.channels, spec.height, spec.width)
        what = (
            self.parts.digest(),
            size,
            spec.mean,
            spec.std,
            str(self.dtype),
            self._at_once,
            "norms folded",  # also in bfloat16, where older entries were computed with norms
            bits,
        )

        key = hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()
        return Network(key, f"{self.name} at {spec.height}x{spec.width}")
