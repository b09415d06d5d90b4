"""The closer look at mistakes: against closed forms and references, on made images whose answer is
known, and in real runs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from tintype import api
from tintype.data.pixels import ResidentPixels
from tintype.data.source import DataSpec, StoredSource
from tintype.data.targets import Classes
from tintype.models import build_model
from tintype.models.parts.head import features_before, head_of
from tintype.statistics import wilson_interval
from tintype.tasks.classify.analysis import slices as slicing
from tintype.tasks.classify.analysis.embedding import (
    MOST_THUMBNAILS,
    embedding_map,
    principal_components,
    t_sne,
)
from tintype.tasks.classify.analysis.examples import (
    Answers,
    confused_pairs,
    nearest_images,
    worst_mistakes,
)
from tintype.tasks.classify.analysis.heatmaps import grad_cam, overlaid, spatial_layer
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.restoring import load_task

NAMES = ("one", "two", "three")


def spec_of(pixels: np.ndarray, names: Sequence[str] = NAMES) -> DataSpec:
    _, height, width, channels = pixels.shape
    return DataSpec(
        "made",
        channels,
        height,
        width,
        Classes(tuple(names)),
        (0.5,) * channels,
        (0.25,) * channels,
        "",
    )


def answers(
    pixels: np.ndarray,
    targets: Sequence[int],
    guesses: Sequence[int],
    split: str = "test",
    features: np.ndarray | None = None,
    names: Sequence[str] = NAMES,
) -> Answers:
    """Make what a model may have said of images (N, H, W, C) uint8; later ones with less
    confidence.
    """
    n = len(targets)
    source = StoredSource(
        spec_of(pixels, names),
        ResidentPixels(torch.from_numpy(pixels)),
        torch.tensor(targets),
        [f"{split}/{i}" for i in range(n)],
    )
    features = np.zeros((n, 0), np.float16) if features is None else features
    confidence = np.linspace(0.99, 0.5, n, dtype=np.float32)
    return Answers(np.array(targets), np.array(guesses), confidence, features, names, split, source)


def noise(n: int, side: int = 12, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


# ---- heat maps ------------------------------------------------------------------------------------------------------


def averaging_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def test_grad_cam_is_cam_where_averages_go_into_a_linear_layer() -> None:
    """Closed form (Zhou et al. 2016): the map is ReLU(sum over k of w_ck A_k)."""
    network, images, classes = (
        averaging_network(),
        torch.rand(5, 1, 9, 7),
        torch.tensor([0, 1, 2, 1, 0]),
    )
    found = grad_cam(network, images, classes)
    assert found is not None
    assert found.layer == "1"
    head: Any = network[4]
    with torch.no_grad():
        maps = F.relu((head.weight[classes][:, :, None, None] * F.relu(network[0](images))).sum(1))
    expected = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
    np.testing.assert_allclose(found.maps, expected.numpy(), atol=1e-5)


def test_grad_cam_shows_the_decisive_region() -> None:
    """One class is told by a bright patch, the other by a dark one; each map lies on its own patch."""
    conv = nn.Conv2d(1, 2, 3, padding=1)
    head = nn.Linear(2, 2)
    with torch.no_grad():
        conv.weight[0], conv.weight[1] = 1.0, -1.0
        conv.bias.zero_()
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), head)
    images = torch.zeros(1, 1, 16, 16)
    images[0, 0, 2:6, 2:6], images[0, 0, 10:14, 9:13] = 1.0, -1.0
    for label, (rows, columns) in enumerate(
        ((slice(1, 7), slice(1, 7)), (slice(9, 15), slice(8, 14)))
    ):
        found = grad_cam(network, images, torch.tensor([label]))
        assert found is not None
        assert found.maps[0].max() == pytest.approx(1.0)
        assert found.maps[0][rows, columns].sum() == pytest.approx(found.maps[0].sum())


def test_grad_cam_leaves_the_network_as_it_was() -> None:
    network = averaging_network().train()
    for weight in network.parameters():
        weight.requires_grad_(False)  # frozen
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        assert grad_cam(network, torch.rand(2, 1, 8, 8), torch.tensor([0, 1])) is not None
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("model", ["fast-cnn", "cnn", "deep-cnn", "resnet", "small-filters"])
@pytest.mark.parametrize("side", [8, 32])
def test_every_convolutional_network_has_a_map(model: str, side: int) -> None:
    network = build_model(model, spec_of(noise(1, side)), {}, 0)
    found = grad_cam(network, torch.randn(3, 3, side, side), torch.tensor([0, 1, 2]))
    assert found is not None
    assert min(found.maps.shape[1:]) >= 2
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1


def test_networks_without_maps_have_none() -> None:
    class Tokens(nn.Module):
        """Patches as tokens, as in a vision transformer."""

        def __init__(self) -> None:
            super().__init__()
            self.patches, self.mix, self.head = (
                nn.Conv2d(3, 8, 4, 4),
                nn.Linear(8, 8),
                nn.Linear(8, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.mix(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    image = torch.rand(1, 3, 16, 16)
    assert spatial_layer(build_model("ann", spec_of(noise(1, 16)), {}, 0), image) is None
    assert spatial_layer(Tokens(), image) is None
    assert grad_cam(Tokens(), image, torch.tensor([0])) is None


def test_heat_is_laid_over_the_picture() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1.0
    picture = overlaid(np.full((8, 8, 1), 128, np.uint8), heat)
    assert picture.shape == (112, 112, 3)
    assert picture[-1, -1].std() == 0  # grey where there is none
    red, _, blue = picture[0, 0].astype(int)
    assert red - blue > 40  # warm at its peak
    assert overlaid(noise(1, 300)[0], heat).shape == (300, 300, 3)


# ---- features and neighbours ----------------------------------------------------------------------------------------


@pytest.mark.machines
def test_neighbours_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (rng.normal(size=(7, 9)), rng.normal(size=(80, 9)))
    ]
    distance, index = (
        NearestNeighbors(n_neighbors=4, metric="cosine").fit(unit[1]).kneighbors(unit[0])
    )
    for row, (d, i) in zip(
        nearest_images(unit[0], unit[1], 4), zip(distance, index, strict=True), strict=True
    ):
        assert [position for position, _ in row] == i.tolist()
        np.testing.assert_allclose([1 - similarity for _, similarity in row], d, atol=1e-6)
    assert nearest_images(np.zeros((2, 0)), np.zeros((5, 0)), 4) == [[], []]


def test_a_picture_that_is_also_in_training_is_found(tmp_path: Path) -> None:
    """Test image 1 is training image 7, slightly noisy, with another label; test image 0 is not
    there.
    """
    test_pixels, train_pixels = noise(4), noise(40, seed=1)
    train_pixels[7] = (
        test_pixels[1].astype(int) + np.random.default_rng(2).integers(-3, 4, (12, 12, 3))
    ).clip(0, 255)
    network = build_model("cnn", spec_of(test_pixels), {"widths": [8], "hidden": [16]}, 0)
    task = Classify(network, spec_of(test_pixels), torch.device("cpu"))
    extract = features_before(network.eval(), head_of(network, task.spec))
    features = []
    for pixels in (test_pixels, train_pixels):
        with torch.no_grad():
            seen = extract(task.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
        features.append(F.normalize(seen, dim=1).half().numpy())
    test = answers(test_pixels, [0, 0, 1, 1], [1, 1, 1, 1], "test", features[0])
    train = answers(train_pixels, [0] * 7 + [1] * 33, [0] * 40, "train", features[1])
    found = worst_mistakes(tmp_path, task, network, test, train)
    assert [item["position"] for item in found["items"]] == [0, 1]  # the surest first
    assert found["num_searched"] == 40
    other, leaked = found["items"]
    assert (leaked["neighbours"][0]["position"], leaked["neighbours"][0]["same"]) == (7, True)
    assert leaked["neighbours"][0]["target"] == "two"
    assert not any(neighbour["same"] for neighbour in other["neighbours"])
    for item in found["items"]:
        for file in (item["file"], item["heat"], *(n["file"] for n in item["neighbours"])):
            with Image.open(tmp_path / file) as image:
                image.load()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / leaked["file"])), test_pixels[1])


def test_confused_pairs_are_shown_side_by_side(tmp_path: Path) -> None:
    targets = [0] * 10 + [1] * 10 + [2] * 4
    guesses = [1] * 6 + [0] * 4 + [1] * 9 + [2] + [2] * 4
    pairs = confused_pairs(tmp_path, answers(noise(24), targets, guesses))
    assert [(p["target"], p["prediction"], p["count"]) for p in pairs] == [
        ("one", "two", 6),
        ("two", "three", 1),
    ]
    assert [item["position"] for item in pairs[0]["mistakes"]] == [0, 1, 2, 3]
    assert all(item["correct"] and item["target"] == "one" for item in pairs[0]["of_target"])
    assert all(item["correct"] and item["target"] == "two" for item in pairs[0]["of_prediction"])
    assert all((tmp_path / item["file"]).exists() for pair in pairs for item in pair["of_target"])
    assert confused_pairs(tmp_path, answers(noise(3), [0, 1, 2], [0, 1, 2])) == []


# ---- slices ---------------------------------------------------------------------------------------------------------


def test_attributes_agree_with_scipy() -> None:
    pixels = noise(5, side=9)
    source = answers(pixels, [0] * 5, [0] * 5).source
    assert source is not None
    found = slicing.pixel_attributes(source, np.arange(5))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(found["brightness"], luma.mean((1, 2)) / 255, rtol=1e-5)
    np.testing.assert_allclose(found["contrast"], luma.std((1, 2)) / 255, rtol=1e-5)
    inner = [ndimage.laplace(each)[1:-1, 1:-1].var() for each in luma]
    np.testing.assert_allclose(found["sharpness"], inner, rtol=1e-4)


def test_errors_planted_in_dark_images_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    bright = rng.uniform(40, 200, 400)
    pixels = (
        (bright[:, None, None, None] + rng.normal(0, 20, (400, 8, 8, 1)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    wrong = rng.random(400) < np.where(bright < 80, 0.6, 0.1)
    found = slicing.error_rates(answers(pixels, [0] * 400, wrong.astype(int).tolist()))
    by_name = {a["name"]: a for a in found["attributes"]}
    assert by_name["brightness"]["significant"]
    rates = [b["error_rate"] for b in by_name["brightness"]["bins"]]
    assert rates[0] == max(rates)
    assert (
        sum(b["num_wrong"] for b in by_name["brightness"]["bins"])
        == wrong.sum()
        == found["num_wrong"]
    )
    assert found["num_images"] == 400
    at_random = slicing.error_rates(
        answers(pixels, [0] * 400, rng.permutation(wrong).astype(int).tolist())
    )
    assert not any(a["significant"] for a in at_random["attributes"])
    assert all(a["p_holm"] >= a["p"] for a in at_random["attributes"])


def test_chance_is_rarely_claimed() -> None:
    """100 runs whose errors have nothing to do with the images: about 5 may claim something."""
    pixels = noise(200, side=6, channels=1)
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(100):
        guesses = (rng.random(200) < 0.3).astype(int).tolist()
        claims += any(
            a.get("significant")
            for a in slicing.error_rates(answers(pixels, [0] * 200, guesses))["attributes"]
        )
    assert claims <= 12


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=60))
def test_quarters_divide_the_images_and_never_equal_values(items: list[tuple[int, bool]]) -> None:
    value, wrong = np.array([float(v) for v, _ in items]), np.array([w for _, w in items])
    bins = slicing._bins(value, wrong)
    assert sum(b["num_images"] for b in bins) == len(items)
    assert sum(b["num_wrong"] for b in bins) == wrong.sum()
    assert len(bins) <= 4
    assert all(a["high"] < b["low"] for a, b in pairwise(bins))
    for b in bins:
        assert b["num_images"] == ((value >= b["low"]) & (value <= b["high"])).sum()
        assert b["error_rate_ci95"] == list(wilson_interval(b["num_wrong"], b["num_images"]))


def test_sizes_of_files_are_read_where_there_are_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "a" / "x.png")
    Image.new("L", (10, 50)).save(tmp_path / "a" / "y.jpg")
    found = slicing.file_attributes(["a/x.png", "a/y.jpg"], [tmp_path / "nowhere", tmp_path])
    assert found["size"].tolist() == [30, 10]
    assert found["aspect"] == pytest.approx([4 / 3, 5])
    (tmp_path / "a" / "z.png").write_text("no picture", encoding="utf-8")
    assert slicing.file_attributes(["a/x.png", "a/z.png"], [tmp_path]) == {}
    assert slicing.file_attributes(["a/x.png", "a/gone.png"], [tmp_path]) == {}


# ---- the map --------------------------------------------------------------------------------------------------------


@pytest.mark.machines
def test_principal_components_agree_with_scikit_learn() -> None:
    features = load_digits().data[:200]
    found, shares = principal_components(features, 5)
    reference = PCA(5, svd_solver="full").fit(features)
    np.testing.assert_allclose(np.abs(found), np.abs(reference.transform(features)), atol=1e-8)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_)
    again, _ = principal_components(-features, 5)
    np.testing.assert_allclose(again, found, atol=1e-8)  # the sign is settled


@pytest.mark.machines
def test_t_sne_keeps_digits_together_and_is_always_the_same() -> None:
    digits: Any = load_digits(n_class=4)
    components, _ = principal_components(digits.data[:120], 30)
    places = t_sne(components)
    np.testing.assert_array_equal(places, t_sne(components))
    assert silhouette_score(places, digits.target[:120]) > 0.4


@pytest.mark.parametrize(("side", "file"), [(8, "map.png"), (64, "map.jpg")])
def test_the_map_holds_thumbnails_of_all_mistakes(tmp_path: Path, side: int, file: str) -> None:
    n = MOST_THUMBNAILS + 60
    rng = np.random.default_rng(0)
    pixels = (
        np.broadcast_to(rng.integers(0, 256, (n, 1, 1, 1)), (n, side, side, 1))
        .astype(np.uint8)
        .copy()
    )
    guesses = (rng.random(n) < 0.2).astype(int)
    features = rng.normal(size=(n, 6)).astype(np.float16)
    found = embedding_map(
        tmp_path, answers(pixels, [0] * n, guesses.tolist(), features=features), thorough=False
    )
    assert found is not None
    assert found["method"] == "PCA"
    assert max(map(abs, found["x"] + found["y"])) == 1
    sheet, thumbnail = found["sheet"], np.array(found["thumbnail"])
    assert sheet["file"] == file
    assert sheet["count"] == MOST_THUMBNAILS == (thumbnail >= 0).sum()
    assert (thumbnail[guesses == 1] >= 0).all()
    with Image.open(tmp_path / file) as image:
        drawn = np.asarray(image)
    for point in np.flatnonzero(thumbnail >= 0)[::50]:
        row, column = divmod(int(thumbnail[point]), sheet["columns"])
        middle = drawn[
            row * sheet["height"] + sheet["height"] // 2,
            column * sheet["width"] + sheet["width"] // 2,
        ]
        assert abs(int(middle) - int(pixels[found["position"][point], 0, 0, 0])) <= 4


def test_what_has_no_features_has_no_map(tmp_path: Path) -> None:
    assert embedding_map(tmp_path, answers(noise(5), [0] * 5, [0] * 5), thorough=True) is None


# ---- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.machines
def test_a_run_is_calibrated_and_says_the_same_everywhere(finished_run: api.Run) -> None:
    calibration = finished_run.read("evaluation.json")["calibration"]
    model = finished_run.read("model.json")
    assert model["temperature"] == calibration["temperature"] != 1.0
    assert [wish["accuracy"] for wish in model["abstain"]] == [0.8, 0.9, 0.95, 0.98, 0.99]
    for split in ("train", "val", "test"):
        changed = calibration["splits"][split]
        assert changed["loss_after"] == finished_run.metrics[split]["loss"]
        assert changed["ece_after"] == finished_run.metrics[split]["expected_calibration_error"]
    fitted = calibration["splits"]["val"]
    assert fitted["loss_after"] < fitted["loss_before"]
    # What `evaluate` and `predict` say is what the files say.
    assert finished_run.evaluate(split="val")["loss"] == finished_run.metrics["val"]["loss"]
    pixels: Any = (load_digits().images * 255 / 16).round().astype(np.uint8)
    with (finished_run.path / "predictions.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"][:20]
    for row in rows:
        prediction = finished_run.predict(pixels[int(row["name"])])
        assert not isinstance(prediction, list)
        assert prediction.confidence == pytest.approx(float(row["confidence"]), abs=2e-6)


def test_abstaining_is_measured_on_test_and_chosen_on_validation(finished_run: api.Run) -> None:
    rows = {
        split: [row for row in finished_run.read_table("predictions.csv") if row["split"] == split]
        for split in ("val", "test")
    }
    for wish in finished_run.read("evaluation.json")["abstain"]:
        if wish["threshold"] is None:
            assert "test" not in wish
            continue
        assert wish["val"]["accuracy_ci95"][0] >= wish["accuracy"]
        for split, table in rows.items():
            answered = [
                row for row in table if float(row["confidence"]) >= wish["threshold"] - 1e-6
            ]
            right = sum(row["target"] == row["prediction"] for row in answered)
            assert (wish[split]["num_answered"], wish[split]["num_correct"]) == (
                len(answered),
                right,
            )
            assert wish[split]["coverage"] == len(answered) / len(table)


def test_models_from_before_calibration_still_load(copied_run: api.Run) -> None:
    model = copied_run.read("model.json")
    del model["temperature"], model["abstain"]
    copied_run.write("model.json", model)
    task, _ = load_task(copied_run, "cpu")
    assert isinstance(task, Classify)
    assert task.temperature == 1.0
    before = copied_run.read("evaluation.json")["calibration"]["splits"]["val"]
    assert copied_run.evaluate(split="val")["loss"] == before["loss_before"]


def test_the_analysis_is_always_the_same(tiny: Any, train_in: Any, tmp_path: Path) -> None:
    recipe = tiny(model="cnn", model_options={"widths": [8], "hidden": [16]}, epochs=3)
    runs = [train_in(tmp_path / name / "run", recipe) for name in ("one", "two")]
    found = runs[0].read("analysis.json")
    assert found["worst"]["layer"]
    assert found["map"]["method"] == "PCA"  # digits are to stay a matter of seconds
    files = sorted(p.relative_to(runs[0].path) for p in (runs[0].path / "samples").iterdir())
    assert any(file.name.startswith("heat-") for file in files)
    assert any(file.name.startswith("train-") for file in files)
    for file in ("analysis.json", "model.json", *files):
        assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes(), file


def test_curves_agree_with_the_predictions(finished_run: api.Run) -> None:
    curve = finished_run.read("analysis.json")["risk_coverage"]["test"]
    figures = finished_run.metrics["test"]
    assert curve["coverage"][-1] == 1.0
    assert curve["accuracy"][-1] == pytest.approx(figures["accuracy"], abs=1e-5)
    assert len(curve["coverage"]) <= 200
    assert curve["coverage"] == sorted(curve["coverage"])
    assert curve["threshold"] == sorted(curve["threshold"], reverse=True)


def test_tasks_without_an_analysis_are_passed_over(kinds: dict[str, api.Run]) -> None:
    assert {run.recipe.task for run in kinds.values()} > {"classify"}
    for run in kinds.values():
        assert (run.path / "analysis.json").exists() == (run.recipe.task == "classify")


def test_photos_in_folders_are_cut_by_their_size(
    digit_files: Path, tiny: Any, train_in: Any, tmp_path: Path
) -> None:
    """Names are paths: the headers of the files are read.

    All digits are 8x8, so only what differs is cut.
    """
    for i, path in enumerate(sorted(digit_files.rglob("*.png"))):
        target = tmp_path / "photos" / path.relative_to(digit_files)
        target.parent.mkdir(parents=True, exist_ok=True)
        side = 8 * (1 + i % 3)
        Image.open(path).resize((side, side)).save(target)
    run = train_in(
        tmp_path / "out" / "run",
        tiny(data=str(tmp_path / "photos"), image_size=8, epochs=1, batch_size=30),
    )
    found = json.loads((run.path / "analysis.json").read_text(encoding="utf-8"))["slices"]
    names = [attribute["name"] for attribute in found["attributes"]]
    assert names == ["brightness", "contrast", "sharpness", "size"]
    bounds = [(b["low"], b["high"]) for b in found["attributes"][3]["bins"]]
    assert bounds == [(8, 8), (16, 16), (24, 24)]
