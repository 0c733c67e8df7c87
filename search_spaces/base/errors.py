"""The errors that hwnas raises on purpose: a small tree, each also the builtin it is.

The command line prints the message of a `NasError` without a traceback and exits with code 2.
"""


class NasError(Exception):
    """Root of all errors that a user can cause and mend. The message says the rule, the value and the way out."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class InvalidValueError(NasError, ValueError):
    """A value breaks a rule: a wrong option, a malformed file, an array of the wrong shape."""


class UntrustedError(InvalidValueError):
    """Data names code outside of hwnas that the user has not said to trust; the message gives the word to add."""


class TooCostlyError(InvalidValueError):
    """An exact answer that would take more time or memory than there is; the message gives the number and the way
    out."""


class UnknownNameError(NasError, KeyError):
    """A name (device, stage, layer kind, choice) that nothing is registered under."""


class DamagedFileError(NasError, ValueError):
    """A file that hwnas wrote once cannot be read any more."""


class MismatchError(NasError, ValueError):
    """Two things that must belong together do not: another space, another device, other conditions."""


class MissingLayerError(NasError, KeyError):
    """A latency table has no row for a layer. An absent layer never counts as 0 ms."""


class FolderInUseError(NasError, RuntimeError):
    """A folder that another process works in."""


class InfeasibleError(NasError, ValueError):
    """Limits that no network can meet; the message gives the nearest limit that can be met."""


class DeviceUnavailableError(NasError, RuntimeError):
    """A device or its software cannot be used from here."""


class DeviceLostError(DeviceUnavailableError):
    """A device that was reached does not answer any more."""


class MeasurementError(NasError, RuntimeError):
    """A layer or a network could not be compiled or measured on a device."""


class MissingOperatorError(InvalidValueError, MeasurementError):
    """A target has no form of an operator; the layer that holds it cannot run there, and others go on."""


class StorageError(NasError, OSError):
    """A file or folder cannot be read or written (permissions, full disk)."""
