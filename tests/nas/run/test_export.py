import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from hardware_profiles import availability, load_device
from nas.core.problem import Values
from nas.data import Data, Part, digits, folder, resize
from nas.run import export
from nas.run.export import choose, export_device, export_network, judged, localised, spread
from nas.run.fronts import Column, Front
from nas.run.settings import ExportSettings
from nas.run.verify import file_score
from nas.supernet import Supernet, SupernetAccuracy
from nas.tasks import Classification
from search_spaces import Architecture, MobileNetV3
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError
from search_spaces.base.storage import read_json
from search_spaces.metric import TASK_METRICS
from search_spaces.network import INPUT, OUTPUT

BENT = [(0.9, 10.0), (0.5, 1.0), (0.8, 2.0), (0.85, 5.0), (0.6, 1.5), (0.87, 7.0), (0.88, 8.0)]
ACCURACY = Column("accuracy", "1", "max", None, True)
LATENCY = Column("latency_ms", "ms", "min")
PARAMS = Column("params", "1", "min")
MEMORY = Column("memory_bytes", "bytes", limit=10.0)


def made(rows: list[tuple[float, ...]], *columns: Column, limits: dict[str, float | None] | None = None) -> Front:
    """A front of networks that are told apart by their number."""
    goals = [column for column in columns if column.goal]
    return Front(
        source="front.json",
        device="board",
        searcher="nsga2",
        space="toy",
        fingerprint="0",
        columns=columns,
        values=np.array(rows, float).reshape(-1, len(columns)),
        networks=tuple({"number": number} for number in range(len(rows))),
        reference=np.zeros(len(goals)),
        limits=limits or {},
        evaluations=1,
        seconds=1.0,
    )


@pytest.fixture
def front() -> Front:
    """Sorted by latency; the knee is row 2."""
    return made(sorted(BENT, key=lambda row: row[1]), ACCURACY, LATENCY)


def test_the_ends_and_the_knee_come_first(front: Front) -> None:
    assert front.knee == 2
    assert choose(front, 3) == [(0, "fastest"), (2, "knee"), (6, "most accurate")]


@pytest.mark.parametrize("n", range(1, 12))
def test_at_most_n_distinct_rows_sorted_with_distinct_names(front: Front, n: int) -> None:
    chosen = choose(front, n)
    rows, names = zip(*chosen, strict=True)
    assert len(chosen) == min(n, len(front))
    assert list(rows) == sorted(set(rows)) and len(set(names)) == len(names)
    assert chosen[0] == (0, "fastest")


def test_more_than_three_lie_between(front: Front) -> None:
    names = [name for _, name in choose(front, 5)]
    assert sorted(names) == ["fastest", "front 1", "front 2", "knee", "most accurate"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0.9, 1.0)], [(0, "fastest")]),
        ([(0.5, 1.0), (0.9, 2.0)], [(0, "fastest"), (1, "most accurate")]),
        ([(0.9, 1.0), (0.91, 9.0), (0.92, 10.0)], [(0, "fastest"), (1, "front 1"), (2, "most accurate")]),
    ],
)
def test_short_fronts(rows: list[tuple[float, ...]], expected: list[tuple[int, str]]) -> None:
    assert choose(made(rows, ACCURACY, LATENCY), 6) == expected


# (accuracy, latency, params): 1 is the fastest, 2 the most accurate, 0 the smallest
GOALS = [(0.80, 3.0, 100.0), (0.82, 1.0, 300.0), (0.95, 4.0, 400.0), (0.90, 1.5, 200.0)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_names_do_not_depend_on_the_order_of_the_goals(order: tuple[int, ...]) -> None:
    columns = (ACCURACY, LATENCY, PARAMS)
    rows = [tuple(row[i] for i in order) for row in GOALS]
    chosen = choose(made(rows, *(columns[i] for i in order)), 3)
    assert chosen == [(1, "fastest"), (3, "knee"), (2, "most accurate")]


def test_names_where_latency_and_accuracy_are_no_goals() -> None:
    columns = (replace(ACCURACY, goal=None), replace(LATENCY, goal=None), PARAMS)
    assert {(1, "fastest"), (2, "most accurate")} <= set(choose(made(GOALS, *columns), 4))


def test_evaluating_drops_networks_that_turn_out_dominated(front: Front) -> None:
    """Rows 1 and 5 are worse than faster ones, once they are evaluated."""
    found, left = judged(front, range(7), np.array([0.5, 0.45, 0.8, 0.81, 0.82, 0.7, 0.9]))
    assert left == [0, 2, 3, 4, 6] and found.column("accuracy")[1].tolist() == [0.5, 0.8, 0.81, 0.82, 0.9]
    assert [network["number"] for network in found.networks] == left
    _, left = judged(front, [0, 3, 6], np.array([0.5, np.nan, 0.9]))
    assert left == [0, 6], "an evaluation that failed"


@pytest.mark.parametrize(("limit", "expected"), [(0.75, [2, 6]), (0.95, [0, 2, 6])])
def test_evaluated_networks_keep_the_limit_on_accuracy_if_any_does(limit: float, expected: list[int]) -> None:
    front = made(sorted(BENT, key=lambda row: row[1]), replace(ACCURACY, limit=limit), LATENCY)
    assert judged(front, [0, 2, 6], np.array([0.7, 0.8, 0.9]))[1] == expected


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 100])
def test_a_spread_has_the_ends_and_the_knee(front: Front, most: int) -> None:
    rows = spread(front, most)
    assert rows == sorted(set(rows)) and len(rows) <= most and 0 in rows
    assert most < 3 or {0, 2, 6} <= set(rows)
    assert most < 7 or rows == list(range(7))


