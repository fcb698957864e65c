"""Engines whose dense products are the library's, by ``gemm_plugin``: the same model on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trtbench_lab import workbench
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.engine import Engine
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, PluginConfig
from trtbench_lab.specs.requests import BuildSpec, ConvertSpec


@pytest.mark.gpu
def test_logits_do_not_depend_on_the_plugin(tmp_path: Path) -> None:
    """Float16 products of other kernels are summed in another order: 2⁻¹¹ of a number, in each of some layers."""
    checkpoint = workbench.convert(ConvertSpec(source=str(demo_model_dir("gpt2")), dtype="float16"))
    logits = {}
    for value in ("auto", "disable"):
        config = BuildConfig(
            backend="torch", compute_dtype="float16", max_batch_size=1, max_input_len=32, opt_level=1,
            plugin_config=PluginConfig(gemm_plugin=value),
        )  # fmt: skip
        folder = str(tmp_path / value)
        workbench.build(BuildSpec(checkpoint_dir=checkpoint.output_dir, output_dir=folder, build_config=config))
        with torch.inference_mode():  # a caller may stand in it: weights are sent by other threads
            runner = ModelRunner.from_engine(Engine.from_dir(folder))
        made = runner.generate([list(range(5, 25))], max_new_tokens=4, output_logits=True)
        steps = made["generation_logits"][0, 0].float().cpu()
        assert steps.shape[0] == 4
        logits[value] = steps
        runner.close()
    far = (logits["auto"] - logits["disable"]).norm() / logits["auto"].norm()
    assert torch.isfinite(logits["disable"]).all()
    assert far < 1e-2
