"""Official once-for-all checkpoints: written here by their naming rules, run here by a second implementation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.supernet import Supernet
from nas.supernet.once_for_all import import_ofa, official_modules, short_name
from search_spaces import Architecture, MobileNetV3, Position, ResNet50, SearchSpace
from search_spaces.base.errors import InvalidValueError, MismatchError, StorageError
from search_spaces.base.storage import read_json

State = dict[str, Tensor]

V3: dict[str, Any] = {
    "name": "ofa_tiny",
    "resolutions": [12],
    "in_channels": 3,
    "classes": 4,
    "stem": 8,
    "stem_stride": 2,
    "stages": [{"channels": 16, "stride": 2, "squeeze": True, "activation": "h_swish"}],
    "depths": [1, 2],
    "kernels": [3, 5, 7],
    "expands": [2, 4],
    "last_channels": 24,
    "features": 40,
    "mix_bias": False,
}
PROXYLESS: dict[str, Any] = V3 | {
    "name": "ofa_tiny_proxyless",
    "stages": [{"channels": 24, "stride": 2, "squeeze": False, "activation": "relu6"}],
    "first": 16,
    "stem_activation": "relu6",
    "first_activation": "relu6",
    "last_activation": "relu6",
    "features": None,
    "norm_eps": 0.001,
}
del PROXYLESS["mix_bias"]


# -- the official naming -----------------------------------------------------------------------------------------------


def checkpoint(kind: dict[str, Any]) -> State:
    """Random weights under the names and in the shapes that once-for-all gives them."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def random(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape, generator=generator) / max(1, Tensor(shape)[1:].prod().item()) ** 0.5

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            random(f"{name}.{part}", channels)
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) * 0.5 + 1e-3
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def block(name: str, inputs: int, hidden: int, outputs: int, *, elastic: bool, squeeze: bool) -> None:
        conv, bn, kernel = ("conv.conv", "bn.bn", 7) if elastic else ("conv", "bn", 3)
        if elastic:
            random(f"{name}.inverted_bottleneck.{conv}.weight", hidden, inputs, 1, 1)
            norm(f"{name}.inverted_bottleneck.{bn}", hidden)
            for large, small in ((7, 5), (5, 3)):
                random(f"{name}.depth_conv.conv.{large}to{small}_matrix", small * small, small * small)
        random(f"{name}.depth_conv.{conv}.weight", hidden, 1, kernel, kernel)
        norm(f"{name}.depth_conv.{bn}", hidden)
        if squeeze:
            random(f"{name}.depth_conv.se.fc.reduce.weight", hidden // 4, hidden, 1, 1)
            random(f"{name}.depth_conv.se.fc.reduce.bias", hidden // 4)
            random(f"{name}.depth_conv.se.fc.expand.weight", hidden, hidden // 4, 1, 1)
            random(f"{name}.depth_conv.se.fc.expand.bias", hidden)
        random(f"{name}.point_linear.{conv}.weight", outputs, hidden, 1, 1)
        norm(f"{name}.point_linear.{bn}", outputs)

    v3 = kind is V3
    first, channels = (8, 16) if v3 else (16, 24)
    random("first_conv.conv.weight", 8, 3, 3, 3)
    norm("first_conv.bn", 8)
    block("blocks.0.mobile_inverted_conv", 8, 8, first, elastic=False, squeeze=False)
    block("blocks.1.mobile_inverted_conv", first, 4 * first, channels, elastic=True, squeeze=v3)
    block("blocks.2.mobile_inverted_conv", channels, 4 * channels, channels, elastic=True, squeeze=v3)
    last = "final_expand_layer" if v3 else "feature_mix_layer"
    random(f"{last}.conv.weight", 24, channels, 1, 1)
    norm(f"{last}.bn", 24)
    if v3:
        random("feature_mix_layer.conv.weight", 40, 24, 1, 1)
    random("classifier.linear.linear.weight", 4, 40 if v3 else 24)
    random("classifier.linear.linear.bias", 4)
    return state


def run(state: State, kind: dict[str, Any], x: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
    """What the network of (kernel, expand ratio) per elastic block computes, by the paper and the official names."""
    v3 = kind is V3
    act: Callable[[Tensor], Tensor] = F.hardswish if v3 else F.relu6

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1, weight: Tensor | None = None) -> Tensor:
        weight = state[f"{name}.weight"] if weight is None else weight
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, bias = (
            state[f"{name}.{part}"][: x.shape[1]] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gain, bias, eps=1e-5 if v3 else 1e-3)

    def elastic(x: Tensor, number: int, kernel: int, expand: int, stride: int) -> Tensor:
        name, hidden = f"blocks.{number}.mobile_inverted_conv", x.shape[1] * expand
        weight = state[f"{name}.inverted_bottleneck.conv.conv.weight"][:hidden]
        y = act(norm(conv(x, "", weight=weight), f"{name}.inverted_bottleneck.bn.bn"))
        weight = state[f"{name}.depth_conv.conv.conv.weight"][:hidden]
        for large, small in ((7, 5), (5, 3)):
            if kernel < large:
                matrix = state[f"{name}.depth_conv.conv.{large}to{small}_matrix"]
                weight = F.linear(weight[:, :, 1:-1, 1:-1].flatten(2), matrix).reshape(hidden, 1, small, small)
        y = act(norm(conv(y, "", stride, hidden, weight), f"{name}.depth_conv.bn.bn"))
        if v3:
            squeeze = max(8, hidden // 4)  # a multiple of 8
            gate, se = y.mean((2, 3), keepdim=True), f"{name}.depth_conv.se.fc"
            gate = F.conv2d(gate, state[f"{se}.reduce.weight"][:squeeze, :hidden], state[f"{se}.reduce.bias"][:squeeze])
            weight = state[f"{se}.expand.weight"][:hidden, :squeeze]
            y = y * F.hardsigmoid(F.conv2d(F.relu(gate), weight, state[f"{se}.expand.bias"][:hidden]))
        weight = state[f"{name}.point_linear.conv.conv.weight"][:, :hidden]
        y = norm(conv(y, "", weight=weight), f"{name}.point_linear.bn.bn")
        return x + y if number > 1 else y

    x = act(norm(conv(x, "first_conv.conv", 2), "first_conv.bn"))
    name = "blocks.0.mobile_inverted_conv"
    y = norm(conv(x, f"{name}.depth_conv.conv", groups=8), f"{name}.depth_conv.bn")
    y = norm(conv(F.relu(y) if v3 else F.relu6(y), f"{name}.point_linear.conv"), f"{name}.point_linear.bn")
    x = x + y if v3 else y
    for number, (kernel, expand) in enumerate(blocks, 1):
        x = elastic(x, number, kernel, expand, 2 if number == 1 else 1)
    last = "final_expand_layer" if v3 else "feature_mix_layer"
    x = act(norm(conv(x, f"{last}.conv"), f"{last}.bn")).mean((2, 3), keepdim=True)
    if v3:
        x = act(conv(x, "feature_mix_layer.conv"))
    return F.linear(x.flatten(1), state["classifier.linear.linear.weight"], state["classifier.linear.linear.bias"])


def architecture(space: SearchSpace, blocks: list[tuple[int, int]]) -> Architecture:
    values: dict[str, int | str] = {"resolution": 12, "depth.1": len(blocks)}
    for number, (kernel, expand) in enumerate(blocks, 1):
        values |= {f"kernel.1.{number}": kernel, f"expand.1.{number}": expand}
    return Architecture(space, space.genes_of(values))


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


# -- what is imported --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [V3, PROXYLESS], ids=["mobilenet_v3", "proxylessnas"])
def test_imported_networks_compute_what_the_published_ones_do(kind: dict[str, Any], tmp_path: Path) -> None:
    space, state = MobileNetV3(**kind), checkpoint(kind)
    imported = import_ofa(space, written(tmp_path / "ofa", {"state_dict": state}))
    imported.supernet.save(tmp_path / "supernet.pt")
    supernet = Supernet.load(space, tmp_path / "supernet.pt")
    assert imported.unused == () and not imported.supernet.training
    assert imported.tensors == sum(not name.endswith("num_batches_tracked") for name in state)
    x = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for blocks in ([(7, 4), (7, 4)], [(5, 4), (3, 2)], [(3, 2), (5, 4)], [(5, 2)], [(3, 4)]):
        network = architecture(space, blocks)
        with torch.no_grad():
            expected, ours = run(state, kind, x, blocks), supernet(x, network)
            extracted = supernet.extract(network)(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(extracted, expected, rtol=1e-5, atol=1e-5)


RENAMED: dict[str, Callable[[str], str]] = {
    "data parallel": lambda name: f"module.{name}",
    "newer": lambda name: name.replace(".mobile_inverted_conv.", ".conv."),
    "unwrapped": lambda name: (
        name.replace(".bn.bn.", ".bn.").replace(".conv.conv.", ".conv.").replace(".linear.linear.", ".linear.")
    ),
}


@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED.keys())
def test_other_namings_of_the_same_weights(rename: Callable[[str], str], tmp_path: Path) -> None:
    space, state = MobileNetV3(**V3), checkpoint(V3)
    usual = import_ofa(space, written(tmp_path / "a", {"state_dict": state})).supernet.state_dict()
    renamed = {rename(name): tensor.half().float() for name, tensor in state.items()}
    assert set(renamed) != set(state)
    plain = import_ofa(space, written(tmp_path / "b", renamed)).supernet.state_dict()
    assert plain.keys() == usual.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, usual[name], rtol=1e-3, atol=1e-3)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in checkpoint(V3).items()}
    supernet = import_ofa(MobileNetV3(**V3), written(tmp_path / "half", state)).supernet
    assert {parameter.dtype for parameter in supernet.parameters()} == {torch.float32}


def test_what_has_no_place_is_named(tmp_path: Path) -> None:
    state = checkpoint(V3) | {"blocks.9.conv.point_linear.conv.weight": torch.ones(1), "teacher.bias": torch.ones(2)}
    imported = import_ofa(MobileNetV3(**V3), written(tmp_path / "ofa", state))
    assert imported.unused == ("blocks.9.conv.point_linear.conv.weight", "teacher.bias")


# -- what is refused ---------------------------------------------------------------------------------------------------


def without(name: str) -> State:
    return {key: tensor for key, tensor in checkpoint(V3).items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("blocks.2.mobile_inverted_conv.depth_conv.conv.5to3_matrix"), r"lacks 1 .*blocks.2.*5to3_matrix"),
        (without("blocks.0.mobile_inverted_conv.depth_conv.bn.running_var"), "blocks.0.*running_var.*`space=`"),
        (checkpoint(V3) | {"classifier.linear.linear.weight": torch.ones(7, 40)}, r"\(4, 40\).*\(7, 40\).*`space=`"),
        (checkpoint(V3) | {"first_conv.bn.bias": torch.arange(8)}, "'first_conv.bn.bias' must be floating point"),
        (checkpoint(V3) | {"feature_mix_layer.conv.weight": torch.ones(40, 24, 3, 3)}, r"is .*\(40, 24, 3, 3\)"),
        (checkpoint(PROXYLESS), "in space 'ofa_tiny'"),
        ({"weight": torch.ones(3)}, r"must hold all 65 weights of space 'ofa_tiny', but lacks 65 of them: .* \.\.\."),
    ],
)
def test_weights_of_another_network(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=message):
        import_ofa(MobileNetV3(**V3), written(tmp_path / "ofa", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(3)], "holds list"),
        (torch.ones(3), "holds Tensor"),
        ({}, r"a mapping with \[\]"),
        ({"epoch": 3}, r"a mapping with \['epoch'\]"),
        (checkpoint(V3) | {"epoch": 3}, "'epoch' is a int"),
        ({"a.bn.bn.bias": torch.ones(1), "a.bn.bias": torch.ones(1)}, "two names"),
    ],
)
def test_no_checkpoint(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=message):
        import_ofa(MobileNetV3(**V3), written(tmp_path / "ofa", content))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"<html>not found"])
