"""From what a person types to a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import IntakeError, TrtbenchError
from trtbench_lab.workbench.labels import label_of
from trtbench_lab.workbench.places import model_dir_from, output_dir_for


@pytest.mark.parametrize(("source", "name"), [("demo", "gpt2"), ("demo:gpt2", "gpt2"), ("demo:llama", "llama")])
def test_demo_names_the_shipped_models(source: str, name: str):
    assert model_dir_from(source) == demo_model_dir(name)


def test_unknown_demo_is_named_with_the_nearest():
    with pytest.raises(TrtbenchError, match="lama"):
        model_dir_from("demo:lama")


def test_existing_folder_is_taken_as_it_is(tmp_path: Path):
    folder = tmp_path / "my models" / "größe"
    folder.mkdir(parents=True)
    assert model_dir_from(str(folder)) == folder


def test_missing_folder_names_its_neighbour(tmp_path: Path):
    (tmp_path / "gpt2-medium").mkdir()
    with pytest.raises(IntakeError) as caught:
        model_dir_from(str(tmp_path / "gpt2-medum"))
    assert "gpt2-medium" in str(caught.value)


@pytest.mark.parametrize("source", ["gpt2", "./org/model", "a/b/c", "no such thing"])
def test_what_is_no_folder_and_no_hub_id_is_refused_without_a_network(source: str, monkeypatch: pytest.MonkeyPatch):
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("trtbench_lab.intake.hub.download", reached)
    with pytest.raises(IntakeError):
        model_dir_from(source)


def test_cache_folder_depends_on_the_request_alone(own_home: Path):
    first = output_dir_for("convert", "gpt2", {"dtype": "float16"}, None)
    assert first == output_dir_for("convert", "gpt2", {"dtype": "float16"}, None)
    assert first != output_dir_for("convert", "gpt2", {"dtype": "float32"}, None)
    assert first.is_relative_to(own_home)
    assert output_dir_for("convert", "gpt2", {}, "there") == Path("there")


def test_snapshot_folders_are_known_by_the_models_name():
    assert label_of(Path("models/owner--name") / ("a" * 40)) == "owner/name"
    assert label_of("models/gpt2-medium") == "gpt2-medium"
