"""BatchNorm as part of other operators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.program import Arrays, Initial, Parameter


def norm_parameters(
    name: str, channels: int, *, of_input: bool = False, factors: Initial = "ones"
) -> tuple[Parameter, ...]:
    """Factor, offset and running statistics of a BatchNorm.

    Args:
        name: of the BatchNorm.
        channels: number of them.
        of_input: whether they are the channels of the operator's input.
        factors: their initial values.
    """
    shape, axis = (channels,), 0 if of_input else None
    return (
        Parameter(f"{name}.weight", shape, factors, input_axis=axis),
        Parameter(f"{name}.bias", shape, "zeros", input_axis=axis),
        Parameter(f"{name}.running_mean", shape, "zeros", trained=False, input_axis=axis),
        Parameter(f"{name}.running_var", shape, "ones", trained=False, input_axis=axis),
        Parameter(f"{name}.num_batches_tracked", (), "count", trained=False),
    )


def folded_norm(arrays: Arrays, name: str, eps: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset per channel that a BatchNorm is after training, in float64."""
    weight, bias, mean, variance = (
        arrays[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + eps)
    return scale, bias - mean * scale
