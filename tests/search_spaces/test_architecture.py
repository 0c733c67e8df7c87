import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces import Architecture, Choice, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError


@pytest.mark.parametrize("values", [(), (1, 1), ("a", "b", "a")])
def test_choice_needs_distinct_values(values: tuple[int | str, ...]) -> None:
    with pytest.raises(InvalidValueError, match="depth"):
        Choice("depth", values)


def test_architecture_is_canonical_frozen_and_hashable(tiny_space: MobileNetV3) -> None:
    shallow = np.zeros(len(tiny_space.choices), np.int16)
    other = shallow.copy()
    other[tiny_space.index["expand.1.3"]] = 1  # a gene of a block that is not there
    one, two = Architecture(tiny_space, shallow), Architecture(tiny_space, other)
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    with pytest.raises(ValueError, match="read-only"):
        one.genes[0] = 1
    other[:] = 1
    assert two == one  # the caller's array is not shared
    assert one != tiny_space.biggest and one != "an architecture"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_every_integer_dtype_gives_the_same_architecture(tiny_space: MobileNetV3, dtype: type) -> None:
    genes = tiny_space.biggest.genes
    architecture = Architecture(tiny_space, genes.astype(dtype))
    assert architecture == tiny_space.biggest and hash(architecture) == hash(tiny_space.biggest)
    assert architecture.genes.dtype == np.int16


@pytest.mark.parametrize("gene", [-1, 2, 65536, 2**40])
def test_a_gene_out_of_range_is_refused_before_it_wraps_around(tiny_space: MobileNetV3, gene: int) -> None:
    genes = np.zeros(len(tiny_space.choices), np.int64)
    genes[0] = gene
    with pytest.raises(InvalidValueError, match="'resolution'.*0..1"):
        Architecture(tiny_space, genes)


def test_values_name_only_what_matters(tiny_space: MobileNetV3) -> None:
    assert tiny_space.smallest.values == {"resolution": 8, "depth.1": 1, "kernel.1.1": 3, "expand.1.1": 1}
    assert tiny_space.biggest.values["expand.1.3"] == 2


def test_json_round_trip(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    for genes in tiny_space.sample(20, rng):
        architecture = Architecture(tiny_space, genes)
        text = json.dumps(architecture.to_json())
        assert Architecture.from_json(tiny_space, text) == architecture
        assert Architecture.from_json(tiny_space, json.loads(text)) == architecture


@pytest.mark.parametrize("bad", ["", "{", "[]", "null", "3", '{"choices": []}', b"{}", 3, None, [], {}])
def test_what_is_no_architecture_is_refused(tiny_space: MobileNetV3, bad: object) -> None:
    with pytest.raises(InvalidValueError):
        Architecture.from_json(tiny_space, bad)


def test_another_space_is_refused(tiny_space: MobileNetV3, digits_space: MobileNetV3) -> None:
    with pytest.raises(MismatchError, match="'tiny'.*'mobilenet_v3_digits'"):
        Architecture.from_json(digits_space, tiny_space.smallest.to_json())
    assert tiny_space.smallest != digits_space.smallest


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"depth.1": 9}, "depth.1"),
        ({"depth.1": True}, "depth.1"),  # True == 1, which depth.1 can be
        ({"depth.1": 1.0}, "depth.1"),
        ({"depth.1": "1"}, "depth.1"),
        ({"depth.1": None}, "depth.1"),
        ({"depth.1": [1]}, "depth.1"),
        ({"depth.7": 1}, "depth.7"),
        ({"expand.1.3": 2}, "expand.1.3"),
    ],
)
def test_edited_json_is_refused_and_the_choice_named(
    tiny_space: MobileNetV3, edit: dict[str, object], named: str
) -> None:
    data = tiny_space.smallest.to_json()
    data["choices"] = {**data["choices"], **edit}
    with pytest.raises(InvalidValueError, match=named):
        Architecture.from_json(tiny_space, data)


def test_another_process_writes_the_same_json(digits_space: MobileNetV3) -> None:
    code = (
        "import json, runpy; space = runpy.run_path('tests/conftest.py')['space_of_yaml']('mobilenet_v3_digits');"
        "print(json.dumps(space.biggest.to_json()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert Architecture.from_json(digits_space, done.stdout) == digits_space.biggest
