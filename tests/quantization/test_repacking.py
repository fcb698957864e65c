"""Folders that other tools quantized, converted: weights by each format's definition in NumPy, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.intake.quantized import writers

from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.checkpoint.layout import whole_tensors
from trtbench_lab.errors import CheckpointError, IntakeError, QuantizationError
from trtbench_lab.quantization.joining import whole_from_ranks
from trtbench_lab.quantization.reference import dense_weight
from trtbench_lab.quantization.repacking import repack
from trtbench_lab.specs import Mapping, QuantAlgo

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def compressed(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"strategy": "channel", **weights}, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


def maker(write: Any, seed: int = 0, **options: Any) -> Any:
    random = np.random.default_rng(seed)
    return lambda layer, outputs, inputs: write(random, outputs, inputs, **options)


def weights_of(directory: Path, mapping: Mapping | None = None) -> dict[str, np.ndarray]:
    """Module → the weight (out, in) that the checkpoint stands for, its ranks joined, in its own type."""
    checkpoint = open_checkpoint(directory, verify=True)
    quant, dtype = checkpoint.config.quantization, getattr(torch, checkpoint.config.dtype)
    assert quant.quant_algo is not None
    held: dict[str, dict[str, torch.Tensor]] = {}
    for tensor in whole_tensors(checkpoint.config):
        module, _, suffix = tensor.name.rpartition(".")
        held.setdefault(module, {})[suffix] = whole_from_ranks(checkpoint, tensor)
    found = {}
    for module, tensors in held.items():
        if {"weights_scaling_factor", "per_channel_scale"} & set(tensors):
            dense = dense_weight(tensors, quant.quant_algo)
            if "input_order" in tensors:
                dense = dense[:, torch.argsort(tensors["input_order"])]
            keeps_float = quant.quant_algo.is_fp8 or quant.quant_algo.is_smoothquant
            found[module] = (dense if keeps_float else dense.to(dtype)).numpy()
    return found


def check_llama(got: dict[str, np.ndarray], defined: dict[str, np.ndarray]) -> None:
    assert len(got) == 2 * 5
    for number in (0, 1):
        source, target = f"model.layers.{number}", f"transformer.layers.{number}"
        fused = np.concatenate([defined[f"{source}.self_attn.{part}_proj"] for part in "qkv"])
        assert np.array_equal(got[f"{target}.attention.qkv"], fused)
        for ours, theirs in (
            ("attention.dense", "self_attn.o_proj"), ("mlp.fc", "mlp.gate_proj"), ("mlp.gate", "mlp.up_proj"),
            ("mlp.proj", "mlp.down_proj"),
        ):  # fmt: skip
            assert np.array_equal(got[f"{target}.{ours}"], defined[f"{source}.{theirs}"])


def shuffled_groups(width: int, group: int) -> np.ndarray:
    """g_idx of act-order: the same for layers with the same inputs, groups all of one size."""
    order = np.arange(width) // group
    np.random.default_rng(width).shuffle(order)
    return order


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "gptq": (maker(writers.gptq), GPTQ, {"quant_algo": "W4A16_GPTQ", "group_size": 32, "has_zero_point": True}),
    "gptq, symmetric": (
        maker(writers.gptq, symmetric=True),
        {**GPTQ, "sym": True},
        {"quant_algo": "W4A16_GPTQ", "group_size": 32, "has_zero_point": False},
    ),
    "gptq v2": (
        maker(writers.gptq, less_one=False),
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        {"quant_algo": "W4A16_GPTQ", "has_zero_point": True},
    ),
    "gptq, 8 bits": (
        maker(writers.gptq, bits=8),
        {**GPTQ, "bits": 8},
        {"quant_algo": "W8A16", "group_size": 32, "has_zero_point": True},
    ),
    "gptq, 3 bits": (maker(writers.gptq, bits=3), {**GPTQ, "bits": 3}, {"quant_algo": "W4A16_GPTQ"}),
    "gptq, 5 bits": (maker(writers.gptq, bits=5), {**GPTQ, "bits": 5}, {"quant_algo": "W8A16"}),
    "gptq, a group a row": (
        maker(writers.gptq, group=None),
        {**GPTQ, "group_size": -1},
        {"quant_algo": "W4A16_GPTQ", "group_size": 64},
    ),
    "gptq, act-order": (
        lambda layer, outputs, inputs: writers.gptq(
            np.random.default_rng(len(layer)), outputs, inputs, order=shuffled_groups(inputs, 32)
        ),
        {**GPTQ, "desc_act": True},
        {"quant_algo": "W4A16_GPTQ", "input_order": True},
    ),
    "awq": (maker(writers.awq), AWQ, {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, "pre_quant_scale": False}),
    "compressed, 4 bits": (
        maker(writers.compressed_packed),
        compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}),
        {"quant_algo": "W4A16", "group_size": 64},
    ),
    "compressed, zero points": (
        maker(writers.compressed_packed, zeros=True),
        compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}),
        {"quant_algo": "W4A16_GPTQ", "group_size": 64, "has_zero_point": True},
    ),
    "compressed, 8 bits a channel": (
        maker(writers.compressed_packed, bits=8, group=None),
        compressed("pack-quantized", {"num_bits": 8, "type": "int"}),
        {"quant_algo": "W8A16", "group_size": None},
    ),
    "compressed, INT8 by token": (
        maker(writers.plain),
        compressed("int-quantized", {"num_bits": 8, "type": "int"}, {"dynamic": True, "num_bits": 8}),
        {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
    ),
    "compressed, INT8 static": (
        maker(writers.plain, input_scale=0.25),
        compressed("int-quantized", {"num_bits": 8, "type": "int"}, {"dynamic": False, "num_bits": 8}),
        {"quant_algo": "W8A8_SQ_PER_CHANNEL_PLUGIN"},
    ),
    "compressed, FP8 by token": (
        maker(writers.plain, dtype=torch.float8_e4m3fn),
        compressed("float-quantized", {"num_bits": 8, "type": "float"}, {"dynamic": True, "num_bits": 8}),
        {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
    ),
    "compressed, FP8 with a step a part": (
        maker(writers.plain, dtype=torch.float8_e4m3fn, per_channel=False, input_scale=0.5),
        compressed("float-quantized", {"num_bits": 8, "type": "float"}, {"dynamic": False, "num_bits": 8}),
        {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
    ),
    "modelopt, W4A8": (
        lambda layer, outputs, inputs: writers.modelopt_awq(
            np.random.default_rng(len(layer)), outputs, inputs, before=np.ones(inputs, np.float16), input_scale=0.125
        ),
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ", "group_size": 64},
        {"quant_algo": "W4A8_AWQ", "group_size": 64, "pre_quant_scale": True},
    ),
    "modelopt, AWQ": (
        lambda layer, outputs, inputs: writers.modelopt_awq(
            np.random.default_rng(len(layer)), outputs, inputs,
            before=np.random.default_rng(inputs).random(inputs).astype(np.float16),
        ),
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 64},
        {"quant_algo": "W4A16_AWQ", "group_size": 64, "pre_quant_scale": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_format(case: str, tmp_path: Path):
    make, quantization, expected = CASES[case]
    defined = writers.write_folder(tmp_path / "model", make, quantization)
    report = repack(tmp_path / "model", tmp_path / "out")
    quant = report.config.quantization.to_dict()
    assert {name: quant[name] for name in expected} == expected
    check_llama(weights_of(tmp_path / "out"), defined)


@pytest.mark.parametrize("case", ["gptq", "awq", "gptq, 8 bits", "compressed, INT8 by token", "modelopt, AWQ"])
@pytest.mark.parametrize("mapping", [Mapping(tp_size=2), Mapping(tp_size=2, pp_size=2)], ids=["tp2", "tp2pp2"])
def test_ranks_hold_parts_of_the_same_model(case: str, mapping: Mapping, tmp_path: Path):
    make, quantization, _ = CASES[case]
    defined = writers.write_folder(tmp_path / "model", make, quantization)
    repack(tmp_path / "model", tmp_path / "out", mapping=mapping)
    check_llama(weights_of(tmp_path / "out"), defined)


def test_gpt2_layers_lie_as_linear_ones(tmp_path: Path):
    """Packed files keep (out, in) although the class of GPT-2 keeps (in, out)."""
    defined = writers.write_folder(tmp_path / "model", maker(writers.gptq), GPTQ, config=writers.GPT2)
    repack(tmp_path / "model", tmp_path / "out")
    got = weights_of(tmp_path / "out")
    for ours, theirs in (("attention.qkv", "attn.c_attn"), ("mlp.fc", "mlp.c_fc"), ("mlp.proj", "mlp.c_proj")):
        assert np.array_equal(got[f"transformer.layers.1.{ours}"], defined[f"transformer.h.1.{theirs}"])


def test_steps_of_static_fp8_are_kept(tmp_path: Path):
    def make(layer: str, outputs: int, inputs: int) -> writers.Layer:
        tensors, _ = writers.plain(
            np.random.default_rng(1), outputs, inputs, dtype=torch.float8_e4m3fn, per_channel=False, input_scale=0.5
        )
        tensors["weight_scale"] = torch.tensor([2.0**-9 if "self_attn" in layer else 3e-3])
        return tensors, tensors["weight"].float().numpy() * tensors["weight_scale"].numpy()

    caches = {
        f"model.layers.{layer}.self_attn.{part}_proj.{part}_scale": torch.tensor(0.01 * (layer + 1) * factor)
        for layer in (0, 1)
        for part, factor in (("k", 1), ("v", 2))
    }
    described = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    defined = writers.write_folder(
        tmp_path / "model", make, None, files={"hf_quant_config.json": described}, extra=caches
    )
    report = repack(tmp_path / "model", tmp_path / "out")
    assert report.config.quantization.quant_algo is QuantAlgo.FP8
    check_llama(weights_of(tmp_path / "out"), defined)
    rank = open_checkpoint(tmp_path / "out").rank(0)
    assert rank["transformer.layers.1.mlp.fc.activation_scaling_factor"].tolist() == [0.5]
    steps = [float(rank[f"transformer.layers.{n}.attention.kv_cache_scaling_factor"]) for n in (0, 1)]
    assert steps == [pytest.approx(0.02), pytest.approx(0.04)]  # the larger of keys' and values'


def test_layers_that_were_left_alone_are_excluded(tmp_path: Path):
    def make(layer: str, outputs: int, inputs: int) -> writers.Layer:
        if layer.endswith("down_proj"):
            weight = torch.ones(outputs, inputs, dtype=torch.float16)
            return {"weight": weight}, weight.numpy()
        return writers.gptq(np.random.default_rng(0), outputs, inputs)

    writers.write_folder(tmp_path / "model", make, GPTQ)
    report = repack(tmp_path / "model", tmp_path / "out")
    excluded = {"lm_head", "transformer.layers.0.mlp.proj", "transformer.layers.1.mlp.proj"}
    assert set(report.config.quantization.exclude_modules) == excluded
    kept = open_checkpoint(tmp_path / "out").rank(0)["transformer.layers.1.mlp.proj.weight"]
    assert kept.dtype is torch.float16
    assert torch.equal(kept, torch.ones(64, 128, dtype=torch.float16))


def test_a_type_that_changes_scales_is_refused_and_auto_finds_the_right_one(tmp_path: Path):
    writers.write_folder(tmp_path / "model", maker(writers.gptq), GPTQ)
    with pytest.raises(QuantizationError, match="float16 scales change in bfloat16") as caught:
        repack(tmp_path / "model", tmp_path / "out", dtype="bfloat16")
    assert "--dtype float16" in str(caught.value)
    assert not (tmp_path / "out").exists()
    config = (tmp_path / "model" / "config.json").read_text().replace('"float16"', '"bfloat16"')
    (tmp_path / "model" / "config.json").write_text(config)
    report = repack(tmp_path / "model", tmp_path / "auto")
    assert report.config.dtype == "float16"
    assert "stay exact only so" in report.notes[0]


def test_act_order_over_ranks_is_refused_with_the_reason(tmp_path: Path):
    make, quantization, _ = CASES["gptq, act-order"]
    writers.write_folder(tmp_path / "model", make, quantization)
    with pytest.raises(CheckpointError, match="a column's group may lie on another rank"):
        repack(tmp_path / "model", tmp_path / "out", mapping=Mapping(tp_size=2))
    defined = {}
    defined |= writers.write_folder(tmp_path / "model", make, quantization)
    repack(tmp_path / "model", tmp_path / "stages", mapping=Mapping(pp_size=2))
    check_llama(weights_of(tmp_path / "stages"), defined)


def test_a_fused_layer_quantized_in_part_is_refused(tmp_path: Path):
    def make(layer: str, outputs: int, inputs: int) -> writers.Layer:
        if layer.endswith("k_proj"):
            return {"weight": torch.ones(outputs, inputs, dtype=torch.float16)}, np.ones((outputs, inputs))
        return writers.gptq(np.random.default_rng(0), outputs, inputs)

    writers.write_folder(tmp_path / "model", make, GPTQ)
    with pytest.raises(QuantizationError, match="only some are quantized"):
        repack(tmp_path / "model", tmp_path / "out")


def test_groups_without_kernels_are_refused(tmp_path: Path):
    writers.write_folder(tmp_path / "model", maker(writers.gptq, group=16), {**GPTQ, "group_size": 16})
    with pytest.raises(QuantizationError, match=r"Groups of 16 over 64, 128 input features a rank"):
        repack(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({**GPTQ, "dynamic": {"-:.*": {}}}, "`dynamic`"),
        ({**GPTQ, "bits": 1}, "from 2 to 8"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "'marlin'"),
        ({**AWQ, "version": "gemv"}, "'gemv'"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt's NVFP4"),
        (compressed("marlin-24", {"num_bits": 4, "type": "int"}), "'marlin-24'"),
        (compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block"}), "'block'"),
    ],
)
def test_what_is_not_read_is_named_with_what_is(quantization: dict[str, Any], words: str, tmp_path: Path):
    writers.write_folder(tmp_path / "model", maker(writers.gptq), quantization)
    with pytest.raises(IntakeError) as caught:
        repack(tmp_path / "model", tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_description_and_tensors_of_different_models_are_refused(tmp_path: Path):
    writers.write_folder(tmp_path / "model", maker(writers.awq), {**AWQ})
    text = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(text.replace('"awq"', '"compressed-tensors"').replace(
        '"version": "gemm"', '"format": "pack-quantized", "config_groups": {"g": {"weights": '
        '{"num_bits": 4, "type": "int", "strategy": "group"}}}'
    ))  # fmt: skip
    with pytest.raises(IntakeError, match=r"no tensor ends in \.weight_packed"):
        repack(tmp_path / "model", tmp_path / "out")
