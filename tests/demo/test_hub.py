"""The hub of the demo models is a hub: the real download code fetches from it, and what comes is the model."""

from __future__ import annotations

import urllib.error
import urllib.request

import huggingface_hub.constants
import pytest

from trtbench_lab.demo import DEMO_MODELS, demo_model_dir
from trtbench_lab.demo.hub import DemoHub
from trtbench_lab.errors import DownloadError
from trtbench_lab.intake.hub import download


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs with the hub switched off; this hub is on the machine itself."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_download_brings_the_models_bytes(name, tmp_path):
    with DemoHub() as hub:
        fetched = download(f"demo/{name}", mirror=hub.url, local_dir=tmp_path / name)
        again = download(f"demo/{name}", mirror=hub.url, local_dir=tmp_path / name)
    assert again.commit == fetched.commit
    assert again.transferred_bytes == 0
    source = demo_model_dir(name)
    for file in fetched.files:
        assert (tmp_path / name / file.name).read_bytes() == (source / file.name).read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in fetched.files}


def test_config_alone_can_be_fetched(tmp_path):
    with DemoHub() as hub:
        fetched = download("demo/llama", mirror=hub.url, include=["config.json"], local_dir=tmp_path / "m")
    assert [file.name for file in fetched.files] == ["config.json"]


def test_what_is_not_there_is_said(tmp_path):
    with DemoHub() as hub:
        with pytest.raises(DownloadError):
            download("demo/mistral", mirror=hub.url, local_dir=tmp_path / "m")
        with pytest.raises(DownloadError):
            download("demo/gpt2", revision="nightly", mirror=hub.url, local_dir=tmp_path / "m")
        for path in ("/demo/gpt2/resolve/main/../../../etc/passwd", "/demo/gpt2/resolve/main/%2e%2e/hub.py"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(hub.url + path)
            assert caught.value.code == 404
        assert hub.url.startswith("http://127.0.0.1:")
