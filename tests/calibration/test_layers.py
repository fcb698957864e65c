"""What layers see in calibration is what Hugging Face's layers see."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import FAMILIES, random_model

from trtbench_lab.calibration.layers import calibrated_layers
from trtbench_lab.checkpoint.layout import whole_tensors
from trtbench_lab.quantization.checkpoint import open_model, whole_reader

TOKENS = torch.randint(0, 97, (5, 12), generator=torch.Generator().manual_seed(0))


def hf_modules(family: str, model, number: int) -> dict[str, torch.nn.Module]:
    if family in ("gpt2", "gpt_bigcode"):
        block = model.transformer.h[number]
        return {
            "attention.qkv": block.attn.c_attn, "attention.dense": block.attn.c_proj,
            "mlp.fc": block.mlp.c_fc, "mlp.proj": block.mlp.c_proj,
        }  # fmt: skip
    block = model.model.layers[number]
    return {
        "attention.qkv": block.self_attn.q_proj, "attention.dense": block.self_attn.o_proj,
        "mlp.fc": block.mlp.gate_proj, "mlp.proj": block.mlp.down_proj,
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_hugging_faces(family: str, tmp_path):
    model = random_model(family, tmp_path)
    config, read, _ = whole_reader(open_model(model.folder), "auto", None, {})
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for number in range(3):
        for name, module in hf_modules(family, model.hf, number).items():
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, given, key=f"transformer.layers.{number}.{name}": seen.__setitem__(key, given[0].detach())
                )
            )
    head = model.hf.lm_head.register_forward_pre_hook(lambda _, given: seen.__setitem__("lm_head", given[0].detach()))
    with torch.no_grad():
        model.hf(TOKENS, use_cache=False)
    for hook in [*hooks, head]:
        hook.remove()
    layers = list(calibrated_layers(config, read, TOKENS, with_gram=True, with_head=True))
    assert [layer.number for layer in layers] == [0, 1, 2, None]
    found = {name: inputs for layer in layers for name, inputs in layer.inputs.items()}
    for name, x in seen.items():
        x = x.flatten(0, 1)  # (tokens, in)
        inputs = found[name]
        # Both float32, sums in other orders: 1e-4 of the largest value, as for logits.
        tolerance = {"rtol": 1e-4, "atol": 1e-4 * float(x.abs().max())}
        torch.testing.assert_close(inputs.largest, x.abs().amax(0), **tolerance)
        torch.testing.assert_close(inputs.mean_abs, x.abs().mean(0), **tolerance)
        torch.testing.assert_close(inputs.sample, x, **tolerance)  # 60 tokens: all are kept
        gram = x.t() @ x
        torch.testing.assert_close(inputs.gram, gram, rtol=1e-3, atol=1e-3 * float(gram.abs().max()))
        assert inputs.num_tokens == 60
    assert {name for name in found if not name.endswith("mlp.gate")} == set(seen)
    if config.gated_mlp:
        assert found["transformer.layers.0.mlp.gate"] is found["transformer.layers.0.mlp.fc"]
    for layer in layers[:-1]:
        names = {tensor.name for tensor in whole_tensors(config) if tensor.layer == layer.number}
        assert set(layer.weights) == names


def test_the_largest_key_and_value_are_hugging_faces(tmp_path):
    model = random_model("llama", tmp_path)
    config, read, _ = whole_reader(open_model(model.folder), "auto", None, {})
    with torch.no_grad():
        cache = model.hf(TOKENS, use_cache=True).past_key_values
    for layer in calibrated_layers(config, read, TOKENS):
        assert layer.key_largest == pytest.approx(float(cache.layers[layer.number].keys.abs().max()), rel=1e-4)
        assert layer.value_largest == pytest.approx(float(cache.layers[layer.number].values.abs().max()), rel=1e-4)


def test_the_sample_is_spread_over_all_tokens(tmp_path):
    from trtbench_lab.quantization.inputs import SAMPLE_TOKENS, LayerInputs

    inputs = LayerInputs(1, "layer", num_tokens=10 * SAMPLE_TOKENS)
    for start in range(0, 10 * SAMPLE_TOKENS, 300):  # batches that do not end on a multiple of ten
        stop = min(start + 300, 10 * SAMPLE_TOKENS)
        inputs.add(torch.arange(start, stop, dtype=torch.float32)[:, None])
    assert inputs.sample[:, 0].tolist() == list(range(0, 10 * SAMPLE_TOKENS, 10))


def test_layers_run_where_they_are_asked_to(tmp_path):
    """With "meta" as the default device, a tensor that is made without saying where would hold no numbers."""
    model = random_model("llama", tmp_path)
    config, read, _ = whole_reader(open_model(model.folder), "auto", None, {})
    held = {tensor.name: read(tensor) for tensor in whole_tensors(config.replace(dtype="float32"))}
    expected = list(calibrated_layers(config, read, TOKENS, with_gram=True, with_head=True))
    with torch.device("meta"):
        found = list(
            calibrated_layers(
                config, lambda tensor: held[tensor.name], TOKENS, with_gram=True, with_head=True, device="cpu"
            )
        )
    for one, other in zip(expected, found, strict=True):
        assert (one.key_largest, one.value_largest) == (other.key_largest, other.value_largest)
        for name, inputs in one.inputs.items():
            assert torch.equal(inputs.sample, other.inputs[name].sample)
            assert torch.equal(inputs.gram, other.inputs[name].gram)
