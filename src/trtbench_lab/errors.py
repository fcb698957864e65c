"""One tree of errors, each of which says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType


class TrtbenchError(Exception):
    """A mistake or fault that a person can act on.

    Parameters
    ----------
    what
        One plain sentence: what is wrong, with the offending value in it.
    where
        The file, field, tensor or flag concerned.
    remedy
        What to do about it, as a sentence.
    details
        Longer material (a log tail, a native message) shown on request only.

    Attributes
    ----------
    agreed, led
        Of several ranks: all raise it together; it is rank 0's, told to the others.
    """

    agreed = False
    led = False

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None, details: str | None = None):
        self.what = what
        self.where = where
        self.remedy = remedy
        self.details = details
        super().__init__(what)

    def __str__(self) -> str:
        # Where the sentence begins with the place, as "--top_p must be at most 1", it is not said twice.
        text = f"{self.where}: {self.what}" if self.where and self.what.split(" ")[0] != self.where else self.what
        return f"{text}\n  → {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (build workers), so keyword arguments must survive pickling.
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[TrtbenchError], state: dict[str, object]) -> TrtbenchError:
    error = kind.__new__(kind)
    Exception.__init__(error, state.get("what"))
    error.__dict__.update(state)
    return error


class SpecError(TrtbenchError):
    """A spec, flag or configuration value that cannot be used."""


class DownloadError(TrtbenchError):
    """A model could not be fetched from a hub or mirror."""


class IntakeError(TrtbenchError):
    """A source model folder is damaged, incomplete or of an unknown kind."""


class CheckpointError(TrtbenchError):
    """A checkpoint is damaged, incomplete or does not fit its configuration."""


class QuantizationError(TrtbenchError):
    """Weights cannot be quantized as asked."""


class BuildError(TrtbenchError):
    """An engine could not be built."""


class BuildCancelled(BuildError):
    """The build was cancelled by its owner or ran out of its time."""


class EngineError(TrtbenchError):
    """An engine folder is damaged or incomplete."""


class EngineMismatchError(EngineError):
    """An engine belongs to another version, layout, backend or machine."""


class RequestError(TrtbenchError):
    """A generation request is outside what the engine takes."""


class EvaluationError(TrtbenchError):
    """A comparison or score cannot be computed."""


class ResultsError(TrtbenchError):
    """The database of results cannot be used."""


class StorageError(TrtbenchError):
    """A file could not be written, read or locked."""


class FolderInUseError(StorageError):
    """Another writer holds the folder; waiting for it helps."""


class WorldError(TrtbenchError):
    """Ranks could not be started, or a cell on them did not end as it should."""


class MissingPackageError(TrtbenchError):
    """An optional package is needed and not installed."""


def suggest(name: str, choices: Iterable[str]) -> str | None:
    """Return the nearest of `choices` to `name`, whatever the case of letters, or None when nothing is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    matches = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, choices: Sequence[str], *, limit: int = 12) -> str:
    """Return a remedy sentence for an unknown `name`: the nearest choice, or the list of choices."""
    nearest = suggest(name, choices)
    if nearest is not None:
        return f"Did you mean {nearest!r}?"
    shown = ", ".join(sorted(choices)[:limit])
    return f"Known: {shown}{', …' if len(choices) > limit else ''}."


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or raise `MissingPackageError` that names the extra to install or what is broken.

    Parameters
    ----------
    module
        Dotted module name, for example ``"onnxruntime"``.
    extra
        The extra of this project that brings it, for example ``"onnxruntime"``.
    purpose
        What it is needed for, as the end of a sentence ("run engines on the CPU").
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        install = f"pip install 'trtbench-lab[{extra}]'"
        if isinstance(error, ModuleNotFoundError) and (error.name or module).split(".")[0] == module.split(".")[0]:
            raise MissingPackageError(
                f"The package {module!r} is needed to {purpose} and is not installed.",
                remedy=f"Install it with: {install}",
            ) from error
        raise MissingPackageError(
            f"The package {module!r} is needed to {purpose}; it is installed and does not load: {error}",
            remedy=f"Install what it lacks, or install it again with: {install}",
        ) from error
