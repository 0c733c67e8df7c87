"""The report, from run folders like those that the stages write."""

from __future__ import annotations

import html.parser
import io
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread

from nas.report.figures import png
from nas.report.page import (
    Judge,
    _axes,
    amount,
    latency,
    memory,
    percent,
    points,
    power_of_ten,
    read_run,
    significant,
    write_report,
)
from nas.run.records import Column
from search_spaces.architecture import Architecture
from search_spaces.base.errors import DamagedFileError, MismatchError, NasError
from search_spaces.base.storage import read_json, write_json
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.space import SearchSpace
from tests.search_spaces.graph_spaces import Operators

DEVICES = {
    "host_ort": ("This computer, ONNX Runtime, 1 thread", "onnxruntime", "float32", 1, False),
    "host_tvm": ("This computer, TVM, 1 thread", "tvm", "float32", 1, False),
    "ethos_u55_128": ("Arm Ethos-U55, 128 MACs per cycle", "ethos_u", "int8", None, True),
}
NS_PER_MAC = {"host_ort": (0.06, 0.06), "host_tvm": (0.03, 0.15), "ethos_u55_128": (0.5, 0.1)}
"""Per device for layers with kernels of 3 and of 5: the devices must not like the same networks."""


def digits_space() -> MobileNetV3:
    """The space that the package ships for the digits data."""
    config = yaml.safe_load(Path("search_spaces/space/mobilenet_v3_digits.yaml").read_text())
    del config["_target_"]
    return MobileNetV3(**config)


