"""Random specs, made from what each spec says about its own fields."""

from __future__ import annotations

import enum
import typing
from typing import Any

from hypothesis import strategies as st

from trtbench_lab.specs import Spec
from trtbench_lab.specs.coerce import is_optional, without_none
from trtbench_lab.specs.options import OptionInfo

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text != "\\"  # alone it continues a line that was pasted from a shell
)
_SCALINGS = st.fixed_dictionaries(
    {"type": st.sampled_from(["linear", "dynamic"]), "factor": st.floats(1.25, 8.0, allow_nan=False)}
)

_LEVELS = st.dictionaries(st.sampled_from(["ttft", "tpot", "itl", "latency"]), st.floats(0.125, 4096.0), max_size=3)
_TARGETS = st.dictionaries(st.sampled_from(["itl_ms", "ttft_ms", "gpus"]), st.floats(0.125, 8192.0), max_size=3)
_LIMITS = st.dictionaries(
    st.sampled_from(["perplexity", "top1", "rouge1", "entities"]), st.sampled_from(["1%", "0.5", "12%"]), max_size=3
)


def spec_strategy(spec: type[Spec], names: typing.Collection[str] | None = None) -> st.SearchStrategy[Spec]:
    """Specs with any valid value in every field, or only in those named (the others keep their defaults)."""
    fields = {info.name: value_strategy(info) for info in spec.options() if names is None or info.name in names}
    required = {info.name: value_strategy(info) for info in spec.options() if info.required}
    optional = {name: strategy for name, strategy in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: spec(**values))


def value_strategy(info: OptionInfo) -> st.SearchStrategy[Any]:
    """Valid values of one field."""
    if info.name == "kv_cache_memory":
        return st.sampled_from(("0.5", "1", "20GiB", "512MiB"))
    if info.name == "quantized_layers":  # goes with MIXED_PRECISION alone
        return st.none()
    kind = without_none(info.annotation)
    values = _values(info, kind)
    return st.none() | values if is_optional(info.annotation) else values


def _values(info: OptionInfo, kind: Any) -> st.SearchStrategy[Any]:
    meta = info.meta
    if isinstance(kind, type) and issubclass(kind, Spec):
        return spec_strategy(kind)
    if typing.get_origin(kind) is dict:
        return {"goodput": _LEVELS, "max_drop": _LIMITS, "target": _TARGETS}.get(info.name, _SCALINGS)
    if info.name == "gpu":  # names as a table has them, without the separator
        return st.lists(st.sampled_from(["this", "H200", "A100 80GB"]), min_size=1, max_size=2).map(tuple)
    if info.name == "ceilings":  # none, or both
        return st.just(()) | st.tuples(st.floats(0.125, 8192.0), st.floats(0.125, 8192.0))
    if typing.get_origin(kind) is tuple:
        return _tuples(info, typing.get_args(kind))
    if meta.choices is not None:
        return st.sampled_from([choice for choice in meta.choices if choice != "MIXED_PRECISION"])
    return _scalars(kind, meta.minimum, meta.maximum)


def _tuples(info: OptionInfo, members: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    meta = info.meta
    if members[-1] is not Ellipsis:
        return st.tuples(*(_scalars(member, 1, None) for member in members))
    if meta.choices is not None:
        item = st.sampled_from(meta.choices)
    elif typing.get_origin(members[0]) is tuple:
        inner = typing.get_args(members[0])
        if inner[-1] is Ellipsis:
            item = st.lists(_scalars(inner[0], 0, None), max_size=3).map(tuple)
        else:
            item = st.tuples(*(_scalars(member, 1, None) for member in inner))
    else:
        item = _scalars(members[0], meta.minimum, meta.maximum)
    return st.lists(item, min_size=1 if meta.nonempty else 0, max_size=3).map(tuple)


def _scalars(kind: Any, low: float | None, high: float | None) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(int(low or 0), int(high) if high is not None else 1 << 20)
    if kind is float:
        return st.floats(0.0 if low is None else low, 1e6 if high is None else high, allow_nan=False)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    return TEXT
