"""Every family and every quantized format in processes of its own, against Hugging Face and one rank's engine."""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import FAMILIES as EVERY_FAMILY
from tests.backends.models import checkpoint_of, random_model
from tests.backends.quantized_models import MIXED, RECIPES, quantized_checkpoint
from tests.ranks.direct_build import build_here
from tests.ranks.rank_families import PROMPTS, found_in, read_through_the_cache
from tests.ranks.worlds import on_ranks

from trtbench_lab.specs import BuildConfig, Mapping

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]

PADDED = BuildConfig(backend="torch", opt_level=0, max_batch_size=4, max_input_len=16, max_seq_len=32)
PAGED = PADDED.replace(
    plugin_config=PADDED.plugin_config.replace(use_inflight_batching=True, gpt_attention_plugin="auto")
)
FAMILIES = tuple(family for family in EVERY_FAMILY if family != "llama-linear")  # llama3 has scaled positions too
LAYOUTS = {
    "tp2": Mapping(tp_size=2),
    "pp2": Mapping(pp_size=2),
    "tp4": Mapping(tp_size=4),  # two K/V heads, or one: each on several ranks
    "tp2pp2": Mapping(tp_size=2, pp_size=2),
}
WORLDS = {2: ("tp2", "pp2"), 4: ("tp4", "tp2pp2")}
# The demo models of test_engines run over four ranks too, and are of the two that are left out here.
RUNS = [(2, family) for family in FAMILIES] + [(4, family) for family in FAMILIES if family not in ("llama", "gpt2")]
TIED = ("gpt2", "gpt_bigcode", "qwen2")
FORMATS = {
    **{name: recipe for name, recipe in RECIPES.items() if name != "gptq"},  # "gptq with zeros" has more to cut
    "mixed": MIXED,
    "int8 cache": {"kv_cache_quant_algo": "INT8"},
    "fp8 cache": {"kv_cache_quant_algo": "FP8"},
}
PER_TOKEN = ("smooth token", "smooth channel token")
FORMAT_LAYOUTS = {"tp2": LAYOUTS["tp2"], "pp2": LAYOUTS["pp2"]}


def embedding_of(family, layout):
    """Every layout has another form of the embedding: split by vocabulary and shared, whole, split by hidden size."""
    if layout == "tp2":
        return {"use_parallel_embedding": True, "share_embedding_table": family in TIED}
    return {"use_parallel_embedding": True, "embedding_sharding_dim": 1} if layout == "tp4" else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def models(folder):
    layers = {family: "n_layer" if family.startswith("gpt") else "num_hidden_layers" for family in FAMILIES}
    return {family: random_model(family, folder / "hf" / family, **{layers[family]: 2}) for family in FAMILIES}


@pytest.fixture(scope="module")
def quantizable(folder):
    """Two K/V heads, and every width a multiple of a rank's groups."""
    return random_model("llama", folder / "hf" / "quantizable", num_hidden_layers=2, intermediate_size=64)


def build_format(folder, model, name, layout):
    checkpoint = folder / f"checkpoint-{layout}-{name}"
    quantized_checkpoint(model, checkpoint, FORMATS[name], mapping=FORMAT_LAYOUTS.get(layout, Mapping()))
    build_here(checkpoint, PAGED if "cache" in name else PADDED, folder / f"{layout}-{name}")
    return folder / f"{layout}-{name}"


@pytest.fixture(scope="module")
def found(folder, models):
    """What the ranks give of every family: one world a number of ranks, which runs all its engines."""
    results = {}

    def by_name(ranks):
        if ranks not in results:
            names = []
            for layout in WORLDS[ranks]:
                for family in (family for count, family in RUNS if count == ranks):
                    checkpoint = folder / f"checkpoint-{layout}-{family}"
                    checkpoint_of(models[family], checkpoint, mapping=LAYOUTS[layout], **embedding_of(family, layout))
                    names.append(build_here(checkpoint, PADDED, folder / f"{layout}-{family}").name)
            results[ranks] = run_on(ranks, folder, names)
        return results[ranks]

    return by_name


@pytest.fixture(scope="module")
def found_formats(folder, quantizable):
    """What two ranks give of every format."""
    names = [build_format(folder, quantizable, name, layout).name for layout in FORMAT_LAYOUTS for name in FORMATS]
    return run_on(2, folder, names)


def run_on(ranks, folder, names):
    done = on_ranks(ranks, "tests.ranks.rank_families", str(folder), *names, timeout_s=420)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / f"found-{ranks}.pt")


@pytest.mark.parametrize(("ranks", "family"), RUNS, ids=[f"{'two' if n == 2 else 'four'}-{name}" for n, name in RUNS])
def test_ranks_give_hugging_faces_logits_and_one_ranks_tokens(folder, models, found, ranks, family):
    one_rank = folder / f"one-{family}"
    if not one_rank.exists():
        checkpoint_of(models[family], folder / f"checkpoint-{family}")
        build_here(folder / f"checkpoint-{family}", PADDED, one_rank)
    one = found_in(one_rank)
    theirs = [models[family].logits(torch.tensor([row]))[0] for row in PROMPTS]
    for layout in WORLDS[ranks]:
        ours = found(ranks)[f"{layout}-{family}"]
        for logits, expected in zip(ours["logits"], theirs, strict=True):
            # Sums over ranks are added in another order; 1e-4 of the range, as for one rank.
            assert relative_error(logits, expected) <= 1e-4, layout
        assert torch.equal(ours["greedy"], one["greedy"]), layout


@pytest.mark.parametrize("name", FORMATS)
def test_ranks_of_a_quantized_model_give_what_one_rank_gives(folder, quantizable, found_formats, name):
    reads = read_through_the_cache if "cache" in name else found_in
    one = reads(build_format(folder, quantizable, name, "one"))
    for layout in FORMAT_LAYOUTS:
        ours = found_formats[f"{layout}-{name}"]
        if name in PER_TOKEN and LAYOUTS[layout].tp_size > 1:
            # Each rank finds the scale of a token over its part of the input: other roundings, and no coarser ones.
            theirs = [quantizable.logits(torch.tensor([row]))[0] for row in PROMPTS]
            assert mean_error(ours["logits"], theirs) <= 1.25 * mean_error(one["logits"], theirs)
            continue
        for logits, expected in zip(ours["logits"], one["logits"], strict=True):
            # Another order of sums; a last bit that rounds an input to the neighbouring step moves logits by 1e-3.
            assert relative_error(logits, expected) <= 5e-3, layout
            assert (logits - expected).abs().median() <= 1e-4 * (expected.max() - expected.min()), layout
        assert torch.equal(ours["greedy"], one["greedy"]), layout


def mean_error(got, expected):
    """The mean difference of all rows, in units of the logits."""
    return float((torch.cat(got) - torch.cat(expected)).abs().mean())


def relative_error(got, expected):
    """The largest difference as a share of the logits' range."""
    return float((got - expected).abs().max() / (expected.max() - expected.min()))
