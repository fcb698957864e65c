"""A deserialized plan: its tensors and aliases, held against the model, and the ranges of its optimization profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ...errors import EngineMismatchError, RequestError
from ...network.signature import TensorSpec
from .plan_layout import PlanFile

# Member of DataType → torch's name; engines of ours bind no other types.
TORCH_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "float8_e4m3fn",
}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ProfileRange:
    """One optimization profile of a plan.

    Attributes
    ----------
    index
        Its number in the plan.
    phase
        ``"prompt"`` or ``"decode"``.
    shapes
        Input → smallest, best and largest shape.
    memory_bytes
        Activation memory of a context on it.
    """

    index: int
    phase: str
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    memory_bytes: int

    def misfit(self, shapes: Mapping[str, Shape]) -> str | None:
        """Return why the shapes are outside of this profile, None when they are inside."""
        for name, (low, _, high) in self.shapes.items():
            for axis, (size, least, most) in enumerate(zip(shapes[name], low, high, strict=True)):
                if not least <= size <= most:
                    return f"dimension {axis} of {name!r} is {size}, and the engine takes {least} to {most}"
        return None

    @property
    def volume(self) -> int:
        """Elements of all inputs at their largest: the smaller of two profiles that fit is tuned closer."""
        return sum(prod(high) for _, _, high in self.shapes.values())


@dataclass(frozen=True)
class LoadedPlan:
    """One plan on the device.

    Attributes
    ----------
    file
        What the layout says of it: name, capacity, phases.
    engine
        The `ICudaEngine`.
    profiles
        Its optimization profiles.
    aliases
        Output → the input whose memory it shares, as TensorRT says it.
    weights_bytes
        What its weights take, as TensorRT says it.
    """

    file: PlanFile
    engine: Any
    profiles: tuple[ProfileRange, ...]
    aliases: Mapping[str, str]
    weights_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Activation memory of its most demanding profile."""
        return max(profile.memory_bytes for profile in self.profiles)


def described(trt: Any, engine: Any, file: PlanFile, io: Sequence[TensorSpec]) -> LoadedPlan:
    """Read a plan's description and hold it against what will be bound.

    Parameters
    ----------
    trt, engine
        The bindings and the engine.
    file
        What the layout says of it.
    io
        Inputs and outputs of the model.

    Raises
    ------
    EngineMismatchError
        When tensors, types, sizes, aliases or profiles are not those of the model.
    """
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if names != (expected := {spec.name for spec in io}):
        odd = sorted(names ^ expected)[0]
        side = "has a tensor that the model lacks" if odd in names else "lacks a tensor of the model"
        raise _mismatch(f"The plan {side}: {odd!r}.", file)
    aliases = {}
    for spec in io:
        _check_tensor(trt, engine, spec, file)
        if spec.mode == "output":
            source = engine.get_aliased_input_tensor(spec.name) or None
            if source != spec.aliases:
                raise _mismatch(
                    f"The output {spec.name!r} shares its memory with {source!r}; the model has {spec.aliases!r}.", file
                )
            if source is not None:
                aliases[spec.name] = source
    count = engine.num_optimization_profiles
    if count != len(file.phases):
        raise _mismatch(f"The plan has {count} optimization profiles; {len(file.phases)} were written down.", file)
    inputs = [spec.name for spec in io if spec.mode == "input"]
    profiles = tuple(_profile(engine, index, phase, inputs) for index, phase in enumerate(file.phases))
    weights = engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE)
    return LoadedPlan(file, engine, profiles, aliases, max(0, int(weights)))


def best_profile(
    plans: Sequence[LoadedPlan], capacity: int | None, shapes: Mapping[str, Shape]
) -> tuple[int, ProfileRange]:
    """Return the plan's number and the profile for a run: of those that take the shapes, the one tuned closest.

    Parameters
    ----------
    plans
        All plans.
    capacity
        Of the bound caches; None in the paged form.
    shapes
        Of every input.

    Raises
    ------
    RequestError
        When no profile takes the shapes, naming the size that is outside.
    """
    profiles = [
        (number, profile)
        for number, plan in enumerate(plans)
        if plan.file.capacity == capacity
        for profile in plan.profiles
    ]
    if not profiles:
        held = ", ".join(sorted({str(plan.file.capacity) for plan in plans}))
        raise RequestError(
            f"The bound caches hold {capacity} tokens a row; the engine has plans for {held}.",
            where="run",
            remedy="Bind caches of one of these capacities (see the executor's cache_capacities).",
        )
    reasons = [profile.misfit(shapes) for _, profile in profiles]
    fitting = [found for found, reason in zip(profiles, reasons, strict=True) if reason is None]
    if not fitting:
        raise RequestError(
            f"The run is outside of the engine's optimization profiles: {reasons[0]}.",
            where="run",
            remedy="Run a smaller batch or a shorter piece of the prompt, or build with larger limits "
            "(max_batch_size, max_input_len, gather_context_logits).",
        )
    return min(fitting, key=lambda found: found[1].volume)


def _profile(engine: Any, index: int, phase: str, inputs: Sequence[str]) -> ProfileRange:
    shapes = {}
    for name in inputs:
        low, best, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
        shapes[name] = (low, best, high)
    return ProfileRange(index, phase, shapes, int(engine.get_device_memory_size_for_profile_v2(index)))


def _check_tensor(trt: Any, engine: Any, spec: TensorSpec, file: PlanFile) -> None:
    wanted_mode = trt.TensorIOMode.INPUT if spec.mode == "input" else trt.TensorIOMode.OUTPUT
    if engine.get_tensor_mode(spec.name) != wanted_mode:
        raise _mismatch(f"The plan's {spec.name!r} is no {spec.mode}.", file)
    dtype = engine.get_tensor_dtype(spec.name).name
    if TORCH_NAMES.get(dtype, dtype) != spec.dtype:
        raise _mismatch(f"The plan's {spec.name!r} is {dtype}; the model has {spec.dtype} there.", file)
    shape = tuple(engine.get_tensor_shape(spec.name))
    fits = len(shape) == len(spec.shape) and all(
        isinstance(wanted, str) or size in (-1, wanted) for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise _mismatch(f"The plan's {spec.name!r} has shape {shape}; the model has {spec.shape}.", file)
    if spec.name.startswith("past_") and shape[2] != file.capacity:
        raise _mismatch(f"The plan's caches hold {shape[2]} tokens a row; {file.capacity} were written down.", file)
    if engine.get_tensor_location(spec.name) != trt.TensorLocation.DEVICE:
        raise _mismatch(f"The plan wants {spec.name!r} on the host, where a graph cannot change it.", file)


def _mismatch(what: str, file: PlanFile) -> EngineMismatchError:
    return EngineMismatchError(
        what, where=file.file, remedy="Build the engine again; its files do not belong together."
    )
