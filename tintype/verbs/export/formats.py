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
from tintype.files.onnx_files import LARGEST, open_session
from tintype.models.parts import programs
from tintype.runs.graph import put_in_place
from tintype.runs.onnx_writing import forget_debugging, import_onnx, to_onnx
from tintype.tasks.contract.export import Answer, Graph
from tintype.tasks.contract.exported import ABOUT

NETWORK = "network"  # what modules to export call the network itself
ENDINGS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}


def write_onnx(graph: Graph, path: Path, about: dict[str, Any]) -> list[str]:
    """Write an ONNX file of one piece, and return the names of the nodes of the network itself.

    The names are for quantisation, which leaves the resizing alone. What torch notes down for
    debugging, with the paths of this machine, is taken out.

    Raises:
        UserError: a package is not installed, or the file would be too large.
    """
    onnx = import_onnx()
    size = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    if size > LARGEST:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB; an ONNX file holds 2. "
            "Try --fp16, or --format pt2."
        )

    model = to_onnx(graph.module, graph.inputs, graph.output, graph.dynamic)
    put_in_place(model, graph.module, f"['{NETWORK}']")

    inside = []
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(
            "pkg.torch.onnx.name_scopes", ""
        )
        if f"'{NETWORK}" in scopes:
            inside.append(node.name)

    forget_debugging(model)
    model.producer_name, model.producer_version = "tintype", about["version"]
    model.doc_string = f"{about['name']}: {about['task']} by tintype"
    onnx.helper.set_model_props(model, {ABOUT: json.dumps(about, ensure_ascii=False)})
    onnx.save(model, path)

    return inside


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
