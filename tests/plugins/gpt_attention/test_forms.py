"""The attention plugins' forms say the same: reference = Triton (interpreted) = ONNX function, over drawn batches.

Caches hold NaN and infinities wherever no visible key lies, and outputs start as NaN. Tolerances: float32 sums in
another order; float16 and bfloat16 round the weights of the softmax to the type before the second product, which moves
a result by about a rounding of the largest value (|v| < 4 here, so 4 units).
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.plugins.forms import assert_near, by_kernel, by_onnx_function, by_reference, by_torch_op, compiled
from tests.plugins.gpt_attention.calls import attention_inputs, sizes, update_call
from tests.plugins.gpt_attention.cases import Batch, make_batch

from trtbench_lab.plugins.frame.ptx import parse_entry
from trtbench_lab.plugins.gpt_attention import ATTENTION, COMBINE, SPLIT_ATTENTION, AttentionShape, launch
from trtbench_lab.plugins.gpt_attention.plans import split_tile

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
INT8, FP8 = torch.int8, torch.float8_e4m3fn
PAIRS = ((F32, F32), (F16, F16), (BF16, BF16), (F32, INT8), (F16, INT8), (BF16, INT8), (F16, FP8), (BF16, FP8))
ONNX_PAIRS = ((F32, F32), (F16, F16), (F32, INT8), (F16, INT8))  # those that NumPy can carry

heads = st.sampled_from(((2, 2), (4, 2), (3, 1), (6, 2), (5, 5)))
head_sizes = st.sampled_from((16, 20, 32, 40))
blocks = st.sampled_from((16, 32, 64, 128))
windows = st.sampled_from((0, 0, 1, 5, 33))
rotations = st.sampled_from((0, 1, 2))  # none, neox, interleaved


@st.composite
def shapes(draw: st.DrawFn) -> AttentionShape:
    num_heads, num_kv_heads = draw(heads)
    size, rotation = draw(head_sizes), draw(rotations)
    rotary_dim = draw(st.sampled_from((size, size // 2 // 2 * 2))) if rotation else 0
    return AttentionShape(num_heads, num_kv_heads, size, draw(blocks), rotary_dim, rotation == 2, draw(windows))


@st.composite
def ragged_rows(draw: st.DrawFn, block: int, one_each: bool) -> list[tuple[int, int]]:
    """Rows whose lengths lie around block edges; empty rows too."""
    near_edge = st.builds(lambda edge, off: max(0, edge * block + off), st.integers(0, 1), st.integers(-1, 2))
    past = st.one_of(st.integers(0, 20), near_edge)
    new = st.just(1) if one_each else st.integers(1, 6)
    row = st.one_of(st.tuples(past, new), st.tuples(past, new), st.just((0, 0)))
    return [*draw(st.lists(row, max_size=2)), (draw(past), draw(new))]


@st.composite
def batches(draw: st.DrawFn, pairs: tuple = PAIRS, one_each: bool = False) -> Batch:
    shape = draw(shapes())
    dtype, cache_dtype = draw(st.sampled_from(pairs))
    rows = draw(ragged_rows(shape.tokens_per_block, one_each))
    return make_batch(
        shape, rows, dtype=dtype, cache_dtype=cache_dtype, padding_tokens=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 99)),
    )  # fmt: skip


def few(count: int):
    return settings(max_examples=count, deadline=None, derandomize=True)


def updated(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's queries and cache after the update."""
    plugin, tensors, attributes = update_call(batch)
    query, cache = by_reference(plugin, tensors, attributes)
    return query, cache


def assert_same_cache(found: torch.Tensor, expected: torch.Tensor, batch: Batch, exact: bool) -> None:
    """New slots agree, and every other byte, garbage included, is what it was."""
    before, wide = batch.kv_cache, found.float()
    untouched = before.view(torch.uint8) == expected.view(torch.uint8)
    assert torch.equal(found.view(torch.uint8)[untouched], before.view(torch.uint8)[untouched]) or not exact
    # In float32 a fused multiply-add rotates with one rounding less; a quantized value may then be the next one.
    near = 1e-5 if found.dtype == F32 else 2e-3
    step = 1.0 if found.dtype == INT8 else 0.0
    torch.testing.assert_close(wide, expected.float(), rtol=near, atol=near + step, equal_nan=True)


