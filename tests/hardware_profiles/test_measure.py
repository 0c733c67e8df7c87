"""The arithmetic of the protocol, fed with scripted samples; no device is involved."""

import dataclasses
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import DeviceProfile, Measurement, Model, measure
from hardware_profiles.backends.base import Backend, Capabilities, Loaded, Values, reported_values
from hardware_profiles.device import load_device
from hardware_profiles.host import Sample
from hardware_profiles.measure import Journal, Measurer, Pass, Reference, quartile_bounds
from search_spaces import Conv, MBConv
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
)
from search_spaces.metric import MEMORY, Metric

Script = Callable[[int], float]
"""Milliseconds of the n-th sample."""


@dataclass
class Scripted(Loaded):
    name: str
    script: Script
    calls: list[tuple[str, int]]
    reported: Sequence[Values] = ({},)
    taken: int = 0
    asked: int = 0

    def sample_ms(self, runs: int) -> float:
        self.calls.append((self.name, runs))
        self.taken += 1
        return self.script(self.taken - 1)

    def values(self, runs: int) -> Values:
        self.asked += 1
        return self.reported[(self.asked - 1) % len(self.reported)]

    def positions_ms(self, runs: int) -> dict[str, float]:
        self.taken += 1
        return {"first": self.script(self.taken - 1) / 2, "second": 0.0}


@dataclass
class ScriptedBackend(Backend):
    scripts: dict[str, Script]
    reported: Sequence[Values] = ({},)
    capabilities: Capabilities = Capabilities(estimates=True)
    calls: list[tuple[str, int]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, Any]:
        return {}

    def load(self, model: Model) -> Loaded:
        (name,) = model.layers
        if name not in self.scripts:
            raise MeasurementError(f"{name} does not compile")
        return Scripted(name, self.scripts[name], self.calls, self.reported)


MEASURES = Capabilities()


def profile(**changes: Any) -> DeviceProfile:
    settings: dict[str, Any] = {"warm_up": 0, "runs": 4, "sample_ms": 0, "passes": 2, "max_passes": 5, "agreement": 1.1}
    settings |= {"loads": 1, "pass_seconds": 0}
    return DeviceProfile(name="scripted", title="", backend="table", **{**settings, **changes})


def run(
    backend: ScriptedBackend, names: list[str], how: DeviceProfile, seed: int = 0, **keywords: Any
) -> dict[str, Any]:
    return dict(Measurer(backend, how, np.random.default_rng(seed), **keywords).measure(models(*names)))


def models(*names: str) -> list[tuple[str, Model]]:
    return [(name, Model({name: Conv(1, 1, 1, 1, "none", 1)})) for name in names]


def constant(ms: float) -> Script:
    return lambda _: ms


