import io
import sys
import threading
import time
from collections.abc import Callable

import pytest

from nas.core import progress as module
from nas.core.progress import duration, each, progress


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_without_a_terminal_lines_come_while_one_item_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with progress("train", 30, "epoch", done=2) as shown:
        wait_for(lambda: "train: 2 of 30 epochs, 1 s\n" in written.getvalue())
        shown.update()
        shown.set_postfix(loss="0.5")
        wait_for(lambda: "train: 3 of 30 epochs, 1 s, about" in written.getvalue())
    lines = written.getvalue().splitlines()
    assert lines[0] == "train: 2 of 30 epochs, 1 s"
    assert any(line.startswith("train: 3 of 30 epochs, 1 s, about ") and line.endswith(", loss 0.5") for line in lines)
    assert not [thread for thread in threading.enumerate() if "_write" in thread.name]


def test_the_innermost_of_nested_work_speaks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with progress("search", 300, "evaluation"):
        wait_for(lambda: "search: 0 of 300" in written.getvalue())
        with progress("FBNet", 20, "epoch"):
            written.truncate(0)
            wait_for(lambda: written.getvalue().count("FBNet: 0 of 20 epochs, 1 s\n") >= 5)
            assert written.getvalue().count("search") <= 1  # a line may have been on its way
        written.truncate(0)
        wait_for(lambda: "search: 0 of 300" in written.getvalue())
    assert "search: 0 of 300 evaluations, 1 s" in written.getvalue()


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(each([1, 2, 3], "label", "subnet")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_title_from_a_file_is_printed_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with progress("export \x1b[2J", 3, "network"):
        wait_for(lambda: bool(written.getvalue()))
    assert "\x1b" not in written.getvalue() and written.getvalue().startswith("export ")


@pytest.mark.parametrize(("seconds", "words"), [(0.1, "1 s"), (42, "42 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
