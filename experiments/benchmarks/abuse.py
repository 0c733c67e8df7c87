"""Abuse of the command line: damaged run files, malformed YAML, wrong options and values, kills.

    OMP_NUM_THREADS=1 python experiments/benchmarks/abuse.py [parts=mutations,yaml,options,values,files,kills,chains]

A small run is made once (or taken from `run=FOLDER`). Each case then works on a copy of it, in a child
that is forked from this warm process, so that a thousand commands take minutes:

- mutations: a file of the run is cut, emptied, given wrong types, missing fields, NaN, huge numbers, deep nesting,
  other lengths or encodings, pickled code, or is a folder or a pipe; then a command that reads it is run.
- yaml: device, space, data, searcher, training and recipe files, and metrics, that are malformed or try to run code.
- options: overrides and arguments that make no sense.
- values: each setting with values that it cannot take, given to the stage that uses it.
- files: each file of the finished run is deleted, or halved; `nas run` must mend it, with results equal to the unbroken
  ones, or refuse it by name.
- kills: the run folder as it is before and after each fsync, replace, mkdir, rename, unlink and rmtree of every stage,
  which is what `kill -9` at that moment leaves; `nas run` must end with the results of the unbroken run.
- chains: 30 runs, each killed again and again after a random time until it ends; the results must be those.

A case is good when it ends with exit code 0, or with 2 and a message that names what is wrong, within 10 seconds of the
processor (`files`, `kills`, `chains`: 100), without a traceback, without terminal escape codes in what is printed, and
without having run code of a file. Everything else is printed and written down. The last line has cases and faults per
part. A training checkpoint that is damaged beside a whole supernet is left as it is: nothing needs it.
Goal: no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import torch
import yaml

from nas.commands import (  # noqa: F401
    cli,
    front,
    quality,
    tables,
)
from nas.pipeline import running as pipeline  # noqa: F401
from nas.run import export, objectives, verify  # noqa: F401
from nas.searchers.differentiable import base as gradient  # noqa: F401
from nas.supernet import training  # noqa: F401 - imported once, here, for all cases

RESULTS = common.RESULTS / "abuse.json"
SMALL = shlex.split(
    "recipe=digits device=ethos_u55_128 training.epochs=3 label.subnets=12 label.held_out=2 "
    "label.recalibration_images=32 profile.networks=8 profile.check_networks=3 profile.method=in_context "
    "profile.repeats=1 search.evaluations=300 export.networks=2 space.resolutions=[12] training.sampler.random=1 "
    "training.batch_size=128"
)
DEVICE = "ethos_u55_128"
CANARY = "canary"
"""A file that code in a YAML or a pickle would make in the working folder."""
UNNEEDED = "train/checkpoint.pt"
PROCESSOR_S, WALL_S = 10.0, 60.0
"""A command may take as long; on a busy computer the clock is no measure of it."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    Args:
        name: what it is.
        command: arguments of nas; ``RUN`` stands for the run folder.
        names: the message holds one of these; empty: any message will do.
        spoil: does it, given a fresh copy of the run; None: nothing but the command.
        equal: exit code 0 is only good if the results are those of the unbroken run.
        factor: how many times the usual time it may take.
    """

    name: str
    command: list[str]
    names: tuple[str, ...] = ()
    spoil: Callable[[Path], None] | None = None
    equal: bool = False
    factor: float = 1.0


# -- running a case ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Ending of a command; ``code`` below 0 is a signal, None a time-out."""

    code: int | None
    printed: str
    processor_s: float


def run_case(case: Case, base: Path, work: Path) -> str | None:
    """Run a case and give the fault in how it ends; None: there is none."""
    shutil.rmtree(work, ignore_errors=True)
    run = work / "run"
    shutil.copytree(base, run)
    if case.spoil is not None:
        case.spoil(run)
    command = [word.replace("RUN", str(run)) for word in case.command]
    outcome = forked(command, work, case.factor)
    if (work / CANARY).exists():
        return "ran code of a file"
    if outcome.code is None:
        return f"still running after {WALL_S * case.factor:.0f} s"
    if "Traceback" in outcome.printed or outcome.code not in (0, 2):
        lines = [line for line in outcome.printed.splitlines() if line.strip()]
        return f"exit code {outcome.code}: {lines[-1][:200] if lines else 'no word'}"
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", outcome.printed):
        return "printed control characters"
    if outcome.processor_s > PROCESSOR_S * case.factor:
        return f"took {outcome.processor_s:.0f} s of the processor"
    if outcome.code == 2:
        if not re.search(r"^nas[ \w-]*: ", outcome.printed, re.MULTILINE):
            return f"no message: {outcome.printed[-200:]!r}"
        if case.names and not any(name in outcome.printed for name in case.names):
            return f"names none of {', '.join(case.names)}: {outcome.printed[-300:]!r}"
    elif case.equal and (different := differences(base, run)):
        return f"exit code 0, but other results: {', '.join(different)[:200]}"
    return None


