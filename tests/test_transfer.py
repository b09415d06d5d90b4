"""Ways to train a pretrained network further: heads on cached features, fine-tuning, and what is
chosen automatically.
"""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from tintype import api
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.errors import UserError
from tintype.hardware.device import Choice
from tintype.models import build_model
from tintype.models.parts.backbone import backbone_parts
from tintype.models.parts.head import head_of
from tintype.optim import build_optimizers, steepest_rate
from tintype.progress import Watcher
from tintype.recipe import Recipe, build, parse_duration
from tintype.tasks.classify import transfer
from tintype.tasks.classify.transfer import PENALTIES, HeadBank, fit_linear
from tintype.tasks.interpolation import SHARES, Line
from tintype.tasks.pretrained import FeatureSource, folded
from tintype.tasks.restoring import load_task
from tintype.training import automatic
from tintype.training.order import Order
from tintype.verbs.study import study

BACKBONE = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file with weights of a small backbone for 1,000 classes, drawn at random; stands for
    pretrained ones.
    """
    spec = DataSpec(
        "", 3, 32, 32, Classes(tuple(map(str, range(1000)))), (0.5,) * 3, (0.25,) * 3, ""
    )
    network = build_model(BACKBONE, spec, {}, seed=1)
    path = tmp_path_factory.mktemp("weights") / f"{BACKBONE}.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def photos(digit_files, weights):
    """Return a function that makes a recipe for small pictures and a backbone; its arguments are
    fields.
    """

    def make(**changes: object) -> Recipe:
        fields = {
            "data": str(digit_files), "model": BACKBONE, "weights": str(weights), "image_size": 32, "epochs": 3,
            "batch_size": 16, "lr": 1e-3, "precision": "fp32", "device": "cpu", "val_fraction": 0.2,
        }  # fmt: skip
        if "steps" in changes:
            del fields["epochs"]
        return build({**fields, **changes}, where="")

    return make


def train(recipe: Recipe, folder: Path) -> api.Run:
    """Train a run without its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tintype.training.run.write_report", lambda path: path)
        return api.train(recipe, out=folder, name="run", watcher=Watcher())


# ---- a head on cached features ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [[], [24]], ids=["linear", "hidden layer"])
def test_the_whole_network_answers_as_its_head_did_on_features(photos, tmp_path, hidden):
    run = train(photos(tune="head", head=hidden, tta="flip", views=1, augment="photos"), tmp_path)
    rows = [row for row in run.read_table("predictions.csv") if row["split"] == "test"]
    files = [Path(run.recipe.data) / row["name"] for row in rows]
    answers = run.predict(files)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.confidence == pytest.approx(float(row["confidence"]), abs=2e-3)
    network = load_task(run, "cpu")[0].result()
    plain = load_file(run.path / "model.safetensors")
    assert set(plain) == set(network.state_dict())
    assert run.read("model.json")["pretrained"]["file"] == f"{BACKBONE}.safetensors"
    assert run.read("model.json")["head"] == hidden


def test_the_backbone_is_left_as_it_was(photos, weights, tmp_path):
    run = train(photos(tune="head"), tmp_path)
    before, after = load_file(weights), load_file(run.path / "model.safetensors")
    same = [key for key in before if torch.equal(before[key], after[key])]
    assert [key for key in before if key not in same] == [
        "classifier.3.bias",
        "classifier.3.weight",
    ]


