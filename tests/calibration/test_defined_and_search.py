"""Checkpoints computed by definition, against Hugging Face with the same weights; and the search for a mix."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import random_model

from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.calibration.search import AS_IT_IS, search_mix
from trtbench_lab.checkpoint import expected_tensors, open_checkpoint
from trtbench_lab.errors import QuantizationError, SpecError
from trtbench_lab.evaluation.definition import definition_runner
from trtbench_lab.quantization.reference import dense_weight, layer_output
from trtbench_lab.specs import Mapping, QuantConfig

IDS = torch.randint(0, 97, (8, 16), generator=torch.Generator().manual_seed(0))
TOKENS = calibration_tokens(IDS.tolist(), size=8, length=16)
FORMATS = ("int8_wo", "int4_wo", "int4_awq", "int8_sq")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_model("llama", tmp_path_factory.mktemp("llama"), intermediate_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return random_model("gpt2", tmp_path_factory.mktemp("gpt2"), n_layer=2)


@pytest.mark.parametrize("mapping", [Mapping(), Mapping(tp_size=2)])
def test_rounded_weights_put_into_hugging_face_give_the_same_logits(gpt2, mapping: Mapping, tmp_path) -> None:
    """GPT-2's Conv1D holds (in, out): the dequantized weights go into the model that transformers runs."""
    config = QuantConfig(quant_algo="W4A16", group_size=32)
    quantize_model(gpt2.folder, tmp_path / "out", config, dtype="float32", mapping=mapping)
    quantize_model(gpt2.folder, tmp_path / "one", config, dtype="float32")
    one = open_checkpoint(tmp_path / "one")
    held = one.rank(0)
    blocks = {"attention.qkv": "attn.c_attn", "attention.dense": "attn.c_proj"}
    blocks |= {"mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"}
    before = {name: tensor.clone() for name, tensor in gpt2.hf.state_dict().items()}
    try:
        for number in range(2):
            for ours, theirs in blocks.items():
                prefix = f"transformer.layers.{number}.{ours}"
                parts = {leaf: held[f"{prefix}.{leaf}"] for leaf in ("weight", "weights_scaling_factor")}
                dense = dense_weight(parts, config.quant_algo)
                gpt2.hf.transformer.h[number].get_submodule(theirs).weight.data = dense.t().contiguous()
        with torch.no_grad():
            expected = gpt2.hf(IDS[:1]).logits[0]
    finally:
        gpt2.hf.load_state_dict(before)
    got = definition_runner(tmp_path / "out").logits_of([IDS[0].tolist()])[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize(
    "quant",
    [
        {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
        {"quant_algo": "FP8"},
        {"quant_algo": "W4A8_AWQ", "pre_quant_scale": True, "group_size": 32},
        {"kv_cache_quant_algo": "INT8"},
        {"kv_cache_quant_algo": "FP8"},
    ],
    ids=lambda quant: "-".join(str(value) for value in quant.values()),
)
def test_every_algorithm_runs_by_definition(llama, quant, tmp_path) -> None:
    quantize_model(llama.folder, tmp_path / "out", QuantConfig(**quant), TOKENS, dtype="float32")
    runner = definition_runner(tmp_path / "out")
    got = runner.logits_of([IDS[0].tolist()])[0]
    with torch.no_grad():
        expected = llama.hf(IDS[:1]).logits[0]
    error = float((got - expected).norm() / expected.norm())
    assert 1e-5 < error < 0.6  # it is rounded (4 and 8 bits, two layers of random weights), and still the model
    assert runner.backend == "definition"
    assert len(runner.generate([[5, 6, 7]], max_new_tokens=4)["output_ids"][0, 0]) == 7


@pytest.fixture(scope="module")
def searched(llama):
    return search_mix(
        llama.folder, TOKENS, budget=0.4, formats=FORMATS, num_tokens=64, dtype="float16", group_size=32
    )


def test_the_mix_keeps_its_budget_and_says_why(searched) -> None:
    config, report = searched
    assert report.size_bytes <= report.budget_bytes == int(0.4 * report.plain_bytes)
    assert report.is_exact
    assert report.predicted_loss == pytest.approx(sum(layer.loss for layer in report.layers))
    # Small losses add up: within a factor of two on a model of random weights.
    assert 0.5 < report.measured_loss / report.predicted_loss < 2
    for layer in report.layers:
        assert set(layer.losses) == {AS_IT_IS, *FORMATS}
        assert layer.losses["int8_wo"] < layer.losses["int4_wo"]
        assert layer.why.endswith(("worth)", "loses less"))
    modules = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
    assert set(config.quantized_layers) <= {f"transformer.layers.{n}.{m}" for n in range(2) for m in modules}


def test_a_loss_is_the_kl_of_the_checkpoint_that_has_only_that_layer_quantized(llama, tmp_path) -> None:
    """The number of the search against a whole checkpoint, run by definition, and Hugging Face's distributions."""
    options = {"formats": ("int4_wo",), "num_tokens": 128, "dtype": "float32", "group_size": 32}
    _, report = search_mix(llama.folder, TOKENS, budget=1.0, **options)
    module = "transformer.layers.1.mlp.proj"
    layers = {module: QuantConfig(quant_algo="W4A16", group_size=32)}
    mixed = QuantConfig(quant_algo="MIXED_PRECISION", quantized_layers=layers)
    quantize_model(llama.folder, tmp_path / "out", mixed, TOKENS, dtype="float32")
    got = definition_runner(tmp_path / "out").logits_of(IDS.tolist())
    with torch.no_grad():
        wanted = llama.hf(IDS).logits.double().log_softmax(-1)[:, :-1]
    ours = torch.stack(got).double().log_softmax(-1)[:, :-1]
    kl = float((wanted.exp() * (wanted - ours)).sum(-1).mean())
    found = next(layer for layer in report.layers if layer.module == module)
    assert found.losses["int4_wo"] == pytest.approx(kl, rel=0.02)  # float32 differences of logarithms


def test_a_mixed_checkpoint_holds_what_its_recipe_says(llama, searched, tmp_path) -> None:
    config, _ = searched
    quantize_model(llama.folder, tmp_path / "out", config, TOKENS, dtype="float16")
    checkpoint = open_checkpoint(tmp_path / "out", verify=True)
    assert checkpoint.config.quantization == config
    for name, (shape, dtype) in expected_tensors(checkpoint.config).items():
        assert (tuple(checkpoint.rank(0)[name].shape), str(checkpoint.rank(0)[name].dtype)) == (shape, f"torch.{dtype}")


def test_smoothing_moves_out_of_a_norm_only_when_all_behind_it_are_smoothed(llama, tmp_path) -> None:
    smooth = QuantConfig(quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN")
    both = {f"transformer.layers.0.mlp.{part}": smooth for part in ("fc", "gate")}
    one = {"transformer.layers.1.mlp.fc": smooth, "transformer.layers.1.mlp.gate": QuantConfig(quant_algo="W8A16")}
    mixed = QuantConfig(quant_algo="MIXED_PRECISION", quantized_layers={**both, **one})
    quantize_model(llama.folder, tmp_path / "out", mixed, TOKENS, dtype="float32")
    held = open_checkpoint(tmp_path / "out").rank(0)
    norms = [layer.post_attention_layernorm.weight for layer in llama.hf.model.layers]
    assert not torch.equal(held["transformer.layers.0.post_layernorm.weight"], norms[0])
    assert torch.equal(held["transformer.layers.1.post_layernorm.weight"], norms[1])
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    tensors = {name: held[f"transformer.layers.1.mlp.fc.{name}"] for name in ("weight", "per_channel_scale")}
    with torch.no_grad():
        expected = llama.hf.model.layers[1].mlp.gate_proj(x)
    got = layer_output(x, tensors, smooth.quant_algo)
    assert float((got - expected).norm() / expected.norm()) < 0.02  # two roundings to 8 bits


def test_budgets_and_recipes_that_cannot_be(llama) -> None:
    with pytest.raises(QuantizationError, match="smallest formats together"):
        search_mix(llama.folder, TOKENS, budget=0.05, formats=("int8_wo",), num_tokens=16)
    with pytest.raises(SpecError, match="both or neither"):
        QuantConfig(quant_algo="MIXED_PRECISION")
    with pytest.raises(SpecError, match="one algorithm of its own"):
        QuantConfig(quant_algo="MIXED_PRECISION", quantized_layers={"lm_head": {}})
