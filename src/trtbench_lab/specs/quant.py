"""How weights, activations and the K/V cache are quantized, in the words of a TensorRT-LLM checkpoint."""

from __future__ import annotations

import enum
import fnmatch
from typing import Any

from ..errors import SpecError
from .options import option
from .spec import Spec


class QuantAlgo(enum.StrEnum):
    """Quantization of the linear layers or of the K/V cache."""

    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A8_AWQ = "W4A8_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    FP8 = "FP8"
    FP8_PER_CHANNEL_PER_TOKEN = "FP8_PER_CHANNEL_PER_TOKEN"  # noqa: S105 - a token of text
    INT8 = "INT8"
    MIXED_PRECISION = "MIXED_PRECISION"
    W8A8_SQ_PER_TENSOR_PLUGIN = "W8A8_SQ_PER_TENSOR_PLUGIN"
    W8A8_SQ_PER_CHANNEL_PLUGIN = "W8A8_SQ_PER_CHANNEL_PLUGIN"
    W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN = "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN"  # noqa: S105 - a token of text
    W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"  # noqa: S105

    @property
    def is_smoothquant(self) -> bool:
        return self.value.startswith("W8A8_SQ")

    @property
    def has_channel_scales(self) -> bool:
        """SmoothQuant or FP8 with a weight scale for each output channel."""
        return "PER_CHANNEL" in self.value

    @property
    def has_token_scales(self) -> bool:
        """SmoothQuant or FP8 with activation scales found token by token as the engine runs."""
        return "PER_TOKEN" in self.value

    @property
    def is_fp8(self) -> bool:
        """Linear layers in FP8, weights and activations."""
        return self.value.startswith("FP8")

    @property
    def rounds_inputs_to_fp8(self) -> bool:
        """Whether inputs pass through E4M3: FP8 layers and W4A8."""
        return self.is_fp8 or self is QuantAlgo.W4A8_AWQ

    @property
    def is_weight_only(self) -> bool:
        """INT8 or INT4 weights with a scale a channel or a group, without pre-quant scale and zero point."""
        return self in (QuantAlgo.W8A16, QuantAlgo.W4A16)

    @property
    def is_groupwise(self) -> bool:
        """AWQ and GPTQ: a scale for each group of input features."""
        return self in (QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ, QuantAlgo.W4A16_GPTQ)

    @property
    def weight_bits(self) -> int:
        """Bits that one quantized weight takes."""
        return 4 if self.value.startswith("W4") else 8


WEIGHT_ALGOS = tuple(algo for algo in QuantAlgo if algo is not QuantAlgo.INT8)
KV_CACHE_ALGOS = (QuantAlgo.FP8, QuantAlgo.INT8)

GROUP_SIZES = (32, 64, 128)


