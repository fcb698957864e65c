"""The executor's view of CUDA on a real GPU, without TensorRT: captures, replays, streams, memory by address."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.backends.tensorrt.cuda import cuda_device


@pytest.mark.gpu
def test_a_captured_step_is_replayed_on_its_stream_and_sees_new_contents():
    cuda = cuda_device(None)
    stream = cuda.new_stream()
    assert cuda.handle(stream) != 0
    x, y = (torch.zeros(1024, device=cuda.device) for _ in range(2))

    def enqueue() -> None:
        torch.add(x, 1, out=y)

    cuda.follow(stream, cuda.current_stream())
    with torch.cuda.stream(stream):
        enqueue()
    replay = cuda.capture(stream, enqueue)
    assert replay is not None
    x.fill_(41)
    cuda.follow(stream, cuda.current_stream())
    replay()
    cuda.follow(cuda.current_stream(), stream)
    assert y.eq(42).all()


@pytest.mark.gpu
def test_a_capture_that_cuda_refuses_leaves_the_stream_usable():
    cuda = cuda_device(None)
    stream = cuda.new_stream()
    x = torch.zeros(8, device=cuda.device)

    def enqueue() -> None:
        x.add_(1)
        if torch.cuda.is_current_stream_capturing():
            x.cpu()  # waits for the stream, which a capture cannot

    with torch.cuda.stream(stream):
        enqueue()
    with pytest.raises((RuntimeError, torch.AcceleratorError)):
        cuda.capture(stream, enqueue)
    with torch.cuda.stream(stream):
        x.fill_(7)
    cuda.synchronize(stream)
    assert x.eq(7).all()


@pytest.mark.gpu
def test_device_memory_is_read_through_its_address():
    cuda = cuda_device("cuda:0")
    stream = cuda.new_stream()
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.float8_e4m3fn):
        content = torch.arange(6, device=cuda.device).reshape(2, 3).to(dtype)
        cuda.follow(stream, cuda.current_stream())
        found = cuda.host_copy(content.data_ptr(), (2, 3), dtype, cuda.handle(stream))
        assert found.dtype == dtype
        assert torch.equal(found.float(), content.float().cpu())
    assert cuda.host_copy(0, (0, 3), torch.float32, cuda.handle(stream)).shape == (0, 3)
    assert cuda.empty(300).data_ptr() % 256 == 0
    assert cuda.free_bytes() > 0
