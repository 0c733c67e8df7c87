"""The Python API: names and objects, one clear error each, and the examples of its docstrings."""

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
import nas.run.api
from hardware_profiles.latency_table import LatencyTable
from nas.run.judged import JudgedPredictor
from nas.run.labelling import known_accuracies
from nas.run.run_folder import digest
from nas.supernet import Supernet
from predictors import Ridge, load, params
from search_spaces.base.folders import locked_folder
from search_spaces.base.storage import RecordLog, read_records
from search_spaces.space import SearchSpace


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return nas.space("mobilenet_v3_digits", resolutions=[12], depths=[1, 2], kernels=[3], expands=[1, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def latency(space: SearchSpace, folder: Path) -> JudgedPredictor:
    return nas.profile(space, "ethos_u55_128", out=folder, networks=8, check_networks=3)


@pytest.fixture(scope="module")
def supernet(space: SearchSpace, folder: Path) -> Supernet:
    return nas.train(space, "digits", out=folder, epochs=1, random_networks=1, batch_size=128)


@pytest.fixture(scope="module")
def accuracy(space: SearchSpace, folder: Path, supernet: Supernet) -> JudgedPredictor:
    small = {"subnets": 14, "held_out": 3, "recalibration_images": 32}
    return nas.accuracy(space, supernet, "digits", out=folder, predictor="ridge", **small)


def energy(values: Any = None, networks: int = 20, **changes: Any) -> JudgedPredictor:
    space = nas.space(SPACE, resolutions=[12])
    genes = space.sample(networks, np.random.default_rng(0))
    values = params(space).predict(genes) / 1e4 if values is None else values
    return nas.fit(space, genes, values, **{"metric": "energy_mj", "unit": "mJ", **changes})


def test_importing_is_cheap() -> None:
    code = "import sys, nas; print([m for m in ('torch', 'numpy', 'hydra') if m in sys.modules]); print(len(dir(nas)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]\n")


def test_every_name_is_there() -> None:
    assert all(getattr(nas, name) for name in nas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spaces'; there are .*space"):
        nas.spaces  # type: ignore[attr-defined]  # noqa: B018


def test_examples() -> None:
    assert doctest.testmod(nas.run.api, extraglobs={"nas": nas}).failed == 0


def test_settings_replace_those_of_the_yaml() -> None:
    assert nas.space("mobilenet_v3_digits", resolutions=[12]).choices[0].values == (12,)
    assert nas.device("host_ort", batch=4).batch == 4
    assert nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).fingerprint != nas.dataset("digits").fingerprint
    assert type(nas.space("search_spaces.NasBench201", name="cell", **NASBENCH)).__name__ == "NasBench201"


SPACE, DEVICE = "mobilenet_v3_digits", "ethos_u55_128"
NASBENCH = {"channels": 4, "cells": 1, "in_channels": 1, "resolution": 8, "classes": 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nas.space("ofa_mobilnet_v3"), "Did you mean 'ofa_mobilenet_v3'"),
        (lambda: nas.space("mobilenet_v3_digits", resolution=[12]), "Did you mean `resolutions`"),
        (lambda: nas.space("mobilenet_v3_digits", resolutions=12), "must be a list of int, but got 12"),
        (lambda: nas.space("nas.data.digits"), "must make SearchSpace"),
        (lambda: nas.device("host"), "Did you mean 'host_ort'"),
        (lambda: nas.device("host_ort", thread=1), "Did you mean 'threads'"),
        (lambda: nas.dataset("digit"), "Did you mean 'digits'"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", budget="2 minutes"), "`budget` must be a time such as 90s"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", network=9), "Did you mean `networks`"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor="lokup"), "Did you mean 'lookup'"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor=3), "A predictor is a name, .*but got 3"),
        (lambda: nas.train(SPACE, "digits", out="x", epoch=1), "Did you mean `epochs`"),
        (lambda: nas.train("fbnet", "digits", out="x"), "has 3 input channels and 1000 classes"),
        (lambda: nas.accuracy(SPACE, "nowhere", "digits", out="x"), "Cannot read nowhere"),
        (lambda: energy([1.0, 2.0]), "a value per network, but got"),
        (lambda: energy(networks=11), "leave 10 networks to fit to, but got 2 of 11"),
        (lambda: energy(predictor="lookup"), "is of layers, which `nas.profile` measures"),
        (lambda: energy(metric="energy mj"), "metric's name is of"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nas.NasError, match=message):
        call()


