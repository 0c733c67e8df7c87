"""What a user sees: one clear message and exit code 2 for all that he can mend."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles import device_names
from nas import __version__
from nas.commands import command_line
from nas.commands.cli import STAGES
from search_spaces.base.storage import read_arrays, read_json, write_arrays, write_json
from search_spaces.loading import known_spaces

Command = Callable[..., Any]


def refused(outcome: Any, *words: str) -> None:
    """One message that says all these words, on stderr, and nothing that looks like a crash."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("nas: ") and outcome.err.count("nas: ") == 1
    for text in (outcome.err, outcome.out):
        assert "Traceback" not in text and 'File "' not in text
    for word in words:
        assert word in outcome.err, outcome.err
    assert len(outcome.err) < 2500


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help(nas_command: Command, arguments: list[str]) -> None:
    outcome = nas_command(*arguments, own=False)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(re.search(rf"^  {stage} ", outcome.out, re.MULTILINE) for stage in STAGES)
    assert "nas run recipe=digits" in outcome.out and "nas devices" in outcome.out


def test_version(nas_command: Command) -> None:
    assert nas_command("--version", own=False).out == f"hwnas {__version__}\n"


def test_help_of_a_stage_lists_groups_and_keys(nas_command: Command) -> None:
    outcome = nas_command("run", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    for word in (
        "nas STAGE key=value",
        "searcher: aging_evolution, auto",
        "recipe: detection, digits, recordings, segmentation, super_resolution, tiny",
        "evaluations: 200",
    ):
        assert word in outcome.out
    (spaces,) = re.findall(r"^space: (.*)$", outcome.out, re.MULTILINE)
    assert spaces.split(", ") == sorted({*known_spaces(), "tiny"})
    assert nas_command("search", "--help").out == outcome.out


def test_devices(nas_command: Command) -> None:
    outcome = nas_command("devices", own=False)
    assert outcome.code == 0
    lines = [line for line in outcome.out.splitlines() if not line.startswith("`nas devices NAME` gives")]
    assert [line.split()[0] for line in lines] == ["device", *device_names()]
    assert all("yes" in line or "no: " in line for line in lines[1:])
    assert nas_command("devices", "host_ort", own=False).out.count("\n") == 2
    refused(nas_command("devices", "host_otr", own=False), "'host_otr'", "Did you mean 'host_ort'?")


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["searcher.mates", "limit.params", "training.epochs", "space.resolutions"])
def test_a_number_beyond_all_bounds(nas_command: Command, tmp_path: Path, setting: str) -> None:
    number = "9" * 30
    given = f"{setting}=[8,{number}]" if setting.endswith("s") and "space" in setting else f"{setting}={number}"
    outcome = nas_command("search", "searcher=nsga2", given, f"out={tmp_path / 'a'}")
    refused(outcome, f"`{setting}", "must be at most 2**53, but got one of about 30 digits")


def test_a_whole_group_of_hydra(nas_command: Command) -> None:
    refused(nas_command("fit", "hydra=null"), "The configuration cannot be put together: Config group override must be")


@pytest.mark.parametrize("defaults", ["[[]]", "[override /searcher: {a: 1}]", "[3]"])
def test_malformed_defaults(nas_command: Command, tmp_path: Path, defaults: str) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(f"# @package _global_\ndefaults: {defaults}\nname: a\n")
    outcome = nas_command("fit", "--config-dir", str(tmp_path), "recipe=mine", own=False)
    assert outcome.code == 2 and outcome.err.startswith("nas: ") and "Traceback" not in outcome.err, outcome.err


