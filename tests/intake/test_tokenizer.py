"""Tokenizers of local folders: the library's own answers, padding settled, damage named, no network, no code run."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, dynamic_module_utils

from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import IntakeError
from trtbench_lab.intake import tokenizer as tokenizer_module
from trtbench_lab.intake.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach a network fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a tokenizer must come from the disk alone")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def words(*extra: str) -> str:
    """A tokenizer.json of a few words."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "a", "b", *extra])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return str(made.to_str())


def folder_of(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_demo_tokenizers_round_trip_and_can_pad(name: str) -> None:
    folder = demo_model_dir(name)
    tokenizer = load_tokenizer(folder)
    text = "The ferry to the island was cancelled, officials said on Tuesday."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids == AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert max(ids) < vocab_size
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id < vocab_size


@pytest.mark.parametrize("name", ["with space", "模型"])
def test_any_path(tmp_path: Path, name: str) -> None:
    tokenizer = load_tokenizer(folder_of(tmp_path / name, {"tokenizer.json": words()}))
    assert tokenizer("a b a")["input_ids"] == [1, 2, 1]


def test_vocabulary_and_merges_of_gpt2(tmp_path: Path) -> None:
    files = {
        "vocab.json": {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3},
        "merges.txt": "#version: 0.2\na b\n",
        "config.json": {"model_type": "gpt2", "vocab_size": 4},
    }
    tokenizer = load_tokenizer(folder_of(tmp_path, files))
    assert tokenizer("abab")["input_ids"] == [2, 2]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 3


# Padding


@pytest.mark.parametrize(
    ("special", "pad"),
    [
        ({"eos_token": "</s>"}, "</s>"),
        ({"eos_token": "</s>", "pad_token": "<pad>"}, "<pad>"),
        ({"unk_token": "<unk>"}, "<unk>"),
        ({"bos_token": "<s>"}, "<s>"),
        ({}, None),
    ],
)
def test_missing_padding_token_becomes_the_end_token(tmp_path: Path, special: dict[str, str], pad: str | None) -> None:
    files = {"tokenizer.json": words("</s>", "<pad>", "<s>"), "tokenizer_config.json": special}
    assert load_tokenizer(folder_of(tmp_path, files)).pad_token == pad


def test_padding_token_outside_the_embedding_is_replaced(tmp_path: Path) -> None:
    """A known trap: [PAD] was added to the tokenizer and the model's table was never enlarged."""
    files = {
        "tokenizer.json": words("</s>"),
        "tokenizer_config.json": {"eos_token": "</s>", "pad_token": "[PAD]"},
        "config.json": {"model_type": "llama", "vocab_size": 4},
    }
    folder = folder_of(tmp_path, files)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 4
    assert load_tokenizer(folder).pad_token_id == 3


# Refusals


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(IntakeError) as caught:
        load_tokenizer(folder)
    assert caught.value.remedy
    for part in (str(folder), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("files", [{}, {"config.json": {"model_type": "gpt2"}}, {"tokenizer_config.json": {}}])
def test_folder_without_tokenizer_lists_what_was_looked_for(tmp_path: Path, files: dict[str, Any]) -> None:
    """With config.json alone transformers would make an empty vocabulary in silence."""
    refused(
        folder_of(tmp_path, files), "There is no tokenizer here", "tokenizer.json", "tokenizer.model",
        "vocab.json with merges.txt", "--tokenizer_dir",
    )  # fmt: skip


def test_half_of_a_pair_is_named(tmp_path: Path) -> None:
    refused(folder_of(tmp_path, {"vocab.json": {"a": 0}}), "merges.txt is missing")


def test_no_such_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder")


@pytest.mark.parametrize("damaged", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["{nope", "", "[]"])
def test_damaged_json_is_named(tmp_path: Path, damaged: str, content: str) -> None:
    files = {"tokenizer.json": words(), "tokenizer_config.json": {}, "special_tokens_map.json": {}, damaged: content}
    refused(folder_of(tmp_path, files), damaged)


@pytest.mark.parametrize(
    "files",
    [{"tokenizer.json": {}}, {"tokenizer.json": {"model": 5}}, {"tokenizer.model": "no sentencepiece"}],
)
def test_files_of_other_content_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    refused(folder_of(tmp_path, files), "cannot make a tokenizer")


REMOTE = {
    "tokenizer.json": words(),
    "tokenizer_config.json": {
        "tokenizer_class": "XTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]},
    },
    "tokenization_x.py": "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
    "from transformers import PreTrainedTokenizerFast\nclass X(PreTrainedTokenizerFast): pass\n",
}


def test_code_is_refused_without_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody must be asked on the console"))
    refused(folder_of(tmp_path, REMOTE), "Python code of its own", "--trust_remote_code")
    assert not list(tmp_path.rglob("executed"))


def test_code_is_run_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    tokenizer = load_tokenizer(folder_of(tmp_path / "model", REMOTE), trust_remote_code=True)
    assert type(tokenizer).__name__ == "X"
    assert list((tmp_path / "modules").rglob("executed"))


def test_module_imports_nothing_heavy() -> None:
    assert "AutoTokenizer" not in vars(tokenizer_module)
