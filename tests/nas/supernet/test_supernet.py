import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nas.supernet import Supernet
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.base.errors import DamagedFileError, MismatchError, StorageError
from search_spaces.torch_program import StaticLayer, TorchPlan

Images = Callable[..., torch.Tensor]
Networks = Callable[..., list[Architecture]]
Randomise = Callable[[Supernet], Supernet]


@pytest.fixture(params=["space", "digits_space", "resnet_space"])
def any_space(request: pytest.FixtureRequest) -> SearchSpace:
    found: SearchSpace = request.getfixturevalue(request.param)
    return found


def test_an_extracted_network_computes_what_the_supernet_does(
    any_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    supernet = randomise(Supernet(any_space)).eval()
    for architecture in networks(any_space, 12):
        x = images(any_space, architecture)
        network = supernet.extract(architecture)
        assert not network.training
        with torch.no_grad():
            torch.testing.assert_close(network(x), supernet(x, architecture), rtol=0, atol=1e-5)


def test_training_a_slice_equals_training_the_static_network(
    elastic_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    for architecture in networks(elastic_space, 3):
        supernet = randomise(Supernet(elastic_space)).train()
        network = supernet.extract(architecture)
        assert network.training
        x = images(elastic_space, architecture)
        for output in (supernet(x, architecture), network(x)):
            output.square().sum().backward()
        layers = elastic_space.lower(architecture)
        for position, layer in layers.items():
            elastic = supernet.positions[position]
            state = elastic.state(layer)  # type: ignore[arg-type]
            for name, buffer in network.get_submodule(position).named_buffers():
                torch.testing.assert_close(state[name], buffer, msg=f"{position}.{name}")
            if getattr(layer, "kernel", 7) < 7:
                continue  # the gradient of a cropped kernel goes through its transforms
            for name, parameter in network.get_submodule(position).named_parameters():
                whole = elastic.get_parameter(f"body.{name}").grad
                assert whole is not None and parameter.grad is not None
                inside = whole[tuple(slice(extent) for extent in parameter.shape)]
                torch.testing.assert_close(inside, parameter.grad, rtol=1e-3, atol=1e-4)
                assert torch.isclose(whole.abs().sum(), inside.abs().sum(), rtol=1e-4)  # and none outside


def test_weights_outside_the_slice_do_not_matter(
    elastic_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    for architecture in networks(elastic_space, 4):
        supernet = randomise(Supernet(elastic_space)).eval()
        x = images(elastic_space, architecture)
        with torch.no_grad():
            before = supernet(x, architecture)
            layers = elastic_space.lower(architecture)
            for position, elastic in supernet.positions.items():
                layer = layers.get(position)
                used = {} if layer is None else StaticLayer(layer.program).state_dict()
                for name, tensor in elastic.get_submodule("body").state_dict().items():
                    if tensor.is_floating_point():
                        outside = torch.ones(tensor.shape, dtype=torch.bool)
                        if name in used:
                            outside[_centre(used[name].shape, tensor.shape)] = False
                        tensor[outside] = torch.nan
            after = supernet(x, architecture)
        assert torch.equal(before, after)


def _centre(small: torch.Size, large: torch.Size) -> tuple[slice, ...]:
    """First channels and centre of the kernel, independently of the slicing.

    A 3x3 kernel takes all of the 5x5 centre of a 7x7 one, since the transform of 7 to 5 mixes what is in there.
    """
    extents = [small[d] if d < 2 or large[d] < 7 else max(small[d], 5) for d in range(len(large))]
    starts = [0 if d < 2 else (large[d] - extents[d]) // 2 for d in range(len(large))]
    return tuple(slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))


def test_training_updates_the_statistics_of_the_slice_alone(space: MobileNetV3, images: Images) -> None:
    supernet = Supernet(space).train()
    before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    supernet(images(space, space.smallest), space.smallest)
    layers = space.lower(space.smallest)
    changed = 0
    for name, buffer in supernet.named_buffers():
        _, position, _, path = name.split(".", 3)
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == (position in layers)
            continue
        used = dict(StaticLayer(layers[position].program).named_buffers())[path].shape[0] if position in layers else 0
        assert torch.equal(buffer[used:], before[name][used:])
        assert used == 0 or not torch.equal(buffer[:used], before[name][:used])
        changed += used > 0
    assert changed > 0


def test_eval_mode_leaves_statistics_alone(space: MobileNetV3, images: Images) -> None:
    supernet = Supernet(space).eval()
    before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    supernet(images(space, space.biggest), space.biggest)
    assert all(torch.equal(buffer, before[name]) for name, buffer in supernet.named_buffers())


def test_every_weight_gets_a_gradient_over_some_sandwiches(
    elastic_space: SearchSpace, networks: Networks, images: Images
) -> None:
    supernet = Supernet(elastic_space).train()
    touched = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.named_parameters()}
    for architecture in networks(elastic_space, 20):
        x = images(elastic_space, architecture, n=32)
        supernet.zero_grad()
        functional.cross_entropy(supernet(x, architecture), torch.arange(len(x)) % 10).backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                touched[name] |= p.grad != 0
    for name, weights in touched.items():
        # A hidden unit that is dead on these images has no gradient; a slice that is never taken has none at all.
        assert weights.float().mean() > 0.5, name
    dead = sum(int((~weights).sum()) for weights in touched.values())
    assert dead < 0.02 * sum(weights.numel() for weights in touched.values())


def test_an_extracted_network_owns_its_weights(space: MobileNetV3) -> None:
    supernet = Supernet(space)
    network = supernet.extract(space.biggest)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def run_interrupted(
    supernet: Supernet, other: Supernet, x: torch.Tensor, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a supernet gives while another one runs in a second thread in the middle of each layer; what that gives."""
    main, found = threading.get_ident(), []

    def interrupt() -> None:
        if threading.get_ident() == main:
            thread = threading.Thread(target=lambda: found.append(other(x, architecture)))
            thread.start()
            thread.join()

    run = TorchPlan.__call__
    monkeypatch.setattr(TorchPlan, "__call__", lambda *given: (interrupt(), run(*given))[1])
    outputs = supernet(x, architecture)
    monkeypatch.undo()
    return outputs, found


def test_threads_do_not_take_the_weights_of_each_other(
    elastic_space: SearchSpace,
    networks: Networks,
    images: Images,
    randomise: Randomise,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supernet, other = randomise(Supernet(elastic_space)).eval(), Supernet(elastic_space).eval()
    for architecture in networks(elastic_space, 2):
        x = images(elastic_space, architecture)
        expected, theirs = supernet(x, architecture), other(x, architecture)
        got, outputs = run_interrupted(supernet, other, x, architecture, monkeypatch)
        assert torch.equal(got, expected)
        assert len(outputs) == len(elastic_space.lower(architecture)) and all(
            torch.equal(output, theirs) for output in outputs
        )


def test_images_at_another_resolution_are_refused(space: MobileNetV3) -> None:
    with pytest.raises(MismatchError, match=r"\(1, 8, 8\).*\(1, 12, 12\).*resize"):
        Supernet(space)(torch.zeros(2, 1, 12, 12), space.smallest)


def test_an_architecture_of_another_space_is_refused(space: MobileNetV3, other_space: MobileNetV3) -> None:
    supernet = Supernet(space)
    with pytest.raises(MismatchError, match="other"):
        supernet(torch.zeros(2, 1, 8, 8), other_space.smallest)
    with pytest.raises(MismatchError, match="other"):
        supernet.extract(other_space.smallest)


def test_the_seed_makes_the_weights_and_the_global_random_state_stays(space: MobileNetV3, images: Images) -> None:
    state = torch.get_rng_state()
    first, again, other = (Supernet(space, seed=seed).state_dict() for seed in (0, 0, 1))
    supernet = Supernet(space)
    supernet(images(space, space.smallest), space.smallest)
    supernet.extract(space.biggest)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_saved_supernet_is_read_back(space: MobileNetV3, randomise: Randomise, tmp_path: Path) -> None:
    supernet = randomise(Supernet(space))
    supernet.save(tmp_path / "supernet.pt")
    loaded = Supernet.load(space, tmp_path / "supernet.pt")
    assert not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in supernet.state_dict().items())


def test_files_that_do_not_fit_are_refused(space: MobileNetV3, other_space: MobileNetV3, tmp_path: Path) -> None:
    path = tmp_path / "supernet.pt"
    with pytest.raises(StorageError):
        Supernet.load(space, path)
    Supernet(space).save(path)
    with pytest.raises(MismatchError, match="'tiny'.*'other'"):
        Supernet.load(other_space, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DamagedFileError, match="damaged"):
        Supernet.load(space, path)
    path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match="damaged"):
        Supernet.load(space, path)
