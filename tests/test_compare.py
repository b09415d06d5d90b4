"""Comparing runs: on the same images only, with tests for paired data, told in sentences that
follow from the numbers.
"""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics import confusion_matrix, f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

import tintype as tt
from tintype import api, plugins, statistics
from tintype.data.identity import Identities
from tintype.errors import UserError
from tintype.pages import print_figures
from tintype.pages.drawings import write_drawings
from tintype.pages.pages import check_replaceable, write_sections
from tintype.recipe import Recipe, build
from tintype.runs.folder import RunFolder
from tintype.runs.reading import read_metrics
from tintype.runs.summary import verdict_line
from tintype.tasks.classify.charts import confusion_difference
from tintype.tasks.classify.compare import resampled
from tintype.tasks.classify.compare_page import only_one_right
from tintype.tasks.contract.compare import HistoryCurve, Pair, about, compare_part
from tintype.tasks.contract.compared_run import open_all
from tintype.tasks.generate import report as generate_sections
from tintype.verbs.compare import compare
from tintype.verbs.compare.charts import (
    Point,
    Scale,
    against_cost,
    overlaid,
    pareto_front,
)
from tintype.verbs.compare.page import Line
from tintype.verbs.compare.settings import completed, differing

HOSTILE = "<script>alert(1)</script>"

# ---- runs to compare ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(
    finished_run: api.Run,
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Recipe],
    train_in: Any,
) -> list[Path]:
    """Three classifiers on the same digits: a good one, one that saw few images, and one of another
    size of image.
    """
    out = tmp_path_factory.mktemp("compared")
    weak = train_in(out / "weak", tiny(model_options={"hidden": [8]}, epochs=1, lr=0.003))
    large = train_in(out / "large", tiny(model_options={"hidden": [32]}, image_size=12, epochs=6))
    return [finished_run.path, weak.path, large.path]


@pytest.fixture(scope="module")
def gans(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe], train_in: Any
) -> list[Path]:
    out = tmp_path_factory.mktemp("gans")
    fields: dict[str, Any] = {
        "task": "generate", "model": "mlp-gan", "batch_size": 50, "optimizer": "adam", "betas": (0.5, 0.999), "lr": 0.001,
        "model_options": {"latent": 8, "hidden": [32], "discriminator_hidden": [32], "conditional": False},
    }  # fmt: skip
    return [
        train_in(out / f"after-{n}", tiny(**fields, steps=n, evaluate_every=1)).path
        for n in (4, 40)
    ]


@pytest.fixture(scope="module")
def sharpeners(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe], train_in: Any
) -> list[Path]:
    """Two networks that enlarge, on parts of scikit-learn's photos; one of them is trained for a
    single step.
    """
    root = tmp_path_factory.mktemp("parts") / "parts"
    root.mkdir()
    for number, photo in enumerate(load_sample_images().images):
        for i in range(8):
            top, left = 100 * (i // 4), 140 * (i % 4)
            Image.fromarray(photo[top : top + 96, left : left + 96]).save(
                root / f"{number}-{i}.png"
            )
    fields: dict[str, Any] = {
        "task": "upscale", "data": str(root), "model": "espcn", "model_options": {}, "batch_size": 8,
        "test_fraction": 5, "val_fraction": 2, "lr": 0.003, "optimizer": "adam", "task_options": {"scale": 2, "patch": 48},
    }  # fmt: skip
    out = root.parent / "runs"
    return [train_in(out / f"steps-{n}", tiny(**fields, steps=n)).path for n in (1, 60)]


def table_of(run: Path, split: str = "test") -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["split"] == split]


