"""Whole models: every source, every layout, and what a person is told about the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tests.backends.models import RandomModel, checkpoint_of, random_model

from trtbench_lab.calibration import quantize_model
from trtbench_lab.checkpoint import expected_tensors, open_checkpoint
from trtbench_lab.checkpoint.layout import rank_slice, whole_tensors
from trtbench_lab.errors import QuantizationError, StorageError
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.quantization import dequantize, quantize, quantize_checkpoint
from trtbench_lab.quantization.joining import whole_from_ranks
from trtbench_lab.quantization.weight_only import WeightOnlyScheme
from trtbench_lab.specs import Mapping, QuantConfig

W8 = QuantConfig(quant_algo="W8A16")
W4_GROUPS = QuantConfig(quant_algo="W4A16", group_size=32, exclude_modules=())


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> RandomModel:
    """A GPT-2 with a tied head."""
    return random_model("gpt2", tmp_path_factory.mktemp("gpt2"))


def tensors_of(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in open_checkpoint(folder).rank(rank).items()}


def test_layers_are_quantized_and_everything_else_kept(gpt2, tmp_path):
    checkpoint_of(gpt2, tmp_path / "plain")
    report = quantize_checkpoint(gpt2.folder, tmp_path / "w8", W8)
    plain, made = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "w8")
    scheme = WeightOnlyScheme(8)
    quantized = [layer.module for layer in report.layers]
    assert len(quantized) == 3 * 4  # qkv, dense, fc, proj; lm_head is left out unless asked for
    for module in quantized:
        packed, scale = quantize(plain[f"{module}.weight"], scheme)
        assert torch.equal(made.pop(f"{module}.weight"), packed)
        assert torch.equal(made.pop(f"{module}.per_channel_scale"), scale)
        plain.pop(f"{module}.weight")
    assert made.keys() == plain.keys()
    assert all(torch.equal(made[name], plain[name]) for name in plain)


def test_a_recipe_of_weights_alone_needs_no_text(gpt2, tmp_path):
    """Each layer of it is what the recipe's own quantization makes of the whole model."""
    head, last = "lm_head", "transformer.layers.2.mlp.proj"
    recipe = {"transformer.layers.0.mlp.fc": W8, last: W4_GROUPS, head: W8}
    mixed = QuantConfig(quant_algo="MIXED_PRECISION", quantized_layers=recipe)
    report = quantize_model(gpt2.folder, tmp_path / "mixed", mixed, mapping=Mapping(tp_size=2))
    assert [layer.module for layer in report.layers] == list(recipe)
    quantize_checkpoint(gpt2.folder, tmp_path / "w8", W8.replace(exclude_modules=()))
    quantize_checkpoint(gpt2.folder, tmp_path / "w4", W4_GROUPS)
    checkpoint_of(gpt2, tmp_path / "plain")
    made = open_checkpoint(tmp_path / "mixed")
    sources = {module: tensors_of(tmp_path / ("w8" if quant is W8 else "w4")) for module, quant in recipe.items()}
    plain = tensors_of(tmp_path / "plain")
    for tensor in whole_tensors(made.config):
        expected = sources.get(tensor.name.rpartition(".")[0], plain)[tensor.name]
        assert torch.equal(whole_from_ranks(made, tensor)[: len(expected)], expected), tensor.name


def test_an_explicit_empty_list_quantizes_the_tied_head_and_keeps_the_embedding(gpt2, tmp_path):
    quantize_checkpoint(gpt2.folder, tmp_path / "w4", W4_GROUPS)
    made = tensors_of(tmp_path / "w4")
    table = gpt2.hf.transformer.wte.weight.detach()
    assert torch.equal(made["transformer.vocab_embedding.weight"], table)
    packed, scale = quantize(table, WeightOnlyScheme(4, 32))
    assert torch.equal(made["lm_head.weight"], packed)
    assert torch.equal(made["lm_head.weights_scaling_factor"], scale)


def test_a_shared_table_is_quantized_apart(gpt2, tmp_path):
    checkpoint_of(gpt2, tmp_path / "shared", share_embedding_table=True)
    quantize_checkpoint(tmp_path / "shared", tmp_path / "w4", W4_GROUPS)
    config = open_checkpoint(tmp_path / "w4").config
    assert not config.share_embedding_table
    assert config.tie_word_embeddings
    quantize_checkpoint(gpt2.folder, tmp_path / "direct", W4_GROUPS)
    made, direct = tensors_of(tmp_path / "w4"), tensors_of(tmp_path / "direct")
    assert all(torch.equal(made[name], direct[name]) for name in direct)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_bigcode"])
@pytest.mark.parametrize("quantization", [W8, W4_GROUPS], ids=["w8", "w4g32"])
def test_every_source_gives_the_same_checkpoint(family, quantization, tmp_path):
    if family == "llama" and quantization is W4_GROUPS:
        # 56 MLP features have no groups of 32.
        quantization = QuantConfig(quant_algo="W4A16", exclude_modules=())
    model = random_model(family, tmp_path / "hf")
    checkpoint_of(model, tmp_path / "one")
    checkpoint_of(model, tmp_path / "two", mapping=Mapping(tp_size=2))
    checkpoint_of(model, tmp_path / "stages", mapping=Mapping(tp_size=2, pp_size=3))
    sources = [tmp_path / "hf", open_hf_folder(tmp_path / "hf"), tmp_path / "one", str(tmp_path / "two"),
               open_checkpoint(tmp_path / "stages")]  # fmt: skip
    made = []
    for number, source in enumerate(sources):
        quantize_checkpoint(source, tmp_path / f"out{number}", quantization, mapping=Mapping())
        made.append(tensors_of(tmp_path / f"out{number}"))
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        assert all(torch.equal(other[name], made[0][name]) for name in other)


