"""Requests that bring a model in: download, convert, quantize."""

from __future__ import annotations

from typing import Any

from ..calibration import CalibrationConfig
from ..coerce import Unfit
from ..mapping import Mapping
from ..options import option
from ..quality import QualityConfig
from ..quant import QuantAlgo, QuantConfig
from ..spec import Spec
from .shared import (
    dtype_option,
    exclude_modules_option,
    group_size_option,
    name_option,
    output_dir_option,
    overwrite_option,
    quantize_lm_head_option,
    source_option,
    trust_remote_code_option,
    workers_option,
)

WEIGHT_ONLY_ALGOS = {"int8": QuantAlgo.W8A16, "int4": QuantAlgo.W4A16}
SMOOTHQUANT = "int8_sq"
QFORMAT_ALGOS = {
    "int8_wo": QuantAlgo.W8A16,
    "int4_wo": QuantAlgo.W4A16,
    "int4_awq": QuantAlgo.W4A16_AWQ,
    "int4_gptq": QuantAlgo.W4A16_GPTQ,
    "w4a8_awq": QuantAlgo.W4A8_AWQ,
    "fp8": QuantAlgo.FP8,
    SMOOTHQUANT: QuantAlgo.W8A8_SQ_PER_TENSOR_PLUGIN,
    "full_prec": None,
}
KV_CACHE_ALGOS = {"int8": QuantAlgo.INT8, "fp8": QuantAlgo.FP8}
SMOOTHQUANT_ALGOS = {
    (False, False): QuantAlgo.W8A8_SQ_PER_TENSOR_PLUGIN,
    (False, True): QuantAlgo.W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN,
    (True, False): QuantAlgo.W8A8_SQ_PER_CHANNEL_PLUGIN,
    (True, True): QuantAlgo.W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN,
}
"""(per channel, per token) → algorithm."""

_OTHER_VERB = "Use the verb quantize: --qformat {} (it calibrates, or reads a checkpoint that is quantized already)."


def _rotary_scaling(text: str) -> dict[str, Any]:
    words = text.replace(",", " ").replace("=", " ").split()
    try:
        kind, factor = words
        return {"type": kind, "factor": float(factor)}
    except ValueError:
        raise Unfit(f"must be a type and a factor such as 'linear 2.0', not {text!r}") from None


def _budget(text: str) -> float:
    name, equals, share = text.strip().partition("=")
    try:
        value = float(share if equals else name)
    except ValueError:
        raise Unfit(f"must be a share such as size=0.35, not {text!r}") from None
    if equals and name != "size":
        raise Unfit(f"cannot be about {name!r}", "Write size=0.35.")
    return value


class DownloadSpec(Spec):
    """Fetch a model from a hub."""

    model: str = option(
        help="Id of the model on the hub, for example 'gpt2-medium'.",
        flags=("--repo_id",),
        metavar="MODEL",
        positional=0,
        group="model",
    )
    files: tuple[str, ...] = option(
        default=(),
        help="Files wanted; none means what a conversion needs.",
        positional=1,
        nargs="+",
        metavar="FILE",
        group="model",
    )
    revision: str | None = option(
        default=None, help="Branch, tag or commit; none means the main branch. The commit is recorded.", group="model"
    )
    local_dir: str | None = option(
        default=None,
        help="Folder to fill; none means a folder of this project's cache.",
        flags=("--output_dir",),
        metavar="DIR",
        group="output",
    )
    include: tuple[str, ...] = option(
        default=(), help="Patterns of files to fetch.", nargs="+", metavar="PATTERN", group="model"
    )
    exclude: tuple[str, ...] = option(
        default=(), help="Patterns of files to leave out.", nargs="+", metavar="PATTERN", group="model"
    )
    mirror: str | None = option(
        default=None,
        help="Address of a mirror of the hub; none means $HF_ENDPOINT or the hub itself.",
        flags=("--endpoint", "--hf_endpoint"),
        metavar="URL",
        group="hub",
    )
    token: str | None = option(
        default=None,
        help="Access token of a gated model; none means $HF_TOKEN.",
        secret=True,
        metavar="TOKEN",
        group="hub",
    )
    max_workers: int = option(default=8, help="Files fetched at the same time.", minimum=1, group="hub")
    name: str | None = name_option()


