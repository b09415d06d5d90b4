"""Images in memory: arrays, tensors, lists, frames and data sets of other libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.transforms.functional import pil_to_tensor, to_tensor

import tintype as tt
from tintype import own_code
from tintype.augment import Augment
from tintype.data import Classes, Numbers, open_data
from tintype.data.memory import fields_of
from tintype.data.memory.arrays import pixels_of
from tintype.data.split import SPLITS
from tintype.errors import UserError
from tintype.recipe import read_recipe
from tintype.tasks.regress.transfer import fit_linear
from tintype.tasks.task import StepContext
from tintype.training import run as training
from tintype.training.parts import pieces

X, y = load_digits(return_X_y=True)
X = np.rint(X.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
SHORT = {"model": "ann", "steps": 4, "device": "cpu", "verbose": False}


def opened(data, target=None, **said):
    """Return the splits of data in memory."""
    fields = fields_of(data, **said)
    more = {} if target is None else {"target": target}
    return open_data(fields.pop("data"), **fields, **more)


def refused(data, **said) -> str:
    """Return the line with which data are refused."""
    with pytest.raises(UserError) as error:
        opened(data, **said)
    return str(error.value)


# ---- arrays and tensors -------------------------------------------------------------------------


def test_an_array_gives_its_own_pixels():
    splits = opened((X, y))
    batch = splits.train.take(torch.arange(5))
    positions = [int(name) for name in splits.train.names[:5]]
    assert (batch.images[:, 0].numpy() == X[positions]).all()
    assert batch.targets.tolist() == y[positions].tolist()
    assert splits.spec.target == Classes(tuple("0123456789"))
    assert len(splits.test) == 359


def test_the_layout_is_decided_and_said():
    colour = np.zeros((4, 8, 6, 3), np.uint8)
    colour[:, 0] = 9
    for given, layout in (
        (colour, "(N, H, W, C), by the 3 channels of axis 3"),
        (colour.transpose(0, 3, 1, 2), "(N, C, H, W), by the 3 channels of axis 1"),
        (torch.from_numpy(colour).permute(0, 3, 1, 2), "(N, C, H, W), by the 3 channels of axis 1"),
    ):
        pixels, note = pixels_of(given)
        assert (pixels == colour).all()
        assert f"read as {layout}" in note

    both = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    assert (pixels_of(both)[0] == both).all()
    pixels, note = pixels_of(torch.from_numpy(both))
    assert (pixels == both.transpose(0, 2, 3, 1)).all()
    assert "axes 1 and 3 both fit" in note


def test_the_scale_of_floats_is_decided_and_said():
    pixels, note = pixels_of(X / 255)
    assert (pixels[..., 0] == X).all()
    assert "floats from 0 to 1 are of 0..1, since none is above 1" in note

    pixels, note = pixels_of(torch.from_numpy(X).to(torch.bfloat16))
    assert np.abs(pixels[..., 0].astype(int) - X).max() <= 1
    assert "are of 0..255, since some are above 1" in note
    assert (pixels_of(X.astype(np.int64))[0][..., 0] == X).all()
    assert (pixels_of(X > 99)[0][..., 0] == np.where(X > 99, 255, 0)).all()


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (X.reshape(-1, 64), "images.reshape(-1, 8, 8)"),
        (X[0, 0], "the images are (8,). Expected (N, H, W)"),
        (X[:0], "there is none"),
        (np.zeros((4, 8, 8, 4), np.uint8), "without alpha: images[..., :3]"),
        (X / 16 - 8, "values from -8 to 7.938. Expected 0 to 255, or floats from 0 to 1"),
        (X.astype(np.int64) * 9, "values from 0 to 2295"),
        (np.where(np.arange(1797)[:, None, None] == 5, np.nan, X / 255), "image 5 has values"),
        (np.where(np.arange(1797)[:, None, None] == 7, np.inf, X / 255), "image 7 has values"),
        (X.astype(complex), "of type complex128"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_one_line(images, says):
    line = refused((images, y[: len(images)]))
    assert says in line
    assert "\n" not in line


# ---- labels -------------------------------------------------------------------------------------


def test_labels_of_any_type_name_the_classes():
    words = np.array(["cat", "dog"])[y % 2]
    for given in (words, words.tolist(), words.astype(object)):
        assert opened((X, given)).spec.target == Classes(("cat", "dog"))
    for given in (torch.from_numpy(y), y.tolist(), y.astype(float), list(torch.from_numpy(y))):
        assert opened((X, given)).spec.target == Classes(tuple("0123456789"))


def test_float_targets_are_numbers():
    sums = X.reshape(len(X), -1).mean(axis=1)
    splits = opened((X, sums), target=Numbers(("ink",)))
    positions = [int(name) for name in splits.train.names]
    assert splits.train.targets[:, 0].numpy() == pytest.approx(sums[positions], rel=1e-6)
    two = opened((X, np.stack([sums, sums / 2], 1)), target=Numbers(("ink", "half")))
    assert two.train.targets.shape == (1258, 2)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (y[:5], "there are 1,797 images and 5 labels"),
        ("digits", "the labels are a str"),
        ([*y[:-1].tolist(), "nine"], "of mixed types: 0 (image 0) is a number, and 'nine'"),
        ([None, *y[1:].tolist()], "the label of image 0 is missing (None)"),
        (np.where(y == 3, np.nan, y), "the label of image 3 is missing"),
        (np.where(np.arange(1797) == 3, "", "a"), "the label of image 3 is missing"),
        (y + 0.5, "which is no class"),
        (np.eye(10)[y], "of one-hot rows that is labels.argmax(1)"),
        (np.zeros(1797, int), "holds one class only"),
        (None, "come without classes. Expected data=(images, labels)"),
    ],
)
def test_labels_that_say_no_class_are_refused_in_one_line(labels, says):
    line = refused(X if labels is None else (X, labels))
    assert says in line
    assert "\n" not in line


# ---- splits and groups --------------------------------------------------------------------------


def test_splits_are_positions_masks_names_or_parts():
    train, val, test = np.arange(1000), np.arange(1000, 1300), np.arange(1300, 1797)
    names = np.repeat(["train", "val", "test"], [1000, 300, 497])
    masks = [names == name for name in ("train", "val", "test")]
    for given in (
        {"train": train, "validation": val, "test": torch.from_numpy(test)},
        (train, val, test),
        masks,
        names.tolist(),
    ):
        splits = opened((X, y), splits=given)
        assert [int(name) for name in splits.val.names] == val.tolist()
        assert [int(name) for name in splits.test.names] == test.tolist()

    fewer = opened((X, y), splits={"train": train, "test": test})
    assert len(fewer.val) == 100
    assert "300 images are in no split, and are left out" in fewer.notes
    parts = opened((X, y), splits=(0.5, 0.25, 0.25))
    assert [len(parts[name]) for name in ("train", "val", "test")] == [899, 449, 449]
    assert len(opened((X, y), splits=(0.8, 0.2)).test) == 0


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"train": range(9), "test": [8]}, "splits overlap: image 8 is in train and in test"),
        ({"train": range(9), "test": [1797]}, "names image 1797, and there are 1,797 images"),
        ({"train": range(9), "test": [-1]}, "names image -1"),
        ({"train": [1, 1], "test": [2]}, "names image 1 twice"),
        ({"train": range(9), "test": []}, "the split test is empty"),
        ({"fold": range(9)}, "unknown split 'fold'"),
        (["fold"] * 1797, "unknown split 'fold'"),
        ((0.5, 0.6), "are no parts of a whole"),
        (7, "splits cannot be read"),
    ],
)
def test_splits_that_cannot_be_are_refused_in_one_line(splits, says):
    line = refused((X, y), splits=splits)
    assert says in line
    assert "\n" not in line


def test_groups_stay_on_one_side():
    groups = np.arange(1797) // 9
    splits = opened((X, y), groups=groups)
    sides = [{int(name) // 9 for name in splits[part].names} for part in ("train", "val", "test")]
    assert not (sides[0] & sides[1])
    assert not (sides[0] & sides[2])
    assert not (sides[1] & sides[2])
    assert "Expected a group for each" in refused((X, y), groups=groups[1:])


def test_what_needs_positions_is_for_data_in_memory():
    assert fields_of("digits", splits=(0.7, 0.1, 0.2))["val_fraction"] == 0.1
    with pytest.raises(UserError, match="splits is for data in memory"):
        fields_of("digits", splits=[range(5), range(5, 9)])


# ---- lists, files and frames --------------------------------------------------------------------

PICTURES = [Image.fromarray(each) for each in X]


def test_lists_of_pictures_are_what_the_array_is():
    whole = opened((X, y))
    for given in (
        (PICTURES, y),
        (list(X), y),
        (list(torch.from_numpy(X)[:, None]), y),
        list(zip(PICTURES, y.tolist(), strict=True)),
        ([each / 255 for each in X], y),
    ):
        assert opened(given).spec.fingerprint == whole.spec.fingerprint
    colour = opened(([*PICTURES[:-1], PICTURES[-1].convert("RGB")], y))
    assert colour.spec.channels == 3


def test_pictures_of_several_sizes_are_brought_to_one():
    sizes = [(40 + i % 7, 50) for i in range(100)]
    pictures = [Image.fromarray(X[i]).resize(size) for i, size in enumerate(sizes)]
    splits = opened((pictures, y[:100] % 2))
    assert (splits.spec.height, splits.spec.width) == (32, 32)
    assert any("chosen for a median short side of 43 pixels" in note for note in splits.notes)
    small = open_data(fields_of((pictures, y[:100] % 2))["data"], image_size=8)
    assert small.spec.height == 8
    # where near-copies are looked for does not depend on the size that is asked for
    assert [list(small[s].names) for s in SPLITS] == [list(splits[s].names) for s in SPLITS]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (([], []), "there is no image in the data"),
        (([PICTURES[0], "a.png"], [0, 1]), "image 1 is a str"),
        ((["a.png", PICTURES[0]], [0, 1]), "image 1 is a Image, and image 0 is a path"),
        (([{}, {}], [0, 1]), "image 0 is a dict"),
        (7, "the images are a int"),
        ({"images": X, "labels": y}, "the data are a dict of images, labels"),
        (([X[0] / 255] * 40 + [X[0] * 1.0], [0, 1] * 20 + [0]), "Expected one scale for all"),
        (([X[0] * np.nan], [0]), "image 0 has values that are NaN"),
        (([X[0, 0]], [0]), "Expected (images, labels)"),
    ],
)
def test_lists_that_hold_something_else_are_refused_in_one_line(data, says):
    line = refused(data)
    assert says in line
    assert "\n" not in line


@pytest.fixture(scope="module")
def rows(digit_files):
    """Paths and labels of the files of digits."""
    files = sorted(digit_files.rglob("*.png"))
    return [str(file) for file in files], [file.parent.name for file in files]


def test_paths_are_what_the_folder_is(digit_files, rows):
    paths, labels = rows
    folder = open_data(str(digit_files))
    for given in (
        (paths, labels),
        list(zip(map(Path, paths), labels, strict=True)),
        pd.DataFrame({"file": paths, "class": labels}),
        pd.DataFrame({"path": pd.Series(paths), "label": pd.Categorical(labels)}),
    ):
        assert opened(given).spec.fingerprint == folder.spec.fingerprint
    named = fields_of(
        pd.DataFrame({"photo": paths, "kind": labels}), columns={"path": "photo", "label": "kind"}
    )
    assert open_data(named["data"]).spec.fingerprint == folder.spec.fingerprint
    numbers = opened((paths, [float(label) / 2 for label in labels]), target=Numbers(("half",)))
    assert numbers.train.targets.max().item() == 4.5


def test_a_frame_may_have_splits_groups_and_weights(rows):
    paths, labels = rows
    frame = pd.DataFrame({"path": paths, "label": labels})
    frame["part"] = np.where(np.arange(len(frame)) % 12 < 8, "train", "test")
    frame["person"] = np.arange(len(frame)) // 3
    frame["w"] = np.arange(len(frame)) % 3
    splits = opened(frame, splits="part", groups="person", sample_weight="w")
    assert {Path(name).name for name in splits.test.names} == {
        Path(path).name for path in frame[frame["part"] == "test"]["path"]
    }
    assert len(set(splits.train.weights.tolist())) == 3
    assert set(splits.groups.values()) >= {"0", "1"}
    kept = opened(frame, splits={"train": range(0, 120, 2), "test": range(1, 120, 4)})
    assert len(kept.train) + len(kept.val) == 60
    assert len(kept.test) == 30


@pytest.mark.parametrize(
    ("frame", "said", "says"),
    [
        ({"a": [1], "b": [2]}, {}, "the frame has no column of paths. It has: a, b."),
        ({"path": ["x.png"], "b": [2]}, {}, "has no column 'label'"),
        ({"path": ["x.png"], "b": [2]}, {"columns": {"label": "c"}}, "no column 'c' (label)"),
        ({"path": ["x.png"], "label": [1]}, {"splits": "fold"}, "no column 'fold' for split"),
        ({"path": ["x.png"], "label": [1]}, {}, "none of the 1 images of frame is there"),
        ({"path": [None], "label": [1]}, {}, "the path of image 0 is missing"),
        ({"path": [], "label": []}, {}, "the frame has no rows"),
        ({f"pixel{i}": [0] for i in range(64)}, {}, ".to_numpy().reshape(-1, height, width)"),
    ],
)
def test_frames_that_lack_something_are_refused_in_one_line(frame, said, says):
    line = refused(pd.DataFrame(frame), **said)
    assert says in line
    assert "\n" not in line


def test_a_missing_label_of_a_path_is_one_line(rows):
    paths, labels = rows
    assert "label" in refused(pd.DataFrame({"path": paths, "label": [None, *labels[1:]]}))
    assert "label of image 0 is missing" in refused((paths, [None, *labels[1:]]))


# ---- data sets of other libraries ---------------------------------------------------------------


class Digits(Dataset):
    """A data set as torchvision's are: pairs, with names of classes and a transform."""

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(self, transform=None, pair=lambda image, label: (image, label)):
        self.transform = transform
        self.pair = pair

    def __len__(self):
        return 200

    def __getitem__(self, i):
        if i >= 200:
            raise IndexError
        image = PICTURES[i]
        return self.pair(self.transform(image) if self.transform else image, int(y[i]))


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X[:200], y[:200], strict=True)


