import json
import logging
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from search_spaces.base import storage
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, StorageError
from search_spaces.base.storage import (
    RecordLog,
    read_arrays,
    read_json,
    read_records,
    read_yaml,
    set_aside,
    take_records,
    write_arrays,
    write_json,
)

CONDITIONS = {"device": "a", "threads": 1}


def log_of(path: Path, n: int) -> RecordLog:
    log = RecordLog(path, CONDITIONS)
    for i in range(n):
        log.append({"i": i, "name": "ü"})
    return log


# -- whole files -------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(path) == {"b": [1, 2.5, None], "a": "ü"}
    assert path.read_text().endswith("\n") and os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_json_is_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, [value])
    assert read_json(path) == [1]
    path.write_text(json.dumps([value]))
    with pytest.raises(DamagedFileError, match=r"a\.json.*Delete it"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"nope"])
def test_damaged_json_names_the_file_and_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.json.*Delete it"):
        read_json(tmp_path / "a.json")


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays = {"genes": np.arange(6, dtype=np.int16).reshape(2, 3), "none": np.zeros((0, 4), np.float32)}
    write_arrays(tmp_path / "a.npz", arrays)
    again = read_arrays(tmp_path / "a.npz")
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(again[name], array) and again[name].dtype == array.dtype


def test_pickled_arrays_are_refused_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        write_arrays(path, {"a": np.array([{}, None], object)})
    assert not path.exists()
    np.savez(path, a=np.array([{}, None], object))
    with pytest.raises(DamagedFileError, match=r"is damaged.*of your own: .*plain numbers.* hwnas wrote: move it away"):
        read_arrays(path)


def test_a_file_of_another_kind_is_not_to_be_deleted(tmp_path: Path) -> None:
    write_json(tmp_path / "quality.json", {"a": 1})
    with pytest.raises(DamagedFileError, match=r"quality\.json is no npz file") as caught:
        read_arrays(tmp_path / "quality.json")
    assert "elete" not in str(caught.value)


def test_damaged_arrays_are_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.arange(50)})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFileError, match="move it away"):
            read_arrays(path)


def test_a_missing_file_and_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for read in (read_json, read_arrays, read_records):
        with pytest.raises(StorageError, match="missing.*No such file"):
            read(tmp_path / "missing")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(StorageError, match="choose a writable folder with `out=<folder>`"):
            write_json(path, [])
        with pytest.raises(StorageError, match="choose a writable folder"):
            RecordLog(path, {})


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    write_json(path, ["old"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(StorageError, match=r"a\.json: No space left on device. Free space") as caught:
        write_json(path, ["new"])
    assert isinstance(caught.value, OSError)
    assert read_json(path) == ["old"] and os.listdir(tmp_path) == ["a.json"]


def test_a_killed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", ["old"])
    code = (
        "import os, pathlib, signal; from search_spaces.base import storage;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        f"storage.write_json(pathlib.Path({str(tmp_path / 'a.json')!r}), ['new'])"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert read_json(tmp_path / "a.json") == ["old"]


def test_fingerprint_is_of_the_content() -> None:
    assert storage.fingerprint({"a": 1, "b": [2]}) == storage.fingerprint({"b": [2], "a": 1}) == "0855bfc20eb6cfaa"
    assert storage.fingerprint({"a": 1}) != storage.fingerprint({"a": 2})


# -- logs --------------------------------------------------------------------------------------------------------------


def test_log_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    log = log_of(path, 3)
    assert [record["i"] for record in log.records] == [0, 1, 2]
    again = RecordLog(path, CONDITIONS)
    assert again.records == log.records and again.conditions == CONDITIONS
    again.append({"i": 3})
    assert read_records(path) == (CONDITIONS, [*log.records, {"i": 3}])


def test_conditions_compare_as_json(tmp_path: Path) -> None:
    RecordLog(tmp_path / "a", {"shape": (1, 2), 3: 4})
    assert RecordLog(tmp_path / "a", {"shape": [1, 2], "3": 4}).records == []


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"device": "a", "threads": 2}, "threads: 1 there, 2 now"),
        ({"device": "a"}, "threads: 1 there, None now"),
        ({"device": "a", "threads": 1, "batch": None}, "batch"),
    ],
)
def test_other_conditions_are_refused_and_named(tmp_path: Path, now: dict[str, Any], named: str) -> None:
    log_of(tmp_path / "a", 1)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(MismatchError, match=named) as caught:
        RecordLog(tmp_path / "a", now)
    assert "device" not in str(caught.value).split("(")[1].split(")")[0]
    assert "out=<folder>" in str(caught.value)
    assert (tmp_path / "a").read_bytes() == before


