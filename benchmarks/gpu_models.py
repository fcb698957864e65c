"""Models of the sizes that the GPU benchmarks run: random weights on the device, in the engine's lowered form."""

from __future__ import annotations

from typing import Any

import torch

from trtbench_lab.backends.torch.gpu.lowered import LoweredModel, lower
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.specs import Mapping, ModelConfig, QuantConfig

GPT2_MEDIUM: dict[str, Any] = {
    "architecture": "GPT2LMHeadModel", "dtype": "float16", "vocab_size": 50257, "max_position_embeddings": 1024,
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "hidden_act": "gelu_new",
    "share_embedding_table": True, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3_8B: dict[str, Any] = {
    "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "vocab_size": 128256, "max_position_embeddings": 8192,
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "norm_type": "rmsnorm", "gated_mlp": True, "qkv_bias": False,
    "dense_bias": False, "mlp_bias": False, "position_embedding_type": "rope_gpt_neox", "rotary_base": 500000.0,
}  # fmt: skip
LLAMA3_70B: dict[str, Any] = {
    **LLAMA3_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
QWEN2_5_32B: dict[str, Any] = {
    **LLAMA3_8B, "architecture": "Qwen2ForCausalLM", "vocab_size": 152064, "hidden_size": 5120,
    "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
    "qkv_bias": True, "rotary_base": 1000000.0,
}  # fmt: skip
SHAPES = {"gpt2-medium": GPT2_MEDIUM, "llama3-8b": LLAMA3_8B, "llama3-70b": LLAMA3_70B, "qwen2.5-32b": QWEN2_5_32B}


def random_lowered(
    shape: str,
    *,
    quant: QuantConfig | None = None,
    positions: int | None = None,
    mapping: Mapping | None = None,
    communicator: Any = None,
) -> LoweredModel:
    """Return a model of `shape`, or a rank's part of it, with random weights of a trained one's size; never zeros."""
    config = ModelConfig(**SHAPES[shape], **({} if quant is None else {"quantization": quant}))
    if mapping is not None:
        config = config.replace(mapping=mapping)
    dtype = getattr(torch, config.dtype)
    with torch.device("meta"):
        decoder = Decoder(config, config.mapping, max_positions=positions, communicator=communicator)
    for module in decoder.modules():
        kept = getattr(module, "keeps", ())
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                value = _random(name, parameter, parameter.dtype if name in kept else dtype)
                module._parameters[name] = torch.nn.Parameter(value, requires_grad=False)
    for name, table in decoder.rotary_tables().items():
        decoder._buffers[name] = table.to("cuda", dtype)
    return lower(decoder)


def _random(name: str, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if parameter.dtype == torch.int8:
        return torch.randint(-128, 128, parameter.shape, dtype=torch.int8, device="cuda")
    if parameter.dtype == torch.float8_e4m3fn:
        return torch.randn(parameter.shape, dtype=torch.bfloat16, device="cuda").mul_(64).to(torch.float8_e4m3fn)
    value = torch.empty(parameter.shape, dtype=dtype, device="cuda")
    if name in ("activation_scaling_factor", "act_scale"):  # 4 to 5 deviations of a norm's outputs
        return value.fill_(0.01 if name.startswith("activation") else 0.035)
    if name in ("smoother", "prequant_scaling_factor"):
        return value.uniform_(0.5, 2.0)
    if "scal" in name:
        return value.uniform_(1e-4, 3e-4)
    return value.normal_(1.0, 0.1) if parameter.ndim == 1 and name == "weight" else value.normal_(0.0, 0.02)


def hf_model(shape: str) -> Any:
    """Return Hugging Face's model of the same shape and type, with random weights, on the GPU."""
    import transformers

    values = SHAPES[shape]
    dtype = getattr(torch, values["dtype"])
    if shape == "gpt2-medium":
        config: Any = transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16, bos_token_id=None, eos_token_id=None)
    else:
        config = transformers.LlamaConfig(
            vocab_size=values["vocab_size"], hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, bos_token_id=None,
            eos_token_id=None, tie_word_embeddings=False,
        )  # fmt: skip
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.02)
    return model