def test_a_data_set_of_torch_is_read_once_in_its_order():
    array = opened((X[:200], y[:200]))
    for given in (
        Digits(),
        Digits(pil_to_tensor),
        Digits(to_tensor),
        TensorDataset(torch.from_numpy(X[:200]), torch.from_numpy(y[:200])),
        Stream(),
        DataLoader(Digits(), batch_size=7, shuffle=True),
        DataLoader(Stream(), batch_size=7),
    ):
        splits = opened(given)
        assert splits.train.names == array.train.names
        index = torch.arange(len(splits.train))
        assert (splits.train.take(index).images == array.train.take(index).images).all()
        assert splits.train.targets.tolist() == array.train.targets.tolist() or (
            splits.spec.class_names == tuple(sorted(Digits.classes))
        )

    names = opened(Subset(Digits(), range(100))).spec.class_names
    assert names == tuple(sorted(Digits.classes))
    some = DataLoader(Digits(), sampler=SubsetRandomSampler(list(range(50, 150))))
    assert sum(len(opened(some)[part]) for part in SPLITS) == 100
    weighted = DataLoader(Digits(), sampler=WeightedRandomSampler([1.0] * 200, 200))
    assert any("WeightedRandomSampler) is not used" in note for note in opened(weighted).notes)


def test_splits_may_be_data_sets_of_their_own():
    assert "names of classes" in refused({"train": Digits(), "test": (X[200:300], y[200:300])})
    splits = opened({"train": (X[:200], y[:200]), "test": (X[200:300], y[200:300])})
    assert [int(name) for name in splits.test.names] == list(range(200, 300))


