"""A tiny checkpoint, and a fake builder that the build process can import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.fakes import MODES, FakeBuilder

from trtbench_lab.checkpoint import expected_tensors, write_checkpoint
from trtbench_lab.engine import build
from trtbench_lab.specs import Mapping, ModelConfig

ROOT = Path(__file__).resolve().parents[2]


def tiny_config(**changes: Any) -> ModelConfig:
    """Two GPT-2 layers of width 32."""
    values: dict[str, Any] = {
        "architecture": "GPTForCausalLM",
        "dtype": "float32",
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu_new",
    }
    return ModelConfig(**{**values, **changes})


def write_tiny_checkpoint(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint of random weights and return its folder."""
    config = tiny_config(**changes)

    def tensors(rank: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed * 100 + rank)
        expected = expected_tensors(config, config.mapping.with_rank(rank))
        return {
            name: (torch.randn(shape, generator=generator) * 0.1).to(getattr(torch, dtype))
            for name, (shape, dtype) in expected.items()
        }

    write_checkpoint(directory, config, tensors)
    return directory


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source") / "gpt2")


@pytest.fixture(scope="session")
def two_rank_checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(
        tmp_path_factory.mktemp("source2") / "gpt2", mapping=Mapping(world_size=2, tp_size=2, pp_size=1)
    )


@pytest.fixture(autouse=True)
def importable_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeBuilder]:
    """Return a fake builder with the modes given as keywords, in their order."""

    def make(**modes: Any) -> FakeBuilder:
        monkeypatch.setenv(MODES, json.dumps(modes))
        return FakeBuilder()

    return make


@pytest.fixture(scope="session")
def engine_template(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One engine of the fake backend, built once; tests get copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        target = tmp_path_factory.mktemp("template") / "engine"
        return build(checkpoint_dir, output_dir=target, use_cache=False, builder=FakeBuilder()).directory


@pytest.fixture
def folder(engine_template: Path, tmp_path: Path) -> Path:
    """An engine folder of the test's own."""
    return Path(shutil.copytree(engine_template, tmp_path / "engine"))


@pytest.fixture(scope="session")
def cache_template(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three engines, of max_batch_size 1, 2 and 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("TRTBENCH_HOME", str(tmp_path_factory.mktemp("cache")))
        for size in (1, 2, 3):
            engine = build(checkpoint_dir, {"max_batch_size": size}, builder=FakeBuilder())
        return engine.directory.parent