def test_values_of_one_device_of_several() -> None:
    """With the limit as the user set it, not with the margin that the search kept."""
    columns = (
        ACCURACY,
        Column("latency_share", "1", "min"),
        Column("latency_ms@board", "ms", None, 9.5),
        Column("latency_ms@phone", "ms", None, 1.9),
        Column("macs", "1", None, 1e6),
    )
    rows: list[tuple[float, ...]] = [(0.9, 0.5, 5.0, 1.0, 1e5)]
    front = made(rows, *columns, limits={"latency_ms": 10.0, "memory_bytes": None})
    found = localised(front, "board")
    assert found.names == ("accuracy", "latency_share", "latency_ms", "macs")
    assert found.values.tolist() == [[0.9, 0.5, 5.0, 1e5]]
    assert [column.limit for column in found.columns] == [None, None, 10.0, 1e6]


@pytest.mark.parametrize(
    ("pick", "rows"),
    [(None, []), ([3, 1], [2, 0]), (2, [1]), ({"board": [7]}, [6]), ({"other": [9]}, [])],
)
def test_picks(pick: Any, rows: list[int]) -> None:
    assert ExportSettings(6, 64, pick).picks("board", 7) == rows


@pytest.mark.parametrize("pick", [[0], [8], [1, 1], [], ["1"], [1.5], [True], "knee"])
def test_wrong_picks(pick: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"`export.pick` must name networks .*'board'.*1 to 7.*nas front show"):
        ExportSettings(6, 64, pick).picks("board", 7)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator(small_space: MobileNetV3) -> Iterator[SupernetAccuracy]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = digits()
    parts = [Part(p.images[:64], p.labels[:64]) for p in (whole.train, whole.validation, whole.test_part())]
    data = Data("few", *parts, task=Classification(10), mean=whole.mean, std=whole.std, scale=whole.scale)
    supernet = Supernet(small_space, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    yield SupernetAccuracy(small_space, supernet, data, recalibration_images=32)
    torch.set_num_threads(threads)


def test_the_file_is_the_deployed_network(evaluator: SupernetAccuracy, tmp_path: Path) -> None:
    for row in evaluator.space.sample(4, np.random.default_rng(0)):
        architecture = Architecture(evaluator.space, row)
        parity = export_network(architecture, evaluator, tmp_path)
        assert set(parity) == {"extracted", "onnx"} and 0 <= max(parity.values()) < 1e-4
        assert Architecture.from_json(evaluator.space, json.loads((tmp_path / "architecture.json").read_text())) == (
            architecture
        )
        session = ort.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
        size = session.get_inputs()[0].shape[-1]
        assert size == architecture.values["resolution"]
        images = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = evaluator.deployed(architecture)(images).numpy()
        for image, logits in zip(images, expected, strict=True):
            (written,) = session.run([OUTPUT], {INPUT: image[None].numpy()})
            assert written[0] == pytest.approx(logits, abs=1e-4)


def test_a_device_gets_the_network_in_its_own_format(evaluator: SupernetAccuracy, tmp_path: Path) -> None:
    architecture = evaluator.space.biggest
    written = {}
    for name in ("host_ort", "host_ort_int8", "host_tvm"):
        export_network(architecture, evaluator, tmp_path / name, load_device(name))
        written[name] = {path.name for path in (tmp_path / name).iterdir()}
    everywhere = {"network.onnx", "architecture.json", "preprocessing.json"}
    assert written == {
        "host_ort": everywhere,
        "host_ort_int8": everywhere | {"network_int8.onnx", "ranges.json"},
        "host_tvm": everywhere,
    }
    images = evaluator.calibration_images(architecture).numpy()
    outputs = []
    for name in ("network.onnx", "network_int8.onnx"):
        session = ort.InferenceSession(str(tmp_path / "host_ort_int8" / name), providers=["CPUExecutionProvider"])
        outputs.append(np.concatenate([session.run([OUTPUT], {INPUT: image[None]})[0] for image in images]))
    assert 0.98 < np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] < 1


@pytest.mark.parametrize("batch", [1, 8])
def test_raw_images_through_the_exported_folder_alone(evaluator: SupernetAccuracy, tmp_path: Path, batch: int) -> None:
    """The example of the README, without hwnas or torch, gets the accuracy that verifying finds."""
    device = dataclasses.replace(load_device("host_ort"), batch=batch)
    row = evaluator.space.biggest.genes.copy()
    export_network(Architecture(evaluator.space, row), evaluator, tmp_path / "knee", device)
    session = ort.InferenceSession(str(tmp_path / "knee" / "network.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [batch, 1, 12, 12], "what the device measures"
    metadata = session.get_modelmeta()
    how = json.loads((tmp_path / "knee" / "preprocessing.json").read_text())
    assert json.loads(metadata.custom_metadata_map["preprocessing"]) == how
    assert how["divide_by"] == 16 and "resize to 12 x 12" in metadata.description

    part, (mean,), (std,) = digits().test_part(), evaluator.data.mean, evaluator.data.std
    raw = 16 * (part.images.numpy() * std + mean)  # whole numbers from 0 to 16
    assert np.abs(raw - raw.round()).max() < 1e-4 and (raw.round().min(), raw.round().max()) == (0, 16)
    np.savez(tmp_path / "raw.npz", images=raw.round(), labels=part.labels.numpy())
    blocks: list[str] = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "preprocessing.json" in block)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "sklearn", "nas", "search_spaces", "hardware_profiles"]))
{example.replace("runs/digits/export/host_ort/knee", str(tmp_path / "knee"))}
data = np.load({str(tmp_path / "raw.npz")!r})
batch = {batch}
count = len(data["labels"]) // batch * batch
found = [logits(data["images"][i : i + batch]).argmax(1) for i in range(0, count, batch)]
print((np.concatenate(found) == data["labels"][:count]).sum(), count)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    right, count = map(int, done.stdout.split())
    few, task = Part(part.images[:count], part.labels[:count]), evaluator.data.task
    assert right / count == file_score(tmp_path / "knee" / "network.onnx", task, few)
    assert file_score(tmp_path / "knee" / "network.onnx", task, Part(part.images[:3], part.labels[:3])) in (
        0,
        1 / 3,
        2 / 3,
        1,
    )


def test_a_photograph_of_any_size_is_prepared_as_the_folder_says(tmp_path: Path) -> None:
    """The steps of a folder of images, without hwnas or torch, give the names that the network gives."""
    for number in range(40):
        name = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    data = folder(str(tmp_path / "photos"), size="12x16", fractions=[0.4, 0.3, 0.3])
    stages = [{"channels": 8, "stride": 2, "squeeze": False, "activation": "relu"}]
    space = MobileNetV3(
        name="two",
        resolutions=["6x8"],
        in_channels=3,
        classes=2,
        stem=8,
        stem_stride=1,
        stages=stages,
        depths=[1, 2],
        kernels=[3],
        expands=[1, 2],
        last_channels=8,
        features=8,
    )
    evaluator = SupernetAccuracy(space, Supernet(space, seed=3), data, recalibration_images=16)
    export_network(space.biggest, evaluator, tmp_path / "knee")
    how = read_json(tmp_path / "knee" / "preprocessing.json")
    assert (how["names"], how["preparation"]) == (["cat", "dog"], {"channels": "RGB", "size": [12, 16], "fit": "crop"})
    verbs = [step.partition(" ")[0] for step in how["steps"]]
    assert verbs == ["decode", "take", "resize", "divide", "subtract", "resize"]
    assert "divide by 255" in how["steps"]
    model = onnx.load(tmp_path / "knee" / "network.onnx")
    assert json.loads({one.key: one.value for one in model.metadata_props}["preprocessing"])["names"] == ["cat", "dog"]

    blocks: list[str] = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "preprocessing.json" in block)
    files = [str(data.validation.source.root / data.validation.source.files[n]) for n in data.validation.rows]
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "sklearn", "nas", "search_spaces", "hardware_profiles"]))
from PIL import Image
{example.replace("runs/digits/export/host_ort/knee", str(tmp_path / "knee"))}
height, width = how["preparation"]["size"]
for file in {files!r}:
    image = np.asarray(Image.open(file).convert(how["preparation"]["channels"])).transpose(2, 0, 1)
    share = min(image.shape[1] / height, image.shape[2] / width)
    rows, columns = round(height * share), round(width * share)
    top, left = (image.shape[1] - rows) // 2, (image.shape[2] - columns) // 2
    part = image[:, top : top + rows, left : left + columns]
    raw = np.rint(resizing(rows, height) @ part @ resizing(columns, width).T)
    print(classes(raw[None])[0], *logits(raw[None])[0])
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    images, _ = data.validation.take(torch.arange(len(data.validation)))
    with torch.no_grad():
        expected = evaluator.deployed(space.biggest)(resize(images, (6, 8)))
    for line, logits in zip(done.stdout.splitlines(), expected, strict=True):
        name, *numbers = line.split()
        assert name == ("cat", "dog")[int(logits.argmax())]
        assert list(map(float, numbers)) == pytest.approx(logits.tolist(), abs=0.02)  # where a half is rounded


