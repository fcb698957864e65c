"""Quantized layers and folders as the tools write them, made in NumPy from the formats' documentation.

Every writer returns a layer's tensors and the weight (out, in) that the format defines for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

Layer = tuple[dict[str, torch.Tensor], np.ndarray]
AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)


def packed_along_rows(integers: np.ndarray, bits: int) -> np.ndarray:
    """Write integers (n, m) as a stream of bits down each column, the lowest bit first, cut into int32 words."""
    count, columns = integers.shape
    stream = ((integers[:, None, :] >> np.arange(bits)[None, :, None]) & 1).reshape(count * bits, columns)
    missing = -len(stream) % 32
    stream = np.concatenate([stream, np.zeros((missing, columns), dtype=stream.dtype)]).reshape(-1, 32, columns)
    words = (stream.astype(np.uint64) << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1)
    return words.astype(np.uint32).view(np.int32)


def packed_awq(values: np.ndarray) -> np.ndarray:
    """Write integers (n, outputs) eight outputs a word, in AWQ's order."""
    words = np.zeros((len(values), values.shape[1] // 8), dtype=np.uint32)
    for nibble, output in enumerate(AWQ_OUTPUTS):
        words |= values[:, output::8].astype(np.uint32) << np.uint32(4 * nibble)
    return words.view(np.int32)


def _drawn(random: np.random.Generator, outputs: int, groups: int) -> np.ndarray:
    return (random.random((groups, outputs)) * 0.01 + 1e-3).astype(np.float16)


def _defined(integers: np.ndarray, around: np.ndarray | int, scales: np.ndarray) -> np.ndarray:
    """(in, out) integers less their middles, times float16 scales, rounded once."""
    return (scales.astype(np.float32) * (integers - around).astype(np.float32)).astype(np.float16).T


def gptq(
    random: np.random.Generator,
    outputs: int,
    width: int,
    *,
    bits: int = 4,
    group: int | None = 32,
    order: np.ndarray | None = None,
    symmetric: bool = False,
    less_one: bool = True,
) -> Layer:
    """A GPTQ layer; `order` is g_idx, the group of each input feature."""
    groups = 1 if group is None else width // group
    integers = random.integers(0, 2**bits, (width, outputs))
    zeros = np.full((groups, outputs), 2 ** (bits - 1)) if symmetric else random.integers(1, 2**bits, (groups, outputs))
    scales = _drawn(random, outputs, groups)
    g_idx = np.arange(width) // (width // groups) if order is None else order
    tensors = {
        "qweight": packed_along_rows(integers, bits),
        "qzeros": packed_along_rows((zeros - less_one).T, bits).T,
        "scales": scales,
        "g_idx": g_idx.astype(np.int32),
    }
    return _torch(tensors), _defined(integers, zeros[g_idx], scales[g_idx])


def awq(random: np.random.Generator, outputs: int, width: int, *, group: int = 32) -> Layer:
    """An AutoAWQ layer, version gemm."""
    integers = random.integers(0, 16, (width, outputs))
    zeros, scales = random.integers(0, 16, (width // group, outputs)), _drawn(random, outputs, width // group)
    tensors = {"qweight": packed_awq(integers), "qzeros": packed_awq(zeros), "scales": scales}
    of = np.arange(width) // group
    return _torch(tensors), _defined(integers, zeros[of], scales[of])


def compressed_packed(
    random: np.random.Generator, outputs: int, width: int, *, bits: int = 4, group: int | None = 64, zeros: bool = False
) -> Layer:
    """A pack-quantized layer of compressed-tensors."""
    groups = 1 if group is None else width // group
    integers, scales = random.integers(0, 2**bits, (width, outputs)), _drawn(random, outputs, groups)
    tensors = {
        "weight_packed": packed_along_rows(integers, bits).T,
        "weight_scale": scales.T,
        "weight_shape": np.array([outputs, width]),
    }
    of, around = np.arange(width) // (width // groups), np.full((groups, outputs), 2 ** (bits - 1))
    if zeros:
        around = random.integers(0, 2**bits, (groups, outputs))
        tensors["weight_zero_point"] = packed_along_rows(around.T, bits)
    return _torch(tensors), _defined(integers, around[of], scales[of])


def plain(
    random: np.random.Generator,
    outputs: int,
    width: int,
    *,
    dtype: torch.dtype = torch.int8,
    per_channel: bool = True,
    input_scale: float | None = None,
) -> Layer:
    """An int-quantized or float-quantized layer of compressed-tensors, or ModelOpt's FP8."""
    weight = torch.as_tensor(random.integers(-127, 128, (outputs, width))).float().to(dtype)
    scale = torch.as_tensor(random.random((outputs, 1) if per_channel else (1,)) * 1e-3 + 1e-4, dtype=torch.float32)
    tensors = {"weight": weight, "weight_scale": scale}
    if input_scale is not None:
        tensors["input_scale"] = torch.tensor([input_scale])
    return tensors, weight.float().numpy() * scale.numpy().reshape(-1, 1)


def modelopt_awq(
    random: np.random.Generator,
    outputs: int,
    width: int,
    *,
    group: int = 64,
    before: np.ndarray | None = None,
    input_scale: float | None = None,
) -> Layer:
    """ModelOpt's INT4 AWQ, with `input_scale` its W4A8; `before` is pre_quant_scale."""
    integers, scales = random.integers(-8, 8, (outputs, width)), _drawn(random, outputs, width // group).T
    nibbles = (integers & 15).astype(np.uint8)
    tensors = {"weight": nibbles[0::2] | (nibbles[1::2] << 4), "weight_scale": scales}
    if before is not None:
        tensors["pre_quant_scale"] = before
    if input_scale is not None:
        tensors["input_scale"] = np.array([input_scale], dtype=np.float32)
    return _torch(tensors), _defined(integers.T, 0, scales.repeat(group, axis=1).T)


def _torch(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(np.ascontiguousarray(value)) for name, value in tensors.items()}


LLAMA = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=96, max_position_embeddings=64, tie_word_embeddings=False, torch_dtype="float16",
)  # fmt: skip
GPT2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=96, n_positions=64, torch_dtype="float16")
_LINEARS = ("_proj.weight", "c_attn.weight", "c_fc.weight")


def write_folder(
    folder: Path,
    make: Callable[[str, int, int], Layer],
    quantization: dict[str, Any] | None,
    *,
    config: LlamaConfig | GPT2Config = LLAMA,
    files: dict[str, Any] | None = None,
    extra: dict[str, torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Write a model whose linear layers (not its head) are made by `make(layer, outputs, inputs)`.

    Returns
    -------
    Source name of each layer → the weight (out, in) that its format defines.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).half()
    tensors, defined = {}, {}
    for name, value in model.state_dict().items():
        if not name.endswith(_LINEARS):
            tensors[name] = value
            continue
        layer = name.removesuffix(".weight")
        outputs, inputs = value.shape if isinstance(config, LlamaConfig) else reversed(value.shape)
        held, defined[layer] = make(layer, outputs, inputs)
        tensors |= {f"{layer}.{part}": tensor for part, tensor in held.items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**tensors, **(extra or {})}, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads(config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}
    if quantization is not None:
        written["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(written))
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))
    return defined
