"""Is a network that inherits its weights as good as trained alone, and are networks ranked alike? Recipe by recipe.

    OMP_NUM_THREADS=1 python experiments/benchmarks/supernet_quality.py digits --seeds 3
    python experiments/benchmarks/supernet_quality.py cifar10 --data cifar10_jpeg.npz --device cuda --precision bfloat16

For each seed and recipe (all of nas/conf/training, or those of --recipes) a supernet is trained. Networks of the space,
from the smallest to the biggest in equal ratios of their multiply-accumulates (MACs), take their weights from it;
BatchNorm statistics are taken anew on training images. The same networks are trained alone, from nothing, with the same
epochs, optimiser and augmentation. Accuracies are of the validation and the test part together: nothing is chosen by
them. Printed per recipe, means over the seeds: the median of inherited minus alone in points, the worst, and Kendall's
tau between the two. The ceiling of tau is that between networks trained alone with different seeds.

All recipes get equal compute: the MACs of training that the sandwich rule takes in --epochs. Those of a recipe are
counted over 200 drawn steps of each phase, per image: three times the MACs of every network that is trained (forward,
and twice as much backward), once those of a network that is only asked (candidates, teachers). From this follow its
epochs, so that a recipe of cheap steps has more of them; its learning rate falls over all of them. For photos all
recipes have one batch size, optimiser, learning rate and augmentation, and the learning rates of phases keep their
ratio to it; for the digits each has its own.

Results are written after every training, and a run that is started again goes on there. A training that is stopped goes
on after its last epoch where --folder is given. CIFAR-10 and Imagenette are files of packed JPEGs, see
`nas.data.packed_images`; a ninth of the training images validates. JPEG loses detail, so that accuracies are not those
of the standard pixels.

Goals: median >= -0.5 points, tau >= 0.8.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from nas.data import Data, Part, digits, packed_images
from nas.supernet import Phase, Supernet, SupernetAccuracy, TrainingSettings, train
from nas.supernet.losses import Blockwise, ForeignTeacher, FrozenBiggest, Labels
from nas.supernet.region import Region
from nas.supernet.samplers import SinglePath
from predictors import macs
from predictors.assessment import quality
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.architecture import Genes
from search_spaces.base.building import build
from search_spaces.base.storage import fingerprint
from search_spaces.loading import load_space
from search_spaces.one_network import OneNetwork

RECIPES = common.CONF / "training"
REFERENCE = "sandwich"
"""The recipe whose compute all have."""
STEPS = 200
"""Steps of a phase by which its compute is counted."""
SPREAD = 20_000
"""Random networks of which those that are compared are taken."""

OF_DIGITS: dict[str, Any] = {"epochs": 40}
OF_PHOTOS: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 256,
    "optimiser": "sgd",
    "learning_rate": 0.2,
    "weight_decay": 3e-5,
    "shift": 0.1,
    "rotate": 0.0,
    "scale": 0.1,
}
"""Settings of all recipes, in place of those of their YAML."""


def cifar_space() -> SearchSpace:
    return MobileNetV3(
        name="cifar10",
        resolutions=[24, 28, 32],
        in_channels=3,
        classes=10,
        stem=16,
        stem_stride=1,
        stages=[
            {"channels": 16, "stride": 1, "squeeze": False, "activation": "relu", "depths": [1, 2]},
            {"channels": 24, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 48, "stride": 2, "squeeze": True, "activation": "h_swish"},
        ],
        depths=[1, 2, 3],
        kernels=[3, 5],
        expands=[1, 2, 4],
        last_channels=192,
        features=128,
    )


def imagenette_space() -> SearchSpace:
    return MobileNetV3(
        name="imagenette96",
        resolutions=[64, 80, 96],
        in_channels=3,
        classes=10,
        stem=16,
        stem_stride=2,
        stages=[
            {"channels": 24, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 40, "stride": 2, "squeeze": True, "activation": "relu"},
            {"channels": 80, "stride": 2, "squeeze": True, "activation": "h_swish"},
        ],
        depths=[1, 2, 3],
        kernels=[3, 5, 7],
        expands=[2, 3, 4],
        last_channels=320,
        features=256,
    )


SUBJECTS = {
    "digits": (lambda: load_space("mobilenet_v3_digits"), OF_DIGITS),
    "cifar10": (cifar_space, OF_PHOTOS),
    "imagenette": (imagenette_space, OF_PHOTOS),
}
"""Space and settings by the name of the data."""


def photos(name: str, path: Path, images: int | None) -> Data:
    """Packed JPEGs, or a random share of each part."""
    data = packed_images(str(path), name=name, keep=images is None)
    if images is None:
        return data
    generator = torch.Generator().manual_seed(0)
    train, validation, test = (
        Part(*part.take(torch.randperm(len(part), generator=generator)[:images]))
        for part in (data.train, data.validation, data.test_part())
    )
    return Data(name, train, validation, test, data.task, data.mean, data.std, data.scale)


def networks_of(space: SearchSpace, count: int) -> Genes:
    """Networks in equal ratios of multiply-accumulates, from the smallest to the biggest, (count, choices)."""
    genes = Region(space).sample(SPREAD, np.random.default_rng(0))
    genes = np.unique(np.concatenate([genes, [space.smallest.genes, space.biggest.genes]]), axis=0)
    cost = macs(space).predict(genes)
    chosen: list[int] = []
    ends = macs(space).predict(np.stack([space.smallest.genes, space.biggest.genes]))
    for wanted in np.geomspace(*ends, count):
        near = np.argsort(np.abs(np.log(cost / wanted)), kind="stable")
        chosen.append(next(int(row) for row in near[: count + 1] if row not in chosen))
    return genes[chosen]


def recipe(name: str, given: dict[str, Any], **more: Any) -> TrainingSettings:
    """A shipped recipe with the settings of the data."""
    node = {**yaml.safe_load((RECIPES / f"{name}.yaml").read_text()), "seed": 0}
    settings: TrainingSettings = build("training", node, TrainingSettings)
    rate = given.get("learning_rate", settings.learning_rate) / settings.learning_rate
    phases = tuple(
        phase if phase.learning_rate is None else dataclasses.replace(phase, learning_rate=phase.learning_rate * rate)
        for phase in settings.phases
    )
    own: dict[str, Any] = {"phases": phases, "evaluate_every": 0, **more}
    return dataclasses.replace(settings, **{**given, **own, "epochs": max(given["epochs"], len(phases))})


def compute(space: SearchSpace, settings: TrainingSettings) -> float:
    """Multiply-accumulates of training per image and epoch."""
    table, total = macs(space), 0.0
    phases = settings.phases or (Phase(),)
    for phase in phases:
        sampler, loss = phase.sampler or settings.sampler, phase.loss or settings.loss
        region, rng, asked = Region(space, phase.choices), np.random.default_rng(0), [0.0]
        if isinstance(loss, ForeignTeacher):
            raise SystemExit("The multiply-accumulates of a foreign teacher are not known here.")
        teacher = space.biggest if isinstance(loss, FrozenBiggest) else None
        teacher = loss.architecture(space) if isinstance(loss, Blockwise) else teacher

        def cost(architectures: Sequence[Architecture]) -> float:
            return float(table.predict(np.stack([one.genes for one in architectures])).sum())

        def probe(
            architectures: Sequence[Architecture], asked: list[float] = asked, rng: np.random.Generator = rng
        ) -> NDArray[np.float64]:
            asked[0] += cost(architectures)
            return rng.random(len(architectures))

        state = sampler.init(region)
        for _ in range(STEPS):
            drawn = sampler.draw(region, state, rng, probe)
            state = sampler.tell(region, state, drawn, rng.random(len(drawn)).tolist() if sampler.learns else ())
            asked[0] += 3 * cost(drawn) + (0 if teacher is None else cost([teacher]))
        total += phase.share * asked[0] / STEPS
    return total / sum(phase.share for phase in phases)


def accuracies(supernet: Supernet, data: Data, genes: Genes, device: str) -> list[float]:
    """Accuracy of networks over the validation and the test part."""
    space, held, tested = supernet.space, len(data.validation), len(data.test_part())
    supernet.to(device)
    validation = SupernetAccuracy(space, supernet, data, threads=1).predict(genes)
    test = SupernetAccuracy(space, supernet, data, part="test", threads=1).predict(genes)
    found: list[float] = ((validation * held + test * tested) / (held + tested)).tolist()
    return found


class Results:
    """Rows that were found so far, and their file."""

    def __init__(self, path: Path, setting: dict[str, Any]) -> None:
        self.path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        if known and known["setting"] != json.loads(json.dumps(setting)):
            raise SystemExit(f"{path} holds results of another setting; give another --output, or move it away.")
        self.content: dict[str, Any] = known or {"setting": setting, "alone": {}, "recipes": {}}

    def write(self) -> None:
        """Write the rows and the figures that follow from them."""
        figures = self.figures()
        conditions = common.conditions("torch", "numpy")
        common.write(self.path, {"figures": figures, "conditions": conditions, **self.content})

    def alone(self) -> NDArray[np.float64]:
        """Accuracies of networks trained alone, (seeds, networks), of the seeds of which all are known."""
        count = len(self.content["setting"]["networks"])
        rows = self.content["alone"].values()
        return np.array([[one["accuracy"] for one in seed.values()] for seed in rows if len(seed) == count])

    def figures(self) -> dict[str, Any]:
        """Per recipe, means over the seeds."""
        alone, found = self.alone(), {}
        if not len(alone):
            return {}
        for name, seeds in self.content["recipes"].items():
            inherited = np.array([one["accuracy"] for one in seeds.values()])
            points = 100 * (inherited - alone.mean(0))
            taus = [quality(alone.mean(0), row, maximise=True).kendall_tau for row in inherited]
            found[name] = {
                "seeds": len(inherited),
                "median": round(float(np.median(points, 1).mean()), 2),
                "worst": round(float(points.min(1).mean()), 2),
                "biggest": round(float(100 * inherited[:, -1].mean()), 2),
                "kendall_tau": round(float(np.mean(taus)), 3),
                "kendall_tau_std": round(float(np.std(taus)), 3),
            }
        pairs = list(itertools.combinations(alone, 2))
        found["alone"] = {
            "seeds": len(alone),
            "accuracy": [round(float(one), 4) for one in alone.mean(0)],
            "std": round(float(alone.std(0, ddof=1).mean()), 4) if len(alone) > 1 else None,
            "ceiling_of_tau": round(float(np.mean([quality(a, b, maximise=True).kendall_tau for a, b in pairs])), 3)
            if pairs
            else None,
        }
        return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--data", type=Path, help="file of packed JPEGs; none for the digits")
    parser.add_argument("--recipes", help="names, separated by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=12, help="networks that are compared (default 12)")
    parser.add_argument("--epochs", type=int, help=f"of the {REFERENCE} rule and of networks alone")
    parser.add_argument("--images", type=int, help="training images at most, and at most as many of the other parts")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--folder", type=Path, help="of checkpoints, so that a stopped training goes on")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    make_space, given = SUBJECTS[arguments.subject]
    space = make_space()
    if (arguments.data is None) != (arguments.subject == "digits"):
        raise SystemExit("CIFAR-10 and Imagenette need --data FILE, and the digits none.")
    if arguments.data is not None and not arguments.data.exists():
        raise SystemExit(f"There is no {arguments.data}; give the file of packed JPEGs.")
    data = digits() if arguments.data is None else photos(arguments.subject, arguments.data, arguments.images)
    changes = {"epochs": arguments.epochs, "batch_size": arguments.batch_size}
    given = {**given, **{name: value for name, value in changes.items() if value is not None}}
    more = {"device": arguments.device, "precision": arguments.precision}
    genes = networks_of(space, arguments.networks)
    setting = {
        "space": space.fingerprint,
        "data": data.fingerprint,
        "images": len(data.train),
        "settings": {**given, **more},
        "networks": [Architecture(space, row).values for row in genes],
        "macs": macs(space).predict(genes).tolist(),
    }
    results = Results(arguments.output or common.RESULTS / f"supernet_quality_{arguments.subject}.json", setting)
    budget = given["epochs"] * compute(space, recipe(REFERENCE, given))
    every = [path.stem for path in sorted(RECIPES.glob("*.yaml"))]
    names = arguments.recipes.split(",") if arguments.recipes else every
    with tempfile.TemporaryDirectory() as temporary:
        trained = functools.partial(training, data, arguments.folder or Path(temporary))
        for seed in range(arguments.seeds):
            for name in names:
                rows = results.content["recipes"].setdefault(name, {})
                if str(seed) in rows:
                    continue
                settings = recipe(name, given, seed=seed, **more)
                cost = compute(space, settings)
                epochs = max(1, len(settings.phases), round(budget / cost))
                supernet, seconds = trained(space, dataclasses.replace(settings, epochs=epochs))
                rows[str(seed)] = {
                    "accuracy": accuracies(supernet, data, genes, arguments.device),
                    "epochs": epochs,
                    "compute": epochs * cost / budget,
                    "seconds": seconds,
                }
                results.write()
                print(f"seed {seed} {name}: {epochs} epochs, {seconds:.0f} s", flush=True)
            rows = results.content["alone"].setdefault(str(seed), {})
            for number, row in enumerate(genes):
                if str(number) in rows:
                    continue
                one = OneNetwork.of(Architecture(space, row))
                alone = recipe(REFERENCE, given, seed=seed, **more, sampler=SinglePath(), loss=Labels())
                supernet, seconds = trained(one, alone)
                (accuracy,) = accuracies(supernet, data, one.biggest.genes[None], arguments.device)
                rows[str(number)] = {"accuracy": accuracy, "seconds": seconds}
                results.write()
            print(f"seed {seed} alone", flush=True)
            for name, figures in results.figures().items():
                print(f"  {name:22} " + " ".join(f"{key}={value}" for key, value in figures.items()), flush=True)


def training(data: Data, folder: Path, space: SearchSpace, settings: TrainingSettings) -> tuple[Supernet, float]:
    """A trained supernet and the seconds that it took."""
    started = time.perf_counter()
    place = folder / fingerprint([space.fingerprint, data.fingerprint, repr(settings)])[:12]
    trained = train(space, data, settings, place)
    if settings.device != "cpu":
        torch.cuda.synchronize()
    return trained.supernet, round(time.perf_counter() - started, 1)


if __name__ == "__main__":
    main()
