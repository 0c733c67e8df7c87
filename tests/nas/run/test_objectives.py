"""What is searched for, from settings and predictors."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import DeviceProfile, load_device
from nas.core.problem import Problem
from nas.run.fitting import predictor_maker
from nas.run.objectives import computed_memory, joint_problem, problem_of, slowest_network
from nas.run.run_folder import Run
from nas.run.searching import outside_digests, search_fronts
from nas.run.settings import ExportSettings, LabelSettings, ProfileSettings, SearchSettings, Settings
from predictors import CorrectedLookup, Function, GaussianProcess, PositionTable, Predictor, macs, params, save
from search_spaces import Architecture, Genes, Layer, MBConv, MobileNetV3, SearchSpace
from search_spaces.base.errors import (
    DamagedFileError,
    InfeasibleError,
    InvalidValueError,
    MismatchError,
    NasError,
    UnknownNameError,
)
from search_spaces.base.storage import read_json, write_json
from search_spaces.loading import load_space
from search_spaces.metric import Metric
from search_spaces.staged import Staged
from tests.search_spaces.test_staged import TINY

DEVICES = ["host_ort", "host_torch"]


@pytest.fixture
def run(tmp_path: Path, small_space: MobileNetV3) -> Run:
    """Of two devices: one is slow in MACs, the other in parameters."""
    settings = Settings(
        name="a",
        out="a",
        seed=0,
        device=DEVICES,
        profile=ProfileSettings(8, 2),
        label=LabelSettings(14, 3, 64),
        search=SearchSettings(150, False),
        export=ExportSettings(3),
        searcher={"_target_": "nas.searchers.nsga2.NSGA2", "population": 20},
    )
    run = Run(settings, tmp_path, "nas run")
    run.__dict__["space"] = small_space
    run.__dict__["devices"] = [load_device(name) for name in DEVICES]
    genes = small_space.sample(60, np.random.default_rng(0))
    process = GaussianProcess(small_space)
    process.fit(genes, 0.5 + params(small_space).predict(genes) / 1e5)
    save(process, small_space, tmp_path / "fit" / "accuracy.npz")
    for name, exact in (("host_ort", macs), ("host_torch", params)):
        ms = PositionTable(small_space, "latency", "ms", exact(small_space).values / 1e4)
        lookup = CorrectedLookup(ms)
        lookup.fit(genes, ms.predict(genes))
        save(lookup, small_space, tmp_path / "fit" / f"{name}_latency.npz")
    peak = PositionTable.of_layers(small_space, "memory", "bytes", lambda layer: layer.peak_elements, combine="max")
    save(peak, small_space, tmp_path / "fit" / "host_ort_memory.npz")
    energy = PositionTable(small_space, "energy", "mJ", macs(small_space).values / 1e5)
    save(energy, small_space, tmp_path / "energy.npz")
    return run


def set_up(run: Run, limits: dict[str, Any] | None = None, metrics: Any = None, **search: Any) -> None:
    run.settings.limit = dict(limits or {})
    run.settings.metrics = metrics or {}
    run.settings.search = SearchSettings(**{"evaluations": 150, "baseline": False, **search})


def goals(problem: Problem) -> list[tuple[str, str | None, float | None]]:
    return [(o.name, o.direction, o.bound) for o in problem.objectives]


def test_objectives_come_in_the_order_asked_for_then_limits(run: Run) -> None:
    set_up(run, {"latency_ms": 5, "macs": 7e4}, objectives=["params", "accuracy", "memory_bytes"])
    assert goals(problem_of(run, run.devices[0])) == [
        ("params", "min", None),
        ("accuracy", "max", None),
        ("memory_bytes", "min", None),
        ("latency_ms", None, 5),
        ("macs", None, 7e4),
    ]


def test_accuracy_can_be_a_floor(run: Run) -> None:
    space = run.space
    accuracy = problem_of(run, run.devices[0]).objectives[0].predictor
    floor = float(np.median(accuracy.predict(space.sample(100, np.random.default_rng(1)))))
    set_up(run, {"accuracy": floor}, objectives=["latency_ms"])
    problem = problem_of(run, run.devices[0])
    assert goals(problem)[:2] == [("latency_ms", "min", None), ("accuracy", None, floor)]
    search_fronts(run)
    front = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]["front"]
    assert len(front) == 1 and front[0]["accuracy"] >= floor


@pytest.mark.parametrize("word", ["accuracy", "miou"])
def test_the_metric_of_a_task_goes_by_its_name_or_by_accuracy(run: Run, word: str) -> None:
    process = GaussianProcess(run.space, metric="miou")
    genes = run.space.sample(60, np.random.default_rng(0))
    process.fit(genes, 0.5 + params(run.space).predict(genes) / 1e5)
    save(process, run.space, run.folder / "fit" / "accuracy.npz", "max")
    set_up(run, {word: 0.01}, objectives=[word, "latency_ms"])
    problem = problem_of(run, run.devices[0])
    assert goals(problem)[:2] == [("miou", "max", 0.01), ("latency_ms", "min", None)]
    assert problem.objectives[0].title == "mIoU"
    with pytest.raises(InvalidValueError, match="names miou twice"):
        set_up(run, objectives=["accuracy", "miou"])
        problem_of(run, run.devices[0])
    with pytest.raises(InvalidValueError, match="a fraction, at most 1, but got 30"):
        set_up(run, {word: 30}, objectives=["latency_ms"])
        problem_of(run, run.devices[0])


def test_a_metric_of_the_users(run: Run, tmp_path: Path) -> None:
    metrics = {"energy_mj": {"file": str(tmp_path / "energy.npz"), "limit": 0.4}}
    set_up(run, metrics=metrics)
    problem = problem_of(run, run.devices[0])
    assert goals(problem)[-1] == ("energy_mj", None, 0.4)
    set_up(run, metrics=metrics, objectives=["accuracy", "energy_mj"])
    assert goals(problem_of(run, run.devices[0]))[1] == ("energy_mj", "min", 0.4)
    search_fronts(run)
    found = read_json(run.folder / "search" / "host_ort.json")
    assert [(o["name"], o["unit"], o["goal"]) for o in found["objectives"]][1] == ("energy_mj", "mJ", "min")
    assert all(0 < point["values"]["energy_mj"] <= 0.4 for point in found["searchers"]["nsga2"]["front"])


def test_a_search_knows_what_a_function_uses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that has changed makes another search of it, though the function's own text is the same."""
    scale = [1.0]
    function = Function("e", "mJ", lambda architecture: scale[0] * len(architecture.values))
    monkeypatch.setattr("nas.run.searching.own_function", lambda name, own: function)
    set_up(run, metrics={"e": {"function": "mine.e", "unit": "mJ"}})
    first = outside_digests(run)
    assert outside_digests(run) == first
    scale[0] = 2.0
    assert outside_digests(run) != first