def by_pass(*levels: float, runs: int = 4) -> Script:
    """One probing sample and `runs` samples of each pass at its level; the last level goes on."""
    return lambda n: levels[min(n // (runs + 1), len(levels) - 1)]


def test_equal_passes_agree_at_once() -> None:
    able = Capabilities(estimates=True, metrics=(MEMORY,))
    result = run(ScriptedBackend({"a": constant(2.0)}, [{"memory_bytes": 77}], able), ["a"], profile())["a"]
    assert result == Measurement(
        *(2, 2, 2, 2), runs=8, passes=2, noise=1, agreed=True, values={"memory_bytes": 77}, low_ms=2, high_ms=2
    )


def test_memory_is_none_where_the_tools_do_not_tell() -> None:
    assert run(ScriptedBackend({"a": constant(2.0)}), ["a"], profile())["a"].values == {}


ENERGY = Metric("energy_mj", "mJ", of_layers="sum")


def test_other_metrics_are_typical_of_the_passes() -> None:
    """The lower median, which was reported: here of 3, 9 and 4 mJ in as many passes."""
    able = Capabilities(estimates=True, metrics=(MEMORY, ENERGY))
    reported = [{"energy_mj": mj, "memory_bytes": 77} for mj in (3.0, 9.0, 4.0)]
    backend = ScriptedBackend({"a": constant(2.0)}, reported, able)
    found = run(backend, ["a"], profile(passes=3, loads=1))["a"]
    assert (found.value("energy_mj"), found.value("memory_bytes"), found.value("latency_ms")) == (4.0, 77, 2.0)
    written = found.to_json()
    assert written["energy_mj"] == 4.0 and Measurement.from_json(written) == found
    assert list(written)[8:10] == ["memory_bytes", "energy_mj"] and type(written["memory_bytes"]) is int
    with pytest.raises(MismatchError, match="No co2_g was reported"):
        found.value("co2_g")


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        ({}, "declares energy_mj, but does not report it"),
        ({"energy_mj": math.nan}, "energy_mj must be a finite number >= 0, but the device gave nan"),
        ({"energy_mj": -1.0}, "energy_mj must be a finite number >= 0, but the device gave -1"),
        ({"energy_mj": 1.0, "power_w": 1.0}, "reports power_w, but does not declare it"),
    ],
)
def test_values_that_are_none_are_refused_by_name(reported: Values, message: str) -> None:
    backend = ScriptedBackend({"a": constant(2.0)}, [reported], Capabilities(estimates=True, metrics=(ENERGY,)))
    found = run(backend, ["a"], profile())["a"]
    assert isinstance(found, MeasurementError) and message in str(found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"energy_mj": 1.0}, r"is a method, `def values\(self, runs\)`, .*but it is .* a method, not a property"),
        (lambda runs: 1.0, r"such as \{\"energy_mj\": 1.5\}, but it gave 1.0"),
        (lambda runs: {"energy_mj": "1.0"}, "but energy_mj is '1.0'"),
    ],
)
def test_values_that_are_no_method_or_no_numbers_end_the_measuring(values: Any, message: str) -> None:
    backend = ScriptedBackend({"a": constant(2.0)}, [{}], Capabilities(estimates=True, metrics=(ENERGY,)))
    loaded = Scripted("a", constant(2.0), [])
    loaded.values = values  # type: ignore[method-assign]
    with pytest.raises(InvalidValueError, match=message):
        reported_values(loaded, 1, backend.capabilities.metrics)


def test_capabilities_of_wrong_types_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"`metrics` of .* a list of Metric, such as .*got \('energy_mj',\)"):
        Capabilities(metrics=("energy_mj",))  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="`required` of a backend's Capabilities must be a list of str"):
        Capabilities(required="path")  # type: ignore[arg-type]


def test_passes_are_repeated_until_the_two_lowest_agree() -> None:
    result = run(ScriptedBackend({"a": by_pass(5, 9, 7, 5.5, 1)}), ["a"], profile())["a"]
    assert (result.passes, result.agreed) == (4, True)  # 5 and 5.5 agree; the fifth pass is not taken
    assert result.latency_ms == pytest.approx(5.25) and result.noise == pytest.approx(1.1)
    assert result.median_ms == pytest.approx(np.median([5, 9, 7, 5.5])) and result.runs == 16


def test_agreement_is_only_asked_after_the_stated_number_of_passes() -> None:
    result = run(ScriptedBackend({"a": by_pass(5, 5, 4, 4)}), ["a"], profile(passes=3, agreement=1.01))["a"]
    assert result.passes == 4 and result.latency_ms == 4


def test_what_never_agrees_says_so() -> None:
    result = run(ScriptedBackend({"a": by_pass(32, 16, 8, 4, 2)}), ["a"], profile())["a"]
    assert (result.passes, result.agreed, result.noise) == (5, False, 2.0)
    assert result.latency_ms == 3.0


def test_one_pass_is_enough_where_the_profile_says_so() -> None:
    result = run(ScriptedBackend({"a": by_pass(5, 9)}), ["a"], profile(passes=1, max_passes=1, runs=1))["a"]
    assert (result.latency_ms, result.runs, result.passes, result.noise) == (5, 1, 1, 1)


