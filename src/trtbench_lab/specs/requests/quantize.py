"""The request for a quantized checkpoint: one format for all layers, or a search that chooses each layer's."""

from __future__ import annotations

from ..calibration import CalibrationConfig
from ..coerce import Unfit
from ..mapping import Mapping
from ..options import option
from ..quality import QualityConfig
from ..quant import QuantConfig
from ..spec import Spec
from .formats import KV_CACHE_ALGOS, QFORMAT_ALGOS, SMOOTHQUANT, SMOOTHQUANT_ALGOS, quant_config_from
from .shared import (
    dtype_option,
    embedding_sharding_dim_option,
    exclude_modules_option,
    group_size_option,
    name_option,
    output_dir_option,
    overwrite_option,
    quantize_lm_head_option,
    source_option,
    trust_remote_code_option,
    use_parallel_embedding_option,
    workers_option,
)


def _budget(text: str) -> float:
    name, equals, share = text.strip().partition("=")
    try:
        value = float(share if equals else name)
    except ValueError:
        raise Unfit(f"must be a share such as size=0.35, not {text!r}") from None
    if equals and name != "size":
        raise Unfit(f"cannot be about {name!r}", "Write size=0.35.")
    return value


class QuantizeSpec(Spec):
    """Write a model as a quantized checkpoint."""

    source: str = source_option()
    output_dir: str | None = output_dir_option(
        "-o", help="Folder of the checkpoint; none means one in this project's cache."
    )
    qformat: str = option(
        default="int8_wo",
        help="Format: int8_wo and int4_wo look at the weights alone; int8_sq (SmoothQuant), int4_awq, int4_gptq, "
        "w4a8_awq and fp8 calibrate; full_prec leaves the layers as they are.",
        choices=tuple(QFORMAT_ALGOS),
        synonyms={
            "int8": "int8_wo",
            "int4": "int4_wo",
            "w8a16": "int8_wo",
            "w4a16": "int4_wo",
            "awq": "int4_awq",
            "gptq": "int4_gptq",
            "smoothquant": SMOOTHQUANT,
        },
        later={"nvfp4": "NVFP4 is not available in this version. Available: fp8, int4_awq, int4_gptq, w4a8_awq."},
        flags=("--quant_format",),
        group="quantization",
    )
    kv_cache_dtype: str | None = option(
        default=None,
        help="Type of the K/V cache, with calibrated scales; none keeps the compute type.",
        choices=tuple(KV_CACHE_ALGOS),
        group="quantization",
        effect="Halves the cache at float16.",
    )
    smoothquant: float | None = option(
        default=None,
        help="int8_sq: how much of the activations' difficulty moves into the weights, from 0 to 1; none means 0.5.",
        minimum=0,
        maximum=1,
        flags=("--alpha", "-sq"),
        metavar="ALPHA",
        group="quantization",
    )
    per_token: bool = option(
        default=False,
        help="int8_sq: a scale for each token, found as the engine runs.",
        group="quantization",
        effect="Nearer to the original than one scale for all text.",
    )
    per_channel: bool = option(
        default=False,
        help="int8_sq: a scale for each output channel.",
        group="quantization",
        effect="Nearer to the original, and hardly slower.",
    )
    zero_point: bool = option(
        default=False,
        help="int4_gptq: give each group the range of its weights instead of one around 0.",
        flags=("--has_zero_point",),
        group="quantization",
    )
    act_order: bool = option(
        default=False,
        help="int4_gptq: round the input features of the largest activations first.",
        flags=("--desc_act",),
        group="quantization",
        effect="Usually nearer to the original; groups stay as they lie.",
    )
    quantizer: str = option(
        default="auto",
        help="fp8, int4_awq and w4a8_awq: who finds the scales; auto takes NVIDIA ModelOpt where it is installed.",
        choices=("auto", "ours", "modelopt"),
        group="quantization",
        effect="Both give FP8 the same scales; their searches for AWQ's differ.",
    )
    fp8_scales: str | None = option(
        default=None,
        help="fp8: an .npz file of scales that TensorRT-LLM's quantize.py wrote; nothing is calibrated then.",
        flags=("--quantized_fp8_model_path",),
        metavar="FILE",
        group="quantization",
    )
    calibration: CalibrationConfig = option(
        factory=CalibrationConfig, help="Text to calibrate on.", group="calibration"
    )
    search: bool = option(
        default=False,
        help="Choose each layer's format by what it loses, so that all together keep a budget; qformat does not matter "
        "then.",
        flags=("--auto_quantize",),
        group="search",
        effect="Measures each layer in each format: a forward pass over the rest of the model for every pair.",
    )
    budget: float = option(
        default=0.35,
        help="search: most bytes of the linear layers, as a share of their bytes unquantized.",
        minimum=0.01,
        maximum=1,
        parse=_budget,
        render=lambda value: f"size={value!r}",
        metavar="size=0.35",
        group="search",
    )
    search_metric: str = option(
        default="kl",
        help="search: what a layer loses is measured by: kl, the divergence of the next token's distribution, or nll, "
        "the change of the text's negative log-likelihood.",
        choices=("kl", "nll"),
        synonyms={"perplexity": "nll"},
        flag="--metric",
        group="search",
    )
    search_formats: tuple[str, ...] = option(
        default=("int8_wo", "int4_wo", "int4_awq", SMOOTHQUANT),
        help="search: formats to choose from beside leaving a layer as it is; int8_sq has scales per channel and "
        "token.",
        choices=("int8_wo", "int4_wo", "int4_awq", "int4_gptq", SMOOTHQUANT, "fp8"),
        parse=lambda text: [word for word in text.replace(",", " ").split() if word],
        render=",".join,
        nonempty=True,
        nargs="+",
        metavar="FORMAT",
        group="search",
    )
    search_tokens: int = option(
        default=4096, help="search: calibration tokens that losses are measured on.", minimum=2, unit="tokens",
        group="search",
    )  # fmt: skip
    report: bool = option(
        default=False,
        help="Also hold the checkpoint against the source model: perplexity, agreement, KL, ROUGE, entities and speed, "
        "or what --metrics names.",
        group="quality",
    )
    quality: QualityConfig = option(factory=QualityConfig, help="Quality against the source.", group="quality")
    dtype: str = dtype_option()
    mapping: Mapping = option(factory=Mapping, help="Layout of the ranks.", group="parallelism")
    use_parallel_embedding: bool = use_parallel_embedding_option()
    embedding_sharding_dim: int = embedding_sharding_dim_option()
    group_size: int | None = group_size_option("--awq_block_size")
    exclude_modules: tuple[str, ...] | None = exclude_modules_option()
    quantize_lm_head: bool = quantize_lm_head_option()
    workers: int = workers_option()
    trust_remote_code: bool = trust_remote_code_option()
    overwrite: bool = overwrite_option()
    name: str | None = name_option()

    @property
    def quant_config(self) -> QuantConfig:
        """The quantization that the flags ask for."""
        algo = QFORMAT_ALGOS[self.qformat]
        if self.qformat == SMOOTHQUANT:
            algo = SMOOTHQUANT_ALGOS[self.per_channel, self.per_token]
        config = quant_config_from(algo, self.group_size, self.exclude_modules, self.quantize_lm_head)
        if self.qformat == SMOOTHQUANT and self.smoothquant is not None:
            config = config.replace(smoothquant_val=self.smoothquant)
        if self.qformat == "int4_gptq":
            config = config.replace(has_zero_point=self.zero_point)
        if self.qformat in ("int4_awq", "w4a8_awq"):
            config = config.replace(pre_quant_scale=True)
        cache = None if self.kv_cache_dtype is None else KV_CACHE_ALGOS[self.kv_cache_dtype]
        return config.replace(kv_cache_quant_algo=cache)