def write_run(folder: Path, space: SearchSpace, *, name: str = "digits on three devices", seed: int = 0) -> Path:
    """Write a run folder with believable numbers: latency and accuracy follow the networks' real sizes."""
    rng = np.random.default_rng(seed)
    networks = [Architecture(space, genes) for genes in space.sample(300, rng)]
    layers = {network: list(space.lower(network).values()) for network in networks}
    macs = {network: sum(layer.macs for layer in layers[network]) for network in networks}

    def latency_ms(device: str, network: Architecture) -> float:
        three, five = NS_PER_MAC[device]
        return 0.012 + 1e-6 * sum(
            layer.macs * (five if getattr(layer, "kernel", 3) == 5 else three) for layer in layers[network]
        )

    def accuracy(network: Architecture) -> float:
        return 0.985 - 0.06 * math.exp(-macs[network] / 4e5) + 0.004 * math.sin(macs[network])

    write_json(
        folder / "run.json",
        {
            "name": name,
            "command": "nas run recipe=digits space=mobilenet_v3_digits devices=[host_ort,host_tvm,ethos_u55_128]",
            "seed": seed,
            "space": space.name,
            "fingerprint": space.fingerprint,
            "space_size": str(space.size),
            "data": {"name": "digits", "train": 1077, "validation": 360, "test": 360},
            "versions": {"hwnas": "0.1.0", "torch": "2.8.0", "python": "3.11.9"},
            "commit": "3819c76",
            "created": "2025-03-04T10:22:31+00:00",
        },
    )
    stages = {
        "profile": 214.2,
        "train": 402.0,
        "label": 31.5,
        "fit": 6.1,
        "search": 9.9,
        "export": 12.4,
        "verify": 58.0,
    }
    write_json(
        folder / "stages.json",
        [{"stage": stage, "seconds": time, "skipped": stage == "label"} for stage, time in stages.items()],
    )
    write_json(
        folder / "train/history.json",
        [
            {
                "epoch": epoch,
                "learning_rate": 1e-3,
                "loss": 0.08 + 2.2 * math.exp(-epoch / 8),
                "smallest_accuracy": 0.94 - 0.8 * math.exp(-epoch / 6) if epoch % 5 == 0 else None,
                "biggest_accuracy": 0.98 - 0.8 * math.exp(-epoch / 5) if epoch % 5 == 0 else None,
                "seconds": 6.7,
            }
            for epoch in range(1, 61)
        ],
    )
    held_out = networks[:60]
    latency_quality = {
        device: _quality(
            "corrected table",
            "ms",
            np.array([latency_ms(device, n) for n in held_out]),
            0.02,
            rng,
        )
        for device in DEVICES
    }
    memory_quality = _quality("tensor sizes", "bytes", rng.uniform(8e3, 6e4, 60), 0.05, rng)
    memory_quality.update(noise_floor=None, baselines={})
    write_json(
        folder / "fit/quality.json",
        {
            "accuracy": _quality("gaussian_process", "", np.array([accuracy(n) for n in held_out]), 0.002, rng),
            "latency": latency_quality,
            "memory": {"ethos_u55_128": memory_quality},
        },
    )
    for device, (title, backend, dtype, threads, estimates) in DEVICES.items():
        memory_limit = 65536 if estimates else None
        fronts = {}
        for searcher, share in (("nsga2", 1.0), ("random", 0.25)):
            points = [
                {
                    "architecture": network.to_json(),
                    "accuracy": accuracy(network),
                    "latency_ms": latency_ms(device, network) * (1 if share == 1 else 1.04),
                    "memory_bytes": 9000 + 0.02 * macs[network] if estimates else None,
                }
                for network in networks[: int(share * len(networks))]
            ]
            points.sort(key=lambda point: point["latency_ms"])
            best = np.maximum.accumulate([0.0, *(point["accuracy"] for point in points)])
            fronts[searcher] = {
                "front": [point for point, before in zip(points, best, strict=False) if point["accuracy"] > before],
                "hypervolume": 0.117 if searcher == "nsga2" else 0.111,
                "evaluations": 4000,
                "seconds": 3.2 if searcher == "nsga2" else 1.1,
                "history": [
                    [n, (0.117 if searcher == "nsga2" else 0.111) * (1 - 0.3 * math.exp(-n / (300 + 500 / share / 4)))]
                    for n in range(100, 4001, 100)
                ],
            }
        front = fronts["nsga2"]["front"]
        write_json(
            folder / f"search/{device}.json",
            {
                "device": device,
                "limits": {
                    "latency_ms": 0.95 * front[-1]["latency_ms"] if device == "host_ort" else None,
                    "memory_bytes": memory_limit,
                },
                "reference": [0.0, 0.2],
                "searchers": fronts,
            },
        )
        indices = sorted({0, len(front) // 4, len(front) // 2, 3 * len(front) // 4, len(front) - 1})
        labels = {indices[0]: "fastest", indices[len(indices) // 2]: "knee", indices[-1]: "most accurate"}
        verified = []
        for number, i in enumerate(indices):
            label = labels.get(i, f"front {number + 1}")
            slower = float(rng.normal(1.03, 0.02))
            measured_ms = front[i]["latency_ms"] * slower
            validation = round(360 * (front[i]["accuracy"] - 0.004)) / 360
            violated = device == "host_ort" and label == "most accurate"
            verified.append(
                {
                    "label": label,
                    "exported_as": label,
                    "dominated_by": None,
                    "row": i + 1,
                    "evaluated_accuracy": None,
                    "folder": f"export/{device}/{label.replace(' ', '_')}",
                    "architecture": front[i]["architecture"],
                    "macs": macs[Architecture.from_json(space, front[i]["architecture"])],
                    "params": sum(
                        layer.params
                        for layer in space.lower(Architecture.from_json(space, front[i]["architecture"])).values()
                    ),
                    "predicted": {key: front[i][key] for key in ("accuracy", "latency_ms", "memory_bytes")},
                    "measured": {
                        "latency_ms": measured_ms,
                        "p10_ms": 0.98 * measured_ms,
                        "p90_ms": 1.06 * measured_ms,
                        "noise": 1.0 if estimates else 1.17 if device == "host_tvm" and label == "knee" else 1.02,
                        "validation_accuracy": validation,
                        "test_accuracy": validation - round(3 + number) / 360,
                        "memory_bytes": 1.02 * front[i]["memory_bytes"] if estimates else None,
                    },
                    "parity": None if estimates else 2e-7,
                    "violations": ["latency 0.13 ms is above the limit 0.12 ms"] if violated else [],
                }
            )
        write_json(
            folder / f"verify/{device}.json",
            {
                "device": device,
                "title": title,
                "backend": backend,
                "dtype": dtype,
                "threads": threads,
                "batch": 1,
                "estimates": estimates,
                "accuracy_of": "float32 network.onnx",
                "drift": 1.02,
                "environment": {"cpu": "x86-64, 8 cores", "system": "Linux 6.1", backend: "1.22.0"},
                "objectives": [
                    _objective("accuracy", "1", "max", None, at_least=True),
                    _objective(
                        "latency_ms", "ms", "min", 0.95 * front[-1]["latency_ms"] if device == "host_ort" else None
                    ),
                    _objective("memory_bytes", "bytes", None, memory_limit),
                ],
                "validation_images": 360,
                "recalibration_images": 512,
                "front": {"networks": len(front), "evaluated": len(front), "left": len(front) - 1},
                "networks": verified,
                "cross_device": [],
            },
        )
    return folder


def _objective(
    name: str, unit: str, goal: str | None, limit: float | None, *, at_least: bool = False
) -> dict[str, Any]:
    return {"name": name, "unit": unit, "goal": goal, "limit": limit, "at_least": at_least}


def _quality(predictor: str, unit: str, truth: Any, error: float, rng: np.random.Generator) -> dict[str, Any]:
    def metrics(mape: float) -> dict[str, Any]:
        return {
            "mape": mape,
            "within_5": math.exp(-4 * mape),
            "within_10": math.exp(-2 * mape),
            "kendall_tau": 0.98 - 2 * mape,
            "spearman": 0.995 - mape,
            "top_10_regret": 0.001 if mape < 0.03 else None,
        }

    return {
        "predictor": predictor,
        "unit": unit,
        "trained_on": 400,
        "metrics": metrics(error),
        "within_2_std": 0.93,
        "noise_floor": metrics(error / 3),
        "baselines": {"plain sum of layers": metrics(4 * error)},
        "held_out": {
            "truth": truth.tolist(),
            "predicted": (truth * rng.normal(1, error, len(truth))).tolist(),
            "std": (truth * error).tolist(),
        },
    }


@pytest.fixture(scope="module")
def space() -> MobileNetV3:
    return digits_space()


@pytest.fixture(scope="module")
def shared_run(space: MobileNetV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), space)


@pytest.fixture
def run(shared_run: Path, tmp_path: Path) -> Path:
    """A run folder that the test may change."""
    return Path(shutil.copytree(shared_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(shared_run: Path, space: MobileNetV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(shared_run, space, tmp_path_factory.mktemp("report"))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pixels and look for no free places, which takes most of the time, where a test looks at texts only."""
    pixel = png(Figure(figsize=(0.01, 0.01)))
    monkeypatch.setattr("nas.report.figures.png", lambda figure: pixel)
    monkeypatch.setattr("nas.report.figures._place_texts", lambda *arguments, **more: None)


class Page(html.parser.HTMLParser):
    """Text and tags of a page; fails where tags are not balanced."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def change(path: Path, **changes: Any) -> None:
    """Replace top-level entries of a JSON file."""
    write_json(path, {**read_json(path), **changes})


def verifications(run: Path) -> Iterator[Any]:
    for path in sorted((run / "verify").glob("*.json")):
        yield read_json(path)


def test_report_is_one_self_contained_file(page: Path) -> None:
    parsed = Page(page)
    assert page.name == "report.html"
    assert not re.search(r"https?://|//www|@import|url\(", page.read_text())
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 8
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)


def test_every_network_and_every_violation_is_named(page: Path, shared_run: Path) -> None:
    text = Page(page).text
    for verification in verifications(shared_run):
        assert verification["title"] in text
        for network in verification["networks"]:
            assert network["label"] in text
            assert network["folder"] in text
    assert text.count("latency 0.13 ms is above the limit 0.12 ms") == 2, "in the table and in the warning"


def test_what_evaluating_a_front_left_is_told_with_the_reason(page: Path) -> None:
    text = " ".join(page.read_text().split())
    told = (
        r"(\d+) were evaluated through the supernet; 1 of these is dominated by their evaluated accuracies, and (\d+) "
    )
    found = re.search(told, text)
    assert found and int(found[1]) - int(found[2]) == 1


def test_numbers_are_those_of_the_files(page: Path, shared_run: Path) -> None:
    text = Page(page).text
    count = 0
    for device in read_run(shared_run).devices:
        for network in device.networks:
            assert points(network.measured.test_accuracy) in text
            assert significant(network.measured.latency_ms * device.unit.factor) in text
            assert amount(network.macs).replace("\u00a0", " ") in text
            count += 1
    assert f"chose {count} for 3 devices" in text
    assert "1 violation of a limit" in text


def test_best_test_accuracy_is_that_of_the_best_validation_accuracy(run: Path, space: MobileNetV3) -> None:
    verification = read_json(run / "verify/host_ort.json")
    verification["networks"][0]["measured"]["test_accuracy"] = 1.0
    verification["networks"][-1]["measured"].update(validation_accuracy=0.999, test_accuracy=0.9)
    write_json(run / "verify/host_ort.json", verification)
    content = read_run(run)
    assert content.best_device is not None
    assert content.best_device.best.measured.test_accuracy == 0.9
    assert content.test_error == pytest.approx(math.sqrt(0.9 * 0.1 / 360))


@pytest.mark.usefixtures("plain")
def test_noise_disagreement_and_weak_predictors_are_warned_of(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification = read_json(run / "verify/host_ort.json")
    for network in verification["networks"]:
        network["measured"]["latency_ms"] = 2 * network["predicted"]["latency_ms"]
        network["parity"] = 0.5
        network["measured"]["agreed"] = False
    write_json(run / "verify/host_ort.json", verification)
    quality = read_json(run / "fit/quality.json")
    quality["accuracy"]["metrics"]["kendall_tau"] = 0.31
    quality["latency"]["host_ort"]["doubts"] = ["9 of 10 layers have passes that do not agree."]
    write_json(run / "fit/quality.json", quality)
    search = read_json(run / "search/host_ort.json")
    search["searchers"]["random"]["hypervolume"] = 9.0
    write_json(run / "search/host_ort.json", search)
    text = Page(write_report(run, space, tmp_path / "out")).text
    n = len(verification["networks"])
    assert f"none of {n} latencies within 15 % of the prediction" in text
    assert "differ by a factor of up to 1.17" in text
    assert "different outputs: fastest" in text
    assert "took the CPU away, on measuring fastest" in text
    assert "Measurements of host_ort are doubtful" in text and "9 of 10 layers have passes" in text
    assert "Kendall’s τ 0.31" in text
    assert "the contrast, random, found a better front than nsga2" in text


@pytest.mark.usefixtures("plain")
def test_accuracies_that_were_predicted_wrong_are_warned_of(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification = read_json(run / "verify/host_tvm.json")
    for network in verification["networks"]:
        network["predicted"]["accuracy"] = network["measured"]["validation_accuracy"] + 0.2
    write_json(run / "verify/host_tvm.json", verification)
    text = Page(write_report(run, space, tmp_path / "out")).text
    n = len(verification["networks"])
    within = "accuracies within 3 points, or two standard errors, of the predict"
    assert f"none of {n} {within}ion, which is up to 20.0 points off" in text  # read with care
    assert f"0 of {n} {within}ion" in text  # the card of the device
    assert f"verified {within}ed ones" in text  # the number of all devices


def judged_by(run: Path, name: str, unit: str, goal: str, factor: float) -> None:
    """Make a run one whose networks are judged by another metric, ``factor`` times the accuracy."""
    for path in (run / "verify").glob("*.json"):
        verification = read_json(path)
        verification["objectives"][0] = _objective(name, unit, goal, None, at_least=goal == "max")
        for network in verification["networks"]:
            for values, keys in (
                (network["predicted"], ("accuracy",)),
                (network["measured"], ("validation_accuracy", "test_accuracy")),
            ):
                values.update({key: factor * values[key] for key in keys})
            network["measured"].update(validation_error=0.02 * abs(factor), test_error=0.015 * abs(factor))
        write_json(path, verification)
    for path in (run / "search").glob("*.json"):
        search = read_json(path)
        for searched in search["searchers"].values():
            for point in searched["front"]:
                point["accuracy"] *= factor
        write_json(path, search)


@pytest.mark.usefixtures("plain")
def test_the_metric_of_another_task_has_its_name_unit_and_direction(
    run: Path, space: MobileNetV3, tmp_path: Path
) -> None:
    judged_by(run, "psnr_db", "dB", "max", 30.0)
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert "PSNR (dB) latency" in text and "test PSNR of the network with the best validation PSNR" in text
    assert "± 0.450" in text and "PSNR values within 3 %, or two standard errors, of the predicted ones" in text
    assert "test accuracy" not in text and "validation accuracy" not in text and "accuracies" not in text
    content = read_run(run)
    assert content.judge.axis == "PSNR (dB)" and content.judge.text(31.26) == "31.3\u00a0dB"
    best = max(n.measured.validation_accuracy or 0 for device in content.devices for n in device.networks)
    assert content.best_device is not None
    assert content.best_device.best.measured.validation_accuracy == best


@pytest.mark.usefixtures("plain")
def test_of_an_error_less_is_better(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    judged_by(run, "mae", "cm", "min", 1.0)
    content = read_run(run)
    for device in content.devices:
        values = [network.measured.validation_accuracy or 0 for network in device.networks]
        assert device.best.measured.validation_accuracy == min(values)
        assert device.judges_accuracy and device.by_latency


def test_shares_and_other_metrics_agree_within_their_own_tolerance() -> None:
    miou, psnr = Judge(Column("miou", "1", "max")), Judge(Column("psnr_db", "dB", "max"))
    assert (miou.axis, miou.text(0.4567), miou.difference(0.021)) == ("mIoU (%)", "45.7\u00a0%", "2.1 points")
    assert miou.tolerance(0.5) == 0.03 and psnr.tolerance(30.0) == pytest.approx(0.9)
    assert miou.error(0.5, 0.07, 100) == 0.07 and miou.error(0.5, None, 100) is None
    assert Judge(Column("accuracy", "1", "max")).error(0.5, None, 100) == pytest.approx(0.05)
    own = Judge(Column("dice", "1", "max", of_task=True))
    assert (own.axis, own.text(0.5), own.best) == ("dice", "0.500", "best")


@pytest.mark.usefixtures("plain")
def test_labels_and_marks_are_those_of_verifying(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification = read_json(run / "verify/host_tvm.json")
    first, *_, last = verification["networks"]
    first.update(label="fastest and most accurate")
    last.update(label="network 9", dominated_by="fastest and most accurate")
    for network in verification["networks"]:
        network["retrained"] = {"finetune": {"validation": 0.5, "test": 0.25, "training_bytes": 2048}}
    write_json(run / "verify/host_tvm.json", verification)
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert "network 9 exported as most accurate beaten by fastest and most accurate" in text
    score = last["measured"]
    inherited = f"{100 * score['validation_accuracy']:.1f} {100 * score['test_accuracy']:.1f}"
    assert f"network 9 exported as most accurate {inherited} 50.0 25.0 2.0 KiB" in text.replace("\u00a0", " ")
    assert f"1 of {len(verification['networks'])} is beaten by another one of them, as verified" in text
    (device,) = (device for device in read_run(run).devices if device.name == "host_tvm")
    assert [network.label for network, _ in device.highlights] == ["fastest and most accurate", "knee"]


@pytest.mark.usefixtures("plain")
def test_every_limit_is_stated(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    objectives = [
        _objective("accuracy", "1", "max", 0.95, at_least=True),
        _objective("latency_ms", "ms", "min", 2.5),
        _objective("macs", "1", None, 1.5e6),
        _objective("energy_mj", "mJ", None, 0.5),
        _objective("depth", "1", None, 12.0),
        _objective("score", "1", None, 0.25, at_least=True),
        _objective("latency_ms@host_ort", "ms", None, 3.5),
        _objective("params", "1", None, None),
    ]
    change(run / "verify/host_tvm.json", objectives=objectives)
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert "Limits: accuracy ≥ 95.0 %, latency ≤ 2.50 ms, MACs ≤ 1.50 M, energy ≤ 0.5 mJ, " in text
    assert ", depth ≤ 12, score ≥ 0.250, latency on host_ort ≤ 3.50 ms." in text


@pytest.mark.usefixtures("plain")
def test_the_front_is_drawn_by_the_goals_of_the_search() -> None:
    accuracy, latency, macs, energy = (
        Column(*about)
        for about in (("accuracy", "1", "max"), ("latency_ms", "ms", "min"), ("macs", "1", "min"), ("energy_mj", "mJ"))
    )
    share = Column("latency_share", "1", "min")
    for columns, names in (
        ([accuracy, latency, macs], ["accuracy", "latency_ms"]),
        ([accuracy, macs, replace(latency, goal=None)], ["accuracy", "macs"]),
        ([latency, macs, accuracy], ["accuracy", "latency_ms"]),
        ([replace(energy, goal="min"), macs, latency], ["energy_mj", "macs"]),
        ([accuracy, share, latency], ["accuracy", "latency_ms"]),
        ([macs, energy], ["accuracy", "latency_ms"]),
    ):
        assert [column.name for column in _axes(columns)] == names


@pytest.mark.usefixtures("plain")
def test_further_goals_are_named_below_the_front(run: Path, space: MobileNetV3, tmp_path: Path, page: Path) -> None:
    goals = [_objective("accuracy", "1", "max", None, at_least=True), _objective("latency_ms", "ms", "min", None)]
    further = [_objective("energy_mj", "mJ", "min", None), _objective("macs", "1", "min", None)]
    for device in DEVICES:
        change(run / f"verify/{device}.json", objectives=[*goals, *further])
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert text.count("beats in accuracy and latency; the others are on the front for the sake of energy and MACs") == 3
    assert "The hypervolume is the volume that" in text
    assert "for the sake of" not in Page(page).text and "The hypervolume is the area that" in Page(page).text


def cells(path: Path, table: int) -> list[list[str]]:
    """Texts of a table's cells, row by row, of a table of networks; a cell over several columns is there as often."""
    found = re.findall(r'<table class="dense">(.*?)</table>', path.read_text(), re.DOTALL)[table]
    return [
        [
            html.unescape(re.sub(r"<[^>]+>|\s+", " ", text)).strip()
            for span, text in re.findall(r'<t[hd](?: colspan="(\d+)")?[^>]*>(.*?)</t[hd]>', row, re.DOTALL)
            for _ in range(int(span or 1))
        ]
        for row in re.findall(r"<tr.*?</tr>", found, re.DOTALL)
    ]


@pytest.mark.usefixtures("plain")
def test_every_goal_and_limited_metric_has_columns(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification = read_json(run / "verify/host_ort.json")
    verification["objectives"] += [
        _objective("energy_mj", "mJ", "min", None),
        _objective("depth", "1", None, 12.0),
        _objective("score", "1", None, 0.1, at_least=True),
        _objective("heat", "K", None, None),
    ]
    for number, network in enumerate(verification["networks"]):
        values = {"energy_mj": 0.15, "depth": 7.0 + number, "score": 0.25, "heat": 1.0}
        network["predicted"]["values"] = values
        network["measured"]["values"] = {"energy_mj": 0.12, "heat": 1.0}
        network["violations"] = ["score 25 % is below the limit"]
    write_json(run / "verify/host_ort.json", verification)
    rows = cells(write_report(run, space, tmp_path / "out", ["host_ort"], exact=["depth"]), 0)
    assert {len(row) for row in rows} == {len(rows[0])}, "rows of one width"
    heads = list(zip(rows[0], rows[1], strict=True))[-6:]
    energy = "energy (mJ)"
    assert heads[:3] == [(energy, "predicted"), (energy, "measured"), (energy, "error")]
    assert heads[3:] == [("depth", "exact"), ("score (%)", "predicted"), ("", "parity")]
    assert [row[-6:-1] for row in rows[2::2]] == [
        ["0.150", "0.120", "+25.0 %", str(7 + number), "25"] for number in range(len(verification["networks"]))
    ]


@pytest.mark.usefixtures("plain")
def test_what_is_not_known_is_a_dash(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification = read_json(run / "verify/host_ort.json")
    verification["objectives"] += [_objective("score", "1", "max", None), _objective("age", "s", "max", None)]
    verification["networks"][1]["predicted"]["values"] = {"score": -1.5}
    write_json(run / "verify/host_ort.json", verification)
    rows = cells(write_report(run, space, tmp_path / "out", ["host_ort"]), 0)
    assert rows[0][-2] == "score" and "age (s)" not in rows[0], "of which nothing is known"
    assert [row[-2] for row in rows[2:4]] == ["–", "−1.50"]


def searched_for(run: Path, *goals: tuple[str, str, str], trained: bool = True) -> None:
    """Make a run's searches be for other goals; networks use 2, 3, ... mJ."""
    for path in sorted((run / "verify").glob("*.json")):
        verification = read_json(path)
        verification["objectives"] = [_objective(*goal, None, at_least=goal[2] == "max") for goal in goals]
        for number, network in enumerate(verification["networks"]):
            network["predicted"]["values"] = {"energy_mj": 2.0 + number, "loss": 0.0, "score": 1.0}
            if not trained:
                network["label"] = network["label"].replace("most accurate", "front 9")
                network["predicted"]["accuracy"] = None
                network["measured"].update(validation_accuracy=None, test_accuracy=None)
        write_json(path, verification | ({} if trained else {"recalibration_images": 0}))


ACCURACY, LATENCY = ("accuracy", "1", "max"), ("latency_ms", "ms", "min")
ENERGY, MACS = ("energy_mj", "mJ", "min"), ("macs", "1", "min")


@pytest.mark.parametrize(
    ("goals", "trained", "lead", "card", "speed"),
    [
        ([ACCURACY, LATENCY], True, "times as fast as the most accurate, for", "the most accurate network", "best"),
        ([LATENCY, MACS], True, "times as fast as the slowest. ", "against the slowest network", "slowest"),
        ([LATENCY, MACS], False, "as the slowest. The networks are not trained.", "the slowest network", "slowest"),
        (
            [ACCURACY, ENERGY],
            True,
            "the network with the least energy has 33 % of the energy of the most accurate, for",
            "33 % of the energy: the network with the least against the most accurate one",
            "best",
        ),
        (
            [MACS, ENERGY],
            False,
            "% of the MACs of the one with the most. The networks are not trained.",
            "of the MACs: the network with the least against the one with the most",
            "slowest",
        ),
        ([ACCURACY, ("score", "1", "max")], True, "", "", "best"),
        ([ACCURACY, ("loss", "1", "min")], True, "", "", "best"),
    ],
)
@pytest.mark.usefixtures("plain")
def test_the_summary_is_in_the_goals_of_the_search(
    run: Path, space: MobileNetV3, tmp_path: Path, goals: Any, trained: bool, lead: str, card: str, speed: str
) -> None:
    searched_for(run, *goals, trained=trained)
    path = write_report(run, space, tmp_path / "out")
    text = Page(path).text.replace("\u00a0", " ")
    top = text[: text.index("What each device can have")]
    assert lead in top and card in top
    assert bool(lead) == ("the fastest network" in top or "the network with the least" in top)
    assert f"Speed is against the {'network with the best' if speed == 'best' else 'slowest network'}" in top
    assert ("test accuracy" in top) == ("accuracy (%)" in text) == trained
    assert ("most accurate" in top) == trained, "a label at least"
    if ENERGY in goals:
        assert "energy" in top and "2.00 mJ" in top, "in the table of each device"


def test_kinds_of_layers_are_named_where_the_space_offers_several(tmp_path: Path, page: Path) -> None:
    space = Operators()
    path = write_report(write_run(tmp_path / "run", space), space, tmp_path / "out")
    text = Page(path).text
    assert "Kinds of layers" in text and "Kinds of layers" not in Page(page).text
    all_rows = re.findall(r"<tr><td>.*?</tr>", path.read_text(), re.DOTALL)
    rows = [row for row in all_rows if row.count('class="left"') == 3]
    verified = [read_json(file)["networks"] for file in sorted((tmp_path / "run" / "verify").glob("*.json"))]
    assert len(rows) == sum(map(len, verified))


def test_a_batch_is_said(run: Path, space: MobileNetV3, tmp_path: Path, page: Path) -> None:
    verification = read_json(run / "verify/host_tvm.json")
    verification["networks"][0]["measured"]["latency_ms"] = 2.0
    write_json(run / "verify/host_tvm.json", {**verification, "batch": 32})
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert "per batch of 32)" in text and "latencies are per batch of 32" in text and " 16,000 " in text
    assert "per batch" not in Page(page).text and "images/s" not in Page(page).text


@pytest.mark.usefixtures("plain")
def test_images_of_each_class_and_part_are_counted(run: Path, space: MobileNetV3, tmp_path: Path, page: Path) -> None:
    counts = {"train": [1000, 77], "validation": [300, 60], "test": [360, 0]}
    data = {"name": "words", "train": 1077, "validation": 360, "test": 360, "kind": "recording"}
    change(run / "run.json", data={**data, "names": ["yes & no", "zebra"], "per_class": counts})
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert "on 360 test recordings" in text and "on 360 test images" in Page(page).text
    assert "1,077 recordings to train" in text and "of the training recordings" in text
    assert "Recordings of each of 2 classes: 77 to 1,000 in train" in text
    for row in ("yes & no 1,000 300 360", "zebra 77 60 0"):
        assert row in text
    change(run / "run.json", data={**data, "per_class": counts})
    assert "1 77 60 0" in Page(write_report(run, space, tmp_path / "unnamed")).text
    assert "of each of" not in Page(page).text and "1,077 images to train" in Page(page).text


@pytest.mark.usefixtures("plain")
def test_a_number_format_is_compared_with_float32(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    verification, search = read_json(run / "verify/host_ort.json"), read_json(run / "search/host_ort.json")
    for network in verification["networks"]:
        network["measured"]["latency_ms"] *= 1.5
        network["measured"]["validation_accuracy"] -= 0.02
    verification["networks"][0]["measured"]["latency_ms"] = 1e-6  # so that the fastest is many times as fast
    write_json(run / "verify/host_ort_int8.json", {**verification, "device": "host_ort_int8", "dtype": "int8"})
    write_json(run / "search/host_ort_int8.json", {**search, "device": "host_ort_int8"})
    content, n = read_run(run), len(verification["networks"])
    (formats,) = content.formats
    assert (formats.short.name, formats.full.name, formats.beaten) == ("host_ort_int8", "host_ort", n - 1)
    assert content.quickest_device is not None and content.quickest_device.name != "host_ort_int8"
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert text.count(f"{n - 1} of {n} int8 networks are beaten by a float32 network") == 2, "said, and warned of"
    change(run / "verify/host_ort_int8.json", batch=32)
    assert read_run(run).formats == [], "not the same work"


@pytest.mark.usefixtures("plain")
def test_clean_run_has_no_warning(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    for path in (run / "verify").glob("*.json"):
        verification = read_json(path)
        for network in verification["networks"]:
            network["violations"] = []
            network["measured"]["noise"] = 1.0
        write_json(path, verification)
    assert "Read with care" not in Page(write_report(run, space, tmp_path / "out")).text


@pytest.mark.usefixtures("plain")
def test_estimates_are_called_estimates(page: Path, run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    text, verified = Page(page).text, run / "verify/ethos_u55_128.json"
    assert "estimates, not measurements" in text and "compiler’s" not in text
    verification = read_json(verified)
    verification["environment"]["latency"] = "estimate by compiler"
    write_json(verified, verification)
    text = Page(write_report(run, space, tmp_path / "told")).text
    assert "compiler’s estimates, not measured" in text and "are its compiler’s estimates, not measurements" in text
    (run / "verify/ethos_u55_128.json").unlink()
    (run / "search/ethos_u55_128.json").unlink()
    assert "estimates, not measure" not in Page(write_report(run, space, tmp_path / "out")).text


def test_conditions_are_stated(page: Path) -> None:
    text = Page(page).text
    for piece in ("nas run recipe=digits", "hwnas 0.1.0", "3819c76", "x86-64, 8 cores", "360 to test", "used once"):
        assert piece in text


@pytest.mark.usefixtures("plain")
def test_texts_cannot_become_markup(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    attack = '<script>alert("x")</script>'
    change(run / "run.json", name=attack, command=attack)
    change(run / "verify/host_ort.json", title=attack, environment={attack: attack})
    path = write_report(run, space, tmp_path / "out")
    parsed = Page(path)
    assert "<script" not in path.read_text()
    assert attack in parsed.text


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("run.json", "run"),
        ("stages.json", "run"),
        ("train/history.json", "train"),
        ("fit/quality.json", "fit"),
        ("search/host_ort.json", "search"),
        ("verify/host_ort.json", "verify"),
    ],
)
@pytest.mark.usefixtures("plain")
def test_missing_file_names_the_stage_to_run(
    run: Path, space: MobileNetV3, tmp_path: Path, file: str, stage: str
) -> None:
    (run / file).unlink()
    with pytest.raises(NasError, match=f"{re.escape(file)} does not exist: run `nas {stage}` first"):
        write_report(run, space, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_run_without_any_device_names_the_stage_to_run(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    shutil.rmtree(run / "search")
    shutil.rmtree(run / "verify")
    with pytest.raises(NasError, match="run `nas search` first"):
        write_report(run, space, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "one"}, "seed should be a whole number, but is 'one'"),
        ({"data": {"name": "digits", "train": 1, "validation": 1}}, "data has no `test`"),
        ({"versions": ["torch"]}, "versions should be"),
    ],
)
@pytest.mark.usefixtures("plain")
def test_damaged_file_is_named(
    run: Path, space: MobileNetV3, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change(run / "run.json", **changes)
    with pytest.raises(DamagedFileError, match=message):
        write_report(run, space, tmp_path / "out")


def test_run_of_another_space_is_refused(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(Path("search_spaces/space/mobilenet_v3_digits.yaml").read_text())
    del config["_target_"]
    with pytest.raises(MismatchError):
        write_report(run, MobileNetV3(**{**config, "kernels": [3]}), tmp_path / "out")


def empty(run: Path, device: str) -> None:
    """Make the run's search of a device find nothing."""
    search = read_json(run / f"search/{device}.json")
    for searched in search["searchers"].values():
        searched.update(front=[], hypervolume=0.0, history=[])
    write_json(run / f"search/{device}.json", search)
    change(run / f"verify/{device}.json", networks=[])


@pytest.mark.usefixtures("plain")
def test_empty_front(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    empty(run, "host_ort")
    path = write_report(run, space, tmp_path / "out")
    assert "found none within the limits" in Page(path).text
    assert not (path.parent / "figures/front_host_ort.png").exists()
    assert (path.parent / "figures/front_host_tvm.png").exists()


@pytest.mark.usefixtures("plain")
def test_all_fronts_empty(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    for device in DEVICES:
        empty(run, device)
    path = write_report(run, space, tmp_path / "out")
    assert "found none that meets the limits of any device" in Page(path).text
    assert not (path.parent / "figures/networks.png").exists()


def test_device_with_one_network(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    for device in DEVICES:
        verification = read_json(run / f"verify/{device}.json")
        change(run / f"verify/{device}.json", networks=verification["networks"][:1])
        search = read_json(run / f"search/{device}.json")
        search["searchers"] = {"nsga2": {**search["searchers"]["nsga2"]}}
        search["searchers"]["nsga2"]["front"] = search["searchers"]["nsga2"]["front"][:1]
        write_json(run / f"search/{device}.json", search)
    text = Page(write_report(run, space, tmp_path / "out")).text
    assert text.count("1.0×") == 3
    assert "times as fast" not in text
    assert "1 network on the front, 1 verified" in text


@pytest.mark.usefixtures("plain")
def test_run_without_epochs_or_memory(run: Path, space: MobileNetV3, tmp_path: Path) -> None:
    write_json(run / "train/history.json", [])
    change(run / "fit/quality.json", memory={})
    path = write_report(run, space, tmp_path / "out")
    assert "Training the supernet" not in Page(path).text


def test_figures_lie_beside_as_png_files(page: Path) -> None:
    files = sorted((page.parent / "figures").iterdir())
    assert [file.stem for file in files] == sorted(
        [*(f"front_{device}" for device in DEVICES), "hypervolume", "networks", "predictors", "stages", "training"]
    )
    for file in files:
        pixels = imread(io.BytesIO(file.read_bytes()))
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.02, f"{file.name} is blank"


def test_equal_runs_give_equal_files(shared_run: Path, space: MobileNetV3, page: Path, tmp_path: Path) -> None:
    again = write_report(shared_run, space, tmp_path)
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (significant(0.05123), "0.0512"),
        (significant(1.5), "1.50"),
        (significant(99.96), "100.0"),
        (significant(1234.5), "1,230"),
        (significant(0), "0"),
        (significant(-2.0), "−2.00"),
        (latency(0.0512), "51.2\u00a0µs"),
        (latency(0.512), "0.512\u00a0ms"),
        (latency(1512), "1.51\u00a0s"),
        (memory(None), "–"),
        (memory(12288), "12.0\u00a0KiB"),
        (memory(3 * 1024**2), "3.0\u00a0MiB"),
        (amount(999), "999"),
        (amount(1_234_567), "1.23\u00a0M"),
        (percent(0.97531), "97.5\u00a0%"),
        (percent(None), "–"),
        (power_of_ten("19440"), "19,440"),
        (power_of_ten("16124412"), "1.6\u00a0×\u00a010⁷"),
        (power_of_ten("9" * 19), "1.0\u00a0×\u00a010¹⁹"),
        (power_of_ten("unknown"), "unknown"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected
