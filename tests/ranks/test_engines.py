"""The demo models on several ranks, a process each, against one: logits, tokens, beams, streams, refusals, the shell.

On a host with two GPUs, `-k two` is what they must prove; the ranks take a GPU each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.quantized_models import TOKENS
from tests.ranks.direct_build import build_here
from tests.ranks.rank_logits import IN_EVERY_WAY
from tests.ranks.worlds import on_ranks

from trtbench_lab.calibration import quantize_model
from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import EngineMismatchError
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, Mapping, QuantConfig

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]  # on GPUs kernels may be compiled

# Level 0: on GPUs nothing is timed, and only what runs is compiled.
PADDED = BuildConfig(backend="torch", opt_level=0, max_batch_size=4, max_input_len=32, max_seq_len=48, max_beam_width=2)
PAGED = PADDED.replace(
    plugin_config=PADDED.plugin_config.replace(
        use_inflight_batching=True, gpt_attention_plugin="auto", use_custom_all_reduce=True
    )
)
LAYOUTS = {
    "one": Mapping(),
    "tp2": Mapping(tp_size=2),
    "pp2": Mapping(pp_size=2),
    "tp4": Mapping(tp_size=4),  # LLaMA's two K/V heads are on two ranks each
    "tp2pp2": Mapping(tp_size=2, pp_size=2),
}
EMBEDDINGS = {
    "tp2": {"use_parallel_embedding": True},
    "tp4": {"use_parallel_embedding": True, "embedding_sharding_dim": 1},
}
SHORT = {"bfloat16": 2**-5, "float16": 2**-8}
"""Types of 8 and 11 bits of mantissa, and how far sums of four layers may go apart, as a share of the range."""
NEW = 24


class Engines:
    """Engines by name, LAYOUT-KIND, built when they are first asked for; every layout has another embedding."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        engine = self.folder / name
        if engine.exists():
            return engine
        layout, _, kind = name.partition("-")
        mapping, checkpoint = LAYOUTS[layout], self.folder / f"checkpoint-{name}"
        source = demo_model_dir("gpt2" if kind == "gpt2" else "llama")
        if kind == "int8":
            quantize_checkpoint(source, checkpoint, QuantConfig(quant_algo="W8A16"), mapping=mapping, dtype="float32")
        elif kind == "kv8":
            rounded = QuantConfig(kv_cache_quant_algo="INT8")
            quantize_model(source, checkpoint, rounded, TOKENS, mapping=mapping, dtype="float32")
        else:
            opened, options = open_hf_folder(source), EMBEDDINGS.get(layout, {})
            convert(opened, checkpoint, config=config_from_source(opened, dtype="float32", mapping=mapping, **options))
        config = PADDED.replace(compute_dtype=kind) if kind in SHORT else PAGED if kind == "paged" else PADDED
        return build_here(checkpoint, config, engine)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return Engines(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def one_ranks(engines):
    """What one rank gives, by kind of engine."""
    found = {}

    def results(kind):
        if kind not in found:
            with ModelRunner.from_dir(engines(f"one-{kind}" if kind else "one")) as runner:
                found[kind] = {"logits": runner.logits_of([[5, 17, 40, 3], [60, 2]])}
                if kind in SHORT:
                    return found[kind]
                found[kind] |= {
                    "greedy": runner.generate([[5, 17, 40], [60, 2]], max_new_tokens=NEW, return_dict=False),
                    "beams": runner.generate([[5, 17, 40]], max_new_tokens=6, num_beams=2, return_dict=False),
                    "streamed": runner.generate([[5, 17]], max_new_tokens=4, return_dict=False),
                }
        return found[kind]

    return results


TWO = [
    "tp2", "pp2", "tp2-gpt2", "pp2-gpt2", "tp2-paged", "tp2-int8", "pp2-kv8",
    *(f"{layout}-{dtype}" for layout in ("tp2", "pp2") for dtype in SHORT),
]  # fmt: skip
FOUR = ["tp4", "tp2pp2", "tp4-gpt2", "tp2pp2-gpt2"]


@pytest.mark.parametrize(("ranks", "names"), [(2, TWO), (4, FOUR)], ids=["two", "four"])
def test_ranks_give_what_one_rank_gives_and_all_of_them_hear_it(engines, one_ranks, ranks, names):
    for name in names:
        engines(name)
    done = on_ranks(ranks, "tests.ranks.rank_logits", str(engines.folder), str(NEW), *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        kind = name.partition("-")[2]
        expected = one_ranks("" if kind == "paged" else kind)
        found = torch.load(engines.folder / f"{name}.rank0.pt")
        for ours, theirs in zip(found["logits"], expected["logits"], strict=True):
            spread = float(theirs.max() - theirs.min())
            # Sums over ranks are added in another order; 1e-4 of the range, as for one rank against Hugging Face.
            assert float((ours - theirs).abs().max()) <= SHORT.get(kind, 1e-4) * spread, name
        outputs = () if kind in SHORT else ("greedy", "beams", "streamed") if name in IN_EVERY_WAY else ("greedy",)
        for output in outputs:
            assert torch.equal(found[output], expected[output]), (name, output)
        if name in IN_EVERY_WAY:
            assert "at most 32" in found["refused"]
            outputs = (*outputs, "sampled")
        for rank in range(1, ranks):
            other = torch.load(engines.folder / f"{name}.rank{rank}.pt")
            for output in outputs:
                assert torch.equal(other[output], found[output]), (name, output, rank)
            assert other.get("refused") == found.get("refused")


def test_the_number_of_ranks_is_checked_before_anything_is_loaded(engines):
    with pytest.raises(EngineMismatchError, match=r"2 rank\(s\) are needed, and 1 was started"):
        ModelRunner.from_dir(engines("tp2"))
    line = ("trtbench_lab", "run", "--engine_dir", str(engines("tp4")), "--input_text", "a")
    done = on_ranks(2, *line)
    assert done.returncode != 0
    assert done.stderr.count("4 rank(s) are needed, and 2 were started") == 1
    assert "Traceback" not in done.stderr


def test_rank_0_speaks_for_all(engines, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("5,17,40\n")
    line = ("trtbench_lab", "run", "--engine_dir", str(engines("pp2")), "--input_file", str(prompts))
    done = on_ranks(2, *line, "--max_output_len", "4", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("output_tokens") == 1
