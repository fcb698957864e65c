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


def test_gpt2_reads_all_but_its_tables():
    # 124,439,808 parameters, the tied head read whole, of 1024 positions one row.
    read = 124_439_808 - 1024 * 768
    for sharing in (False, True):
        tied = model(tie_word_embeddings=True, share_embedding_table=sharing, dtype="float16")
        assert decode_read_bytes(tied) == read * 2
        assert decode_read_bytes(tied, compute_dtype="float32") == read * 4


def test_an_untied_table_is_looked_up():
    untied = model(position_embedding_type="rope_gpt_neox", dtype="float16")
    # 12 layers: qkv, dense, fc, proj with biases and two norms; the last norm; the head.
    layer = 768 * 2304 + 2304 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert decode_read_bytes(untied) == (12 * layer + 2 * 768 + 50257 * 768) * 2


@pytest.mark.parametrize(("algo", "bits"), [("W8A16", 8), ("W4A16", 4)])
def test_quantized_layers_are_read_as_stored_with_their_scales(algo: str, bits: int):
    plain, quantized = model(dtype="float16"), model(dtype="float16", quantization={"quant_algo": algo})
    weights = 12 * 12 * 768 * 768
    scales = 12 * (2304 + 768 + 3072 + 768)
    saved = weights * 4 - (weights * bits // 8 + scales * 4)
    assert (
        decode_read_bytes(plain, compute_dtype="float32") - decode_read_bytes(quantized, compute_dtype="float32")
        == saved
    )
