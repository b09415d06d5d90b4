"""The training loop: order, randomness, accumulation, averages, early stopping, and losses that are
frozen.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from tintype import api
from tintype.data import open_data
from tintype.data.pixels import MappedPixels
from tintype.data.source import DataSplits, StoredSource
from tintype.errors import UserError
from tintype.pages.report import write_report
from tintype.progress import Watcher
from tintype.recipe import NEW_RULES, Recipe
from tintype.runs.folder import RunFolder
from tintype.runs.summary import verdict_line
from tintype.seeds import fold
from tintype.tasks.classify.task import Classify
from tintype.tasks.task import StepContext
from tintype.training.engine import READ_SECONDS, Engine, Plan
from tintype.training.order import Order, batches
from tintype.training.prepare import prepare


class Recorder(Watcher):
    """Remembers what the engine told."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.notes: list[str] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.losses.append(loss)

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self.scores.append(figures["accuracy"])

    def note(self, line: str) -> None:
        self.notes.append(line)


Weights = dict[str, torch.Tensor]

FOLDS = [2094333682667709378, 4347070220191516037]
FIRST_ORDER = [3, 2, 6, 8, 0, 1, 9, 4, 5, 7]
FROZEN_LOSSES = [2.344777, 2.305073, 2.268743, 2.114693, 2.128217]
FROZEN_LOSSES_WITH_ALL = [2.356976, 2.332251, 1.897255, 1.706636, 1.608464]


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., tuple[Weights, Recorder]]:
    """Return a function that trains a recipe and gives the final weights and what was told; one
    folder for each call.
    """
    number = itertools.count()

    def fit(
        recipe: Recipe, change: Callable[[DataSplits], DataSplits] = lambda s: s
    ) -> tuple[Weights, Recorder]:
        watcher = Recorder()
        prepared = prepare(recipe, watcher)
        splits = change(prepared.splits)
        run = RunFolder.create(tmp_path, f"run-{next(number)}", exact=True)
        Engine(prepared.task, recipe, run, watcher, device=prepared.device).fit(
            splits.train, splits.val
        )
        network = prepared.task.networks[prepared.task.main]
        return {k: v.detach().clone() for k, v in network.state_dict().items()}, watcher

    return fit


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


# ---- order and seeds --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**63))
def test_each_image_comes_exactly_once_in_an_epoch(num_images, batch_size, seed):
    order = Order(seed, num_images, batch_size)
    steps = -(-3 * num_images // batch_size)
    drawn = torch.cat([order.batch(step) for step in range(steps)])
    assert len(drawn) == steps * batch_size
    for epoch in range(3):
        positions = drawn[epoch * num_images : (epoch + 1) * num_images]
        assert positions.sort().values.tolist() == list(range(num_images))


@given(
    st.integers(1, 40), st.integers(1, 50), st.lists(st.integers(0, 200), min_size=1, max_size=10)
)
def test_a_batch_does_not_depend_on_the_ones_asked_before(num_images, batch_size, steps):
    asked = Order(7, num_images, batch_size)
    for step in steps:
        assert torch.equal(asked.batch(step), Order(7, num_images, batch_size).batch(step))


def test_order_differs_by_epoch_and_seed():
    first, second = Order(0, 100, 100).batch(0), Order(0, 100, 100).batch(1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Order(1, 100, 100).batch(0))
    assert torch.equal(first, Order(0, 100, 100).batch(0))


def test_seeds_are_the_same_on_every_machine():
    assert fold(0, "order", 0) == FOLDS[0]
    assert fold(1, "step", 12) == FOLDS[1]
    assert Order(0, 10, 10).batch(0).tolist() == FIRST_ORDER


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.integers(0, 99)),
        unique=True,
        min_size=2,
    )
)
def test_different_purposes_get_different_seeds(parts):
    assert len({fold(*part) for part in parts}) == len(parts)
    assert all(0 <= fold(*part) < 2**63 for part in parts)


