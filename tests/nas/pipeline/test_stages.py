import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from hardware_profiles import DeviceProfile, Measurement, load_device
from hardware_profiles.latency_table import LatencyTable
from nas.core.searcher import Searcher
from nas.pipeline import running as pipeline
from nas.pipeline.running import run_all, run_stage
from nas.pipeline.stages import STAGES, Stage, _judge
from nas.run.fitting import fit_latency, predictor_maker
from nas.run.network_log import NetworkLog
from nas.run.networks import distinct_networks
from nas.run.objectives import problem_of
from nas.run.run_folder import Run, made_of
from nas.run.searching import search_fronts
from nas.run.settings import (
    ExportSettings,
    LabelSettings,
    ProfileSettings,
    SearchSettings,
    Settings,
)
from predictors import CorrectedLookup, GaussianProcess, PositionTable, save
from predictors.position_table import macs
from search_spaces import MobileNetV3, SearchSpace
from search_spaces.base.building import build
from search_spaces.base.errors import (
    DamagedFileError,
    FolderInUseError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
    NasError,
)
from search_spaces.base.folders import locked_folder
from search_spaces.base.storage import read_json, read_records, write_json

ONE = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=1, passes=1, noise=1, agreed=True)


def settings_of(device: Any = "host_ort", **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "profile": ProfileSettings(8, 2),
        "label": LabelSettings(14, 3, 64),
        "search": SearchSettings(100, False),
        "export": ExportSettings(3),
        "searcher": {"_target_": "nas.searchers.random.RandomSearch"},
    }
    return Settings(name="a", out="a", seed=0, device=device, **{**given, **changes})


@pytest.fixture
def run(tmp_path: Path, small_space: MobileNetV3) -> Run:
    run = Run(settings_of(), tmp_path, "nas run")
    run.__dict__["space"] = small_space  # in place of the one that the settings would build
    return run


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_stage_solves_with_one_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def look(run: Run) -> None:
        seen.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")

    monkeypatch.setattr(pipeline, "STAGES", {"look": Stage(look, lambda run: [], lambda run: [], lambda run: [])})
    with threadpool_limits(2, user_api="blas"):
        run_stage(run, "look")
    assert seen == {1}


# -- running and skipping ----------------------------------------------------------------------------------------------