def forked(command: list[str], folder: Path, factor: float) -> Outcome:
    """Run a command of nas in a child of this process."""
    output = folder / "printed"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = cli.run_command(command)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + WALL_S * factor
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended or time.monotonic() > end:
            break
        time.sleep(0.005)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
    printed = output.read_text(errors="replace") if output.exists() else ""
    code = None if not ended else os.waitstatus_to_exitcode(status)
    return Outcome(code, printed, usage.ru_utime + usage.ru_stime)


def differences(base: Path, run: Path) -> list[str]:
    """Files of results that differ between two runs, but for times, places and logs' order."""
    told: list[str] = []
    files = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (base, run)]
    told += [f"{name} is there in one only" for name in sorted(files[0] ^ files[1]) if name != UNNEEDED]
    for name in sorted(files[0] & files[1]):
        one, other = ((folder / name).read_bytes() for folder in (base, run))
        if one == other or name.split("/")[0] in ("stages", "report") or name in ("stages.json", "run.json", UNNEEDED):
            continue
        if name.endswith(".json") and _timeless(json.loads(one)) == _timeless(json.loads(other)):
            continue
        if name.endswith(".jsonl") and _rows(one) == _rows(other):
            continue
        if name.endswith(".npz") and _arrays_equal(one, other):
            continue
        if name.endswith(".pt") and _timeless_tensors(one) == _timeless_tensors(other):
            continue
        told.append(name)
    return told


def _rows(content: bytes) -> list[bytes]:
    """The rows of a log that can be read, in any order."""
    kept = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            json.loads(line)
            kept.append(line)
    return sorted(kept)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        untold = ("seconds", "created", "command", "commit", "identity")
        return {key: _timeless(item) for key, item in value.items() if key not in untold}
    return [_timeless(item) for item in value] if isinstance(value, list | tuple) else value


def _arrays_equal(one: bytes, other: bytes) -> bool:
    try:
        first, second = (dict(np.load(io.BytesIO(content))) for content in (one, other))
    except (ValueError, EOFError, zipfile.BadZipFile):  # left as it was: what is read next refuses it
        return False
    names = [name for name in first if name not in ("seconds", "identity", "checksum")]
    return all(
        name in second and np.array_equal(first[name], second[name], equal_nan=True)
        for name in names
        if first[name].dtype.kind in "fiub"
    )


def _timeless_tensors(content: bytes) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return [str(value.dtype), value.tolist()]
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(_timeless(plain(torch.load(io.BytesIO(content), weights_only=True))), default=str)


# -- mutations ---------------------------------------------------------------------------------------------------------


class Malicious:
    """Makes the canary when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {CANARY}",))


STRANGE: list[Any] = [None, 3, -1, True, 1e300, "\x1b[31mred\x1b[0m", "\ud800", [], {}, [[1]], {"a": None}, "../../x"]
"""Values that JSON can hold where something else belongs."""


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    if at:
        yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in parts:
        yield from _places(item, (*at, key))


def _changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy with something else at a place; ``...`` deletes it."""
    made = inner = copy.deepcopy(value)
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return made