@pytest.mark.parametrize("tolerance", ["SUPERNET_TOLERANCE", "ONNX_TOLERANCE"])
def test_a_failed_parity_check_writes_nothing(
    evaluator: SupernetAccuracy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str
) -> None:
    monkeypatch.setattr(export, tolerance, -1.0)
    with pytest.raises(NasError, match=r"Parity check '(extracted|onnx)' of .* failed.*Nothing was exported"):
        export_network(evaluator.space.biggest, evaluator, tmp_path / "network")
    assert not (tmp_path / "network").exists()


# -- a device's front --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(evaluator: SupernetAccuracy) -> Front:
    """A front that predicts the contrary of what the supernet gives."""
    space = evaluator.space
    genes = np.unique(space.sample(12, np.random.default_rng(1)), axis=0)[:6]
    order = evaluator.predict(genes).argsort()[::-1]
    rows: list[tuple[float, ...]] = [(0.5 + 0.05 * i, 1.0 + i) for i in range(len(order))]
    networks = tuple(Architecture(space, genes[i]).values for i in order)
    front = made(rows, ACCURACY, LATENCY)
    return replace(front, device="host_ort", space=space.name, fingerprint=space.fingerprint, networks=networks)


def test_networks_are_chosen_by_what_the_supernet_gives(
    evaluator: SupernetAccuracy, searched: Front, tmp_path: Path
) -> None:
    device = load_device("host_ort")
    export_device(searched, evaluator.space, evaluator, evaluator, device, ExportSettings(3), tmp_path / "judged")
    about = read_json(tmp_path / "judged" / "networks.json")
    (only,) = about["networks"]
    assert only["label"] == "fastest" and only["row"] == 1, "the others are slower and no more accurate"
    assert about["front"] == {"networks": 6, "evaluated": 6, "left": 1}
    assert about["recalibration_images"] == 32
    best = Architecture.from_json(evaluator.space, searched.architecture(0))
    assert only["evaluated_accuracy"] == evaluator.predict(best.genes[None])[0]
    assert only["predicted"]["accuracy"] == 0.5, "as the predictor said"

    export_device(
        searched, evaluator.space, evaluator, evaluator, device, ExportSettings(3, evaluate=0), tmp_path / "believed"
    )
    entries = read_json(tmp_path / "believed" / "networks.json")["networks"]
    assert {"fastest", "most accurate"} <= {entry["label"] for entry in entries} and len(entries) == 3
    assert all(entry["evaluated_accuracy"] is None for entry in entries)


class Failing:
    """A predictor whose every evaluation failed, as `nas.core.evaluations` tells of it."""

    metric, unit = "accuracy", "1"

    def predict(self, genes: Genes) -> Values:
        return np.full(len(genes), np.nan)


def test_a_front_that_cannot_be_evaluated_is_refused(
    evaluator: SupernetAccuracy, searched: Front, tmp_path: Path
) -> None:
    with pytest.raises(NasError, match=r"None of 6 networks of the front of 'host_ort'.*`export\.evaluate=0`"):
        export_device(
            searched, evaluator.space, evaluator, Failing(), load_device("host_ort"), ExportSettings(3), tmp_path / "a"
        )