def with_answers(original: Path, path: Path, wrong: int) -> Path:
    """Copy a run and change its answers: the first `wrong` test images are mistaken, all others
    right.
    """
    shutil.copytree(original, path)
    rows, done = [], 0
    with (path / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            done += row["split"] == "test"
            miss = row["split"] == "test" and done <= wrong
            rows.append({**row, "prediction": str((int(row["target"]) + miss) % 10)})
    with (path / "predictions.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    evaluation = json.loads((path / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["splits"]["test"] |= {"accuracy": 1 - wrong / done, "num_correct": done - wrong}
    (path / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return path


# ---- what runs differ in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        # no settings
        (
            {"seed": 3, "device": "cuda", "threads": 4, "one_hot": True, "data_root": "/elsewhere"},
            [],
        ),
        ({"lr": 0.5}, ["learning rate (0.01 → 0.5)"]),
        ({"model_options": {"hidden": [64, 10]}}, ["hidden layers (16 → 64-10)"]),
        ({"model_options": {"hidden": [16], "dropout": 0.5}}, ["dropout (default → 0.5)"]),
        # whose options are part of it
        ({"model": "cnn", "model_options": {"widths": [8]}}, ["network (ann → cnn)"]),
        # which alone reads momentum
        ({"optimizer": "sgd", "momentum": 0.5}, ["optimizer (adamw → sgd)"]),
        # and no betas
        ({"momentum": 0.5, "betas": (0.5, 0.9), "optimizer": "sgd"}, ["optimizer (adamw → sgd)"]),
        ({"augment": {"flip": True, "crop": 4}}, ["augmentation (none → flip, crop 4)"]),
        ({"epochs": None, "steps": 1500}, ["length (2 epochs → 1,500 steps)"]),
        (
            {"image_size": (20, 30), "patience": 3},
            ["image size (default → 30x20)", "patience (none → 3)"],
        ),
        (
            {"weights": "/a/b/c.safetensors", "tune": "head"},
            ["weights (none → c.safetensors)", "tune (all → head)"],
        ),
    ],
)
def test_settings_in_which_recipes_differ(
    tiny: Callable[..., Recipe], changes: dict[str, Any], expected: list[str]
):
    one, other = tiny().model_dump(mode="json"), tiny().model_dump(mode="json") | changes
    other = build(other, where="").model_dump(mode="json")
    assert [str(difference) for difference in differing(one, other)] == expected


def test_what_runs_differ_in_is_said_before_they_are_ranked(digits: list[Path]) -> None:
    found = compare(digits, names=["good", "weak", "large"], latency=False)
    first, *others = found.groups[0].runs
    confounding = {each.name: each for each in found.groups[0].confounding}
    assert set(confounding) == {run.name for run in others}
    weak = confounding["weak"].sentence()
    assert weak.startswith(f"weak differs from {first.name} in ")
    assert "hidden layers" in weak
    assert "learning rate" in weak
    assert weak.endswith("Any difference between them is the sum of these.")
    assert found.sentences()[: len(confounding)] == [
        each.sentence() for each in confounding.values()
    ]
    texts = [str(line) for line in found.lines()]
    assert texts.index(weak) < texts.index(found.groups[0].conclusion)
    assert found.to_dict()["groups"][0]["confounding"][0]["differences"][0].keys() == {
        "field", "setting", "reference", "value"
    }  # fmt: skip


def test_what_was_chosen_and_what_was_asked_for_are_the_same_where_they_are_equal() -> None:
    how = {
        "preprocessing": {
            "height": 8,
            "width": 8,
            "channels": 1,
            "crop_fraction": 1.0,
            "interpolation": "bilinear",
        }
    }
    left_open = build({"data": "digits"}, where="").model_dump(mode="json")
    stated = build(
        {"data": "digits", "image_size": [8, 8], "channels": 1, "crop_fraction": 1}, where=""
    ).model_dump(mode="json")
    assert differing(left_open, stated)
    assert differing(completed(left_open, how), completed(stated, how)) == ()
    larger = {"preprocessing": {**how["preprocessing"], "height": 16}}
    assert [
        each.field for each in differing(completed(left_open, how), completed(stated, larger))
    ] == ["image_size"]


def test_runs_that_differ_in_one_setting_or_in_the_seed_are_not_confounded(
    tmp_path: Path, tiny: Callable[..., Recipe], train_in: Any
) -> None:
    runs = [train_in(tmp_path / name, tiny(epochs=1, **how)).path for name, how in ALONE.items()]
    found = compare(runs, latency=False)
    assert found.groups[0].confounding == []
    page = found.write_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "differs from" not in page


ALONE: dict[str, dict[str, Any]] = {"first": {}, "seed": {"seed": 1}, "rate": {"lr": 0.02}}


def test_data_splits_and_preprocessing_lie_side_by_side(digits: list[Path], page: Path) -> None:
    found = compare(digits, names=["good", "weak", "large"], latency=False)
    rows = {row["what"]: row for row in found.to_dict()["setup"]}
    assert rows["data set"] == {
        "part": "data", "what": "data set", "values": dict.fromkeys(("good", "weak", "large"), "digits"), "differs": False
    }  # fmt: skip
    assert rows["image size"]["values"] == {"good": "8x8", "weak": "8x8", "large": "12x12"}
    assert rows["image size"]["differs"]
    counts = json.loads((digits[0] / "data.json").read_text(encoding="utf-8"))["num_images"]
    assert rows["test images"]["values"]["good"] == f"{counts['test']:,}"
    assert [row for row in rows if rows[row]["part"] == "splits" and rows[row]["differs"]] == [
        "near-copies looked for"
    ]
    # shown where they differ
    assert rows["hidden layers"]["values"] == {"good": "32", "weak": "8", "large": "32"}
    assert "optimizer" not in rows

    shown = Page(page).source
    section = shown.split('id="setup"')[1].split("</section>")[0]
    differing = re.findall(
        r'<tr class="differs"><th scope="row"><abbr[^>]*>≠</abbr> ([^<]*)</th>', section
    )
    assert differing == [what for what, row in rows.items() if row["differs"]]
    assert "<td>12x12</td>" in section
    text = "\n".join(str(line) for line in found.lines())
    assert "The same in all: data set digits" in text


def test_many_runs_are_laid_out_by_value(tmp_path: Path, digits: list[Path]) -> None:
    runs = [Path(shutil.copytree(digits[1], tmp_path / f"copy-{n}")) for n in range(4)] + digits[:2]
    text = [str(line) for line in compare(runs, latency=False).lines()]
    assert (
        "≠ hidden layers: 8 (copy-0, copy-1, copy-2, copy-3 and weak); 32 (" + digits[0].name + ")"
        in text
    )


# ---- classification -------------------------------------------------------------------------------------------------


def test_pairs_are_what_the_predictions_give(digits: list[Path]) -> None:
    found = compare(digits, latency=False)
    (group,) = found.groups
    assert [row["accuracy"] for row in group.rows] == sorted(
        (row["accuracy"] for row in group.rows), reverse=True
    )
    right = {}
    for row in group.rows:
        table = sorted(table_of(Path(row["run"])), key=lambda r: r["name"])
        right[row["name"]] = [r["target"] == r["prediction"] for r in table]
    p_values = []
    assert len(found.pairs) == 3
    for pair in found.pairs:
        a, b = np.array(right[pair.better]), np.array(right[pair.other])
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        assert (pair.more["only_better"], pair.more["only_other"]) == (only_a, only_b)
        assert pair.estimate == pytest.approx(a.mean() - b.mean())
        assert pair.p == pytest.approx(
            float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
        )
        assert pair.ci95 is not None
        assert pair.ci95[0] < pair.estimate < pair.ci95[1]
        # Where many images differ, the bootstrap says nearly the same.
        if only_a + only_b > 50:
            assert pair.more["bootstrap_ci95"] == pytest.approx(pair.ci95, abs=0.02)
        p_values.append(pair.p)
    corrected = multipletests(p_values, method="holm")[1]
    assert [pair.p_holm for pair in found.pairs] == pytest.approx(corrected.tolist())


def test_what_is_said_follows_from_the_numbers(digits: list[Path]) -> None:
    found = compare(digits[:2], names=["good", "weak"], latency=False)
    (pair,) = found.pairs
    assert pair.shown
    low, high = (f"{100 * end:.1f}" for end in pair.ci95 or ())
    assert (
        pair.sentence
        == f"good is better than weak by {100 * pair.estimate:.1f} points ({low} to {high})"
    )
    assert "significantly better than weak" in found.groups[0].conclusion
    told = found.sentences()
    assert told.index(found.groups[0].conclusion) + 1 == told.index(f"{pair.sentence}.")


def test_no_difference_says_how_many_more_images(finished_run: api.Run, tmp_path: Path) -> None:
    runs = [
        with_answers(finished_run.path, tmp_path / name, wrong)
        for name, wrong in (("a", 6), ("b", 8), ("c", 8))
    ]
    found = compare(runs, latency=False)
    said = [pair.sentence for pair in found.pairs]
    assert said[0].startswith("no difference can be shown between a and b: 0.6 points (")
    assert said[0].endswith(
        f"about {about(found.pairs[0].more['more_images'])} more test images would be needed"
    )
    assert (
        said[2] == "no difference can be shown between b and c: they get the same test images right"
    )
    assert found.pairs[2].p == 1.0
    assert found.groups[0].conclusion.endswith("but no difference from b and c can be shown.")


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1"), (12, "12"), (2381, "2,400"), (99_950, "100,000"), (851, "850")]
)
def test_numbers_of_images_are_told_in_two_digits(count: int, text: str) -> None:
    assert about(count) == text


