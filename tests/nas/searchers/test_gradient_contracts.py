"""What holds of every searcher that trains on images: all that have a YAML with ``_partial_``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch.nn import functional

import nas
from nas.searchers.differentiable.base import GradientRun, GradientSearch
from nas.supernet import Supernet
from search_spaces import Architecture

FOLDER = Path(nas.__file__).parent / "conf" / "searcher"
METHODS = sorted(path for path in FOLDER.glob("*.yaml") if "_partial_: true" in path.read_text())

Make = Callable[..., GradientSearch]
Planted = Any

SLOWER: dict[str, dict[str, Any]] = {
    "gdas": {"epochs": 16},  # runs one network a step, so each learns less
}
"""Settings of methods that need more than the others."""


@pytest.fixture(params=METHODS, ids=lambda path: path.stem)
def make(request: pytest.FixtureRequest) -> Make:
    """A method with the settings of its YAML, and changes to these."""
    path: Path = request.param
    whole = instantiate(yaml.safe_load(path.read_text()), _convert_="all")

    def build(**changes: Any) -> GradientSearch:
        method = whole(**{**changes, **(SLOWER.get(path.stem, {}) if changes["epochs"] > 4 else {})})
        assert isinstance(method, GradientSearch)
        return method

    return build


def test_there_are_methods() -> None:
    assert {path.stem for path in METHODS} >= {"darts", "dnas", "fbnet", "gdas", "sharpdarts"}


def test_the_planted_optimum_is_the_optimum(planted: Planted) -> None:
    """Networks trained alone: those that see neighbours tell the classes apart, the others guess, and of the former the
    planted one is the fastest. Convolutions of one pixel see what their input does."""
    images, labels = planted.data.train.images, planted.data.train.labels
    held_out = planted.data.validation
    accuracy = np.zeros(len(planted.everything))
    for row in np.flatnonzero((planted.everything != 1).all(1)):
        architecture = Architecture(planted.space, planted.everything[row])
        network = Supernet(planted.space).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for rows in torch.arange(512).split(64) * 6:
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(images[rows], architecture), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            right = network(held_out.images, architecture).argmax(1) == held_out.labels
        accuracy[row] = float(right.float().mean())
    sees = (planted.everything == 2).any(1)
    assert (accuracy[sees & (accuracy > 0)] > 0.85).all() and (accuracy[~sees] < 0.75).all()
    latency = planted.problem().objectives[1].predictor.predict(planted.everything)
    fastest = np.flatnonzero(sees & (latency == latency[sees].min()))
    assert np.array_equal(planted.everything[fastest], planted.best[None])


def test_the_planted_optimum_is_found(planted: Planted, make: Make) -> None:
    run = planted.run(make)
    assert np.array_equal(run.candidates()[0], planted.best), [v.detach().softmax(0) for v in run.logits.values()]


def test_the_latency_limit_is_hit(planted: Planted, make: Make) -> None:
    """2 ms more than the planted network takes."""
    run = planted.run(make, limit=4.0, epochs=4)
    latency = run.problem.objectives[1].predictor.predict(run.candidates())
    assert 0.95 * 4 <= latency[0] <= 4


def test_a_broken_search_ends_as_an_unbroken_one(planted: Planted, make: Make, tmp_path: Path) -> None:
    settings = planted.settings(epochs=4, images=128)
    unbroken = GradientRun(planted.problem(4.0), make(**settings, folder=tmp_path / "unbroken"))
    unbroken.train()
    broken = GradientRun(planted.problem(4.0), make(**settings, folder=tmp_path / "broken"))
    epoch = broken.epoch

    def kill(number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return epoch(number)

    broken.epoch = kill  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = GradientRun(planted.problem(4.0), make(**settings, folder=tmp_path / "broken"))
    resumed.train()
    assert resumed.records == unbroken.records and len(resumed.records) == 4
    assert all(torch.equal(resumed.logits[name], values) for name, values in unbroken.logits.items())
    state = resumed.relaxed.state_dict()
    assert all(torch.equal(state[name], values) for name, values in unbroken.relaxed.state_dict().items())
    assert np.array_equal(resumed.candidates(), unbroken.candidates())


def test_the_seed_decides_and_nothing_else(planted: Planted, make: Make) -> None:
    before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()  # type: ignore[index] # noqa: NPY002
    found = [planted.run(make, epochs=2, images=128, seed=seed) for seed in (5, 5, 6)]
    logits = [torch.cat([values.detach() for values in run.logits.values()]) for run in found]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert np.array_equal(found[0].candidates(), found[1].candidates())
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state(legacy=False)["state"]["key"])  # type: ignore[index] # noqa: NPY002


def test_what_it_asks_for(planted: Planted, make: Make) -> None:
    """Canonical rows, no more than it says; then nothing, so that the search ends."""
    problem = planted.problem(5.0)
    method = make(**planted.settings(epochs=3, images=128))
    state = method.init(problem)
    rng = np.random.default_rng(0)
    rows = method.ask(problem, state, method.batch, rng)
    assert rows.dtype == np.int16 and 0 < len(rows) <= method.batch
    assert np.array_equal(planted.space.canonical(planted.space.validate(rows)), rows)
    state = method.tell(problem, state, rows, problem.evaluate(rows))
    assert len(method.ask(problem, state, method.batch, rng)) == 0
    assert repr(method) == repr(make(**planted.settings(epochs=3, images=128)))