@given(st.integers(1, 1000), st.integers(1, 300), st.floats(0.01, 50), st.floats(0.01, 10))
def test_the_plan_is_at_least_a_step_and_as_long_as_asked(num_images, batch_size, epochs, every):
    plan = Plan.of(Recipe(epochs=epochs, batch_size=batch_size, evaluate_every=every), num_images)
    assert plan.total_steps >= 1
    assert plan.evaluation_steps >= 1
    assert plan.batch_size == min(batch_size, num_images)
    assert abs(plan.total_steps * plan.batch_size - epochs * num_images) <= max(
        plan.batch_size, epochs * num_images * 0.5
    )
    assert Plan.of(Recipe(steps=17, batch_size=batch_size), num_images).total_steps == 17


def test_reading_ahead_gives_the_same_batches():
    train = open_data("digits", memory_limit=0).train
    assert train.kind == "mapped"
    order = Order(0, len(train), 300)
    ahead = list(batches(train, order, 2, 9))
    assert len(ahead) == 7
    for step, batch in zip(range(2, 9), ahead, strict=True):
        assert torch.equal(batch.images, train.take(order.batch(step)).images)
    assert list(batches(train, order, 5, 5)) == []


def test_rows_that_are_read_later_are_the_same_rows(tiny, train_in, tmp_path, monkeypatch):
    """As on a GPU, where the host does not wait for each step."""
    at_once = train_in(tmp_path / "at-once", tiny(steps=30))
    monkeypatch.setitem(READ_SECONDS, "cpu", 1e9)
    later = train_in(tmp_path / "later", tiny(steps=30))
    rows = [
        path.read_bytes() for path in (at_once.path / "metrics.csv", later.path / "metrics.csv")
    ]
    assert rows[0] == rows[1]
    assert rows[0].count(b"\n") == 31
    with pytest.raises(UserError, match=r"not finite after step \d+ \(") as error:
        train_in(
            tmp_path / "ruined",
            tiny(steps=30, optimizer="sgd", lr=1e30, warmup=0.9, evaluate_every=100),
        )
    ruined = re.search(r"after step (\d+)", str(error.value))
    assert ruined is not None
    assert int(ruined[1]) < 30  # the row, not the step at which it was read


# ---- frozen mathematics -----------------------------------------------------------------------------------------------


@pytest.mark.machines
def test_the_first_losses_are_frozen(fit, tiny):
    """Whoever changes the mathematics sees it here, and says so in the CHANGELOG."""
    _, told = fit(tiny(steps=5, precision="fp32"))
    assert told.losses == pytest.approx(FROZEN_LOSSES, rel=1e-4)


@pytest.mark.machines
def test_the_first_losses_with_everything_on_are_frozen(fit, tiny):
    recipe = tiny(
        steps=5, model="cnn", model_options={"widths": [8], "hidden": [16], "dropout": 0.0, "batch_norm": True},
        precision="fp32",
        lr=0.05, weight_decay=0.1, label_smoothing=0.1, class_weights="balanced", clip=1.0, ema=0.9, warmup=0.2,
    )  # fmt: skip
    _, told = fit(recipe)
    assert told.losses == pytest.approx(FROZEN_LOSSES_WITH_ALL, rel=1e-3)


@pytest.mark.machines
def test_a_seed_gives_the_same_run_and_another_seed_another(fit, tiny):
    recipe = tiny(steps=6, model_options={"hidden": [16], "dropout": 0.2}, augment="light")
    first, again, other = fit(recipe), fit(recipe), fit(recipe.replace(seed=1))
    assert same(first[0], again[0])
    assert first[1].losses == again[1].losses
    assert not same(first[0], other[0])


def test_random_numbers_outside_neither_disturb_nor_are_disturbed(fit, tiny):
    recipe = tiny(steps=4, model_options={"hidden": [16], "dropout": 0.5})
    first, _ = fit(recipe)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    second, _ = fit(recipe)
    assert same(first, second)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("tta", ["none", "flip-shift"])
def test_evaluating_more_often_changes_nothing(fit, tiny, tta):
    recipe = tiny(
        steps=20,
        model="cnn",
        model_options={"widths": [8], "hidden": [8], "batch_norm": True},
        augment="light",
        tta=tta,
    )
    seldom, _ = fit(recipe)
    often, told = fit(recipe.replace(evaluate_every=0.08))
    assert len(told.scores) == 20
    assert same(seldom, often)


