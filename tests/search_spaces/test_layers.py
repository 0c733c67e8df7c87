import json
from typing import Any

import pytest

from hardware_profiles.backend_contract import check_layer_lowering
from search_spaces import (
    UIB,
    Bottleneck,
    Classifier,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
)
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.layers import largest, make_divisible, size_of
from search_spaces.space_contract import check_layer


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 8), (8, 8), (11.9, 16), (12, 16), (18, 24), (20, 24), (36, 40), (24 // 4, 8), (72 // 4, 24), (120 // 4, 32)],
)
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
    assert make_divisible(value) >= 0.9 * value  # MobileNetV2's rule: 11.9 and 18 go up, not to the nearest


def test_counts_by_hand() -> None:
    stem = Conv(3, 16, 3, 2, "h_swish", 224)
    assert stem.macs == 112 * 112 * 16 * 3 * 9 == 5_419_008
    assert stem.params == 16 * 3 * 9 + 2 * 16 == 464
    assert stem.output_shape == (16, 112, 112)
    assert stem.peak_elements == 3 * 224 * 224 + 16 * 112 * 112

    block = MBConv(16, 24, 64, True, 3, 2, 0, "relu", 112)
    assert block.macs == 112 * 112 * 16 * 64 + 56 * 56 * 64 * 9 + 56 * 56 * 64 * 24 == 19_468_288
    assert block.params == (16 * 64 + 128) + (64 * 9 + 128) + (64 * 24 + 48) == 3_440
    assert block.peak_elements == 64 * 112 * 112 + 64 * 56 * 56

    squeezed = MBConv(40, 40, 120, True, 5, 1, 32, "relu", 28)
    gate = 120 * 32 + 32 * 120
    assert squeezed.macs == 28 * 28 * (40 * 120 + 120 * 25 + 120 * 40) + gate == 9_886_080
    assert squeezed.params == 120 * 40 + 240 + 120 * 25 + 240 + gate + 32 + 120 + 120 * 40 + 80
    assert squeezed.residual and squeezed.output_shape == (40, 28, 28)

    plain = MBConv(16, 16, 16, False, 3, 1, 0, "relu", 112)
    assert plain.macs == 112 * 112 * (16 * 9 + 16 * 16)
    assert plain.params == 16 * 9 + 32 + 16 * 16 + 32

    head = Classifier(960, 1280, 1000, "h_swish", 7)
    assert head.macs == 960 * 1280 + 1280 * 1000
    assert head.params == 961 * 1280 + 1281 * 1000
    assert head.output_shape == (1000,)


def test_counts_of_residual_networks_by_hand() -> None:
    block = Bottleneck(256, 512, 128, True, 2, "relu", 56)
    weights = 256 * 128, 128 * 128 * 9, 128 * 512, 256 * 512
    sizes = 56 * 56, 28 * 28, 28 * 28, 28 * 28
    assert block.macs == sum(w * size for w, size in zip(weights, sizes, strict=True))
    assert block.params == sum(weights) + 2 * (128 + 128 + 512 + 512)
    assert block.output_shape == (512, 28, 28)
    # The input waits for the shortcut; with its pooled copy beside the output more is alive than on the long path.
    assert block.peak_elements == (256 + 512 // 4 + 256 // 4) * 56 * 56

    plain = Bottleneck(256, 256, 64, False, 1, "relu", 56)
    assert plain.params == 2 * 256 * 64 + 64 * 64 * 9 + 2 * (64 + 64 + 256)
    assert plain.peak_elements == (256 + 64 + 256) * 56 * 56

    stem = ResidualConv(32, 3, "relu", 112)
    assert stem.macs == 112 * 112 * 32 * 32 * 9 and stem.params == 32 * 32 * 9 + 64
    assert stem.peak_elements == 2 * 32 * 112 * 112

    pool = MaxPool(64, 3, 2, 113)
    assert (pool.macs, pool.params, pool.output_shape) == (0, 0, (64, 57, 57))

    head = LinearClassifier(2048, 1000, 7)
    assert (head.macs, head.params) == (2048 * 1000, 2049 * 1000)


@pytest.mark.parametrize(
    "layer",
    [
        Conv(3, 16, 3, 2, "h_swish", 15),
        MBConv(8, 8, 24, True, 5, 1, 8, "relu", 7),
        MBConv(8, 8, 8, False, 3, 1, 0, "none", 7),
        Classifier(8, 16, 10, "h_sigmoid", 4),
        LinearClassifier(8, 10, 4),
        ResidualConv(8, 3, "relu", 7),
        MaxPool(8, 3, 2, 7),
        Bottleneck(8, 16, 8, True, 2, "relu", 7),
    ],
)
def test_json_round_trip(layer: Layer) -> None:
    again = Layer.from_json(json.loads(json.dumps(layer.to_json())))
    assert again == layer and hash(again) == hash(layer) and type(again) is type(layer)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "Conv3D"}, UnknownNameError, "'Conv3D'.*MBConv"),
        ({"kind": None}, UnknownNameError, "None"),
        ({"colour": "red"}, InvalidValueError, "colour"),
        ({"size": 0}, InvalidValueError, "size"),
        ({"size": -3}, InvalidValueError, "size"),
        ({"size": "8"}, InvalidValueError, "size"),
        ({"size": 8.0}, InvalidValueError, "size"),
        ({"size": True}, InvalidValueError, "size"),
        ({"size": None}, InvalidValueError, "size"),
        ({"kernel": 4}, InvalidValueError, "kernel must be odd"),
        ({"activation": "swish"}, InvalidValueError, "'swish'"),
        ({"activation": ["relu"]}, InvalidValueError, "activation"),
    ],
)
def test_malformed_layers_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Layer.from_json({**Conv(3, 16, 3, 2, "h_swish", 15).to_json(), **change})


