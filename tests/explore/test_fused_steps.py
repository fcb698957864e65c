"""Fused steps are what generation runs: explored by module, with times, on a CPU and on a GPU through the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trtbench_lab import workbench
from trtbench_lab.engine import Engine
from trtbench_lab.explore import compare_explorations, explore, profile
from trtbench_lab.results import Result
from trtbench_lab.specs import BuildConfig, PluginConfig
from trtbench_lab.specs.requests import BuildSpec

LAYERS, ROWS, LENGTH = 4, 2, 24
PARTS = ("attention.qkv", "attention", "attention.dense", "mlp.fc", "mlp.proj")
DEVICES = ["any", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def fused(request: pytest.FixtureRequest, engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an engine of the paged form, which generates by fused steps."""
    folder = tmp_path_factory.mktemp("fused") / "engine"
    limits = {"max_batch_size": ROWS, "max_input_len": 96, "max_seq_len": 128}
    config = BuildConfig(backend="torch", **limits, plugin_config=PluginConfig(gpt_attention_plugin="float32"))
    checkpoint = str(engines["torch"].parent / "checkpoint")
    workbench.build(BuildSpec(checkpoint_dir=checkpoint, output_dir=str(folder), build_config=config))
    if request.param == "cuda":
        executor = Engine.from_dir(folder).executor()
        assert executor.device.type == "cuda"
        executor.close()
    return folder


def steps_of(layers: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in layers if layer.name == layer.module}


@pytest.mark.parametrize("phase", ["decode", "prompt"])
def test_every_fused_step_is_timed_in_order(fused: Path, phase: str) -> None:
    result = profile(fused, phase_name=phase, batch_size=ROWS, input_length=LENGTH, num_runs=3, warm_up=1)
    expected = [f"transformer.layers.{number}.{part}" for number in range(LAYERS) for part in PARTS]
    found = [layer.name for layer in result.layers][: len(expected) + 2]
    assert found == ["transformer.vocab_embedding", *expected, "lm_head"]
    steps = steps_of(result.layers)
    assert len(steps) == len(expected) + 2
    for layer in steps.values():
        assert len(layer.times_ms) == 3
        assert all(time > 0 for time in layer.times_ms), layer.name
        assert layer.tactic
    assert (len(result.run_ms), result.form) == (3, "fused steps of the torch backend")
    assert result.metrics["attributed_percent"] > 50  # beside the steps a prompt copies its indices
    groups = {group.name: group for group in result.by_group()}
    assert all(groups[f"transformer.layers.*.{part}"].layers == LAYERS for part in PARTS)
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_work_is_that_of_the_fused_steps(fused: Path, engines: dict[str, Path]) -> None:
    apart = steps_of(explore(engines["torch"]).layers)  # the same weights, module by module
    weights = {name: layer.weights_bytes for name, layer in apart.items()}
    steps = steps_of(profile(fused, batch_size=ROWS, input_length=LENGTH, num_runs=1, warm_up=0).layers)
    at = "transformer.layers.1"
    fc = steps[f"{at}.mlp.fc"]
    assert fc.weights_bytes == weights[f"{at}.mlp.fc"] + weights[f"{at}.mlp.gate"]
    assert fc.flops == 2 * ROWS * fc.weights_bytes // 4  # a product and an addition for each weight in float32
    assert fc.nodes == (
        f"{at}.post_layernorm/RMSNormalization", f"{at}.mlp.fc/MatMul", f"{at}.mlp.gate/MatMul"
    )  # fmt: skip
    assert fc.type == "norm + gated product + silu"
    for part in ("attention.qkv", "attention.dense", "mlp.proj"):
        assert steps[f"{at}.{part}"].weights_bytes == weights[f"{at}.{part}"]
    assert steps["lm_head"].weights_bytes == weights["lm_head"]
    attention = steps[f"{at}.attention"]
    heads = attention.outputs[0].shape[1]  # of all heads together
    assert attention.flops == 4 * ROWS * heads * (LENGTH + 1)  # two products over each key
    assert attention.inputs[1].shape[:2] == (ROWS, LENGTH + 1)
    assert attention.kind == "attention"
    prompt = steps_of(profile(fused, phase_name="prompt", input_length=LENGTH, num_runs=1, warm_up=0).layers)
    assert prompt[f"{at}.attention"].flops == 4 * heads * LENGTH * (LENGTH + 1) // 2  # each token sees those before
    assert prompt[f"{at}.mlp.proj"].flops == LENGTH * steps[f"{at}.mlp.proj"].flops // ROWS
    last = f"transformer.layers.{LAYERS - 1}.mlp.proj"
    assert prompt[last].flops == steps[last].flops // ROWS  # of the last token only


def test_a_fused_engine_beside_a_graph_engine(fused: Path, engines: dict[str, Path]) -> None:
    options: dict[str, Any] = {"num_runs": 1, "warm_up": 0, "input_length": 8}
    pair = compare_explorations(profile(fused, **options), profile(engines["onnxruntime"], **options))
    row = next(row for row in pair.layers if row.first == ("transformer.layers.0.mlp.fc",))
    assert {"transformer.layers.0.mlp.fc/MatMul", "transformer.layers.0.mlp.gate/MatMul"} <= set(row.second)
    assert row.first_ms is not None
    assert row.second_ms is not None


def test_generation_after_exploring_is_as_before(fused: Path) -> None:
    executor = Engine.from_dir(fused).executor()
    session = executor.fused_session()
    prompts = [[3, 1, 4, 1, 5], [2, 7, 1]]
    before = session.start(prompts, 2).clone()
    profile(executor, num_runs=1, warm_up=0, input_length=8)
    close = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32 in another order
    torch.testing.assert_close(session.start(prompts, 2), before, **close)
    session.greedy()
    eager = session.forward_eagerly().clone()
    torch.testing.assert_close(session.forward(), eager, **close)
    with session.steps.mark("anything") as nothing:
        assert nothing is None
    executor.close()
