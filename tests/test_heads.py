"""The head of a network is found by following a pass, whatever else the network holds."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tintype.models.parts.head import before_head, features_before, find_head


def head_of(network: nn.Module, channels: int, side: int) -> str:
    """Return the name of the head of a network for square images."""
    return find_head(network, torch.zeros(1, channels, side, side))


class Net(nn.Module):
    """A convolution and a head, with what a test adds."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Conv2d(3, 4, 3)
        self.unused = nn.Linear(4, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Auxiliary(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.features(x)
        main = self.head(features)
        beside = self.unused(features)
        return main + 0.3 * beside if self.training else main


class Asking(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.features(x))
        return logits * 2 if float(logits.sum()) > 0 else logits / 2


class InPlace(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.head(self.features(x)), inplace=True).log_softmax(1)


class Named(Net):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(input=self.features(x))}


class Cut(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


class Own(nn.Module):
    """A head of its own kind: cosine similarity with scale."""

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4))
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), self.Cosine()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("kind", [Net, Auxiliary, Asking, InPlace, Named, Cut, Own])
def test_the_head_is_the_layer_whose_output_is_given(kind):
    network = kind().train()
    state = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    assert head_of(network, 3, 8) == "head"

    assert network.training
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            features_before(network, "head")(images), network.body(images).mean((2, 3))
        )


def test_a_frozen_network_and_one_whose_weights_are_reparametrised_have_heads():
    network = Net().requires_grad_(False)
    assert head_of(network, 3, 8) == "head"
    assert not any(weight.requires_grad for weight in network.parameters())
    nn.utils.parametrizations.weight_norm(network.head)
    assert head_of(network, 3, 8) == "head"


def test_a_network_that_ends_in_a_convolution_has_averaged_features():
    network = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    assert head_of(network, 1, 8) == "2"
    images = torch.rand(4, 1, 8, 8)
    features = features_before(network, "2")(images)
    torch.testing.assert_close(features, network[:2](images).mean((2, 3)))


def test_tokens_are_averaged():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.patches(x).flatten(2).transpose(1, 2)).mean(1)

    network = Tokens()
    assert head_of(network, 3, 8) == "head"
    with torch.no_grad():
        images = torch.rand(2, 3, 8, 8)
        features = features_before(network, "head")(images)
        torch.testing.assert_close(network.head(features), network(images))


def test_each_pass_is_collected_until_the_end():
    network, images = Net(), torch.rand(2, 3, 8, 8)
    with before_head(network, "head") as seen:
        network(images)
        network(images)
    network(images)
    assert [tuple(each.shape) for each in seen] == [(2, 4), (2, 4)]


def test_an_output_of_no_layer_has_nothing_before_it():
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.weight = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).mean((2, 3)) @ self.weight

    for network in (Loose(), nn.Flatten()):
        with pytest.raises(ValueError, match="comes from no layer"):
            head_of(network, 3, 8)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_of_torchvision_are_not_the_head(name):
    network = getattr(torchvision.models, name)(
        weights=None, aux_logits=True, init_weights=False, num_classes=4
    )
    network.add_module("fc", network._modules.pop("fc"))
    first = {
        name: network._modules.pop(name)
        for name in ("aux1", "AuxLogits")
        if name in network._modules
    }
    for aux, module in first.items():  # registered last
        network.add_module(aux, module)
    assert head_of(network, 3, 96) == "fc"
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        features = features_before(network.eval(), "fc")(images)
        torch.testing.assert_close(network.fc(features), network(images))


def test_a_distilled_transformer_has_one_of_its_heads():
    timm = pytest.importorskip("timm")
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, img_size=32)
    assert head_of(network, 3, 32) in ("head", "head_dist")
