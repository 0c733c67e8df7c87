"""The YAML file that a new device starts from: every setting with what it means, defaults commented out."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
from typing import Any

import yaml

from hardware_profiles.backends.base import Capabilities
from hardware_profiles.device import DeviceProfile, backend_module, device_names, load_device


def explained_settings() -> dict[str, str]:
    """Settings of a device profile and what each means, from its docstring."""
    _, _, arguments = (inspect.getdoc(DeviceProfile) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.+?)(?=\n    \w|\n\n|\Z)", arguments, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()).replace("``", "`").replace("None", "null") for name, text in found}


def device_template(name: str, backend: str) -> str:
    """A device profile as YAML text, ready to be edited.

    A backend that has no defaults for some options is set up like the first shipped device that uses it.

    Args:
        name: of the device, and of its file without ``.yaml``.
        backend: that measures it.

    Raises:
        UnknownNameError: there is no such backend.
        DeviceUnavailableError: software that the backend needs is not installed.
    """
    capabilities: Capabilities = backend_module(backend, f"Device {name!r}").CAPABILITIES
    example = _example(backend) if capabilities.required else None
    model = example or DeviceProfile(name=name, title=name, backend=backend, dtype=_dtype(capabilities))
    in_use = {"title": name, "backend": backend, "dtype": model.dtype}
    for field in dataclasses.fields(DeviceProfile):
        if field.name not in ("name", "title", "options", "memory_limit_bytes"):
            value = getattr(model, field.name)
            if value != field.default:
                in_use[field.name] = value

    how = "Lines without a space after their # are defaults: to change one, take its # away."
    if example is not None:
        how += f" What is set is as in {example.name}."
    lines = [f"# nas profile device={name}.yaml", "", *_comment(how)]
    explained = explained_settings()
    for field in dataclasses.fields(DeviceProfile):
        if field.name == "name":
            continue  # it is the file's
        lines += ["", *_comment(explained.get(field.name, "") + _restriction(field.name, capabilities))]
        if field.name == "options":
            lines += ["options:", *_options(capabilities, dict(model.options))]
        elif field.name in in_use:
            lines.append(f"{field.name}: {_dump(in_use[field.name])}")
        else:
            lines.append(f"#{field.name}: {_dump(field.default)}")
    return "\n".join(lines) + "\n"


def _example(backend: str) -> DeviceProfile | None:
    return next((profile for profile in map(load_device, device_names()) if profile.backend == backend), None)


def _dtype(capabilities: Capabilities) -> str:
    return "float32" if "float32" in capabilities.dtypes else capabilities.dtypes[0]


def _restriction(setting: str, capabilities: Capabilities) -> str:
    if setting == "dtype":
        return f" This backend has {', '.join(capabilities.dtypes)}."
    if setting == "cpus" and not capabilities.here:
        return " Not with this backend."
    able = {"batch": capabilities.batch, "threads": capabilities.threads}
    return "" if able.get(setting, True) else " Only 1 with this backend."


def _options(capabilities: Capabilities, chosen: dict[str, Any]) -> list[str]:
    lines = []
    for option, text in capabilities.options.items():
        needed = " Needed." if option in capabilities.required else ""
        lines += [f"  {line}" for line in _comment(text + "." + needed)]
        lines.append(f"  {option}: {_dump(chosen[option])}" if option in chosen else f"  #{option}:")
    return lines


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 110, break_on_hyphens=False, break_long_words=False)]


def _dump(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
