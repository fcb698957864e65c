"""Hugging Face folders: every layout read right, every damage named, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import IntakeError, StorageError, TrtbenchError
from trtbench_lab.intake.huggingface import HFSource, open_hf_folder
from trtbench_lab.intake.source import ModelSource

from .folders import LLAMA, some_tensors, write_config, write_sharded, write_single

Writer = Callable[..., Any]


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


@pytest.fixture(params=["safetensors", "bin"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[write_single, write_sharded])
def write(request: pytest.FixtureRequest) -> Writer:
    return request.param  # type: ignore[no-any-return]


def test_all_layouts_give_the_same_tensors(tmp_path: Path, suffix: str, write: Writer) -> None:
    tensors = some_tensors()
    write(tmp_path, tensors, suffix=suffix)
    source = open_hf_folder(tmp_path)
    assert isinstance(source, ModelSource)
    assert source.directory == tmp_path
    assert source.config == LLAMA
    assert sorted(source.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        assert source.shape(name) == tuple(tensor.shape)
        assert source.dtype(name) == tensor.dtype
        assert same(source.tensor(name), tensor)
        source.release(name)
        assert same(source.tensor(name), tensor)


def test_location_is_the_tensors_byte_range(tmp_path: Path, write: Writer) -> None:
    tensors = some_tensors()
    write(tmp_path, tensors)
    source = open_hf_folder(tmp_path)
    for name, tensor in tensors.items():
        place = source.location(name)
        assert place is not None
        raw = place.file.read_bytes()[place.offset : place.offset + place.nbytes]
        assert raw == (tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")


def test_bin_has_no_location(tmp_path: Path) -> None:
    write_single(tmp_path, some_tensors(), suffix="bin")
    source = open_hf_folder(tmp_path)
    assert all(source.location(name) is None for name in source.names())


def test_names_come_file_by_file_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    write_sharded(tmp_path, {f"t{i}": torch.ones(4) for i in range(9)})
    source = open_hf_folder(tmp_path)
    places = [source.location(name) for name in source.names()]
    keys = [(place.file.name, place.offset) for place in places if place is not None]
    assert len(keys) == 9
    assert keys == sorted(keys)


@pytest.mark.parametrize("max_shard_size", ["1GB", "20kB"])
def test_folder_written_by_transformers(tmp_path: Path, max_shard_size: str) -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=128
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "20kB")
    source = open_hf_folder(tmp_path)
    state = model.state_dict()
    assert sorted(source.names()) == sorted(state)
    assert all(same(source.tensor(name), tensor) for name, tensor in state.items())
    assert source.config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_demo_models_open_like_any_other(name: str) -> None:
    folder = demo_model_dir(name)
    source = open_hf_folder(folder)
    weights = load_file(folder / "model.safetensors")
    assert sorted(source.names()) == sorted(weights)
    assert all(same(source.tensor(key), tensor) for key, tensor in weights.items())
    assert source.digest() == open_hf_folder(folder).digest()


def test_bin_of_the_format_before_torch_1_6(tmp_path: Path) -> None:
    write_config(tmp_path)
    tensors = some_tensors()
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    source = open_hf_folder(tmp_path)
    assert all(same(source.tensor(name), tensor) for name, tensor in tensors.items())


def test_bin_with_parameters_and_views(tmp_path: Path) -> None:
    write_config(tmp_path)
    base = torch.arange(12.0).view(3, 4)
    torch.save({"p": torch.nn.Parameter(base), "view": base.t()}, tmp_path / "pytorch_model.bin")
    source = open_hf_folder(tmp_path)
    assert not source.tensor("p").requires_grad
    assert same(source.tensor("view"), base.t())


@pytest.mark.parametrize("both", ["model.safetensors", "model-00001-of-00001.safetensors"])
def test_safetensors_come_before_bin(tmp_path: Path, both: str) -> None:
    write_single(tmp_path, {"from": torch.zeros(1)}, suffix="bin")
    save_file({"from": torch.ones(1)}, tmp_path / both)
    assert open_hf_folder(tmp_path).tensor("from").item() == 1


def test_shards_without_index_name_their_own_tensors(tmp_path: Path, suffix: str) -> None:
    tensors = some_tensors()
    write_sharded(tmp_path, tensors, suffix=suffix)
    next(tmp_path.glob("*.index.json")).unlink()
    source = open_hf_folder(tmp_path)
    assert all(same(source.tensor(name), tensor) for name, tensor in tensors.items())


def test_files_of_training_and_mistrals_second_copy_are_left_aside(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file({"layers.0.attention.wq.weight": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    write_sharded(tmp_path, some_tensors())
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps({"lr": 1}))
    assert sorted(open_hf_folder(tmp_path).names()) == sorted(some_tensors())


@pytest.mark.parametrize("name", ["with space", "模型 Größe", "v[1]*", os.fsdecode(b"raw-\xff")])
def test_any_path(tmp_path: Path, name: str, suffix: str, write: Writer) -> None:
    tensors = some_tensors()
    write(tmp_path / name, tensors, suffix=suffix)
    source = open_hf_folder(tmp_path / name)
    assert all(same(source.tensor(key), tensor) for key, tensor in tensors.items())
    assert name in repr(str(source.directory)) or not name.isprintable()


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_single(tmp_path / "model", some_tensors())
    assert open_hf_folder("~/model").directory == tmp_path / "model"


def test_source_travels_to_another_process(tmp_path: Path, suffix: str) -> None:
    write_sharded(tmp_path, some_tensors(), suffix=suffix)
    copy = pickle.loads(pickle.dumps(open_hf_folder(tmp_path)))
    assert isinstance(copy, HFSource)
    assert same(copy.tensor("model.norm.weight"), some_tensors()["model.norm.weight"])


def test_threads_may_read_at_once(tmp_path: Path, suffix: str) -> None:
    tensors = some_tensors()
    write_sharded(tmp_path, tensors, suffix=suffix)
    source = open_hf_folder(tmp_path)
    wrong: list[str] = []

    def read() -> None:
        wrong.extend(name for name, tensor in tensors.items() if not same(source.tensor(name), tensor))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Digest


def test_digest_is_of_content_not_of_place_or_time(tmp_path: Path, suffix: str, write: Writer) -> None:
    write(tmp_path / "a", some_tensors(), suffix=suffix)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        os.utime(path, (1, 1))
    assert open_hf_folder(tmp_path / "a").digest() == open_hf_folder(tmp_path / "b").digest()


@pytest.mark.parametrize("changed", ["weights", "config", "index"])
def test_digest_sees_every_change(tmp_path: Path, changed: str) -> None:
    files = write_sharded(tmp_path, some_tensors())
    before = open_hf_folder(tmp_path).digest()
    if changed == "weights":
        tensors = load_file(files[0])
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, files[0])
    elif changed == "config":
        write_config(tmp_path, rms_norm_eps=1e-5)
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        index["weight_map"].pop("a.scalar")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_hf_folder(tmp_path).digest() != before


# Damaged weights


def refused(folder: Path, *parts: str, kind: type[TrtbenchError] = IntakeError) -> str:
    """Open `folder`, read everything, and return the text of the refusal after checking what it must name."""

    def read_all() -> None:
        source = open_hf_folder(folder)
        for name in source.names():  # .bin shards are opened at the first question
            source.tensor(name)

    with pytest.raises(kind) as caught:
        read_all()
    text = str(caught.value)
    assert caught.value.remedy
    for part in parts:
        assert part in text
    return text


def test_truncated_safetensors(tmp_path: Path) -> None:
    files = write_sharded(tmp_path, some_tensors())
    files[1].write_bytes(files[1].read_bytes()[:-4])
    refused(tmp_path, files[1].name, "truncated")


def test_truncated_bin(tmp_path: Path, write: Writer) -> None:
    write(tmp_path, some_tensors(), suffix="bin")
    for file in tmp_path.glob("*.bin"):
        whole = file.read_bytes()
        for length in (0, 1, 100, len(whole) // 2, len(whole) - 10):
            file.write_bytes(whole[:length])
            refused(tmp_path, file.name)
        file.write_bytes(whole)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 100_000), st.integers(0, 255))
def test_flipped_byte_in_bin_never_ends_in_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    file = write_single(folder, some_tensors(), suffix="bin")
    content = bytearray(file.read_bytes())
    content[position % len(content)] = value
    file.write_bytes(content)
    try:
        source = open_hf_folder(folder)
    except (IntakeError, StorageError):
        return
    assert all(isinstance(source.tensor(name), torch.Tensor) for name in source.names())


def test_missing_shards_are_listed(tmp_path: Path, suffix: str) -> None:
    files = write_sharded(tmp_path, some_tensors(), suffix=suffix)
    files[0].unlink()
    files[2].unlink()
    refused(tmp_path, "2 of 3 weight files are missing", files[0].name, files[2].name)
    next(tmp_path.glob("*.index.json")).unlink()
    refused(tmp_path, "2 of 3 weight files are missing", files[0].name, files[2].name)


def test_index_that_names_tensors_nobody_has(tmp_path: Path, suffix: str) -> None:
    write_sharded(tmp_path, some_tensors(), suffix=suffix)
    path = next(tmp_path.glob("*.index.json"))
    index = json.loads(path.read_text())
    file = index["weight_map"]["model.norm.weight"]
    index["weight_map"].update({"ghost.one": file, "ghost.two": file})
    path.write_text(json.dumps(index))
    refused(tmp_path, "'ghost.one'", file, "and 1 more")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "no weight_map"),
        ({}, "no weight_map"),
        (["a"], "no weight_map"),
        ({"a": "../outside.safetensors"}, "not a .safetensors file of this folder"),
        ({"a": "/etc/passwd"}, "not a .safetensors file of this folder"),
        ({"a": "sub/x.safetensors"}, "not a .safetensors file of this folder"),
        ({"a": "pytorch_model.bin"}, "not a .safetensors file of this folder"),
        ({"a": 5}, "not a .safetensors file of this folder"),
    ],
)
def test_index_that_makes_no_sense(tmp_path: Path, weight_map: Any, message: str) -> None:
    write_config(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, "model.safetensors.index.json", message)


def test_one_tensor_in_two_files_without_index(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "first.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "second.safetensors")
    refused(tmp_path, "'a' is in two files", "first.safetensors", "second.safetensors")


def test_files_without_tensors(tmp_path: Path, suffix: str) -> None:
    write_single(tmp_path, {}, suffix=suffix)
    refused(tmp_path, "no tensors")


def test_unknown_tensor_suggests_the_near_one(tmp_path: Path, suffix: str) -> None:
    write_single(tmp_path, some_tensors(), suffix=suffix)
    source = open_hf_folder(tmp_path)
    for ask in (source.tensor, source.shape, source.dtype, source.location):
        with pytest.raises(IntakeError, match=r"Did you mean 'model\.norm\.weight'"):
            ask("model.norm.wieght")


# Code in the folder


class Touches:
    """A pickle that creates a file when it is loaded the careless way."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_malicious_bin_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, variable: str | None
) -> None:
    trace = tmp_path / "it-was-executed"
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    folder = tmp_path / "model"
    write_config(folder)
    file = folder / "pytorch_model.bin"
    torch.save({"a": torch.ones(1), "b": Touches(trace)}, file, _use_new_zipfile_serialization=zipped)
    refused(folder, "pytorch_model.bin", "nothing of it was run", "posix.system")
    assert not trace.exists()
    torch.load(file, weights_only=False)  # the careless way does run it, so the test could have seen it
    assert trace.exists()


