"""Builds and loads engines of the torch backend: the decoder's own modules over a file laid out for the device."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ...checkpoint import open_checkpoint
from ...errors import EngineError
from ...network.paged import PagedDecoder
from ...network.signature import PagedForm
from ...quantization.linear_kinds import LinearForm, kinds_in
from ...ranks import RankCommunicator
from ...ranks.alone import RankAlone
from ...specs import BuildConfig, ModelConfig, PluginConfig
from ..protocol import Availability, BuildReporter, EngineDescription, Resolution, engine_file_name
from ..resolve import resolve_without_plugins
from ..trial import trial_run
from .engine_file import IN_OUT, OUT_IN, EngineLayout, engine_decoder, layout_of, load_decoder, write_engine_file
from .executor import TorchExecutor
from .fused import TIMING_CACHE_NAME, finish_build, form_of, resolve_fused, wants_fused
from .gpu.kernel_store import KernelStore, store_of
from .gpu.tuning import read_cache
from .gpu.warming import made_ready
from .paged_executor import PagedTorchExecutor

PLUGINS = ("rmsnorm_plugin", "layernorm_plugin", "swiglu_plugin", "lookup_plugin")
"""Options of `PluginConfig` that the decoder's own modules honour."""


class TorchBuilder:
    """See `backends.protocol.Builder`."""

    backend = "torch"
    keeps_timing_cache = True
    verifies_on_load = True

    def version(self) -> str:
        """Return the version of torch, which carries the CUDA version of its build."""
        return f"torch {torch.__version__}"

    def available(self) -> Availability:
        """Always: torch is a base dependency."""
        return Availability(True)

    def machine_key(self) -> str:
        """Return the processor's family, and with a GPU its compute capability."""
        if torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability()
            return f"{platform.machine()} cuda sm{major}{minor}"
        return f"{platform.machine()} cpu"

    def resolve(self, model_config: ModelConfig, build_config: BuildConfig) -> Resolution:
        """Settle the configuration; see the protocol."""
        if default_device().type == "cuda":
            dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
            reason = ""
        elif build_config.compute_dtype == "auto":
            dtypes, reason = ("float32",), "a CPU computes float16 and bfloat16 several times slower"
        else:
            dtypes, reason = ("float32", "float16", "bfloat16"), ""
        if wants_fused(model_config, build_config, default_device()):
            device = default_device()
            config, notes = resolve_fused(model_config, build_config, dtypes=dtypes, reason=reason, device=device)
            return Resolution(config, notes)
        config, notes = resolve_without_plugins(
            model_config, build_config, self.backend, compute_dtypes=dtypes, reason=reason, plugins=PLUGINS
        )
        on = [name for name in PLUGINS if config.plugin_config.enabled(name)]
        if on and default_device().type == "cpu":
            notes.append(f"{', '.join(on)}: on a CPU the plugin's reference runs, which is no faster.")
        if build_config.opt_level != BuildConfig().opt_level:
            notes.append("opt_level has no effect: the torch backend has one form of each layer.")
        if build_config.visualize and model_config.mapping.tp_size > 1:
            notes.append("visualize has no effect: a network split over tensor-parallel ranks is not exported to ONNX.")
            config = config.replace(visualize=False)
        notes += quantization_notes(model_config)
        return Resolution(config, notes)

    def build(
        self, checkpoint_dir: Path, rank: int, build_config: BuildConfig, output_dir: Path, report: BuildReporter
    ) -> None:
        """Write ``rank{R}.engine``, and with `visualize` the portable network of rank 0."""
        with report.phase("load checkpoint"):
            checkpoint = open_checkpoint(checkpoint_dir)
            config = checkpoint.config.replace(mapping=checkpoint.config.mapping.with_rank(rank))
            weights = checkpoint.rank(rank)
        device = default_device()
        max_positions = build_config.resolved_max_seq_len(config)
        turned = device.type == "cpu" and build_config.compute_dtype == "float32"
        layout = EngineLayout(IN_OUT if turned else OUT_IN, build_config.compute_dtype, max_positions)
        if build_config.visualize and rank == 0:
            with report.phase("write portable network"):
                from ...network.export import export_onnx

                export_onnx(
                    config,
                    weights,
                    output_dir / "network.onnx",
                    max_positions=max_positions,
                    dtype=getattr(torch, layout.dtype),
                    plugin_config=build_config.plugin_config,
                    log=report.log,
                )
            report.check_cancelled()
        path = output_dir / engine_file_name(rank)
        form = form_of(config, build_config)
        with report.phase("write engine"):
            write_engine_file(path, config, weights, layout, report.check_cancelled, form)
        report.check_cancelled()
        # Each rank is tried without the others: its kernels and caches are its own.
        ranks = RankAlone(config.mapping, device) if config.mapping.world_size > 1 else None
        if form is not None:
            with report.phase("load engine"):
                paged = _load_paged(path, config, device, build_config, form, ranks)
            finish_build(paged, rank, build_config, output_dir, report)
            paged.close()
            return
        with report.phase("verify engine"):
            executor = _load(path, config, device, ranks, build_config.plugin_config)
            trial_run(executor, max_positions)
            executor.close()

    def load(
        self,
        engine_dir: Path,
        rank: int,
        engine_config: EngineDescription,
        *,
        device: str | None = None,
        communicator: RankCommunicator | None = None,
        digest: str | None = None,
    ) -> TorchExecutor | PagedTorchExecutor:
        """Load one rank onto `device` (None: the first GPU, else the CPU).

        Parameters
        ----------
        communicator
            The other ranks (see `ranks.communicator_for`); needed when ``tp_size`` is above 1. A pipeline stage with
            one takes ids and has logits; without one it takes and gives hidden states.
        digest
            What the engine file must have (see `file_digest.digest_by_chunk`); None when it is verified already.
        """
        config = engine_config.pretrained_config
        config = config.replace(mapping=config.mapping.with_rank(rank))
        path = engine_dir / engine_file_name(rank)
        if not path.is_file():
            raise EngineError("The engine file is missing.", where=str(path), remedy="Build the engine again.")
        if config.mapping.tp_size > 1 and communicator is None:
            raise EngineError(
                f"The engine is split over {config.mapping.tp_size} ranks that must talk to each other.",
                where=str(path),
                remedy="Load it with a communicator, one process a rank; or convert the model with tp_size 1.",
            )
        build_config = engine_config.build_config
        place = communicator.device if communicator is not None and device is None else _device(device)
        if (form := form_of(config, build_config)) is not None:
            return _load_paged(path, config, place, build_config, form, communicator, digest)
        return _load(path, config, place, communicator, build_config.plugin_config, digest)


