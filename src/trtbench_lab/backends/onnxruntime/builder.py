"""Builds and loads engines of the onnxruntime backend: the portable network, lowered for a CPU."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from ...checkpoint import open_checkpoint
from ...errors import BuildError, EngineError
from ...network.signature import PagedForm, paged_signature, signature
from ...quantization.linear_kinds import LinearForm, kinds_in
from ...specs import BuildConfig, ModelConfig, QuantAlgo
from ..protocol import Availability, BuildReporter, EngineDescription, Resolution, engine_file_name
from ..resolve import resolve_without_plugins, wants_paged
from ..trial import paged_trial_run, trial_run
from .attention import fusible
from .executor import MANY_TOKENS, OnnxRuntimeExecutor
from .notes import quantization_notes
from .paged_executor import PagedOnnxRuntimeExecutor
from .session import onnxruntime, open_session

NETWORK_NAME = "network.onnx"


class OnnxRuntimeBuilder:
    """See `backends.protocol.Builder`."""

    backend = "onnxruntime"

    def version(self) -> str:
        """Return the version of ONNX Runtime."""
        return f"onnxruntime {onnxruntime().__version__}"

    def available(self) -> Availability:
        """Say whether the package is installed."""
        if importlib.util.find_spec("onnxruntime") is None:
            return Availability(
                False, "The onnxruntime backend needs the package 'onnxruntime', which is not installed."
            )
        return Availability(True)

    def machine_key(self) -> str:
        """Return the processor's family: kernels are chosen when an engine is loaded, not when it is built."""
        return f"{platform.machine()} cpu"

    def resolve(self, model_config: ModelConfig, build_config: BuildConfig) -> Resolution:
        """Settle the configuration; see the protocol."""
        mapping = model_config.mapping
        if mapping.world_size > 1:
            raise BuildError(
                f"The onnxruntime backend runs one rank, and this model has {mapping.world_size}.",
                where="mapping.world_size",
                remedy="Use the torch backend, or convert the model with tp_size 1 and pp_size 1.",
            )
        if model_config.quantization.kv_cache_quant_algo is QuantAlgo.FP8:
            raise BuildError(
                "ONNX Runtime's CPU kernels read no K/V cache of type FP8.",
                where="quantization.kv_cache_quant_algo",
                remedy="Use the torch or tensorrt backend, or convert with an INT8 cache or none.",
            )
        config, notes = resolve_without_plugins(
            model_config,
            build_config,
            self.backend,
            compute_dtypes=("float32",),
            reason="ONNX Runtime's CPU kernels are float32",
            paged=wants_paged(model_config, build_config.plugin_config),
        )
        notes += quantization_notes(model_config, config)
        return Resolution(config, notes)

    def build(
        self, checkpoint_dir: Path, rank: int, build_config: BuildConfig, output_dir: Path, report: BuildReporter
    ) -> None:
        """Write ``rank0.engine`` (an ONNX file), its data file, and with `visualize` the portable network."""
        with report.phase("load checkpoint"):
            checkpoint = open_checkpoint(checkpoint_dir)
            config, weights = checkpoint.config, checkpoint.rank(rank)
        max_positions = build_config.resolved_max_seq_len(config)
        with report.phase("export network"):
            from ...network.export import export_network, write_networks
            from .lowering import lower_for_onnxruntime
            from .weight_only import Products

            network = export_network(
                config, max_positions=max_positions, plugin_config=build_config.plugin_config, log=report.log
            )
        report.check_cancelled()
        if build_config.visualize:
            with report.phase("write portable network"):
                network.write(output_dir / NETWORK_NAME, weights)
            report.check_cancelled()
        networks = {output_dir / engine_file_name(rank): network}
        with report.phase("lower network"):
            fuse_attention = fuses_attention(config, build_config)
            if has_prompt_network(config, build_config):
                networks[prompt_file(output_dir, rank)] = prompt = network.copy()
                lower_for_onnxruntime(prompt, config, fuse_attention=fuse_attention, products=Products.MANY_TOKENS)
            products = Products.FEW_TOKENS if fast(build_config) else Products.EXACT
            if 8 in bits_held_twice(config, build_config):
                products = Products.DECODE_ONLY
            lower_for_onnxruntime(network, config, fuse_attention=fuse_attention, products=products)
        with report.phase("write engine"):
            write_networks(networks, weights, each=report.check_cancelled)
        report.check_cancelled()
        with report.phase("verify engine"):
            executor = self._load(output_dir, rank, config, build_config)
            if form_of(config, build_config) is not None:
                paged_trial_run(executor, max_positions)
            else:
                for prompt_length in (2, MANY_TOKENS)[: len(networks)]:
                    trial_run(executor, max_positions, prompt_length=prompt_length)
            executor.close()

    def load(
        self,
        engine_dir: Path,
        rank: int,
        engine_config: EngineDescription,
        *,
        device: str | None = None,
        profile_prefix: str | None = None,
    ) -> OnnxRuntimeExecutor:
        """Load the engine; `device` may be None or ``"cpu"``.

        With `profile_prefix` every run is recorded, until `OnnxRuntimeExecutor.end_profiling`, into files whose names
        begin so.
        """
        if device not in (None, "cpu"):
            raise EngineError(
                f"An onnxruntime engine runs on the CPU, not on {device!r}.",
                where="device",
                remedy="Leave device out, or build the engine with the torch backend.",
            )
        return self._load(
            engine_dir, rank, engine_config.pretrained_config, engine_config.build_config, profile_prefix=profile_prefix
        )

    def _load(
        self,
        folder: Path,
        rank: int,
        config: ModelConfig,
        build_config: BuildConfig,
        *,
        profile_prefix: str | None = None,
    ) -> OnnxRuntimeExecutor:
        paths = [folder / engine_file_name(rank)]
        if has_prompt_network(config, build_config):
            paths.append(prompt_file(folder, rank))
        for path in paths:
            if not path.is_file():
                raise EngineError("The engine file is missing.", where=str(path), remedy="Build the engine again.")
        sessions = [
            open_session(
                path,
                opt_level=build_config.opt_level,
                packs_weights=fast(build_config),
                profile_prefix=None if profile_prefix is None else f"{profile_prefix}-{number}",
            )
            for number, path in enumerate(paths)
        ]
        files = [*paths, paths[0].with_name(f"{paths[0].name}.data")]
        weights_bytes = sum(path.stat().st_size for path in files if path.is_file())
        max_positions = build_config.resolved_max_seq_len(config)
        form = form_of(config, build_config)
        if form is not None:
            size, dtype = form.tokens_per_block, form.cache_dtype
            return PagedOnnxRuntimeExecutor(
                sessions[0],
                paged_signature(config, config.mapping, "float32", tokens_per_block=size, cache_dtype=dtype),
                config,
                max_positions=max_positions,
                weights_bytes=weights_bytes,
                network_files=paths,
            )
        return OnnxRuntimeExecutor(
            sessions[0],
            signature(config, config.mapping, "float32"),
            config,
            max_positions=max_positions,
            chunks_row_by_row=fuses_attention(config, build_config),
            weights_bytes=weights_bytes,
            prompt_session=sessions[1] if len(sessions) > 1 else None,
            network_files=paths,
        )


