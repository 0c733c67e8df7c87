import json
from typing import Any

import pytest

from search_spaces import Classifier, Conv, Layer, MBConv
from search_spaces.errors import InvalidValueError, UnknownNameError
from search_spaces.layers import largest, make_divisible


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


@pytest.mark.parametrize(
    "layer",
    [
        Conv(3, 16, 3, 2, "h_swish", 15),
        MBConv(8, 8, 24, True, 5, 1, 8, "relu", 7),
        MBConv(8, 8, 8, False, 3, 1, 0, "none", 7),
        Classifier(8, 16, 10, "h_sigmoid", 4),
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


def test_largest_takes_every_size() -> None:
    one, two = MBConv(8, 8, 24, True, 3, 1, 8, "relu", 7), MBConv(8, 8, 16, True, 5, 1, 16, "relu", 5)
    assert largest([one, two]) == largest([two, one]) == MBConv(8, 8, 24, True, 5, 1, 16, "relu", 7)
    with pytest.raises(InvalidValueError, match="Conv.*MBConv"):
        largest([one, Conv(3, 8, 3, 1, "relu", 7)])