def _load(
    path: Path,
    config: ModelConfig,
    device: torch.device,
    ranks: RankCommunicator | None,
    plugins: PluginConfig,
    digest: str | None = None,
) -> TorchExecutor:
    layout = layout_of(path)
    decoder = engine_decoder(config, layout, ranks, plugins)
    weights_bytes = load_decoder(path, device, decoder, layout, digest)
    return TorchExecutor(decoder, config, device, layout.dtype, weights_bytes=weights_bytes, ranks=ranks)


def _load_paged(
    path: Path,
    config: ModelConfig,
    device: torch.device,
    build_config: BuildConfig,
    form: PagedForm,
    ranks: RankCommunicator | None,
    digest: str | None = None,
) -> PagedTorchExecutor:
    layout = layout_of(path)
    decoder = engine_decoder(config, layout, ranks, form=form)
    assert isinstance(decoder, PagedDecoder)  # noqa: S101 - a form was given
    with made_ready(device, getattr(torch, layout.dtype)):
        store = store_of(path) if device.type == "cuda" else KernelStore()
        weights_bytes = load_decoder(path, device, decoder, layout, digest)
    return PagedTorchExecutor(
        decoder,
        config,
        build_config,
        device,
        layout.dtype,
        weights_bytes=weights_bytes,
        table=read_cache(path.with_name(TIMING_CACHE_NAME)),
        store=store,
        ranks=ranks,
    )


def quantization_notes(config: ModelConfig) -> list[str]:
    """Say how the definitions of quantized layers run."""
    forms = {kind.form for kind in kinds_in(config)}
    notes = []
    if forms & {LinearForm.CHANNELS, LinearForm.GROUPS}:
        notes.append("Weight-only layers rebuild the dense weight in every step: exact, and slower than dense ones.")
    if LinearForm.INT8 in forms:
        notes.append("SmoothQuant layers multiply integers, summed in int32.")
    if LinearForm.FP8 in forms:
        notes.append("FP8 layers round inputs to E4M3 and multiply in float32: the definition, not FP8 arithmetic.")
    return notes


def default_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _device(name: str | None) -> torch.device:
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f"The device {name!r} cannot be used here.",
            where="device",
            remedy="Use 'cpu', or 'cuda:0' on a machine with an NVIDIA GPU and a CUDA build of torch.",
            details=str(error),
        ) from error
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def builder() -> TorchBuilder:
    """Return the backend's builder (see `backends.registry`)."""
    return TorchBuilder()
