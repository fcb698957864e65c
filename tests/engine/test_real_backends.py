"""The whole way with the real backends: a Hugging Face GPT-2, its checkpoint, its engine, and the logits of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.engine import BuildJob, Engine, build, start_build
from trtbench_lab.errors import BuildCancelled, EngineError, EngineMismatchError, TrtbenchError
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import BuildConfig

BACKENDS = ("onnxruntime", "torch")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A random GPT-2 of two layers, as Hugging Face has it and as a checkpoint."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("gpt2 ünï")
    model.save_pretrained(folder / "hf")
    source = open_hf_folder(folder / "hf")
    convert(source, folder / "checkpoint", config=config_from_source(source, dtype="float32"))
    return model, folder / "checkpoint"


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request, reference, tmp_path_factory) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        # The network as ONNX is what costs seconds, and the onnxruntime engine is made from it anyway.
        visualize = request.param == "onnxruntime"
        config = BuildConfig(backend=request.param, visualize=visualize, max_batch_size=4, legacy_names=True)
        return build(reference[1], config, tmp_path_factory.mktemp(request.param) / "my engine")


def test_logits_are_those_of_hugging_face(engine, reference):
    model, _ = reference
    tokens = torch.tensor([[5, 17, 40, 2, 96], [8, 8, 1, 0, 3]])
    with torch.no_grad():
        expected = model(tokens).logits  # (2, 5, 97)
    executor = Engine.from_dir(engine.directory).executor()
    bound = {
        "input_ids": tokens,
        "write_indices": torch.zeros(2, dtype=torch.int64),
        "logit_indices": torch.arange(5).repeat(2, 1),
        "logits": torch.empty(2, 5, 97),
        **{
            f"past_{kind}_{layer}": torch.zeros(2, 4, 8, 8)  # (B, heads, capacity, head size)
            for kind in ("key", "value")
            for layer in range(2)
        },
    }
    bound = {name: tensor.to(executor.device) for name, tensor in bound.items()}
    for name, tensor in bound.items():
        executor.bind(name, tensor)
    executor.run()
    executor.synchronize()
    # The product's bound: 1e-4 of the range of the logits; float32 sums in another order stay far below.
    assert (bound["logits"].cpu() - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())
    executor.close()


def test_folder_is_whole(engine):
    content = json.loads((engine.directory / "config.json").read_text())
    assert content["backend"] == engine.config.backend
    assert content["build_config"]["backend"] == content["backend"]
    assert content["build_config"]["compute_dtype"] == "float32"
    assert content["build_config"]["max_seq_len"] == 64
    assert content["backend_version"].startswith(content["backend"])
    on_gpu = content["backend"] == "torch" and torch.cuda.is_available()
    assert (content["gpu"] is not None) == on_gpu
    network = {"network.onnx", "network.onnx.data"} if content["build_config"]["visualize"] else set()
    assert {"rank0.engine", "gpt_float32_tp1_rank0.engine", *network} <= set(content["files"])
    assert "model.cache" not in content["files"]  # these backends time no kernels, so there is nothing to keep
    assert any("plugin" in note for note in content["notes"])
    names = {phase["name"] for phase in content["build_report"]["phases"]}
    assert {"load checkpoint", "write engine", "verify engine"} <= names


def test_nothing_refers_to_the_checkpoint(engine):
    for path in engine.directory.iterdir():
        if path.name not in ("config.json", "build.log"):
            assert b"checkpoint/rank0.safetensors" not in path.read_bytes()


def test_inspection(engine, reference):
    model, _ = reference
    found = engine.inspect()
    assert found.backend == engine.config.backend
    names = {spec.name for spec in found.inputs}
    assert {"input_ids", "write_indices", "logit_indices", "past_key_0", "past_value_1"} <= names
    assert {spec.aliases for spec in found.outputs if spec.name.startswith("present")} <= names
    by_part = {group.part: group.nbytes for group in found.weights}
    attention = sum(t.nbytes for n, t in model.named_parameters() if ".attn." in n)
    mlp = sum(t.nbytes for n, t in model.named_parameters() if ".mlp." in n)
    assert by_part["attention"] == attention
    assert by_part["mlp"] == mlp
    assert by_part["embedding"] == (97 + 64) * 32 * 4
    assert {group.dtype for group in found.weights} == {"float32"}
    if found.backend == "onnxruntime":
        # One attention a layer, under the name of whichever kernel the backend chose.
        assert sum(count for name, count in found.operators.items() if name.endswith("Attention")) == 2
        # Some may be fused with the addition before them, under a name of the runtime's own.
        assert sum(count for name, count in found.operators.items() if name.endswith("LayerNormalization")) == 5
    else:
        assert found.operators is None
    for view in (repr(found), found._repr_html_()):
        assert view.index(found.backend) < view.index("input_ids")
    assert json.loads(json.dumps(found.to_dict()))["weights_bytes"] == found.weights_bytes
    with pytest.raises(EngineMismatchError):
        engine.inspect(3)


def test_damaged_engine_file_cannot_be_inspected(engine, tmp_path):
    copy = engine.save(tmp_path / "copy")
    path = copy.directory / "rank0.engine"
    path.chmod(0o644)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError):
        copy.inspect()


def test_view_names_the_backend_first(engine):
    first, second = repr(engine).splitlines()[:2]
    assert engine.config.backend in first
    assert second.split()[0] == "backend"
    assert engine.config.backend in engine._repr_html_()[:400]


def start(reference, backend: str, **options) -> BuildJob:
    return start_build(reference[1], BuildConfig(backend=backend), **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_while_libraries_load(reference, tmp_path, backend):
    job = start(reference, backend, output_dir=tmp_path / "engine")
    job.cancel()
    assert job.done
    with pytest.raises(BuildCancelled):
        job.wait()
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_refuses_several_ranks(two_rank_checkpoint_dir):
    with pytest.raises(TrtbenchError, match="one rank"):
        build(two_rank_checkpoint_dir, BuildConfig(backend="onnxruntime"))


def test_auto_says_what_it_took(two_rank_checkpoint_dir, tmp_path):
    """Several ranks are the torch backend's: one engine each, and the reason is kept."""
    engine = build(two_rank_checkpoint_dir, output_dir=tmp_path / "engine")
    assert engine.config.backend == "torch"
    assert any(note.startswith("Backend torch, because") for note in engine.config.notes)
    assert {"rank0.engine", "rank1.engine"} <= set(engine.config.files)
    sizes = [engine.inspect(rank).weights_bytes for rank in (0, 1)]
    assert sizes[0] == sizes[1]
    assert Path(engine.directory).is_dir()


def test_damaged_weights_are_refused_by_the_load(engine, tmp_path):
    folder = Path(shutil.copytree(engine.directory, tmp_path / "engine"))
    Engine.from_dir(folder, verify="load").executor().close()
    content = bytearray((folder / "rank0.engine").read_bytes())
    content[-9] ^= 4  # a bit of the last tensor
    (folder / "rank0.engine").unlink()
    (folder / "rank0.engine").write_bytes(content)
    opened = Engine.from_dir(folder, verify="load")
    with pytest.raises(EngineError, match=r"'rank0.engine' has changed since it was built"):
        opened.executor()
