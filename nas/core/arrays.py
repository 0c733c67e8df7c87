"""NumPy arrays on the host, or tensors on a GPU: what computes with populations is written once and runs on both.

Operations have the names of the array API standard (https://data-apis.org/array-api), which array_api_compat gives
torch. Results are equal to the last bit: operations on elements, minima, maxima, stable sorts and sums of integers do
not depend on where they run, and sums of floats are written out term by term. Random numbers are drawn on the host.

Populations as tensors: Liang et al., "Bridging Evolutionary Multiobjective Optimization and GPU Acceleration via
Tensorization", IEEE Trans. Evol. Comput., 2025, arXiv:2503.20286 (EvoMO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError

Array = Any
"""A NumPy array, or a torch tensor."""

Device = Literal["cpu", "cuda"]
"""Place where a searcher computes: NumPy on the processor, or torch on a GPU."""

CELLS = 2**26
"""Pairs that are compared at a time, of rows with rows: half a GB of numbers."""


def check_device(name: str, device: str) -> None:
    """Refuse a device that does not exist.

    Args:
        name: of the searcher whose setting it is, for the message.
        device: the setting.

    Raises:
        InvalidValueError: it is no `Device`, or there is no GPU.
    """
    if device not in get_args(Device):
        raise InvalidValueError(f"`device` of {name} must be {' or '.join(get_args(Device))}, but got {device!r}.")
    if device == "cuda":
        import torch  # here, as a search in tables needs none

        if not torch.cuda.is_available():
            raise InvalidValueError(f"`device` of {name} is cuda, but torch sees no GPU here; set it to cpu.")


def placed(device: Device, *arrays: NDArray[Any]) -> Sequence[Array]:
    """The arrays, on the device."""
    if device == "cpu":
        return arrays
    import torch

    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]


def on_host(array: Array) -> NDArray[Any]:
    """The same as a NumPy array."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.cpu())


def beside(array: Array, other: NDArray[Any]) -> Array:
    """A host array on the device of another array."""
    return other if isinstance(array, np.ndarray) else namespace(array).asarray(other, device=array.device)


def namespace(array: Array) -> Any:
    """Functions of the array API standard for the array's kind."""
    return array_api_compat.array_namespace(array)


def lexsort(keys: Sequence[Array]) -> Array:
    """Indices (n,) that sort by the last key (n,), ties by the one before it, and so on; as `numpy.lexsort`."""
    if isinstance(keys[0], np.ndarray):
        return np.lexsort(keys)
    xp = namespace(keys[0])
    order = xp.argsort(keys[0], stable=True)
    for key in keys[1:]:
        order = order[xp.argsort(key[order], stable=True)]
    return order


def sum_of_columns(terms: Array) -> Array:
    """Sum over the last axis, one term after the other, so that it is rounded alike everywhere; (..., k) to (...)."""
    total = terms[..., 0]
    for column in range(1, terms.shape[-1]):
        total = total + terms[..., column]
    return total
