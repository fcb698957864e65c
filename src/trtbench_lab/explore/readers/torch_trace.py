"""A trace of torch's profiler (Chrome's format): operators by module where modules were marked, kernels of a GPU."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dtypes import dtype_name
from ..kinds import kind_of
from ..layer import Layer, TensorFacts
from ..reading import Reading, unknown_form
from ..work import with_work

FORM = "torch profiler trace"
MODULE_MARK = "module:"
"""Beginning of the annotations that say which module runs; what follows is its name."""
RUN_MARK = "run:"
"""Beginning of the annotations around whole runs."""
_NO_TENSOR = frozenset({"", "Scalar", "ScalarList", "GenericList", "Device", "None"})
_DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_LAUNCHES = frozenset({"cuda_runtime", "cuda_driver"})


def is_trace(content: Any) -> bool:
    """Whether parsed JSON looks like a trace of torch's profiler."""
    return isinstance(content, Mapping) and isinstance(content.get("traceEvents"), list)


@dataclass(frozen=True)
class _Launch:
    """Where the host was when it queued work for the device: in an operator, or directly in a module."""

    operator: int | None
    module: str | None
    run: int


@dataclass
class _Operator:
    """One call of an operator that stands directly in a module."""

    name: str
    module: str | None
    run: int
    duration_us: float
    arguments: Mapping[str, Any]
    device_us: float = 0.0
    kernels: dict[str, float] = field(default_factory=dict)


def read_trace(
    content: Any, where: str, *, weights: Mapping[str, tuple[int, str]] | None = None, skip_runs: int = 0
) -> Reading:
    """Return the operators of a trace as layers.

    Operators that others call belong to those. Where kernels ran on a GPU, a layer's time is theirs.

    Parameters
    ----------
    content
        Parsed JSON.
    where
        The file, for errors.
    weights
        Module → bytes and element type of its own parameters.
    skip_runs
        Runs at the beginning that are not counted.
    """
    if not is_trace(content):
        raise unknown_form(where)
    events = [event for event in content["traceEvents"] if isinstance(event, Mapping) and event.get("ph") == "X"]
    operators, owner, launches = _operators(events)
    loose = _attach_kernels(events, operators, owner, launches)
    on_device = bool(loose) or any(operator.kernels for operator in operators)
    runs = sorted({operator.run for operator in operators})[skip_runs:]
    layers = _layers([one for one in operators if one.run in set(runs)], runs, on_device)
    layers += [_kernel_layer(name, times, max(1, len(runs) + skip_runs)) for name, times in loose.items()]
    notes = [
        "Times are those of kernels on the GPU; what the host does meanwhile is not in them."
        if on_device
        else "Times are those of operators on the CPU, and include what the profiler itself costs, some µs an operator."
    ]
    if loose:
        notes.append(
            f"{len(loose)} kernels have no operator that launched them (a CUDA graph): their module is not known."
        )
    if not any(layer.module for layer in layers):
        notes.append("The trace marks no modules: record it with `trtbench explore ENGINE --profile` to have them.")
    return Reading(form=FORM, backend="torch", layers=tuple(_with_weights(layers, weights or {})), notes=notes)


