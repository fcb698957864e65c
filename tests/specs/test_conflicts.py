"""Rules between fields: each is found, explained, and mended by its own fix."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.specs.strategies import spec_strategy

from trtbench_lab.errors import SpecError
from trtbench_lab.specs import (
    BuildConfig,
    Gpu,
    Mapping,
    ModelConfig,
    PluginConfig,
    QuantConfig,
    SamplingConfig,
    Spec,
    apply_fix,
    find_conflicts,
    find_notes,
    find_warnings,
    settle,
)
from trtbench_lab.specs.requests import BuildSpec, ConvertSpec, HistorySpec, QuantizeSpec, RunSpec, SummarizeSpec

OLD_GPU = Gpu((7, 5), name="T4", count=1)
OFF = {"gpt_attention_plugin": "disable", "context_fmha": False, "remove_input_padding": False, "paged_kv_cache": False}


def model(**changes: object) -> ModelConfig:
    """A model whose shapes divide by most numbers: 12 heads of 64, 6 layers."""
    fields: dict[str, object] = {
        "architecture": "GPTForCausalLM",
        "vocab_size": 1000,
        "max_position_embeddings": 1024,
        "hidden_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
    }
    return ModelConfig(**{**fields, **changes})


def llama(**changes: object) -> ModelConfig:
    return model(position_embedding_type="rope_gpt_neox", norm_type="rmsnorm", gated_mlp=True, **changes)


# Each row: the specs, a GPU or None, words of the reason, and the fix that is expected.
BROKEN: dict[str, tuple[list[Spec], Gpu | None, str, dict[str, object] | None]] = {
    "world is not tp·pp": (
        [Mapping(world_size=3, tp_size=2, pp_size=2)],
        None,
        "tp_size 2 × pp_size 2 makes 4 ranks, world_size says 3",
        {"Mapping.world_size": 4},
    ),
    "rank outside the world": ([Mapping(tp_size=2, rank=2)], None, "Rank 2 is outside", {"Mapping.rank": 1}),
    "heads do not fill the width": (
        [model(num_attention_heads=10)],
        None,
        "768 cannot be divided by 10 heads",
        {"ModelConfig.num_attention_heads": 8},
    ),
    "query heads do not share evenly": (
        [model(num_key_value_heads=5)],
        None,
        "12 query heads cannot share 5 key/value heads",
        {"ModelConfig.num_key_value_heads": 4},
    ),
    "heads do not divide by tp": (
        [model(intermediate_size=3200, mapping=Mapping(tp_size=5))],
        None,
        "12 heads cannot be divided over tp_size 5",
        {"Mapping.tp_size": 4, "Mapping.world_size": 4},
    ),
    "kv heads against tp": (
        [model(num_key_value_heads=3, mapping=Mapping(tp_size=2))],
        None,
        "3 key/value heads can be neither divided over tp_size 2 nor repeated",
        {"Mapping.tp_size": 1, "Mapping.world_size": 1},
    ),
    "mlp against tp": (
        [model(intermediate_size=1001, mapping=Mapping(tp_size=2))],
        None,
        "intermediate_size 1001 cannot be divided over tp_size 2",
        {"Mapping.tp_size": 1, "Mapping.world_size": 1},
    ),
    "embedding's width against tp": (
        [
            model(
                hidden_size=770,
                head_size=64,
                intermediate_size=3072,
                use_parallel_embedding=True,
                embedding_sharding_dim=1,
                mapping=Mapping(tp_size=4),
            )
        ],
        None,
        "hidden_size 770 of the embedding table cannot be divided over tp_size 4",
        {"ModelConfig.embedding_sharding_dim": 0},
    ),
    "layers do not divide by pp": (
        [model(mapping=Mapping(pp_size=4))],
        None,
        "6 layers cannot be divided into 4 equal pipeline stages",
        {"Mapping.pp_size": 3, "Mapping.world_size": 3},
    ),
    "sharing what the source does not tie": (
        [model(share_embedding_table=True)],
        None,
        "keeps two different matrices",
        {"ModelConfig.share_embedding_table": False},
    ),
    "sharing over ranks without parallel embedding": (
        [model(share_embedding_table=True, tie_word_embeddings=True, mapping=Mapping(tp_size=2))],
        None,
        "On 2 ranks the embedding table can be shared",
        {"ModelConfig.use_parallel_embedding": True, "ModelConfig.embedding_sharding_dim": 0},
    ),
    "sharing over ranks along the hidden dimension": (
        [
            model(
                share_embedding_table=True,
                tie_word_embeddings=True,
                use_parallel_embedding=True,
                embedding_sharding_dim=1,
                mapping=Mapping(tp_size=2),
            )
        ],
        None,
        "divided along the vocabulary",
        {"ModelConfig.use_parallel_embedding": True, "ModelConfig.embedding_sharding_dim": 0},
    ),
    "flash attention without the plugin": (
        [PluginConfig(**{**OFF, "context_fmha": True})],
        None,
        "context_fmha) is part of the attention plugin",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "packed input without the plugin": (
        [PluginConfig(**{**OFF, "remove_input_padding": True})],
        None,
        "remove_input_padding) is part of the attention plugin",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "paged cache without the plugin": (
        [PluginConfig(**{**OFF, "paged_kv_cache": True})],
        None,
        "paged_kv_cache) is part of the attention plugin",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "multi block without the plugin": (
        [PluginConfig(**OFF, multi_block_mode="enable")],
        None,
        "multi_block_mode) is part of the attention plugin",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "fp32 accumulation without the plugin": (
        [PluginConfig(**{**OFF, "context_fmha": True}, context_fmha_fp32_acc=True)],
        None,
        "context_fmha_fp32_acc) is part of the attention plugin",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "fp32 accumulation without flash attention": (
        [PluginConfig(context_fmha=False, context_fmha_fp32_acc=True)],
        None,
        "is a property of flash attention",
        {"PluginConfig.context_fmha": True},
    ),
    "in-flight batching with padding": (
        [PluginConfig(use_inflight_batching=True, remove_input_padding=False)],
        None,
        "In-flight batching needs remove_input_padding",
        {"PluginConfig.remove_input_padding": True},
    ),
    "in-flight batching with a contiguous cache": (
        [PluginConfig(use_inflight_batching=True, paged_kv_cache=False)],
        None,
        "In-flight batching needs paged_kv_cache",
        {"PluginConfig.paged_kv_cache": True},
    ),
    "max_num_tokens without flash attention": (
        [BuildConfig(max_num_tokens=4096, plugin_config=PluginConfig(context_fmha=False))],
        None,
        "max_num_tokens 4096 bounds the tokens of packed prompts",
        {"PluginConfig.context_fmha": True},
    ),
    "SmoothQuant's kernels with weight-only's": (
        [PluginConfig(smooth_quant_gemm_plugin="float16", weight_only_quant_matmul_plugin="float16")],
        None,
        "Kernels of SmoothQuant (smooth_quant_gemm_plugin) and of weight-only quantization (weight_only_quant",
        {
            "PluginConfig.smooth_quant_gemm_plugin": "auto",
            "PluginConfig.weight_only_quant_matmul_plugin": "auto",
        },
    ),
    "a kernel for other weights": (
        [
            model(quantization=QuantConfig(quant_algo="W8A16")),
            BuildConfig(plugin_config=PluginConfig(weight_only_groupwise_quant_matmul_plugin="float16")),
        ],
        None,
        "weights are quantized as W8A16 per channel",
        {"PluginConfig.weight_only_groupwise_quant_matmul_plugin": "auto"},
    ),
    "a quantized cache without the plugin": (
        [QuantConfig(kv_cache_quant_algo="INT8"), PluginConfig(**OFF)],
        None,
        "K/V cache in INT8 is read by the attention plugin only",
        {"PluginConfig.gpt_attention_plugin": "auto"},
    ),
    "ranks without collectives": (
        [Mapping(tp_size=2), PluginConfig(nccl_plugin="disable")],
        None,
        "2 ranks exchange their results through nccl_plugin",
        {"PluginConfig.nccl_plugin": "auto"},
    ),
    "dynamic rotary scaling on packed input": (
        [llama(rotary_scaling={"type": "dynamic", "factor": 2.0}), PluginConfig()],
        None,
        "Dynamic rotary scaling looks at the length of the padded input",
        {"PluginConfig.remove_input_padding": False},
    ),
    "rotary factor of 1": (
        [llama(rotary_scaling={"type": "linear", "factor": 1.0})],
        None,
        "must be a number above 1, and it is 1.0",
        {"ModelConfig.rotary_scaling": None},
    ),
    "rotary scaling without rotary positions": (
        [model(rotary_scaling={"rope_type": "linear", "factor": 2.0})],
        None,
        "positions, and this model's are learned_absolute",
        {"ModelConfig.rotary_scaling": None},
    ),
    "rotary scaling of a later version": (
        [llama(rotary_scaling={"rope_type": "yarn", "factor": 2.0})],
        None,
        "type 'yarn' is not available in this version",
        {"ModelConfig.rotary_scaling": None},
    ),
    "half a llama3 scaling": (
        [llama(rotary_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})],
        None,
        "lacks high_freq_factor, original_max_position_embeddings",
        None,
    ),
    "zero points outside GPTQ": (
        [QuantConfig(quant_algo="W8A16", has_zero_point=True)],
        None,
        "has_zero_point belongs to W4A16_GPTQ (or W8A16 in groups), and quant_algo is W8A16",
        {"QuantConfig.has_zero_point": False},
    ),
    "sorted columns outside GPTQ": (
        [QuantConfig(quant_algo="W4A16_AWQ", input_order=True)],
        None,
        "input_order belongs to W4A16_GPTQ (or W8A16 in groups), and quant_algo is W4A16_AWQ",
        {"QuantConfig.input_order": False},
    ),
    "pre-quant scale outside AWQ": (
        [QuantConfig(quant_algo="W4A16_GPTQ", pre_quant_scale=True)],
        None,
        "pre_quant_scale belongs to AWQ",
        {"QuantConfig.pre_quant_scale": False},
    ),
    "groups in SmoothQuant": (
        [QuantConfig(quant_algo="W8A8_SQ_PER_TENSOR_PLUGIN", group_size=64)],
        None,
        "group_size 64 belongs to weight-only",
        {"QuantConfig.group_size": None},
    ),
    "groups that do not divide": (
        [model(intermediate_size=3136, quantization=QuantConfig(quant_algo="W4A16", group_size=128))],
        None,
        "mlp.proj has 3136",  # 3136 = 49 · 64
        {"QuantConfig.group_size": 64},
    ),
    "groups that tp cuts": (
        [model(mapping=Mapping(tp_size=4), quantization=QuantConfig(quant_algo="W8A16", group_size=128))],
        None,
        "attention.dense has 192",  # 768 / 4
        {"QuantConfig.group_size": 64},
    ),
    "int4 over an odd width": (
        [model(hidden_size=33, num_attention_heads=3, intermediate_size=66, quantization={"quant_algo": "W4A16"})],
        None,
        "their number is odd",
        {"QuantConfig.quant_algo": "W8A16"},
    ),
    "FP8 on a GPU without it": (
        [QuantConfig(quant_algo="FP8")],
        OLD_GPU,
        "T4 has 7.5",
        {"QuantConfig.quant_algo": "W8A16", "QuantConfig.group_size": None},
    ),
    "FP8 cache on a GPU without it": (
        [QuantConfig(kv_cache_quant_algo="FP8")],
        OLD_GPU,
        "FP8 K/V cache",
        {"QuantConfig.kv_cache_quant_algo": "INT8"},
    ),
    "bfloat16 on a GPU without it": (
        [model(dtype="bfloat16")],
        OLD_GPU,
        "bfloat16 needs compute capability 8.0",
        {"ModelConfig.dtype": "float16"},
    ),
    "prompt as long as the sequence": (
        [BuildConfig(max_input_len=100, max_seq_len=100)],
        None,
        "leaves no token for the output",
        {"BuildConfig.max_seq_len": 101},
    ),
    "output as long as the sequence": (
        [BuildConfig(max_output_len=100, max_seq_len=100)],
        None,
        "leaves no token for the prompt",
        {"BuildConfig.max_seq_len": 101},
    ),
    "beyond learned positions": (
        [model(), BuildConfig(max_seq_len=2048)],
        None,
        "beyond the 1024 positions that the model has learned",
        {"BuildConfig.max_seq_len": 1024},
    ),
    "stripped without refit": (
        [BuildConfig(strip_plan=True)],
        None,
        "must be refitted before it runs",
        {"BuildConfig.refit": True},
    ),
    "weight streaming in a weakly typed network": (
        [BuildConfig(weight_streaming=True, strongly_typed=False)],
        None,
        "strongly typed networks only",
        {"BuildConfig.strongly_typed": True},
    ),
    "TensorRT's options elsewhere": (
        [BuildConfig(refit=True, backend="onnxruntime")],
        None,
        "refit is a property of TensorRT engines",
        {"BuildConfig.refit": False},
    ),
    "several ranks on onnxruntime": (
        [Mapping(tp_size=2), BuildConfig(backend="onnxruntime")],
        None,
        "runs one rank, and the checkpoint has 2",
        {"BuildConfig.backend": "torch"},
    ),
    "more beams than the engine": (
        [SamplingConfig(num_beams=4), BuildConfig(max_beam_width=2)],
        None,
        "num_beams 4 is more than the engine's max_beam_width 2",
        {"SamplingConfig.num_beams": 2},
    ),
    "beams that sample": (
        [SamplingConfig(num_beams=4, top_k=5)],
        None,
        "does not draw at random, and top_k 5",
        {"SamplingConfig.num_beams": 1},
    ),
    "shortest above longest": (
        [SamplingConfig(min_length=20, max_new_tokens=10)],
        None,
        "min_length 20 is more than max_new_tokens 10",
        {"SamplingConfig.min_length": 10},
    ),
    "a penalty of 0": (
        [SamplingConfig(repetition_penalty=0.0)],
        None,
        "must be above 0",
        {"SamplingConfig.repetition_penalty": 1.0},
    ),
    "SmoothQuant with weight-only": (
        [ConvertSpec(source="m", smoothquant=0.5, use_weight_only=True)],
        None,
        "SmoothQuant (smoothquant) and weight-only quantization (use_weight_only) exclude each other",
        {"ConvertSpec.smoothquant": None},
    ),
    "SmoothQuant's scales without it": (
        [ConvertSpec(source="m", per_token=True)],
        None,
        "per_token chooses the scales of SmoothQuant",
        {"ConvertSpec.per_token": False},
    ),
    "NeMo of a later version": ([ConvertSpec(source="a/b.nemo")], None, "NeMo files are not available", None),
    "sharing over ranks, when converting": (
        [ConvertSpec(source="m", share_embedding_table=True, mapping=Mapping(tp_size=2))],
        None,
        "On 2 ranks",
        {"ConvertSpec.use_parallel_embedding": True, "ConvertSpec.embedding_sharding_dim": 0},
    ),
    "a rotary factor below 1, when converting": (
        [ConvertSpec(source="m", rotary_scaling="linear 0.5")],
        None,
        "must be above 1, and it is 0.5",
        {"ConvertSpec.rotary_scaling": None},
    ),
    "an unknown rotary scaling, when converting": (
        [ConvertSpec(source="m", rotary_scaling="cubic 2")],
        None,
        "cannot be of type 'cubic'",
        {"ConvertSpec.rotary_scaling": None},
    ),
    "groups of nothing": (
        [QuantizeSpec(source="m", qformat="full_prec", group_size=64)],
        None,
        "group_size belongs to qformat int4_wo, int8_wo, int4_awq, int4_gptq and w4a8_awq, and qformat is full_prec",
        {"QuantizeSpec.group_size": None},
    ),
    "SmoothQuant's scales for another format": (
        [QuantizeSpec(source="m", qformat="int4_awq", per_token=True)],
        None,
        "per_token belongs to qformat int8_sq",
        {"QuantizeSpec.per_token": False},
    ),
    "GPTQ's order for another format": (
        [QuantizeSpec(source="m", qformat="fp8", act_order=True)],
        None,
        "act_order belongs to qformat int4_gptq",
        {"QuantizeSpec.act_order": False},
    ),
    "another world than the checkpoint's": (
        [BuildSpec(checkpoint_dir="c", world_size=4), Mapping(tp_size=2)],
        None,
        "world_size 4 was asked for, and the checkpoint was made for 2",
        {"BuildSpec.world_size": 2},
    ),
    "streaming beams": (
        [RunSpec(engine_dir="e", streaming=True, sampling=SamplingConfig(num_beams=2))],
        None,
        "cannot be streamed",
        {"RunSpec.streaming": False},
    ),
    "scoring nobody": (
        [SummarizeSpec(engine_dir="e", test_trt_llm=False)],
        None,
        "Neither the engine",
        {"SummarizeSpec.test_trt_llm": True},
    ),
    "scoring no engine": ([SummarizeSpec(test_trt_llm=True)], None, "engine_dir is missing", None),
    "scoring no Hugging Face": (
        [SummarizeSpec(test_hf=True, test_trt_llm=False)],
        None,
        "neither hf_model_dir nor an engine",
        None,
    ),
    "checking an engine that is not scored": (
        [SummarizeSpec(test_hf=True, hf_model_dir="m", test_trt_llm=False, check_accuracy=True)],
        None,
        "the engine is not scored",
        {"SummarizeSpec.check_accuracy": False},
    ),
    "comparing one": (
        [HistorySpec(compare=True, ids=("ab",))],
        None,
        "two results or more",
        {"HistorySpec.compare": False},
    ),
}


@pytest.mark.parametrize("row", BROKEN.values(), ids=BROKEN.keys())
def test_conflict_is_found_explained_and_mended(
    row: tuple[list[Spec], Gpu | None, str, dict[str, object] | None],
) -> None:
    specs, gpu, words, fix = row
    matching = [conflict for conflict in find_conflicts(*specs, gpu=gpu) if words in conflict.reason]
    assert len(matching) == 1
    conflict = matching[0]
    assert conflict.fix == fix
    assert conflict.remedy
    known = {info.path for spec in _all_specs(specs) for info in spec.options()}
    assert set(conflict.fields) <= known
    for choice in filter(None, (conflict.fix, *conflict.alternatives)):
        mended = [apply_fix(spec, choice) for spec in specs]
        assert words not in " ".join(found.reason for found in find_conflicts(*mended, gpu=gpu)), choice


def _all_specs(specs: list[Spec]) -> list[Spec]:
    nested = [value for spec in specs for info in spec.options() if isinstance(value := getattr(spec, info.name), Spec)]
    return specs + (_all_specs(nested) if nested else [])


@pytest.mark.parametrize("spec", [model(), llama(), BuildConfig(), PluginConfig(), SamplingConfig(), QuantConfig()])
def test_defaults_stand_together(spec: Spec) -> None:
    assert spec.conflicts() == []
    assert spec.warnings() == []
    spec.check()


def test_all_conflicts_are_found_at_once() -> None:
    found = find_conflicts(
        model(num_key_value_heads=3, mapping=Mapping(world_size=3, tp_size=2, pp_size=4)),
        BuildConfig(max_num_tokens=100, plugin_config=PluginConfig(context_fmha=False, context_fmha_fp32_acc=True)),
        QuantConfig(quant_algo="FP8"),
        gpu=OLD_GPU,
    )
    reasons = " ".join(conflict.reason for conflict in found)
    for words in ("world_size says 3", "key/value heads", "4 equal pipeline", "max_num_tokens", "float32 acc", "FP8"):
        assert words in reasons


def test_check_lists_all_in_one_error() -> None:
    spec = BuildConfig(strip_plan=True, weight_streaming=True, strongly_typed=False)
    with pytest.raises(SpecError) as caught:
        spec.check()
    assert "2 settings cannot stand" in caught.value.what
    assert "refitted" in caught.value.what
    assert "strongly typed" in caught.value.what


def test_explicit_specs_come_before_nested_ones() -> None:
    nested = model(mapping=Mapping(pp_size=4))
    assert find_conflicts(nested)
    assert find_conflicts(nested, Mapping()) == []


def test_padding_with_the_plugin_is_a_warning() -> None:
    plugins = PluginConfig(remove_input_padding=False)
    assert plugins.conflicts() == []
    assert "recommended whenever the attention plugin is on" in plugins.warnings()[0].remedy


@pytest.mark.parametrize(
    ("specs", "gpu", "words"),
    [
        ([PluginConfig(use_custom_all_reduce=True), Mapping()], None, "nothing to do with tp_size 1"),
        ([PluginConfig(rmsnorm_plugin="auto"), model()], None, "normalises by layernorm"),
        ([PluginConfig(layernorm_plugin="auto"), llama()], None, "normalises by rmsnorm"),
        ([PluginConfig(lookup_plugin="auto"), model()], None, "divided along the vocabulary"),
        ([PluginConfig(swiglu_plugin="auto"), model()], None, "has no gate"),
        ([llama(), BuildConfig(max_seq_len=4096)], None, "beyond the 1024 tokens that the model was made for"),
        ([Mapping(tp_size=2), BuildConfig(parallel_build=True)], OLD_GPU, "this machine has 1"),
        ([ConvertSpec(source="m", group_size=64)], None, "use_weight_only is off"),
    ],
)
def test_unwise_choices_are_warnings(specs: list[Spec], gpu: Gpu | None, words: str) -> None:
    assert find_conflicts(*specs, gpu=gpu) == []
    assert [warning for warning in find_warnings(*specs, gpu=gpu) if words in warning.reason]


def test_gpu_with_everything_has_no_conflicts() -> None:
    hopper = Gpu((9, 0), name="H200", count=8)
    assert find_conflicts(model(dtype="bfloat16", quantization=QuantConfig(quant_algo="FP8")), gpu=hopper) == []


def test_inflight_batching_says_what_it_turns_on() -> None:
    (note,) = find_notes(PluginConfig(use_inflight_batching=True))
    assert "turns on gpt_attention_plugin, remove_input_padding and paged_kv_cache" in note.reason


def test_what_nobody_chose_gives_way() -> None:
    settled = settle(BuildConfig(plugin_config=PluginConfig(gpt_attention_plugin="disable")))
    (config,) = settled.specs
    assert config.plugin_config == PluginConfig(**OFF)
    assert config.conflicts() == []
    assert len(settled.notes) == 3
    assert "So context_fmha is now disabled." in settled.notes[0]


def test_what_somebody_chose_stays() -> None:
    plugins = PluginConfig(gpt_attention_plugin="disable", context_fmha=True)
    (kept,) = settle(plugins).specs
    assert kept.context_fmha
    assert not kept.paged_kv_cache
    assert [conflict.fields[0] for conflict in kept.conflicts()] == ["PluginConfig.context_fmha"]


def test_settling_works_across_specs() -> None:
    dynamic = llama(rotary_scaling={"type": "dynamic", "factor": 2.0})
    build, notes = BuildConfig().resolved(dynamic)
    assert not build.plugin_config.remove_input_padding
    assert any("remove_input_padding is now disable" in note for note in notes)


@settings(max_examples=60, deadline=None)
@given(
    plugins=spec_strategy(PluginConfig),
    build=spec_strategy(BuildConfig),
    mapping=spec_strategy(Mapping),
    quant=spec_strategy(QuantConfig),
)
def test_any_mixture_is_judged_and_settles(plugins: Spec, build: Spec, mapping: Spec, quant: Spec) -> None:
    specs = (model(), plugins, build, mapping, quant)
    before = {item.reason for item in find_conflicts(*specs, gpu=OLD_GPU)}
    settled = settle(*specs, gpu=OLD_GPU)
    after = find_conflicts(*settled.specs, gpu=OLD_GPU)
    assert before or not settled.notes
    for conflict in after:  # what is left needs a person: every way out touches something that was chosen
        assert str(conflict)
    find_warnings(*specs, gpu=OLD_GPU)
    find_notes(*specs)


@settings(max_examples=100, deadline=None)
@given(
    heads=st.integers(1, 64),
    kv_heads=st.integers(1, 64),
    layers=st.integers(1, 64),
    tp_size=st.integers(1, 32),
    pp_size=st.integers(1, 32),
    width=st.integers(1, 300),
)
def test_fixes_of_layouts_lead_to_a_valid_layout(
    heads: int, kv_heads: int, layers: int, tp_size: int, pp_size: int, width: int
) -> None:
    spec = model(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_size=8,
        num_hidden_layers=layers,
        intermediate_size=width,
        mapping=Mapping(tp_size=tp_size, pp_size=pp_size),
    )
    for _ in range(8):
        conflicts = spec.conflicts()
        if not conflicts:
            break
        fix = conflicts[0].fix
        assert fix is not None
        spec = apply_fix(spec, fix)
    assert spec.conflicts() == []
    mapping = spec.mapping
    assert spec.num_attention_heads % mapping.tp_size == 0
    assert spec.num_hidden_layers % mapping.pp_size == 0
    assert spec.kv_heads % mapping.tp_size == 0 or mapping.tp_size % spec.kv_heads == 0


def test_damaged_numbers_do_not_take_for_ever() -> None:
    huge = model(num_attention_heads=10**9 + 7, hidden_size=10**12 + 39, num_key_value_heads=10**9, num_hidden_layers=7)
    assert huge.conflicts()