def test_an_image_calibrates_by_a_head_that_was_chosen_without_it(photos):
    prepared = api.plan(photos(tune="head"), watcher=Watcher())
    task, use = prepared.task, prepared.task.validation
    assert isinstance(task, transfer.HeadOnly)
    assert use.how == "out-of-fold"
    seen = task.sources(prepared.splits)
    task.start(seen.train)
    generator = torch.Generator().manual_seed(0)
    for head in task.bank.heads:
        for weight in head.parameters():
            weight.data.normal_(std=0.05, generator=generator)

    val = task.evaluate(task.networks[task.main], seen.val)
    given = task.calibrating(val, seen.val)
    by_head = (
        task._logits_by_head(seen.val.take(torch.arange(len(seen.val))).images).detach().numpy()
    )
    assert isinstance(seen.val, FeatureSource)
    for fold in range(5):
        inside = torch.from_numpy(use.folds == fold)
        targets = torch.where(inside, (seen.val.targets + 1) % 10, seen.val.targets)
        other = FeatureSource(seen.val.spec, seen.val.features, targets, seen.val.names)
        same = task.calibrating(val, other)["logits"][inside]
        assert np.array_equal(same, given["logits"][inside])  # its own targets say nothing
        assert any(np.array_equal(same, head[inside.numpy()]) for head in by_head)


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(
    ("tune", "interpolate"), [("head", False), ("last:2", True), ("all", False)]
)
def test_a_stopped_run_ends_bit_equal(photos, tmp_path, monkeypatch, tune, interpolate):
    class Stop(Watcher):
        def on_step(
            self, step: int, total_steps: int, loss: float, images_per_second: float
        ) -> None:
            if step == 3:
                raise KeyError("stop")

    recipe = photos(
        tune=tune,
        augment="photos",
        views=1,
        steps=4,
        layer_decay=0.8,
        unfreeze=0.5,
        sampling="balanced",
        interpolate=interpolate,
    )
    whole = train(recipe, tmp_path / "whole")
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyError):
        api.train(recipe, out=tmp_path / "stopped", name="run", watcher=Stop())
    stopped = api.train(resume=tmp_path / "stopped" / "run", watcher=Watcher())
    for file in ("model.safetensors", "metrics.csv", "predictions.csv"):
        assert (whole.path / file).read_bytes() == (stopped.path / file).read_bytes(), file


# ---- the networks that people ask for ---------------------------------------------------------------------------------


ASKED_FOR = ("vgg16", "densenet161", "resnext50_32x4d", "wide_resnet50_2", "resnet50")


@pytest.mark.timeout(1800)  # VGG16 has 138 million weights
@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(
    ("name", "tune"),
    [
        ("googlenet", "head"),
        pytest.param("googlenet", "all", marks=pytest.mark.exhaustive),
        *(pytest.param(name, "all", marks=pytest.mark.exhaustive) for name in ASKED_FOR),
    ],
)
def test_a_file_of_torchvision_goes_the_whole_way_at_64_pixels(
    tt, digit_files, tmp_path, name, tune
):
    """From a file of random weights, laid out as torchvision's, through two epochs to answers."""
    torch.manual_seed(0)
    more = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    whole = torchvision.models.get_model(name, weights=None, **more)
    file = tmp_path / f"{name}.pth"
    torch.save(whole.state_dict(), file)
    del whole

    code, _, errors = tt(
        *("train", digit_files, "--weights", file, "--tune", tune, "--name", name),
        *("--image-size", 64, "--epochs", 2, "--batch-size", 16, "--device", "cpu"),
        *("--set", "precision=fp32"),
    )
    assert code == 0, errors
    run = api.load(tmp_path / "runs" / name)
    described = run.read("model.json")
    assert described["architecture"]["name"] == name
    assert described["pretrained"]["file"] == file.name
    assert (described["preprocessing"]["height"], run.status["state"]) == (64, "finished")
    assert float(run.read_table("metrics.csv")[-1]["epoch"]) == pytest.approx(2, abs=0.3)

    row = next(row for row in run.read_table("predictions.csv") if row["split"] == "test")
    answer = run.predict(digit_files / row["name"])
    assert answer.confidence == pytest.approx(float(row["confidence"]), abs=2e-3)
    file.unlink()  # half a gigabyte of VGG16


