"""Quantized models by definition: Hugging Face's modules with linear layers in NumPy, from a checkpoint's tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from tests.backends.models import RandomModel, checkpoint_of
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.checkpoint import expected_tensors, open_checkpoint, write_checkpoint
from trtbench_lab.specs import QuantConfig

GROUPS = {"group_size": 32}
RECIPES: dict[str, dict[str, Any]] = {
    "int8 weights": {"quant_algo": "W8A16"},
    "int4 groups": {"quant_algo": "W4A16", **GROUPS},
    "awq": {"quant_algo": "W4A16_AWQ", "pre_quant_scale": True, **GROUPS},
    "gptq": {"quant_algo": "W4A16_GPTQ", **GROUPS},
    "gptq with zeros": {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, **GROUPS},
    "w4a8": {"quant_algo": "W4A8_AWQ", "pre_quant_scale": True, **GROUPS},
    "smooth": {"quant_algo": "W8A8_SQ_PER_TENSOR_PLUGIN"},
    "smooth channel": {"quant_algo": "W8A8_SQ_PER_CHANNEL_PLUGIN"},
    "smooth token": {"quant_algo": "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN"},
    "smooth channel token": {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
    "fp8": {"quant_algo": "FP8"},
}
"""Every algorithm of linear layers that this project writes."""
IMPORTED: dict[str, dict[str, Any]] = {
    "gptq sorted": {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, "input_order": True, **GROUPS},
    "int8 groups with zeros": {"quant_algo": "W8A16", "has_zero_point": True, **GROUPS},
    "fp8 channel token": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
}
"""What only checkpoints of models that were quantized elsewhere have."""
MIXED = {
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {
        "transformer.layers.0.attention.qkv": {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
        "transformer.layers.0.mlp.fc": {"quant_algo": "W8A16"},
        "transformer.layers.1.attention.dense": {"quant_algo": "W4A16_AWQ", "pre_quant_scale": True, **GROUPS},
        "transformer.layers.1.mlp.proj": {"quant_algo": "FP8"},
    },
}
TOKENS = calibration_tokens(
    torch.randint(0, 97, (8, 16), generator=torch.Generator().manual_seed(0)).tolist(), size=8, length=16
)


def quantized_checkpoint(model: RandomModel, folder: Any, recipe: Mapping[str, Any], **options: Any) -> None:
    """Write a checkpoint of `model`, calibrated on random tokens."""
    quantize_model(model.folder, folder, QuantConfig(**recipe), TOKENS, **options)


def imported_checkpoint(model: RandomModel, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write a checkpoint of `model` whose quantized layers are random numbers of the kind's tensors."""
    config = checkpoint_of(model, folder.with_name(f"{folder.name} plain"))
    plain = open_checkpoint(folder.with_name(f"{folder.name} plain")).rank(0)
    quantized = config.replace(quantization=QuantConfig(**recipe), share_embedding_table=False)
    generator = torch.Generator().manual_seed(4)
    made: dict[str, torch.Tensor] = {}
    for name, (shape, dtype) in expected_tensors(quantized).items():
        module, _, leaf = name.rpartition(".")
        scale = f"{module}.weights_scaling_factor"
        if name in plain and dtype == "float32":
            made[name] = plain[name]
        elif name == "lm_head.weight":
            made[name] = plain["transformer.vocab_embedding.weight"]
        elif leaf == "weight" and dtype == "int8":
            made[name] = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
        elif leaf == "weight":
            made[name] = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
        elif leaf == "input_order":
            made[name] = torch.randperm(shape[0], generator=generator).int()
        elif leaf != "zero":
            steps = 0.2 if "FP8" in recipe["quant_algo"] else 0.05 if recipe["quant_algo"].startswith("W4") else 0.004
            made[name] = steps * (0.5 + torch.rand(shape, generator=generator))
        if leaf == "zero":
            half = 8 if recipe["quant_algo"].startswith("W4") else 128
            integers = torch.randint(-half, half, shape, generator=generator)
            made[scale] = made.get(scale, 0.05 / half * 8 * (0.5 + torch.rand(shape, generator=generator)))
            made[name] = -integers * made[scale]
    write_checkpoint(folder, quantized, lambda rank: made)


def numpy_linear(x: np.ndarray, tensors: Mapping[str, np.ndarray], algo: str) -> np.ndarray:
    """Compute one layer (without bias) from the tensors its checkpoint keeps, as their formats define it.

    x (…, in) float32 → (…, out) float32.
    """
    if "input_order" in tensors:
        x = x[..., tensors["input_order"]]
    weight = tensors["weight"]
    if algo.startswith("W8A8_SQ"):
        x = x / tensors.get("smoother", np.float32(1))
        step = tensors["act_scale"] if "act_scale" in tensors else np.abs(x).max(-1, keepdims=True) / np.float32(127)
        integers = np.clip(np.rint(x / step), -127, 127).astype(np.int64)
        return ((integers @ weight.astype(np.int64).T) * (step * tensors["per_channel_scale"])).astype(np.float32)
    if algo.startswith("FP8"):
        step = tensors.get("activation_scaling_factor")
        step = np.abs(x).max(-1, keepdims=True) / np.float32(448) if step is None else step
        scale = tensors.get("weights_scaling_factor", tensors.get("per_channel_scale"))
        return (_e4m3(x / step) @ weight.astype(np.float32).T * (step * scale)).astype(np.float32)
    integers = weight if algo.startswith("W8") else _nibbles(weight)
    rows, width = integers.shape
    scale = tensors.get("weights_scaling_factor", tensors.get("per_channel_scale")).reshape(rows, -1, 1)
    grouped = integers.reshape(rows, scale.shape[1], -1).astype(np.float32)
    if "zero" in tensors:
        grouped = grouped - np.rint(-tensors["zero"].reshape(scale.shape) / scale)
    if "prequant_scaling_factor" in tensors:
        x = x * tensors["prequant_scaling_factor"]
    if algo == "W4A8_AWQ":
        step = tensors["activation_scaling_factor"]
        x = _e4m3(x / step) * step
    return x @ (grouped * scale).reshape(rows, width).T