def test_an_unknown_stage(nas_command: Command) -> None:
    refused(nas_command("serch", own=False), "no stage 'serch'", "Did you mean `nas search`?", "`nas --help`")
    refused(nas_command("xyzzy", own=False), "no stage 'xyzzy'", "run, profile, train")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("serch.evaluations=5", ["serch", "lists all settings"]),
        ("search.evals=5", ["evals", "lists all settings"]),
        ("searcher.popsize=5", ["popsize"]),
        ("+searcher.popsize=5", ["searcher", "popsize"]),
        ("searcher=nsga9", ["There is no `searcher=nsga9`", "nsga2"]),
        ("space=nope", ["There is no `space=nope`", "mobilenet_v3_digits"]),
        ("space=mine/own.yaml", ["There is no `space=mine/own.yaml`", "`--config-dir conf space=own`"]),
        ("recipe=nope", ["There is no `recipe=nope`", "digits"]),
        ("space.no_such_option=1", ["no_such_option"]),
        ("+space.no_such_option=1", ["`space.no_such_option`", "It has name, resolutions"]),
        ("space.kernels=[4]", ["`kernels` of space 'tiny' must be odd"]),
        ("space._target_=search_spaces.nope.Nope", ["`space`", "search_spaces.nope"]),
        ("~space._target_", ["`space`", "_target_"]),
        ("training._target_=builtins.dict", ["`training` names builtins.dict", "`--trust builtins`"]),
        ("training._target_=search_spaces.fbnet.FBNet", ["`training` must make TrainingSettings, but", "makes FBNet"]),
        ("training.epochs=1.5", ["`training.epochs` must be int, but got 1.5"]),
        ("training.threads=true", ["`training.threads` must be int or null, but got True"]),
        ("training.epochs=0", ["`epochs` must be at least 1, but got 0"]),
        ("seed=abc", ["`seed` must be a whole number, but got abc."]),
        ("search.evaluations=many", ["`search.evaluations` must be a whole number, but got many."]),
        ("profile.networks=[1,2]", ["`profile.networks` must be a whole number, but got [1,2]."]),
        ("metrics=3", ["`metrics` must be a mapping, such as {a: 1}, but got 3."]),
        ("label.subnets=null", ["`label.subnets` must have a value, but got null."]),
        ("out=[a]", ["`out` must be text, but got [a]."]),
        (
            "limit.memory_bytes=16XB",
            ["`limit.memory_bytes` must be a number > 0 (bytes, or such as 16KiB, 1MB)", "16XB"],
        ),
        ("seed=-1", ["`seed` must be >= 0, but got -1"]),
        ("search.evaluations=0", ["`search.evaluations` must be >= 1, but got 0"]),
        ("search.baseline=perhaps", ["`search.baseline` must be true or false, but got perhaps."]),
        ("label.held_out=10", ["`label.subnets` must exceed `label.held_out` by 10"]),
        ("profile.networks=3", ["`profile.networks` must be >= 8, but got 3"]),
        ("device=[]", ["`device` must name at least one device"]),
        ("device=3", ["`device` must be a name, a path or a list of them, but got 3"]),
        ("device=ethos_u55_12", ["'ethos_u55_12'", "Did you mean 'ethos_u55_128'?"]),
        ("device=no/such/file.yaml", ["There is no file no/such/file.yaml"]),
        ("seed=", ["seed"]),
        ("seed", ["'seed' is no setting", "key=value"]),
        ("=1", ["'=1' is no setting", "key=value"]),
        ("lr=0.1", ["There is no setting `lr`"]),
        ("evaluations=5", ["There is no setting `evaluations`", "Did you mean `search.evaluations`?"]),
        ("limit.latency=5", ["`limit.latency` names no metric of this run. Did you mean `limit.latency_ms`?"]),
        ("searcher=fbnett", ["no `searcher=fbnett`. Did you mean `searcher=fbnet`? There are aging_evolution, auto, "]),
        ("data=digit", ["no `data=digit`. Did you mean `data=digits`? There"]),
        ("space=null", ["`space` must name one of its files, but got 'null'"]),
        ("--resolve", ["`--resolve` goes with `--cfg job`"]),
        ("--config-pat=x", ["--config-pat=x is unknown", "--config-dir"]),
        ("device=[host_ort", ["[host_ort"]),
        ("limit.latency_ms=abc", ["`limit.latency_ms` must be a number > 0, null, or a mapping", "'abc'"]),
        ("limit.latency_ms=0", ["`limit.latency_ms` must be a number > 0"]),
        ("limit.latency_ms=nan", ["`limit.latency_ms` must be a number > 0"]),
        ("limit.latency_ms=inf", ["`limit.latency_ms` must be a number > 0", "got inf"]),
        ("limit.latency_ms={ethos_u55_128:-1}", ["`limit.latency_ms` must be a number > 0"]),
        ("searcher.evolution.population=2", ["NSGA2 needs population >= 4"]),
    ],
)
def test_a_wrong_setting(nas_command: Command, finished: Path, setting: str, words: list[str]) -> None:
    stage = "train" if setting.startswith("training") else "search"
    refused(nas_command(stage, f"out={finished}", setting), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("backend: [", ["malformed YAML"]),
        ("- a list", ["must be a mapping of settings, but got list"]),
        ("title: a\nbackend: onnxruntime\nwarmup: 3", ["unknown setting 'warmup'", "Did you mean 'warm_up'?"]),
        ("title: a\nbackend: onnxruntime\nruns: many", ["`runs` must be int, but got 'many'"]),
        ("title: a\nbackend: no_such_backend", ["names backend 'no_such_backend'", "onnxruntime"]),
        ("title: a", ["lacks `backend`"]),
    ],
)
def test_a_malformed_device(nas_command: Command, tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    refused(nas_command("profile", f"out={tmp_path / 'run'}", f"device={path}"), "mine", *words)
    refused(nas_command("devices", str(path), own=False), "mine") if "no_such" not in content else None


def test_a_malformed_configuration_file(nas_command: Command, conf_dir: Path, tmp_path: Path) -> None:
    conf = Path(shutil.copytree(conf_dir, tmp_path / "conf"))
    (conf / "recipe" / "broken.yaml").write_text("a: [")
    outcome = nas_command("run", "--config-dir", str(conf), "recipe=broken", f"out={tmp_path / 'run'}", own=False)
    refused(outcome, "malformed YAML", "broken.yaml")


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["latency_ms", "latency_share"])
def test_a_limit_below_the_fastest_network(nas_command: Command, finished: Path, name: str) -> None:
    shutil.rmtree(finished / "search")
    outcome = nas_command("search", f"out={finished}", f"limit.{name}=1e-4")
    refused(outcome, f"`limit.{name}`=0.0001", "by any of the 800 networks. The nearest has latency", "'resolution': 8")
    assert not list(finished.glob("search/*"))  # told before anything is searched
    nearest = re.search(r"Set `limit\S+ to (\S+) or more", outcome.err)
    assert nearest, outcome.err
    assert nas_command("search", f"out={finished}", f"limit.{name}={nearest[1]}").code == 0


