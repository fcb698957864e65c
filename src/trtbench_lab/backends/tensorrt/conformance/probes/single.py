"""Runs a plan of fixed shapes once: the few steps of the executor that a trial of one operator needs."""

from __future__ import annotations

from typing import Any

import torch

from .....errors import EngineError
from ...bindings_check import created, tensorrt
from ...cuda import CudaDevice, cuda_device
from ...error_recorder import ErrorLog, error_recorder
from ...logger import make_logger
from ...plan import TORCH_NAMES
from .models import _say


class SingleEngine:
    """One deserialized plan.

    Parameters
    ----------
    plan
        Anything with the buffer protocol.
    communicator
        PyCapsule of a communicator, for collectives.
    cuda
        The GPU; None takes the current one.
    """

    def __init__(self, plan: Any, communicator: Any | None = None, cuda: CudaDevice | None = None):
        self.trt = trt = tensorrt()
        self.cuda = cuda or cuda_device(None)
        self.errors = ErrorLog()
        logger = self.logger = make_logger(trt, _say)
        runtime = self.runtime = created(lambda: trt.Runtime(logger), "a runtime")
        self.recorder = error_recorder(trt, self.errors)
        runtime.error_recorder = self.recorder
        engine = self.engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self.errors.fault("TensorRT could not load the plan.", where="trial")
        context = self.context = created(engine.create_execution_context, "an execution context")
        if communicator is not None and not context.set_communicator(communicator):
            raise self.errors.fault("TensorRT refuses the communicator.", where="trial")

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run once and return the outputs on the host."""
        engine, context, trt = self.engine, self.context, self.trt
        stream = self.cuda.new_stream()
        bound: dict[str, torch.Tensor] = {}
        outputs = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                bound[name] = inputs[name].contiguous().to(self.cuda.device)
            else:
                dtype = getattr(torch, TORCH_NAMES[engine.get_tensor_dtype(name).name])
                bound[name] = torch.zeros(tuple(context.get_tensor_shape(name)), dtype=dtype, device=self.cuda.device)
                outputs.append(name)
            context.set_tensor_address(name, bound[name].data_ptr())
        self.cuda.follow(stream, self.cuda.current_stream())
        if not context.execute_async_v3(self.cuda.handle(stream)):
            raise self.errors.fault("TensorRT could not run the engine.", where="trial")
        self.cuda.synchronize(stream)
        if self.errors.entries():
            raise EngineError(str(self.errors.fault("TensorRT reports an error.", where="trial").what))
        return {name: bound[name].cpu() for name in outputs}