def test_the_bootstrap_of_macro_f1_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    targets = draw.integers(4, size=60)
    predictions = [
        np.where(draw.random(60) < 0.7, targets, draw.integers(4, size=60)) for _ in range(2)
    ]
    found = resampled(targets, predictions, resamples=20, seed=5)
    again = np.random.default_rng(5).integers(60, size=(20, 60))
    for i, guess in enumerate(predictions):
        expected = [f1_score(targets[rows], guess[rows], average="macro") for rows in again]
        assert found["macro_f1"][i] == pytest.approx(expected)
        assert found["accuracy"][i] == pytest.approx(
            [(targets[rows] == guess[rows]).mean() for rows in again]
        )


def test_another_size_of_the_same_images_is_ranked_and_told(digits: list[Path]) -> None:
    found = compare([digits[0], digits[2]], latency=False)
    assert len(found.groups) == 1
    assert "large sees the same test images as digits, at 12x12 instead of 8x8." in (
        found.groups[0].remarks
        + [r.replace("digits sees", "large sees") for r in found.groups[0].remarks]
    )


def test_other_test_images_are_not_ranked(
    digits: list[Path], tmp_path: Path, tiny: Callable[..., Recipe], train_in: Any
) -> None:
    other = train_in(tmp_path / "other", tiny(split_seed=5)).path
    found = compare([*digits[:2], other], latency=False)
    assert [len(group.rows) for group in found.groups] == [2, 1]
    assert found.remarks[0].startswith("Not all of these runs can be compared: different data. ")
    titles = [group.title for group in found.groups]
    assert titles == ["digits, 359 test images, set 1", "digits, 359 test images, set 2"]
    assert not any("other" in (pair.better, pair.other) for pair in found.pairs)
    assert "No other run here can be ranked against it" in found.groups[1].conclusion
    alone = compare([digits[0], other], latency=False)
    told = "These runs cannot be compared: different data."
    assert text_of(alone).startswith(told)
    assert "the highest" not in text_of(alone)
    words = Page(alone.write_html(tmp_path / "page.html")).words
    assert words.index(told) < words.index(f"{alone.groups[0].best}: accuracy")


def test_images_that_were_replaced_are_other_images(digits: list[Path], tmp_path: Path) -> None:
    changed = shutil.copytree(digits[0], tmp_path / "changed")
    kept = Identities.load(changed / "photos.safetensors")
    assert kept is not None
    kept.digests[-1] ^= 1
    kept.save(changed / "photos.safetensors")
    assert len(compare([digits[0], changed], latency=False).groups) == 2


def test_images_that_were_replaced_are_noticed_without_digests(
    digits: list[Path], tmp_path: Path
) -> None:
    changed = shutil.copytree(digits[0], tmp_path / "changed")
    (changed / "photos.safetensors").unlink()
    assert len(compare([digits[0], changed], latency=False).groups) == 1
    data = json.loads((changed / "data.json").read_text(encoding="utf-8"))
    (changed / "data.json").write_text(
        json.dumps({**data, "fingerprint": "other pixels under the same names"}), encoding="utf-8"
    )
    assert len(compare([digits[0], changed], latency=False).groups) == 2


def test_photos_that_were_renamed_are_the_same_photos(
    digit_files: Path, tmp_path: Path, tiny: Callable[..., Recipe], train_in: Any
) -> None:
    """The second run sees them under names that sort in the opposite order."""
    old_name = {}
    for i, file in enumerate(sorted(digit_files.rglob("*.png"))):
        folder = Path(("train", "val", "test")[i % 3], file.parent.name)
        old_name[str(folder / f"{999 - i}.png")] = str(folder / file.name)
        for root, name in (("before", file.name), ("after", f"{999 - i}.png")):
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / root / folder / name)

    before, after = (
        train_in(
            tmp_path / f"run-{root}", tiny(data=str(tmp_path / root), seed=seed, epochs=8)
        ).path
        for seed, root in enumerate(("before", "after"))
    )
    (pair,) = compare([before, after], latency=False).pairs
    right = {row["name"]: row["target"] == row["prediction"] for row in table_of(before)}
    changed = [
        (right[old_name[row["name"]]], row["target"] == row["prediction"])
        for row in table_of(after)
    ]
    only = {"run-before": changed.count((True, False)), "run-after": changed.count((False, True))}
    assert pair.more["only_better"] == only[pair.better]
    assert pair.more["only_other"] == only[pair.other]
    assert max(only.values()) > 0


