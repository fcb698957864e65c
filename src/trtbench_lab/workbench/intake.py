"""Bring a model in: download it, convert it, quantize it."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibration import CalibrationTokens, calibration_device, quantize_model
from ..checkpoint import config_from_source, open_checkpoint, shard_plan
from ..checkpoint import convert as convert_source
from ..checkpoint.manifest import read_json
from ..errors import SpecError, did_you_mean
from ..families.registry import all_families, family_for_hf
from ..intake.huggingface import HFSource, open_hf_folder
from ..intake.model_config import read_model_config
from ..intake.quantized.fp8_scales import open_fp8_scales
from ..intake.quantized.scheme import quantization_table
from ..intake.quantized.source import QuantizedSource, open_quantized_folder
from ..progress import ProgressSink, phase
from ..quantization.modelopt import modelopt_version, quantizer_for
from ..quantization.reference import needs_calibration
from ..quantization.repacking import plan_repack, repack
from ..quantization.report import read_report
from ..results.steps import ConvertStep, DownloadStep, QuantizeStep
from ..specs import ModelConfig, QuantConfig, find_conflicts, raise_conflicts
from ..specs.requests import ConvertSpec, DownloadSpec, QuantizeSpec
from ..storage import digest_of_file, digest_of_json, write_json
from .keeping import keep
from .labels import label_of, quantization_label
from .places import model_dir_from, output_dir_for

if TYPE_CHECKING:
    from ..checkpoint import ShardPlan
    from ..families import Family

_MODEL_OPTIONS = (
    "use_parallel_embedding",
    "embedding_sharding_dim",
    "share_embedding_table",
    "rotary_base",
    "rotary_scaling",
)
SEARCH_REPORT = "search_report.json"
"""Beside a checkpoint whose formats were searched: why each layer got what it got."""
# What a request says about its output's place and speed, which the content of a checkpoint does not depend on.
_NOT_CONTENT = (
    "source", "output_dir", "name", "overwrite", "workers", "dry_run", "trust_remote_code", "report", "quality",
)  # fmt: skip


def download(spec: DownloadSpec, *, progress: ProgressSink | None = None) -> DownloadStep:
    """Fetch a model's files from a hub and pin the commit."""
    from ..intake.hub import download as fetch

    fetched = fetch(
        spec.model,
        revision=spec.revision,
        local_dir=spec.local_dir,
        mirror=spec.mirror,
        include=[*spec.files, *spec.include] or None,
        exclude=list(spec.exclude) or None,
        token=spec.token,
        max_workers=spec.max_workers,
        progress=progress,
    )
    return keep(
        DownloadStep(
            backend="hub",
            model=fetched.repo_id,
            name=spec.name,
            spec=spec.to_dict(),
            output_dir=str(fetched.directory),
            seconds=fetched.elapsed_s,
            notes=list(fetched.notes),
            revision=fetched.commit,
            files={file.name: file.bytes for file in fetched.files},
            transferred_bytes=fetched.transferred_bytes,
            reused_bytes=fetched.reused_bytes,
        )
    )


def convert(spec: ConvertSpec, *, progress: ProgressSink | None = None) -> ConvertStep | ShardPlan:
    """Write a checkpoint from a model; with `dry_run` return the plan of its shards and write nothing."""
    source = _open(spec, progress)
    config = _config(spec, source)
    if spec.family is not None:
        _check_family(spec.family, source)
    _check_layout(config, spec)
    if spec.dry_run:
        return shard_plan(config)
    return keep(_written(ConvertStep, "convert", spec, source, config, progress))


def written_checkpoint(spec: ConvertSpec, *, progress: ProgressSink | None = None) -> Path:
    """Write (or find in the cache) the checkpoint of a request and return its folder; the step is kept as a result."""
    source = _open(spec, progress)
    return Path(keep(_written(ConvertStep, "convert", spec, source, _config(spec, source), progress)).output_dir)


def quantize(spec: QuantizeSpec, *, progress: ProgressSink | None = None) -> ConvertStep:
    """Write a checkpoint with quantized weights from a model; the result is a `QuantizeStep`."""
    source = _open(spec, progress)
    config = _config(spec, source)
    search: dict[str, Any] = {}
    if spec.search and not isinstance(source, QuantizedSource):
        config, search = _searched(spec, source, config, progress)
    _check_layout(config, spec)
    step = _written(QuantizeStep, "quantize", spec, source, config, progress)
    assert isinstance(step, QuantizeStep)  # noqa: S101
    if search:
        write_json(Path(step.output_dir) / SEARCH_REPORT, search)
    step = step.replace(search=search)
    if spec.report or spec.quality.is_asked:
        step = step.replace(quality=_report(spec, source, step, progress))
    return keep(step)


