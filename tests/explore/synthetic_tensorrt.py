"""Inspector JSON written by hand from TensorRT 11's documented form.

None of it comes from TensorRT: types, tactics and times are invented, so that the reader can be tested on any machine.
It is test data and is never shown as a result of TensorRT.
"""

from __future__ import annotations

from typing import Any

SEPARATOR = "\x1f"
"""What stands between the origins of a fused layer."""


def tensor(name: str, dtype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"Name": name, "Dimensions": shape, "Format": "Row major linear", "DataType": dtype, **more}


def origins(*nodes: str) -> str:
    return SEPARATOR.join(f"[ONNX Layer: {node}]" for node in nodes)


def layer(
    name: str,
    type_: str,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    *,
    nodes: tuple[str, ...] = (),
    weights: tuple[str, int] | None = None,
    tactic: str = "",
    **more: Any,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Name": name,
        "LayerType": type_,
        "Inputs": inputs,
        "Outputs": outputs,
        "TacticName": tactic,
        "TacticValue": "0x0000000000000000",
        "StreamId": 0,
        "Metadata": origins(*nodes),
        **more,
    }
    if weights is not None:
        found["Weights"] = {"Type": weights[0], "Count": weights[1]}
    return found


def decoder(
    num_layers: int = 2,
    *,
    hidden: int = 64,
    vocab: int = 256,
    capacity: int = 32,
    fused_attention: bool = True,
    head_dtype: str = "Half",
    profile_suffix: str = "",
) -> dict[str, Any]:
    """An engine of a small decoder: fused products, attention fused or not, a reformat, a head of its own type."""
    x = tensor("x0", "Half", [1, 1, hidden])
    layers = [
        layer("embed", "gather", [tensor("input_ids", "Int64", [1, 1])], [x],
              nodes=("transformer.vocab_embedding/Gather",), weights=("Half", vocab * hidden)),
    ]  # fmt: skip
    for number in range(num_layers):
        base = f"transformer.layers.{number}"
        normed, qkv = tensor(f"n{number}", "Half", [1, 1, hidden]), tensor(f"q{number}", "Half", [1, 1, 3 * hidden])
        context = tensor(f"c{number}", "Half", [1, 1, hidden])
        layers.append(
            layer(f"__myl_Norm_myl{number}_0", "kgen", [x], [normed],
                  nodes=(f"{base}.input_layernorm/RMSNormalization",), tactic="__myl_Norm")
        )  # fmt: skip
        layers.append(
            layer(f"{base}.attention.qkv/MatMul + {base}.attention.qkv/Add", "gemm", [normed], [qkv],
                  nodes=(f"{base}.attention.qkv/MatMul", f"{base}.attention.qkv/Add"),
                  weights=("Half", 3 * hidden * hidden), tactic="sm90_xmma_gemm_f16f16")
        )  # fmt: skip
        layers += _attention(number, base, qkv, context, hidden, capacity, fused=fused_attention)
        layers.append(
            layer(f"[MatMul] {base}.attention.dense/MatMul + {base}/Add", "gemm", [context, x],
                  [tensor(f"x{number + 1}", "Half", [1, 1, hidden])],
                  nodes=(f"{base}.attention.dense/MatMul", f"{base}/Add"), weights=("Half", hidden * hidden),
                  tactic="sm90_xmma_gemm_f16f16")
        )  # fmt: skip
        x = tensor(f"x{number + 1}", "Half", [1, 1, hidden])
    layers.append(
        layer("Reformatting CopyNode for Input Tensor 0 to lm_head/MatMul", "Reformat", [x],
              [tensor("xr", head_dtype, [1, 1, hidden])], tactic="0x00000000000003e8")
    )  # fmt: skip
    layers.append(
        layer("lm_head/MatMul", "gemm", [tensor("xr", head_dtype, [1, 1, hidden])],
              [tensor("logits", head_dtype, [1, 1, vocab])],
              nodes=("lm_head/MatMul",), weights=(head_dtype, hidden * vocab), tactic="sm90_xmma_gemm")
    )  # fmt: skip
    for item in layers:
        item["Name"] += profile_suffix
    return {"Layers": layers, "I/O Tensors": io_tensors(hidden, vocab, capacity), "ProfilingVerbosity": "DETAILED"}


def _attention(
    number: int, base: str, qkv: dict[str, Any], context: dict[str, Any], hidden: int, capacity: int, *, fused: bool
) -> list[dict[str, Any]]:
    heads = [1, 4, capacity, hidden // 4]
    past, present = tensor(f"past_key_{number}", "Half", heads), tensor(f"present_key_{number}", "Half", heads)
    update = layer(f"{base}.attention/TRT_KVCacheUpdate", "KVCacheUpdate",
                   [past, qkv, tensor("write_indices", "Int32", [1])], [present],
                   nodes=(f"{base}.attention/TRT_KVCacheUpdate",))  # fmt: skip
    if fused:
        attention = layer(f"_gemm_mha_v2_{number}", "kgen", [qkv, present], [context],
                          nodes=(f"{base}.attention/TRT_Attention",), tactic="_gemm_mha_v2_0x1")  # fmt: skip
        return [update, attention]
    scores = tensor(f"s{number}", "Half", [1, 4, 1, capacity])
    return [
        update,
        layer(f"qk_{number}", "gemm", [qkv, present], [scores], nodes=(f"{base}.attention/MatMul",)),
        layer(f"softmax_{number}", "softmax", [scores], [scores], nodes=(f"{base}.attention/Softmax",)),
        layer(f"av_{number}", "gemm", [scores, present], [context], nodes=(f"{base}.attention/MatMul_2",)),
    ]


def io_tensors(hidden: int, vocab: int, capacity: int) -> list[dict[str, Any]]:
    def one(name: str, mode: str, dtype: str, shape: list[int]) -> dict[str, Any]:
        profile = {"MinShape": shape, "OptShape": shape, "MaxShape": shape, "Format": "Row major linear"}
        return {"Name": name, "IOMode": mode, "DataType": dtype, "Dimensions": shape, "Location": "Device",
                "IsShapeInferenceIO": False, "ProfileInfo": [profile]}  # fmt: skip

    cache = [1, 4, capacity, hidden // 4]
    return [
        one("input_ids", "Input", "Int64", [1, 1]),
        one("past_key_0", "Input", "Half", cache),
        one("logits", "Output", "Float", [1, 1, vocab]),
    ]


def names_only(content: dict[str, Any]) -> dict[str, Any]:
    """The form that an engine built with layer_names_only gives."""
    return {**content, "Layers": [item["Name"] for item in content["Layers"]]}


def trtexec_times(content: dict[str, Any], ms: float = 0.1) -> list[dict[str, Any]]:
    """What trtexec --exportProfile writes, with invented times."""
    rows = [
        {"name": item["Name"], "timeMs": 100 * ms, "averageMs": ms, "medianMs": ms, "percentage": 1.0}
        for item in content["Layers"]
    ]
    return [{"count": 100}, *rows]