def test_nan_is_refused_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = log_of(tmp_path / "a", 1)
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        log.append({"i": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        RecordLog(tmp_path / "b", {"limit": float("inf")})
    assert log.path.read_bytes() == before and len(log.records) == 1 and not (tmp_path / "b").exists()


def test_a_kill_at_any_byte_of_an_append_loses_that_record_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = log_of(tmp_path / "whole", 3).path.read_bytes()
    kept = content[:-1].rfind(b"\n") + 1  # where the last line starts
    path = tmp_path / "cut"
    for length in range(kept, len(content)):
        path.write_bytes(content[:length])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            log = RecordLog(path, CONDITIONS)
        whole = length == len(content) - 1  # only its newline is missing
        assert [record["i"] for record in log.records] == ([0, 1, 2] if whole else [0, 1])
        assert bool(caplog.records) == (kept < length and not whole)
        if caplog.records:
            assert str(path) in caplog.text and "line 4" in caplog.text
        log.append({"i": 9})
        log.append({"i": 10})
        expected = [*range(3 if whole else 2), 9, 10]
        assert [record["i"] for record in RecordLog(path, CONDITIONS).records] == expected


def test_damage_in_the_middle_loses_the_damaged_lines_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = log_of(tmp_path / "a", 5).path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-3]
    lines[3] = b"\xff\x00garbage"
    lines[4] = b'["valid JSON", "but no record"]'
    (tmp_path / "a").write_bytes(b"\n".join(lines))
    with caplog.at_level(logging.WARNING):
        log = RecordLog(tmp_path / "a", CONDITIONS)
    assert [record["i"] for record in log.records] == [0, 4]
    assert [f"line {n} is damaged" in caplog.text for n in (2, 3, 4, 5, 6)] == [False, True, True, True, False]
    log.append({"i": 5})
    assert [record["i"] for record in RecordLog(tmp_path / "a", CONDITIONS).records] == [0, 4, 5]


@pytest.mark.parametrize("first", [b"{", b"[]\n", b'{"conditions": 3}\n', b"\n", b"\xff\n", b'{"other": {}}\n'])
def test_a_file_without_its_first_line_is_refused_and_kept(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "a").write_bytes(first)
    with pytest.raises(DamagedFileError, match="conditions.*Delete it"):
        RecordLog(tmp_path / "a", CONDITIONS)
    assert (tmp_path / "a").read_bytes() == first


def test_an_empty_or_deleted_file_gets_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    log = RecordLog(path, CONDITIONS)
    assert read_records(path) == (CONDITIONS, [])
    path.unlink()
    log.append({"i": 0})
    assert read_records(path) == (CONDITIONS, [{"i": 0}])


APPEND = """
import sys, pathlib
from search_spaces.base.storage import RecordLog
path, me, records, width = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.stdin.readline()
for i in range(records):
    RecordLog(path, {"a": 1}).append({"from": me, "i": i, "filling": me * width})
"""


@pytest.mark.parametrize(("records", "width"), [(30, 1), (8, 100_000)])
def test_processes_that_append_to_one_file_lose_nothing(
    tmp_path: Path, start_process: Callable[..., subprocess.Popen[bytes]], records: int, width: int
) -> None:
    path = tmp_path / "log"
    names = ["a", "b", "c"]
    processes = [
        start_process([sys.executable, "-c", APPEND, str(path), name, str(records), str(width)], stdin=subprocess.PIPE)
        for name in names
    ]
    for process in processes:  # all wait for this, so that they also race for the first line
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0, 0]
    conditions, found = read_records(path)
    assert conditions == {"a": 1}
    for name in names:
        mine = [record for record in found if record["from"] == name]
        assert [record["i"] for record in mine] == list(range(records))
        assert all(record["filling"] == name * width for record in mine)
    assert len(path.read_bytes().split(b"\n")) == 1 + 3 * records + 1


def test_a_log_that_another_process_starts_meanwhile_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_of(tmp_path / "a", 2)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # what this process saw just before
    log = RecordLog(tmp_path / "a", CONDITIONS)
    log.append({"i": 2})
    assert [record["i"] for record in read_records(tmp_path / "a")[1]] == [0, 1, 2]


