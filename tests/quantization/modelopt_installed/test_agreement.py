"""ModelOpt and this project find the same FP8 scales, and scales of AWQ and W4A8 within a stated bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modelopt.torch import quantization as modelopt
from tests.backends.models import RandomModel, random_model

from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.checkpoint import expected_tensors, open_checkpoint
from trtbench_lab.quantization import QuantizeReport
from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.modelopt import modelopt_layer
from trtbench_lab.quantization.reference import dense_weight
from trtbench_lab.specs import QuantAlgo, QuantConfig

TOKENS = calibration_tokens(
    torch.randint(0, 97, (8, 16), generator=torch.Generator().manual_seed(0)).tolist(), size=8, length=16
)
RECIPES = {
    "FP8": {"quant_algo": "FP8"},
    "AWQ": {"quant_algo": "W4A16_AWQ", "group_size": 32, "pre_quant_scale": True},
    "W4A8": {"quant_algo": "W4A8_AWQ", "group_size": 32, "pre_quant_scale": True},
}
Made = tuple[QuantizeReport, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return random_model("llama", tmp_path_factory.mktemp("llama"), intermediate_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module", params=RECIPES)
def both(request: pytest.FixtureRequest, llama: RandomModel, tmp_path_factory: pytest.TempPathFactory):
    """Name of the recipe, what ours made of it, what ModelOpt made."""
    folder, found = tmp_path_factory.mktemp("both"), []
    for quantizer in ("ours", "modelopt"):
        config = QuantConfig(**RECIPES[request.param])
        report = quantize_model(llama.folder, folder / quantizer, config, TOKENS, quantizer=quantizer)
        checkpoint = open_checkpoint(folder / quantizer, verify=True)
        rank = checkpoint.rank(0)
        assert set(rank.names()) == set(expected_tensors(checkpoint.config))
        found.append((report, {name: rank[name].clone() for name in rank.names()}))
    return request.param, *found


def test_the_report_says_who_found_the_scales(both: tuple[str, Made, Made]) -> None:
    _, (ours, _), (theirs, _) = both
    assert ours.quantizer == "ours"
    assert theirs.quantizer.startswith("modelopt 0.")


def test_both_paths_agree(both: tuple[str, Made, Made]) -> None:
    name, (ours, mine), (theirs, other) = both
    for tensor, values in mine.items():
        if name == "FP8" or not tensor.endswith(("weight", "factor")) or "norm" in tensor:
            assert torch.equal(values.float(), other[tensor].float()), tensor
        elif tensor.endswith("prequant_scaling_factor"):
            # Ours searches powers of mean|x|, ModelOpt of max|x| and max|w|: powers of the same features' sizes.
            assert 0.5 < float((other[tensor] / values).min()) <= float((other[tensor] / values).max()) < 2, tensor
        elif tensor.endswith("activation_scaling_factor"):
            assert 0.5 < float(other[tensor] / values) < 2, tensor
        elif tensor.endswith("weights_scaling_factor"):
            # 8 / 7 for the levels, the factors' difference (up to 2), and up to half for ours that was shrunk.
            assert 0.5 < float((other[tensor] / values).min()) <= float((other[tensor] / values).max()) < 4, tensor
    for one, two in zip(ours.layers, theirs.layers, strict=True):
        assert one.module == two.module
        assert 0.8 < two.output_relative_error / one.output_relative_error < 1.25, one


def test_fp8_scales_are_those_of_modelopt_on_hugging_faces_model(llama: RandomModel, tmp_path: Path) -> None:
    quantize_model(llama.folder, tmp_path / "out", QuantConfig(quant_algo="FP8"), TOKENS, quantizer="ours")
    ours = open_checkpoint(tmp_path / "out").rank(0)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama.folder)
    modelopt.quantize(model, modelopt.FP8_DEFAULT_CFG, lambda whole: whole(TOKENS.token_ids))
    parts = {
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.dense": ("self_attn.o_proj",), "mlp.fc": ("mlp.gate_proj",), "mlp.gate": ("mlp.up_proj",),
        "mlp.proj": ("mlp.down_proj",),
    }  # fmt: skip
    for number, layer in enumerate(model.model.layers):
        for module, names in parts.items():
            linears = [layer.get_submodule(name) for name in names]
            prefix = f"transformer.layers.{number}.{module}"
            weights = max(float(linear.weight_quantizer.amax) for linear in linears) / 448
            inputs = max(float(linear.input_quantizer.amax) for linear in linears) / 448
            assert float(ours[f"{prefix}.weights_scaling_factor"]) == pytest.approx(weights, rel=1e-7)
            # Hidden states of two implementations of float32: sums in another order.
            assert float(ours[f"{prefix}.activation_scaling_factor"]) == pytest.approx(inputs, rel=1e-4)


@pytest.mark.parametrize("algo", [QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ])
@pytest.mark.parametrize("group", [32, 64])
def test_a_layer_has_modelopts_own_scales(algo: QuantAlgo, group: int) -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(48, 128, generator=draw)
    x = torch.randn(300, 128, generator=draw) * torch.rand(128, generator=draw) * 4
    inputs = LayerInputs(128, "layer", num_tokens=len(x))
    inputs.add(x)
    made = modelopt_layer(weight, inputs, QuantConfig(quant_algo=algo, group_size=group), torch.float32)

    linear = torch.nn.Sequential(torch.nn.Linear(128, 48, bias=False))
    linear[0].weight.data = weight.clone()
    levels = {"num_bits": 4, "block_sizes": {-1: group, "type": "static"}}
    fp8 = {"num_bits": (4, 3), "axis": None}
    is_w4a8 = algo is QuantAlgo.W4A8_AWQ
    recipe = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": [levels, fp8] if is_w4a8 else levels},
            *([{"quantizer_name": "*input_quantizer", "cfg": fp8}] if is_w4a8 else []),
        ],
        "algorithm": "awq_lite",
    }
    modelopt.quantize(linear, recipe, lambda module: module(x))
    theirs = linear[0]
    before = theirs.input_quantizer.pre_quant_scale.flatten()
    assert torch.equal(made["prequant_scaling_factor"], before)
    quantizer = theirs.weight_quantizer[0] if is_w4a8 else theirs.weight_quantizer
    assert torch.equal(made["weights_scaling_factor"], quantizer.amax.view(48, -1) / 7)
    if is_w4a8:  # all 300 tokens are in the sample, so its own amax is that of the whole text
        assert float(made["activation_scaling_factor"]) == pytest.approx(
            float(theirs.input_quantizer.amax) / 448, rel=1e-6
        )
    # Fake-quantized by ModelOpt, times 1 / factors: the same weight, but where a product lies between two levels.
    rounded = quantizer(theirs.weight.data)
    difference = (dense_weight(made, algo) - rounded).abs()
    assert float((difference > 1e-5).float().mean()) < 0.001
