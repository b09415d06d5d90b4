"""The report: from plain files alone, self-contained, safe, legible, and whole where parts are
missing.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

import tintype
from tintype import plugins
from tintype.errors import UserError
from tintype.pages import figures, print_figures, report, sections, words
from tintype.pages.equations import Equation
from tintype.pages.pages import templates
from tintype.pages.part import report_part
from tintype.pages.report import write_report
from tintype.runs.reading import read_metrics, read_run
from tintype.tasks import losses
from tintype.tasks.classify import charts, report_calibration
from tintype.tasks.classify import equations as classify_equations
from tintype.tasks.classify import report as classify_report
from tintype.tasks.classify import report_mistakes as mistakes
from tintype.tasks.classify.cards import filter_sheet, read_cards
from tintype.tasks.generate import equations as generate_equations
from tintype.tasks.generate import objective
from tintype.tasks.generate import report as generate_sections
from tintype.tasks.upscale import equations as upscale_equations

HOSTILE = "<script>alert(1)</script>"
PARTS = (
    "environment.json",
    "data.json",
    "model.json",
    "evaluation.json",
    "analysis.json",
    "metrics.csv",
    "samples",
    "model.safetensors",
)


# ---- a real run, small: scikit-learn's digits and a logistic regression ---------------------------------------------


def make_run(folder: Path, class_names: list[str]) -> Path:
    """Train on digits (as many classes as there are names) and write what a run folder holds."""
    digits = load_digits(n_class=len(class_names))
    images = (digits.images * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    members = {"train": order[:150], "val": order[150:300], "test": order[300:]}
    # Pixels in 0..1: on 0..16 the solver is stopped by its limit on some processors and not on
    # others.
    pixels = digits.data / 16
    model = LogisticRegression(C=2.5, max_iter=1000).fit(
        pixels[members["train"]], digits.target[members["train"]]
    )
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        "task: classify\ndata: digits\nmodel: cnn\nepochs: 3\nlabel_smoothing: 0.1\n",
        encoding="utf-8",
    )
    write_json(folder / "environment.json", environment())
    write_json(
        folder / "data.json",
        data_json(class_names, {s: digits.target[i] for s, i in members.items()}),
    )
    write_json(folder / "model.json", model_json(class_names))
    write_metrics(folder / "metrics.csv")
    evaluation: dict[str, Any] = {
        "task": "classify",
        "splits": {},
        "per_class": {},
        "confusion": {},
    }
    evaluation |= {
        "most_confused": {},
        "reliability": {},
        "warnings": ["val: few images of class 1"],
    }
    evaluation["verdict"] = {
        "word": "overfits",
        "text": "overfits: 100.0 % on training images; why.",
        "gap": 0.06,
    }
    evaluation["test_looks"] = {"run": 1, "data": 3}
    for split, index in members.items():
        add_figures(
            evaluation, split, model.predict_proba(pixels[index]), digits.target[index], class_names
        )
    write_json(folder / "evaluation.json", evaluation)
    probabilities = model.predict_proba(pixels[members["test"]])
    write_samples(
        folder / "samples",
        images[members["test"]],
        probabilities,
        digits.target[members["test"]],
        class_names,
    )
    add_analysis(folder, images, digits.target, members, model.predict_proba(pixels), class_names)
    filters = np.random.default_rng(1).normal(size=(12, 1, 3, 3)).astype(np.float32)
    save_file({"features.0.weight": filters}, folder / "model.safetensors")
    return folder


def environment() -> dict[str, Any]:
    choice = {"name": "precision", "choice": "bf16", "reason": "the CPU is fast at it"}
    return {
        "tintype": "0.1.0", "python": "3.11.7", "torch": "2.11.0", "platform": "Linux", "cpu": "a processor",
        "device": "cpu", "precision": "bf16", "threads": 2, "command": "tintype train digits", "seconds": 12.34,
        "choices": [choice], "started": "2025-11-20T12:00:03+0000", "images_per_second": 850.4,
    }  # fmt: skip


def data_json(names: list[str], targets: dict[str, np.ndarray]) -> dict[str, Any]:
    counts = {split: np.bincount(t, minlength=len(names)).tolist() for split, t in targets.items()}
    return {
        "name": "digits", "fingerprint": "9f3a", "channels": 1, "height": 8, "width": 8, "class_names": names,
        "mean": [0.3], "std": [0.4], "num_images": {s: len(t) for s, t in targets.items()}, "class_counts": counts,
        "notes": ["validation: seed 0"], "skipped": [["photos/broken 1.jpg", "cut off"]],
    }  # fmt: skip


def model_json(names: list[str]) -> dict[str, Any]:
    return {
        "format": 1, "task": "classify", "architecture": {"name": "cnn", "options": {"width": 64}},
        "class_names": names, "parameters": 1234567, "multiply_adds": 56789012, "first_layer": "features.0.weight",
    }  # fmt: skip


def add_figures(
    evaluation: dict[str, Any], split: str, p: np.ndarray, target: np.ndarray, names: list[str]
) -> None:
    guess, confidence = p.argmax(1), p.max(1)
    accuracy = float((guess == target).mean())
    evaluation["splits"][split] = {
        "num_images": len(target), "num_correct": int((guess == target).sum()), "accuracy": accuracy,
        "accuracy_ci95": [max(0.0, accuracy - 0.02), min(1.0, accuracy + 0.02)],
        "loss": float(log_loss(target, p, labels=range(len(names)))), "expected_calibration_error": 0.04,
    }  # fmt: skip
    if split == "train":
        return
    columns = precision_recall_fscore_support(
        target, guess, labels=range(len(names)), zero_division=0
    )
    evaluation["per_class"][split] = [
        {"name": n, "precision": float(a), "recall": float(b), "f1": float(c), "support": int(d)}
        for n, a, b, c, d in zip(names, *columns, strict=True)
    ]
    matrix = confusion_matrix(target, guess, labels=range(len(names)))
    evaluation["confusion"][split] = matrix.tolist()
    row, column = np.unravel_index((matrix - np.diag(np.diag(matrix))).argmax(), matrix.shape)
    pair = {
        "target": names[row],
        "prediction": names[column],
        "count": int(matrix[row, column]),
        "share": 0.1,
    }
    evaluation["most_confused"][split] = [pair]
    bins = []
    for low in np.arange(0, 1, 0.1):
        inside = (confidence > low) & (confidence <= low + 0.1)
        mean = (
            {"confidence": confidence[inside].mean(), "accuracy": (guess == target)[inside].mean()}
            if inside.any()
            else {}
        )
        bins.append(
            {
                "low": low,
                "high": low + 0.1,
                "count": int(inside.sum()),
                "confidence": None,
                "accuracy": None,
                **mean,
            }
        )
    evaluation["reliability"][split] = bins


def add_analysis(
    folder: Path,
    images: np.ndarray,
    targets: np.ndarray,
    members: dict[str, np.ndarray],
    probabilities: np.ndarray,
    names: list[str],
) -> None:
    """Write analysis.json and its pictures with the functions of a run, and calibration and
    abstaining in evaluation.json.
    """
    import torch

    from tintype.data.pixels import ResidentPixels
    from tintype.data.source import DataSpec, StoredSource
    from tintype.data.targets import Classes
    from tintype.models import build_model
    from tintype.tasks.classify.analysis.embedding import embedding_map
    from tintype.tasks.classify.analysis.examples import Answers, confused_pairs, worst_mistakes
    from tintype.tasks.classify.analysis.slices import error_rates
    from tintype.tasks.classify.calibration import abstaining, risk_coverage
    from tintype.tasks.classify.classifier import Classify
    from tintype.tasks.task import Evaluation

    spec = DataSpec("digits", 1, 8, 8, Classes(tuple(names)), (0.3,), (0.4,), "")
    answers, evaluations, curves = {}, {}, {}
    for split, index in members.items():
        pixels = torch.from_numpy(images[index][..., None])
        source = StoredSource(
            spec,
            ResidentPixels(pixels),
            torch.from_numpy(targets[index]),
            [f"digits/{i}" for i in range(len(index))],
        )
        p = probabilities[index].astype(np.float32)
        unit = (
            images[index].reshape(len(index), -1)
            / np.linalg.norm(images[index].reshape(len(index), -1), axis=1)[:, None]
        )
        answers[split] = Answers(
            targets[index], p.argmax(1), p.max(1), unit.astype(np.float16), names, split, source
        )
        evaluations[split] = Evaluation({}, {"probabilities": p, "targets": targets[index]})
        curve = risk_coverage(p.max(1), p.argmax(1) == targets[index])
        curves[split] = {
            "coverage": (curve.num_answered / len(index)).tolist(), "accuracy": (curve.num_right / curve.num_answered).tolist(),
            "threshold": curve.threshold.tolist(),
        }  # fmt: skip
    task = Classify(
        build_model("cnn", spec, {"widths": [4], "hidden": [8]}, 0), spec, torch.device("cpu")
    )
    samples, test = folder / "samples", answers["test"]
    found = {
        "format": 1, "pairs": confused_pairs(samples, test), "slices": error_rates(test),
        "worst": worst_mistakes(samples, task, task.networks["classifier"], test, answers["train"]),
        "map": embedding_map(samples, test, thorough=False), "risk_coverage": {s: curves[s] for s in ("val", "test")},
    }  # fmt: skip
    write_json(folder / "analysis.json", found)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    changes = {"ece_before": 0.21, "ece_after": 0.04, "loss_before": 0.5, "loss_after": 0.3}
    evaluation["calibration"] = {
        "temperature": 0.5, "reason": "least log loss on 150 validation images",
        "splits": dict.fromkeys(("train", "val", "test"), changes), "reliability": evaluation["reliability"],
    }  # fmt: skip
    _, evaluation["abstain"] = abstaining(evaluations["val"], evaluations["test"])
    write_json(folder / "evaluation.json", evaluation)


def write_metrics(path: Path, rows: int = 30) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "lr", "loss", "val_loss", "val_accuracy"])
        for step in range(1, rows + 1):
            evaluated = [0.3 + 1 / step, 1 - 1 / step] if step % 10 == 0 or rows == 1 else ["", ""]
            writer.writerow([step, step / 10, 0.1 / step, 2.3 / step, *evaluated])


def write_samples(
    folder: Path, images: np.ndarray, p: np.ndarray, target: np.ndarray, names: list[str]
) -> None:
    folder.mkdir()
    wrong, right = np.flatnonzero(p.argmax(1) != target), np.flatnonzero(p.argmax(1) == target)

    def entry(position: int) -> dict[str, Any]:
        file = f"test-{position:06d}.png"
        Image.fromarray(images[position]).save(folder / file)
        guess = int(p[position].argmax())
        return {
            "file": file, "name": f"digits/{position}", "target": names[target[position]], "prediction": names[guess],
            "confidence": float(p[position].max()), "correct": bool(guess == target[position]),
        }  # fmt: skip

    grid = [entry(i) for i in [*right[:6], *wrong[:3]]]
    write_json(folder / "samples.json", {"grid": grid, "worst": [entry(i) for i in wrong[:5]]})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "digits", [str(i) for i in range(10)])
    write_report(folder)
    return folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the run to break, without its report."""
    folder = shutil.copytree(
        original, tmp_path / "digits", ignore=shutil.ignore_patterns("report.html", "figures")
    )
    return Path(folder)


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, text, and the content of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append((self.elements[-1][1], ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip() and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace(words.THIN, " ").split())

    @property
    def figures(self) -> list[Any]:
        return [
            json.loads(text)
            for attributes, text in self.scripts
            if attributes.get("type") == "application/json"
        ]

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """Interactive figures by name."""
        names = [figure["data-chart"] for figure in self.all("figure") if "data-chart" in figure]
        return dict(
            zip(names, (each for each in self.figures if isinstance(each, dict)), strict=True)
        )


# ---- the whole page -------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_outside(original: Path) -> None:
    page = Page(original / "report.html")
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert len(addresses) > 20
    for address in addresses:
        inside = address.startswith(("data:", "#"))
        assert inside or (original / address).is_file(), (
            f"{address[:80]} is not in the page nor beside it"
        )
    styles = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles
    assert not re.search(r"https?://(?!www\.w3\.org)", page.source)


def test_plotly_unpacks_to_the_installed_script(original: Path) -> None:
    packed = next(
        text
        for attributes, text in Page(original / "report.html").scripts
        if "plotly" in attributes.get("id", "")
    )
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    assert gzip.decompress(base64.b64decode(packed)) == script


@pytest.mark.machines
def test_headline_and_facts_are_those_of_the_files(original: Path) -> None:
    page = Page(original / "report.html")
    test = json.loads((original / "evaluation.json").read_text(encoding="utf-8"))["splits"]["test"]
    low, high = test["accuracy_ci95"]
    for expected in (
        f"Test accuracy {100 * test['accuracy']:.1f} %",
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %",
        f"{test['num_images'] - test['num_correct']} mistakes in {test['num_images']:,} images",
        "The model overfits. 100.0 % on training images; why.",
        "used once by this run, and 3 times by all runs",
        "tintype train digits",
        "1,234,567",
        "56.8 million",
        "20 November 2025, 12:00 UTC",
        "precision bf16 the CPU is fast at it",
        "val: few images of class 1",
        "photos/broken 1.jpg cut off",
        "label_smoothing: 0.1",
    ):
        assert expected in page.words, expected


def test_structure_serves_readers_and_screen_readers(original: Path) -> None:
    page = Page(original / "report.html")
    assert [len(page.all(tag)) for tag in ("h1", "main", "nav", "header", "footer")] == [
        1,
        1,
        1,
        1,
        1,
    ]
    assert all(picture.get("alt") for picture in page.all("img"))
    links = {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")}
    assert links <= page.ids
    sections_shown = [section["id"] for section in page.all("section")]
    assert {*sections_shown, "main"} == links
    # The result and its warnings, then the mistakes, the training, and last how the run was made.
    assert sections_shown == [
        "result", "warnings", "worst-mistakes", "pairs", "confusion", "classes", "slices", "history", "reliability",
        "abstain", "map", "predictions", "filters", "learning", "making",
    ]  # fmt: skip
    assert all(section["aria-labelledby"] in page.ids for section in page.all("section"))


@pytest.mark.machines
def test_figures_hold_the_measured_numbers(original: Path) -> None:
    charts = Page(original / "report.html").charts
    history, confusion, reliability = (
        charts[name] for name in ("history", "confusion", "reliability")
    )
    evaluation = json.loads((original / "evaluation.json").read_text(encoding="utf-8"))
    matrix = np.array(evaluation["confusion"]["test"])
    shares = np.zeros_like(matrix, dtype=float)
    for trace in confusion["data"]:
        shares += np.array([[cell or 0 for cell in row] for row in trace["z"]])
    np.testing.assert_allclose(shares, matrix / matrix.sum(1, keepdims=True), atol=1e-4)
    raw = next(trace for trace in history["data"] if trace["name"] == "training, each interval")
    np.testing.assert_allclose(raw["y"], [2.3 / step for step in range(1, 31)])
    dots = next(
        trace for trace in reliability["data"] if trace["name"] == "this model, with 95 % intervals"
    )
    assert (
        sum(count for count, _, _ in dots["customdata"])
        == evaluation["splits"]["test"]["num_images"]
    )
    points = [point for trace in charts["map"]["data"] for point in trace.get("customdata", [])]
    matrix = np.zeros_like(matrix)
    np.add.at(matrix, tuple(np.array(points, dtype=int)[:, :2].T), 1)
    assert len(points) == 1000
    assert (matrix <= np.array(evaluation["confusion"]["test"])).all()


def test_static_figures_lie_beside_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(print_figures, "DPI", 200)
    write_report(run)
    names = (
        "history", "confusion", "reliability", "predictions", "worst_mistakes", "filters", "map", "risk_coverage",
    )  # fmt: skip
    for name in names:
        with Image.open(run / "figures" / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 200, name
    assert len(list((run / "figures").iterdir())) == len(names)


@pytest.mark.machines
def test_the_same_folder_gives_the_same_page(original: Path, run: Path) -> None:
    page = (
        write_report(run).read_text(encoding="utf-8").replace(run.as_posix(), original.as_posix())
    )
    assert page == (original / "report.html").read_text(encoding="utf-8")


def test_torch_is_not_needed() -> None:
    code = "import sys, tintype.pages.report; assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no browser here"
)
@pytest.mark.slow
def test_a_browser_draws_all_figures(original: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or ""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    options += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=15000",
    ]
    address = (original / "report.html").as_uri()
    done = subprocess.run(
        [browser, *options, "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )
    assert len(re.findall(r'<figure class="chart drawn"', done.stdout)) == 5
    # a mistake is shown before anything is pointed at
    assert re.search(r'class="thumb shown"', done.stdout)


# ---- names that come from the user ----------------------------------------------------------------------------------


def test_names_cannot_become_markup(run: Path, tmp_path: Path) -> None:
    names = [HOSTILE, "a & b's \"$x^$ {{ 7*7 }}", "<img src=x onerror=alert(1)>"]
    hostile = make_run(tmp_path / "x" / HOSTILE.replace("/", "_"), names)
    data = json.loads((hostile / "data.json").read_text(encoding="utf-8"))
    data |= {"name": HOSTILE, "notes": [HOSTILE], "skipped": [[HOSTILE, HOSTILE]]}
    write_json(hostile / "data.json", data)
    page, harmless = Page(write_report(hostile)), Page(write_report(run))
    assert len(page.scripts) - len(page.charts) == len(harmless.scripts) - len(harmless.charts)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE in page.words  # shown as it is
    assert "{{ 7*7 }}" in page.words
    assert all(source["src"].startswith("data:") for source in page.all("img"))
    # Plotly reads names as its own small HTML, so they are escaped there as well.
    assert page.charts["confusion"]["data"][0]["x"][0] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    # the map's names, as JSON
    assert HOSTILE in page.figures[-1] or any(HOSTILE in each for each in page.figures)


def test_pictures_outside_of_the_samples_are_not_read(run: Path) -> None:
    Image.new("L", (8, 8)).save(run / "secret.png")
    assert (
        read_cards(run / "samples", [{"file": "../secret.png"}, {"file": "/etc/hostname"}, {}])
        == []
    )


# ---- parts that are missing, broken or not yet there ----------------------------------------------------------------


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the static figures undrawn, which take most of a report's time."""
    monkeypatch.setattr(print_figures, "png", lambda figure: b"")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("missing", PARTS)
def test_a_missing_part_leaves_its_section_out(run: Path, missing: str) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    shown = {section["id"] for section in Page(write_report(run)).all("section")}
    gone = {
        "metrics.csv": {"history"},
        "model.safetensors": {"filters"},
        "model.json": {"filters"},
        "samples": {"predictions", "worst-mistakes", "pairs"},
        "evaluation.json": {"confusion", "classes", "reliability", "abstain"},
        "analysis.json": {"pairs", "slices", "map", "abstain"},
    }.get(missing, set())
    assert not gone & shown
    assert {"result", "making"} <= shown


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("broken", PARTS)
@pytest.mark.parametrize("content", [b'{"splits": ', b'\xff\x00garbage\n\x00,"', b"[1, 2]"])
def test_a_broken_part_is_told(run: Path, broken: str, content: bytes) -> None:
    broken = "samples/samples.json" if broken == "samples" else broken
    (run / broken).write_bytes(content)
    page = Page(write_report(run))
    if broken.endswith(".json"):
        assert f"{Path(broken).name} cannot be read" in page.words


def test_an_unfinished_run_says_so(run: Path) -> None:
    for part in ("evaluation.json", "model.json", "model.safetensors"):
        (run / part).unlink()
    shutil.rmtree(run / "samples")
    write_json(run / "status.json", {"state": "stopped", "step": 30, "total_steps": 295})
    with (run / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("31,3.1,0.0")  # the last line was being written
    page = Page(write_report(run))
    assert (
        "Not finished · stopped This run has not been measured yet: its last logged step is 30 of 295, epoch 3."
        in page.words
    )
    assert "tintype train --resume" in page.words
    assert "Test accuracy" not in page.words
    assert "history" in page.ids


def test_a_recipe_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("data: digits\n", encoding="utf-8")
    page = Page(write_report(tmp_path))
    assert {section["id"] for section in page.all("section")} == {"result", "learning", "making"}
    assert not any("plotly" in attributes.get("id", "") for attributes, _ in page.scripts)


def test_one_logged_row_is_enough(run: Path) -> None:
    write_metrics(run / "metrics.csv", rows=1)
    history = Page(write_report(run)).charts["history"]
    assert {trace["mode"] for trace in history["data"]} == {"markers"}
    low, high = history["layout"]["yaxis2"]["range"]
    assert low < 0 < high < 0.1, "a single accuracy, 0 %, and not -100 % to 100 %"


def test_without_test_figures_validation_is_shown(run: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    for group in ("splits", "per_class", "confusion", "most_confused", "reliability"):
        del evaluation[group]["test"]
    evaluation["test_looks"] = {"run": 0, "data": 0}
    evaluation["verdict"] = {
        "word": "not tested",
        "text": "measured on validation only, as asked (measure: val).",
    }
    write_json(run / "evaluation.json", evaluation)
    page = Page(write_report(run))
    assert "Validation accuracy" in page.words
    assert "Not tested. Measured on validation only" in page.words
    assert "The test set has not been used." in page.words


def test_runs_from_before_the_analysis_still_have_a_page(run: Path) -> None:
    (run / "analysis.json").unlink()
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    del evaluation["calibration"], evaluation["abstain"]
    write_json(run / "evaluation.json", evaluation)
    page = Page(write_report(run))
    assert {"worst-mistakes", "reliability", "confusion"} <= page.ids
    assert not {"pairs", "slices", "map", "abstain"} & page.ids
    assert "temperature" not in page.words


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a run folder"):
        write_report(tmp_path / "nowhere")


def test_a_failure_keeps_the_page_that_was_there(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "report.html").write_text("the old page", encoding="utf-8")

    def fail(*_: object) -> str:
        raise RuntimeError("half way")

    monkeypatch.setattr(report, "render", fail)
    with pytest.raises(RuntimeError, match="half way"):
        write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == "the old page"
    assert not list(run.rglob("*.tmp"))


def test_other_tasks_get_the_sections_that_every_run_has(run: Path) -> None:
    (run / "recipe.yaml").write_text("task: generate\n", encoding="utf-8")
    (run / "evaluation.json").unlink()
    (run / "metrics.csv").write_text("step,epoch,d_loss,g_loss\n1,0.1,0.5,0.7\n", encoding="utf-8")
    assert {section["id"] for section in Page(write_report(run)).all("section")} == {
        "result",
        "learning",
        "making",
        "warnings",
    }


# ---- figures: data in, figure out -----------------------------------------------------------------------------------


def test_reliability_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 2000)
    right = rng.random(2000) < confidence
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    bins = [
        {
            "low": low / 10,
            "high": (low + 1) / 10,
            "count": 400,
            "confidence": mean[low - 5],
            "accuracy": accuracy[low - 5],
        }
        for low in range(5, 10)
    ]
    dots = charts.reliability(bins).data[-1]
    np.testing.assert_allclose(dots.x, mean)
    np.testing.assert_allclose(dots.y, accuracy)
    # Wilson, by hand, for 400 images: the centre moves towards one half.
    p, n, z = accuracy[0], 400, 1.959964
    centre, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n),
    )
    assert dots.error_y.array[0] == pytest.approx(centre + half - p, abs=2e-3)
    assert dots.error_y.arrayminus[0] == pytest.approx(p - centre + half, abs=2e-3)


def test_a_confusion_of_many_classes_has_no_numbers_in_its_cells() -> None:
    many = charts.confusion(np.eye(100, dtype=int) * 5, [f"class {i}" for i in range(100)])
    few = charts.confusion([[3, 1], [0, 4]], ["cat", "dog"])
    assert [trace.text for trace in many.data] == [None, None]
    assert few.data[1].text[0][1] == "1"
    assert few.data[1].z[1][0] is None  # no such mistake: left blank


def test_reliability_dots_and_their_intervals_are_within_the_frame() -> None:
    bins = [{"low": 0.62, "high": 1.0, "count": 30, "confidence": 0.97, "accuracy": 1.0}]
    low, high = charts.reliability_range(bins)
    assert low < 0.97
    assert high > 1


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([1.0, 1.0], 0.9, 0.95), ([0.28, 1.0], 0.1, 0.28), ([0.0, 0.0], -0.1, 0.0)],
)
def test_no_curve_lies_on_the_frame_and_no_tick_is_beyond_100_percent(
    values: list[float], low: float, high: float
) -> None:
    panel = figures.Panel(
        "Accuracy", [figures.Series("validation", [1, 2], values, "val")], percent=True
    )
    axis = figures.history([panel]).layout.yaxis
    assert low <= axis.range[0] < high
    assert axis.range[1] > max(values)
    assert 2 <= len(axis.tickvals) <= 6
    assert all(max(0, axis.range[0]) <= tick <= min(1, axis.range[1]) for tick in axis.tickvals)


def test_few_epochs_have_whole_ticks() -> None:
    loss = figures.Panel(
        "Loss", [figures.Series("training", [0.5, 1, 1.5, 2], [4, 3, 2, 1], "train")]
    )
    assert figures.history([loss]).layout.xaxis.dtick == 1
    many = figures.Panel("Loss", [figures.Series("training", [1, 300], [4, 3], "train")])
    assert figures.history([many]).layout.xaxis.dtick is None


def test_only_panels_of_several_curves_are_named_in_the_legend() -> None:
    x = [1.0, 2.0, 3.0]
    metrics = {
        "step": x,
        "loss_generator": x,
        "loss_discriminator": x,
        "discriminator_accuracy": [0.5, 0.6, 0.7],
    }
    drawn = figures.history(generate_sections.history_panels(metrics), "step")
    assert [trace.name for trace in drawn.data if trace.showlegend] == [
        "generator",
        "discriminator",
    ]
    assert drawn.layout.legend.yref == "container", "below the plot, away from titles and toolbar"
    assert drawn.layout.legend.y == 0


def test_history_names_only_what_was_logged() -> None:
    nan = math.nan
    panels = classify_report.history_panels(
        {"epoch": [1.0, 2.0], "loss": [2.0, 1.0], "val_loss": [nan, nan], "lr": [nan, nan]}
    )
    assert [panel.title for panel in panels] == ["Loss"]
    assert [series.name for series in panels[0].series] == ["training, each interval", "training"]
    assert classify_report.history_panels({}) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values(y: list[float]) -> None:
    result = figures.smoothed(y)
    assert len(result) == len(y)
    assert result[0] == pytest.approx(y[0], abs=1e-6)
    assert min(y) - 1e-6 <= min(result) <= max(result) <= max(y) + 1e-6


@given(st.integers(1, 5000))
def test_thinning_keeps_the_mean_and_bounds_the_number(n: int) -> None:
    points = np.stack([np.arange(n), np.arange(n) * 2.0], axis=1)
    x, y = figures.thinned(points, max_points=100)
    assert len(x) == len(y) == min(n, 100)
    np.testing.assert_allclose(y, 2 * x)
    assert (np.diff(x) > 0).all()


@given(st.text(max_size=200))
def test_any_text_can_stand_in_metrics(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    columns = read_metrics(path)
    assert len({len(column) for column in columns.values()}) <= 1
    assert all(isinstance(value, float) for column in columns.values() for value in column)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (24, 3, 5, 5), (64, 1, 7, 3), (300, 3, 3, 3)])