def _searched(
    spec: QuantizeSpec, source: HFSource, config: ModelConfig, progress: ProgressSink | None
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the configuration with the mix that the budget allows, and how it was found."""
    from ..calibration.search import search_mix

    cached = _target("quantize", spec, source)
    if spec.output_dir is None and cached.is_dir():
        kept = cached / SEARCH_REPORT
        return open_checkpoint(cached).config, read_json(kept) if kept.exists() else {}
    tokens = _tokens(spec, source, progress)
    assert tokens is not None  # noqa: S101 - a search always calibrates
    mix, report = search_mix(
        source,
        tokens,
        budget=spec.budget,
        formats=spec.search_formats,
        metric=spec.search_metric,
        num_tokens=spec.search_tokens,
        group_size=spec.group_size,
        alpha=QuantConfig().smoothquant_val if spec.smoothquant is None else spec.smoothquant,
        exclude=spec.quant_config,
        dtype=spec.dtype,
        mapping=config.mapping,
        device=calibration_device(spec.calibration.calib_device),
        progress=progress,
    )
    cache = config.quantization.kv_cache_quant_algo
    return config.replace(quantization=mix.replace(kv_cache_quant_algo=cache)), report.to_dict()


def _report(
    spec: QuantizeSpec, source: HFSource | QuantizedSource, step: QuantizeStep, progress: ProgressSink | None
) -> dict[str, Any]:
    """Hold the new checkpoint against its source; the result is kept on its own, and its data are returned."""
    from .quality import measured_quality
    from .sides import hf_side, open_side

    asked = spec.quality if spec.quality.is_asked else spec.quality.replace(metrics=("all",))
    remote = spec.trust_remote_code
    with (
        open_side(step.output_dir, progress=progress) as side,
        open_side(asked.baseline, trust_remote_code=remote, progress=progress)
        if asked.baseline is not None
        else hf_side(Path(source.directory), "float32", remote, progress) as baseline,
    ):
        return measured_quality(
            side, baseline, asked, source.directory,
            layers=step.layers or None, name=spec.name, trust_remote_code=remote, progress=progress,
        ).to_dict()  # fmt: skip


def _check_layout(config: ModelConfig, spec: ConvertSpec | QuantizeSpec) -> None:
    """Name everything in the request that the model's shapes do not allow, before anything is written."""
    raise_conflicts(find_conflicts(config), where=spec.source)


def _open(spec: ConvertSpec | QuantizeSpec, progress: ProgressSink | None) -> HFSource | QuantizedSource:
    """Open the model; one that another tool quantized can be converted as it is, and not quantized once more."""
    folder = model_dir_from(spec.source, progress=progress)
    config_file = Path(folder) / "config.json"
    if not config_file.is_file() or quantization_table(read_model_config(Path(folder)), Path(folder)) is None:
        return open_hf_folder(folder, trust_remote_code=spec.trust_remote_code)
    if spec.quant_config.is_quantized:
        raise SpecError(
            "The model was quantized by another tool already, and the request quantizes.",
            where=str(folder),
            remedy="Convert it without quantization flags: its own weights and scales are kept, exactly.",
        )
    return open_quantized_folder(folder, trust_remote_code=spec.trust_remote_code)


def _config(spec: ConvertSpec | QuantizeSpec, source: HFSource | QuantizedSource) -> ModelConfig:
    """Return the checkpoint's configuration as the request wants it."""
    if isinstance(source, QuantizedSource):
        return plan_repack(source, dtype=spec.dtype, mapping=spec.mapping, **_model_options(spec)).config
    plain = config_from_source(source, spec.dtype, spec.mapping, **_model_options(spec))
    return plain.replace(quantization=spec.quant_config)


def _model_options(spec: ConvertSpec | QuantizeSpec) -> dict[str, Any]:
    """Return the fields of ModelConfig that the request sets over what the source says."""
    asked = {name: getattr(spec, name, None) for name in _MODEL_OPTIONS}
    return {name: value for name, value in asked.items() if value is not None}


def _check_family(asked: str, source: HFSource | QuantizedSource) -> None:
    """Refuse a family that is not the model's own: `--model starcoder` on a LLaMA is a mix-up, not a wish."""
    families = all_families()
    if not any(_is_called(family, asked) for family in families):
        names = sorted({family.name for family in families})
        raise SpecError(f"There is no family {asked!r}.", where="family", remedy=did_you_mean(asked, names))
    found = family_for_hf(source.config, where=str(source.directory / "config.json"))
    if not _is_called(found, asked):
        raise SpecError(
            f"The model is of the family {found.title}, not {asked}.",
            where=str(source.directory / "config.json"),
            remedy="Leave --model out: the family is read from config.json.",
        )


def _is_called(family: Family, asked: str) -> bool:
    """Whether people call a family so: ``gpt2``, ``StarCoder``, ``llama`` …"""
    wanted = re.sub(r"[^a-z0-9]", "", asked.lower())
    words = re.split(r"[^a-z0-9]+", f"{family.name} {family.title}".lower())
    whole = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in (family.name, *family.model_types)]
    return wanted in {*words, *whole} - {""}


