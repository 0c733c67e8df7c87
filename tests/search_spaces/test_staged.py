import re
from typing import Any

import numpy as np
import pytest

from search_spaces import Architecture, Conv, FusedMBConv, LinearClassifier, MBConv, Value
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.layers import BlockPlace
from search_spaces.space_contract import check_space
from search_spaces.staged import Staged

TINY: dict[str, Any] = {
    "name": "tiny",
    "resolutions": [8, 12],
    "in_channels": 3,
    "classes": 10,
    "stem": [{"kind": "Conv", "channels": 8, "stride": 2, "kernel": 3}],
    "blocks": [
        {"kind": "MBConv", "kernel": [3, 5], "expand": [3, 6]},
        {"kind": "FusedMBConv", "kernel": [3, 5], "expand": [2, 4]},
    ],
    "stages": [
        {"channels": [8, 16], "stride": 2, "depths": [1, 2]},
        {"channels": 24, "stride": 2, "activation": "h_swish", "blocks": [{"kind": "MBConv", "squeeze": [0, 25]}]},
    ],
    "head": [{"kind": "Conv", "channels": 32, "kernel": 1}, {"kind": "LinearClassifier"}],
}


def network(space: Staged, values: dict[str, Value]) -> dict[str, Any]:
    return dict(space.lower(Architecture(space, space.genes_of(values))))


def test_choices_are_those_of_what_can_be_chosen() -> None:
    space = Staged(**TINY)
    assert [choice.name for choice in space.choices] == [
        "resolution",
        "channels.1",
        "depth.1",
        *("op.1.1", "kernel.1.1", "MBConv.expand.1.1", "FusedMBConv.expand.1.1"),
        *("op.1.2", "kernel.1.2", "MBConv.expand.1.2", "FusedMBConv.expand.1.2"),
        "squeeze.2.1",
    ]
    block = 2 * 2 + 2 * 2  # of each kind, kernels times ratios
    assert space.size == 2 * 2 * (block + block**2) * 2


def test_layers_of_a_network_by_hand() -> None:
    values: dict[str, Value] = {"resolution": 12, "channels.1": 16, "depth.1": 2, "squeeze.2.1": 25}
    values |= {"op.1.1": "FusedMBConv", "kernel.1.1": 5, "FusedMBConv.expand.1.1": 2}
    values |= {"op.1.2": "MBConv", "kernel.1.2": 3, "MBConv.expand.1.2": 6}
    assert network(Staged(**TINY), values) == {
        "stem": Conv(3, 8, 3, 2, "relu", 12),
        "stage1_block1": FusedMBConv(8, 16, 16, 5, 2, "relu", "none", 6),
        "stage1_block2": MBConv(16, 16, 96, True, 3, 1, 0, "relu", 3),
        "stage2_block1": MBConv(16, 24, 96, True, 3, 2, 4, "h_swish", 3, "h_swish"),
        "head1": Conv(24, 32, 1, 1, "relu", 2),
        "head2": LinearClassifier(32, 10, 2),
    }


def test_a_stage_can_choose_once_for_all_its_blocks() -> None:
    space = Staged(**{**TINY, "per_block": False})
    names = ["op.1", "kernel.1", "MBConv.expand.1", "FusedMBConv.expand.1", "squeeze.2"]
    assert [choice.name for choice in space.choices] == ["resolution", "channels.1", "depth.1", *names]
    assert space.size == 2 * 2 * 2 * 8 * 2
    values: dict[str, Value] = {"resolution": 8, "channels.1": 8, "depth.1": 2, "squeeze.2": 0}
    layers = network(space, {**values, "op.1": "FusedMBConv", "kernel.1": 5, "FusedMBConv.expand.1": 4})
    assert layers["stage1_block1"] == FusedMBConv(8, 8, 32, 5, 2, "relu", "none", 4)
    assert layers["stage1_block2"] == FusedMBConv(8, 8, 32, 5, 1, "relu", "none", 2)


def test_one_width_scales_all_channels() -> None:
    stages = [{"channels": 16, "stride": 2}, {"channels": 24, "depths": [1, 2]}]
    space = Staged(**{**TINY, "stages": stages, "widths": [50, 100], "blocks": [{"kind": "MBConv"}]})
    assert space.size == 2 * 2 * 2
    layers = network(space, {"resolution": 8, "width": 50, "depth.2": 1})
    assert [layer.output_shape[0] for layer in layers.values()] == [8, 8, 16, 16, 10]  # 12 is rounded to 16


