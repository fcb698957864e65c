"""Runs one rank with TensorRT: tensors go in by address, repeated decode steps become one CUDA graph launch each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import EngineError
from ...network.signature import CAPACITY, TensorSpec
from ...specs import ModelConfig
from ..bindings import Bindings
from .contexts import BoundContext, Contexts
from .cuda import CudaDevice
from .device_memory import MemoryPlan
from .error_recorder import ErrorLog
from .plan import LoadedPlan, Shape, best_profile
from .plan_layout import DECODE, PADDED, PlanLayout

MAX_STEPS = 16
"""Sets of bound tensors whose graphs are kept; a session uses one a batch size and a cache capacity."""
RUNS_BEFORE_CAPTURE = 1
"""TensorRT does lazy work in the first run after a change of shapes, and that must not be in a graph."""


@dataclass
class Step:
    """What one set of bound tensors has led to.

    Attributes
    ----------
    context
        The context that runs it.
    shapes, addresses
        Of every input; of every tensor.
    phase
        Of the chosen profile.
    place
        Plan, profile and bucket of shapes of the context.
    runs
        Runs so far without a graph.
    graph
        Queues the captured run.
    """

    context: BoundContext
    shapes: dict[str, Shape]
    addresses: dict[str, int]
    phase: str
    place: tuple[int, int, tuple[Any, ...]]
    runs: int = 0
    graph: Callable[[], None] | None = None


@dataclass
class Held:
    """Everything that must outlive the contexts."""

    plans: list[LoadedPlan]
    runtime: Any
    recorder: Any
    logger: Any
    communicator: Any = None
    group: Any = None


class TensorRTExecutor:
    """See `backends.protocol.Executor`; made by `loading.load_executor`.

    Parameters
    ----------
    held
        Plans and what they live on.
    layout
        What the build wrote about them.
    io, config
        What is bound; the model with this rank's mapping.
    cuda
        The GPU.
    errors
        Where TensorRT's errors go.
    memory_plan
        What was needed and free before the memory was taken.
    directory, rank
        The engine folder, for what is saved beside the engine.

    Attributes
    ----------
    cache_capacities
        Tokens a row of bound caches may hold, ascending; empty in the paged form. Each is a plan of its own, since
        TensorRT's cache update needs a constant there. A session takes the smallest that holds what is there and moves
        to the next as a sequence grows.
    longest_run
        New tokens a row may have in one run; None in the paged form.
    notes
        What the executor decided on its own, one sentence each.
    """

    backend = "tensorrt"

    def __init__(
        self,
        held: Held,
        layout: PlanLayout,
        io: Sequence[TensorSpec],
        config: ModelConfig,
        cuda: CudaDevice,
        *,
        errors: ErrorLog,
        memory_plan: MemoryPlan,
        directory: Path,
        rank: int,
        uses_graphs: bool = True,
    ):
        self.device = cuda.device
        self.config = config
        self.io = tuple(io)
        self.guards_writes = True
        self.layout, self.memory_plan = layout, memory_plan
        self.directory, self.rank, self.cuda = directory, rank, cuda
        self.notes: list[str] = []
        self.cache_capacities = tuple(sorted({p.file.capacity for p in held.plans if p.file.capacity is not None}))
        self.longest_run = _longest_run(held.plans) if layout.form == PADDED else None
        self._held: Held | None = held
        self._errors = errors
        self._inputs = [spec.name for spec in self.io if spec.mode == "input"]
        self._graphs_on = uses_graphs
        self._stream = cuda.new_stream()
        self._contexts = Contexts(held.plans, cuda, self._stream, errors, held.recorder, held.communicator)
        self._contexts.on_dropped = self._drop_steps_of
        self._contexts.allocate(memory_plan.activation_bytes)
        self._bindings = Bindings(
            self.io, self.device, max_positions=layout.max_positions, vocab_size=config.vocab_size
        )
        self._steps: OrderedDict[tuple[Any, ...], Step] = OrderedDict()
        self._step: Step | None = None

    # ---- the contract ----------------------------------------------------------------------------------------------

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Bind a tensor on the engine's GPU; see the protocol."""
        self._opened()
        current = self._bindings.tensors.get(name)
        spec = self._bindings.bind(name, tensor)
        same = current is not None and current.data_ptr() == tensor.data_ptr() and current.shape == tensor.shape
        if spec.aliases is None and not same:
            self._step = None

    def run(self, stream: Any | None = None) -> None:
        """Queue one run behind what `stream` (None: the current one) holds; later work there waits for it.

        The run itself is on a stream of the executor's own, so that CUDA's default stream never makes it wait.
        """
        self._opened()
        self._bindings.sizes()
        if self.guards_writes and self.layout.form == PADDED:
            self._bindings.guard()
        step = self.current_step()
        theirs = self.cuda.current_stream() if stream is None else stream
        self.cuda.follow(self._stream, theirs)
        self._enqueue(step)
        self.cuda.follow(theirs, self._stream)

    def synchronize(self) -> None:
        """Wait until all queued runs are done."""
        self.cuda.synchronize(self._stream)

    def memory(self) -> dict[str, int]:
        """Return bytes of weights on the device, activations that all contexts share, scratch, and the bound caches."""
        caches = {spec.aliases for spec in self.io if spec.aliases}
        bound = sum(tensor.nbytes for name, tensor in self._bindings.tensors.items() if name in caches)
        plan = self.memory_plan
        return {
            "weights_bytes": plan.weights_bytes,
            "streamed_weights_bytes": plan.streamed_bytes,
            "activation_bytes": plan.activation_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "cache_bytes": bound,
        }

    def close(self) -> None:
        """Free graphs, contexts, engines and everything bound, in that order."""
        if self._held is None:
            return
        self.synchronize()
        self._drop_steps()
        self._contexts.release()
        self._bindings.clear()
        self._held.plans.clear()
        self._held = None

    # ---- steps and graphs ------------------------------------------------------------------------------------------

    @property
    def uses_graphs(self) -> bool:
        """Whether repeated decode steps are captured into CUDA graphs; never while weights are streamed.

        May be set; turning it off drops the graphs.
        """
        return self._graphs_on and not self.memory_plan.streams

    @uses_graphs.setter
    def uses_graphs(self, on: bool) -> None:
        self._graphs_on = on
        if not on:
            self.synchronize()
            self._drop_steps()

    @property
    def num_graphs(self) -> int:
        """Decode steps that are one launch now."""
        return sum(step.graph is not None for step in self._steps.values())

    def current_step(self) -> Step:
        """Return what the bound tensors lead to; everything must be bound."""
        self._bindings.sizes()
        if self._step is None:
            self._step = self._prepared()
        return self._step

    def _prepared(self) -> Step:
        """Choose profile and context for what is bound; tensors that were bound before find their graph again."""
        tensors, capacity = self._bindings.tensors, self._bindings.sizes().get(CAPACITY)
        shapes: dict[str, Shape] = {name: tuple(tensors[name].shape) for name in self._inputs}
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        key = (tuple(shapes.values()), tuple(addresses.values()))
        if key in self._steps:
            self._steps.move_to_end(key)
            return self._steps[key]
        plans = self._opened().plans
        number, profile = best_profile(plans, capacity, shapes)
        for output, source in plans[number].aliases.items():
            addresses[output] = addresses[source]
        decodes = profile.phase == DECODE
        # Shapes of decode steps stay as they are within a context: a graph is valid for one set of them, and
        # ahead-of-time plugins of TensorRT 11.1 and 11.2 leak a module on every change. Prompts share one a profile.
        bucket = tuple(shapes.values()) if decodes else ()
        context = self._contexts.get(number, profile.index, bucket)
        step = Step(context, shapes, addresses, profile.phase, (number, profile.index, bucket))
        if decodes:
            self._steps[key] = step
            while len(self._steps) > MAX_STEPS:
                self.synchronize()  # the oldest one's graph may still run
                self._steps.popitem(last=False)
        return step

    def _enqueue(self, step: Step) -> None:
        if step.graph is not None:
            step.graph()
            return
        step.context.set(step.shapes, step.addresses)
        handle = self.cuda.handle(self._stream)
        if step.phase == DECODE and self.uses_graphs and step.runs >= RUNS_BEFORE_CAPTURE:
            step.graph = self.cuda.capture(self._stream, lambda: step.context.enqueue(handle))
            if step.graph is not None:
                step.graph()
                return
            self._graphs_on = False
            self._errors.clear()
            self.notes.append("CUDA refused to capture a decode step: steps are queued layer by layer.")
        step.context.enqueue(handle)
        step.runs += 1

    def _drop_steps(self) -> None:
        self._steps.clear()
        self._step = None

    def _drop_steps_of(self, context: BoundContext) -> None:
        """Graphs hold the addresses of their context's memory: they go with it."""
        for key in [key for key, step in self._steps.items() if step.context is context]:
            del self._steps[key]
        if self._step is not None and self._step.context is context:
            self._step = None

    @property
    def is_bound(self) -> bool:
        """Whether everything that a run needs is bound."""
        return all(spec.aliases is not None or spec.name in self._bindings.tensors for spec in self.io)

    # ---- for the modules that look into an engine ------------------------------------------------------------------

    def plans(self) -> list[LoadedPlan]:
        """Return every plan that is loaded."""
        return list(self._opened().plans)

    def own_context(self, step: Step) -> BoundContext:
        """Return a context like the step's, for a profiler or listener, so that no graph has to be dropped."""
        self.synchronize()  # contexts share their memory, and this one takes its turn now
        plan, profile, _ = step.place
        context = self._contexts.new(plan, profile)
        context.set(step.shapes, step.addresses)
        return context

    def run_alone(self, context: BoundContext) -> None:
        """Run once on a context of `own_context`, and wait."""
        self.cuda.follow(self._stream, self.cuda.current_stream())
        context.enqueue(self.cuda.handle(self._stream))
        self.synchronize()

    def restart(self, change: Callable[[], MemoryPlan]) -> None:
        """Drop graphs and contexts, let `change` alter the engines, and take the activation memory again."""
        self.synchronize()
        self._drop_steps()
        self._contexts.release()
        self.memory_plan = change()
        self._contexts.allocate(self.memory_plan.activation_bytes)

    def _opened(self) -> Held:
        if self._held is None:
            raise EngineError(
                "The engine is closed.", where=self.backend, remedy="Load it again with Engine.executor()."
            )
        return self._held


def _longest_run(plans: Sequence[LoadedPlan]) -> int:
    """Return the most new tokens a row may have in one run with any of the plans' capacities."""
    longest: dict[int | None, int] = {}
    for plan in plans:
        for profile in plan.profiles:
            _, _, high = profile.shapes.get("input_ids") or profile.shapes["hidden_states_input"]
            longest[plan.file.capacity] = max(longest.get(plan.file.capacity, 0), high[1])
    return longest[max(longest, key=lambda capacity: capacity or 0)]
