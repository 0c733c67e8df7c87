"""The protocol of augmentations: random changes of the training images, drawn for whole batches.

What is drawn is data, made on the CPU by an explicit generator, so that every process of a training and every part of a
batch can apply its share of it, and a resumed training draws the same. Movements become one affine map per image, so
that one resampling does them all at any resolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nas.tasks.mixing import Mixing
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size

if TYPE_CHECKING:
    from nas.data import Data


Outside = Literal["black", "edge"]
"""Pixels that come into an image that is moved: black ones, or those of its edge, again and again."""


class Recolouring(Protocol):
    """Changes of the pixels of a batch where they are."""

    def of(self, rows: Tensor) -> Recolouring:
        """Changes of some images of the batch."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with other pixels; both in [0, 1]."""


@dataclass(frozen=True)
class Changes:
    """Changes that were drawn for a batch, in the order in which they are made.

    Args:
        count: images of the batch.
        size: their native height and width, one number for squares.
        recolourings: of their pixels.
        movement: affine maps from output to input coordinates, (count, 2, 3), which span -1 to 1; None: they stay.
        mixing: with each other; None: they are not mixed.
        outside: what comes in where they are moved.
    """

    count: int
    size: Size
    recolourings: tuple[Recolouring, ...] = ()
    movement: Tensor | None = None
    mixing: Mixing | None = None
    outside: Outside = "black"

    @property
    def aspect(self) -> float:
        """Height over width."""
        return 1.0 if isinstance(self.size, int) else self.size[0] / self.size[1]

    def moved(self, maps: Tensor) -> Changes:
        """Changes with a movement (count, 2, 3) after those before."""
        return dataclasses.replace(self, movement=maps if self.movement is None else _after(self.movement, maps))

    def recoloured(self, recolouring: Recolouring) -> Changes:
        """Changes with another one of the pixels."""
        return dataclasses.replace(self, recolourings=(*self.recolourings, recolouring))

    def mixed(self, mixing: Mixing, chosen: Tensor) -> Changes:
        """Changes with a mixing of the chosen images, (count,), bool; the others are mixed as before, if at all."""
        before = self.mixing
        if before is None:
            strength = torch.where(chosen, mixing.strength, 0)
            return dataclasses.replace(self, mixing=dataclasses.replace(mixing, strength=strength))
        merged = Mixing(
            torch.where(chosen, mixing.partner, before.partner),
            torch.where(chosen[:, None], mixing.box, before.box),
            torch.where(chosen, mixing.strength, before.strength),
            mixing.blends or before.blends,
        )
        return dataclasses.replace(self, mixing=merged)

    def of(self, rows: Tensor) -> tuple[Tensor, Changes]:
        """Changes of some images of the batch, of which the partners that they are mixed with are part.

        Args:
            rows: numbers of the images.

        Returns:
            Numbers of the images that are needed, those of ``rows`` first, and their changes.
        """
        needed, mixing = rows, None
        if self.mixing is not None:
            needed = torch.cat([rows, self.mixing.partner[rows]])
            mixing = self.mixing.of(rows, len(rows) + torch.arange(len(rows), device=rows.device))
        return needed, dataclasses.replace(
            self,
            count=len(rows),
            recolourings=tuple(one.of(needed) for one in self.recolourings),
            movement=None if self.movement is None else self.movement[needed],
            mixing=mixing,
        )

    def to(self, device: torch.device) -> Changes:
        """The same on a device; recolourings take their numbers there themselves."""
        movement = None if self.movement is None else self.movement.to(device, non_blocking=True)
        return dataclasses.replace(
            self, movement=movement, mixing=None if self.mixing is None else self.mixing.to(device)
        )


class Augmentation(Protocol):
    """Random change of training images. Augmentations are frozen dataclasses; a checkpoint knows their fields."""

    def check(self, data: Data) -> None:
        """Check that it can be made of some data.

        Raises:
            InvalidValueError: says why not.
        """

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        """The changes of a batch with this one after them."""


class ForAll:
    """Part of augmentations that can be made of any data."""

    def check(self, data: Data) -> None:
        return


def check_chance(chance: float) -> None:
    """Refuse what is no share of the images.

    Raises:
        InvalidValueError: it is not in (0, 1].
    """
    if not 0 < chance <= 1:
        raise InvalidValueError(f"`chance` must be in (0, 1], but got {chance}.")


def drawn(augment: Iterable[Augmentation], count: int, size: Size, generator: torch.Generator) -> Changes:
    """Changes of a batch.

    Args:
        augment: what changes it, in this order.
        count: images of the batch.
        size: their native height and width, one number for squares.
        generator: of all draws.
    """
    changes = Changes(count, size)
    for one in augment:
        changes = one.draw(changes, generator)
    return changes


def check_augment(augment: Iterable[Augmentation], data: Data) -> None:
    """Check that augmentations can be made of some data and of its targets.

    Raises:
        InvalidValueError: says which cannot.
    """
    augment = tuple(augment)
    for one in augment:
        one.check(data)
    changes = drawn(augment, 2, data.resolution, torch.Generator().manual_seed(0))
    if changes.mixing is not None:
        _, targets = data.train.take(torch.zeros(2, dtype=torch.int64))
        data.task.mix(targets, targets, changes.mixing)


def recolour(images: Tensor, recolourings: Iterable[Recolouring], black: Tensor, std: Tensor) -> Tensor:
    """Apply changes of pixels to normalised images (B, C, H, W).

    Args:
        images: to change.
        recolourings: in their order.
        black: normalised value of a raw 0, (1, C, 1, 1).
        std: what images were divided by, (1, C, 1, 1).
    """
    recolourings = tuple(recolourings)
    if not recolourings:
        return images
    pixels = as_pixels(images, black, std).clamp(0, 1)
    for one in recolourings:
        pixels = one(pixels)
    return pixels / std + black


def as_pixels(images: Tensor, black: Tensor, std: Tensor) -> Tensor:
    """Raw values of normalised images."""
    return (images - black) * std


def move(images: Tensor, movement: Tensor | None, black: Tensor, outside: Outside = "black") -> Tensor:
    """Apply affine maps (B, 2, 3) to images (B, C, H, W).

    Args:
        images: to move.
        movement: of each; None: they stay.
        black: normalised value of a raw 0, (1, C, 1, 1).
        outside: what comes in.
    """
    if movement is None:
        return images
    grid = functional.affine_grid(movement, list(images.shape), align_corners=False)  # (B, H, W, 2)
    if outside == "edge":
        moved: Tensor = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    else:
        moved = functional.grid_sample(images - black, grid, align_corners=False) + black
    return moved


def scaled(across: Tensor, down: Tensor, right: Tensor, below: Tensor) -> Tensor:
    """Affine maps (B, 2, 3) that scale and shift both axes, given each factor and shift (B,)."""
    none = torch.zeros_like(across)
    return torch.stack([torch.stack([across, none, right], 1), torch.stack([none, down, below], 1)], 1)


def _after(first: Tensor, then: Tensor) -> Tensor:
    """Movement that does one after another: output coordinates go through the later one first."""
    turn = first[:, :, :2] @ then[:, :, :2]
    shift = first[:, :, :2] @ then[:, :, 2:] + first[:, :, 2:]
    return torch.cat([turn, shift], 2)
