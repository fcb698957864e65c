"""Specs as records: coercion, errors, round trips."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.specs.strategies import spec_strategy

from trtbench_lab.errors import SpecError
from trtbench_lab.specs import (
    BenchConfig,
    BuildConfig,
    Mapping,
    ModelConfig,
    PluginConfig,
    QuantAlgo,
    QuantConfig,
    SamplingConfig,
    Spec,
)
from trtbench_lab.specs.command_line import parse
from trtbench_lab.specs.requests import REQUESTS, RunSpec

CONFIGS = [ModelConfig, Mapping, QuantConfig, PluginConfig, BuildConfig, SamplingConfig, BenchConfig]
ALL_SPECS = [*CONFIGS, *REQUESTS.values()]
TINY = {
    "architecture": "GPTForCausalLM",
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: spec.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_round_trip_through_json(spec: type[Spec], data: st.DataObject) -> None:
    original = data.draw(spec_strategy(spec))
    restored = spec.from_dict(json.loads(json.dumps(original.to_dict())))
    secrets = {info.name for info in spec.options() if info.meta.secret}
    for name in set(spec.field_names()) - secrets:
        assert getattr(restored, name) == getattr(original, name)


@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: spec.__name__)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_survives_pickle_and_copy(spec: type[Spec], data: st.DataObject) -> None:
    original = data.draw(spec_strategy(spec))
    for twin in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original), original.replace()):
        assert twin == original


@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: spec.__name__)
def test_every_field_explains_itself(spec: type[Spec]) -> None:
    for info in spec.options():
        assert info.help.endswith("."), info.path
        assert info.meta.group, info.path
        assert info.meta.since, info.path
    assert (spec.__doc__ or "").strip()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: spec.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_refused_in_a_planned_way(spec: type[Spec], data: st.DataObject) -> None:
    whole = data.draw(spec_strategy(spec)).to_dict()
    names = st.sampled_from([*whole, "self", "", "surprise"])
    damaged = {**whole, **data.draw(st.dictionaries(names, _JSON, max_size=3))}
    for name in data.draw(st.sets(st.sampled_from(sorted(whole)), max_size=2)):
        damaged.pop(name, None)
    try:
        read = spec.from_dict(damaged, where="config.json")
    except SpecError as error:
        told = str(error)
    else:
        told = " ".join(str(item) for item in (*read.conflicts(), *read.warnings())) or "fine"
    assert told


def test_arrays_are_taken_as_lists_and_refused_as_numbers() -> None:
    assert BenchConfig(batch_size=numpy.array([1, 8])).batch_size == (1, 8)
    assert BuildConfig(max_batch_size=numpy.int64(4)).max_batch_size == 4
    with pytest.raises(SpecError, match="whole number"):
        BuildConfig(max_batch_size=numpy.array([1, 8]))
    spec, _ = parse("build", ["c", "--max_batch_size", numpy.int64(2), "--max_batch_size", numpy.int64(3)])
    assert spec.build_config.max_batch_size == 3


def test_unknown_field_gets_its_nearest_neighbour() -> None:
    with pytest.raises(SpecError, match=r"max_batchsize.*did you mean 'max_batch_size'"):
        BuildConfig(max_batchsize=8)
    with pytest.raises(SpecError, match=r"'gem_plugin' .did you mean 'gemm_plugin'") as caught:
        BuildConfig.from_dict({"plugin_config": {"gem_plugin": "auto"}}, where="engine/config.json")
    assert "engine/config.json" in str(caught.value)


def test_all_unknown_fields_are_named_together() -> None:
    with pytest.raises(SpecError) as caught:
        SamplingConfig.from_dict({"topk": 3, "tempreature": 1.0, "zzz": 0})
    text = str(caught.value)
    assert "top_k" in text
    assert "temperature" in text
    assert "zzz" in text
    assert "Known:" in text


def test_missing_fields_are_named() -> None:
    with pytest.raises(SpecError, match="needs architecture, vocab_size"):
        ModelConfig()


@pytest.mark.parametrize("values", [None, 3, "text", [1], [("a", 1)]])
def test_from_dict_wants_a_table(values: object) -> None:
    with pytest.raises(SpecError, match="must be a table"):
        BuildConfig.from_dict(values, where="config.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_batch_size", "8", "must be a whole number, not '8'"),
        ("max_batch_size", 8.5, "must be a whole number, not 8.5"),
        ("max_batch_size", True, "must be a whole number, not True"),
        ("max_batch_size", 0, "must be at least 1, not 0"),
        ("opt_level", 6, "must be at most 5, not 6"),
        ("backend", "tensort", "cannot be 'tensort'; choose from auto, tensorrt, torch, onnxruntime"),
        ("strongly_typed", 2, "must be true or false, not 2"),
        ("timeout_s", float("nan"), "must be a finite number"),
        ("timeout_s", "ten", "must be a number, not 'ten'"),
        ("plugin_config", 7, "must be PluginConfig, not 7"),
        ("timing_cache", 7, "must be text, not 7"),
    ],
)
def test_wrong_values_name_field_value_and_allowed(name: str, value: object, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        BuildConfig(**{name: value})
    assert words in str(caught.value)
    assert f"BuildConfig.{name}" in str(caught.value)


def test_several_wrong_values_are_told_together() -> None:
    with pytest.raises(SpecError) as caught:
        BuildConfig(max_batch_size="x", opt_level=9)
    assert "max_batch_size" in caught.value.what
    assert "opt_level" in caught.value.what


def test_coercion_keeps_the_meaning() -> None:
    config = QuantConfig(quant_algo="w4a16", group_size=64, exclude_modules=["lm_head"], smoothquant_val=1)
    assert config.quant_algo is QuantAlgo.W4A16
    assert config.exclude_modules == ("lm_head",)
    assert isinstance(config.smoothquant_val, float)
    assert RunSpec(engine_dir=Path("a") / "b").engine_dir == "a/b"
    model = ModelConfig(**TINY, dtype="fp32", mapping={"tp_size": 2}, quantization={"quant_algo": "W8A16"})
    assert (model.dtype, model.mapping.world_size, model.quantization.quant_algo) == ("float32", 2, "W8A16")


def test_objects_with_a_folder_stand_for_it() -> None:
    class Engine:
        directory = Path("/engines/gpt2")

    assert RunSpec(engine_dir=Engine()).engine_dir == "/engines/gpt2"


@pytest.mark.parametrize(
    ("given_value", "stored"), [(None, "disable"), (True, "auto"), (False, "disable"), ("bf16", "bfloat16")]
)
def test_plugins_take_what_other_config_files_write(given_value: object, stored: str) -> None:
    assert PluginConfig.from_dict({"gemm_plugin": given_value}).gemm_plugin == stored


def test_specs_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        BuildConfig().max_batch_size = 4  # type: ignore[misc]


def test_replace_works_out_what_nobody_gave() -> None:
    assert Mapping(tp_size=2).replace(tp_size=4).world_size == 4
    assert Mapping(world_size=2, tp_size=2).replace(tp_size=4).world_size == 2
    wide = ModelConfig(**TINY).replace(hidden_size=64)
    assert (wide.head_size, wide.intermediate_size) == (16, 256)
    with pytest.raises(SpecError, match="max_batch_sise"):
        BuildConfig().replace(max_batch_sise=1)


def test_given_remembers_what_was_named() -> None:
    config = BuildConfig(max_batch_size=8)
    assert config.given("max_batch_size")
    assert not config.given("max_input_len")
    assert config == BuildConfig()


def test_repr_is_python_and_short() -> None:
    config = BuildConfig(max_batch_size=4, plugin_config=PluginConfig(gemm_plugin="auto"))
    assert repr(config) == "BuildConfig(max_batch_size=4, plugin_config=PluginConfig(gemm_plugin='auto'))"
    assert eval(repr(config)) == config  # noqa: S307


def test_secrets_are_never_written() -> None:
    spec = REQUESTS["download"](model="gpt2", token="hf_secret")
    assert "hf_secret" not in repr(spec)
    assert "hf_secret" not in json.dumps(spec.to_dict())


def test_model_derives_what_it_is_not_told() -> None:
    model = ModelConfig(**TINY)
    assert (model.kv_heads, model.head_width, model.mlp_width) == (4, 8, 128)
    assert model.padded_vocab_size(3) == 102
    assert model.padded_vocab_size() == 100
    assert model.replace(rotary_pct=0.25, position_embedding_type="rope_gpt_neox").rotary_dim == 2


def test_mapping_places_ranks() -> None:
    ranks = [Mapping(tp_size=2, pp_size=2, rank=rank) for rank in range(4)]
    assert [(m.tp_rank, m.pp_rank) for m in ranks] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [m.tp_group for m in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [m.pp_group for m in ranks] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [m.pp_layers(4) for m in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [(m.prev_pp_rank, m.next_pp_rank) for m in ranks] == [(2, 2), (3, 3), (0, 0), (1, 1)]
    assert [(m.is_first_pp_rank, m.is_last_pp_rank) for m in ranks] == [(True, False)] * 2 + [(False, True)] * 2
    assert ranks[0].with_rank(3) == ranks[3]
    with pytest.raises(SpecError, match="3 layers cannot be divided into 2"):
        ranks[0].pp_layers(3)


@given(tp_size=st.integers(1, 6), pp_size=st.integers(1, 6), per_stage=st.integers(1, 4))
def test_mapping_covers_every_layer_and_rank_once(tp_size: int, pp_size: int, per_stage: int) -> None:
    layers = per_stage * pp_size
    world = [Mapping(tp_size=tp_size, pp_size=pp_size, rank=rank) for rank in range(tp_size * pp_size)]
    for shard in range(tp_size):
        held = [layer for rank in world if rank.tp_rank == shard for layer in rank.pp_layers(layers)]
        assert held == list(range(layers))
    for rank in world:
        assert rank.rank in rank.tp_group
        assert rank.rank in rank.pp_group
        assert world[rank.next_pp_rank].prev_pp_rank == rank.rank


def test_quantization_properties() -> None:
    assert QuantConfig(quant_algo="W4A16_AWQ").group_size == 128
    assert QuantConfig(quant_algo="W4A16").group_size is None
    assert [algo.weight_bits for algo in (QuantAlgo.W4A16, QuantAlgo.W8A16, QuantAlgo.FP8)] == [4, 8, 8]
    default, none, pattern = (QuantConfig(exclude_modules=value) for value in (None, [], ["*.attention.*"]))
    assert default.excludes("lm_head")
    assert not default.excludes("transformer.layers.0.mlp.fc")
    assert not none.excludes("lm_head")
    assert pattern.excludes("transformer.layers.0.attention.qkv")
    with pytest.raises(SpecError, match="INT8"):
        QuantConfig(quant_algo="INT8")


@pytest.mark.parametrize(
    ("text", "sizes"), [("1;8;64", (1, 8, 64)), ("16", (16,)), (" 1 ; 2 ", (1, 2)), ("1,2", (1, 2))]
)
def test_batch_sizes_from_text(text: str, sizes: tuple[int, ...]) -> None:
    assert BenchConfig(batch_size=text).batch_size == sizes


def test_length_pairs_from_text() -> None:
    config = BenchConfig(input_output_len="60,20;128,128", batch_size=[1, 8])
    assert config.input_output_len == ((60, 20), (128, 128))
    assert config.cells == [(1, 60, 20), (8, 60, 20), (1, 128, 128), (8, 128, 128)]


@pytest.mark.parametrize("value", ["60", "60,20,3", "a,b", "", [], [[0, 5]], "60,0", [[1]]])
def test_bad_length_pairs_are_refused(value: object) -> None:
    with pytest.raises(SpecError):
        BenchConfig(input_output_len=value)


@pytest.mark.parametrize("value", ["0", "x", "", [], [0], "1;;x"])
def test_bad_batch_sizes_are_refused(value: object) -> None:
    with pytest.raises(SpecError):
        BenchConfig(batch_size=value)


def test_lengths_resolve_for_a_model() -> None:
    model = ModelConfig(**TINY)  # 64 learned positions
    resolved, notes = BuildConfig().resolved(model)
    assert (resolved.max_seq_len, resolved.max_input_len) == (64, 63)
    assert "max_input_len 1024 was clipped to 63" in notes[0]
    resolved, notes = BuildConfig(max_input_len=40, max_output_len=10).resolved(model)
    assert (resolved.max_seq_len, resolved.max_input_len, notes) == (50, 40, [])
    resolved, notes = BuildConfig(max_seq_len=100).resolved(model)
    assert resolved.max_seq_len == 64
    assert "max_seq_len 100 was clipped to 64" in notes[0]
    rotary = model.replace(position_embedding_type="rope_gpt_neox")
    assert BuildConfig(max_seq_len=100).resolved_max_seq_len(rotary) == 100


def test_greedy_is_known() -> None:
    assert SamplingConfig().is_greedy
    assert SamplingConfig(top_k=0, temperature=0.0).is_greedy
    assert not SamplingConfig(top_k=5).is_greedy
    assert not SamplingConfig(num_beams=2).is_greedy