def _whole(rng: random.Random, content: bytes) -> list[tuple[str, bytes | str]]:
    """Damages to any file: (name, content); a text names what stands in its place."""
    noise = bytes(rng.randrange(256) for _ in range(200))
    at = rng.randrange(max(1, len(content)))
    return [
        ("cut", content[: len(content) // 2]),
        ("last byte lost", content[:-2]),
        ("empty", b""),
        ("noise", noise),
        ("a bit turned", content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :] if content else b"a"),
        ("zeros", bytes(len(content))),
        ("a folder", "folder"),
        ("a pipe", "pipe"),
    ]


def _text(content: bytes) -> list[tuple[str, bytes]]:
    """Damages to a text file: (name, content)."""
    text = content.decode()
    return [
        ("UTF-16", text.encode("utf-16")),
        ("a byte order mark", b"\xef\xbb\xbf" + content),
        ("Latin-1", content + "\xe9".encode("latin-1")),
        ("200,000 brackets", b"[" * 200_000),
        ("200,000 mappings", b'{"a":' * 200_000),
        ("null", b"null"),
        ("a number", b"3"),
        ("a list", b"[]"),
        ("a mapping", b"{}"),
        ("NaN", b"NaN"),
        ("twice", content + content),
        ("an HTML page", b"<!DOCTYPE html><html></html>"),
    ]


def _json(rng: random.Random, content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    value = json.loads(content)
    places = list(_places(value))
    for _ in range(count if places else 0):
        depth = rng.choice([1, 2, 3, 9])
        place = rng.choice([p for p in places if len(p) <= depth] or places)
        new = rng.choice([..., ..., *STRANGE, float("nan"), 10**400])
        told = "deleted" if new is ... else repr(new)[:12]
        yield f"{'.'.join(map(str, place))} {told}", json.dumps(_changed(value, place, new)).encode()


def _jsonl(rng: random.Random, content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    lines = content.splitlines()
    for number in range(count):
        row = 0 if number % 4 == 0 else rng.randrange(1, len(lines))
        for told, line in _json(rng, lines[row], 1):
            every = number % 4 == 3  # one row is passed over; all of them cannot be
            made = [line if every and i else other for i, other in enumerate(lines)] if every else list(lines)
            made[row] = line
            yield f"line {row + 1}{' and all others' if every else ''}: {told}", b"\n".join(made) + b"\n"
    yield "rows gone", lines[0] + b"\n"
    yield "conditions gone", b"\n".join(lines[1:]) + b"\n"
    yield "a third of the rows", b"\n".join(lines[: len(lines) // 3]) + b"\n"
    yield "rows in another order", b"\n".join([lines[0], *rng.sample(lines[1:], len(lines) - 1)]) + b"\n"


def _npz(rng: random.Random, content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    arrays = dict(np.load(io.BytesIO(content)))
    changes: list[tuple[str, Callable[[Any], Any]]] = [
        ("deleted", lambda a: None),
        ("text", lambda a: np.full(a.shape, "a")),
        ("a scalar", lambda a: np.array(3.0)),
        ("none", lambda a: np.zeros((0,) * max(1, a.ndim))),
        ("longer", lambda a: np.concatenate([np.atleast_1d(a)] * 2)),
        ("shorter", lambda a: np.atleast_1d(a)[:-1]),
        ("one more dimension", lambda a: a[..., None, None]),
        ("NaN", lambda a: np.full(a.shape, np.nan)),
        ("huge", lambda a: np.full(a.shape, 1e300)),
        ("negative", lambda a: np.full(a.shape, -7)),
        ("complex", lambda a: np.full(a.shape, 1j)),
        ("pickled code", lambda a: np.array([Malicious()], object)),
    ]
    for _ in range(count):
        name, (told, change) = rng.choice(sorted(arrays)), rng.choice(changes)
        made = {other: array for other, array in arrays.items() if other != name}
        if (new := change(arrays[name])) is not None:
            made[name] = new
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **made)
        yield f"{name} {told}", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb.npy", "w", force_zip64=True) as file:
            for _ in range(512):
                file.write(bytes(2**20))
    yield "a bomb", buffer.getvalue()
    yield "a pickle", pickle.dumps(Malicious())
    yield "no arrays", b"PK\x05\x06" + bytes(18)


def _pt(rng: random.Random, content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    def saved(value: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    value = torch.load(io.BytesIO(content), weights_only=True)
    places = [p for p in _places_of(value) if len(p) <= 3]
    strange = [..., ..., None, 3, "text", [], {}, torch.zeros(2), torch.tensor(float("nan"))]
    for _ in range(count):
        place, new = rng.choice(places), rng.choice(strange)
        told = "deleted" if new is ... else repr(new)[:12]
        yield f"{'.'.join(map(str, place))[:60]} {told}", saved(_changed(value, place, new))
    weights = copy.deepcopy(value)
    for tensor in weights["supernet"].values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    yield "weights NaN", saved(weights)
    yield "a tensor", saved(torch.zeros(3))
    yield "a list", saved([1, 2])
    yield "pickled code", pickle.dumps(Malicious())
    yield "pickled code as torch has it", saved({"space": Malicious()})


def _places_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places_of(item, (*at, key))


def _onnx(rng: random.Random, content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    for _ in range(count):
        model = onnx.load_model_from_string(content)
        weights, nodes = model.graph.initializer, model.graph.node
        told = rng.choice(["a weight deleted", "a weight of another shape", "a weight elsewhere", "a node deleted"])
        tensor = weights[rng.randrange(len(weights))]
        if told == "a weight deleted":
            weights.remove(tensor)
        elif told == "a weight of another shape":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))
        elif told == "a weight elsewhere":
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../../../../etc/passwd")
        else:
            nodes.remove(nodes[rng.randrange(len(nodes))])
        yield told, model.SerializeToString()


KINDS: dict[str, Callable[[random.Random, bytes, int], Iterator[tuple[str, bytes]]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".npz": _npz,
    ".pt": _pt,
    ".onnx": _onnx,
}


def _readers(path: str) -> list[list[str]]:
    """Commands that read a file of a run."""
    stage = [*SMALL, "out=RUN"]
    readers: dict[str, list[list[str]]] = {
        r"run\.json": [["report", *stage], ["fit", *stage]],
        r"stages/(fit|search|verify)\.json": [["run", *stage]],
        r"stages\.json": [["report", *stage]],
        r"profile/.*/table\.jsonl": [["fit", *stage], ["table", "show", f"RUN/{path}"], ["profile", *stage]],
        r"profile/.*/networks\.jsonl": [["fit", *stage], ["verify", *stage], ["profile", *stage]],
        r"label/accuracy\.jsonl": [
            ["fit", *stage],
            ["quality", "predictor=RUN/fit/accuracy.npz", f"truth=RUN/{path}", "space=RUN/../space.yaml", "out=q"],
        ],
        r"train/supernet\.pt": [["export", *stage], ["label", *stage]],
        r"train/checkpoint\.pt": [["train", *stage]],
        r"train/history\.json": [["report", *stage]],
        r"fit/.*\.npz": [["search", *stage], ["search", *stage, f"+metrics.e={{file: 'RUN/{path}'}}"]],
        r"fit/quality\.json": [["report", *stage]],
        r"search/.*\.json": [
            ["front", "show", f"RUN/{path}"],
            ["export", *stage],
            ["report", *stage],
            ["front", "merge", "merged.json", f"RUN/{path}", "RUN/../good"],
            ["front", "compare", f"RUN/{path}", "RUN/../good"],
            ["search", *stage, f"search.start=RUN/{path}"],
        ],
        r"search/.*\.npz": [["search", *stage]],
        r"export/.*/(networks|architecture|ranges)\.json": [["verify", *stage]],
        r"export/.*/network\.onnx": [["verify", *stage]],
        r"verify/.*\.json": [["report", *stage]],
    }
    return next((commands for pattern, commands in readers.items() if re.fullmatch(pattern, path)), [])


def _put(path: str, content: bytes | str) -> Callable[[Path], None]:
    def put(run: Path) -> None:
        (run / path).rename(run.parent / "good")
        if content == "folder":
            (run / path).mkdir()
        elif content == "pipe":
            os.mkfifo(run / path)
        else:
            assert isinstance(content, bytes)
            (run / path).write_bytes(content)
        if path.startswith("label/"):
            write_space(run.parent / "space.yaml")

    return put


def write_space(path: Path) -> None:
    """The space of the small run as a YAML file."""
    settings = yaml.safe_load((common.ROOT / "search_spaces" / "space" / "mobilenet_v3_digits.yaml").read_text())
    path.write_text(yaml.safe_dump({**settings, "resolutions": [12]}))


def mutations(base: Path, rng: random.Random) -> Iterator[Case]:
    """Run files as they should not be."""
    paths = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    for path in paths:
        readers, content = _readers(path), (base / path).read_bytes()
        if not readers:
            continue
        made: list[tuple[str, bytes | str]] = list(KINDS[Path(path).suffix](rng, content, 6 * len(readers)))
        made += _whole(rng, content)
        if path.endswith((".json", ".jsonl")):
            made += _text(content)
        for number, (told, new) in enumerate(made):
            command = readers[number % len(readers)]
            names = (Path(path).name, f"`nas {path.split('/')[0]}`") if command[0] == "report" else (Path(path).name,)
            yield Case(f"{path}: {told}: nas {command[0]} {command[1]}", command, names, _put(path, new), factor=2)


# -- YAML files --------------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
CODE = [
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"{{_target_: os.system, command: 'touch {CANARY}'}}",
    f"{{_target_: subprocess.call, args: [touch, {CANARY}]}}",
    f"{{_target_: pathlib.Path.write_text, self: {CANARY}, data: x}}",
    f"{{_target_: search_spaces.base.storage.write_text, path: {CANARY}, content: x}}",
    f"{{_target_: search_spaces.base.storage.write_json, path: {{_target_: pathlib.Path, _args_: [{CANARY}]}}}}",
    f"{{_target_: builtins.open, file: {CANARY}, mode: w}}",
    f"{{_target_: builtins.eval, _args_: [\"open('{CANARY}', 'w')\"]}}",
    f"{{_target_: hydra.utils.instantiate, config: {{_target_: os.system, command: 'touch {CANARY}'}}}}",
    f"{{_target_: torch.load, f: {CANARY}.pt, weights_only: false}}",
    f"{{_target_: numpy.load, file: {CANARY}.npy, allow_pickle: true}}",
    f"{{_target_: joblib.load, filename: {CANARY}.pt}}",
    f"{{_target_: os.mkdir, _args_: [{CANARY}]}}",
    f"{{_target_: functools.partial, _args_: [open, {CANARY}, w]}}",
]
MALFORMED: list[bytes] = [
    *(text.encode() for text in CODE),
    b"",
    b"# nothing\n",
    b"null",
    b"3",
    b"[]",
    b"[1, 2]",
    b"text",
    b"{}",
    b"a: [",
    b"a: b: c",
    b"\ta: 1",
    b"a: &a [*a]",
    b"&a [*a]",
    b"? [a]\n: 1",
    b"a: 2020-13-45",
    b"a: !!binary x",
    b"a: *unknown",
    b"<<: 3",
    b"a: ${b}\nb: ${a}",
    b"a: ${nothing}",
    b"_target_: null",
    b"_target_: 3",
    b"_target_: ''",
    b"_target_: nothing",
    b"_target_: no.such.Thing",
    b"_target_: builtins.dict",
    b"_target_: [a, b]",
    b'name: "\\e[31mred"\n',
    b"\xff\xfe\x00",
    b"\x00" * 100,
    b"\x1b[31m: 1",
    b"[" * 10_000,
    b"a: " * 3_000,
    b"a: " + b"x" * 2_000_000,
    BOMB.encode(),
    "_target_: é\n".encode("latin-1"),
    "name: x\n".encode("utf-16"),
    b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    b"PK\x03\x04" + bytes(100),
]


def yaml_files(base: Path, rng: random.Random) -> Iterator[Case]:
    """YAML files of every kind, malformed or with code."""

    def put(path: str, content: bytes) -> Callable[[Path], None]:
        def spoil(run: Path) -> None:
            place = run.parent / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            for name in (f"{CANARY}.pt", f"{CANARY}.npy"):
                (run.parent / name).write_bytes(pickle.dumps(Malicious()))

        return spoil

    device = (common.ROOT / "hardware_profiles" / "device" / f"{DEVICE}.yaml").read_text()
    groups = {name: next((common.CONF / name).glob("*.yaml")).read_text() for name in ("data", "training", "recipe")}
    groups["space"] = (common.ROOT / "search_spaces" / "space" / "mobilenet_v3_digits.yaml").read_text()
    groups["searcher"] = (common.CONF / "searcher" / "nsga2.yaml").read_text()
    groups["accuracy"] = (common.CONF / "accuracy" / "ridge.yaml").read_text()
    stage = {"data": "train", "training": "train", "space": "fit", "searcher": "search", "accuracy": "fit"}
    settings = [word for word in SMALL if not word.startswith("recipe")]
    for content in [*MALFORMED, *_mutated_yaml(rng, device, 30)]:
        told = repr(content)[:50]
        for command in (["devices", "mine.yaml"], ["fit", *SMALL, "device=mine.yaml", "out=RUN"]):
            yield Case(f"device {told}: nas {command[0]}", command, ("mine",), put("mine.yaml", content))
        command = ["quality", "predictor=RUN/fit/accuracy.npz", "truth=RUN/label/accuracy.jsonl", "space=mine.yaml"]
        yield Case(f"space {told}: nas quality", command, ("mine",), put("mine.yaml", content))
    for group, good in groups.items():
        for content in [*MALFORMED, *_mutated_yaml(rng, good, 10)]:
            chosen = [word for word in settings if not word.startswith(f"{group}.")]
            chosen = ["recipe=mine" if group == "recipe" else f"{group}=mine", *chosen]
            command = [stage.get(group, "fit"), "--config-dir", "conf", *chosen, "out=RUN"]
            told = f"{group} {content!r:.50}: nas {command[0]}"
            yield Case(told, command, (), put(f"conf/{group}/mine.yaml", content))


def _mutated_yaml(rng: random.Random, good: str, count: int) -> Iterator[bytes]:
    """A good YAML with one thing changed."""
    value = yaml.safe_load(good)
    places = list(_places(value)) or [("a",)]
    for _ in range(count):
        new = rng.choice([..., None, 3, -1, True, 1.5, float("nan"), float("inf"), "x", [], {}, {"a": 1}, "\x1b[31m"])
        place = rng.choice(places)
        yield yaml.safe_dump(_changed(value, place, new)).encode()
    yield (good + "\nunknown_key: 3\n").encode()


# -- options and values ------------------------------------------------------------------------------------------------


def options(base: Path, rng: random.Random) -> Iterator[Case]:
    """Arguments that make no sense."""
    strange = [
        "=1", "=", "a=", "a", "a=b", "-x", "--nothing", "--resolve", "--cfg", "--cfg=nothing", "--package", "-p",
        "--info=x", "~", "~space", "~nothing", "+", "++", "+a", "+=1", "+space.x=1", "++space.x=1",
        "+accuracy.nope=1", "+training.nope=1", "+searcher.nope=1", "+data.nope=1", "+latency.nope=1",
        "+label.nope=1", "+metrics.e=1", "+metrics.e={file:x}", "+metrics.e={file:'x{y}.npz'}",
        "+metrics.e={file:nothing.npz}", "+metrics={a:1}", "space=null", "space=nothing", "space=", "space=[]",
        "space=3", "space={}", "space=../space", "space=[a,b]", "data=null", "data=nothing", "training=null",
        "searcher=null", "searcher=nothing", "accuracy=null", "latency=null", "recipe=nothing", "device=null",
        "device=", "device=[]", "device={}", "device=3", "device=[1]", "device=nothing", "device=nothing.yaml",
        "device=[[host_ort]]", "device=/dev/null", "device=.", "device=..", "device=../x.yaml", "device=/etc/passwd",
        "device=[host_ort", "seed=", "seed=x", "seed=null", "seed=1.5", "seed=-1", "seed=true", "seed=[1]",
        "seed=1e3", "name=", "name=null", "name=[a]", "limit=3", "limit=null", "limit=[]", "limit.nothing=3",
        "limit.latency_ms=x", "limit.latency_ms={a:1}", "limit.latency_ms={a:x}", "limit.latency_ms.host_ort=1",
        "limit.latency_ms=[1]", "limit.latency_ms=-1", "limit.latency_ms=0", "search.objectives=[]",
        "search.objectives=accuracy", "search.objectives=[a]", "search.objectives=[1]", "search.objectives=null",
        "search.objectives=[accuracy,accuracy]", "search.objectives={a:1}", "search.start=nothing", "search.start=.",
        "search.start=/dev/null", "search.start=RUN/run.json", "search.seconds=x", "search.seconds=-1",
        "search.seconds=5 parsecs", "budget=x", "budget=0", "budget=-3s", "budget=1e400", "profile.budget=[]",
        "hydra.run.dir=null", "hydra=null", "hydra.nothing=1", "out=", "out=null", "out=[a]", "out=/proc/nothing",
        "out=/dev/null", "'", '"', "a='", "a=[", "a={", "a=}", "a=${", "a=${b}", "seed=${seed}",
        "seed=${oc.env:HOME}", "seed=${nothing:1}", "name=${out}", "a==b", "a=b=c", "\x1b[31m=1", "seed=\x1b[31m",
        "é=1", "seed=١", "a.b.c.d=1", ".=1", "..=1", "a..b=1", ".a=1", "a.=1", "0=1", "[0]=1", "seed=1,2",
        "seed=range(3)", "seed=choice(1,2)", "seed=glob(*)", "seed=int(x)", "seed=sort(1,2)", " ", "\n", "seed=1 2",
        "seed=" + "9" * 5000, "name=" + "x" * 5000, "a" * 5000 + "=1", "@", "a@b=c", "space@x=nothing",
        "+space@x=nothing", "space=digits:1", "#1", "lr=0.1", "out=runs/ü", "out=a b", "label=x", "label=[]",
        "training=[]", "profile=3", "export=x", "search=null", "searcher._target_=null", "space._target_=x",
        "space._target_=3", "space._target_=os.getcwd", "data._target_=os.getcwd", "searcher._target_=os.getcwd",
        "training._target_=os.getcwd", "accuracy._target_=os.getcwd", "latency._target_=os.getcwd",
        "accuracy._partial_=false", "training._partial_=true", "space._partial_=true", "data._partial_=true",
        "--config-dir=nothing", "--config-dir", "--config-name=nothing", "--config-path=nothing", "-cn",
        "--multirun=x",
    ]  # fmt: skip
    for option in strange:
        yield Case(f"fit {option[:40]!r}", ["fit", *SMALL, "out=RUN", option])
    commands = [
        ["nothing"], ["runn"], [""], ["-"], ["--"], ["\x1b[31m"], ["run", "stage"], ["devices", "nothing"],
        ["devices", "new"], ["devices", "new", "a", "b"], ["devices", "new", ".."], ["devices", "new", "a/b"],
        ["devices", "new", ""], ["devices", "new", "x", "backend=nothing"], ["devices", "new", "x", "a=b"],
        ["devices", "check"], ["devices", "check", "nothing"], ["devices", "check", "a", "b"], ["devices", "."],
        ["devices", "/dev/null"], ["table"], ["table", "nothing"], ["table", "import"],
        ["table", "import", "nothing", "a", "b"], ["table", "import", "csv", "nothing", "out.jsonl"],
        ["table", "import", "csv", ".", "out.jsonl"], ["table", "import", "ofa", "RUN", "out.jsonl"],
        ["table", "import", "fbnet", "RUN/run.json", "out.jsonl"],
        ["table", "import", "fbnet", "RUN/run.json", "out.jsonl", "space=x"], ["table", "show"],
        ["table", "show", "."], ["table", "import", "csv", "RUN/run.json", "out.jsonl", "batch=x"],
        ["table", "show", "RUN/run.json"], ["table", "import", "csv", "RUN/run.json", "out.jsonl", "nothing=x"],
        ["table", "merge"], ["table", "merge", "a"], ["table", "merge", "a", "nothing"],
        ["table", "merge", "RUN/run.json", "RUN/run.json"], ["table", "show", "nothing"], ["front"],
        ["front", "nothing"], ["front", "show"], ["front", "show", "nothing"], ["front", "show", "RUN"],
        ["front", "show", "RUN/run.json"], ["front", "choose"], ["front", "merge"], ["front", "export"],
        ["front", "choose", f"RUN/search/{DEVICE}.json", "nothing=1"], ["front", "compare"],
        ["front", "choose", f"RUN/search/{DEVICE}.json", "latency_ms=x"], ["front", "compare", "RUN/run.json"],
        ["front", "export", f"RUN/search/{DEVICE}.json"],
        ["front", "export", f"RUN/search/{DEVICE}.json", "/dev/null"],
        ["front", "show", f"RUN/search/{DEVICE}.json", "sort=nothing"], ["front", "show", "/dev/null"], ["quality"],
        ["quality", "predictor=nothing"], ["quality", "predictor=RUN", "truth=RUN"], ["quality", "a"],
        ["quality", "a=b"], ["quality", "predictor=RUN/fit/accuracy.npz", "truth=RUN/run.json"], ["import-ofa"],
        ["import-ofa", "nothing"],
        ["quality", "predictor=RUN/fit/accuracy.npz", "truth=RUN/label/accuracy.jsonl", "space=nothing"],
        ["import-ofa", "RUN/run.json"], ["import-ofa", "RUN/train/supernet.pt", *SMALL, "out=RUN"],
        ["import-ofa", "RUN"],
    ]  # fmt: skip
    for command in commands:
        yield Case(shlex.join(command)[:80], command)


WRONG = [
    "-1",
    "0",
    "1.5",
    "1e300",
    "nan",
    "inf",
    "-inf",
    "x",
    "''",
    "true",
    "[]",
    "[1]",
    "{}",
    "{a: 1}",
    "1e-300",
    "null",
    "9" * 30,
]
STAGES = {
    "training": "train",
    "label": "label",
    "profile": "profile",
    "search": "search",
    "searcher": "search",
    "limit": "search",
}
"""Section -> the stage that uses it; all others: fit."""
LEFT_OUT = ("_target_", "_partial_")


def values(base: Path, rng: random.Random) -> Iterator[Case]:
    """Settings with values that they cannot take; one that can be taken is no fault, however long it works then."""
    config = yaml.safe_load((common.CONF / "config.yaml").read_text())
    sections = {name: config[name] for name in ("profile", "label", "limit", "search", "export")}
    groups = {"space": "mobilenet_v3_digits", "data": "digits", "training": "sandwich", "searcher": "nsga2"}
    groups |= {"accuracy": "ensemble", "latency": "lookup"}
    sections |= {
        name: yaml.safe_load((common.CONF / name / f"{file}.yaml").read_text()) for name, file in groups.items()
    }
    for section, settings in sections.items():
        for key in settings:
            if key in LEFT_OUT or (section, key) == ("profile", "budget"):
                continue
            for wrong in rng.sample(WRONG, 5):
                command = [STAGES.get(section, "export" if section == "export" else "fit"), *SMALL, "out=RUN"]
                command += ["searcher=nsga2"] if section == "searcher" else []
                yield Case(f"{section}.{key}={wrong}", [*command, f"{section}.{key}={wrong}"], (key, section), factor=2)


# -- files of a finished run -------------------------------------------------------------------------------------------


def files(base: Path, rng: random.Random) -> Iterator[Case]:
    """Each file of a finished run is lost, or half of it."""

    def lost(path: str) -> Callable[[Path], None]:
        return lambda run: (run / path).unlink()

    for path in sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()):
        command, names = ["run", *SMALL, "out=RUN"], tuple(Path(path).parts)
        half = (base / path).read_bytes()[: (base / path).stat().st_size // 2]
        yield Case(f"{path} lost", command, names, lost(path), equal=True, factor=10)
        yield Case(f"{path} halved", command, names, _put(path, half), equal=True, factor=10)


# -- kills -------------------------------------------------------------------------------------------------------------

CALLS = ("fsync", "replace", "rename", "mkdir", "rmdir", "unlink")
"""Functions of `os` that change what is on the disk; `shutil.rmtree` is made of them."""


def kills(base: Path, rng: random.Random) -> Iterator[Case]:
    """The run folder at every moment of a run that a kill could leave it in, each state once."""
    places = Path(tempfile.mkdtemp(dir=base.parent, prefix="moments-"))
    folder = places / "run"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(places)
            _watch(folder, places)
            with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                code = cli.run_command(["run", *SMALL, f"out={folder}"])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the run to be killed does not end with exit code 0.")

    def at(moment: Path) -> Callable[[Path], None]:
        def spoil(run: Path) -> None:
            shutil.rmtree(run)
            shutil.copytree(moment, run)

        return spoil

    for moment in sorted(places.glob("moment-*")):
        yield Case(f"killed at {moment.name}", ["run", *SMALL, "out=RUN"], (), at(moment), equal=True, factor=10)


def _watch(folder: Path, places: Path) -> None:
    """From now on keep a copy of a folder before and after each change of what is on the disk."""
    seen: set[str] = set()
    copying = [False]

    def keep(call: str) -> None:
        if copying[0] or not folder.exists():
            return
        copying[0] = True
        try:
            content = [(str(p.relative_to(folder)), p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")]
            state = hashlib.sha256(repr(sorted(content)).encode()).hexdigest()
            if state not in seen:
                seen.add(state)
                shutil.copytree(folder, places / f"moment-{len(seen):04}-{call}")
        finally:
            copying[0] = False

    def watched(call: str) -> Callable[..., Any]:
        real = getattr(os, call)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            keep(call)
            result = real(*args, **kwargs)
            keep(call)
            return result

        return replacement

    for call in CALLS:
        setattr(os, call, watched(call))


CHAINS = 30


def chains(base: Path, rng: random.Random) -> Iterator[Case]:
    """Runs that are killed after random times, until they end."""

    def killed_often(seed: int) -> Callable[[Path], None]:
        def spoil(run: Path) -> None:
            drawn = random.Random(seed)
            shutil.rmtree(run)
            for _ in range(drawn.randint(2, 6)):
                killed(["run", *SMALL, f"out={run}"], run.parent, drawn.uniform(0.1, 12.0))

        return spoil

    for number in range(CHAINS):
        told = f"chain {number + 1}"
        yield Case(told, ["run", *SMALL, "out=RUN"], (), killed_often(rng.randrange(2**32)), equal=True, factor=10)


def killed(command: list[str], folder: Path, seconds: float) -> None:
    """Run a command of nas in a child of this process and kill it after so long."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.chdir(folder)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            cli.run_command(command)
        finally:
            os._exit(0)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


PARTS: dict[str, Callable[[Path, random.Random], Iterator[Case]]] = {
    "mutations": mutations,
    "yaml": yaml_files,
    "options": options,
    "values": values,
    "files": files,
    "kills": kills,
    "chains": chains,
}
"""Part -> its cases, given an unbroken run and a generator."""


def small_run(folder: Path) -> None:
    """Make the run that is spoiled."""
    code = "import sys; from nas.commands.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", *SMALL, f"out={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder.parent)


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "settings",
        nargs="*",
        help="parts=a,b  seed=0  run=FOLDER  only=TEXT: cases that hold it  most=N: as many of a part, drawn",
    )
    given = dict(word.partition("=")[::2] for word in parser.parse_args().settings)
    if unknown := set(given) - {"parts", "seed", "run", "only", "most"}:
        parser.error(f"there are no settings {sorted(unknown)}.")
    parts = given.get("parts", ",".join(PARTS)).split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there are no parts {sorted(unknown)}, but {', '.join(PARTS)}.")
    torch.set_num_threads(1)  # a forked child has no threads of its parent's pool
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(given.get("run", f"{temporary}/base"))
        if "run" not in given:
            small_run(base)
        for part in parts:
            started, faults = time.perf_counter(), []
            rng = random.Random(int(given.get("seed", 0)))
            chosen = [case for case in PARTS[part](base, rng) if given.get("only", "") in case.name]
            if int(given.get("most", len(chosen))) < len(chosen):
                chosen = rng.sample(chosen, int(given["most"]))
            cases = len(chosen)
            for case in chosen:
                wrong = run_case(case, base, Path(temporary) / "work")
                if wrong is not None:
                    faults.append({"case": case.name, "fault": wrong})
                    print(f"{part}: {case.name!a}: {wrong!a}", flush=True)
            seconds = time.perf_counter() - started
            results[part] = {"cases": cases, "faults": len(faults), "seconds": round(seconds, 1), "list": faults}
            print(f"{part}: {cases} cases, {len(faults)} faults, {seconds:.0f} s", flush=True)
            if not {"only", "most"} & set(given):
                old = json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() else {}
                common.write(RESULTS, {"conditions": common.conditions("hwnas"), "parts": old | {part: results[part]}})
    print(" ".join(f"{p}={r['cases']} {p}_faults={r['faults']}" for p, r in results.items()))


if __name__ == "__main__":
    main()
