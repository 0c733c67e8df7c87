"""BatchNorm as part of other operators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.program import Arrays, Parameter


def norm_parameters(name: str, channels: int) -> tuple[Parameter, ...]:
    """Factor, offset and running statistics of a BatchNorm."""
    shape = (channels,)
    return (
        Parameter(f"{name}.weight", shape, "ones"),
        Parameter(f"{name}.bias", shape, "zeros"),
        Parameter(f"{name}.running_mean", shape, "zeros", trained=False),
        Parameter(f"{name}.running_var", shape, "ones", trained=False),
        Parameter(f"{name}.num_batches_tracked", (), "count", trained=False),
    )


def folded_norm(arrays: Arrays, name: str, eps: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset per channel that a BatchNorm is after training, in float64."""
    weight, bias, mean, variance = (
        arrays[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + eps)
    return scale, bias - mean * scale