def test_plain_malicious_pickle_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "it-was-executed"
    folder = tmp_path / "model"
    write_config(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Touches(trace)}, protocol=2))
    refused(folder, "nothing of it was run")
    assert not trace.exists()


def test_pickled_module_and_other_objects_are_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    for content in (torch.nn.Linear(2, 2), [torch.ones(1)], {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        refused(tmp_path, "pytorch_model.bin")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "pytorch_model.bin"))
    refused(tmp_path, "pytorch_model.bin")


AUTO_MAP = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}


def test_remote_code_is_refused_before_anything_else(tmp_path: Path) -> None:
    """The weights are damaged too: consent is asked for first."""
    file = write_single(tmp_path, some_tensors())
    file.write_bytes(b"")
    write_config(tmp_path, architectures=["XForCausalLM"], model_type="x", auto_map=AUTO_MAP)
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('this must not be imported')")
    text = refused(tmp_path, "Python code of its own", "configuration_x.py", "modeling_x.py", "--trust_remote_code")
    assert "truncated" not in text


def test_remote_code_of_a_known_architecture_is_not_needed(tmp_path: Path) -> None:
    write_single(tmp_path, some_tensors())
    write_config(tmp_path, auto_map=AUTO_MAP)
    assert open_hf_folder(tmp_path).shape("model.norm.weight") == (8,)