@pytest.mark.parametrize("mapping", [Mapping(tp_size=2), Mapping(tp_size=2, pp_size=3), Mapping(pp_size=3)], ids=str)
def test_ranks_hold_parts_of_the_quantized_whole(gpt2, mapping, tmp_path):
    quantize_checkpoint(gpt2.folder, tmp_path / "whole", W8)
    quantize_checkpoint(gpt2.folder, tmp_path / "ranks", W8, mapping=mapping)
    whole, config = tensors_of(tmp_path / "whole"), open_checkpoint(tmp_path / "ranks").config
    for rank in range(mapping.world_size):
        view = mapping.with_rank(rank)
        held = tensors_of(tmp_path / "ranks", rank)
        assert {name: (tuple(t.shape), str(t.dtype)[6:]) for name, t in held.items()} == expected_tensors(config, view)
        first = view.pp_layers(3)[0]
        for tensor in whole_tensors(config):
            name = tensor.name
            if tensor.layer is not None:
                name = name.replace(f".{tensor.layer}.", f".{tensor.layer - first}.", 1)
            if name not in held or (tensor.layer is not None and tensor.layer not in view.pp_layers(3)):
                continue
            cut = rank_slice(tensor, config, view)
            rows = torch.cat([whole[tensor.name][start:end] for start, end in cut.rows])
            expected = rows if cut.columns is None else rows[:, cut.columns[0] : cut.columns[1]]
            assert torch.equal(held[name][: expected.shape[0]], expected)


def test_the_report_says_what_was_lost(gpt2, tmp_path):
    report = quantize_checkpoint(gpt2.folder, tmp_path / "w4", W4_GROUPS)
    plain = gpt2.hf.transformer.h[1].mlp.c_proj.weight.detach().t()  # (out, in)
    layer = next(layer for layer in report.layers if layer.module == "transformer.layers.1.mlp.proj")
    packed, scales = quantize(plain.contiguous(), WeightOnlyScheme(4, 32))
    difference = dequantize(packed, scales, WeightOnlyScheme(4, 32)) - plain
    assert layer.relative_rms_error == pytest.approx(float(difference.norm() / plain.norm()), rel=1e-5)
    assert layer.max_abs_error == pytest.approx(float(difference.abs().max()), rel=1e-6)
    assert (layer.out_features, layer.in_features) == (64, 256)
    assert (layer.bytes_before, layer.bytes_after) == (4 * 64 * 256, 64 * 256 // 2 + 4 * 64 * 256 // 32)
    assert 0 < layer.clipped_share < 0.1
    assert report.worst(1)[0].relative_rms_error == max(layer.relative_rms_error for layer in report.layers)
    assert report.bytes_before / report.bytes_after == pytest.approx(32 / 5, rel=1e-3)  # 4 bits + 32 for each group
    assert "W4A16, groups of 32: 13 layers" in repr(report)
    assert report.to_dict()["layers"][0]["module"] == "transformer.layers.0.attention.qkv"


def test_blocks_of_rows_change_nothing(gpt2, tmp_path, monkeypatch):
    quantize_checkpoint(gpt2.folder, tmp_path / "a", W8)
    monkeypatch.setattr("trtbench_lab.quantization.checkpoint.ROWS_BYTES", 700)
    quantize_checkpoint(gpt2.folder, tmp_path / "b", W8)
    one, two = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_types_are_kept_or_converted(gpt2, tmp_path):
    quantize_checkpoint(gpt2.folder, tmp_path / "half", W8, dtype="float16")
    made = tensors_of(tmp_path / "half")
    assert made["transformer.layers.0.mlp.fc.per_channel_scale"].dtype == torch.float16
    assert made["transformer.vocab_embedding.weight"].dtype == torch.float16


def test_progress_is_told(gpt2, tmp_path):
    events: list[ProgressEvent] = []
    quantize_checkpoint(gpt2.folder, tmp_path / "w8", W8, progress=events.append)
    assert events[-1].state == "done"
    assert events[-1].done == events[-1].total


def test_what_cannot_be_quantized_is_refused_and_leaves_nothing(gpt2, tmp_path):
    with pytest.raises(QuantizationError, match="No quantization was asked for"):
        quantize_checkpoint(gpt2.folder, tmp_path / "out", QuantConfig())
    with pytest.raises(QuantizationError, match="'FP8' cannot be executed"):
        quantize_checkpoint(gpt2.folder, tmp_path / "out", QuantConfig(quant_algo="FP8"))
    quantize_checkpoint(gpt2.folder, tmp_path / "w8", W8)
    with pytest.raises(QuantizationError, match=r"quantized already \(W8A16\)"):
        quantize_checkpoint(tmp_path / "w8", tmp_path / "out", W8)
    with pytest.raises(StorageError, match="already exists"):
        quantize_checkpoint(gpt2.folder, tmp_path / "w8", W8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w8"]


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=32, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
        )
    )
    model.transformer.h[0].mlp.c_fc.weight.data[3, 4] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    with pytest.raises(Exception, match="NaN") as caught:
        quantize_checkpoint(tmp_path / "hf", tmp_path / "out", W8)
    assert "c_fc" in str(caught.value)
    assert not (tmp_path / "out").exists()
