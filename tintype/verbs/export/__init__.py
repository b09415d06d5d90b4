"""Export a run as one file that other programs compute: ONNX, TorchScript or torch.export, checked
before it is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from tintype.errors import UserError, unknown_name
from tintype.files.bounded import remove_abandoned, temporary_folder
from tintype.files.system import replace
from tintype.progress import Progress
from tintype.runs.folder import RunFolder
from tintype.runs.graph import GraphNetwork
from tintype.runs.onnx_writing import OPSET, import_onnx
from tintype.tasks.contract.agreement import latency
from tintype.tasks.contract.export import Exportable, ExportPart, Graph, Half
from tintype.tasks.contract.exported import FORMAT
from tintype.tasks.restoring import load_task
from tintype.verbs.export import formats
from tintype.verbs.export.quantising import quantise
from tintype.verbs.share.paths import for_others


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: where it is.
        format: "onnx", "torchscript" or "pt2".
        precision: "float32", "float16" or "int8".
        opset: that of ONNX; None for the other formats.
        num_bytes: its size.
        num_bytes_pytorch: that of the run's weights.
        checked: how its answers agree with PyTorch's, in figures of the task.
        latency_ms: milliseconds for one picture.
        latency_ms_pytorch: the same by PyTorch.
        threads: with which both were measured.
        from_graph: whether the run's graph stood for PyTorch, where its network needs the user's
            own code.
        checked_lines: `checked` in words for the terminal.
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
    from_graph: bool = False
    checked_lines: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        values = {**vars(self), "path": str(self.path)}
        del values["checked_lines"]  # which say the same as `checked`
        return values

    def lines(self) -> list[str]:
        """Return what is to be said, a line for each thing."""
        kind = {
            "onnx": f"ONNX, opset {self.opset}",
            "torchscript": "TorchScript",
            "pt2": "torch.export",
        }[self.format]
        runtime = "ONNX Runtime" if self.format == "onnx" else kind
        before = "the run's graph" if self.from_graph else "PyTorch"

        return [
            f"exported  {self.path} ({kind}, {self.precision})",
            *self.checked_lines,
            f"size      {_megabytes(self.num_bytes)}, the run's weights "
            f"{_megabytes(self.num_bytes_pytorch)}",
            f"latency   one picture: {runtime} {self.latency_ms:.3g} ms, {before} "
            f"{self.latency_ms_pytorch:.3g} ms "
            f"({self.threads} thread{'s' if self.threads > 1 else ''})",
        ]


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
    """Write the model of a run as one file with its preprocessing, checked on real images.

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
        import_onnx()

    precision = "float32"
    if int8 or fp16:
        precision = "int8" if int8 else "float16"
    part = cast(ExportPart, run.part("export", "be exported"))
    task, description = load_task(run, "cpu")
    task.dtype = torch.float32  # pyright: ignore[reportAttributeAccessIssue]
    main = task.networks[task.main]
    if isinstance(main, GraphNetwork) and (fp16 or format != "onnx"):
        raise main.needs_code("--fp16" if fp16 else f"--format {format}")
    model = part.Export(run, task, description)
    if int8 and model.refuses_int8:
        raise UserError(model.refuses_int8)

    target = _target(run, format, precision, out)
    report = _Stages(progress)
    report("reading images")
    model.read_images(data)

    report("writing the graph")
    about = _about(run, model, description["task"], format, precision)
    _make(target.parent)
    with temporary_folder(target) as folder:
        path = folder / f"model{formats.ENDINGS[format]}"
        network = model.network()
        graph = model.graph(Half(network) if fp16 else network)
        graph.warm_up()
        try:
            _write(model, graph, path, about, format, int8)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write {target}: {reason}. Free some space or choose another --out."
            ) from None

        report("checking its answers")
        threads = torch.get_num_threads()
        answer = getattr(formats, f"load_{format}")(path, threads)
        checked = model.check(answer, precision, max_loss)

        report("measuring")
        exported_call, pytorch_call = model.timed(answer, graph)
        latency_ms = latency(exported_call)
        latency_ms_pytorch = latency(pytorch_call)
        _keep(path, target)

    report.end()
    return Exported(
        path=target,
        format=format,
        precision=precision,
        opset=OPSET if format == "onnx" else None,
        num_bytes=target.stat().st_size,
        num_bytes_pytorch=(run.path / "model.safetensors").stat().st_size,
        checked=checked,
        latency_ms=latency_ms,
        latency_ms_pytorch=latency_ms_pytorch,
        threads=threads,
        from_graph=isinstance(main, GraphNetwork),
        checked_lines=tuple(model.lines(checked)),
    )


class _Stages:
    """Reports the stages of an export, one after the other."""

    count = 4

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.done = -1
        self.name = ""

    def __call__(self, name: str) -> None:
        """Begin a stage."""
        self.name = name
        self.done += 1
        if self.progress:
            self.progress(name, self.done, self.count)

    def end(self) -> None:
        """End the last stage."""
        self(self.name)


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
    run: RunFolder, model: Exportable[Any], task: str, format: str, precision: str
) -> dict[str, Any]:
    """Return what the file says of itself (JSON-ready)."""
    from tintype.version import __version__

    return {
        "format": FORMAT,
        "version": __version__,
        "name": run.name,
        "task": task,
        "precision": precision,
        "opset": OPSET if format == "onnx" else None,
        "recipe": for_others(run.recipe),
        **model.about(),
    }


def _write(
    model: Exportable[Any], graph: Graph, path: Path, about: dict[str, Any], format: str, int8: bool
) -> None:
    """Write the graph, in 8 bits where that is asked for."""
    if format == "torchscript":
        formats.write_torchscript(graph, path, about)
    elif format == "pt2":
        formats.write_pt2(graph, path, about)
    elif int8:
        floats = path.with_name("floats.onnx")
        inside = formats.write_onnx(graph, floats, about)
        quantise(floats, path, inside, model.calibration(), keep_ends=model.keeps_ends)
    else:
        formats.write_onnx(graph, path, about)


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
        replace(path, target)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
