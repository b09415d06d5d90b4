"""Settings that belong together come from one place, whichever of them the user sets; and time
bounds every training.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tintype import api
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import build, options_of, recipe_names, resolve
from tintype.training import rate_and_length
from tintype.training.automatic import FINE_TUNE, HEAD
from tintype.training.bundles import (
    ADAPTIVE,
    LENGTH,
    UPDATE,
    USUAL,
    USUAL_PRETRAINED,
    Source,
    completed,
    default_of,
    settled,
)
from tintype.training.engine import Engine, Plan

pytestmark = pytest.mark.usefixtures("short_pages")

SOURCES = {
    "from scratch": Source("training from scratch", options_of("classify").from_scratch),
    "a head": Source("a head", HEAD, pretrained=True),
    "fine-tuning": Source("fine-tuning", FINE_TUNE, pretrained=True),
    "a generator": Source("a generator", options_of("generate").from_scratch),
    "a data set": Source("a data set", options_of("classify").data_set),
}
# Two values for each field: one that suits the source's optimizer at times, and one that seldom
# does.
VALUES: dict[str, tuple[Any, Any]] = {
    "optimizer": ("sgd", "muon"), "lr": (0.001, 0.3), "momentum": (0.5, 0.95), "betas": ((0.5, 0.9), (0.9, 0.95)),
    "weight_decay": (0.01, 0.1), "schedule": ("constant", "one-cycle"), "warmup": (0.05, 0.3), "epochs": (3.0, 50.0),
    "steps": (7, 900), "batch_size": (8, 128), "patience": (2, 9), "augment": ("none", "flips"),
    "label_smoothing": (0.0, 0.2), "tta": ("none", "flip-shift"), "ema": (0.9, 0.99),
}  # fmt: skip
PAIRS = [pair for pair in combinations(VALUES, 2) if set(pair) != {"epochs", "steps"}]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_what_is_set_stays_and_the_rest_comes_from_one_place(pair, source):
    for first in VALUES[pair[0]]:
        for second in VALUES[pair[1]]:
            given = {pair[0]: first, pair[1]: second}
            rest, choices = settled(given, source)
            assert settled(given, source) == (rest, choices), "it follows from what is given alone"
            assert not given.keys() & rest.keys()
            whole = {**rest, **given}
            build({key: value for key, value in whole.items() if value is not None}, where="")
            _check_update(given, whole, source)
            assert (whole["epochs"] is None) or (whole["steps"] is None)
            told = {choice.name for choice in choices}
            assert ("optimizer" in told) == (whole["optimizer"] != source.settings["optimizer"])


def _check_update(given: dict[str, Any], whole: dict[str, Any], source: Source) -> None:
    """Check that each field that was not set has the value of the optimizer's only source."""
    optimizer = whole["optimizer"]
    own = source.settings["optimizer"] == optimizer
    place = (
        source.settings if own else (USUAL_PRETRAINED if source.pretrained else USUAL)[optimizer]
    )
    for key in UPDATE:
        if key not in given and key != "optimizer":
            assert whole[key] == place.get(key, default_of(key)), key
    for key in LENGTH:
        if key not in given:
            length = key in ("epochs", "steps") and {"epochs", "steps"} & given.keys()
            assert whole[key] == (None if length else source.settings.get(key, default_of(key))), (
                key
            )


def test_a_rate_far_from_the_sources_own_is_no_rate_for_its_optimizer():
    assert settled({"lr": 0.001}, SOURCES["from scratch"])[0]["optimizer"] == "adamw"
    assert settled({"lr": 0.1}, SOURCES["from scratch"])[0]["optimizer"] == "muon"
    assert settled({"lr": "auto"}, SOURCES["from scratch"])[0]["optimizer"] == "muon"
    assert settled({"lr": 0.01, "momentum": 0.9}, SOURCES["from scratch"])[0]["optimizer"] == "sgd"
    assert settled({"lr": 0.01}, SOURCES["a head"])[0]["optimizer"] == "adamw"


def test_an_idle_field_is_told():
    choices = settled({"optimizer": "sgd", "betas": (0.9, 0.99)}, SOURCES["a head"])[1]
    assert [choice.choice for choice in choices if choice.name == "betas"] == ["without effect"]


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_stand_as_they_are(name):
    recipe = resolve(name)[0]
    stated = {field: getattr(recipe, field) for field in recipe.stated()}
    values, choices = completed(stated, {}, "the recipe")
    assert choices == []
    assert all(getattr(recipe, field) == value for field, value in values.items())


def test_another_optimizer_over_a_recipe_brings_its_own_rate():
    recipe = api.plan("digits", optimizer="adamw", watcher=Watcher()).recipe
    assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adamw", 1e-3, "cosine")
    muon = api.plan(
        build({"data": "digits", "model": "ann", "optimizer": "muon"}, where=""), watcher=Watcher()
    )
    assert muon.recipe.lr == USUAL["muon"]["lr"]
    assert any(choice.name == "lr" for choice in muon.choices)
    kept = api.plan("digits", lr=0.001, watcher=Watcher())
    assert (kept.recipe.optimizer, kept.recipe.lr) == (resolve("digits")[0].optimizer, 0.001)
    assert any("WARNING" in choice.reason for choice in kept.choices if choice.name == "lr")