def test_skipping_blocks_is_a_shallower_stage() -> None:
    stages = [{"channels": 8, "depths": [0, 2], "blocks": [{"kind": "MBConv", "kernel": [3, 5]}, "skip"]}]
    space = Staged(**{**TINY, "resolutions": [8], "stages": stages})
    assert space.choices[1].values == (0, 1, 2)
    assert space.size == 1 + 2 + 4
    assert list(space.lower(space.smallest)) == ["stem", "head1", "head2"]
    stages[0] |= {"channels": 16, "depths": [2]}
    assert Staged(**{**TINY, "stages": stages}).choices[1].values == (1, 2)


@pytest.mark.parametrize("change", [{}, {"per_block": False}, {"blocks": [*TINY["blocks"], "skip"]}])
def test_contract(change: dict[str, Any], rng: np.random.Generator) -> None:
    check_space(Staged(**{**TINY, **change}), rng)


def test_options_of_one_kind_are_told_apart_by_their_names() -> None:
    blocks = [{"kind": "Conv", "name": "plain", "kernel": 3}, {"kind": "Conv", "name": "wide", "kernel": 5}]
    space = Staged(**{**TINY, "stages": [{"channels": 8, "blocks": blocks}]})
    assert space.choices[1].values == ("plain", "wide")
    assert network(space, {"resolution": 8, "op.1.1": "wide"})["stage1_block1"] == Conv(8, 8, 5, 1, "relu", 4)


def test_an_activation_can_be_chosen() -> None:
    blocks = [{"kind": "Conv", "kernel": 3, "activation": ["relu", "h_swish"]}]
    space = Staged(**{**TINY, "stages": [{"channels": 8, "blocks": blocks}]})
    assert network(space, {"resolution": 8, "activation.1.1": "h_swish"})["stage1_block1"].activation == "h_swish"


