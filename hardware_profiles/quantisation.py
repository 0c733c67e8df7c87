"""Real numbers as 8-bit integers, for every int8 format that a network is written in.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
arXiv:1712.05877: activations have a scale and a zero point from the range that they take over example images; weights
are symmetric, with a scale per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hardware_profiles.model import Batch, Model
from hardware_profiles.onnx_graph import cpu_session, onnx_and_results
from search_spaces.base.errors import InvalidValueError

Range = tuple[float, float]
"""Lowest and highest value."""


@dataclass(frozen=True)
class Quantisation:
    """Real value = scale * (int8 value - zero point)."""

    scale: float
    zero_point: int

    @staticmethod
    def of_range(low: float, high: float) -> Quantisation:
        """The int8 steps that span [low, high], widened to contain 0 so that padding is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not np.isfinite(high - low):
            raise InvalidValueError(f"An activation's range must be finite, but got {low} to {high}.")
        scale = (high - low) / 255 or DEFAULT_QUANTISATION.scale
        return Quantisation(scale, round(-128 - low / scale))


DEFAULT_QUANTISATION = Quantisation(0.05, 0)
"""Quantisation of activations without a known range: -6.4 to 6.35."""


def quantise_weight(
    weight: NDArray[np.float32], bias: NDArray[np.float32], input_scale: float, axis: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 in -127..127 and the scales: one per index of `axis`, or a single one where it is None.

    Raises:
        InvalidValueError: a weight or bias is not finite.
    """
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InvalidValueError(
            "A weight to quantise must be finite, but got NaN or infinity; train the network again."
        )
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(others)  # (channels,) or ()
    largest_bias = np.abs(bias) if axis is not None else np.abs(bias).max()
    # A channel of almost-zero weights takes a coarser scale, such that its bias still fits int32.
    steps = np.maximum(largest / 127, largest_bias / (input_scale * 2.0**30))
    scales = np.atleast_1d(np.where(steps > 0, steps, 1.0)).astype(np.float32)
    broadcast = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(np.rint(weight / broadcast), -127, 127).astype(np.int8), scales


def quantise_bias(
    bias: NDArray[np.float32], weight_scales: NDArray[np.float32], input_scale: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 and the scales: a product of int8 input and weight has this scale, and the bias is added to their sum."""
    scales = (weight_scales.astype(np.float64) * input_scale).astype(np.float32)
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32), scales


def activation_ranges(model: Model, images: Batch) -> list[Range]:
    """Range of each float32 input, and of the output of each operator that does not only move values (`Op.moves`), over
    examples; of a norm first those of its parts (`hardware_profiles.onnx_graph.onnx_parts`).

    A few hundred images of the training set do; they must be normalised as in training.

    Args:
        model: with trained weights.
        images: (N, *shape); of several inputs by name.
    """
    return list(value_ranges(model, images).values())


def value_ranges(model: Model, images: Batch, batch: int = 1) -> dict[str, Range]:
    """Ranges of `activation_ranges`, by name of the value in the graphs of `onnx_and_results`.

    Args:
        model: with trained weights.
        images: (N, *shape) with N a multiple of the batch; of several inputs by name.
        batch: images per run.
    """
    examples = dict(zip(model.network.inputs, model.inputs(images), strict=True))
    count = len(next(iter(examples.values())))
    if not count or count % batch or any(len(array) != count for array in examples.values()):
        counts = ", ".join(f"{name}: {len(array)}" for name, array in examples.items())
        raise InvalidValueError(
            f"Ranges need a multiple of {batch} examples, equally many of each input, not {counts}."
        )
    proto, names, beside = onnx_and_results(model, batch)
    computed = [name for name in names if name not in examples]
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    there = {tensor.name for tensor in proto.graph.initializer}
    watched.graph.node.extend(beside.nodes)
    watched.graph.initializer.extend(tensor for tensor in beside.weights if tensor.name not in there)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in computed)
    session = cpu_session(watched.SerializeToString())
    ranges: dict[str, Range] = {}
    for i in range(0, count, batch):
        part = {name: np.ascontiguousarray(array[i : i + batch]) for name, array in examples.items()}
        results = session.run(computed, part) if computed else []
        values = part | dict(zip(computed, results, strict=True))
        for name in names:
            low, high = ranges.get(name, (np.inf, -np.inf))
            # np.minimum, because min() would pass over a NaN.
            ranges[name] = float(np.minimum(low, values[name].min())), float(np.maximum(high, values[name].max()))
    return ranges