@pytest.mark.machines
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_precisions_learn(fit, tiny, precision):
    weights, told = fit(tiny(epochs=8, precision=precision))
    assert told.scores[-1] > 0.8
    assert {w.dtype for w in weights.values()} == {torch.float32}


@pytest.mark.machines
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_every_optimizer_learns(fit, tiny, optimizer):
    lr = {"sgd": 0.1, "muon": 1.0}.get(optimizer, 0.01)
    _, told = fit(tiny(epochs=6, optimizer=optimizer, lr=lr))
    assert told.scores[-1] > 0.8


@pytest.mark.machines
def test_images_from_disk_train_bit_equal_to_images_in_memory(fit, tiny):
    def mapped(splits: DataSplits) -> DataSplits:
        def on_disk(source):
            pixels = (
                source.take(torch.arange(len(source)))
                .images.permute(0, 2, 3, 1)
                .contiguous()
                .numpy()
            )
            store = MappedPixels(np.ascontiguousarray(pixels))
            return StoredSource(source.spec, store, source.targets, source.names)

        return DataSplits(
            splits.spec, on_disk(splits.train), on_disk(splits.val), on_disk(splits.test)
        )

    recipe = tiny(epochs=2, model="cnn", model_options={"widths": [8]}, augment="standard")
    resident, mapped_weights = fit(recipe)[0], fit(recipe, mapped)[0]
    assert same(resident, mapped_weights)


# ---- mechanics --------------------------------------------------------------------------------------------------------


@pytest.mark.machines
def test_accumulation_gives_the_step_of_the_whole_batch(fit, tiny):
    recipe = tiny(steps=8, optimizer="sgd", lr=0.1, batch_size=101, precision="fp32")
    whole, told = fit(recipe)
    parts, told_in_parts = fit(recipe.replace(accumulate=3))
    assert told_in_parts.losses == pytest.approx(told.losses, rel=1e-5)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)


def test_one_hot_targets_give_the_same_training(fit, tiny):
    recipe = tiny(steps=5, label_smoothing=0.1, class_weights="balanced")
    assert fit(recipe)[1].losses == pytest.approx(
        fit(recipe.replace(one_hot=True))[1].losses, rel=1e-5
    )


def test_clipping_bounds_the_step(fit, tiny):
    """One step of plain SGD moves the weights by lr times the norm of the gradient."""
    recipe = tiny(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, schedule="constant")
    prepared = prepare(recipe, Watcher())
    start = {k: v.clone() for k, v in prepared.task.networks["classifier"].state_dict().items()}

    def moved(weights: Weights) -> float:
        return float(
            torch.stack([(weights[k] - start[k]).square().sum() for k in start]).sum().sqrt()
        )

    free = moved(fit(recipe)[0])
    assert free > 0.1
    assert moved(fit(recipe.replace(clip=0.01))[0]) == pytest.approx(0.01, rel=1e-3)
    assert moved(fit(recipe.replace(clip=1000.0))[0]) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_weights_that_no_gradient_reaches_end_as_zeros(fit, tiny, ema):
    """The corners of a digit are always black: decay alone moves their weights, which then are
    numbers that a processor is slow at. Runs that were begun before go on as they did.
    """
    recipe = tiny(
        steps=600, optimizer="adam", betas=(0.5, 0.999), weight_decay=0.01, normalise="scale",
        precision="fp32", evaluate_every=100, ema=ema,
    )  # fmt: skip
    earlier, before = fit(recipe.replace(rules=3))
    new, since = fit(recipe.replace(rules=NEW_RULES))

    def nearly_zero(weights: Weights) -> float:
        smallest = torch.finfo(torch.float32).tiny
        return max(
            float(((w != 0) & (w.abs() < smallest)).float().mean()) for w in weights.values()
        )

    assert nearly_zero(earlier) > 0.05
    assert nearly_zero(new) == 0
    assert all(torch.allclose(new[key], earlier[key], atol=1e-20) for key in new)
    assert since.scores == before.scores