def test_a_pass_counts_as_the_lower_quartile_of_its_samples() -> None:
    script: Script = lambda n: [0, 1, 2, 3, 4, 100][n % 6] or 1.0  # noqa: E731 - the first probes
    result = run(ScriptedBackend({"a": script}), ["a"], profile(runs=5))["a"]
    samples = [1, 2, 3, 4, 100] * 2
    assert result.latency_ms == np.quantile(samples[:5], 0.25) == 2
    assert (result.median_ms, result.p10_ms) == (3, np.quantile(samples, 0.1))
    assert result.p90_ms == np.quantile(samples, 0.9)


@pytest.mark.parametrize(
    ("ms", "sample_ms", "runs"),
    [(0.1, 0.5, 5), (0.01, 0.5, 50), (0.5, 0.5, 1), (4.0, 0.5, 1), (0.0, 0.5, 1), (1, 0, 1)],
)
def test_a_sample_repeats_short_runs(ms: float, sample_ms: float, runs: int) -> None:
    backend = ScriptedBackend({"a": constant(ms)})
    run(backend, ["a"], profile(warm_up=3, sample_ms=sample_ms, passes=1, max_passes=1))
    assert backend.calls == [("a", 1), ("a", 3)] + [("a", runs)] * 4


def test_the_warm_run_decides_how_often_a_sample_runs() -> None:
    backend = ScriptedBackend({"a": lambda n: [10.0, 0.1][min(n, 1)]})
    run(backend, ["a"], profile(warm_up=2, sample_ms=1, passes=1, max_passes=1))
    assert backend.calls == [("a", 1), ("a", 2)] + [("a", 10)] * 4  # not once, as the cold first run would say


def orders(calls: list[tuple[str, int]], per_pass: int, items: int) -> Iterator[list[str]]:
    names = [name for name, _ in calls]
    blocks = [names[i : i + per_pass] for i in range(0, len(names), per_pass)]
    assert all(len(set(block)) == 1 for block in blocks)  # a pass over an item is not interrupted
    firsts = [block[0] for block in blocks]
    for i in range(0, len(firsts), items):
        yield firsts[i : i + items]


def test_every_pass_goes_through_all_items_in_a_new_order() -> None:
    names = [f"n{i}" for i in range(12)]

    def all_orders(seed: int) -> list[list[str]]:
        backend = ScriptedBackend({name: constant(1.0) for name in names})
        assert set(run(backend, names, profile(passes=3), seed)) == set(names)
        return list(orders(backend.calls, 5, len(names)))

    found = all_orders(0)
    assert len(found) == 3 and all(sorted(order) == sorted(names) for order in found)
    assert len({tuple(order) for order in [*found, names]}) == 4
    assert all_orders(0) == found != all_orders(1)


def test_only_what_disagrees_is_measured_again() -> None:
    backend = ScriptedBackend({"calm": constant(1.0), "noisy": by_pass(4, 2, 1, 1)})
    results = run(backend, ["calm", "noisy"], profile())
    assert [results[name].passes for name in ("calm", "noisy")] == [2, 4]
    assert sum(name == "calm" for name, _ in backend.calls) == 2 * 5


def fail_at(n: int) -> Script:
    def script(i: int) -> float:
        if i == n:
            raise MeasurementError("the device is gone")
        return 1.0

    return script


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "does not compile"),
        (fail_at(0), "gone"),
        (fail_at(7), "gone"),
        (constant(0.0), "positive"),
        (constant(float("nan")), "positive"),
        (constant(float("inf")), "positive"),
        (constant(-1.0), "positive"),
    ],
)
def test_a_failure_stays_with_its_item(script: Script | None, message: str) -> None:
    scripts = {"before": constant(1.0), "after": constant(2.0)} | ({} if script is None else {"bad": script})
    results = run(ScriptedBackend(scripts), ["before", "bad", "after"], profile())
    assert isinstance(results["bad"], MeasurementError) and message in str(results["bad"])
    assert (results["before"].latency_ms, results["after"].latency_ms) == (1, 2)


