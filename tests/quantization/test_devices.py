"""Everything that quantizing makes lies where the weights lie: nothing is made on the default device by oversight.

The default device is "meta" here and everything given lies on the CPU, so a tensor that a line makes without saying
where holds no numbers, and the next line that mixes the two fails, as it would on a GPU.
"""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.calibration.layers import layers_read
from trtbench_lab.checkpoint.layout import WholeTensor, whole_tensors
from trtbench_lab.quantization.inputs import LayerInputs
from trtbench_lab.quantization.layer import layer_error, quantized_layer
from trtbench_lab.quantization.smoothquant import smoothing_factors
from trtbench_lab.specs import ModelConfig, QuantConfig

RECIPES = {
    "W8A8_SQ_PER_TENSOR_PLUGIN": {},
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": {},
    "W4A16": {"group_size": 32},
    "W4A16_AWQ": {"group_size": 32, "pre_quant_scale": True},
    "W4A8_AWQ": {"group_size": 32, "pre_quant_scale": True},
    "W4A16_GPTQ": {"group_size": 32, "has_zero_point": True},
    "FP8": {},
}


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("algo", RECIPES)
def test_a_layer_is_quantized_where_it_lies(algo: str, act_order: bool):
    quant = QuantConfig(quant_algo=algo, **RECIPES[algo])
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 64, generator=draw), torch.randn(200, 64, generator=draw)

    def made() -> dict[str, torch.Tensor]:
        inputs = LayerInputs(64, "layer", num_tokens=200, with_gram=True, device="cpu")
        inputs.add(x)
        factors = None
        if quant.quant_algo.is_smoothquant and act_order:  # the other half of the runs has none
            factors = smoothing_factors(inputs, [weight], 0.5)
        tensors = quantized_layer(weight, inputs, quant, torch.float32, factors=factors, act_order=act_order)
        error = layer_error("layer", weight, tensors, inputs, quant.quant_algo, torch.float32, folded=factors)
        assert 0 < error.output_relative_error < 0.2
        return tensors

    expected = made()
    with torch.device("meta"):
        found = made()
    assert {name: tensor.device.type for name, tensor in found.items()} == dict.fromkeys(expected, "cpu")
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_layers_read_ahead_are_the_same_and_so_are_their_faults():
    config = ModelConfig(
        architecture="GPT2LMHeadModel", dtype="float32", vocab_size=64, max_position_embeddings=16, hidden_size=16,
        num_hidden_layers=4, num_attention_heads=2, hidden_act="gelu_new",
    )  # fmt: skip
    tensors = whole_tensors(config)
    layers = [[tensor for tensor in tensors if tensor.layer == number] for number in range(4)]

    def read(tensor: WholeTensor) -> torch.Tensor:
        if tensor.name == broken:
            raise RuntimeError(f"{tensor.name} cannot be read")
        return torch.full(tensor.shape, float(sum(map(ord, tensor.name))))

    broken = ""
    one, ahead = (list(layers_read(layers, read, ahead=ahead)) for ahead in (False, True))
    assert [list(layer) for layer in ahead] == [[tensor.name for tensor in layer] for layer in layers]
    assert all(torch.equal(tensor, ahead[n][name]) for n, layer in enumerate(one) for name, tensor in layer.items())
    broken = layers[2][-1].name
    seen = layers_read(layers, read, ahead=True)
    assert [list(next(seen)) for _ in range(2)] == [list(layer) for layer in one[:2]]
    with pytest.raises(RuntimeError, match=r"layers\.2\..*cannot be read"):
        next(seen)