# ---- between the head and the fine-tuned network ---------------------------------------------------------------------


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_network_that_is_kept_lies_between_the_head_and_the_fine_tuned_one(
    photos, tmp_path, monkeypatch, keep
):
    """By plain torch: the weights, and which of them costs least on the images that choose."""
    after: dict[str, torch.Tensor] = {}

    def finish(self: transfer.FineTune) -> list[Choice]:
        after.update({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        return own_finish(self)

    own_finish = transfer.FineTune.finish
    monkeypatch.setattr(transfer.FineTune, "finish", finish)
    recipe = photos(tune="last:1", steps=12, lr=0.01, val_fraction=0.4, keep=keep, interpolate=True)
    run = train(recipe, tmp_path)
    kept = load_file(run.path / "model.safetensors")

    prepared = api.plan(recipe, watcher=Watcher())
    task, use = prepared.task, prepared.task.validation
    assert isinstance(task, transfer.FineTune)
    assert use.how == ("halves" if keep == "best" else "out-of-fold")
    task.sources(prepared.splits)
    task.start(prepared.splits.train)
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}

    selection = use.selecting_part(prepared.splits.val)
    images = selection.take(torch.arange(len(selection))).images
    costs = {}
    for share in SHARES:
        mixed = {name: (1 - share) * before[name] + share * after[name] for name in before}
        task.network.load_state_dict(mixed)
        logits = task.logits(task.network.eval(), images).double()
        costs[share] = min(
            float(F.cross_entropy(logits / t, selection.targets))
            for t in np.geomspace(0.05, 20, 1000)
        )
        same = all(
            torch.allclose(mixed[name].float(), kept[name].float(), atol=1e-6) for name in kept
        )
        assert same == _kept(run).startswith(f"{100 * share:.0f} %"), share

    chosen = min(SHARES, key=lambda share: costs[share])
    assert _kept(run) == f"{100 * chosen:.0f} % of the fine-tuning"
    assert f"on {len(selection)} validation images is {costs[chosen]:.3f}" in _kept(run, "reason")


def _kept(run: api.Run, what: str = "choice") -> str:
    choices = run.read("environment.json")["choices"]
    return next(choice[what] for choice in choices if choice["name"] == "interpolation")


def test_an_answer_that_calibrates_is_not_chosen_by_its_own_image():
    draw = np.random.default_rng(0)
    line = Line(draw.normal(size=(6, 20, 3)), draw.random((6, 20)))
    folds = np.arange(20) % 5
    answers = line.out_of_fold(folds)
    for fold in range(5):
        inside = folds == fold
        other = Line(line.answers, np.where(inside, draw.random((6, 20)), line.losses))
        assert np.array_equal(other.out_of_fold(folds)[inside], answers[inside])
        chosen = line.losses[:, ~inside].mean(1).argmin()
        assert np.array_equal(answers[inside], line.answers[chosen][inside])


def test_a_head_alone_has_nothing_to_interpolate(photos):
    with pytest.raises(UserError, match="interpolate has no effect here: tune: head leaves"):
        api.plan(photos(tune="head"), interpolate=True, watcher=Watcher())
    unmeasured = photos(tune="last:1", interpolate=True, val_fraction=0.0, measure="none")
    task = api.plan(unmeasured, watcher=Watcher()).task
    assert [choice.choice for choice in task.finish()] == ["all of the fine-tuning"]


def blobs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (300, 8) of different scales and targets (300,) of three overlapping classes."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, 3, 300)
    features = (draw.normal(size=(3, 8))[targets] + draw.normal(size=(300, 8))) * np.logspace(
        -2, 2, 8
    ) + 5
    return torch.tensor(features, dtype=torch.float32), torch.tensor(targets)


@pytest.mark.machines
@pytest.mark.parametrize("penalty", [1e-3, 5e-3, 0.1])
def test_the_first_head_is_that_of_scikit_learn(penalty):
    features, targets = blobs()
    head = fit_linear(features, targets, 3, penalty)
    x = (features - features.mean(0)) / features.std(0, correction=0)
    reference = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-6, max_iter=1000).fit(
        x.numpy(), targets.numpy()
    )
    ours = torch.softmax(head(features), 1).detach().numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(x.numpy()), atol=2e-3)


@pytest.mark.machines
def test_each_head_of_the_bank_comes_to_the_solution_of_its_penalty():
    """Trained long by full batches, each agrees with scikit-learn at the same penalty."""
    features, targets = blobs()
    bank = HeadBank(8, 3, [], len(PENALTIES))
    bank.standardise_like(features)
    optimizer = torch.optim.LBFGS(bank.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        fit = sum(F.cross_entropy(logits, targets) for logits in bank(features))
        held = [
            0.5 * p * h.weight.square().sum() for p, h in zip(PENALTIES, bank.heads, strict=True)
        ]
        loss = fit + torch.stack(held).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    x = (features - features.mean(0)) / features.std(0, correction=0)
    for number, penalty in enumerate(PENALTIES):
        reference = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-6, max_iter=1000).fit(
            x.numpy(), targets.numpy()
        )
        bank.chosen.fill_(number)
        ours = torch.softmax(bank.plain_head()(features), 1).detach().numpy()
        np.testing.assert_allclose(ours, reference.predict_proba(x.numpy()), atol=5e-3)


@pytest.mark.machines
def test_folding_changes_no_answer():
    head = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    x, _ = blobs()
    mean, scale = x.mean(0), 1 / x.std(0)
    torch.testing.assert_close(
        folded(head, mean, scale)(x), head((x - mean) * scale), rtol=1e-4, atol=1e-4
    )


