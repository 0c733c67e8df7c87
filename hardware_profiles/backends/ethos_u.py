"""Arm Ethos-U NPUs, estimated by Arm's own compiler Vela from the network in int8.

No board is needed: Vela compiles for the NPU and states the cycles that its model of the NPU and the memories gives.
These are estimates, and the environment says so.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import ctypes
import importlib.metadata
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_profiles.backends.base import Backend, Capabilities, Loaded, Values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Model
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError
from search_spaces.base.folders import temporary_folder
from search_spaces.base.storage import storage_errors
from search_spaces.layers import Conv
from search_spaces.metric import MEMORY

IMPLAUSIBLE_FACTOR = 10
"""Factor on the sum of computing and memory traffic above which an estimate is refused.

Over 246 layers of two spaces the highest latency was 0.9 times that sum where memory is SRAM and flash, and 2.1 times
with DRAM."""

_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")
_FIGURES = (
    *("cycles_total", "cycles_npu", "core_clock", "nn_macs", "sram_memory_used"),
    *(f"{memory}_{figure}" for memory in _MEMORIES for figure in ("total_bytes", "bandwidth")),
)

SHIPPED_CONFIG = "Arm/vela.ini"
NPU_OPERATOR = b"ethos-u"
"""Custom operator that stands in the compiled file for everything that runs on the NPU."""

CAPABILITIES = Capabilities(
    dtypes=("int8",),
    options={
        "accelerator": "the NPU and its MACs per cycle, such as ethos-u55-128",
        "system_config": "clock and memories, by their name in `config`",
        "memory_mode": "what lies in which memory, by its name in `config`",
        "config": "a Vela configuration file, beside this YAML, say (default: the one that Vela ships)",
    },
    required=("accelerator", "system_config", "memory_mode"),
    paths=("config",),
    batch=False,
    threads=False,
    metrics=(MEMORY,),
    estimates=True,
    in_context=True,
)


@dataclass(frozen=True)
class VelaEstimate(Loaded):
    """Estimates of Vela for one model; a `Loaded`.

    ``latency_ms`` is of one inference. ``memory_bytes`` is the peak use of SRAM: activations, and weights that Vela
    fetches ahead. With a memory mode that keeps activations in DRAM it is only what is staged, and can be 0.
    ``split_ms`` is what each position takes of the latency, as far as Vela says it.
    """

    latency_ms: float
    memory_bytes: int
    split_ms: Mapping[str, float] = field(default_factory=dict)

    def sample_ms(self, runs: int) -> float:
        return self.latency_ms

    def values(self, runs: int) -> Values:
        return {MEMORY.name: self.memory_bytes}

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        """Samples as in `Loaded`, but they sum to exactly the whole.

        Raises:
            MeasurementError: some of the latency belongs to no position.
        """
        attributed = sum(self.split_ms.values())
        if not math.isclose(attributed, self.latency_ms, rel_tol=1e-6):
            raise MeasurementError(
                f"Vela attributes {attributed:.6g} of {self.latency_ms:.6g} ms to positions of the network, which must "
                f"be all of it; measure layers isolated instead."
            )
        return self.split_ms


class EthosUBackend(Backend):
    """Vela, set up for one NPU and its memories."""

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile) -> None:
        try:
            from ethosu.vela.architecture_features import Accelerator
        except ImportError as error:
            raise DeviceUnavailableError(
                f"Device {profile.name!r} needs Arm's compiler Vela: pip install 'hwnas[ethos-u]' ({error})."
            ) from error
        self._name = profile.name
        _check_profile(profile, Accelerator.member_list())
        options = {"config": SHIPPED_CONFIG, **profile.options}
        self._arguments = [
            f"--accelerator-config={options['accelerator']}",
            f"--system-config={options['system_config']}",
            f"--memory-mode={options['memory_mode']}",
            f"--config={options['config']}",
        ]
        self._macs_per_cycle = int(options["accelerator"].rsplit("-", 1)[-1])
        # Compiling a tiny layer checks the options before hours of profiling and reads back what Vela makes of them.
        try:
            summary, _ = self._compile(Model.of_layer(Conv(8, 8, 1, 1, "none", 4)))
        except MeasurementError as error:
            raise InvalidValueError(
                f"Device {profile.name!r}: Vela refuses the options {dict(profile.options)}; "
                f"{_choices(options['config'])} {error}"
            ) from error
        self._environment = {
            "vela": importlib.metadata.version("ethos-u-vela"),
            "latency": "estimate by compiler",
            "accelerator": summary["accelerator_configuration"],
            "system_config": summary["system_config"],
            "memory_mode": summary["memory_mode"],
            "clock_mhz": float(summary["core_clock"]) / 1e6,
            "activations_in": summary["feature_map_storage_area"],
            "weights_in": summary["weights_storage_area"],
        }

    @property
    def environment(self) -> dict[str, Any]:
        return dict(self._environment)

    def load(self, model: Model) -> VelaEstimate:
        summary, cycles = self._compile(model)
        try:
            return estimate_of_summary(summary, self._macs_per_cycle, cycles)
        except MeasurementError as error:
            raise MeasurementError(f"Device {self._name!r}: {error}") from error

    def _compile(self, model: Model) -> tuple[dict[str, str], dict[str, int]]:
        """The row of Vela's summary, and the cycles that Vela attributes to each position.

        Raises:
            MeasurementError: Vela refuses the model, or leaves a part of it to the CPU.
        """
        from hardware_profiles.tflite_graph import operator_positions, tflite_model

        try:
            content = tflite_model(model)
        except InvalidValueError as error:
            raise MeasurementError(f"Device {self._name!r} cannot run the model: {error}") from error
        with temporary_folder("vela") as folder:
            with storage_errors(folder):
                (folder / "model.tflite").write_bytes(content)
            said = self._run_vela(
                [str(folder / "model.tflite"), f"--output-dir={folder}", "--enable-debug-db", *self._arguments]
            )
            with storage_errors(folder):
                compiled = (folder / "model_vela.tflite").read_bytes()
                (summary_path,) = folder.glob("model_summary_*.csv")
                (summary,) = csv.DictReader(summary_path.read_text().splitlines())
                database = (folder / "model_debug.xml").read_text()
        outside = operators_outside_npu(compiled)
        if outside:
            reasons = "; ".join(dict.fromkeys(re.findall(r"^Reason: (.+?)\.?$", said, re.MULTILINE)))
            raise MeasurementError(
                f"Device {self._name!r}: Vela leaves {', '.join(outside)} to the CPU, whose time it does not state"
                + (f" ({reasons})." if reasons else ".")
            )
        of_operators = cycles_of_operators(database)
        cycles = dict.fromkeys(model.layers, 0)
        for number, position in enumerate(operator_positions(content, model)):
            cycles[position] += of_operators.get(number, 0)
        return summary, cycles

    def _run_vela(self, arguments: list[str]) -> str:
        """Run Vela; gives its messages.

        Raises:
            MeasurementError: it refuses.
        """
        from ethosu.vela import vela

        output = io.StringIO()
        try:
            with (
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(output),
                _same_recursion_limit(),
                _native_output(output),
            ):
                status = vela.main(arguments)
        except SystemExit as error:
            status, reason = error.code, _last_line(output.getvalue())
        except Exception as error:  # Vela raises its own kinds, and what the C++ core and the csv files cause
            status, reason = 1, _last_line(str(error)) or type(error).__name__
        else:
            reason = _last_line(output.getvalue())
        if status:
            raise MeasurementError(f"Device {self._name!r}: Vela does not compile the model: {reason}")
        return output.getvalue()


def operators_outside_npu(compiled: bytes) -> list[str]:
    """``KIND (output)`` of the operators in a file compiled by Vela that do not run on the NPU."""
    from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
    from ethosu.vela.tflite.Model import Model as ModelTable

    kinds = {code: kind for kind, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    table = ModelTable.GetRootAs(compiled)
    outside = []
    for graph in (table.Subgraphs(i) for i in range(table.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = table.OperatorCodes(operator.OpcodeIndex())
            if code.CustomCode() != NPU_OPERATOR:
                output = graph.Tensors(operator.Outputs(0)).Name().decode()
                outside.append(f"{kinds.get(code.BuiltinCode(), code.BuiltinCode())} ({output})")
    return outside


def cycles_of_operators(database: str) -> dict[int, int]:
    """Cycles that Vela states for the operators of the file that it was given, by their number in that file.

    Vela fuses operators, rewrites them and splits them; what it runs in the end states its source. Of operators fused
    into one the first has all cycles.

    Args:
        database: what Vela writes with ``--enable-debug-db``: tables, each as lines of comma-separated values.
    """
    tables = dict(re.findall(r'<table name="(\w+)">\s*<!\[CDATA\[\s*(.*?)\]\]>', database, re.DOTALL))
    source, performance = (csv.DictReader(tables.get(name, "").splitlines()) for name in ("source", "perf"))
    cycles: dict[int, int] = {}
    try:
        numbers = {row["id"]: int(row["ext_key"]) for row in source}
        for row in performance:
            if row["source_id"] in numbers:
                number = numbers[row["source_id"]]
                cycles[number] = cycles.get(number, 0) + int(row["op_cycles"])
    except (KeyError, ValueError):
        return {}  # another format: nothing is known
    return cycles


def _choices(config: str) -> str:
    """Sections of a Vela configuration file, as a sentence."""
    from ethosu.vela import vela

    parser = configparser.ConfigParser()
    paths = (Path(config), *(folder / "config_files" / config for folder in Path(vela.__file__).parents[:2]))
    with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return f"There is no configuration file {config}."
        parser.read_string(path.read_text())
    names = [section.partition(".") for section in parser.sections()]
    systems = ", ".join(name for kind, _, name in names if kind == "System_Config") or "none"
    modes = ", ".join(name for kind, _, name in names if kind == "Memory_Mode") or "none"
    return f"{config} has for `system_config`: {systems}; for `memory_mode`: {modes}."


def _check_profile(profile: DeviceProfile, accelerators: list[str]) -> None:
    device = f"Device {profile.name!r}"
    for option, value in profile.options.items():
        if not isinstance(value, str):
            raise InvalidValueError(f"{device}: option `{option}` must be text, but got {value!r}.")
    accelerator, system_config = profile.options["accelerator"], profile.options["system_config"]
    if accelerator not in accelerators:
        raise InvalidValueError(
            f"{device}: option `accelerator` must be one of {', '.join(accelerators)}, but got {accelerator!r}."
        )
    # Vela takes the memories of another NPU without a word, and the figures are then of no device.
    family = "_".join(accelerator.split("-")[:2]).title()  # ethos-u55-128 -> Ethos_U55
    if system_config.startswith("Ethos_U") and not system_config.startswith(f"{family}_"):
        raise InvalidValueError(
            f"{device}: option `system_config` must be one of {family} to suit {accelerator}, but got "
            f"{system_config!r}."
        )


def estimate_of_summary(
    summary: Mapping[str, str], macs_per_cycle: int, position_cycles: Mapping[str, int] | None = None
) -> VelaEstimate:
    """Latency and memory from Vela's summary, if they are plausible.

    Args:
        summary: column -> value.
        macs_per_cycle: the most that the NPU can do.
        position_cycles: what of the cycles belongs to which position.

    Raises:
        MeasurementError: a figure is missing or not a number, the latency is shorter than the multiplications take, or
            many times longer than computing and all memory traffic take one after the other.
    """
    try:
        figures = {name: float(summary[name]) for name in _FIGURES}
    except (KeyError, ValueError) as error:
        raise MeasurementError(f"Vela's summary lacks a figure: {error}.") from error
    cycles, clock_hz = figures["cycles_total"], figures["core_clock"]
    transfer_s = sum(
        figures[f"{memory}_total_bytes"] / (figures[f"{memory}_bandwidth"] * 2**30)
        for memory in _MEMORIES
        if figures[f"{memory}_total_bytes"]
    )
    least = figures["nn_macs"] / macs_per_cycle
    most = IMPLAUSIBLE_FACTOR * (figures["cycles_npu"] + transfer_s * clock_hz)
    memory_kib = figures["sram_memory_used"]
    if not (0 < cycles < math.inf and least <= cycles <= most and 0 <= memory_kib < math.inf):
        raise MeasurementError(
            f"Vela's figures are implausible: {cycles:.0f} cycles, where {least:.0f} to {most:.0f} are possible, and "
            f"{memory_kib} KiB of SRAM."
        )
    split_ms = {position: n / clock_hz * 1e3 for position, n in (position_cycles or {}).items()}
    return VelaEstimate(cycles / clock_hz * 1e3, round(memory_kib * 1024), split_ms)


@contextlib.contextmanager
def _native_output(output: io.StringIO) -> Iterator[None]:
    """Add what Vela's C++ core writes to the process's standard output."""
    library = ctypes.CDLL(None)
    library.fflush(None)
    saved = os.dup(1)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            try:
                yield
            finally:
                library.fflush(None)
                os.dup2(saved, 1)
                file.seek(0)
                output.write(file.read().decode(errors="replace"))
    finally:
        os.close(saved)


@contextlib.contextmanager
def _same_recursion_limit() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)  # Vela sets its own for the whole process


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def deployable(profile: DeviceProfile, model: Model) -> dict[str, bytes]:
    """See `hardware_profiles.backends.base`."""
    from hardware_profiles.tflite_graph import tflite_model

    return {"network.tflite": tflite_model(model)}


def open_backend(profile: DeviceProfile) -> EthosUBackend:
    """See `hardware_profiles.backends.base`."""
    return EthosUBackend(profile)
