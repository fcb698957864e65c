"""Who quantizes, and how ModelOpt's scales become a checkpoint's: told with a stand-in that has ModelOpt's interface.

`modelopt_installed/` holds the same against ModelOpt itself, where it is installed.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from trtbench_lab.errors import QuantizationError
from trtbench_lab.quantization import modelopt as room
from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.layer import quantized_layer
from trtbench_lab.quantization.modelopt import modelopt_layer, quantizer_for
from trtbench_lab.quantization.reference import dense_weight
from trtbench_lab.specs import QuantAlgo, QuantConfig

FACTORS = torch.linspace(0.5, 2, 64)


def _quantize(module: Any, recipe: dict[str, Any], run: Any) -> None:
    """Record as ModelOpt does: amax of inputs, amax of weights by tensor or group, given factors for AWQ."""
    print("Inserted 3 quantizers")
    linear = module.linear
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0].abs().amax()))
    run(module)
    hook.remove()
    weight = linear.weight.detach()
    tables = [entry["cfg"] for entry in recipe["quant_cfg"] if entry.get("quantizer_name") == "*weight_quantizer"]
    first = tables[0][0] if isinstance(tables[0], list) else tables[0]
    inputs = SimpleNamespace(amax=torch.stack(seen).amax(), pre_quant_scale=1 / FACTORS)
    if "block_sizes" in first:
        grouped = (weight * FACTORS).reshape(len(weight), -1, first["block_sizes"][-1])
        held: Any = SimpleNamespace(amax=grouped.abs().amax(-1).view(-1, 1))
        held = [held, None] if isinstance(tables[0], list) else held
    else:
        held = SimpleNamespace(amax=weight.abs().amax())
    module.linear = SimpleNamespace(input_quantizer=inputs, weight_quantizer=held)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("stand-in")
    groups = {"num_bits": 4, "block_sizes": {-1: 128, "type": "static"}}
    fp8 = {"num_bits": (4, 3), "axis": None}

    def recipe(weights: Any) -> dict[str, Any]:
        return {"quant_cfg": [{"quantizer_name": "*", "enable": False},
                              {"quantizer_name": "*weight_quantizer", "cfg": weights}]}  # fmt: skip

    made.FP8_DEFAULT_CFG, made.INT4_AWQ_CFG = recipe(fp8), recipe(groups)  # type: ignore[attr-defined]
    made.W4A8_AWQ_BETA_CFG = recipe([groups, fp8])  # type: ignore[attr-defined]
    made.quantize = _quantize  # type: ignore[attr-defined]
    monkeypatch.setattr(room, "_imported", lambda: made)
    monkeypatch.setattr(torch.nn.Module, "__setattr__", _plain_setattr(torch.nn.Module.__setattr__))
    return made


def _plain_setattr(before: Any) -> Any:
    """The stand-in puts a plain object where the linear layer was."""

    def setattr_(self: Any, name: str, value: Any) -> None:
        if isinstance(value, SimpleNamespace):
            self._modules.pop(name, None)
            self.__dict__[name] = value
        else:
            before(self, name, value)

    return setattr_


@pytest.fixture
def layer() -> tuple[torch.Tensor, LayerInputs]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 64, generator=draw)
    x[1, 7] = 50  # not among the tokens of the sample, which are every fourth
    inputs = LayerInputs(64, "layer", num_tokens=len(x))
    inputs.add(x)
    return torch.randn(32, 64, generator=draw), inputs


def test_fp8_has_the_scales_of_the_whole_text(stand_in: ModuleType, layer: Any, capsys: pytest.CaptureFixture) -> None:
    weight, inputs = layer
    assert float(inputs.sample.abs().max()) < 50
    with torch.inference_mode():  # as calibration calls it
        made = modelopt_layer(weight, inputs, QuantConfig(quant_algo="FP8"), torch.float16)
    ours = quantized_layer(weight, inputs, QuantConfig(quant_algo="FP8"), torch.float16)
    assert set(made) == set(ours)
    assert all(torch.equal(made[name].float(), ours[name].float()) for name in ours)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("algo", [QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_are_rounded_with_the_stored_scales(
    stand_in: ModuleType, layer: Any, algo: QuantAlgo, dtype: torch.dtype
) -> None:
    weight, inputs = layer
    made = modelopt_layer(weight, inputs, QuantConfig(quant_algo=algo, group_size=32), dtype)
    ours = quantized_layer(weight, inputs, QuantConfig(quant_algo=algo, group_size=32), dtype)
    assert {name: (t.shape, t.dtype) for name, t in made.items()} == {n: (t.shape, t.dtype) for n, t in ours.items()}
    assert torch.equal(made["prequant_scaling_factor"], (1 / FACTORS).to(dtype))
    largest = (weight * FACTORS).view(32, 2, 32).abs().amax(-1)
    assert torch.equal(made["weights_scaling_factor"], (largest / 7).to(dtype))
    change = dense_weight(made, algo) * made["prequant_scaling_factor"].float() - weight
    # Half a step, and what the stored type takes from a largest level: 2^-9 of 7 steps in bfloat16.
    allowed = made["weights_scaling_factor"].float().repeat_interleave(32, 1) * made["prequant_scaling_factor"].float()
    assert bool((change.abs() <= allowed * (0.5001 if dtype is torch.float32 else 0.53)).all())
    if algo is QuantAlgo.W4A8_AWQ:
        wanted = (inputs.largest * made["prequant_scaling_factor"].float()).amax() / 448
        assert float(made["activation_scaling_factor"]) == pytest.approx(float(wanted), rel=1e-6)


def test_a_recipe_of_modelopt_is_not_changed(stand_in: ModuleType, layer: Any) -> None:
    modelopt_layer(*layer, QuantConfig(quant_algo="W4A16_AWQ", group_size=32), torch.float32)
    assert stand_in.INT4_AWQ_CFG["quant_cfg"][1]["cfg"]["block_sizes"][-1] == 128


def test_auto_takes_modelopt_for_what_it_does_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "modelopt_version", lambda: "0.47.0")
    assert {algo for algo in QuantAlgo if quantizer_for("auto", algo) == "modelopt"} == {
        QuantAlgo.FP8, QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ,
    }  # fmt: skip
    assert quantizer_for("ours", QuantAlgo.FP8) == "ours"
    with pytest.raises(QuantizationError, match="ModelOpt does FP8, W4A16_AWQ and W4A8_AWQ here, and W4A16_GPTQ"):
        quantizer_for("modelopt", QuantAlgo.W4A16_GPTQ)


def test_without_modelopt_ours_does_all_and_asking_for_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "modelopt_version", lambda: None)
    assert {quantizer_for("auto", algo) for algo in QuantAlgo} == {"ours"}
    with pytest.raises(QuantizationError, match="not installed") as caught:
        quantizer_for("modelopt", QuantAlgo.FP8)
    assert "trtbench-lab[modelopt]" in str(caught.value)


def test_a_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert room.modelopt_version() is None


def test_a_modelopt_that_breaks_is_named(stand_in: ModuleType, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(stand_in, "quantize", broken)
    with pytest.raises(QuantizationError, match="ModelOpt failed on this layer: no kernel"):
        modelopt_layer(*layer, QuantConfig(quant_algo="FP8"), torch.float32)

    def unimportable() -> None:
        raise ImportError("no omegaconf")

    monkeypatch.setattr(room, "_imported", unimportable)
    with pytest.raises(QuantizationError, match="cannot be imported: no omegaconf"):
        modelopt_layer(*layer, QuantConfig(quant_algo="FP8"), torch.float32)