class QuantConfig(Spec):
    """The ``quantization`` table of a checkpoint."""

    quant_algo: QuantAlgo | None = option(
        default=None,
        help="Algorithm of the linear layers; none keeps the checkpoint's dtype.",
        choices=WEIGHT_ALGOS,
        group="quantization",
        effect="W8A16 halves and W4A16 quarters the bytes a decode step reads, at float16.",
    )
    kv_cache_quant_algo: QuantAlgo | None = option(
        default=None,
        help="Algorithm of the K/V cache; none keeps the compute dtype.",
        choices=KV_CACHE_ALGOS,
        group="quantization",
        effect="Halves the cache at float16.",
    )
    group_size: int | None = option(
        default=None,
        help="Input features that share one scale; none means one scale for each output channel.",
        choices=GROUP_SIZES,
        unit="features",
        group="quantization",
        effect="Smaller groups are nearer to the original and need more scales.",
    )
    smoothquant_val: float = option(
        default=0.5,
        help="SmoothQuant's alpha: how much of the activations' difficulty moves into the weights.",
        minimum=0,
        maximum=1,
        group="quantization",
    )
    has_zero_point: bool = option(default=False, help="Whether groups carry a zero point (GPTQ).", group="quantization")
    pre_quant_scale: bool = option(
        default=False, help="Whether activations are scaled before the layer (AWQ).", group="quantization"
    )
    input_order: bool = option(
        default=False,
        help="Whether weight columns lie sorted by group, with the input feature of each beside them (GPTQ act-order).",
        group="quantization",
    )
    exclude_modules: tuple[str, ...] | None = option(
        default=None,
        help="Patterns of modules left as they are; none means lm_head only, an empty list quantizes it too.",
        group="quantization",
        effect="The head of a small model is a large part of each step.",
    )

    quantized_layers: dict[str, Any] | None = option(
        default=None,
        help="MIXED_PRECISION: module name and its own quantization; modules that are not named stay as they are.",
        command_line=False,
        group="quantization",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantized_layers is not None:
            plain = {name: _layer_table(name, value) for name, value in self.quantized_layers.items()}
            object.__setattr__(self, "quantized_layers", plain)
        if (self.quant_algo is QuantAlgo.MIXED_PRECISION) != (self.quantized_layers is not None):
            raise SpecError(
                "A recipe that differs by layer has quant_algo MIXED_PRECISION and quantized_layers, both or neither.",
                where="QuantConfig.quantized_layers",
                remedy="Give both, or choose one algorithm for all layers.",
            )
        # AWQ and GPTQ have no per-channel form; 128 is what the field's exporters write when nobody chooses.
        if self.quant_algo is not None and self.quant_algo.is_groupwise and self.group_size is None:
            object.__setattr__(self, "group_size", 128)

    @property
    def is_quantized(self) -> bool:
        return self.quant_algo is not None or self.kv_cache_quant_algo is not None

    @property
    def rounds_inputs_to_fp8(self) -> bool:
        """Whether inputs of a linear layer pass through E4M3."""
        layers = [self] if self.quantized_layers is None else map(self.of_module, self.quantized_layers)
        return any(one.quant_algo is not None and one.quant_algo.rounds_inputs_to_fp8 for one in layers)

    @property
    def excluded_patterns(self) -> tuple[str, ...]:
        """`exclude_modules` with its default filled in."""
        return ("lm_head",) if self.exclude_modules is None else self.exclude_modules

    def excludes(self, module: str) -> bool:
        """Whether a linear layer such as ``"transformer.layers.0.mlp.fc"`` stays as it is.

        A pattern matches the whole name or its last parts, with ``*`` and ``?`` as wildcards. In a recipe that differs
        by layer, what it does not name is excluded.
        """
        if self.quantized_layers is not None:
            return module not in self.quantized_layers
        return any(
            fnmatch.fnmatchcase(module, pattern) or fnmatch.fnmatchcase(module, f"*.{pattern}")
            for pattern in self.excluded_patterns
        )

    def of_module(self, module: str) -> QuantConfig:
        """Return the quantization of one linear layer: this one, its own of a mixed recipe, or none at all."""
        if self.excludes(module):
            return QuantConfig()
        return self if self.quantized_layers is None else QuantConfig(**self.quantized_layers[module])


def _layer_table(module: str, value: Any) -> dict[str, Any]:
    """Return a layer's quantization as plain values: its algorithm and what differs from the defaults."""
    config = value if isinstance(value, QuantConfig) else QuantConfig.from_dict(value, where=module)
    algo = config.quant_algo
    if algo not in WEIGHT_ALGOS or algo is QuantAlgo.MIXED_PRECISION or config.kv_cache_quant_algo is not None:
        raise SpecError(
            "A layer of a mixed recipe has one algorithm of its own, and the K/V cache belongs to the whole model.",
            where=f"QuantConfig.quantized_layers[{module!r}]",
            remedy="Name quant_algo and its options only; leave a layer that stays as it is out.",
        )
    defaults = QuantConfig()
    values = config.replace(exclude_modules=()).to_dict()
    return {name: item for name, item in values.items() if item != getattr(defaults, name)}
