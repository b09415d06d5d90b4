"""Predicting: files, pictures in memory, long jobs that are stopped and go on; what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from tintype import api, cli
from tintype.data.decode import Shape, decode, decode_judged
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.tasks.classify.answering import Classifier
from tintype.tasks.classify.predictor import RunClassifier
from tintype.tasks.classify.rows import ClassRows
from tintype.tasks.task import Prediction
from tintype.verbs.predict.files import list_images
from tintype.verbs.predict.job import JobOptions, run_job
from tintype.verbs.predict.output import Output
from tintype.verbs.predict.pipeline import answered
from tintype.verbs.predict.sorting import Sorter, folder_name

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    """(8, 8) uint8, a zero; as `tintype/data/sets/digits.py` reads it."""
    return np.rint(load_digits().images[0] * (255 / 16)).astype(np.uint8)


def test_every_form_of_a_picture_gives_the_same_answer(finished_run, digit, tmp_path):
    Image.fromarray(digit).save(tmp_path / "zero.png")
    in_bytes = io.BytesIO()
    Image.fromarray(digit).save(in_bytes, format="PNG")
    forms = [
        tmp_path / "zero.png",
        str(tmp_path / "zero.png"),
        in_bytes.getvalue(),
        Image.fromarray(digit),
        digit,
        digit[:, :, None],
        np.repeat(digit[:, :, None], 3, axis=2),
    ]
    answers = [finished_run.predict(form) for form in forms]
    assert all(isinstance(answer, Prediction) for answer in answers)
    for answer in answers:
        np.testing.assert_allclose(answer.probs, answers[0].probs, atol=1e-5)
    together = finished_run.predict(forms)
    assert [answer.top1 for answer in together] == [answer.top1 for answer in answers]


def test_a_larger_colour_picture_is_brought_to_the_size_of_the_model(finished_run, digit):
    large = Image.fromarray(digit).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
    assert finished_run.predict(large).top1 == finished_run.predict(digit).top1


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.full((8, 8), np.nan), "NaN"),
        (np.full((8, 8), -2.0), "tintype normalises by itself"),
        (np.zeros((8, 8), "datetime64[s]"), "datetime64"),
        (np.zeros((8, 8, 4), np.uint8), "(8, 8, 4)"),
        (np.zeros((2, 3, 8, 8, 1), np.uint8), "(2, 3, 8, 8, 1)"),
        ({"a": 1}, "cannot predict a dict"),
        (None, "cannot predict a NoneType"),
        ("https://example.org/a.png", "is an address"),
        ("photos/*.jpg", "there is no file photos/*.jpg"),
        (np.zeros((0, 8), np.uint8), "(0, 8)"),
        (3.5, "float"),
        (b"no picture", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_line(finished_run, picture, says):
    with pytest.raises(UserError) as error:
        finished_run.predict(picture)
    assert says in str(error.value)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys, short_reports):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))
    said = capsys.readouterr().out
    assert "it looks like 7" in said
    assert (tmp_path / "runs" / "digits" / "report.html").exists()


# ---- many files -------------------------------------------------------------------------------------------------------


class Lightness(Classifier):
    """Says how light a picture is, in four classes; quick, and right or wrong beyond doubt."""

    def __init__(self, batch_size: int = 5) -> None:
        how = {"channels": 1, "height": 4, "width": 4, "resize": "squash"}
        thresholds = [{"accuracy": 0.9, "threshold": 0.8}, {"accuracy": 0.99, "threshold": None}]
        super().__init__(("black", "dark", "light", 'a, "white"\none'), how, thresholds, batch_size)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        place = pixels.reshape(len(pixels), -1).mean(1)[:, None] / 255 * 3
        closeness = np.exp(-6 * (place - np.arange(4)) ** 2)
        return (closeness / closeness.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder with 43 grey pictures, some under the same name, some that are none; one name has a
    line end and a quote.
    """
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        level = number * 255 // 39
        Image.new("L", (6 + number % 3, 5), level).save(
            folder / str(number % 2) / f"photo{number // 2}.png"
        )
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (folder / "empty.png").write_bytes(b"")
    Image.new("L", (5, 5), 255).save(folder / 'odd, "name"\nhere.png')
    return folder


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as lines:
            return [{k: v for k, v in row.items() if v} for row in csv.DictReader(lines)]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_file_gets_a_row_in_order_and_broken_ones_a_reason(many, tmp_path, ending):
    path, files = tmp_path / f"answers.{ending}", list_images([many])
    rows_of = ClassRows(top=2)
    summary = run_job(Lightness(), files, rows_of, output=Output(path, rows_of))
    assert (summary.num_predicted, summary.num_passed_over) == (41, 2)
    if ending == "parquet":
        import pyarrow.parquet

        assert [p.name for p in tmp_path.iterdir()] == ["answers.parquet"]
        rows = pyarrow.parquet.read_table(path).to_pylist()
        assert isinstance(rows[0]["confidence2"] or 0.0, float)
    else:
        rows = read_rows(path)
    assert [row["file"] for row in rows] == list(map(str, files))
    wrong = {Path(row["file"]).name: row["error"] for row in rows if row.get("error")}
    assert set(wrong) == {"broken.jpg", "empty.png"}
    assert wrong["empty.png"] == "empty file"
    by_name = {row["file"]: row for row in rows}
    for file in files:
        if file.name not in wrong:
            level = np.asarray(Image.open(file)).mean() / 255 * 3
            assert by_name[str(file)]["prediction"] == Lightness().class_names[round(level)]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_job_cut_off_at_any_byte_goes_on_without_loss_or_doubling(many, tmp_path, ending):
    options, files = JobOptions(sort_into=tmp_path / "sorted"), list_images([many])
    rows = ClassRows(top=2)
    whole = tmp_path / f"whole.{ending}"
    run_job(Lightness(), files, rows, options, output=Output(whole, rows, options.columns))
    expected, content = read_rows(whole), whole.read_bytes()
    tree = {
        p.relative_to(tmp_path / "sorted") for p in (tmp_path / "sorted").rglob("*") if p.is_file()
    }
    assert len(tree) == 41
    cut = tmp_path / f"cut.{ending}"
    for length in [*range(0, 60, 7), *range(60, len(content), 397), len(content) - 1, len(content)]:
        shutil.rmtree(tmp_path / "sorted")
        cut.write_bytes(content[:length])
        output = Output(cut, rows, options.columns, resume=True)
        run_job(Lightness(), files, rows, options, output=output)
        assert read_rows(cut) == expected, length
        assert {
            p.relative_to(tmp_path / "sorted")
            for p in (tmp_path / "sorted").rglob("*")
            if p.is_file()
        } == tree


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_that_another_model_began_is_left_as_it_is(many, tmp_path, ending):
    class Darkness(Lightness):
        def probabilities(self, pixels: np.ndarray) -> np.ndarray:
            return super().probabilities(255 - pixels)

    path, files, rows = (
        tmp_path / f"answers.{ending}",
        list_images([many]),
        ClassRows(threshold=0.8),
    )
    run_job(Lightness(), files[:20], rows, output=Output(path, rows))
    begun = path.read_bytes()
    with pytest.raises(UserError, match="was begun with another model"):
        run_job(Darkness(), files, rows, output=Output(path, rows, resume=True))
    assert path.read_bytes() == begun