def test_other_errors_are_not_swallowed() -> None:
    def broken(_: int) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(ScriptedBackend({"a": broken}), ["a"], profile())


@pytest.mark.parametrize(
    ("limit", "size"), [({"group_size": 3}, 3), ({"group_size": 0}, 1), ({"group_seconds": 0.0}, 1), ({}, 7)]
)
def test_groups_are_measured_one_after_the_other(limit: dict[str, Any], size: int) -> None:
    names = [f"n{i}" for i in range(7)]
    backend = ScriptedBackend({name: constant(i + 1.0) for i, name in enumerate(names)})
    results = run(backend, names, profile(), **limit)
    assert {name: results[name].latency_ms for name in names} == {name: i + 1.0 for i, name in enumerate(names)}
    assert {name for name, _ in backend.calls[: size * 10]} == set(names[:size])  # 2 passes of 5 samples each


class SlowFirstLoad(ScriptedBackend):
    """The first load of a model is slow in all its passes, as one with unlucky places in memory."""

    def load(self, model: Model) -> Loaded:
        (name,) = model.layers
        seen = sum(1 for load in self.loads if load == name)
        self.loads.append(name)
        return Scripted(f"{name}{seen}", constant(1.0 if seen else 1.5), self.calls)

    loads: list[str]


def test_passes_take_turns_over_the_loads_so_an_unlucky_one_does_not_count() -> None:
    backend = SlowFirstLoad({})
    backend.loads = []
    result = run(backend, ["a"], profile(passes=4, loads=2))["a"]
    assert [name for name, _ in backend.calls[::5]] == ["a0", "a1", "a0", "a1"]
    assert (result.latency_ms, result.noise, result.agreed) == (1.0, 1.0, True)


class SlowForAWhile(ScriptedBackend):
    """The device takes twice as long for everything from its 6th sample to its 60th."""

    clock: int = 0

    def load(self, model: Model) -> Loaded:
        def script(_: int) -> float:
            self.clock += 1
            return 2.0 if 5 < self.clock <= 60 else 1.0

        return Scripted(next(iter(model.layers)), script, self.calls)


def test_passes_while_the_reference_is_slow_do_not_count() -> None:
    how = profile(passes=2, max_passes=10)
    measurer = Measurer(SlowForAWhile({}, capabilities=MEASURES), how, np.random.default_rng(0))
    ((_, result),) = measurer.measure(models("a"))
    assert isinstance(result, Measurement)
    assert (result.latency_ms, result.reference_ms) == (1.0, 1.0) and result.passes > 2
    # Without a reference, two slow passes agree with each other.
    backend = SlowForAWhile({})
    backend.clock = 5
    ((_, wrong),) = measure(models("a"), backend, how, np.random.default_rng(0))
    assert isinstance(wrong, Measurement) and wrong.latency_ms == 2.0 and wrong.reference_ms is None


def test_what_had_to_rest_on_slow_passes_says_so() -> None:
    backend = ScriptedBackend({"a": constant(3.0), "layer": constant(2.0)}, capabilities=MEASURES)
    measurer = Measurer(backend, profile(max_passes=3), np.random.default_rng(0), best_ms=1.0)
    ((_, result),) = measurer.measure(models("a"))
    assert isinstance(result, Measurement) and (result.reference_ms, result.passes) == (2.0, 6)
    assert measurer.was_slow(result) and measurer.references_ms() == [2.0]


# -- other programs ----------------------------------------------------------------------------------------------------