@pytest.mark.parametrize("value", ["٣x٣", "08x012", "8x٣", "8", "8x", "x8", "8x8x8", "-8x8", 0, -3, 8.0, True, 10**12])
def test_what_is_no_image_size_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="An image size is a number such as 192 or"):
        size_of(value)


def test_a_missing_field_and_no_mapping_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="size"):
        Layer.from_json({"kind": "Conv", "in_channels": 1, "out_channels": 1, "kernel": 1, "stride": 1})
    for bad in ([], "Conv", 3, None):
        with pytest.raises(InvalidValueError, match="mapping"):
            Layer.from_json(bad)  # type: ignore[arg-type]


def test_mbconv_without_expansion_keeps_its_channels() -> None:
    with pytest.raises(InvalidValueError, match="hidden"):
        MBConv(8, 8, 16, False, 3, 1, 0, "relu", 8)
    with pytest.raises(InvalidValueError, match="squeeze"):
        MBConv(8, 8, 8, False, 3, 1, -1, "relu", 8)
    with pytest.raises(InvalidValueError, match="expands must be bool"):
        MBConv(8, 8, 8, 1, 3, 1, 0, "relu", 8)  # type: ignore[arg-type]


def test_a_bottleneck_projects_where_the_shape_changes() -> None:
    with pytest.raises(InvalidValueError, match="in_channels = out_channels"):
        Bottleneck(8, 16, 8, False, 1, "relu", 7)
    with pytest.raises(InvalidValueError, match="has stride 1"):
        Bottleneck(8, 8, 8, False, 2, "relu", 7)
    with pytest.raises(InvalidValueError, match="1 or 2"):
        Bottleneck(8, 8, 8, True, 3, "relu", 7)
    with pytest.raises(InvalidValueError, match="projects must be bool"):
        Bottleneck(8, 8, 8, 1, 1, "relu", 7)  # type: ignore[arg-type]


def test_largest_takes_every_size() -> None:
    one, two = MBConv(8, 8, 24, True, 3, 1, 8, "relu", 7), MBConv(8, 8, 16, True, 5, 1, 16, "relu", 5)
    expected = MBConv(8, 8, 24, True, 5, 1, 16, "relu", 7)
    assert largest([one, two]) == largest([two, one]) == {MBConv: expected}
    conv = Conv(3, 8, 3, 1, "relu", 7)
    assert largest([one, conv, two]) == {MBConv: expected, Conv: conv}


