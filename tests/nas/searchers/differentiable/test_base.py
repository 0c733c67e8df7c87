"""What all differentiable searchers share. Each method's own rules and the contract of all are in `searchers`."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.data import Data, Part
from nas.searchers.differentiable.base import (
    IMPOSSIBLE,
    TARGET_TOLERANCE,
    EpochRecord,
    GradientRun,
    GradientSearch,
    short_of_limit,
)
from nas.tasks import Classification
from predictors import PositionTable, params
from search_spaces import Genes, MobileNetV3, NasBench201, SearchSpace
from search_spaces.base.errors import DamagedFileError, InfeasibleError, InvalidValueError, NasError
from search_spaces.layers import Layer, MBConv
from tests.nas.conftest import first_digits


@pytest.fixture(scope="module")
def data() -> Data:
    """The first digits."""
    return first_digits(128, 32, 32)


def cost(layer: Layer) -> float:
    return 0.01 + 1e-5 * layer.macs


def use(layer: Layer) -> float:
    return float(np.log1p(layer.params)) / 100


def problem_of(
    space: SearchSpace,
    limit: float | None = None,
    *,
    latency: Callable[[Layer], float] = cost,
    most_params: float | None = None,
) -> Problem:
    """Accuracy up, latency down, both under limits if there are any."""
    objectives = [
        Objective.of(PositionTable.of_layers(space, "accuracy", "1", use), "max"),
        Objective.of(PositionTable.of_layers(space, "latency", "ms", latency), "min", limit, "limit.latency_ms"),
    ]
    if most_params is not None:
        objectives.append(Objective.of(params(space), None, most_params))
    return Problem(space, objectives)


def quick(data: Data, **changes: Any) -> GradientSearch:
    settings = {"fixed": {"resolution": 8}, "epochs": 4, "warm_up": 1, "batch_size": 16, "architecture_rate": 0.1}
    return GradientSearch(data, **{**settings, **changes})


def draw_logits(run: GradientRun, seed: int, scale: float = 2.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in run.logits.values():
            values.copy_(scale * torch.randn(values.shape, generator=generator))


def latency_of(run: GradientRun, genes: Genes) -> Any:
    return run.problem.objectives[1].predictor.predict(genes)


# -- latency -----------------------------------------------------------------------------------------------------------


def test_expected_latency_is_the_mean_over_sampled_networks(data: Data, digits_space: MobileNetV3) -> None:
    run = GradientRun(problem_of(digits_space), quick(data, fixed={"resolution": 16}))
    for seed in range(3):
        draw_logits(run, seed, 1.0)
        genes = run.relaxed.sample(run.probabilities(), 20_000, np.random.default_rng(seed))
        expected = float(run.expected_latency(run.probabilities()).detach())
        assert expected == pytest.approx(latency_of(run, genes).mean(), rel=0.01)


def test_gradient_of_expected_latency_is_a_finite_difference(data: Data, small_space: MobileNetV3) -> None:
    run = GradientRun(problem_of(small_space), quick(data))
    run.logits = {name: values.detach().double().requires_grad_() for name, values in run.logits.items()}
    draw_logits(run, 0)
    run.expected_latency(run.probabilities()).backward()  # type: ignore[no-untyped-call]
    for values in run.logits.values():
        assert values.grad is not None
        for i in range(len(values)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    values[i] += sign * 1e-5
                    ends.append(float(run.expected_latency(run.probabilities())))
                    values[i] -= sign * 1e-5
            assert float(values.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_forms_of_the_loss(data: Data, small_space: MobileNetV3) -> None:
    """Without a limit, in closed form; E is a share of what it was at first."""
    error = torch.tensor(1.7)
    for form, expected in (
        ("none", lambda share: 1.7),
        ("linear", lambda share: 1.7 + 0.3 * share),
        ("power", lambda share: 1.7 * 0.3 * share**0.6),
        ("hinge", lambda share: 1.7 + 0.3 * max(0.0, share - 1)),
    ):
        run = GradientRun(problem_of(small_space), quick(data, latency={"form": form, "weight": 0.3, "exponent": 0.6}))
        before = GradientRun(problem_of(small_space), quick(data)).expected_latency(run.probabilities())
        for seed in range(4):
            draw_logits(run, seed)
            now = GradientRun(problem_of(small_space), quick(data)).expected_latency(run.probabilities())
            loss = run.with_latency(error)
            assert float(loss.detach()) == pytest.approx(expected(float((now / before).detach())), rel=1e-5)
        assert run.multiplier == 0  # nothing to steer to


def test_strength_rises_above_the_limit_and_falls_below(data: Data, small_space: MobileNetV3) -> None:
    probe = GradientRun(problem_of(small_space), quick(data))
    start = float(probe.expected_latency(probe.probabilities()).detach())
    for limit, sign in ((0.8 * start, 1), (1.2 * start, -1)):
        run = GradientRun(problem_of(small_space, limit), quick(data))
        changes = [float(run.with_latency(torch.zeros(())).detach()) for _ in range(3)]
        assert np.all(np.sign(np.diff(changes)) == sign) and np.sign(run.multiplier) == sign


@pytest.mark.parametrize(("form", "share"), [("linear", 0.35), ("power", 0.5), ("linear", 0.8)])
def test_expected_latency_is_steered_to_the_limit(
    data: Data, small_space: MobileNetV3, form: str, share: float
) -> None:
    """Whether that is above or below what the logits begin with, or what accuracy asks for."""
    most = float(problem_of(small_space).objectives[1].predictor.predict(biggest(small_space)[None])[0])
    settings = {"latency": {"form": form}, "images": 64, "epochs": 11, "architecture_rate": 0.3}
    run = GradientRun(problem_of(small_space, share * most), quick(data, **settings))
    run.train()
    assert run.records[-1].latency == pytest.approx(share * most, rel=TARGET_TOLERANCE)


def biggest(space: SearchSpace, resolution: int = 0) -> Genes:
    """The slowest network at one resolution."""
    genes = (space.cardinalities - 1).astype(np.int16)
    genes[space.index["resolution"]] = resolution
    return genes


def test_several_devices_count_by_the_one_farthest_beyond_its_limit(data: Data, small_space: MobileNetV3) -> None:
    tables = [
        PositionTable.of_layers(small_space, "latency", "ms", fn) for fn in (cost, lambda layer: 1.0 * layer.params)
    ]
    accuracy = Objective.of(PositionTable.of_layers(small_space, "accuracy", "1", use), "max")
    means = [float(table.predict(small_space.sample(500, np.random.default_rng(0))).mean()) for table in tables]
    limits = [1.1 * means[0], 0.7 * means[1]]
    objectives = [Objective.of(table, "min", limit) for table, limit in zip(tables, limits, strict=True)]
    run = GradientRun(Problem(small_space, [accuracy, *objectives]), quick(data))
    whole = run.relaxed.complete(run.probabilities())
    shares = [float(table.relaxed(whole).detach()) / limit for table, limit in zip(tables, limits, strict=True)]
    assert float(run.latency_share(run.probabilities()).detach()) == pytest.approx(max(shares), rel=1e-6)
    answer = run.answer()
    assert all(table.predict(answer[None])[0] <= limit for table, limit in zip(tables, limits, strict=True))


# -- what is found -----------------------------------------------------------------------------------------------------


def lost(run: GradientRun, genes: Genes) -> np.ndarray[Any, Any]:
    """Log-probability given up against the most probable value of each choice that matters, written a second time."""
    active = run.space.active(genes)
    total = np.zeros(len(genes))
    for name, values in run.logits.items():
        column = run.space.index[name]
        logs = values.detach().double().log_softmax(0).numpy()
        total += np.where(active[:, column], logs.max() - logs[genes[:, column]], 0)
    return total


@pytest.mark.parametrize("share", [0.45, 0.6, 0.75])
def test_the_answer_is_the_most_probable_network_near_the_limit(
    data: Data, small_space: MobileNetV3, everything: Genes, share: float
) -> None:
    rows = everything[everything[:, 0] == 0]
    problem = problem_of(small_space)
    latency = problem.objectives[1].predictor.predict(rows)
    limit = float(share * latency.max())
    near = rows[(latency <= limit) & (latency >= (1 - TARGET_TOLERANCE) * limit)]
    assert len(near) > 1
    run = GradientRun(problem_of(small_space, limit), quick(data))
    for seed in range(10):
        draw_logits(run, seed)
        assert lost(run, run.answer()[None])[0] == pytest.approx(lost(run, near).min(), abs=1e-6)


def test_the_answer_keeps_all_limits(data: Data, small_space: MobileNetV3, everything: Genes) -> None:
    rows = everything[everything[:, 0] == 0]
    sizes = params(small_space).predict(rows)
    problem = problem_of(small_space, most_params=float(np.median(sizes)))
    small = sizes <= np.median(sizes)
    assert 0 < small.sum() < len(rows)
    run = GradientRun(problem, quick(data))
    for seed in range(10):
        draw_logits(run, seed)
        assert lost(run, run.answer()[None])[0] == pytest.approx(lost(run, rows[small]).min(), abs=1e-6)
        assert (problem.violations(problem.evaluate(run.candidates()))[: 1 + run.method.offered] == 0).all()


def test_a_limit_above_all_networks_changes_nothing(data: Data, small_space: MobileNetV3) -> None:
    run, free = (GradientRun(problem_of(small_space, limit), quick(data)) for limit in (1e6, None))
    for seed in range(5):
        draw_logits(run, seed)
        draw_logits(free, seed)
        assert np.array_equal(run.answer(), free.answer())
        assert np.array_equal(run.answer(), run.relaxed.architecture(run.probabilities()).genes)


def test_a_limit_that_no_network_comes_near_is_said(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    """Between two networks far apart: the one below is the answer."""
    space = of_ten_classes()
    latency = problem_of(space).objectives[1].predictor
    grid = itertools.product(*(range(int(c)) for c in space.cardinalities))
    rows = np.unique(space.canonical(np.array(list(grid), np.int16)), axis=0)
    known = np.unique(latency.predict(rows[rows[:, 0] == 0]))
    gap = int((known[1:] / known[:-1]).argmax())
    limit = float(known[gap + 1] * (1 - 1e-6))
    assert known[gap] < (1 - TARGET_TOLERANCE) * limit
    run = GradientRun(problem_of(space, limit), quick(data))
    answer = run.candidates()[0]
    assert latency.predict(answer[None])[0] == pytest.approx(known[gap])
    assert "off the limit `limit.latency_ms`" in caplog.text


def of_ten_classes() -> MobileNetV3:
    """Few enough networks that their latencies lie apart."""
    return MobileNetV3(
        name="tiny",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}],
        depths=[1, 2, 3],
        kernels=[3],
        expands=[1, 2],
        last_channels=8,
        features=8,
    )


# -- when things go wrong ----------------------------------------------------------------------------------------------


def test_collapse_to_skip_connections_is_said(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    """Of cells, on more than half of the edges."""
    space = NasBench201(name="cells", in_channels=1, classes=10, resolution=8, channels=4, cells=1)
    run = GradientRun(problem_of(space), quick(data, fixed={}))
    for skips, collapsed in ((3, False), (4, True), (6, True)):
        caplog.clear()
        with torch.no_grad():
            for edge, values in enumerate(run.logits.values()):
                values.copy_(5.0 * torch.eye(5)[1 if edge < skips else 3])
        run.candidates()
        assert run.skipped() == pytest.approx(skips / 6)
        assert ("collapsed" in caplog.text) == collapsed


def test_latency_is_not_filled_up_with_what_is_of_no_use(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    """The most probable cell is a skip connection, and two convolutions whose node nothing takes from."""
    space = NasBench201(name="cells", in_channels=1, classes=10, resolution=8, channels=4, cells=1)
    free = GradientRun(problem_of(space), quick(data, fixed={}))
    latency = problem_of(space).objectives[1].predictor
    row = np.array([[1, 3, 3, 1, 1, 0]], np.int16)
    assert space.wasteful(row)[0]
    run = GradientRun(problem_of(space, float(latency.predict(row)[0]) * 1.01), quick(data, fixed={}))
    for one in (free, run):
        caplog.clear()
        with torch.no_grad():
            for gene, values in zip(row[0], one.logits.values(), strict=True):
                values.copy_(5.0 * torch.eye(5)[gene])
        assert one.skipped() == 1.0
        candidates = one.candidates()
        assert not space.wasteful(candidates[:1]).any()
        assert "collapsed: 100 %" in caplog.text
    assert 1 - TARGET_TOLERANCE <= float(latency.predict(candidates[:1])[0]) / run.target <= 1


def test_a_cell_that_ignores_its_input_is_no_answer(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    space = NasBench201(name="cells", in_channels=1, classes=10, resolution=8, channels=4, cells=1)
    run = GradientRun(problem_of(space), quick(data, fixed={}))
    with torch.no_grad():
        for values in run.logits.values():
            values.copy_(5.0 * torch.eye(5)[0])  # nothing
        run.logits["edge.1.3"][3] = 4.5
    candidates = run.candidates()
    assert not space.wasteful(candidates).any()
    # Nearest in log-probability: one edge from input to output.
    assert np.count_nonzero(candidates[0]) == 1 and candidates[0][3] != 0
    assert "collapsed: 100 %" in caplog.text


def test_blocks_left_out_are_a_collapse_unless_the_limit_asks_for_it(
    data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    space = of_ten_classes()
    least = problem_of(space).objectives[1].predictor.predict(space.smallest.genes[None])[0]
    for limit, collapsed in ((None, True), (1e6, True), (1.001 * least, False)):
        caplog.clear()
        run = GradientRun(problem_of(space, limit), quick(data))
        with torch.no_grad():
            run.logits["depth.1"].copy_(torch.tensor([9.0, 0, 0]))
            for name in ("expand.1.1", "expand.1.2", "expand.1.3"):
                run.logits[name].copy_(torch.tensor([9.0, 0]))
        run.candidates()
        assert run.skipped() == pytest.approx(2 / 3)
        assert ("collapsed" in caplog.text) == collapsed


def test_layers_that_the_device_cannot_run_are_left_out(
    data: Data, small_space: MobileNetV3, caplog: pytest.LogCaptureFixture
) -> None:
    def holes(layer: Layer) -> float:
        return np.inf if isinstance(layer, MBConv) and layer.kernel == 5 and layer.stride == 2 else cost(layer)

    run = GradientRun(problem_of(small_space, latency=holes), quick(data))
    assert "kernel.1.1=5 is left out" in caplog.text and caplog.text.count("left out") == 1
    run.train()
    assert run.probabilities()["kernel.1.1"].tolist() == [1.0, 0.0]
    assert float(run.logits["kernel.1.1"].detach()[1]) == IMPOSSIBLE  # weight decay must not bring it back
    assert np.isfinite(latency_of(run, run.candidates())).all()
    assert np.isfinite(run.records[-1].latency)


def test_a_device_that_can_run_nothing_is_refused(data: Data, small_space: MobileNetV3) -> None:
    with pytest.raises(InfeasibleError, match="can run none"):
        GradientRun(problem_of(small_space, latency=lambda layer: np.inf), quick(data))


def test_a_limit_below_the_fastest_network_is_refused_with_the_nearest(data: Data, small_space: MobileNetV3) -> None:
    method = quick(data)
    problem = problem_of(small_space, 1e-3)
    with pytest.raises(InfeasibleError, match=r"`limit.latency_ms`=0.001 cannot be met.*to 0\.\d+ or more"):
        method.ask(problem, method.init(problem), method.batch, np.random.default_rng(0))


def test_a_limit_below_the_fastest_network_that_is_searched_is_refused_with_the_nearest(
    data: Data, small_space: MobileNetV3
) -> None:
    """The space has faster ones, but not at the resolution that is fixed."""
    latency = problem_of(small_space).objectives[1].predictor
    fastest = small_space.smallest.genes.copy()
    limit = 1.1 * float(latency.predict(fastest[None])[0])
    fastest[small_space.index["resolution"]] = 1
    nearest = float(latency.predict(fastest[None])[0])
    message = (
        f"No network with {{'resolution': 12}} that meets `limit.latency_ms`=.* nearest has latency {nearest:.4g} ms"
    )
    with pytest.raises(InfeasibleError, match=message):
        GradientRun(problem_of(small_space, limit), quick(data, fixed={"resolution": 12}))


def test_a_space_that_cannot_be_relaxed_is_refused(data: Data, small_space: MobileNetV3) -> None:
    method, problem = quick(data, fixed={}), problem_of(small_space)
    with pytest.raises(InvalidValueError, match="Position 'stem' of space 'small' cannot be relaxed"):
        method.ask(problem, method.init(problem), method.batch, np.random.default_rng(0))


def test_a_space_with_nothing_to_search_is_refused(data: Data, small_space: MobileNetV3) -> None:
    everything = {choice.name: choice.values[0] for choice in small_space.choices}
    with pytest.raises(InvalidValueError, match="nothing to search"):
        GradientRun(problem_of(small_space), quick(data, fixed=everything))


@dataclass(frozen=True)
class Guess:
    """A latency that knows no mean."""

    metric: str = "latency"
    unit: str = "ms"

    def predict(self, genes: Genes) -> Any:
        return 1.0 + genes.sum(1)


def test_a_latency_without_a_mean_is_refused_unless_it_is_not_in_the_loss(data: Data, small_space: MobileNetV3) -> None:
    accuracy = problem_of(small_space).objectives[0]
    problem = Problem(small_space, [accuracy, Objective.of(Guess(), "min", 4.0)])
    with pytest.raises(InvalidValueError, match="Guess has no mean over probabilities.*searcher=dnas"):
        GradientRun(problem, quick(data))
    run = GradientRun(problem, quick(data, latency={"form": "none"}))
    assert 0.95 * 4 <= Guess().predict(run.answer()[None])[0] <= 4


@pytest.mark.parametrize("what", ["loss", "logits"])
def test_nan_stops_and_keeps_the_last_good_state(
    data: Data, small_space: MobileNetV3, tmp_path: Path, what: str
) -> None:
    @dataclass(frozen=True)
    class Breaking(GradientSearch):
        def step(self, run: GradientRun, *rest: Any) -> torch.Tensor:
            if len(run.records) == 2 and what == "loss":
                return run.descend_weights(sum(p.sum() for p in run.relaxed.parameters()) * float("nan"))
            if len(run.records) == 2:
                run.apply_logit_gradients({name: float("nan") * values for name, values in run.logits.items()})
            return super().step(run, *rest)

    settings = vars(quick(data)) | {"folder": tmp_path}
    with pytest.raises(
        NasError, match=f"(?s){what}.* of Breaking became infinite or NaN in epoch 3.*after epoch 2 is kept"
    ):
        GradientRun(problem_of(small_space), Breaking(**settings)).train()
    kept = torch.load(tmp_path / "Breaking.pt", weights_only=True)
    assert len(kept["records"]) == 2
    assert all(bool(values.isfinite().all()) for values in [*kept["logits"].values(), *kept["supernet"].values()])


def test_choices_that_the_problem_fixes_are_not_searched(data: Data, small_space: MobileNetV3) -> None:
    whole = problem_of(small_space)
    part = Problem(small_space.restricted({"resolution": 8, "kernel.1.1": 5}), whole.objectives)
    method = quick(data, fixed={"expand.1.1": 1}, epochs=2, images=32)
    run = GradientRun(part, method)
    assert {"resolution", "kernel.1.1", "expand.1.1"}.isdisjoint(run.logits)
    run.train()
    kernels = small_space.index["kernel.1.1"]
    assert (run.candidates()[:, kernels] == 1).all()
    with pytest.raises(InvalidValueError, match=r"`search\.fixed` .* and `searcher\.fixed` .* differ"):
        GradientRun(part, quick(data, fixed={"resolution": 12}))


def test_a_front_that_ends_below_its_limit_is_said(small_space: MobileNetV3) -> None:
    """The slowest network of the front counts, whatever the search was steered to."""
    problem = problem_of(small_space, 2.0)
    below = np.array([[0.5, 1.0], [0.7, 1.48]])
    said = short_of_limit(problem, below)
    assert said is not None and "limit on latency_ms, 2 ms: the slowest takes 1.48, 26.0% less" in said
    assert short_of_limit(problem, np.array([[0.7, 1.91]])) is None
    assert short_of_limit(problem_of(small_space), below) is None


# -- files and settings ------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_settings_is_made_anew(
    data: Data, small_space: MobileNetV3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    GradientRun(problem_of(small_space), quick(data, folder=tmp_path, epochs=2, images=32)).train()
    run = GradientRun(problem_of(small_space), quick(data, folder=tmp_path, epochs=2, images=32))
    run.train()
    assert not caplog.text and len(run.records) == 2
    for problem, changes in (
        (problem_of(small_space), {"seed": 1}),
        (problem_of(small_space, 0.5), {}),
        (problem_of(small_space, latency=lambda layer: 2 * cost(layer)), {}),
    ):
        caplog.clear()
        GradientRun(problem, quick(data, folder=tmp_path, epochs=2, images=32, **changes)).train()
        assert "of other settings" in caplog.text


def test_a_finished_search_on_other_images_is_made_anew(data: Data, small_space: MobileNetV3, tmp_path: Path) -> None:
    """Both the loop's checkpoint and the method's own."""
    train = Part(data.train.images, data.train.labels.flip(0))
    other = Data("few_digits", train, data.validation, data.test_part(), Classification(10), data.mean, data.std)
    problem, settings = problem_of(small_space), {"folder": tmp_path, "epochs": 2, "images": 32}
    budget = {"evaluations": 30, "seed": 0}
    first = search(problem, quick(data, **settings), **budget, checkpoint=tmp_path / "a.npz")
    assert search(problem, quick(data, **settings), **budget, checkpoint=tmp_path / "a.npz").seconds == first.seconds
    rounds: list[int] = []
    search(
        *(problem, quick(other, **settings)),
        **budget,
        checkpoint=tmp_path / "a.npz",
        on_round=lambda n, v: rounds.append(n),
    )
    assert rounds and other.fingerprint in torch.load(tmp_path / "GradientSearch.pt", weights_only=True)["identity"]


def test_a_damaged_checkpoint_is_said(data: Data, small_space: MobileNetV3, tmp_path: Path) -> None:
    method = quick(data, folder=tmp_path, epochs=2, images=32)
    GradientRun(problem_of(small_space), method).train()
    path = tmp_path / "GradientSearch.pt"
    content = torch.load(path, weights_only=True)
    del content["multiplier"]
    torch.save(content, path)
    with pytest.raises(DamagedFileError, match="is damaged.*Delete it to search anew"):
        GradientRun(problem_of(small_space), method).train()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedFileError):
        GradientRun(problem_of(small_space), method).train()


def test_warming_up_leaves_the_logits_alone(data: Data, small_space: MobileNetV3) -> None:
    run = GradientRun(problem_of(small_space), quick(data, warm_up=1))
    before = [parameter.detach().clone() for parameter in run.relaxed.parameters()]
    run.epoch(0)
    assert all(not values.any() for values in run.logits.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, run.relaxed.parameters(), strict=True))
    run.epoch(1)
    assert any(values.any() for values in run.logits.values())


def test_logits_and_weights_learn_from_different_images(data: Data, small_space: MobileNetV3) -> None:
    seen: list[tuple[set[bytes], set[bytes]]] = []

    @dataclass(frozen=True)
    class Watching(GradientSearch):
        def step(self, run: GradientRun, train: Any, validation: Any, progress: float, searching: bool) -> torch.Tensor:
            seen.append(tuple({image.numpy().tobytes() for image in part[0]} for part in (train, validation)))  # type: ignore[arg-type]
            return torch.zeros(())

    run = GradientRun(problem_of(small_space), Watching(**vars(quick(data))))
    run.epoch(0)
    run.epoch(1)
    ours, theirs = (set().union(*parts) for parts in zip(*seen, strict=True))
    assert len(ours) >= 63 and len(theirs) >= 63 and not ours & theirs


def test_threads_are_as_before_afterwards(data: Data, small_space: MobileNetV3) -> None:
    before = torch.get_num_threads()
    inside: list[int] = []

    @dataclass(frozen=True)
    class Watching(GradientSearch):
        def step(self, *rest: Any) -> torch.Tensor:
            inside.append(torch.get_num_threads())
            return torch.zeros(())

    try:
        torch.set_num_threads(2)
        GradientRun(problem_of(small_space), Watching(**vars(quick(data, threads=1)))).train()
        assert set(inside) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_search_loop_takes_what_was_found_and_ends(data: Data, small_space: MobileNetV3) -> None:
    most = float(problem_of(small_space).objectives[1].predictor.predict(biggest(small_space)[None])[0])
    problem, method = problem_of(small_space, 0.6 * most), quick(data, images=32)
    result = search(problem, method, evaluations=500, seed=0)
    assert result.stopped == "searcher" and result.evaluations <= method.batch
    assert (result.values[:, 1] <= 0.6 * most).all()
    answer = GradientRun(problem, method)
    answer.train()
    found = answer.candidates()
    assert np.array_equal(found, small_space.canonical(small_space.validate(found)))
    assert 0.95 <= latency_of(answer, found[:1])[0] / (0.6 * most) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be >= 1, but got 0"),
        ({"warm_up": 4}, "`warm_up` must be below `epochs`, but got 4 of 4"),
        ({"batch_size": 1}, "`batch_size` must be >= 2"),
        ({"images": 20}, "`images` must be >= 2 batches, but got 20"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a positive number"),
        ({"architecture_rate": float("nan")}, "`architecture_rate` must be a positive number, but got nan"),
        ({"architecture_decay": -1.0}, "`architecture_decay` must be a number >= 0"),
        ({"threads": 0}, "`threads` must be >= 1 or null"),
        ({"precision": "float16"}, "`precision` must be float32 or bfloat16, but got 'float16'"),
        ({"workers": -1}, "`workers` must be >= 0"),
        ({"device": "nowhere"}, "`searcher.device=nowhere` cannot be used here"),
        ({"latency": {"form": "cubic"}}, "`latency.form` must be none, linear, power or hinge, but got 'cubic'"),
        ({"latency": {"weight": 0.0}}, "must be > 0, but got 0.0, 0.6"),
        ({"latency": {"wait": 1.0}}, "`latency` has exponent, form, weight, but got 'wait'"),
    ],
)
def test_wrong_settings_are_refused(data: Data, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        quick(data, **changes)


# -- what it shares with every training --------------------------------------------------------------------------------


class Lazy:
    """Samples that are made when they are taken, in whatever process."""

    in_memory = False

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.shape

    @property
    def labels(self) -> torch.Tensor:
        return self.part.labels

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.part.take(rows)

    def update(self, digest: Any) -> None:
        self.part.update(digest)


def test_images_that_are_loaded_by_workers_give_the_same_search(data: Data, small_space: MobileNetV3) -> None:
    lazy = Data(
        data.name, Lazy(data.train), data.validation, data.test_part(), task=data.task, mean=data.mean, std=data.std
    )
    runs = [
        GradientRun(problem_of(small_space), quick(images, epochs=2, workers=workers))
        for images, workers in ((data, 0), (lazy, 1))
    ]
    for run in runs:
        run.train()
    assert runs[0].records == runs[1].records
    for name, values in runs[0].logits.items():
        assert torch.equal(values, runs[1].logits[name])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_search_goes_on_to_the_same_end(
    data: Data, small_space: MobileNetV3, tmp_path: Path, precision: str
) -> None:
    def start(folder: str) -> GradientRun:
        return GradientRun(problem_of(small_space), quick(data, precision=precision, folder=tmp_path / folder))

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    whole, broken, again = start("whole"), start("parts"), start("parts")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        broken.finish(stop)
    again.train()
    assert again.records == whole.records and again.saved == 4
    for name, values in whole.relaxed.state_dict().items():
        assert torch.equal(values, again.relaxed.state_dict()[name])
        assert values.dtype != torch.bfloat16


def test_half_precision_searches_nearly_the_same(data: Data, small_space: MobileNetV3) -> None:
    exact, half = (
        GradientRun(problem_of(small_space), quick(data, precision=precision)) for precision in ("float32", "bfloat16")
    )
    exact.train()
    half.train()
    assert half.records[-1].loss != exact.records[-1].loss
    assert half.records[-1].loss == pytest.approx(exact.records[-1].loss, rel=0.05)
    assert half._identity != exact._identity


def test_several_processes_are_refused(data: Data, small_space: MobileNetV3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidValueError, match="one process"):
        GradientRun(problem_of(small_space), quick(data))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_searches_nearly_the_same(data: Data, small_space: MobileNetV3, precision: str) -> None:
    host, gpu = (
        GradientRun(problem_of(small_space), quick(data, device=device, precision=precision))
        for device in ("cpu", "cuda")
    )
    host.train()
    gpu.train()
    assert {p.device.type for p in gpu.relaxed.parameters()} == {"cuda"}
    assert {values.device.type for values in gpu.logits.values()} == {"cpu"}
    assert gpu.records[-1].loss == pytest.approx(host.records[-1].loss, rel=0.1)
