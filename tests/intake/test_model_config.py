"""What stands in a folder that is read as a Hugging Face model and is something else."""

from __future__ import annotations

import json

import pytest

from trtbench_lab.errors import IntakeError
from trtbench_lab.intake.model_config import read_model_config


@pytest.mark.parametrize(
    ("config", "said", "remedy"),
    [
        ({"architecture": "GPT2LMHeadModel", "mapping": {}}, "checkpoint already", "trtbench build --checkpoint_dir"),
        ({"version": "0.1.0", "pretrained_config": {"architecture": "x"}}, "This is an engine", "built from"),
        ({"hidden_size": 64}, "neither `architectures` nor `model_type`", "architectures"),
    ],
)
def test_another_kind_of_folder_is_called_what_it_is(tmp_path, config, said, remedy):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "rank0.safetensors").touch()
    with pytest.raises(IntakeError) as caught:
        read_model_config(tmp_path)
    assert said in caught.value.what
    assert remedy in str(caught.value.remedy)


def test_a_checkpoint_without_its_weights_is_not_sent_to_the_build_it_came_from(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "GPT2LMHeadModel"}', encoding="utf-8")
    with pytest.raises(IntakeError, match=r"rank0\.safetensors is missing") as caught:
        read_model_config(tmp_path)
    assert "Convert the model again" in str(caught.value.remedy)
