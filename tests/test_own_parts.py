"""Losses, metrics, augmentations, optimizers and watchers of the user's own, on digits."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn
from torchvision.transforms import v2

from tintype import api, own_code, plugins
from tintype.augment import Augment
from tintype.errors import OwnCodeError, StopTraining, UserError
from tintype.interface.watching import Start
from tintype.pages.report import write_report
from tintype.progress import Watcher
from tintype.recipe import NEW_RULES, Recipe, options_by_name
from tintype.runs.checkpoint import load_checkpoint
from tintype.runs.folder import RunFolder
from tintype.runs.summary import verdict_line
from tintype.tasks import losses

pytestmark = pytest.mark.usefixtures("short_reports")

FOCAL = """\
import torch


def focal(outputs, targets):
    own = -torch.log_softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
    return (1 - torch.exp(-own)) ** 2 * own
"""


def metrics_of(run: api.Run | RunFolder) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def weights_of(run: api.Run | RunFolder) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


# ---- losses --------------------------------------------------------------------------------------


def test_an_own_loss_trains_as_the_same_built_in_one(tiny, tmp_path: Path) -> None:
    def same(outputs: Tensor, targets: Tensor) -> Tensor:
        return losses.cross_entropy(outputs, targets)

    built_in = api.train(tiny(), out=tmp_path, name="built-in", watcher=Watcher())
    own = api.train(tiny(loss=same), out=tmp_path, name="own", watcher=Watcher())
    assert weights_of(own) == weights_of(built_in)
    assert own.recipe.fields()["loss"] == "python:same"

    # one number for each image, and a module of torch, are the same but for the last bits
    each = api.train(tiny(), loss=_each, out=tmp_path, name="each", watcher=Watcher())
    module = nn.CrossEntropyLoss()
    mean = api.train(tiny(), loss=module, out=tmp_path, name="mean", watcher=Watcher())
    for run in (each, mean):
        evaluation = run.read("evaluation.json")
        log_loss = evaluation["calibration"]["splits"]["test"]["loss_before"]
        assert evaluation["splits"]["test"]["own_loss"] == pytest.approx(log_loss, rel=1e-4)
        for row, expected in zip(metrics_of(run), metrics_of(built_in), strict=True):
            assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)


def _each(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def test_an_own_loss_is_a_figure_of_validation_and_test(tiny, tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(FOCAL, encoding="utf-8")
    run = api.train(
        tiny(), loss=f"{tmp_path}/my_loss.py", monitor="own_loss", keep="best", epochs=3,
        out=tmp_path, watcher=Watcher(),
    )  # fmt: skip
    figures = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["splits"]
    measured = [float(row["val_own_loss"]) for row in metrics_of(run) if row["val_own_loss"]]
    assert len(measured) == 3
    assert figures["test"]["own_loss"] < figures["test"]["loss"]  # as (1 - p)² makes it

    page = _equations_of(run)
    assert "own loss my_loss" in page


def _equations_of(run: api.Run) -> str:
    from tintype.tasks.classify.equations import equations_of

    return " ".join(each.who for each in equations_of(run.recipe.model_dump()))


@pytest.mark.parametrize("changes", [{"one_hot": True}, {"augment": {"mixup": 0.2}}])
def test_an_own_loss_is_given_one_hot_targets_where_images_are_mixed(
    tiny, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shapes = set()

    def soft(outputs: Tensor, targets: Tensor) -> Tensor:
        shapes.add(targets.shape[1:])
        return -(targets * outputs.log_softmax(1)).sum(1)

    api.train(tiny(epochs=1, **changes), loss=soft, out=tmp_path, watcher=Watcher())
    assert shapes == {(10,)}


class Centred(nn.Module):
    """A loss with a state: it subtracts a running mean of itself, which changes its figure alone."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, targets)
        self.mean.lerp_(loss.detach(), 0.1)
        return loss * (1 + self.mean)


