"""The command `nas quality`, on predictors and files that the tests write."""

import csv
import dataclasses
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from hardware_profiles import Measurement
from nas.commands.cli import run_command
from nas.run.network_log import NetworkLog
from predictors import CorrectedLookup, GaussianProcess, PositionTable, quality, save
from predictors.base import Values
from search_spaces import Architecture, Genes, MobileNetV3
from search_spaces.base.storage import RecordLog, read_json, write_json
from search_spaces.loading import FOLDER as SPACES


class Guess(PositionTable):
    """A table that states a standard deviation of 10 %, and says that it has not seen the slower half."""

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        return self.predict(genes), 0.1 * self.predict(genes)

    def extrapolates(self, genes: Genes) -> np.ndarray:
        return self.predict(genes) > np.median(self.predict(genes))


def measurement(ms: float) -> Measurement:
    return Measurement(ms, ms, ms, ms, runs=1, passes=1, noise=1.0, agreed=True)


def latency(space: MobileNetV3) -> PositionTable:
    return PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.01 + 1e-6 * layer.macs)


@pytest.fixture
def predictor(digits_space: MobileNetV3, tmp_path: Path) -> Path:
    lookup = CorrectedLookup(latency(digits_space))
    genes = digits_space.sample(30, np.random.default_rng(9))
    lookup.fit(genes, lookup.layers.predict(genes))
    save(lookup, digits_space, tmp_path / "lookup.npz")
    return tmp_path / "lookup.npz"


def write_csv(path: Path, genes: Genes, values: Values, name: str = "value") -> Path:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["genes", name])
        rows.writerows([" ".join(map(str, row)), value] for row, value in zip(genes, values, strict=True))
    return path


def run(*settings: str) -> int:
    return run_command(["quality", *settings])


