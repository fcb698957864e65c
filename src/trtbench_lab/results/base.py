"""What every run leaves behind: a versioned, self-describing result that prints, draws and stores itself."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, cast

from ..errors import ResultsError, did_you_mean
from .codec import decode, encode
from .environment import collect_environment
from .render import Table, html_document, plain_document

Number = int | float
Migration = Callable[[dict[str, Any]], dict[str, Any]]

_REGISTRY: dict[str, type[Result]] = {}
_MIGRATIONS: dict[tuple[str, int], Migration] = {}
# Where a kind is declared, so that a stored result can be read in a process that never imported its maker.
_DECLARED_IN = {
    "bench": "trtbench_lab.benchmark.result",
    "serving": "trtbench_lab.benchmark.serving_result",
    "plan": "trtbench_lab.benchmark.planner.result",
    "compare": "trtbench_lab.evaluation.compare_result",
    "summarize": "trtbench_lab.evaluation.summarize_result",
    "perplexity": "trtbench_lab.evaluation.perplexity",
    "streams": "trtbench_lab.evaluation.streams_result",
    "quality": "trtbench_lab.evaluation.quality_result",
    "layers": "trtbench_lab.evaluation.layers_result",
    "explore": "trtbench_lab.explore.result",
    "explore_pair": "trtbench_lab.explore.result",
    **dict.fromkeys(("download", "convert", "quantize", "build", "run"), "trtbench_lab.results.steps"),
}


def new_id() -> str:
    """Return a fresh result id: 12 hexadecimal digits, short enough to type."""
    return os.urandom(6).hex()


def utc_now() -> str:
    """Return the present time as ISO 8601 in UTC with milliseconds; sorts as text in order of time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of every result. A subclass is a frozen keyword-only dataclass that names its `kind`.

    A subclass declares ``kind`` (and ``schema_version`` once its fields change), adds its own fields of plain data
    (numbers, text, lists, dicts, nested dataclasses), and overrides `metrics` and, where one table of metrics is not
    the best view, `tables`::

        @dataclass(frozen=True, kw_only=True)
        class PerplexityResult(Result):
            kind: ClassVar[str] = "perplexity"
            perplexity: float

            @property
            def metrics(self):
                return {"perplexity": self.perplexity}

    Attributes
    ----------
    backend
        Who did the work: ``"onnxruntime"``, ``"torch"``, ``"tensorrt"`` or ``"huggingface"``; shown wherever the
        result is.
    model
        The model's label, as people know it (folder name or hub id).
    name
        The label that a person gave to this run, or None.
    spec
        What was asked, as a plain dictionary.
    samples
        Raw measurements by name (lists of numbers, unit in the name), where the class has no field of its own for
        them; every figure is drawn from raw measurements.
    environment
        Versions and machine, from `collect_environment`.
    id, created_at
        Made on creation; `created_at` is UTC.
    """

    kind: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1

    backend: str
    model: str | None = None
    name: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=collect_environment)
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=utc_now)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The dataclass decorator writes its own __repr__ and __hash__ unless the class body has them already.
        for method in ("__repr__", "__hash__"):
            if method not in cls.__dict__:
                setattr(cls, method, getattr(Result, method))
        if cls.__dict__.get("kind"):
            _REGISTRY[cls.kind] = cls

    # ---- what a subclass says about itself -------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Number | None]:
        """Flat view of the numbers, unit in each name; None where a number does not exist (never 0 in its place)."""
        return {}

    @property
    def title(self) -> str:
        """One line that names the result, its model and its backend."""
        words = [self.name, self.model, f"backend {self.backend}"]
        return f"{self.kind.capitalize()}: " + " · ".join(word for word in words if word)

    def tables(self) -> list[Table]:
        """The tables that its plain and HTML views show, most important first."""
        return [Table.of_metrics(self.metrics)]

    # ---- views ------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return plain_document(self.title, self._byline, self.tables())

    def _repr_html_(self) -> str:
        return html_document(self.title, self._byline, self.tables())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        kept = set(include or bundle) - set(exclude or ())
        return {mime: text for mime, text in bundle.items() if mime in kept}

    def __hash__(self) -> int:
        return hash((self.kind, self.id))

    @property
    def _byline(self) -> str:
        return f"id {self.id} · {self.created_at}"

    # ---- data -------------------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data with ``kind`` and ``schema_version`` first; `from_dict` gives the result back."""
        payload: dict[str, Any] = {"kind": self.kind, "schema_version": self.schema_version}
        for item in dataclasses.fields(self):
            payload[item.name] = encode(getattr(self, item.name), where=f"{self.kind}.{item.name}")
        return payload

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Rebuild a result from `to_dict`'s data, migrating an older schema first.

        Called on `Result` itself it returns the class that the payload's kind belongs to.

        Raises
        ------
        ResultsError
            For an unknown kind, a schema version newer than this release knows, or unknown, missing or mistyped fields.
        """
        if not isinstance(payload, Mapping) or "kind" not in payload:
            raise ResultsError("This is not a stored result: it has no field 'kind'.", remedy="Pass Result.to_dict().")
        owner = result_class(payload["kind"])
        if not issubclass(owner, cls):
            raise ResultsError(
                f"The stored result is of kind {owner.kind!r}, not {cls.kind!r}.",
                remedy=f"Read it with {owner.__name__}.from_dict or Result.from_dict.",
            )
        data = _migrated(owner, dict(payload))
        data.pop("kind")
        data.pop("schema_version")
        return cast(Self, decode(owner, data, where=f"result {payload.get('id', '?')}"))


def result_class(kind: Any) -> type[Result]:
    """Return the class of a kind, importing the module that declares it when needed."""
    if isinstance(kind, str) and kind not in _REGISTRY and kind in _DECLARED_IN:
        importlib.import_module(_DECLARED_IN[kind])
    if not isinstance(kind, str) or kind not in _REGISTRY:
        nearest = did_you_mean(str(kind), sorted({*_REGISTRY, *_DECLARED_IN}))
        raise ResultsError(
            f"Results of kind {kind!r} are unknown to this version.",
            remedy=f"{nearest} A newer version may have written it.",
        )
    return _REGISTRY[kind]


def migration(kind: str, from_version: int) -> Callable[[Migration], Migration]:
    """Register a function that turns a payload of `from_version` into one of the next version."""

    def register(function: Migration) -> Migration:
        _MIGRATIONS[kind, from_version] = function
        return function

    return register


def _migrated(owner: type[Result], payload: dict[str, Any]) -> dict[str, Any]:
    version = payload.get("schema_version")
    where = f"result {payload.get('id', '?')}"
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ResultsError(f"schema_version is {version!r}, not a positive integer.", where=where)
    if version > owner.schema_version:
        raise ResultsError(
            f"It was written with schema version {version} of {owner.kind!r}; this release reads up to "
            f"{owner.schema_version}.",
            where=where,
            remedy="Upgrade trtbench-lab to read it; nothing in it was changed.",
        )
    while version < owner.schema_version:
        step = _MIGRATIONS.get((owner.kind, version))
        if step is None:
            raise ResultsError(
                f"There is no migration of {owner.kind!r} from schema version {version}.",
                where=where,
                remedy="Read it with the release that wrote it.",
            )
        payload = {**step(dict(payload)), "schema_version": version + 1}
        version += 1
    return payload