@pytest.fixture
def done(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two stages that write down that they ran: the second reads what the first writes."""
    done: list[str] = []

    def write(name: str) -> Any:
        def stage(run: Run) -> None:
            done.append(name)
            path = run.folder / name / "out.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(run.settings.label.subnets if name == "first" else len(done)))

        return stage

    made = {
        name: Stage(
            write(name),
            lambda run: [run.settings.label.subnets],
            lambda run, reads=reads: [run.folder / read / "out.txt" for read in reads],
            lambda run, name=name: [run.folder / name / "out.txt"],
        )
        for name, reads in (("first", []), ("second", ["first"]))
    }
    monkeypatch.setattr(pipeline, "STAGES", made)
    return done


def test_a_folder_in_use_is_refused_before_anything_is_checked(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.pipeline.checks.check", None)  # it is not called
    with locked_folder(run.folder, "another command"):
        for start in (lambda: list(run_all(run)), lambda: run_stage(run, "first")):
            with pytest.raises(FolderInUseError, match="is in use by .*another command"):
                start()
    assert not done and not (run.folder / ".lock").exists()


def test_what_is_done_is_skipped(run: Run, done: list[str]) -> None:
    first = list(run_all(run))
    assert done == ["first", "second"]
    again = list(run_all(run))
    assert done == ["first", "second"] and [str(outcome) for outcome in again] == [
        "first    unchanged",
        "second   unchanged",
    ]
    assert [outcome.seconds for outcome in again] == [outcome.seconds for outcome in first]
    assert [entry["stage"] for entry in read_json(run.folder / "stages.json")] == ["first", "second"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda run: (run.folder / "second" / "out.txt").unlink(), ["second"]),
        (lambda run: (run.folder / "second" / "out.txt").write_text("damaged"), ["second"]),
        (lambda run: (run.folder / "first" / "out.txt").write_text("damaged"), ["first"]),
        (lambda run: setattr(run.settings, "seed", 1), ["first", "second"]),
        (lambda run: (run.folder / "stages" / "first.json").write_text("["), ["first"]),
        (lambda run: (run.folder / "stages" / "first.json").write_text("3"), ["first"]),
        (lambda run: (run.folder / "stages" / "first.json").write_text('{"made": {"../a": ""}}'), ["first"]),
        (lambda run: setattr(run.settings.label, "subnets", 15), ["first", "second"]),
        (lambda run: setattr(run.settings, "out", "b"), []),
        (lambda run: (run.folder / "stages" / "first.json").unlink(), ["first"]),
    ],
)
def test_what_changed_is_done_again(run: Run, done: list[str], change: Any, again: list[str]) -> None:
    list(run_all(run))
    done.clear()
    change(run)
    list(run_all(run))
    assert done == again


def test_a_stage_alone_is_never_skipped(run: Run, done: list[str]) -> None:
    run_stage(run, "first")
    run_stage(run, "first")
    assert done == ["first", "first"]


def test_a_stage_without_its_input_is_refused(run: Run, done: list[str]) -> None:
    with pytest.raises(InvalidValueError, match=r"`nas second` needs .*first/out\.txt.*Run `nas first`"):
        run_stage(run, "second")
    assert done == []


def test_a_broken_stage_is_not_complete(run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run) -> None:
        raise MeasurementError("broken")

    whole = pipeline.STAGES["first"]
    monkeypatch.setitem(pipeline.STAGES, "first", dataclasses.replace(whole, run=broken))
    with pytest.raises(MeasurementError, match="broken"):
        list(run_all(run))
    assert read_json(run.folder / "stages" / "first.json")["complete"] is False
    monkeypatch.setitem(pipeline.STAGES, "first", whole)
    list(run_all(run))
    assert done == ["first", "second"]


def test_every_file_that_a_stage_reads_is_written_by_an_earlier_one(run: Run) -> None:
    written: set[Path] = set()
    for name, stage in STAGES.items():
        assert set(stage.reads(run)) <= written, name
        written |= set(stage.writes(run))
        assert {path.relative_to(run.folder).parts[0] for path in stage.writes(run)} == {name}


def test_a_folder_belongs_to_one_space(run: Run, digits_space: MobileNetV3) -> None:
    run.claim_folder()
    run.claim_folder()
    (run.folder / "label").mkdir()
    (run.folder / "label" / "accuracy.jsonl").touch()
    other = Run(run.settings, run.folder, "nas run")
    other.__dict__["space"] = digits_space
    with pytest.raises(MismatchError, match="holds a run of space 'small'"):
        other.claim_folder()
    other.__dict__["space"] = build("space", {**made_of(run.folder)["space"], "classes": 3}, SearchSpace)
    with pytest.raises(MismatchError, match=r"space is 'small' \(\w+\), `classes` \d+ there and 3 here. Choose"):
        other.claim_folder()


def test_a_folder_without_results_belongs_to_nobody(run: Run, digits_space: MobileNetV3) -> None:
    run.claim_folder()
    settings = dataclasses.replace(run.settings, seed=7)
    other = Run(settings, run.folder, "nas run seed=7")
    other.__dict__["space"] = digits_space
    other.claim_folder()
    about = read_json(run.folder / "run.json")
    assert (about["space"], about["seed"], about["command"]) == (digits_space.name, 7, "nas run seed=7")


def test_the_folder_says_which_command_last_worked_in_it(run: Run, done: list[str]) -> None:
    list(run_all(run))
    created = read_json(run.folder / "run.json")["created"]
    again = Run(dataclasses.replace(run.settings, seed=3), run.folder, "nas run seed=3")
    again.__dict__["space"] = run.space
    list(run_all(again))
    about = read_json(run.folder / "run.json")
    assert (about["seed"], about["command"], about["created"]) == (3, "nas run seed=3", created)
    marker = read_json(run.folder / "stages" / "first.json")
    assert (marker["seed"], marker["command"]) == (3, "nas run seed=3")


def test_a_damaged_file_is_removed_before_its_stage_is_run(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    list(run_all(run))
    path, there = run.folder / "first" / "out.txt", []
    path.write_text("damaged")
    stage = pipeline.STAGES["first"]

    def look(run: Run) -> None:
        there.append(path.exists())
        stage.run(run)

    monkeypatch.setitem(pipeline.STAGES, "first", dataclasses.replace(stage, run=look))
    list(run_all(run))
    assert there == [False] and f"{path} is not as this run has written it" in caplog.text
    path.write_text("damaged")
    monkeypatch.setitem(pipeline.STAGES, "first", dataclasses.replace(stage, run=look, appends=True))
    list(run_all(run))
    assert there == [False, True]  # a log stays


# -- parts -------------------------------------------------------------------------------------------------------------


def test_generators_depend_on_seed_and_purpose(run: Run) -> None:
    def draw(*purpose: str | int) -> int:
        return int(run.rng(*purpose).integers(2**62))

    assert draw("label") == draw("label")
    drawn = {draw("label"), draw("networks"), draw("profile", "a"), draw("profile", "b"), draw("profile")}
    run.settings.seed = 1
    assert len(drawn | {draw("label")}) == 6


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "`a` must name what to make with `_target_`"),
        ({"_target_": "nas.nope.Nope"}, "`a` names nas.nope.Nope, which does not exist"),
        (
            {"_target_": "nas.searchers.nsga2.NSGA2", "size": 3},
            "`a.size`: nas.searchers.nsga2.NSGA2 has no setting 'size'",
        ),
        ({"_target_": "nas.searchers.nsga2.NSGA2", "population": 2}, "NSGA2 needs population >= 4"),
    ],
)
def test_build_refuses(node: dict[str, Any], message: str) -> None:
    with pytest.raises(NasError, match=message):
        build("a", node, Searcher)


# -- the problem of a device -------------------------------------------------------------------------------------------


@pytest.fixture
def fitted(run: Run, small_space: MobileNetV3) -> Run:
    """With predictors in its folder: latency, accuracy and memory."""
    rng = np.random.default_rng(0)
    genes = small_space.sample(30, rng)
    process = GaussianProcess(small_space)
    process.fit(genes, rng.random(30))
    lookup = CorrectedLookup(PositionTable.of_layers(small_space, "latency", "ms", lambda layer: layer.macs / 1e5))
    lookup.fit(genes, lookup.layers.predict(genes))
    memory = PositionTable.of_layers(small_space, "memory", "bytes", lambda layer: layer.peak_elements, combine="max")
    save(process, small_space, run.folder / "fit" / "accuracy.npz")
    save(lookup, small_space, run.folder / "fit" / "host_ort_latency.npz")
    save(memory, small_space, run.folder / "fit" / "host_ort_memory.npz")
    return run


@pytest.fixture
def device() -> DeviceProfile:
    return load_device("host_ort")


def limits_of(run: Run, device: DeviceProfile, **limits: Any) -> list[float | None]:
    run.settings.limit = limits
    return [objective.bound for objective in problem_of(run, device).objectives]


def test_limits_of_a_device(fitted: Run, device: DeviceProfile) -> None:
    fitted.__dict__["devices"] = [device, dataclasses.replace(device, name="other")]
    problem = problem_of(fitted, device)
    assert [(o.predictor.metric, o.direction) for o in problem.objectives] == [
        ("accuracy", "max"),
        ("latency", "min"),
        ("memory", None),
    ]
    biggest = float(problem.objectives[1].predictor.predict(fitted.space.biggest.genes[None])[0])
    assert limits_of(fitted, device) == [None, None, None]
    assert limits_of(fitted, device, latency_ms=0.5, memory_bytes=1000) == [None, 0.5, 1000]
    assert limits_of(fitted, device, latency_ms={"host_ort": 0.5}, memory_bytes={"other": 1}) == [None, 0.5, None]
    assert limits_of(fitted, device, latency_share=0.5) == [None, pytest.approx(0.5 * biggest), None]
    for share in (0.1, 0.9):  # milliseconds hold, whether tighter or not; the share is for devices that have none
        assert limits_of(fitted, device, latency_ms=share * biggest, latency_share=0.5)[1] == share * biggest
    elsewhere = {"latency_ms": {"other": 0.1}, "latency_share": 0.5}
    assert limits_of(fitted, device, **elsewhere)[1] == pytest.approx(0.5 * biggest)
    small = dataclasses.replace(device, memory_limit_bytes=2000)
    assert limits_of(fitted, small)[2] == 2000 and limits_of(fitted, small, memory_bytes=3000)[2] == 3000
    limits_of(fitted, small)
    limit = problem_of(fitted, small).objectives[2].limit
    assert limit is not None and limit.stated == "`limit.memory_bytes`=2000 (the memory that host_ort has)"


def test_a_memory_limit_without_memory_figures_is_on_the_computed_peak(fitted: Run, device: DeviceProfile) -> None:
    (fitted.folder / "fit" / "host_ort_memory.npz").unlink()
    assert len(limits_of(fitted, device)) == 2
    for limited, limits in ((device, {"memory_bytes": 5}), (dataclasses.replace(device, memory_limit_bytes=5), {})):
        assert limits_of(fitted, limited, **limits)[2] == 5


def test_the_front_file(fitted: Run, device: DeviceProfile) -> None:
    fitted.__dict__["devices"] = [device]
    fitted.settings.search.baseline = True
    fitted.settings.searcher = {"_target_": "nas.searchers.nsga2.NSGA2", "population": 20}
    search_fronts(fitted)
    found = read_json(fitted.folder / "search" / "host_ort.json")
    assert list(found["searchers"]) == ["nsga2", "random"]
    assert found["limits"] == {"latency_ms": None, "memory_bytes": None}
    for one in found["searchers"].values():
        assert one["evaluations"] == 100 == one["history"][-1][0] and one["hypervolume"] == one["history"][-1][1] > 0
        assert all(point["memory_bytes"] > 0 for point in one["front"])
    write_json(fitted.folder / "copy.json", found)  # nothing in it is infinite or NaN


def test_evaluations_for_the_export_are_found_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.pipeline.stages.label_conditions", lambda run: {"part": "validation"})
    evaluator: Any = macs(run.space)
    for _ in range(2):
        _judge(run, evaluator).predict(run.space.smallest.genes[None])
    assert [path.name for path in (run.folder / "export").iterdir()] == ["accuracy.jsonl"]
    _, rows = read_records(run.folder / "export" / "accuracy.jsonl")
    assert len(rows) == 1


# -- fitting on what other programs disturbed --------------------------------------------------------------------------


LATENCY = {
    "lookup": {"_target_": "predictors.CorrectedLookup", "_partial_": True},
    "ridge": {"_target_": "predictors.Regression", "_partial_": True, "regressor": {"_target_": "predictors.Ridge"}},
}


def disturbed_run(run: Run, space: MobileNetV3, disturbed: int, failing: Any = None) -> tuple[LatencyTable, NetworkLog]:
    """Every layer takes 1 ms and a network their sum, or five times that if it is one of the first few of its role."""
    table = LatencyTable(run.folder / "table.jsonl", "device", {})
    log = NetworkLog(run.folder / "networks.jsonl", space, {})
    for layer in space.distinct_layers:
        table.add(layer, ONE)
    if failing is not None:
        table.add_failure(failing, "too large")
    drawn = distinct_networks(space, 200, np.random.default_rng(0))
    able = [a for a in drawn if failing not in space.lower(a).values()]
    for role, some in (("fit", able[:16]), ("check", able[16:26]), ("check again", able[16:26])):
        for n, architecture in enumerate(some):
            ms = float(len(space.lower(architecture)))
            bad = n < disturbed and role != "check"
            more = {"latency_ms": 5 * ms, "agreed": False, "disturbed": 1.0} if bad else {"latency_ms": ms}
            log.add(role, architecture, dataclasses.replace(ONE, **more))
    return table, log


@pytest.mark.parametrize("latency", list(LATENCY))
def test_networks_that_were_disturbed_are_neither_fitted_nor_judged_by(
    run: Run, small_space: MobileNetV3, latency: str
) -> None:
    make = predictor_maker("latency", LATENCY[latency])
    predictor, quality = fit_latency(small_space, *disturbed_run(run, small_space, 3), make)
    assert quality.trained_on == 13 and len(quality.held_out.truth) == 7
    assert quality.held_out.predicted == pytest.approx(quality.held_out.truth, rel=0.05)
    assert any("disturbed 3 networks that the fit therefore leaves out" in doubt for doubt in quality.doubts)
    assert any("disturbed 3 of the 10 networks that judge a predictor: these are left" in d for d in quality.doubts)


def test_where_most_are_disturbed_all_count_and_that_is_said(run: Run, small_space: MobileNetV3) -> None:
    make = predictor_maker("latency", LATENCY["lookup"])
    _, quality = fit_latency(small_space, *disturbed_run(run, small_space, 9), make)
    assert quality.trained_on == 16 and len(quality.held_out.truth) == 10
    assert any("disturbed 9 of the 10 networks that judge a predictor: these judge" in d for d in quality.doubts)


def test_a_doubt_of_the_correction_is_said_by_the_fit_alone(
    run: Run, digits_space: MobileNetV3, caplog: pytest.LogCaptureFixture
) -> None:
    """Limits are compared with a fit of their own, which is as silent as it is thrown away."""
    table, _ = disturbed_run(run, digits_space, 0)
    log = NetworkLog(run.folder / "deep.jsonl", digits_space, {})
    sums = {a: len(digits_space.lower(a)) for a in distinct_networks(digits_space, 300, np.random.default_rng(0))}
    deep = [a for a, ms in sums.items() if ms > np.median([*sums.values()])]  # small ones would take no time
    least = min(sums[a] for a in deep)
    for role, some in (("fit", deep[:40]), ("check", deep[40:50]), ("check again", deep[40:50])):
        for architecture in some:
            log.add(role, architecture, dataclasses.replace(ONE, latency_ms=10.0 * sums[architecture] - 9.5 * least))
    _, quality = fit_latency(digits_space, table, log, predictor_maker("latency", LATENCY["lookup"]))
    (said,) = (doubt for doubt in quality.doubts if "fit the measured networks best" in doubt)
    assert "Simpler terms are taken" in said and not caplog.text


@pytest.mark.parametrize("latency", list(LATENCY))
def test_no_predictor_gives_a_time_to_what_the_device_cannot_run(
    run: Run, small_space: MobileNetV3, latency: str
) -> None:
    make = predictor_maker("latency", LATENCY[latency])
    failing = next(layer for layer in small_space.distinct_layers if getattr(layer, "kernel", 0) == 5)
    predictor, _ = fit_latency(small_space, *disturbed_run(run, small_space, 0, failing), make)
    drawn = distinct_networks(small_space, 100, np.random.default_rng(1))
    able = np.array([failing not in small_space.lower(a).values() for a in drawn])
    assert np.array_equal(np.isfinite(predictor.predict(np.stack([a.genes for a in drawn]))), able) and 0 < able.sum()


def test_a_file_that_was_changed_is_not_used(run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage(run, "first")
    (run.folder / "first" / "out.txt").write_text("changed")
    run_stage(run, "second")  # of a stage whose files anyone may change
    monkeypatch.setitem(pipeline.STAGES, "first", dataclasses.replace(pipeline.STAGES["first"], sealed=True))
    with pytest.raises(DamagedFileError, match="out.txt is not as `nas first` left it"):
        run_stage(run, "second")
    run_stage(run, "first")
    run_stage(run, "second")
    assert done == ["first", "second", "first", "second"]