def test_leaked_images_are_told(digits: list[Path], tmp_path: Path) -> None:
    leaky = shutil.copytree(digits[0], tmp_path / "leaky")
    evaluation = json.loads((leaky / "evaluation.json").read_text(encoding="utf-8"))
    test = evaluation["splits"]["test"]
    test["without_leaked"] = {
        **test,
        "num_images": 350,
        "accuracy": 0.75,
        "accuracy_ci95": [0.7, 0.8],
    }
    (leaky / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    found = compare([leaky, digits[1]], latency=False)
    assert any(
        remark.startswith("9 of the test images are duplicates")
        for remark in found.groups[0].remarks
    )
    assert "75.0 (70.0 to 80.0)" in text_of(found)
    assert "75.0 (70.0 to 80.0)" in found._repr_html_()


def test_validation_is_compared_where_the_test_split_was_left_alone(digits: list[Path]) -> None:
    found = compare(digits[:2], split="val", latency=False)
    assert found.groups[0].title == "digits, 180 validation images"
    assert any("Validation images took part" in remark for remark in found.groups[0].remarks)


def test_latency_is_measured(digits: list[Path]) -> None:
    told = []
    found = compare(digits[:2], progress=lambda *what: told.append(what))
    assert told == [("measuring latency", 1, 2), ("measuring latency", 2, 2)]
    for row in found.table():
        assert row["latency_1_ms"] > 0
        assert row["latency_64_ms"] > 0
    assert found.machine["device"] == "cpu"
    assert "Latency was measured now, on cpu with 1 thread." in text_of(found)


# ---- generation and super-resolution --------------------------------------------------------------------------------


def test_generators_are_ranked_by_a_common_distance(gans: list[Path], tmp_path: Path) -> None:
    found = compare(gans)
    (group,) = found.groups
    first, second = group.rows
    assert first["fd_pixels8"] < second["fd_pixels8"]
    assert (
        f"{first['fd_pixels8']:.4g} (real against real {first['fd_pixels8_floor']:.4g})"
        in group.conclusion
    )
    assert not found.pairs
    page = Page(found.write_html(tmp_path / "gans.html"))
    sheets = [image for image in page.all("img") if image["alt"].startswith("8 images of")]
    assert len(sheets) == 2
    assert "Images in a column come from the same noise" in page.words
    assert "pixels averaged to at most 8x8" in page.words


def test_another_protocol_is_a_group_of_its_own(gans: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(gans[0], tmp_path / "other")
    evaluation = json.loads((other / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["protocol"]["fd_pixels8"] = "pixels as they are"
    (other / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    found = compare([*gans, other])
    assert [len(group.rows) for group in found.groups] == [2, 1]
    fewer = json.loads((gans[1] / "evaluation.json").read_text(encoding="utf-8"))
    fewer["splits"]["test"]["num_generated"] = 100
    (other / "evaluation.json").write_text(json.dumps(fewer), encoding="utf-8")
    assert len(compare([gans[0], other]).groups) == 2


def test_upscalers_are_paired_by_picture(sharpeners: list[Path], tmp_path: Path) -> None:
    found = compare(sharpeners)
    (pair,) = found.pairs
    columns = {path.name: [float(row["psnr_y"]) for row in table_of(path)] for path in sharpeners}
    differences = np.array(columns[pair.better]) - np.array(columns[pair.other])
    assert len(differences) == 5
    assert pair.estimate == pytest.approx(differences.mean())
    from scipy import stats

    reference = stats.ttest_rel(columns[pair.better], columns[pair.other])
    assert pair.p == pytest.approx(float(reference.pvalue))
    assert pair.ci95 == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert pair.shown
    assert re.fullmatch(
        r"steps-60 is better than steps-1 by \d+\.\d\d dB \(\d+\.\d\d to \d+\.\d\d\)", pair.sentence
    )
    page = Page(found.write_html(tmp_path / "sharp.html"))
    titles = re.findall(
        r"small bicubic [\d.]+ dB steps-60 [\d.]+ dB steps-1 [\d.]+ dB original", page.words
    )
    assert len(titles) == 4  # pictures, each with its crops
    assert {"differences", "crops", "cost", "training"} <= page.ids


def test_another_scale_or_other_pictures_are_not_ranked(
    sharpeners: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(sharpeners[0], tmp_path / "other")
    rows = (other / "predictions.csv").read_text(encoding="utf-8").splitlines()
    header = rows[0].split(",")
    place = header.index("bicubic_psnr_y")
    for i, row in enumerate(rows[1:], 1):
        cells = row.split(",")
        cells[place] = f"{float(cells[place]) + 0.5:.6f}"
        rows[i] = ",".join(cells)
    (other / "predictions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert len(compare([*sharpeners, other]).groups) == 2


def test_a_picture_that_another_run_did_not_keep_is_computed(
    sharpeners: list[Path], tmp_path: Path
) -> None:
    bare = shutil.copytree(sharpeners[0], tmp_path / "steps-1")
    (bare / "samples" / "samples.json").write_text("{}", encoding="utf-8")
    pages = [
        Page(compare([run, sharpeners[1]]).write_html(tmp_path / f"{i}.html"))
        for i, run in enumerate((sharpeners[0], bare))
    ]
    crops = [
        [image for image in page.all("img") if image["alt"] == "Crop: steps-1"] for page in pages
    ]
    assert len(crops[0]) == len(crops[1]) == 4


# ---- the page -------------------------------------------------------------------------------------------------------


class Page:
    """A page as a reader sees it."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        bare = re.sub(r"<(script|style)\b.*?</\1>", " ", self.source, flags=re.S)
        self.tags = [
            (
                tag,
                {
                    name: html.unescape(value)
                    for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)
                },
            )
            for tag, attributes in re.findall(r"<(\w+)((?:\s+[\w-]+(?:=\"[^\"]*\")?)*)\s*/?>", bare)
        ]
        text = html.unescape(re.sub(r"<[^>]+>", " ", bare)).replace("\u202f", " ")
        self.words = " ".join(text.split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def text_of(found: Any) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    for line in found.lines():
        console.print(line)
    console.file.close()
    return console.export_text()


@pytest.fixture(scope="module")
def page(digits: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare(digits, latency=False).write_html(
        tmp_path_factory.mktemp("page") / "comparison.html"
    )


def test_the_page_holds_all_sections_and_needs_nothing(page: Path, digits: list[Path]) -> None:
    shown = Page(page)
    assert {
        "result",
        "differences",
        "cost",
        "training",
        "confusion",
        "only-one",
        "setup",
        "how",
        "main",
    } == shown.ids - {i for i in shown.ids if i.endswith("-title")} - {"plotly-gzip-base64"}
    addresses = [
        value
        for _, attributes in shown.tags
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert addresses
    assert all(
        address.startswith(("data:", "#")) or address.endswith("/report.html")
        for address in addresses
    )
    assert not re.search(r"https?://(?!www\.w3\.org)", shown.source)
    found = compare(digits, latency=False)
    assert found.groups[0].conclusion in shown.words
    for pair in found.groups[0].against_best():
        assert pair.sentence[1:] in shown.words


def test_reports_of_the_runs_are_linked_from_where_the_page_lies(
    digits: list[Path], tmp_path: Path
) -> None:
    runs = [shutil.copytree(path, tmp_path / "my runs" / path.name) for path in digits[:2]]
    (runs[0] / "report.html").write_text("a report", encoding="utf-8")
    (runs[1] / "report.html").unlink(missing_ok=True)
    page = tmp_path / "pages" / "comparison.html"
    shown = Page(compare(runs, latency=False).write_html(page))
    links = {each["href"] for each in shown.all("a") if not each["href"].startswith("#")}
    assert {(page.parent / unquote(link)).resolve() for link in links} == {runs[0] / "report.html"}


def test_what_others_say_of_an_image_names_truth_and_run(digits: list[Path], page: Path) -> None:
    tables = {path.name: {row["name"]: row for row in table_of(path)} for path in digits[:2]}
    found = only_one_right(compare(digits[:2], latency=False).groups[0])
    picture = next(p for row in found["rows"] for p in row["pictures"])
    ((other, said),) = picture.said
    assert said == tables[other][picture.name]["prediction"]
    shown = Page(compare(digits[:2], latency=False).write_html(page.parent / "two.html"))
    assert f"true {picture.target} {other} says {said}" in shown.words


def test_the_line_of_differences_has_ticks_where_they_belong() -> None:
    line = Line.of([-0.02, 0.031], 100)
    written = {float(text.replace("−", "-")): place for place, text in line.ticks}
    assert min(written) < 0 < max(written)
    for value, place in written.items():
        assert line.place(value / 100) == pytest.approx(place, abs=0.02)
        assert 0 <= place <= 100


def test_pictures_are_those_that_one_run_alone_gets_right(digits: list[Path], page: Path) -> None:
    tables = [sorted(table_of(path), key=lambda row: row["name"]) for path in digits]
    right = np.array([[row["target"] == row["prediction"] for row in table] for table in tables])
    for i, path in enumerate(digits):
        alone = int((right[i] & (right.sum(0) == 1)).sum())
        assert f"Only {path.name} : {alone:,} image" in Page(page).words
    names = [image["title"] for image in Page(page).all("img") if "title" in image]
    position = {row["name"]: k for k, row in enumerate(tables[0])}
    assert names
    assert all(right[:, position[name]].sum() == 1 for name in names)


def test_pictures_that_no_run_kept_come_from_the_data(digits: list[Path], tmp_path: Path) -> None:
    bare = [
        shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("samples"))
        for path in digits[:2]
    ]
    found = [only_one_right(compare(runs, latency=False).groups[0]) for runs in (digits[:2], bare)]
    pictures = [
        [(p.name, p.uri, p.said) for row in each["rows"] for p in row["pictures"]] for each in found
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0]
    assert [each["problem"] for each in found] == ["", ""]


def test_data_that_is_gone_leaves_the_pictures_out(digits: list[Path], tmp_path: Path) -> None:
    gone = [
        shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("samples"))
        for path in digits[:2]
    ]
    for path in gone:
        data = json.loads((path / "data.json").read_text(encoding="utf-8"))
        (path / "data.json").write_text(
            json.dumps({**data, "fingerprint": "of other days"}), encoding="utf-8"
        )
    found = only_one_right(compare(gone, latency=False).groups[0])
    assert "more images cannot be shown: the images of digits have changed" in found["problem"]
    assert not any(row["pictures"] for row in found["rows"])


def test_names_cannot_become_markup(digits: list[Path], tmp_path: Path) -> None:
    found = compare(digits[:2], names=[HOSTILE, "b"], latency=False)
    shown = found.write_html(tmp_path / "page.html", title=HOSTILE)
    assert HOSTILE in Page(shown).words
    assert "<script>alert" not in shown.read_text(encoding="utf-8")
    assert "<script>alert" not in found._repr_html_()


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no browser here"
)
@pytest.mark.slow
def test_a_browser_draws_all_figures(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or ""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path}",
    ]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [browser, *options, "--virtual-time-budget=15000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, encoding="utf-8")
    charts = re.findall(r'<figure class="(chart[^"]*)"([^>]*)', done.stdout)
    drawn = [name for name, attributes in charts if "hidden" not in attributes]
    assert len(drawn) >= 3
    assert set(drawn) == {"chart drawn"}
    costs = [attributes for _, attributes in charts if "cost-" in attributes]
    assert len(costs) > 1
    assert sum("hidden" not in attributes for attributes in costs) == 1, "one is shown at a time"


def test_pareto_front_by_search() -> None:
    draw = np.random.default_rng(2)
    points = [
        Point(str(i), float(c), float(v), None, "#000000", i)
        for i, (c, v) in enumerate(draw.integers(0, 9, (40, 2)))
    ]
    for sign, higher in ((1, True), (-1, False)):
        best = {
            (p.cost, p.value)
            for p in points
            if not any(
                (q.cost <= p.cost and sign * q.value >= sign * p.value)
                and (q.cost, q.value) != (p.cost, p.value)
                for q in points
            )
        }
        assert {(p.cost, p.value) for p in pareto_front(points, higher_is_better=higher)} == best


def test_costs_that_span_decades_have_a_logarithmic_axis() -> None:
    points = [
        Point(name, cost, 0.9, (0.88, 0.92), "#112233", number)
        for number, (name, cost) in enumerate((("<a>", 1e3), ("b", 1e6)), 1)
    ]
    figure = against_cost(points, Scale("parameters"), Scale("accuracy", ".1%"))
    assert figure.layout.xaxis.type == "log"
    assert [(trace.name, trace.text[0]) for trace in figure.data[1:]] == [
        ("&lt;a&gt;", "1"),
        ("b", "2"),
    ]
    assert figure.data[1].error_y.array[0] == pytest.approx(0.02)
    assert against_cost(points[:1] * 2, Scale("x"), Scale("y")).layout.xaxis.type == "linear"


def test_the_difference_of_confusion_matrices_tells_better_from_worse() -> None:
    draw = np.random.default_rng(0)
    targets = draw.integers(3, size=200)
    guesses = [
        np.where(draw.random(200) < share, targets, draw.integers(3, size=200))
        for share in (0.9, 0.5)
    ]
    one, other = (confusion_matrix(targets, guess) for guess in guesses)
    better, worse = confusion_difference(one, other, ["a", "b", "c"]).data
    for i in range(3):
        for j in range(3):
            change = int(one[i, j] - other[i, j])
            good = change > 0 if i == j else change < 0
            assert better.z[i][j] == (abs(change) if good else None)
            assert worse.z[i][j] == (abs(change) if change and not good else None)


def test_histories_share_a_panel_and_leave_out_what_was_not_logged() -> None:
    histories = {
        "a": {"epoch": [1.0, 2.0], "val_loss": [0.5, math.nan]},
        "b": {"epoch": [1.0], "val_loss": [0.7]},
    }
    (panel,) = overlaid(
        histories,
        [HistoryCurve("val_loss", "Loss"), HistoryCurve("val_accuracy", "Accuracy", percent=True)],
        "epoch",
    )
    assert [(series.name, list(series.y)) for series in panel.series] == [
        ("a", [0.5]),
        ("b", [0.7]),
    ]
    assert panel.series[0].colour != panel.series[1].colour


# ---- for programs and notebooks -------------------------------------------------------------------------------------


def test_everything_is_plain_data(digits: list[Path]) -> None:
    found = tt.compare([str(digits[0]), tt.load(str(digits[1]))], latency=False)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == json.loads(
        json.dumps(found.to_dict())
    )
    frame = found.frame()
    assert frame["accuracy"].tolist() == [row["accuracy"] for row in found.table()]
    assert frame["rank"].tolist() == [1, 2]
    assert "significantly better" in repr(found)
    assert len(repr(found)) < 400
    shown = found._repr_html_()
    assert shown.count("<tr>") == 3
    assert found.pairs[0].sentence in html.unescape(shown)


def test_without_pandas_there_is_a_line(
    digits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        compare(digits[:2], latency=False).frame()


def test_the_command_prints_a_table_and_json(digits: list[Path], say: Any, tmp_path: Path) -> None:
    code, output, _ = say(
        "compare",
        *digits[:2],
        "--no-latency",
        "--names",
        "good,weak",
        "--html",
        tmp_path / "x" / "p.html",
    )
    assert code == 0
    assert "good is better than weak by" in output
    assert "batch of 64" not in output
    assert (tmp_path / "x" / "p.html").stat().st_size > 1e6
    code, output, _ = say("compare", *digits[:2], "--json")
    found = json.loads(output)
    assert code == 0
    assert found["groups"][0]["pairs"][0]["shown"] is True
    assert found["groups"][0]["runs"][0]["latency_64_ms"] > 0


def test_figures_of_a_run_in_a_notebook(
    finished_run: api.Run, gans: list[Path], sharpeners: list[Path]
) -> None:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

    figures = finished_run.figures
    for make in (figures.history, figures.confusion, figures.mistakes):
        assert isinstance(make(), go.Figure)
        assert isinstance(make("matplotlib"), Figure)
    confusion = finished_run.read("evaluation.json")["confusion"]["test"]
    drawn = sum(
        int(c) for trace in figures.confusion().data for row in trace.text for c in row if c != ""
    )  # pyright: ignore
    assert drawn == np.sum(confusion)
    worst = finished_run.read("samples/samples.json")["worst"]
    assert len(figures.mistakes().layout.images) == len(worst)  # pyright: ignore
    for path in (gans[0], sharpeners[0]):
        assert isinstance(tt.load(str(path)).figures.history(), go.Figure)
        with pytest.raises(UserError, match="have no figure 'mistakes'"):
            tt.load(str(path)).figures.mistakes()
        with pytest.raises(UserError, match="have no figure 'confusion'"):
            tt.load(str(path)).figures.confusion()
    with pytest.raises(UserError, match="unknown library 'bokeh'"):
        figures.history("bokeh")  # pyright: ignore[reportArgumentType]


def test_a_history_can_be_drawn_unsmoothed(finished_run: api.Run, gans: list[Path]) -> None:
    gan = tt.load(str(gans[0]))
    logged = read_metrics(gan.path / "metrics.csv")
    curves = {trace.name: trace for trace in gan.figures.history(smooth=False).data}  # pyright: ignore
    for name in ("generator", "discriminator"):
        known = [value for value in logged[f"loss_{name}"] if not math.isnan(value)]
        assert list(curves[name].y) == known
        assert curves[name].opacity == 1
    assert not any("each step" in name for name in curves)

    curves = [
        trace
        for trace in finished_run.figures.history(smooth=False).data
        if trace.name == "training"
    ]  # pyright: ignore
    known = [
        value
        for value in read_metrics(finished_run.path / "metrics.csv")["loss"]
        if not math.isnan(value)
    ]
    assert list(curves[0].y) == known


def test_the_value_of_every_step_is_drawn_however_many_there_are() -> None:
    steps = [float(step) for step in range(1, 4001)]
    losses = [step % 7 for step in steps]
    (panel,) = generate_sections.history_panels(
        {"step": steps, "loss_generator": losses}, smooth=False
    )
    assert [list(series.y) for series in panel.series] == [losses]


def test_figures_of_a_comparison_are_objects_of_both_libraries(
    digits: list[Path], gans: list[Path]
) -> None:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

    found = compare(digits[:2], latency=False)
    figures = found.figures
    for make in (figures.ranking, figures.against, figures.history, figures.confusion):
        assert isinstance(make(), go.Figure)
        assert isinstance(make(library="matplotlib"), Figure)

    rows = found.table()
    dots = {
        trace.name: (trace.x[0], trace.y[0]) for trace in figures.against("parameters").data[1:]
    }  # pyright: ignore
    assert dots == {
        f"{number}  {row['name']}": (row["parameters"], row["accuracy"])
        for number, row in enumerate(rows, 1)
    }
    losses = [trace.x[0] for trace in figures.ranking("loss").data]  # pyright: ignore[reportAttributeAccessIssue]
    assert losses == [row["loss"] for row in rows]
    still = figures.against("parameters", library="matplotlib")
    assert [text.get_text() for text in still.legends[0].get_texts()] == list(dots)  # pyright: ignore

    with pytest.raises(
        UserError,
        match=r"no figure cost-latency-1-ms. It has ranking, ranking-loss, cost-parameters",
    ):
        figures.against("latency_1_ms")
    with pytest.raises(UserError, match="1 sets of runs to rank, and no number 2"):
        figures.history(number=2)
    with pytest.raises(UserError, match="unknown library 'bokeh'"):
        figures.history("bokeh")  # pyright: ignore[reportArgumentType]
    assert "ranking" in [drawing.name for drawing in compare(gans[:2]).figures.drawings]


def test_figures_of_a_comparison_lie_beside_its_page(
    digits: list[Path], say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(print_figures, "DPI", 200)
    code, output, _ = say("compare", *digits[:2], "--no-latency", "--html", tmp_path / "two.html")
    assert code == 0
    folder = tmp_path / "two-figures"
    assert f"figures  {folder}" in output.replace("\n", "")
    stems = {path.stem for path in folder.iterdir()}
    assert stems >= {
        "ranking",
        "ranking-loss",
        "cost-parameters",
        "cost-multiply-adds-loss",
        "histories",
    }
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.{end}" for stem in stems for end in ("png", "svg")
    }
    with Image.open(folder / "cost-parameters.png") as image:
        assert min(image.size) > 400
    assert b"<svg" in (folder / "histories.svg").read_bytes()

    again = write_drawings(folder, compare(digits[:2], latency=False).figures.drawings[-2:])
    before = {path: path.read_bytes() for path in again}
    assert write_drawings(folder, compare(digits[:2], latency=False).figures.drawings[-2:]) == again
    assert {path: path.read_bytes() for path in again} == before


def test_only_our_own_figures_are_replaced(digits: list[Path], say: Any, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "histories.svg").write_text("my own", encoding="utf-8")
    code, _, errors = say("compare", *digits[:2], "--no-latency", "--figures", folder)
    assert code == 2
    assert "histories.svg is there already and was not written by tintype" in errors
    assert [path.name for path in folder.iterdir()] == ["histories.svg"]
    assert (folder / "histories.svg").read_text(encoding="utf-8") == "my own"
    code, _, errors = say(
        "compare", *digits[:2], "--no-latency", "--figures", folder / "histories.svg"
    )
    assert code == 2
    assert "is a file. Expected a folder" in errors


def test_a_run_shows_itself(
    finished_run: api.Run, gans: list[Path], sharpeners: list[Path], tmp_path: Path
) -> None:
    test = finished_run.metrics["test"]
    card = finished_run._repr_html_().replace("\u202f", " ")
    low, high = test["accuracy_ci95"]
    assert (
        f"accuracy {100 * test['accuracy']:.1f} %</td><td>{100 * low:.1f} to {100 * high:.1f} %"
        in card
    )
    assert "report.html" in card
    assert "real against real" in tt.load(str(gans[0]))._repr_html_()
    assert "PSNR" in tt.load(str(sharpeners[0]))._repr_html_()
    unfinished = tmp_path / "young"
    unfinished.mkdir()
    shutil.copy(finished_run.path / "recipe.yaml", unfinished)
    card = tt.load(str(unfinished))._repr_html_()
    assert "young" in card
    assert "<table" not in card


# ---- what cannot be compared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", plugins.names("tasks"))
def test_every_task_offers_a_comparison_as_the_contract_has_it(task: str) -> None:
    part = compare_part(task)
    assert part.APART.startswith("different data")
    assert (
        part.PAIRED.format(best="a run").startswith("Each run compared with a run")
        or not part.PAIRED
    )
    asked = ("groups", "figures", "columns", "pair_columns", "curves", "facts", "measure_costs")
    assert all(callable(getattr(part, name)) for name in asked)


def test_runs_of_a_task_without_a_comparison_are_declined(
    digits: list[Path], tmp_path: Path
) -> None:
    copies = []
    for number, run in enumerate(digits[:2]):
        copies.append(shutil.copytree(run, tmp_path / str(number)))
        evaluation = json.loads((copies[-1] / "evaluation.json").read_text("utf-8"))
        (copies[-1] / "evaluation.json").write_text(
            json.dumps({**evaluation, "task": "count"}), "utf-8"
        )
    with pytest.raises(UserError, match=r"^runs of task count cannot be compared\.$"):
        compare(copies)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", "was ended from outside"),
        ("failed", "failed"),
        ("stopped", "is not finished"),
        ("", "is not finished"),
    ],
)
def test_a_run_that_is_not_finished_is_refused(
    copied_run: api.Run, finished_run: api.Run, state: str, words: str
) -> None:
    (copied_run.path / "status.json").write_text(
        json.dumps({"state": state, "step": 7, "total_steps": 90}), encoding="utf-8"
    )
    with pytest.raises(UserError, match=rf"{words} \(step 7 of 90\)\..*tt\.train\(resume="):
        compare([finished_run, copied_run], latency=False)


def test_a_run_that_is_being_trained_is_refused(copied_run: api.Run, finished_run: api.Run) -> None:
    copied_run.set_status("running", step=7)
    with (
        copied_run.locked(),
        pytest.raises(UserError, match=r"is still training \(step 7 of \d+\)\. Wait for it"),
    ):
        compare([finished_run, copied_run], latency=False)


def test_predictions_that_are_missing_or_cut_are_told(
    copied_run: api.Run, finished_run: api.Run
) -> None:
    lines = (copied_run.path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    (copied_run.path / "predictions.csv").write_text(
        "\n".join(lines[:300]) + "\n", encoding="utf-8"
    )
    with pytest.raises(
        UserError, match=r"holds 119 predictions of the test split; evaluation.json tells of 359"
    ):
        compare([finished_run, copied_run], latency=False)
    (copied_run.path / "predictions.csv").unlink()
    with pytest.raises(UserError, match="copied has no predictions"):
        compare([finished_run, copied_run], latency=False)


def test_different_tasks_are_refused(digits: list[Path], gans: list[Path]) -> None:
    with pytest.raises(
        UserError, match=r"runs of different tasks.*digits is classification, after-4 is generation"
    ):
        compare([digits[0], gans[0]])


def test_names_and_numbers_of_runs(digits: list[Path], tmp_path: Path) -> None:
    for runs, names, words in (
        (digits[:1], None, "needs two runs or more"),
        ([digits[0], digits[0]], None, "named twice"),
        ([digits[0], digits[0].parent / "." / digits[0].name], None, "named twice"),
        (digits[:2], ["a"], "1 names were given for 2 runs"),
        (digits[:2], ["a", "a"], "the name 'a' was given twice"),
        (digits[:2], ["a", " "], "is empty"),
        ([digits[0], tmp_path], None, "is not a run folder"),
        ([digits[0], tmp_path / "nothing"], None, "there is no run folder"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            compare(runs, names=names, latency=False)
    with pytest.raises(UserError, match="unknown split 'train'"):
        compare(digits, split="train")
    same = shutil.copytree(digits[0], tmp_path / "again" / digits[0].name)
    names = [run.name for run in open_all([digits[0], same], None, "test")]
    assert names == [f"{digits[0].parent.name}/digits", "again/digits"]


def test_a_split_that_was_not_measured_is_told(copied_run: api.Run, finished_run: api.Run) -> None:
    evaluation = copied_run.read("evaluation.json")
    del evaluation["splits"]["test"]
    copied_run.write("evaluation.json", evaluation)
    with pytest.raises(
        UserError, match=r"has not been measured on the test split\. Compare by split='val'"
    ):
        compare([finished_run, copied_run], latency=False)


def test_only_our_own_page_is_replaced(digits: list[Path], say: Any, tmp_path: Path) -> None:
    page, note = tmp_path / "page.html", tmp_path / "note.html"
    note.write_text("my own", encoding="utf-8")
    for target, words in (
        (note, "was not written by `tintype compare`"),
        (tmp_path, "is a folder"),
    ):
        code, _, errors = say("compare", *digits[:2], "--no-latency", "--html", target)
        assert code == 2
        assert words in errors
    assert note.read_text(encoding="utf-8") == "my own"
    for title in ("first", "second"):
        write_sections(page, title, ["a fact"], [], made_by="tintype compare")
    assert "<h1>second</h1>" in page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"not written by `tt\.study"):
        check_replaceable(page, "tintype study")
    with pytest.raises(UserError, match="nothing may be written"):
        check_replaceable(note / "page.html", "tintype compare")
    assert not list(tmp_path.glob("*.tmp"))


def test_a_running_folder_is_only_looked_at(digits: list[Path]) -> None:
    """Nothing in the runs changes by being compared."""
    before = [sorted((str(f), f.stat().st_mtime_ns) for f in path.rglob("*")) for path in digits]
    compare([RunFolder(path) for path in digits])
    assert before == [
        sorted((str(f), f.stat().st_mtime_ns) for f in path.rglob("*")) for path in digits
    ]


def test_images_in_groups_are_measured_and_compared_by_group(tmp_path, tiny, train_in):
    """Three noisy copies of each digit: as many images as three times the digits tell no more than
    the digits.
    """
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    draw, rows = np.random.default_rng(0), ["path,label,group"]
    for i in range(150):
        for j in range(3):
            noisy = np.clip(
                pixels[i].reshape(8, 8) * 16 + draw.normal(0, 8, (8, 8)), 0, 255
            ).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / f"{i}-{j}.png")
            rows.append(f"{i}-{j}.png,{targets[i]},object{i}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    recipe = tiny(data=str(tmp_path / "list.csv"), epochs=2)
    runs = [
        api.Run(train_in(tmp_path / f"run{seed}", recipe.replace(seed=seed)).path)
        for seed in (0, 1)
    ]

    figures = runs[0].metrics["test"]
    assert figures["num_groups"] == figures["num_images"] / 3
    alone = statistics.wilson_interval(figures["num_correct"], figures["num_images"])
    assert np.diff(figures["accuracy_ci95"]) > 1.2 * np.diff(alone)
    assert runs[0].evaluate()["accuracy_ci95"] == pytest.approx(figures["accuracy_ci95"])
    assert "Intervals are by group" in verdict_line(runs[0].read("evaluation.json"))

    by_group = compare([run.path for run in runs], latency=False)
    for run in runs:  # runs of earlier versions have no such column
        table = [
            line.rsplit(",", 1)[0]
            for line in (run.path / "predictions.csv").read_text(encoding="utf-8").splitlines()
        ]
        (run.path / "predictions.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    by_image = compare([run.path for run in runs], latency=False)
    (pair,), (narrow,) = by_group.pairs, by_image.pairs
    assert pair.estimate == narrow.estimate
    assert np.diff(pair.ci95) > np.diff(narrow.ci95)
    assert any("by group" in remark for remark in by_group.groups[0].remarks)


def test_crops_of_one_photo_are_compared_by_photo() -> None:
    import statsmodels.api as sm

    from tintype.tasks.contract.paired import paired_means

    draw, photos, crops = np.random.default_rng(2), 80, 4
    group = np.arange(photos).repeat(crops)
    gain = 0.3 + (draw.normal(size=(photos, 1)) + 0.5 * draw.normal(size=(photos, crops))).reshape(
        -1
    )
    better = 30 + draw.normal(size=photos * crops)
    table = {
        "name": [f"photo{g}_{i}.png" for i, g in enumerate(group)],
        "group": [f"photo{g}" for g in group],
    }

    def pair_of(grouped: bool) -> Pair:
        kept = table if grouped else {"name": table["name"]}
        runs = [
            SimpleNamespace(name=name, table={**kept, "psnr_y": psnr}, folds=lambda: None)
            for name, psnr in (("a", better + gain), ("b", better))
        ]
        values = [run.table["psnr_y"] for run in runs]
        (pair,) = paired_means(runs, values, "psnr_y", lambda pair: "")  # pyright: ignore[reportArgumentType]
        return pair

    alone, pair = pair_of(False), pair_of(True)
    outside = sm.OLS(gain, np.ones(len(gain))).fit(
        cov_type="cluster", cov_kwds={"groups": group}, use_t=True
    )

    assert pair.more["num_groups"] == photos
    assert pair.ci95 == pytest.approx(tuple(outside.conf_int()[0]), abs=0.02)
    assert pair.p == pytest.approx(outside.pvalues[0], rel=0.15)
    assert pair.ci95 is not None
    assert alone.ci95 is not None
    assert pair.ci95[1] - pair.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])


def test_upscalers_with_groups_say_so(sharpeners: list[Path], tmp_path: Path) -> None:
    copies = [shutil.copytree(path, tmp_path / path.name) for path in sharpeners]
    for path in copies:
        with (path / "predictions.csv").open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        with (path / "predictions.csv").open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, [*rows[0], "group"])
            writer.writeheader()
            writer.writerows({**row, "group": row["name"][0]} for row in rows)
    found = compare(copies, latency=False)
    assert any("pictures come in 2 groups" in remark for remark in found.groups[0].remarks), (
        found.groups[0].remarks
    )
