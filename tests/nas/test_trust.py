"""What others may write is data: nothing that it names runs before the user says so."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware_profiles import LatencyTable, load_device
from nas.core.searcher import Searcher
from predictors import Regression, load, save
from predictors.base import Trainable
from predictors.predictor_contract import check_predictor
from search_spaces import MobileNetV3, SearchSpace
from search_spaces.base import trust
from search_spaces.base.building import build
from search_spaces.base.errors import InvalidValueError, NasError, UntrustedError
from search_spaces.base.names import checked_name
from search_spaces.base.storage import RecordLog
from search_spaces.base.values import described, fits
from search_spaces.layers import Conv, Layer

Command = Callable[..., Any]

MINE = """\
from pathlib import Path

import numpy as np

from search_spaces.mobilenet_v3 import MobileNetV3

Path(__file__).with_name("imported").touch()


def load(path: str):
    from nas.data import digits
    return digits(seed=3)


class Space(MobileNetV3):
    pass


class Constant:
    metric, unit = "accuracy", "1"

    def __init__(self, space, seed=0):
        self.value = 0.0

    def fit(self, genes, values):
        self.value = float(np.mean(values))

    def predict(self, genes):
        return np.full(len(genes), self.value)

    def to_arrays(self):
        return {"value": np.array(self.value)}

    @classmethod
    def from_arrays(cls, space, arrays):
        made = cls(space)
        made.value = float(arrays["value"])
        return made


class FittedMean:
    def predict(self, features):
        return np.zeros(len(features))

    def spread(self, features):
        return np.ones(len(features))

    def to_arrays(self):
        return {}

    @classmethod
    def from_arrays(cls, arrays):
        return cls()


class Mean:
    def fit(self, features, targets):
        return FittedMean()
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``owncode``, which leaves a file where it is imported."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "owncode.py").write_text(MINE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(trust, "_modules", set())
    monkeypatch.setattr(trust, "_paths", set())
    yield folder
    sys.modules.pop("owncode", None)


# -- configurations ----------------------------------------------------------------------------------------------------

FBNET = "search_spaces.fbnet.FBNet"


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "search_spaces.base.storage.write_text", "path": "written", "content": "x"},
        {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
        {"_target_": "numpy.load", "file": "x.npy", "allow_pickle": True},
        {"_target_": "nas.data.np.load", "file": "x.npy"},
        {"_target_": "nas.run.run_folder.subprocess.run", "args": ["touch", "written"]},
        {"_target_": "search_spaces.base.storage.os.system", "command": "touch written"},
        {"_target_": "os.system", "command": "touch written"},
        {"_target_": "builtins.eval"},
        {"_target_": "nas.__main__.main"},
        {"_target_": "owncode.Space"},
        {"_target_": FBNET, "name": {"_target_": "os.system", "command": "touch written"}},
        {"_target_": FBNET, "stages": [{"a": {"_target_": "os.getcwd"}}]},
        {"_target_": FBNET, "_args_": [1]},
        {"_target_": FBNET, "_partial_": True},
        {"_target_": "predictors.ridge.Ridge"},
    ],
    ids=lambda node: str(node)[14:70],
)
def test_a_space_makes_a_space_and_nothing_else(mine: Path, node: dict[str, Any]) -> None:
    with pytest.raises(NasError, match="`space"):
        build("space", node, SearchSpace)
    assert [path.name for path in mine.iterdir()] == ["owncode.py"]
    assert "owncode" not in sys.modules


def test_objects_inside_are_made_where_an_argument_asks_for_one() -> None:
    auto = {"_target_": "nas.searchers.auto.Auto", "evolution": {"_target_": "nas.searchers.nsga2.NSGA2"}}
    assert build("searcher", auto, Searcher).evolution.population == 100
    auto["evolution"] = {"_target_": "nas.searchers.random.RandomSearch"}
    with pytest.raises(InvalidValueError, match="`searcher.evolution` must make NSGA2, but .* makes RandomSearch"):
        build("searcher", auto, Searcher)
    nsga2 = "nas.searchers.nsga2.NSGA2"
    with pytest.raises(InvalidValueError, match="`searcher.population` must be int, but got 'many'"):
        build("searcher", {"_target_": nsga2, "population": "many"}, Searcher)
    with pytest.raises(InvalidValueError, match="`searcher.popolation`.*Did you mean `population`"):
        build("searcher", {"_target_": nsga2, "popolation": 1}, Searcher)


