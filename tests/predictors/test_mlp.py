import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from predictors import load, macs, save
from predictors.mlp import BLOCK, FittedMlp, Mlp, once_for_all_accuracy, pretrained, read_once_for_all
from predictors.regression import Regression
from search_spaces import MobileNetV3
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError
from search_spaces.base.storage import write_arrays

SMALL = Mlp(hidden=(32, 32), members=2, steps=200, batch=32)


def once_for_all_space(name: str = "ofa_mobilenet_v3") -> MobileNetV3:
    settings = yaml.safe_load((Path(__file__).parents[2] / "search_spaces" / "space" / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV3(**settings)


def published(path: Path, seed: int = 0) -> torch.nn.Sequential:
    """Writes a network in the form of once-for-all's file, with random weights."""
    torch.manual_seed(seed)
    sizes = (128, 400, 400, 400, 1)
    layers: list[torch.nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    write_arrays(path, {name: tensor.numpy() for name, tensor in network.state_dict().items()})
    return network


def test_the_published_form_computes_what_torch_computes(tmp_path: Path) -> None:
    network = published(tmp_path / "a.npz")
    x = np.random.default_rng(0).random((2 * BLOCK + 7, 128))
    with torch.no_grad():
        expected = network(torch.tensor(x, dtype=torch.float32))[:, 0].numpy()
    fitted = read_once_for_all(tmp_path / "a.npz")
    assert fitted.predict(x) == pytest.approx(expected, abs=1e-5)
    assert (fitted.spread(x) == 0).all()
    for n in (1, 3, BLOCK, BLOCK + 1):  # bit by bit: how many more are asked for does not matter
        assert np.array_equal(fitted.predict(x[:n]), fitted.predict(x)[:n])
    assert fitted.predict(x[5:]) == pytest.approx(fitted.predict(x)[5:], abs=1e-6)  # of values that sum up to 1e-1


def test_members_scale_features_and_add_biases_each_for_itself() -> None:
    rng = np.random.default_rng(0)
    sizes = (6, 9, 8, 2)
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    weights = tuple(rng.normal(size=(3, a, b)).astype(np.float32) for a, b in pairs)
    biases = tuple(rng.normal(size=(3, 1, b)).astype(np.float32) for _, b in pairs)
    centre, width = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    x = rng.normal(size=(BLOCK + 5, 6))
    y = np.repeat(((x - centre) / width)[None], 3, axis=0)
    for layer in range(3):
        y = y @ weights[layer] + biases[layer]
        y = np.maximum(y, 0) if layer < 2 else y
    fitted = FittedMlp(centre, width, weights, biases)
    assert fitted.outputs(x) == pytest.approx(y, abs=1e-4)
    assert fitted.predict(x) == pytest.approx(y[:, :, 0].mean(0), abs=1e-4)
    assert fitted.spread(x) == pytest.approx(y[:, :, 0].std(0), abs=1e-4)


def test_the_published_predictor_is_a_predictor_with_a_file(tmp_path: Path) -> None:
    published(tmp_path / "a.npz")
    space = once_for_all_space()
    predictor = once_for_all_accuracy(space, file=tmp_path / "a.npz")
    genes = space.sample(20, np.random.default_rng(0))
    mean, std = predictor.predict_with_std(genes)
    assert np.array_equal(mean, predictor.predict(genes)) and (std > 0.002).all() and (std < 0.01).all()
    save(predictor, space, tmp_path / "b.npz")
    again = load(tmp_path / "b.npz", space)
    assert isinstance(again, Regression) and np.array_equal(again.predict(genes), mean)
    with pytest.raises(MismatchError, match="space is 'ofa_proxylessnas'"):
        once_for_all_accuracy(once_for_all_space("ofa_proxylessnas"), file=tmp_path / "a.npz")


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {"x": np.zeros(3)})
    with pytest.raises(DamagedFileError, match="holds no perceptron"):
        read_once_for_all(path)
    weights = {"0.weight": np.zeros((4, 8)), "0.bias": np.zeros(4), "2.weight": np.zeros((1, 5)), "2.bias": np.zeros(1)}
    write_arrays(path, weights)
    with pytest.raises(DamagedFileError, match="do not fit each other"):
        read_once_for_all(path)


def test_predicting_needs_no_torch(tmp_path: Path) -> None:
    published(tmp_path / "a.npz")
    script = (
        "import sys, numpy as np; from pathlib import Path; from predictors.mlp import read_once_for_all;"
        f"read_once_for_all(Path({str(tmp_path / 'a.npz')!r})).predict(np.zeros((3, 128)));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def task(space: MobileNetV3, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    genes = space.sample(n, np.random.default_rng(seed))
    return genes, macs(space).predict(genes) ** 0.7


def error(space: MobileNetV3, mlp: Mlp, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    predictor = Regression(space, mlp, features=("one_hot",), folds=2)
    predictor.fit(*pairs)
    unseen, truth = task(space, 300, 9)
    return float((np.abs(predictor.predict(unseen) - truth) / truth).mean())


def test_what_is_known_for_free_helps_with_few_pairs(digits_space: MobileNetV3) -> None:
    few = task(digits_space, 16, 1)
    plain = error(digits_space, SMALL, few)
    informed = error(digits_space, pretrained(SMALL, digits_space, rows=600), few)
    assert informed < 0.8 * plain


def test_a_related_metric_helps_with_few_pairs(digits_space: MobileNetV3) -> None:
    genes, values = task(digits_space, 300, 2)
    source = Regression(digits_space, SMALL, features=("one_hot",), folds=2)
    source.fit(genes, values * (1 + 0.1 * np.sin(values / values.std())))
    fitted = source.model.fitted
    assert isinstance(fitted, FittedMlp)
    few = task(digits_space, 16, 1)
    before = source.predict(genes)
    assert error(digits_space, replace(SMALL, start=fitted, steps=100), few) < 0.8 * error(digits_space, SMALL, few)
    assert np.array_equal(source.predict(genes), before)  # the source is not changed


def test_further_features_start_without_weight() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (60, 4))
    y = x[:, 0] - x[:, 1]
    source = SMALL.fit(x, y)
    wider = np.column_stack([x, rng.normal(0, 1, 60)])
    mlp = replace(SMALL, start=source, learning_rate=1e-12, weight_decay=0.0, steps=1)
    assert mlp.fit(wider, y).predict(wider) == pytest.approx(source.predict(x), abs=1e-5)
    with pytest.raises(MismatchError, match="reads 4 features, but there are only 3"):
        mlp.fit(x[:, :3], y)
    with pytest.raises(MismatchError, match="reads 4 features, but got 3"):
        source.predict(x[:, :3])


@pytest.mark.parametrize("wrong", [{"hidden": ()}, {"members": 0}, {"steps": 0}, {"learning_rate": 0.0}])
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError, match=f"`{next(iter(wrong))}`"):
        Mlp(**wrong)  # type: ignore[arg-type]
