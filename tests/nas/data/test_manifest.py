"""What is remembered between two starts, and what is not."""

import logging
import os
from pathlib import Path

import pytest

from nas.data import manifest
from nas.data.manifest import Manifest, Survey, stamp_of

SURVEY = Survey((3, 8, 8), (0.5, 0.25, 0.0), (1.0, 0.5, 0.0))


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.npz"
    first = Manifest(path)
    first.surveys["key"] = SURVEY
    first.save([("a.png", (1, 2, 3), b"a" * 32), ("b\udce4.png", (4, 5, 6), b"b" * 32), ("new.png", None, b"n" * 32)])
    again = Manifest(path)
    assert again.surveys == {"key": SURVEY}
    assert again.digest("a.png", (1, 2, 3)) == b"a" * 32
    assert again.digest("b\udce4.png", (4, 5, 6)) == b"b" * 32  # a name that is no UTF-8
    assert again.digest("a.png", (1, 2, 4)) is None is again.digest("a.png", None)
    assert again.digest("new.png", None) is None is again.digest("c.png", (1, 2, 3))


def test_one_of_fresh_files_alone_is_a_manifest_too(tmp_path: Path) -> None:
    first = Manifest(tmp_path / "a.npz")
    first.surveys["key"] = SURVEY
    first.save([("a.png", None, b"a" * 32)])
    assert Manifest(tmp_path / "a.npz").surveys == {"key": SURVEY}


def test_a_damaged_one_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        assert Manifest(path).surveys == {}
    assert f"{path} is damaged" in caplog.text and "is made again" in caplog.text


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Manifest(None).save([("a.png", (1, 2, 3), b"a" * 32)])
    assert list(tmp_path.iterdir()) == []


def test_a_stamp_changes_with_the_file_and_a_fresh_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    assert stamp_of(path) is None
    monkeypatch.setattr(manifest, "FRESH_NS", 0)
    before = stamp_of(path)
    assert before is not None and before[0] == 3 and before == stamp_of(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(before[1], before[1]))  # as long and as old as before
    after = stamp_of(path)
    assert after is not None and after[:2] == before[:2] and after != before
