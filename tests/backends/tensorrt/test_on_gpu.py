"""Engines against Hugging Face: on a GPU with TensorRT's libraries, and the same steps over the simulation anywhere.

What the simulated cases prove is that these tests are sound; what TensorRT computes is proven by the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.models import FAMILIES, Described, Driver, checkpoint_of, random_model
from tests.backends.tensorrt.simulated_builder import SimulatedBuilder

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.tensorrt import loading
from trtbench_lab.backends.tensorrt.builder import TensorRTBuilder
from trtbench_lab.backends.tensorrt.conformance.features import FEATURES, Feature
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.specs import BuildConfig

CAPACITY = 24
OPTIONS: dict[str, Any] = {
    "max_batch_size": 2,
    "max_input_len": 8,
    "max_seq_len": CAPACITY,
    "gather_context_logits": True,
}
ON_GPU = pytest.mark.tensorrt
CASES = [
    pytest.param("simulated", "llama", {}, 1e-4, id="simulated"),
    *[pytest.param("tensorrt", family, {}, 1e-3, id=family, marks=ON_GPU) for family in FAMILIES],
    # 11 and 8 bits of mantissa, through three layers of random weights.
    pytest.param("tensorrt", "llama", {"compute_dtype": "float16"}, 2e-2, id="float16", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"compute_dtype": "bfloat16"}, 1e-1, id="bfloat16", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"phase_engines": "two"}, 1e-3, id="two engines", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"refit": True}, 1e-3, id="refit", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"weight_streaming": True}, 1e-3, id="weight streaming", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"enable_debug_output": True}, 1e-3, id="debug output", marks=ON_GPU),
    pytest.param("tensorrt", "llama", {"opt_level": 0}, 1e-3, id="opt level 0", marks=ON_GPU),
]


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that makes a model, builds its engine and gives both; engines are closed at the end."""
    opened: list[Any] = []

    def make(where: str, family: str, options: dict[str, Any]) -> tuple[Any, Any]:
        builder: TensorRTBuilder = TensorRTBuilder()
        if where == "simulated":
            monkeypatch.setitem(sys.modules, "tensorrt", None)
            monkeypatch.setattr(loading, "cuda_device", loading.cuda_device)
            builder = SimulatedBuilder()
        model = random_model(family, tmp_path / "hf")
        checkpoint_of(model, tmp_path / "checkpoint")
        config = open_checkpoint(tmp_path / "checkpoint").config
        resolved = builder.resolve(config, BuildConfig(**{**OPTIONS, **options})).build_config
        (tmp_path / "engine").mkdir()
        builder.build(tmp_path / "checkpoint", 0, resolved, tmp_path / "engine", QuietReporter())
        opened.append(builder.load(tmp_path / "engine", 0, Described(config, resolved)))
        return model, opened[-1]

    yield make
    for executor in opened:
        executor.close()


def near(found: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= bound * spread


@pytest.mark.parametrize(("where", "family", "options", "bound"), CASES)
def test_engines_give_hugging_faces_logits(
    engine_of: Any, where: str, family: str, options: dict[str, Any], bound: float
):
    """A prompt, decode steps, a prompt in chunks and a ragged batch, each over caches that start as large noise."""
    model, executor = engine_of(where, family, options)
    tokens = torch.randint(0, 97, (2, 14), generator=torch.Generator().manual_seed(1))
    expected = model.logits(tokens)

    driver = Driver(executor, 2, CAPACITY)  # slots that were never written hold noise: seeing one shows
    near(driver.step(tokens[:, :6]), expected[:, :6], bound)
    for position in range(6, 10):
        found = driver.step(tokens[:, position : position + 1])
        near(found[:, 0], expected[:, position], bound)
    near(driver.step(tokens[:, 10:14]), expected[:, 10:14], bound)  # a chunk after decode steps

    single = Driver(executor, 1, CAPACITY)
    near(single.step(tokens[:1, :8]), expected[:1, :8], bound)
    near(single.step(tokens[:1, 8:9])[:, 0], expected[:1, 8], bound)

    ragged = Driver(executor, 2, CAPACITY)
    ragged.step(tokens[:, :5])
    ragged.lengths = torch.tensor([5, 3])  # the second row's last two tokens are padding
    found = ragged.step(torch.stack([tokens[0, 5:6], tokens[1, 3:4]]))
    near(found[0, 0], expected[0, 5], bound)
    near(found[1, 0], expected[1, 3], bound)


@pytest.mark.tensorrt
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_conformance(feature: Feature, tmp_path: Path):
    """The cases of ``trtbench doctor --conformance``: what fails here is refused in builds on this machine."""
    from trtbench_lab.backends.tensorrt.conformance.harness import Site, try_features
    from trtbench_lab.backends.tensorrt.conformance.refusals import current_machine

    (outcome,) = try_features([feature], Site(current_machine(), torch.cuda.device_count(), tmp_path))
    assert not outcome.bad, outcome
