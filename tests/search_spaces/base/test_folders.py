import os
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.base import folders
from search_spaces.base.errors import FolderInUseError
from search_spaces.base.folders import LOCK, locked_folder, temporary_folder

# -- folders in use ----------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from search_spaces.base.folders import locked_folder

with locked_folder(Path(sys.argv[1]), "nas run a=1", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path, kind: str) -> subprocess.Popen[str]:
    """Another process that works in a folder until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(("there", "here"), [("alone", False), ("alone", True), ("shared", False)])
def test_a_folder_in_use_is_refused_until_its_process_has_ended(tmp_path: Path, there: str, here: bool) -> None:
    folder = tmp_path / "run"
    with holding(folder, there) as process:
        message = rf"run is in use by process {process.pid} \(`nas run a=1`, since 2.*choose another folder"
        with pytest.raises(FolderInUseError, match=message), locked_folder(folder, "nas run", shared=here):
            pass
        process.kill()
        process.wait()
    with locked_folder(folder, "nas run", shared=here):
        assert (folder / LOCK).exists()
    assert os.listdir(folder) == []


def test_processes_that_share_a_folder_work_side_by_side(tmp_path: Path) -> None:
    with holding(tmp_path, "shared") as process:
        with locked_folder(tmp_path, "nas profile", shared=True):
            pass
        with pytest.raises(FolderInUseError), locked_folder(tmp_path, "nas run"):
            pass
        process.communicate("")
    assert os.listdir(tmp_path) == []


def test_temporary_files_of_killed_processes_go(tmp_path: Path) -> None:
    left = tmp_path / "a" / ".b.json.x1.tmp"
    left.parent.mkdir()
    for path in (left, left.with_name("c.tmp"), left.with_name(".d")):
        path.touch()
    with locked_folder(tmp_path, "nas profile", shared=True):
        assert left.exists()  # it may be of a process that shares the folder
    with locked_folder(tmp_path, "nas run"):
        assert sorted(os.listdir(left.parent)) == [".d", "c.tmp"]


def test_temporary_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, young, mine = (tmp_path / f"hwnas-a-{pid}-{i}" for i, pid in enumerate((dead.pid, dead.pid, os.getpid())))
    for folder in (left, young, mine):
        folder.mkdir()
        (folder / "file").touch()
        os.utime(folder, (0, 0) if folder != young else None)
    folders._remove_left_folders.cache_clear()
    with temporary_folder("a") as folder:
        assert folder.parent == tmp_path and not left.exists() and young.exists() and mine.exists()
    assert not folder.exists()