def test_a_limit_on_memory_that_no_tool_reports_is_on_the_computed_peak(
    nas_command: Command, finished: Path, conf_dir: Path
) -> None:
    for path in finished.glob("fit/*_memory.npz"):
        path.unlink()
    refused(
        nas_command("search", f"out={finished}", "limit.memory_bytes=1000"),
        "`limit.memory_bytes`=1000",
        "computed peak",
    )


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "missing", "maker"),
    [
        ("label", "train/supernet.pt", "train"),
        ("search", "fit/accuracy.npz", "fit"),
        ("export", "search/*.json", "search"),
        ("verify", "export/*/networks.json", "export"),
        ("report", "verify/*.json", "verify"),
    ],
)
def test_a_missing_input_names_the_stage_that_makes_it(
    nas_command: Command, finished: Path, stage: str, missing: str, maker: str
) -> None:
    (path,) = finished.glob(missing)
    path.unlink()
    refused(nas_command(stage, f"out={finished}"), f"`nas {stage}` needs {path}", f"Run `nas {maker}`")


def test_stages_in_an_empty_folder(nas_command: Command, tmp_path: Path) -> None:
    for stage in ("label", "fit", "search", "export", "verify", "report"):
        refused(nas_command(stage, f"out={tmp_path / stage}"), f"`nas {stage}` needs", "which is not there")


def test_a_stage_for_another_device_names_those_of_the_folder(nas_command: Command, finished: Path) -> None:
    (file,) = (finished / "search").glob("*.json")
    outcome = nas_command("export", f"out={finished}", "device=systolic_tpu")
    refused(outcome, "search/systolic_tpu.json, which is not there.", f"This folder has {file.stem}: add `device=")


def test_a_plan_belongs_to_run(nas_command: Command) -> None:
    refused(nas_command("search", "--plan", own=False), "`--plan` belongs to `nas run`")


def test_a_bare_word_is_a_list_of_one() -> None:
    assert command_line.read(["search.objectives=latency_ms"]).settings == ["search.objectives=[latency_ms]"]
    assert command_line.read(["search.objectives=[macs]"]).settings == ["search.objectives=[macs]"]