@dataclass
class Disturbed(Scripted):
    """Each sample takes four times as long while other programs run, of which the system gives a quarter."""

    busy: Callable[[int], bool] = lambda n: True
    seen: int = 0

    def sample(self, runs: int) -> Sample:
        busy, ms = self.busy(self.seen), self.sample_ms(runs)
        self.seen += 1
        return Sample(4 * ms, 0.25, True) if busy else Sample(ms, 1.0, False)


@dataclass
class DisturbedBackend(ScriptedBackend):
    busy: Callable[[int], bool] = lambda n: True
    loaded: list[Disturbed] = field(default_factory=list)

    def load(self, model: Model) -> Loaded:
        (name,) = model.layers
        self.loaded.append(Disturbed(name, self.scripts[name], self.calls, busy=self.busy))
        return self.loaded[-1]


def disturbed(busy: Callable[[int], bool], script: Script = lambda n: 1.0, **changes: Any) -> tuple[Any, Disturbed]:
    backend = DisturbedBackend({"a": script}, busy=busy)
    result = run(backend, ["a"], profile(**changes))["a"]
    assert isinstance(result, Measurement)
    return result, backend.loaded[0]


def test_disturbed_samples_are_dropped_and_taken_again() -> None:
    result, loaded = disturbed(lambda n: n % 3 == 0, passes=2, runs=4)
    assert (result.latency_ms, result.p90_ms, result.agreed, result.disturbed) == (1.0, 1.0, True, 0.0)
    assert result.runs == 8 and loaded.seen > 8


def test_what_is_always_disturbed_rests_on_its_own_time_and_says_so() -> None:
    result, loaded = disturbed(lambda n: True, passes=3, max_passes=10, runs=4)
    assert (result.latency_ms, result.agreed, result.disturbed) == (1.0, False, 1.0) and result.is_disturbed
    assert loaded.seen == 3 * 4  # neither more samples nor more passes than asked for: they would be as disturbed


def test_few_undisturbed_samples_are_not_enough() -> None:
    result, loaded = disturbed(lambda n: n % 8 != 0, passes=2, runs=4)  # one of 8 in each pass
    assert not result.agreed and result.disturbed == 0.875 and loaded.seen == 2 * 8


def test_undisturbed_passes_are_preferred() -> None:
    # Its own time is a little longer, as the caches are cold. The first pass is disturbed, and counts for nothing.
    result, _ = disturbed(lambda n: n < 4, script=lambda n: 1.5 if n < 5 else 1.0, passes=2, runs=4)
    assert (result.latency_ms, result.agreed, result.disturbed, result.passes) == (1.0, True, 0.0, 3)


def test_one_pass_is_enough_where_one_is_asked_for() -> None:
    """The first is taken while the reference, and the device, is slow."""
    scripts = {"layer": lambda n: 2.0 if n < 12 else 1.0, "a": by_pass(4.0, 1.0)}
    backend = ScriptedBackend(scripts, capabilities=MEASURES)
    result = run(backend, ["a"], profile(passes=1), best_ms=1.0)["a"]
    assert isinstance(result, Measurement)
    assert (result.latency_ms, result.agreed) == (1.0, True)


def test_a_reference_takes_its_best_from_quiet_samples() -> None:
    busy = [False]
    reference = Reference(Disturbed("layer", constant(2.0), [], busy=lambda n: busy[0]))
    assert reference.now() == 2.0 and reference.best_ms == 2.0
    busy[0] = True
    reference.loaded = Disturbed("layer", constant(1.0), [], busy=lambda n: busy[0])
    assert reference.now() == 1.0 and reference.best_ms == 2.0


def test_a_reference_runs_about_as_long_as_what_it_accompanies() -> None:
    for beside_ms, each_ms in ((0.0, 0.2), (0.1, 0.2), (4.0, 2.0), (1000.0, 5.0)):
        loaded = Scripted("layer", constant(0.05), [])
        Reference(loaded).now(beside_ms)
        assert [runs for _, runs in loaded.calls] == [3, *[round(each_ms / 0.05)] * 5]