def test_consent_opens_the_folder_and_still_runs_nothing(tmp_path: Path) -> None:
    write_single(tmp_path, some_tensors())
    write_config(tmp_path, architectures=["XForCausalLM"], model_type="x", auto_map=AUTO_MAP)
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('this must not be imported')")
    source = open_hf_folder(tmp_path, trust_remote_code=True)
    assert source.trust_remote_code
    assert source.shape("model.norm.weight") == (8,)


@pytest.mark.parametrize("auto_map", [["modeling_x.X"], "modeling_x.X", {"AutoModel": ["a.B", None]}])
def test_malformed_auto_map_asks_for_code_too(tmp_path: Path, auto_map: Any) -> None:
    write_single(tmp_path, some_tensors())
    write_config(tmp_path, architectures=["XForCausalLM"], model_type="x", auto_map=auto_map)
    refused(tmp_path, "Python code of its own")


def test_quantized_weights_are_named(tmp_path: Path) -> None:
    write_single(tmp_path, some_tensors())
    write_config(tmp_path, quantization_config={"quant_method": "awq", "bits": 4})
    refused(tmp_path, "already quantized", "'awq'")
    write_config(tmp_path, quantization_config=None)
    assert open_hf_folder(tmp_path).names()


# config.json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"[]", "a JSON list"),
        (b"null", "a JSON NoneType"),
        (b'"text"', "a JSON str"),
        (b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
        (b"\x00\x01", "not valid JSON"),
        (b"[" * 100_000, "not sensible JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not sensible JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"{}", "neither `architectures` nor `model_type`"),
        (b'{"architectures": []}', "neither `architectures` nor `model_type`"),
        (b'{"architectures": "LlamaForCausalLM"}', "not a list of names"),
        (b'{"architectures": [1]}', "not a list of names"),
        (b'{"model_type": 5}', "`model_type` is 5"),
    ],
)
def test_malformed_config_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    write_single(tmp_path, some_tensors())
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, "config.json", message)