def test_filters_are_scaled_with_zero_at_middle_grey(shape: tuple[int, ...]) -> None:
    weights = np.zeros(shape, np.float32)
    weights[:, :, 0, 0], weights[:, :, -1, -1] = 0.3, -0.3
    sheet = np.asarray(filter_sheet(weights))
    height, width = 4 * shape[2], 4 * shape[3]
    first = sheet[:height, :width, :3]
    assert (first[0, 0] == 255).all()
    assert (first[-1, -1] == 0).all()
    assert (abs(first[0, -1].astype(int) - 127.5) <= 0.5).all()
    shown = (sheet[..., 3] == 255).sum() / (height * width)
    assert shown == min(shape[0], 128)


def test_pictures_are_embedded_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    Image.fromarray(noise[:32, :32]).save(tmp_path / "tiny.png")
    entry = {
        "name": "n",
        "target": "cat",
        "prediction": "dog",
        "confidence": 0.75,
        "correct": False,
    }
    photo, tiny = read_cards(
        tmp_path, [{**entry, "file": "photo.png"}, {**entry, "file": "tiny.png"}]
    )
    assert photo.image.size == (224, 168)
    assert photo.uri.startswith("data:image/jpeg")
    decoded = Image.open(io.BytesIO(base64.b64decode(tiny.uri.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(decoded), noise[:32, :32])  # to the pixel
    assert tiny.alt == "n: true class cat, wrongly taken for dog with 75% confidence"


# ---- the closer look ------------------------------------------------------------------------------------------------


def test_calibration_is_told_before_and_after(original: Path) -> None:
    page = Page(original / "report.html")
    assert "divided by a temperature of 0.5 before the softmax" in page.words
    assert (
        "comes from the validation images (least log loss on 150 validation images)" in page.words
    )
    assert "without it, the network is underconfident" in page.words
    assert "Expected calibration error 21.0 % → 4.0 %" in page.words
    assert any(
        trace["name"] == "without temperature" for trace in page.charts["reliability"]["data"]
    )


def test_worst_mistakes_stand_beside_their_neighbours(original: Path) -> None:
    page = Page(original / "report.html")
    worst = json.loads((original / "analysis.json").read_text(encoding="utf-8"))["worst"]
    rows = [item for item in page.all("article") if item["class"] == "mistake"]
    assert len(rows) == len(worst["items"]) > 3
    small = [picture for picture in page.all("img") if "heat" in picture.get("class", "").split()]
    assert len(small) == len(rows)
    assert f"the most similar of {worst['num_searched']} training images" in page.words


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("label", ["1", "7"])
def test_a_leak_is_told(run: Path, label: str) -> None:
    analysis = json.loads((run / "analysis.json").read_text(encoding="utf-8"))
    item = analysis["worst"]["items"][0]
    item["target"], item["neighbours"][0]["target"], item["neighbours"][0]["same"] = (
        "1",
        label,
        True,
    )
    write_json(run / "analysis.json", analysis)
    page = Page(write_report(run))
    assert "A training image is almost identical" in page.words
    assert ("but is labelled 7: one of the labels is wrong." in page.words) == (label == "7")


@pytest.mark.usefixtures("undrawn")
def test_only_what_is_beyond_chance_is_claimed(run: Path) -> None:
    def bins(*wrong: int) -> list[dict[str, Any]]:
        return [
            {"low": i / 4, "high": (i + 1) / 4, "num_images": 100, "num_wrong": k, "error_rate": k / 100,
             "error_rate_ci95": [max(0, k / 100 - 0.05), k / 100 + 0.05]}
            for i, k in enumerate(wrong)
        ]  # fmt: skip

    dark = {
        "name": "brightness",
        "bins": bins(30, 12, 11, 9),
        "p": 1e-5,
        "p_holm": 2e-5,
        "significant": True,
    }
    flat = {
        "name": "contrast",
        "bins": bins(16, 15, 17, 14),
        "p": 0.9,
        "p_holm": 0.9,
        "significant": False,
    }

    def said(attributes: list[dict[str, Any]]) -> str:
        analysis = json.loads((run / "analysis.json").read_text(encoding="utf-8"))
        analysis["slices"] = {"num_images": 400, "num_wrong": 62, "attributes": attributes}
        write_json(run / "analysis.json", analysis)
        return Page(write_report(run)).words

    claim = "Brightness: the error rate is 30.0 % in the darkest quarter and 9.0 % in the brightest (p < 0.001)."
    assert claim in said([dark, flat])
    quiet = said([flat])
    assert "the error rate is" not in quiet
    assert "None of these differences is significant." in quiet
    few = {"name": "contrast", "bins": bins(1, 0, 0, 0), "p": None}
    assert "too few to tell a difference from chance" in said([few])


@pytest.mark.usefixtures("undrawn")
def test_recall_by_class_size_is_drawn_where_sizes_differ(run: Path) -> None:
    assert "class_sizes" not in Page(write_report(run)).charts
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    rows = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["per_class"]["test"]
    # The better a class is found, the more training images it gets.
    order = np.argsort(np.argsort([row["recall"] for row in rows], kind="stable"))
    data["class_counts"]["train"] = [int(20 * 2**rank) for rank in order]
    write_json(run / "data.json", data)
    page = Page(write_report(run))
    assert "Classes with fewer training images are recognised less often" in page.words
    chart = page.charts["class_sizes"]
    assert chart["layout"]["xaxis"]["type"] == "log"
    assert chart["data"][0]["y"] == [row["recall"] for row in rows]


def test_many_classes_have_colours_of_their_own() -> None:
    for count in (2, 10, 37, 100):
        colours = figures.class_colours(count)
        assert len(set(colours)) == count
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    for colour in figures.CLASS_COLOURS:  # on a light and on a dark ground
        assert min(contrast(colour, "#f6f2ea"), contrast(colour, "#161311")) >= 2.5, colour


def test_the_accuracy_axis_passes_over_the_first_few_answers() -> None:
    curves = {"test": {"coverage": [0.01, 0.02, 0.5, 1.0], "accuracy": [0.0, 0.5, 0.95, 0.9]}}
    low, high = charts.accuracy_range(curves)
    assert 0.88 < low < 0.9
    assert high > 1


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_drawn_of_a_choice_that_nobody_has(run: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    entry = next(entry for entry in evaluation["abstain"] if entry["threshold"])
    every = {**entry, "accuracy": 0.5, "threshold": 0.0}
    for kept, drawn in (([every], False), ([every, entry], True)):
        evaluation["abstain"] = [*kept, {"accuracy": 0.99, "threshold": None}]
        write_json(run / "evaluation.json", evaluation)
        page = Page(write_report(run))
        assert ("risk_coverage" in page.charts) == drawn
        assert "every answer counts" in page.words


@pytest.mark.usefixtures("undrawn")
def test_few_validation_images_and_untrained_filters_are_said(run: Path) -> None:
    assert "It decides little" not in Page(write_report(run)).words
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    data["num_images"]["val"] = 32
    write_json(run / "data.json", data)
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(recipe + "tune: head\n", encoding="utf-8")
    page = Page(write_report(run))
    assert "with 32 validation images, one image is 3.1 %" in page.words
    assert "filters" not in page.ids
    assert "training images per second" not in page.words, "it is features that pass, not images"
    assert "took 12.3 s in all" in page.words


def test_ranges_of_an_attribute_have_no_gaps_and_sharpness_is_in_words() -> None:
    bins = [
        {
            "low": low,
            "high": high,
            "error_rate": 0.1,
            "error_rate_ci95": [0.0, 0.2],
            "num_wrong": 1,
            "num_images": 10,
        }
        for low, high in ((0.1, 0.214), (0.226, 0.3), (0.31, 0.4))
    ]
    labels = {
        name: [
            row["range"] for row in mistakes._panel({"name": name, "bins": bins}, top=0.2)["rows"]
        ]
        for name in ("brightness", "sharpness")
    }
    assert labels["brightness"] == ["10 – 21", "21 – 30", "30 – 40"]
    assert labels["sharpness"] == ["low", "middle", "high"]


def test_idle_wishes_are_left_out() -> None:
    entries = [
        {"accuracy": 0.8, "threshold": 0.0},
        {"accuracy": 0.9, "threshold": 0.0},
        {"accuracy": 0.95, "threshold": 0.7},
    ]
    assert [row["accuracy"] for row in report_calibration._abstain_rows(entries)] == [0.9, 0.95]
    assert len(report_calibration._abstain_rows(entries[2:])) == 1


# ---- words and colours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.91234), "91.2 %"),
        (words.percent(None), "–"),
        (words.percent(math.nan), "–"),
        (words.interval([0.904, 0.919], 2), "90.40 to 91.90 %"),
        (words.interval(None), "–"),
        (words.short_interval([0.904, 0.919]), "90.4–91.9"),
        (words.points(-0.031), "−3.1"),
        (words.number(1234567), "1,234,567"),
        (words.number(0.034567), "0.0346"),
        (words.fixed(0.066), "0.0660"),
        (words.fixed(None), "–"),
        (words.magnitude(56789012), "56.8 million"),
        (words.magnitude(999), "999"),
        (words.duration(12.34), "12.3 s"),
        (words.duration(59.99), "1 min 0 s"),
        (words.duration(4352.1), "1 h 12 min"),
        (words.date("2025-11-20T12:00:03Z"), "20 November 2025, 12:00 UTC"),
        (words.date("yesterday"), "yesterday"),
        (words.plural(1, "image"), "1 image"),
        (words.plural(2000, "image"), "2,000 images"),
        (words.times(2), "twice"),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said.replace(words.THIN, " ") == expected


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_reaches_aa(theme: str) -> None:
    css = (resources.files("tintype.pages") / "templates" / "style.css").read_text(encoding="utf-8")
    block = (
        css[css.index(":root {") : css.index("{% macro")]
        if theme == "light"
        else css.split("{% macro dark() %}")[1]
    )
    block = block.split("{% endmacro %}")[0]
    colours = dict(re.findall(r"--([a-z-]+): ([^;]+);", block))
    pairs = [
        (ink, ground)
        for ink in ("ink", "muted", "accent", "right", "wrong")
        for ground in ("paper", "surface")
    ]
    pairs += [("plate-ink", "plate"), ("plate-muted", "plate")]
    for ink, ground in pairs:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for cells in ("cell-right", "cell-wrong"):
        for cell in colours[cells].split(", "):
            assert contrast(colours["ink"], cell) >= 4.5, (cells, cell)
    for line in ("fig-train", "fig-val", "fig-rate", "fig-right", "fig-wrong"):
        assert contrast(colours[line], colours["paper"]) >= 3, line


def test_light_colours_are_those_of_the_figures() -> None:
    css = (resources.files("tintype.pages") / "templates" / "style.css").read_text(encoding="utf-8")
    for role in ("train", "val", "rate", "right", "wrong", "guide", "grid"):
        assert f"--fig-{role}: {figures.COLOURS[role]};" in css


def test_every_section_has_its_template() -> None:
    code = [Path(tintype.__file__).parent / "pages" / "sections.py"]
    code += Path(tintype.__file__).parent.glob("tasks/*/report*.py")
    used = {
        name for path in code for name in re.findall(r'"([\w/]+\.html)"', path.read_text("utf-8"))
    }
    assert len(used) > 20
    for name in used:
        assert templates().get_template(name)


@pytest.mark.parametrize("task", [*plugins.names("tasks"), "not-installed"])
def test_the_report_of_every_task_has_the_sections_that_all_runs_need(task: str) -> None:
    part = report_part(task)
    made = [make.__name__ for make in part.SECTIONS]
    assert made[0] == "headline"
    assert sections.warnings in part.SECTIONS
    assert made[-1] == "making"
    assert "history" not in part.FIGURES


def test_a_run_of_a_task_without_a_report_gets_the_common_page(run: Path) -> None:
    """Its figures as a table, its curves, how it was made."""
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(recipe.replace("task: classify", "task: count"), "utf-8")
    figures_ = {"num_images": 12, "mean_error": 0.25}
    content = {"task": "count", "splits": {"test": figures_, "val": figures_}}
    (run / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    page = Page(write_report(run))
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert ids == ["result", "warnings", "history", "making"]
    assert "Mean error" in " ".join(page.text)
    assert "0.25" in " ".join(page.text)
    assert list(page.charts) == ["history"]


def test_the_run_is_read_as_it_is(original: Path) -> None:
    files = read_run(original)
    assert (files.name, files.task, files.split, files.finished) == (
        "digits",
        "classify",
        "test",
        True,
    )
    assert files.problems == ()
    assert len(files.metrics["loss"]) == 30
    assert sum(not math.isnan(value) for value in files.metrics["val_accuracy"]) == 3


# ---- how it learns ----------------------------------------------------------------------------------------------------


def test_every_loss_stands_as_an_equation_in_the_report_and_in_the_documentation() -> None:
    assert set(generate_equations.ADVERSARIAL) == set(losses.ADVERSARIAL)
    # which stand twice, since a report needs no torch
    assert generate_equations.OTHER_NAMES == objective.OTHER_NAMES
    assert set(upscale_equations.RESTORATION) == {*losses.RESTORATION, "perceptual", "adversarial"}

    documented = (Path(__file__).parents[1] / "docs/objectives.md").read_text(encoding="utf-8")
    pairs = itertools.chain(*generate_equations.ADVERSARIAL.values())
    single = (
        classify_equations.CROSS_ENTROPY,
        generate_equations.PENALTIES,
        upscale_equations.RESTORATION,
    )
    every = [
        *pairs,
        *itertools.chain(*(table.values() for table in single)),
        generate_equations.FLOW,
    ]
    for latex in every:
        assert f"$${latex}$$" in documented
        assert Equation("", latex).svg.startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, ["plain"]),
        ({"label_smoothing": 0.1}, ["smoothing"]),
        ({"class_weights": "balanced", "label_smoothing": 0.1}, ["both"]),
    ],
)
def test_a_classifier_shows_the_cross_entropy_that_it_minimises(
    run: Path, recipe: Any, expected: Any
) -> None:
    path = run / "recipe.yaml"
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(
        yaml.safe_dump({**fields, "label_smoothing": 0.0, "class_weights": None, **recipe}),
        encoding="utf-8",
    )
    shown = [image.get("alt") for image in Page(write_report(run)).all("img")]
    assert [
        kind for kind, latex in classify_equations.CROSS_ENTROPY.items() if latex in shown
    ] == expected


def test_a_gan_shows_its_objective_as_it_is_written() -> None:
    def equations(**options: Any) -> list[str]:
        recipe = {"model": "dcgan", "task_options": options}
        return [equation.latex for equation in generate_equations.equations_of(recipe)]

    assert equations(loss="minimax") == list(generate_equations.ADVERSARIAL["minimax"])
    assert equations() == list(generate_equations.ADVERSARIAL["bce"])
    assert equations(loss="wgan-gp") == [
        *generate_equations.ADVERSARIAL["wasserstein"],
        generate_equations.PENALTIES["gradient_penalty"],
    ]
    assert equations(loss="relativistic", r1=2.0)[-1] == generate_equations.PENALTIES["r1"]
    assert [e.latex for e in generate_equations.equations_of({"model": "flow-unet"})] == [
        generate_equations.FLOW
    ]
