import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles import DeviceProfile, Model, availability, device_names, load_device
from hardware_profiles.backend_contract import SMALL
from hardware_profiles.worker import WorkerBackend
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, NasError, UnknownNameError

GOOD = "title: A device\nbackend: onnxruntime\n"


def device_file(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_shipped_device_by_name() -> None:
    assert "host_ort" in device_names() and device_names() == sorted(device_names())
    profile = load_device("host_ort")
    assert (profile.name, profile.backend, profile.threads) == ("host_ort", "onnxruntime", 1)
    assert availability(profile) is None


def test_a_device_by_path_is_named_for_its_file(tmp_path: Path) -> None:
    profile = load_device(device_file(tmp_path, GOOD + "sample_ms: 1\nmemory_limit_bytes: null\n"))
    assert profile == DeviceProfile(name="mine", title="A device", backend="onnxruntime", sample_ms=1)
    named = load_device(device_file(tmp_path, GOOD + "name: another\nmemory_limit_bytes: 1024"))
    assert (named.name, named.memory_limit_bytes) == ("another", 1024)


def test_a_device_of_the_current_folder_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device_file(tmp_path, GOOD + "options:\n  # provider: x\n")
    (tmp_path / "host_ort.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_device("mine") == DeviceProfile(name="mine", title="A device", backend="onnxruntime")
    assert load_device("host_ort").title != "A device"  # a shipped one keeps its name
    with pytest.raises(InvalidValueError, match="has the name of hwnas's own .*device/host_ort.yaml.*Rename"):
        load_device("host_ort.yaml")


def test_conditions_are_json_and_name_all_that_a_latency_depends_on() -> None:
    one = DeviceProfile(name="a", title="A", backend="table", options={"provider": "x"})
    assert json.loads(json.dumps(one.conditions())) == one.conditions()
    other = DeviceProfile(
        name="a", title="B", backend="table", options={"provider": "x"}, memory_limit_bytes=5, timeout_s=5
    )
    assert one.conditions() == other.conditions()  # neither changes a latency
    for change in ({"threads": 2}, {"batch": 2}, {"dtype": "int8"}, {"runs": 3}, {"options": {}}):
        settings: dict[str, Any] = {
            "name": "a",
            "title": "A",
            "backend": "table",
            "options": {"provider": "x"},
            **change,
        }
        assert DeviceProfile(**settings).conditions() != one.conditions()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("host_otr", "'host_otr' is unknown.*Did you mean 'host_ort'"),
        ("ethos_u55", "'ethos_u55' is unknown.*Did you mean 'ethos_u55_"),  # more like ethos_u85_256 in its letters
        ("zzzzzz", "'zzzzzz' is unknown. There are .*host_ort.*path of a YAML"),
        ("", "unknown"),
        ("/no/such/file.yaml", "There is no file /no/such/file.yaml. `nas devices new` writes"),
        ("host_orc", "Did you mean 'host_ort'"),
    ],
)
def test_an_unknown_device_is_refused_with_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_device(name)


def test_a_file_beside_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_board.yaml").touch()
    with pytest.raises(UnknownNameError, match="Did you mean 'my_board'"):
        load_device("my_bord")
    with pytest.raises(UnknownNameError, match=r"no file my_bord.yaml. Did you mean 'my_board.yaml'"):
        load_device("my_bord.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- 1\n- 2", "must be a mapping.*list"),
        ("title: [", "malformed YAML"),
        ("{table: ???}", "malformed YAML"),
        (b"title: \xff\xfe", "malformed YAML"),
        (b"\x00", "malformed YAML"),
        ("!!python/object/apply:os.getcwd []", "malformed YAML"),
        ("backend: onnxruntime", "lacks `title`"),
        ("title: A", "lacks `backend`"),
        (GOOD + "thread: 2", "unknown setting 'thread'. Did you mean 'threads'"),
        (GOOD + "zzz: 2", "unknown setting 'zzz'. There are .*threads"),
        (GOOD + "1: 2", "unknown setting 1"),
        (GOOD + "threads: '2'", "`threads` must be int, but got '2'"),
        (GOOD + "threads: 2.0", "`threads` must be int"),
        (GOOD + "threads: true", "`threads` must be int, but got True"),
        (GOOD + "threads: null", "`threads` must be int, but got None"),
        (GOOD + "options: [1]", "`options` must be a mapping"),
        (GOOD + "dtype: 32", "`dtype` must be str"),
        (GOOD + "memory_limit_bytes: 1.5", "`memory_limit_bytes` must be int or null"),
        (GOOD + "threads: 0", "`threads` must be >= 1, but got 0"),
        (GOOD + "batch: -1", "`batch` must be >= 1"),
        (GOOD + "runs: 0", "`runs`"),
        (GOOD + "passes: 0", "`passes`"),
        (GOOD + "warm_up: -1", "`warm_up`"),
        (GOOD + "sample_ms: -0.5", "`sample_ms`"),
        (GOOD + "sample_ms: .inf", "`sample_ms`.*finite"),
        (GOOD + "sample_ms: .nan", "`sample_ms`.*finite"),
        (GOOD + "agreement: 0.9", "`agreement`"),
        (GOOD + "agreement: .nan", "`agreement`.*finite"),
        (GOOD + "passes: 4\nmax_passes: 3", "`max_passes` must be >= 4"),
        (GOOD + "memory_limit_bytes: 0", "memory_limit_bytes"),
    ],
)
def test_a_wrong_device_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        load_device(device_file(tmp_path, text))