def test_the_run_ends_with_the_averaged_weights(fit, tiny):
    recipe = tiny(steps=12, optimizer="sgd", lr=0.1, schedule="constant")
    own, _ = fit(recipe)
    averaged, told = fit(recipe.replace(ema=0.9))
    assert not same(own, averaged)
    # The average lies between the start and the end: nearer to the end than the start is.
    prepared = prepare(recipe, Watcher())
    start = prepared.task.networks["classifier"].state_dict()
    for key in own:
        assert (averaged[key] - own[key]).norm() < (start[key] - own[key]).norm()
    evaluation = prepared.task.networks["classifier"]
    evaluation.load_state_dict(averaged)
    assert (
        prepared.task.evaluate(evaluation, prepared.splits.val).figures["accuracy"]
        == told.scores[-1]
    )


def test_patience_stops_and_the_best_weights_are_restored(fit, tiny):
    recipe = tiny(epochs=50, lr=0.02, schedule="constant", patience=3, evaluate_every=0.5)
    weights, told = fit(recipe)
    assert len(told.scores) < 100
    best = int(np.argmax(told.scores))
    assert len(told.scores) == best + 4, "three evaluations without gain after the best one"
    assert any(note.startswith("stopped early at step") for note in told.notes)
    prepared = prepare(recipe, Watcher())
    network = prepared.task.networks["classifier"]
    network.load_state_dict(weights)
    assert (
        prepared.task.evaluate(network, prepared.splits.val).figures["accuracy"]
        == told.scores[best]
    )


@pytest.mark.parametrize("how", [{"keep": "best"}, {"patience": 9}, {}])
def test_where_validation_chose_the_weights_the_figure_is_said_to_flatter(
    tiny, train_in, tmp_path, how
):
    folder = train_in(tmp_path / "run", tiny(epochs=2, evaluate_every=0.25, **how))
    evaluation = folder.read("evaluation.json")
    if not how:
        assert "chosen_by_validation" not in evaluation
        return
    said = evaluation["chosen_by_validation"]
    assert re.search(
        r"the best of [89] evaluations on validation, so the validation figure is slightly optimistic",
        said,
    )
    assert said in verdict_line(evaluation)
    assert said in write_report(folder.path).read_text(encoding="utf-8")


@pytest.mark.machines
@pytest.mark.parametrize("keep", ["last", "best"])
def test_keep_decides_which_weights_remain(fit, tiny, keep):
    recipe = tiny(
        epochs=4, optimizer="sgd", lr=1.0, schedule="constant", evaluate_every=0.25, keep=keep
    )
    weights, told = fit(recipe)
    assert told.scores[-1] < max(told.scores), "the example shows nothing"
    prepared = prepare(recipe, Watcher())
    network = prepared.task.networks["classifier"]
    network.load_state_dict(weights)
    score = prepared.task.evaluate(network, prepared.splits.val).figures["accuracy"]
    assert score == (max(told.scores) if keep == "best" else told.scores[-1])


def test_smaller_images_first(fit, tiny):
    recipe = tiny(
        steps=6, model="small-filters", model_options={"widths": [8]}, resolutions=[[0, 8]]
    )
    plain = recipe.replace(resolutions=[])
    assert fit(recipe)[1].losses == fit(plain)[1].losses, "the full size is the same as none"
    grown = tiny(
        steps=6, model="fast-cnn", model_options={"widths": [8, 8]}, resolutions=[[0, 6], [0.5, 8]]
    )
    assert fit(grown)[1].losses != fit(grown.replace(resolutions=[]))[1].losses


def test_the_hardest_images_of_a_batch_are_those_with_the_largest_loss(tiny):
    recipe = tiny(
        steps=1, batch_size=64, model="fast-cnn", model_options={"widths": [8, 8]}, hardest=0.25
    )
    prepared = prepare(recipe, Watcher())
    task = prepared.task
    assert isinstance(task, Classify)
    network = task.networks["classifier"].train()
    task.start(prepared.splits.train)
    batch = prepared.splits.train.take(torch.arange(64))
    before = copy.deepcopy(network.state_dict())

    network.eval()
    with torch.no_grad():
        images = task.normalise(batch.images)
        losses = cross_entropy(network(images), batch.targets, reduction="none")
    network.train()
    assert list(task._hardest(images, batch.targets)) == sorted(losses.argsort()[-16:].tolist())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())

    chosen = torch.tensor(sorted(losses.argsort()[-16:].tolist()))
    context = StepContext(0, 0, 0.0, torch.Generator().manual_seed(0))
    loss, _ = task.loss(task.phases[0], batch, context)
    network.load_state_dict(before)
    expected = cross_entropy(network(images[chosen]).float(), batch.targets[chosen])
    torch.testing.assert_close(loss, expected)


