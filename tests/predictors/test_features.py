from pathlib import Path

import numpy as np
import pytest
import yaml

from predictors import macs, params
from predictors.features import encode
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import MismatchError, UnknownNameError

CONF = Path(__file__).parents[2] / "search_spaces" / "space"


def once_for_all_space(name: str = "ofa_mobilenet_v3", **changes: object) -> MobileNetV3:
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV3(**(settings | changes))


def spec2feats(space: MobileNetV3, genes: Genes) -> list[float]:
    """Once-for-all's own function, for resolutions that it knows."""
    values = {choice.name: choice.values[gene] for choice, gene in zip(space.choices, genes, strict=True)}
    kernels, expands = [0] * 60, [0] * 60
    for block in range(20):
        s, b = block // 4 + 1, block % 4 + 1
        if b <= int(values[f"depth.{s}"]):
            kernels[3 * block + {3: 0, 5: 1, 7: 2}[int(values[f"kernel.{s}.{b}"])]] = 1
            expands[3 * block + {3: 0, 4: 1, 6: 2}[int(values[f"expand.{s}.{b}"])]] = 1
    resolution = [0] * 8
    resolution[(int(values["resolution"]) - 112) // 16] = 1
    return [*kernels, *expands, *resolution]


@pytest.mark.parametrize("name", ["ofa_mobilenet_v3", "ofa_mobilenet_v3_w1.2"])
def test_once_for_all_features_are_those_of_its_own_code(name: str) -> None:
    space = once_for_all_space(name, resolutions=[128, 160, 224])
    genes = space.sample(50, np.random.default_rng(0))
    expected = [spec2feats(space, row) for row in genes]
    features = encode(space, genes, ("once_for_all",))
    assert np.array_equal(features, expected)
    assert features.dtype == np.float32  # half as much to move, and exact


def test_a_resolution_between_two_steps_is_a_mixture_of_both() -> None:
    space = once_for_all_space()
    genes = np.repeat(space.smallest.genes[None], 3, 0)
    genes[:, space.index["resolution"]] = [0, 1, 24]  # 128, 132, 224
    tail = encode(space, genes, ("once_for_all",))[:, 120:]
    assert tail.tolist() == [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0.75, 0.25, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (lambda: once_for_all_space("ofa_proxylessnas"), "has other choices"),
        (lambda: once_for_all_space(kernels=[3, 5, 9]), r"know \(3, 5, 7\)"),
        (lambda: once_for_all_space(resolutions=[96, 128]), "112 to 224"),
        (lambda: once_for_all_space(resolutions=[128, "128x160"]), "know square images, but .* has 128x160"),
    ],
)
def test_other_spaces_have_no_once_for_all_features(space: object, message: str) -> None:
    made: MobileNetV3 = space()  # type: ignore[operator]
    with pytest.raises(MismatchError, match=message):
        encode(made, made.smallest.genes[None], ("once_for_all",))


def test_columns_stand_side_by_side(space: MobileNetV3) -> None:
    genes = space.sample(20, np.random.default_rng(0))
    both = encode(space, genes, ("statistics", "one_hot"))
    assert np.array_equal(both[:, 3:], space.encode(genes))
    assert np.allclose(np.expm1(both[:, 0]), macs(space).predict(genes))
    assert np.allclose(np.expm1(both[:, 1]), params(space).predict(genes))
    layers = [len(space.lower(architecture)) for architecture in map(space_architecture(space), genes)]
    assert np.allclose(np.expm1(both[:, 2]), layers)
    for wrong in ((), ("one_hot", "colours")):
        with pytest.raises(UnknownNameError, match="Features are one or more of"):
            encode(space, genes, wrong)


def space_architecture(space: MobileNetV3):  # type: ignore[no-untyped-def]
    from search_spaces import Architecture

    return lambda genes: Architecture(space, genes)
