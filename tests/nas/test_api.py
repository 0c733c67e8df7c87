"""The Python API: names and objects, one clear error each, and the examples of its docstrings."""

import dataclasses
import doctest
import importlib
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest

import nas
import nas.run.api
import nas.run.opened
from hardware_profiles.latency_table import LatencyTable
from nas.run.judged import JudgedPredictor
from nas.run.labelling import known_accuracies
from nas.run.networks import distinct_networks
from nas.run.records import RecalibrationCost
from nas.run.run_folder import claim_folder, digest, generator
from nas.searchers.auto import Auto
from nas.searchers.nsga2 import NSGA2
from nas.supernet import Supernet
from nas.supernet.samplers import Sandwich
from predictors import Predictor, Regression, Ridge, load, macs, params, save
from predictors.base import metric_of
from search_spaces.base.folders import locked_folder
from search_spaces.base.storage import RecordLog, read_arrays, read_json, read_records, write_arrays, write_json
from search_spaces.space import SearchSpace
from tests.nas.conftest import has_vela


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return nas.space("mobilenet_v3_digits", resolutions=[12], depths=[1, 2], kernels=[3], expands=[1, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def vela() -> None:
    """What estimates the times of `ethos_u55_128`."""
    if not has_vela():
        pytest.skip("needs ethos-u-vela")


@pytest.fixture(scope="module")
def latency(space: SearchSpace, folder: Path, vela: None) -> JudgedPredictor:
    return nas.profile(space, "ethos_u55_128", out=folder, networks=8, check_networks=3)


@pytest.fixture(scope="module")
def supernet(space: SearchSpace, folder: Path) -> Supernet:
    return nas.train(space, "digits", out=folder, epochs=1, sampler=Sandwich(1), batch_size=128)


@pytest.fixture(scope="module")
def accuracy(space: SearchSpace, folder: Path, supernet: Supernet) -> JudgedPredictor:
    small = {"subnets": 14, "held_out": 3, "recalibration_images": 32}
    return nas.accuracy(space, supernet, "digits", out=folder, predictor="ridge", **small)


def energy(values: Any = None, networks: int = 20, **changes: Any) -> JudgedPredictor:
    space = nas.space(SPACE, resolutions=[12])
    genes = space.sample(networks, np.random.default_rng(0))
    values = params(space).predict(genes) / 1e4 if values is None else values
    return nas.fit(space, genes, values, **{"metric": "energy_mj", "unit": "mJ", **changes})


def quick_front() -> nas.Front:
    return nas.search(nas.space(SPACE, resolutions=[12]), ["macs"], searcher="random", evaluations=5)


def test_numbers_of_numpy_are_numbers() -> None:
    space = nas.space(SPACE, resolutions=[12])
    limits = {"params": np.float64(60000), "macs": np.int64(10**6)}
    front = nas.search(space, ["macs"], limits=limits, seed=np.int64(1), searcher="random", evaluations=np.int32(50))
    assert front.choose(params=np.float32(60000)).row == 0


def test_networks_are_told_in_a_line_each() -> None:
    front = nas.search(nas.space(SPACE, resolutions=[12]), ["macs", "params"], searcher="random", evaluations=300)
    assert repr(front[0]).startswith(f"FoundNetwork(network 1 of {len(front)} (front[0]): macs ")
    words = str(front)
    assert words.startswith(repr(front)) and "no. 1 is front[0]" in words and words.count("knee") == 1
    assert f"\n    1   {front.values[0, 0]:,.0f}   " in words.replace("◆", " ")
    assert repr(nas.device("host_ort")) == "DeviceProfile(host_ort: This computer, ONNX Runtime, 1 thread)"
    small = nas.space(SPACE, resolutions=[12], depths=[1])
    assert re.fullmatch(r"Supernet\(of mobilenet_v3_digits, [\d,]+ shared weights\)", repr(Supernet(small)))


def test_a_single_network_is_predicted_and_knows_its_size() -> None:
    fitted = energy()
    biggest = fitted.space.biggest
    assert fitted.predict(biggest).shape == (1,) and fitted.predict(biggest) == fitted.predict([biggest])
    with pytest.raises(nas.NasError, match="Networks are architectures, or an array of genes"):
        fitted.predict([{"resolution": 12}])  # type: ignore[list-item]
    assert (
        biggest.params
        == params(fitted.space).predict(biggest.genes[None])[0]
        == sum(layer.params for layer in biggest.layers.values())
    )
    assert biggest.macs == macs(fitted.space).predict(biggest.genes[None])[0]
    assert list(biggest.layers) == list(fitted.space.lower(biggest))


def test_arguments_that_there_are_not_are_refused() -> None:
    space = nas.space(SPACE, resolutions=[12])
    with pytest.raises(nas.NasError, match="`search` has no argument `evaluation`. Did you mean `evaluations`?"):
        nas.search(space, ["macs"], evaluation=300)  # type: ignore[call-arg]
    with pytest.raises(nas.NasError, match="`search` takes space, objectives, .*missing a required argument"):
        nas.search(space)  # type: ignore[call-arg]
    with pytest.raises(nas.NasError, match="`measure` has no argument `sed`. Did you mean `seed`?"):
        quick_front()[0].measure(sed=1)  # type: ignore[call-arg]


def test_importing_is_cheap() -> None:
    code = "import sys, nas; print([m for m in ('torch', 'numpy', 'hydra') if m in sys.modules]); print(len(dir(nas)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]\n")


def test_every_name_is_there() -> None:
    assert all(getattr(nas, name) for name in nas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spaces'; there are .*space"):
        nas.spaces  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.usefixtures("vela")
@pytest.mark.parametrize("module", [nas, nas.run.api, nas.run.opened], ids=lambda module: module.__name__)
def test_examples(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(module, extraglobs={"nas": nas}).failed == 0


def run_blocks(text: str) -> dict[str, Any]:
    """Run the Python blocks of a page in order."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "a block", "exec"), names)
    return names


@pytest.mark.usefixtures("vela")
def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = run_blocks(text)
    assert (tmp_path / "mobile" / "network.onnx").is_file() and (tmp_path / "front.png").is_file()
    assert "Set `latency_ms` to 0.0446 or more" in capsys.readouterr().out
    assert names["run"].fronts["ethos_u55_128"].networks == names["front"].networks


@pytest.mark.usefixtures("vela")
def test_the_page_on_spaces_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = (ROOT / "docs" / "spaces.md").read_text()
    monkeypatch.chdir(tmp_path)
    (yaml,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "conf" / "space").mkdir(parents=True)
    (tmp_path / "conf" / "space" / "mine.yaml").write_text(yaml)
    names = run_blocks(text)
    assert names["network"].params == 8_309_384 and "op.2" in {choice.name for choice in names["space"].choices}
    assert all((tmp_path / name / "network.onnx").is_file() for name in ("files", "stacked", "two_cameras"))
    assert "Measurement(" in capsys.readouterr().out


SINGLE = {"_target_": "nas.supernet.samplers.SinglePath"}


@pytest.mark.usefixtures("vela")
def test_the_readme_and_the_example_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for what takes minutes."""
    quick = {
        'nas.space("mobilenet_v3_digits"': f'nas.space("mobilenet_v3_digits", {QUICK}',
        ", resolutions=[12])": ")",
        '"host_ort"': '"ethos_u55_128"',
        'budget="2min"': "networks=8, check_networks=3",
        "train(space, data, ": f"train(space, data, epochs=1, batch_size=256, sampler={SINGLE}, ",
        " epochs=10,": "",
        "supernet, data, ": "supernet, data, subnets=14, held_out=3, recalibration_images=32, ",
        " subnets=100, held_out=20,": "",
        "accuracy=0.5": "accuracy=0.05",
    }
    readme = (ROOT / "README.md").read_text().partition("### From Python")[2].partition("\n## ")[0]
    example = (ROOT / "examples" / "five_lines.py").read_text()
    assert len(example.splitlines()) <= 12
    for name, text in (("readme", readme), ("example", f"```python\n{example}```")):
        for there, here in quick.items():
            text = text.replace(there, here)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run_blocks(text)
        assert (tmp_path / name / "mobile" / "network.onnx").is_file()


def test_settings_replace_those_of_the_yaml() -> None:
    assert nas.space("mobilenet_v3_digits", resolutions=[12]).choices[0].values == (12,)
    shown = repr(nas.space(SPACE, resolutions=[12]))
    assert shown == "MobileNetV3('mobilenet_v3_digits', 17,173,512 networks)"
    assert nas.device("host_ort", batch=4).batch == 4
    assert nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).fingerprint != nas.dataset("digits").fingerprint
    assert type(nas.space("search_spaces.NasBench201", name="cell", **NASBENCH)).__name__ == "NasBench201"


ROOT = Path(__file__).parents[2]
QUICK = "resolutions=[12], depths=[1, 2], kernels=[3], expands=[1, 2]"
SPACE, DEVICE = "mobilenet_v3_digits", "ethos_u55_128"
NASBENCH = {"channels": 4, "cells": 1, "in_channels": 1, "resolution": 8, "classes": 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nas.space("ofa_mobilnet_v3"), "Did you mean 'ofa_mobilenet_v3'"),
        (lambda: nas.space("mobilenet_v3_digits", resolution=[12]), "Did you mean `resolutions`"),
        (lambda: nas.space("mobilenet_v3_digits", resolutions=12), "must be a list of int or str, but got 12"),
        (lambda: nas.space("nas.data.digits"), "must make SearchSpace"),
        (lambda: nas.device("host"), "Did you mean 'host_ort'"),
        (lambda: nas.device("host_ort", thread=1), "Did you mean 'threads'"),
        (lambda: nas.space("no.such"), r"add `--trust no`, or call `nas.trust\(\"no\"\)` from Python"),
        (lambda: nas.dataset("digit"), "Did you mean 'digits'"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", budget="2 minutes"), "`budget` must be a time such as 90s"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", network=9), "Did you mean `networks`"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor="lokup"), "Did you mean 'lookup'"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor=3), "A predictor is a name, .*but got 3"),
        (lambda: nas.train(SPACE, "digits", out="x", epoch=1), "Did you mean `epochs`"),
        (lambda: nas.train("fbnet", "digits", out="x"), "has 3 input channels"),
        (lambda: nas.accuracy(SPACE, "nowhere", "digits", out="x"), "Cannot read nowhere"),
        (
            lambda: nas.accuracy(SPACE, "x", "digits", out="x", by="training"),
            "through a supernet, but got `by=training`",
        ),
        (lambda: energy([1.0, 2.0]), "a value per network, but got"),
        (lambda: energy(networks=11), "leave 10 networks to fit to, but got 2 of 11"),
        (lambda: energy(predictor="lookup"), "is of layers, which `nas.profile` measures"),
        (lambda: energy(metric="energy mj"), "metric's name is of"),
        (lambda: nas.search(SPACE, "macs"), "`objectives` must be a list, but got 'macs'"),
        (lambda: nas.search(SPACE, ["mac"]), "no objective 'mac'. There are macs, params, .* files"),
        (lambda: nas.search(SPACE, [3]), "An objective is a predictor, its file, or a name such as macs, but got 3"),
        (lambda: nas.search(SPACE, ["macs", "macs"]), "of different metrics, but got macs, macs"),
        (lambda: nas.search(SPACE, []), "at least one objective with a goal"),
        (lambda: nas.search(SPACE, ["macs"], limits={"param": 9}), "names 'param', but known are macs, params, "),
        (lambda: nas.search(SPACE, ["macs"], limits={"energy_mj": 9}), "Give its predictor in `others`"),
        (lambda: nas.search(SPACE, ["macs"], limits={"params": "9"}), "must be a number > 0 .*but got '9'"),
        (lambda: nas.search(SPACE, ["macs"], limits={"params": -9}), "must be a number > 0 .*but got -9"),
        (
            lambda: nas.search(SPACE, ["macs"], limits={"params": 10**400}),
            "must be a number > 0 .*but got one of too many",
        ),
        (lambda: nas.search(SPACE, ["macs"], margin=float("nan")), "`margin` must be in"),
        (lambda: nas.search(SPACE, ["macs"], margin=-1), "`margin` must be in"),
        (lambda: nas.search(SPACE, ["macs"], limits={"params": 9}), "cannot be met .* Set `params` to"),
        (lambda: nas.search(SPACE, ["macs"], searcher="nsga9"), "There is no searcher 'nsga9'. Did you mean 'nsga"),
        (lambda: nas.search(SPACE, ["macs"], searcher=3), "`searcher` must be Searcher or str or a path, but got 3"),
        (
            lambda: nas.search(SPACE, ["macs"], searcher="fbnet"),
            "trains networks: give it images, `data`, and",
        ),
        (lambda: nas.search(SPACE, ["macs"], seconds="soon"), "`seconds` must be a time such as"),
        (lambda: nas.search(SPACE, ["macs"], evaluations=0), "`evaluations` must be >= 1"),
        (lambda: nas.search(SPACE, ["macs"], fixed={"resolution": 13}), "Choice 'resolution' can be"),
        (lambda: nas.search("fbnet", [energy()]), "energy_mj predictor is of space 'mobilenet_v3_digits'"),
        (lambda: nas.open("nowhere"), "nowhere is no run folder"),
        (lambda: nas.open(3), "`folder` must be str or a path, but got 3"),
        (lambda: nas.profile(SPACE, DEVICE, out=None), "`out` must be str or a path, but got None"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", seed=-1), "`seed` must be >= 0, but got -1"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", seed="a"), "`seed` must be int, but got 'a'"),
        (lambda: nas.train(SPACE, 3, out="x"), "Data is a name or a Data, but got 3"),
        (lambda: nas.accuracy(SPACE, 3, "digits", out="x"), "A supernet is an object, its file or its run folder"),
        (lambda: nas.fit(SPACE, [1, 2], [1, 2], metric="a", unit="b"), "or a list of Architecture, but got .1, 2"),
        (lambda: energy(["a"] * 20), "`values` must be numbers"),
        (lambda: energy().predict([]), "one or more networks, but got none"),
        (lambda: nas.search(SPACE, ["macs"], limits=[3]), "`limits` must be a mapping or null, but got .3"),
        (lambda: nas.search(SPACE, ["macs"], start=3), "`start` must be .*, but got 3"),
        (lambda: nas.search(SPACE, ["macs"], seed=2**40), "`seed` must be below"),
        (lambda: quick_front().choose(macs="x"), "`macs` must be a number or a list of a number or null, but got 'x'"),
        (lambda: quick_front().choose(macs=float("nan")), "A limit is a finite number, but got macs=nan"),
        (lambda: quick_front().choose(macs=10**400), "A limit is a finite number"),
        (lambda: quick_front().to_csv(None), "`path` must be str or a path, but got None"),
        (lambda: energy().save(None), "`path` must be str or a path, but got None"),
        (lambda: nas.Front.read(3), "`path` must be str or a path, but got 3"),
        (lambda: nas.trust(3), "`word` must be str, but got 3"),
        (lambda: nas.Metric("x", None), "`unit` of a metric must be str, but got None"),
        (lambda: nas.Limit(nas.Metric("x", "1"), "a"), "`bound` of a limit must be a number, but got 'a'"),
        (lambda: nas.Limit("x", 1), "`metric` of a limit must be Metric, but got 'x'"),
        (lambda: nas.search(SPACE, ["macs"], limits={3: 1}), "`limits` must be a mapping or null, but got {3: 1}"),
        (lambda: nas.search(SPACE, ["macs"], searcher=NSGA2), r"`searcher` must be .* Call it: NSGA2\(...\)"),
        (lambda: nas.search(SPACE, ["macs"], start=energy()), "`start` must be .*, but got JudgedPredictor"),
        (lambda: quick_front()[0].measure(nas.space(SPACE)), "`device` must be .*, but got MobileNetV3"),
        (lambda: quick_front()[0].measure(Path("nowhere.yaml")), "There is no file nowhere.yaml"),
        (lambda: quick_front()[0].measure(DEVICE, seed=-1), "`seed` must be >= 0, but got -1"),
        (lambda: quick_front()[0].export("x", weights="x", data=Path("nothing")), "There is no data 'nothing'"),
        (lambda: nas.open("x", space=energy()), "`space` must be SearchSpace or null, but got JudgedPredictor"),
        (lambda: energy(seed=-1), "`seed` must be >= 0, but got -1"),
        (lambda: energy(predictor=Ridge), r"a function of the space and `seed` .* Call it: Ridge\(\)"),
        (lambda: energy(predictor=len), "a function of the space and `seed`"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor=lambda space, seed: None), "but makes None"),
        (lambda: nas.train(SPACE, "digits", out="x", device="foo"), "`training.device=foo` cannot be used here"),
        (lambda: nas.train(nas.space("nasbench201"), "digits", out="x"), "has 3 input channels"),
        (lambda: nas.search(SPACE, ["macs"], fixed={"resolution": [12, 16]}), r"can be .*, but got \[12, 16\]"),
        (
            lambda: nas.profile(nas.device(DEVICE), SPACE, out="x"),
            "`space` must be SearchSpace or .* got DeviceProfile",
        ),
        (lambda: nas.profile(SPACE, nas.space(SPACE), out="x"), "`device` must be DeviceProfile or .* got MobileNetV3"),
        (lambda: energy(predictor="saved"), "Predictor 'saved' is of a file"),
        (lambda: nas.profile(SPACE, DEVICE, out="x", predictor="saved"), "Predictor 'saved' is of a file"),
        (lambda: nas.search(SPACE, ["macs"], start=np.zeros((0, 22), int)), "`start` must have one or more networks"),
        (lambda: nas.device("host_ort", dtype="int3"), "has no `dtype: int3`"),
        (lambda: nas.device("host_ort", backend="os.path"), "os.path"),
        (lambda: quick_front()["a"], "`row` must be int, but got 'a'"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nas.NasError, match=message):
        call()
    assert not Path("x").exists()


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


