from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.errors import CheckpointError, TrtbenchError
from trtbench_lab.specs import Mapping

from .sources import gpt2_source, llama_source, write_hf_folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "two ranks – ü"
    source = gpt2_source()
    convert(source, folder, config=config_from_source(source, "float16", Mapping(tp_size=2)))
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy of ü"))


def test_tensors_and_locations_are_those_of_the_file(written: Path) -> None:
    checkpoint = open_checkpoint(str(written), verify=True)
    assert checkpoint.world_size == 2
    for rank in range(2):
        weights, file = checkpoint.rank(rank), load_file(written / f"rank{rank}.safetensors")
        assert set(weights) == set(weights.names()) == set(file)
        raw = (written / f"rank{rank}.safetensors").read_bytes()
        for name in weights.names():
            assert torch.equal(weights[name], file[name])
            place = weights.location(name)
            stored = raw[place.offset : place.offset + place.nbytes]
            assert torch.equal(torch.frombuffer(bytearray(stored), dtype=torch.float16).view(place.shape), file[name])
        assert weights.names()[0] == "transformer.vocab_embedding.weight"
        assert weights.names()[-1] == "lm_head.weight"
    weights.release("lm_head.weight")
    assert torch.equal(weights["lm_head.weight"], file["lm_head.weight"])
    assert "nothing" not in weights
    with pytest.raises(KeyError):
        weights["nothing"]
    with pytest.raises(CheckpointError, match="rank 2"):
        checkpoint.rank(2)


def test_digest_follows_content_and_not_place(written: Path, copy: Path, tmp_path: Path) -> None:
    assert open_checkpoint(copy).digest == open_checkpoint(written).digest
    (copy / "manifest.json").unlink()  # then it is computed from the files
    assert open_checkpoint(copy).digest == open_checkpoint(written).digest
    other = gpt2_source(seed=1)
    convert(other, tmp_path / "other", config=config_from_source(other, "float16", Mapping(tp_size=2)))
    assert open_checkpoint(tmp_path / "other").digest != open_checkpoint(written).digest


def test_a_checkpoint_of_tensorrt_llm_opens_without_manifest_and_traits(tmp_path: Path) -> None:
    source = llama_source(attention_bias=True)
    convert(source, tmp_path / "c", config=config_from_source(source, "float16"))
    path = tmp_path / "c" / "config.json"
    raw = json.loads(path.read_text())
    foreign = {key: value for key, value in raw.items()
               if key not in ("norm_type", "gated_mlp", "qkv_bias", "dense_bias", "sliding_window")}  # fmt: skip
    path.write_text(json.dumps({**foreign, "qk_layernorm": False, "runtime_defaults": None}))
    (tmp_path / "c" / "manifest.json").unlink()
    checkpoint = open_checkpoint(tmp_path / "c")
    assert checkpoint.manifest is None
    assert (checkpoint.config.qkv_bias, checkpoint.config.norm_type) == (True, "rmsnorm")
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        checkpoint.verify()


