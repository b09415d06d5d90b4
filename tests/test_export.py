"""Exporting: the graph resizes as Pillow does, every format gives the run's answers, and a wrong
export is not kept.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from PIL import Image

from tintype import api, cli, own_code
from tintype.data.decode import Resize, decode, fit
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.runs.onnx_writing import OPSET
from tintype.tasks.classify.export import Export, classified_images
from tintype.tasks.contract.resizing import Resizer
from tintype.tasks.restoring import load_task
from tintype.verbs.export import Exported, export_run, formats
from tintype.verbs.predict.opening import open_model

pytestmark = pytest.mark.usefixtures("short_pages")

SIZES = [(96, 96), (90, 131), (40, 23), (300, 12), (16, 16), (33, 64), (250, 240)]
HOW = [
    Resize("crop"),
    Resize("crop", 224 / 256),
    Resize("crop", 1.0, "bicubic"),
    Resize("squash", 1.0, "bicubic"),
    Resize("pad"),
]


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory) -> api.Run:
    """A small classifier with batch norm on colour pictures of 16x16: squares of two photos,
    upright and mirrored.
    """
    root = tmp_path_factory.mktemp("colour")
    photos = {"cat": skimage.data.chelsea(), "coffee": skimage.data.coffee()}
    for name, photo in photos.items():
        (root / "photos" / name).mkdir(parents=True)
        for number, (top, left) in enumerate(product(range(0, 240, 40), range(0, 300, 30))):
            square = photo[top : top + 60, left : left + 60]
            Image.fromarray(square).save(root / "photos" / name / f"{number:03d}.png")
    fields = {
        "data": str(root / "photos"), "image_size": 16, "model": "resnet", "model_options": {"depth": 8}, "epochs": 3,
        "batch_size": 24, "lr": 0.01, "precision": "fp32", "device": "cpu", "val_fraction": 0.4, "tta": "flip",
    }  # fmt: skip
    return api.train(build(fields, where=""), out=root, name="colour", watcher=Watcher())


@pytest.fixture(scope="module")
def exported(colour_run, tmp_path_factory) -> Exported:
    return export_run(colour_run, out=tmp_path_factory.mktemp("exported") / "colour.onnx")


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


# ---- resizing in the graph --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", HOW, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_resizes_as_pillow_does(resize, channels):
    """By one level at most here and there; two where Pillow rounds twice more, in pictures that
    shrink a lot.
    """
    photo = skimage.data.chelsea()
    for (height, width), (to_height, to_width) in product(SIZES, [(16, 16), (24, 16)]):
        if (height, width) == (to_height, to_width):
            continue
        picture = np.ascontiguousarray(photo[:height, :width])
        expected = fit(
            picture, height=to_height, width=to_width, channels=channels, resize=resize
        ).astype(int)
        resizer = Resizer(channels, to_height, to_width, resize)
        got = resizer(torch.from_numpy(picture)[None])[0].permute(1, 2, 0).numpy()
        difference = np.abs(got - expected)
        assert difference.max() <= 2, (height, width)
        assert difference.mean() < 0.4, (height, width)


@pytest.mark.parametrize("resize", HOW, ids=str)
def test_a_picture_of_the_models_size_passes_bit_for_bit(resize):
    picture = np.ascontiguousarray(skimage.data.chelsea()[:24, :16])
    got = Resizer(3, 24, 16, resize)(torch.from_numpy(picture)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(got, picture)


def test_grey_is_pillows_grey():
    every = (
        np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1)
        .reshape(1, -1, 52, 3)
        .astype(np.uint8)
    )
    resizer = Resizer(1, every.shape[1], 52, Resize("squash"))
    got = resizer(torch.from_numpy(every))[0, 0].numpy()
    np.testing.assert_array_equal(got, np.asarray(Image.fromarray(every[0]).convert("L")))


# ---- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.machines
def test_the_onnx_file_answers_as_the_run_does(colour_run, exported):
    session, photo = session_of(exported.path), skimage.data.coffee()
    pictures = [np.ascontiguousarray(photo[i * 20 : i * 20 + 70, 100:190]) for i in range(7)]
    expected = np.stack([p.probs for p in colour_run.predict(pictures)])
    fitted = np.stack([fit(p, height=16, width=16, channels=3, resize="crop") for p in pictures])
    np.testing.assert_allclose(session.run(None, {"images": fitted})[0], expected, atol=1e-5)
    for count in (1, 3, 7):  # any batch, any size: resized inside
        got = session.run(None, {"images": np.stack(pictures[:count])})[0]
        np.testing.assert_allclose(got, expected[:count], atol=0.02)
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


@pytest.mark.machines
def test_what_the_check_states_is_so(colour_run, exported):
    checked = exported.checked
    assert checked["top1_same"] == 1
    assert checked["largest_difference"] < 1e-5
    assert checked["num_images"] == colour_run.read("data.json")["num_images"]["val"]
    assert checked["accuracy"] == pytest.approx(colour_run.metrics["val"]["accuracy"])
    assert checked["any_size"]["top1_same"] > 0.9
    assert exported.num_bytes == exported.path.stat().st_size
    assert exported.latency_ms > 0
    assert exported.latency_ms_pytorch > 0


@pytest.mark.machines
def test_the_file_says_what_it_is_and_nothing_of_this_machine(colour_run, exported):
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET == exported.opset
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["tintype"])
    assert about["class_names"] == ["cat", "coffee"]
    assert about["preprocessing"] == colour_run.read("model.json")["preprocessing"]
    assert (about["recipe"]["data"], about["recipe"]["seed"]) == ("photos", colour_run.recipe.seed)
    sides = [
        side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert sides == ["batch", "height", "width", 3]
    content = exported.path.read_bytes()
    for place in (
        str(colour_run.path.parent),
        str(Path(formats.__file__).parent),
        str(Path.home()),
    ):
        assert place.encode() not in content


def test_half_precision_is_half_the_size_and_nearly_the_same(colour_run, exported, tmp_path):
    half = export_run(colour_run, fp16=True, out=tmp_path / "half.onnx")
    assert half.precision == "float16"
    assert half.num_bytes < 0.75 * exported.num_bytes
    assert 0 < half.checked["largest_difference"] < 0.02


def test_eight_bits_are_smaller_and_the_accuracy_lost_is_stated(colour_run, exported, tmp_path):
    eight = export_run(colour_run, int8=True, out=tmp_path / "eight.onnx", max_loss=100)
    kinds = {node.op_type for node in onnx.load(eight.path).graph.node}
    assert "QuantizeLinear" in kinds
    assert eight.num_bytes < exported.num_bytes
    checked = eight.checked
    low, high = checked["accuracy_lost_ci95"]
    assert low < checked["accuracy_lost"] < high
    assert checked["accuracy_lost"] == pytest.approx(
        checked["accuracy_pytorch"] - checked["accuracy"]
    )
    assert checked["num_images"] < exported.checked["num_images"], (
        "those that calibrate are not measured on"
    )


# ---- the other formats, the other tasks -------------------------------------------------------------------------------


def test_torchscript_and_torch_export_answer_as_the_run_does(colour_run, tmp_path, monkeypatch):
    photo = np.ascontiguousarray(skimage.data.coffee()[:70, 100:190])
    expected = colour_run.predict(photo).probs
    for format, load in (("torchscript", formats.load_torchscript), ("pt2", formats.load_pt2)):
        done = export_run(
            colour_run, format=format, out=tmp_path / f"model{formats.ENDINGS[format]}"
        )
        assert done.checked["top1_same"] == 1
        got = load(done.path, 1)({"images": np.stack([photo] * 3)})
        np.testing.assert_allclose(got, np.stack([expected] * 3), atol=0.02)

        # another process knows nothing of the file
        monkeypatch.setattr(own_code, "_trusted_content", set())
        with pytest.raises(UserError, match=rf"can run code.* trust=.{done.path}"):
            open_model(done.path)
        own_code.trust(done.path)
        answers = open_model(done.path).predict([photo])
        np.testing.assert_allclose(next(iter(answers)).probs, expected, atol=0.02)
    extra = {"tintype": ""}
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.load(str(tmp_path / "model.ts"), _extra_files=extra)
    assert json.loads(extra["tintype"])["class_names"] == ["cat", "coffee"]


@pytest.fixture(scope="module")
def gan_run(tmp_path_factory, tiny) -> api.Run:
    recipe = tiny(
        task="generate",
        model="dcgan",
        model_options={"width": 8, "latent": 8, "conditional": True},
        steps=12,
    )
    return api.train(recipe, out=tmp_path_factory.mktemp("gans"), name="gan", watcher=Watcher())


@pytest.fixture(scope="module")
def sharp_run(tmp_path_factory) -> api.Run:
    from tintype.recipe import resolve

    recipe = resolve("photos-x2")[0].replace(
        steps=12,
        batch_size=4,
        lr=0.05,
        device="cpu",
        precision="fp32",
        evaluate_every=1,
        **{"model.width": 8},
    )
    return api.train(recipe, out=tmp_path_factory.mktemp("sharp"), name="sharp", watcher=Watcher())


def test_a_generator_makes_the_same_pictures(gan_run, tmp_path):
    from tintype.tasks.generate import sampling
    from tintype.tasks.generate.task import SAMPLE_SEED

    done = export_run(gan_run, out=tmp_path / "gan.onnx")
    assert done.checked["psnr_least"] > 50
    noise = sampling.latents(SAMPLE_SEED, range(5), (8,))
    got = session_of(done.path).run(None, {"noise": noise, "classes": np.arange(5)})[0]
    expected = gan_run.generate(5, seed=SAMPLE_SEED)
    assert (got.shape, got.dtype) == (expected.shape, np.uint8)
    assert np.abs(got.astype(int) - expected).max() <= 1
    with pytest.raises(UserError, match="a generator keeps its floats"):
        export_run(gan_run, int8=True, out=tmp_path / "eight.onnx")


# Every step is written into the file: two of them are rewritten for half a minute.
@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_guided_flow_makes_the_same_pictures(tmp_path, tiny, steps):
    from tintype.tasks.generate import sampling

    options = {"width": 8, "levels": 1, "sampling_steps": steps, "guidance": 1.5}
    recipe = tiny(task="generate", model="flow-unet", model_options=options, lr=0.003, steps=12)
    run = api.train(recipe, out=tmp_path, name="flow", watcher=Watcher())
    session = session_of(export_run(run, out=tmp_path / "flow.onnx").path)
    noise = sampling.latents(3, range(5), session.get_inputs()[0].shape[1:])
    by_turns = session.run(None, {"noise": noise, "classes": np.arange(5)})[0]
    sevens = session.run(None, {"noise": noise, "classes": np.full(5, 7)})[0]
    assert np.abs(by_turns.astype(int) - run.generate(5, seed=3)).max() <= 1
    assert np.abs(sevens.astype(int) - run.generate(5, seed=3, class_name="7")).max() <= 1
    assert not np.array_equal(by_turns, sevens)


def test_an_upscaler_takes_any_size(sharp_run, tmp_path):
    done = export_run(sharp_run, out=tmp_path / "sharp.onnx")
    assert done.checked["psnr_least"] > 50
    session = session_of(done.path)
    for height, width in ((31, 57), (64, 20)):
        low = np.ascontiguousarray(skimage.data.chelsea()[50 : 50 + height, 100 : 100 + width])
        got = session.run(None, {"images": low[None]})[0][0]
        expected = sharp_run.upscale(low)
        assert got.shape == (2 * height, 2 * width, 3)
        assert np.abs(got.astype(int) - expected).max() <= 1


# ---- what is refused --------------------------------------------------------------------------------------------------


def test_an_export_that_answers_otherwise_leaves_no_file(colour_run, tmp_path, monkeypatch):
    original = formats.load_torchscript

    def mirrored(path: Path, threads: int) -> formats.Answer:
        answer = original(path, threads)
        return lambda inputs: answer(inputs)[:, ::-1]

    monkeypatch.setattr(formats, "load_torchscript", mirrored)
    said = r"it is not the same model: the top-1 answers are the same for 0\.00%"
    with pytest.raises(UserError, match=said):
        export_run(colour_run, format="torchscript", out=tmp_path / "out" / "colour.ts")
    assert not list((tmp_path / "out").iterdir())


def test_too_much_accuracy_lost_is_refused_and_a_little_is_not(colour_run):
    task, description = load_task(colour_run, "cpu")
    export = Export(colour_run, task, description)
    export.read_images(None)
    found = export.images
    right = np.eye(2, dtype=np.float32)[found.targets]

    def answer(inputs: dict[str, np.ndarray]) -> np.ndarray:
        start = next(
            i for i in range(len(right)) if np.array_equal(found.pixels[i], inputs["images"][0])
        )
        return 1 - right[start : start + len(inputs["images"])]  # wrong every time

    with pytest.raises(UserError, match=r"accuracy falls by .* Allow it with max_loss="):
        export.check(answer, "int8", 2.0)
    figures = export.check(answer, "int8", 100)
    assert figures["accuracy"] == 0
    assert figures["accuracy_lost"] == figures["accuracy_pytorch"] > 0.6
    low, high = figures["accuracy_lost_ci95"]
    assert 0.02 < low < figures["accuracy_lost"] < high <= 1


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"format": "onxn"}, "unknown format 'onxn'. Did you mean 'onnx'"),
        ({"int8": True, "fp16": True}, "two precisions"),
        ({"int8": True, "format": "pt2"}, "int8= is done by ONNX Runtime"),
        ({"out": Path("model.pt")}, "a file of onnx ends in .onnx"),
    ],
)
def test_wishes_that_cannot_be(colour_run, wishes, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        export_run(colour_run, **wishes)


def test_nothing_is_overwritten(colour_run, tmp_path):
    (tmp_path / "mine.onnx").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        export_run(colour_run, out=tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text(encoding="utf-8") == "mine"


def test_an_unfinished_run_is_not_exported(tmp_path, capsys):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("model: ann", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        cli.main(["export", str(tmp_path / "begun")])
    assert end.value.code == 2
    assert "Go on with: tintype train --resume" in capsys.readouterr().err


def test_images_that_are_gone_can_be_replaced_by_others(colour_run, tmp_path, monkeypatch):
    import shutil

    moved = api.Run(shutil.copytree(colour_run.path, tmp_path / "moved"))
    text = (moved.path / "recipe.yaml").read_text(encoding="utf-8")
    (moved.path / "recipe.yaml").write_text(
        text.replace(str(colour_run.path.parent / "photos"), "/nowhere/photos"), encoding="utf-8"
    )
    model = moved.read("model.json")
    with pytest.raises(
        UserError, match=r"those of /nowhere/photos cannot be opened.*data='FOLDER'"
    ):
        classified_images(moved, model, None)
    found = classified_images(moved, model, str(colour_run.path.parent / "photos"))
    first = sorted((colour_run.path.parent / "photos" / "cat").iterdir())[0]
    pixels = decode(first, height=16, width=16, channels=3)
    assert found.pixels.shape[1:] == pixels.shape
    assert set(found.targets) == {0, 1}


def test_a_missing_package_is_one_line(colour_run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript.*pip install 'tintype\[export\]'"):
        export_run(colour_run, out=tmp_path / "colour.onnx")
