"""Downloads against a local hub: what is fetched, pinned, resumed, reused and refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save

from trtbench_lab.errors import DownloadError, IntakeError, StorageError
from trtbench_lab.intake import hub_job, hub_transfer
from trtbench_lab.intake.download_record import read_record
from trtbench_lab.intake.hub import download
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.progress import ProgressEvent

from .folders import LLAMA
from .hub_server import HubServer

REPO = "openai-community/gpt2"
WEIGHTS = save({"wte.weight": torch.arange(60_000.0)})  # 240 kB, above the size where the hub redirects
CONFIG = json.dumps({**LLAMA, "vocab_size": 512}).encode()
FILES = {
    "config.json": CONFIG,
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "model.safetensors": WEIGHTS,
}
UNNEEDED = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"# Model",
    "pytorch_model.bin": WEIGHTS,
    "tf_model.h5": WEIGHTS,
    "flax_model.msgpack": WEIGHTS,
    "rust_model.ot": WEIGHTS,
    "onnx/decoder.onnx": WEIGHTS,
    "model.gguf": WEIGHTS,
    "original/consolidated.00.pth": WEIGHTS,
    "modeling_x.py": b"raise SystemExit",
    "training_args.bin": b"x",
}


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "trtbench_download.json"
    }


def refused(*parts: str, **arguments: object) -> DownloadError:
    """Download, expect a refusal, and return it after checking what it must name."""
    with pytest.raises(DownloadError) as caught:
        download(**{"repo_id": REPO, **arguments})  # type: ignore[arg-type]
    assert caught.value.remedy
    for part in parts:
        assert part in str(caught.value)
    return caught.value


# What is fetched


def test_needed_files_arrive_and_the_commit_is_pinned(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, {**FILES, **UNNEEDED})
    result = download(REPO, local_dir=tmp_path / "model")
    assert content_of(tmp_path / "model") == FILES
    assert (result.commit, result.revision, result.endpoint) == (commit.sha, "main", hub.endpoint)
    assert result.directory == tmp_path / "model"
    assert result.transferred_bytes == result.total_bytes == sum(map(len, FILES.values()))
    assert result.reused_bytes == 0
    assert not any(file.reused for file in result.files)
    assert open_hf_folder(result.directory).shape("wte.weight") == (60_000,)


def test_the_hubs_own_client_fetches_the_same_from_this_server(hub: HubServer, tmp_path: Path) -> None:
    """The server speaks the API well enough for the library whose protocol it is."""
    commit = hub.add(REPO, FILES)
    folder = huggingface_hub.snapshot_download(REPO, endpoint=hub.endpoint, local_dir=tmp_path / "theirs")
    ours = download(REPO, local_dir=tmp_path / "ours")
    theirs = {name: data for name, data in content_of(Path(folder)).items() if not name.startswith(".cache")}
    assert theirs == content_of(ours.directory)
    assert huggingface_hub.HfApi(endpoint=hub.endpoint).model_info(REPO).sha == commit.sha == ours.commit


def test_record_says_what_came_from_where(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, FILES, revision="v1")
    download(REPO, revision="v1", local_dir=tmp_path)
    record = json.loads((tmp_path / "trtbench_download.json").read_text())
    assert (record["repo_id"], record["revision"], record["commit"]) == (REPO, "v1", commit.sha)
    assert record["endpoint"] == hub.endpoint
    assert record["complete"] is True
    assert record["files"]["model.safetensors"] == {
        "bytes": len(WEIGHTS),
        "digest": f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}",
    }
    # Git's own name of a blob, from `printf '{}' | git hash-object --stdin`.
    assert record["files"]["generation_config.json"]["digest"] == "git-sha1:9e26dfeeb6e641a33dae4961196235bdb965b21b"


def test_sharded_weights_come_with_their_index(hub: HubServer, tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": save({f"t{i}": torch.ones(i, 500)}) for i in (1, 2)}
    weight_map = {f"t{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    wanted = {
        "config.json": CONFIG,
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        **shards,
    }
    hub.add(REPO, {**wanted, **UNNEEDED, "consolidated.safetensors": WEIGHTS})
    result = download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == wanted
    assert sorted(open_hf_folder(result.directory).names()) == ["t1", "t2"]


def test_bin_comes_only_where_no_safetensors_are(hub: HubServer, tmp_path: Path) -> None:
    hub.add(
        REPO, {"config.json": CONFIG, "pytorch_model.bin": WEIGHTS, "optimizer.bin": WEIGHTS, "tf_model.h5": WEIGHTS}
    )
    download(REPO, local_dir=tmp_path)
    assert sorted(content_of(tmp_path)) == ["config.json", "pytorch_model.bin"]


def test_include_and_exclude_are_the_users_choice(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {**FILES, **UNNEEDED})
    download(REPO, local_dir=tmp_path / "a", include="*.json", exclude=["tokenizer*"])
    assert sorted(content_of(tmp_path / "a")) == ["config.json", "generation_config.json"]
    download(REPO, local_dir=tmp_path / "b", include=["onnx/", "*.py"])
    assert sorted(content_of(tmp_path / "b")) == ["modeling_x.py", "onnx/decoder.onnx"]
    download(REPO, local_dir=tmp_path / "c", exclude="tokenizer*")
    assert sorted(content_of(tmp_path / "c")) == ["config.json", "generation_config.json", "model.safetensors"]
    refused("No file matches", "config.json", include="*.xyz", local_dir=tmp_path / "d")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "model.gguf"], "only model.gguf"),
        (["config.json", "onnx/model.onnx"], "only onnx/model.onnx"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (["README.md"], "no weights"),
    ],
)
def test_repository_without_readable_weights(hub: HubServer, tmp_path: Path, files: list[str], message: str) -> None:
    hub.add(REPO, dict.fromkeys(files, b"x"))
    refused(message, local_dir=tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["../outside.json", "/etc/outside.json", "a/../../b.json", "a\\b.json", "C:/x.json"])
def test_names_that_leave_the_folder_are_refused(hub: HubServer, tmp_path: Path, name: str) -> None:
    hub.add(REPO, {**FILES, name: b"evil"})
    refused("outside the model's folder", local_dir=tmp_path / "model", include="*")
    assert not list(tmp_path.rglob("*.json"))


def test_default_folder_is_by_commit(hub: HubServer, own_home: Path) -> None:
    commit = hub.add(REPO, FILES)
    assert download(REPO).directory == own_home / "models" / "openai-community--gpt2" / commit.sha


def test_any_path(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    folder = tmp_path / "with space" / "模型-Größe[1]"
    download(REPO, local_dir=folder)
    assert content_of(folder) == FILES


def test_empty_file_arrives(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {**FILES, "merges.txt": b""})
    download(REPO, local_dir=tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == b""


def test_progress_counts_bytes(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.drop_after["model.safetensors"] = [100_000]
    events: list[ProgressEvent] = []
    result = download(REPO, local_dir=tmp_path, progress=events.append)
    last = [event for event in events if event.phase == "download"][-1]
    assert (last.state, last.done, last.total, last.unit) == ("done", result.total_bytes, result.total_bytes, "B")
    assert events[0].phase == "look up"


def test_result_is_readable(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, FILES)
    result = download(REPO, local_dir=tmp_path / "<b>")
    assert commit.sha[:12] in repr(result)
    assert "4 files, 240." in repr(result)
    assert "&lt;b&gt;" in result._repr_html_()
    assert "<b>" not in result._repr_html_()
    assert json.loads(json.dumps(result.to_dict()))["total_bytes"] == result.total_bytes


# Reuse and resume


def test_second_download_transfers_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    download(REPO, local_dir=tmp_path)
    sent = hub.bytes_sent
    again = download(REPO, local_dir=tmp_path)
    assert again.transferred_bytes == 0
    assert again.reused_bytes == again.total_bytes
    assert all(file.reused for file in again.files)
    assert len(hub.file_requests("model.safetensors")) == 2  # the first run's request and its redirection
    assert hub.bytes_sent - sent < 5000  # the model's page


def test_pinned_commit_needs_no_hub(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, FILES)
    download(REPO, local_dir=tmp_path)
    asked = len(hub.requests)
    assert download(REPO, revision=commit.sha, local_dir=tmp_path).transferred_bytes == 0
    assert len(hub.requests) == asked


def test_files_that_were_put_there_are_used_when_right(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "config.json").write_bytes(b"x" * len(CONFIG))  # the right size, other content
    result = download(REPO, local_dir=tmp_path)
    assert {file.name for file in result.files if file.reused} == {"model.safetensors"}
    assert content_of(tmp_path) == FILES


def test_connection_dropped_mid_file_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.drop_after["model.safetensors"] = [100_000, 50_000, 0, 10]
    result = download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES
    assert result.transferred_bytes == result.total_bytes  # no byte came twice
    ranges = [r.range for r in hub.file_requests("model.safetensors") if "/cdn/" in r.path]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150010-"]


DOWNLOAD = """
import sys
from trtbench_lab.intake.hub import download
print(download(sys.argv[1], local_dir=sys.argv[2]).transferred_bytes)
"""


def start_download(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DOWNLOAD, REPO, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_killed_download_is_not_taken_for_whole_and_continues(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.hold = threading.Event()
    with start_download(tmp_path / "model") as process:
        assert hub.half_way.wait(60)
        deadline = threading.Event()
        partials = tmp_path / "model" / ".trtbench-download"
        while not any(path.stat().st_size for path in partials.glob("model.safetensors*")):
            assert not deadline.wait(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    hub.hold.set()
    hub.hold = None
    assert not (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(IntakeError, match="unfinished"):
        open_hf_folder(tmp_path / "model")
    there = next(partials.glob("model.safetensors*")).stat().st_size
    hub.requests.clear()
    result = download(REPO, local_dir=tmp_path / "model")
    assert content_of(tmp_path / "model") == FILES
    assert hub.file_requests("model.safetensors")[0].range == f"bytes={there}-"
    assert result.transferred_bytes <= result.total_bytes - there
    assert not partials.exists()


def test_damaged_partial_file_is_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.drop_after["model.safetensors"] = [1000] + [0] * 20
    refused("stopped at byte 1,000 of", "continues there", local_dir=tmp_path)
    hub.drop_after.clear()
    partial = next((tmp_path / ".trtbench-download").glob("model.safetensors*"))
    partial.write_bytes(b"\xff" * partial.stat().st_size)
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_server_that_ignores_ranges(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.ignore_range = True
    hub.drop_after["model.safetensors"] = [100_000, 50_000]
    events: list[ProgressEvent] = []
    result = download(REPO, local_dir=tmp_path, progress=events.append)
    assert content_of(tmp_path) == FILES
    assert events[-1].done == result.total_bytes


def test_new_commit_replaces_what_changed_and_removes_stale_weights(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    download(REPO, local_dir=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    shard = save({"t": torch.zeros(1000)})
    newer = {k: v for k, v in FILES.items() if k != "model.safetensors"} | {"model-00001-of-00001.safetensors": shard}
    commit = hub.add(REPO, newer)
    result = download(REPO, local_dir=tmp_path)
    assert result.commit == commit.sha
    assert content_of(tmp_path) == {**newer, "notes.txt": b"mine"}
    assert result.transferred_bytes == len(shard)


def test_two_selections_share_a_folder(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    download(REPO, local_dir=tmp_path, include="*.json")
    result = download(REPO, local_dir=tmp_path, include="*.safetensors")
    assert content_of(tmp_path) == FILES
    assert result.transferred_bytes == len(WEIGHTS)
    assert download(REPO, local_dir=tmp_path).transferred_bytes == 0


def test_folder_of_another_model_is_refused_and_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.add("other/model", {**FILES, "config.json": b"{}"})
    download(REPO, local_dir=tmp_path)
    refused(f"a download of {REPO}, not of other/model", repo_id="other/model", local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_hubs_own_cache_is_linked_not_fetched(hub: HubServer, own_home: Path) -> None:
    hub.add(REPO, FILES)
    huggingface_hub.snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=huggingface_hub.constants.HF_HUB_CACHE)
    result = download(REPO)
    assert result.transferred_bytes == 0
    assert content_of(result.directory) == FILES
    assert (result.directory / "model.safetensors").stat().st_nlink == 2


def test_two_processes_into_one_folder(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.hold = threading.Event()
    with start_download(tmp_path / "model") as first:
        assert hub.half_way.wait(60)
        with start_download(tmp_path / "model") as second:
            asked = threading.Event()
            while sum("/api/" in r.path for r in hub.requests) < 2:  # the second has begun too
                assert not asked.wait(0.02)
            hub.hold.set()
            outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert content_of(tmp_path / "model") == FILES
    assert sorted(int(out) for out, _ in outputs) == [0, sum(map(len, FILES.values()))]


# Faults of servers


def test_busy_server_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.refuse = [(503, {}), (429, {"Retry-After": "0"}), (500, {})]
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_server_that_stays_busy_is_given_up(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.refuse = [(503, {})] * 100
    refused("attempts brought no more", local_dir=tmp_path)


@pytest.mark.parametrize("extra", [b"", b"!"])
def test_copy_of_another_size_on_the_server(hub: HubServer, tmp_path: Path, extra: bytes) -> None:
    hub.add(REPO, FILES)
    hub.stored["model.safetensors"] = WEIGHTS + extra if extra else WEIGHTS[:-100]
    refused(
        "model.safetensors", "too long" if extra else "truncated", f"the hub lists {len(WEIGHTS):,}",
        local_dir=tmp_path,
    )  # fmt: skip
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(IntakeError, match="unfinished"):
        open_hf_folder(tmp_path)


def test_truncated_copy_is_told_apart_when_resuming(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.drop_after["model.safetensors"] = [150_000] + [0] * 20
    refused("stopped at byte 150,000", local_dir=tmp_path)
    hub.drop_after.clear()
    hub.stored["model.safetensors"] = WEIGHTS[:100_000]  # now shorter than what is here: the server answers 416
    refused("The server's copy is truncated: it has 100,000 bytes", local_dir=tmp_path)
    hub.stored.clear()
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_altered_bytes_are_refused(hub: HubServer, tmp_path: Path, name: str) -> None:
    """Both kinds of digest are checked: SHA-256 of large files and git's SHA-1 of small ones."""
    hub.add(REPO, FILES)
    altered = bytearray(FILES[name])
    altered[-1] ^= 1
    hub.stored[name] = bytes(altered)
    refused(name, "digest differs", local_dir=tmp_path)
    assert not (tmp_path / name).exists()
    hub.stored.clear()
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_mirror_without_sizes(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.without_sizes = True
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES
    assert any("/tree/" in request.path for request in hub.requests)


@pytest.mark.parametrize(
    "answer", [b"<html>Sign in</html>", b"[]", b"null", b'{"sha": "../.."}', b"{}", b'{"siblings": 5}']
)
def test_server_that_is_no_hub(hub: HubServer, tmp_path: Path, answer: bytes) -> None:
    hub.answer = lambda path: (200, answer)
    refused("does not answer like a Hugging Face hub", "--mirror", local_dir=tmp_path)


def test_file_that_the_server_does_not_have(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.answer = lambda path: (404, b"") if path.endswith("/model.safetensors") else None
    refused("no such file", local_dir=tmp_path)


def test_status_500_of_the_page(hub: HubServer, tmp_path: Path) -> None:
    hub.answer = lambda path: (500, b"")
    refused("answered with status 500", local_dir=tmp_path)


# Refusals of the hub


def test_missing_model(hub: HubServer) -> None:
    refused("There is no model 'openai-community/gpt2'", "spelling", "HF_TOKEN")


def test_missing_revision_suggests_the_near_branch(hub: HubServer) -> None:
    hub.add(REPO, FILES)
    hub.add(REPO, FILES, revision="release-v2")
    refused("has no revision 'relaese-v2'", "Did you mean 'release-v2'", revision="relaese-v2")


def test_gated_model(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, FILES)
    hub.repos[REPO].gated, hub.repos[REPO].token = True, "hf_good"
    refused("is gated", f"{hub.endpoint}/{REPO}", "hf auth login", local_dir=tmp_path)
    refused("is gated", token="hf_other", local_dir=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    download(REPO, local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_private_model_needs_its_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.repos[REPO].token = "hf_good"
    refused("or it is private", token="hf_bad")
    download(REPO, token="hf_good", local_dir=tmp_path)
    assert content_of(tmp_path) == FILES


def test_expired_token(hub: HubServer) -> None:
    hub.add(REPO, FILES)
    refused("does not accept the token", "renew HF_TOKEN", token="expired_1")


def test_forbidden_and_limited(hub: HubServer) -> None:
    hub.answer = lambda path: (403, b"")
    refused("is forbidden", "read access")
    hub.answer = lambda path: (429, b"")
    refused("limits the rate")


def test_token_true_without_a_stored_one(hub: HubServer) -> None:
    hub.add(REPO, FILES)
    refused("No token is stored", token=True)


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "https://huggingface.co/gpt2", "../gpt2", "a b", "--x/y", "größe/x"])
def test_names_that_are_no_models(hub: HubServer, repo_id: str) -> None:
    refused("is not the name of a model", repo_id=repo_id)
    assert hub.requests == []


def test_local_folder_instead_of_a_model(hub: HubServer, tmp_path: Path) -> None:
    refused("needs no download", repo_id=str(tmp_path))


# Mirrors, tokens, no network


def test_mirror_argument_comes_before_the_environment(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, FILES)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download(REPO, local_dir=tmp_path, mirror=f"{hub.endpoint}/").endpoint == hub.endpoint
    assert content_of(tmp_path) == FILES


def test_stored_token_goes_to_the_endpoint_but_not_to_a_mirror_or_another_host(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(REPO, local_dir=tmp_path / "a")
    assert {r.token for r in hub.requests if r.host.startswith("127.")} == {"hf_secret"}
    assert {r.token for r in hub.requests if r.host.startswith("localhost")} == {None}
    hub.requests.clear()
    download(REPO, local_dir=tmp_path / "b", mirror=hub.endpoint)
    assert {r.token for r in hub.requests} == {None}
    hub.requests.clear()
    download(REPO, local_dir=tmp_path / "c", mirror=hub.endpoint, token="hf_for_mirror")
    assert "hf_for_mirror" in {r.token for r in hub.requests}
    assert "hf_" not in (tmp_path / "c" / "trtbench_download.json").read_text()


@pytest.mark.parametrize("mirror", ["hf-mirror.com", "ftp://hf-mirror.com", "http://"])
def test_mirror_that_is_no_address(mirror: str) -> None:
    refused("is not a web address", "--mirror", mirror=mirror)


@pytest.mark.usefixtures("hub")
def test_no_network_names_the_local_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        refused("could not be reached", "local model folder", "`demo`", "--mirror", local_dir=tmp_path)


def test_hub_switched_off(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("switched off by HF_HUB_OFFLINE", "local model folder")


@pytest.mark.parametrize("local", [True, False])
def test_without_network_an_earlier_download_serves(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    commit = hub.add(REPO, FILES)
    folder = tmp_path / "model" if local else None
    first = download(REPO, local_dir=folder)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = download(REPO, local_dir=folder)
    assert (result.commit, result.directory, result.transferred_bytes) == (commit.sha, first.directory, 0)
    assert "could not be asked" in repr(result)
    refused("could not be reached", revision="other", local_dir=folder)
    (first.directory / "config.json").unlink()
    refused("could not be reached", local_dir=folder)


# The disk


def test_full_disk_is_seen_before_the_transfer(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, FILES)
    usage = hub_job.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hub_job.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"takes 240\.\d kB more, 1\.0 kB are free"):
        download(REPO, local_dir=tmp_path)
    assert hub.file_requests("model.safetensors") == []


def test_disk_that_fills_during_the_transfer(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, FILES)

    class FullDisk(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub_transfer, "open", lambda path, mode: FullDisk(path, mode), raising=False)
    with pytest.raises(StorageError, match="disk is full"):
        download(REPO, local_dir=tmp_path)
    record = read_record(tmp_path)
    assert record is not None
    assert not record.complete


def test_folder_that_cannot_be_made(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        download(REPO, local_dir=tmp_path / "file" / "model")
