"""What surrounds the steps: the plan of the cache, the table of choices, the store of kernels, the buckets."""

from __future__ import annotations

import json
import multiprocessing
import zipfile
from pathlib import Path

import pytest
import torch
from tests.backends.models import checkpoint_of, random_model
from tests.ranks.direct_build import build_here

from trtbench_lab.backends.torch.builder import default_device
from trtbench_lab.backends.torch.engine_file import layout_of
from trtbench_lab.backends.torch.fused import form_of, resolve_fused, wants_fused
from trtbench_lab.backends.torch.gpu import kernel_store, tuning
from trtbench_lab.backends.torch.gpu.attention import Heads, decode_tiles
from trtbench_lab.backends.torch.gpu.graphs import bucket_for, buckets
from trtbench_lab.backends.torch.gpu.kernel_store import KernelStore, store_of
from trtbench_lab.backends.torch.gpu.memory_plan import budget_bytes, plan_cache
from trtbench_lab.errors import EngineError, SpecError
from trtbench_lab.plugins.matmul.choice import Choice
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, ModelConfig, PluginConfig, QuantConfig

MODEL = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=100, max_position_embeddings=256, hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, position_embedding_type="rope_gpt_neox",
)  # fmt: skip
BUILD = BuildConfig(compute_dtype="float16", max_batch_size=4, max_input_len=100, max_seq_len=200)
GIB = 1 << 30
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_pool_holds_every_sequence_where_there_is_room() -> None:
    plan = plan_cache(MODEL, BUILD, 1 * GIB)
    # 200 tokens take 4 blocks of 64; 2 layers × 2 × 2 heads × 64 tokens × 16 elements × 2 bytes a block.
    assert (plan.tokens_per_block, plan.blocks_per_row, plan.num_blocks) == (64, 4, 17)
    assert plan.block_bytes == 2 * 2 * 2 * 64 * 16 * 2
    assert plan.nbytes == 17 * plan.block_bytes
    assert "room for 5 of 4 sequences" in plan.sentence or "room for" in plan.sentence


def test_a_small_budget_makes_a_smaller_pool_and_none_at_all_is_refused() -> None:
    block = plan_cache(MODEL, BUILD, 1 * GIB).block_bytes
    assert plan_cache(MODEL, BUILD.replace(kv_cache_memory=f"{9 * block}B"), 1 * GIB).num_blocks == 9
    with pytest.raises(EngineError, match=r"One sequence of 200 tokens needs .* K/V cache") as caught:
        plan_cache(MODEL, BUILD.replace(kv_cache_memory=f"{4 * block}B"), 1 * GIB)
    assert "kv_cache_memory" in str(caught.value)


def test_a_contiguous_cache_is_one_block_a_sequence_and_a_quantized_one_takes_a_byte_a_value() -> None:
    plan = plan_cache(MODEL, BUILD, 1 * GIB, contiguous=True)
    assert (plan.tokens_per_block, plan.blocks_per_row, plan.num_blocks) == (200, 1, 5)
    small = plan_cache(MODEL.replace(quantization=QuantConfig(kv_cache_quant_algo="INT8")), BUILD, 1 * GIB)
    assert small.dtype == torch.int8
    assert small.block_bytes * 2 == plan_cache(MODEL, BUILD, 1 * GIB).block_bytes


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("0.5", 500), ("1", 1000), ("400B", 400), ("2GiB", 1000), ("1MB", 1000)],
)
def test_budgets_are_shares_or_amounts_and_never_more_than_is_free(setting: str, expected: int) -> None:
    assert budget_bytes(setting, 1000) == expected


@pytest.mark.parametrize("setting", ["0", "1.5", "-1", "much", "20 apples"])
def test_a_budget_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(SpecError, match="kv_cache_memory"):
        BuildConfig(kv_cache_memory=setting)


