"""Words to requests: spellings, values, errors, and back."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.specs.strategies import spec_strategy

from trtbench_lab.errors import SpecError
from trtbench_lab.specs import BuildConfig, PluginConfig, Spec, find_conflicts, settle
from trtbench_lab.specs.command_line import VERBS, command_line, parse
from trtbench_lab.specs.flags import FlatOption, flag_table
from trtbench_lab.specs.legacy import LEGACY
from trtbench_lab.specs.requests import REQUESTS

# What a verb cannot do without, for tests of other flags.
NEEDED = {
    "doctor": [],
    "download": ["--model", "m"],
    "convert": ["--model_dir", "m"],
    "quantize": ["--model_dir", "m"],
    "build": ["--checkpoint_dir", "c"],
    "run": ["--engine_dir", "e"],
    "compare": ["--engine_dir", "e"],
    "summarize": ["--engine_dir", "e"],
    "bench": ["--engine_dir", "e"],
    "explore": ["--engine_dir", "e"],
    "lint": ["--model", "m.onnx"],
    "plan": ["--model_dir", "m"],
    "report": [],
    "history": [],
    "mpi": [],
}


# Options that want company, in one verb or in all.
PARTNERS_IN = {
    ("quantize", "smoothquant"): ["--qformat", "int8_sq"],
    ("quantize", "per_token"): ["--qformat", "int8_sq"],
    ("quantize", "per_channel"): ["--qformat", "int8_sq"],
    ("quantize", "zero_point"): ["--qformat", "int4_gptq"],
    ("quantize", "act_order"): ["--qformat", "int4_gptq"],
}
PARTNERS = {
    "share_embedding_table": ["--tp", "1"],
    "compare": ["ab", "cd"],
    "min_length": ["--max_new_tokens", "9"],
    "per_token": ["--smoothquant", "0.5"],
    "per_channel": ["--smoothquant", "0.5"],
}


def plugins_of(line: str) -> PluginConfig:
    return parse("build", ["c", *shlex.split(line)]).spec.build_config.plugin_config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--use_gpt_attention_plugin", "--gpt_attention_plugin auto"),
        ("--use_gpt_attention_plugin float16", "--gpt_attention_plugin float16"),
        ("--use_gemm_plugin bfloat16", "--gemm_plugin bfloat16"),
        ("--use_gemm_plugin", "--gemm_plugin auto"),
        ("--use_gemm_plugin", "--gemm_plugin enable"),
        ("--use_rmsnorm_plugin fp32", "--rmsnorm_plugin float32"),
        ("--use_layernorm_plugin", "--layernorm_plugin"),
        ("--use_lookup_plugin float16", "--lookup_plugin float16"),
        ("--enable_context_fmha", "--context_fmha enable"),
        ("--disable_context_fmha", "--context_fmha disable"),
        ("--enable_context_fmha_fp32_acc", "--context_fmha_fp32_acc enable"),
        ("--enable_multi_block_mode", "--multi_block_mode enable"),
        ("--multi_block_mode", "--multi_block_mode enable"),
        ("--remove_input_padding", "--remove_input_padding enable"),
        ("--no_remove_input_padding", "--remove_input_padding disable"),
        ("--paged_kv_cache", "--paged_kv_cache=true"),
        ("--kv_cache_type continuous", "--paged_kv_cache disable"),
        ("--tokens-per-block 32", "--tokens_per_block=32"),
        ("--use_custom_all_reduce", "--use_custom_all_reduce enable"),
        ("--use-inflight-batching", "--use_inflight_batching on"),
    ],
)
def test_both_generations_of_spellings_mean_the_same(old: str, new: str) -> None:
    assert plugins_of(old) == plugins_of(new)


def test_optional_values_do_not_swallow_words() -> None:
    spec, _ = parse("build", shlex.split("--use_gemm_plugin ckpt --context_fmha engine"))
    assert (spec.checkpoint_dir, spec.output_dir) == ("ckpt", "engine")


def test_a_mistyped_optional_value_is_not_taken_for_a_folder() -> None:
    with pytest.raises(SpecError, match=r"--gemm_plugin cannot be 'float61'.*choose from auto"):
        parse("build", ["c", "--gemm_plugin", "float61"])


def test_values_in_every_form() -> None:
    for line in (
        "--max_batch_size 4",
        "--max-batch-size 4",
        "--max_batch_size=4",
        "max_batch_size=4",
        "max-batch-size=4",
    ):
        assert parse("build", ["c", *shlex.split(line)]).spec.build_config.max_batch_size == 4
    spec, _ = parse("run", ["--engine_dir=e", "--input_text=-x", "--temperature", "0.5", "--top_p", ".5"])
    assert spec.input_text == ("-x",)
    assert (spec.sampling.temperature, spec.sampling.top_p) == (0.5, 0.5)


def test_negative_numbers_are_values() -> None:
    assert parse("run", ["e", "--length_penalty", "-1.5"]).spec.sampling.length_penalty == -1.5


def test_two_dashes_end_the_flags() -> None:
    assert parse("run", ["e", "--", "--not-a-flag", "b"]).spec.input_text == ("--not-a-flag", "b")


def test_prompts_may_look_like_assignments() -> None:
    assert parse("run", ["e", "x=1 means"]).spec.input_text == ("x=1 means",)


def test_lists_may_come_in_pieces() -> None:
    spec, _ = parse("run", ["e", "--stop_words", "a", "b", "--stop_words", "c"])
    assert spec.stop_words == ("a", "b", "c")


def test_an_empty_list_can_be_said() -> None:
    assert parse("convert", ["m", "--use_weight_only", "--exclude_modules", ""]).spec.exclude_modules == ()


def test_none_can_be_said() -> None:
    assert parse("build", ["c", "--max_seq_len", "none"]).spec.build_config.max_seq_len is None


def test_objects_take_the_place_of_words() -> None:
    class Engine:
        directory = "/engines/a"

    assert parse("run", [Engine(), "text"]).spec.engine_dir == "/engines/a"
    assert parse("run", ["--engine_dir", Engine(), "--input_text", ["a", "b"]]).spec.input_text == ("a", "b")
    config = BuildConfig(max_batch_size=2, opt_level=1)
    spec, _ = parse("build", ["c", "--build_config", config, "--opt_level", "5"])
    assert (spec.build_config.max_batch_size, spec.build_config.opt_level) == (2, 5)
    assert parse(
        "build", ["c", "--plugin_config", PluginConfig(gemm_plugin="auto")]
    ).spec.build_config.plugin_config == (PluginConfig(gemm_plugin="auto"))


def test_objects_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match="must be text"):
        parse("run", ["--engine_dir", 7])
    with pytest.raises(SpecError, match="must be BuildConfig"):
        parse("build", ["c", "--build_config", 7])
    with pytest.raises(SpecError, match="does not expect"):
        parse("doctor", ["torch", object()])


def test_a_nested_spec_has_no_flag_of_its_own() -> None:
    with pytest.raises(SpecError, match="no flag --plugin_config"):
        parse("build", ["c", "--plugin_config", "x"])


def test_defaults_fill_what_the_line_leaves_open() -> None:
    defaults = {"backend": "torch", "max_batch_size": 2, "top_k": 9}
    spec, _ = parse("build", ["c", "--max_batch_size", "4"], defaults)
    assert (spec.build_config.backend, spec.build_config.max_batch_size) == ("torch", 4)


def test_the_last_of_two_values_counts_and_is_told() -> None:
    spec, notes = parse("build", ["c", "--opt_level", "1", "--opt_level", "2"])
    assert spec.build_config.opt_level == 2
    assert any("more than once" in note for note in notes)


def test_contradictions_are_raised_together() -> None:
    line = "c --context_fmha enable --gpt_attention_plugin disable --strip_plan --refit disable"
    with pytest.raises(SpecError) as caught:
        parse("build", shlex.split(line))
    assert "2 settings cannot stand" in str(caught.value)


def test_what_follows_is_told() -> None:
    spec, notes = parse("build", ["c", "--gpt_attention_plugin", "disable"])
    assert not spec.build_config.plugin_config.context_fmha
    assert any("So context_fmha is now disabled." in note for note in notes)


def test_warnings_are_told() -> None:
    _, notes = parse("build", ["c", "--remove_input_padding", "disable"])
    assert any("recommended whenever the attention plugin is on" in note for note in notes)


@pytest.mark.parametrize(
    ("verb", "line", "words"),
    [
        ("build", "c --gpt_atention_plugin auto", "Did you mean --gpt_attention_plugin?"),
        ("build", "c --max_bach_size 4", "Did you mean --max_batch_size?"),
        ("build", "c --qwertyuiop", "trtbench build --help lists the options"),
        ("build", "c max_bach_size=4", "Did you mean max_batch_size=4?"),
        ("build", "c --max_batch_size", "--max_batch_size needs a value"),
        ("build", "c --max_batch_size --refit", "--max_batch_size needs a value"),
        ("build", "c --max_batch_size many", "--max_batch_size must be a whole number, not 'many'"),
        ("build", "c --enable_context_fmha=3", "--enable_context_fmha takes no value"),
        ("build", "c e third", "does not expect 'third' here"),
        ("build", "c e refit", "Did you mean --refit?"),
        ("build", "--max_batch_size 4", "build needs --checkpoint_dir"),
        ("run", "e --input_text", "--input_text needs a value"),
        ("run", "e --tok_k 3", "Did you mean --top_k?"),
        ("convert", "m --dtype float61", "Did you mean 'float16'?"),
        ("convert", "m --rotary_scaling linear", "must be a type and a factor such as 'linear 2.0'"),
        ("quantize", "m --qformat int4", ""),
        ("bench", "e --batch_size 1;x", "--batch_size must be batch sizes such as '1;8;64'"),
        ("build", "c --kv_cache_type disabled", "Choose paged or continuous"),
        ("history", "--compare abc", "two results or more"),
    ],
)
def test_mistakes_are_told_plainly(verb: str, line: str, words: str) -> None:
    if not words:
        parse(verb, shlex.split(line))
        return
    with pytest.raises(SpecError) as caught:
        parse(verb, shlex.split(line))
    assert words in str(caught.value)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse("build", shlex.split("c --gemm_plugn auto --opt_level 9 --max_batch_size x --use_weight_only"))
    text = str(caught.value)
    for words in ("--gemm_plugin?", "at most 5", "'x'", "trtbench convert --use_weight_only"):
        assert words in text
    assert text.startswith("build: 4 things are wrong")


def test_unknown_verb() -> None:
    with pytest.raises(SpecError, match="Did you mean 'build'"):
        parse("biuld", [])


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_can_be_typed(verb: str) -> None:
    table = flag_table(REQUESTS[verb])
    for option in table.options:
        words = _example(option)
        line = [] if option.info.required else list(NEEDED[verb])
        line += PARTNERS_IN.get((verb, option.info.name)) or PARTNERS.get(option.info.name, [])
        spec = parse(verb, [*line, option.info.flag, *words]).spec
        for name in option.path:
            spec = getattr(spec, name)
        assert spec is not None, option.info.flag


def _example(option: FlatOption) -> list[str]:
    if option.meta.parse is not None:
        if option.info.name.endswith("_buckets"):
            return ["1,8"]
        examples = {
            "batch_size": ["1;8"],
            "input_output_len": ["60,20"],
            "rotary_scaling": ["linear", "2"],
            "request_rate": ["4.5"],
            "goodput": ["ttft:500", "tpot:50"],
            "max_drop": ["rouge1=1%", "rouge2=0.5"],
            "metrics": ["perplexity,kl", "rouge"],
            "budget": ["size=0.35"],
            "search_formats": ["int8_wo,int4_awq"],
            "early_stopping": ["never"],
            "kv_cache_memory": ["20GiB"],
            "gpu": ["H200"],
            "target": ["itl_ms=5"],
            "ranks": ["0,2-3"],
        }
        return examples.get(option.info.name, ["rouge1"])
    if option.words:
        return [option.words[0]]
    if option.info.name == "ceilings":
        return ["4330", "767"]
    if option.kind in (int, float) or option.kind == tuple[int, ...]:
        return [str(max(1, int(option.meta.minimum or 1)))]
    return ["word"]


@pytest.mark.parametrize("verb", VERBS)
def test_no_spelling_has_two_meanings(verb: str) -> None:
    table = flag_table(REQUESTS[verb])
    for option in table.options:
        for spelling in (option.info.flag, f"--{option.info.name}", *option.meta.flags):
            owner = table.flags[_underscored(spelling)].option
            assert owner is option, f"{spelling} is {owner.info.path} and {option.info.path}"


@pytest.mark.parametrize("verb", VERBS)
def test_no_borrowed_flag_is_hidden_by_one_of_ours(verb: str) -> None:
    table = flag_table(REQUESTS[verb])
    assert not set(LEGACY[verb]) & set(table.flags)
    assert all(_underscored(flag) == flag for flag in LEGACY[verb])


def _underscored(flag: str) -> str:
    dashes = "--" if flag.startswith("--") else "-"
    return dashes + flag.removeprefix(dashes).replace("-", "_")


@pytest.mark.parametrize(
    ("verb", "flag"), [(verb, flag) for verb, entries in LEGACY.items() for flag in entries], ids=str
)
def test_every_borrowed_flag_is_told(verb: str, flag: str) -> None:
    entry = LEGACY[verb][flag]
    words = {"+": ["7"], "?": [], "--kv_cache_type": ["paged"], "--weight_only_precision": ["int4"]}
    following = words.get(
        flag, words.get(str(entry.words), ["7"] * int(entry.words if isinstance(entry.words, int) else 0))
    )
    line = [*NEEDED[verb], flag, *following]
    if entry.refused:
        with pytest.raises(SpecError) as caught:
            parse(verb, line)
        assert entry.sentence in str(caught.value)
        for harmless in entry.harmless:
            _, notes = parse(verb, [*NEEDED[verb], flag, harmless])
            assert any(flag in note for note in notes)
    else:
        _, notes = parse(verb, line)
        assert any(note.startswith(flag) and entry.sentence in note for note in notes)
    assert entry.sentence.endswith(".")


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_requests_survive_being_written_out(verb: str, data: st.DataObject) -> None:
    drawn = data.draw(spec_strategy(REQUESTS[verb]))
    spec: Spec = _typable(drawn)
    spec = settle(spec).specs[0]
    if find_conflicts(spec):
        return
    assert parse(verb, command_line(verb, spec)).spec == spec


def test_a_name_may_be_what_ends_a_continued_line() -> None:
    spec = REQUESTS["plan"](model="0", name="\r\\")
    assert parse("plan", command_line("plan", spec)).spec == spec


def _typable(spec: Any) -> Any:
    """Return the spec with everything that has no flag at its default; words that no line can carry are plain."""
    changes: dict[str, Any] = {}
    for info in spec.options():
        value = getattr(spec, info.name)
        if isinstance(value, Spec):
            changes[info.name] = _typable(value)
        elif not info.meta.command_line or info.meta.secret:
            changes[info.name] = info.default
        elif isinstance(value, tuple) and value and all(isinstance(item, str) for item in value):
            changes[info.name] = tuple(item.replace("\0", "x") or "x" for item in value)
    return spec.replace(**changes)


_PIECES = st.one_of(
    st.sampled_from([flag for verb in VERBS for flag in (*flag_table(REQUESTS[verb]).flags, *LEGACY[verb])]),
    st.sampled_from(
        [
            "",
            "-",
            "--",
            "=",
            "--=",
            "a=b",
            "--a=",
            "enable",
            "float16",
            "1;8",
            "60,20",
            "none",
            "demo",
            "python3",
            "mpirun",
        ]
    ),
    st.text(max_size=8),
    st.integers(-5, 5).map(str),
    st.none() | st.integers() | st.lists(st.integers(), max_size=2) | st.just(BuildConfig()),
)


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=80, deadline=None)
@given(tokens=st.lists(_PIECES, max_size=6))
def test_no_line_fails_in_an_unplanned_way(verb: str, tokens: list[Any]) -> None:
    try:
        parsed = parse(verb, tokens)
    except SpecError as error:
        told = str(error)
    else:
        assert isinstance(parsed.spec, REQUESTS[verb])
        told = " ".join([verb, *parsed.notes])
    assert told.strip()


def test_the_value_of_an_unknown_flag_is_not_taken_for_a_word():
    with pytest.raises(SpecError) as caught:
        parse("mpi", ["--rank", "0"])
    assert "--action" not in str(caught.value)
    assert "Did you mean --ranks?" in str(caught.value)