def _nibbles(packed: np.ndarray) -> np.ndarray:
    unsigned = packed.view(np.uint8)
    pairs = np.stack((unsigned & 15, unsigned >> 4), -1).reshape(packed.shape[0], -1).astype(np.int8)
    return np.where(pairs > 7, pairs - 16, pairs)


def _e4m3(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


class _NumpyLinear(nn.Module):
    """Some rows of one linear layer of a checkpoint."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], module: str, algo: str | None, rows: slice):
        super().__init__()
        own = {name.rpartition(".")[2]: t for name, t in tensors.items() if name.rpartition(".")[0] == module}
        bias = own.pop("bias", None)
        self.bias_values = None if bias is None else bias.float()[rows]
        self.arrays, self.algo, self.rows = {name: _array(t) for name, t in own.items()}, algo, rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.algo is None:
            y = x.numpy() @ self.arrays["weight"].T
        else:
            y = numpy_linear(x.numpy(), self.arrays, self.algo)
        found = torch.from_numpy(np.ascontiguousarray(y[..., self.rows]))
        return found if self.bias_values is None else found + self.bias_values


def _array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return tensor.numpy()


def defined_logits(model: RandomModel, checkpoint_dir: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of every position by Hugging Face's GPT-2 or LLaMA with the checkpoint's linear layers and norms."""
    checkpoint = open_checkpoint(checkpoint_dir)
    config, weights = checkpoint.config, dict(checkpoint.rank(0))
    hf = copy.deepcopy(model.hf)
    whole = slice(None)

    def linear(module: str, rows: slice = whole) -> nn.Module:
        algo = config.quantization.of_module(module).quant_algo
        return _NumpyLinear(weights, module, None if algo is None else algo.value, rows)

    for number in range(config.num_hidden_layers):
        name = f"transformer.layers.{number}"
        norms = {part: weights[f"{name}.{part}.weight"] for part in ("input_layernorm", "post_layernorm")}
        if config.architecture.startswith("GPT"):
            block = hf.transformer.h[number]
            for norm, part in ((block.ln_1, "input_layernorm"), (block.ln_2, "post_layernorm")):
                norm.weight.data, norm.bias.data = norms[part].float(), weights[f"{name}.{part}.bias"].float()
            block.attn.c_attn, block.attn.c_proj = linear(f"{name}.attention.qkv"), linear(f"{name}.attention.dense")
            block.mlp.c_fc, block.mlp.c_proj = linear(f"{name}.mlp.fc"), linear(f"{name}.mlp.proj")
            continue
        block, width = hf.model.layers[number], config.head_width
        block.input_layernorm.weight.data = norms["input_layernorm"].float()
        block.post_attention_layernorm.weight.data = norms["post_layernorm"].float()
        queries, keys = config.num_attention_heads * width, config.kv_heads * width
        qkv = f"{name}.attention.qkv"
        block.self_attn.q_proj = linear(qkv, slice(0, queries))
        block.self_attn.k_proj = linear(qkv, slice(queries, queries + keys))
        block.self_attn.v_proj = linear(qkv, slice(queries + keys, None))
        block.self_attn.o_proj = linear(f"{name}.attention.dense")
        block.mlp.gate_proj, block.mlp.up_proj = linear(f"{name}.mlp.fc"), linear(f"{name}.mlp.gate")
        block.mlp.down_proj = linear(f"{name}.mlp.proj")
    if "lm_head" not in config.quantization.excluded_patterns:
        hf.lm_head = linear("lm_head")
    with torch.no_grad():
        return hf(tokens, use_cache=False).logits


def rounded_cache_logits(model: RandomModel, checkpoint_dir: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of every position where attention reads keys (after rotation) and values as the cache keeps them."""
    checkpoint = open_checkpoint(checkpoint_dir)
    weights, algo = checkpoint.rank(0), checkpoint.config.quantization.kv_cache_quant_algo

    def stored(x: torch.Tensor, step: np.ndarray) -> torch.Tensor:
        scaled = x.numpy() / step
        kept = np.clip(np.rint(scaled), -128, 127) if algo == "INT8" else _e4m3(scaled)
        return torch.from_numpy((kept * step).astype(np.float32))

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        step = weights[f"transformer.layers.{module.layer_idx}.attention.kv_cache_scaling_factor"].numpy()
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, stored(key, step), stored(value, step), *rest, **more)

    AttentionInterface.register("rounded_cache", attend)
    AttentionMaskInterface.register("rounded_cache", sdpa_mask)
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("rounded_cache")
    try:
        return defined_logits(model, checkpoint_dir, tokens)
    finally:
        model.hf.set_attn_implementation(before)
