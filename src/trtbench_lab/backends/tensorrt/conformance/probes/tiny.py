"""A tiny random model as a checkpoint, and the float32 reference of what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .....checkpoint import expected_tensors, write_checkpoint
from .....specs import BuildConfig, ModelConfig, PluginConfig, QuantConfig
from ....protocol import Executor, QuietReporter
from ....registry import backend

VOCAB_SIZE, CAPACITY, LONGEST_PROMPT, BATCH = 256, 96, 32, 2
HEADS = {"mha": (4, 4), "gqa": (8, 2), "mqa": (4, 1)}


def tiny_checkpoint(
    folder: Path,
    *,
    head_size: int = 64,
    sharing: str = "gqa",
    dtype: str = "float16",
    quantization: dict[str, Any] | None = None,
    seed: int = 17,
) -> ModelConfig:
    """Write the checkpoint of a random two-layer model and return its configuration.

    Weights are rounded to the checkpoint's type, so reference and engine have the very same ones. They are large enough
    for attention to be far from uniform: a key too many or too few changes the logits.
    """
    heads, kv_heads = HEADS[sharing]
    plain = ModelConfig(
        architecture="LlamaForCausalLM",
        dtype=dtype,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CAPACITY,
        hidden_size=heads * head_size,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_size=head_size,
        intermediate_size=256,
        hidden_act="silu",
        position_embedding_type="rope_gpt_neox",
        norm_type="rmsnorm",
        gated_mlp=True,
        qkv_bias=False,
        dense_bias=False,
        mlp_bias=False,
    )
    weights = folder / ("plain" if quantization else "checkpoint")
    generator = torch.Generator().manual_seed(seed)

    def tensors_of(rank: int) -> dict[str, torch.Tensor]:
        return {
            name: _random(name, shape, generator).to(getattr(torch, kind))
            for name, (shape, kind) in expected_tensors(plain).items()
        }

    checkpoint = write_checkpoint(weights, plain, tensors_of)
    if not quantization:
        return checkpoint.config
    from .....calibration import calibration_tokens, quantize_model
    from .....checkpoint import open_checkpoint

    ids = torch.randint(0, VOCAB_SIZE, (8, LONGEST_PROMPT), generator=torch.Generator().manual_seed(7))
    tokens = calibration_tokens(ids.tolist(), size=8, length=LONGEST_PROMPT, source="random tokens")
    quantize_model(weights, folder / "checkpoint", QuantConfig(**quantization), tokens, quantizer="ours")
    return open_checkpoint(folder / "checkpoint").config


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    if "vocab_embedding" in name:
        return noise
    return noise * (2.0 / shape[-1] ** 0.5 if "qkv" in name else 1.0 / shape[-1] ** 0.5)


def limits(**options: Any) -> BuildConfig:
    """Return the build configuration of a trial: small limits, logits everywhere, and `options`.

    Attention is native unless ``gpt_attention_plugin`` is among them.
    """
    plugin = options.pop("gpt_attention_plugin", "disable")
    plugins: dict[str, Any] = {"gpt_attention_plugin": plugin}
    if plugin == "disable":
        plugins |= {"paged_kv_cache": False, "remove_input_padding": False, "context_fmha": False}
    return BuildConfig(
        max_batch_size=BATCH,
        max_input_len=LONGEST_PROMPT,
        max_seq_len=CAPACITY,
        gather_context_logits=True,
        profiling_verbosity=options.pop("profiling_verbosity", "detailed"),
        visualize=True,
        plugin_config=PluginConfig(**plugins),
        **options,
    )


class Described:
    """What a load reads of an engine folder's configuration."""

    def __init__(self, pretrained_config: ModelConfig, build_config: BuildConfig, checkpoint: Path):
        self.pretrained_config, self.build_config = pretrained_config, build_config
        self.checkpoint = {"directory": str(checkpoint)}


def reference_executor(folder: Path, config: ModelConfig) -> Executor:
    """Return the same checkpoint in float32 on the CPU, run by the torch backend.

    Padded, but for a quantized cache, which the paged form alone has.
    """
    builder = backend("torch")
    plugin = "disable" if config.quantization.kv_cache_quant_algo is None else "float32"
    options = limits(compute_dtype="float32", backend="torch", gpt_attention_plugin=plugin).replace(visualize=False)
    resolved = builder.resolve(config, options).build_config
    target = folder / "reference"
    target.mkdir(exist_ok=True)
    builder.build(folder / "checkpoint", 0, resolved, target, QuietReporter())
    return builder.load(target, 0, Described(config, resolved, folder / "checkpoint"), device="cpu")