def test_a_file_of_another_metric_is_refused(run: Run) -> None:
    files = {"accuracy": run.folder / "fit" / "host_ort_latency.npz", "latency": run.folder / "fit" / "accuracy.npz"}
    for key, other in (("accuracy", "latency"), ("latency", "accuracy")):
        node = {"_target_": "predictors.saving.saved_predictor", "_partial_": True}
        predictor_maker(key, {**node, "file": str(files[other])})(run.space, seed=0)
        with pytest.raises(MismatchError, match=f"`{key}.file` must predict {key} .* is of {other}"):
            predictor_maker(key, {**node, "file": str(files[key])})(run.space, seed=0)


def test_a_file_knows_the_direction_of_its_metric(run: Run, tmp_path: Path) -> None:
    energy = PositionTable(run.space, "energy", "mJ", macs(run.space).values / 1e5)
    save(energy, run.space, tmp_path / "energy.npz", "max")
    for stated, expected in (({}, "max"), ({"direction": "min"}, "min"), ({"direction": "max"}, "max")):
        set_up(run, metrics={"e": {"file": str(tmp_path / "energy.npz"), **stated}}, objectives=["accuracy", "e"])
        assert goals(problem_of(run, run.devices[0]))[1] == ("e", expected, None)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"energy": 3}, "needs `file`"),
        ({"energy": {"limit": 3}}, "needs `file`"),
        ({"energy": {"file": "a.npz", "most": 3}}, "needs `file`"),
        ({"energy": {"file": "a.npz", "goal": "low"}}, "must be min or max"),
        ({"energy": {"file": "a.npz", "goal": "min", "direction": "min"}}, "`direction` and `goal`"),
        ({"energy": {"file": "a.npz", "layers": True}}, "are of a `function`"),
        ({"energy": {"file": "a.npz", "function": "a.b"}}, "needs `file`.*or `function`"),
        ({"energy": {"function": "owncode.energy"}}, "needs the `unit`"),
        ({"energy": {"function": 3, "unit": "mJ"}}, "`metrics.energy.function` must be str"),
        ({"energy": {"function": "owncode.energy", "unit": "mJ"}}, "add `--trust owncode`"),
        ({"energy": {"function": "search_spaces.base.storage", "unit": "mJ"}}, "needs a function"),
        ({"macs": {"file": "a.npz"}}, "every run has"),
        ({"resolution": {"file": "a.npz"}}, "must not be called resolution, as a choice"),
        ({"energy": {"file": "absent.npz"}}, "absent.npz"),
    ],
)
def test_a_malformed_metric_is_told(run: Run, metrics: Any, message: str) -> None:
    set_up(run, metrics=metrics)
    with pytest.raises(NasError, match=message):
        problem_of(run, run.devices[0])