def test_a_killed_job_goes_on(finished_run, digit_files, tmp_path):
    """Killed for good by a signal in the middle, twice; then resumed to the end."""
    script = (
        "import os, signal, sys\n"
        "from tintype.verbs.predict import sorting\n"
        "put, count = sorting.Sorter.put, [0]\n"
        "def killed(self, file, place):\n"
        "    count[0] += 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if count[0] == 30 else put(self, file, place)\n"
        "sorting.Sorter.put = killed\n"
        "from tintype import cli\n"
        "cli.main(sys.argv[1:])\n"
    )
    out, into = tmp_path / "answers.csv", tmp_path / "sorted"
    arguments = [
        "predict",
        str(finished_run.path),
        str(digit_files),
        "--out",
        str(out),
        "--sort-into",
        str(into),
    ]
    first = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, timeout=120
    )
    assert first.returncode == -signal.SIGKILL
    assert len(read_rows(out)) == 64, "the batch whose photos were being sorted"
    assert 0 < len([p for p in into.rglob("*") if p.is_file()]) < 64
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--resume"])
    assert not end.value.code
    rows = read_rows(out)
    assert len({row["file"] for row in rows}) == len(rows) == 120
    for row in rows:
        assert (into / row["sorted_to"]).read_bytes() == Path(row["file"]).read_bytes()
    assert len([p for p in into.rglob("*") if p.is_file()]) == 120


