"""Engines built with refit take another checkpoint's weights: whole folders, whole builds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.backends.models import Described, Driver, RandomModel, checkpoint_of, random_model
from tests.backends.tensorrt import build_case
from tests.backends.tensorrt.simulation import plan_parts

from trtbench_lab._version import __version__
from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.registry import backend
from trtbench_lab.backends.tensorrt import builder as builder_module
from trtbench_lab.backends.tensorrt.builder import TensorRTBuilder
from trtbench_lab.backends.tensorrt.loading import load_executor
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.engine import Engine, build
from trtbench_lab.engine.config import FORMAT_VERSION
from trtbench_lab.engine.refit import refit_source
from trtbench_lab.errors import BuildError, EngineError, EngineMismatchError, RequestError
from trtbench_lab.specs import BuildConfig, ModelConfig

TOLERANCE = 1e-3  # see test_executor
OPTIONS: dict[str, Any] = {"max_batch_size": 2, "max_input_len": 8, "max_seq_len": 16, "gather_context_logits": True}


class Tuned:
    """A model of the workshop's llama, with other weights."""

    def __init__(self, folder: Path):
        self.model: RandomModel = random_model("llama", folder / "hf", seed=11)
        checkpoint_of(self.model, folder / "checkpoint")
        self.checkpoint = folder / "checkpoint"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("tuned"))


def logits_are_those_of(model: RandomModel, executor: Any, capacity: int) -> bool:
    tokens = torch.randint(0, 97, (2, 7), generator=torch.Generator().manual_seed(2))
    driver = Driver(executor, 2, capacity)
    logits = torch.cat([driver.step(tokens[:, :5]), driver.step(tokens[:, 5:6]), driver.step(tokens[:, 6:])], 1)
    return torch.allclose(logits, model.logits(tokens), atol=TOLERANCE)