def test_unknown_objectives_and_devices_are_told(run: Run) -> None:
    set_up(run, objectives=["accuracy", "speed"])
    with pytest.raises(UnknownNameError, match="may name accuracy, latency_ms.*'speed'"):
        problem_of(run, run.devices[0])
    set_up(run, {"latency_ms": {"host_tvm": 3}})
    with pytest.raises(UnknownNameError, match=r"`limit.latency_ms` names host_tvm, but the devices are host_ort"):
        search_fronts(run)


def test_every_metric_can_be_limited_on_each_device(run: Run, tmp_path: Path) -> None:
    here, both = {"host_ort": 5, "host_torch": 7}, {"host_ort": 9e4, "host_torch": 8e4}
    energy = {"energy_mj": {"file": str(tmp_path / "energy.npz"), "direction": "max"}}
    accuracy = {"host_ort": 0.1, "host_torch": 0.2}
    set_up(run, {"latency_ms": here, "macs": both, "accuracy": accuracy, "energy_mj": both}, energy)
    apart = [{o.name: o.bound for o in problem_of(run, device).objectives} for device in run.devices]
    assert [found["latency_ms"] for found in apart] == [5, 7]
    assert [found["accuracy"] for found in apart] == [0.1, 0.2]
    assert [found["macs"] for found in apart] == [found["energy_mj"] for found in apart] == [9e4, 8e4]
    run.settings.search.joint = "worst"
    together = {o.name: o.bound for o in joint_problem(run).objectives}
    assert (together["latency_ms@host_ort"], together["latency_ms@host_torch"]) == (5, 7)
    assert (together["accuracy"], together["macs"], together["energy_mj"]) == (0.2, 8e4, 9e4)  # the hardest to keep