def test_buckets_cover_every_batch() -> None:
    for most in (1, 3, 8, 17, 64, 200):
        sizes = buckets(most)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == most
        assert all(rows <= bucket_for(rows, most) <= max(2 * rows, rows + 31) for rows in range(1, most + 1))


def test_keys_are_split_more_the_fewer_programs_there_are() -> None:
    heads = Heads(32, 8, 128, 64, False, None, 1.0)
    splits = [decode_tiles(rows, heads, 1024, 132).splits for rows in (1, 4, 16, 64)]
    assert splits == sorted(splits, reverse=True)
    assert (splits[0], splits[-1]) == (8, 1)
    assert decode_tiles(1, heads, 16384, 132).splits == 32  # long sequences are worth more parts
    assert decode_tiles(1, heads, 1024, 132).ahead
    assert not decode_tiles(8, Heads(16, 16, 64, 0, False, None, 1.0), 1024, 132).ahead  # slower with narrow heads
    assert decode_tiles(1, heads, 1024, 132, "disable").splits == 1
    assert decode_tiles(512, heads, 1024, 132, "enable").splits == 2


def test_timings_survive_a_file_and_only_for_the_machine_that_took_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.cache"
    table = tuning.ChoiceTable({"1x8x8-dense": Choice("matvec", block_n=2)}, {"1x8x8-dense": {"matvec": 1.5}})
    tuning.write_cache(path, table)
    assert tuning.read_cache(path).choices == table.choices
    here = tuning.environment()
    monkeypatch.setattr(tuning, "environment", lambda: {**here, "driver": "another"})
    assert tuning.read_cache(path).choices == {}
    tuning.write_cache(path, tuning.ChoiceTable({"k": Choice("library")}))
    assert len(json.loads(path.read_text())["entries"]) == 2


def _write_choices(path: Path, number: int) -> None:
    for step in range(20):
        key = f"{number}-{step}"
        tuning.write_cache(path, tuning.ChoiceTable({key: Choice("library")}, {key: {"library": 1.0}}))


