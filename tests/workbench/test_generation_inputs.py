"""Files of prompts and token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtbench_lab.errors import RequestError
from trtbench_lab.workbench.inputs import prompts_from_file, token_ids_from_file


def test_text_file_gives_a_prompt_a_line(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("Über die Brücke\n\n  \nSecond line\n", encoding="utf-8")
    assert prompts_from_file(path) == ["Über die Brücke", "Second line"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00bad"])
def test_unusable_text_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"prompts\.txt"):
        prompts_from_file(path)


def test_csv_gives_ragged_token_rows(tmp_path: Path):
    path = tmp_path / "tokens.csv"
    path.write_text("1,2,3\n4, 5\n\n")
    assert token_ids_from_file(path) == [[1, 2, 3], [4, 5]]


def test_npy_drops_negative_padding(tmp_path: Path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.array([[7, 8, -1], [9, 10, 11]], dtype=np.int32))
    assert token_ids_from_file(path) == [[7, 8], [9, 10, 11]]


def test_npy_of_one_prompt_may_be_flat(tmp_path: Path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.array([7, 8, 9]))
    assert token_ids_from_file(path) == [[7, 8, 9]]


def test_bad_token_files_are_refused(tmp_path: Path):
    words = tmp_path / "words.csv"
    words.write_text("1,two\n")
    floats = tmp_path / "floats.npy"
    np.save(floats, np.array([0.5]))
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    for path in (words, floats, pickled, tmp_path / "absent.npy"):
        with pytest.raises(RequestError, match=path.name):
            token_ids_from_file(path)


def test_a_file_of_requests_is_no_file_of_prompts(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt": "Once"}\n', encoding="utf-8")
    with pytest.raises(RequestError, match="holds objects") as caught:
        prompts_from_file(path)
    assert "--prompts" in str(caught.value.remedy)
    with pytest.raises(RequestError, match="cannot be read: No such file or directory\\.") as caught:
        prompts_from_file(tmp_path / "missing.txt")
    assert str(caught.value).count("missing.txt") == 1