def test_a_source_of_features_behaves_like_one_of_images():
    features = torch.arange(24.0).reshape(4, 2, 3)
    spec = DataSpec("", 3, 8, 8, Classes(("a", "b")), (0.5,) * 3, (0.5,) * 3, "")
    source = FeatureSource(spec, features, torch.tensor([0, 1, 0, 1]), ["w", "x", "y", "z"])
    some = source.subset(np.array([3, 1]))
    assert list(some.names) == ["z", "x"]
    batch = some.take(torch.tensor([1]))
    assert torch.equal(batch.images, features[1:2])
    assert batch.targets.tolist() == [1]


# ---- fine-tuning ------------------------------------------------------------------------------------------------------


def test_only_the_last_stages_are_trained(photos, weights, tmp_path):
    run = train(photos(tune="last:1", optimizer="sgd", lr=0.01), tmp_path)
    before, after = load_file(weights), load_file(run.path / "model.safetensors")
    of = load_task(run, "cpu")[0].spec
    network = build_model(BACKBONE, of, {}, seed=0)
    parts = backbone_parts(network, of)
    trained = {
        key
        for key in after
        if before[key].shape != after[key].shape or not torch.equal(before[key], after[key])
    }
    last = {
        name
        for name, _ in network.named_parameters()
        if parts.stage_of(name) >= len(parts.stages) - 1
    }
    assert trained == last, "the last stage and the head, and no statistics of a norm"


def test_norms_adapt_where_they_are_asked_to(photos, weights, tmp_path):
    run = train(photos(tune="all", freeze_norm=False), tmp_path)
    before, after = load_file(weights), load_file(run.path / "model.safetensors")
    means = [key for key in before if key.endswith("running_mean")]
    assert all(not torch.equal(before[key], after[key]) for key in means)


@pytest.mark.parametrize(
    ("lr", "undone"), [(1e-4, False), (10.0, True)], ids=["small steps", "steps that are too large"]
)
def test_it_is_said_if_training_undoes_what_the_weights_brought(
    finished_run, tiny, tmp_path, lr, undone
):
    said: list[str] = []

    class Listening(Watcher):
        def note(self, text: str) -> None:
            said.append(text)

    fields = {"model_options": {"hidden": [32]}, "weights": str(finished_run.path), "lr": lr}
    run = api.train(
        tiny(**fields, tune="all", optimizer="sgd", epochs=3), out=tmp_path, name="run",
        watcher=Listening(),
    )  # fmt: skip

    words = "undone what the pretrained weights brought"
    lines = [line for line in said if words in line]
    assert len(lines) == int(undone), "once, not at each evaluation"
    evaluation = run.read("evaluation.json")
    assert len(evaluation["warnings"]) == int(undone)
    assert (words in (run.path / "report.html").read_text(encoding="utf-8")) == undone
    if undone:
        assert 100 * evaluation["splits"]["val"]["accuracy"] < 50
        before = float(re.findall(r"([\d.]+) % before the first step", lines[0])[0])
        brought = finished_run.read("evaluation.json")["splits"]["val"]["accuracy"]
        assert before == pytest.approx(100 * brought, abs=3), "with a new head on its features"


def test_a_resumed_run_remembers_what_it_began_with(finished_run, tiny, train_in, tmp_path):
    class Stop(Exception):
        pass

    class StopsBeforeAnyEvaluation(Watcher):
        def on_step(self, step: int, *_: Any) -> None:
            if step == 2:
                raise Stop

    recipe = tiny(
        model_options={"hidden": [32]}, weights=str(finished_run.path), tune="all", lr=10.0,
        optimizer="sgd",
    )  # fmt: skip
    with pytest.raises(Stop):
        train_in(tmp_path / "run", recipe, StopsBeforeAnyEvaluation())
    again = train_in(tmp_path / "run", recipe).read("evaluation.json")
    whole = train_in(tmp_path / "whole", recipe).read("evaluation.json")
    assert again["warnings"] == whole["warnings"]
    assert "before the first step" in whole["warnings"][0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_earlier_layers_learn_more_slowly(optimizer):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    for weight in network[0].parameters():
        weight.layer_scale = 0.5  # pyright: ignore[reportAttributeAccessIssue]
    rates = {}
    for made in build_optimizers(network, optimizer, lr=0.1):
        for group in made.param_groups:
            rates.update({id(weight): group["lr"] for weight in group["params"]})
    for early, late in zip(network[0].parameters(), network[1].parameters(), strict=True):
        assert rates[id(early)] == pytest.approx(0.5 * rates[id(late)])


def test_stages_thaw_from_the_last_to_the_first(photos, tmp_path):
    seen = []

    class Watch(transfer.FineTune):
        def loss(self, phase, batch, context):  # type: ignore[no-untyped-def]
            answer = super().loss(phase, batch, context)
            groups = self.parts.parameters()
            seen.append(sum(any(p.requires_grad for p in group) for group in groups))
            return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "FineTune", Watch)
        train(photos(tune="all", unfreeze=0.8, steps=20), tmp_path)
    assert seen == sorted(seen)
    assert seen[0] == 2, "one stage and the head"
    of = DataSpec("", 3, 32, 32, Classes(("a", "b")), (0.5,) * 3, (1.0,) * 3, "")
    stages = backbone_parts(build_model(BACKBONE, of, {}, 0), of)
    assert seen[-1] == len(stages.stages) + 1
    assert len(set(seen)) > 2


