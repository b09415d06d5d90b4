"""The published systems that recipes stand for: each one's network, pixels, losses and schedule against plain PyTorch.

A system is trained for a few steps as `tintype train` does it, and by a loop of plain PyTorch that
is written here from its description; the losses of every step must be the same. A loss depends on
the steps before it, so the optimizer, its rate and the schedule are checked with it. `DESCRIBED`
names, for every sentence of the descriptions, what does it.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tintype.augment.spec import resolve as augmentations
from tintype.data.pixels import ResidentPixels
from tintype.data.source import DataSpec, StoredSource
from tintype.data.targets import Classes
from tintype.models import build_model, count_parameters
from tintype.plugins import names
from tintype.progress import Watcher
from tintype.recipe import RECIPES, Recipe, recipe_names, recipe_source, resolve
from tintype.runs.folder import RunFolder
from tintype.seeds import fold
from tintype.tasks.classify.classifier import Classify, choose_samples
from tintype.tasks.classify.transfer import FineTune, HeadOnly
from tintype.tasks.generate import sampling
from tintype.tasks.task import StepContext
from tintype.tasks.upscale.perceptual import LAYERS, PerceptualLoss
from tintype.tasks.upscale.task import Upscale
from tintype.training.engine import Engine, monitored
from tintype.training.order import Order
from tintype.training.prepare import Prepared, prepare

STEPS = 4
Rows = list[dict[str, str]]


def recipe_of(name: str) -> Recipe:
    return resolve(name)[0]


def shape(channels: int, side: int, classes: int) -> DataSpec:
    return DataSpec("", channels, side, side, Classes(tuple(map(str, range(classes)))), (), (), "")


def parameters_of(name: str, spec: DataSpec) -> int:
    recipe = recipe_of(name)
    return count_parameters(build_model(recipe.model, spec, recipe.model_options, 0))


def flat(*sizes: int) -> list[nn.Module]:
    """Return linear layers of these sizes with ReLU between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def with_weights_of(plain: nn.Module, ours: nn.Module) -> nn.Module:
    """Give a plain network the weights of ours, in order; both must have the same shapes."""
    own = plain.state_dict()
    plain.load_state_dict(
        {key: value.clone() for key, value in zip(own, ours.state_dict().values(), strict=True)}
    )
    return plain


@pytest.fixture
def small(digit_files: Path) -> Callable[..., Prepared]:
    """Return a function that prepares a recipe on 120 real digits, at the size and in the channels
    of its system.
    """

    def make(name: str, *, channels: int = 3, side: int = 32, **changes: Any) -> Prepared:
        recipe = recipe_of(name).replace(
            data=str(digit_files), channels=channels, image_size=side, steps=STEPS, batch_size=24, device="cpu",
            precision="fp32", val_fraction=0.1, **changes,
        )  # fmt: skip
        return prepare(recipe, Watcher())

    return make


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[Prepared], Rows]:
    """Return a function that trains what was prepared, as `tintype train` does, and gives the rows
    of metrics.csv.
    """

    def train(prepared: Prepared) -> Rows:
        run = RunFolder.create(tmp_path, "run", exact=True)
        seen = prepared.task.sources(prepared.splits)
        engine = Engine(prepared.task, prepared.recipe, run, Watcher(), device=prepared.device)
        engine.fit(seen.train, seen.val)
        return run.read_table("metrics.csv")

    return train


