"""A build of several ranks in turn holds one rank's weights, not all of them."""

from __future__ import annotations

import torch
from tests.engine.conftest import tiny_config

from trtbench_lab.checkpoint import expected_tensors, write_checkpoint
from trtbench_lab.checkpoint.writer import rank_bytes
from trtbench_lab.engine import build
from trtbench_lab.specs import BuildConfig, Mapping

_KEPT_BYTES = 32 << 20
"""What glibc keeps of freed copies: those up to this size it takes from its own pool. At 175B it is no share at all."""


def peak_of_dummy_ranks(folder, **shape) -> tuple[int, int]:
    """Build three ranks of matrices of zeros; return the build's peak and the largest rank's bytes."""
    mapping = Mapping(tp_size=3)
    config = tiny_config(num_attention_heads=6, mapping=mapping, **shape)

    def dummy(rank: int) -> dict[str, torch.Tensor]:
        # Biases are not zero: a trial of the engine looks for keys in its cache.
        expected = expected_tensors(config, mapping.with_rank(rank))
        return {name: torch.full(size, 0.01 if len(size) == 1 else 0.0) for name, (size, _) in expected.items()}

    write_checkpoint(folder / "checkpoint", config, dummy)
    engine = build(folder / "checkpoint", BuildConfig(backend="torch"), folder / "engine", use_cache=False)
    return engine.build_report.peak_bytes, max(rank_bytes(config, rank) for rank in range(3))


def test_ranks_that_are_built_in_turn_take_the_memory_of_one(tmp_path):
    libraries, _ = peak_of_dummy_ranks(tmp_path / "small", hidden_size=48)
    peak, weights = peak_of_dummy_ranks(tmp_path / "large", hidden_size=960, num_hidden_layers=6)
    assert weights > 80e6  # much more than what a process's memory varies by
    assert peak - libraries <= 1.2 * weights + _KEPT_BYTES
