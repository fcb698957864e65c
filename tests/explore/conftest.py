"""Two engines of one demo model, built once: what explorations are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.ranks.direct_build import build_here

from trtbench_lab import workbench
from trtbench_lab.specs import BuildConfig
from trtbench_lab.specs.requests import ConvertSpec


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Backend → engine folder of the demo LLaMA in float32; the onnxruntime one holds its portable network too."""
    home = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(home / "cache"))
        source = ConvertSpec(source="demo:llama", output_dir=str(home / "checkpoint"), dtype="float32")
        checkpoint = Path(workbench.convert(source).output_dir)
        for backend in ("onnxruntime", "torch"):
            limits = {"max_batch_size": 2, "max_input_len": 96, "max_seq_len": 128}
            config = BuildConfig(backend=backend, visualize=backend == "onnxruntime", **limits)
            build_here(checkpoint, config, home / backend)
    return {backend: home / backend for backend in ("onnxruntime", "torch")}
