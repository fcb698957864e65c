"""Architecture of one decoder: the fields of a TensorRT-LLM checkpoint's config.json and the decoder's traits."""

from __future__ import annotations

from typing import Any

from .mapping import Mapping
from .options import option
from .quant import QuantConfig
from .spec import Spec

DTYPES = ("float16", "bfloat16", "float32")
DTYPE_SYNONYMS = {
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "float": "float32",
    "torch.float16": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.float32": "float32",
}
POSITION_EMBEDDINGS = (
    "learned_absolute",
    "rope_gpt_neox",
    "rope_gptj",
    "alibi",
    "alibi_with_scale",
    "relative",
    "chatglm",
    "yarn",
    "mrope",
)
ACTIVATIONS = (
    "gelu",
    "gelu_tanh",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "relu",
    "silu",
    "swiglu",
    "geglu",
    "squared_relu",
    "squared-relu",
)


class ModelConfig(Spec):
    """One decoder-only model as it lies in a checkpoint."""

    architecture: str = option(help="Class of the model, for example 'GPTForCausalLM'.", group="model")
    dtype: str = option(
        default="float16",
        help="Data type of the weights and of the computation.",
        choices=DTYPES,
        synonyms=DTYPE_SYNONYMS,
        group="model",
    )
    logits_dtype: str = option(
        default="float32", help="Data type of the logits.", choices=DTYPES, synonyms=DTYPE_SYNONYMS, group="model"
    )
    vocab_size: int = option(help="Number of token ids.", minimum=1, unit="tokens", group="model")
    max_position_embeddings: int = option(
        help="Longest sequence the model was made for.", minimum=1, unit="tokens", group="model"
    )
    hidden_size: int = option(help="Width of the residual stream.", minimum=1, group="model")
    num_hidden_layers: int = option(help="Number of decoder layers.", minimum=1, group="model")
    num_attention_heads: int = option(help="Number of query heads.", minimum=1, group="model")
    num_key_value_heads: int | None = option(
        default=None,
        help="Number of key/value heads; none means as many as query heads, 1 is multi-query attention.",
        minimum=1,
        group="model",
    )
    head_size: int | None = option(
        default=None, help="Width of one head; none means hidden_size / num_attention_heads.", minimum=1, group="model"
    )
    hidden_act: str = option(default="gelu", help="Activation of the MLP.", choices=ACTIVATIONS, group="model")
    intermediate_size: int | None = option(
        default=None, help="Width inside the MLP; none means 4 × hidden_size.", minimum=1, group="model"
    )
    norm_epsilon: float = option(default=1e-5, help="Added to the variance in every norm.", minimum=0, group="model")
    position_embedding_type: str = option(
        default="learned_absolute", help="How positions enter.", choices=POSITION_EMBEDDINGS, group="model"
    )
    rotary_base: float = option(default=10000.0, help="Base of the rotary frequencies.", group="model")
    rotary_pct: float = option(
        default=1.0, help="Share of each head's width that is rotated.", minimum=0, maximum=1, group="model"
    )
    rotary_scaling: dict[str, Any] | None = option(
        default=None,
        help="Scaling of rotary positions: {'type': 'linear', 'factor': 2.0} or the llama3 form.",
        group="model",
        effect="Lets the model read sequences longer than it was trained on.",
    )
    mapping: Mapping = option(factory=Mapping, help="Layout of the ranks.", group="parallelism")
    quantization: QuantConfig = option(factory=QuantConfig, help="Quantization.", group="quantization")
    use_parallel_embedding: bool = option(
        default=False,
        help="Divide the embedding table over the tensor-parallel ranks.",
        group="parallelism",
        effect="Saves the table's memory on each rank; one collective a step.",
    )
    embedding_sharding_dim: int = option(
        default=0,
        help="Dimension along which the table is divided: 0 vocabulary, 1 hidden.",
        choices=(0, 1),
        group="parallelism",
    )
    share_embedding_table: bool = option(
        default=False,
        help="Keep one tensor for the embedding and lm_head, where the source ties them.",
        flags=("--use_embedding_sharing",),
        group="parallelism",
    )
    norm_type: str = option(default="layernorm", help="Kind of norm.", choices=("layernorm", "rmsnorm"), group="model")
    gated_mlp: bool = option(
        default=False, help="Whether the MLP is proj(act(fc(x)) × gate(x)) rather than proj(act(fc(x))).", group="model"
    )
    qkv_bias: bool = option(default=True, help="Whether the q/k/v projections have a bias.", group="model")
    dense_bias: bool = option(default=True, help="Whether attention's output projection has a bias.", group="model")
    mlp_bias: bool = option(default=True, help="Whether the MLP's layers have a bias.", group="model")
    sliding_window: int | None = option(
        default=None,
        help="Tokens that each token sees behind itself; none means all.",
        minimum=1,
        unit="tokens",
        group="model",
    )
    tie_word_embeddings: bool = option(
        default=False, help="Whether the source uses one matrix for embedding and lm_head.", group="model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_size is None:
            object.__setattr__(self, "head_size", max(1, self.hidden_size // self.num_attention_heads))
        if self.intermediate_size is None:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)

    @property
    def kv_heads(self) -> int:
        """`num_key_value_heads`, never None."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """`head_size`, never None."""
        return self.head_size or max(1, self.hidden_size // self.num_attention_heads)

    @property
    def mlp_width(self) -> int:
        """`intermediate_size`, never None."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def attention_width(self) -> int:
        """Width of all query heads together: the input of attention's output projection."""
        return self.num_attention_heads * self.head_width

    @property
    def uses_rope(self) -> bool:
        return self.position_embedding_type.startswith("rope")

    @property
    def rotary_dim(self) -> int:
        """Elements of each head that are rotated; even."""
        return 2 * (int(self.head_width * self.rotary_pct) // 2)

    @property
    def rotary_scaling_type(self) -> str | None:
        """``"linear"``, ``"dynamic"``, ``"llama3"`` …, whichever key of the Hugging Face form names it."""
        if self.rotary_scaling is None:
            return None
        return self.rotary_scaling.get("rope_type") or self.rotary_scaling.get("type")

    def padded_vocab_size(self, tp_size: int | None = None) -> int:
        """Return `vocab_size` rounded up to a multiple of `tp_size`, the mapping's own by default."""
        parts = self.mapping.tp_size if tp_size is None else tp_size
        return -(-self.vocab_size // parts) * parts