def test_what_a_backend_reports_besides_is_an_objective_and_a_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    power = Metric("energy_mj", "mJ", of_layers="sum")
    plain = DeviceProfile.capabilities.func

    def capabilities(device: DeviceProfile) -> Any:
        more = (power,) if device.name == "host_ort" else ()
        return dataclasses.replace(plain(device), metrics=(*plain(device).metrics, *more))

    monkeypatch.setattr(DeviceProfile, "capabilities", property(capabilities))
    set_up(run, {"energy_mj": 3})
    with pytest.raises(InvalidValueError, match=r"`limit.energy_mj` needs .*host_ort_energy_mj.npz"):
        problem_of(run, run.devices[0])
    table = PositionTable(run.space, "energy", "mJ", macs(run.space).values / 1e5)
    save(table, run.space, run.folder / "fit" / "host_ort_energy_mj.npz")
    assert goals(problem_of(run, run.devices[0]))[-1] == ("energy_mj", None, 3)
    assert "energy_mj" not in [name for name, *_ in goals(problem_of(run, run.devices[1]))]
    set_up(run, {"energy_mj": 1e-9})
    with pytest.raises(InfeasibleError, match=r"`limit.energy_mj`=1e-09 cannot be met .*energy .* mJ.*or more"):
        search_fronts(run)
    set_up(run, {"energy_mj": {"host_torch": 3}})
    with pytest.raises(UnknownNameError, match=r"`limit.energy_mj` names host_torch, but the devices are host_ort"):
        problem_of(run, run.devices[0])
    set_up(run, objectives=["accuracy", "energy_mj"])
    with pytest.raises(InvalidValueError, match="energy_mj, which host_torch does not report"):
        problem_of(run, run.devices[0])
    set_up(run, metrics={"energy_mj": {"file": "a.npz"}})
    with pytest.raises(InvalidValueError, match="must not name 'energy_mj', which host_ort reports"):
        problem_of(run, run.devices[0])


def test_memory_is_computed_where_no_tool_reports_it(run: Run) -> None:
    set_up(run, {"memory_bytes": 4096}, objectives=["accuracy", "memory_bytes"])
    ort, torch = (problem_of(run, device).objectives[1] for device in run.devices)
    assert (ort.predictor.metric, torch.predictor.metric) == ("memory", "computed peak of the activation memory")
    assert ort.bound == torch.bound == 4096 and (ort.metric.estimated, torch.metric.estimated) == (False, True)
    genes = run.space.sample(50, np.random.default_rng(3))
    elements = [
        max(layer.peak_elements for layer in run.space.lower(Architecture(run.space, g)).values()) for g in genes
    ]
    assert torch.predictor.predict(genes).tolist() == [4 * n for n in elements]  # float32
    half = dataclasses.replace(run.devices[1], dtype="float16", batch=8)
    assert computed_memory(run.space, half).predict(genes).tolist() == [16 * n for n in elements]


@pytest.mark.parametrize("joint", [None, "worst"])
def test_a_share_is_of_the_slowest_network_that_runs(run: Run, joint: str | None) -> None:
    """Where the device cannot run the largest one, its latency is infinite and no number for a limit."""
    space, path = run.space, run.folder / "fit" / "host_ort_latency.npz"
    biggest = space.lower(space.biggest)[space.positions[1].name]
    values = np.array(
        [
            0.0 if layer is None else np.inf if layer == biggest else layer.macs / 1e4
            for p in range(len(space.positions))
            for layer in space.layers_at(p)
        ]
    )
    table = PositionTable(space, "latency", "ms", values)
    save(table, space, path)
    set_up(run, {"latency_share": 0.5}, joint=joint)
    everything = space.sample(4000, np.random.default_rng(4))
    found = table.predict(everything)
    slowest = found[np.isfinite(found)].max()
    problem = joint_problem(run) if joint else problem_of(run, run.devices[0])
    name = "latency_ms@host_ort" if joint else "latency_ms"
    limit = next(o.bound for o in problem.objectives if o.name == name)
    assert limit == pytest.approx(0.5 * slowest)
    if joint:
        shares = next(o for o in problem.objectives if o.name == "latency_share").predictor.predict(everything)
        assert np.isfinite(shares).sum() == np.isfinite(found).sum() and shares[np.isfinite(shares)].max() == 1


