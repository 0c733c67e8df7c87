import numpy as np
import pytest

from hardware_profiles import Model
from hardware_profiles.quantisation import activation_ranges, quantise_bias, quantise_weight, value_ranges
from search_spaces import Conv
from search_spaces.layers import FBNetBlock, MBConv
from search_spaces.network import OUTPUT
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.program import Shape
from tests.hardware_profiles.networks import network_of


def test_ranges_are_those_of_each_image() -> None:
    model = Model.of_layer(MBConv(4, 8, 16, True, 3, 2, 4, "h_swish", 6))
    images = np.random.default_rng(0).standard_normal((5, *model.input_shape), np.float32)
    ranges = np.array(activation_ranges(model, images))  # (operators, 2)
    single = np.array([activation_ranges(model, image[None]) for image in images])  # (images, operators, 2)
    np.testing.assert_allclose(ranges[:, 0], single[:, :, 0].min(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ranges[:, 1], single[:, :, 1].max(0), rtol=1e-5, atol=1e-6)
    in_batches = value_ranges(model, images, batch=5)
    np.testing.assert_allclose(list(in_batches.values()), ranges, rtol=1e-5, atol=1e-6)
    assert list(in_batches)[-1] == OUTPUT


def test_a_shuffle_has_no_range_of_its_own() -> None:
    grouped, plain = (Model.of_layer(FBNetBlock(8, 8, 16, 3, 1, groups, "relu", 4)) for groups in (2, 1))
    images = np.random.default_rng(0).standard_normal((1, *grouped.input_shape), np.float32)
    assert len(activation_ranges(grouped, images)) == len(activation_ranges(plain, images))


def test_a_range_does_not_hide_what_is_not_a_number() -> None:
    weight, bias = np.ones((2, 1, 1, 1), np.float32), np.array([0.0, np.nan], np.float32)
    model = Model({"layer": Conv(1, 2, 1, 1, "none", 2)}, {"layer.conv.weight": weight, "layer.conv.bias": bias})
    assert np.isnan(activation_ranges(model, np.zeros((2, 1, 2, 2), np.float32))[-1]).all()


def test_rounding_errs_by_half_a_step() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((6, 4, 3, 3), np.float32), rng.standard_normal(6, np.float32)
    integers, scales = quantise_weight(weight, bias, 0.02, axis=0)
    assert integers.dtype == np.int8 and scales.shape == (6,)
    steps = scales[:, None, None, None]
    assert (np.abs(integers * steps - weight) <= steps * 0.5001).all() and np.abs(integers).max() == 127
    sums, sum_scales = quantise_bias(bias, scales, 0.02)
    assert sums.dtype == np.int32
    np.testing.assert_allclose(sum_scales, scales * 0.02, rtol=1e-6)
    assert (np.abs(sums * sum_scales.astype(np.float64) - bias) <= sum_scales * 0.5001).all()


@pytest.mark.parametrize(
    ("norm", "grouped", "first", "over"),
    [
        (LayerNorm("norm", axis=0, eps=0.01), (4, 3, 5), (1,), (1,)),
        (RmsNorm("norm", axis=0, eps=0.01), (4, 3, 5), (1,), (1,)),
        (GroupNorm("norm", 2, eps=0.01), (2, 2, 15), (3,), (2, 3)),
    ],
)
def test_a_norm_has_a_range_for_each_of_its_parts(
    norm: LayerNorm | RmsNorm | GroupNorm, grouped: Shape, first: tuple[int, ...], over: tuple[int, ...]
) -> None:
    weight, bias = np.array([1, 2, 3, 4], np.float32), np.ones(4, np.float32)
    examples = np.random.default_rng(0).standard_normal((6, 4, 3, 5), np.float32)
    x = examples.reshape(6, *grouped)
    per_channel = (1, *grouped[:-1], 1) if len(over) > 1 else (1, 4, 1, 1)
    parts = [x]
    if not isinstance(norm, RmsNorm):
        parts += [x.mean(first), x - x.mean(over, keepdims=True)]
    centred, factors = parts[-1], weight.reshape(per_channel)
    inverse = 1 / np.sqrt((centred**2).mean(over, keepdims=True) + 0.01)
    scaled = centred * inverse * factors
    parts += [centred**2, (centred**2).mean(first), inverse, centred * inverse, scaled]
    if not isinstance(norm, RmsNorm):
        parts.append(scaled + bias.reshape(per_channel))
    weights = {"layer.norm.weight": weight, "layer.norm.bias": bias}
    found = activation_ranges(Model(network_of(norm, (4, 3, 5)), weights), examples)
    np.testing.assert_allclose(found, [(part.min(), part.max()) for part in parts], rtol=1e-4, atol=1e-5)
