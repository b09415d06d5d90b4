"""Fine-tuning and serving of a network that looks at each photo at two sizes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from tintype import api
from tintype.data.source import DataSpec
from tintype.data.targets import Classes
from tintype.models import build_model
from tintype.models.parts.backbone import backbone_parts
from tintype.progress import Watcher
from tintype.runs import packaged_weights
from tintype.tasks.pretrained import Thawing
from tintype.tasks.restoring import load_task
from tintype.verbs.serve.app import make_app
from tintype.verbs.serve.loading import load

MODEL = "efficientnet_lite0"
LOOKS = {"stages": 2, "scales": [48, 64]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Six photos of each of two classes."""
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("two") / "photos"
    for label, level in (("dark", 90), ("light", 166)):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(draw.normal(level, 60, (64, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def trained(photos: Path, out: Path, **fields: Any) -> api.Run:
    settings = {
        "model": MODEL, "weights": "default", "model_options": LOOKS, "image_size": 64,
        "steps": 2, "batch_size": 4, "lr": 0.01, "warmup": 0.0, "augment": "photos",
        "val_fraction": 0.25, "test_fraction": 0.25, "watcher": Watcher(), **fields,
    }  # fmt: skip
    return api.train(str(photos), out=out, name="run", **settings)


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("tune", ["last:2", pytest.param("all", marks=pytest.mark.exhaustive)])
def test_what_was_asked_for_is_trained_and_served(photos, tmp_path, tune):
    measured = {"interpolate": True} if tune == "all" else {"measure": "none"}
    run = trained(photos, tmp_path, tune=tune, layer_decay=0.5, **measured)
    spec = load_task(run, "cpu")[0].spec
    network = build_model(MODEL, spec, LOOKS, seed=0)
    parts = backbone_parts(network, spec)
    assert parts.num_features == 2 * (112 + 1280)

    before = torch.load(packaged_weights.weights_file(MODEL), map_location="cpu", weights_only=True)
    names = [name for name, _ in network.named_parameters()]
    buffers = set(network.state_dict()) - set(names)
    old = dict(zip(network.state_dict(), before.values(), strict=True))
    after = run.model.state_dict()
    first = len(parts.stages) - 2 if tune == "last:2" else 0
    for name in names:
        if parts.stage_of(name) < first:
            assert torch.equal(old[name], after[name]), name
    assert any(not torch.equal(old[name], after[name]) for name in names[:-2])
    assert all(torch.equal(old[name], after[name]) for name in buffers)

    buffer = io.BytesIO()
    file = next((photos / "light").iterdir())
    Image.open(file).save(buffer, "PNG")
    served = load("two", run.path, "cpu")
    with TestClient(make_app([served]), base_url="http://127.0.0.1") as client:
        answer = client.post(
            "/v1/predict", content=buffer.getvalue(), headers={"Content-Type": "image/png"}
        ).json()
    [given] = answer["predictions"]
    found = {each["class"]: each["probability"] for each in given["top"]}
    expected = run.predict_proba([str(file)])[0]
    assert [found["dark"], found["light"]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_earlier_stages_learn_more_slowly_and_both_looks_share_them():
    spec = DataSpec("", 3, 64, 64, Classes(("a", "b")), (0.5,) * 3, (0.5,) * 3, "")
    network = build_model(MODEL, spec, LOOKS, seed=0)
    parts = backbone_parts(network, spec)
    Thawing(network, parts, thawed=3, layer_decay=0.5, unfreeze=0.0, freeze_norm=True)
    groups = parts.parameters()
    for depth, weights in enumerate(groups):
        for weight in weights:
            assert weight.layer_scale == 0.5 ** (  # pyright: ignore[reportAttributeAccessIssue]
                len(groups) - 1 - depth
            )
            assert weight.requires_grad == (depth >= len(groups) - 4)

    network.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(weight.grad is not None for weights in groups[-4:] for weight in weights)
    assert all(weight.grad is None for weights in groups[:-4] for weight in weights)
