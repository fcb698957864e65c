"""Execution contexts, one a profile and bucket of shapes, over one activation memory that they take turns in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...errors import EngineError
from .bindings_check import tensorrt
from .cuda import CudaDevice
from .error_recorder import ErrorLog
from .plan import LoadedPlan, Shape

MAX_CONTEXTS = 16
"""Contexts kept at a time; the one used longest ago makes room. Each holds a few MB of its own on the device."""


class BoundContext:
    """One `IExecutionContext` whose profile and memory are set; shapes and addresses are set when they change."""

    def __init__(self, context: Any, plan: LoadedPlan, profile: int, errors: ErrorLog):
        self.context = context
        self.plan, self.profile = plan, profile
        self._errors = errors
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def set(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Give every input its shape, then every tensor its address: outputs take that of the input they alias.

        Raises
        ------
        EngineError
            When TensorRT refuses one or cannot tell the outputs' sizes from them.
        """
        changed = False
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                if not self.context.set_input_shape(name, shape):
                    raise self.fault(f"TensorRT refuses the shape {shape}.", name)
                self._shapes[name] = shape
                changed = True
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self.context.set_tensor_address(name, address):
                    raise self.fault("TensorRT refuses the tensor's address.", name)
                self._addresses[name] = address
        if changed and (missing := self.context.infer_shapes()):
            raise self.fault(f"TensorRT misses {', '.join(missing)}.", "infer_shapes")

    def enqueue(self, stream: int) -> None:
        """Queue one run on the stream."""
        if not self.context.execute_async_v3(stream):
            raise self.fault("TensorRT could not run the engine.", "execute_async_v3")

    def fault(self, what: str, where: str) -> EngineError:
        """Return an error that names this context, with TensorRT's words behind it."""
        return self._errors.fault(what, where=f"{self.plan.file.file}, profile {self.profile}: {where}")


class Contexts:
    """Makes and keeps contexts.

    Parameters
    ----------
    plans
        The engine's plans.
    cuda, stream
        The device, and the stream that all runs are queued on.
    errors, recorder
        Where TensorRT's errors go, and its `IErrorRecorder`.
    communicator
        PyCapsule around the NCCL communicator, for engines of several ranks. All ranks make contexts in one order,
        since they run the same requests: giving a context its communicator waits for all of them.
    """

    def __init__(
        self,
        plans: list[LoadedPlan],
        cuda: CudaDevice,
        stream: Any,
        errors: ErrorLog,
        recorder: Any,
        communicator: Any | None = None,
    ):
        self._plans, self._cuda, self._stream = plans, cuda, stream
        self._errors, self._recorder, self._communicator = errors, recorder, communicator
        self._kept: OrderedDict[tuple[Any, ...], BoundContext] = OrderedDict()
        self.memory: torch.Tensor | None = None
        self.on_dropped: Callable[[BoundContext], None] = lambda _: None

    def allocate(self, nbytes: int) -> None:
        """Take the activation memory that all contexts share; contexts of an earlier one are dropped."""
        self.release()
        self.memory = self._cuda.empty(max(nbytes, 256))

    def get(self, plan: int, profile: int, bucket: tuple[Any, ...]) -> BoundContext:
        """Return the context of a plan, a profile and a bucket of shapes, made when it is asked for first."""
        key = (plan, profile, bucket)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while len(self._kept) >= MAX_CONTEXTS:
            _, oldest = self._kept.popitem(last=False)
            self._cuda.synchronize(self._stream)  # it may still run
            self.on_dropped(oldest)
        made = self._kept[key] = self.new(plan, profile)
        return made

    def new(self, plan: int, profile: int) -> BoundContext:
        """Return a context of its own, over the shared memory, that nobody else will be given."""
        chosen = self._plans[plan]
        where = f"{chosen.file.file}, profile {profile}"
        if self.memory is None:
            raise EngineError("The engine is closed.", where=where, remedy="Load it again with Engine.executor().")
        trt, engine = tensorrt(), chosen.engine
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._errors.fault("TensorRT could not make an execution context.", where=where)
        context.error_recorder = self._recorder
        if self._communicator is not None and not context.set_communicator(self._communicator):
            raise self._errors.fault(
                "TensorRT refuses the communicator.",
                where=where,
                remedy="NCCL must load (libnccl.so.2 on LD_LIBRARY_PATH), and all ranks must make their contexts "
                "together.",
            )
        context.set_device_memory(self.memory.data_ptr(), self.memory.numel())
        if profile != 0:  # a new context is on profile 0
            handle = self._cuda.handle(self._stream)
            if not context.set_optimization_profile_async(profile, handle):
                raise self._errors.fault("TensorRT could not switch the optimization profile.", where=where)
        return BoundContext(context, chosen, profile, self._errors)

    def release(self) -> None:
        """Drop every context, then the memory that they share."""
        if self._kept:
            self._cuda.synchronize(self._stream)
        for context in self._kept.values():
            self.on_dropped(context)
        self._kept.clear()
        self.memory = None

    def __len__(self) -> int:
        return len(self._kept)
