"""Builds engines with TensorRT from the portable ONNX network, and loads them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import BuildError
from ...specs import BuildConfig, ModelConfig
from ..protocol import Availability, BuildReporter, EngineDescription, Resolution
from .bindings_check import availability, tensorrt_version

if TYPE_CHECKING:
    from ...network.communicator import Communicator
    from ..protocol import Executor


class TensorRTBuilder:
    """See `backends.protocol.Builder`."""

    backend = "tensorrt"
    keeps_timing_cache = True

    def version(self) -> str:
        """Return the version of TensorRT; plans of another version do not load."""
        return f"tensorrt {tensorrt_version()}"

    def available(self) -> Availability:
        """Say whether bindings, libraries and a GPU are here."""
        return availability()

    def machine_key(self) -> str:
        """Return the processor's family and the GPU's name and compute capability: kernels are chosen for that GPU."""
        import torch

        if not torch.cuda.is_available():
            return f"{platform.machine()} cuda none"
        major, minor = torch.cuda.get_device_capability()
        return f"{platform.machine()} cuda sm{major}{minor} {torch.cuda.get_device_name()}"

    def resolve(self, model_config: ModelConfig, build_config: BuildConfig) -> Resolution:
        """Settle the configuration; see the protocol."""
        raise BuildError("The tensorrt backend does not build yet.", where="backend", remedy="Use another backend.")

    def build(
        self, checkpoint_dir: Path, rank: int, build_config: BuildConfig, output_dir: Path, report: BuildReporter
    ) -> None:
        """Write ``rank{R}.engine`` and the timing cache."""
        raise BuildError("The tensorrt backend does not build yet.", where="backend", remedy="Use another backend.")

    def load(
        self,
        engine_dir: Path,
        rank: int,
        engine_config: EngineDescription,
        *,
        device: str | None = None,
        communicator: Communicator | None = None,
    ) -> Executor:
        """Load one rank; see `executor.load_executor`."""
        from .executor import load_executor

        return load_executor(engine_dir, rank, engine_config, device=device, communicator=communicator)


def builder() -> TensorRTBuilder:
    """Return the backend's builder (see `backends.registry`)."""
    return TensorRTBuilder()
