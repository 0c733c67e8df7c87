import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from predictors import CorrectedLookup, GaussianProcess, PositionTable, Regression, Ridge, load, macs, save
from predictors.base import Saved
from predictors.kinds import FITTED, SAVED
from search_spaces import MobileNetV3, SearchSpace
from search_spaces.base import trust
from search_spaces.base.errors import DamagedFileError, MismatchError, StorageError
from search_spaces.base.storage import read_arrays, write_arrays


def fitted(space: SearchSpace) -> dict[str, Saved]:
    rng = np.random.default_rng(0)
    genes = space.sample(20, rng)
    lookup = CorrectedLookup(dataclasses.replace(macs(space), metric="latency", unit="ms"))
    process = GaussianProcess(space)
    lookup.fit(genes, macs(space).predict(genes) * 1.1 + 3)
    process.fit(genes, rng.random(20))
    ridge = Regression(space, Ridge())
    ridge.fit(genes, 1 + rng.random(20))
    fitted_ones: list[Saved] = [macs(space), lookup, process, ridge]
    return {type(predictor).__name__: predictor for predictor in fitted_ones}


KINDS = ["PositionTable", "CorrectedLookup", "GaussianProcess", "Regression"]


def test_every_kind_is_tested_here_or_in_test_transfer() -> None:
    assert set(SAVED) == {*KINDS, "TransferredLatency"}


@pytest.mark.parametrize("path", [*SAVED.values(), *FITTED.values()])
def test_a_short_name_stands_for_what_is_there(path: str) -> None:
    assert trust.path_of(trust.find("the test", path), {**SAVED, **FITTED}) == path.rpartition(".")[2]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, space: MobileNetV3, kind: str) -> None:
    predictor, genes = fitted(space)[kind], space.sample(50, np.random.default_rng(1))
    save(predictor, space, tmp_path / "a.npz")
    again = load(tmp_path / "a.npz", space)
    assert type(again) is type(predictor)
    assert np.array_equal(again.predict(genes), predictor.predict(genes))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_every_array_is_needed_and_its_lack_is_told(tmp_path: Path, space: MobileNetV3, kind: str) -> None:
    path = tmp_path / "a.npz"
    save(fitted(space)[kind], space, path)
    whole = read_arrays(path)
    for name in whole:
        write_arrays(path, {other: array for other, array in whole.items() if other != name})
        with pytest.raises((DamagedFileError, MismatchError), match=r"a\.npz.*Run `nas fit` again"):
            load(path, space)


def test_a_lookup_knows_of_which_metric_it_is(tmp_path: Path, space: MobileNetV3) -> None:
    genes = space.sample(20, np.random.default_rng(0))
    lookup = CorrectedLookup(dataclasses.replace(macs(space), metric="energy", unit="mJ"))
    lookup.fit(genes, macs(space).predict(genes) * 1.1 + 3)
    save(lookup, space, tmp_path / "a.npz")
    again = load(tmp_path / "a.npz", space)
    assert isinstance(again, CorrectedLookup) and (again.metric, again.unit) == ("energy", "mJ")
    assert np.array_equal(again.predict(genes), lookup.predict(genes))


def test_another_space_is_refused(tmp_path: Path, space: MobileNetV3, digits_space: MobileNetV3) -> None:
    save(macs(space), space, tmp_path / "a.npz")
    with pytest.raises(MismatchError, match=r"a\.npz was fitted on another space than 'mobilenet_v3_digits'"):
        load(tmp_path / "a.npz", digits_space)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"x" * 100],
    ids=["empty", "cut", "overwritten"],
)
def test_damage_is_told(tmp_path: Path, space: MobileNetV3, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.npz"
    save(macs(space), space, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"a\.npz"):
        load(path, space)


def test_no_pickle_is_read(tmp_path: Path, space: MobileNetV3) -> None:
    np.savez(tmp_path / "a.npz", kind=np.array([{"a": 1}], object))
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged"):
        load(tmp_path / "a.npz", space)


def test_a_missing_file(tmp_path: Path, space: MobileNetV3) -> None:
    with pytest.raises(StorageError, match=r"a\.npz"):
        load(tmp_path / "a.npz", space)


def test_a_table_of_another_size_is_refused(tmp_path: Path, space: MobileNetV3) -> None:
    path = tmp_path / "a.npz"
    save(macs(space), space, path)
    arrays = read_arrays(path)
    write_arrays(path, {**arrays, "values": arrays["values"][:-1]})
    with pytest.raises(ValueError, match=f"has {space.table_size} values"):
        load(path, space)
    assert isinstance(macs(space), PositionTable)