def refitted(built: Any, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Refit rank 0 of an engine into `folder`, without the run that follows; return the log."""
    monkeypatch.setattr(builder_module.TensorRTBuilder, "_verify", lambda *_: None)
    folder.mkdir()
    report = QuietReporter()
    backend("tensorrt").refit(built.folder, checkpoint, 0, built.options, folder, report)
    assert not any(phase.startswith(("build ", "parse")) for phase in report.phases)
    return report.lines


def test_every_plan_gets_the_other_weights_and_can_be_refitted_again(running, tuned, tmp_path, monkeypatch):
    built = running.workshop.engine(refit=True)
    first = running.workshop.model()
    refitted(built, tuned.checkpoint, tmp_path / "second", monkeypatch)
    # Built once for the comparison and never again: no builder was made, and profiles and layout are the same.
    assert not running.recorder.named("Builder.build_serialized_network")
    names = {path.name for path in built.folder.iterdir()} - {"model.cache"}
    assert {path.name for path in (tmp_path / "second").iterdir()} == names
    assert (tmp_path / "second/rank0.layout.json").read_text() == (built.folder / "rank0.layout.json").read_text()
    described = Described(built.config, built.options)
    executor = load_executor(tmp_path / "second", 0, described, cuda=running.cuda)
    assert executor.cache_capacities == (12, 24)
    for capacity in (12, 24):
        assert logits_are_those_of(tuned.model, executor, capacity)
        assert not logits_are_those_of(first, executor, capacity)
    # The engine that was taken is as it was, and the result gives the first model again.
    assert logits_are_those_of(first, running.load(built), 24)
    again = type(built)(tmp_path / "second", built.config, built.options, [])
    refitted(again, running.workshop.folder / "llama" / "checkpoint", tmp_path / "third", monkeypatch)
    executor = load_executor(tmp_path / "third", 0, described, cuda=running.cuda)
    assert logits_are_those_of(first, executor, 24)


def test_plans_without_weights_stay_so_and_get_the_new_ones_when_loaded(running, tuned, tmp_path, monkeypatch):
    built = running.workshop.engine(strip_plan=True, refit=True, visualize=True)
    lines = refitted(built, tuned.checkpoint, tmp_path / "second", monkeypatch)
    assert any("hold no weights" in text for _, text in lines)
    for name in ("rank0.engine", "rank0.s12.engine"):
        assert (tmp_path / "second" / name).read_bytes() == (built.folder / name).read_bytes()
    described = Described(built.config, built.options)
    executor = load_executor(tmp_path / "second", 0, described, cuda=running.cuda, capacities=[24])
    assert logits_are_those_of(tuned.model, executor, 24)  # from the network.onnx of the new folder


def test_the_portable_network_is_of_the_new_weights(running, tuned, tmp_path, monkeypatch):
    built = running.workshop.engine(refit=True, visualize=True, capacity_buckets=None)
    refitted(built, tuned.checkpoint, tmp_path / "second", monkeypatch)
    pair = [onnx.load(folder / "network.onnx") for folder in (built.folder, tmp_path / "second")]
    assert [node.name for node in pair[0].graph.node] == [node.name for node in pair[1].graph.node]
    contents = [{one.name: one.raw_data for one in model.graph.initializer} for model in pair]
    changed = {name for name in contents[0] if contents[0][name] != contents[1][name]}
    assert "transformer.vocab_embedding.weight" in changed
    _, plan = plan_parts((tmp_path / "second/rank0.engine").read_bytes())
    assert {one.name: one.raw_data for one in plan.graph.initializer} == contents[1]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("ICudaEngine.serialize_with_config", "could not serialize the refitted plan"),
        ("Runtime.deserialize_cuda_engine", "could not load the plan"),
        ("Refitter.refit_cuda_engine", "could not put the weights in"),
    ],
)
def test_what_tensorrt_refuses_leaves_no_plan(running, tuned, tmp_path, monkeypatch, method, sentence):
    built = running.workshop.engine(refit=True)
    running.recorder.behaviours[method] = lambda *_, **__: False if "Refitter" in method else None
    with pytest.raises(EngineError, match=sentence):
        refitted(built, tuned.checkpoint, tmp_path / "second", monkeypatch)
    assert not list((tmp_path / "second").iterdir())


def test_plans_built_without_refit_say_so(running, tuned, tmp_path, monkeypatch):
    built = running.workshop.engine()
    with pytest.raises(EngineError, match="cannot take other weights") as caught:
        refitted(built, tuned.checkpoint, tmp_path / "second", monkeypatch)
    assert "--refit" in str(caught.value.remedy)


# ---- whole builds -------------------------------------------------------------------------------------------------


def test_an_engine_is_refitted_into_a_folder_of_its_own(builder, tmp_path, monkeypatch, tuned):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    source = build_case.checkpoint(tmp_path, "llama")
    first = build(source, BuildConfig(refit=True, **OPTIONS), tmp_path / "engine", builder=builder, use_cache=False)
    second = first.refit(tuned.checkpoint, tmp_path / "second")
    assert (second.directory, second.from_cache) == (tmp_path / "second", False)
    assert second.config.key != first.config.key
    assert second.config.checkpoint["digest"] == open_checkpoint(tuned.checkpoint).digest
    assert second.config.notes == ["The plans of the engine engine were taken, with the weights of this checkpoint."]
    assert second.config.build_config == first.config.build_config
    phases = [phase["name"] for phase in second.config.build_report["phases"]]
    assert {"refit rank0.engine", "verify engine"} <= set(phases)
    assert not any(phase.startswith(("build ", "parse", "TensorRT: Timing")) for phase in phases)
    Engine.from_dir(second.directory, builder=builder)
    assert logits_are_those_of(tuned.model, second.executor(0), 16)
    # Asked for once more it comes from the cache; built from nothing it is another engine.
    assert first.refit(tuned.checkpoint, tmp_path / "third").from_cache
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == sorted([*first.config.files, "config.json"])

    for asked, kind, sentence in (
        (BuildConfig(max_batch_size=4), RequestError, "max_batch_size is 4, and the plans .* built with 2"),
        (BuildConfig(backend="torch"), RequestError, "backend is 'torch'"),
    ):
        with pytest.raises(kind, match=sentence):
            build(tuned.checkpoint, asked, refit_from=first.directory, builder=builder)
    other = random_model("llama", tmp_path / "other", rms_norm_eps=1e-3)
    checkpoint_of(other, tmp_path / "other checkpoint")
    with pytest.raises(EngineMismatchError, match=r"norm_epsilon is 0\.001, and the engine's 1e-06"):
        first.refit(tmp_path / "other checkpoint")


@pytest.mark.parametrize(
    ("changes", "kind", "sentence", "remedy"),
    [
        ({"backend": "torch"}, BuildError, "an engine of the torch backend", "without refit_from"),
        ({"build_config": {"refit": False}}, RequestError, "built without refit", "--refit"),
        ({"build_config": {"refit": True}}, EngineMismatchError, "num_hidden_layers is 3, and the engine's 2", ""),
    ],
)
def test_engines_that_cannot_be_refitted_say_why(tmp_path, changes, kind, sentence, remedy):
    """Over folders with a config.json and nothing else: all of it is said before a file is read."""
    sizes = {"vocab_size": 97, "max_position_embeddings": 64, "hidden_size": 64, "num_attention_heads": 4}
    config = ModelConfig(architecture="LlamaForCausalLM", num_hidden_layers=3, **sizes)
    held = {
        "version": __version__, "format_version": FORMAT_VERSION, "backend": "simulated", "backend_version": "any",
        "pretrained_config": config.replace(num_hidden_layers=2).to_dict(), "machine": {}, "key": "k", "files": {},
        "machine_key": "any", "built_at": "2026-01-01T00:00:00Z", "build_seconds": 1.0,
        "build_config": BuildConfig(**OPTIONS).to_dict(),
    }  # fmt: skip
    held["build_config"] |= changes.pop("build_config", {})
    (tmp_path / "config.json").write_text(json.dumps({**held, **changes}))
    builder = None if changes else TensorRTBuilder()  # whose version and machine are asked about last
    with pytest.raises(kind, match=sentence) as caught:
        refit_source(tmp_path, config, BuildConfig(), builder)
    assert remedy in str(caught.value.remedy)


def test_a_folder_that_is_not_there(tmp_path, tuned):
    with pytest.raises(EngineError, match="no such engine folder"):
        build(tuned.checkpoint, refit_from=tmp_path / "nowhere")
