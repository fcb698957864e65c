"""The attention kernels on a real GPU against the reference, at sizes that models have.

Bounds: float16 and bfloat16 round the softmax's weights before the second product: ‖out − ref‖ / ‖ref‖ stays within one
rounding of the type (2⁻¹¹, 2⁻⁸); a wrong key, scale or mask moves it by more than 0.1.
"""

from __future__ import annotations

import pytest
import torch
from tests.plugins.gpt_attention.calls import update_call
from tests.plugins.gpt_attention.cases import Batch, make_batch

from trtbench_lab.plugins.gpt_attention import ATTENTION, AttentionShape, launch, reference

pytestmark = pytest.mark.gpu

F16, BF16 = torch.float16, torch.bfloat16
BOUND = {torch.float32: 2e-6, F16: 2**-10, BF16: 2**-7}
SHAPES = {
    "gpt2": AttentionShape(12, 12, 64, 64),
    "llama": AttentionShape(8, 2, 128, 64, 128),
    "mqa": AttentionShape(16, 1, 128, 32, 0),
    "small blocks": AttentionShape(6, 3, 80, 16, 20),
    "gptj": AttentionShape(4, 4, 256, 128, 64, True),
    "window": AttentionShape(4, 2, 96, 32, 96, False, 70),
}
MIXED = [(0, 300), (511, 1), (0, 0), (63, 1), (64, 1), (130, 65), (1, 1)]
DECODE = [(0, 1), (31, 1), (63, 1), (64, 1), (65, 1), (0, 0), (1000, 1), (127, 1)]


def attended(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Reference: the cache after the update, and every token's attention."""
    cache = batch.kv_cache.clone()
    tensors = (batch.cos, batch.sin) if batch.shape.rotary_dim else (None, None)
    query = reference.cache_update(
        batch.qkv,
        *tensors,
        batch.position_ids,
        batch.token_rows,
        batch.block_tables,
        batch.kv_scale,
        cache,
        batch.shape,
    )
    rest = (batch.query_starts, batch.kv_lengths, batch.block_tables, batch.kv_scale)
    return cache, reference.attention(query, cache, *rest, batch.shape)


def assert_close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    wide, other = found.cpu().double(), expected.double()
    assert torch.isfinite(wide).all()
    assert float((wide - other).norm() / other.norm()) <= BOUND[dtype]


@pytest.mark.parametrize(
    ("dtype", "cache_dtype"),
    [
        (torch.float32, torch.float32), (F16, F16), (BF16, BF16), (F16, torch.int8), (BF16, torch.int8),
        (F16, torch.float8_e4m3fn), (BF16, torch.float8_e4m3fn),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", SHAPES)
def test_a_mixed_step_and_a_decode_step(name: str, dtype: torch.dtype, cache_dtype: torch.dtype):
    for rows in (MIXED, DECODE):
        batch = make_batch(SHAPES[name], rows, dtype=dtype, cache_dtype=cache_dtype, padding_tokens=5)
        cache, expected = attended(batch)
        on_gpu = batch.to("cuda")
        plugin, tensors, attributes = update_call(on_gpu)
        query, got_cache = plugin.launch(*tensors, **attributes)
        steps = (got_cache.cpu().float() - cache.float()).abs().nan_to_num(0.0)
        assert float(steps.max()) <= (1.0 if cache_dtype == torch.int8 else 0.5)
        outcomes = []
        for _ in range(2):
            out = torch.full_like(query, float("nan"))
            rest = (on_gpu.query_starts, on_gpu.kv_lengths, on_gpu.block_tables, on_gpu.kv_scale)
            launch.prompt_attention(query, got_cache, *rest, out, batch.shape)
            outcomes.append(out)
        assert torch.equal(*outcomes)
        assert_close(outcomes[0], expected, dtype)
        if rows is DECODE:
            for splits in (1, 2, 7, 16):
                outcomes = []
                for _ in range(2):
                    heads = (len(rows), batch.shape.num_heads, splits)
                    parts = torch.full((*heads, batch.shape.head_size), float("nan"), device="cuda")
                    weights = torch.full(heads, float("nan"), device="cuda")
                    out = torch.full_like(query, float("nan"))
                    launch.split_attention(query, got_cache, *rest, parts, weights, batch.shape)
                    launch.combine_parts(parts, weights, on_gpu.token_rows, out)
                    outcomes.append(out)
                assert torch.equal(*outcomes)
                assert_close(outcomes[0], expected, dtype)


def test_a_graph_follows_lengths_that_change_on_the_device():
    """One capture serves every step: lengths, positions and tables are read when it runs."""
    shape = SHAPES["llama"]
    batch = make_batch(shape, [(200, 1), (90, 1), (0, 0)], dtype=F16).to("cuda")
    query, out = batch.query(), batch.query()
    sizes = {"num_heads": 8, "num_kv_heads": 2, "head_size": 128, "tokens_per_block": 64}
    rest = (batch.query_starts, batch.kv_lengths, batch.block_tables, batch.kv_scale)

    def step() -> None:
        places = (batch.position_ids, batch.token_rows, batch.block_tables, batch.kv_scale, batch.kv_cache)
        launch.write_cache(batch.qkv, batch.cos, batch.sin, *places, query, shape)
        launch.prompt_attention(query, batch.kv_cache, *rest, out, shape)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        batch.kv_lengths[:2] += 1
        batch.position_ids[:2] += 1
        batch.qkv.copy_(torch.randn_like(batch.qkv))
        out.fill_(float("nan"))
        graph.replay()
        inputs = [query, batch.kv_cache, *rest]
        expected = ATTENTION.reference(*[one.cpu() for one in inputs], **sizes, window=0)
        assert_close(out, expected, F16)