def noisy(image):
    return to_tensor(image) + torch.rand(1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (Digits(noisy), "has a random transform. tintype reads it once: leave that"),
        (
            Digits(pair=lambda image, label: {"img": image, "label": label}),
            "data=[(item['img'], item['label']) for item in dataset]",
        ),
        (Digits(pair=lambda image, label: (image, label, 0)), "has 3 values"),
        (Digits(lambda image: to_tensor(image) - 0.5), "tintype normalises by itself"),
        (Subset(Digits(), []), "is empty"),
        (DataLoader(Digits(noisy)), "has a random transform"),
    ],
)
def test_data_sets_that_cannot_be_read_are_refused_in_one_line(data, says):
    line = refused(data)
    assert says in line
    assert "\n" not in line


class ClassLabel:
    names = Digits.classes


class ImageFeature:
    pass


ImageFeature.__name__ = "Image"


class Table:
    """What a Dataset of Hugging Face is: rows of named columns, each of a type."""

    def __init__(self, image="image", label="label", **more):
        self.features = {image: ImageFeature(), label: ClassLabel(), **more}
        self.keys = (image, label)

    @property
    def column_names(self):
        return list(self.features)

    def __len__(self):
        return 200

    def __iter__(self):
        for i in range(200):
            yield {**dict.fromkeys(self.features, i // 9), self.keys[0]: PICTURES[i],
                   self.keys[1]: int(y[i])}  # fmt: skip


def test_a_data_set_of_hugging_face_is_read_by_its_types():
    torch_like = opened(Digits())
    for given in (Table(), Table("img", "fine_label")):
        assert opened(given).spec.fingerprint == torch_like.spec.fingerprint
    assert opened(Table(person=int), groups="person").groups
    two = Table("a", "b", c=ClassLabel())
    assert "which column of the data set holds the label? It has: a, b, c." in refused(two)
    assert opened(two, columns={"label": "b"}).spec.fingerprint == torch_like.spec.fingerprint
    both = opened({"train": Table(), "validation": Table()})
    assert len(both.val) == 200


# ---- runs ---------------------------------------------------------------------------------------


def test_a_reference_is_the_content():
    def reference(*data, **said):
        return fields_of(data, **said)["data"]

    whole = reference(X, y)
    assert reference(X.copy(), y.tolist()) == whole
    assert reference(X / 255, y) == whole
    assert reference(X, y, groups=y) != whole
    assert reference(255 - X, y) != whole
    own_code.forget(whole)
    assert not own_code.is_given(whole)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tt.train((X, y), out=tmp_path_factory.mktemp("memory"), **SHORT)


def test_a_run_on_arrays_can_be_used(trained):
    assert trained.name == "arrays"
    assert trained.read("data.json")["name"] == "arrays"
    assert trained.read("environment.json")["command"].startswith("tintype.train((images, labels)")
    assert trained.predict(X[0]).top1 in tuple("0123456789")
    assert trained.report().exists()
    assert trained.evaluate(split="val")["num_images"] == 180
    assert trained.evaluate(data=(X[:50], y[:50]))["num_images"] == 50


def test_a_run_asks_for_its_data_in_another_process(trained):
    own_code.forget(trained.recipe.data)
    with pytest.raises(UserError, match="Give them again") as error:
        trained.evaluate(split="val")
    assert "\n" not in str(error.value)

    again = trained.evaluate(data=(X, y), split="test")
    assert again["kind"] == "split"
    assert again["accuracy"] == trained.metrics["test"]["accuracy"]
    with pytest.raises(UserError, match="these are the images that the run was trained with"):
        trained.evaluate(data=(X, y), split="test", groups=y)


def test_a_run_is_resumed_by_giving_the_data_again(tmp_path, monkeypatch, short_reports):
    settings = {**SHORT, "steps": 30, "evaluate_every": 1}
    whole = tt.train(data=(X, y), name="whole", out=tmp_path, **settings)

    stopped = []
    fit = training.train_run

    def stop(run, prepared, watcher, command):
        if not stopped:
            stopped.append(run)
            raise KeyboardInterrupt
        fit(run, prepared, watcher, command)

    monkeypatch.setattr(training, "train_run", stop)
    with pytest.raises(KeyboardInterrupt):
        tt.train(data=(X, y), name="part", out=tmp_path, **settings)
    own_code.forget(stopped[0].recipe.data)
    with pytest.raises(UserError, match="Give them again"):
        tt.train(resume=tmp_path / "part", verbose=False)
    run = tt.train(resume=tmp_path / "part", data=(X, y), verbose=False)
    assert (run.path / "model.safetensors").read_bytes() == (
        whole.path / "model.safetensors"
    ).read_bytes()


def test_no_library_is_imported_for_data_that_are_not_its_own():
    code = (
        "import sys, numpy as np; from tintype.data.memory import take; "
        "take((np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1])); "
        "assert not {'pandas', 'datasets', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- weights ------------------------------------------------------------------------------------


def weights_for(count: int) -> np.ndarray:
    return np.random.default_rng(0).choice([0.0, 0.5, 1.0, 4.0], count).astype(np.float32)


def test_weights_follow_their_images_into_the_splits():
    weights = weights_for(1797)
    splits = opened((X, y), sample_weight=weights)
    mean = weights[[int(name) for name in splits.train.names]].mean()
    for part in ("train", "val", "test"):
        source = splits[part]
        positions = [int(name) for name in source.names]
        assert source.weights.numpy() == pytest.approx(weights[positions] / mean, rel=1e-5)
        batch = source.subset(torch.arange(9)).take(torch.tensor([4, 2]))
        assert batch.weights.tolist() == source.weights[[4, 2]].tolist()

    assert splits.train.weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert any("figures count each image once" in note for note in splits.notes)
    plain = opened((X, y))
    assert plain.train.take(torch.arange(2)).weights is None
    assert plain.spec.fingerprint != splits.spec.fingerprint


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.ones(5), "sample_weight is (5,), and there are 1,797 images"),
        (np.full(1797, -1.0), "the sample_weight of image 0 is -1"),
        (np.full(1797, np.nan), "the sample_weight of image 0 is nan"),
        (np.zeros(1797), "every sample_weight is 0"),
        (["heavy"] * 1797, "Expected numbers from 0 on"),
    ],
)
def test_weights_that_cannot_be_are_refused_in_one_line(weights, says):
    line = refused((X, y), sample_weight=weights)
    assert says in line
    assert "\n" not in line