def test_networks_that_break_a_limit_make_room_for_others() -> None:
    """Of what the device states; the fastest two break it."""
    rows = [(*row, 5.0) for row in sorted(BENT, key=lambda row: row[1])]
    front = made(rows, ACCURACY, LATENCY, MEMORY)
    memory = [12, 11, 9, 9, 10, 99, 9]
    assert export.keeping_limits(front, 3, lambda row: {"memory_bytes": memory[row]}) == [2, 3, 4, 5, 6]
    assert export.keeping_limits(front, 7, lambda row: {"memory_bytes": memory[row]}) == [2, 3, 4, 6]
    assert export.keeping_limits(front, 3, lambda row: {"energy_mj": 99.0}) == list(range(7))
    assert export.keeping_limits(front, 3, lambda row: {"memory_bytes": 11}) == list(range(7)), "none keeps it"


def test_exported_networks_keep_limits_on_what_their_device_states(
    evaluator: SupernetAccuracy, searched: Front, tmp_path: Path
) -> None:
    device, space = load_device("ethos_u55_128"), evaluator.space
    if (reason := availability(device)) is not None:
        pytest.skip(reason)
    with export._statements(device, space, evaluator) as stated:
        found = [stated(genes) for genes in searched.genes(space)]
    assert all(one["memory_bytes"] > 0 for one in found)
    needed = [one["latency_ms"] for one in found]
    limit = (min(needed) + max(needed)) / 2
    front = replace(searched, columns=(ACCURACY, replace(LATENCY, limit=limit)))
    export_device(front, space, evaluator, None, device, ExportSettings(6), tmp_path / "within")
    about = read_json(tmp_path / "within" / "networks.json")
    rows = [entry["row"] for entry in about["networks"]]
    assert sorted(rows) == [i + 1 for i, latency in enumerate(needed) if latency <= limit]
    assert about["front"] == {"networks": 6, "evaluated": 0, "left": len(rows)} and len(rows) < 6
    export_device(front, space, evaluator, None, device, ExportSettings(6, pick=[1, 2, 3, 4, 5, 6]), tmp_path / "all")
    assert len(read_json(tmp_path / "all" / "networks.json")["networks"]) == 6, "as the user wants"


def test_an_own_pick_is_exported(evaluator: SupernetAccuracy, searched: Front, tmp_path: Path) -> None:
    settings = ExportSettings(3, pick=[5, 2])
    export_device(searched, evaluator.space, evaluator, evaluator, load_device("host_ort"), settings, tmp_path)
    entries = read_json(tmp_path / "networks.json")["networks"]
    assert [(entry["label"], entry["row"]) for entry in entries] == [("network 2", 2), ("network 5", 5)]
    for entry in entries:
        folder = tmp_path / entry["folder"]
        assert read_json(folder / "architecture.json") == searched.architecture(entry["row"] - 1)
        assert (folder / "network.onnx").exists() and entry["evaluated_accuracy"] is not None


def test_the_best_is_by_the_direction_of_the_tasks_metric(front: Front) -> None:
    """A front of errors: the less the better."""
    error = Column("mae", "cm", "min")
    rows = [(1 - accuracy, latency) for accuracy, latency in sorted(BENT, key=lambda row: row[1])]
    errors = made(rows, error, LATENCY)
    assert choose(errors, 3) == [(0, "fastest"), (2, "knee"), (6, "best")] and errors.knee == front.knee
    assert spread(errors, 3) == spread(front, 3)
    found, left = judged(errors, range(7), np.array([0.5, 0.55, 0.2, 0.19, 0.18, 0.3, 0.1]))
    assert left == [0, 2, 3, 4, 6] and found.column("mae")[1].tolist() == [0.5, 0.2, 0.19, 0.18, 0.1]
    limited = made(rows, replace(error, limit=0.25), LATENCY)
    assert judged(limited, [0, 2, 6], np.array([0.3, 0.2, 0.1]))[1] == [2, 6]


def test_a_front_of_another_task_is_refused(front: Front) -> None:
    assert export.knowing_accuracy(front) is front
    lacking = made([(1.0, 5.0)], LATENCY, PARAMS)
    miou = TASK_METRICS["miou"]
    assert export.knowing_accuracy(lacking, miou).names == ("latency_ms", "params", "miou")
    with pytest.raises(MismatchError, match="front of accuracy, but the task of the data is judged by miou"):
        export.knowing_accuracy(front, miou)
