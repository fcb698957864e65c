"""FP8 with the scales of TensorRT-LLM's old ``.npz`` files, written with NumPy: weights and steps by definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.models import RandomModel, random_model
from tests.quantization.test_fp8 import e4m3_values

from trtbench_lab.calibration import quantize_model
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.checkpoint.layout import whole_tensors
from trtbench_lab.errors import IntakeError, QuantizationError, TrtbenchError
from trtbench_lab.quantization.joining import whole_from_ranks
from trtbench_lab.specs import Mapping, QuantConfig
from trtbench_lab.specs.command_line import parse
from trtbench_lab.workbench.intake import quantize

MODULES = ("attention:dense", "mlp:fc", "mlp:gate", "mlp:proj")
FP8 = QuantConfig(quant_algo="FP8")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return random_model("llama", tmp_path_factory.mktemp("llama"), intermediate_size=64, num_hidden_layers=2)


def scales_of(layers: int = 2, modules: tuple[str, ...] = MODULES) -> dict[str, np.ndarray]:
    """Names and forms of ``llama_tp1_rank0.npz``; every number differs."""
    random = np.random.default_rng(0)
    names = [f"_np:layers:{layer}:attention:qkv:{part}" for layer in range(layers) for part in "qkv"]
    names += [f"_np:layers:{layer}:{module}" for layer in range(layers) for module in modules]
    found = {}
    for name in names:
        # Below what the largest weight needs in some layers, so that values saturate.
        found[f"{name}:weights_scaling_factor"] = random.uniform(1e-3, 4e-3, 1).astype(np.float32)
        found[f"{name}:activation_scaling_factor"] = random.uniform(1e-2, 5e-2, ()).astype(np.float32)
    found["_np:vocab_embedding:weight"] = np.zeros((4, 4), np.float16)
    found["_np:layers:0:mlp:fc:weight"] = np.zeros((4, 4), np.float16)
    return found


def saved(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "llama_tp1_rank0.npz"
    np.savez(path, **values)
    return path


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest E4M3 number, ties to the even mantissa, saturating."""
    values = e4m3_values()
    right = np.clip(np.searchsorted(values, x), 1, len(values) - 1)
    low, high = values[right - 1], values[right]
    # A number's place among those of its sign has the parity of its mantissa: 0 is even.
    place = np.abs(np.arange(len(values)) - len(values) // 2)
    tie = np.where(place[right - 1] % 2 == 0, low, high)
    return np.where(x - low < high - x, low, np.where(x - low > high - x, high, tie))


@pytest.mark.parametrize("mapping", [Mapping(), Mapping(tp_size=2)])
def test_weights_and_steps_are_those_of_the_file(llama: RandomModel, mapping: Mapping, tmp_path: Path) -> None:
    values = scales_of()
    report = quantize_model(llama.folder, tmp_path / "out", FP8, fp8_scales=saved(tmp_path, values), mapping=mapping)
    assert len(report.layers) == 10
    assert report.calibration is None
    checkpoint = open_checkpoint(tmp_path / "out", verify=True)
    got = {one.name: whole_from_ranks(checkpoint, one) for one in whole_tensors(checkpoint.config)}
    state = llama.hf.state_dict()
    for number in (0, 1):
        theirs, prefix = f"model.layers.{number}", f"_np:layers:{number}"
        wanted = {
            "attention:qkv": [f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv"],
            "attention:dense": [f"{theirs}.self_attn.o_proj.weight"], "mlp:fc": [f"{theirs}.mlp.gate_proj.weight"],
            "mlp:gate": [f"{theirs}.mlp.up_proj.weight"], "mlp:proj": [f"{theirs}.mlp.down_proj.weight"],
        }  # fmt: skip
        for module, names in wanted.items():
            parts = [f"{module}:{part}" for part in "qkv"] if module.endswith("qkv") else [module]
            step = max(float(values[f"{prefix}:{part}:weights_scaling_factor"].item()) for part in parts)
            inputs = max(float(values[f"{prefix}:{part}:activation_scaling_factor"]) for part in parts)
            ours = f"transformer.layers.{number}.{module.replace(':', '.')}"
            assert float(got[f"{ours}.weights_scaling_factor"]) == pytest.approx(step, rel=1e-7)
            assert float(got[f"{ours}.activation_scaling_factor"]) == pytest.approx(inputs, rel=1e-7)
            weight = np.concatenate([state[name].numpy() for name in names])
            quotient = (weight / np.float32(step)).astype(np.float64)
            assert np.array_equal(got[f"{ours}.weight"].float().numpy(), rounded(quotient)), ours
    assert torch.equal(got["lm_head.weight"], state["lm_head.weight"])


def test_the_cache_has_the_step_one_unless_the_file_has_another(llama: RandomModel, tmp_path: Path) -> None:
    values = scales_of()
    values["_np:layers:1:attention:kv_cache_scaling_factor"] = np.array([0.25], np.float32)
    config = FP8.replace(kv_cache_quant_algo="FP8")
    report = quantize_model(llama.folder, tmp_path / "out", config, fp8_scales=saved(tmp_path, values))
    assert report.kv_cache == {0: 1.0, 1: 0.25}
    rank = open_checkpoint(tmp_path / "out").rank(0)
    assert [float(rank[f"transformer.layers.{n}.attention.kv_cache_scaling_factor"]) for n in (0, 1)] == [1.0, 0.25]


def test_a_fused_layer_may_have_one_scale(tmp_path: Path) -> None:
    gpt2 = random_model("gpt2", tmp_path / "gpt2", n_layer=1)
    values = {name: value for name, value in scales_of(1).items() if ":qkv:" not in name and ":gate:" not in name}
    for kind, value in (("weights", 0.004), ("activation", 0.03)):
        values[f"_np:layers:0:attention:qkv:{kind}_scaling_factor"] = np.array([value], np.float32)
    quantize_model(gpt2.folder, tmp_path / "out", FP8, fp8_scales=saved(tmp_path, values))
    rank = open_checkpoint(tmp_path / "out").rank(0)
    assert float(rank["transformer.layers.0.attention.qkv.weights_scaling_factor"]) == pytest.approx(0.004)


def _without(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "_np:layers:1:mlp:gate:activation_scaling_factor"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, "no _np:layers:1:mlp:gate:activation_scaling_factor"),
        (lambda v: {**v, "_np:layers:0:mlp:fc:weights_scaling_factor": np.array([0.0], np.float32)}, "is 0.0"),
        (lambda v: {**v, "_np:layers:0:mlp:fc:weights_scaling_factor": np.array([np.nan], np.float32)}, "is nan"),
        (lambda v: scales_of(3), "scales of 3 layers, and the model has 2"),
        (lambda v: {"weight": np.zeros(3)}, "no scaling factors"),
        (lambda v: {**v, "_np:layers:0:x:weights_scaling_factor": np.array([{}], object)}, "cannot be read as .npz"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_written(
    llama: RandomModel, change: Any, words: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, change(scales_of()))
    with pytest.raises((IntakeError, QuantizationError), match=words):
        quantize_model(llama.folder, tmp_path / "out", FP8, fp8_scales=path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(llama: RandomModel, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scales.npz"
    path.write_bytes(content)
    with pytest.raises(IntakeError, match=r"cannot be read as \.npz"):
        quantize_model(llama.folder, tmp_path / "out", FP8, fp8_scales=path)
    with pytest.raises(IntakeError, match="no such file"):
        quantize_model(llama.folder, tmp_path / "out", FP8, fp8_scales=tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(IntakeError, match="one array"):
        quantize_model(llama.folder, tmp_path / "out", FP8, fp8_scales=tmp_path / "one.npy")


def test_other_formats_have_no_use_for_the_file(llama: RandomModel, tmp_path: Path) -> None:
    path = saved(tmp_path, scales_of())
    for config in (QuantConfig(quant_algo="W8A16"), FP8.replace(kv_cache_quant_algo="INT8")):
        with pytest.raises(QuantizationError, match="makes FP8 layers"):
            quantize_model(llama.folder, tmp_path / "out", config, fp8_scales=path)


def test_through_the_verb_with_the_flag_people_know(llama: RandomModel, tmp_path: Path) -> None:
    path = saved(tmp_path, scales_of())
    words = ["--model_dir", str(llama.folder), "--qformat", "fp8", "--quantized_fp8_model_path", str(path)]
    spec = parse("quantize", words).spec
    step = quantize(spec)
    assert any(str(path) in note for note in step.notes)
    moved = tmp_path / "moved.npz"
    moved.write_bytes(path.read_bytes())
    again = quantize(spec.replace(fp8_scales=str(moved)))
    assert again.output_dir == step.output_dir  # the same content
    assert parse("quantize", [*words[:2], *words[4:]]).spec.qformat == "fp8"  # what the file means, said in a note
    with pytest.raises(TrtbenchError, match="belongs to qformat fp8, and qformat is int4_wo"):
        parse("quantize", [*words[:2], "--qformat", "int4_wo", *words[4:]])
    for more, reason in (
        (["--kv_cache_dtype", "int8"], "no scales of an INT8"),
        (["--search"], "search measures scales of its own"),
        (["--quantizer", "modelopt"], "quantizer modelopt finds scales of its own"),
    ):
        with pytest.raises(TrtbenchError, match=reason):
            parse("quantize", [*words, *more])
    with pytest.raises(TrtbenchError, match="does fp8, int4_awq and w4a8_awq, and qformat is int4_wo"):
        parse("quantize", [*words[:2], "--qformat", "int4_wo", "--quantizer", "modelopt"])