def huber(outputs, targets):
    """Return the loss of numbers and their scales (N, 1) as the task defines it."""
    numbers, log_scales = outputs.chunk(2, dim=1)
    error = F.smooth_l1_loss(numbers, targets, beta=0.1, reduction="none")
    size = (numbers - targets).detach().abs()
    return (error + 0.1 * (size / log_scales.exp() + log_scales))[:, 0]


INK = X.reshape(len(X), -1).mean(axis=1)


@pytest.mark.parametrize(
    ("settings", "labels", "loss"),
    [
        ({"label_smoothing": 0.0}, y, lambda z, t: F.cross_entropy(z, t, reduction="none")),
        (
            {"label_smoothing": 0.1, "one_hot": True, "loss": "cross-entropy"},
            y,
            lambda z, t: F.cross_entropy(z, t, reduction="none", label_smoothing=0.1),
        ),
        (
            {"loss": lambda z, t: F.multi_margin_loss(z, t, reduction="none")},
            y,
            lambda z, t: F.multi_margin_loss(z, t, reduction="none"),
        ),
        ({"task": "regress", "columns": ["ink"]}, INK, huber),
    ],
)
def test_weighted_gradients_are_those_of_plain_torch(settings, labels, loss):
    prepared = tt.api.plan(
        data=(X, labels), sample_weight=weights_for(1797), model="ann", augment="none", steps=1,
        device="cpu", precision="fp32", verbose=False, **settings,
    )  # fmt: skip
    task = prepared.task
    network = task.networks[task.main]
    batch = prepared.splits.train.take(torch.arange(200))
    context = StepContext(0, 0, 0.0, torch.Generator().manual_seed(0))
    value, _ = task.loss(task.phases[0], batch, context)

    targets = batch.targets if labels is y else task.standardised(batch.targets)
    expected = (loss(network(task.normalise(batch.images)), targets) * batch.weights).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(network.parameters())
    ours, theirs = (torch.autograd.grad(each, weights) for each in (value, expected))
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_a_loss_that_returns_a_scalar_cannot_be_weighed():
    with pytest.raises(UserError, match="which sample_weight cannot weigh"):
        tt.api.plan(
            data=(X, y), sample_weight=weights_for(1797), loss=F.cross_entropy, model="ann",
            verbose=False,
        )  # fmt: skip