class _Busy:
    """Other programs on all CPUs."""

    def __enter__(self) -> None:
        n = 4 * (os.cpu_count() or 1)
        self.spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]

    def __exit__(self, *_: object) -> None:
        for process in self.spinning:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_on_a_busy_computer_a_measurement_is_right_or_says_that_it_is_not() -> None:
    """A real session, whose run is longer than the system leaves a CPU to one program."""
    layer = MBConv(64, 64, 384, True, 5, 1, 0, "relu", 56)
    how = dataclasses.replace(load_device("host_ort"), pass_seconds=0.05)
    backend = how.open()

    def measured() -> Measurement:
        ((_, result),) = measure([("a", Model.of_layer(layer))], backend, how, np.random.default_rng(0))
        assert isinstance(result, Measurement) and result.disturbed is not None
        return result

    quiet = measured()
    with _Busy():
        busy = measured()
    ratio = busy.latency_ms / quiet.latency_ms
    assert not (quiet.agreed and busy.agreed) or abs(ratio - 1) < 0.1
    assert 0.6 < ratio < 1.6  # be it flagged: by the clock on the wall it would be 4 times as long
    assert busy.median_ms < 2.5 * quiet.median_ms


def test_estimates_need_no_reference() -> None:
    assert Reference.on(ScriptedBackend({"layer": constant(1.0)}, capabilities=Capabilities(estimates=True))) is None
    assert Reference.on(ScriptedBackend({}, capabilities=MEASURES)) is None  # the device cannot run it


def test_passes_start_at_different_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    run(ScriptedBackend({"a": constant(1.0)}), ["a"], profile(passes=3, pass_seconds=0.5))
    assert waits == [0.0, 0.5, 0.5]


def test_nothing_to_measure() -> None:
    assert run(ScriptedBackend({}), [], profile()) == {}


# -- in context, journal, boards ---------------------------------------------------------------------------------------


def test_positions_are_the_mean_of_the_two_lowest_passes() -> None:
    backend = ScriptedBackend({"a": by_pass(4, 2, 3, 3.1, runs=5)})  # a probe, 4 samples and a look inside
    measurer = Measurer(backend, profile(passes=4), np.random.default_rng(0))
    ((_, result),) = measurer.measure(models("a"), in_context=True)
    assert isinstance(result, Measurement) and result.positions_ms == {"first": 1.25, "second": 0.0}
    assert Measurement.from_json(result.to_json()) == result


class SplitsBadly(Scripted):
    def positions_ms(self, runs: int) -> dict[str, float]:
        return {"first": math.nan}


class SplitsBadlyBackend(ScriptedBackend):
    def load(self, model: Model) -> Loaded:
        return SplitsBadly("a", constant(1.0), self.calls)


def test_a_split_that_is_no_number_is_an_error_of_its_item() -> None:
    measurer = Measurer(SplitsBadlyBackend({}), profile(), np.random.default_rng(0))
    ((_, result),) = measurer.measure(models("a"), in_context=True)
    assert isinstance(result, MeasurementError) and "'first'" in str(result)


def test_the_interval_of_the_quartile_covers_it_as_often_as_it_says(rng: np.random.Generator) -> None:
    def covered(n: int) -> float:
        bounds = [quartile_bounds(samples.tolist()) for samples in rng.lognormal(size=(2000, n))]
        truth = math.exp(-0.6744897501960817)  # the quartile of a standard log-normal variable
        return float(np.mean([low <= truth <= high for low, high in bounds]))

    assert covered(64) == pytest.approx(0.96, abs=0.02)
    assert covered(16) >= 0.94
    assert quartile_bounds([3.0]) == (3.0, 3.0)