def test_photos_are_sorted_and_nothing_is_overwritten(many, tmp_path):
    into = tmp_path / "sorted"
    (into / "black").mkdir(parents=True)
    (into / "black" / "photo0.png").write_text("mine", encoding="utf-8")
    files = [many / "0" / "photo0.png", many / "1" / "photo0.png", many / "1" / "photo19.png"]
    run_job(Lightness(), files, ClassRows(), JobOptions(sort_into=into, link=True))
    assert (into / "black" / "photo0.png").read_text(encoding="utf-8") == "mine"
    assert (into / "black" / "photo0-2.png").readlink() == files[0]
    assert (into / "black" / "photo0-3.png").resolve() == files[1].resolve()
    assert [p.name for p in into.iterdir() if p.name != "black"] == ["a, _white__one"], (
        "no class leads out of the folder"
    )
    run_job(Lightness(), files[:1], ClassRows(), JobOptions(sort_into=into))
    assert not (into / "black" / "photo0-4.png").is_symlink()
    assert (into / "black" / "photo0-4.png").read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("letter", ["n", "\u00e9"])
@pytest.mark.parametrize("link", [False, True])
def test_photos_with_the_longest_names_are_sorted(tmp_path, letter, link):
    """Also two of one name, of which the second gets a number and so must lose letters."""
    longest = letter * ((255 - len(".png")) // len(letter.encode())) + ".png"
    files = [tmp_path / folder / longest for folder in ("one", "two", "three")]
    for file in files:
        file.parent.mkdir()
        Image.new("L", (6, 5), 3).save(file)
    rows: list[dict[str, Any]] = []
    options = JobOptions(sort_into=tmp_path / "sorted", link=link)
    run_job(Lightness(), files, ClassRows(), options, on_row=rows.append)
    places = [tmp_path / "sorted" / row["sorted_to"] for row in rows]
    assert places[0].name == longest
    assert [place.name[-6:] for place in places[1:]] == ["-2.png", "-3.png"]
    assert sorted(places) == sorted((tmp_path / "sorted" / "black").iterdir())
    assert all(
        place.is_symlink() == link and place.read_bytes() == files[0].read_bytes()
        for place in places
    )


@pytest.mark.parametrize("letter", ["n", "\u00e9"])
def test_heat_maps_of_photos_with_the_longest_names_are_written(kinds, tmp_path, letter):
    longest = letter * ((255 - len(".png")) // len(letter.encode())) + ".png"
    files = [tmp_path / folder / longest for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        Image.new("L", (8, 8), 90).save(file)
    rows: list[dict[str, Any]] = []
    predictor = RunClassifier.of(kinds["cnn"], device="cpu")
    options = JobOptions(heatmaps=tmp_path / "heat")
    run_job(predictor, files, ClassRows(), options, on_row=rows.append)
    names = [row["heatmap"] for row in rows]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "heat").iterdir())
    assert len(set(names)) == 2
    assert all(
        len(os.fsencode(name)) <= 255 and row["prediction"] in name
        for name, row in zip(names, rows, strict=True)
    )


def test_names_are_cut_as_the_file_system_asks_and_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pathconf", lambda *_: 143, raising=False)  # as eCryptfs
    sorter = Sorter(tmp_path / "not" / "there", link=False)
    names = {
        "a" * 200 + ".png",
        "a." + "b" * 200,
        "." + "c" * 200,
        "d" * 200,
        "e" * 60 + "." + "f" * 150,
    }
    places = [sorter.name_for(name, "class") for name in sorted(names) for _ in range(12)]
    assert len(set(places)) == 60
    assert max(len(Path(place).name) for place in places) == 143

    labels = [folder_name("k" * 300 + end) for end in "ab"]
    assert labels[0] != labels[1]
    assert all(len(label) <= 255 for label in labels)
    assert folder_name("k" * 255) == "k" * 255


def test_below_the_threshold_it_is_unsure(many):
    rows: list[dict[str, Any]] = []
    run_job(Lightness(), list_images([many]), ClassRows(threshold=0.8), on_row=rows.append)
    answered = [row for row in rows if "error" not in row]
    for row in answered:
        assert (row["prediction"] == "unsure") == (row["confidence"] < 0.8)
        assert row["most_probable"] != "unsure"
    assert 0 < sum(row["prediction"] == "unsure" for row in answered) < 41


def test_a_wish_that_validation_cannot_promise():
    assert Lightness().threshold(0.9) == 0.8
    with pytest.raises(UserError, match=r"cannot promise that 99%.*it can promise 0.9: target=0.9"):
        Lightness().threshold(0.99)
    with pytest.raises(
        UserError, match=r"no threshold was fitted for 0.5. Expected one of 0.9, 0.99"
    ):
        Lightness().threshold(0.5)


def test_memory_is_bounded_and_order_kept_whatever_decodes_first(many, monkeypatch):
    """Never more than some batches ahead of the computing, with threads that take turns at random."""
    classifier, held, most = Lightness(batch_size=4), [0], [0]
    lock, pixels, answer = threading.Lock(), classifier.pixels, classifier.answer

    def slow(image: Any) -> np.ndarray:
        time.sleep(hash(str(image)) % 5 / 2000)
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        return pixels(image)

    def counted(names: Any, images: Any) -> list[Prediction]:
        with lock:
            held[0] -= len(names)
        return answer(names, images)

    monkeypatch.setattr(classifier, "pixels", slow)
    monkeypatch.setattr(classifier, "answer", counted)
    files = [many / "0" / f"photo{k % 20}.png" for k in range(300)]
    found = [item for batch in answered(classifier, files, decoders=3) for item in batch]
    assert [item.file for item in found] == list(map(str, files))
    assert most[0] <= 8 * (3 + 1) + 4 * 2, "decoded pictures that wait"


def test_names_on_standard_input(tt, finished_run, digit_files, monkeypatch):
    names = [str(p) for p in sorted((digit_files / "4").iterdir())]
    for end in ("\n", "\0"):
        content = end.join([*names, "nowhere.png"]) + end
        monkeypatch.setattr(
            "sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8")
        )
        code, output, errors = tt("predict", finished_run.path, "-")
        assert code == 0
        assert [line.partition(":")[0] for line in output.splitlines()] == names
        assert "passed over nowhere.png: there is no file nowhere.png." in errors
        assert "1 passed over: no such file (1)" in errors
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n"), encoding="utf-8"))
    assert "there is no name on standard input" in tt("predict", finished_run.path, "-")[2]