def test_networks_of_a_run(
    digits_space: MobileNetV3, predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = {"device": "board", "profile": {"dtype": "int8"}, "environment": {"cpu": "A"}}
    networks = NetworkLog(tmp_path / "networks.jsonl", digits_space, {**conditions})
    rng, table = np.random.default_rng(0), latency(digits_space)
    unseen = [Architecture(digits_space, row) for row in digits_space.sample(24, rng)]
    ms = table.predict(np.stack([a.genes for a in unseen]))
    first, second = ms * rng.uniform(0.93, 1.07, 24), ms * rng.uniform(0.93, 1.07, 24)
    for architecture, a, b in zip(unseen, first, second, strict=True):
        networks.add("check", architecture, measurement(a))
        networks.add("check again", architecture, measurement(b))
    for row in digits_space.sample(10, rng):
        networks.add("fit", Architecture(digits_space, row), measurement(1000.0))

    assert run(f"predictor={predictor}", f"truth={tmp_path / 'networks.jsonl'}") == 0
    out = tmp_path / "quality" / "lookup"
    about = read_json(out / "quality.json")
    expected = CorrectedLookup(table)
    expected.fit(genes := digits_space.sample(30, np.random.default_rng(9)), table.predict(genes))
    predicted = expected.predict(np.stack([a.genes for a in unseen]))
    assert about["networks"] == 24 and about["metric"] == "latency" and about["role"] == "check"
    assert about["metrics"] == pytest.approx(quality((first + second) / 2, predicted).to_json())
    assert about["noise_floor"]["metrics"] == pytest.approx(quality(first, second).to_json())
    _, std = expected.predict_with_std(np.stack([a.genes for a in unseen]))
    assert about["calibration"]["sharpness"] == pytest.approx(np.sqrt((std**2).mean()))
    assert about["warnings"] == [] and about["unseen"]
    printed = capsys.readouterr().out
    assert "latency of 24 networks by CorrectedLookup" in printed and "noise floor" in printed
    assert f"{about['metrics']['kendall_tau']:.3f}" in printed and str(out / "quality.html") in printed
    page = (out / "quality.html").read_text()
    assert "Latency on board: CorrectedLookup" in page and "int8" in page
    assert all(imread(out / f"{name}.png")[..., :3].std() > 0.01 for name in ("scatter", "calibration"))

    assert run(f"predictor={predictor}", f"truth={tmp_path / 'networks.jsonl'}", "roles=fit") == 0
    about = read_json(out / "quality.json")
    assert about["networks"] == 10 and about["held_out"]["truth"] == [1000.0] * 10 and about["noise_floor"] is None
    assert "may have seen" in capsys.readouterr().out


def test_values_beside_the_latency(digits_space: MobileNetV3, tmp_path: Path) -> None:
    table = PositionTable.of_layers(digits_space, "memory", "bytes", lambda layer: float(layer.params))
    save(table, digits_space, tmp_path / "memory.npz")
    networks = NetworkLog(tmp_path / "networks.jsonl", digits_space, {"device": "board"})
    genes = digits_space.sample(8, np.random.default_rng(0))
    for row, count in zip(genes, 1.25 * table.predict(genes), strict=True):
        seen = dataclasses.replace(measurement(1.0), values={"memory_bytes": count})
        for role in ("check", "check again"):
            networks.add(role, Architecture(digits_space, row), seen)
    assert run(f"predictor={tmp_path / 'memory.npz'}", f"truth={tmp_path / 'networks.jsonl'}") == 0
    about = read_json(tmp_path / "quality" / "memory" / "quality.json")
    assert about["metrics"]["mape"] == pytest.approx(0.2) and about["unit"] == "bytes"


def test_a_predictor_without_uncertainty(digits_space: MobileNetV3, tmp_path: Path) -> None:
    table, genes = latency(digits_space), digits_space.sample(30, np.random.default_rng(0))
    save(table, digits_space, tmp_path / "plain.npz")
    truth = write_csv(tmp_path / "truth.csv", genes, 1.1 * table.predict(genes))
    assert run(f"predictor={tmp_path / 'plain.npz'}", f"truth={truth}") == 0
    out = tmp_path / "quality" / "plain"
    assert read_json(out / "quality.json")["calibration"] is None
    assert "states no uncertainty" in (out / "quality.html").read_text() and not (out / "calibration.png").exists()


def test_uncertainty_is_calibrated_and_drawn(
    digits_space: MobileNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, rng = latency(digits_space), np.random.default_rng(0)
    save(Guess(digits_space, "latency", "ms", table.values), digits_space, tmp_path / "guess.npz")
    genes = np.unique(digits_space.sample(200, rng), axis=0)
    truth = write_csv(tmp_path / "truth.csv", genes, table.predict(genes) * (1 + 0.1 * rng.normal(size=len(genes))))
    run_folder = tmp_path / "run"
    write_json(run_folder / "run.json", {"space": digits_space.name, "fingerprint": digits_space.fingerprint})
    assert run(f"predictor={tmp_path / 'guess.npz'}", f"truth={truth}", f"out={run_folder}") == 0
    about = read_json(run_folder / "quality" / "guess" / "quality.json")
    assert about["calibration"]["expected_error"] < 0.05 and about["extrapolated"] == len(genes) // 2
    assert about["calibration"]["sharpness"] == pytest.approx(
        np.sqrt(((0.1 * table.predict(genes)) ** 2).mean()), rel=1e-6
    )
    assert "expected calibration error" in capsys.readouterr().out
    page = (run_folder / "quality" / "guess" / "quality.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert imread(run_folder / "quality" / "guess" / "calibration.png")[..., :3].std() > 0.01


class Balance(html.parser.HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed(digits_space: MobileNetV3, predictor: Path, tmp_path: Path) -> None:
    genes = np.repeat(digits_space.sample(12, np.random.default_rng(0)), 2, axis=0)
    truth = write_csv(tmp_path / "<b>.csv", genes, latency(digits_space).predict(genes))
    assert run(f"predictor={predictor}", f"truth={truth}") == 0
    page = (tmp_path / "quality" / "lookup" / "quality.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == [] and "<b>.csv" not in page


def test_a_network_is_named_in_three_ways(digits_space: MobileNetV3, predictor: Path, tmp_path: Path) -> None:
    found = [Architecture(digits_space, row) for row in digits_space.sample(12, np.random.default_rng(0))]
    values = latency(digits_space).predict(np.stack([a.genes for a in found])).tolist()
    with open(tmp_path / "choices.csv", "w", newline="") as file:
        columns = csv.DictWriter(file, [*(choice.name for choice in digits_space.choices), "latency"], restval="")
        columns.writeheader()
        columns.writerows({**a.values, "latency": value} for a, value in zip(found, values, strict=True))
    rows = [{"genes": a.genes.tolist(), "latency_ms": value} for a, value in zip(found, values, strict=True)]
    (tmp_path / "genes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"architecture": a.to_json(), "value": value} for a, value in zip(found, values, strict=True)]
    (tmp_path / "architecture.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = []
    for name in ("choices.csv", "genes.jsonl", "architecture.jsonl"):
        assert run(f"predictor={predictor}", f"truth={tmp_path / name}") == 0
        held_out.append(read_json(tmp_path / "quality" / "lookup" / "quality.json")["held_out"])
    assert held_out[0] == held_out[1] == held_out[2] and held_out[0]["truth"] == values


def test_networks_that_the_fit_has_seen_are_left_out(
    digits_space: MobileNetV3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genes = np.unique(digits_space.sample(50, np.random.default_rng(0)), axis=0)
    values = 0.5 + 1e-3 * genes.sum(1)
    process = GaussianProcess(digits_space)
    process.fit(genes[:30], values[:30])
    assert process.fitted_on(genes).tolist() == [True] * 30 + [False] * (len(genes) - 30)
    save(process, digits_space, tmp_path / "accuracy.npz")
    log = RecordLog(tmp_path / "accuracy.jsonl", {"space": digits_space.fingerprint, "part": "validation"})

    def label(part: slice) -> None:
        for row, value in zip(genes[part], values[part], strict=True):
            log.append({"architecture": Architecture(digits_space, row).to_json(), "accuracy": float(value)})

    label(slice(0, 30))
    settings = f"predictor={tmp_path / 'accuracy.npz'}", f"truth={tmp_path / 'accuracy.jsonl'}"
    assert run(*settings) == 2
    assert "holds 0 networks besides 30 that the predictor was fitted on" in capsys.readouterr().err
    label(slice(30, None))
    assert run(*settings) == 0
    about = read_json(tmp_path / "quality" / "accuracy" / "quality.json")
    assert (about["networks"], about["left_out"]) == (len(genes) - 30, 30)
    assert about["held_out"]["truth"] == pytest.approx(values[30:].tolist())
    assert run(*settings, "roles=fit") == 0
    assert read_json(tmp_path / "quality" / "accuracy" / "quality.json")["networks"] == len(genes)


def test_a_space_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((SPACES / "mobilenet_v3_digits.yaml").read_text()) | {"name": "mine"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    del settings["_target_"]
    space = MobileNetV3(**settings)
    save(latency(space), space, tmp_path / "mine.npz")
    genes = space.sample(10, np.random.default_rng(0))
    truth = write_csv(tmp_path / "truth.csv", genes, latency(space).predict(genes))
    given = f"predictor={tmp_path / 'mine.npz'}", f"truth={truth}"
    assert run(*given) == 2
    assert "none of the shipped spaces" in capsys.readouterr().err
    assert run(*given, "space=mobilenet_v3_digits") == 2
    assert "was fitted on another space" in capsys.readouterr().err
    assert run(*given, f"space={tmp_path / 'mine.yaml'}") == 0
    write_json(tmp_path / "run.json", {"space": "other", "fingerprint": "0"})
    assert run(*given, f"space={tmp_path / 'mine.yaml'}") == 2
    assert "holds a run of space 'other'" in capsys.readouterr().err


GENES = "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        ("truth=TRUTH", "", "needs `predictor=`"),
        ("predictor=NPZ", "", "needs `truth=`"),
        ("predictor=nowhere.npz truth=TRUTH", "", "no file nowhere.npz"),
        ("predictor=NPZ truth=nowhere.csv", "", "no file nowhere.csv"),
        ("predictor=NPZ truth=TRUTH colour=red", "", "no setting 'colour'"),
        ("predictor=NPZ truth=TRUTH roles=all", "", "`roles` is check or fit"),
        ("predictor=NPZ truth=TRUTH space=nothing", "", "no space 'nothing'"),
        ("predictor=NPZ truth=TRUTH space=nasbench201", "", "another space"),
        ("predictor=TRUTH truth=TRUTH space=nasbench201", "", "is damaged"),
        ("predictor=NPZ truth=TRUTH", f"genes,value\n{GENES},1.5\n", "holds 1 networks, and 5 are needed"),
        ("predictor=NPZ truth=TRUTH", f"genes,value\n{GENES},nan\n", "network 1: its value must be a finite number"),
        ("predictor=NPZ truth=TRUTH", f"genes,value\n{GENES},0\n", "other than 0"),
        ("predictor=NPZ truth=TRUTH", f"genes,value\n{GENES},fast\n", "but is 'fast'"),
        ("predictor=NPZ truth=TRUTH", f"genes,accuracy\n{GENES},1\n", "no value; name it value, latency or latency_ms"),
        ("predictor=NPZ truth=TRUTH", "genes,value\n0 1,1\n", r"network 1: .* have shape"),
        ("predictor=NPZ truth=TRUTH", "genes,value\none,1\n", "`genes` are whole numbers"),
        ("predictor=NPZ truth=TRUTH", f"genes,value\n9{GENES[1:]},1\n", "must be in 0"),
        ("predictor=NPZ truth=TRUTH", "colour,value\nred,1\n", "names no network"),
        ("predictor=NPZ truth=TRUTH", "resolution,value\n13,1\n", "'resolution' can be"),
        ("predictor=NPZ truth=JSON", "\nnothing\n", "line 2, is not JSON"),
        ("predictor=NPZ truth=JSON", "[1]\n", "line 1, must be a mapping"),
        (
            "predictor=NPZ truth=JSON",
            '{"architecture": {"choices": {}}, "value": 1}\n',
            "An architecture is a mapping with `space`, .*but got",
        ),
        ("predictor=NPZ truth=JSON", '{"conditions": {"space": "0"}}\n', "are of space 0"),
    ],
)
def test_what_is_wrong_is_one_message(
    words: str, rows: str, message: str, predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth.csv").write_text(rows)
    (tmp_path / "truth.jsonl").write_text(rows)
    names = {"NPZ": predictor, "TRUTH": tmp_path / "truth.csv", "JSON": tmp_path / "truth.jsonl"}
    for name, path in names.items():
        words = words.replace(f"={name}", f"={path}")
    assert run(*words.split(" ")) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("nas: ") and "Traceback" not in printed.err
    assert re.search(message, printed.err), printed.err
    assert not (tmp_path / "quality").exists()


def test_networks_that_the_predictor_says_cannot_run(
    digits_space: MobileNetV3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = PositionTable(digits_space, "latency", "ms", np.full(digits_space.table_size, np.inf))
    save(table, digits_space, tmp_path / "never.npz")
    genes = digits_space.sample(10, np.random.default_rng(0))
    truth = write_csv(tmp_path / "truth.csv", genes, np.arange(1.0, 11.0))
    assert run(f"predictor={tmp_path / 'never.npz'}", f"truth={truth}") == 2
    assert "gives inf for 10 of 10 networks" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "nas quality predictor=FILE.npz truth=FILE" in capsys.readouterr().out
    assert run_command(["--help"]) == 0
    assert "nas quality" in capsys.readouterr().out