def _operators(
    events: Sequence[Mapping[str, Any]],
) -> tuple[list[_Operator], dict[int, int], dict[int, _Launch]]:
    """Return the outermost operators in order, which of them each operator's id belongs to, and launches by number."""
    threads: dict[tuple[Any, Any], list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("cpu_op", "user_annotation") or event.get("cat") in _LAUNCHES:
            threads[event.get("pid"), event.get("tid")].append(event)
    found: list[_Operator] = []
    owner: dict[int, int] = {}
    launches: dict[int, _Launch] = {}
    for members in threads.values():
        members.sort(key=lambda event: (_number(event.get("ts")), -_number(event.get("dur"))))
        _walk(members, found, owner, launches)
    return found, owner, launches


def _walk(
    events: Sequence[Mapping[str, Any]],
    found: list[_Operator],
    owner: dict[int, int],
    launches: dict[int, _Launch],
) -> None:
    """Follow one thread's events by their nesting."""
    modules: list[tuple[float, str]] = []
    current: tuple[float, int] | None = None  # end and place of the outermost operator that is running
    run, run_end = 0, float("-inf")
    for event in events:
        start, end = _number(event.get("ts")), _number(event.get("ts")) + _number(event.get("dur"))
        name = str(event.get("name", ""))
        arguments = event.get("args")
        facts: Mapping[str, Any] = arguments if isinstance(arguments, Mapping) else {}
        while modules and modules[-1][0] <= start:
            modules.pop()
        if event.get("cat") == "user_annotation":
            if name.startswith(MODULE_MARK):
                modules.append((end, name.removeprefix(MODULE_MARK)))
            elif name.startswith((RUN_MARK, "ProfilerStep#")):
                run, run_end = run + 1, end
            continue
        inside = current is not None and start < current[0]
        if event.get("cat") in _LAUNCHES:
            if isinstance(facts.get("correlation"), int) and (run_end == float("-inf") or start < run_end):
                at = current[1] if inside and current is not None else None
                launches[facts["correlation"]] = _Launch(at, modules[-1][1] if modules else None, run)
            continue
        if inside and current is not None:
            place = current[1]
        else:
            if run_end > float("-inf") and start >= run_end:
                continue  # between two runs
            place = len(found)
            found.append(_Operator(name, modules[-1][1] if modules else None, run, end - start, facts))
            current = (end, place)
        if isinstance(facts.get("External id"), int):
            owner[facts["External id"]] = place


def _attach_kernels(
    events: Sequence[Mapping[str, Any]],
    operators: list[_Operator],
    owner: Mapping[int, int],
    launches: Mapping[int, _Launch],
) -> dict[str, list[float]]:
    """Add the time of each kernel to the operator that launched it; return those that nothing launched.

    A kernel that a module launches without an operator (Triton's do) becomes an operator of that module.
    """
    loose: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") not in _DEVICE_WORK:
            continue
        arguments = event.get("args")
        facts: Mapping[str, Any] = arguments if isinstance(arguments, Mapping) else {}
        identifier, number = facts.get("External id"), facts.get("correlation")
        duration, name = _number(event.get("dur")), str(event.get("name", "kernel"))
        place = owner.get(identifier) if isinstance(identifier, int) else None
        launch = launches.get(number) if isinstance(number, int) else None
        if place is None and launch is not None:
            place = launch.operator
        if place is None and launch is not None and launch.module is not None:
            operators.append(_Operator(name, launch.module, launch.run, 0.0, {}, duration, {name: duration}))
            continue
        if place is None:
            loose[name].append(duration / 1e3)
            continue
        operators[place].device_us += duration
        operators[place].kernels[name] = operators[place].kernels.get(name, 0.0) + duration
    return loose


def _layers(operators: Sequence[_Operator], runs: Sequence[int], on_device: bool) -> list[Layer]:
    """Return one layer for the same call of all runs: the n-th of its name in its module."""
    calls: dict[tuple[str | None, str, int], list[_Operator]] = {}
    for run in runs:
        seen: Counter[tuple[str | None, str]] = Counter()
        for operator in (one for one in operators if one.run == run):
            key = operator.module, operator.name
            calls.setdefault((*key, seen[key]), []).append(operator)
            seen[key] += 1
    layers = []
    for (module, name, number), found in calls.items():
        first = found[0]
        short = name.rpartition("::")[2]
        label = f"{module}/{short}" if module else name
        times = tuple((one.device_us if on_device else one.duration_us) / 1e3 for one in found)
        kind = kind_of(name, "")
        inputs, weights = _tensors(first.arguments, short)
        layers.append(
            with_work(
                Layer(
                    name=label if number == 0 else f"{label}_{number + 1}",
                    type=name,
                    kind=kind,
                    module=module,
                    inputs=inputs,
                    outputs=_results(short, kind, inputs, weights),
                    weights_bytes=sum(tensor.nbytes or 0 for tensor in weights) if weights else None,
                    weights_dtype=weights[0].dtype if weights else None,
                    tactic=max(first.kernels, key=lambda kernel: first.kernels[kernel]) if first.kernels else None,
                    times_ms=times,
                )
            )
        )
    return layers


def _tensors(arguments: Mapping[str, Any], operator: str) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Return an operator's tensors: activations, and those that are weights by their place."""
    types, shapes = arguments.get("Input type"), arguments.get("Input Dims")
    if not isinstance(types, list) or not isinstance(shapes, list):
        return (), ()
    tensors = [
        TensorFacts(dtype=dtype_name(kind), shape=_sizes(shape)) if kind not in _NO_TENSOR else None
        for kind, shape in zip(types, shapes, strict=False)
    ]
    places = {"linear": (1, 2), "addmm": (0, 2), "embedding": (0,)}.get(operator, ())
    weights = tuple(tensor for place, tensor in enumerate(tensors) if place in places and tensor is not None)
    activations = tuple(tensor for place, tensor in enumerate(tensors) if place not in places and tensor is not None)
    return activations, tuple(sorted(weights, key=lambda tensor: -(tensor.nbytes or 0)))


def _results(
    operator: str, kind: str, inputs: tuple[TensorFacts, ...], weights: tuple[TensorFacts, ...]
) -> tuple[TensorFacts, ...]:
    """Return the result where inputs tell it; a trace does not."""
    if not inputs or inputs[0].shape is None:
        return ()
    first = inputs[0]
    shape: tuple[int, ...] = first.shape or ()
    if operator == "linear" and weights and weights[0].shape:
        return (TensorFacts(dtype=first.dtype, shape=(*shape[:-1], weights[0].shape[0])),)
    if operator == "embedding" and weights and weights[0].shape:
        return (TensorFacts(dtype=weights[0].dtype, shape=(*shape, weights[0].shape[-1])),)
    if operator in ("matmul", "bmm") and len(inputs) > 1 and inputs[1].shape:
        return (TensorFacts(dtype=first.dtype, shape=(*shape[:-1], inputs[1].shape[-1])),)
    if kind in ("pointwise", "norm", "softmax", "attention", "rotary"):
        largest = max(inputs, key=lambda tensor: tensor.elements or 0) if kind == "pointwise" else first
        return (TensorFacts(dtype=largest.dtype, shape=largest.shape),)
    return ()


def _with_weights(layers: list[Layer], weights: Mapping[str, tuple[int, str]]) -> list[Layer]:
    """Give the parameters of modules whose operators do not show them to the module's longest operator."""
    by_module: dict[str, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        if layer.module is not None:
            by_module[layer.module].append(place)
    for module, (nbytes, dtype) in weights.items():
        places = by_module.get(module, [])
        if not places or any(layers[place].weights_bytes for place in places):
            continue
        longest = max(places, key=lambda place: layers[place].time_ms or 0.0)
        layers[longest] = dataclasses.replace(layers[longest], weights_bytes=nbytes, weights_dtype=dtype)
    return layers


def _kernel_layer(name: str, times_ms: list[float], runs: int) -> Layer:
    return Layer(name=name, type="kernel", kind=kind_of("", name), times_ms=(sum(times_ms) / runs,))


def _sizes(shape: Any) -> tuple[int, ...] | None:
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(shape)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


__all__ = ["FORM", "MODULE_MARK", "RUN_MARK", "is_trace", "read_trace"]
