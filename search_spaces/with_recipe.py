"""Architecture and training recipe as one search space.

Dai et al., "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining", CVPR 2021, arXiv:2006.02049.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.architecture import Architecture, Choice, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

Setting = int | float | str | None
"""Value of a setting of a training."""

PREFIX = "recipe."
"""Beginning of the names of choices that are settings of the training."""


class WithRecipe(SearchSpace):
    """The networks of a space, each with settings of its training as further choices, which make no layers.

    Args:
        name: what users call it.
        space: of the networks.
        recipe: setting of the training -> values that it can take, such as ``{"learning_rate": [0.003, 0.01], "ema":
            [None, 0.99]}``.
    """

    def __init__(self, name: str, space: SearchSpace, recipe: Mapping[str, Sequence[Setting]]) -> None:
        if type(space).canonical is not SearchSpace.canonical:
            raise InvalidValueError(
                f"Space {space.name!r} has networks that can be written in several ways; no recipe can be added."
            )
        if not recipe:
            raise InvalidValueError("`recipe` needs a setting or more, such as {'learning_rate': [0.003, 0.01]}.")
        self.origin = space
        self.norm_eps = space.norm_eps
        self._recipe: dict[str, dict[Value, Setting]] = {}
        for setting, values in recipe.items():
            known = {_as_value(value): value for value in values}
            if len(known) < len(values) or not known:
                raise InvalidValueError(f"`recipe.{setting}` needs distinct values, but got {list(values)}.")
            self._recipe[f"{PREFIX}{setting}"] = known
        super().__init__(
            name,
            {"space": space.fingerprint, "recipe": {setting: list(values) for setting, values in recipe.items()}},
            [*space.choices, *(Choice(choice, tuple(values)) for choice, values in self._recipe.items())],
            space.positions,
            inputs=space.inputs,
            outputs=space.outputs,
        )

    @property
    def _stated(self) -> Mapping[str, Any]:
        return {
            "space": self.origin.definition,
            "recipe": {name.removeprefix(PREFIX): list(values.values()) for name, values in self._recipe.items()},
        }

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        return self.origin.layer(position, values)

    def parts(self, architecture: Architecture) -> tuple[Architecture, dict[str, Setting]]:
        """The network alone, as one of the space that was extended, and the settings of its training."""
        count = len(self.origin.choices)
        settings = {
            choice.name.removeprefix(PREFIX): self._recipe[choice.name][choice.values[gene]]
            for choice, gene in zip(self.choices[count:], architecture.genes[count:].tolist(), strict=True)
        }
        return Architecture(self.origin, architecture.genes[:count]), settings


def _as_value(setting: Setting) -> Value:
    """A setting as the value of a choice, which is a whole number or text."""
    return setting if isinstance(setting, int | str) and not isinstance(setting, bool) else str(setting)
