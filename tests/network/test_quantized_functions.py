"""Bodies of the quantized products' functions on ONNX Runtime, against the formats' definition in NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trtbench_lab.network.onnx_quantized_functions import QUANTIZED_SOURCES

OUT = 5
CASES = [name for _, name in QUANTIZED_SOURCES]
F8 = ml_dtypes.float8_e4m3fn


def packed(integers: np.ndarray) -> bytes:
    """Two 4-bit elements a byte, the even one low."""
    low = integers.reshape(-1, 2).astype(np.uint8) & 15
    return (low[:, 0] | low[:, 1] << 4).tobytes()


def run(name: str, x: np.ndarray, tensors: dict[str, Any], attributes: dict[str, int]) -> np.ndarray:
    """Run one function on ONNX Runtime; `tensors` are its other inputs, in order."""
    source = QUANTIZED_SOURCES["trtbench", name]
    initializers = []
    for key, value in tensors.items():
        if isinstance(value, tuple):  # 4-bit: what it holds, and its form
            initializers.append(helper.make_tensor(key, TensorProto.INT4, value[1], packed(value[0]), raw=True))
        else:
            kind = TensorProto.FLOAT8E4M3FN if value.dtype == F8 else helper.np_dtype_to_tensor_dtype(value.dtype)
            initializers.append(helper.make_tensor(key, kind, value.shape, value.tobytes(), raw=True))
    node = helper.make_node(name, ["x", *tensors], ["y"], domain="trtbench", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    places = [helper.make_tensor_value_info(value, kind, None) for value in ("x", "y")]
    places[0] = helper.make_tensor_value_info("x", kind, x.shape)
    graph = helper.make_graph([node], "product", places[:1], places[1:], initializers)
    imports = [helper.make_opsetid("", 24), helper.make_opsetid("trtbench", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[onnx.parser.parse_function(source)])
    model.ir_version = 11
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its optimizer takes pairs of FP8 for pairs of INT8, and rounds inputs of 4-bit products.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def product(name: str, rng: np.random.Generator, x: np.ndarray, group: int) -> tuple[np.ndarray, dict, dict]:
    """Draw a layer → (what it gives for x by definition, the function's tensors, its attributes)."""
    width = x.shape[-1]
    groups = width // group
    scale = (0.01 * (0.5 + rng.random((OUT, groups)))).astype(np.float32)
    channel = scale[:, :1]
    if name == "Fp8Round":
        step = np.float32(np.abs(x).max() / 448 or 1.0)
        return (x / step).astype(F8).astype(np.float32) * step, {"step": np.array(step)}, {}
    if name.startswith(("Int8Static", "Int8Token", "Fp8")):
        most = 127 if name.startswith("Int8") else 448
        token = "Token" in name
        largest = np.abs(x).max(-1, keepdims=True) if token else np.abs(x).max()
        step = np.where(largest > 0, largest / np.float32(most), 1).astype(np.float32)
        if most == 127:
            weight = rng.integers(-127, 128, (OUT, width), dtype=np.int8)
            inputs = np.rint(x / step)
        else:
            weight = rng.standard_normal((OUT, width)).astype(F8)
            inputs = (x / step).astype(F8).astype(np.float32)
        expected = inputs @ weight.astype(np.float32).T * step * channel[:, 0]
        tensors = {"weight": weight, "scale": channel[:, 0].copy()}
        return expected, tensors if token else {**tensors, "step": step.reshape(())}, {}
    four = name.startswith("Int4")
    half = 8 if four else 128
    integers = rng.integers(-half, half, (OUT, groups, group)).astype(np.int8)
    if name == "Int8MatMul":
        dense = integers.reshape(OUT, width) * channel
        return x @ dense.T, {"weight": integers.reshape(OUT, width), "scale": channel[:, 0].copy()}, {}
    zero = rng.integers(-half, half, (OUT, groups)).astype(np.float32) if "Zero" in name else np.zeros_like(scale)
    dense = ((integers - zero[..., None]) * scale[..., None]).reshape(OUT, width)
    if four:
        tensors: dict[str, Any] = {"weight": (integers, (OUT, width)), "scale": scale}
        attributes = {"group_size": group}
    else:
        tensors = {"weight": integers.reshape(OUT * groups, group), "scale": scale.reshape(-1)}
        attributes = {"in_features": width, **({"group_size": group} if "Zero" in name else {})}
    return x @ dense.T, {**tensors, **({"shift": -zero * scale} if "Zero" in name else {})}, attributes


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None)
@given(
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    groups=st.integers(1, 3),
    group=st.sampled_from([16, 32, 64]),
    seed=st.integers(0, 2**31),
    empty=st.booleans(),
)
def test_the_function_computes_the_definition(
    name: str, rows: list[int], groups: int, group: int, seed: int, empty: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*rows, groups * group)).astype(np.float32)
    if empty:
        x[..., :1, :] = 0  # a token without a step of its own
    expected, tensors, attributes = product(name, rng, x, group)
    got = run(name, x, tensors, attributes)
    assert got.shape == expected.shape
    # Sums in another order; an input between two steps may be rounded to either, which moves a sum by one step of it.
    near = 1e-5 if not name.startswith(("Int8Static", "Int8Token", "Fp8")) else 2e-2
    assert np.abs(got - expected).max() <= near * max(1e-6, float(np.abs(expected).max()))


def test_every_function_is_run() -> None:
    assert {"Fp8TokenMatMul", "Int8GroupZeroMatMul", "Int4ZeroMatMul", "Fp8Round"} <= set(CASES)