def form_of(config: ModelConfig, build_config: BuildConfig) -> PagedForm | None:
    """Return how the engine's cache is paged, None for the padded form."""
    return PagedForm.of(config, build_config.plugin_config)


def fast(build_config: BuildConfig) -> bool:
    """Whether the engine trades memory, and the last bits of weight-only products, for speed: levels 2 and above."""
    return build_config.opt_level >= 2


def bits_held_twice(config: ModelConfig, build_config: BuildConfig) -> set[int]:
    """Return the widths of weights a channel that the engine holds a second time, for prompts: 4 from level 3 on, where
    a prompt takes half the time for it; 8 from level 4 on, where a decode step takes 8-13 % less.
    """
    if form_of(config, build_config) is not None:
        return set()
    present = {kind.algo.weight_bits for kind in kinds_in(config) if kind.form is LinearForm.CHANNELS}
    return {bits for bits, level in ((4, 3), (8, 4)) if bits in present and build_config.opt_level >= level}


def has_prompt_network(config: ModelConfig, build_config: BuildConfig) -> bool:
    """Whether runs of many tokens have a network of their own."""
    return bool(bits_held_twice(config, build_config))


def prompt_file(folder: Path, rank: int) -> Path:
    """Return the path of a rank's prompt network; its weights stand in the engine's data file."""
    return folder / f"rank{rank}.prompt.engine"


def fuses_attention(config: ModelConfig, build_config: BuildConfig) -> bool:
    """Whether the engine has fused attention nodes."""
    return form_of(config, build_config) is None and fast(build_config) and fusible(config)


def builder() -> OnnxRuntimeBuilder:
    """Return the backend's builder (see `backends.registry`)."""
    return OnnxRuntimeBuilder()