def test_settings_passed_on_are_those_of_what_is_returned() -> None:
    node = {"_target_": "predictors.mlp.pretrained_regression", "_partial_": True, "metric": "accuracy"}
    build("accuracy", node, Trainable, given=("space", "seed"))
    for name, message in (("nope", "has no setting 'nope'"), ("space", "is given by the stage")):
        with pytest.raises(InvalidValueError, match=message):
            build("accuracy", {**node, name: 1}, Trainable, given=("space", "seed"))


def test_own_code_runs_after_a_word(mine: Path) -> None:
    from nas.data import Data

    node = {"_target_": "owncode.load", "path": "x"}
    with pytest.raises(InvalidValueError, match=r"`data` names owncode\.load.*add `--trust owncode`"):
        build("data", node, Data)
    assert not (mine / "imported").exists()
    trust.trust("owncode")
    assert isinstance(build("data", node, Data), Data)
    with pytest.raises(InvalidValueError, match="`space` must make SearchSpace"):
        build("space", node, SearchSpace)


@pytest.mark.parametrize(
    ("word", "message"),
    [("nowhere_at_all", "PYTHONPATH"), ("os", "Python's own"), ("./no", "no such file"), ("a-b", "name of a module")],
)
def test_a_wrong_word(mine: Path, word: str, message: str) -> None:
    with pytest.raises(NasError, match=message):
        trust.trust(word)


