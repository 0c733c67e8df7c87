import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from predictors import macs
from predictors.predictor_contract import check_predictor
from predictors.zero_cost import (
    LEAST_EIGENVALUE,
    NO_SIGNAL,
    PERTURBATION,
    PROXIES,
    ProxyFeatures,
    ZeroCost,
    grad_norm,
    jacov,
    naswot,
    snip,
    synflow,
    zen_score,
)
from search_spaces import Architecture, MobileNetV3, NasBench201, SearchSpace
from search_spaces.base.errors import InvalidValueError, MismatchError, UnknownNameError
from search_spaces.nasbench201 import genes_of_string

SPACES = sorted((Path(__file__).parents[2] / "search_spaces" / "space").glob("*.yaml"))
UNCONNECTED = "|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|none~1|none~2|"
CONNECTED = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
SWAPPED = (
    "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
    "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
)
"""One cell, written with its convolution at either of two nodes."""


@pytest.fixture(scope="module")
def cell_space() -> NasBench201:
    return NasBench201(name="cells", in_channels=3, classes=4, resolution=8, channels=4, cells=1)


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 3, 8, 8)), rng.integers(0, 4, 6)


def conv_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Conv2d(5, 4, 3),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
        )


def tensors(batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    return torch.tensor(batch[0], dtype=torch.float32), torch.tensor(batch[1])


def least_jacov(n: int) -> float:
    """Of n gradients that all are equal."""
    k = LEAST_EIGENVALUE
    return -float(np.log(n + k) + 1 / (n + k) + (n - 1) * (np.log(k) + 1 / k))


class Functional(nn.Module):
    """Runs a function of x and of its own modules."""

    def __init__(self, run: object, **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)  # type: ignore[operator,no-any-return]


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_synflow_of_a_chain_is_the_product_of_absolute_weights() -> None:
    rng = np.random.default_rng(0)
    chain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU6(), nn.Linear(2, 5))
    for parameter in chain.parameters():
        parameter.data = torch.tensor(30 * rng.normal(size=parameter.shape), dtype=torch.float32)
    first, second, third = (np.abs(chain[i].weight.detach().double().numpy()) for i in (0, 2, 4))
    flow = (third @ second @ first @ np.ones(3)).sum()  # far beyond ReLU6's 6, without biases
    assert synflow(chain, torch.zeros(2, 3)) == pytest.approx(np.log(3 * flow))  # each of three layers adds it once


def test_synflow_does_not_see_signs_images_nor_batch_norm(batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, _ = tensors(batch)
    network = conv_network()
    score = synflow(network, images)
    assert synflow(network, 7 - images[:2]) == score
    with torch.no_grad():
        network[0].weight.mul_(torch.where(torch.arange(27).reshape(3, 3, 3) % 2 == 0, -1.0, 1.0))
        network[1].running_mean.fill_(3.0)
        network[1].weight.fill_(5.0)
    assert synflow(network, images) == score


def test_synflow_of_a_deep_network_keeps_to_the_range_of_doubles() -> None:
    deep = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(60)))
    for layer in deep:
        layer.weight.data.fill_(1e-3)  # 1e-180 in all, nothing in single precision
    assert synflow(deep, torch.ones(2, 1)) == pytest.approx(np.log(60) + 60 * np.log(1e-3))


@pytest.mark.parametrize("name", PROXIES)
def test_numbers_beyond_floats_are_not_taken_for_a_score(name: str) -> None:
    huge = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10)))
    for layer in huge:
        layer.weight.data.fill_(1e38)
    score = PROXIES[name](nn.Sequential(huge, nn.ReLU(), nn.Linear(4, 4)), torch.rand(3, 4), torch.arange(3))
    independent = name in ("naswot", "zen_score")  # only the signs count, or the weights are drawn anew
    assert np.isfinite(score) == independent


