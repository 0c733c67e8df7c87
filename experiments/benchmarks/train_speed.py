"""Speed of training a supernet: a sandwich step against the same networks alone, and the whole loop.

    python experiments/benchmarks/train_speed.py [--spaces imagenet cifar] [--devices cpu cuda] [--precisions float32]
        [--processes 1 2] [--once-for-all PATH] [--compile] [--batch 64] [--rounds 3] [--steps 8] [--output FILE]

A sandwich step trains the biggest, the smallest and two random networks on one batch (Yu et al., "BigNAS", ECCV 2020):
the first one learns from labels, the others from it. ``step``: seconds of it in the loop that users run, gradients,
clipping and optimiser included; ``static``: of the same four networks as plain modules with weights and an optimiser
of their own each, with the same losses; ``ofa``: of once-for-all's elastic network with the same four subnets, where a
checkout of mit-han-lab/once-for-all is given and the space is its own. Steps are taken in turn, on as many draws of
four networks as there are rounds, after a first one that does not count; each figure is the median over the draws.
``share``: static over step, goal >= 0.85; ``speedup``: ofa over step, goal >= 2; ``networks_per_second``: images times
networks per second of a step.

``compile``, where it is asked for: ``compiled``, seconds of a step with ``training.compile=true``, in turn with
``step``, those without; ``gain``: step over compiled; ``compile_s``: seconds of compiling, once, which are fewer where
the compiler's cache on disk has a part. It compiles the biggest and the smallest network, so that steps of these
``networks: 2`` alone show what it gives to networks, and of 4 what it gives to a training.

``loop``: the same of a whole epoch of `nas.supernet.train`, loading and augmentation included, in one process or
several on this machine. Each row is written as soon as it is there; a file that has it already is gone on with.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common
import elastic_step
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nas.data import Data, Part, resize
from nas.supernet import TrainingSettings, train
from nas.supernet.augmentation import Changes
from nas.supernet.repeated import AFTER
from nas.supernet.samplers import Sandwich
from nas.supernet.supernet import input_resolution
from nas.supernet.training import _Run
from nas.tasks import Classification
from search_spaces import Architecture, MobileNetV3

RESULTS = common.RESULTS / "train_speed.json"
CLASSES = {"imagenet": 1000, "cifar": 10}
NETWORKS = 4
RATE = 1e-4


def space_of(name: str) -> MobileNetV3:
    """Once-for-all's ImageNet space at one resolution, or a space of CIFAR-sized images of 24 to 32 pixels."""
    if name == "imagenet":
        return elastic_step.space_at(elastic_step.RESOLUTION)
    stages = [(24, 1, False), (40, 2, True), (80, 2, False), (112, 1, True), (160, 2, True)]
    return MobileNetV3(
        name="cifar",
        resolutions=[24, 28, 32],
        in_channels=3,
        classes=CLASSES[name],
        stem=16,
        stem_stride=1,
        stages=[
            {"channels": c, "stride": s, "squeeze": se, "activation": "relu" if i < 2 else "h_swish"}
            for i, (c, s, se) in enumerate(stages)
        ],
        depths=[2, 3, 4],
        kernels=[3, 5, 7],
        expands=[3, 4, 6],
        last_channels=480,
        features=640,
    )


def data_of(name: str, count: int) -> Data:
    """Random images of the largest resolution."""
    side = {"imagenet": elastic_step.RESOLUTION, "cifar": 32}[name]
    generator, classes = torch.Generator().manual_seed(0), CLASSES[name]
    part = Part(
        torch.randn(count, 3, side, side, generator=generator), torch.randint(classes, (count,), generator=generator)
    )
    few = Part(part.images[:2], part.labels[:2])
    return Data("random", part, few, few, task=Classification(classes), mean=(0.0,) * 3, std=(1.0,) * 3)


def settings_of(given: Mapping[str, Any], batch: int, *, networks: int = NETWORKS, **more: Any) -> TrainingSettings:
    """The sandwich recipe on a device."""
    return TrainingSettings(
        sampler=Sandwich(networks - 2),
        batch_size=batch,
        device=given["device"],
        precision=given["precision"],
        learning_rate=RATE,
        evaluate_every=0,
        **more,
    )