def test_a_folder_of_configurations_cannot_set_what_is_hydras(nas_command: Command, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    for group in ("recipe", "searcher", "space"):
        (conf / group).mkdir(parents=True)
    hook = "hydra:\n  callbacks:\n    x: {_target_: os.system, command: touch written}\n"
    (conf / "recipe" / "bad.yaml").write_text("# @package _global_\n" + hook)
    (conf / "recipe" / "good.yaml").write_text("# @package _global_\nseed: 7\n")
    (conf / "searcher" / "empty.yaml").write_text("")
    folder = ["--config-dir", str(conf)]
    outcome = nas_command("search", *folder, "--cfg", "job", "recipe=bad", own=False)
    assert outcome.code == 2 and "sets `hydra.callbacks`" in outcome.err, outcome
    assert "seed: 7" in nas_command("search", *folder, "--cfg", "job", "recipe=good", own=False).out
    empty = nas_command("search", *folder, "searcher=empty", f"out={tmp_path / 'run'}", own=False)
    assert empty.code == 2 and "`searcher` must name what to make" in empty.err
    (conf / "searcher" / "nsga2.yaml").write_text("_target_: nas.searchers.random.RandomSearch\n")
    taken = nas_command("search", *folder, "searcher=nsga2", own=False)
    assert taken.code == 2 and "has the name of hwnas's own" in taken.err and "conf/searcher/nsga2.yaml" in taken.err
    (conf / "searcher" / "nsga2.yaml").unlink()
    bomb = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    for name, content in (("bomb", "\n".join(bomb).encode()), ("self", b"&a [*a]"), ("wide", "a: x".encode("utf-16"))):
        (conf / "space" / f"{name}.yaml").write_bytes(content)
        outcome = nas_command("search", *folder, "--cfg", "job", own=False)
        assert outcome.code == 2 and f"{name}.yaml" in outcome.err, outcome
        (conf / "space" / f"{name}.yaml").unlink()


@pytest.mark.parametrize("value", ["runs/\u00fc", "runs/lr=0.1", "runs/#1", "a b", "it's", "a(b", "back\\slash"])
def test_a_value_needs_no_quotes_for_hydra(nas_command: Command, value: str) -> None:
    outcome = nas_command("search", "--cfg", "job", f"out={value}", own=False)
    assert outcome.code == 0 and yaml.safe_load(outcome.out)["out"] == value, outcome


@pytest.mark.parametrize("setting", ["metrics.e={file: x.npz}", "limit.latency_ms.host_ort=0.1", "search.weights.a=2"])
def test_own_keys_need_no_plus(nas_command: Command, setting: str) -> None:
    assert nas_command("search", "--cfg", "job", setting, own=False).code == 0


# -- devices -----------------------------------------------------------------------------------------------------------

SYSTOLIC = "title: A\nbackend: scale_sim\ndtype: int8\noptions: {rows: 8, columns: 8, dataflow: ws, clock_mhz: 100"


def test_a_device_runs_no_program_before_a_word(mine: Path) -> None:
    program, device = mine / "x.sh", mine / "d.yaml"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    for named in (str(program), "x.sh", "./x.sh"):
        device.write_text(f"{SYSTOLIC}, python: {named}}}")
        with pytest.raises(InvalidValueError, match=r"d\.yaml: option `python` names .*x\.sh.*`--trust /"):
            load_device(str(device))
    trust.trust(str(program))
    assert load_device(str(device)).options["python"] == "./x.sh"
    assert not (mine / "ran").exists()


@pytest.mark.parametrize("value", ["/tmp/x.so", "libx.so", "..\\x.dll"])
def test_a_device_loads_no_library_before_a_word(mine: Path, value: str) -> None:
    text = "title: A\nbackend: onnxruntime\noptions: {provider: QNNExecutionProvider, provider_options: {backend: %s}}"
    (mine / "d.yaml").write_text(text % value)
    with pytest.raises(InvalidValueError, match="which would be run"):
        load_device("d.yaml")
    (mine / "d.yaml").write_text(text % "gpu")
    load_device("d.yaml")


def test_a_file_of_a_device_may_lie_beside_its_yaml(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / "t.jsonl").write_text("")
    (mine / "d.yaml").write_text("title: A\nbackend: table\noptions: {path: t.jsonl}")
    monkeypatch.chdir(tmp_path)
    assert load_device(str(mine / "d.yaml")).options["path"] == str(mine / "t.jsonl")
    (mine / "d.yaml").write_text("title: A\nbackend: table\noptions: {path: elsewhere/t.jsonl}")
    assert load_device(str(mine / "d.yaml")).options["path"] == "elsewhere/t.jsonl"


BAD_NAMES = ["..", ".", "", "a/b", "/abs", "a\\b", "a\nb", "\x1b[31m", "-x", "x" * 65, "con", "NUL.txt", "a b", "a.", 3]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_leads_nowhere_else(mine: Path, name: Any) -> None:
    with pytest.raises(InvalidValueError, match="cannot be a folder's"):
        checked_name("A device", name)
    if isinstance(name, str):
        (mine / "d.yaml").write_text(f"title: A\nbackend: onnxruntime\nname: {json.dumps(name)}")
        with pytest.raises(InvalidValueError, match="cannot be a folder's"):
            load_device("d.yaml")
    assert checked_name("A device", "my_board-2.1+x") == "my_board-2.1+x"


# -- plug-ins ----------------------------------------------------------------------------------------------------------


def test_a_taken_layer_kind_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"'Conv' of .*test_trust.*search_spaces\.layers \(.*layers\.py\)"):
        type("Conv", (Layer,), {"__module__": __name__})
    assert Layer.kinds["Conv"] is Conv


def test_an_attribute_that_hides_what_a_space_has(small_space: MobileNetV3) -> None:
    for name in ("size", "smallest", "sample", "lower", "distinct_layers"):
        with pytest.raises(InvalidValueError, match=f"must not set `{name}`.*own_{name}"):
            setattr(small_space, name, 40)
        with pytest.raises(InvalidValueError, match=f"must not set `{name}`"):
            type("Mine", (MobileNetV3,), {name: 40})
    assert small_space.size == 800