def test_gradient_proxies_of_one_layer_by_hand() -> None:
    rng = np.random.default_rng(0)
    layer = nn.Linear(3, 4)
    x, labels = rng.normal(size=(5, 3)), np.array([0, 3, 1, 1, 2])
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    exponentials = np.exp(x @ weight.T + bias)
    gradient = (exponentials / exponentials.sum(1, keepdims=True) - np.eye(4)[labels]).T @ x / 5
    given = nn.Sequential(layer), torch.tensor(x, dtype=torch.float32), torch.tensor(labels)
    assert grad_norm(*given) == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-5)
    assert snip(*given) == pytest.approx(np.abs(weight * gradient).sum(), rel=1e-5)


CODES = torch.tensor([[1.0, -1, 2, 3], [2, 1, -1, 1], [-1, -1, -2, 5]])
"""Three images of four numbers, of which ReLU passes 1011, 1101 and 0001."""


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish])
def test_naswot_by_hand(activation: type[nn.Module]) -> None:
    kernel = 4 - np.array([[0, 2, 2], [2, 0, 2], [2, 2, 0]])  # less the Hamming distances
    network = nn.Sequential(activation(), nn.Linear(4, 2))
    assert naswot(network, CODES) == pytest.approx(np.log(np.linalg.det(kernel)))


def test_naswot_counts_activations_that_reach_the_output_and_no_others() -> None:
    once = naswot(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), CODES)
    body = nn.Linear(4, 4)

    def with_dead_branch(module: nn.Module, x: Tensor) -> Tensor:
        functional.relu(body(x))
        return functional.relu(x)

    def with_live_branch(module: nn.Module, x: Tensor) -> Tensor:
        return functional.relu(x) + functional.relu(2 * x)

    dead = nn.Sequential(Functional(with_dead_branch, body=body), nn.Linear(4, 2))
    live = nn.Sequential(Functional(with_live_branch), nn.Linear(4, 2))
    assert naswot(dead, CODES) == pytest.approx(once)
    assert naswot(live, CODES) == pytest.approx(once + 3 * np.log(2))  # the same codes twice: 2 K


def test_jacov_by_hand() -> None:
    values = np.linalg.eigvalsh(np.corrcoef((CODES > 0).double().numpy())) + LEAST_EIGENVALUE  # gradients are the codes
    assert jacov(nn.Sequential(nn.ReLU()), CODES) == pytest.approx(-(np.log(values) + 1 / values).sum())


def test_equal_images_have_the_least_naswot_and_jacov(batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, _ = tensors(batch)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
    equal = images[:1].expand(6, -1, -1, -1)
    k, n = LEAST_EIGENVALUE, 6
    assert naswot(network, equal) == pytest.approx(np.log(n * 180) + (n - 1) * np.log(k))
    assert jacov(network, equal) == pytest.approx(least_jacov(n))
    assert naswot(network, images) > naswot(network, equal) and jacov(network, images) > jacov(network, equal)


def test_zen_score_of_a_linear_network_is_the_size_of_its_response() -> None:
    scores = []
    for width in (50, 200):
        network = nn.Sequential(nn.Linear(width, 300), nn.Linear(300, 2))
        scores.append(zen_score(network, torch.zeros(200, width)))
        mean = PERTURBATION * 300 * np.sqrt(width) * np.sqrt(2 / np.pi)  # of 300 |N(0, width)|
        assert scores[-1] == pytest.approx(np.log(mean), abs=0.05)


def test_zen_score_undoes_batch_norm() -> None:
    """Of a linear network with one channel BatchNorm is a division, which the score puts back."""
    first, second, last = nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 3), nn.Flatten()
    without = zen_score(nn.Sequential(first, second, last), torch.zeros(32, 3, 8, 8))
    with_norm = zen_score(nn.Sequential(first, nn.BatchNorm2d(1), second, last), torch.zeros(32, 3, 8, 8))
    assert with_norm == pytest.approx(without, abs=0.01)


def test_zen_score_leaves_out_norms_that_scale_nothing() -> None:
    norm = nn.BatchNorm2d(3)

    def dead_or_constant(module: nn.Module, x: Tensor) -> Tensor:
        norm(100 * x)
        return x + norm(torch.zeros_like(x))

    plain = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    other = nn.Sequential(Functional(dead_or_constant, norm=norm), *plain)
    assert zen_score(other, torch.zeros(8, 3, 8, 8)) == pytest.approx(zen_score(plain, torch.zeros(8, 3, 8, 8)))


