"""What each quantization needs of the shapes, of its own fields and of the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from ..conflicts import Conflict, Gpu, rule
from ..mapping import Mapping
from ..model import ModelConfig
from ..quant import GROUP_SIZES, QuantAlgo, QuantConfig

_FP8_FROM = (8, 9)  # Ada Lovelace; Hopper is 9.0
_BFLOAT16_FROM = (8, 0)  # Ampere


@rule(QuantConfig)
def scales_fit_algorithm(quant: QuantConfig) -> Iterator[Conflict]:
    algo = quant.quant_algo
    # What GPTQ's tools export with 8 bits is W8A16 in groups; 4 bits have an algorithm of their own.
    is_gptq = algo is QuantAlgo.W4A16_GPTQ or (algo is QuantAlgo.W8A16 and quant.group_size is not None)
    for name, given in (("has_zero_point", quant.has_zero_point), ("input_order", quant.input_order)):
        if given and not is_gptq:
            yield Conflict(
                (f"QuantConfig.{name}", "QuantConfig.quant_algo"),
                f"{name} belongs to W4A16_GPTQ (or W8A16 in groups), and quant_algo is {_named(algo)}.",
                f"Leave {name} off.",
                {f"QuantConfig.{name}": False},
            )
    if quant.pre_quant_scale and algo not in (QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ):
        yield Conflict(
            ("QuantConfig.pre_quant_scale", "QuantConfig.quant_algo"),
            f"pre_quant_scale belongs to AWQ, and quant_algo is {_named(algo)}.",
            "Leave pre_quant_scale off.",
            {"QuantConfig.pre_quant_scale": False},
        )
    if quant.group_size is not None and algo is not None and not (algo.is_weight_only or algo.is_groupwise):
        yield Conflict(
            ("QuantConfig.group_size", "QuantConfig.quant_algo"),
            f"group_size {quant.group_size} belongs to weight-only quantization, AWQ and GPTQ, and quant_algo is "
            f"{_named(algo)}.",
            "Leave group_size out.",
            {"QuantConfig.group_size": None},
        )


def _named(algo: QuantAlgo | None) -> str:
    return "none" if algo is None else algo.value


_MOST_LAYERS = 1 << 10  # a damaged config.json may speak of 10^9; patterns that exclude a layer are tried on no more


def _rows(model: ModelConfig, quant: QuantConfig, tp_size: int) -> Iterator[tuple[str, int, QuantConfig]]:
    """Yield quantized layers, by kind or each of a mixed recipe: name, input features on one rank, quantization."""
    widths = {
        "attention.qkv": model.hidden_size,
        "attention.dense": model.attention_width // tp_size,
        "mlp.fc": model.hidden_size,
        "mlp.proj": model.mlp_width // tp_size,
    }
    if quant.quantized_layers is not None:
        for module in quant.quantized_layers:
            width = widths.get(".".join(module.split(".")[-2:]), model.hidden_size)
            yield module, width, quant.of_module(module)
        return
    layers = range(min(model.num_hidden_layers, _MOST_LAYERS))
    for part, width in widths.items():
        if not all(quant.excludes(f"transformer.layers.{number}.{part}") for number in layers):
            yield part, width, quant


@rule(ModelConfig, QuantConfig, Mapping)
def groups_divide_rows(model: ModelConfig, quant: QuantConfig, mapping: Mapping) -> Iterator[Conflict]:
    if quant.quant_algo is None:
        return
    rows = [row for row in _rows(model, quant, mapping.tp_size) if row[2].group_size is not None]
    bad = [(name, width, own.group_size) for name, width, own in rows if width % (own.group_size or 1)]
    if bad and quant.quantized_layers is not None:
        named = ", ".join(f"{name} has {width} and groups of {size}" for name, width, size in bad)
        yield Conflict(
            ("QuantConfig.quantized_layers", "ModelConfig.hidden_size", "Mapping.tp_size"),
            f"The input features of each layer on a rank must divide into its groups: {named}.",
            "Give these layers a smaller group_size or another algorithm, or leave them out.",
        )
    elif bad:
        fitting = [size for size in GROUP_SIZES if not any(width % size for _, width, _ in rows)]
        best = max((size for size in fitting if size < (quant.group_size or 0)), default=None)
        remedy = "Leave group_size out: one scale for each output channel."
        if best is not None:
            remedy = f"Set group_size to {best}."
        elif quant.quant_algo.is_groupwise:
            remedy = f"Name these layers in exclude_modules, or choose an algorithm other than {quant.quant_algo}."
        named = ", ".join(f"{name} has {width}" for name, width, _ in bad)
        yield Conflict(
            ("QuantConfig.group_size", "ModelConfig.hidden_size", "Mapping.tp_size"),
            f"The input features of each layer on a rank must divide into groups of {quant.group_size}: {named}.",
            remedy,
            None if quant.quant_algo.is_groupwise and best is None else {"QuantConfig.group_size": best},
        )


@rule(ModelConfig, QuantConfig, Mapping)
def packed_rows_are_even(model: ModelConfig, quant: QuantConfig, mapping: Mapping) -> Iterator[Conflict]:
    if quant.quant_algo is None:
        return
    odd = [
        f"{name} has {width}"
        for name, width, own in _rows(model, quant, mapping.tp_size)
        if width % 2 and own.group_size is None and own.quant_algo is not None and own.quant_algo.weight_bits == 4
    ]
    if odd:
        mixed = quant.quantized_layers is not None
        yield Conflict(
            ("QuantConfig.quantized_layers" if mixed else "QuantConfig.quant_algo", "ModelConfig.hidden_size"),
            f"INT4 packs two input features into one byte, and their number is odd: {', '.join(odd)}.",
            "Use W8A16.",
            None if mixed else {"QuantConfig.quant_algo": QuantAlgo.W8A16},
        )


@rule(QuantConfig, Gpu)
def fp8_needs_gpu(quant: QuantConfig, gpu: Gpu) -> Iterator[Conflict]:
    if gpu.compute_capability >= _FP8_FROM:
        return
    missing = f"FP8 needs compute capability 8.9 (Ada, Hopper or newer), and {gpu.name} has {gpu.architecture}."
    if quant.quant_algo is not None and (quant.quant_algo.is_fp8 or quant.quant_algo is QuantAlgo.W4A8_AWQ):
        yield Conflict(
            ("QuantConfig.quant_algo",),
            missing,
            "The nearest that this GPU runs is W8A16.",
            {"QuantConfig.quant_algo": QuantAlgo.W8A16, "QuantConfig.group_size": None},
        )
    if quant.quantized_layers is not None and quant.rounds_inputs_to_fp8:
        layers = [name for name in quant.quantized_layers if quant.of_module(name).rounds_inputs_to_fp8]
        yield Conflict(
            ("QuantConfig.quantized_layers",),
            f"{missing} The recipe has it in {', '.join(layers)}.",
            "The nearest that this GPU runs is W8A16.",
        )
    if quant.kv_cache_quant_algo is QuantAlgo.FP8:
        yield Conflict(
            ("QuantConfig.kv_cache_quant_algo",),
            f"{missing} That is also true of an FP8 K/V cache.",
            "The nearest that this GPU runs is an INT8 K/V cache.",
            {"QuantConfig.kv_cache_quant_algo": QuantAlgo.INT8},
        )


@rule(ModelConfig, Gpu)
def bfloat16_needs_gpu(model: ModelConfig, gpu: Gpu) -> Iterator[Conflict]:
    if model.dtype == "bfloat16" and gpu.compute_capability < _BFLOAT16_FROM:
        yield Conflict(
            ("ModelConfig.dtype",),
            f"bfloat16 needs compute capability 8.0 (Ampere or newer), and {gpu.name} has {gpu.architecture}.",
            "Convert to float16.",
            {"ModelConfig.dtype": "float16"},
        )


@rule(ModelConfig)
def rotary_scaling_is_whole(model: ModelConfig) -> Iterator[Conflict]:
    scaling = model.rotary_scaling
    if scaling is None:
        return
    kind, factor = model.rotary_scaling_type, scaling.get("factor")
    off = {"ModelConfig.rotary_scaling": None}
    if kind in (None, "default"):
        return
    if not model.uses_rope:
        yield Conflict(
            ("ModelConfig.rotary_scaling", "ModelConfig.position_embedding_type"),
            f"rotary_scaling belongs to rotary positions, and this model's are {model.position_embedding_type}.",
            "Leave rotary_scaling out.",
            off,
        )
    if kind not in ("linear", "dynamic", "llama3"):
        yield Conflict(
            ("ModelConfig.rotary_scaling",),
            f"rotary_scaling of type {kind!r} is not available in this version.",
            "Available: linear, dynamic and llama3.",
            off,
        )
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor > 1:
        yield Conflict(
            ("ModelConfig.rotary_scaling",),
            f"The factor of rotary_scaling must be a number above 1, and it is {factor!r}.",
            "Give a factor above 1, or leave rotary_scaling out.",
            off,
        )
    llama3_keys = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [key for key in llama3_keys if kind == "llama3" and key not in scaling]
    if missing:
        yield Conflict(
            ("ModelConfig.rotary_scaling",),
            f"rotary_scaling of type llama3 lacks {', '.join(missing)}.",
            "Copy rope_scaling from the model's config.json as it is.",
        )
