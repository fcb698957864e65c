"""What the executor asks of CUDA: streams, plain memory and graphs, through torch; tests stand another in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import EngineError


class CudaDevice:
    """One GPU as the executor sees it.

    Parameters
    ----------
    device
        Torch's device with an index.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def new_stream(self) -> Any:
        """Return a stream of its own: TensorRT adds a wait for the whole device to runs on the default one."""
        return torch.cuda.Stream(self.device)

    def current_stream(self) -> Any:
        """Return the stream that the caller's work is queued on."""
        return torch.cuda.current_stream(self.device)

    def handle(self, stream: Any) -> int:
        """Return the address of a stream, as the bindings take it."""
        return int(stream.cuda_stream)

    def follow(self, stream: Any, earlier: Any) -> None:
        """Let what is queued on `stream` from now on wait for what is on `earlier` now; the host does not wait."""
        stream.wait_stream(earlier)

    def synchronize(self, stream: Any) -> None:
        """Wait on the host until `stream` is done."""
        stream.synchronize()

    def empty(self, nbytes: int) -> torch.Tensor:
        """Return so many bytes of device memory; torch aligns them to 512, and TensorRT asks for 256."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def free_bytes(self) -> int:
        """Return what can still be allocated: free on the device, or held by torch without being used."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free) + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    def name(self) -> str:
        """Return the GPU's name."""
        return torch.cuda.get_device_name(self.device)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `enqueue` queues on `stream` and return a function that queues it again as one launch.

        None when CUDA refuses the capture; the stream is usable all the same. What `enqueue` itself raises is raised.
        """
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)  # nothing of other streams may be half-way when the capture begins
        fault: Exception | None = None
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")  # other threads go on allocating meanwhile
            try:
                enqueue()
            except Exception as error:
                fault = error
            try:
                graph.capture_end()
            except RuntimeError:
                return None
        if fault is not None:
            raise fault

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return replay

    def host_copy(self, address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> torch.Tensor:
        """Return device memory of that shape and type as a tensor on the host; waits for `stream`."""
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        elements = torch.Size(shape).numel()
        raw = torch.as_tensor(_Bytes(address, elements * dtype.itemsize), device=self.device)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=self.device)):
            return raw.cpu().view(dtype).reshape(shape)


class _Bytes:
    """Device memory of somebody else's, in the form that torch reads; bytes, since the form knows no bfloat16."""

    def __init__(self, address: int, nbytes: int):
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "strides": None,
            "version": 3,
        }


def cuda_device(name: str | None) -> CudaDevice:
    """Return the GPU that `name` means; None means the current one.

    Raises
    ------
    EngineError
        For anything that is no usable GPU.
    """
    remedy = "Use 'cuda' or 'cuda:0' on a machine with an NVIDIA GPU and a CUDA build of torch; see trtbench doctor."
    try:
        device = torch.device(name or "cuda")
    except RuntimeError as error:
        raise EngineError(f"There is no device {name!r}.", where="device", remedy=remedy) from error
    if device.type != "cuda":
        raise EngineError(f"The tensorrt backend runs on a GPU, not on {name!r}.", where="device", remedy=remedy)
    if not torch.cuda.is_available():
        raise EngineError("No GPU can be used here.", where="device", remedy=remedy)
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise EngineError(
            f"There is no GPU {index}: {torch.cuda.device_count()} are visible.", where="device", remedy=remedy
        )
    return CudaDevice(torch.device("cuda", index))