# -- rules for all proxies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROXIES)
def test_networks_and_global_random_state_stay(name: str, batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = tensors(batch)
    network = conv_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    given, state = images.clone(), torch.random.get_rng_state()
    score = PROXIES[name](network, images, labels, seed=3)
    assert PROXIES[name](network, images, labels, seed=3) == score
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(images, given)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", PROXIES)
def test_order_of_the_images_is_all_the_same(name: str, batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = tensors(batch)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    score = PROXIES[name](conv_network(), images, labels)
    assert PROXIES[name](conv_network(), images[order], labels[order]) == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("name", PROXIES)
def test_it_keeps_the_contract_of_predictors(name: str, tiny_space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    proxy = ZeroCost(tiny_space, name, rng.normal(size=(6, 1, 8, 8)), rng.integers(0, 3, 6))
    check_predictor(proxy, tiny_space, rng)


@pytest.mark.parametrize("name", PROXIES)
def test_an_unconnected_cell_is_worst(name: str, cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]) -> None:
    connected = [CONNECTED, *SWAPPED, "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"]
    genes = np.stack([genes_of_string(text) for text in (UNCONNECTED, *connected)])
    scores = ZeroCost(cell_space, name, *batch).predict(genes)
    assert (scores[1:] > scores[0]).all()
    known = {"synflow": NO_SIGNAL, "zen_score": NO_SIGNAL, "grad_norm": 0.0, "snip": 0.0, "jacov": least_jacov(6)}
    if name in known:
        assert scores[0] == pytest.approx(known[name])


@pytest.mark.parametrize("name", PROXIES)
def test_scores_follow_from_the_seed_and_from_what_the_network_computes(
    name: str, cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    genes = np.stack([genes_of_string(text) for text in (CONNECTED, *SWAPPED)])
    state = torch.random.get_rng_state()
    scores = ZeroCost(cell_space, name, *batch, seed=1).predict(genes)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # the global state makes no difference
        again = ZeroCost(cell_space, name, *batch, seed=1)
        assert [float(again.predict(row[None])[0]) for row in genes[::-1]] == scores[::-1].tolist()
    assert scores[1] == scores[2]  # one cell written in two ways
    assert not np.isclose(ZeroCost(cell_space, name, *batch, seed=2).predict(genes), scores, rtol=1e-9).any()


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_all_proxies_run_on_all_spaces(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    module, _, kind = settings.pop("_target_").rpartition(".")
    if "resolutions" in settings:
        settings["resolutions"] = [32]
    space: SearchSpace = getattr(importlib.import_module(module), kind)(**settings)
    rng = np.random.default_rng(0)
    images, labels = (
        rng.normal(size=(3, settings["in_channels"], 28, 28)),
        rng.integers(0, settings.get("classes", 2), 3),
    )
    if [len(shape) for shape in space.lower(space.smallest).output_shapes.values()] != [1]:
        with pytest.raises(MismatchError, match="judge networks that give one vector"):
            ZeroCost(space, "naswot", images, labels)
        return
    row = space.smallest.genes[None] if not isinstance(space, NasBench201) else space.biggest.genes[None]
    scores = np.array([ZeroCost(space, name, images, labels).predict(row)[0] for name in PROXIES])
    assert np.isfinite(scores).all() and (np.abs(scores) > 1e-6).all()
    assert (scores[[list(PROXIES).index("synflow"), list(PROXIES).index("zen_score")]] > NO_SIGNAL).all()


# -- the predictor -----------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_is_asked_once_per_architecture(
    cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    seen = []

    def parameters(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
        seen.append((tuple(images.shape), None if labels is None else labels.tolist(), seed))
        return float(sum(p.numel() for p in network.parameters()))

    genes = np.stack([genes_of_string(text) for text in (*SWAPPED, CONNECTED)])
    score = ZeroCost(cell_space, parameters, *batch, seed=5)
    values = np.concatenate([score.predict(genes), score.predict(genes)])
    assert seen == [((6, 3, 8, 8), batch[1].tolist(), 5)] * 2
    assert values[0] == values[1] != values[2] and np.array_equal(values[:3], values[3:])


def test_networks_are_those_of_the_space() -> None:
    """At the architecture's resolution, with the BatchNorm of the space."""
    settings = yaml.safe_load((SPACES[0].parent / "mobilenet_v3_digits.yaml").read_text())
    module, _, kind = settings.pop("_target_").rpartition(".")
    space: SearchSpace = getattr(importlib.import_module(module), kind)(**settings, norm_eps=0.25)
    sizes = []

    def eps(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
        sizes.append(images.shape[-1])
        assert network(images).shape == (2, 10)
        (value,) = {layer.norm_eps for layer in network}
        return value

    genes = np.stack([space.smallest.genes, space.biggest.genes])
    assert ZeroCost(space, eps, np.zeros((2, 1, 16, 16))).predict(genes).tolist() == [0.25, 0.25]
    assert sizes == [12, 24]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(
    value: float, cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    def broken(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
        return value

    with pytest.raises(InvalidValueError, match=f"'broken' must give a finite score, but gives {value}"):
        ZeroCost(cell_space, broken, *batch).predict(cell_space.smallest.genes[None])


def test_bad_input_is_refused(cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = batch
    genes = cell_space.smallest.genes[None]
    with pytest.raises(UnknownNameError, match="'magic'; there are synflow, naswot"):
        ZeroCost(cell_space, "magic", images)
    for wrong in (images[0], images[:1], np.where(images > 2, np.nan, images)):
        with pytest.raises(InvalidValueError, match="two or more finite images"):
            ZeroCost(cell_space, "naswot", wrong)
    for none in (labels[:5], labels[:, None], labels.astype(float)):
        with pytest.raises(InvalidValueError, match="must be 6 integers"):
            ZeroCost(cell_space, "snip", images, none)
    with pytest.raises(MismatchError, match="of 3 channels, but `images` have 1"):
        ZeroCost(cell_space, "naswot", images[:, :1]).predict(genes)
    for name in ("grad_norm", "snip"):
        with pytest.raises(InvalidValueError, match="needs `labels`"):
            ZeroCost(cell_space, name, images).predict(genes)
        with pytest.raises(InvalidValueError, match="0 to 3, but got 0 to 4"):
            ZeroCost(cell_space, name, images, [0, 1, 2, 3, 4, 0]).predict(genes)
    with pytest.raises(InvalidValueError, match="Genes"):
        ZeroCost(cell_space, "synflow", images).predict(genes[:, 1:])


def test_images_are_copied(cell_space: NasBench201, batch: tuple[np.ndarray, np.ndarray]) -> None:
    images = batch[0].astype(np.float32)
    score = ZeroCost(cell_space, "naswot", images)
    images[:] = 0
    genes = Architecture(cell_space, genes_of_string(CONNECTED)).genes[None]
    assert score.predict(genes) == ZeroCost(cell_space, "naswot", batch[0]).predict(genes)


def test_features_are_predictions_side_by_side(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    genes = tiny_space.sample(5, rng)
    proxies = [ZeroCost(tiny_space, "synflow", rng.normal(size=(2, 1, 8, 8))), macs(tiny_space)]
    features = ProxyFeatures(tiny_space, proxies).features(genes)
    assert np.array_equal(features, np.stack([proxy.predict(genes) for proxy in proxies], 1))
    both = ProxyFeatures(tiny_space, proxies, encoded=True).features(genes)
    assert np.array_equal(both, np.concatenate([features, tiny_space.encode(genes)], 1))
    assert ProxyFeatures(tiny_space, []).features(genes).shape == (5, 0)


def test_the_module_needs_torch_only_when_it_is_called() -> None:
    code = "import sys, predictors.zero_cost; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
