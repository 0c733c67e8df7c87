import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import Measurement
from nas.run.network_log import NetworkLog
from nas.run.networks import distinct_networks
from search_spaces import MobileNetV3
from search_spaces.base.errors import MismatchError

ONE = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=1, passes=1, noise=1, agreed=True)


def test_network_log(tmp_path: Path, small_space: MobileNetV3) -> None:
    path, networks = tmp_path / "networks.jsonl", distinct_networks(small_space, 5, np.random.default_rng(0))
    written = NetworkLog(path, small_space, {"device": "a"})
    for i, network in enumerate(networks[:3]):
        written.add("check", network, dataclasses.replace(ONE, latency_ms=i + 1, positions_ms={"a": 1.0}))
    written.add("check again", networks[2], dataclasses.replace(ONE, latency_ms=7))
    written.add_failure(networks[4], "too large")
    for one in (written, NetworkLog.read(path, small_space)):
        assert {a: m.latency_ms for a, m in one.rows("check").items()} == dict(zip(networks, [1, 2, 3], strict=False))
        assert list(one.rows("check")) == sorted(networks[:3], key=lambda a: a.genes.tobytes())
        assert one.has("check", networks[0]) and not one.has("fit", networks[0])
        assert all(m.positions_ms == {"a": 1.0} for m in one.rows("check").values())
        assert one.failed == {networks[4]: "too large"}
        with pytest.raises(MismatchError, match=r"holds 1 networks .* 2 are needed. Run `nas profile`"):
            one.judged()
    written.add("check again", networks[0], dataclasses.replace(ONE, latency_ms=9))
    judges, first, second = written.judged()
    found = dict(zip(judges, zip(first, second, strict=True), strict=True))
    assert found == {networks[0]: (1, 9), networks[2]: (3, 7)}
    with pytest.raises(MismatchError, match="device: 'a' there, 'b' now"):
        NetworkLog(path, small_space, {"device": "b"})