# ---- sampling and learning rate ---------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(1, 40), st.integers(0, 2**32)
)
def test_balanced_sampling_shows_each_class_equally_often(counts, batch_size, seed):
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = Order(seed, len(targets), min(batch_size, len(targets)), targets)
    epoch = order._epoch(0)
    assert len(epoch) == len(targets)
    shown = torch.bincount(targets[epoch], minlength=len(counts))
    assert int(shown.max()) - int(shown.min()) <= 1
    for label in range(len(counts)):  # no image twice before each was shown once
        times = torch.bincount(epoch[targets[epoch] == label], minlength=len(targets))[
            targets == label
        ]
        assert int(times.max()) - int(times.min()) <= 1
    assert torch.equal(epoch, Order(seed, len(targets), 1, targets)._epoch(0))


def test_the_steepest_fall_of_a_curve():
    rates = np.logspace(-5, 0, 60)
    losses = 2 / (1 + (rates / 1e-3) ** 2) + 40 * np.maximum(rates - 0.1, 0)
    assert 2e-4 < steepest_rate(list(zip(rates, losses, strict=True))) < 3e-3
    with pytest.raises(ValueError, match="never falls"):
        steepest_rate([(rate, 1.0 + rate) for rate in rates])
    with pytest.raises(ValueError, match="at once"):
        steepest_rate([(0.1, 1.0)] * 3)


def test_a_measured_learning_rate_leaves_the_run_as_if_it_had_been_given(tiny, tmp_path):
    found = train(tiny(lr="auto", optimizer="adamw"), tmp_path / "auto")
    lr = found.recipe.lr
    assert isinstance(lr, float)
    assert 1e-4 < lr < 0.5
    curve = found.read_table("lr_finder.csv")
    assert float(curve[0]["lr"]) < lr < float(curve[-1]["lr"])
    given = train(tiny(lr=lr, optimizer="adamw"), tmp_path / "given")
    assert (found.path / "model.safetensors").read_bytes() == (
        given.path / "model.safetensors"
    ).read_bytes()


# ---- what is chosen automatically -------------------------------------------------------------------------------------


@given(
    st.floats(0.1, 1e4), st.sampled_from([("s", 1), ("m", 60), ("min", 60), ("h", 3600), ("", 1)])
)
def test_durations(number, unit):
    text, factor = unit
    assert parse_duration(f"{number:.3f}{text}") == pytest.approx(round(number, 3) * factor)


@pytest.mark.parametrize("text", ["", "soon", "-3m", "0s", "5 weeks", "1e3"])
def test_no_duration(text):
    with pytest.raises(UserError, match="Expected a duration"):
        parse_duration(text)


@pytest.mark.machines
def test_few_photos_get_a_head_on_the_backbone_that_the_weights_name(
    digit_files, weights, tmp_path
):
    prepared = api.plan(str(digit_files), weights=str(weights), image_size=32, watcher=Watcher())
    recipe = prepared.recipe
    assert (recipe.model, recipe.tune, recipe.channels) == (BACKBONE, "head", 3)
    assert {choice.name for choice in prepared.choices} >= {"model", "tune"}
    assert (recipe.solver, recipe.epochs) == ("exact", None)