# -- one step ----------------------------------------------------------------------------------------------------------


def static_step(
    run: _Run, networks: list[Architecture], images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """A function that trains the same networks for one step, each with its own weights."""
    modules = [run.supernet.extract(one).train().to(memory_format=torch.channels_last) for one in networks]  # type: ignore[call-overload]
    sizes = [input_resolution(run.space, one) for one in networks]
    fused = run.device.type == "cuda"
    optimisers = [torch.optim.AdamW(one.parameters(), RATE, fused=fused) for one in modules]
    task = run.data.task

    def step() -> None:
        first = None
        for module, size, optimiser in zip(modules, sizes, optimisers, strict=True):
            with run.fabric.autocast():
                outputs = module(resize(images, size))
                loss = task.loss(outputs, labels, smoothing=0.1) if first is None else task.imitation(outputs, first)
            first = outputs.detach() if first is None else first
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()

    return step


def run_of(given: Mapping[str, Any], data: Data, batch: int, **more: Any) -> _Run:
    """A training that is about to begin."""
    settings = settings_of(given, batch, threads=given["threads"], augment=(), **more)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(space_of(given["space"]), data, settings, Path(folder))
    run.supernet.train()
    return run


def step_of(run: _Run, data: Data, batch: int) -> Callable[[int], Any]:
    """A function that takes one step, in the loop that users run, on the networks that a number draws."""
    images, labels = (tensor.to(run.device) for tensor in data.train.take(torch.arange(batch)))
    changes = Changes(batch, data.resolution)
    return lambda number: run._step(images, labels, changes, batch, 1.0, np.random.default_rng(number))


def compile_row(
    given: Mapping[str, Any], data: Data, batch: int, networks: int, rounds: int, repeats: int
) -> dict[str, float]:
    """Median seconds of steps without and with compiled networks, taken in turn, and of compiling them."""
    runs = [run_of(given, data, batch, networks=networks, compile=compiles) for compiles in (False, True)]
    steps = [step_of(run, data, batch) for run in runs]
    device = runs[0].device
    warm = [seconds_of(functools.partial(steps[1], 0), device, 1) for _ in range(AFTER + 4)]  # records graphs too
    found: list[list[float]] = [[], []]
    for number in range(rounds):
        for step, seconds in zip(steps, found, strict=True):
            step(number)  # allocates, chooses algorithms
            seconds.append(seconds_of(functools.partial(step, number), device, repeats))
    eager, compiled = map(statistics.median, found)
    gain = statistics.median(a / b for a, b in zip(*found, strict=True))
    return {"step": eager, "compiled": compiled, "gain": gain, "compile_s": sum(warm) - len(warm) * compiled}


def ofa_step(other: Any, run: _Run, networks: list[Architecture], images: torch.Tensor, labels: torch.Tensor) -> Any:
    """A function that trains the same subnets of once-for-all's elastic network for one step."""
    optimiser = torch.optim.AdamW(other.parameters(), RATE, fused=run.device.type == "cuda")

    def step() -> None:
        first = None
        optimiser.zero_grad()
        for one in networks:
            elastic_step.activate(other, one)
            with run.fabric.autocast():
                outputs = other(images)
                against = labels if first is None else first
                functional.cross_entropy(outputs, against, label_smoothing=0.1 if first is None else 0.0).backward()
            first = outputs.detach().float().softmax(1) if first is None else first
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimiser.step()

    return step


def seconds_of(step: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of one step, the mean of some."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / repeats


def step_row(given: Mapping[str, Any], batch: int, rounds: int, repeats: int, path: Path | None) -> dict[str, float]:
    """Median seconds of one step of each contestant."""
    data = data_of(given["space"], batch)
    run = run_of(given, data, batch)
    own_step = step_of(run, data, batch)
    images, labels = (tensor.to(run.device) for tensor in data.train.take(torch.arange(batch)))
    other = None
    if path is not None and given["space"] == "imagenet":
        other = elastic_step.once_for_all(path).train().to(run.device)
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        networks = Sandwich(NETWORKS - 2).draw(run.region, {}, np.random.default_rng(number), None)  # type: ignore[arg-type]
        steps: dict[str, Any] = {
            "step": functools.partial(own_step, number),
            "static": static_step(run, networks, images, labels),
        }
        if other is not None:
            steps["ofa"] = ofa_step(copy.deepcopy(other), run, networks, images, labels)
        for step in steps.values():
            step()  # allocates, compiles, chooses algorithms
        for name, step in steps.items():
            found.setdefault(name, []).append(seconds_of(step, run.device, repeats))
    row = {name: statistics.median(seconds) for name, seconds in found.items()}
    row["share"] = statistics.median(a / b for a, b in zip(found["static"], found["step"], strict=True))
    if "ofa" in found:
        row["speedup"] = statistics.median(a / b for a, b in zip(found["ofa"], found["step"], strict=True))
    row["networks_per_second"] = batch * NETWORKS / row["step"]
    return row


# -- the whole loop ----------------------------------------------------------------------------------------------------


def loop_row(given: Mapping[str, Any], batch: int, steps: int) -> dict[str, float]:
    """Images times networks per second of an epoch, the second one, in as many processes as are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        work = json.dumps({"given": given, "batch": batch, "steps": steps, "folder": folder})
        command = [sys.executable, str(Path(__file__).resolve()), "--work", work]
        if given["processes"] > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given['processes']}"]
        threads = str(given["threads"] or 1)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}
        subprocess.run(command, check=True, env=environment)
        seconds = json.loads((Path(folder) / "history.json").read_text())[-1]["seconds"]
    return {"epoch_s": seconds, "networks_per_second": steps * batch * NETWORKS / seconds}


def work(asked: str) -> None:
    """Train as `loop_row` asks for, in one of its processes."""
    wanted = json.loads(asked)
    given, batch = wanted["given"], wanted["batch"]
    settings = settings_of(given, batch, epochs=2, warmup_epochs=0, threads=given["threads"], checkpoint_every=2)
    train(space_of(given["space"]), data_of(given["space"], batch * wanted["steps"]), settings, Path(wanted["folder"]))


# -- all of it ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--spaces", nargs="+", choices=sorted(CLASSES), default=["imagenet", "cifar"])
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--processes", nargs="*", type=int, default=[1], help="of the whole loop; none: only steps")
    parser.add_argument("--once-for-all", type=Path, help="checkout of mit-han-lab/once-for-all, to run beside")
    parser.add_argument("--compile", action="store_true", help="compiled networks beside, in rows of their own")
    parser.add_argument("--batch", type=int, default=elastic_step.BATCH, help="images per step")
    parser.add_argument("--rounds", type=int, default=3, help="draws of four networks")
    parser.add_argument("--repeats", type=int, default=1, help="steps of each draw; more on a GPU")
    parser.add_argument("--steps", type=int, default=8, help="of an epoch of the whole loop")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, in each process")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    shared = {"batch": arguments.batch, "threads": arguments.threads}
    for space in arguments.spaces:
        for device in arguments.devices:
            for precision in arguments.precisions:
                given = {"space": space, "device": device, "precision": precision, **shared}
                wanted: list[dict[str, Any]] = [{"what": "step", **given}]
                if arguments.compile:
                    wanted += [{"what": "compile", **given, "networks": count} for count in (2, NETWORKS)]
                wanted += [{"what": "loop", **given, "processes": count} for count in arguments.processes]
                for one in wanted:
                    if any(one.items() <= row.items() for row in rows):
                        continue
                    found = row_of(one, arguments)
                    on = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
                    rows.append({**one, **({"gpu": on} if on else {}), **found})
                    print(" ".join(f"{key}={_text(value)}" for key, value in rows[-1].items()), flush=True)
                    common.write(arguments.output, {"conditions": common.conditions("torch"), "rows": rows})


def row_of(wanted: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of one row."""
    batch, rounds, repeats = arguments.batch, arguments.rounds, arguments.repeats
    if wanted["what"] == "step":
        return step_row(wanted, batch, rounds, repeats, arguments.once_for_all)
    if wanted["what"] == "compile":
        data = data_of(wanted["space"], batch)
        return compile_row(wanted, data, batch, wanted["networks"], rounds, repeats)
    return loop_row(wanted, batch, arguments.steps)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
