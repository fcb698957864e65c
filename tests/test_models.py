"""The classes that TensorRT-LLM's users know, against whole checkpoints and the modules of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.sources import gpt2_tensors, gpt2_values, llama_tensors, llama_values, write_hf_folder

from trtbench_lab import models
from trtbench_lab.checkpoint import config_from_source, convert, expected_tensors, open_checkpoint
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import CheckpointError, IntakeError, QuantizationError, SpecError, StorageError, TrtbenchError
from trtbench_lab.families import all_families
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.models import (
    AutoModelForCausalLM,
    GPTBigCodeForCausalLM,
    GPTForCausalLM,
    InternLMForCausalLM,
    LLaMAForCausalLM,
    MistralForCausalLM,
    QWenForCausalLM,
)
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import Mapping, ModelConfig, QuantAlgo, QuantConfig


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = gpt2_values(layers=4)
    return write_hf_folder(tmp_path_factory.mktemp("hf") / "gpt2", values, gpt2_tensors(values))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = llama_values(layers=2)
    return write_hf_folder(tmp_path_factory.mktemp("hf") / "llama", values, llama_tensors(values))


def same(ours: dict[str, torch.Tensor], theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name])


def test_every_rank_is_that_of_the_converted_checkpoint(gpt2: Path, tmp_path: Path) -> None:
    mapping = Mapping(world_size=4, tp_size=2, pp_size=2)
    source = open_hf_folder(gpt2)
    convert(source, tmp_path / "whole", config=config_from_source(source, "float16", mapping))
    whole = open_checkpoint(tmp_path / "whole")
    for rank in range(4):
        model = GPTForCausalLM.from_hugging_face(str(gpt2), dtype="float16", mapping=mapping.with_rank(rank))
        assert model.mapping.rank == rank
        same(model.weights, whole.rank(rank))
        model.save_checkpoint(tmp_path / "by rank", save_config=rank == 0)
    saved = open_checkpoint(tmp_path / "by rank", verify=True)
    assert saved.config == whole.config
    for rank in range(4):
        same(dict(whole.rank(rank)), saved.rank(rank))
        same(GPTForCausalLM.from_checkpoint(saved.directory, rank=rank).weights, whole.rank(rank))


def test_nothing_is_written_before_saving(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(gpt2.iterdir())
    GPTForCausalLM.from_hugging_face(gpt2)
    assert sorted(gpt2.iterdir()) == before
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_transformers_is_read_from_memory() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    model = AutoModelForCausalLM.from_hugging_face(theirs, dtype="bfloat16")
    assert isinstance(model, LLaMAForCausalLM)
    assert torch.equal(model.weights["lm_head.weight"], theirs.lm_head.weight.bfloat16())
    with pytest.raises(IntakeError, match="list"):
        AutoModelForCausalLM.from_hugging_face([1])


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("algo", [QuantAlgo.W8A16, QuantAlgo.W4A16])
def test_quantizing_on_the_way_is_quantizing_the_checkpoint(
    llama: Path, tmp_path: Path, algo: QuantAlgo, group_size: int | None
) -> None:
    values = llama_values(head_size=16, hidden=64, inner=128)
    folder = write_hf_folder(tmp_path / "hf", values, llama_tensors(values))
    quantization = QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=[])
    mapping = Mapping(tp_size=2)
    quantize_checkpoint(folder, tmp_path / "whole", quantization, mapping=mapping)
    LLaMAForCausalLM.quantize(folder, tmp_path / "quantized", quantization, mapping)
    whole = open_checkpoint(tmp_path / "whole")
    assert open_checkpoint(tmp_path / "quantized").digest == whole.digest
    for rank in range(2):
        model = LLaMAForCausalLM.from_hugging_face(folder, mapping=mapping.with_rank(rank), quant_config=quantization)
        same(model.weights, whole.rank(rank))
        assert algo.value in repr(model)


def test_quantize_is_called_on_rank_0_with_what_can_be_executed(gpt2: Path, tmp_path: Path) -> None:
    quantization = QuantConfig(quant_algo=QuantAlgo.W8A16)
    with pytest.raises(SpecError, match="rank 1"):
        GPTForCausalLM.quantize(gpt2, tmp_path / "q", quantization, Mapping(tp_size=2, rank=1))
    with pytest.raises(QuantizationError, match="No quantization was asked for"):
        GPTForCausalLM.quantize(gpt2, tmp_path / "q", QuantConfig())
    with pytest.raises(IntakeError, match="tokenizer"):
        GPTForCausalLM.quantize(gpt2, tmp_path / "q", QuantConfig(quant_algo=QuantAlgo.FP8))
    with pytest.raises(QuantizationError):
        GPTForCausalLM.from_hugging_face(gpt2, quant_config=QuantConfig(quant_algo=QuantAlgo.FP8))
    assert list(tmp_path.iterdir()) == []


def test_quantize_calibrates_where_the_algorithm_needs_it(tmp_path: Path) -> None:
    """On the demo corpus unless texts are given; what it was calibrated on stands in the report."""
    quantization = QuantConfig(quant_algo=QuantAlgo.W4A16_AWQ, pre_quant_scale=True)
    short = {"calib_size": 2, "calib_max_seq_length": 32}
    report = AutoModelForCausalLM.quantize(demo_model_dir(), tmp_path / "demo", quantization, **short)
    assert report.calibration is not None
    assert (report.calibration["source"], report.calibration["size"]) == ("demo", 2)
    other = GPTForCausalLM.quantize(
        demo_model_dir(), tmp_path / "own", quantization, calib_texts=["The mayor spoke. " * 40], **short
    )
    assert other.calibration is not None
    assert other.calibration["source"] == "texts"
    assert other.calibration["digest"] != report.calibration["digest"]
    assert open_checkpoint(tmp_path / "own").config.quantization == quantization


def config_of(architecture: str) -> ModelConfig:
    return ModelConfig(
        architecture=architecture, vocab_size=8, max_position_embeddings=8, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip


CLASSES: dict[type[models.CausalLM], set[str]] = {
    GPTForCausalLM: {"GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPT2LMHeadCustomModel"},
    GPTBigCodeForCausalLM: {"GPTBigCodeForCausalLM", "GPT2LMHeadCustomModel"},
    LLaMAForCausalLM: {"LlamaForCausalLM", "MistralForCausalLM", "InternLMForCausalLM"},
    MistralForCausalLM: {"MistralForCausalLM"},
    InternLMForCausalLM: {"InternLMForCausalLM"},
    QWenForCausalLM: {"Qwen2ForCausalLM"},
}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_reads_its_families_and_names_the_right_one_for_others(cls: type[models.CausalLM]) -> None:
    for family in all_families():
        architecture = family.architectures[0]
        if architecture in CLASSES[cls]:
            assert cls.from_config(config_of(architecture)).weights == {}
            assert isinstance(AutoModelForCausalLM.from_config(config_of(architecture)), models.CausalLM)
        else:
            with pytest.raises(IntakeError, match=f"{cls.__name__} does not read"):
                cls(config_of(architecture))


def test_auto_chooses_the_most_particular_class(gpt2: Path, llama: Path, tmp_path: Path) -> None:
    assert type(AutoModelForCausalLM.from_hugging_face(gpt2)) is GPTForCausalLM
    model = AutoModelForCausalLM.from_hugging_face(llama)
    assert type(model) is LLaMAForCausalLM
    assert model.source_dir == llama
    model.save_checkpoint(tmp_path / "c")
    opened = AutoModelForCausalLM.from_checkpoint(tmp_path / "c")
    assert type(opened) is LLaMAForCausalLM
    same(opened.weights, model.weights)
    with pytest.raises(IntakeError, match="Use LLaMAForCausalLM"):
        QWenForCausalLM.from_checkpoint(tmp_path / "c")
    with pytest.raises(IntakeError, match="Use LLaMAForCausalLM"):
        GPTForCausalLM.from_hugging_face(llama)


def test_load_takes_exactly_the_expected_tensors(gpt2: Path) -> None:
    given = GPTForCausalLM.from_hugging_face(gpt2, mapping=Mapping(tp_size=2, rank=1))
    model = GPTForCausalLM(given.config.replace(dtype="float16"))
    model.load(given.weights)  # cast on the way
    assert model.weights.keys() == expected_tensors(model.config).keys()
    name = "transformer.layers.0.mlp.fc.weight"
    assert torch.equal(model.weights[name], given.weights[name].half())
    changes: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda w: w.pop(name), "1 missing"),
        (lambda w: w.update(more=torch.zeros(1)), "1 unknown (more)"),
        (lambda w: w.update({name: torch.zeros(3, 3)}), "(3, 3)"),
        (lambda w: w.update({name: w[name].to(torch.int8)}), "int8"),
        (lambda w: w.update({name: torch.full_like(w[name], float("nan"))}), "NaN"),
    ]
    for change, word in changes:
        weights = dict(given.weights)
        change(weights)
        with pytest.raises(CheckpointError) as caught:
            model.load(weights)
        assert word in str(caught.value)


def test_saving_does_not_mix_models(gpt2: Path, tmp_path: Path) -> None:
    mapping = Mapping(tp_size=2)
    first = GPTForCausalLM.from_hugging_face(gpt2, mapping=mapping)
    with pytest.raises(CheckpointError, match="no weights"):
        GPTForCausalLM(first.config).save_checkpoint(tmp_path / "none")
    first.save_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="1 of 2 rank files are missing"):
        open_checkpoint(tmp_path / "c")
    with pytest.raises(StorageError, match="exists"):
        first.save_checkpoint(tmp_path / "c")
    first.save_checkpoint(tmp_path / "c", overwrite=True)
    other_layout = GPTForCausalLM.from_hugging_face(gpt2, mapping=Mapping(tp_size=4, rank=1))
    with pytest.raises(CheckpointError, match="another model"):
        other_layout.save_checkpoint(tmp_path / "c", save_config=False)
    values = gpt2_values(layers=4)
    folder = write_hf_folder(tmp_path / "other", values, gpt2_tensors(values, seed=9))
    other = GPTForCausalLM.from_hugging_face(folder, mapping=mapping.with_rank(1))
    other.save_checkpoint(tmp_path / "c", save_config=False)  # the same shapes, but not the same model
    with pytest.raises(CheckpointError, match="different sources"):
        open_checkpoint(tmp_path / "c")


def test_sharing_and_parallel_embedding_are_options_of_reading(gpt2: Path) -> None:
    model = GPTForCausalLM.from_hugging_face(
        gpt2, mapping=Mapping(tp_size=2), use_parallel_embedding=True, share_embedding_table=True
    )
    assert "lm_head.weight" not in model.weights
    assert model.weights["transformer.vocab_embedding.weight"].shape == (51, 32)
    with pytest.raises(TrtbenchError, match="embedding_sharding_dim 0"):
        GPTForCausalLM.from_hugging_face(gpt2, mapping=Mapping(tp_size=2), share_embedding_table=True)


def test_a_damaged_or_absent_folder_is_refused_in_our_words(tmp_path: Path, gpt2: Path) -> None:
    with pytest.raises(TrtbenchError):
        AutoModelForCausalLM.from_hugging_face(tmp_path / "absent")
    with pytest.raises(CheckpointError):
        AutoModelForCausalLM.from_checkpoint(gpt2)