@few(14)
@given(batch=batches())
@example(batch=make_batch(AttentionShape(2, 1, 16, 16, 16), [(15, 3), (0, 0), (16, 1)], padding_tokens=2))
@example(batch=make_batch(AttentionShape(2, 2, 32, 32, 8, True), [(31, 2)], dtype=BF16, cache_dtype=FP8))
def test_the_update_kernel_computes_the_reference(batch: Batch):
    plugin, tensors, attributes = update_call(batch)
    query, cache = by_reference(plugin, tensors, attributes)
    got_query, got_cache = by_kernel(plugin, tensors, attributes)
    assert_near((got_query,), (query,), ulps=1, scale=2)
    assert_same_cache(got_cache, cache, batch, exact=True)
    op_query, op_cache = by_torch_op(plugin, tensors, attributes)
    assert torch.equal(op_query, query)
    assert torch.equal(op_cache.view(torch.uint8), cache.view(torch.uint8))


@few(8)
@given(batch=batches(pairs=ONNX_PAIRS))
def test_the_update_function_computes_the_reference(batch: Batch):
    plugin, tensors, attributes = update_call(batch)
    query, cache = by_reference(plugin, tensors, attributes)
    got_query, got_cache = by_onnx_function(plugin, tensors, attributes)
    assert_near((got_query,), (query,), ulps=1, scale=2)
    assert_same_cache(got_cache, cache, batch, exact=True)


@few(14)
@given(batch=batches())
@example(batch=make_batch(AttentionShape(4, 2, 16, 16, 16), [(15, 1), (16, 1), (17, 1), (0, 33)], padding_tokens=1))
@example(batch=make_batch(AttentionShape(4, 1, 16, 16, 0, False, 5), [(40, 3), (0, 0)], dtype=F16, padding_tokens=1))
@example(batch=make_batch(AttentionShape(2, 1, 16, 45), [(40, 5), (0, 3)], spare_columns=0))  # one piece a row
def test_the_attention_kernel_computes_the_reference(batch: Batch):
    query, cache = updated(batch)
    inputs, attributes = attention_inputs(batch, query, cache), {**sizes(batch), "window": batch.shape.window}
    expected = by_reference(ATTENTION, inputs, attributes)
    got = by_kernel(ATTENTION, inputs, attributes)
    assert_near(got, expected, ulps=4, scale=1)
    again = by_kernel(ATTENTION, inputs, attributes)
    assert torch.equal(got[0], again[0])
    assert_near(by_torch_op(ATTENTION, inputs, attributes), expected, ulps=0)


@few(8)
@given(batch=batches(pairs=ONNX_PAIRS))
def test_the_attention_function_computes_the_reference(batch: Batch):
    query, cache = updated(batch)
    inputs, attributes = attention_inputs(batch, query, cache), {**sizes(batch), "window": batch.shape.window}
    expected = by_reference(ATTENTION, inputs, attributes)
    assert_near(by_onnx_function(ATTENTION, inputs, attributes), expected, ulps=2, scale=1)


def split_calls(batch: Batch, query: torch.Tensor, cache: torch.Tensor, splits: int):
    """Attributes and inputs of split attention, and what turns its parts into the inputs of the combination."""
    shape = batch.shape
    tile = split_tile(shape, str(cache.dtype).removeprefix("torch."))
    attributes = {**sizes(batch), "window": shape.window, "splits": splits, "tile": tile}
    last = {"num_heads": shape.num_heads, "head_size": shape.head_size, "splits": splits}
    return attention_inputs(batch, query, cache), attributes, last


def finite(weights: torch.Tensor) -> torch.Tensor:
    """Weights with −∞, a part without keys, as a number that can be compared."""
    return torch.nan_to_num(weights, neginf=-1e4)


@few(12)
@given(batch=batches(one_each=True), splits=st.sampled_from((1, 2, 3, 8)))
def test_parts_and_their_combination_compute_the_reference(batch: Batch, splits: int):
    query, cache = updated(batch)
    inputs, attributes, last = split_calls(batch, query, cache, splits)
    whole = by_reference(ATTENTION, inputs, {**sizes(batch), "window": batch.shape.window})
    parts, weights = by_reference(SPLIT_ATTENTION, inputs, attributes)
    got_parts, got_weights = by_kernel(SPLIT_ATTENTION, inputs, attributes)
    assert_near((got_parts, finite(got_weights)), (parts, finite(weights)), ulps=4, scale=1, rounded_to=query.dtype)
    for form in (by_reference, by_kernel):
        assert_near(form(COMBINE, [parts, weights, batch.token_rows, query], last), whole, ulps=2, scale=1)
    combined = by_kernel(COMBINE, [got_parts, got_weights, batch.token_rows, query], last)
    assert_near(combined, whole, ulps=4, scale=1)


