"""An engine folder is explained before it is loaded: version, machine, ranks, files, each for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtbench_lab import workbench
from trtbench_lab.cli import main
from trtbench_lab.doctor import DoctorRow, engine_fit, examination, examine
from trtbench_lab.doctor.engine_fit import check_engine
from trtbench_lab.engine.config import read_engine_config
from trtbench_lab.engine.verify import check_fit
from trtbench_lab.errors import EngineMismatchError
from trtbench_lab.specs import BuildConfig
from trtbench_lab.specs.requests import BuildSpec


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(home / "cache"))
        spec = BuildSpec(
            checkpoint_dir="demo:llama", output_dir=str(home / "engine"), build_config=BuildConfig(backend="torch")
        )
        return Path(workbench.build(spec).output_dir)


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of an engine whose config.json a test may change."""
    copy = tmp_path / "engine"
    copy.mkdir()
    for file in built.iterdir():
        if file.name != "config.json":
            (copy / file.name).hardlink_to(file)
    (copy / "config.json").write_bytes((built / "config.json").read_bytes())
    return copy


def changed(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in values.items():
        target = content
        *parents, last = name.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(content))
    return folder


def rows(folder: Path) -> dict[str, DoctorRow]:
    return {row.component: row for row in check_engine(folder)}


def test_an_engine_of_this_machine(folder: Path) -> None:
    found = rows(folder)
    assert {row.status for row in found.values()} == {"ok"}
    assert set(found) == {f"engine {part}" for part in ("folder", "backend", "version", "machine", "files", "ranks")}


def test_version_and_architecture_are_told_together(folder: Path) -> None:
    found = rows(changed(folder, backend_version="torch 1.0", machine_key="x86_64 cuda sm90"))
    assert found["engine version"].status == found["engine machine"].status == "error"
    assert "built with torch 1.0" in found["engine version"].found
    assert "sm90" in found["engine machine"].found
    assert "Build it again" in str(found["engine machine"].remedy)
    assert found["engine files"].status == "ok"


@pytest.mark.parametrize(
    ("level", "here", "status"),
    [
        ("none", "x86_64 cuda sm80 NVIDIA A100", "error"),
        ("ampere_plus", "x86_64 cuda sm80 NVIDIA A100", "ok"),
        ("ampere_plus", "x86_64 cuda sm75 Tesla T4", "error"),
        ("same_compute_capability", "x86_64 cuda sm90 NVIDIA H100", "ok"),
    ],
)
def test_engines_for_several_gpus_are_judged_as_a_load_judges_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, level: str, here: str, status: str
) -> None:
    from trtbench_lab.backends import registry
    from trtbench_lab.backends.protocol import Availability
    from trtbench_lab.backends.tensorrt import builder as tensorrt_builder

    builder = tensorrt_builder.TensorRTBuilder()
    monkeypatch.setattr(tensorrt_builder, "machine_key", lambda: here)
    monkeypatch.setattr(builder, "version", lambda: "tensorrt 11.4.0.106", raising=False)
    monkeypatch.setattr(builder, "available", lambda: Availability(True, "here"), raising=False)
    monkeypatch.setattr(registry, "backend", lambda name: builder)
    changed(
        folder,
        backend="tensorrt",
        backend_version="tensorrt 11.4.0.106",
        machine_key="x86_64 cuda sm90 NVIDIA H200",
        build_config__hardware_compatibility=level,
    )
    row = rows(folder)["engine machine"]
    assert row.status == status
    assert "sm90 NVIDIA H200" in row.found
    if status == "ok":
        check_fit(read_engine_config(folder), builder, "engine")
    else:
        with pytest.raises(EngineMismatchError):
            check_fit(read_engine_config(folder), builder, "engine")


@pytest.mark.parametrize(("gpus", "status", "part"), [(1, "error", "needs 2 GPUs"), (2, "warning", "2 processes")])
def test_ranks_against_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, status: str, part: str) -> None:
    monkeypatch.setattr(engine_fit, "_gpu_count", lambda: gpus)
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    changed(folder, pretrained_config__mapping=mapping, gpu={"name": "NVIDIA H200", "compute_capability": "9.0"})
    found = rows(folder)
    assert found["engine ranks"].status == status
    assert part in found["engine ranks"].meaning
    assert found["engine files"].status == "error"  # and the second rank's file is not there


def test_a_backend_that_is_not_here(folder: Path) -> None:
    found = rows(changed(folder, backend="tensorrt", backend_version="tensorrt 11.4.0.106"))
    assert found["engine backend"].status == "error"
    assert "tensorrt 11.4.0.106" in found["engine backend"].found
    assert "engine version" not in found


def test_damaged_absent_and_newer_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "rank0.engine").unlink()
    (folder / "rank0.engine").write_bytes(b"short")
    assert "truncated" in rows(folder)["engine files"].meaning
    (absent,) = check_engine(tmp_path / "nowhere")
    assert absent.status == "error"
    (newer,) = check_engine(changed(folder, format_version=99))
    assert "format version 99" in newer.meaning


def test_shell(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_CHECKS", ())  # the machine itself is looked at elsewhere
    assert main(["doctor", "torch", "--engine_dir", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["component"] == "engine folder"
    assert main(["doctor", "torch", "--engine_dir", str(changed(folder, machine_key="riscv cpu"))]) == 1
    assert "riscv cpu" in capsys.readouterr().out


def test_engine_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_CHECKS", ())
    report = examine("torch", engine_dir=folder)
    assert report.rows[0].component == "engine folder"
    assert report.row("engine files").needed_for == "this engine"