def interrupted(backend: ScriptedBackend, path: Path, after: int) -> dict[str, Any]:
    """Results until the n-th sample, at which the process is stopped."""

    def stop(n: int) -> float:
        if len(backend.calls) > after:
            raise KeyboardInterrupt
        return 1.0

    backend.scripts = dict.fromkeys(backend.scripts, stop)
    results: dict[str, Any] = {}
    with pytest.raises(KeyboardInterrupt):
        measurer = Measurer(backend, profile(), np.random.default_rng(0), journal=Journal(path, {}))
        results.update(measurer.measure(models(*backend.scripts)))
    return results


def test_a_stopped_measurement_continues_with_the_pass_it_was_in(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    backend = ScriptedBackend(dict.fromkeys(names, constant(1.0)))
    results = interrupted(backend, tmp_path / "j", after=22)  # in the fifth pass of 5 samples, of 6 in all
    journal = Journal(tmp_path / "j", {})
    again = ScriptedBackend(dict.fromkeys(names, constant(1.0)))
    rest = models(*(name for name in names if name not in results))
    results |= dict(Measurer(again, profile(), np.random.default_rng(1), journal=journal).measure(rest))
    assert set(results) == set(names) and all(
        isinstance(r, Measurement) and (r.passes, r.runs) == (2, 8) for r in results.values()
    )
    assert len(again.calls) == 2 * 5
    other = dict(
        Measurer(again, profile(), np.random.default_rng(1), journal=journal).measure(models("a"), purpose="b")
    )
    assert len(again.calls) == 4 * 5 and set(other) == {"a"}  # of another purpose: measured anew
    slower = ScriptedBackend(dict.fromkeys(names, constant(3.0)))
    for kept in (journal, Journal(tmp_path / "j", {})):  # what is final is measured anew, in whatever process
        ((_, result),) = Measurer(slower, profile(), np.random.default_rng(1), journal=kept).measure(models("a"))
        assert isinstance(result, Measurement) and (result.latency_ms, result.passes) == (3.0, 2)
    journal.remove()
    assert not (tmp_path / "j").exists()


def test_a_damaged_row_of_the_journal_is_a_pass_taken_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {})
    journal.add("key", Pass([1.0, 2.0], 0.5))
    with open(tmp_path / "j", "a") as file:
        file.write('{"key": "key"}\n{"key": "key", "pass": {"sam')
    assert Journal(tmp_path / "j", {}).passes("key") == [Pass([1.0, 2.0], 0.5)]
    with pytest.raises(MismatchError, match="other conditions"):
        Journal(tmp_path / "j", {"threads": 2})


@dataclass
class Boards(Backend):
    """Several boards, each of which can be lost after so many samples."""

    lives: list[int]
    """Samples of each board until it is lost."""
    restarts: int = 0
    """How often all boards come back."""
    capabilities: Capabilities = Capabilities(estimates=True)
    made: list[ScriptedBackend] = field(default_factory=list)
    meet: threading.Barrier | None = None
    """Where boards wait for each other before their first sample."""

    @property
    def environment(self) -> dict[str, Any]:
        return {}

    def load(self, model: Model) -> Loaded:
        raise AssertionError("models are loaded on boards")

    def boards(self) -> list[ScriptedBackend]:
        if self.made and self.restarts == 0:
            raise DeviceUnavailableError("no board answers")
        self.restarts -= bool(self.made)
        new = [self._board(life) for life in self.lives]
        self.made += new
        return new

    def _board(self, life: int) -> ScriptedBackend:
        board = ScriptedBackend({})

        def script(_: int) -> float:
            if self.meet is not None and len(board.calls) == 1:
                self.meet.wait(120)
            if len(board.calls) > life:
                raise DeviceLostError("the board does not answer")
            return 1.0

        board.scripts = {name: script for name in NAMES}
        return board


NAMES = [f"n{i}" for i in range(12)]


def on(backend: Boards) -> dict[str, Any]:
    return dict(Measurer(backend, profile(), np.random.default_rng(0), group_size=3).measure(models(*NAMES)))