@few(6)
@given(batch=batches(pairs=ONNX_PAIRS, one_each=True), splits=st.sampled_from((1, 2, 5)))
def test_the_functions_of_parts_compute_the_reference(batch: Batch, splits: int):
    query, cache = updated(batch)
    inputs, attributes, last = split_calls(batch, query, cache, splits)
    parts, weights = by_reference(SPLIT_ATTENTION, inputs, attributes)
    got_parts, got_weights = by_onnx_function(SPLIT_ATTENTION, inputs, attributes)
    assert_near((got_parts, finite(got_weights)), (parts, finite(weights)), ulps=8, scale=1)
    tensors = [parts, weights, batch.token_rows, query]
    expected = by_reference(COMBINE, tensors, last)
    assert_near(by_onnx_function(COMBINE, tensors, last), expected, ulps=2, scale=1)


@pytest.mark.parametrize("cache_dtype", [F16, INT8, FP8])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_tensorrt(capability: int, cache_dtype: torch.dtype):
    """PTX with exactly the parameters that TensorRT passes, for a GPU that is not here."""
    if cache_dtype == FP8 and capability < 89:
        return  # such GPUs have no float8
    batch = make_batch(AttentionShape(4, 2, 64, 64, 64), [(20, 1), (31, 1)], dtype=F16, cache_dtype=cache_dtype)
    inputs, attributes, last = split_calls(batch, batch.query(), batch.kv_cache, 2)
    parts = [torch.empty(2, 4, 2, 64), torch.empty(2, 4, 2), batch.token_rows, batch.query()]
    calls = [
        (update_call(batch), 2),
        ((ATTENTION, inputs, {**sizes(batch), "window": 0}), 4),
        ((SPLIT_ATTENTION, inputs, attributes), 1),
        ((COMBINE, parts, last), 1),
    ]
    for (plugin, tensors, values), integers in calls:
        kernel = compiled(plugin, tensors, values, capability)
        types = parse_entry(kernel.ptx).types
        assert types.count("u64") == len(plugin.inputs) + len(plugin.outputs)
        assert types.count("u32") == integers
        assert f".target sm_{capability}" in kernel.ptx


def test_packed_projections_serve_as_queries():
    """Queries may stand at the front of wider rows."""
    batch = make_batch(AttentionShape(4, 2, 16, 16, 0), [(3, 4), (0, 2)])
    query, cache = updated(batch)
    packed = torch.cat((query, torch.full((batch.num_tokens, 64), float("nan"))), 1)
    out = torch.full_like(query, float("nan"))
    rest = (cache, batch.query_starts, batch.kv_lengths, batch.block_tables, batch.kv_scale)
    launch.prompt_attention(packed[:, :64], *rest, out, batch.shape)
    expected = by_reference(ATTENTION, [query, *rest], {**sizes(batch), "window": 0})
    assert_near((out,), expected)


def test_the_last_rows_of_a_batch_alone():
    """A mixed step: rows that decode come first and go to split attention, the others to flash attention."""
    batch = make_batch(AttentionShape(4, 2, 16, 16, 0), [(17, 1), (5, 1), (3, 20), (0, 4)], padding_tokens=2)
    query, cache = updated(batch)
    expected = by_reference(
        ATTENTION, attention_inputs(batch, query, cache), {**sizes(batch), "window": 0}
    )[0]  # fmt: skip
    out = torch.full_like(query, float("nan"))
    starts, lengths, tables = batch.query_starts, batch.kv_lengths, batch.block_tables
    launch.prompt_attention(query, cache, starts[2:], lengths[2:], tables[2:], batch.kv_scale, out, batch.shape)
    assert out[:2].isnan().all()
    parts, weights = torch.empty(2, 4, 3, 16), torch.empty(2, 4, 3)
    launch.split_attention(
        query, cache, starts[:3], lengths[:2], tables[:2], batch.kv_scale, parts, weights, batch.shape
    )
    launch.combine_parts(parts, weights, batch.token_rows[:2], out[:2])
    assert_near((out,), (expected,))