def test_a_task_that_weighs_no_images_says_so():
    with pytest.raises(UserError, match="task generate weighs no images"):
        tt.api.plan(
            "digits-gan", data=(X, y), sample_weight=weights_for(1797), steps=1, verbose=False
        )


def test_mixed_images_have_mixed_weights():
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0])
    images = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 8, 8).to(torch.uint8) * 50
    augment = Augment({"mixup": {"alpha": 1.0}}, mixable=Classes(tuple("abcd")).mixable)
    generator = torch.Generator().manual_seed(1)
    mixed, targets, mean = augment.weighted(images, torch.arange(4), weights, generator=generator)
    assert mean.numpy() == pytest.approx((targets @ weights).numpy(), abs=1e-5)
    assert mean.numpy() == pytest.approx(mixed[:, 0, 0, 0].float().numpy() / 50, abs=1e-4)

    generator = torch.Generator().manual_seed(1)
    plain, _ = augment(images, torch.arange(4), generator=generator)
    assert (plain == mixed).all()


def test_parts_of_a_batch_have_their_weights():
    splits = opened((X, y), sample_weight=weights_for(1797))
    batch = splits.train.take(torch.arange(10))
    parts = pieces(batch, 3)
    assert torch.cat([part.weights for part in parts]).tolist() == batch.weights.tolist()


