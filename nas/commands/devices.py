"""``nas devices``: the known devices, a YAML for a new one, and whether one is fit to be measured on."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import shutil
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hardware_profiles.backends.base import Backend, Capabilities
from hardware_profiles.check import DeviceCheck, check_measuring
from hardware_profiles.device import DeviceProfile, availability, device_names, load_device
from hardware_profiles.measure import SPEED_TOLERANCE
from hardware_profiles.template import device_template
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, NasError
from search_spaces.base.names import checked_name
from search_spaces.base.storage import storage_errors
from search_spaces.metric import MEMORY

HELP = """nas devices                             the known devices, and whether each can be used from here
nas devices NAME|YAML ...               the same of these alone, with the whole reason
nas devices new NAME [backend=BACKEND]  write NAME.yaml, all settings explained (default: backend=onnxruntime)
nas devices check NAME|YAML             reach the device, measure three layers twice, and say what is wrong

Exit codes of a check: 0 the device can be measured on, noisy or not; 2 it cannot.
"""

_COLUMNS = ("device", "backend", "dtype", "batch", "threads", "numbers", "usable here")


def listing(names: Sequence[str] = ()) -> Iterator[str]:
    """Lines of a table of devices, each as soon as it is known.

    Reasons are cut to the terminal's width where all devices are listed.

    Args:
        names: names or paths of devices; none: all shipped ones.

    Raises:
        UnknownNameError: there is no such device.
        InvalidValueError: a YAML file is wrong.
    """
    profiles = [load_device(name) for name in names or device_names()]
    known = [(p.name, p.backend, p.dtype, str(p.batch), str(p.threads)) for p in profiles]
    widths = [*(max(len(row[i]) for row in (_COLUMNS, *known)) for i in range(5)), len("measured"), 0]
    terminal = None if names else shutil.get_terminal_size((1000, 24)).columns
    cut = False
    for cells in itertools.chain([_COLUMNS], map(operator.add, known, _numbers_and_reasons(profiles))):
        whole = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        shown = whole if terminal is None or len(whole) <= terminal else whole[: terminal - 1] + "…"
        cut = cut or shown != whole
        yield shown
    if cut:
        yield "`nas devices NAME` gives the whole reason."


def _numbers_and_reasons(profiles: Sequence[DeviceProfile]) -> Iterator[tuple[str, str]]:
    """Origin of a device's numbers, and whether it is usable. Those elsewhere are reached at the same time,
    because one that does not answer is waited for; those here one by one, because compilers share standard output."""
    able = [_capabilities(profile) for profile in profiles]
    with ThreadPoolExecutor() as pool:
        elsewhere = {
            i: pool.submit(availability, profiles[i])
            for i, capabilities in enumerate(able)
            if capabilities is not None and not (capabilities.here or capabilities.estimates)
        }
        for i, (profile, capabilities) in enumerate(zip(profiles, able, strict=True)):
            reason = elsewhere[i].result() if i in elsewhere else _reason(profile)
            numbers = "?" if capabilities is None else "estimate" if capabilities.estimates else "measured"
            if reason is None:
                yield numbers, "yes"
            else:
                reason = " ".join(reason.split()).removeprefix(f"Device {profile.name!r}")
                yield numbers, f"no: {reason.lstrip(': ')}"


def _reason(profile: DeviceProfile) -> str | None:
    """Availability as `availability` has it, but without a process of its own where that is not needed: it would take
    seconds to start."""
    if profile.isolated and profile.cpus is None:
        try:
            dataclasses.replace(profile, isolated=False).open().close()
            return None
        except DeviceUnavailableError as error:
            return str(error)
        except NasError:  # perhaps another device has set this process up in another way
            pass
    return availability(profile)


def _capabilities(profile: DeviceProfile) -> Capabilities | None:
    """Abilities of the backend; None where it cannot be imported: `availability` says why."""
    try:
        return profile.capabilities
    except NasError:
        return None


def new_device(name: str, backend: str = "onnxruntime") -> Path:
    """Write a device's YAML into the current folder.

    Raises:
        InvalidValueError: the name cannot be a file's, or is taken.
        UnknownNameError: there is no such backend.
        DeviceUnavailableError: software that the backend needs is not installed.
        StorageError: the folder cannot be written.
    """
    name = name.removesuffix(".yaml")
    checked_name("A device", name)
    if name in device_names():
        raise InvalidValueError(f"There is a shipped device {name!r} already; choose another name.")
    path = Path(f"{name}.yaml")
    content = device_template(name, backend)
    try:
        with storage_errors(path), path.open("x") as file:
            file.write(content)
    except NasError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise InvalidValueError(f"{path} is there already; choose another name, or delete it.") from None
        raise
    return path


def checking(name: str) -> Iterator[str]:
    """Lines of a report on a device, each as soon as it is known.

    Raises:
        NasError: it cannot be measured on, and why.
    """
    profile = load_device(name)
    started = time.perf_counter()
    backend = profile.open()
    try:
        seconds = time.perf_counter() - started
        yield f"{profile.name}: {profile.title}"
        yield from _wrapped("reached", f"in {seconds:.1f} s")
        yield from _wrapped("backend", f"{profile.backend}: {_abilities(backend)}")
        yield from _wrapped("settings", _settings(profile))
        yield from _wrapped("environment", ", ".join(f"{key}: {value}" for key, value in backend.environment.items()))
        check = check_measuring(profile, backend)
        yield from _results(check)
        findings = check.findings()
        if check.is_broken:
            raise NasError(f"Device {profile.name!r} cannot be measured on. {findings[0]}")
        yield from _verdict(check, findings)
    finally:
        backend.close()


def _abilities(backend: Backend) -> str:
    able = backend.capabilities
    parts = ["estimates" if able.estimates else "measures", " or ".join(able.dtypes)]
    parts.append("any batch" if able.batch else "batch 1")
    parts.append("any number of threads" if able.threads else "1 thread")
    parts += ["splits networks by position"] * able.in_context + [f"reports {metric.title}" for metric in able.metrics]
    return ", ".join(parts)


def _settings(profile: DeviceProfile) -> str:
    parts = [profile.dtype, f"batch {profile.batch}", f"{profile.threads} thread" + "s" * (profile.threads > 1)]
    parts += [f"{key}: {value}" for key, value in profile.options.items()]
    parts += ["in a process of its own"] * profile.isolated
    return ", ".join(parts)


def _results(check: DeviceCheck) -> Iterator[str]:
    yield ""
    yield f"{'layer':12}{'first, ms':>10}{'again, ms':>10}{'apart':>9}   p10 to p90 of the samples, ms"
    for name, layer in check.layers.items():
        if layer.measurements is None:
            yield f"{name:12}failed"
            continue
        first, again = layer.measurements
        low, high = min(first.p10_ms, again.p10_ms), max(first.p90_ms, again.p90_ms)
        memory = first.values.get(MEMORY.name)
        values = "" if memory is None else f", {memory / 1024:.1f} KiB"
        values += "".join(f", {name} {value:.4g}" for name, value in first.values.items() if name != MEMORY.name)
        yield (
            f"{name:12}{first.latency_ms:10.4g}{again.latency_ms:10.4g}{layer.ratio - 1:9.1%}   {low:.4g} to {high:.4g}"
            f" in {first.passes} + {again.passes} passes{values}"
        )
    if check.reference_ms is not None:
        start, end = check.reference_ms
        boards = "" if check.boards == 1 else f", on the board of {check.boards} where it changed most"
        yield f"{'reference':12}{start:10.4g}{end:10.4g}{end / start - 1:+9.1%}   at the start and at the end{boards}"
    if check.clock_ms is not None and check.sample_ms is not None:
        share = check.clock_ms / check.sample_ms
        yield f"{'clock':12}steps of {check.clock_ms * 1e6:.3g} ns at most, {share:.2g} of the fastest layer's samples"
    yield ""


def _verdict(check: DeviceCheck, findings: Sequence[str]) -> Iterator[str]:
    if check.capabilities.estimates:
        yield from _wrapped(
            "note", "These are estimates or somebody else's numbers, not measurements: no noise, no drift."
        )
    for finding in findings:
        yield from _wrapped("warning", finding)
    if findings:
        yield from _wrapped("verdict", "it can be measured on, with the warnings above.")
    elif check.capabilities.estimates:
        yield from _wrapped("verdict", "fine.")
    else:
        worst = max(layer.ratio for layer in check.layers.values())
        text = f"the layers repeat within {worst - 1:.1%}"
        if check.reference_ms is not None:
            moved = check.reference_ms[1] / check.reference_ms[0] - 1
            text += (
                f", and the reference moved by {moved:+.1%} in between, where {SPEED_TOLERANCE - 1:.0%} is tolerated"
            )
        yield from _wrapped("verdict", f"fine: {text}.")


def _wrapped(label: str, text: str) -> list[str]:
    width = max(60, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.wrap(
        f"{label:12}{text}", width, subsequent_indent=" " * 12, break_on_hyphens=False, break_long_words=False
    )
