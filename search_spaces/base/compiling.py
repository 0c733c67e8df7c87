"""Functions of tensors that torch compiles, as a whole or not at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch


def compiled(function: Callable[..., Any], threads: int, *, graphs: bool = False) -> Callable[..., Any]:
    """A function of tensors that is compiled on its first call, and once more for inputs of another shape.

    Args:
        function: what to compile; it has no side effects but on tensors.
        threads: of the CPU that it computes with.
        graphs: on a GPU, whether its kernels are recorded as a CUDA graph and then started together. Its outputs, and
            gradients of its parameters, then lie in memory that its next call writes over.
    """

    def forward(*inputs: torch.Tensor) -> Any:
        return function(*inputs)

    # torch keeps what it compiled with the code object, and no more than 8 for each: every function has one of its own.
    forward.__code__ = forward.__code__.replace()
    options: dict[str, Any] = {"cpp.threads": threads, **({"triton.cudagraphs": True} if graphs else {})}
    run: Callable[..., Any] = torch.compile(forward, fullgraph=True, dynamic=False, options=options)
    return run


def why_not_compiled(kind: str) -> str | None:
    """Reason why torch cannot compile for a kind of device, ``cpu``, ``cuda`` or ``mps``, such as ``needs a C++
    compiler``; None: it can."""
    if kind == "cuda":
        return None if importlib.util.find_spec("triton") else "needs Triton for CUDA: pip install triton"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return f"needs a C++ compiler: install g++ or clang++, or let CXX name one ({in_one_line(error)})"
    return None


def in_one_line(error: Exception) -> str:
    """Message of an error of torch or its compiler, which are long, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