def test_the_definition_makes_the_space_again() -> None:
    space = Staged(**TINY)
    again = Staged(**{key: value for key, value in space.definition.items() if key != "_target_"})
    assert again.fingerprint == space.fingerprint != Staged(**{**TINY, "activation": "relu6"}).fingerprint


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"blocks": []}, "Stage 1 offers no layer: state `blocks`"),
        ({"wide": 3}, "Stage 1 has no setting 'wide'; it has channels, stride"),
        (
            {"channels": [16, 8]},
            r"`channels of stage 1` must be integers that ascend from 1 or more, but got \[16",
        ),
        ({"channels": []}, "`channels of stage 1` must be integers"),
        ({"channels": 0.5}, "`channels of stage 1` must be integers that ascend from 1 or more, but got 0.5"),
        ({"depths": []}, "`depths of stage 1` must be integers that ascend from 0 or more"),
        (
            {"blocks": [{"kind": "MBConv", "kernel": [5, 3]}]},
            "`kernel of MBConv in stage 1` must be integers",
        ),
        ({"blocks": [{"kind": "MBConv", "kernel": [3, "5"]}]}, "chosen from integers or from names"),
        (
            {"blocks": [{"kind": "MBConv", "activation": ["relu", "rely"]}]},
            "`activation of MBConv in stage 1` must be none or relu",
        ),
        ({"blocks": [{"kind": "EdgeOperation"}]}, "A block is of a layer kind, but 'EdgeOperation' is none"),
        (
            {"blocks": [{"kind": "MBConv", "expand": "six"}]},
            "`expand of MBConv in stage 1` must be a number",
        ),
        (
            {"blocks": [{"kind": "MBConv", "expand": float("inf")}]},
            "`expand of MBConv in stage 1` must be a number from 0.001 to 10,000, but got inf",
        ),
        (
            {"blocks": [{"kind": "MBConv", "expand": float("nan")}]},
            "`expand of MBConv in stage 1` must be .*, but got nan",
        ),
        ({"blocks": [{"kind": "MBConv", "squeeze_of": "hiden"}]}, "must be input or hidden, but got 'hiden'"),
        (
            {"blocks": [{"kind": "MBConv", "name": 3}]},
            "`name` of MBConv in stage 1 must be a word of its own",
        ),
        ({"blocks": [{"kind": "MBConv", "name": "skip"}]}, "must be a word of its own, but got 'skip'"),
        (
            {"blocks": [{"kind": "LinearClassifier"}]},
            r"`channels` of stage 1 is 16, but LinearClassifier gives",
        ),
        (
            {"channels": 8, "stride": 3, "blocks": [{"kind": "FactorizedReduce"}]},
            "`stride` of stage 1 is 3, which makes",
        ),
        ({"per_block": "no"}, "`per_block` of stage 1 must be bool, but got 'no'"),
        ({"activation": ["relu"]}, "`activation` of stage 1 must be none or relu"),
        ({"stride": 0}, "`stride` of stage 1 must be a positive integer, but got 0"),
        ({"depths": [0, 1]}, "Stage 1 changes the shape, so its depth is 1 or more"),
        ({"blocks": [{"kind": "skip"}]}, "`skip` is an option of stage 1 by itself: write `- skip`, without `kind`"),
        ({"blocks": ["MBConv"]}, "is `skip` or a mapping with `kind`, but got 'MBConv'"),
        ({"blocks": [{"kind": "MBConv", "kernels": 3}]}, "has no setting 'kernels'. Did you mean 'kernel'?"),
        ({"blocks": [{"kind": "Conv", "hue": 3}]}, "has no setting 'hue'. It takes kernel, activation"),
        ({"blocks": [{"kind": "MBConv", "squeeze": [0, 0.25]}]}, "state shares in per cent"),
        ({"blocks": [{"kind": "MBConv", "kernel": [3, 4]}]}, "MBConv.kernel must be odd, but got 4"),
        ({"blocks": [{"kind": "MBConv"}] * 2}, "give options of one kind a `name` each"),
        (
            {"blocks": [{"kind": "MBConv"}, {"kind": "MBConv", "name": "b"}]},
            "MBConv is the same as MBConv|b is the same as MBConv where",
        ),
        (
            {"blocks": [{"kind": "Conv"}]},
            r"Conv in stage 1 needs `kernel` \(int\), but got \{.kind.: .Conv.\}\. State one value, or a list",
        ),
        ({"channels": 12, "blocks": [{"kind": "MaxPool", "kernel": 3}]}, "keeps its channels cannot make 12 of 8"),
    ],
)
def test_wrong_stages_are_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Staged(**{**TINY, "stages": [{"channels": 16, "stride": 2, **stage}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolutions": [12, 8]}, "`resolutions` of space .tiny. must have ever more pixels"),
        ({"resolutions": []}, "`resolutions` of space .tiny. must have ever more pixels"),
        ({"stages": []}, "needs at least one stage"),
        ({"norm_eps": 0.0}, "`norm_eps` of space 'tiny' must be positive"),
        ({"norm_eps": float("nan")}, "`norm_eps` of space 'tiny' must be positive"),
        (
            {"head": [{"kind": "LinearClassifier", "channels": [8, 16]}]},
            "`channels` of the head is 8, but LinearClassifier",
        ),
        (
            {"head": [{"kind": "LinearClassifier", "activation": "relu"}]},
            "LinearClassifier in the head has no setting 'activation'. It takes none",
        ),
        ({"head": [{"kind": "LinearClassifier", "stride": 2}]}, "`stride` of the head is 2, which makes"),
        ({"head": [{"kind": "Conv", "kernel": 1, "channels": 16}]}, "The last layer of the head gives .16, "),
        ({"widths": [50, 100]}, "`widths` scales the channels of all stages"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Staged(**{**TINY, **change})


@pytest.mark.parametrize("kind", ["MBCon", ["MBConv", "Conv"], None, 3])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(f"A block is of kind {kind!r}, which is unknown")) as caught:
        Staged(**{**TINY, "blocks": [{"kind": kind}]})
    listed = str(caught.value).partition("there are ")[2].partition(", and your own")[0].split(", ")
    assert {"Conv", "MBConv", "LinearClassifier"} <= set(listed)
    assert not {"Cell201", "NodeConcat", "NodeSum", "EdgeOperation"} & set(listed)


def test_the_first_block_of_a_stage_need_not_add_its_input() -> None:
    first, second = (BlockPlace(8, 8, 1, "relu", 8, block=block) for block in (1, 2))
    assert [MBConv.of_stage(place).residual for place in (first, second)] == [True, True]
    assert [MBConv.of_stage(place, first_adds=False).residual for place in (first, second)] == [False, True]
    assert [FusedMBConv.of_stage(place, first_adds=False).residual for place in (first, second)] == [False, True]
    changes = BlockPlace(8, 16, 1, "relu", 8)
    assert MBConv.of_stage(changes, first_adds=False) == MBConv.of_stage(changes)


def test_squeezed_channels_are_a_share_of_the_input_or_of_the_hidden_ones() -> None:
    place = BlockPlace(40, 40, 1, "h_swish", 8)
    assert MBConv.of_stage(place, squeeze=25).squeeze == 10
    assert MBConv.of_stage(place, squeeze=25, squeeze_of="hidden").squeeze == 64  # 60 to a multiple of 8
    assert MBConv.of_stage(place, expand=1).expands is False


def test_fields_that_came_later_are_left_out_of_json_at_their_defaults() -> None:
    layer = MBConv(8, 8, 48, True, 3, 1, 8, "relu", 8)
    names = ("in_channels", "out_channels", "hidden", "expands", "kernel", "stride", "squeeze", "activation", "size")
    assert tuple(layer.to_json()) == ("kind", *names)
    gated = MBConv(8, 8, 48, True, 3, 1, 8, "relu", 8, gate_activation="relu6")
    assert gated.to_json() == {**layer.to_json(), "gate_activation": "relu6"}
    assert MBConv.from_json(gated.to_json()) == gated != layer
