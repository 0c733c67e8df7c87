import numpy as np
import pytest

from search_spaces import Architecture, SearchSpace
from search_spaces.base.building import build
from search_spaces.base.errors import InvalidValueError
from search_spaces.loading import load_space
from search_spaces.with_recipe import WithRecipe

RECIPE = {"learning_rate": [0.003, 0.01], "ema": [None, 0.9], "epochs": [1, 2, 3]}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("mobilenet_v3_digits")


@pytest.fixture(scope="module")
def both(space: SearchSpace) -> WithRecipe:
    return WithRecipe("both", space, RECIPE)


def test_recipes_multiply_the_networks_and_change_none(space: SearchSpace, both: WithRecipe) -> None:
    assert both.size == 12 * space.size
    for row in both.sample(20, np.random.default_rng(0)):
        architecture = Architecture(both, row)
        network, recipe = both.parts(architecture)
        assert dict(architecture.layers) == dict(network.layers) and network.space is space
        assert architecture.macs == network.macs
        chosen = {name.removeprefix("recipe."): v for name, v in architecture.values.items() if "recipe" in name}
        assert {name: str(value) for name, value in recipe.items()} == {n: str(v) for n, v in chosen.items()}
        assert all(value in RECIPE[name] for name, value in recipe.items())


def test_the_ends_have_the_ends_of_the_recipe(both: WithRecipe) -> None:
    assert both.parts(both.smallest)[1] == {"learning_rate": 0.003, "ema": None, "epochs": 1}
    assert both.parts(both.biggest)[1] == {"learning_rate": 0.01, "ema": 0.9, "epochs": 3}


def test_it_is_made_again_from_its_definition(both: WithRecipe) -> None:
    assert build("space", both.definition, SearchSpace).fingerprint == both.fingerprint


def test_recipes_that_make_no_sense_are_refused(space: SearchSpace) -> None:
    with pytest.raises(InvalidValueError, match="distinct values"):
        WithRecipe("both", space, {"ema": [0.9, 0.9]})
    with pytest.raises(InvalidValueError, match="a setting or more"):
        WithRecipe("both", space, {})
