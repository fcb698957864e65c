"""Text from tokens: pieces that join to the whole, and no character cut in two."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.tiny_models import prompts, tiny_gpt2, tiny_runner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trtbench_lab.errors import RequestError
from trtbench_lab.runtime import TextStream, stream_text
from trtbench_lab.runtime.text import (
    decode_outputs,
    encode_prompts,
    end_and_pad_id,
    new_tokens_of,
    words_from_text,
)


@functools.cache
def byte_tokenizer() -> Any:
    """Byte-level: every byte a token, so that characters beyond ASCII are made of two to four."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=260, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<end>"]
    )
    tokenizer.train_from_iterator(["the cat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@functools.cache
def space_marking_tokenizer() -> Any:
    """SentencePiece's way: ``▁`` stands for a space and the first one of a text is dropped."""
    from transformers import PreTrainedTokenizerFast

    words = ["▁the", "▁cat", "▁sat", "s", "▁é", "<end>"]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [stream.put(token) for token in ids] + [stream.finish()]


@given(text=st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_pieces_join_to_the_text(text):
    ids = byte_tokenizer().encode(text)
    assert "".join(pieces_of(byte_tokenizer(), ids)) == text


@given(ids=st.lists(st.integers(1, 256), max_size=30))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_bytes_join_to_what_the_tokenizer_decodes(ids):
    whole = byte_tokenizer().decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(pieces_of(byte_tokenizer(), ids)) == whole


def test_a_character_comes_whole():
    ids = byte_tokenizer().encode("né😀.")
    pieces = pieces_of(byte_tokenizer(), ids)
    assert len(ids) == 1 + 2 + 4 + 1
    assert pieces == ["n", "", "é", "", "", "", "😀", ".", ""]


def test_an_incomplete_character_is_given_at_the_end():
    ids = byte_tokenizer().encode("a😀")[:-1]
    assert pieces_of(byte_tokenizer(), ids) == ["a", "", "", "", "\ufffd"]


def test_spaces_between_words_are_kept():
    tokenizer = space_marking_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["▁the", "▁cat", "s", "▁sat"])
    assert pieces_of(tokenizer, ids) == ["the", " cat", "s", " sat", ""]


def test_the_prompt_is_context_only():
    tokenizer = space_marking_tokenizer()
    stream = TextStream(tokenizer, tokenizer.convert_tokens_to_ids(["▁the"]))
    assert stream.put(tokenizer.convert_tokens_to_ids("▁cat")) == " cat"


def test_special_tokens_are_left_out_or_not():
    tokenizer = byte_tokenizer()
    ids = [*tokenizer.encode("ab"), tokenizer.eos_token_id]
    assert "".join(pieces_of(tokenizer, ids)) == "ab"
    stream = TextStream(tokenizer, skip_special_tokens=False)
    assert "".join([*map(stream.put, ids), stream.finish()]) == "ab<end>"


def test_streaming_text_of_a_row():
    tokenizer, runner = byte_tokenizer(), tiny_runner(tiny_gpt2())
    batch = prompts(4, 6)
    whole = runner.generate(batch, max_new_tokens=8)
    stream = runner.generate(batch, max_new_tokens=8, streaming=True)
    assert "".join(stream_text(stream, tokenizer, row=1)) == decode_outputs(tokenizer, whole)[1][0]


def test_prompts_from_text():
    assert encode_prompts(byte_tokenizer(), ["ab", "c"]) == [
        byte_tokenizer().encode("ab"),
        byte_tokenizer().encode("c"),
    ]


@pytest.mark.parametrize(("texts", "words"), [("ab", "one text"), (["ab", ""], r"prompts\[1\].*empty"), ([5], "int")])
def test_bad_texts_are_refused(texts, words):
    with pytest.raises(RequestError, match=words):
        encode_prompts(byte_tokenizer(), texts)


def test_words_to_tokens():
    tokenizer = byte_tokenizer()
    assert words_from_text(tokenizer, "é") == [tokenizer.encode("é")]
    assert words_from_text(tokenizer, ["é", "a"]) == [tokenizer.encode("é"), tokenizer.encode("a")]
    with pytest.raises(RequestError, match="no token"):
        words_from_text(tokenizer, [""])


def test_padding_falls_back_to_the_end_token():
    tokenizer = byte_tokenizer()
    assert end_and_pad_id(tokenizer) == (tokenizer.eos_token_id, tokenizer.eos_token_id)


def test_decoded_outputs_are_the_new_tokens_alone():
    tokenizer, runner = byte_tokenizer(), tiny_runner(tiny_gpt2())
    outputs = runner.generate(prompts(4), max_new_tokens=5, num_beams=2)
    texts = decode_outputs(tokenizer, outputs)
    assert texts == [[tokenizer.decode(new_tokens_of(outputs, 0, beam)) for beam in range(2)]]
