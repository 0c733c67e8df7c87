"""Searching over the command line, on the fitted predictors and the trained supernet of a finished run."""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from nas.core.problem import Objective, Problem
from nas.core.search_loop import SearchResult
from nas.run.fronts import read_fronts
from nas.run.records import Search
from nas.run.run_folder import Run
from nas.run.searching import baselines_of, front_of
from predictors import macs
from search_spaces import Staged
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_json
from tests.nas.conftest import Outcome
from tests.nas.pipeline.test_stages import settings_of

Command = Callable[..., Outcome]


@pytest.fixture
def searched(nas_command: Command, finished: Path) -> Callable[..., Outcome]:
    """Runs ``nas search`` in the folder of a finished run."""

    def search(*arguments: str) -> Outcome:
        shutil.rmtree(finished / "search", ignore_errors=True)
        return nas_command("search", f"out={finished}", *arguments)

    return search


def device_of(folder: Path) -> str:
    return next(folder.glob("profile/*")).name


# -- names of searchers, and their files -------------------------------------------------------------------------------


def test_a_searcher_is_called_as_its_yaml(finished: Path, searched: Command, nas_command: Command) -> None:
    device = device_of(finished)
    assert searched("searcher=tpe", "search.evaluations=20").code == 0
    assert nas_command("search", f"out={finished}", "searcher=optuna_nsga2", "search.evaluations=20").code == 0
    for name in ("tpe", "optuna_nsga2"):
        path = finished / "search" / device / f"{name}.json"
        assert list(read_fronts(path)) == [name, "random"]
        assert path.with_suffix(".npz").exists()
    compared = nas_command("front", *map(str, ["compare", *(finished / "search" / device).glob("*.json")]), own=False)
    assert compared.code == 0 and "tpe" in compared.out and "optuna_nsga2" in compared.out, compared.err


@pytest.mark.parametrize(
    ("chosen", "target", "name"),
    [
        ("tpe", "nas.searchers.optuna.OptunaSearcher", "tpe"),
        ("mine/own", "mine.Own", "mine_own"),
        (None, "nas.searchers.optuna.OptunaSearcher", "optuna_searcher"),
        (None, "nas.searchers.nsga2.NSGA2", "nsga2"),
    ],
)
def test_names_of_searchers(tmp_path: Path, chosen: str | None, target: str, name: str) -> None:
    assert Run(settings_of(searcher={"_target_": target}), tmp_path, "nas run", chosen).searcher_name == name


def test_another_searcher_replaces_no_front(finished: Path, nas_command: Command) -> None:
    folder = finished / "search" / device_of(finished)
    auto = (folder / "auto.json").read_bytes()
    assert nas_command("search", f"out={finished}", "searcher=local_search", "search.evaluations=100").code == 0
    assert (folder / "auto.json").read_bytes() == auto
    last = read_json(folder.with_suffix(".json"))
    assert list(last["searchers"]) == ["local_search", "random"]
    assert read_json(folder / "local_search.json") == last
    refused = nas_command("export", f"out={finished}")
    assert refused.code == 2
    assert "by local_search, but `searcher` is auto" in refused.err and "`nas search searcher=auto`" in refused.err
    assert nas_command("export", f"out={finished}", "searcher=local_search").code == 0


# -- limits ------------------------------------------------------------------------------------------------------------


def test_milliseconds_hold_in_place_of_a_share(finished: Path, searched: Command) -> None:
    device = device_of(finished)
    slowest = max(p["latency_ms"] for p in read_json(finished / f"search/{device}.json")["searchers"]["auto"]["front"])
    limit = round(1.5 * slowest, 4)
    outcome = searched(f"limit.latency_ms={limit}", "limit.latency_share=0.6", "search.evaluations=50")
    assert outcome.code == 0, outcome.err
    assert f"{device}: limit.latency_ms={limit:g} holds, and limit.latency_share=0.6 is not used" in outcome.out
    assert read_json(finished / f"search/{device}.json")["limits"]["latency_ms"] == pytest.approx(limit)