def test_ranks_that_are_built_side_by_side_share_their_timings(tmp_path: Path) -> None:
    path = tmp_path / "model.cache"
    ranks = [multiprocessing.get_context("fork").Process(target=_write_choices, args=(path, i)) for i in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    table = tuning.read_cache(path)
    assert len(table.choices) == len(table.times_us) == 60
    assert [file.name for file in tmp_path.iterdir()] == ["model.cache"]
    tuning.write_cache(path, tuning.ChoiceTable({"0-0": Choice("matvec", block_n=2)}))
    assert tuning.read_cache(path).choices["0-0"].kernel == "matvec"  # timed anew: the later one holds


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other", "entries": []}'])
def test_a_damaged_timing_file_counts_as_empty(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.cache").write_text(content)
    assert tuning.read_cache(tmp_path / "model.cache").choices == {}


def test_kernels_are_packed_and_unpacked_once(tmp_path: Path) -> None:
    (tmp_path / "made" / "ab").mkdir(parents=True)
    (tmp_path / "made" / "ab" / "k.cubin").write_bytes(b"code")
    engine = tmp_path / "rank0.engine"
    assert store_of(engine).folder is None
    assert KernelStore(tmp_path / "made").pack(engine.with_suffix(".kernels")) == 1
    first = store_of(engine).folder
    assert first is not None
    assert (first / "ab" / "k.cubin").read_bytes() == b"code"
    assert store_of(engine).folder == first


def test_an_archive_that_leaves_its_folder_or_is_cut_off_is_refused(tmp_path: Path) -> None:
    engine = tmp_path / "rank0.engine"
    with zipfile.ZipFile(engine.with_suffix(".kernels"), "w") as archive:
        archive.writestr("../outside", b"x")
    with pytest.raises(EngineError, match="outside of it"):
        store_of(engine)
    engine.with_suffix(".kernels").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(EngineError, match="damaged"):
        store_of(engine)
    assert not (tmp_path / "outside").exists()


def test_a_store_is_tritons_folder_for_its_body_only(tmp_path: Path) -> None:
    knobs = kernel_store._knobs()
    before = knobs.cache.dir
    with KernelStore(tmp_path).used():
        assert knobs.cache.dir == str(tmp_path)
    assert knobs.cache.dir == before


def test_a_gpu_takes_the_paged_form_unless_told_otherwise_and_a_cpu_when_asked() -> None:
    off = PluginConfig(
        gpt_attention_plugin="disable", context_fmha=False, remove_input_padding=False, paged_kv_cache=False
    )
    assert wants_fused(MODEL, BUILD, CUDA)
    assert not wants_fused(MODEL, BUILD.replace(plugin_config=off), CUDA)
    assert not wants_fused(MODEL, BUILD, CPU)
    assert wants_fused(MODEL, BUILD.replace(plugin_config=PluginConfig(gpt_attention_plugin="auto")), CPU)
    assert wants_fused(MODEL, BUILD.replace(plugin_config=PluginConfig(use_inflight_batching=True)), CPU)
    assert form_of(MODEL, BUILD.replace(plugin_config=off)) is None
    form = form_of(MODEL, BUILD.replace(plugin_config=PluginConfig(paged_kv_cache=False)))
    assert form is not None
    assert form.tokens_per_block == 200


def test_resolution_tells_what_the_level_does_and_keeps_what_is_honoured() -> None:
    asked = BUILD.replace(opt_level=4, max_num_tokens=77, timing_cache="old.cache")
    resolved, notes = resolve_fused(MODEL, asked, dtypes=("float16",), reason="", device=CUDA)
    assert (resolved.max_num_tokens, resolved.timing_cache) == (77, "old.cache")
    assert any(note.startswith("opt_level 4: ") for note in notes)
    assert not any("max_num_tokens has no effect" in note for note in notes)


def test_resolution_tells_which_options_of_attention_change_nothing() -> None:
    def resolved(**plugins: bool) -> tuple[BuildConfig, str]:
        asked = BUILD.replace(plugin_config=PluginConfig(gpt_attention_plugin="auto", **plugins))
        config, notes = resolve_fused(MODEL, asked, dtypes=("float16",), reason="", device=CUDA)
        return config, " ".join(notes)

    assert "context_fmha" not in resolved()[1]
    assert (
        "context_fmha_fp32_acc: the attention of prompts sums in float32 always"
        in resolved(context_fmha_fp32_acc=True)[1]
    )
    config, notes = resolved(context_fmha=False)
    assert config.plugin_config.context_fmha
    assert "context_fmha: prompts attend in flash form all the same" in notes


@pytest.mark.parametrize(("dtype", "linear"), [("float32", "in_out"), ("bfloat16", "out_in"), ("float16", "out_in")])
def test_a_cpus_16_bit_weights_lie_as_its_products_read_them(dtype: str, linear: str, tmp_path: Path) -> None:
    model = random_model("llama", tmp_path / "model")
    checkpoint_of(model, tmp_path / "checkpoint")
    config = BuildConfig(backend="torch", compute_dtype=dtype, max_batch_size=1, max_input_len=8, max_seq_len=16)
    engine = build_here(tmp_path / "checkpoint", config, tmp_path / "engine")
    wanted = "out_in" if default_device().type == "cuda" else linear
    assert layout_of(engine / "rank0.engine").linear == wanted
    with ModelRunner.from_dir(engine) as runner:
        (ours,) = runner.logits_of([[5, 17, 40, 3]])
    theirs = model.logits(torch.tensor([[5, 17, 40, 3]]))[0]
    # 8 bits of mantissa in bfloat16 over two layers; 11 in float16.
    bound = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}[dtype]
    assert float((ours - theirs).abs().max()) <= bound * float(theirs.max() - theirs.min())