@pytest.mark.parametrize("what", ["photos", "digits"])
def test_a_head_that_was_asked_for_has_the_settings_of_one_that_was_chosen(
    digit_files, weights, what
):
    fields = {"weights": str(weights), "image_size": 32, "model": BACKBONE, "watcher": Watcher()}
    chosen = api.plan(str(digit_files), **fields).recipe
    what = str(digit_files) if what == "photos" else "digits"
    asked = api.plan(what, tune="head", **fields).recipe
    assert chosen.tune == asked.tune == "head"
    same = (
        "optimizer",
        "lr",
        "momentum",
        "weight_decay",
        "schedule",
        "warmup",
        "epochs",
        "batch_size",
    )
    assert {key: getattr(asked, key) for key in same} == {key: getattr(chosen, key) for key in same}
    if what != "digits":  # a recipe of its own says how photos are changed
        assert (asked.augment, asked.views, asked.tta) == (chosen.augment, chosen.views, chosen.tta)


def test_a_recipe_that_states_a_head_and_no_length_gets_that_of_heads(photos):
    stated = photos(tune="head")
    assert api.plan(stated, watcher=Watcher()).recipe.epochs == stated.epochs
    fields = {
        key: value
        for key, value in stated.model_dump(exclude_unset=True).items()
        if key not in ("epochs", "batch_size")
    }
    prepared = api.plan(build(fields, where=""), watcher=Watcher())
    assert (prepared.recipe.epochs, prepared.recipe.batch_size) == (
        automatic.HEAD_EPOCHS,
        automatic.HEAD["batch_size"],
    )
    assert any(choice.name == "length" for choice in prepared.choices)


@pytest.mark.parametrize("tune", ["last:2", "all"])
def test_fine_tuning_that_was_asked_for_has_its_own_settings(digit_files, weights, tune):
    recipe = api.plan(
        str(digit_files), weights=str(weights), image_size=32, tune=tune, watcher=Watcher()
    ).recipe
    wanted = automatic.FINE_TUNE
    assert recipe.tune == tune
    assert all(
        getattr(recipe, key) == wanted[key]
        for key in ("optimizer", "lr", "weight_decay", "batch_size", "warmup")
    )
    assert automatic.FEWEST_EPOCHS <= (recipe.epochs or 0) <= automatic.MOST_EPOCHS


def test_settings_of_the_user_are_kept(digit_files, weights):
    recipe = api.plan(
        str(digit_files),
        weights=str(weights),
        image_size=32,
        epochs=7,
        augment="flips",
        watcher=Watcher(),
    ).recipe
    assert (recipe.epochs, recipe.augment) == (7, "flips")


def test_without_weights_at_hand_a_network_is_trained_from_scratch_and_says_why(digit_files):
    prepared = api.plan(str(digit_files), watcher=Watcher())
    assert prepared.recipe.model == "fast-cnn"
    why = next(choice.reason for choice in prepared.choices if choice.name == "model")
    assert "could not be downloaded" in why
    assert "--weights FILE" in why


def test_time_decides_between_fine_tuning_and_a_head(digit_files, weights, monkeypatch):
    monkeypatch.setattr(automatic, "FEWEST_TO_FINE_TUNE", 10)
    # 84 training images: 4.2 s an epoch
    monkeypatch.setattr(automatic, "inference_speed", lambda *_: 100.0)
    fields = {"weights": str(weights), "image_size": 32, "watcher": Watcher()}
    long = api.plan(str(digit_files), time="2m", **fields).recipe
    assert (long.tune, long.epochs) == ("all", 20)
    short = api.plan(str(digit_files), time="5s", **fields).recipe
    assert short.tune == "head"
    asked = api.plan(str(digit_files), time="5s", tune="all", **fields).recipe
    assert (asked.tune, asked.epochs, asked.time) == ("all", automatic.FEWEST_EPOCHS, "5s"), (
        "bounded when it runs"
    )


@pytest.mark.usefixtures("short_reports")
def test_a_resolved_recipe_repeats_without_choosing(digit_files, weights, tmp_path, monkeypatch):
    run = api.train(
        str(digit_files),
        weights=str(weights),
        image_size=32,
        epochs=2,
        out=tmp_path,
        name="first",
        watcher=Watcher(),
    )
    monkeypatch.setattr(automatic, "choose_training", None)
    again = api.train(str(run.path / "recipe.yaml"), out=tmp_path, name="again", watcher=Watcher())
    assert (
        json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["splits"]
        == again.metrics
    )


# ---- photos as they are -----------------------------------------------------------------------------------------------