@pytest.mark.parametrize("backend", ["no_such", "base", "", "__init__"])
def test_an_unknown_backend_is_refused_with_the_known_ones(tmp_path: Path, backend: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown; there are \[.*'onnxruntime'.*import path, such as mine.backend"
    ):
        load_device(device_file(tmp_path, f"title: A\nbackend: {backend!r}\n"))
    with pytest.raises(UnknownNameError, match="Did you mean 'onnxruntime'"):
        DeviceProfile(name="a", title="A", backend="onnx")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("no.such", r"mine\.yaml names no\.such, which is code outside of hwnas.*add `--trust no`"),
        ("os.path", "is none: it has no `CAPABILITIES`"),
        ("hardware_profiles.measure", "is none: it has no `CAPABILITIES`"),
        ("no..such", "must name code as module.name"),
        ("hardware_profiles.no", "does not exist"),
    ],
)
def test_an_import_path_that_is_no_backend_is_refused(tmp_path: Path, backend: str, message: str) -> None:
    with pytest.raises(NasError, match=message):
        load_device(device_file(tmp_path, f"title: A\nbackend: {backend!r}\n"))


MINE = """
import dataclasses
from hardware_profiles.backends import table

CAPABILITIES = dataclasses.replace(table.CAPABILITIES, options={}, required=(), paths=(), any_layer=True)


class Formula(table.Backend):
    capabilities = CAPABILITIES
    environment = {"mine": "1.0"}

    def load(self, model):
        return table.Sum(float(sum(layer.macs for layer in model.layers.values())), {})


def open_backend(profile):
    return Formula()
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_a_backend_of_ones_own_runs_after_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated: bool
) -> None:
    package = tmp_path / f"own_backend_{isolated}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "formula.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_modules", set())
    text = f"title: A\nbackend: {package.name}.formula\nisolated: {str(isolated).lower()}\n"
    with pytest.raises(InvalidValueError, match=f"add `--trust {package.name}`"):
        load_device(device_file(tmp_path, text))
    assert package.name not in sys.modules
    model, device = Model.of_layer(SMALL), f"{package.name}.formula"
    trust.trust(package.name)
    backend = load_device(device_file(tmp_path, text)).open()
    assert isinstance(backend, WorkerBackend) is isolated and backend.environment["mine"] == "1.0"
    assert backend.load(model).sample_ms(1) == SMALL.macs
    backend.close()
    monkeypatch.setattr(trust, "_modules", set())  # imported by now, as by a program of Python
    backend = DeviceProfile(name="a", title="A", backend=device, isolated=isolated).open()
    assert backend.load(model).sample_ms(1) == SMALL.macs
    backend.close()


def test_software_that_a_backend_lacks_is_not_taken_for_a_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'driver'", name="driver")

    host = load_device("host_ort")
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="driver"):
        host.open()


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardware_profiles.device.usable_cpus", lambda: 2)
    host = load_device("host_ort")
    dataclasses.replace(host, threads=2).open().close()
    with pytest.raises(InvalidValueError, match=r"'host_ort': `threads` must be at most 2.*got 64.*`threads: 2`"):
        dataclasses.replace(host, threads=64).open()
    with pytest.raises(InvalidValueError, match=r"at most 1, the CPUs that it may use \(`cpus: \[1\]`\), but got 2"):
        dataclasses.replace(host, threads=2, isolated=True, cpus=[1]).open()
    monkeypatch.setattr("hardware_profiles.device.usable_cpus", lambda: 1)
    monkeypatch.setattr("hardware_profiles.device.cpu_quota", lambda: 1.5)
    with pytest.raises(InvalidValueError, match=r"at most 1, .*quota is 1.5 CPUs\), but got 2"):
        dataclasses.replace(host, threads=2).open()


def test_all_threads_are_one_per_cpu_that_is_named(tmp_path: Path) -> None:
    assert load_device(device_file(tmp_path, GOOD + "threads: all\nisolated: true\ncpus: [0]\n")).threads == 1
