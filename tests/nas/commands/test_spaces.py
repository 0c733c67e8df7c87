"""`nas spaces` as a user sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import nas
from hardware_profiles.onnx_graph import weights_of_onnx
from search_spaces import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_json
from search_spaces.loading import known_spaces

Command = Callable[..., Any]

TWO: dict[str, Any] = {
    "_target_": "search_spaces.staged.Staged",
    "name": "two",
    "resolutions": [8],
    "in_channels": 1,
    "classes": 10,
    "stem": [{"kind": "Conv", "channels": 8, "kernel": 3}],
    "stages": [{"channels": 8, "depths": [1, 2], "blocks": [{"kind": "Conv", "kernel": [1, 3]}]}],
    "head": [{"kind": "LinearClassifier"}],
    "published": {"one": {"depth": 1, "kernel": 3}, "two": {"depth": 2, "kernel": [[3, 1]]}},
    "baselines": {"Scaled": ["one", "two"]},
}


@pytest.fixture
def nas_spaces(nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``nas spaces ...`` in a folder with the file ``two.yaml``."""
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(yaml.safe_dump(TWO))
    return lambda *arguments: nas_command("spaces", *arguments, own=False)


def refused(outcome: Any, *words: str) -> None:
    assert (outcome.code, outcome.err.count("nas: ")) == (2, 1), outcome
    assert all(word in outcome.err for word in words), outcome.err


def test_a_file_that_is_no_yaml_is_named(nas_spaces: Command) -> None:
    refused(nas_spaces("x.yam"), "x.yam does not exist; a space of yours is a file that ends in .yaml.")
    refused(nas_spaces("conf/x"), "conf/x does not exist; a space of yours is a file that ends in .yaml.")
    Path("two.yaml").rename("two.yam")
    refused(nas_spaces("two.yam"), "two.yam does not end in .yaml; a space of yours is a file that ends in .yaml.")


def test_the_list_has_all_spaces_and_their_published_networks(nas_spaces: Command) -> None:
    outcome = nas_spaces()
    assert (outcome.code, outcome.err) == (0, "")
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert list(lines) == known_spaces()
    assert lines["mnasnet"].endswith("2.7e+14 networks: mnasnet_a1, mnasnet_b1")
    assert lines["nasbench201"].endswith("6.2e+3 networks")


def test_a_space_is_described(nas_spaces: Command) -> None:
    outcome = nas_spaces("two.yaml")
    assert (outcome.code, outcome.err) == (0, "")
    one, two = (nas.space("two.yaml").member(name) for name in ("one", "two"))
    assert outcome.out.splitlines() == [
        "two: 6 networks",
        "  resolution: 8",
        "  depth.1: 1, 2",
        "  kernel.1.1: 1, 3",
        "  kernel.1.2: 1, 3   while depth.1 is 2",
        "published network              MACs      parameters",
        f"  one              {one.macs:>16,}  {one.params:>14,}",
        f"  two              {two.macs:>16,}  {two.params:>14,}",
        "drawn beside a front, Scaled: one, two",
    ]


def test_a_published_network_is_exported(nas_spaces: Command, tmp_path: Path) -> None:
    outcome = nas_spaces("export", "two.yaml", "two", "there")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "Wrote there/network.onnx: two with random weights\n"
    space = nas.space("two.yaml")
    assert Architecture.from_json(space, read_json(tmp_path / "there" / "architecture.json")) == space.member("two")
    weights = weights_of_onnx(tmp_path / "there" / "network.onnx")
    outcome = nas_spaces("export", "two.yaml", "two", "npu", "device=ethos_u55_128")
    assert outcome.out == "Wrote npu/network.onnx and npu/network.tflite: two with random weights\n"
    assert weights["stage1_block2.conv.weight"].shape == (8, 8, 1, 1)


def test_any_architecture_is_exported_from_python(nas_spaces: Command, tmp_path: Path) -> None:
    smallest = nas.space("two.yaml").smallest
    assert nas.export(smallest, tmp_path / "small", "random") == {}
    assert (tmp_path / "small" / "network.onnx").exists()
    with pytest.raises(InvalidValueError, match="give `weights`, a supernet"):
        nas.export(smallest, tmp_path / "small")


def test_help(nas_spaces: Command, nas_command: Command) -> None:
    for arguments in (["--help"], ["export", "-h"]):
        outcome = nas_spaces(*arguments)
        assert outcome.code == 0 and "nas spaces export NAME|YAML NETWORK FOLDER" in outcome.out
    assert "nas spaces export NAME NETWORK FOLDER" in nas_command("--help", own=False).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["two.yaml", "more"], ["takes one space", "two.yaml more"]),
        (["mnasne"], ["no space 'mnasne'", "Did you mean 'mnasnet'?"]),
        (["export", "two.yaml", "two"], ["takes a space, a network and a folder"]),
        (["export", "two.yaml", "two", "out", "seed=1"], ["takes a space, a network and a folder"]),
        (["export", "two.yaml", "tow", "out"], ["no published network 'tow'", "Did you mean 'two'?"]),
        (["export", "two.yaml", "two", "out", "device=nowhere"], ["nowhere"]),
        (["export", "two.yaml", "two", "out", "weights=nowhere"], ["nowhere"]),
    ],
)
def test_wrong_arguments_are_refused(nas_spaces: Command, arguments: list[str], words: list[str]) -> None:
    refused(nas_spaces(*arguments), *words)
