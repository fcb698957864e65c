"""Small random Hugging Face models whose outputs vary, and an executor that runs them behind the backends' contract."""

from __future__ import annotations

from typing import Any

import torch

from trtbench_lab.backends.protocol import TensorSpec
from trtbench_lab.specs import Mapping, ModelConfig

VOCAB_SIZE = 96
MAX_POSITIONS = 128
LAYERS, HEADS, KV_HEADS, HEAD_SIZE = 2, 4, 2, 8


def tiny_gpt2(seed: int = 0) -> Any:
    """A GPT-2 whose wide initialisation makes each token depend on the ones before it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=MAX_POSITIONS,
        n_embd=HEADS * HEAD_SIZE,
        n_layer=LAYERS,
        n_head=HEADS,
        initializer_range=0.35,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return GPT2LMHeadModel(config).eval()


def tiny_llama(seed: int = 0) -> Any:
    """A LLaMA with grouped-query attention, initialised as widely."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        hidden_size=HEADS * HEAD_SIZE,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        initializer_range=0.35,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def model_config(hf_model: Any, **changes: Any) -> ModelConfig:
    """The part of a model's configuration that a session reads."""
    kv_heads = getattr(hf_model.config, "num_key_value_heads", HEADS)
    values: dict[str, Any] = {
        "architecture": type(hf_model).__name__,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_size": HEADS * HEAD_SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": kv_heads,
        "hidden_act": "gelu_new",
        "position_embedding_type": "learned_absolute",
        "mapping": Mapping(),
    }
    return ModelConfig(**{**values, **changes})


class HFExecutor:
    """An executor over a Hugging Face model: slow, row by row, and right by construction.

    Parameters
    ----------
    hf_model
        The model.
    padded_vocab
        Width of the logits; columns past the vocabulary get a large number that must never win.
    """

    backend = "torch"

    def __init__(self, hf_model: Any, *, padded_vocab: int = VOCAB_SIZE, config: ModelConfig | None = None) -> None:
        self.model = hf_model
        self.config = config or model_config(hf_model)
        self.device = torch.device("cpu")
        self.guards_writes = True
        self.bound: dict[str, torch.Tensor] = {}
        self.num_runs = 0
        self.num_binds = 0
        self.closed = False
        kv_heads = self.config.num_key_value_heads
        cache = ("B", kv_heads, "S", HEAD_SIZE)
        specs = [
            TensorSpec("input_ids", "input", "int64", ("B", "T")),
            TensorSpec("write_indices", "input", "int64", ("B",)),
            TensorSpec("logit_indices", "input", "int64", ("B", "K")),
            TensorSpec("logits", "output", "float32", ("B", "K", padded_vocab)),
        ]
        for layer in range(LAYERS):
            for part in ("key", "value"):
                past, present = f"past_{part}_{layer}", f"present_{part}_{layer}"
                specs.append(TensorSpec(past, "input", "float32", cache))
                specs.append(TensorSpec(present, "output", "float32", cache, aliases=past))
        self.io = tuple(specs)

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        spec = next(spec for spec in self.io if spec.name == name)
        assert tensor.is_contiguous()
        assert str(tensor.dtype) == f"torch.{spec.dtype}"
        assert tensor.ndim == len(spec.shape)
        self.bound[name] = tensor
        self.num_binds += 1

    @torch.no_grad()
    def run(self, stream: Any = None) -> None:
        from transformers import DynamicCache

        self.num_runs += 1
        ids, writes, wanted = (self.bound[name] for name in ("input_ids", "write_indices", "logit_indices"))
        logits = self.bound["logits"]
        logits.fill_(1e9)
        rows, tokens = ids.shape
        for row in range(rows):
            start = int(writes[row])
            pasts = [(self.bound[f"past_key_{i}"], self.bound[f"past_value_{i}"]) for i in range(LAYERS)]
            assert start + tokens <= pasts[0][0].shape[2]
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(pasts):
                if start:
                    cache.update(
                        keys[row : row + 1, :, :start].clone(), values[row : row + 1, :, :start].clone(), layer
                    )
            output = self.model(
                input_ids=ids[row : row + 1],
                attention_mask=torch.ones(1, start + tokens, dtype=torch.int64),
                past_key_values=cache,
                use_cache=True,
            )
            logits[row, :, :VOCAB_SIZE] = output.logits[0, wanted[row]]
            for layer, (keys, values) in enumerate(pasts):
                written = output.past_key_values.layers[layer]
                keys[row, :, start : start + tokens] = written.keys[0, :, start:]
                values[row, :, start : start + tokens] = written.values[0, :, start:]

    def synchronize(self) -> None:
        """Nothing is queued."""

    def memory(self) -> dict[str, int]:
        return {"weights_bytes": sum(p.numel() * p.element_size() for p in self.model.parameters())}

    def close(self) -> None:
        self.closed = True


def tiny_runner(hf_model: Any, **options: Any) -> Any:
    """A runner over `HFExecutor`; `limits` may be given as a dictionary."""
    from trtbench_lab.runtime import EngineLimits, ModelRunner

    limits = {"max_batch_size": 8, "max_input_len": 64, "max_seq_len": MAX_POSITIONS, "max_beam_width": 4}
    limits |= options.pop("limits", {})
    executor = options.pop("executor", None) or HFExecutor(hf_model)
    return ModelRunner(executor, EngineLimits(vocab_size=VOCAB_SIZE, **limits), **options)


def prompts(*lengths: int, seed: int = 3) -> list[list[int]]:
    """Random prompts of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