class ConvertSpec(Spec):
    """Write a Hugging Face model as a TensorRT-LLM checkpoint, one file a rank."""

    source: str = source_option()
    output_dir: str | None = output_dir_option(
        "-o", help="Folder of the checkpoint; none means one in this project's cache."
    )
    dtype: str = dtype_option()
    family: str | None = option(
        default=None,
        help="Family of the model; none means the one its config.json names.",
        flags=("--model", "--model_type"),
        metavar="FAMILY",
        group="model",
    )
    mapping: Mapping = option(factory=Mapping, help="Layout of the ranks.", group="parallelism")
    use_parallel_embedding: bool = option(
        default=False, help="Divide the embedding table over the tensor-parallel ranks.", group="parallelism"
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
    use_weight_only: bool = option(default=False, help="Quantize the weights on the way.", group="quantization")
    weight_only_precision: str = option(
        default="int8",
        help="Width of the weights with --use_weight_only.",
        choices=("int8", "int4"),
        later={
            "int4_awq": _OTHER_VERB.format("int4_awq"),
            "int4_gptq": _OTHER_VERB.format("int4_gptq"),
            "int8_gptq": _OTHER_VERB.format("int4_gptq"),
        },
        bare="int8",
        group="quantization",
    )
    group_size: int | None = group_size_option()
    exclude_modules: tuple[str, ...] | None = exclude_modules_option()
    quantize_lm_head: bool = quantize_lm_head_option()
    smoothquant: float | None = option(
        default=None,
        help="SmoothQuant with this alpha, from 0 to 1; none means no SmoothQuant.",
        minimum=0,
        maximum=1,
        flags=("-sq",),
        metavar="ALPHA",
        group="quantization",
    )
    per_token: bool = option(
        default=False, help="SmoothQuant: a scale for each token, found at run time.", group="quantization"
    )
    per_channel: bool = option(
        default=False, help="SmoothQuant: a scale for each output channel.", group="quantization"
    )
    int8_kv_cache: bool = option(
        default=False,
        help="Keep the K/V cache in INT8, with calibrated scales.",
        flags=("--calibrate_kv_cache", "-kv"),
        group="quantization",
    )
    calibration: CalibrationConfig = option(
        factory=CalibrationConfig, help="Text to calibrate on.", group="calibration"
    )
    rotary_base: float | None = option(
        default=None,
        help="Base of the rotary frequencies; none means the source's own (10000 where it has none).",
        group="model",
    )
    rotary_scaling: dict[str, Any] | None = option(
        default=None,
        help="Scaling of rotary positions: a type, linear or dynamic, and a factor above 1.",
        parse=_rotary_scaling,
        render=lambda value: f"{value.get('rope_type') or value.get('type')} {value.get('factor')}",
        nargs=2,
        metavar="TYPE FACTOR",
        group="model",
    )
    format: str = option(
        default="trtllm",
        help="Layout of the checkpoint.",
        choices=("trtllm",),
        later={
            "ft": "The FasterTransformer layout is not available in this version. Available: trtllm, the "
            "TensorRT-LLM checkpoint, which build takes as well.",
        },
        synonyms={"tensorrt_llm": "trtllm", "fastertransformer": "ft"},
        flags=("--export_format",),
        group="output",
    )
    workers: int = workers_option()
    dry_run: bool = option(
        default=False,
        help="Only show which tensor would go to which rank, and how many bytes; write nothing.",
        flags=("--plan",),
        group="output",
    )
    trust_remote_code: bool = trust_remote_code_option()
    overwrite: bool = overwrite_option()
    name: str | None = name_option()

    @property
    def quant_config(self) -> QuantConfig:
        """The quantization that the flags ask for."""
        algo = WEIGHT_ONLY_ALGOS[self.weight_only_precision] if self.use_weight_only else None
        if self.smoothquant is not None and algo is None:
            algo = SMOOTHQUANT_ALGOS[self.per_channel, self.per_token]
        config = _quant_config(algo, self.group_size, self.exclude_modules, self.quantize_lm_head)
        if self.smoothquant is not None:
            config = config.replace(smoothquant_val=self.smoothquant)
        return config.replace(kv_cache_quant_algo=QuantAlgo.INT8) if self.int8_kv_cache else config


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
    use_parallel_embedding: bool = option(
        default=False, help="Divide the embedding table over the tensor-parallel ranks.", group="parallelism"
    )
    embedding_sharding_dim: int = option(
        default=0,
        help="Dimension along which the table is divided: 0 vocabulary, 1 hidden.",
        choices=(0, 1),
        group="parallelism",
    )
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
        config = _quant_config(algo, self.group_size, self.exclude_modules, self.quantize_lm_head)
        if self.qformat == SMOOTHQUANT and self.smoothquant is not None:
            config = config.replace(smoothquant_val=self.smoothquant)
        if self.qformat == "int4_gptq":
            config = config.replace(has_zero_point=self.zero_point)
        if self.qformat in ("int4_awq", "w4a8_awq"):
            config = config.replace(pre_quant_scale=True)
        cache = None if self.kv_cache_dtype is None else KV_CACHE_ALGOS[self.kv_cache_dtype]
        return config.replace(kv_cache_quant_algo=cache)


def _quant_config(
    algo: QuantAlgo | None, group_size: int | None, exclude_modules: tuple[str, ...] | None, quantize_lm_head: bool
) -> QuantConfig:
    if algo is None:
        return QuantConfig()
    excluded = exclude_modules
    if quantize_lm_head:
        excluded = tuple(pattern for pattern in exclude_modules or () if pattern != "lm_head")
    return QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=excluded)