WAVE = """
from dataclasses import dataclass

from search_spaces.layers import Conv


@dataclass(frozen=True)
class Wave(Conv):
    pass
"""


def test_a_layer_of_ones_own_in_a_table(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "kinds", dict(Layer.kinds))
    (mine / "owncode.py").write_text(WAVE)
    layer = {**Conv(3, 8, 3, 1, "relu", 8).to_json(), "kind": "owncode.Wave"}
    log = RecordLog(mine / "table.jsonl", {"device": "a"})
    log.append({"layer": layer, "error": "it does not fit"})
    with pytest.raises(UntrustedError, match=r"names owncode\.Wave.*`--trust owncode`"):
        LatencyTable.read(mine / "table.jsonl")
    assert "owncode" not in sys.modules
    trust.trust("owncode")
    (wave,) = LatencyTable.read(mine / "table.jsonl").failed
    assert wave == sys.modules["owncode"].Wave(3, 8, 3, 1, "relu", 8) and wave.to_json() == layer
    assert Layer.from_json({**layer, "kind": "Wave"}) == wave  # as tables were written before
    for kind in ("owncode.dataclass", "owncode.Nothing", "collections.OrderedDict", "Nothing", None, 3):
        with pytest.raises(NasError):
            Layer.from_json({**layer, "kind": kind})


def test_a_predictor_of_ones_own_is_a_file(mine: Path, small_space: MobileNetV3) -> None:
    trust.trust("owncode")
    made = build("accuracy", {"_target_": "owncode.Constant", "_partial_": True}, Trainable, given=("space", "seed"))
    predictor, genes = made(small_space, seed=1), small_space.sample(9, np.random.default_rng(0))
    predictor.fit(genes, np.arange(9.0))
    save(predictor, small_space, mine / "p.npz")
    again: Any = load(mine / "p.npz", small_space)
    assert again.predict(genes).tolist() == [4.0] * 9
    check_predictor(predictor, small_space, np.random.default_rng(0))
    del sys.modules["owncode"]  # as in another process
    trust._modules.clear()
    with pytest.raises(InvalidValueError, match=r"p\.npz names owncode\.Constant.*`--trust owncode`"):
        load(mine / "p.npz", small_space)
    trust.trust("owncode")
    load(mine / "p.npz", small_space)


def test_a_model_of_ones_own_inside_of_a_regression(mine: Path, small_space: MobileNetV3) -> None:
    trust.trust("owncode")
    predictor = Regression(small_space, sys.modules["owncode"].Mean())
    predictor.fit(small_space.sample(40, np.random.default_rng(0)), np.arange(1.0, 41.0))
    check_predictor(predictor, small_space, np.random.default_rng(0))
    save(predictor, small_space, mine / "p.npz")
    del sys.modules["owncode"]
    trust._modules.clear()
    with pytest.raises(UntrustedError, match=r"owncode\.FittedMean.*`--trust owncode`"):
        load(mine / "p.npz", small_space)


def test_a_predictor_that_no_process_can_find_fails_its_contract(mine: Path, small_space: MobileNetV3) -> None:
    trust.trust("owncode")
    base = sys.modules["owncode"].Constant

    class Hidden(base):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(AssertionError, match="another process could not find its class"):
        check_predictor(Hidden(small_space), small_space, np.random.default_rng(0))


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "good"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        (None, int | None, True),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ([1, 2], tuple[int, int, int], False),
        ({"a": 1}, dict[str, int], True),
        ("x", str | Path, True),
        ("x", Searcher, False),
        (object(), Searcher, False),
    ],
)
def test_fits(value: Any, hint: Any, good: bool) -> None:
    assert fits(value, hint) is good and described(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"brokencode\.py, line 1: SyntaxError"),
        ("raise SystemExit(3)\n", r"brokencode\.py, line 1: SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "brokencode.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidValueError, match=message):
        trust.trust("brokencode")


def test_a_number_is_no_function() -> None:
    with pytest.raises(InvalidValueError, match="names predictors.saving.TRIED, which is 7, no function"):
        trust.find("it", "predictors.saving.TRIED")
