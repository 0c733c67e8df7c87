import pytest

from search_spaces.base import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidValueError, ValueError),
        (errors.UnknownNameError, KeyError),
        (errors.DamagedFileError, ValueError),
        (errors.MismatchError, ValueError),
        (errors.MissingLayerError, KeyError),
        (errors.InfeasibleError, ValueError),
        (errors.DeviceUnavailableError, RuntimeError),
        (errors.MeasurementError, RuntimeError),
        (errors.StorageError, OSError),
    ],
)
def test_each_error_is_also_the_builtin_and_prints_its_message(
    kind: type[errors.NasError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin) as caught:
        raise kind("the way out")
    assert isinstance(caught.value, errors.NasError)
    assert str(caught.value) == "the way out"  # KeyError alone would print quotes around it
    assert str(kind()) == ""
