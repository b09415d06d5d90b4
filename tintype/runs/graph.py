"""The network of a run as a graph, by which a run with the user's own code opens without it.

RUN/graph.onnx holds the operations, and leaves the weights to model.safetensors, by their names in
the state dict: nothing is stored twice, and the graph of a large network is small. The places of
the weights in that file stand in the graph too, as ONNX has them, so that any ONNX Runtime opens
the one beside the other. tintype itself reads them by name, and follows no path that a graph names.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tintype.errors import UserError
from tintype.files.onnx_files import names_left_out, open_session
from tintype.files.whole import written_whole
from tintype.hardware.device import Choice
from tintype.runs import code
from tintype.runs.onnx_writing import forget_debugging, import_onnx, to_onnx

FILE = "graph.onnx"
WEIGHTS = "model.safetensors"
INPUT, OUTPUT = "images", "output"
# In a graph around it, the network is one node of this kind until its own nodes take its place.
DOMAIN, NODE = "tintype", "Network"

MOST_IMAGES = 64  # that a graph is checked on
FURTHEST = 1e-3  # of the largest answer, or of 1: what answers may differ by
LEFT_OUT = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL")  # types of NumPy


class GraphNetwork(nn.Module):
    """A network that computes a graph by ONNX Runtime, on the CPU and in float32.

    It takes normalised images (N, C, H, W), as the network that it stands for, and returns its raw
    output on the device of the images. It has no parameters, layers or gradients.

    Attributes:
        path: of the graph.
        weights: what the graph leaves out, by name.
        answer: shape of the output for one image.
    """

    def __init__(
        self,
        path: Path,
        weights: Mapping[str, np.ndarray],
        image: Sequence[int],
        rows: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Open a graph and try it on a blank image of shape (C, H, W).

        `rows` is the code that the network itself needs, as the run records it.

        Raises:
            UserError: the graph is broken, or is none of a network for such images.
        """
        super().__init__()
        self.path = path
        self.weights = dict(weights)
        self.rows = rows
        self.session = open_session(path, torch.get_num_threads(), self.weights)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.type for each in (*inputs, *outputs)] != ["tensor(float)"] * 2:
            raise self._broken("expected one input and one output in float32")
        self.input = inputs[0].name
        self.answer = tuple(self._computed(np.zeros((1, *image), np.float32)).shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            shape = (images.shape[0], *self.answer)
            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{NODE}", (images,), dtype=torch.float32, shape=shape, version=1
            )
        answers = self._computed(images.detach().float().cpu().contiguous().numpy())
        return torch.from_numpy(answers).to(images.device)

    def expect(self, *answer: int) -> None:
        """Raise where the output for one image has another shape.

        Raises:
            ValueError: it has.
        """
        if self.answer != answer:
            raise ValueError(f"{FILE} answers with shape {self.answer}, expected {answer}")

    def needs_code(self, what: str) -> UserError:
        """Return the error for what a graph cannot do: it says how to name the code."""
        try:
            with code.trusted(self.path.parent, self.rows):
                pass
        except UserError as error:
            return UserError(f"{what} cannot be had from {FILE}. {error}")
        return UserError(f"{what} cannot be had from {FILE}. Open the run again.")

    def _computed(self, images: np.ndarray) -> np.ndarray:
        try:
            answers = self.session.run(None, {self.input: images})[0]
        except Exception as error:  # the runtime's exceptions share no class of their own
            raise self._broken(error) from None
        if not isinstance(answers, np.ndarray) or answers.shape[:1] != images.shape[:1]:
            raise self._broken("it does not give one answer for each image")
        return answers

    def _broken(self, error: object) -> UserError:
        reason = " ".join(str(error).split())[:160]
        return UserError(
            f"{self.path} cannot be computed: {reason}. {_needs(self.path, self.rows)}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphNetwork:
        return self  # which nothing can change


def has_graph(run: Path) -> bool:
    """Return whether a run keeps a graph."""
    return (run / FILE).is_file()


def open_graph(run: Path, image: Sequence[int], rows: Sequence[Mapping[str, str]]) -> GraphNetwork:
    """Return the network of a run by its graph; no code runs.

    Args:
        run: the run folder.
        image: shape (C, H, W) of the images.
        rows: the code that the network itself needs.

    Raises:
        UserError: the graph or the weights are broken.
    """
    from safetensors import SafetensorError

    try:
        weights = _values(run / WEIGHTS, names_left_out(run / FILE))
    except (OSError, ValueError, SafetensorError) as error:
        line = str(error).split("\n")[0]
        raise UserError(f"cannot read the network of {run} ({line}). {_needs(run, rows)}") from None
    return GraphNetwork(run / FILE, weights, image, rows)


def _values(weights: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return tensors of a safetensors file, those of `names` that are there."""
    from safetensors import safe_open

    if not names:
        return {}
    with safe_open(weights, "numpy") as file:
        there = set(names) & set(file.keys())
        return {name: file.get_tensor(name) for name in there}


def _needs(run: Path, rows: Sequence[Mapping[str, str]]) -> str:
    copies = [run / row["copy"] for row in rows if row["copy"] and (run / row["copy"]).is_file()]
    return f"With its code it opens too: --trust {copies[0]}" if copies else ""


# ---- writing -------------------------------------------------------------------------------------


def keep_graph(run: Path, network: nn.Module, images: Tensor) -> Choice:
    """Write the graph of a network into a run folder, beside its weights, where it can be kept.

    It is kept only if it answers as the network does.

    Args:
        run: the run folder, with model.safetensors.
        network: with those weights, in any mode.
        images: normalised (N, C, H, W) float32; some of them are used to check it.
    """
    (run / FILE).unlink(missing_ok=True)  # of a run that was stopped later than here
    images = images[:MOST_IMAGES].cpu()
    # a batch of one would be taken for a fixed size
    images = images if len(images) > 1 else torch.cat([images, images])
    plain = copy.deepcopy(network).cpu().eval().requires_grad_(False)

    try:
        import_onnx()
        # where it fails, torch prints the whole program that it made so far
        with redirect_stderr(io.StringIO()), torch.no_grad(), written_whole(run / FILE) as file:
            _write(plain, images[:2], file, run / WEIGHTS)
            difference = _difference(plain, images, file, run / WEIGHTS)
    except Exception as error:  # whatever stands in the way, the run is finished without it
        reason = f"{_reason(error)}. Opening the run will need its code: --trust FILE"
        return Choice("graph", "none", reason)

    return Choice(
        "graph",
        f"kept in {FILE}",
        f"with which the run opens without its code; on {len(images)} images its answers differ "
        f"from the network's by {difference:.1g} at most",
    )


def _reason(error: BaseException) -> str:
    """Return why there is no graph, in one line; the first cause says the most."""
    exporter = error.__cause__ is not None
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip() or type(error).__name__).split("\n")[0][:160].rstrip(".")
    return f"torch.onnx cannot follow the network ({line})" if exporter else line


def _write(network: nn.Module, images: Tensor, path: Path, weights: Path) -> None:
    # Constants would be folded into the weights, which could then not be left out; ONNX Runtime
    # folds them when it opens the graph.
    model = to_onnx(network, {INPUT: images}, OUTPUT, {INPUT: {0: "batch"}}, optimize=False)
    forget_debugging(model)
    _leave_out(model, weights)
    model.producer_name = "tintype"
    path.write_bytes(model.SerializeToString())


def _leave_out(model: Any, weights: Path) -> None:
    """Take out of a model what the file of weights holds, and say where it is there."""
    onnx = import_onnx()
    begin, places = _places(weights)
    names = {tensor.name for tensor in model.graph.initializer}
    plain = {name for name in names & places.keys() if places[name]["dtype"] in LEFT_OUT}
    stored = _values(weights, plain)

    for tensor in model.graph.initializer:
        if tensor.name not in stored:
            continue
        kept, same = onnx.numpy_helper.to_array(tensor), stored[tensor.name]
        if (kept.dtype, kept.shape) != (same.dtype, same.shape) or not np.array_equal(kept, same):
            continue

        first, last = places[tensor.name]["data_offsets"]
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", weights.name),
            ("offset", begin + first),
            ("length", last - first),
        ):
            tensor.external_data.add(key=key, value=str(value))


def _places(weights: Path) -> tuple[int, dict[str, Any]]:
    """Return where the values of a safetensors file begin, and its header, from our own file."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length, json.loads(file.read(length))


def _difference(network: nn.Module, images: Tensor, path: Path, weights: Path) -> float:
    """Return the largest difference of an answer of the graph from the network's.

    Raises:
        ValueError: it is too large.
    """
    graph = GraphNetwork(path, _values(weights, names_left_out(path)), images.shape[1:])
    expected = network(images)
    # one batch, and one image, since the size of a batch must not be part of the graph
    got = torch.cat([graph(images[:1]), graph(images[1:])])
    if not expected.isfinite().all():
        raise ValueError("some answers of the network are not finite numbers")

    difference = float((got - expected).abs().max())
    if not difference <= FURTHEST * max(1.0, float(expected.abs().max())):
        raise ValueError(f"a graph of it gives other answers (they differ by {difference:.2g})")
    return difference


# ---- a graph inside another one ------------------------------------------------------------------


def put_in_place(model: Any, module: nn.Module, scope: str) -> None:
    """Put the nodes of a run's graph in the place of the nodes that stand for it in a model.

    Args:
        model: of the onnx package, changed in place.
        module: what was written as the model, with a `GraphNetwork` inside; without one, nothing
            is done.
        scope: is noted with each node as its scope in torch, as the exporter does.
    """
    found = [part for part in module.modules() if isinstance(part, GraphNetwork)]
    if not found:
        return
    onnx = import_onnx()
    from onnx import inliner

    network = found[0]
    inner = onnx.load(network.path, load_external_data=False)
    values = {tensor.name: f"network.{tensor.name}" for tensor in inner.graph.initializer}
    for node in inner.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scope)
    function = onnx.helper.make_function(
        DOMAIN,
        NODE,
        [inner.graph.input[0].name, *values],
        [inner.graph.output[0].name],
        list(inner.graph.node),
        list(inner.opset_import),
    )

    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type == NODE:
            node.input.extend(values.values())
    for tensor in inner.graph.initializer:
        if tensor.name in network.weights and tensor.external_data:
            tensor.CopyFrom(onnx.numpy_helper.from_array(network.weights[tensor.name], tensor.name))
        tensor.name = values[tensor.name]
        model.graph.initializer.append(tensor)
    model.functions.append(function)

    inlined = inliner.inline_local_functions(model)
    others = [each for each in inlined.opset_import if each.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(others)
    model.CopyFrom(inlined)