def test_of_several_processes_the_first_one_holds_the_folder(
    space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with locked_folder(tmp_path, "the first process"):
        monkeypatch.setenv("RANK", "1")
        with nas.run.api._working(tmp_path, space, "train()", 0, trains=True):
            pass
        monkeypatch.setenv("RANK", "0")
        with (
            pytest.raises(nas.NasError, match="the first process"),
            nas.run.api._working(tmp_path, space, "train()", 0, trains=True),
        ):
            pass
    with pytest.raises(nas.NasError, match=r"`torchrun` starts trainings alone.*nas\.search"):
        nas.search(space, ["macs", "params"], out=tmp_path / "search")


def test_a_supernet_is_known_by_what_its_file_holds(space: SearchSpace, folder: Path, supernet: Supernet) -> None:
    path = folder / "train" / "supernet.pt"
    assert supernet.digest == digest(path) == Supernet.load(space, path).digest


def test_accuracies_are_kept(
    space: SearchSpace, folder: Path, accuracy: JudgedPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "label" / "accuracy.jsonl"
    pairs = known_accuracies(space, RecordLog(path, read_records(path)[0]))
    assert len(pairs) == 14 and accuracy.metric.direction == "max"
    cost = RecalibrationCost.read(folder / "label" / "recalibration.json")
    assert (cost.subnets, cost.images) == (4, [0, 8, 32]) and min(cost.seconds) > 0
    first = distinct_networks(space, 14, generator(0, "label"))[:4]
    assert cost.scores[-1] == pytest.approx(np.mean([pairs[one] for one in first]))
    monkeypatch.setattr("nas.supernet.SupernetAccuracy.predict", None)  # nothing is evaluated again
    small = {"subnets": 14, "held_out": 3, "recalibration_images": 32}
    again = nas.accuracy(space, folder, "digits", out=folder, predictor=Ridge(), **small)
    assert again.quality == accuracy.quality


def test_pairs_of_ones_own(tmp_path: Path) -> None:
    fitted = energy(networks=60, predictor=Ridge())
    assert fitted.metric == nas.Metric("energy_mj", "mJ") and fitted.quality.mape < 0.1
    fitted.save(tmp_path / "energy.npz")
    assert load(tmp_path / "energy.npz", fitted.space).metric == "energy_mj"  # type: ignore[attr-defined]
    assert "direction" not in read_arrays(tmp_path / "energy.npz")  # less is better, as of any metric of one's own
    below = energy(np.linspace(-1, 1, 20), predictor="ridge")
    assert np.isfinite(below.predict(below.space.sample(3, np.random.default_rng(0)))).all()
    with pytest.raises(nas.NasError, match="network of space 'mobilenet_v3_digits' is none of space 'fbnet'"):
        nas.fit("fbnet", [nas.space(SPACE).smallest] * 20, np.ones(20), metric="a", unit="b")


def test_the_direction_is_in_the_file_of_a_predictor(tmp_path: Path) -> None:
    """What was fitted as better the more there is of it is maximised, from the object, its file and a copy of that."""
    fitted, file, copy = energy(direction="max"), tmp_path / "e.npz", tmp_path / "copy.npz"
    fitted.save(file)
    read = load(file, fitted.space)
    save(read, fitted.space, copy)
    for objective in (fitted, file, copy, read):
        front = nas.search(fitted.space, ["macs", objective], searcher="random", evaluations=30)
        assert [goal.goal for goal in front.goals] == ["min", "max"]
    fitted = energy(np.linspace(0.1, 1, 20), metric="accuracy", unit="1", direction="min")
    fitted.save(file)
    assert metric_of(cast(Predictor, load(file, fitted.space))).direction == "min"


def test_a_repeated_network_is_never_both_fitted_and_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    space = nas.space(SPACE, resolutions=[12])
    genes = space.sample(20, np.random.default_rng(0))
    seen = list[np.ndarray[Any, Any]]()
    fit = Regression.fit
    monkeypatch.setattr(Regression, "fit", lambda self, x, y: (seen.append(x), fit(self, x, y))[1])
    values = np.tile(params(space).predict(genes), 3)
    nas.fit(space, np.tile(genes, (3, 1)), values, metric="energy_mj", unit="mJ")
    assert np.array_equal(seen[0], np.tile(genes[:16], (3, 1))) and len(seen[1]) == 60
    with pytest.raises(nas.NasError, match="got 2 of 11 distinct ones"):
        nas.fit(space, np.tile(genes[:11], (3, 1)), values[:33], metric="energy_mj", unit="mJ")


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(nas.NasError, match="`values` must be numbers: complex ones lose their imaginary part"):
        energy(np.ones(20) * (1 + 2j))
    space = nas.space(SPACE, resolutions=[12])
    predictor = params(space)
    wave = types.SimpleNamespace(metric="wave", unit="1", predict=lambda genes: predictor.predict(genes) * 1j)
    with pytest.raises(nas.NasError, match="Values of the wave predictor must be numbers: complex"):
        nas.search(space, [wave], searcher="random", evaluations=5)


def test_other_images_than_those_of_the_supernet_are_refused(
    space: SearchSpace, folder: Path, supernet: Supernet, accuracy: JudgedPredictor, front: nas.Front, tmp_path: Path
) -> None:
    other = nas.dataset("digits", seed=3)
    for weights in (supernet, folder):
        with pytest.raises(nas.NasError, match="was trained on other images than those of data 'digits'"):
            nas.accuracy(space, weights, other, out=tmp_path / "new")
        with pytest.raises(nas.NasError, match="was trained on other images than those of data 'digits'"):
            front[0].export(tmp_path / "new", weights=weights, data=other)
    assert not (tmp_path / "new").exists()


def test_a_range_is_a_list_or_a_tuple() -> None:
    front = quick_front()
    assert front.choose(macs=[0, 1e9]).row == front.choose(macs=(None, 1e9)).row == 0


# -- search, fronts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def front(space: SearchSpace, folder: Path, accuracy: JudgedPredictor, latency: JudgedPredictor) -> nas.Front:
    limits = {"latency_ms": 0.06, "params": 60000}
    return nas.search(space, [accuracy, latency], limits=limits, evaluations=200, out=folder)


def test_a_front_keeps_its_limits(front: nas.Front, latency: JudgedPredictor) -> None:
    assert len(front) > 1 and [network.row for network in front] == list(range(len(front)))
    assert (front.column("latency_ms")[1] <= 0.06 * 0.95).all() and (front.column("params")[1] <= 60000).all()
    assert front[-1].row == len(front) - 1
    assert np.allclose(latency.predict([n.architecture for n in front]), front.column("latency_ms")[1])
    with pytest.raises(IndexError, match="networks 0 to"):
        front[len(front)]
    words = repr(front)
    assert "max accuracy and min latency_ms" in words and "latency_ms ≤ 0.057" in words and "ethos_u55_128" in words


def test_a_front_is_a_table_and_a_figure(front: nas.Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front.to_csv(tmp_path / "front.csv")
    lines = (tmp_path / "front.csv").read_text().splitlines()
    assert (
        lines[0].startswith("accuracy,latency_ms,params,memory_bytes,macs,resolution,") and len(lines) == len(front) + 1
    )
    assert front._repr_html_().count("<tr>") == len(front) + 1
    axes = front.plot(x="params").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("params (1)", "accuracy (1)")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(nas.NasError, match="needs pandas: `pip install pandas`"):
        front.to_pandas()
    frames = types.SimpleNamespace(DataFrame=lambda rows: rows)
    monkeypatch.setitem(sys.modules, "pandas", frames)
    assert front.to_pandas()[0]["accuracy"] == front[0].values["accuracy"]


def test_the_same_search_is_the_same_front(
    space: SearchSpace, front: nas.Front, folder: Path, accuracy: JudgedPredictor, latency: JudgedPredictor
) -> None:
    limits = {"latency_ms": 0.06, "params": 60000}
    wanted = [folder / "fit" / "accuracy.npz", latency]
    again = nas.search(space, wanted, limits=limits, evaluations=200, searcher=Auto(), start=front)
    assert again.searcher == front.searcher == "auto" and np.array_equal(again.values, front.values)
    assert nas.Front.read(folder / "search" / "ethos_u55_128.json").networks == front.networks
    with pytest.raises(nas.NasError, match="was read without its space"):
        nas.Front.read(folder / "search" / "ethos_u55_128.json")[0].architecture  # noqa: B018


def test_what_the_device_reports_and_its_own_limit_count(space: SearchSpace, latency: JudgedPredictor) -> None:
    memory = latency.beside["memory_bytes"]
    assert memory.quality.mape < 0.5 and memory.device == latency.device
    front = nas.search(space, ["params", latency], searcher="random", evaluations=20)
    column, values = front.column("memory_bytes")
    assert column.limit == 16384 and np.array_equal(values, memory.predict([n.architecture for n in front]))
    other = nas.search(space, ["params", latency], limits={"memory_bytes": 9000}, searcher="random", evaluations=20)
    assert other.column("memory_bytes")[0].limit == 9000
    tiny = dataclasses.replace(latency, device=dataclasses.replace(nas.device("ethos_u55_128"), memory_limit_bytes=9))
    said = r"`memory_bytes`=9 \(the memory that ethos_u55_128 has\).* Set `memory_bytes`"
    with pytest.raises(nas.NasError, match=said):
        nas.search(space, ["params", tiny], searcher="random", evaluations=20)


def test_a_metric_is_a_plain_function(space: SearchSpace) -> None:
    depth = nas.Function("depth", "1", lambda architecture: float(len(space.lower(architecture))), "max")
    front = nas.search(space, ["macs"], others=[depth], limits={"depth": 8}, searcher="random", evaluations=50)
    assert front.column("depth")[0].at_least and (front.column("depth")[1] >= 8).all()


def test_a_function_has_a_name_of_its_own(space: SearchSpace) -> None:
    for name in ("macs", "accuracy", "latency_share", "resolution"):
        with pytest.raises(nas.NasError, match=f"must not be called {name}"):
            nas.search(space, ["params", nas.Function(name, "1", lambda layer: 1.0, layers=True)])


def test_one_front_for_several_devices(space: SearchSpace, tmp_path: Path, latency: JudgedPredictor) -> None:
    other = dataclasses.replace(latency, device=nas.device("ethos_u65_256"), beside={})
    limits = {"latency_ms@ethos_u65_256": 0.06, "memory_bytes": 16384}
    joint = nas.search(space, [energy_of(space), latency, other], limits=limits, searcher="random", evaluations=50)
    assert joint.names[:3] == ("energy_mj", "latency_ms@ethos_u55_128", "latency_ms@ethos_u65_256")
    assert (joint.column("latency_ms@ethos_u65_256")[1] <= 0.057).all()
    assert (joint.column("memory_bytes@ethos_u55_128")[1] <= 16384).all() and joint.joint is not None


def bounds_of(space: SearchSpace, wanted: list[Any], limits: dict[str, Any], **more: Any) -> dict[str, float]:
    """Limits that the columns of a front have."""
    front = nas.search(space, wanted, limits=limits, margin=0, searcher="random", evaluations=30, **more)
    return {column.name: column.limit for column in front.columns if column.limit is not None}


def test_limits_are_on_a_metric_or_on_one_of_a_device(space: SearchSpace, latency: JudgedPredictor) -> None:
    one, two = "ethos_u55_128", "ethos_u65_256"
    memory = latency.beside["memory_bytes"]
    alone = {"memory_bytes": 9000, "latency_ms": 0.06}
    assert bounds_of(space, ["params", latency], {f"{name}@{one}": x for name, x in alone.items()}) == alone
    assert bounds_of(space, ["params", latency], {"memory_bytes": None}) == {"memory_bytes": 16384}

    small = dataclasses.replace(nas.device(two), memory_limit_bytes=30000)
    wanted = ["params", latency, dataclasses.replace(latency, device=small, beside={})]
    first, second = f"memory_bytes@{one}", f"memory_bytes@{two}"
    for limits, kept in (
        ({}, {first: 16384, second: 30000}),
        ({"memory_bytes": 9000}, {first: 9000, second: 9000}),
        ({second: 9000}, {first: 16384, second: 9000}),
        ({first: 8000, second: 9000}, {first: 8000, second: 9000}),
        ({second: 9000, "memory_bytes": 8000}, {first: 8000, second: 9000}),
    ):
        assert bounds_of(space, wanted, limits) == bounds_of(space, wanted, limits, others=[memory]) == kept
    with pytest.raises(nas.NasError, match="names 'macs@host', but known are .*latency_ms@ethos_u55_128"):
        bounds_of(space, wanted, {"macs@host": 3})


def test_limits_are_numbers_that_a_metric_can_have(space: SearchSpace, accuracy: JudgedPredictor) -> None:
    gain = nas.Function("gain", "dB", lambda architecture: -1.0)
    assert bounds_of(space, ["macs"], {"gain": np.int64(0)}, others=[gain]) == {"gain": 0}
    with pytest.raises(nas.NasError, match=r"fraction, at most 1, but got 80. Did you mean 0.8\?"):
        nas.search(space, [accuracy, "macs"], limits={"accuracy": 80})
    with pytest.raises(nas.NasError, match="must be a number > 0, but got -1"):
        nas.search(space, [accuracy, "macs"], limits={"accuracy": -1})


def energy_of(space: SearchSpace) -> JudgedPredictor:
    genes = space.sample(30, np.random.default_rng(0))
    return nas.fit(space, genes, params(space).predict(genes), metric="energy_mj", unit="mJ")


# -- networks ----------------------------------------------------------------------------------------------------------


def test_a_network_is_chosen_exported_and_measured(front: nas.Front, supernet: Supernet, tmp_path: Path) -> None:
    network = front.choose(latency_ms=0.05)
    assert (network.values["latency_ms"] or 1) <= 0.05
    assert network.export(tmp_path / "mobile", weights=supernet)["onnx"] < 1e-4
    names = {path.name for path in (tmp_path / "mobile").iterdir()}
    assert names >= {"network.onnx", "network.tflite", "architecture.json", "preprocessing.json"}
    assert network.measure().latency_ms == pytest.approx(network.values["latency_ms"], rel=0.05)
    with pytest.raises(nas.NasError, match="none with latency_ms ≤ 1e-05.* Set latency_ms="):
        front.choose(latency_ms=1e-5)


def test_weights_come_from_a_file_or_a_run(front: nas.Front, folder: Path, supernet: Supernet, tmp_path: Path) -> None:
    for name, weights, more in (
        ("object", supernet, {}),
        ("run", folder, {}),
        ("file", folder / "train" / "supernet.pt", {"data": "digits"}),
    ):
        front[0].export(tmp_path / name, weights=weights, device="host_ort", **more)
    files = [(tmp_path / name / "network.onnx").read_bytes() for name in ("object", "run", "file")]
    assert files[0] == files[1] == files[2]
    with pytest.raises(nas.NasError, match="give `data`, the images that the supernet was trained on"):
        front[0].export(tmp_path, weights=folder / "train" / "supernet.pt")


def test_random_weights_must_be_asked_for(front: nas.Front, tmp_path: Path) -> None:
    with pytest.raises(nas.NasError, match='give `weights`.* or `weights="random"`'):
        front[0].export(tmp_path / "a")
    assert front[0].export(tmp_path / "b", weights="random") == {}
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"network.onnx", "network.tflite", "architecture.json"}


# -- open --------------------------------------------------------------------------------------------------------------


def test_a_run_folder_is_opened(folder: Path, space: SearchSpace, front: nas.Front, latency: JudgedPredictor) -> None:
    run = nas.open(folder)
    assert run.space.fingerprint == space.fingerprint and list(run.devices) == ["ethos_u55_128"]
    assert run.data.fingerprint == nas.dataset("digits").fingerprint
    assert list(run.predictors) == ["accuracy", "latency_ms", "memory_bytes"]
    assert run.predictors["latency_ms"].quality == latency.quality
    assert list(run.predictors["latency_ms"].beside) == list(latency.beside) == ["memory_bytes"]
    assert np.array_equal(run.fronts["ethos_u55_128"].values, front.values) and run.networks == {}
    assert run.fronts["ethos_u55_128"][0].architecture == front[0].architecture


def test_a_run_of_the_command_line_is_opened(finished: Path) -> None:
    run = nas.open(finished)
    (device,) = run.devices
    assert set(run.predictors) >= {"accuracy", "latency_ms"} and run.fronts[device].made_by is run.space
    network = run.networks[device][0]
    assert network.measured is not None and network.measured.latency_ms > 0
    assert (network.folder / "network.onnx").is_file() and network.predicted["accuracy"] is not None
    assert run.supernet.data is not None and run.supernet.data.fingerprint == run.data.fingerprint


def test_files_given_by_relative_paths_are_found_from_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    fields = {
        "title": "a meter",
        "backend": "tests.hardware_profiles.metered",
        "name": "meter",
        "warm_up": 0,
        "runs": 2,
    }
    fields |= {"runs": 2, "sample_ms": 0, "passes": 2, "max_passes": 2, "loads": 1, "pass_seconds": 0}
    (here / "mine.yaml").write_text("\n".join(f"{key}: {value}" for key, value in fields.items()))
    rng = np.random.default_rng(0)
    write_arrays(here / "mine.npz", {"images": rng.random((60, 8, 8)), "labels": np.arange(60) % 10})
    importlib.import_module("tests.hardware_profiles.metered")
    space = nas.space(SPACE, resolutions=[8], depths=[1, 2], kernels=[3], expands=[1, 2])
    monkeypatch.chdir(here)
    nas.profile(space, "mine.yaml", out="run", networks=12, check_networks=3)
    data = nas.dataset("nas.data.npz", path="mine.npz")
    claim_folder(Path("run"), space, "", 0, parts={"data": dict(data.definition or {}), "device": ["ethos_u55_128"]})
    assert read_json(here / "run" / "run.json")["made_of"]["device"] == [str(here / "mine.yaml"), "ethos_u55_128"]
    monkeypatch.chdir(elsewhere)
    run = nas.open(here / "run")
    assert list(run.devices) == ["meter"] and run.data.fingerprint == data.fingerprint and not caplog.records
    (here / "mine.yaml").unlink()
    assert nas.open(here / "run").devices == {}
    assert "mine.yaml' cannot be read" in caplog.text and "device 'meter' is left out" in caplog.text


def test_python_finds_what_the_command_line_finds(finished: Path, tmp_path: Path) -> None:
    run = nas.open(finished)
    ((device, theirs),) = run.fronts.items()
    known = run.predictors
    others = [known["memory_bytes"]] if "memory_bytes" in known else []
    limits = {name: limit for name, limit in theirs.limits.items() if limit is not None}
    wanted = [known["accuracy"], known["latency_ms"]]
    ours = nas.search(run.space, wanted, others=others, limits=limits, evaluations=200)
    assert ours.networks == theirs.networks
    assert np.array_equal(ours.column("latency_ms")[1], theirs.column("latency_ms")[1])
    exported = run.networks[device][0]
    (network,) = (one for one in ours if one.architecture == exported.architecture)
    network.export(tmp_path / "here", weights=finished, recalibration_images=64)
    for path in exported.folder.iterdir():
        assert (tmp_path / "here" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_run_that_does_not_say_what_it_is_made_of(finished: Path) -> None:
    about = read_json(finished / "run.json")
    space = nas.open(finished).space
    write_json(finished / "run.json", {key: value for key, value in about.items() if key != "made_of"})
    with pytest.raises(nas.NasError, match="does not say what its space is made of|Give the space"):
        nas.open(finished)
    opened = nas.open(finished, space)
    assert opened.fronts and opened.predictors
    with pytest.raises(nas.NasError, match="does not say what images"):
        opened.data  # noqa: B018
    with pytest.raises(nas.NasError, match="is of space"):
        nas.open(finished, nas.space("fbnet"))
    write_json(finished / "run.json", {**about, "made_of": {**about["made_of"], "device": {"a": 3}}})
    with pytest.raises(nas.NasError, match=r"run.json: made_of.device"):
        nas.open(finished).devices  # noqa: B018
