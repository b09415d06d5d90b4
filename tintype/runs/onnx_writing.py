"""Write a module of torch as an ONNX model, by torch.onnx with what it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tintype.errors import UserError
from tintype.models.parts.programs import quiet

OPSET = 20  # ONNX Runtime 1.17 (January 2024) and later


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


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    dynamic: Mapping[str, Mapping[int, str]],
    *,
    optimize: bool = True,
) -> Any:
    """Return a module as an ONNX model (a protobuf of the onnx package).

    Args:
        module: in eval mode.
        inputs: an example of each, by name.
        output: name of the only output.
        dynamic: which sides of the inputs may change, with their names.
        optimize: whether constants are folded, and batch norms into convolutions.
    """
    free = tuple(dict.fromkeys(dynamic[name], torch.export.Dim.DYNAMIC) for name in inputs)
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
            optimize=optimize,
        )

    assert program is not None  # it is, with dynamo
    model = program.model_proto
    _name_sides(model.graph, dynamic)
    return model


def forget_debugging(model: Any) -> None:
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


def _name_sides(graph: Any, dynamic: Mapping[str, Mapping[int, str]]) -> None:
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
