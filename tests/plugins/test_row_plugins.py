"""Norms, gated products, lookups and quantizations: their four forms say the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins.cases import FLOATS, PLUGINS, attributes, inputs
from tests.plugins.forms import assert_near, by_kernel, by_onnx_function, by_reference, by_torch_op, compiled

from trtbench_lab.errors import SpecError
from trtbench_lab.plugins.frame.ptx import parse_entry
from trtbench_lab.quantization.smoothquant import integer_inputs

shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 70))
every_plugin = pytest.mark.parametrize("name", list(PLUGINS))


@every_plugin
@settings(max_examples=6, deadline=None, derandomize=True)
@given(shape=shapes, dtype=st.sampled_from(FLOATS), seed=st.integers(0, 100))
def test_kernel_computes_the_reference(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int):
    plugin = PLUGINS[name]
    tensors, values = inputs(plugin, shape, dtype, seed), attributes(plugin)
    expected = by_reference(plugin, tensors, values)
    # A norm's rounding is followed by a weight's; where results are quantized, a rounding more may move a step.
    assert_near(by_kernel(plugin, tensors, values), expected, ulps=1, scale=2, rounded_to=dtype)
    assert_near(by_torch_op(plugin, tensors, values), expected, ulps=0, integer_steps=0)


@every_plugin
@settings(max_examples=4, deadline=None, derandomize=True)
@given(shape=shapes, dtype=st.sampled_from((torch.float32, torch.float16)), seed=st.integers(0, 100))
def test_onnx_function_computes_the_reference(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int):
    plugin = PLUGINS[name]
    tensors, values = inputs(plugin, shape, dtype, seed), attributes(plugin)
    expected = by_reference(plugin, tensors, values)
    assert_near(by_onnx_function(plugin, tensors, values), expected, ulps=1, scale=2, rounded_to=dtype)


@pytest.mark.parametrize("capability", [80, 90])
@every_plugin
def test_kernel_compiles_for_tensorrt(name: str, capability: int):
    plugin = PLUGINS[name]
    dtype = {80: torch.float16, 90: torch.bfloat16}[capability]
    kernel = compiled(plugin, inputs(plugin, (2, 48), dtype), attributes(plugin), capability)
    pointers = len(plugin.inputs) + len(plugin.outputs)
    assert parse_entry(kernel.ptx).types.count("u64") == pointers
    assert f".target sm_{capability}" in kernel.ptx
    assert kernel.num_threads % 32 == 0


@pytest.mark.parametrize("step", [None, 0.02])
def test_integers_are_those_of_the_checkpoints_quantization(step: float | None):
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(2)) * torch.tensor([[0.0], [0.1], [1], [3], [100]])
    scale = None if step is None else torch.tensor([step])
    plugin, tensors = PLUGINS["quantize_per_token" if step is None else "quantize_tensor"], [x]
    found = by_kernel(plugin, tensors + ([] if scale is None else [scale]), {})
    integers, steps = integer_inputs(x, scale)
    assert torch.equal(found[0], integers)
    if step is None:
        assert torch.equal(found[1], steps)


@pytest.mark.parametrize("name", ["quantize_per_token", "quantize_tensor"])
def test_quantization_is_exact_at_ties_and_ends(name: str):
    plugin = PLUGINS[name]
    # 127 fixes the scale to 1 (a scale a token), so halves are exact ties; the static scale of 0.02 saturates.
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 0.0], [0.0] * 8])
    tensors = [x] if name == "quantize_per_token" else [x, torch.tensor([0.02])]
    expected = by_reference(plugin, tensors, {})
    for form in (by_kernel, by_onnx_function):
        assert_near(form(plugin, tensors, {}), expected, ulps=0, integer_steps=0)
    first = [127, 0, 2, 2, 0, -2, -126, 0] if name == "quantize_per_token" else [127, 25, 75, 125, -25, -75, -127, 0]
    assert expected[0].tolist() == [first, [0] * 8]


def test_layer_norm_survives_a_large_mean():
    plugin = PLUGINS["layer_norm"]
    x = torch.randn(2, 64) + 1000  # E[x²] − E[x]² would lose everything in float32
    tensors = [x, torch.ones(64), torch.zeros(64)]
    expected = (x.double() - x.double().mean(-1, keepdim=True)) / x.double().std(-1, unbiased=False, keepdim=True)
    for form in (by_reference, by_kernel, by_onnx_function):
        (found,) = form(plugin, tensors, {"epsilon": 1e-5})
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)  # 1000's last bit is 6e-5 of x


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_lookup_gives_zeros_for_rows_of_other_ranks(ids: torch.dtype):
    table = torch.arange(1.0, 7.0).view(3, 2)
    tensors = [torch.tensor([[4, 5, 6], [7, 8, 2**31 - 1]], dtype=ids), table]
    expected = torch.tensor([[[0, 0], [1, 2], [3, 4]], [[5, 6], [0, 0], [0, 0]]], dtype=torch.float32)
    for form in (by_reference, by_torch_op, by_kernel, by_onnx_function):
        assert torch.equal(form(PLUGINS["lookup"], tensors, {"first_row": 5})[0], expected)


@pytest.mark.gpu
@every_plugin
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 4096), (3, 7, 5120), (1, 130, 768), (2, 2, 11008), (0, 4, 64)])
def test_kernel_on_the_gpu(name: str, dtype: torch.dtype, shape: tuple[int, ...]):
    plugin = PLUGINS[name]
    tensors, values = inputs(plugin, shape, dtype, device="cuda"), attributes(plugin)
    expected = by_reference(plugin, tensors, values)
    found = by_kernel(plugin, tensors, values)
    if 0 in shape:
        assert [one.shape for one in found] == [one.shape for one in expected]
        return
    assert_near(found, expected, ulps=1, scale=2, rounded_to=dtype)
    assert_near(by_torch_op(plugin, tensors, values), found, ulps=0, integer_steps=0)


@pytest.mark.parametrize(
    ("name", "tensors", "told"),
    [
        ("swiglu", (torch.zeros(2, 8), torch.zeros(1, 8)), "gate"),
        ("swiglu", (torch.zeros(2, 8), torch.zeros(8)), "gate"),
        ("rms_norm", (torch.zeros(2, 8), torch.ones(1)), "weight"),
        ("layer_norm", (torch.zeros(2, 8), torch.ones(8), torch.zeros(4)), "bias"),
        ("add_rms_norm", (torch.zeros(2, 8), torch.zeros(1, 8), torch.ones(8)), "residual"),
    ],
)
def test_nothing_is_broadcast(name: str, tensors: tuple[torch.Tensor, ...], told: str):
    """The kernels read as many rows and columns of each as x has; fewer would be read beyond their end."""
    plugin = PLUGINS[name]
    with pytest.raises(SpecError, match=f"{told} has the extents"):
        plugin.launch(*tensors, **({"epsilon": 1e-5} if "norm" in name else {}))
