"""The command `nas table`, on files that the tests write."""

import json
from pathlib import Path

import pytest

from hardware_profiles import LatencyTable
from nas.commands.cli import run_command
from search_spaces import Conv

CSV = """\
kind,in_channels,out_channels,kernel,stride,activation,size,latency_ms
Conv,3,8,3,2,relu,32,0.5
Conv,3,16,3,2,relu,32,0.75
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(CSV)
    return path


def test_import_and_show(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "board.jsonl"
    assert run_command(["table", "import", "csv", str(source), str(out), "dtype=int8", "threads=4"]) == 0
    speed = "0.133 GMAC/s over all layers"
    assert capsys.readouterr().out == f"2 layers\n{speed}\nwrote {out}\n"
    table = LatencyTable.read(out)
    assert table[Conv(3, 16, 3, 2, "relu", 32)].latency_ms == 0.75
    assert run_command(["table", "show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "board: 2 layers, 0 that the device cannot run\n      2 Conv               0.5 to 0.75 ms\n"
    )
    assert "dtype: int8" in shown and "threads: 4" in shown


def test_rows_that_are_refused_are_counted_and_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source.write_text(CSV + "Conv,3,16,2,2,relu,32,0.75\n")
    assert run_command(["table", "import", "csv", str(source), str(tmp_path / "out.jsonl")]) == 0
    assert "2 layers, 1 rows refused" in capsys.readouterr().out
    assert "kernel must be odd" in caplog.text


def test_merge(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dtype in (("a", "int8"), ("b", "int8"), ("c", "float32")):
        out = str(tmp_path / f"{name}.jsonl")
        assert run_command(["table", "import", "csv", str(source), out, f"dtype={dtype}", "device=board"]) == 0
    capsys.readouterr()
    paths = [str(tmp_path / f"{name}.jsonl") for name in "abc"]
    assert run_command(["table", "merge", str(tmp_path / "ab.jsonl"), *paths[:2]]) == 0
    assert "board: 2 layers" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "ab.jsonl").read_text().splitlines()[0])["conditions"]) == 3
    assert run_command(["table", "merge", str(tmp_path / "abc.jsonl"), *paths]) == 2
    assert "different conditions (dtype: 'int8' and 'float32')" in capsys.readouterr().err
    assert not (tmp_path / "abc.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("improt csv a b", "Wrong arguments: `nas table improt csv a b`"),
        ("import csv a", "Wrong arguments"),
        ("import excel SOURCE out", "one of ofa, fbnet, csv, but got 'excel'"),
        ("import csv nowhere.csv out", "no nowhere.csv to import"),
        ("import csv SOURCE out colour=red", "no setting 'colour'; it has device"),
        ("import csv SOURCE out batch=0", "`batch` must be a number >= 1"),
        ("import csv SOURCE out batch=two", "`batch` must be a number >= 1"),
        ("import fbnet SOURCE out", "name the space with `space=fbnet`"),
        ("import fbnet SOURCE out space=nothing", "There is no space 'nothing'"),
        ("import fbnet SOURCE out space=nasbench201", "but got `space=nasbench201`"),
        ("merge out", "Wrong arguments"),
        ("merge out SOURCE dtype=int8", "`nas table merge` has no setting 'dtype'"),
        ("show", "Wrong arguments"),
        ("show nowhere", "no latency table nowhere"),
        ("show SOURCE", "first line"),
    ],
)
def test_wrong_arguments(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["table", *(str(source) if word == "SOURCE" else word for word in words.split())]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["table"], ["table", "--help"]):
        assert run_command(words) == 0 and "nas table import FORMAT SOURCE OUT" in capsys.readouterr().out