# ---- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_advice_and_keeps_the_checkpoint(
    tiny, train_in, tmp_path, monkeypatch
):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    recipe = tiny(steps=50, optimizer="sgd", lr=1e30, warmup=0.9)
    with pytest.raises(UserError, match="not finite after step") as error:
        train_in(tmp_path / "run", recipe)
    message = str(error.value)
    assert "lr=2e+29" in message
    assert "clip=1" in message
    assert "The last good checkpoint is kept." in message
    run = RunFolder.open(tmp_path / "run")
    assert run.status["state"] == "failed"
    from tintype.runs.checkpoint import load_checkpoint

    state, warnings = load_checkpoint(run.path / "checkpoints")
    assert warnings == []
    assert all(bool(w.isfinite().all()) for w in state["networks"]["classifier"].values())
    assert not (run.path / "model.safetensors").exists()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_diverging_in_the_last_step_is_told_too(tiny, train_in, tmp_path, steps):
    """The loss of a step is measured before its update, so weights may be ruined while all losses
    were finite.
    """
    recipe = tiny(steps=steps, optimizer="sgd", lr=1e38, momentum=0.0, schedule="constant")
    with pytest.raises(UserError, match="not finite"):
        train_in(tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_batch_larger_than_the_training_set_is_the_training_set(fit, tiny):
    _, told = fit(tiny(steps=2, batch_size=100_000))
    assert len(told.losses) == 2


@pytest.mark.parametrize("model", ["ann", "cnn", "deep-cnn", "fast-cnn", "resnet", "small-filters"])
def test_batches_of_one_image_train_or_are_refused(fit, tiny, model):
    options = {"cnn": {"widths": [4], "hidden": [4], "batch_norm": True}}.get(model, {})
    recipe = tiny(steps=2, batch_size=1, model=model, model_options=options)
    if model in ("ann", "small-filters"):
        assert len(fit(recipe)[1].losses) == 2
    else:  # batch norm
        with pytest.raises(UserError, match="Try a larger batch_size="):
            fit(recipe)


@pytest.mark.usefixtures("short_reports")
def test_the_accuracy_of_training_batches_is_that_of_their_images(tmp_path, tiny):
    """With weights that stand still and all images in one batch, it is the accuracy on the training
    images.
    """
    still = {
        "lr": 1e-20,
        "optimizer": "sgd",
        "schedule": "constant",
        "weight_decay": 0.0,
        "precision": "fp32",
    }
    recipe = tiny(**still, steps=2, batch_size=5000, evaluate_every=1, clean_sample=5000)
    run = api.train(recipe, out=tmp_path, name="still", watcher=Watcher())
    reached = run.read("evaluation.json")["splits"]["train"]["accuracy"]

    for row in run.history:
        assert row["train_accuracy"] == pytest.approx(reached, abs=1e-6)
        assert row["clean_train_accuracy"] == pytest.approx(reached, abs=1e-6)
        assert row["clean_train_loss"] > 0


@pytest.mark.usefixtures("short_reports")
def test_the_clean_sample_is_measured_without_augmentation_and_survives_a_resume(tmp_path, tiny):
    recipe = tiny(epochs=3, augment={"translate": 3}, clean_sample=100)
    run = api.train(recipe, out=tmp_path, name="sample", watcher=Watcher())
    measured = [row for row in run.history if row["val_accuracy"] is not None]
    assert len(measured) == 3
    assert all(
        100 * row["clean_train_accuracy"] == pytest.approx(round(100 * row["clean_train_accuracy"]))
        for row in measured
    )

    without = api.train(
        recipe.replace(clean_sample=0), out=tmp_path, name="without", watcher=Watcher()
    )
    assert (run.path / "model.safetensors").read_bytes() == (
        without.path / "model.safetensors"
    ).read_bytes()
    assert "clean_train_accuracy" not in without.history[0]
