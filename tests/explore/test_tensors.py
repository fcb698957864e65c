"""Intermediate tensors: engines give Hugging Face's, by the same names; two engines are held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.ranks.direct_build import build_here
from transformers import AutoModelForCausalLM

from trtbench_lab.cli import main
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.engine import Engine
from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.explore import compare_explorations, explore, profile
from trtbench_lab.explore.recording.tensors import part_tensors
from trtbench_lab.explore.recording.workload import Step, step_tensors
from trtbench_lab.explore.tensors import differences, summaries
from trtbench_lab.network.node_names import output_nodes, parts_of
from trtbench_lab.specs import BuildConfig

BACKENDS = ("torch", "onnxruntime")
TOLERANCE = 2e-4  # float32, sums in another order; values reach 10


@pytest.fixture(scope="module")
def paged(engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with packed tokens and a paged cache."""
    config = BuildConfig.from_dict(
        {"backend": "torch", "max_batch_size": 2, "max_input_len": 96, "max_seq_len": 128,
         "plugin_config": {"gpt_attention_plugin": "float32"}}
    )  # fmt: skip
    checkpoint = engines["torch"].parent / "checkpoint"
    return build_here(checkpoint, config, tmp_path_factory.mktemp("paged") / "engine")


def of_hugging_face(executor: Any, step: Step) -> dict[str, torch.Tensor]:
    """Parts of the reference over the tokens of `step`; a decode step's own token is the last of its row."""
    before = Step("prompt", step.batch_size, step.input_length)
    ids = step_tensors(executor, before, like=step)["input_ids"].reshape(step.batch_size, -1)
    if step.phase == "decode":
        ids = torch.cat([ids, step_tensors(executor, step)["input_ids"].reshape(step.batch_size, 1)], 1)
    model = AutoModelForCausalLM.from_pretrained(demo_model_dir("llama"), dtype=torch.float32).eval()
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, given: Any, result: Any) -> None:
            found[name] = result[0] if isinstance(result, tuple) else result

        return hook

    for number, layer in enumerate(model.model.layers):
        stem = f"transformer.layers.{number}"
        layer.register_forward_hook(keep(stem))
        layer.self_attn.register_forward_hook(keep(f"{stem}.attention"))
        layer.mlp.register_forward_hook(keep(f"{stem}.mlp"))
    with torch.inference_mode():
        model(ids)
    return {name: tensor[:, -step.new :] for name, tensor in found.items()}


@pytest.mark.parametrize("phase", ["prompt", "decode"])
@pytest.mark.parametrize("kind", [*BACKENDS, "paged"])
def test_parts_give_what_hugging_faces_modules_give(engines, paged, kind, phase):
    engine = Engine.from_dir(paged if kind == "paged" else engines[kind])
    executor = engine.executor()
    step = Step(phase, 2, 7)
    found = part_tensors(executor, step)
    expected = of_hugging_face(executor, step)
    layers = engine.config.pretrained_config.num_hidden_layers
    assert set(found) == {*expected, "transformer.ln_f"}
    assert len(found) == 3 * layers + 1
    for name, tensor in expected.items():
        assert torch.allclose(found[name].reshape(tensor.shape), tensor, atol=TOLERANCE), name
    executor.close()


def test_two_engines_part_where_one_is_wrong(engines):
    first, second = (explore(engines[backend], tensors=True, input_length=7) for backend in BACKENDS)
    assert (first.phase, first.input_length) == ("decode", 7)
    assert [one.part for one in first.tensors[:4]] == [
        "transformer.layers.0.attention", "transformer.layers.0.mlp", "transformer.layers.0",
        "transformer.layers.1.attention",
    ]  # fmt: skip
    rows = differences(first.tensors, second.tensors)
    assert len(rows) == len(first.tensors)
    assert all(gap is not None and gap < 1e-4 for *_, gap in rows)
    text = str(compare_explorations(first, second))
    assert "largest difference (% of rms)" in text
    spoilt = {one.part: torch.tensor(one.samples) for one in second.tensors}
    spoilt["transformer.layers.1"] = spoilt["transformer.layers.1"] + 1
    wrong = differences(summaries({part: torch.tensor(v.samples) for part, v in
                                   ((one.part, one) for one in first.tensors)}), summaries(spoilt))  # fmt: skip
    assert [part for part, *_, gap in wrong if gap is not None and gap > 0.01] == ["transformer.layers.1"]


def test_numbers_of_a_tensor():
    (summary,) = summaries({"transformer.ln_f": torch.tensor([[3.0, float("nan")], [-4.0, float("inf")]])})
    assert (summary.minimum, summary.maximum, summary.mean, summary.not_finite) == (-4, 3, -0.5, 2)
    assert summary.rms == pytest.approx((25 / 2) ** 0.5)
    assert summary.shape == (2, 2)
    (large,) = summaries({"transformer.ln_f": torch.arange(1000.0)})
    assert (large.samples[0], large.samples[-1], len(large.samples)) == (0, 999, 64)
    ((_, _, _, gap),) = differences([summary], [large])
    assert gap is None
    ((_, _, _, gap),) = differences([summary], [summary])
    assert gap == float("inf")


def test_output_nodes_are_the_last_of_each_part():
    names = ["transformer.layers.1.attention/Mul", "transformer.layers.1.attention.dense/MatMul",
             "transformer.layers.1/Add", "transformer.layers.10.mlp.proj/MatMul", "Range"]  # fmt: skip
    assert output_nodes(names) == {
        "transformer.layers.1.attention": "transformer.layers.1.attention.dense/MatMul",
        "transformer.layers.1": "transformer.layers.1/Add",
        "transformer.layers.10.mlp": "transformer.layers.10.mlp.proj/MatMul",  # whose sum a norm plugin takes in
    }
    assert parts_of("transformer.ln_f") == ("transformer.ln_f",)
    assert parts_of("lm_head") == parts_of("transformer.vocab_embedding") == ()


def test_from_the_shell_and_what_is_refused(engines, tmp_path, capsys):
    line = ["explore", str(engines["torch"]), "--tensors", "--input_length", "5", "-q"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "Intermediate tensors" in printed
    assert "transformer.layers.0.attention" in printed
    with pytest.raises(EngineError, match="this is a file"):
        explore(engines["onnxruntime"] / "network.onnx", tensors=True)
    with pytest.raises(RequestError, match="at most 2 rows"):
        explore(engines["torch"], tensors=True, batch_size=3)


def test_times_and_tensors_come_from_one_load(engines, monkeypatch):
    loads, executor = [], Engine.executor

    def counted(engine: Engine, *arguments: Any, **keywords: Any) -> Any:
        loads.append(engine.name)
        return executor(engine, *arguments, **keywords)

    monkeypatch.setattr(Engine, "executor", counted)
    both = profile(engines["torch"], tensors=True, input_length=5, num_runs=1, warm_up=0)
    assert loads == ["torch"]
    assert both.tensors == explore(engines["torch"], tensors=True, input_length=5).tensors
    assert both.run_ms