def test_boards_share_the_work_at_the_same_time() -> None:
    backend = Boards([1000, 1000], meet=threading.Barrier(2))
    results = on(backend)
    assert all(isinstance(results[name], Measurement) for name in NAMES)
    done = [{name for name, _ in board.calls} for board in backend.made]
    assert done[0] and done[1] and not done[0] & done[1]


def test_what_a_lost_board_has_not_finished_goes_to_another() -> None:
    backend = Boards([7, 1000], meet=threading.Barrier(2))
    results = on(backend)
    assert all(isinstance(results[name], Measurement) and results[name].passes == 2 for name in NAMES)
    assert len(backend.made) == 2 and len(backend.made[0].calls) == 8


def test_boards_that_come_back_are_used_again() -> None:
    backend = Boards([32], restarts=5)
    assert all(isinstance(result, Measurement) for result in on(backend).values())
    assert len(backend.made) == 4  # 12 items of 10 samples, and passes that were begun are lost


def test_a_device_that_stays_away_ends_the_measuring() -> None:
    with pytest.raises(DeviceUnavailableError, match="no board answers"):
        on(Boards([20]))


def test_an_item_that_costs_two_boards_is_given_up() -> None:
    def kills(_: int) -> float:
        raise DeviceLostError("the board does not answer")

    class OneKills(Boards):
        def _board(self, life: int) -> ScriptedBackend:
            board = super()._board(life)
            board.scripts["n4"] = kills
            return board

    backend = OneKills([1000], restarts=100)
    results = on(backend)
    assert "lost twice at this: the board does not answer" in str(results.pop("n4")) and len(backend.made) == 3
    assert all(isinstance(result, Measurement) for result in results.values()) and len(results) == len(NAMES) - 1


def test_a_board_that_is_lost_before_it_measured_anything_is_left_out() -> None:
    backend = Boards([0, 1000], capabilities=MEASURES)
    for board in (made := backend.boards()):
        board.capabilities = MEASURES
        board.scripts["layer"] = board.scripts["n0"]  # the reference
    backend.boards = lambda: made  # type: ignore[method-assign]
    measurer = Measurer(backend, profile(), np.random.default_rng(0))
    assert measurer.boards == [made[1]]
    assert all(isinstance(result, Measurement) for _, result in measurer.measure(models(*NAMES)))


def test_a_board_that_breaks_otherwise_is_not_swallowed() -> None:
    backend = Boards([1000, 1000])
    first, second = backend.boards()
    second.scripts = dict.fromkeys(NAMES, lambda _: 1 // 0)
    backend.made, backend.boards = [], lambda: [first, second]  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        on(backend)


def test_what_somebody_else_has_done_is_not_loaded() -> None:
    backend = ScriptedBackend({"a": constant(1.0), "b": constant(1.0)})
    measurer = Measurer(backend, profile(), np.random.default_rng(0))
    assert [item for item, _ in measurer.measure(models("a", "b"), is_done=lambda item: item == "a")] == ["b"]


GOOD = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=8, passes=2, noise=1, agreed=True)


def test_measurement_round_trip() -> None:
    assert Measurement.from_json(GOOD.to_json()) == GOOD
    assert Measurement.from_json({**GOOD.to_json(), "colour": "red"}) == GOOD  # of a newer version


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "fast",
        {},
        {**GOOD.to_json(), "latency_ms": "1"},
        {**GOOD.to_json(), "latency_ms": None},
        {**GOOD.to_json(), "p90_ms": "1"},
        {**GOOD.to_json(), "latency_ms": 0},
        {**GOOD.to_json(), "latency_ms": float("nan")},
        {**GOOD.to_json(), "noise": float("inf")},
        {**GOOD.to_json(), "median_ms": float("nan")},
    ],
)
def test_what_is_no_measurement_is_refused(bad: Any) -> None:
    with pytest.raises((InvalidValueError, MeasurementError)):
        Measurement.from_json(bad)
