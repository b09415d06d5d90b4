"""Regression: what it learns from, and every command on one small run."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import nn

import tintype
from tintype import api
from tintype.data.source import Batch, DataSpec
from tintype.data.targets import Numbers
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import Recipe, build
from tintype.runs.folder import RunFolder
from tintype.tasks.regress.compare import absolute_errors
from tintype.tasks.regress.objective import (
    HUBER_FROM,
    SMALLEST_LOG_SCALE,
    regression_loss,
    scale_loss,
    split_outputs,
)
from tintype.tasks.regress.regressor import Regress
from tintype.tasks.regress.sets import turned
from tintype.tasks.regress.task import moments
from tintype.tasks.regress.transfer import StandardHead, fit_linear
from tintype.tasks.task import StepContext
from tintype.verbs.serve.app import make_app
from tintype.verbs.serve.loading import load
from tintype.verbs.share.card import make_card
from tintype.verbs.tune import tune

SPEC = DataSpec("test", 1, 8, 8, Numbers(("angle", "scale of angle")), (0.5,), (0.25,), "")


def _task(**settings) -> Regress:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    return Regress(
        network,
        SPEC,
        torch.device("cpu"),
        **{"columns": ["angle"], "mean": [1.0], "deviation": [2.0], **settings},
    )


def _batch(count: int = 64) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=draw)
    return Batch(images, torch.randn(count, 1, generator=draw), torch.arange(count))


def _context(seed: int = 0) -> StepContext:
    return StepContext(0, 0, 0.0, torch.Generator().manual_seed(seed))


# ---- mathematics --------------------------------------------------------------------------------


def test_losses_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(2, 50, 3, generator=draw)
    expected = {
        "mse": nn.MSELoss(),
        "mae": nn.L1Loss(),
        "huber": nn.SmoothL1Loss(beta=HUBER_FROM),
    }
    for kind, loss in expected.items():
        assert regression_loss(kind, predictions, targets) == loss(predictions, targets)


def test_the_scale_is_least_at_the_mean_absolute_residual() -> None:
    residuals = torch.randn(500, 1, generator=torch.Generator().manual_seed(1), requires_grad=True)
    log_scale = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = scale_loss(log_scale.expand(500, 1), residuals)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    assert log_scale.exp().item() == pytest.approx(residuals.abs().mean().item(), rel=1e-3)
    assert residuals.grad is None, "the scale would bend the numbers"


def test_numbers_are_standardised_inside_and_answered_in_their_unit() -> None:
    targets = torch.tensor([[10.0, 5.0], [20.0, 5.0], [60.0, 5.0]])
    mean, deviation = moments(targets)
    assert mean == [30.0, 5.0]
    assert deviation == [pytest.approx(targets[:, 0].std(correction=0).item()), 1.0]

    task = _task(mean=[30.0], deviation=[4.0])
    network = task.networks["regressor"]
    batch = _batch()
    numbers, scales = task.predict(network, batch.images)
    plain, log_scales = split_outputs(network(task.normalise(batch.images)))
    assert torch.allclose(numbers, plain * 4 + 30)
    assert torch.allclose(scales, log_scales.exp() * 4)
    assert torch.allclose(task.standardised(numbers), plain, atol=1e-5)


# ---- augmentation and angles --------------------------------------------------------------------


def test_a_flip_negates_an_angle() -> None:
    batch = _batch()
    images, angles, _ = _task(angle=True, augment={"flip": 0.4})._augmented(batch, _context())
    pairs = zip(batch.images, images, strict=True)
    mirrored = [torch.equal(before.flip(2), after) for before, after in pairs]

    assert 0.2 < np.mean(mirrored) < 0.6
    assert (angles == -batch.targets)[:, 0].tolist() == mirrored


def test_a_flip_leaves_other_numbers_alone() -> None:
    batch = _batch()
    images, numbers, _ = _task(augment="standard")._augmented(batch, _context())
    assert not torch.equal(images, batch.images)
    assert torch.equal(numbers, batch.targets)


def test_mixed_images_have_mixed_numbers() -> None:
    batch = _batch()
    _, numbers, _ = _task(augment={"mixup": 1.0})._augmented(batch, _context())
    assert not torch.equal(numbers, batch.targets)
    assert batch.targets.min() <= numbers.min()
    assert numbers.max() <= batch.targets.max()


@pytest.mark.parametrize("augment", ["rotations", "flips", {"affine": True}, {"mixup": 0.2}])
def test_augmentations_that_angles_cannot_follow_are_refused(augment) -> None:
    with pytest.raises(UserError, match="would make the angles wrong"):
        _task(angle=True, augment=augment)


# ---- a linear head on features ------------------------------------------------------------------


def _features() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(120, 10, generator=draw) * 3 + 5
    wanted = (
        features[:, :2] - 5 + torch.randn(120, 2, generator=draw) * (features[:, 2:3].abs() / 8)
    )
    return features, (wanted - wanted.mean(0)) / wanted.std(0)


def test_the_linear_head_is_ridge_regression_by_leave_one_out() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    features, wanted = _features()
    fit = fit_linear(features, wanted)
    x = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    for k in range(2):
        ridge = Ridge(float(fit.penalties[k])).fit(x, wanted[:, k].numpy())
        assert np.allclose(ridge.coef_, fit.weight[k].numpy(), atol=1e-4)

        left_out = cross_val_predict(ridge, x, wanted[:, k].numpy(), cv=LeaveOneOut())
        off = np.maximum(abs(left_out - wanted[:, k].numpy()), np.exp(SMALLEST_LOG_SCALE))
        scale = Ridge(float(fit.penalties[2 + k])).fit(x, np.log(off))
        assert np.allclose(scale.coef_, fit.weight[2 + k].numpy(), atol=1e-3)


def test_the_standardisation_is_folded_into_the_head() -> None:
    features, wanted = _features()
    head = StandardHead(10, 4)
    head.take(fit_linear(features, wanted))
    plain = head.plain()
    assert torch.allclose(plain(features), head(features), atol=1e-4)


# ---- turned pictures ----------------------------------------------------------------------------


def test_turned_digits_are_turned_by_their_angle() -> None:
    images = turned.load("turned-digits")
    assert images.pixels.shape == (1797, 32, 32, 1)
    assert images.target.names == ("degrees",)
    assert -45 <= images.targets.min() < -44
    assert 44 < images.targets.max() <= 45

    upright = turned._turned_digit(np.outer(np.arange(8), np.ones(8)) * 2, 0.0).astype(float)
    left = turned._turned_digit(np.outer(np.arange(8), np.ones(8)) * 2, 45.0).astype(float)
    # Brighter downwards; turned to the left (counterclockwise), brighter to the lower right.
    assert upright[20:, :].sum() > 2 * upright[:12, :].sum()
    assert left[16:, 16:].sum() > 2 * left[:16, :16].sum()
    assert left[16:, :16].sum() == pytest.approx(left[:16, 16:].sum(), rel=0.05)


def test_no_corner_tells_the_angle() -> None:
    """A photo of one colour stays one: what is kept lay inside before it was turned."""
    white = np.full((91, 91, 3), 255, np.uint8)
    for angle in (-45.0, 13.0, 45.0):
        assert (turned.turned_inside(white, angle, 64) == 255).all()
    digits = turned.load("turned-digits").pixels
    assert not digits[:, :4, :4].any()


def test_photos_are_turned_in_groups(tmp_path) -> None:
    for number in range(3):
        Image.new("RGB", (120, 100), (80 * number, 100, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = turned.load("turned-photos", data_root=str(tmp_path), image_size=32)

    assert images.pixels.shape == (3 * turned.TURNS, 32, 32, 3)
    assert images.groups is not None
    assert sorted(set(images.groups.tolist())) == ["0.png", "1.png", "2.png"]
    assert len(np.unique(images.targets)) == len(images.targets)
    assert [name for name, _ in images.skipped] == ["broken.jpg"]
    with pytest.raises(UserError, match="data_root='FOLDER'"):
        turned.load("turned-photos")


# ---- every command on a small run ---------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 200 pictures of a square, with its side and its light."""
    root = tmp_path_factory.mktemp("squares")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(200):
        side, light = int(draw.integers(2, 11)), int(draw.integers(60, 250))
        pixels = draw.integers(0, 20, (12, 12)).astype(np.uint8)
        top, left = draw.integers(0, 13 - side, 2)
        pixels[top : top + side, left : left + side] = light
        Image.fromarray(pixels).save(root / f"{number:03d}.png")
        rows.append([f"{number:03d}.png", side, light])

    with (root / "squares.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["path", "side", "light"], *rows])
    return root / "squares.csv"


def recipe(data: Path, **changes) -> Recipe:
    fields = {
        "task": "regress", "data": str(data), "columns": ["side", "light"], "model": "ann",
        "model_options": {"hidden": [64]}, "epochs": 30, "batch_size": 20, "lr": 0.01, "device": "cpu",
        "precision": "fp32", "val_fraction": 0.2,
    }  # fmt: skip
    return build({**fields, **changes}, where="")


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A finished run on squares, with its report. Tests must not change it."""
    out = tmp_path_factory.mktemp("runs")
    return api.train(recipe(squares), out=out, name="squares", watcher=Watcher())


def _rows(run: api.Run, split: str = "test") -> list[dict[str, str]]:
    with (run.path / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["split"] == split]


def test_a_run_writes_down_numbers_intervals_and_a_verdict(run: api.Run) -> None:
    evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    figures = evaluation["splits"]["test"]
    rows = _rows(run)
    for each in figures["per_column"]:
        name = each["column"]
        target, prediction = (
            np.array([float(row[f"{kind} {name}"]) for row in rows])
            for kind in ("target", "prediction")
        )
        expected = sklearn_metrics.mean_absolute_error(target, prediction)
        assert each["mae"] == pytest.approx(expected, rel=1e-4)
        assert each["r2"] == pytest.approx(sklearn_metrics.r2_score(target, prediction), abs=1e-3)
    assert figures["relative_mae"] < 0.6
    assert evaluation["verdict"]["word"] in ("fits", "overfits")

    for each in evaluation["intervals"]["test"]:
        name = each["column"]
        inside = [
            float(row[f"low {name}"]) <= float(row[f"target {name}"]) <= float(row[f"high {name}"])
            for row in rows
        ]
        assert each["coverage"] == pytest.approx(np.mean(inside))
        assert each["coverage"] > 0.75
    model = json.loads((run.path / "model.json").read_text(encoding="utf-8"))
    assert model["quantiles"] == evaluation["intervals"]["quantiles"]


def test_splits_cover_the_range_and_the_report_shows_every_part(run: api.Run) -> None:
    sides = [{row["target side"] for row in _rows(run, split)} for split in ("val", "test")]
    assert min(map(len, sides)) >= 8
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for title in (
        "Predicted and true",
        "Predictive intervals",
        "Worst mistakes",
        "Training curves",
    ):
        assert title in page
    assert "left out, since files of the run are damaged" not in page
    assert run.figures.agreement() is not None


@pytest.fixture(scope="module")
def smaller(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run on the same images that hardly learns. Tests must not change it."""
    changes = {"model_options": {"hidden": [1]}, "epochs": 1}
    out = tmp_path_factory.mktemp("runs")
    return api.train(recipe(squares, **changes), out=out, name="smaller", watcher=Watcher())


def test_evaluate_gives_the_figures_of_the_run(run: api.Run, squares: Path) -> None:
    evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    figures = run.evaluate(split="val")
    assert figures["mae"] == pytest.approx(evaluation["splits"]["val"]["mae"])
    assert 0.7 < figures["coverage"] <= 1

    other = run.evaluate(data=str(squares))
    assert other["num_images"] == 200
    assert other["seen"]["train"] == evaluation["splits"]["train"]["num_images"]
    assert other["without_seen"]["mae"] == pytest.approx(evaluation["splits"]["test"]["mae"])


def test_answers_are_those_of_the_run_in_python_in_files_and_exported(
    run: api.Run, squares: Path, say, tmp_path: Path
) -> None:
    row = _rows(run)[0]
    photo = squares.parent / row["name"]
    answer: Any = run.predict(photo)
    for name, each in answer.to_dict().items():
        for key, column in (("value", "prediction"), ("low", "low"), ("high", "high")):
            assert each[key] == pytest.approx(float(row[f"{column} {name}"]), rel=1e-3)
    assert "side" in str(answer)

    exported = tmp_path / "squares.onnx"
    code, output, errors = say("export", run.path, "--out", exported)
    assert code == 0, errors
    assert "largest difference" in output
    for model, name in ((run.path, "run.csv"), (exported, "exported.csv")):
        code, _, errors = say("predict", model, photo, "--out", tmp_path / name)
        assert code == 0, errors
        with (tmp_path / name).open(newline="", encoding="utf-8") as lines:
            (found,) = csv.DictReader(lines)
        for column in ("value side", "low side", "high light"):
            kind, _, number = column.partition(" ")
            expected = answer.to_dict()[number][kind]
            assert float(found[column]) == pytest.approx(expected, rel=1e-3)

    assert say("predict", run.path, photo, "--abstain")[0] == 2
    assert say("predict", run.path, photo, "--top", "2")[0] == 2


def test_the_better_run_is_found_by_paired_differences(run: api.Run, smaller: api.Run) -> None:
    comparison = tintype.compare([smaller.path, run.path])
    (group,) = comparison.groups
    (pair,) = group.pairs
    assert group.best == "squares"
    assert pair.shown
    assert pair.estimate < 0
    assert "lowest relative MAE" in group.conclusion

    errors = absolute_errors(group.runs)
    expected = stats.ttest_rel(errors[0], errors[1])
    assert pair.p == pytest.approx(expected[1])
    assert pair.more["wilcoxon_p"] == pytest.approx(stats.wilcoxon(errors[0], errors[1])[1])
    assert len(comparison.sections()) >= 3


def test_a_study_and_a_tuning_choose_by_the_error(
    squares: Path, tmp_path: Path, short_reports
) -> None:
    declared = {
        "recipe": recipe(squares, epochs=3).model_dump(mode="json", exclude_unset=True),
        "vary": {"loss": ["mse", "huber"]},
        "seeds": 2,
    }
    study = tintype.study(declared, out=tmp_path, name="losses", watcher=Watcher())
    result = study.result()
    assert result is not None
    assert result.measure.key == "relative_mae"
    assert len(study.table()) == 4
    assert (study.path / "study.html").is_file()

    search = {"lr": {"low": 0.001, "high": 0.02, "log": True}}
    tuning = tune(
        recipe(squares, epochs=2, search=search), trials=2, seeds=1, out=tmp_path, name="tuned",
        watcher=Watcher(),
    )  # fmt: skip
    assert tuning.best is not None
    assert tuning.measure.key == "relative_mae"


def test_a_card_says_what_is_answered_and_what_is_kept(run: api.Run) -> None:
    card = make_card(RunFolder(run.path))
    assert "side and light" in card
    assert "| test | 41 |" in card
    assert "intervals meant to hold 90%" in card


def test_the_service_answers_as_python_does(run: api.Run, squares: Path) -> None:
    served = load("squares", run.path, "cpu", 1)
    assert served.describe()["columns"] == ["side", "light"]
    assert "side and light" in served.sentence()
    content = (squares.parent / "000.png").read_bytes()
    with TestClient(make_app([served]), base_url="http://127.0.0.1") as client:
        assert "KINDS.regress" in client.get("/static/page.js").text
        answer = client.post(
            "/v1/numbers", content=content, headers={"content-type": "image/png"}
        ).json()
    (item,) = answer["predictions"]
    expected: Any = run.predict(content)
    assert item["numbers"] == expected.to_dict()


def test_images_that_chose_the_weights_do_not_calibrate_the_intervals(
    squares: Path, train_in, tmp_path: Path
) -> None:
    chosen = recipe(squares, columns=["side"], epochs=3, keep="best", rules=2)
    folder = train_in(tmp_path / "best", chosen)
    evaluation = folder.read("evaluation.json")
    assert evaluation["validation"]["how"] == "halves"
    assert "20 calibrated the predictive intervals" in evaluation["validation"]["text"]
    assert evaluation["intervals"]["num_calibrated"] == 20
    assert list(_rows(api.Run(folder.path))[0])[3:] == ["target", "prediction", "low", "high"]


class Stop(Exception):
    """What a test stops a run by."""


class StopAt9(Watcher):
    """Raises when step 9 is logged, before the checkpoint of that step is written."""

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step >= 9:
            raise Stop


def test_a_stopped_run_goes_on_bit_equal(
    squares: Path, train_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    short = recipe(squares, columns=["side"], epochs=2, augment={"crop": 1, "mixup": 0.2})
    whole = train_in(tmp_path / "whole" / "run", short)
    with pytest.raises(Stop):
        train_in(tmp_path / "stopped" / "run", short, StopAt9())

    again = train_in(tmp_path / "stopped" / "run", short)
    for name in ("model.safetensors", "model.json", "predictions.csv", "metrics.csv"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize("tune", ["head", "exact", pytest.param("last:1", marks=pytest.mark.slow)])
def test_a_pretrained_backbone_learns_numbers(
    tune: str, squares: Path, train_in, tmp_path: Path
) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    weights = tmp_path / "resnet18.safetensors"
    network = resnet18()
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, weights)
    changes: dict[str, Any] = {"unfreeze": 0.5, "layer_decay": 0.5}
    if tune == "head":
        changes = {"views": 1}
    elif tune == "exact":
        tune, changes = "head", {"solver": "exact"}
    learned = recipe(
        squares, columns=["side"], model="resnet18", model_options={}, weights=str(weights),
        image_size=32, tune=tune, epochs=1, lr=1e-4, augment={"crop": 1}, **changes,
    )  # fmt: skip
    folder = train_in(tmp_path / "run", learned)
    figures = folder.read("evaluation.json")["splits"]
    assert figures["train"]["relative_mae"] < 0.8
    answer: Any = api.Run(folder.path).predict(squares.parent / "000.png")
    assert answer.columns == ("side",)


def test_it_is_said_if_training_undoes_what_a_backbone_brought(
    squares: Path, train_in, tmp_path: Path
) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    weights = tmp_path / "resnet18.safetensors"
    save_file({name: t.contiguous() for name, t in resnet18().state_dict().items()}, weights)
    learned = recipe(
        squares, columns=["side"], model="resnet18", model_options={}, weights=str(weights),
        image_size=32, tune="last:1", epochs=1,
    )  # fmt: skip

    warnings = {}
    for lr in (1e-6, 1e-3):
        folder = train_in(tmp_path / str(lr), learned.replace(lr=lr))
        warnings[lr] = folder.read("evaluation.json")["warnings"]
    assert warnings[1e-6] == []
    (line,) = warnings[1e-3]
    assert re.search(r"R² -.* on validation, R² 0\.\d+ before the first step", line)

    with pytest.raises(UserError, match=r"r2 is -.* training has diverged. Try a lower lr="):
        train_in(tmp_path / "diverged", learned.replace(lr=1.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": ["age"]}, "age"),
        ({"head": [8]}, "linear head"),
        ({"level": 1.5}, "level"),
        ({"loss": "hinge"}, "loss"),
        ({"model": "dcgan"}, "generate"),
        ({"pattern": "*.png"}, "no place for a number"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(changes, says: str, squares: Path) -> None:
    with pytest.raises(UserError, match=says):
        api.plan(recipe(squares, **changes), watcher=Watcher())


def test_names_of_photos_can_say_the_numbers_on_the_command_line(tmp_path: Path, tt) -> None:
    for i in range(40):
        Image.new("L", (8, 8), 6 * i).save(tmp_path / f"{6 * i}_{i}.png")

    dry = ("--set", "task=regress", "--dry-run", "--weights", "none", "--device", "cpu")
    code, output, errors = tt("train", tmp_path, "--set", "pattern={light}_*.png", *dry)
    assert code == 0, errors
    assert "stratified by quantiles of light" in errors + output

    code, _, errors = tt("train", tmp_path, *dry)
    assert code == 2
    assert "no numbered folders" in errors
    assert "'{value}_*.jpg'" in errors


def test_a_table_can_be_learned_from_the_command_line(squares: Path, tt) -> None:
    code, output, errors = tt(
        "train", squares, "--set", "task=regress", "--set", "columns=side", "--epochs", 1,
        "--weights", "none", "--device", "cpu", "--name", "typed",
    )  # fmt: skip
    assert code == 0, errors
    assert "stratified by quantiles of side" in errors + output


def test_a_backbone_is_chosen_and_timed_as_it_is_for_classes(squares: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    weights = tmp_path / "resnet18.safetensors"
    tensors = resnet18().state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    named = {"task": "regress", "columns": ["side"], "weights": str(weights), "image_size": 32}
    prepared = api.plan(str(squares), watcher=Watcher(), device="cpu", **named)
    assert prepared.recipe.model == "resnet18"
    assert prepared.recipe.fields()["tune"] == "head"


def test_another_seed_computes_no_features_of_the_photos(squares, train_in, tmp_path, monkeypatch):
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    from tintype.tasks.frozen import FrozenBackbone

    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    computed: list[int] = []
    compute = FrozenBackbone.compute

    def counted(self, images):
        computed.append(len(images))
        return compute(self, images)

    monkeypatch.setattr(FrozenBackbone, "compute", counted)
    torch.manual_seed(0)
    weights = tmp_path / "resnet18.safetensors"
    save_file({name: t.contiguous() for name, t in resnet18().state_dict().items()}, weights)
    learned = recipe(
        squares, columns=["side"], model="resnet18", model_options={}, weights=str(weights),
        image_size=32, tune="head", epochs=1, lr=1e-4,
    )  # fmt: skip

    train_in(tmp_path / "first", learned)
    assert sum(computed) > 100
    computed.clear()
    train_in(tmp_path / "second", learned.replace(seed=learned.seed + 1))
    assert computed == []


def test_the_way_out_of_a_run_on_numbers(run: api.Run, squares: Path) -> None:
    files = [squares.parent / f"{number:03d}.png" for number in range(5)]
    outputs = run.model(torch.stack([run.preprocess(file) for file in files])).detach()
    head = [layer for layer in run.model.modules() if isinstance(layer, nn.Linear)][-1]
    torch.testing.assert_close(head(torch.from_numpy(run.embed(files))).detach(), outputs)

    description = run.read("model.json")
    mean, deviation = (np.array(description[key]) for key in ("target_mean", "target_deviation"))
    numbers = outputs[:, :2].numpy() * deviation + mean
    np.testing.assert_allclose([each.values for each in run.predict(files)], numbers, rtol=1e-5)
    assert run.class_names == ()
    with pytest.raises(UserError, match=r"knows no classes .* Use run\.predict\."):
        run.predict_proba(files)


def test_numbers_are_shown_and_listed(run: api.Run, squares: Path) -> None:
    files = [squares.parent / f"{number:03d}.png" for number in range(3)]
    answers = run.predict(files)
    assert str(answers[0]).split(", ")[0] in answers[0]._repr_html_()
    assert answers[0]._repr_html_().count("<img") == 1
    assert repr(answers[0]) == f"NumberPrediction({str(files[0])!r}: {answers[0]})"
    row = answers[0].to_row()
    assert (row["name"], row["value side"]) == (str(files[0]), answers[0].values[0])
    with pytest.raises(UserError, match="there is no file"):
        run.predict(squares.parent / "gone.png")
    with pytest.warns(UserWarning, match="1 of 2 images"):
        answers = run.predict([files[0], squares.parent / "gone.png"])
    assert np.isnan(answers[1].value)
    assert "there is no file" in answers[1]._repr_html_()
