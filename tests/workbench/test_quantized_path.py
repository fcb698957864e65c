"""Quantize, build and run the shipped GPT-2 by the verbs; the engines' logits are those of the definition in NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tests.backends.models import RandomModel
from tests.backends.quantized_models import defined_logits

from trtbench_lab import workbench
from trtbench_lab.demo import demo_corpus_path, demo_model_dir
from trtbench_lab.specs import BuildConfig, CalibrationConfig, SamplingConfig
from trtbench_lab.specs.requests import BuildSpec, QuantizeSpec, RunSpec

CALIBRATION = CalibrationConfig(calib_size=4, calib_max_seq_length=64, calib_device="cpu")
NEW_TOKENS = 4
# At this level onnxruntime rounds nothing that the algorithm does not round itself.
LIMITS = {"max_batch_size": 1, "max_input_len": 64, "max_seq_len": 96, "opt_level": 1}
REQUESTS = {
    "smooth": ({"qformat": "int8_sq", "per_channel": True, "per_token": True}, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"),
    "awq": ({"qformat": "int4_awq", "group_size": 64}, "W4A16_AWQ, groups of 64"),
    "mixed": (
        {
            "search": True,
            "budget": 0.2,  # of float32: between INT8's 0.25 and INT4's 0.14
            "search_formats": ("int4_awq", "int8_sq"),
            "search_tokens": 64,
            "group_size": 64,
        },
        "mixed: ",
    ),
}


@pytest.fixture(scope="module")
def source() -> RandomModel:
    """The shipped model as Hugging Face runs it in float32."""
    folder = demo_model_dir("gpt2")
    return RandomModel(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), folder)


class Checkpoints:
    """Checkpoints by request, each quantized when it is first asked for."""

    def __init__(self, home: Path):
        self.home = home

    def __getitem__(self, name: str) -> Path:
        folder = self.home / name
        if not folder.is_dir():
            options, label = REQUESTS[name]
            step = workbench.quantize(
                QuantizeSpec(
                    source="demo:gpt2", dtype="float32", calibration=CALIBRATION, output_dir=str(folder), **options
                )
            )
            assert step.quantization.startswith(label)
        return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("quantized path"))


@pytest.fixture(scope="module")
def story() -> str:
    line = demo_corpus_path("test").read_text(encoding="utf-8").splitlines()[5]
    return " ".join(json.loads(line)["article"].split()[:20])


def test_the_mix_is_one_of_several_formats(checkpoints: Checkpoints):
    layers = json.loads((checkpoints["mixed"] / "config.json").read_text())["quantization"]["quantized_layers"]
    algorithms = {layer["quant_algo"] for layer in layers.values()}
    assert algorithms == {"W4A16_AWQ", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}
    # The folder itself says why each layer got what it got.
    report = json.loads((checkpoints["mixed"] / "search_report.json").read_text())
    chosen = {name: row["chosen"] for row in report["layers"] for name in row["module"].split(" + ")}
    assert {name for name, what in chosen.items() if what != "as it is"} == set(layers)
    assert all(row["why"] for row in report["layers"])


@pytest.mark.parametrize(
    ("name", "backend"),  # an exported network takes longest: the mix has layers of both others
    [("smooth", "torch"), ("awq", "torch"), ("mixed", "torch"), ("mixed", "onnxruntime")],
)
def test_engines_of_the_verbs_compute_the_definition(
    checkpoints: Checkpoints, source: RandomModel, story: str, name: str, backend: str, tmp_path: Path
):
    built = workbench.build(
        BuildSpec(
            checkpoint_dir=str(checkpoints[name]),
            output_dir=str(tmp_path / "engine"),
            build_config=BuildConfig(backend=backend, **LIMITS),
        )
    )
    assert built.backend == backend
    result = workbench.run(
        RunSpec(
            engine_dir=built.output_dir,
            input_text=(story,),
            sampling=SamplingConfig(max_new_tokens=NEW_TOKENS, end_id=-1),
            output_logits_npy=str(tmp_path / "logits.npy"),
        )
    )
    (new_tokens,) = result.output_ids[0]
    got = torch.from_numpy(np.load(tmp_path / "logits.npy"))[0, 0]
    prompt = transformers.AutoTokenizer.from_pretrained(source.folder)(story)["input_ids"]
    assert len(prompt) <= LIMITS["max_input_len"]
    assert got.shape == (NEW_TOKENS, source.hf.config.vocab_size)
    tokens = torch.tensor([prompt + new_tokens[:-1]])
    expected = defined_logits(source, checkpoints[name], tokens)[0, -NEW_TOKENS:]
    span = float(expected.max() - expected.min())
    # Sums in another order; an input that a different last bit rounds to the neighbouring step moves logits by 1e-3.
    assert float((got - expected).abs().max()) <= 5e-3 * span
    assert float((got - expected).abs().median()) <= 1e-4 * span
    # Each token is the definition's first choice, or as good as it.
    chosen = expected.gather(1, torch.tensor(new_tokens)[:, None])[:, 0]
    assert float((expected.max(-1).values - chosen).max()) <= 5e-3 * span
    # What was rounded is felt: the unquantized model is farther off.
    plain = source.logits(tokens)[0, -NEW_TOKENS:]
    assert float((got - plain).abs().median()) > 20 * float((got - expected).abs().median())