def test_a_damaged_file(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = written(tmp_path / "ofa", checkpoint(V3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidValueError, match="download it again"):
        import_ofa(MobileNetV3(**V3), path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="not run"):
        import_ofa(MobileNetV3(**V3), written(tmp_path / "ofa", {"state_dict": MobileNetV3(**V3)}))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot read .*/nope: No such file.*Give a file"):
        import_ofa(MobileNetV3(**V3), tmp_path / "nope")


def test_a_space_without_published_weights(tmp_path: Path) -> None:
    class Other(SearchSpace):
        def layer(self, position: str, values: Any) -> None:
            return None

    with pytest.raises(MismatchError, match="MobileNetV3.*'other' is Other.*`space=`"):
        import_ofa(Other("other", {}, [], [Position("only", ())]), written(tmp_path / "ofa", checkpoint(V3)))


def test_every_name_is_a_short_one() -> None:
    names = official_modules(MobileNetV3(**V3)).values()
    assert all(short_name(f"{name}.weight") == f"{name}.weight" for name in names)


# -- the command -------------------------------------------------------------------------------------------------------

Command = Callable[..., Any]
CHANGES = ["+space.mix_bias=false", "space.kernels=[3,5,7]", "space.expands=[2,4]", "space.features=40"]
CHANGES += ["space.last_channels=24", "space.classes=4", "space.in_channels=3", "space.resolutions=[12]"]
CHANGES += ["space.stem_stride=2", "space.stages=[{channels: 16, stride: 2, squeeze: true, activation: h_swish}]"]


@pytest.fixture
def import_command(nas_command: Command, conf_dir: Path) -> Command:
    def run(checkpoint: Path | str, *arguments: str) -> Any:
        words = ["import-ofa", str(checkpoint), "--config-dir", str(conf_dir), "recipe=tiny", *arguments]
        return nas_command(*words, own=False)

    return run


def test_command(import_command: Command, nas_command: Command, tmp_path: Path) -> None:
    path, out = written(tmp_path / "ofa", checkpoint(V3) | {"extra": torch.ones(1)}), tmp_path / "run"
    for _ in range(2):  # the same again is no error
        done = import_command(path, f"out={out}", *CHANGES)
        assert (done.code, done.err) == (0, "")
        assert "65 tensors" in done.out and "1 tensors have no place in the space: extra" in done.out
        assert done.out.splitlines()[-1] == f"wrote {out / 'train' / 'supernet.pt'}"
    before = (out / "train" / "supernet.pt").read_bytes()
    assert read_json(out / "train" / "imported.json")["unused"] == ["extra"]
    assert read_json(out / "run.json")["command"].startswith(f"nas import-ofa {path} ")

    trained = nas_command("train", f"out={out}", *CHANGES)
    assert trained.code == 0 and (out / "train" / "supernet.pt").read_bytes() == before


def test_later_stages_take_the_weights(import_command: Command, nas_command: Command, tmp_path: Path) -> None:
    space = ["+space.mix_bias=false", "space.kernels=[3,5,7]", "space.expands=[2,4]", "space.features=40"]
    space += ["space.last_channels=24", "space.resolutions=[12]", "space.stem_stride=2"]
    space += ["space.stages=[{channels: 16, stride: 2, squeeze: true, activation: h_swish}]"]
    state = checkpoint(V3)
    state["first_conv.conv.weight"] = state["first_conv.conv.weight"][:, :1]  # grey images of ten classes
    state["classifier.linear.linear.weight"] = torch.randn(10, 40, generator=torch.Generator().manual_seed(0))
    state["classifier.linear.linear.bias"] = torch.zeros(10)
    out = tmp_path / "run"
    assert import_command(written(tmp_path / "ofa", state), f"out={out}", *space).code == 0
    before = (out / "train" / "supernet.pt").read_bytes()
    done = nas_command("run", f"out={out}", *space)
    assert done.code == 0, done.err
    assert (out / "train" / "supernet.pt").read_bytes() == before
    assert (out / "report" / "report.html").exists()


def test_a_trained_supernet_is_not_overwritten(import_command: Command, tmp_path: Path) -> None:
    (tmp_path / "run" / "train").mkdir(parents=True)
    (tmp_path / "run" / "train" / "supernet.pt").write_bytes(b"mine")
    done = import_command(written(tmp_path / "ofa", checkpoint(V3)), f"out={tmp_path / 'run'}", *CHANGES)
    assert done.code == 2 and "was trained here" in done.err and "`out=`" in done.err
    assert (tmp_path / "run" / "train" / "supernet.pt").read_bytes() == b"mine"


def test_a_wrong_command(import_command: Command, nas_command: Command, tmp_path: Path) -> None:
    path, out = written(tmp_path / "ofa", checkpoint(PROXYLESS)), tmp_path / "run"
    for done, words in (
        (nas_command("import-ofa", own=False), ["takes a checkpoint before all settings", "got ''"]),
        (nas_command("import-ofa", "space=ofa_mobilenet_v3", own=False), ["got 'space=ofa_mobilenet_v3'"]),
        (import_command(tmp_path / "nope", f"out={out}"), ["Cannot read", "nope"]),
        (import_command(path, f"out={out}", *CHANGES), ["in space 'tiny'", "`space=`"]),
        (import_command(path, f"out={out}", "space=nope"), ["There is no `space=nope`", "ofa_proxylessnas"]),
    ):
        assert done.code == 2 and done.err.startswith("nas: "), done
        assert all(word in done.err for word in words), done.err
    assert not (out / "train").exists() and not (out / "run.json").exists()


def test_help_of_the_command(nas_command: Command) -> None:
    done = nas_command("import-ofa", "--help", own=False)
    assert done.code == 0 and "nas import-ofa CHECKPOINT space=..." in done.out
    assert "nas import-ofa CHECKPOINT" in nas_command("--help", own=False).out


# -- ResNet50 ----------------------------------------------------------------------------------------------------------

RESNET = ResNet50(
    name="ofa_tiny_resnet",
    resolutions=[24],
    in_channels=3,
    classes=4,
    stem=32,
    stages=[{"channels": 64, "stride": 1, "depths": [1, 2]}, {"channels": 96, "stride": 2, "depths": [1, 2]}],
    widths=[50, 100],
    expands=[25, 50],
)


def resnet_checkpoint(*, renamed: bool) -> State:
    """Random weights under once-for-all's names, before or after layers were wrapped."""
    generator = torch.Generator().manual_seed(0)
    conv, bn, linear = ("conv.conv", "bn.bn", "linear.linear") if renamed else ("conv", "bn", "linear")
    state: State = {}

    def conv_bn(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shape = (outputs, inputs, kernel, kernel)
        state[f"{name}.{conv}.weight"] = torch.randn(shape, generator=generator) / (inputs * kernel**2) ** 0.5
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.{bn}.{part}"] = torch.randn(outputs, generator=generator) / 2
        state[f"{name}.{bn}.running_var"] = torch.rand(outputs, generator=generator) + 0.5
        state[f"{name}.{bn}.num_batches_tracked"] = torch.tensor(7)

    conv_bn("input_stem.0", 3, 16, 3)
    conv_bn("input_stem.1.conv", 16, 16, 3)
    conv_bn("input_stem.2", 16, 32, 3)
    for number, (inputs, outputs) in enumerate(((32, 64), (64, 64), (64, 96), (96, 96))):
        conv_bn(f"blocks.{number}.conv1", inputs, outputs // 2, 1)
        conv_bn(f"blocks.{number}.conv2", outputs // 2, outputs // 2, 3)
        conv_bn(f"blocks.{number}.conv3", outputs // 2, outputs, 1)
        if number in (0, 2):
            conv_bn(f"blocks.{number}.downsample", inputs, outputs, 1)
    state[f"classifier.{linear}.weight"] = torch.randn(4, 96, generator=generator) / 10
    state[f"classifier.{linear}.bias"] = torch.randn(4, generator=generator)
    return state


def run_resnet(state: State, x: Tensor, *, narrow: bool) -> Tensor:
    """The full network without the block after the first in stage 1, or the narrowest one with all blocks."""

    def conv_bn(x: Tensor, name: str, outputs: int, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"][:outputs, : x.shape[1]]
        y = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        mean, var, gain, bias = (
            state[f"{name}.bn.{part}"][:outputs] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(y, mean, var, gain, bias)

    part = 2 if narrow else 1
    x = conv_bn(x, "input_stem.0", 16 // part, 2).relu()
    x = conv_bn(x, "input_stem.1.conv", 16 // part).relu() + x
    x = F.max_pool2d(conv_bn(x, "input_stem.2", 32 // part).relu(), 3, 2, 1)
    sizes = [(32, 8), (48, 16)] if narrow else [(64, 32), (96, 48)]  # 16 of 48 is a quarter, rounded
    for number in (0, 1, 2, 3) if narrow else (0, 2, 3):
        outputs, hidden = sizes[number // 2]
        name, stride = f"blocks.{number}", 2 if number == 2 else 1
        shortcut = x if number in (1, 3) else F.avg_pool2d(x, stride, stride, ceil_mode=True)
        if number in (0, 2):
            shortcut = conv_bn(shortcut, f"{name}.downsample", outputs)
        x = conv_bn(x, f"{name}.conv1", hidden).relu()
        x = conv_bn(x, f"{name}.conv2", hidden, stride).relu()
        x = (conv_bn(x, f"{name}.conv3", outputs) + shortcut).relu()
    return F.linear(x.mean((2, 3)), state["classifier.linear.weight"][:, : x.shape[1]], state["classifier.linear.bias"])


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_an_imported_resnet_computes_what_the_official_one_does(tmp_path: Path, renamed: bool, narrow: bool) -> None:
    torch.save({"state_dict": resnet_checkpoint(renamed=renamed)}, tmp_path / "official")
    imported = import_ofa(RESNET, tmp_path / "official")
    assert imported.unused == ()
    values: dict[str, int | str] = {"resolution": 24, "stem_depth": 1, "depth.1": 2 if narrow else 1, "depth.2": 2}
    widths = {"stem_width": 16, "width.0": 32, "width.1": 64, "width.2": 96}
    values |= {name: width // 2 if narrow else width for name, width in widths.items()}
    values |= {f"expand.{block}": 25 if narrow else 50 for block in ("1.1", "2.1", "2.2")}
    values |= {"expand.1.2": 25} if narrow else {}
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = imported.supernet(x, Architecture(RESNET, RESNET.genes_of(values)))
        theirs = run_resnet(resnet_checkpoint(renamed=False), x, narrow=narrow)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
