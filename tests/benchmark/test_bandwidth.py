"""The machine's read bandwidth, and what a decode step reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbench_lab.benchmark.bandwidth import _cpu_set_bytes, decode_read_bytes, read_bandwidth
from trtbench_lab.specs import ModelConfig

MIB = 1 << 20


def test_it_is_measured_once_a_process():
    first = read_bandwidth("cpu")
    assert read_bandwidth() is first
    assert first.working_set_bytes >= 256 * MIB
    assert first.threads >= 1
    # A single memory channel of 2010 reads 10 GB/s, the largest server of 2026 some 2 TB/s.
    assert 1e9 < first.bytes_per_s < 5e12


def caches(root: Path, **sizes: str) -> Path:
    for name, size in sizes.items():
        folder = root / "devices/system/cpu/cpu0/cache" / name
        folder.mkdir(parents=True)
        (folder / "size").write_text(size + "\n")
    return root


@pytest.mark.parametrize(
    ("last_level", "mebibytes"), [("32M", 256), ("32768K", 256), ("96M", 384), ("512M", 1024), ("odd", 256)]
)
def test_the_buffer_is_far_larger_than_the_caches(tmp_path: Path, last_level: str, mebibytes: int):
    root = caches(tmp_path, index0="32K", index3=last_level)
    assert _cpu_set_bytes(root) == mebibytes * MIB


def test_no_sysfs_means_the_default(tmp_path: Path):
    assert _cpu_set_bytes(tmp_path) == 256 * MIB


def model(**changes) -> ModelConfig:
    values = {
        "architecture": "GPTForCausalLM",
        "vocab_size": 50257,
        "max_position_embeddings": 1024,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "position_embedding_type": "learned_absolute",
    }
    return ModelConfig(**{**values, **changes})


def test_gpt2_reads_all_but_its_positions():
    # 124,439,808 parameters; the tied head is read whole, of 1024 positions one row.
    tied = model(tie_word_embeddings=True)
    assert decode_read_bytes(tied, weights_bytes=124_439_808 * 4, element_bytes=4) == (124_439_808 - 1024 * 768) * 4


def test_an_untied_table_is_looked_up():
    untied = model(tie_word_embeddings=False, position_embedding_type="rope_gpt_neox")
    assert decode_read_bytes(untied, weights_bytes=1_000_000_000, element_bytes=2) == 1_000_000_000 - 50257 * 768 * 2