def test_a_linear_head_is_the_weighted_ridge_regression_of_scikit_learn():
    generator = np.random.default_rng(0)
    features = torch.from_numpy(generator.normal(size=(60, 3)))
    noise = torch.from_numpy(generator.normal(size=(60, 1)))
    wanted = features @ torch.tensor([[1.0], [2.0], [-1.0]]).double() + 0.1 * noise
    weights = torch.from_numpy(weights_for(60)).double()
    fit = fit_linear(features, wanted, weights)

    counts = (weights > 0).numpy()
    x = ((features - fit.mean) * fit.scale).numpy()[counts]
    target, weight = wanted[:, 0].numpy()[counts], weights.numpy()[counts]
    ridge = Ridge(alpha=fit.penalties[0].item()).fit(x, target, sample_weight=weight)
    assert fit.weight[0].numpy() == pytest.approx(ridge.coef_, rel=1e-3)

    residuals = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        left = Ridge(alpha=fit.penalties[0].item())
        left.fit(x[others], target[others], sample_weight=weight[others])
        residuals.append(abs(left.predict(x[i : i + 1])[0] - target[i]))
    sizes = np.log(np.maximum(residuals, np.exp(-4)))
    scales = Ridge(alpha=fit.penalties[1].item()).fit(x, sizes, sample_weight=weight)
    assert fit.bias[1].item() == pytest.approx(scales.intercept_, rel=1e-3)