@pytest.mark.slow
@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(
    "model",
    [
        "ann",
        "cnn",
        "small-filters",
        pytest.param("fast-cnn", marks=pytest.mark.exhaustive),
        pytest.param("resnet", marks=pytest.mark.exhaustive),
    ],
)
def test_any_model_learns_at_a_rate_of_one_thousandth(tmp_path, model):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for k in range(10):
        (tmp_path / "photos" / str(k)).mkdir(parents=True)
        for i in (digits.target == k).nonzero()[0][:40]:
            pixels = (digits.images[i] * (255 / 16)).round().astype("uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / str(k) / f"{i}.png")
    run = api.train(
        str(tmp_path / "photos"), model=model, lr=0.001, augment="none", tta="none", out=tmp_path, name="run", precision="fp32",
        watcher=Watcher(),
    )  # fmt: skip
    assert run.recipe.optimizer in ADAPTIVE
    assert run.metrics["train"]["accuracy"] > 0.6, "chance is 0.1"


# ---- time -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipes(tiny, digit_files, tmp_path) -> dict[str, Any]:
    """Recipes of each task, with many more steps than the time of a test allows."""
    gan = {"task": "generate", "model": "dcgan", "model_options": {"width": 8, "latent": 8}}
    x2 = resolve("photos-x2")[0].replace(
        steps=5000, batch_size=4, evaluate_every=50, device="cpu", precision="fp32"
    )
    return {
        "classify": tiny(epochs=5000, augment="light"),
        "unset": tiny(epochs=None, steps=None),
        "generate": tiny(
            **gan, steps=5000, batch_size=50, optimizer="adam", lr=0.001, evaluate_every=50
        ),
        "upscale": x2.replace(**{"model.width": 8}),
    }


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("task", ["classify", "unset", "generate", "upscale"])
def test_time_fixes_the_number_of_steps_once_and_leaves_the_run_as_if_it_had_been_given(
    recipes, tmp_path, monkeypatch, task
):
    timing = Engine.timing
    # the clock of no machine
    monkeypatch.setattr(Engine, "timing", lambda *a, **k: (timing(*a, **k), (1.0, 2.0))[1])
    monkeypatch.setattr(rate_and_length, "to_measure", _nothing_once(rate_and_length.to_measure))
    run = api.train(
        recipes[task].replace(time="12s"), out=tmp_path, name="bounded", watcher=Watcher()
    )
    assert run.recipe.time is None
    assert 1 <= run.recipe.steps <= 10
    told = next(
        choice for choice in run.read("environment.json")["choices"] if choice["name"] == "time"
    )
    assert told["choice"].startswith(f"{run.recipe.steps} of ")
    assert run.status["step"] == run.recipe.steps
    given = api.train(run.recipe, out=tmp_path, name="given", watcher=Watcher())
    assert (run.path / "model.safetensors").read_bytes() == (
        given.path / "model.safetensors"
    ).read_bytes()
    assert (run.path / "metrics.csv").read_bytes() == (given.path / "metrics.csv").read_bytes()


def _nothing_once(real: Any) -> Any:
    """Return `to_measure` that finds nothing to measure at its first call, which asks how long
    that takes.
    """
    calls: list[int] = []

    def found(splits: Any) -> Any:
        calls.append(1)
        return {} if len(calls) == 1 else real(splits)

    return found


@pytest.mark.usefixtures("short_reports")
def test_the_shorter_of_time_and_epochs_counts(tiny, tmp_path):
    run = api.train(tiny(epochs=1, time="1h"), out=tmp_path, name="run", watcher=Watcher())
    assert run.recipe.epochs == 1
    assert run.recipe.steps is None
    told = next(
        choice for choice in run.read("environment.json")["choices"] if choice["name"] == "time"
    )
    assert "they fit into 3600 s" in told["reason"]


@pytest.mark.parametrize(
    ("seconds", "step", "evaluation", "every", "steps"),
    [
        (10, 1, 0, 5, 10),
        (12, 1, 2, 10, 8),
        (0.1, 1, 0, 5, 1),
        (-5, 1, 1, 5, 1),
        (100, 0.5, 1, 2, 99),
    ],
)
def test_steps_that_fit(seconds, step, evaluation, every, steps):
    assert (
        rate_and_length.steps_within(seconds, step=step, evaluation=evaluation, every=every)
        == steps
    )


def test_a_run_under_way_for_which_time_had_no_effect_goes_on_as_it_was(
    tiny, train_in, tmp_path, monkeypatch
):
    class Stop(Watcher):
        def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
            if step > 10:
                raise UserError("stopped")

    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    # an earlier version
    monkeypatch.setattr(
        "tintype.training.run.within_time", lambda run, prepared, recipe, *_: recipe
    )
    recipe = tiny(epochs=3, time="1s")
    with pytest.raises(UserError, match="stopped"):
        train_in(tmp_path / "run", recipe, Stop())
    monkeypatch.undo()
    run = train_in(tmp_path / "run", recipe)
    assert run.recipe.time == "1s"
    assert run.status["step"] == Plan.of(recipe, 1258 - 180).total_steps or run.status["step"] > 30
