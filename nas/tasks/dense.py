"""Common parts of tasks whose outputs are maps: their checks, and their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.base.errors import MismatchError
from search_spaces.program import Shape

AT_ONCE = 2**24
"""Elements of outputs in the size of the targets that are made at once on judging."""


def check_map(networks: str, outputs: Mapping[str, Shape], data: str, channels: int, what: str) -> None:
    """Check that networks give one map of so many channels.

    Args:
        networks: whose outputs they are, for the message.
        outputs: shapes by name, without the batch.
        data: its name.
        channels: that are wanted, at least.
        what: each channel is of, in words.

    Raises:
        MismatchError: they do not.
    """
    shapes = list(outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3:
        given = ", ".join(f"{name} of shape {shape}" for name, shape in outputs.items())
        raise MismatchError(
            f"{networks} give {given}, but data {data!r} is of images and maps: nothing can be trained on it. Choose a "
            "space whose networks give a map, such as `space=mobilenet_v3_lraspp`."
        )
    if shapes[0][0] < channels:
        raise MismatchError(
            f"{networks} give {shapes[0][0]} channels, but data {data!r} has {channels} {what}. Set `space.classes` to "
            "that of the data."
        )


def check_outputs_fit(networks: str, shapes: Sequence[Shape], wanted: Shape, data: str) -> None:
    """Check that networks give one output of a shape.

    Raises:
        MismatchError: they do not.
    """
    if list(shapes) != [wanted]:
        raise MismatchError(
            f"{networks} give outputs of shape {', '.join(map(str, shapes))}, but data {data!r} has targets of shape "
            f"{wanted}. Set the space's resolutions, channels and scale to those of the data."
        )


def upsampled(outputs: Tensor, size: tuple[int, ...]) -> Tensor:
    """Outputs (B, C, h, w) in the size (H, W) of the targets, bilinearly, the centres of pixels corresponding."""
    if tuple(outputs.shape[-2:]) == size:
        return outputs
    return functional.interpolate(outputs, list(size), mode="bilinear", align_corners=False)


def in_parts(outputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (B, C, h, w) in the size of the targets (B, ..., H, W), and these, few at once."""
    size = tuple(targets.shape[-2:])
    count = max(1, AT_ONCE // (outputs.shape[1] * size[0] * size[1]))
    for some, wanted in zip(torch.split(outputs, count), torch.split(targets, count), strict=True):
        yield upsampled(some, size), wanted