@pytest.mark.usefixtures("checkpoints_at_every_step")
def test_the_buffers_of_a_loss_are_part_of_a_checkpoint(tiny, train_in, tmp_path: Path) -> None:
    recipe = tiny(loss=Centred)
    whole = train_in(tmp_path / "whole", recipe)

    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "parts", recipe, _Stop(at=7))
    resumed = train_in(tmp_path / "parts", recipe)
    assert weights_of(resumed) == weights_of(whole)
    assert (resumed.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()


class _Stop(Watcher):
    """Ends the process, so to speak, at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_row(self, row: dict[str, Any]) -> None:
        if row["step"] == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def checkpoints_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)


def test_what_the_settings_of_a_bundle_would_add_is_left_out(tmp_path: Path) -> None:
    prepared = api.plan("digits", loss=_each, watcher=Watcher(), device="cpu")
    assert prepared.recipe.fields()["label_smoothing"] == 0
    assert any(choice.name == "label smoothing" for choice in prepared.choices)
    with pytest.raises(UserError, match="label_smoothing has no effect here"):
        api.plan("digits", loss=_each, label_smoothing=0.2, watcher=Watcher(), device="cpu")


def _detached(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.detach(), targets)


def _number(outputs: Tensor, targets: Tensor) -> float:
    return float(F.cross_entropy(outputs.detach(), targets))


def _wide(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


def _nan(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean() * float("nan")


def _fails(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("no such class")


def _elsewhere(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.zeros((), requires_grad=True) * 1


class _Weighted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(10, 10)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (_detached, "gives no gradient"),
        (_number, "returns a float"),
        (_wide, r"returns shape \(8, 10\) for 8 images"),
        (_nan, "is not finite"),
        (_fails, "loss _fails fails with RuntimeError: no such class"),
        (_elsewhere, "does not depend on the outputs"),
        (_Weighted, "has weights of its own"),
        ("hinge", "loss: expected cross-entropy"),
        ("absent.py", "there is no file"),
        ("json:dumpz", "unknown loss in json"),
    ],
)
def test_a_loss_that_cannot_be_one_is_refused_before_a_folder_is_made(
    tiny, tmp_path: Path, loss: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        api.train(tiny(), loss=loss, out=tmp_path / "runs", watcher=Watcher())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_the_command_line_shows_the_traceback_of_an_own_loss(tt, tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "def loss(outputs, targets):\n    return 1 / 0\n", encoding="utf-8"
    )
    code, _, errors = tt("train", "digits", "--loss", "my_loss.py", "--device", "cpu")
    assert code == 2
    before, _, line = errors.strip().rpartition("\n")
    assert line == "error: the loss my_loss fails with ZeroDivisionError: division by zero."
    assert "return 1 / 0" in before
    assert "tintype/tasks" not in before
    assert not Path("runs").exists()


def test_a_loss_of_numbers_is_given_deviations(tmp_path: Path) -> None:
    seen = []

    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((outputs.shape[1], float(targets.mean())))
        return (outputs - targets).square()[:, 0]

    fields = {
        "task": "regress", "data": "turned-digits", "model": "ann", "epochs": 1, "lr": 0.01,
        "model_options": {"hidden": [16]}, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    own = api.train(Recipe(**fields, loss=squared), out=tmp_path, name="own", watcher=Watcher())
    mse = api.train(Recipe(**fields, loss="mse"), out=tmp_path, name="mse", watcher=Watcher())
    assert all(width == 1 and abs(mean) < 1 for width, mean in seen)
    for row, expected in zip(metrics_of(own), metrics_of(mse), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
    assert own.evaluate(split="val")["mae"] == pytest.approx(own.metrics["val"]["mae"])


# ---- watchers ------------------------------------------------------------------------------------


class Diary:
    """A watcher without a base class that writes down every moment."""

    def __init__(self) -> None:
        self.moments: list[tuple[Any, ...]] = []

    def on_start(self, start: Start) -> None:
        assert bool(start.step) == any(start.folder.glob("checkpoints/*"))
        assert next(start.network.parameters()).requires_grad
        self.moments.append(("start", start.step, start.total_steps, start.recipe["epochs"]))

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.moments.append(("step", step, loss))

    def on_row(self, row: dict[str, Any]) -> None:
        self.moments.append(("row", row["step"], row["loss"]))
        row.clear()  # which changes nothing of the run

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self.moments.append(("evaluation", step, figures["accuracy"]))

    def on_end(self, folder: Path, state: str) -> None:
        assert (folder / "report.html").exists()
        self.moments.append(("end", state))


def test_watchers_see_every_moment_in_order(tiny, tmp_path: Path, capsys) -> None:
    diary = Diary()
    seen = []

    def function(step: int, epoch: float, figures: dict[str, Any]) -> None:
        seen.append((step, figures.pop("accuracy")))

    run = api.train(tiny(), watchers=[diary, function], out=tmp_path, verbose=False)
    rows = metrics_of(run)
    assert capsys.readouterr() == ("", "")
    assert [kind for kind, *_ in diary.moments][:4] == ["start", "step", "row", "step"]
    assert diary.moments[0] == ("start", 0, len(rows), 2.0)
    assert diary.moments[-1] == ("end", "finished")
    losses_seen = [loss for kind, *_, loss in diary.moments if kind == "row"]
    assert losses_seen == [pytest.approx(float(row["loss"])) for row in rows]

    measured = [
        (int(row["step"]), float(row["val_accuracy"])) for row in rows if row["val_accuracy"]
    ]
    assert seen == [(step, pytest.approx(accuracy)) for step, accuracy in measured]
    assert [
        (step, value) for kind, step, *_, value in diary.moments[1:-1] if kind == "evaluation"
    ] == seen
    assert weights_of(run) == weights_of(api.train(tiny(), out=tmp_path, watcher=Watcher()))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_watcher_ends_a_run_well(tiny, tmp_path: Path, keep: str) -> None:
    def enough(step: int, epoch: float, figures: dict[str, Any]) -> None:
        if epoch > 1.5:
            raise StopTraining("two epochs are enough")

    recipe = tiny(epochs=8, keep=keep, schedule="constant")
    run = api.train(recipe, watchers=enough, out=tmp_path / keep, watcher=Watcher())
    two = api.train(
        tiny(steps=26, keep=keep, schedule="constant"), out=tmp_path / "two", watcher=Watcher()
    )
    assert weights_of(run) == weights_of(two)
    assert (run.path / "metrics.csv").read_bytes() == (two.path / "metrics.csv").read_bytes()
    assert run.read("status.json")["state"] == "finished"
    choices = {each["name"]: each for each in run.read("environment.json")["choices"]}
    assert choices["end"]["reason"] == "the watcher enough ended it: two epochs are enough"
    assert run.metrics["test"]["accuracy"] == two.metrics["test"]["accuracy"]


class AfterSteps:
    """Ends a run between two evaluations, where it returns True."""

    def __init__(self, moment: str) -> None:
        setattr(self, moment, self.see)

    def see(self, what: Any, *_: Any) -> bool:
        return (what["step"] if isinstance(what, dict) else what) == 5


@pytest.mark.parametrize("moment", ["on_step", "on_row"])
def test_what_a_run_ends_with_is_measured(tiny, tmp_path: Path, moment: str) -> None:
    run = api.train(
        tiny(), watchers=cast("Any", AfterSteps(moment)), out=tmp_path, watcher=Watcher()
    )
    rows = metrics_of(run)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [bool(row["val_accuracy"]) for row in rows] == [False] * 4 + [True]
    assert run.read("status.json")["step"] == 5


def test_a_run_without_validation_ends_too(tiny, tmp_path: Path) -> None:
    unmeasured = tiny(val_fraction=0, measure="none", clean_sample=50)
    ends = cast("Any", AfterSteps("on_step"))
    run = api.train(unmeasured, watchers=ends, out=tmp_path, watcher=Watcher())
    row = metrics_of(run)[-1]
    assert int(row["step"]) == 5
    assert row["clean_train_accuracy"]


def test_a_watcher_that_fails_loses_nothing(tiny, tmp_path: Path) -> None:
    def broken(step: int, epoch: float, figures: dict[str, Any]) -> None:
        print(figures["acuracy"])

    diary = Diary()
    diary.on_end = lambda folder, state: diary.moments.append(("end", state))
    with pytest.raises(
        OwnCodeError, match=r"the watcher broken fails with KeyError: .acuracy"
    ) as error:
        api.train(tiny(), watchers=[broken, diary], name="run", out=tmp_path, watcher=Watcher())
    assert 'figures["acuracy"]' in error.value.own_traceback()
    assert diary.moments[-1] == ("end", "failed")

    resumed = api.train(resume=tmp_path / "run", watchers=Diary, watcher=Watcher())
    whole = api.train(tiny(), out=tmp_path, name="whole", watcher=Watcher())
    assert weights_of(resumed) == weights_of(whole)
    assert (resumed.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("watchers", "says"),
    [
        (3, "int is no watcher: it has none of the methods on_start"),
        ([print, "lines"], "str is no watcher"),
    ],
)
def test_what_is_no_watcher_is_refused(tiny, tmp_path: Path, watchers: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        api.train(tiny(), watchers=watchers, out=tmp_path / "runs", watcher=Watcher())
    with pytest.raises(UserError, match="Give your own as watchers="):
        api.train(tiny(), watcher=watchers, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ---- augmentations -------------------------------------------------------------------------------


def noisy(images: Tensor, strength: int = 20) -> Tensor:
    noise = torch.randint(-strength, strength + 1, images.shape)
    return (images + noise).clamp(0, 255).to(torch.uint8)


def with_numpy(images: Tensor) -> Tensor:
    columns = np.random.default_rng(np.random.randint(1 << 30)).permutation(images.shape[3])
    return images[..., torch.from_numpy(columns)]


TURNED = v2.Compose([v2.RandomRotation([-20, 20]), v2.RandomHorizontalFlip()])


@pytest.mark.usefixtures("checkpoints_at_every_step")
@pytest.mark.parametrize(
    "augment", [{"flip": True, noisy: {"strength": 40}}, [with_numpy, "crop=1"], TURNED]
)
def test_a_run_with_an_own_augmentation_resumes_with_the_same_bits(
    tiny, train_in, tmp_path: Path, augment: Any
) -> None:
    recipe = tiny(augment=augment, epochs=1)
    whole = train_in(tmp_path / "whole", recipe)
    assert weights_of(whole) != weights_of(train_in(tmp_path / "plain", tiny(epochs=1)))

    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "parts", recipe, _Stop(at=7))
    torch.rand(3)  # whatever else draws
    np.random.rand(3)
    resumed = train_in(tmp_path / "parts", recipe)
    assert weights_of(resumed) == weights_of(whole)


def digits(count: int = 32) -> Tensor:
    images = (
        torch.tensor(cast("Any", load_digits()).images[:count] * (255 / 16)).round().to(torch.uint8)
    )
    return images[:, None].contiguous(memory_format=torch.channels_last)


def test_an_own_augmentation_is_what_it_does_and_draws_from_the_step() -> None:
    images = digits()
    targets = torch.zeros(32, dtype=torch.int64)
    augment = Augment(own_code.as_references([noisy, "flip=0"]), mixable=lambda x: x)

    def at_step(seed: int) -> Tensor:
        return augment(images, targets, generator=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(at_step(0), at_step(0))
    assert not torch.equal(at_step(0), at_step(1))
    assert (at_step(0).int() - images.int()).abs().max() == 20
    assert torch.equal(images, digits())

    # a transform of torchvision decides for each image
    copies = images[:1].expand(64, -1, -1, -1)
    turned = Augment(own_code.as_references(TURNED), mixable=lambda x: x)
    shown, _ = turned(copies, torch.zeros(64, dtype=torch.int64))
    assert len(shown.flatten(1).unique(dim=0)) > 20
    assert str(turned) == "Compose"


def test_an_own_augmentation_is_named_on_the_command_line(tt, tmp_path: Path) -> None:
    source = "import torch\n\n\ndef dark(images):\n    return images // 2\n"
    (tmp_path / "my_aug.py").write_text(source, encoding="utf-8")
    code, output, errors = tt(
        "train", "digits-ann", "--augment", "light,my_aug.py:dark", "--epochs", 1, "--name", "run",
        "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, errors
    run = RunFolder(tmp_path / "run")
    assert run.recipe.augment == f"light,{tmp_path}/my_aug.py:dark"
    assert [row["field"] for row in run.own_code] == ["augment"]
    assert (run.path / run.own_code[0]["copy"]).read_text(encoding="utf-8") == source
    assert "own code" not in output


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("augment", "says"),
    [
        (lambda images: images.float(), "returns float32 images"),
        (lambda images: images[..., :4], r"returns shape \(8, 1, 8, 4\) for \(8, 1, 8, 8\)"),
        (lambda images: None, "returns NoneType"),
        (lambda images: images[9], "fails with IndexError"),
        (lambda images: images + int(RANDOM.integers(9)), "changes the same images differently"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True)]), "returns float32 images"),
        (v2.Resize(4), "returns shape"),
        ({noisy: 3}, "noisy is 3. Expected true, or a mapping"),
        ({noisy: {"sigma": 3}}, "fails with TypeError"),
        ("light,absent.py:dark", "there is no file"),
    ],
)
def test_what_is_no_augmentation_is_refused_before_a_folder_is_made(
    tiny, tmp_path: Path, augment: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        api.train(tiny(), augment=augment, out=tmp_path / "runs", watcher=Watcher())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


# ---- optimizers ----------------------------------------------------------------------------------


def test_an_own_optimizer_trains_as_the_same_built_in_one(tiny, tmp_path: Path) -> None:
    def adam(params: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=lr, fused=True)

    own = api.train(tiny(optimizer=adam), out=tmp_path, name="own", watcher=Watcher())
    built_in = api.train(tiny(optimizer="adam"), out=tmp_path, name="adam", watcher=Watcher())
    assert weights_of(own) == weights_of(built_in)
    assert (own.path / "metrics.csv").read_bytes() == (built_in.path / "metrics.csv").read_bytes()


class KeepsTiny(torch.optim.SGD):
    """Keeps a number that is nearly zero, by whose sign it might go."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                assert torch.all(state.get("tiny", torch.ones(1)) != 0)
                state["tiny"] = torch.full_like(weight, 1e-35)


def test_what_an_own_optimizer_keeps_is_left_to_it(tiny, train_in, tmp_path: Path) -> None:
    run = train_in(tmp_path / "run", tiny(optimizer=KeepsTiny, steps=120, rules=NEW_RULES))
    assert run.status["state"] == "finished"


@pytest.mark.usefixtures("checkpoints_at_every_step")
@pytest.mark.parametrize("optimizer", [torch.optim.RMSprop, torch.optim.Rprop, torch.optim.NAdam])
def test_a_run_with_an_own_optimizer_resumes_with_the_same_bits(
    tiny, train_in, tmp_path: Path, optimizer: Any
) -> None:
    recipe = tiny(optimizer=optimizer, weight_decay=0.01, epochs=1)
    whole = train_in(tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "parts", recipe, _Stop(at=7))
    assert weights_of(train_in(tmp_path / "parts", recipe)) == weights_of(whole)


def test_an_own_optimizer_takes_the_place_of_settings_made_for_another() -> None:
    prepared = api.plan("digits", optimizer=torch.optim.RMSprop, watcher=Watcher(), device="cpu")
    assert prepared.recipe.lr == 1e-3
    assert prepared.recipe.momentum == Recipe().momentum
    assert "RMSprop" in " ".join(prepared.lines())
    assert prepared.recipe.optimizer == "python:RMSprop"
    named = api.plan("digits", optimizer="torch.optim:RMSprop", lr=0.01, watcher=Watcher())
    assert (named.recipe.optimizer, named.recipe.lr) == ("torch.optim:RMSprop", 0.01)


OTHER = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (lambda params, lr: None, "returns NoneType"),
        (lambda params, lr: torch.optim.SGD(OTHER.parameters(), lr=lr), "which are not the 6"),
        (lambda params: torch.optim.SGD(params), "fails with TypeError"),
        (torch.optim.LBFGS, "a step of the optimizer LBFGS fails with TypeError"),
        ("sdg", "optimizer: input should be 'sgd'"),
    ],
)
def test_what_is_no_optimizer_is_refused_before_a_folder_is_made(
    tiny, tmp_path: Path, optimizer: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        api.train(tiny(), optimizer=optimizer, out=tmp_path / "runs", watcher=Watcher())
    assert not (tmp_path / "runs").exists()


# ---- figures of one's own -----------------------------------------------------------------------


def kappa(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float(cohen_kappa_score(targets, probabilities.argmax(1)))


def cost(probabilities: np.ndarray, targets: np.ndarray) -> np.floating:
    return abs(probabilities.argmax(1) - targets).mean()


cost.higher_is_better = False


def test_own_figures_stand_beside_those_of_tintype(tiny, tmp_path: Path) -> None:
    run = api.train(
        tiny(epochs=3, keep="best", monitor="cost"), metrics=[kappa, cost], out=tmp_path,
        watcher=Watcher(),
    )  # fmt: skip
    with (run.path / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"]
    targets, answers = ([row[key] for row in rows] for key in ("target", "prediction"))
    evaluation = run.read("evaluation.json")
    figures = evaluation["splits"]["test"]
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(targets, answers))
    assert evaluation["own_figures"] == ["kappa", "cost"]

    costs = [float(row["val_cost"]) for row in metrics_of(run) if row["val_cost"]]
    checkpoint = load_checkpoint(run.path / "checkpoints")[0]
    assert checkpoint is not None
    assert checkpoint["best"]["score"] == pytest.approx(min(costs))

    assert f"kappa: train {evaluation['splits']['train']['kappa']:.4g}, val" in verdict_line(
        evaluation
    )
    page = write_report(run.path).read_text(encoding="utf-8")
    assert re.search(rf"kappa.*{figures['kappa']:.4g}", page, re.DOTALL)


def test_own_figures_of_numbers_are_given_their_unit(tmp_path: Path) -> None:
    recipe = Recipe(
        task="regress", data="turned-digits", model="ann", epochs=1, lr=0.01, device="cpu",
        model_options={"hidden": [16]}, precision="fp32",
        metrics={"within_10": lambda numbers, targets: (abs(numbers - targets) < 10).mean()},
    )  # fmt: skip
    run = api.train(recipe, out=tmp_path, watcher=Watcher())
    with (run.path / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"]
    near = [abs(float(row["target"]) - float(row["prediction"])) < 10 for row in rows]
    assert run.metrics["test"]["within_10"] == pytest.approx(np.mean(near), abs=0.01)


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"none": lambda p, t: None}, "metric none returns NoneType"),
        ({"nan": lambda p, t: float("nan")}, "metric nan returns nan"),
        ({"each": lambda p, t: p.max(1)}, "metric each returns ndarray"),
        ({"fails": lambda p, t: p[:, 99]}, "metric fails fails with IndexError"),
        ({"accuracy": cost}, "metric accuracy has the name of another figure"),
        ("kappa", "metrics: expected functions such as"),
        ("absent.py:kappa", "there is no file"),
    ],
)
def test_what_is_no_metric_is_refused_before_a_folder_is_made(
    tiny, tmp_path: Path, metrics: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        api.train(tiny(), metrics=metrics, out=tmp_path / "runs", watcher=Watcher())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


# ---- data sets, trackers and tasks of one's own -------------------------------------------------

MY_DATA = """\
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype("uint8")
    return {"data": (images, digits.target), "groups": [f"{i // 2}" for i in range(len(images))]}


def nothing():
    return {"data": load()["data"], "spilts": None}


def fails():
    return load()["images"]
"""


def test_a_function_of_a_file_is_a_data_set(tt, tmp_path: Path) -> None:
    (tmp_path / "my_data.py").write_text(MY_DATA, encoding="utf-8")
    code, _, errors = tt(
        "train", "--data", "my_data.py:load", "--model", "ann", "--epochs", 1, "--set",
        "weights=none", "--device", "cpu", "--name", "own",
    )  # fmt: skip
    assert code == 0, errors
    run = RunFolder(Path("runs/own"))
    assert run.recipe.data == f"{tmp_path}/my_data.py:load"
    assert run.own_code[0]["field"] == "data"
    assert run.read("data.json")["name"] == "load"
    assert (run.path / run.own_code[0]["copy"]).read_text(encoding="utf-8") == MY_DATA

    code, output, errors = tt("evaluate", "runs/own", "--split", "val", "--json")
    assert code == 0, errors
    assert (
        json.loads(output)["accuracy"] == run.read("evaluation.json")["splits"]["val"]["accuracy"]
    )

    for name, says in [
        ("nothing", "the data set nothing returns spilts"),
        ("fails", "the data set fails fails with KeyError"),
        ("lod", "unknown data set in .*Did you mean 'load'"),
    ]:
        code, _, errors = tt("train", "--data", f"my_data.py:{name}", "--name", "no")
        assert code == 2
        assert re.search(says, errors.splitlines()[-1])
    assert not Path("runs/no").exists()


MY_TRACKER = """\
import json

from tintype.tracking import Tracker


class Notes(Tracker):
    def __init__(self, info):
        self.file_ = info.root / "notes.txt"
        self.where = str(self.file_)
        self.seen = []

    def rows(self, rows):
        self.seen += [row["step"] for row in rows]

    def picture(self, name, path, step): ...

    def figures(self, figures, step):
        self.seen.append(sorted(figures)[0])

    def file(self, path):
        self.seen.append(path.name)

    def finish(self, state):
        self.file_.write_text(json.dumps([state, *self.seen]), encoding="utf-8")


def start(info):
    return Notes(info)


def none(info):
    return None
"""


def test_a_tracker_of_a_file_is_logged_to(tt, tmp_path: Path) -> None:
    (tmp_path / "my_tracker.py").write_text(MY_TRACKER, encoding="utf-8")
    fixed = ["digits-ann", "--device", "cpu", "--epochs", 1]
    code, output, errors = tt("train", *fixed, "--track", "my_tracker.py:Notes", "--name", "run")
    assert code == 0, errors
    assert "tracked: " in output
    seen = json.loads(Path("runs/notes.txt").read_text(encoding="utf-8"))
    assert seen[:3] == ["finished", 1, 2]
    assert seen[-3:] == ["recipe.yaml", "evaluation.json", "report.html"]

    code, _, errors = tt("train", *fixed, "--track", "my_tracker.py:none")
    assert code == 2
    assert "gives NoneType. Expected a class derived from" in errors
    code, _, errors = tt("train", *fixed, "--track", "my_tracker.py:Note", "--name", "no")
    assert "Did you mean 'Notes'" in errors
    assert not Path("runs/no").exists()


# ---- plug-ins of installed packages -------------------------------------------------------------

EXAMPLES = Path(__file__).parent.parent / "examples"
ENTRY_POINTS = """\
[tintype.models]
small = plugged.parts:Small
cnn = plugged.parts:Small
broken = plugged.broken:Small
[tintype.losses]
focal = plugged.parts:focal
[tintype.augmentations]
dark = plugged.parts:dark
[tintype.data]
odd-digits = plugged.parts:odd_digits
[tintype.tracking]
notes = plugged.parts:start
[tintype.tasks]
sort = plugged.sort
rebuild = plugged.rebuild:Autoencoder
"""
PARTS = f"""\
import torch
from torch import nn

{FOCAL}

{MY_TRACKER}

class Small(nn.Sequential):
    def __init__(self, num_classes, width=8):
        super().__init__(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))


def dark(images):
    return images // 2


def odd_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    odd = digits.target % 2 == 1
    return (digits.images[odd] * 15).astype("uint8"), digits.target[odd]
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with a plug-in of every kind."""
    site = tmp_path / "site"
    files = {
        "plugged-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: plugged\nVersion: 1.2\n",
        "plugged-1.2.dist-info/entry_points.txt": ENTRY_POINTS,
        "plugged/__init__.py": "",
        "plugged/parts.py": PARTS,
        "plugged/broken.py": "import no_such_package\n",
        "plugged/rebuild.py": (EXAMPLES / "my_task.py").read_text(encoding="utf-8"),
        "plugged/sort/__init__.py": '"""Sorting: digits into classes."""\n',
        "plugged/sort/task.py": "from tintype.tasks.classify.task import make, restore\n",
        "plugged/sort/options.py": "from tintype.tasks.classify.options import Options\n",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")

    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    caches = [each for each in vars(plugins).values() if hasattr(each, "cache_clear")]
    caches.append(options_by_name)
    for each in caches:
        each.cache_clear()
    yield site
    monkeypatch.undo()
    for each in caches:
        each.cache_clear()
    for name in [name for name in sys.modules if name.startswith("plugged")]:
        del sys.modules[name]


def test_plug_ins_are_listed_without_an_import(plugged: Path, say) -> None:
    for kind, name in [
        ("models", "small"), ("losses", "focal"), ("augmentations", "dark"), ("data", "odd-digits"),
        ("tracking", "notes"), ("tasks", "sort"),
    ]:  # fmt: skip
        code, output, errors = say("list", kind, "--json")
        assert code == 0, errors
        rows = {row["name"]: row["description"] for row in json.loads(output)}
        assert rows[name].startswith("Of the package plugged 1.2: plugged.")
        assert "cnn" not in rows or rows["cnn"].endswith("that of the package plugged is not used)")
    assert "plugged" not in sys.modules


def test_plug_ins_are_used_by_their_names(plugged: Path, say) -> None:
    code, output, errors = say(
        "train", "odd-digits", "--model", "small", "--loss", "focal", "--augment", "light,dark",
        "--track", "notes", "--epochs", 2, "--device", "cpu", "--name", "run",
    )  # fmt: skip
    assert code == 0, errors
    run = RunFolder(Path("runs/run"))
    packages = {row["field"]: row for row in run.read("code.json")["packages"]}
    assert set(packages) == {"data", "model", "loss", "augment", "track"}
    sha256 = hashlib.sha256(PARTS.encode()).hexdigest()
    assert packages["loss"] == {
        "field": "loss", "name": "focal", "reference": "plugged.parts:focal",
        "package": "plugged", "version": "1.2", "sha256": sha256,
    }  # fmt: skip
    assert run.recipe.model == "small"
    assert len(run.read("data.json")["class_names"]) == 5
    assert json.loads(Path("runs/notes.txt").read_text(encoding="utf-8"))[0] == "finished"

    # the user has installed the package, so its names open a run as those of tintype do
    code, output, errors = say("evaluate", "runs/run", "--split", "val", "--json")
    assert code == 0, errors
    assert (
        json.loads(output)["accuracy"] == run.read("evaluation.json")["splits"]["val"]["accuracy"]
    )


def test_a_task_of_a_package_is_trained(plugged: Path, tiny, train_in, tmp_path: Path) -> None:
    fields = tiny(epochs=1).stated() | {"task": "sort"}
    run = train_in(tmp_path / "sorted", Recipe(**fields))
    assert run.read("evaluation.json")["splits"]["test"]["accuracy"] > 0.1
    assert run.read("code.json")["packages"][0]["reference"] == "plugged.sort"


def test_a_class_of_a_package_is_a_task(plugged: Path, say) -> None:
    code, _, errors = say("train", "digits", "--task", "rebuild", "--epochs", 1, "--name", "run")
    assert code == 0, errors
    run = RunFolder(Path("runs/run"))
    assert run.recipe.task == "rebuild"
    code, output, errors = say("evaluate", "runs/run", "--split", "val", "--json")
    assert code == 0, errors
    assert json.loads(output)["psnr"] == run.read("evaluation.json")["splits"]["val"]["psnr"]


def test_a_built_in_name_wins_and_a_broken_plug_in_is_said(plugged: Path, say) -> None:
    code, output, errors = say("train", "digits", "--model", "cnn", "--dry-run")
    assert code == 0, errors
    assert "cnn: the built-in one, not that of the package plugged" in output
    code, _, errors = say("train", "digits", "--model", "broken")
    assert code == 2
    assert errors.splitlines()[-1] == (
        "error: the model cannot be read: plugged.broken fails with ModuleNotFoundError: "
        "No module named 'no_such_package'."
    )
    assert not Path("runs").exists()


def test_a_package_that_went_away_is_named(copied_run: api.Run) -> None:
    row = {
        "field": "model", "name": "small", "reference": "gone.parts:Small", "package": "gone",
        "version": "1.2", "sha256": "",
    }  # fmt: skip
    (copied_run.path / "code.json").write_text(
        json.dumps({"code": [], "packages": [row]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"the model small of the package gone 1\.2, which is not"):
        api.load(copied_run.path).evaluate(split="val")
