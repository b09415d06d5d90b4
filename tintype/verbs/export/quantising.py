"""Eight-bit integers in place of floats: static quantisation by ONNX Runtime, calibrated on real
images.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tintype.errors import UserError

# The range of an activation: the moving average of what each image shows.
AVERAGING = {"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.05}


def quantise(
    source: Path,
    target: Path,
    inside: list[str],
    examples: Iterator[dict[str, np.ndarray]],
    *,
    keep_ends: bool = False,
) -> None:
    """Write an ONNX model with some layers in 8 bits.

    Weights have a scale for each channel, activations one by what the examples show.

    The range of weights is 7 bits, because processors without VNNI add 8-bit products with
    saturation. The range of an activation is the moving average of what each image shows: on
    MobileNetV2 one percent more accurate than the extremes of all, and without the gigabytes that
    percentiles take.

    Args:
        source: the model in float32.
        target: where the new one is written.
        inside: names of the nodes that belong to the network; what stands around it stays as it is.
        examples: inputs of the graph, as they will come.
        keep_ends: leave the first and the last layer in floats, as pictures that are made need.

    Raises:
        UserError: there is no layer that can be quantised.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Examples(CalibrationDataReader):
        def get_next(  # pyright: ignore[reportIncompatibleMethodOverride]
            self,
        ) -> dict[str, np.ndarray] | None:
            return next(examples, None)

    nodes = {node.name: node.op_type for node in onnx.load(source).graph.node}
    layers = [name for name in inside if nodes.get(name) in ("Conv", "Gemm", "MatMul")]
    layers = layers[1:-1] if keep_ends else layers
    if not layers:
        raise UserError("the network has no layer that --int8 could make smaller. Leave it out.")

    chosen = layers if keep_ends else inside
    logger = logging.getLogger()
    level = logger.level
    try:
        # it advises on the root logger to preprocess what is preprocessed already
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_static(
                source,
                target,
                Examples(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                nodes_to_quantize=chosen,
                extra_options={} if keep_ends else AVERAGING,
            )
    finally:
        logger.setLevel(level)