def test_what_was_found_stays_where_random_search_finds_nothing(
    finished: Path, searched: Command, nas_command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the fastest network keeps the limit."""
    device = device_of(finished)
    assert searched("searcher=exact", "accuracy=ridge").code == 0
    front = read_json(finished / f"search/{device}.json")["searchers"]["exact"]["front"]
    fastest = min(point["latency_ms"] for point in front)
    outcome = searched(
        f"limit.latency_ms={fastest * 1.0001}", "limit.latency_margin=0", "search.evaluations=1", "seed=3"
    )
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = read_json(finished / f"search/{device}.json")
    assert list(found["searchers"]) == ["auto"] and list(found["without_front"]) == ["random"]
    assert found["without_front"]["random"].startswith("No network that meets `limit.latency_ms`")
    assert "random, the contrast, found no network that keeps the limits" in caplog.text
    for stage in ("export", "verify", "report"):
        assert nas_command(stage, f"out={finished}").code == 0
    assert (
        "the contrast, random, found no network that keeps the limits"
        in (finished / "report" / "report.html").read_text()
    )


def test_a_part_of_the_space_is_searched(finished: Path, searched: Command) -> None:
    device = device_of(finished)
    for searcher in ("auto", "nsga2"):
        outcome = searched(f"searcher={searcher}", "+search.fixed.resolution=8", "search.evaluations=100")
        assert outcome.code == 0, outcome.err
        for found in read_json(finished / f"search/{device}.json")["searchers"].values():
            assert {point["architecture"]["choices"]["resolution"] for point in found["front"]} == {8}
    refused = searched("+search.fixed.resolution=9")
    assert refused.code == 2 and "Choice 'resolution' can be [8, 12], but got 9" in refused.err


# -- the supernet in place of a predictor ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_through_the_supernet_depends_on_what_the_supernet_sees(finished: Path, nas_command: Command) -> None:
    settings = (f"out={finished}", "search.accuracy=supernet", "search.evaluations=4", "search.baseline=false")
    path = finished / f"search/{device_of(finished)}.json"

    def front() -> Any:
        return read_json(path)["searchers"]["auto"]["front"]

    assert nas_command("run", *settings).code == 0
    found = front()
    assert nas_command("search", *settings, "label.recalibration_images=16").code == 0
    assert front() != found
    again = nas_command("run", *settings)
    assert again.code == 0 and "search   unchanged" not in again.out
    assert front() == found
    refused = nas_command("search", *settings, "data.seed=1")
    assert refused.code == 2 and "which was trained on other images" in refused.err


def test_a_search_that_trains_depends_on_the_images(finished: Path, nas_command: Command) -> None:
    quick = ("searcher=darts", "searcher.epochs=2", "searcher.warm_up=1", "+search.fixed.resolution=8")
    settings = (f"out={finished}", "search.baseline=false", *quick)
    path = finished / "stages" / "search.json"
    assert nas_command("search", *settings).code == 0
    first = read_json(path)
    assert nas_command("search", *settings, "data.seed=1").code == 0
    assert (first["data"], first["identity"]) != (read_json(path)["data"], read_json(path)["identity"])
    assert nas_command("search", *settings).code == 0
    assert (first["data"], first["identity"]) == (read_json(path)["data"], read_json(path)["identity"])


@pytest.mark.slow
def test_worker_processes_evaluate_through_the_supernet(nas_process: Callable[..., Any], finished: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    device, found = device_of(finished), []
    settings = ("search.accuracy=supernet", "search.evaluations=4", "search.baseline=false")
    for workers in (1, 2):
        shutil.rmtree(finished / "search")
        done = nas_process("search", finished, *settings, f"search.workers={workers}")
        assert done.returncode == 0, done.stderr
        found.append(read_json(finished / f"search/{device}.json")["searchers"]["auto"]["front"])
        records = (finished / "search" / "accuracy.jsonl").read_text().splitlines()
        assert len(records) == 1 + 4
    assert found[0] == found[1]


# -- baselines ---------------------------------------------------------------------------------------------------------


def scaled_space(published: dict[str, Any], baselines: dict[str, list[str]]) -> Staged:
    return Staged(
        name="scaled",
        resolutions=[8, 16],
        widths=[50, 100],
        in_channels=1,
        classes=10,
        stem=[{"kind": "Conv", "channels": 16, "kernel": 3}],
        stages=[{"channels": 32, "stride": 2, "depths": [1, 2], "blocks": [{"kind": "MBConv", "kernel": [3, 5]}]}],
        head=[{"kind": "LinearClassifier"}],
        published=published,
        baselines=baselines,
    )


def test_networks_that_a_space_states_are_valued_beside_the_front(tmp_path: Path) -> None:
    small = {"resolution": 8, "width": 50, "depth": 1, "kernel": 3}
    published = {"small": small, "large": {**small, "resolution": 16, "width": 100}}
    space = scaled_space(published, {"Scaled": ["large", "small"]})
    nas.search(space, ["params", "macs"], evaluations=40, out=tmp_path / "run")
    (device,) = (tmp_path / "run" / "search").glob("*.json")
    (points,) = Search.read(device).baselines.values()
    known = [(point.values or {})["macs"] for point in points]
    assert known == [space.member("large").macs, space.member("small").macs]
    assert len(read_fronts(device)) == 1  # the front itself is as without them

    plain = scaled_space({}, {})
    nas.search(plain, ["params", "macs"], evaluations=40, out=tmp_path / "plain")
    assert "baselines" not in read_json(tmp_path / "plain" / "search" / device.name)


def test_baselines_that_cannot_be_valued_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = scaled_space({"small": {"resolution": 8, "width": 50, "depth": 1, "kernel": 3}}, {"Scaled": ["small"]})
    small = space.member("small").genes

    class Partial:
        metric, unit = "heat", "J"

        def predict(self, genes: Any) -> Any:
            if (genes == small).all(1).any():
                raise InvalidValueError("of this network nothing is known")
            return genes.sum(1).astype(float)

    small_part = Problem(space.restricted({"resolution": 16}), [Objective.of(macs(space), "min")])
    problem = Problem(space, [Objective.of(macs(space), "min"), Objective.of(Partial(), "min")])
    genes = np.stack([space.biggest.genes])
    result = SearchResult(genes, problem.evaluate(genes), np.ones(2), [(1, 1.0)], 1, 1.0)
    front = front_of(problem, "random", result, "here", "any")
    assert baselines_of(problem, result, front) == {}
    assert "baseline Scaled: left out" in caplog.text and "nothing is known" in caplog.text
    assert baselines_of(small_part, replace(result, values=result.values[:, :1]), front) == {}
    assert "outside of the part in which {'resolution': 16}" in caplog.text
