"""Export a run as one file that other programs compute: ONNX, TorchScript or torch.export, checked
before it is kept.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tintype.errors import UserError, unknown_name
from tintype.files.bounded import remove_abandoned, temporary_folder
from tintype.models.parts.backbone import for_inference
from tintype.runs.folder import RunFolder
from tintype.runs.model import resize_of
from tintype.tasks.classify.task import Classify
from tintype.tasks.contract.exported import FORMAT
from tintype.tasks.generate.task import Generate
from tintype.tasks.restoring import load_task
from tintype.tasks.task import Task
from tintype.tasks.upscale.task import Upscale
from tintype.verbs.export import checking, formats
from tintype.verbs.export.graphs import Graph, Half, graph_of
from tintype.verbs.export.images import CheckImages, classified_images, photo_pairs
from tintype.verbs.export.quantising import quantise
from tintype.verbs.share.paths import for_others

MOST_CALIBRATION = 200  # images; more changes the ranges hardly
MOST_POINTS, MOST_DB = 2.0, 0.3  # what a quantised model may lose unless told otherwise
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked: where, how large, how it agrees with PyTorch, and how
    long both take.
    """

    path: Path
    format: str
    precision: str
    opset: int | None
    num_bytes: int
    num_bytes_pytorch: int
    checked: dict[str, Any]
    latency_ms: float
    latency_ms_pytorch: float
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        return {**vars(self), "path": str(self.path)}

    def lines(self) -> list[str]:
        """Return what is to be said, a line for each thing."""
        kind = {
            "onnx": f"ONNX, opset {self.opset}",
            "torchscript": "TorchScript",
            "pt2": "torch.export",
        }[self.format]
        runtime = "ONNX Runtime" if self.format == "onnx" else kind
        return [
            f"exported  {self.path} ({kind}, {self.precision})",
            *_checked_lines(self.checked),
            f"size      {_megabytes(self.num_bytes)}, the run's weights {_megabytes(self.num_bytes_pytorch)}",
            f"latency   one picture: {runtime} {self.latency_ms:.3g} ms, PyTorch {self.latency_ms_pytorch:.3g} ms "
            f"({self.threads} thread{'s' if self.threads > 1 else ''})",
        ]


def _checked_lines(checked: dict[str, Any]) -> list[str]:
    if "psnr_least" in checked:
        return [
            f"checked   on {checked['images']}: PSNR to PyTorch's pictures {checked['psnr_least']:.1f} dB at least, largest "
            f"difference {checked['largest_difference']} of 255"
        ]
    if "psnr_lost" in checked:
        between = checked["psnr_lost_ci95"]
        interval = (
            f" (95 % paired interval {between[0]:+.2f} to {between[1]:+.2f})" if between else ""
        )
        return [f"checked   on {checked['images']}: {checked['psnr_lost']:+.2f} dB lost{interval}"]

    lines = [
        f"checked   on {checked['images']}: top-1 the same in {checked['top1_same']:.2%}, largest difference of a probability "
        f"{checked['largest_difference']:.2g}"
    ]
    if "accuracy_lost" in checked:
        low, high = (100 * end for end in checked["accuracy_lost_ci95"])
        lines.append(
            f"accuracy  {checked['accuracy']:.2%} instead of {checked['accuracy_pytorch']:.2%}: "
            f"{100 * checked['accuracy_lost']:+.2f} points lost (95 % paired interval {low:+.2f} to {high:+.2f})"
        )

    if "any_size" in checked:
        other = checked["any_size"]
        lines.append(
            f"resizing  of {other['size']} inside the graph, {other['num_images']} pictures: top-1 the same in "
            f"{other['top1_same']:.2%}, largest difference {other['largest_difference']:.2g}"
        )

    return lines