def test_heat_maps_of_a_network_with_maps(tt, tiny, digit_files, tmp_path):
    recipe = tiny(model="cnn", model_options={"widths": [8, 8]})
    run = api.train(recipe, out=tmp_path, name="cnn", watcher=Watcher())
    photos = [
        *sorted((digit_files / "1").iterdir())[:2],
        *sorted((digit_files / "2").iterdir())[:1],
    ]
    code, _, errors = tt("predict", run.path, *photos, "--heatmaps", "heat", "--out", "a.jsonl")
    assert code == 0, errors
    rows = read_rows(tmp_path / "a.jsonl")
    for row, photo in zip(rows, photos, strict=True):
        assert row["heatmap"] == f"{photo.stem}-{row['prediction']}.png"
        assert np.asarray(Image.open(tmp_path / "heat" / row["heatmap"])).ndim == 3
    assert "heat already holds files" in tt("predict", run.path, *photos, "--heatmaps", "heat")[2]


def test_wishes_that_do_not_fit(tt, finished_run, digit_files, tmp_path):
    (tmp_path / "mine.csv").write_text("not,ours\n1,2\n", encoding="utf-8")
    (tmp_path / "mine.jsonl").write_text("[1]\n", encoding="utf-8")
    for arguments, said in [
        (("--resume",), "--resume goes on with a file of answers"),
        (("--link",), "--link says how --sort-into"),
        (("--out", "a.txt"), "expected one that ends in .csv, .jsonl or .parquet"),
        (("--out", "mine.csv"), "mine.csv is there already"),
        (
            ("--out", "mine.csv", "--resume"),
            "cannot go on with mine.csv: its columns are not, ours",
        ),
        (
            ("--out", "mine.jsonl", "--resume"),
            "cannot go on with mine.jsonl: its lines have no file",
        ),
        (("--out", "a.jsonl", "--json"), "Give one of the two"),
        (("--sort-into", "mine.csv"), "mine.csv is a file"),
        (("--target", "0.9"), "Give --abstain as well"),
        (("--abstain", "--target", "0.5"), "no threshold was fitted for 0.5"),
    ]:
        code, _, errors = tt("predict", finished_run.path, digit_files / "1", *arguments)
        assert code == 2, arguments
        assert said in errors, errors
    assert (tmp_path / "mine.csv").read_text(encoding="utf-8") == "not,ours\n1,2\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv", "mine.jsonl"]


