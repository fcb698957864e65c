"""Files of requests: the spellings of several tools, and faulty lines named by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtbench_lab.errors import RequestError
from trtbench_lab.runtime.inflight.params import sampling_of
from trtbench_lab.runtime.inflight.request_file import read_requests
from trtbench_lab.specs import SamplingConfig


def written(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_the_spellings_of_several_tools(tmp_path: Path) -> None:
    path = written(
        tmp_path / "requests.jsonl",
        {"prompt": "Once upon", "max_tokens": 5, "temperature": 0.7, "top_k": 4},
        "",
        {"task_id": 7, "prompt": "Again", "output_tokens": 9},
        {"task_id": 8, "logits": [1, 2, 3], "output_tokens": 4},
        {"prompt_token_ids": [4, 5], "sampling_params": {"seed": 3, "stop": ["."]}},
        {"prompt": [6, 7]},
        '"just text"',
    )
    requests = read_requests(path)
    assert [request.line for request in requests] == [1, 3, 4, 5, 6, 7]
    assert [request.prompt for request in requests] == ["Once upon", "Again", [1, 2, 3], [4, 5], [6, 7], "just text"]
    assert requests[0].sampling == {"max_tokens": 5, "temperature": 0.7, "top_k": 4}
    assert (requests[1].name, requests[1].sampling) == (7, {"max_new_tokens": 9})
    assert requests[3].sampling == {"seed": 3, "stop": ["."]}
    assert len(read_requests(path, limit=2)) == 2


def test_what_prepare_dataset_writes(tmp_path: Path) -> None:
    document = {
        "metadata": {"workload_type": "token-norm-dist"},
        "samples": [{"input_len": 2, "input_ids": [3, 4], "output_len": 6, "task_id": -1}],
    }
    (request,) = read_requests(written(tmp_path / "data.json", json.dumps(document, indent=1)))
    assert request.token_ids == [3, 4]
    assert request.sampling == {"max_new_tokens": 6}


def test_faulty_lines_are_all_named_by_number(tmp_path: Path) -> None:
    path = written(
        tmp_path / "bad.jsonl",
        {"prompt": "fine"},
        "{not json",
        {"max_tokens": 5},
        {"prompt": "x", "input_ids": [1]},
        {"prompt": "x", "temprature": 1.0},
        {"input_ids": [1, -2]},
        {"prompt": ""},
        "[1, 2]",
        {"prompt": "x", "n": 2},
    )
    with pytest.raises(RequestError) as caught:
        read_requests(path)
    text = str(caught.value)
    for words in (
        "8 of the file's lines",
        "line 2: it is no JSON",
        "line 3: it has no prompt",
        "line 4: it gives prompt and input_ids",
        "line 5: There is no sampling field 'temprature'. Did you mean 'temperature'?",
        "line 6: its input_ids is no list of token ids",
        "line 7: its prompt is ''",
        "line 8: it is a list",
        "line 9: n is 2",
        str(path),
    ):
        assert words in text, words


@pytest.mark.parametrize(("content", "words"), [("", "holds no request"), ("\n \n", "holds no request")])
def test_an_empty_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_requests(written(tmp_path / "empty.jsonl", content))
    with pytest.raises(RequestError, match="cannot be read"):
        read_requests(tmp_path / "missing.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(RequestError, match="cannot be read"):
        read_requests(tmp_path / "bytes.jsonl")


class Tokenizer:
    eos_token_id, pad_token_id = 9, None

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) for letter in text]


def test_names_of_other_tools_mean_the_same() -> None:
    keywords = sampling_of({"max_tokens": 4, "seed": 2, "stop": "ab", "logprobs": 1}, Tokenizer())
    assert keywords == {
        "max_new_tokens": 4,
        "random_seed": 2,
        "stop_words": [[97, 98]],
        "output_log_probs": True,
        "end_id": 9,
    }
    assert sampling_of({"ignore_eos": True}, Tokenizer())["end_id"] is None
    assert sampling_of({"stop_token_ids": [3, 4]}, Tokenizer())["end_id"] == [3, 4]
    config = SamplingConfig(end_id=5)
    assert sampling_of(config, Tokenizer()) == {"sampling_config": config}
    assert sampling_of(None, Tokenizer())["end_id"] == 9


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_tokens": 1, "max_new_tokens": 2}, "says again"),
        ({"stop": ["a"]}, "no tokenizer"),
        ({"stop": ["a", [1]]}, "mixes texts and token ids"),
        (5, "is a int"),
    ],
)
def test_wrong_sampling_is_told(params: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        sampling_of(params)