def test_a_csv_file_may_have_weights(digit_files, tmp_path):
    rows = [
        f"{path},{path.parent.name},{i % 3}"
        for i, path in enumerate(sorted(digit_files.rglob("*.png"))[:90])
    ]
    table = tmp_path / "weights.csv"
    table.write_text("path,label,sample_weight\n" + "\n".join(rows), encoding="utf-8")
    splits = open_data(str(table))
    assert splits.train.weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert len(set(splits.train.weights.tolist())) == 3

    negative = "\n".join(rows).replace(",2", ",-2")
    table.write_text("path,label,sample_weight\n" + negative, encoding="utf-8")
    with pytest.raises(UserError, match=r"has the sample_weight '-2'\. Expected a number"):
        open_data(str(table))


def test_a_run_on_paths_needs_nothing_again(rows, tmp_path, short_reports):
    paths, labels = rows
    frame = pd.DataFrame({"path": paths, "label": labels, "sample_weight": 1.0})
    run = tt.train(frame, out=tmp_path, **SHORT)
    assert run.name == "frame"
    own_code.forget(read_recipe(run.path / "recipe.yaml").data)
    assert Path(run.recipe.data) == (run.path / "frame.csv").resolve()
    again = run.evaluate(split="test")
    assert again["kind"] == "split"
    assert again["accuracy"] == run.metrics["test"]["accuracy"]
    moved = tt.load(run.path.rename(tmp_path / "moved"))
    assert moved.evaluate(split="val")["accuracy"] == moved.metrics["val"]["accuracy"]