def test_a_huge_file_that_is_no_image_is_passed_over_at_once(
    tt, finished_run, digit_files, tmp_path
):
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(200_000_000)
    code, output, errors = tt("predict", finished_run.path, "huge.jpg", digit_files / "1")
    assert code == 0
    assert "passed over huge.jpg: not an image" in errors
    assert output.count("\n") == 12


def test_partial_copies_of_a_killed_job_are_removed(finished_run, digit_files, tmp_path, tt):
    """Those of earlier versions too, which had the photo's name."""
    tt("predict", finished_run.path, digit_files, "--out", "p.csv", "--sort-into", "s")
    placed = sorted(path for path in (tmp_path / "s").rglob("*.png"))
    for path in placed[:3]:
        shutil.copy(path, path.with_name(f".{path.name}.partial"))
    rows = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "p.csv").write_text("".join(rows[:-1]), encoding="utf-8")

    code, _, errors = tt(
        "predict", finished_run.path, digit_files, "--out", "p.csv", "--sort-into", "s", "--resume"
    )
    assert code == 0, errors
    assert not list((tmp_path / "s").rglob("*.partial"))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_resumed_job_does_not_hold_the_names_of_what_is_done(tmp_path, ending):
    rows = ClassRows(1, None)
    path = tmp_path / f"answers.{ending}"
    num_rows = 20_000
    names = [f"photos of a long expedition/{'day, ' * 20}{i}.jpg" for i in range(num_rows)]
    output = Output(path, rows)
    output.append([{"file": name, "error": "truncated"} for name in names])
    output.close()

    tracemalloc.start()
    resumed = Output(path, rows, resume=True)
    done = resumed.done
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    resumed.release()
    assert done.count == num_rows
    assert held < 32 * num_rows
    assert held < sum(map(len, names)) / 4

    assert list(done.without(["a.jpg", *names, "b.jpg"])) == ["a.jpg", "b.jpg"]
    assert not list(done.without(names[::-1]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_whether_a_picture_has_colour_is_seen_in_the_decoding_of_its_pixels(kind):
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    for picture, coloured in (
        (photo, True),
        (photo.convert("L"), False),
        (photo.convert("L").convert("RGB"), False),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        for channels in (1, 3):
            shape = Shape(28, 28, channels)
            pixels, seen = decode_judged(buffer.getvalue(), shape)
            assert seen == coloured
            assert np.array_equal(pixels, decode(buffer.getvalue(), **shape._asdict()))
