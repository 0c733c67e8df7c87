"""Values that no field of a layer or an operator can have, whatever its kind."""

import dataclasses
import math
from typing import Any

import pytest

import search_spaces.bottlenecks
import search_spaces.concatenation
import search_spaces.darts
import search_spaces.lite_residual
import search_spaces.nasbench201
import search_spaces.reparameterised  # noqa: F401 - kinds of all files
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_yaml
from search_spaces.base.values import hints_of
from search_spaces.layers import MAY_BE_ABSENT, Layer, own_kinds
from search_spaces.loading import FOLDER, load_space
from search_spaces.ops.activation import LeakyRelu
from search_spaces.ops.arithmetic import Scale
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.merging import NormLinear, RepConvolution
from search_spaces.ops.movement import DepthToSpace, Shuffle, SpaceToDepth
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import Pool
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op
from search_spaces.staged import Staged

OPERATIONS = ("skip_connect",) * 6
GOOD: dict[str, Any] = {"kernel": 3, "stride": 1, "groups": 1, "pooling": "max", "operations": OPERATIONS}
"""Values that all kinds take, by field; of other integers 8, of truth values True."""

BAD = (-1, 0, 10**12, 1.5, math.nan, True, "8", None)
"""Values that no whole number of parts can be."""


def example(kind: type[Layer]) -> Layer:
    """A layer of a kind."""
    values = {}
    for field in dataclasses.fields(kind):
        by_name = next((value for name, value in GOOD.items() if field.name.endswith(name)), None)
        is_activation = field.name.endswith("activation")
        other = "relu" if is_activation else hints_of(kind)[field.name] is bool or 8
        values[field.name] = by_name or other
    return kind(**values)


@pytest.mark.parametrize("name", sorted(own_kinds()))
def test_layers_refuse_values_that_make_no_sense(name: str) -> None:
    layer = example(Layer.kinds[name])
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if type(value) is int:
            bad: tuple[Any, ...] = tuple(one for one in BAD if one != 0 or field.name not in MAY_BE_ABSENT)
            bad += (4,) if field.name.endswith("kernel") else ()
        else:
            bad = (1.5, math.nan, None, "no such")
        for one in bad:
            with pytest.raises(InvalidValueError, match=rf"^{name}\.{field.name} must be "):
                dataclasses.replace(layer, **{field.name: one})


OPERATORS = (
    Convolution("a", 8, 3),
    TransposedConvolution("a", 8),
    Linear("a", 8),
    Pool("max", 3, 2),
    Resize("nearest", 2.0),
    Shuffle(2),
    DepthToSpace(2),
    SpaceToDepth(2),
    GroupNorm("a", 2),
    LayerNorm("a"),
    RmsNorm("a"),
    Learned("a", (2, 3)),
    Embedding("a", 3, 2),
    RepConvolution("a", 8),
    NormLinear("a", 8),
    LeakyRelu(0.1),
    Scale(0.5),
)
SIGNED = ("axis", "slope", "factor")
MAY_BE_0 = ("padding", "output_padding")


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: type(op).__name__)
def test_operators_refuse_values_that_make_no_sense(op: Op) -> None:
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        if isinstance(value, bool | str) or field.name == "size":
            bad: list[Any] = [math.nan, 7]
        elif field.name in SIGNED:
            bad = [math.nan, math.inf, "8", None, True]
        else:
            bad = [-1, -0.5, math.nan, math.inf, "8", True, (2, -1)]
            bad += [0] * (field.name not in MAY_BE_0) + [10**12] * (field.name != "eps")
        for one in bad:
            with pytest.raises(InvalidValueError, match=rf"^{type(op).__name__}\.{field.name} must be "):
                dataclasses.replace(op, **{field.name: one})


def test_a_list_in_place_of_a_tuple_is_refused() -> None:
    with pytest.raises(
        InvalidValueError, match=r"Convolution.kernel must be hashable, such as a tuple .* got \[3, 3\]"
    ):
        Convolution("a", 8, [3, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"squeeze": -5}, "`squeeze of MBConv in stage 1` must be a number from 0 to 100, but got -5"),
        ({"squeeze": 200}, "`squeeze of MBConv in stage 1` must be a number from 0 to 100, but got 200"),
        ({"squeeze": [25, 200]}, "`squeeze of MBConv in stage 1` must be .* but got 200"),
        ({"squeeze": math.nan}, "`squeeze of MBConv in stage 1` must be .* but got nan"),
        ({"kernel": 10**12}, "`kernel of MBConv in stage 1` must be int from 1 to 4,096, but got 1000000000000"),
        ({"expand": -6}, "`expand of MBConv in stage 1` must be a number from 0.001 to 10,000, but got -6"),
        ({"expand": math.inf}, "`expand of MBConv in stage 1` must be .* but got inf"),
        ({"depths": [10**9]}, "`depths of stage 1` must be at most 1,024, but got 1000000000"),
    ],
)
def test_options_of_a_stage_refuse_values_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    depths = {"depths": change.pop("depths")} if "depths" in change else {}
    with pytest.raises(InvalidValueError, match=message):
        Staged(
            name="tiny",
            resolutions=[16],
            in_channels=3,
            classes=4,
            stem=[{"kind": "Conv", "channels": 8, "stride": 2, "kernel": 3}],
            stages=[{"channels": 16, "blocks": [{"kind": "MBConv", **change}], **depths}],
            head=[{"kind": "LinearClassifier"}],
        )


BAD_SETTINGS = (-1, 0, 10**12, 1.5, math.nan, math.inf, "8", True, None, [], [-1])
"""Values that no number of channels, stride or depth of a stage can be."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mobilenet_v3_digits", ("channels", "stride", "depths")),
        ("mobilenet_v4_conv_small", ("channels", "stride", "depths")),
        ("ofa_resnet50", ("channels", "stride", "depths")),
        ("fbnet", ("channels", "layers", "stride")),
        ("mobiledets", ("channels", "stride", "depths")),
    ],
)
def test_stages_refuse_values_that_make_no_sense(name: str, settings: tuple[str, ...]) -> None:
    stages = read_yaml(FOLDER / f"{name}.yaml")["stages"]
    for key in settings:
        for one in [*BAD_SETTINGS, [10**12]]:
            if name == "mobiledets" and one == 0 and key == "depths":
                continue  # a stage that keeps the shape may be left out
            with pytest.raises(InvalidValueError):
                load_space(name, stages=[stages[0], {**stages[1], key: one}])


@pytest.mark.parametrize(
    ("name", "key"),
    [("mobilenet_v3_digits", "stem"), ("mobilenet_v3_digits", "last_channels"), ("ofa_resnet50", "stem")],
)
@pytest.mark.parametrize("value", [-1, 0, 10**12])
def test_spaces_refuse_channels_that_make_no_sense(name: str, key: str, value: int) -> None:
    with pytest.raises(InvalidValueError, match=f"`{key}` of space '{name}' must be int from 1 to"):
        load_space(name, **{key: value})