# ---- other verbs --------------------------------------------------------------------------------


def test_data_in_memory_are_audited(rows):
    found = tt.audit((np.concatenate([X[:300], X[:2]]), [*y[:300], *y[:2]]), verbose=False)
    assert found.num_images == 302
    assert any(finding.kind == "copies" for finding in found.findings)
    paths, labels = rows
    assert tt.audit((paths, labels), labels=False, verbose=False).num_images == 120


def test_a_study_of_data_in_memory_is_one_of_this_process(tmp_path, short_reports):
    asked = {"recipe": "digits", "vary": {"lr": [0.01, 0.1]}, "seeds": 1}
    said = {"data": (X[:300], y[:300]), "out": tmp_path, "name": "rates", "verbose": False}
    settings = {"model": "ann", "steps": 2, "device": "cpu", "threads": 1}
    with pytest.raises(UserError, match="data in memory are those of this process alone"):
        tt.study(asked, workers=2, **said, **settings)
    study = tt.study(asked, **said, **settings)
    assert not study.failures()
    assert study.runs()[0].read("data.json")["name"] == "arrays"


def test_settings_are_tuned_on_data_in_memory(tmp_path, short_reports):
    pytest.importorskip("optuna")
    tuning = tt.tune(
        (X[:300], y[:300]), trials=1, seeds=0, out=tmp_path, verbose=False, model="ann", steps=2,
        device="cpu", search={"lr": [0.01, 0.1]},
    )  # fmt: skip
    assert tuning.path.name == "arrays-tune"


def test_what_takes_no_images_in_memory_says_so():
    with pytest.raises(UserError, match=r"go to train\(recipe, data=\(images, labels\)\)") as error:
        tt.Recipe(data=(X, y))
    assert len(str(error.value)) < 200
    with pytest.raises(UserError, match="this task reads photos from files"):
        tt.api.plan("photos-x2", data=X, verbose=False)
    with pytest.raises(UserError, match="the images are given twice"):
        tt.train((X, y), data=(X, y))


def test_images_without_labels_will_do_where_there_are_none():
    spec = tt.api.plan(
        data=X, task="generate", model="dcgan", steps=1, verbose=False, device="cpu",
        model_options={"width": 8, "latent": 8, "conditional": False},
    ).splits.spec  # fmt: skip
    assert spec.num_outputs == 1