def every_network(space: SearchSpace) -> Genes:
    return np.unique(space.sample(40 * space.size, np.random.default_rng(0)), axis=0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_share_is_of_the_slowest_network_where_positions_offer_several_kinds(fails: bool) -> None:
    space = Staged(**TINY)  # its last values choose FusedMBConv

    def ms(layer: Layer) -> float:
        if fails and isinstance(layer, MBConv) and layer.kernel == 5:
            return np.inf
        return layer.macs / (1e4 if isinstance(layer, MBConv) else 1e5)

    table = PositionTable.of_layers(space, "latency", "ms", ms)
    everything = table.predict(every_network(space))
    slowest = everything[np.isfinite(everything)].max()
    assert len(everything) == space.size and slowest > table.predict(space.biggest.genes[None])[0]
    found = slowest_network(space, table, "host")
    assert found.ms == pytest.approx(slowest) == pytest.approx(table.predict(found.genes[None])[0])
    assert found.words == f"the slowest network{' that the device can run' * fails}"


class Bare:
    """A predictor of which nothing is known but its values."""

    metric, unit = "latency", "ms"

    def __init__(self, predictor: Predictor) -> None:
        self.predict = predictor.predict


def test_the_slowest_network_of_a_space_is_sought_only_where_it_need_not_be_the_largest(
    small_space: MobileNetV3,
) -> None:
    noisy = PositionTable(small_space, "latency", "ms", macs(small_space).values / 1e5)
    noisy.values[noisy.values.argmax() - 1] *= 1.1
    found = slowest_network(small_space, noisy, "host")
    assert found.genes.tolist() == small_space.biggest.genes.tolist() and found.words == "the largest network"
    assert found.ms == noisy.predict(small_space.biggest.genes[None])[0]


def test_a_cell_of_last_operations_is_not_the_slowest_network() -> None:
    space = load_space("nasbench201")  # whose last operation is pooling
    found = slowest_network(space, macs(space), "host")
    assert space.lower(Architecture(space, found.genes))["stage1_cell1"].operations == ("nor_conv_3x3",) * 6
    assert found.words == "the slowest network"


def test_without_a_sum_the_slowest_network_is_that_of_a_sample(rng: np.random.Generator) -> None:
    space = Staged(**TINY)
    work = macs(space)
    found = slowest_network(space, Bare(work), "host")
    assert found.words == "the slowest of 1,001 networks"
    assert work.predict(space.biggest.genes[None])[0] <= found.ms <= work.predict(every_network(space)).max()


def test_a_search_says_which_network_a_share_is_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(run, {"latency_share": 0.5, "latency_margin": 0})
    search_fronts(run)
    said = capsys.readouterr().out.splitlines()
    for device in run.devices:
        stated = next(o.limit for o in problem_of(run, device).objectives if o.name == "latency_ms")
        assert stated is not None and "of the largest network (at most" in stated.stated
        assert f"{device.name}: {stated.stated}" in said


@pytest.mark.parametrize(
    "given", [{"joint": "best"}, {"accuracy": "measured"}, {"objectives": []}, {"objectives": ["macs", "macs"]}]
)
def test_settings_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        SearchSettings(10, False, **given)


# -- several devices at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", ["worst", "weighted"])
def test_one_front_for_all_devices(run: Run, joint: str) -> None:
    space = run.space
    set_up(run, {"latency_ms": {"host_ort": 4.0}}, joint=joint, weights={"host_torch": 3.0})
    problem = joint_problem(run)
    assert [name for name, *_ in goals(problem)] == [
        *("accuracy", "latency_share", "latency_ms@host_ort", "latency_ms@host_torch", "memory_bytes@host_ort")
    ]
    genes = space.sample(50, np.random.default_rng(2))
    values = problem.evaluate(genes)
    biggest = problem.evaluate(space.biggest.genes[None])[0]
    shares = values[:, 2:4] / biggest[2:4]
    expected = shares.max(1) if joint == "worst" else shares @ [0.25, 0.75]
    assert values[:, 1] == pytest.approx(expected)
    search_fronts(run)
    files = [read_json(run.folder / "search" / f"{name}.json") for name in DEVICES]
    fronts = [file["searchers"]["nsga2"]["front"] for file in files]
    assert [p["architecture"] for p in fronts[0]] == [p["architecture"] for p in fronts[1]] and len(fronts[0]) > 1
    for name, file, front in zip(DEVICES, files, fronts, strict=True):
        assert file["joint"] == DEVICES and file["limits"]["latency_ms"] == (4.0 if name == "host_ort" else None)
        assert all(p["latency_ms"] == p["values"][f"latency_ms@{name}"] for p in front)
        assert all(p["values"]["latency_ms@host_ort"] <= 4.0 for p in front)
    assert fronts[1][0]["memory_bytes"] is None and fronts[0][0]["memory_bytes"] > 0


def test_what_a_joint_search_cannot_do_is_told(run: Run) -> None:
    set_up(run, joint="worst", objectives=["accuracy", "memory_bytes"])
    (run.folder / "fit" / "host_torch_memory.npz").write_bytes(
        (run.folder / "fit" / "host_ort_memory.npz").read_bytes()
    )
    with pytest.raises(InvalidValueError, match="memory_bytes can only be a limit"):
        joint_problem(run)
    for weights in ({"host_tvm": 1}, {"host_ort": 0}, [1, 2]):
        set_up(run, joint="weighted", weights=weights)
        with pytest.raises(InvalidValueError, match=r"`search.weights` must map devices \(host_ort, host_torch\)"):
            joint_problem(run)


# -- beginning with known networks -------------------------------------------------------------------------------------


def test_a_search_begins_with_an_earlier_front(run: Run, tmp_path: Path) -> None:
    set_up(run, evaluations=400)
    search_fronts(run)
    earlier = tmp_path / "earlier.json"
    write_json(earlier, read_json(run.folder / "search" / "host_ort.json"))
    front = read_json(earlier)["searchers"]["nsga2"]["front"]
    set_up(run, evaluations=len(front), start=str(earlier))
    search_fronts(run)
    again = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]
    assert [p["architecture"] for p in again["front"]] == [p["architecture"] for p in front]
    assert again["evaluations"] == len(front)