def _written(
    kind: type[ConvertStep],
    verb: str,
    spec: ConvertSpec | QuantizeSpec,
    source: HFSource | QuantizedSource,
    config: ModelConfig,
    progress: ProgressSink | None,
) -> ConvertStep:
    """Write the checkpoint, quantized on the way where the request says so, and return the step's result."""
    label = label_of(source.directory)
    target = _target(verb, spec, source)
    notes: list[str] = []
    layers: list[dict[str, Any]] = []
    calibration: dict[str, Any] = {}
    started = time.monotonic()
    # A folder in the cache is named after its content, so one that is there is the one that was asked for.
    if spec.output_dir is None and target.is_dir():
        notes.append("Taken from the cache: the same model was written with the same options before.")
        open_checkpoint(target, verify=True)
        kept = read_report(target)
        layers, calibration = kept.get("layers", []), kept.get("calibration") or {}
    elif isinstance(source, QuantizedSource):
        repacked = repack(
            source, target, dtype=spec.dtype, mapping=spec.mapping, overwrite=spec.overwrite, progress=progress,
            **_model_options(spec),
        )  # fmt: skip
        notes += repacked.notes
    elif config.quantization.is_quantized:
        report = quantize_model(
            source,
            target,
            config.quantization,
            _tokens(spec, source, progress),
            fp8_scales=getattr(spec, "fp8_scales", None),
            dtype=config.dtype,
            mapping=config.mapping,
            act_order=getattr(spec, "act_order", False),
            quantizer=_quantizer(spec),
            overwrite=spec.overwrite,
            device=calibration_device(spec.calibration.calib_device),
            progress=progress,
            **_model_options(spec),
        )
        layers = [asdict(layer) for layer in report.layers]
        calibration = report.calibration or {}
        if report.quantizer != "ours":
            notes.append(f"Scales are those of {report.quantizer}.")
        if calibration and calibration["size"] < spec.calibration.calib_size:
            notes.append(
                f"The calibration text has {calibration['size']} rows of {calibration['length']} tokens; "
                f"{spec.calibration.calib_size} were asked for."
            )
    else:
        convert_source(source, target, config=config, workers=spec.workers, overwrite=spec.overwrite, progress=progress)
    seconds = time.monotonic() - started
    checkpoint = open_checkpoint(target)
    ranks = [checkpoint.rank(rank) for rank in range(config.mapping.world_size)]
    bytes_by_rank = [weights.path.stat().st_size for weights in ranks]
    return kind(
        backend="trtbench-lab",
        model=label,
        name=spec.name,
        spec=spec.to_dict(),
        output_dir=str(target),
        seconds=seconds,
        notes=notes,
        architecture=config.architecture,
        dtype=config.dtype,
        tp_size=config.mapping.tp_size,
        pp_size=config.mapping.pp_size,
        quantization=quantization_label(config),
        tensors=sum(len(weights) for weights in ranks),
        written_bytes=sum(bytes_by_rank),
        bytes_by_rank=bytes_by_rank,
        layers=layers,
        calibration=calibration,
    )


def _target(verb: str, spec: ConvertSpec | QuantizeSpec, source: HFSource | QuantizedSource) -> Path:
    """Return the folder to write: the one chosen, or one of the cache that is named after the content."""
    request = {name: value for name, value in spec.to_dict().items() if name not in _NOT_CONTENT}
    if "quantizer" in request:  # what "auto" means, and which version: scales depend on both
        who = quantizer_for(_quantizer(spec), spec.quant_config.quant_algo)
        request["quantizer"] = who if who == "ours" else f"{who} {modelopt_version()}"
    asked = request.get("calibration")
    if asked and asked["calib_dataset"] != "demo" and _looks_at_text(spec):  # likewise
        request["calibration"] = {**asked, "calib_dataset": _content_of(Path(asked["calib_dataset"]).expanduser())}
    if request.get("fp8_scales"):  # the file's content, not its place
        scales = open_fp8_scales(request["fp8_scales"]).path
        request["fp8_scales"] = hashlib.sha256(scales.read_bytes()).hexdigest()
    return output_dir_for(verb, label_of(source.directory), {**request, "weights": source.digest()}, spec.output_dir)


def _tokens(
    spec: ConvertSpec | QuantizeSpec, source: HFSource, progress: ProgressSink | None
) -> CalibrationTokens | None:
    """Return the calibration tokens of a request, or None where the quantization looks at weights alone."""
    if not _looks_at_text(spec):
        return None
    from ..calibration.text import tokens_for
    from ..evaluation.articles import load_texts

    asked = spec.calibration
    with phase("read calibration text", progress):
        texts = None if asked.calib_dataset == "demo" else load_texts(asked.calib_dataset)
        return tokens_for(source, texts, asked, trust_remote_code=spec.trust_remote_code)


def _looks_at_text(spec: ConvertSpec | QuantizeSpec) -> bool:
    if getattr(spec, "fp8_scales", None) is not None:
        return False
    return needs_calibration(spec.quant_config) or getattr(spec, "search", False)


def _content_of(place: Path) -> str:
    """Return a digest of a file, or of all files of a folder; the name of one that is not there."""
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        return digest_of_json({str(file.relative_to(place)): digest_of_file(file) for file in files})
    return digest_of_file(place) if place.is_file() else str(place)


def _quantizer(spec: ConvertSpec | QuantizeSpec) -> str:
    """Return who quantizes; a search measures what this project's own rounding loses, so its mix is made by that."""
    return "ours" if getattr(spec, "search", False) else getattr(spec, "quantizer", "ours")