def test_counts_of_universal_and_fused_blocks_by_hand() -> None:
    extra = UIB(64, 96, 192, 5, 3, 2, "relu", 28)
    assert extra.macs == 784 * (64 * 25 + 64 * 192) + 196 * (192 * 9 + 192 * 96)
    assert extra.params == 64 * 25 + 64 * 192 + 192 * 9 + 192 * 96 + 2 * (64 + 192 + 192 + 96)
    assert extra.output_shape == (96, 14, 14) and not extra.residual
    convnext = UIB(64, 64, 192, 5, 0, 2, "relu", 28)
    assert convnext.macs == 196 * (64 * 25 + 2 * 64 * 192) and convnext.start_stride == 2
    ffn = UIB(64, 64, 128, 0, 0, 1, "relu", 7)
    assert ffn.macs == 49 * 2 * 64 * 128 and ffn.params == 2 * 64 * 128 + 2 * (128 + 64) and ffn.residual
    inverted, block = UIB(8, 8, 24, 0, 3, 1, "relu", 7), MBConv(8, 8, 24, True, 3, 1, 0, "relu", 7)
    assert (inverted.macs, inverted.params, inverted.peak_elements) == (block.macs, block.params, block.peak_elements)

    fused = FusedMBConv(32, 48, 128, 3, 2, "relu", "none", 112)
    assert fused.macs == 56 * 56 * (32 * 128 * 9 + 128 * 48)
    assert fused.params == 32 * 128 * 9 + 128 * 48 + 2 * (128 + 48)
    assert FusedMBConv(8, 8, 8, 3, 1, "relu", "none", 7).residual
    assert not FusedMBConv(8, 8, 8, 3, 1, "relu", "relu", 7).residual

    head = NormClassifier(960, 1280, 1000, "relu", 7)
    assert head.macs == 960 * 1280 + 1280 * 1000
    assert head.params == 960 * 1280 + 2 * 1280 + 1281 * 1000


def test_counts_of_blocks_in_groups_by_hand() -> None:
    block = FBNetBlock(16, 24, 48, 5, 2, 2, "relu", 32)
    assert block.macs == 1024 * 8 * 48 + 256 * (48 * 25 + 24 * 24)
    assert block.params == 8 * 48 + 48 * 25 + 24 * 24 + 2 * (48 + 48 + 24)
    dense = FBNetBlock(16, 24, 48, 5, 2, 1, "relu", 32)
    assert dense.macs == MBConv(16, 24, 48, True, 5, 2, 0, "relu", 32).macs
    assert dense.params == MBConv(16, 24, 48, True, 5, 2, 0, "relu", 32).params
    with pytest.raises(InvalidValueError, match="groups must divide"):
        FBNetBlock(15, 24, 48, 5, 2, 2, "relu", 32)


@pytest.mark.parametrize(
    "layer",
    [
        *(UIB(8, 16, 24, start, middle, 2, "relu", 9) for start, middle in ((3, 0), (0, 5), (5, 3))),
        *(UIB(8, 8, 24, start, middle, 1, "relu", 9) for start, middle in ((0, 0), (3, 0), (0, 5), (5, 3))),
        *(FusedMBConv(8, 8, 24, 3, 1, "relu", after, 9) for after in ("none", "relu")),  # type: ignore[arg-type]
        FusedMBConv(8, 16, 24, 5, 2, "relu", "none", 9),
        NormClassifier(8, 16, 4, "relu", 5),
        *(FBNetBlock(16, 16, 48, 3, 1, groups, "relu", 9) for groups in (1, 2, 4)),
        FBNetBlock(16, 24, 16, 5, 2, 2, "relu", 9),
    ],
    ids=str,
)
def test_universal_and_grouped_kinds(layer: Layer) -> None:
    check_layer(layer)
    check_layer_lowering(layer)


def test_a_universal_block_with_a_stride_has_a_depthwise_convolution() -> None:
    with pytest.raises(InvalidValueError, match="UIB with a stride"):
        UIB(8, 8, 16, 0, 0, 2, "relu", 8)
    with pytest.raises(InvalidValueError, match="start_kernel must be odd"):
        UIB(8, 8, 16, 4, 0, 2, "relu", 8)
    with pytest.raises(InvalidValueError, match="kernel must be int from 1 to 4,096, but got 0"):
        FusedMBConv(8, 8, 16, 0, 1, "relu", "none", 8)
    with pytest.raises(InvalidValueError, match="out_activation"):
        FusedMBConv(8, 8, 16, 3, 1, "relu", "swish", 8)  # type: ignore[arg-type]


def test_largest_has_both_depthwise_convolutions_and_the_fewest_groups() -> None:
    blocks = [UIB(8, 8, 16, 3, 0, 1, "relu", 8), UIB(8, 8, 24, 0, 5, 1, "relu", 8)]
    assert largest(blocks)[UIB] == UIB(8, 8, 24, 3, 5, 1, "relu", 8)
    grouped = [FBNetBlock(8, 8, hidden, 3, 1, groups, "relu", 8) for hidden, groups in ((8, 2), (24, 1))]
    assert largest(grouped)[FBNetBlock] == FBNetBlock(8, 8, 24, 3, 1, 1, "relu", 8)
