"""The log of whole networks with their measurements: those to fit on, and those that judge a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.latency_table import metrics_of
from hardware_profiles.measure import Measurement
from nas.run.networks import FEWEST_TO_CHECK
from search_spaces.architecture import Architecture
from search_spaces.base.errors import MismatchError
from search_spaces.base.storage import RecordLog, read_records, take_records
from search_spaces.metric import LATENCY, Metric
from search_spaces.space import SearchSpace

ROLES = ("fit", "check", "check again")


class NetworkLog:
    """Whole networks with their measurements, by role; a file that survives a kill."""

    def __init__(self, path: Path, space: SearchSpace, conditions: Mapping[str, Any]) -> None:
        self._log = RecordLog(path, {**conditions, "space": space.fingerprint})
        self._found: dict[tuple[str, Architecture], Measurement] = {}
        self.failed: dict[Architecture, str] = {}

        def take(record: Mapping[str, Any]) -> None:
            architecture = Architecture.from_json(space, record["architecture"])
            if "error" in record:
                self.failed[architecture] = str(record["error"])
            else:
                self._found[str(record["role"]), architecture] = Measurement.from_json(record["measurement"])

        take_records(path, self._log.records, take)

    @staticmethod
    def read(path: Path, space: SearchSpace) -> NetworkLog:
        """Open an existing log, whatever its conditions are."""
        conditions, _ = read_records(path)
        return NetworkLog(path, space, conditions)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that rows may have values of beside the latency."""
        return metrics_of(self._log.conditions, self._log.path)

    def has(self, role: str, architecture: Architecture) -> bool:
        """True if a network was measured in a role."""
        return (role, architecture) in self._found

    def add(self, role: str, architecture: Architecture, measurement: Measurement) -> None:
        """Append a row durably; a later row of the same network and role replaces the earlier one."""
        self._log.append({"role": role, "architecture": architecture.to_json(), "measurement": measurement.to_json()})
        self._found[role, architecture] = measurement

    def forget(self, role: str, architecture: Architecture) -> None:
        """Leave a row out of account, so that the network is measured again."""
        del self._found[role, architecture]

    def add_failure(self, architecture: Architecture, reason: str) -> None:
        """Note durably that the device cannot run a network, though it can run each layer of it."""
        self._log.append({"architecture": architecture.to_json(), "error": reason})
        self.failed[architecture] = reason

    def rows(self, role: str) -> dict[Architecture, Measurement]:
        """Networks with their measurements in a role, in the same order whatever that of measuring was."""
        found = [architecture for have, architecture in self._found if have == role]
        return {a: self._found[role, a] for a in sorted(found, key=lambda a: a.genes.tobytes())}

    def _judges(self) -> tuple[list[Architecture], list[Architecture]]:
        """Networks that were measured at the start and at the end, and those of them that nothing disturbed."""
        first, second = self.rows("check"), self.rows("check again")
        both = [architecture for architecture in first if architecture in second]
        return both, [a for a in both if not (first[a].is_disturbed or second[a].is_disturbed)]

    def doubt_of_judges(self) -> str | None:
        """Doubt about the networks that judge."""
        both, calm = self._judges()
        if len(calm) == len(both):
            return None
        use = "are left out" if _enough(calm, both) else "judge all the same, as too few others are left"
        return (
            f"Other programs disturbed {len(both) - len(calm)} of the {len(both)} networks that judge a predictor: "
            f"these {use}."
        )

    def judged(self, metric: str = LATENCY.name) -> tuple[list[Architecture], NDArray[np.float64], NDArray[np.float64]]:
        """The networks that judge, and their values of a metric at the start and at the end; without those that other
        programs disturbed where that leaves enough.

        Raises:
            MismatchError: fewer than two of them were measured twice, or the metric was not reported.
        """
        first, second = self.rows("check"), self.rows("check again")
        both, calm = self._judges()
        both = calm if _enough(calm, both) else both
        if len(both) < FEWEST_TO_CHECK:
            raise MismatchError(
                f"{self._log.path} holds {len(both)} networks that were measured at the start and at the end, and "
                f"{FEWEST_TO_CHECK} are needed. Run `nas profile` to its end first."
            )
        values = [np.array([float(rows[a].value(metric)) for a in both]) for rows in (first, second)]
        return both, values[0], values[1]


def _enough(calm: Sequence[Architecture], both: Sequence[Architecture]) -> bool:
    return len(calm) >= max(FEWEST_TO_CHECK, len(both) / 2)
