"""What a recipe can say of pixels, schedules, early stopping, pooling, objectives and pairs,
against plain PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
import torchvision.transforms.functional as TF
from torch import nn
from torch.optim import lr_scheduler

from tintype import api
from tintype.data.source import Batch, DataSpec
from tintype.data.targets import Classes, NoTarget
from tintype.errors import UserError
from tintype.models import build_model
from tintype.models.parts import resample
from tintype.optim import lr_factor
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.tasks import losses
from tintype.tasks.classify.task import Classify
from tintype.tasks.contract.prediction import Prediction
from tintype.tasks.generate.objective import Objective
from tintype.tasks.upscale.task import Upscale
from tintype.training.engine import Plan
from tintype.training.prepare import prepare
from tintype.verbs.export import export_run

pytestmark = pytest.mark.usefixtures("short_pages")

CPU = torch.device("cpu")
RED_GREEN_BLUE = DataSpec("", 3, 32, 32, Classes(tuple("abcdefghij")), (), (), "")


# ---- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["none", "scale", "mean-std", None])
def test_pixels_are_normalised_as_the_recipe_says(tiny, how):
    prepared = prepare(tiny(normalise=how), Watcher())
    train = prepared.splits.train
    pixels = train.take(torch.arange(len(train))).images.float()

    expected = {"none": pixels, "scale": pixels / 255}.get(
        how, (pixels - pixels.mean()) / pixels.std()
    )
    assert isinstance(prepared.task, Classify)
    torch.testing.assert_close(prepared.task.normalise(pixels), expected, atol=1e-3, rtol=1e-5)


def test_a_backbone_has_its_own_statistics_unless_the_recipe_says_otherwise(
    tiny, train_in, tmp_path
):
    first = train_in(tmp_path / "first", tiny(epochs=1))
    again = {"weights": str(first.path), "epochs": 1}
    own = tuple(first.read("model.json")["preprocessing"]["mean"])
    assert prepare(tiny(**again), Watcher()).task.spec.mean == own
    assert prepare(tiny(**again, normalise="scale"), Watcher()).task.spec.mean == (0.0,)


@pytest.mark.parametrize(("how", "by"), [("none", 1), ("scale", 255)])
def test_the_preprocessing_travels_with_the_model(tiny, train_in, tmp_path, how, by):
    """Predictions and the exported file are the network's answers to pixels / 255 alone, or to
    pixels alone.
    """
    run = train_in(tmp_path / "run", tiny(normalise=how, epochs=1))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)

    from safetensors.torch import load_file

    network = build_model(
        "ann", DataSpec("", 1, 8, 8, Classes(tuple("0123456789")), (), (), ""), {"hidden": [16]}, 0
    )
    network.load_state_dict(load_file(run.path / "model.safetensors"))
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / by
    with torch.no_grad():
        expected = torch.softmax(network(inputs) / run.read("model.json")["temperature"], 1).numpy()

    for picture, probabilities in zip(pixels, expected, strict=True):
        answer = api.Run(run.path).predict(picture[:, :, 0])
        assert isinstance(answer, Prediction)
        np.testing.assert_allclose(answer.probs, probabilities, atol=1e-4)
    exported = export_run(api.Run(run.path), out=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": pixels.repeat(3, axis=3)})[0]
    np.testing.assert_allclose(np.asarray(got), expected, atol=1e-4)


def test_a_task_with_its_own_range_of_pixels_takes_no_other(tiny):
    with pytest.raises(UserError, match="normalise has no effect on task upscale"):
        prepare(
            tiny(task="upscale", data="photos", model="srcnn", model_options={}, normalise="scale"),
            Watcher(),
        )


# ---- the schedule of steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milestones", [[2, 5], [0.25, 0.625]])
def test_milestones_agree_with_torch(milestones):
    """Eight epochs of seven steps: the rate is multiplied by 0.3 after the second and after the
    fifth epoch.
    """
    recipe = Recipe(
        epochs=8, batch_size=10, schedule="step", milestones=milestones, step_factor=0.3
    )
    plan = Plan.of(recipe, 70)
    assert plan.total_steps == 56

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.MultiStepLR(optimizer, milestones=[14, 35], gamma=0.3)
    theirs = []
    for _ in range(56):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    ours = [
        lr_factor("step", step / 56, milestones=plan.milestones, step_factor=0.3)
        for step in range(56)
    ]
    assert ours == pytest.approx(theirs)


def test_a_run_follows_its_milestones(tiny, train_in, tmp_path):
    run = train_in(
        tmp_path / "run",
        tiny(
            steps=12, schedule="step", milestones=[0.5], step_factor=0.2, lr=0.01, evaluate_every=9
        ),
    )
    rows = run.path.joinpath("metrics.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("lr")
    assert [float(row.split(",")[column]) for row in rows[1:]] == pytest.approx(
        [0.01] * 6 + [0.002] * 6
    )


def test_a_run_that_ends_sooner_keeps_the_parts_of_its_milestones(tiny, train_in, tmp_path):
    recipe = tiny(epochs=5000, time="1s", schedule="step", milestones=[4000], evaluate_every=200)
    run = train_in(tmp_path / "run", recipe)
    assert run.recipe.steps is not None
    assert run.recipe.milestones == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"schedule": "step", "epochs": 30, "milestones": [10, 30]},
            "beyond the end of the run, which has 30 epochs",
        ),
        ({"schedule": "step", "milestones": [5, 2]}, "milestones: must rise"),
        ({"schedule": "step", "milestones": [0.5, 2]}, "milestones: must rise"),
        ({"schedule": "step", "milestones": [0.0]}, "milestones: must rise"),
        ({"schedule": "step", "step_factor": 1.5}, "step_factor: .*less than 1"),
        (
            {"schedule": "cosine", "milestones": [0.5]},
            "belong to schedule: step, but the schedule is cosine",
        ),
        (
            {"schedule": "cosine", "step_factor": 0.5},
            "belongs to schedule: step, but the schedule is cosine",
        ),
        ({"monitor": "loss"}, "monitor has no effect without patience or keep: best"),
        ({"normalise": "255"}, "normalise: .*'none', 'scale' or 'mean-std'"),
    ],
)
def test_a_wrong_wish_is_one_line(fields: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said) as error:
        build(fields, where="")
    assert "\n" not in str(error.value)


def test_milestones_beyond_the_last_step_are_refused_before_a_folder_is_made(tt):
    code, _, errors = tt(
        "train",
        "digits-ann",
        "--steps",
        50,
        "--set",
        "schedule=step",
        "--set",
        "milestones=[10, 20]",
    )
    assert code == 2
    assert "beyond the end of the run, which has 50 steps or 2.54 epochs" in " ".join(
        errors.split()
    )
    assert not Path("runs").exists()


# ---- early stopping ---------------------------------------------------------------------------------------------------


def scores(run: Any, column: str) -> list[float]:
    rows = [
        line.split(",")
        for line in run.path.joinpath("metrics.csv").read_text(encoding="utf-8").splitlines()
    ]
    at = rows[0].index(column)
    return [float(row[at]) for row in rows[1:] if row[at]]


@pytest.mark.parametrize(
    ("monitor", "worse"), [("loss", 1), ("val_loss", 1), ("accuracy", -1), (None, -1)]
)
def test_a_run_stops_by_the_figure_that_it_monitors(tiny, train_in, tmp_path, monitor, worse):
    """Counted by hand from metrics.csv: it ends three evaluations after the best one, and has the
    weights of that one.
    """
    recipe = tiny(
        epochs=60, lr=0.03, schedule="constant", patience=3, evaluate_every=0.5, monitor=monitor,
        model_options={"hidden": [64]},
    )  # fmt: skip
    run = train_in(tmp_path / "run", recipe)
    column = "val_loss" if worse == 1 else "val_accuracy"
    measured = [worse * value for value in scores(run, column)]
    assert len(measured) < 120
    best = min(range(len(measured)), key=measured.__getitem__)
    assert len(measured) == best + 4

    said = run.read("evaluation.json")["chosen_by_validation"]
    assert ("those with the best" if monitor else "the best of") in said
    if worse == -1:
        assert run.read("evaluation.json")["splits"]["val"]["accuracy"] == pytest.approx(
            -measured[best]
        )


def test_a_figure_that_is_not_measured_is_refused(tt):
    code, _, errors = tt(
        "train", "digits-ann", "--set", "patience=3", "--set", "monitor=val_acuracy"
    )
    assert code == 2
    assert (
        "unknown figure to monitor on validation: 'acuracy'. Did you mean 'accuracy'"
        in " ".join(errors.split())
    )
    code, _, errors = tt("train", "photos-x2", "--set", "patience=3", "--set", "monitor=accuracy")
    assert code == 2
    assert "unknown figure to monitor on validation: 'accuracy'" in " ".join(errors.split())
    assert not Path("runs").exists()


def test_patience_that_cannot_end_a_run_is_said(tiny):
    choices = {c.name: c for c in prepare(tiny(epochs=3, patience=3), Watcher()).choices}
    assert choices["patience"].choice == "without effect"
    assert "patience" not in {
        c.name for c in prepare(tiny(epochs=3, patience=2), Watcher()).choices
    }


# ---- pooling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cnn", "deep-cnn", "small-filters"])
def test_pooling_is_by_the_largest_or_by_the_mean(model):
    """Where pooling is by the mean, each layer of it is torch's AvgPool2d, and none takes the
    largest.
    """
    largest = build_model(model, RED_GREEN_BLUE, {}, 0).eval()
    mean = build_model(model, RED_GREEN_BLUE, {"pooling": "average"}, 0).eval()
    for name, module in list(largest.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            largest.set_submodule(name, nn.AvgPool2d(2))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(largest(images), mean(images))
    assert not any(isinstance(module, nn.MaxPool2d) for module in mean.modules())
    with pytest.raises(UserError, match="unknown pooling 'mean', expected one of max, average"):
        build_model(model, RED_GREEN_BLUE, {"pooling": "mean"}, 0)


# ---- the objective of a GAN -------------------------------------------------------------------------------------------


def test_minimax_is_the_objective_as_it_is_written():
    real, fake = torch.randn(9), torch.randn(9)
    written = torch.log(torch.sigmoid(real)).mean() + torch.log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(losses.discriminator_loss("minimax", real, fake), -written)
    torch.testing.assert_close(
        losses.generator_loss("minimax", None, fake), torch.log(1 - torch.sigmoid(fake)).mean()
    )
    assert Objective("minimax").checked(True).loss == "minimax"
    assert Objective("saturating").checked(True).loss == "minimax"
    assert Objective("non-saturating").checked(True).loss == "bce"


def test_minimax_stays_finite_where_the_discriminator_is_sure():
    sure = torch.tensor([-200.0, 200.0], requires_grad=True)
    losses.generator_loss("minimax", None, sure).backward()
    assert sure.grad is not None
    torch.testing.assert_close(sure.grad, torch.tensor([0.0, -0.5]))


def test_a_generator_trains_by_the_objective_as_written(tiny, train_in, tmp_path):
    gan = {"task": "generate", "model": "dcgan", "model_options": {"width": 8, "latent": 8}}
    run = train_in(
        tmp_path / "run", tiny(**gan, task_options={"loss": "minimax"}, steps=4, evaluate_every=1)
    )
    generator = scores(run, "loss_generator")
    assert all(value < 0 for value in generator), "log(1 - D) is never above zero"


# ---- pairs ------------------------------------------------------------------------------------------------------------


def blocks() -> torch.Tensor:
    photo = skimage.data.chelsea()[60:124, 100:164]
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].repeat(16, 1, 1, 1)


def pairs(
    high: torch.Tensor, given: torch.Tensor | None = None, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    spec = DataSpec("", 3, 64, 64, NoTarget(), (), (), "")
    task = Upscale(build_model("srcnn", spec, {}, 0), spec, CPU, scale=2, **options)
    targets = torch.zeros(len(high), dtype=torch.int64) if given is None else given
    return task.pairs(
        Batch(high, targets, torch.arange(len(high))), torch.Generator().manual_seed(0)
    )


def test_patches_are_mirrored_left_to_right_alone():
    photos = blocks()
    low, high = pairs(photos, symmetries="flip")
    mirrored = [
        torch.equal(seen, photo.flip(2).float()) for seen, photo in zip(high, photos, strict=True)
    ]
    upright = [torch.equal(seen, photo.float()) for seen, photo in zip(high, photos, strict=True)]
    assert 0 < sum(mirrored) < 16
    assert sum(mirrored) + sum(upright) == 16
    assert torch.equal(low, resample.shrink(high, 2).float())


def test_colours_of_pairs_change_as_torchvision_changes_them(monkeypatch):
    photos = blocks()[:1]
    drawn = torch.tensor([[0.9], [0.2], [0.8], [0.7]])  # of brightness, contrast, saturation, hue
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    jitter = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "hue": 0.1}
    low, high = pairs(photos, symmetries=False, colour_jitter=jitter)

    expected = photos[0] / 255
    expected = TF.adjust_brightness(expected, 1 + 0.2 * 0.8)
    expected = TF.adjust_contrast(expected, 1 + 0.3 * -0.6)
    expected = TF.adjust_saturation(expected, 1 + 0.4 * 0.6)
    expected = TF.adjust_hue(expected, 0.1 * 0.4)
    assert float((high[0] / 255 - expected).abs().max()) < 1.5 / 255
    assert torch.equal(low, resample.shrink(high, 2).float())


def test_both_pictures_of_a_given_pair_change_alike():
    photos = blocks()
    given = resample.shrink(photos, 2)
    jitter = {"brightness": 0.1, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    low, high = pairs(photos, given, symmetries="flip", colour_jitter=jitter)
    again = resample.shrink(high.clamp(0, 255), 2).float()
    assert float((low - again)[:, :, 2:-2, 2:-2].abs().mean()) < 1
    assert len({tuple(image.flatten().tolist()) for image in high}) == 16


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "task.symmetries=horizontal",
            "task.symmetries: expected true, false, or flip",
        ),
        (
            "task.colour_jitter=-1",
            "task.colour_jitter: it must lie between 0 and 1, or a mapping such as",
        ),
        (
            "task.colour_jitter={hue: 0.9}",
            "task.colour_jitter: hue must lie between 0 and 0.5",
        ),
        ("task.colour_jitter={sharpness: 0.1}", "task.colour_jitter: unknown colour 'sharpness'"),
    ],
)
def test_a_wrong_wish_for_pairs_is_one_line(tt, option, said):
    code, _, errors = tt("train", "photos-x2", "--set", option)
    assert code == 2
    assert said in " ".join(errors.split())