# -- profile, train, accuracy, fit -------------------------------------------------------------------------------------


def test_a_profile_is_a_predictor_with_its_quality(space: SearchSpace, folder: Path, latency: JudgedPredictor) -> None:
    assert latency.metric.name == "latency_ms" and latency.device is not None and latency.quality.mape < 0.05
    saved = load(folder / "fit" / "ethos_u55_128_latency.npz", space)
    genes = space.sample(5, np.random.default_rng(1))
    assert np.array_equal(latency.predict(genes), saved.predict(genes))  # type: ignore[attr-defined]
    assert latency.predict([space.smallest])[0] == latency.predict(space.smallest.genes[None])[0]
    assert "latency_ms on ethos_u55_128: off by 0." in repr(latency)


def test_a_profile_goes_on_where_it_was(space: SearchSpace, folder: Path, latency: JudgedPredictor) -> None:
    path = folder / "profile" / "ethos_u55_128" / "table.jsonl"
    before = path.read_bytes()
    again = nas.profile(space, latency.device or "", out=folder, networks=8, check_networks=3)
    assert path.read_bytes() == before and len(LatencyTable.read(path)) > 0
    assert again.quality == latency.quality


def test_a_folder_that_is_in_use_or_of_another_space_is_refused(
    space: SearchSpace, folder: Path, latency: JudgedPredictor
) -> None:
    with locked_folder(folder, "nas train"), pytest.raises(nas.NasError, match="is in use by process"):
        nas.profile(space, "ethos_u55_128", out=folder)
    with pytest.raises(nas.NasError, match="holds a run of space 'mobilenet_v3_digits'"):
        nas.profile(SPACE, "ethos_u55_128", out=folder)


def test_a_supernet_is_known_by_what_its_file_holds(space: SearchSpace, folder: Path, supernet: Supernet) -> None:
    path = folder / "train" / "supernet.pt"
    assert supernet.digest == digest(path) == Supernet.load(space, path).digest


def test_accuracies_are_kept(
    space: SearchSpace, folder: Path, accuracy: JudgedPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "label" / "accuracy.jsonl"
    pairs = known_accuracies(space, RecordLog(path, read_records(path)[0]))
    assert len(pairs) == 14 and accuracy.metric.direction == "max"
    monkeypatch.setattr("nas.supernet.SupernetAccuracy.predict", None)  # nothing is evaluated again
    small = {"subnets": 14, "held_out": 3, "recalibration_images": 32}
    again = nas.accuracy(space, folder, "digits", out=folder, predictor=Ridge(), **small)
    assert again.quality == accuracy.quality


def test_pairs_of_ones_own(tmp_path: Path) -> None:
    fitted = energy(networks=60, predictor=Ridge())
    assert fitted.metric == nas.Metric("energy_mj", "mJ") and fitted.quality.mape < 0.1
    fitted.save(tmp_path / "energy.npz")
    assert load(tmp_path / "energy.npz", fitted.space).metric == "energy_mj"  # type: ignore[attr-defined]
    below = energy(np.linspace(-1, 1, 20), predictor="ridge")
    assert np.isfinite(below.predict(below.space.sample(3, np.random.default_rng(0)))).all()
    with pytest.raises(nas.NasError, match="network of space 'mobilenet_v3_digits' is none of space 'fbnet'"):
        nas.fit("fbnet", [nas.space(SPACE).smallest] * 20, np.ones(20), metric="a", unit="b")
