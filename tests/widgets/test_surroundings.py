"""What the guide finds around it: models in folders and the machine in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtbench_lab.specs import Gpu
from trtbench_widgets import surroundings
from trtbench_widgets.surroundings import gpu_here, machine_words, models_here

DEMOS = ["demo:gpt2", "demo:llama"]


def model(folder: Path, architecture: str = "LlamaForCausalLM", weights: int = 1 << 20) -> Path:
    folder.mkdir(parents=True)
    kind = architecture.removesuffix("ForCausalLM").lower()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": kind}))
    (folder / "model.safetensors").write_bytes(b"\0" * weights)
    return folder


def labels(folder: Path, **options) -> list[str]:
    return [one["label"] for one in models_here(folder, **options)]


def test_models_are_found_two_folders_deep_nearest_first(tmp_path):
    model(tmp_path / "a" / "b")
    model(tmp_path / "z")
    model(tmp_path / "a" / "b" / "too" / "deep")
    assert labels(tmp_path) == ["./z", "./a/b", *DEMOS]
    assert labels(tmp_path / "z") == ["z", *DEMOS]


def test_only_what_can_be_built_is_offered(tmp_path):
    model(tmp_path / "unknown", "NoSuchForCausalLM")
    model(tmp_path / ".hidden")
    model(tmp_path / "mine" / "copy")
    (model(tmp_path / "empty") / "model.safetensors").unlink()
    (model(tmp_path / "broken") / "config.json").write_text("{")
    (model(tmp_path / "checkpoint") / "config.json").write_text('{"architecture": "LlamaForCausalLM"}')
    (model(tmp_path / "listed") / "config.json").write_text("[]")
    assert labels(tmp_path, leave_out=tmp_path / "mine") == DEMOS


def test_a_wide_folder_takes_no_longer_than_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "_FOLDERS", 5)
    for i in range(9):
        model(tmp_path / f"m{i}")
    assert labels(tmp_path) == ["./m0", "./m1", "./m2", "./m3", *DEMOS]


H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "memory_bytes": 139 << 30}


@pytest.mark.parametrize(
    ("facts", "words", "gpu"),
    [
        ({"gpus": [H200]}, "NVIDIA H200, 139 GiB", Gpu((9, 0), "NVIDIA H200", 1)),
        ({"gpus": [H200, H200]}, "2 × NVIDIA H200, 139 GiB each", Gpu((9, 0), "NVIDIA H200", 2)),
        (
            {"gpus": [], "cpu_model": "AMD EPYC", "cpu_cores_usable": 2, "memory_bytes": 24 << 30},
            "AMD EPYC, 2 cores, 24 GiB, no GPU",
            None,
        ),
        ({}, "CPU, 1 core, no GPU", None),
    ],
)
def test_the_machine_is_told_in_one_line(monkeypatch, facts, words, gpu):
    monkeypatch.setattr(surroundings, "machine_fingerprint", lambda: facts)
    assert (machine_words(), gpu_here()) == (words, gpu)
