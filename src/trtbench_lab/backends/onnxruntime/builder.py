"""Builds and loads engines of the onnxruntime backend: the portable network, lowered for a CPU."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from ...checkpoint import open_checkpoint
from ...errors import BuildError, EngineError
from ...network.signature import signature
from ...specs import BuildConfig, ModelConfig
from ..protocol import Availability, BuildReporter, EngineDescription, Resolution, engine_file_name
from ..resolve import resolve_without_plugins
from ..trial import trial_run
from .attention import fusible
from .executor import OnnxRuntimeExecutor
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
        config, notes = resolve_without_plugins(
            model_config,
            build_config,
            self.backend,
            compute_dtypes=("float32",),
            reason="ONNX Runtime's CPU kernels are float32",
        )
        if model_config.quantization.quant_algo is not None:
            notes.append(weight_only_note(model_config.quantization.quant_algo.weight_bits, config))
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
            from ...network.export import export_network
            from .lowering import lower_for_onnxruntime

            network = export_network(config, max_positions=max_positions, log=report.log)
        report.check_cancelled()
        if build_config.visualize:
            with report.phase("write portable network"):
                network.write(output_dir / NETWORK_NAME, weights)
            report.check_cancelled()
        with report.phase("lower network"):
            lower_for_onnxruntime(
                network,
                config,
                fuse_attention=fuses_attention(config, build_config),
                int8_activations=fast(build_config),
            )
        path = output_dir / engine_file_name(rank)
        with report.phase("write engine"):
            network.write(path, weights, each=report.check_cancelled)
        report.check_cancelled()
        with report.phase("verify engine"):
            executor = self._load(path, config, build_config)
            trial_run(executor, max_positions)
            executor.close()

    def load(
        self, engine_dir: Path, rank: int, engine_config: EngineDescription, *, device: str | None = None
    ) -> OnnxRuntimeExecutor:
        """Load the engine; `device` may be None or ``"cpu"``."""
        if device not in (None, "cpu"):
            raise EngineError(
                f"An onnxruntime engine runs on the CPU, not on {device!r}.",
                where="device",
                remedy="Leave device out, or build the engine with the torch backend.",
            )
        path = engine_dir / engine_file_name(rank)
        if not path.is_file():
            raise EngineError("The engine file is missing.", where=str(path), remedy="Build the engine again.")
        return self._load(path, engine_config.pretrained_config, engine_config.build_config)

    def _load(self, path: Path, config: ModelConfig, build_config: BuildConfig) -> OnnxRuntimeExecutor:
        session = open_session(path, opt_level=build_config.opt_level, packs_weights=fast(build_config))
        data = path.with_name(f"{path.name}.data")
        return OnnxRuntimeExecutor(
            session,
            signature(config, config.mapping, "float32"),
            config,
            max_positions=build_config.resolved_max_seq_len(config),
            chunks_row_by_row=fuses_attention(config, build_config),
            weights_bytes=path.stat().st_size + (data.stat().st_size if data.is_file() else 0),
        )


def fast(build_config: BuildConfig) -> bool:
    """Whether the engine trades memory, and the last bits of weight-only products, for speed: levels 2 and above."""
    return build_config.opt_level >= 2


def fuses_attention(config: ModelConfig, build_config: BuildConfig) -> bool:
    """Whether the engine has fused attention nodes."""
    return fast(build_config) and fusible(config)


def weight_only_note(bits: int, build_config: BuildConfig) -> str:
    """Say how weight-only layers are computed."""
    if fast(build_config):
        return (
            "Weight-only layers round each block of activations to 8 bits (MatMulNBits); opt_level 0 or 1 keeps "
            "float32 activations and is slower."
        )
    if bits == 8:
        return (
            "Weight-only layers are exact at opt_level 0 and 1, with dense float32 weights in the engine: ONNX Runtime "
            "has no fast exact product for 8-bit ones. opt_level 2 or more keeps them packed."
        )
    return "Weight-only layers keep float32 activations at opt_level 0 and 1; opt_level 2 or more is faster."


def builder() -> OnnxRuntimeBuilder:
    """Return the backend's builder (see `backends.registry`)."""
    return OnnxRuntimeBuilder()