def test_a_device_begins_with_the_fronts_of_those_before(run: Run) -> None:
    def history(device: str) -> list[tuple[int, float]]:
        return read_json(run.folder / "search" / f"{device}.json")["searchers"]["nsga2"]["history"]

    set_up(run, evaluations=200)
    search_fronts(run)
    alone = history("host_torch")[0]
    set_up(run, evaluations=200, share=True)
    search_fronts(run)
    first = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]["front"]
    shared = history("host_torch")[0]
    assert shared[0] == len(first) and shared[1] > alone[1]


@pytest.mark.parametrize("content", [{}, {"searchers": {}}, {"searchers": {"a": {"front": [{}]}}}, []])
def test_a_start_that_is_no_front_is_told(run: Run, tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "start.json", content)
    set_up(run, start=str(tmp_path / "start.json"))
    with pytest.raises(DamagedFileError, match=r"start\.json .*`nas search`"):
        search_fronts(run)


def test_a_budget_in_seconds_and_by_stalling(run: Run) -> None:
    set_up(run, evaluations=10**6, patience=200)
    search_fronts(run)
    found = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]
    assert found["stopped"] in ("stalled", "space") and found["evaluations"] <= run.space.size
    set_up(run, evaluations=10**6, seconds="0.001s")
    search_fronts(run)
    found = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]
    assert found["stopped"] == "seconds" and found["evaluations"] < run.space.size


def test_limits_that_cannot_be_met_together_name_the_closest(run: Run) -> None:
    tight = {"host_ort": 0.001}
    set_up(run, {"latency_ms": tight}, joint="worst")
    with pytest.raises(InfeasibleError, match=r"`limit\.latency_ms`=0.001 cannot be met"):
        search_fronts(run)


def test_genes_of_the_front_are_those_of_its_architectures(run: Run) -> None:
    set_up(run)
    search_fronts(run)
    found = read_json(run.folder / "search" / "host_ort.json")["searchers"]["nsga2"]["front"]
    genes = np.stack([Architecture.from_json(run.space, point["architecture"]).genes for point in found])
    values = problem_of(run, run.devices[0]).evaluate(genes)
    names = [o.name for o in problem_of(run, run.devices[0]).objectives]
    found_values = np.array([[point["values"][name] for name in names] for point in found])
    assert found_values == pytest.approx(values, rel=1e-9)
