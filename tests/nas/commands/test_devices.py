"""`nas devices`, `nas devices new` and `nas devices check` as a user sees them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles import availability, device_names, load_device
from hardware_profiles.check import LAYERS, DeviceCheck, LayerCheck
from hardware_profiles.device import backend_names
from hardware_profiles.measure import Measurement
from nas.commands.devices import _verdict

Command = Callable[..., Any]


@pytest.fixture
def nas_devices(nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``nas devices ...`` in an empty folder, on a terminal of 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: nas_command("devices", *arguments, own=False)


def refused(outcome: Any, *words: str) -> None:
    assert (outcome.code, outcome.err.count("nas: ")) == (2, 1), outcome
    assert all(word in outcome.err for word in words), outcome.err


def test_help_names_all_words(nas_devices: Command, nas_command: Command) -> None:
    for arguments in (["--help"], ["new", "--help"], ["check", "-h"]):
        outcome = nas_devices(*arguments)
        assert outcome.code == 0 and all(f"nas devices {word}" in outcome.out for word in ("new", "check"))
    outline = nas_command("--help", own=False).out
    assert "nas devices new NAME" in outline and "nas devices check NAME" in outline


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_fits_the_terminal_and_says_all_there_is(nas_devices: Command) -> None:
    outcome = nas_devices()
    assert (outcome.code, outcome.err) == (0, "")
    header, *rows = outcome.out.splitlines()
    assert header.split() == ["device", "backend", "dtype", "batch", "threads", "numbers", "usable", "here"]
    assert max(map(len, rows)) <= 100
    by_name = {row.split()[0]: row for row in rows}
    assert list(by_name)[: len(device_names())] == device_names()
    assert by_name["host_ort"].split() == ["host_ort", "onnxruntime", "float32", "1", "1", "measured", "yes"]
    if any("…" in row for row in rows):
        assert rows[-1].startswith("`nas devices NAME`")


def test_a_reason_in_full(nas_devices: Command) -> None:
    name = next((n for n in device_names() if len(availability(load_device(n)) or "") > 100), None)
    if name is None:
        pytest.skip("all devices are usable here")
    reason = availability(load_device(name))
    outcome = nas_devices(name)
    assert outcome.out.count("\n") == 2
    assert reason is not None and " ".join(reason.split()).split(name, 1)[1].lstrip("': ") in outcome.out


@pytest.mark.parametrize(
    ("backend", "message"), [("no_such", "names backend 'no_such', which is unknown"), ("a.b", "add `--trust a`")]
)
def test_a_backend_that_is_not_there_is_refused(nas_devices: Command, backend: str, message: str) -> None:
    Path("odd.yaml").write_text(f"title: A\nbackend: {backend}\n")
    refused(nas_devices("odd.yaml", "host_ort"), message)


def test_boards_that_do_not_answer_are_listed_in_order(nas_devices: Command) -> None:
    if "tvm_rpc" not in backend_names() or (availability(load_device("host_tvm")) or ""):
        pytest.skip("needs TVM")
    board = "title: A\nbackend: tvm_rpc\noptions: {target: {kind: llvm}, server: '127.0.0.1:9', connect_seconds: 1}\n"
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(board)
    _, *rows = nas_devices("one", "host_ort", "two").out.splitlines()
    assert [row.split()[0] for row in rows] == ["one", "host_ort", "two"]
    assert "127.0.0.1:9" in rows[0] and "127.0.0.1:9" in rows[2] and rows[1].endswith("yes")


# -- a new one ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_new_writes_a_file_that_a_check_takes(nas_devices: Command) -> None:
    outcome = nas_devices("new", "my_board")
    assert (outcome.code, outcome.err) == (0, "")
    assert "nas devices check my_board.yaml" in outcome.out and "nas profile device=my_board.yaml" in outcome.out
    assert os.listdir() == ["my_board.yaml"]
    outcome = nas_devices("check", "my_board")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    for word in ("my_board: my_board", "onnxruntime", "CPUExecutionProvider", "1 thread", "p10", "verdict"):
        assert word in outcome.out
    lines = [line.split() for line in outcome.out.splitlines() if line]
    for label in ("stem", "block", "classifier", "reference"):
        (line,) = [line for line in lines if line[0] == label]
        assert float(line[1]) > 0 and float(line[2]) > 0
    assert any(line[0] == "clock" for line in lines)


def test_the_verdict_judges_how_the_reference_moved() -> None:
    one = Measurement(1, 1, 1, 1, 8, 4, 1.0, True)
    layer = LayerCheck(LAYERS["block"], one, one)
    host = load_device("host_ort")
    check = DeviceCheck(host, host.open().capabilities, {"block": layer}, 1, (1.0, 1.09), 1e-6, sample_ms=0.5)
    assert check.findings() == []
    verdict = " ".join(" ".join(_verdict(check, [])).split())
    assert verdict == (
        "verdict fine: the layers repeat within 0.0%, and the reference moved by +9.0% in between, where 10% is "
        "tolerated."
    )


def test_new_with_a_backend(nas_devices: Command) -> None:
    for arguments in (["new", "mine", "backend=onnxruntime"], ["new", "backend=onnxruntime", "other.yaml"]):
        assert nas_devices(*arguments).code == 0
    assert sorted(os.listdir()) == ["mine.yaml", "other.yaml"]
    refused(nas_devices("new", "x", "backend=onnxruntme"), "onnxruntme", "Did you mean 'onnxruntime'?")
    assert sorted(os.listdir()) == ["mine.yaml", "other.yaml"]


def test_new_overwrites_nothing(nas_devices: Command) -> None:
    Path("mine.yaml").write_text("title: precious\n")
    refused(nas_devices("new", "mine"), "mine.yaml is there already")
    assert Path("mine.yaml").read_text() == "title: precious\n"
    refused(nas_devices("new", "host_ort"), "shipped device 'host_ort'")
    os.chmod(".", 0o500)
    try:
        if not os.access(".", os.W_OK):  # root may write anywhere
            refused(nas_devices("new", "third"), "Cannot use third.yaml")
    finally:
        os.chmod(".", 0o700)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "a,b", "x" * 65, "\u00e9", "-"])
def test_new_refuses_what_is_no_name(nas_devices: Command, name: str) -> None:
    refused(nas_devices("new", name), "name")
    assert os.listdir() == []


@pytest.mark.parametrize(
    "arguments", [[], ["a", "b"], ["a", "bakend=x"], ["backend=tvm"], ["a", "backend=x", "backend=y"]]
)
def test_new_takes_a_name_and_a_backend(nas_devices: Command, arguments: list[str]) -> None:
    refused(nas_devices("new", *arguments), "takes a name and `backend=...`")


# -- a check -----------------------------------------------------------------------------------------------------------


def test_check_of_an_estimate(nas_devices: Command) -> None:
    if reason := availability(load_device("ethos_u55_128")):
        pytest.skip(reason)
    outcome = nas_devices("check", "ethos_u55_128")
    assert outcome.code == 0 and "no noise" in outcome.out and "verdict     fine." in outcome.out
    assert "KiB" in outcome.out and "reference" not in outcome.out and "warning" not in outcome.out


def test_check_of_what_cannot_be_used(nas_devices: Command) -> None:
    refused(nas_devices("check"), "takes one device")
    refused(nas_devices("check", "host_ort", "host_tvm"), "takes one device")
    refused(nas_devices("check", "host_otr"), "Did you mean 'host_ort'?")
    refused(nas_devices("check", "no.yaml"), "no.yaml")
    Path("mine.yaml").write_text("title: A\nbackend: onnxruntime\noptions: {provider: NoSuch}\n")
    refused(nas_devices("check", "mine"), "NoSuch")


def test_check_of_a_device_that_runs_nothing(nas_devices: Command) -> None:
    """No memory holds an image batch of petabytes."""
    Path("mine.yaml").write_text("title: A\nbackend: onnxruntime\nbatch: 1000000000000\n")
    outcome = nas_devices("check", "mine")
    refused(outcome, "'mine' cannot be measured on. stem cannot be measured")
    assert "verdict" not in outcome.out and outcome.out.count("failed") == 3
