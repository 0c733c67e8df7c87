"""Explanations of settings, and that all shipped ones have one."""

from pathlib import Path

import pytest
import yaml

from nas.commands import help as help_
from nas.commands.help import described, explained

CONF = Path(help_.__file__).parents[1] / "conf"


class Base:
    """A thing.

    Args:
        width: how wide it is.
        depth: ``0`` or more; None: as deep
            as it gets.
    """


class Derived(Base):
    """Another one.

    More of it.

    Args:
        width: how wide it really is. Never mind.

    Raises:
        ValueError: not a setting.
    """


def test_arguments_of_a_class_and_of_those_it_derives_from() -> None:
    about = described(f"{__name__}.Derived")
    assert about == {
        "width": "how wide it really is. Never mind.",
        "depth": "0 or more; null: as deep as it gets",
        "_target_": "Explanations of settings, and that all shipped ones have one",
    }


@pytest.mark.parametrize("target", ["nowhere.Thing", f"{__name__}.Nothing", "Thing", ""])
def test_what_cannot_be_imported_is_not_explained(target: str) -> None:
    assert described(target) == {}


def test_comments_of_the_configuration_stand_beside_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = explained("seed: 0\nprofile:\n  method: auto\n  networks: 20\nlimit:\n  accuracy: null\n").splitlines()
    assert lines[0] == "seed: 0" and lines[1] == "profile:"
    assert lines[2].split("#")[0].rstrip() == "  method: auto" and "in_context: time whole networks" in lines[2]
    assert lines[3].strip().startswith("# ")  # it goes on below
    assert any("accuracy: null" in line and "# at least" in line for line in lines)
    assert max(map(len, lines)) <= 100


def test_arguments_stand_beside_the_keys_of_their_target_at_any_depth() -> None:
    shown = (
        f"outer:\n  _target_: {__name__}.Base\n  depth: 3\n  inner:\n    _target_: {__name__}.Derived\n    width: 4\n"
    )
    text = explained(shown + "    a_key_too_long_for_an_explanation_beside_it: 1\n  list:\n  - width: 5\n")
    lines = text.splitlines()
    assert next(line for line in lines if "depth: 3" in line).endswith("# 0 or more; null: as deep as it gets")
    assert next(line for line in lines if "width: 4" in line).endswith("# how wide it really is. Never mind.")
    assert next(line for line in lines if "width: 5" in line).strip() == "- width: 5"


@pytest.mark.parametrize("path", sorted(CONF.glob("searcher/*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_a_searcher_is_explained(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    about = described(settings["_target_"])
    assert set(settings) - {"_partial_", *about} == set() and all(about.values())


def test_every_setting_of_the_stages_is_explained() -> None:
    config = (CONF / "config.yaml").read_text().split("\nhydra:")[0].split("\nname:")[1]
    shown = yaml.safe_dump(yaml.safe_load("name:" + config), sort_keys=False)
    unexplained = [line for line in explained(shown).splitlines() if ":" in line and "#" not in line]
    assert [line.strip() for line in unexplained] == [
        *(
            "name: ${oc.select:space.name,${oc.select:space._target_,run}}",
            "seed: 0",
            "profile:",
            "budget: ${budget}",
            "label:",
            "search:",
            "export:",
        )
    ]