def test_config_with_byte_order_mark(tmp_path: Path) -> None:
    write_single(tmp_path, some_tensors())
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert open_hf_folder(tmp_path).config == LLAMA


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*LLAMA, "auto_map", "quantization_config", "architecture", "pretrained_config", "build_config"])


@pytest.fixture(scope="module")
def fuzzed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_single(folder, some_tensors())
    return folder


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=5), st.sampled_from([{}, LLAMA]))
def test_any_json_config_opens_or_ends_in_our_error(
    fuzzed_folder: Path, changes: dict[str, Any], base: dict[str, Any]
) -> None:
    (fuzzed_folder / "config.json").write_text(json.dumps({**base, **changes}))
    try:
        source = open_hf_folder(fuzzed_folder)
    except IntakeError:
        return
    assert source.shape("model.norm.weight") == (8,)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_config_end_in_our_error(fuzzed_folder: Path, content: bytes) -> None:
    (fuzzed_folder / "config.json").write_bytes(content)
    with pytest.raises(IntakeError):
        open_hf_folder(fuzzed_folder)


# Folders of another kind


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "an empty folder"),
        (["README.md"], "without model weights or config.json"),
        (["model.gguf"], "a GGUF model"),
        (["params.json", "consolidated.00.pth"], "a Meta checkpoint"),
        (["gpt.nemo"], "a NeMo archive"),
        (["config.ini", "model.wte.bin"], "a FasterTransformer folder"),
        (["config.json", "decoder.onnx"], "an ONNX export"),
        (["config.json", "tf_model.h5"], "a TensorFlow model"),
        (["config.json", "flax_model.msgpack"], "a Flax model"),
        (["adapter_config.json", "adapter_model.safetensors"], "a LoRA/PEFT adapter"),
        (["model_index.json", "unet/config.json"], "a diffusers pipeline"),
        (["config.json", "tokenizer.json"], "config.json and no weight file"),
        (["model.safetensors"], "weights and no config.json"),
        (["snapshots/0a1b/config.json"], "one level down"),
        (["inner/config.json"], "one level down"),
        (["rank0.engine", "config.json"], "an engine folder"),
    ],
)
def test_other_folders_are_recognised(tmp_path: Path, names: list[str], message: str) -> None:
    fill(tmp_path, *names)
    text = refused(tmp_path, message)
    if "one level down" in message:
        assert str(tmp_path / Path(names[0]).parent) in text


def test_checkpoint_and_engine_are_recognised_by_their_config(tmp_path: Path) -> None:
    fill(tmp_path, "rank0.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "LlamaForCausalLM", "dtype": "float16"}')
    refused(tmp_path, "a TensorRT-LLM checkpoint", "build --checkpoint_dir")
    (tmp_path / "config.json").write_text('{"pretrained_config": {}, "build_config": {}}')
    refused(tmp_path, "an engine folder", "run --engine_dir")


def test_hidden_files_and_leftovers_count_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path, ".cache/config.json", ".model.safetensors.partial-1-x")
    refused(tmp_path, "an empty folder")


def test_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "none", "no such folder")
    refused(Path("openai-community/gpt2"), "no such folder", "download openai-community/gpt2")
    refused(Path("bad\0name"), "no such folder")


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "model.safetensors", "model.gguf")
    refused(tmp_path / "model.safetensors", "This is a file, not a model folder")
    refused(tmp_path / "model.gguf", "a GGUF file")


def test_unfinished_download_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, some_tensors())
    record = {
        "format_version": 1, "repo_id": "o/m", "revision": "main", "commit": "0" * 40, "endpoint": "https://h",
        "include": None, "exclude": None, "complete": False, "wanted": ["config.json", "tokenizer.json"],
        "files": {"config.json": {"bytes": 2, "digest": None}}, "downloaded_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    path = tmp_path / "trtbench_download.json"
    path.write_text(json.dumps(record))
    refused(tmp_path, "download of o/m into this folder is unfinished", "1 of 2 files", "tokenizer.json")
    path.write_text(json.dumps({**record, "complete": True}))
    assert open_hf_folder(tmp_path).names()
    path.write_text("{not ours")
    assert open_hf_folder(tmp_path).names()