def test_an_append_waits_for_the_process_that_is_writing(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    log = log_of(tmp_path / "a", 0)
    appending = threading.Thread(target=log.append, args=({"i": 1},))
    with open(log.path, "ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"i":')
        appending.start()
        appending.join(0.2)
        assert appending.is_alive()
        other.write(b" 0}\n")
    appending.join()
    assert read_records(log.path)[1] == [{"i": 0}, {"i": 1}]


FULL = """
import pathlib, resource, sys
from search_spaces.base.errors import StorageError
from search_spaces.base.storage import RecordLog
log = RecordLog(pathlib.Path(sys.argv[1]), {"a": 1})
log.append({"i": 0})
size = log.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
try:
    log.append({"i": 1, "filling": "x" * 1000})
except StorageError as error:
    print(error)
assert log.records == [{"i": 0}] and log.path.stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append({"i": 2})
"""


def test_a_write_that_fails_halfway_is_taken_back(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert "File too large. Free space or choose a writable folder with `out=<folder>`" in done.stdout
    assert (tmp_path / "a").read_text().splitlines() == ['{"conditions": {"a": 1}}', '{"i": 0}', '{"i": 2}']


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"):
        RecordLog(tmp_path / "a", CONDITIONS)


def test_a_failing_flush_keeps_the_earlier_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(tmp_path / "a", 2)
    before = log.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="Free space"):
        log.append({"i": 2})
    assert log.path.read_bytes() == before and len(log.records) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    log = log_of(tmp_path / "a", 1)
    log.path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(RecordLog(log.path, CONDITIONS).records) == 1  # reading needs no write permission
        for act in (lambda: log.append({"i": 1}), lambda: write_json(tmp_path / "b", [])):
            with pytest.raises(StorageError, match="Permission denied.*out=<folder>"):
                act()
    finally:
        tmp_path.chmod(0o755)


def test_reading_a_log_opens_it_for_reading_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(tmp_path / "a", 2)

    def for_reading(path: Path, mode: str = "r", **settings: Any) -> IO[Any]:
        if mode != "rb":
            raise PermissionError(13, "Permission denied")
        return open(path, mode, **settings)

    monkeypatch.setattr(storage, "open", for_reading, raising=False)
    log = RecordLog(tmp_path / "a", CONDITIONS)
    assert len(log.records) == 2
    with pytest.raises(StorageError, match="Permission denied.*out=<folder>"):
        log.append({"i": 2})


def test_a_system_without_locks_still_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "fcntl", None)
    assert len(log_of(tmp_path / "a", 2).records) == len(RecordLog(tmp_path / "a", CONDITIONS).records) == 2


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is a pipe"), (Path("/dev/zero"), "is a pipe")):
        for read in (read_json, read_arrays, read_yaml, read_records):
            with pytest.raises(StorageError, match=f"{path.name} {what}"):
                read(path)
    with pytest.raises(StorageError, match="is a pipe"):
        RecordLog(tmp_path / "pipe", {})


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": 1e999}', b"[NaN]", b"1" * 5_000, b"\xff", b""])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="a.json is not valid JSON"):
        read_json(path)
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"conditions": {}}\n' + content + b'\n{"a": 1}\n')
    assert read_records(log) == ({}, [{"a": 1}])
    log.write_bytes(content + b"\n")
    with pytest.raises(DamagedFileError, match="log.jsonl"):
        read_records(log)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_other_encodings_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"ä": 1}', encoding=encoding)
    assert read_json(path) == {"ä": 1}


def test_arrays_that_unpack_to_far_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LARGEST_UNPACKED", 1_000_000)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1_000_000))
    with pytest.raises(DamagedFileError, match="bomb.npz .*would unpack from .* to 8,000,"):
        read_arrays(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "data.npz", a=np.random.default_rng(0).random(200_000))
    assert len(read_arrays(tmp_path / "data.npz")["a"]) == 200_000
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a", "no array")
    with pytest.raises(DamagedFileError, match=r"text\.npz is no npz file"):
        read_arrays(tmp_path / "text.npz")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (BOMB, "its aliases stand for more than"),
        ("a: &a [*a]", "an alias holds itself"),
        ("[" * 20_000, "nested too deeply"),
        ("a: [", "malformed"),
        ("a: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("? [a]\n: 1", "malformed"),
        ("a: 2020-13-45", "malformed"),
        ("\x00", "malformed"),
        ("a: " + "x" * 2_000_000, "bytes"),
    ],
)
def test_yaml_that_cannot_be_read_is_named(tmp_path: Path, content: str, rule: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises((InvalidValueError, StorageError), match=rf"a\.yaml .*{rule}"):
        read_yaml(path)


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &one {b: 1}\nc: *one\nd: {<<: *one, e: [1.5, null]}\n", encoding="utf-16")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": [1.5, None]}}
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


def test_rows_that_cannot_be_used_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    rows: list[dict[str, Any]] = [{"a": 1}, {}, {"a": None}, {"a": "x"}, {"a": 2}, {}, {}]
    take_records(tmp_path / "log", rows, lambda row: taken.append(int(row["a"])))
    assert taken == [1, 2]
    assert caplog.text.count("was skipped") == 3 and "2 more such rows" in caplog.text and "lacks 'a'" in caplog.text


# -- logs of other conditions ------------------------------------------------------------------------------------------


def test_a_log_of_other_conditions_is_kept_and_found_again(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jsonl", {"device": "b"}
    set_aside(path, CONDITIONS)
    log_of(path, 2)
    set_aside(path, CONDITIONS)
    assert os.listdir(tmp_path) == ["a.jsonl"]
    set_aside(path, other)
    assert not path.exists()
    RecordLog(path, other).append({"i": 7})
    set_aside(path, CONDITIONS)
    assert [record["i"] for record in RecordLog(path, CONDITIONS).records] == [0, 1]
    set_aside(path, other)
    assert RecordLog(path, other).records == [{"i": 7}]
    path.unlink()
    set_aside(path, CONDITIONS)  # as after a kill between two renamings
    assert len(RecordLog(path, CONDITIONS).records) == 2
