import json
import threading
import time
from pathlib import Path

import pytest

from hardware_profiles.host import Sample, Watch, cpu_quota, host_description, usable_cpus


def test_host_is_described_in_json() -> None:
    host = host_description()
    assert json.loads(json.dumps(host)) == host
    assert set(host) == {"cpu", "cores", "os"} and isinstance(host["cores"], int) and host["cores"] >= 1
    assert host["cpu"] and host["os"]


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),  # the parent's holds as well
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {}, None),
        ("1:cpu:/a\n9:memory:/a", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("9:memory:/a", {"memory/a/cpu.max": "100000 100000"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, groups: str, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "cgroup").write_text(groups + "\n")
    for name, content in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content + "\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "fs") == quota


def test_usable_cpus_keep_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = usable_cpus()
    for quota, usable in ((None, allowed), (0.5, 1), (1.9, 1), (1000.0, allowed)):
        monkeypatch.setattr("hardware_profiles.host.cpu_quota", lambda quota=quota: quota)
        assert usable_cpus() == usable


def test_no_system_that_tells_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "nothing") is None


def test_time_that_the_thread_did_not_get_is_seen() -> None:
    watch = Watch(1)
    time.sleep(0.05)
    sample = watch.sample(50.0)
    assert sample.disturbed and sample.share < 0.5 and sample.own_ms == pytest.approx(50.0 * sample.share)


def test_what_other_threads_of_this_process_take_is_seen() -> None:
    """Python threads take turns: each waits about half of the time, which the process's own CPU time hides."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    watch, until = Watch(1), time.perf_counter() + 0.3
    while time.perf_counter() < until:
        pass
    sample = watch.sample(300.0)
    stop.set()
    thread.join()
    assert sample.disturbed and sample.share < 0.9


def test_an_undisturbed_sample_counts_as_it_is() -> None:
    assert Sample(2.0, 0.99, False).own_ms == 2.0 and Sample(2.0).own_ms == 2.0
    assert Sample(2.0, 0.25, True).own_ms == 0.5