def export_run(
    run: RunFolder,
    *,
    format: str = "onnx",
    int8: bool = False,
    fp16: bool = False,
    out: Path | None = None,
    data: str | None = None,
    max_loss: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the model of a run as one file with all preprocessing inside, and check it on real images.

    Args:
        run: a finished run of any task.
        format: "onnx", "torchscript" or "pt2".
        int8: quantise to 8 bits, calibrated on validation images (ONNX only).
        fp16: weights and arithmetic of the network in float16.
        out: the file; by default RUN/exports/NAME with the format's ending.
        data: other images to check on, where the run's own are gone.
        max_loss: how much a quantised model may lose: points of accuracy, or dB; 2 and 0.3 by
            default.
        progress: called as progress(what, done, total).

    Raises:
        UserError: the run has no finished model, a package is missing, the file is there already,
            there are no images to
            check on, or the exported model does not agree; then no file is left.
    """
    _check_request(format, int8, fp16)
    if format == "onnx":
        formats.import_onnx()

    precision = "int8" if int8 else "float16" if fp16 else "float32"
    task, description = load_task(run, "cpu")
    if int8 and isinstance(task, Generate):
        raise UserError(
            "--int8 is for classifiers and for networks that enlarge; a generator keeps its floats. Try --fp16."
        )

    task.dtype = torch.float32  # pyright: ignore[reportAttributeAccessIssue] (every task computes in some)
    target = _target(run, format, precision, out)
    tell = progress or (lambda what, done, total: None)
    stages = "reading images", "writing the graph", "checking its answers", "measuring"
    tell(stages[0], 0, len(stages))
    images, pairs = _images(run, task, description, data)
    tell(stages[1], 1, len(stages))
    about = _about(run, task, description, format, precision)
    _make(target.parent)

    with temporary_folder(target) as folder:
        path = folder / f"model{formats.ENDINGS[format]}"
        network = _for_export(task)
        graph = graph_of(task, Half(network) if fp16 else network, description)
        try:
            images = _write(graph, path, about, format, int8, images, pairs)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write {target}: {reason}. Free some space or choose another --out."
            ) from None
        tell(stages[2], 2, len(stages))
        threads = torch.get_num_threads()
        answer = getattr(formats, f"load_{format}")(path, threads)
        checked = _check(task, images, pairs, answer, description, precision, max_loss)
        tell(stages[3], 3, len(stages))
        ours, theirs = _latencies(task, graph, answer, images, pairs)
        _keep(path, target)

    tell(stages[3], 4, len(stages))
    return Exported(
        target, format, precision, formats.OPSET if format == "onnx" else None, target.stat().st_size,
        (run.path / "model.safetensors").stat().st_size, checked, ours, theirs, threads,
    )  # fmt: skip


def _for_export(task: Task) -> nn.Module:
    """Return a copy of the network; of a classifier with batch norms folded into convolutions,
    which 8 bits need.
    """
    network = task.networks[task.main]
    return (
        for_inference(network, task.spec)
        if isinstance(task, Classify)
        else copy.deepcopy(network).eval()
    )


def _check_request(format: str, int8: bool, fp16: bool) -> None:
    if format not in formats.ENDINGS:
        raise unknown_name("format", format, formats.ENDINGS)
    if int8 and fp16:
        raise UserError("--int8 and --fp16 are two precisions. Give one of them.")
    if int8 and format != "onnx":
        raise UserError(
            f"--int8 is done by ONNX Runtime, and not for {format}. Leave one of the two out."
        )


def _target(run: RunFolder, format: str, precision: str, out: Path | None) -> Path:
    ending = formats.ENDINGS[format]
    kind = "" if precision == "float32" else f"-{precision}"
    target = run.path / "exports" / f"{run.name}{kind}{ending}" if out is None else out
    if target.is_dir():
        target = target / f"{run.name}{kind}{ending}"
    if target.suffix != ending:
        raise UserError(f"--out {target}: a file of {format} ends in {ending}.")

    # a kill after the file got its name leaves the folder that it was made in
    remove_abandoned(target.parent)
    if target.exists():
        raise UserError(
            f"{target} is there already, and nothing is overwritten. Choose another --out."
        )

    return target


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}. Choose another --out."
        ) from None


def _about(
    run: RunFolder, task: Task, description: dict[str, Any], format: str, precision: str
) -> dict[str, Any]:
    """Return what the file says of itself (JSON-ready)."""
    from tintype.version import __version__

    about: dict[str, Any] = {
        "format": FORMAT, "version": __version__, "name": run.name, "task": description["task"], "precision": precision,
        "opset": formats.OPSET if format == "onnx" else None, "class_names": description["class_names"],
        "preprocessing": description["preprocessing"], "recipe": for_others(run.recipe),
    }  # fmt: skip
    for key in ("temperature", "abstain", "typical", "tta", "scale", "latent_shape", "conditional"):
        if key in description:
            about[key] = description[key]
    about.setdefault("abstain", [])
    return about


def _images(
    run: RunFolder, task: Task, description: dict[str, Any], data: str | None
) -> tuple[CheckImages | None, list[tuple[np.ndarray, np.ndarray]]]:
    if isinstance(task, Classify):
        return classified_images(run, description, data), []
    if isinstance(task, Upscale):
        return None, photo_pairs(run, task, description, data)
    return None, []


def _write(
    graph: Graph,
    path: Path,
    about: dict[str, Any],
    format: str,
    int8: bool,
    images: CheckImages | None,
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> CheckImages | None:
    """Write the graph; return the images to check on, less those that a quantised model was
    calibrated on.
    """
    if format != "onnx":
        {"torchscript": formats.write_torchscript, "pt2": formats.write_pt2}[format](
            graph, path, about
        )
        return images

    floats = path.with_name("floats.onnx") if int8 else path
    inside = formats.write_onnx(graph, floats, about)
    if not int8:
        return images

    if images is None:
        quantise(floats, path, inside, ({"images": low[None]} for low, _ in pairs), keep_ends=True)
        return None

    seen = np.zeros(len(images.targets), bool)
    seen[:: max(2, len(seen) // MOST_CALIBRATION)] = True
    rgb = images.rgb()
    quantise(floats, path, inside, ({"images": rgb[i : i + 1]} for i in np.flatnonzero(seen)))
    count = int((~seen).sum())
    words = f"{count:,} validation images, others than the {int(seen.sum()):,} that calibrated it"

    return replace(images, pixels=images.pixels[~seen], targets=images.targets[~seen], words=words)


def _check(
    task: Task,
    images: CheckImages | None,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    answer: formats.Answer,
    description: dict[str, Any],
    precision: str,
    max_loss: float | None,
) -> dict[str, Any]:
    if isinstance(task, Classify) and images is not None:
        loss = (
            (MOST_POINTS if max_loss is None else max_loss) / 100 if precision == "int8" else None
        )
        return checking.check_classifier(
            task, images, answer, resize_of(description), max_loss=loss
        )

    if isinstance(task, Upscale):
        return checking.check_upscaler(
            task, pairs, answer, precision, max_loss=MOST_DB if max_loss is None else max_loss
        )
    assert isinstance(task, Generate)  # graph_of knows no fourth
    return checking.check_generator(task, answer, precision)


def _latencies(
    task: Task,
    graph: Graph,
    answer: formats.Answer,
    images: CheckImages | None,
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float]:
    """Return the milliseconds for one picture: of the exported graph, and of PyTorch on the run's
    own network.
    """
    network = task.networks[task.main]
    if isinstance(task, Classify) and images is not None:
        one = np.ascontiguousarray(images.rgb()[:1])
        pixels = torch.from_numpy(np.ascontiguousarray(images.pixels[:1])).permute(0, 3, 1, 2)
        return checking.latency(lambda: answer({"images": one})), checking.latency(
            lambda: task.probabilities(network, pixels)
        )

    if isinstance(task, Upscale):
        low = pairs[0][0]
        planes = torch.from_numpy(low).permute(2, 0, 1)
        return checking.latency(lambda: answer({"images": low[None]})), checking.latency(
            lambda: task.enlarge(network, planes)
        )

    assert isinstance(task, Generate)
    inputs = {name: value[:1] for name, value in graph.arrays().items()}
    classes = inputs["classes"].tolist() if "classes" in inputs else [0]

    return checking.latency(lambda: answer(inputs)), checking.latency(
        lambda: task.make_images(network, inputs["noise"], classes)
    )


def _keep(path: Path, target: Path) -> None:
    """Give a checked file its name, unless somebody else has taken it meanwhile."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(path, target)  # which never overwrites, as a rename would
    except FileExistsError:
        raise UserError(
            f"{target} is there already, and nothing is overwritten. Choose another --out."
        ) from None
    except OSError:  # a file system without links
        os.replace(path, target)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
