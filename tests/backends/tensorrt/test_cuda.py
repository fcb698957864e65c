"""What only a GPU shows: with TensorRT's libraries conformance and engines, with a GPU alone the CUDA side."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import Described, Driver, checkpoint_of, random_model

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.registry import backend
from trtbench_lab.backends.tensorrt.cuda import cuda_device
from trtbench_lab.doctor.conformance import run_conformance
from trtbench_lab.specs import BuildConfig

# ---- CUDA, without TensorRT ----------------------------------------------------------------------------------------


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


# ---- TensorRT ------------------------------------------------------------------------------------------------------


@pytest.mark.tensorrt
def test_conformance(tmp_path):
    report = run_conformance(bundle_dir=tmp_path)
    assert report.ok, repr(report)
    assert report.bundle.is_file()


@pytest.mark.tensorrt
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("options", [{}, {"phase_engines": "two"}, {"capacity_buckets": [32]}], ids=str)
def test_a_real_engine_gives_hugging_faces_logits(tmp_path, family, options):
    model = random_model(family, tmp_path / "hf")
    config = checkpoint_of(model, tmp_path / "checkpoint")
    builder = backend("tensorrt")
    limits = {"max_batch_size": 2, "max_input_len": 16, "max_seq_len": 64, "gather_context_logits": True}
    resolved = builder.resolve(config, BuildConfig(**limits, **options)).build_config
    (tmp_path / "engine").mkdir()
    builder.build(tmp_path / "checkpoint", 0, resolved, tmp_path / "engine", QuietReporter())
    executor = builder.load(tmp_path / "engine", 0, Described(config, resolved))
    tokens = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(4))
    for capacity in executor.cache_capacities:
        driver = Driver(executor, 2, capacity)
        logits = [driver.step(tokens[:, :12])] + [driver.step(tokens[:, i : i + 1]) for i in range(12, 20)]
        reference = model.logits(tokens)
        # float32 with TF32 products: 10 bits of each factor, over sums of 64.
        assert (torch.cat(logits, 1) - reference).abs().max() < 2e-2 * reference.abs().max()
    assert executor.num_graphs >= 1
