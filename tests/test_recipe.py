"""Recipes: YAML, overrides, mistakes, and every built-in one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tintype import plugins
from tintype.augment import Augment
from tintype.data import open_data
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.interface.spelling import on_the_command_line
from tintype.models import build_model
from tintype.optim import build_optimizers
from tintype.recipe import (
    ALIASES,
    RECIPES,
    Recipe,
    build,
    options_of,
    parse_assignments,
    read_recipe,
    recipe_names,
    resolve,
)
from tintype.runs.pretrained import is_backbone
from tintype.tasks.contract.own_data import asks
from tintype.training.engine import Plan

# Channels, side, classes and training images of the data sets, as their papers state them.
SHAPES = {
    "digits": (1, 8, 10, 1258),
    "mnist": (1, 28, 10, 60_000),
    "fashion-mnist": (1, 28, 10, 60_000),
    "cifar10": (3, 32, 10, 50_000),
    "cifar100": (3, 32, 100, 50_000),
    "trashnet": (3, 384, 6, 1_769),
    "own-photos": (3, 600, 9, 929),
}

# Every setting with its default. A change here changes what a user's recipe means: say so in the
# CHANGELOG.
DEFAULTS = {
    "task": "classify", "task_options": {}, "data": "digits", "data_root": None, "image_size": None,
    "channels": None, "resize": "crop", "crop_fraction": None, "interpolation": None, "cache_size": "20GB","normalise": None,
    "val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0, "split_rule": "at-image-size",
    "folds": None, "fold": None,
    "groups": None, "rules": 1, "model": "fast-cnn", "model_options": {},
    "weights": None, "tune": "all", "solver": "steps",
    "time": None, "head": [], "views": 0, "layer_decay": 1.0, "unfreeze": 0.0,
    "freeze_norm": True, "interpolate": False,
    "augment": "none", "epochs": None, "steps": None, "batch_size": 256, "sampling": "shuffle", "accumulate": 1, "parts": 1,
    "optimizer": "adamw", "lr": 1e-3, "momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0,
    "schedule": "cosine", "milestones": [], "step_factor": 0.1, "warmup": 0.0, "clip": None, "ema": 0.0,
    "loss": "cross-entropy", "metrics": [], "label_smoothing": 0.0,
    "one_hot": False,
    "class_weights": None, "resolutions": [], "hardest": 1.0, "tta": "none", "flips": "as-stated", "patience": None,
    "keep": "last", "monitor": None,
    "evaluate_every": 1.0, "clean_sample": 0, "seed": 0, "measure": "test", "search": {}, "track": [], "device": "auto",
    "precision": "auto", "threads": "auto", "exact": True, "compile": "auto", "channels_last": True, "hold_memory": True,
}  # fmt: skip


def test_every_field_is_frozen_with_its_default():
    assert Recipe().model_dump() == DEFAULTS


@pytest.mark.parametrize("kind", [Recipe, *map(options_of, plugins.names("tasks"))])
def test_every_field_is_described_in_a_sentence(kind):
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert field.description[0].isupper() or field.description.split()[0] in (
            *get_args(field.annotation),
            "auto",
            "shuffle",
        ), name
        assert field.description.endswith("."), name


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(Exception, match="frozen"):
        Recipe().lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]


# ---- YAML -------------------------------------------------------------------------------------------------------------

recipes = st.builds(
    Recipe,
    data=st.sampled_from(["digits", "cifar10", "photos/мои фото", "no", "1e3", "null"]),
    image_size=st.none()
    | st.integers(1, 4096)
    | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    epochs=st.none() | st.floats(1e-6, 1e6),
    lr=st.floats(1e-12, 1e12),
    model_options=st.dictionaries(
        st.text("abc_", min_size=1), st.integers() | st.booleans() | st.lists(st.integers())
    ),
    augment=st.sampled_from(["none", "flip,crop=4"])
    | st.just({"flip": True, "crop": {"padding": 4}}),
    class_weights=st.none() | st.just("balanced") | st.lists(st.floats(0, 10)),
    resolutions=st.just([]) | st.just([(0.0, 20), (0.5, 32)]),
    seed=st.integers(0, 2**63),
)


@given(recipes)
def test_yaml_gives_the_same_recipe_back(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("yaml") / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_recipe(path) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "the YAML is broken"),
        ("- a\n- b", "expected lines of `field: value`"),
        ("", "expected lines of `field: value`"),
        ("modle: cnn", "unknown field 'modle'. Did you mean 'model'"),
        ("1: 2", "unknown field '1'"),
        ("lr: fast", "lr: input should be a valid number"),
        ("model: !!python/object/apply:os.system ['false']", "the YAML is broken"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        read_recipe(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the recipe .*none\.yaml"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the recipe"):
        read_recipe(tmp_path / "binary.yaml")


# ---- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 1, "steps": 10}, "give epochs or steps, not both"),
        ({"epochs": 0}, "epochs: .*greater than 0"),
        ({"epochs": -1}, "epochs: .*greater than 0"),
        ({"steps": 1.5}, "steps: .*integer"),
        ({"batch_size": 0}, "batch_size: .*greater than 0"),
        ({"epochs": float("inf")}, "epochs: .*finite"),
        ({"lr": float("nan")}, "lr: "),
        ({"time": "soon"}, "Expected a duration such as 90s"),
        ({"lr": -0.1}, "lr: .*greater than 0"),
        ({"momentum": 1}, "momentum: .*less than 1"),
        ({"warmup": 1}, "warmup: .*less than 1"),
        (
            {"optimizer": "adma"},
            "optimizer: .*'sgd', 'adam', 'adamw' or 'muon', or a file .*got 'adma'",
        ),
        ({"schedule": "cosin"}, "schedule: .*cosine"),
        (
            {"cache_size": "big"},
            "cache_size: 'big' is no size. Expected one such as 20GB or 500MB.$",
        ),
        ({"image_size": 0}, "between 1 and 4096"),
        ({"image_size": [32, 5000]}, "between 1 and 4096"),
        ({"channels": 2}, "channels: "),
        ({"resolutions": [[0.5, 20], [0.2, 32]]}, "must begin with part 0 and rise"),
        ({"resolutions": [[0, 20], [1.0, 32]]}, "each part below 1"),
        ({"accumulate": 300}, "accumulate cannot be larger than batch_size"),
        ({"parts": 3}, "expected a power of two"),
        ({"parts": 16, "accumulate": 32}, "parts times accumulate"),
        ({"class_weights": "balance"}, "class_weights: "),
        ({"seed": -1}, "seed: "),
        ({"learning_rat": 1}, "unknown field 'learning_rat'. Did you mean"),
        ({"task": "clasify"}, "unknown task 'clasify'. Did you mean 'classify'"),
        ({"task_options": 3}, "task_options: expected a mapping"),
        ({"task": "generate", "r1": -1}, "task.r1: input should be greater than or equal to 0"),
        ({"tune": "last:0"}, "tune: expected head, last:N"),
    ],
)
def test_a_wrong_value_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as error:
        build(fields, where="")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("alias", "field"), sorted(ALIASES.items()))
def test_aliases_of_other_tools(alias, field):
    assert getattr(build({alias: 3}, where=""), field) == 3
    assert getattr(Recipe().replace(**{alias: 3}), field) == 3


def test_epochs_replace_steps_and_the_other_way_round():
    assert Recipe(epochs=3).replace(steps=5).epochs is None
    assert Recipe(steps=5).replace(epochs=3).steps is None
    with pytest.raises(UserError, match="not both"):
        Recipe().replace(epochs=3, steps=5)


def test_options_inside_a_field():
    recipe = Recipe(model="cnn", model_options={"dropout": 0.1}).replace(
        **{"model_options.widths": [8], "model.hidden": [4]}
    )
    assert recipe.model_options == {"dropout": 0.1, "widths": [8], "hidden": [4]}
    with pytest.raises(UserError, match=r"only model\.NAME, task\.NAME and augment\.NAME"):
        Recipe().replace(**{"lr.x": 1})


def test_another_model_drops_the_options_of_the_one_before():
    recipe = Recipe(model="cnn", model_options={"widths": [8]})
    assert recipe.replace(model="ann").model_options == {}
    assert recipe.replace(model="cnn").model_options == {"widths": [8]}
    assert recipe.replace(model="ann", model_options={"hidden": [3]}).model_options == {
        "hidden": [3]
    }


# ---- --set key=value --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=1e-3", 1e-3), ("lr=0.1", 0.1), ("epochs=5", 5), ("ema=1e-2", 0.01), ("seed=007", 7), ("one_hot=true", True),
        ("patience=null", None), ("model=cnn", "cnn"), ("data=a=b", "a=b"),
        ("resolutions=[[0, 20], [0.5, 32]]", [[0, 20], [0.5, 32]]),
        ("model-options={hidden: [8]}", {"hidden": [8]}), ("augment=flip,crop=4", "flip,crop=4"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_mean_them(text, value):
    assert list(parse_assignments([text]).values()) == [value]


@given(
    st.sampled_from(sorted(DEFAULTS)),
    st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_plain_value_survives(key, value):
    text = (
        {True: "true", False: "false"}.get(value, repr(value))
        if isinstance(value, bool)
        else repr(value)
    )
    assert parse_assignments([f"{key}={text}", f"{key.replace('_', '-')}={text}"]) == {key: value}


@given(st.text())
def test_any_text_is_parsed_or_refused_in_a_line(text):
    try:
        with on_the_command_line():
            assert len(parse_assignments([text])) == 1
    except UserError as error:
        message = str(error)
    else:
        message = f"--set {text}"
    assert message.startswith(f"--set {text}")


@pytest.mark.parametrize("text", ["lr", "=3", " = 3", "lr=[1", "lr={", "lr=\x00"])
def test_a_broken_assignment_is_told(text):
    with on_the_command_line(), pytest.raises(UserError, match="--set"):
        parse_assignments([text])


# ---- what WHAT is -----------------------------------------------------------------------------------------------------


def test_a_recipe_comes_before_a_data_set_and_says_so():
    assert resolve("digits")[1] == "recipe 'digits' (built in)"
    recipe, kind = resolve("kmnist")
    assert (recipe.data, kind) == ("kmnist", "data set 'kmnist'")


def test_folders_files_and_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("mine.yaml").write_text("model: ann", encoding="utf-8")
    assert resolve("photos")[0].data == str(tmp_path / "photos")
    assert resolve("mine.yaml")[0].model == "ann"
    assert Path(resolve("list.csv")[0].data).name == "list.csv"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("digit", "unknown recipe or data set 'digit'. Did you mean 'digits'"),
        ("cifar10-fats", "'cifar10-fast'"),
        ("no/such/folder", "there is no no/such/folder"),
        ("none.yaml", "cannot read the recipe none.yaml"),
        ("", "unknown recipe or data set ''"),
    ],
)
def test_what_is_nothing_is_told(what, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        resolve(what)
    assert message in str(error.value)


# ---- the built-in recipes ---------------------------------------------------------------------------------------------


def test_the_recipes_of_the_foundation_are_there():
    names = shlex.split(
        """
        digits-ann digits-cnn mnist-ann mnist-cnn fashion-ann fashion-cnn fashion-deep-cnn cifar100-ann cifar100-cnn
        cifar100-deep-cnn cifar100-small-filters cifar10-fcn-baseline cifar10-fcn-large cifar10-fcn-dropout cifar10-fcn-deep
        cifar10-cnn cifar10-fcn-plus cifar100-small-filters-plus cifar10-fast digits mnist fashion-mnist cifar10 cifar100
        garbage garbage-tuned garbage-scratch garbage-scratch-augmented garbage-frozen garbage-frozen-augmented faces
        cifar100-resnet50 cifar100-vgg16 cifar100-mobilenet_v2
        """
    )
    assert set(names) <= set(recipe_names())


BY_TASK: dict[str, list[str]] = {}
for _name in recipe_names():
    _recipe = read_recipe(RECIPES / f"{_name}.yaml")
    BY_TASK.setdefault("transfer" if _recipe.fields().get("weights") else _recipe.task, []).append(
        _name
    )


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is_and_names_what_is_there(name):
    assert len(recipe_names()[name]) > 20
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.task in plugins.names("tasks")
    assert recipe.model in plugins.names("models")
    assert recipe.epochs or recipe.steps


# Options that the engine and the choice of a network read, or that are settled before a task is made.
READ_ELSEWHERE = {"channels", "weights", "flips"}


@pytest.mark.parametrize("task", plugins.names("tasks"))
def test_a_task_reads_the_fields_that_it_declares_and_no_others(task):
    module = plugins.find("tasks", task)
    functions = (module.make, getattr(module, "open_data", open_data), asks(module))
    read = {name for function in functions for name in signature(function).parameters}
    declared = options_of(task).model_fields.keys()
    assert declared - READ_ELSEWHERE <= read

    of_others = {
        name for other in plugins.names("tasks") for name in options_of(other).model_fields
    }
    assert not read & of_others - declared


@pytest.mark.parametrize("task", plugins.names("tasks"))
def test_a_field_of_another_task_is_refused_and_says_which_one_reads_it(task):
    own = options_of(task).model_fields
    for other in plugins.names("tasks"):
        for name, field in options_of(other).model_fields.items():
            if name not in own:
                assert name not in Recipe(task=task, **{name: field.get_default()}).fields()
                with pytest.raises(
                    UserError, match=f"{name} has no effect on task {task}, only on"
                ):
                    Recipe(task=task, **{name: "elsewhere"})


def test_options_of_a_task_are_flat_names_and_stay_where_earlier_versions_wrote_them():
    """A recipe of an earlier version states every field, and nests what only its task has."""
    flat = Recipe(task="generate", loss="hinge", r1=0.5)
    nested = build(
        {**DEFAULTS, "task": "generate", "task_options": {"loss": "hinge", "r1": 0.5}}, ""
    )
    assert flat.task_options == nested.task_options == {"loss": "hinge", "r1": 0.5}
    assert flat.model_dump() == nested.model_dump()
    assert flat.fields()["loss"] == flat.loss == "hinge"
    assert flat.replace(**{"task.r1": 0.1}).r1 == flat.replace(r1=0.1).r1 == 0.1
    assert flat.replace(task_options={"r2": 1}).task_options == {"r2": 1}
    assert read_back(flat) == flat


def read_back(recipe):
    return build(yaml.safe_load(recipe.to_yaml()), "")


def test_options_are_read_without_torch():
    code = "import sys; from tintype.recipe import field_names; field_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_task_that_is_listed_can_be_made_and_restored():
    for name in plugins.names("tasks"):
        module = plugins.find("tasks", name)
        assert callable(module.make)
        assert callable(module.restore)


@pytest.mark.parametrize("name", BY_TASK["transfer"])
def test_a_recipe_with_a_backbone_fits_its_data(name):
    """Building the large networks takes long; that each can be trained, tests/test_backbones.py
    shows.
    """
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    *_, classes, num_images = SHAPES[recipe.data]
    assert is_backbone(recipe.model)
    assert recipe.weights == "default"
    assert Plan.of(recipe, num_images).total_steps > 10
    Augment(recipe.augment, mixable=Classes(tuple(map(str, range(classes)))).mixable)


@pytest.mark.parametrize("name", BY_TASK["classify"])
def test_every_recipe_can_be_trained(name):
    """Its network fits the data's real shape and takes a step."""
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.data in plugins.names("data")
    channels, side, classes, num_images = SHAPES[recipe.data]
    side = recipe.image_size if isinstance(recipe.image_size, int) else side
    spec = DataSpec(
        recipe.data,
        channels,
        side,
        side,
        Classes(tuple(map(str, range(classes)))),
        (0.5,) * channels,
        (0.25,) * channels,
        "",
    )
    assert Plan.of(recipe, num_images).total_steps > 10
    network = build_model(recipe.model, spec, recipe.model_options, recipe.seed)
    optimizers = build_optimizers(
        network,
        recipe.optimizer,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    images = torch.randint(0, 256, (4, channels, side, side), dtype=torch.uint8)
    targets = torch.arange(4)
    images, targets = Augment(
        recipe.augment, mixable=Classes(tuple(map(str, range(classes)))).mixable
    )(images, targets, index=torch.arange(4), epoch=0, generator=torch.Generator().manual_seed(0))
    for _, small in recipe.resolutions or [(0, side)]:
        batch = torch.nn.functional.interpolate(images.float() / 255, size=(small, small))
        loss = torch.nn.functional.cross_entropy(network(batch), targets)
        loss.backward()
        assert bool(loss.isfinite())
    before = [p.detach().clone() for p in network.parameters() if p.requires_grad]
    for optimizer in optimizers:
        optimizer.step()
    after = [p for p in network.parameters() if p.requires_grad]
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