@pytest.fixture
def nasty(digit_files, tmp_path) -> Path:
    """Class folders that hold what people's folders hold."""
    root = tmp_path / "photos with ä space"
    for label in ("0", "1"):
        shutil.copytree(digit_files / label, root / f"class\n{label}")
    one = root / "class\n0"
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(colour[:1, :1]).save(one / "one pixel.png")
    Image.new("RGB", (12_000, 9_000), (120, 30, 60)).save(one / "huge.jpg", quality=30)
    frames = [Image.fromarray(np.roll(colour, shift, 1)) for shift in range(3)]
    frames[0].save(one / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(colour[:, :, 0].astype(np.uint16) * 257).save(one / "sixteen bits.png")
    Image.fromarray(colour).convert("CMYK").save(one / "print.jpg")
    whole = io.BytesIO()
    Image.fromarray(colour).save(whole, format="JPEG")
    (one / "truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (one / "text.jpg").write_text("not a picture", encoding="utf-8")
    (root / "class\n0" / "loop").symlink_to(root, target_is_directory=True)
    (root / "nothing in here").mkdir()
    return root


def test_a_folder_of_nasty_photos_is_trained_and_nothing_is_silently_dropped(
    nasty, weights, tmp_path
):
    run = api.train(
        str(nasty),
        weights=str(weights),
        image_size=32,
        epochs=1,
        out=tmp_path / "runs",
        name="run",
        watcher=Watcher(),
    )
    names = {row["name"] for row in run.read_table("splits.csv")}
    skipped = {name for name, _ in run.read("data.json")["skipped"]}
    assert {Path(name).name for name in skipped} == {"truncated.jpg", "text.jpg", "loop"}
    for kept in ("one pixel.png", "huge.jpg", "animated.gif", "sixteen bits.png", "print.jpg"):
        assert any(name.endswith(kept) for name in names), kept
    assert any("nothing in here" in note for note in run.read("data.json")["notes"])
    assert (run.path / "report.html").exists()


def test_a_set_of_photos_says_where_it_is_to_be_had(tmp_path, digit_files):
    with pytest.raises(
        UserError, match=r"Get dataset-resized\.zip from https://github\.com/.* data_root='FOLDER'"
    ):
        api.plan("garbage-scratch", watcher=Watcher())
    with pytest.raises(UserError, match="there is no folder"):
        api.plan("garbage-scratch", data_root=str(tmp_path / "none"), watcher=Watcher())
    with pytest.raises(UserError, match="10 classes, where trashnet has 6"):
        api.plan("garbage-scratch", data_root=str(digit_files), watcher=Watcher())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"(?s)empty.*\nGet dataset-resized\.zip"):
        api.plan("garbage-scratch", data_root=str(tmp_path / "empty"), watcher=Watcher())
    with pytest.raises(UserError, match="photos of your own"):
        api.plan("faces", watcher=Watcher())


@pytest.mark.usefixtures("short_reports")
def test_the_two_by_two_is_a_study_with_four_verdicts(digit_files, weights, tmp_path):
    root = tmp_path / "trashnet"
    for label in range(6):
        shutil.copytree(digit_files / str(label), root / str(label))
    found = study(
        "garbage-two-by-two", data_root=str(tmp_path), weights=str(weights), epochs=1, image_size=32, out=tmp_path / "runs",
        watcher=Watcher(),
    )  # fmt: skip
    assert [run.recipe.model for run in found.runs()] == ["cnn", "cnn", BACKBONE, BACKBONE]
    page = (found.path / "study.html").read_text(encoding="utf-8")
    for run in found.runs():
        assert run.read("evaluation.json")["verdict"]["text"] in html.unescape(page)
        assert f"{run.name}/report.html" in page
    assert {effect.factor for effect in found.result().effects} == {"network", "augment"}


def test_leaked_images_are_told_beside_every_figure_and_counted_out(digit_files, tmp_path):
    root = tmp_path / "leaky"
    files = {label: sorted((digit_files / label).iterdir()) for label in ("0", "1", "2")}
    for label, pictures in files.items():
        for number, picture in enumerate(pictures):
            split = "train" if number < 8 else "test"
            (root / split / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, root / split / label / picture.name)
        for picture in pictures[:2]:  # seen in training, under another name
            shutil.copy(picture, root / "test" / label / f"copy-of-{picture.name}")
    run = api.train(
        build({"data": str(root), "model": "ann", "epochs": 30, "batch_size": 8, "lr": 0.01}, where=""),
        out=tmp_path / "runs", name="run", watcher=Watcher(),
    )  # fmt: skip
    test, rows = run.metrics["test"], run.read_table("predictions.csv")
    others = [row for row in rows if row["split"] == "test" and "copy-of" not in row["name"]]
    assert (test["num_images"], test["without_leaked"]["num_images"]) == (18, 12)
    right = sum(row["target"] == row["prediction"] for row in others)
    assert test["without_leaked"]["accuracy"] == pytest.approx(right / 12)
    warning = next(
        line for line in run.read("evaluation.json")["warnings"] if "6 of 18 test images" in line
    )
    assert f"{right / 12:.2%}" in warning
    assert "test without leaks" in (run.path / "report.html").read_text(encoding="utf-8")


# ---- from a run of one's own ------------------------------------------------------------------------------------------

OWN = {
    "ann": {"hidden": [16]}, "cnn": {"widths": [8], "hidden": [16]}, "deep-cnn": {"widths": [8], "hidden": [16]},
    "small-filters": {}, "fast-cnn": {"widths": [8, 8]}, "resnet": {"depth": 8, "width": 8}, BACKBONE: {},
}  # fmt: skip


@pytest.fixture(scope="module")
def five_classes(digit_files, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("five") / "five"
    for label in range(5):
        shutil.copytree(digit_files / str(label), root / str(label))
    return root


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize(("model", "tune"), [*((model, "head") for model in OWN), ("cnn", "all")])
def test_a_run_of_ones_own_gives_its_network_and_its_way_to_see(
    digit_files, five_classes, tmp_path, model, tune
):
    fields = {
        "model": model,
        "model_options": OWN[model],
        "tune": "all",
        "epochs": 1,
        "batch_size": 32,
    }
    first = api.train(
        build({"data": str(five_classes), "image_size": 24, "resize": "pad", "weights": "none", **fields}, where=""),
        out=tmp_path, name="first", watcher=Watcher(),
    )  # fmt: skip
    prepared = api.plan(
        str(digit_files), weights=str(first.path), tune=tune, epochs=1, watcher=Watcher()
    )
    task, recipe = prepared.task, prepared.recipe
    assert (recipe.model, recipe.model_options) == (model, first.recipe.model_options)
    assert (recipe.image_size, recipe.resize, task.spec.num_classes) == (24, "pad", 10)
    before = first.read("model.json")["preprocessing"]
    assert (list(task.spec.mean), list(task.spec.std)) == (before["mean"], before["std"])
    kept, now = load_file(first.path / "model.safetensors"), task.result().state_dict()
    head = head_of(load_task(first, "cpu")[0].result(), task.spec)
    assert all(
        torch.equal(now[key], value)
        for key, value in kept.items()
        if not key.startswith(f"{head}.")
    )
    told = {choice.name: choice for choice in prepared.choices}
    assert (told["model"].choice, told["head"].choice) == (model, "new")
    assert "classes are others than those of first" in told["head"].reason


@pytest.mark.usefixtures("short_reports")
def test_a_packed_run_and_the_file_in_its_folder_are_as_good(digit_files, five_classes, tmp_path):
    recipe = build(
        {"data": str(five_classes), "model": "cnn", "model_options": {"widths": [8]}, "steps": 2},
        where="",
    )
    first = api.train(recipe, out=tmp_path, name="first", watcher=Watcher())
    packed = first.pack(tmp_path / "elsewhere.zip")
    for weights in (packed, first.path / "model.safetensors"):
        run = api.train(
            str(digit_files),
            weights=str(weights),
            epochs=1,
            tune="head",
            out=tmp_path,
            name=weights.stem,
            watcher=Watcher(),
        )
        assert run.recipe.model_options == {"widths": [8]}
    again = api.plan(str(five_classes), weights=str(packed), watcher=Watcher())
    assert "the classes are those" in next(c.reason for c in again.choices if c.name == "head")


def test_runs_that_cannot_be_started_from_are_told(digit_files, five_classes, tmp_path, kinds):
    with pytest.raises(UserError, match=r"is a run of task generate, whose network no other"):
        api.plan(str(digit_files), weights=str(kinds["gan"].path), watcher=Watcher())
    with pytest.raises(UserError, match=r"the network of .*cnn is cnn, not ann\. Leave out model="):
        api.plan(str(digit_files), weights=str(kinds["cnn"].path), model="ann", watcher=Watcher())
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "recipe.yaml").write_text("model: cnn", encoding="utf-8")
    with pytest.raises(UserError, match="has no finished model yet"):
        api.plan(str(digit_files), weights=str(stopped), watcher=Watcher())
