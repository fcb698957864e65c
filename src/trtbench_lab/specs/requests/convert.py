"""The request for a checkpoint of a Hugging Face model, quantized on the way where flags ask for it."""

from __future__ import annotations

from typing import Any

from ..calibration import CalibrationConfig
from ..coerce import Unfit
from ..mapping import Mapping
from ..options import option
from ..quant import QuantAlgo, QuantConfig
from ..spec import Spec
from .formats import SMOOTHQUANT_ALGOS, WEIGHT_ONLY_ALGOS, quant_config_from
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

_OTHER_VERB = "Use the verb quantize: --qformat {} (it calibrates, or reads a checkpoint that is quantized already)."


def _rotary_scaling(text: str) -> dict[str, Any]:
    words = text.replace(",", " ").replace("=", " ").split()
    try:
        kind, factor = words
        return {"type": kind, "factor": float(factor)}
    except ValueError:
        raise Unfit(f"must be a type and a factor such as 'linear 2.0', not {text!r}") from None


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
    use_parallel_embedding: bool = use_parallel_embedding_option()
    embedding_sharding_dim: int = embedding_sharding_dim_option()
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
        config = quant_config_from(algo, self.group_size, self.exclude_modules, self.quantize_lm_head)
        if self.smoothquant is not None:
            config = config.replace(smoothquant_val=self.smoothquant)
        return config.replace(kv_cache_quant_algo=QuantAlgo.INT8) if self.int8_kv_cache else config