def flip(path: Path, offset: int = -100) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_one_flipped_bit_of_the_weights_is_found_by_verifying(copy: Path) -> None:
    flip(copy / "rank1.safetensors")
    assert open_checkpoint(copy)  # sizes and headers are as they were
    with pytest.raises(CheckpointError, match=r"rank1\.safetensors: The file was damaged"):
        open_checkpoint(copy, verify=True)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CONFIG, MANIFEST, RANK0, RANK1 = "config.json", "manifest.json", "rank0.safetensors", "rank1.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "rank missing": (lambda c: (c / RANK1).unlink(), "1 of 2 rank files are missing"),
    "rank too many": (lambda c: shutil.copy(c / RANK0, c / "rank2.safetensors"), "rank2.safetensors"),
    "rank truncated": (lambda c: shortened(c / RANK0), "bytes"),
    "rank empty": (lambda c: (c / RANK0).write_bytes(b""), "0 bytes"),
    "rank a folder": (lambda c: as_folder(c / RANK0), RANK0),
    "header damaged": (lambda c: flip(c / RANK0, 9), RANK0),
    "config missing": (lambda c: (c / CONFIG).unlink(), "no config.json"),
    "config not JSON": (lambda c: (c / CONFIG).write_text("{"), "not valid JSON"),
    "config a list": (lambda c: (c / CONFIG).write_text("[]"), "not a JSON object"),
    "config a folder": (lambda c: as_folder(c / CONFIG), CONFIG),
    "config of Hugging Face": (lambda c: edit(c / CONFIG, lambda v: v.update(model_type="gpt2")), "Hugging Face"),
    "config of another size": (lambda c: edit(c / CONFIG, lambda v: v.update(vocab_size=55)), "bytes"),
    "world no product": (lambda c: edit(c / CONFIG, lambda v: v["mapping"].update(world_size=4)), "world_size"),
    "manifest not JSON": (lambda c: (c / MANIFEST).write_text("x"), MANIFEST),
    "manifest of the future": (lambda c: edit(c / MANIFEST, lambda v: v.update(format=99)), "format 99"),
    "manifest without files": (lambda c: edit(c / MANIFEST, lambda v: v.pop("files")), "damaged"),
    "manifest without a rank": (lambda c: edit(c / MANIFEST, lambda v: v["files"].pop(RANK1)), "not listed"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_with_the_file_and_the_reason(copy: Path, damage: str) -> None:
    act, word = DAMAGE[damage]
    act(copy)
    with pytest.raises(TrtbenchError) as caught:
        open_checkpoint(copy)
    assert word in str(caught.value)
    assert copy.name in str(caught.value)


def replaced(copy: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> str:
    """Change the tensors of rank 0 in a checkpoint without manifest; return the refusal."""
    (copy / "manifest.json").unlink()
    tensors = load_file(copy / "rank0.safetensors")
    change(tensors)
    save_file(tensors, copy / "rank0.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(copy)
    assert "rank0.safetensors" in str(caught.value)
    return str(caught.value)


def test_tensors_that_do_not_fit_the_configuration_are_named(copy: Path, written: Path, tmp_path: Path) -> None:
    assert "1 missing (lm_head.weight)" in replaced(copy, lambda t: t.pop("lm_head.weight"))
    for change, word in (
        (lambda t: t.update(extra=torch.zeros(1)), "1 that do not belong there (extra)"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(50, 32).half()}), "(50, 32)"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.zeros(32)}), "float32 (32,)"),
    ):
        again = Path(shutil.copytree(written, tmp_path / word))
        assert word in replaced(again, change)


def test_a_rank_of_another_source_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    path = copy / "rank1.safetensors"
    save_file(load_file(path), path, metadata={"source_digest": "another"})
    with pytest.raises(CheckpointError, match="different sources"):
        open_checkpoint(copy)


def test_folders_that_are_no_checkpoint_are_told_apart(written: Path, tmp_path: Path) -> None:
    source = gpt2_source()
    model = write_hf_folder(tmp_path / "hf", source.config, {name: source.tensor(name) for name in source.names()})
    with pytest.raises(CheckpointError, match="Convert it first"):
        open_checkpoint(model)
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "absent")
    partial = shutil.copytree(written, tmp_path / ".model.partial-123-x")
    with pytest.raises(CheckpointError, match="never finished"):
        open_checkpoint(partial)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_config_json_is_refused_in_our_words_or_harmless(
    copy: Path, written: Path, data: st.DataObject
) -> None:
    original = (written / "config.json").read_text()
    values = json.loads(original)
    for name in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[name] = data.draw(JSON)
    (copy / "manifest.json").unlink(missing_ok=True)
    (copy / "config.json").write_text(json.dumps(values))
    try:
        checkpoint = open_checkpoint(copy)
    except TrtbenchError:
        return
    assert checkpoint.rank(0)["lm_head.weight"].shape == (51, 32)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_file_is_refused_in_our_words(copy: Path, written: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["config.json", "manifest.json", "rank0.safetensors"]))
    content = bytearray((written / name).read_bytes())
    start = data.draw(st.integers(0, min(len(content), 3000) - 1))
    content[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    (copy / name).write_bytes(content)
    try:
        open_checkpoint(copy, verify=True)
    except TrtbenchError:
        pass
    else:  # the damage was none: the same bytes, or spaces in a JSON file
        assert bytes(content) == (written / name).read_bytes() or name == "manifest.json"
    finally:
        shutil.copy(written / name, copy / name)