def column(rows: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def alike(expected: list[float]) -> Any:
    """What rounding may differ by after some steps of Adam, which divides small gradients by small
    ones.
    """
    return pytest.approx(expected, rel=0.01, abs=0.003)


def batches_of(prepared: Prepared) -> list[tuple[Tensor, Tensor]]:
    """Return the images (N, C, H, W) of 0..255 and the classes of every step, in the run's order."""
    train, recipe = prepared.splits.train, prepared.recipe
    order = Order(recipe.seed, len(train), min(recipe.batch_size, len(train)))
    taken = [train.take(order.batch(step)) for step in range(STEPS)]
    return [(batch.images, batch.targets) for batch in taken]


def plain_losses(
    prepared: Prepared,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    scheduler: lr_scheduler.LRScheduler | None = None,
) -> list[float]:
    """Train a plain network on pixels divided by 255 and return the loss of every step."""
    found = []
    for step, (images, targets) in enumerate(batches_of(prepared)):
        # dropout draws what it draws in the run
        torch.manual_seed(fold(prepared.recipe.seed, "step", step))
        value = loss(network(images / 255), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        found.append(value.item())
    return found


def categorical(logits: Tensor, targets: Tensor) -> Tensor:
    """Categorical cross-entropy on one-hot labels."""
    one_hot = torch.eye(logits.shape[1])[targets]
    return -(one_hot * torch.log_softmax(logits, 1)).sum(1).mean()


def adam(network: nn.Module, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=0.001, **more)


# ---- what was not described -------------------------------------------------------------------------------------------

# Recipes that stand for a system as it was described, and what each of them sets beside what nobody
# gave.
SYSTEMS: dict[str, dict[str, Any]] = {
    "mnist-ann": {}, "mnist-cnn": {},
    "fashion-ann": {}, "fashion-cnn": {}, "fashion-deep-cnn": {},
    "cifar100-ann": {}, "cifar100-cnn": {}, "cifar100-deep-cnn": {},
    "cifar100-small-filters": {},
    "cifar10-fcn-baseline": {"optimizer": "sgd", "momentum": 0.0, "lr": recipe_of("cifar10-fcn-large").lr},
    "cifar10-fcn-large": {"optimizer": "sgd", "momentum": 0.0, "lr": recipe_of("cifar10-fcn-large").lr},
    "cifar10-fcn-deep": {"optimizer": "sgd", "momentum": 0.0, "lr": recipe_of("cifar10-fcn-large").lr},
    "cifar10-fcn-dropout": {"optimizer": "sgd", "momentum": 0.0, "lr": recipe_of("cifar10-fcn-large").lr},
    "cifar10-cnn": {"augment": {"flip": True, "crop": 4}, "weight_decay": 0.0001, "schedule": "cosine"},
    "cifar100-resnet50": {}, "cifar100-vgg16": {}, "cifar100-mobilenet_v2": {},
    "faces": {"augment": "all", "lr": 0.0001, "weight_decay": 0.0001, "schedule": "step"},
    "garbage-scratch": {}, "garbage-frozen": {},
    "garbage-scratch-augmented": {"augment": {"flip": True, "rotate": 15, "resized_crop": {"scale": [0.6, 1.0]}}},
    "garbage-frozen-augmented": {"augment": {"flip": True, "rotate": 15, "resized_crop": {"scale": [0.6, 1.0]}}},
    "mnist-gan": {"lr": 0.0002, "betas": (0.5, 0.999)},  # of the paper of DCGAN, both
    "cifar100-dcgan": {"lr": 0.0002, "betas": (0.5, 0.999)},
    "pets-x2": {"batch_size": 8},  # 128 pictures of 256x256 take more than 30 GB
}  # fmt: skip
IMPROVED = {
    "cifar10-fcn-plus": "cifar10-fcn-dropout",
    "cifar100-small-filters-plus": "cifar100-small-filters",
    "pets-x2-plus": "pets-x2",
}
SILENT = {
    "optimizer": "adam", "lr": 0.001, "momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0, "batch_size": 128,
    "schedule": "constant", "milestones": [], "warmup": 0.0, "augment": "none", "label_smoothing": 0.0, "tta": "none",
    "ema": 0.0, "clip": None, "resolutions": [], "layer_decay": 1.0, "unfreeze": 0.0, "views": 0, "sampling": "shuffle",
}  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_where_nothing_was_given_all_systems_are_alike(name):
    recipe = recipe_of(name)
    fields = recipe.fields()  # a task has no field that it does not read
    found = {field: fields.get(field, idle) for field, idle in SILENT.items()}
    assert found == {**SILENT, **SYSTEMS[name]}


def head_of(name: str) -> str:
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_head_of_a_system_says_what_was_described_given_and_reached(name):
    head = head_of(name)
    assert all(
        word in head for word in ("As described: ", "Not given: ", "Reported", "Reached: ")
    ), head
    assert recipe_source(name).startswith("a published ")
    assert f"`tintype train {name}" in head


@pytest.mark.parametrize(("name", "of"), IMPROVED.items())
def test_what_was_improved_says_in_what_it_differs(name, of):
    assert f"Differs from {of} in: " in head_of(name)
    better, described = recipe_of(name), recipe_of(of)
    options = [
        {k: v for k, v in r.model_options.items() if k != "widths"} for r in (better, described)
    ]
    assert (better.model, options[0], better.data) == (described.model, options[1], described.data)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_takes_long_says_why_it_is_there(name):
    head = head_of(name)
    minutes = [
        float(n) * (60 if unit == "hours" else 1)
        for n, unit in re.findall(r"([\d.]+) (min|hours)\b", head)
    ]
    if max(minutes, default=0) > 30:
        assert "longer than 30 minutes" in head
        assert " because " in head


def only_differs_in(names: Sequence[str], *fields: str) -> None:
    stated = [recipe_of(name).model_dump() for name in names]
    for other in stated[1:]:
        assert {key for key in other if other[key] != stated[0][key]} <= set(fields), names


# ---- R1, R2, R3: digits, and three depths on two sets -----------------------------------------------------------------


def three_depths(depth: str, channels: int, side: int, classes: int) -> nn.Module:
    """The three networks: flattened; two blocks of convolution, ReLU and pooling; three of two
    convolutions each.
    """
    pixels = channels * side * side
    if depth == "ann":
        return nn.Sequential(*flat(pixels, 512, 256, classes))
    if depth == "cnn":
        blocks = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        blocks += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*blocks, *flat(64 * (side // 4) ** 2, 128, classes))
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        for inner in (before, after):
            layers += [
                nn.Conv2d(inner, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        layers.append(nn.MaxPool2d(2))
    layers += [
        nn.Flatten(),
        nn.Linear(128 * (side // 8) ** 2, 256, bias=False),
        nn.BatchNorm1d(256),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Linear(256, classes))


@pytest.mark.parametrize("name", ["mnist-ann", "mnist-cnn"])
def test_r1_digits_from_scratch(small, trained, name):
    """An ANN and a CNN for the digits 0 to 9, Adam at 0.001 on pixels / 255."""
    prepared = small(name, channels=1, side=28)
    plain = with_weights_of(
        three_depths(name.split("-")[1], 1, 28, 10), prepared.task.networks["classifier"]
    )
    expected = plain_losses(prepared, plain, adam(plain), F.cross_entropy)
    assert column(trained(prepared), "loss") == alike(expected)
    assert recipe_of(name).data == "mnist"


@pytest.mark.parametrize("depth", ["ann", "cnn", "deep-cnn"])
@pytest.mark.parametrize(("prefix", "channels", "side"), [("fashion", 1, 28), ("cifar100", 3, 32)])
def test_r2_r3_three_depths_train_as_plain_pytorch_does(
    small, trained, prefix, channels, side, depth
):
    """Pixels / 255 and nothing else; one-hot labels with categorical cross-entropy; Adam at 0.001,
    constant.
    """
    prepared = small(f"{prefix}-{depth}", channels=channels, side=side)
    plain = with_weights_of(
        three_depths(depth, channels, side, 10), prepared.task.networks["classifier"]
    )
    expected = plain_losses(prepared, plain, adam(plain), categorical)
    rows = trained(prepared)
    assert column(rows, "loss") == alike(expected)
    assert column(rows, "lr") == [0.001] * STEPS


@pytest.mark.parametrize("name", ["fashion-ann", "fashion-cnn", "fashion-deep-cnn"])
def test_r2_pixels_are_divided_by_255_and_nothing_else(small, name):
    prepared = small(name, channels=1, side=28)
    assert isinstance(prepared.task, Classify)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.testing.assert_close(prepared.task.normalise(pixels), pixels / 255)
    assert not prepared.task.augment


def test_r2_early_stopping_and_the_best_checkpoint(small):
    for name in ("fashion-ann", "fashion-cnn", "fashion-deep-cnn"):
        recipe = recipe_of(name)
        prepared = small(name, channels=1, side=28)
        assert (recipe.patience, recipe.keep, recipe.one_hot) == (3, "best", True)
        assert monitored(recipe, prepared.task) == ("loss", False)
        assert (recipe.epochs or 0) / recipe.evaluate_every > 2 * 3, "it can stop early"


def test_r2_r3_the_three_differ_in_the_network_alone_and_are_the_same_on_both_sets():
    for prefix in ("fashion", "cifar100"):
        only_differs_in(
            [f"{prefix}-{depth}" for depth in ("ann", "cnn", "deep-cnn")], "model", "model_options"
        )
    for depth in ("ann", "cnn", "deep-cnn"):
        only_differs_in([f"fashion-{depth}", f"cifar100-{depth}"], "data")
    complexity = [
        parameters_of(f"fashion-{depth}", shape(1, 28, 10)) for depth in ("ann", "cnn", "deep-cnn")
    ]
    assert complexity == [535_818, 421_642, 584_874]


def test_r2_what_a_run_shows(finished_run):
    """Loss and accuracy on test, confusion matrix, classification report, an interactive history,
    predictions mixed.
    """
    evaluation = finished_run.read("evaluation.json")
    assert {"loss", "accuracy"} <= evaluation["splits"]["test"].keys()
    assert (
        np.array(evaluation["confusion"]["test"]).sum()
        == evaluation["splits"]["test"]["num_images"]
    )
    assert {"precision", "recall", "f1", "support"} <= evaluation["per_class"]["test"][0].keys()

    rows = finished_run.read_table("metrics.csv")
    assert {"epoch", "loss", "val_loss", "val_accuracy"} <= rows[-1].keys()
    page = finished_run.path.joinpath("report.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page or "plotly" in page.lower()


def test_r2_the_grid_mixes_right_and_wrong():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(10), 200)
    pixels, targets = torch.zeros(200, 8, 8, 1, dtype=torch.uint8), rng.integers(0, 10, 200)
    source = StoredSource(
        shape(1, 8, 10),
        ResidentPixels(pixels),
        torch.from_numpy(targets),
        [f"{i}" for i in range(200)],
    )
    grid = choose_samples(probabilities, targets, source, [str(k) for k in range(10)])["grid"]
    right = [item["correct"] for item in grid]
    assert 12 <= right.count(False) < len(right)
    assert any(right)


# ---- R4: few filters --------------------------------------------------------------------------------------------------


def few_filters(classes: int, pooling: type[nn.Module] = nn.MaxPool2d) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), pooling(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes))


def test_r4_has_57332_parameters_and_10000_steps_without_augmentation():
    assert parameters_of("cifar100-small-filters", shape(3, 32, 100)) == 57_332
    assert count_parameters(few_filters(100)) == 57_332
    recipe = recipe_of("cifar100-small-filters")
    assert (recipe.steps, recipe.epochs, recipe.augment) == (10_000, None, "none")
    assert (recipe.patience, recipe.keep) == (None, "last")


@pytest.mark.parametrize(("pooling", "layer"), [("max", nn.MaxPool2d), ("average", nn.AvgPool2d)])
def test_r4_trains_as_plain_pytorch_does(small, trained, pooling, layer):
    prepared = small("cifar100-small-filters", **{"model_options.pooling": pooling})
    plain = with_weights_of(few_filters(10, layer), prepared.task.networks["classifier"])
    expected = plain_losses(prepared, plain, adam(plain), F.cross_entropy)
    assert column(trained(prepared), "loss") == alike(expected)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"activation": "leaky-relu"}, 0),
        ({"activation": "swish"}, 0),
        ({"residual": True}, 0),
        ({"attention": True}, 742),
    ],
)
def test_r4_what_its_authors_left_open_is_an_option_each(options, more):
    """Leaky ReLU or Swish, residual connections, attention; augmentation is a field of every
    recipe.
    """
    recipe = recipe_of("cifar100-small-filters").replace(
        **{f"model_options.{k}": v for k, v in options.items()}
    )
    network = build_model(recipe.model, shape(3, 32, 100), recipe.model_options, 0)
    assert 57_332 <= count_parameters(network) <= 57_332 + more
    assert augmentations(recipe.replace(augment="flip,crop=4").augment).keys() == {"flip", "crop"}


# ---- R5, R6: fully connected nets and a CNN on CIFAR-10 ---------------------------------------------------------------

FCN = {
    "baseline": (3072, 100, 20, 10),
    "large": (3072, 512, 256, 10),
    "deep": (3072, 512, 256, 128, 64, 10),
    "dropout": (3072, 512, 256, 10),
}


@pytest.mark.parametrize("kind", FCN)
def test_r5_trains_as_plain_pytorch_does(small, trained, kind):
    """3072-100-20-10 with ReLU by SGD without momentum; larger; deeper; 3072-512-256-10 with
    dropout.
    """
    prepared = small(f"cifar10-fcn-{kind}")
    layers = flat(*FCN[kind])
    if kind == "dropout":
        layers = [
            part
            for layer in layers
            for part in ((layer, nn.Dropout(0.2)) if isinstance(layer, nn.ReLU) else (layer,))
        ]
    plain = with_weights_of(nn.Sequential(*layers), prepared.task.networks["classifier"])
    optimizer = torch.optim.SGD(plain.parameters(), lr=float(prepared.recipe.lr))
    expected = plain_losses(prepared, plain, optimizer, F.cross_entropy)
    assert column(trained(prepared), "loss") == alike(expected)
    assert parameters_of(f"cifar10-fcn-{kind}", shape(3, 32, 10)) == count_parameters(plain)


def test_r5_the_four_differ_in_the_network_alone():
    only_differs_in([f"cifar10-fcn-{kind}" for kind in FCN], "model_options")


def test_r5_rates_batch_sizes_and_hidden_sizes_can_be_tuned():
    search = {
        "lr": [0.02, 0.1],
        "batch_size": [64, 128],
        "model_options.hidden": [[100, 20], [512, 256]],
    }
    assert recipe_of("cifar10-fcn-baseline").replace(search=search).search == search


def test_r6_trains_as_plain_pytorch_does(small, trained):
    """Three blocks with max-pool and batch norm, dense layers with batch norm and dropout; weight
    decay; cosine.
    """
    prepared = small("cifar10-cnn", augment="none")  # what is drawn is looked at below
    layers: list[nn.Module] = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers.append(nn.Flatten())
    for inner, outer in ((256 * 4 * 4, 256), (256, 128)):
        layers += [
            nn.Linear(inner, outer, bias=False),
            nn.BatchNorm1d(outer),
            nn.ReLU(),
            nn.Dropout(0.3),
        ]
    plain = with_weights_of(
        nn.Sequential(*layers, nn.Linear(128, 10)), prepared.task.networks["classifier"]
    )

    matrices = [weight for weight in plain.parameters() if weight.ndim > 1]
    others = [weight for weight in plain.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.0001}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=0.001)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    expected = plain_losses(prepared, plain, optimizer, F.cross_entropy, scheduler)
    rows = trained(prepared)
    assert column(rows, "loss") == alike(expected)
    cosine = [0.0005 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    assert column(rows, "lr") == pytest.approx(cosine)


def test_r6_crops_and_flips_at_random():
    options = augmentations(recipe_of("cifar10-cnn").augment)
    assert options.keys() == {"flip", "crop"}
    assert (options["flip"]["mode"], options["crop"]["padding"]) == ("random", 4)


# ---- R7, R8, R9: pretrained networks ----------------------------------------------------------------------------------


class Weights(NamedTuple):
    network: nn.Module
    file: Path


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Weights]:
    """Return a function that makes torchvision's network with random weights, and the file that
    they lie in.
    """
    folder = tmp_path_factory.mktemp("weights")
    made: dict[str, Weights] = {}

    def make(name: str) -> Weights:
        if name not in made:
            torch.manual_seed(0)
            network = torchvision.models.get_model(name, weights=None).eval()
            save_file(network.state_dict(), folder / f"{name}.safetensors")
            made[name] = Weights(network, folder / f"{name}.safetensors")
        return made[name]

    return make


def imagenet(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_r7_sees_images_of_32_pixels_by_the_networks_own_preprocessing(small, backbones):
    network, file = backbones("mobilenet_v2")
    prepared = small("cifar100-mobilenet_v2", weights=str(file))
    assert (prepared.splits.spec.height, prepared.splits.spec.channels) == (32, 3)
    assert isinstance(prepared.task, HeadOnly)

    features = prepared.task.sources(prepared.splits).train.take(torch.arange(8)).images[:, 0]
    with torch.no_grad():
        expected = network.features(
            imagenet(prepared.splits.train.take(torch.arange(8)).images)
        ).mean((2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("model", ["resnet50", "vgg16", "mobilenet_v2"])
def test_r7_three_networks_with_integer_labels(model):
    recipe = recipe_of(f"cifar100-{model}")
    assert (recipe.model, recipe.weights, recipe.data) == (model, "default", "cifar100")
    assert (recipe.image_size, recipe.one_hot, recipe.normalise) == (32, False, None)
    only_differs_in(["cifar100-mobilenet_v2", f"cifar100-{model}"], "model")


def test_r7_sparse_cross_entropy_is_that_of_one_hot_labels():
    logits, targets = torch.randn(16, 100), torch.randint(0, 100, (16,))
    torch.testing.assert_close(F.cross_entropy(logits, targets), categorical(logits, targets))


@pytest.fixture
def few_zeros(digit_files: Path, tmp_path: Path) -> Path:
    """Ten classes of twelve digits, but only four of the first."""
    for folder in sorted(digit_files.iterdir()):
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[: 4 if folder.name == "0" else None]:
            (tmp_path / "few" / folder.name / photo.name).write_bytes(photo.read_bytes())
    return tmp_path / "few"


def test_r8_fine_tunes_every_layer_at_a_lower_rate_with_a_new_last_layer(
    small, trained, backbones, few_zeros
):
    """All layers, class-weighted loss, a schedule of steps: ResNet18, as one of the seven."""
    network, file = backbones("resnet18")
    prepared = small("faces", model="resnet18", weights=str(file), augment="none", accumulate=1)
    prepared = prepare(prepared.recipe.replace(data=str(few_zeros)), Watcher())
    assert isinstance(prepared.task, FineTune)
    ours = prepared.task.network
    assert all(weight.requires_grad for weight in ours.parameters())
    assert ours.get_submodule("fc").weight.shape == (10, 512)

    counts = torch.bincount(prepared.splits.train.targets, minlength=10)
    balanced = len(prepared.splits.train) / (10 * counts)
    assert prepared.task.class_weights is not None
    torch.testing.assert_close(prepared.task.class_weights, balanced)

    lower = float(recipe_of("faces").lr)
    assert lower == 0.0001 < float(SILENT["lr"])
    rows = trained(prepared)
    assert column(rows, "lr") == pytest.approx([lower, lower, 0.1 * lower, 0.01 * lower])
    moved = [
        not torch.equal(w, network.state_dict()[k])
        for k, w in ours.named_parameters()
        if not k.startswith("fc")
    ]
    assert all(moved)


def test_r8_the_seven_networks_and_the_pipelines_are_there():
    seven = {
        "vgg16",
        "resnet18",
        "densenet161",
        "googlenet",
        "mobilenet_v2",
        "resnext50_32x4d",
        "wide_resnet50_2",
    }
    assert seven <= names("models").keys()
    assert recipe_of("faces").model == "wide_resnet50_2"
    used = {
        preset: augmentations(preset).keys()
        for preset in ("flips", "rotations", "shifts", "colours", "all")
    }
    assert used["flips"] == {"flip", "vertical_flip"}
    assert "rotate" in used["rotations"]
    assert "affine" in used["shifts"]
    assert "colour_jitter" in used["colours"]
    assert used["all"] == {"flip", "vertical_flip", "rotate", "affine", "colour_jitter"}


def test_r8_steps_or_a_cosine():
    assert recipe_of("faces").schedule == "step"
    assert recipe_of("faces").replace(schedule="cosine").schedule == "cosine"
    assert recipe_of("faces").replace(milestones=[5, 15], step_factor=0.3).milestones == [5, 15]


def test_r9_three_layers_from_scratch_train_as_plain_pytorch_does(small, trained):
    prepared = small("garbage-scratch", side=64)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*layers, *flat(128 * 8 * 8, 128, 10))
    plain = with_weights_of(plain, prepared.task.networks["classifier"])
    expected = plain_losses(prepared, plain, adam(plain), F.cross_entropy)
    assert column(trained(prepared), "loss") == alike(expected)


def test_r9_early_layers_of_resnet18_are_frozen_and_the_head_is_new(small, backbones):
    _, file = backbones("resnet18")
    task = small("garbage-frozen", weights=str(file)).task
    assert isinstance(task, FineTune)
    trained = {
        name.split(".")[0]
        for name, weight in task.network.named_parameters()
        if weight.requires_grad
    }
    assert trained == {"layer4", "fc"}
    assert task.network.get_submodule("fc").weight.shape == (10, 512)


def test_r9_is_two_by_two():
    for network in ("scratch", "frozen"):
        only_differs_in([f"garbage-{network}", f"garbage-{network}-augmented"], "augment")
    of_network = ("model", "model_options", "weights", "tune", "image_size", "normalise")
    for suffix in ("", "-augmented"):
        only_differs_in([f"garbage-scratch{suffix}", f"garbage-frozen{suffix}"], *of_network)


# ---- R10, R11: GANs ---------------------------------------------------------------------------------------------------


def dense_gan() -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(*flat(100, 256, 512, 1024, 784)[1:], nn.Tanh())
    leaky = nn.LeakyReLU(0.2)
    judge = nn.Sequential(
        nn.Linear(784, 512), leaky, nn.Linear(512, 256), leaky, nn.Linear(256, 1), nn.Sigmoid()
    )
    return generator, judge


def dcgan() -> tuple[nn.Module, nn.Module]:
    up: list[nn.Module] = [nn.ConvTranspose2d(100, 128, 4, 1, 0, bias=False)]
    for before, after in ((128, 64), (64, 32), (32, 3)):
        up += [
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
        ]
    down: list[nn.Module] = [nn.Conv2d(3, 32, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for before, after in ((32, 64), (64, 128)):
        down += [
            nn.Conv2d(before, after, 4, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*up, nn.Tanh()), nn.Sequential(
        *down, nn.Conv2d(128, 1, 4, bias=False), nn.Sigmoid()
    )


def play(
    prepared: Prepared, generator: nn.Module, judge: nn.Module, as_images: bool,
    generators_loss: Callable[[Tensor], Tensor],
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Train a plain GAN by binary cross-entropy on images of -1..1, Adam at 0.0002 on both; return
    both losses.
    """
    of_generator = torch.optim.Adam(generator.parameters(), lr=0.0002, betas=(0.5, 0.999))
    of_judge = torch.optim.Adam(judge.parameters(), lr=0.0002, betas=(0.5, 0.999))
    lost: tuple[list[float], list[float]] = ([], [])
    for step, (images, _) in enumerate(batches_of(prepared)):
        real = images / 127.5 - 1
        drawn = torch.Generator().manual_seed(fold(prepared.recipe.seed, "discriminator", step))
        noise = sampling.drawn((len(real), 100), drawn, torch.device("cpu"))
        fake = generator(noise[:, :, None, None] if as_images else noise)
        real = real if as_images else real.flatten(1)

        right, wrong = judge(real).flatten(), judge(fake.detach()).flatten()
        loss = F.binary_cross_entropy(right, torch.ones_like(right)) + F.binary_cross_entropy(
            wrong, torch.zeros_like(wrong)
        )
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()
        lost[0].append(loss.item())

        loss = generators_loss(judge(fake).flatten())
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        lost[1].append(loss.item())
    return lost


@pytest.fixture
def painted(digit_files: Path) -> Callable[..., Prepared]:
    """Return a function that prepares a generator on real digits at the size of its system."""

    def make(name: str, channels: int, side: int) -> Prepared:
        changes = {"channels": channels, "image_size": side, "steps": STEPS, "batch_size": 24}
        recipe = recipe_of(name).replace(
            data="digits",
            val_fraction=100,
            test_fraction=100,
            device="cpu",
            precision="fp32",
            **changes,
            **{"task.num_samples": 100},
        )
        return prepare(recipe, Watcher())

    return make


def test_r10_trains_as_plain_pytorch_does(painted, trained):
    """784-512-256-1 with Leaky ReLU 0.2 against 100-256-512-1024-784 with ReLU and Tanh; binary
    cross-entropy.
    """
    prepared = painted("mnist-gan", 1, 28)
    ours = prepared.task.networks
    generator, judge = dense_gan()
    with_weights_of(generator, ours["generator"])
    with_weights_of(judge, ours["discriminator"])

    def called_real(answers: Tensor) -> Tensor:
        return F.binary_cross_entropy(answers, torch.ones_like(answers))

    expected = play(prepared, generator, judge, False, called_real)
    rows = trained(prepared)
    assert column(rows, "loss_discriminator") == alike(expected[0])
    assert column(rows, "loss_generator") == alike(expected[1])
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4], "both losses at every batch"


def test_r11_trains_as_plain_pytorch_does(painted, trained):
    """log D(x) + log(1 - D(G(z))), which the discriminator maximises and the generator minimises."""
    prepared = painted("cifar100-dcgan", 3, 32)
    ours = prepared.task.networks
    generator, judge = dcgan()
    with_weights_of(generator, ours["generator"])
    with_weights_of(judge, ours["discriminator"])

    expected = play(prepared, generator, judge, True, lambda answers: torch.log(1 - answers).mean())
    rows = trained(prepared)
    assert column(rows, "loss_discriminator") == alike(expected[0])
    assert column(rows, "loss_generator") == alike(expected[1])


def test_r11_has_370624_and_167808_parameters():
    recipe = recipe_of("cifar100-dcgan")
    ours: Any = build_model(recipe.model, shape(3, 32, 100), recipe.model_options, 0)
    counts = [
        count_parameters(network)
        for network in (*dcgan(), ours["generator"], ours["discriminator"])
    ]
    assert counts == [370_624, 167_808, 370_624, 167_808]
    assert sum(counts[2:]) == 538_432
    assert recipe.steps == 50_000


def test_r11_what_its_authors_left_open_can_be_asked_for():
    """Minibatch discrimination, augmentation, and other generative models or architectures."""
    of = shape(3, 32, 100)
    judge: Any = build_model("dcgan", of, {"minibatch": "discrimination"}, 0)
    assert count_parameters(judge["discriminator"]) > 167_808
    recipe = recipe_of("cifar100-dcgan").replace(
        augment="flip", **{"task.diff_augment": ["colour", "translation"]}
    )
    assert recipe.task_options["diff_augment"] == ["colour", "translation"]
    assert {"fast-gan", "resnet-gan", "flow-unet", "mlp-gan"} <= names("models", "generate").keys()


def test_r10_r11_sheets_of_4x4_and_8x8(kinds):
    for number in (4, 8):
        with Image.open(
            kinds["gan"].path / "samples" / f"generated-{number}x{number}.png"
        ) as sheet:
            assert min(sheet.size) >= number * 8, "each picture at its size"


# ---- R12: pets twice as large -----------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Six pictures of one cat."""
    (tmp_path / "pets").mkdir()
    for number in range(6):
        photo = skimage.data.chelsea()[:300, 20 * number : 20 * number + 300]
        Image.fromarray(photo).save(tmp_path / "pets" / f"{number}.png")
    return tmp_path / "pets"


def enlarged_by_pillow(low: Tensor) -> Tensor:
    images = [Image.fromarray(each.permute(1, 2, 0).byte().numpy()) for each in low]
    larger = [np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(larger)).permute(0, 3, 1, 2) / 255


def test_r12_is_three_layers_on_the_bicubic_picture_by_mse_and_perceptual_loss(pets, backbones):
    """256 made 128 by bicubic, enlarged again, 9x9 first and 5x5 last; MSE + perceptual loss, each
    once.
    """
    recipe = recipe_of("pets-x2").replace(
        data=str(pets),
        weights=str(backbones("squeezenet1_0").file),
        steps=1,
        batch_size=2,
        device="cpu",
        precision="fp32",
    )
    prepared = prepare(recipe, Watcher())
    task = prepared.task
    assert isinstance(task, Upscale)
    assert recipe.task_options["loss"] == {"mse": 1.0, "perceptual": 1.0}

    batch = prepared.splits.train.take(torch.arange(2))
    low, high = task.pairs(batch, torch.Generator().manual_seed(0))
    assert (low.shape, high.shape) == ((2, 3, 128, 128), (2, 3, 256, 256))

    ours = task.networks["upscaler"]
    layers = [layer for layer in ours.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size[0] for layer in layers] == [9, 5, 5]
    torch.manual_seed(1)
    for layer in layers:  # it begins at the bicubic picture, where little of it would show
        nn.init.normal_(layer.weight, 0, 0.02)
    sides = [(3, 64, 9), (64, 32, 5), (32, 3, 5)]
    plain = [nn.Conv2d(i, o, k, padding=k // 2, padding_mode="replicate") for i, o, k in sides]
    network = nn.Sequential(plain[0], nn.ReLU(), plain[1], nn.ReLU(), plain[2])
    with_weights_of(network, ours)
    with torch.no_grad():
        answer = network(enlarged_by_pillow(low))
        # Pillow and MATLAB treat the edges in two ways
        middle = (..., slice(16, -16), slice(16, -16))
        assert float((answer - ours(low / 255))[middle].abs().max()) < 0.02

        context = StepContext(0, 0, 0.0, torch.Generator().manual_seed(0))
        loss, parts = task.loss(task.phases[0], batch, context)
        answer = ours(low / 255)
        assert task.perceptual is not None
        features = task.perceptual(answer, high / 255)
        squared = (answer - high / 255).square().mean()
    assert float(parts["mse"]) == pytest.approx(float(squared), rel=1e-4)
    assert float(loss) == pytest.approx(float(squared + features), rel=1e-4)


def test_r12_compares_by_vgg16_and_changes_photos_as_described():
    assert recipe_of("pets-x2").weights is None
    assert inspect.signature(PerceptualLoss).parameters["name"].default == "vgg16"
    assert LAYERS["vgg16"] == ("features.3", "features.8", "features.15", "features.22")
    options = recipe_of("pets-x2").task_options
    assert options["symmetries"] == "flip"
    assert options["colour_jitter"].keys() == {"brightness", "contrast", "saturation", "hue"}
    assert (options["scale"], options["patch"], recipe_of("pets-x2").image_size) == (2, 256, 256)


def test_r12_shows_low_bicubic_generated_and_original_side_by_side(kinds):
    files = {
        path.stem.split("-")[-1] for path in (kinds["sharp"].path / "samples").glob("test-*.png")
    }
    assert files == {"low", "bicubic", "ours", "original"}


# ---- every sentence ---------------------------------------------------------------------------------------------------

HERE = "tests/test_systems.py::"
DESCRIBED: list[tuple[str, str, str]] = [
    ("R1", "digits 0 to 9 from scratch", HERE + "test_r1_digits_from_scratch"),
    (
        "R2",
        "ANN (flattened), basic CNN, deeper CNN",
        HERE + "test_r2_r3_three_depths_train_as_plain_pytorch_does",
    ),
    (
        "R2",
        "pixels divided by 255 and nothing else",
        HERE + "test_r2_pixels_are_divided_by_255_and_nothing_else",
    ),
    (
        "R2",
        "one-hot labels with categorical cross-entropy",
        HERE + "test_r2_r3_three_depths_train_as_plain_pytorch_does",
    ),
    (
        "R2",
        "early stopping, best checkpoint of each model",
        HERE + "test_r2_early_stopping_and_the_best_checkpoint",
    ),
    (
        "R2",
        "history of each model",
        "tests/test_options.py::test_a_run_stops_by_the_figure_that_it_monitors",
    ),
    ("R2", "evaluation (loss, accuracy) on test", HERE + "test_r2_what_a_run_shows"),
    ("R2", "confusion matrix and classification report", HERE + "test_r2_what_a_run_shows"),
    ("R2", "interactive history of training and validation", HERE + "test_r2_what_a_run_shows"),
    (
        "R2",
        "performance comparison plots, efficiency against complexity",
        "study fashion-three-depths",
    ),
    (
        "R2",
        "grid of predictions, right and wrong mixed",
        HERE + "test_r2_the_grid_mixes_right_and_wrong",
    ),
    (
        "R3",
        "the same three models and outputs on the harder set",
        HERE + "test_r2_r3_the_three_differ_in_the_network_alone_and_are_the_same_on_both_sets",
    ),
    ("R3", "how they compare across the two sets", "study cifar100-three-depths"),
    (
        "R4",
        "no augmentation",
        HERE + "test_r4_has_57332_parameters_and_10000_steps_without_augmentation",
    ),
    (
        "R4",
        "three blocks, max or average pooling, 3-8-16-32, 512, 100",
        HERE + "test_r4_trains_as_plain_pytorch_does",
    ),
    (
        "R4",
        "57,332 parameters exactly",
        HERE + "test_r4_has_57332_parameters_and_10000_steps_without_augmentation",
    ),
    (
        "R4",
        "10,000 steps",
        HERE + "test_r4_has_57332_parameters_and_10000_steps_without_augmentation",
    ),
    (
        "R4",
        "left open: activation, residual, attention, augmentation",
        HERE + "test_r4_what_its_authors_left_open_is_an_option_each",
    ),
    ("R4", "the measured gain of each", "study small-filters-open-points"),
    (
        "R5",
        "3072-100-20-10 with ReLU (baseline, SGD)",
        HERE + "test_r5_trains_as_plain_pytorch_does",
    ),
    ("R5", "larger hidden layers", "recipe cifar10-fcn-large"),
    ("R5", "dropout", "recipe cifar10-fcn-dropout"),
    ("R5", "deeper", "recipe cifar10-fcn-deep"),
    ("R5", "best 3072-512-256-10 with dropout", HERE + "test_r5_trains_as_plain_pytorch_does"),
    (
        "R5",
        "rates, batch sizes and hidden sizes tuned",
        HERE + "test_r5_rates_batch_sizes_and_hidden_sizes_can_be_tuned",
    ),
    ("R5", "compare them with R6", "recipe cifar10-cnn"),
    (
        "R6",
        "3 blocks with max-pool and batch norm, dense layers with batch norm and dropout",
        HERE + "test_r6_trains_as_plain_pytorch_does",
    ),
    ("R6", "random crop and flip", HERE + "test_r6_crops_and_flips_at_random"),
    ("R6", "weight decay; cosine annealing", HERE + "test_r6_trains_as_plain_pytorch_does"),
    (
        "R7",
        "CIFAR-100 32x32x3 as it is, each with its own preprocessing",
        HERE + "test_r7_sees_images_of_32_pixels_by_the_networks_own_preprocessing",
    ),
    (
        "R7",
        "ResNet50, VGG16, MobileNetV2 with ImageNet weights; integer labels",
        HERE + "test_r7_three_networks_with_integer_labels",
    ),
    ("R7", "sparse cross-entropy", HERE + "test_r7_sparse_cross_entropy_is_that_of_one_hot_labels"),
    (
        "R8",
        "seven networks; augmentation pipelines",
        HERE + "test_r8_the_seven_networks_and_the_pipelines_are_there",
    ),
    (
        "R8",
        "all layers fine-tuned at a lower rate, last layer replaced, class-weighted loss",
        HERE + "test_r8_fine_tunes_every_layer_at_a_lower_rate_with_a_new_last_layer",
    ),
    ("R8", "schedules (step, cosine)", HERE + "test_r8_steps_or_a_cosine"),
    ("R8", "hyperparameters and architecture tuned", "study faces-seven-backbones"),
    ("R8", "targeted regularisation", "recipe faces"),
    (
        "R8",
        "error analysis: which pairs are confused, the worst mistakes",
        "tests/test_analysis.py::test_confused_pairs_are_shown_side_by_side",
    ),
    (
        "R9",
        "3-layer CNN from scratch",
        HERE + "test_r9_three_layers_from_scratch_train_as_plain_pytorch_does",
    ),
    (
        "R9",
        "ResNet-18 with frozen early layers and a new head",
        HERE + "test_r9_early_layers_of_resnet18_are_frozen_and_the_head_is_new",
    ),
    ("R9", "x {no augmentation, augmentation}", HERE + "test_r9_is_two_by_two"),
    ("R9", "the four accuracies and the reliability of each trial", "study garbage-two-by-two"),
    (
        "R10",
        "MNIST scaled to -1..1; z of 100, ReLU, Tanh; 784-512-256-1; BCE; Adam 0.0002",
        HERE + "test_r10_trains_as_plain_pytorch_does",
    ),
    ("R10", "both losses recorded at every batch", HERE + "test_r10_trains_as_plain_pytorch_does"),
    ("R10", "4x4 grid of digits", HERE + "test_r10_r11_sheets_of_4x4_and_8x8"),
    (
        "R11",
        "layers of both networks; BCE, log D(x) + log(1 - D(G(z)))",
        HERE + "test_r11_trains_as_plain_pytorch_does",
    ),
    (
        "R11",
        "370,624 and 167,808 exactly, 538,432 together; 50,000 steps",
        HERE + "test_r11_has_370624_and_167808_parameters",
    ),
    ("R11", "two 8x8 pictures", HERE + "test_r10_r11_sheets_of_4x4_and_8x8"),
    (
        "R11",
        "left open: minibatch discrimination, augmentation, other models",
        HERE + "test_r11_what_its_authors_left_open_can_be_asked_for",
    ),
    (
        "R12",
        "256 from 128 by bicubic; 9x9 first, 5x5 last; MSE + perceptual loss",
        HERE + "test_r12_is_three_layers_on_the_bicubic_picture_by_mse_and_perceptual_loss",
    ),
    (
        "R12",
        "VGG16 features; horizontal flips and colour jitter",
        HERE + "test_r12_compares_by_vgg16_and_changes_photos_as_described",
    ),
    (
        "R12",
        "low / bicubic / generated / original side by side",
        HERE + "test_r12_shows_low_bicubic_generated_and_original_side_by_side",
    ),
    (
        "R7",
        "a table of the differences in loading and preprocessing",
        "tests/test_compare.py::test_data_splits_and_preprocessing_lie_side_by_side",
    ),
    (
        "R8",
        "own folder, train and val only",
        "tests/test_folder.py::test_split_folders_are_respected",
    ),
    ("R8", "convergence plots", "tests/test_report.py::test_figures_hold_the_measured_numbers"),
    ("R9", "confusion heat map", "tests/test_report.py::test_figures_hold_the_measured_numbers"),
    (
        "R9",
        "accuracy is on images that neither training nor selection touched",
        "tests/test_transfer.py::test_the_two_by_two_is_a_study_with_four_verdicts",
    ),
    (
        "R10",
        "both losses drawn at every batch",
        "tests/test_generate.py::test_the_report_shows_sheets_lapse_and_losses",
    ),
    ("R12", "Oxford-IIIT Pet, trainval and test splits", "recipe pets-x2"),
]


@cache
def defined_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_system_is_described_and_what_does_it_is_there():
    root = Path(__file__).parent.parent
    assert {system for system, *_ in DESCRIBED} == {f"R{number}" for number in range(1, 13)}
    for system, sentence, where in DESCRIBED:
        if where.startswith(("recipe ", "study ")):
            kind, name = where.split()
            folder = {"recipe": "recipes", "study": "studies"}[kind]
            assert (root / "tintype" / folder / f"{name}.yaml").is_file(), (system, sentence)
            continue
        file, _, function = where.partition("::")
        assert function in defined_in(root / file), (system, sentence, where)