@pytest.mark.parametrize(
    ("stage", "pattern", "words"),
    [
        ("profile", "profile/*/table.jsonl", ["table.jsonl", "first line"]),
        ("fit", "profile/*/table.jsonl", ["table.jsonl", "first line"]),
        ("fit", "profile/*/networks.jsonl", ["networks.jsonl", "first line"]),
        ("label", "label/accuracy.jsonl", ["accuracy.jsonl", "first line"]),
        ("train", "train/checkpoint.pt", ["checkpoint.pt"]),
        ("label", "train/supernet.pt", ["supernet.pt"]),
        ("search", "fit/accuracy.npz", ["accuracy.npz"]),
        ("search", "fit/*_latency.npz", ["_latency.npz"]),
        ("export", "search/*.json", [".json"]),
        ("verify", "export/*/networks.json", ["networks.json"]),
        ("verify", "export/*/fastest/network.onnx", ["network.onnx"]),
        ("report", "verify/*.json", [".json"]),
        ("report", "fit/quality.json", ["quality.json"]),
        ("report", "run.json", ["run.json"]),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x00damaged"], ids=["empty", "bytes"])
def test_a_damaged_file(
    nas_command: Command, finished: Path, stage: str, pattern: str, words: list[str], content: bytes
) -> None:
    (path,) = finished.glob(pattern)
    if pattern.endswith(".jsonl") and content == b"":
        content = b"\n"  # an empty log is a new one
    if pattern.endswith(".jsonl"):
        content += b"\n" + b"\n".join(path.read_bytes().split(b"\n")[1:])
    path.write_bytes(content)
    if pattern == "train/supernet.pt":  # pairs of another supernet are worth nothing, so they are made anew
        (finished / "label" / "accuracy.jsonl").unlink()
    refused(nas_command(stage, f"out={finished}"), *words)


@pytest.mark.parametrize(
    ("stage", "pattern", "missing", "words"),
    [
        ("export", "search/*.json", "limits", "has no `limits`"),
        ("verify", "export/*/networks.json", "networks", "has no `networks`"),
        ("verify", "export/*/networks.json", "objectives", "has no `objectives`"),
    ],
)
def test_a_file_that_lacks_a_part(
    nas_command: Command, finished: Path, stage: str, pattern: str, missing: str, words: str
) -> None:
    (path,) = finished.glob(pattern)
    (finished / "stages" / f"{pattern.split('/')[0]}.json").unlink()  # which would tell that the file was changed
    content = read_json(path)
    del content[missing]
    write_json(path, content)
    refused(nas_command(stage, f"out={finished}"), str(path), words)


def test_an_export_that_was_changed_is_not_verified(nas_command: Command, finished: Path) -> None:
    path = next(finished.glob("export/*/*/network.onnx"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64  # a weight with another exponent: a file that loads
    path.write_bytes(content)
    refused(nas_command("verify", f"out={finished}"), str(path), "is not as `nas export` left it", "Run `nas export`")
    assert nas_command("run", f"out={finished}").code == 0


def test_a_predictor_that_lacks_a_part(nas_command: Command, finished: Path) -> None:
    (path,) = finished.glob("fit/*_latency.npz")
    (finished / "stages" / "fit.json").unlink()
    arrays = read_arrays(path)
    del arrays["terms"]
    write_arrays(path, arrays)
    refused(nas_command("search", f"out={finished}"), "_latency.npz", "lacks 'terms'", "Run `nas fit` again")


def test_a_run_folder_of_another_space(nas_command: Command, finished: Path) -> None:
    outcome = nas_command("search", f"out={finished}", "space.features=24")
    refused(outcome, str(finished), "holds a run of space 'tiny'", "Choose another folder with `out=`")


@pytest.mark.parametrize("stage", ["run", "profile", "train"])
def test_a_folder_that_cannot_be_written(nas_command: Command, tmp_path: Path, stage: str) -> None:
    (tmp_path / "file").write_text("")  # also the superuser cannot make a folder below a file
    refused(nas_command(stage, f"out={tmp_path / 'file' / 'run'}"), str(tmp_path / "file"), "`out=<folder>`")


@pytest.mark.parametrize("setting", ["label.subnets=20"])
def test_fitting_with_settings_that_were_not_measured(nas_command: Command, finished: Path, setting: str) -> None:
    stage = setting.split(".")[0]
    refused(nas_command("fit", f"out={finished}", setting), "lacks", f"Run `nas {stage}` with the same settings first")


# -- several in one process --------------------------------------------------------------------------------------------


def test_a_stage_says_where_its_result_is(nas_command: Command, finished: Path) -> None:
    outcome = nas_command("search", f"out={finished}")
    assert outcome.code == 0 and " on the front" in outcome.out and "hypervolume" in outcome.out
    outcome = nas_command("fit", f"out={finished}")
    assert outcome.code == 0 and f"wrote {finished / 'fit' / 'quality.json'}" in outcome.out


def test_a_sweep_has_a_folder_for_each(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    outcome = nas_command("search", "-m", f"out={tmp_path / 'sweep'}", "seed=0,1")
    refused(outcome, "`nas search` needs", "seed=0")


def test_options_may_stand_between_settings(nas_command: Command) -> None:
    outcome = nas_command("search", "seed=3", "--cfg", "job", "search.evaluations=7")
    assert outcome.code == 0, outcome.err
    settings = yaml.safe_load(outcome.out)
    assert (settings["seed"], settings["search"]["evaluations"]) == (3, 7)
    assert nas_command("search", "--no-such-option").code == 2


def test_settings_are_printed_on_request(nas_command: Command) -> None:
    outcome = nas_command("search", "--cfg", "job")
    assert outcome.code == 0
    settings = yaml.safe_load(outcome.out)["search"]
    assert (settings["evaluations"], settings["baseline"], settings["seconds"]) == (200, True, None)


@pytest.mark.parametrize("wrong", ["accuracy=mlp_transferred", "seed=-1", "device=nowhere"])
def test_a_refused_command_leaves_no_folder(
    nas_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path)
    for out in ([], ["out=kept/a/b"]):
        assert nas_command("run", *out, wrong).code == 2
        assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
