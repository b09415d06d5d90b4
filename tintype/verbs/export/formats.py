"""The three formats: ONNX, TorchScript and torch.export's own; each written with what belongs to
the model, and read back.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from tintype import own_code
from tintype.errors import UserError
from tintype.models.parts import programs
from tintype.tasks.contract.export import Answer, Graph
from tintype.tasks.contract.exported import ABOUT, open_session

ENDINGS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
OPSET = 20  # ONNX Runtime 1.17 (January 2024) and later
LARGEST_ONNX = 2_000_000_000  # bytes: what one protobuf file can hold


def import_onnx() -> Any:
    """Return the onnx package, with all that exporting needs beside it.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UserError(
            f"exporting to ONNX needs {error.name}, which is not installed. Type: "
            "pip install 'tintype[export]'"
        ) from None
    del onnxruntime, onnxscript
    return onnx


def write_onnx(graph: Graph, path: Path, about: dict[str, Any]) -> list[str]:
    """Write an ONNX file of one piece, and return the names of the nodes of the network itself.

    The names are for quantisation, which leaves the resizing alone. What torch notes down for
    debugging, with the paths of this machine, is taken out.

    Raises:
        UserError: a package is not installed, or the file would be too large.
    """
    onnx = import_onnx()
    size = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    if size > LARGEST_ONNX:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB; an ONNX file holds 2. "
            "Try --fp16, or --format pt2."
        )

    with programs.quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            opset_version=OPSET,
            dynamic_shapes=_dynamic(graph),
            dynamo=True,
            verbose=False,
        )

    assert program is not None  # it is, with dynamo
    model = program.model_proto

    inside = []
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(
            "pkg.torch.onnx.name_scopes", ""
        )
        if "'network" in scopes:
            inside.append(node.name)

    _forget_debugging(model)
    _name_sides(model.graph, graph.dynamic)
    model.producer_name, model.producer_version = "tintype", about["version"]
    model.doc_string = f"{about['name']}: {about['task']} by tintype"
    onnx.helper.set_model_props(model, {ABOUT: json.dumps(about, ensure_ascii=False)})
    onnx.save(model, path)

    return inside


def _forget_debugging(model: Any) -> None:
    """Remove the traces of this machine's files, wherever the exporter's version leaves them."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")

    bodies = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        for holder in (body, *body.node, *body.value_info):
            holder.ClearField("metadata_props")
        for node in body.node:
            node.ClearField("doc_string")
            for attribute in node.attribute:
                bodies += [attribute.g] if attribute.HasField("g") else attribute.graphs


def _name_sides(graph: Any, dynamic: dict[str, dict[int, str]]) -> None:
    """Give sides that may change the names that people know, in place of torch's own ("s34")."""
    known = {
        value.type.tensor_type.shape.dim[axis].dim_param: name
        for value in graph.input
        for axis, name in dynamic[value.name].items()
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param in known:
                side.dim_param = known[side.dim_param]


def write_pt2(graph: Graph, path: Path, about: dict[str, Any]) -> None:
    """Write what `torch.export.load` reads; what belongs to the model lies in its extra file
    "tintype". This process may open it.
    """
    with programs.quiet(), torch.no_grad():
        program = torch.export.export(
            graph.module, tuple(graph.inputs.values()), dynamic_shapes=_dynamic(graph)
        )
        content = io.BytesIO()
        torch.export.save(
            program, content, extra_files={ABOUT: json.dumps(about, ensure_ascii=False)}
        )
    own_code.trust_content(content.getbuffer())
    path.write_bytes(content.getbuffer())


def write_torchscript(graph: Graph, path: Path, about: dict[str, Any]) -> None:
    """Write what `torch.jit.load` reads, C++ included; what belongs to the model lies in its extra
    file "tintype". This process may open it.
    """
    with programs.quiet(), torch.no_grad():
        traced = torch.jit.trace(graph.module, tuple(graph.inputs.values()), check_trace=False)
        # In memory first: where a disk is full, torch's own writer ends the whole process.
        content = io.BytesIO()
        torch.jit.save(traced, content, _extra_files={ABOUT: json.dumps(about, ensure_ascii=False)})
    own_code.trust_content(content.getbuffer())
    path.write_bytes(content.getbuffer())


def _dynamic(graph: Graph) -> tuple[dict[int, Any], ...]:
    """Return for each input the sides that may change: torch finds out within which bounds."""
    return tuple(
        dict.fromkeys(graph.dynamic[name], torch.export.Dim.DYNAMIC) for name in graph.inputs
    )


def load_onnx(path: Path, threads: int) -> Answer:
    """Return a function that computes the graph in an ONNX file."""
    session = open_session(path, threads)
    return lambda inputs: session.run(None, inputs)[0]


def load_program(path: Path, threads: int) -> Answer:
    """Return a function that computes a program of torch.export or TorchScript which is trusted."""
    del threads  # torch's own
    program = programs.open_program(path)
    return lambda inputs: program.run(None, inputs)[0]


load_pt2 = load_torchscript = load_program
