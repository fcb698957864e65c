"""Libraries by name, slices of a GPU, MPI of two kinds, shared memory: each state of a machine has its row."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from trtbench_lab.doctor import DoctorRow, libraries, mpi_library
from trtbench_lab.doctor.needs import NEEDED_FOR, needed_for


def only(rows: Iterator[DoctorRow]) -> DoctorRow:
    (row,) = rows
    return row


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    table: dict[str, str] = {}
    monkeypatch.setattr(libraries, "installed_version", table.get)
    monkeypatch.setattr(mpi_library, "installed_version", table.get)
    return table


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """A PATH that holds nothing but the scripts that the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))

    def put(name: str, script: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return put


@pytest.mark.parametrize(
    ("text", "cuda", "status", "found"),
    [
        (None, None, "missing", "none"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Fri", "13.0", "ok", "580.65.06, CUDA 13.0"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release",
            "12.9",
            "ok",
            "575.57.08, CUDA 12.9",
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Fri", None, "warning", "580.65.06"),
        (None, "12.4", "ok", "of unknown version, CUDA 12.4"),
    ],
)
def test_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cuda: str | None, status: str, found: str
) -> None:
    proc = tmp_path / "version"
    if text is not None:
        proc.write_text(text)
    monkeypatch.setattr(libraries, "driver_cuda_version", lambda: cuda)
    row = only(libraries.check_driver(proc))
    assert (row.status, row.found) == (status, found)
    assert row.remedy or row.status == "ok"


def test_slices_of_a_gpu(tool: Callable[[str, str], str]) -> None:
    assert list(libraries.check_mig()) == []  # no tool, no row
    tool("nvidia-smi", "echo '0, Disabled'; echo '1, Enabled'; echo '2, [N/A]'")
    row = only(libraries.check_mig())
    assert (row.component, row.status) == ("MIG of GPU 1", "warning")
    assert "nvidia-smi -i 1 -mig 0" in str(row.remedy)


@pytest.mark.parametrize(
    ("bindings", "answer", "status", "part"),
    [
        ({}, ("", ""), "missing", "only for TensorRT"),
        ({"tensorrt-cu13-bindings": "11.4.0.106"}, ("{}", ""), "ok", "All three load"),
        (
            {"tensorrt-cu12-bindings": "11.4.0.106"},
            (json.dumps({"libnvonnxparser.so.11": "libnvonnxparser.so.11: cannot open shared object file"}), ""),
            "warning",
            "cannot open shared object",
        ),
        ({"tensorrt-cu13-bindings": "11.4.0.106"}, ("", "it takes over 45 s"), "warning", "over 45 s"),
        ({"tensorrt-cu13-bindings": "11.4.0.106"}, ("gibberish", ""), "warning", "gibberish"),
    ],
)
def test_tensorrt_libraries(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, bindings: dict[str, str], answer: tuple[str, str],
    status: str, part: str,
) -> None:  # fmt: skip
    installed.update(bindings)
    monkeypatch.setattr(libraries, "child_output", lambda code: answer)
    row = only(libraries.check_tensorrt_libraries())
    assert row.status == status
    assert part in row.meaning
    if status == "warning":
        assert (
            f"pip install tensorrt-{'cu12' if 'tensorrt-cu12-bindings' in bindings else 'cu13'}-libs==11.4.0.106"
            in str(row.remedy)
        )


def test_libraries_are_really_tried_by_name(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed["tensorrt-cu13-bindings"] = "11.4.0.106"
    monkeypatch.setattr(libraries, "TENSORRT_LIBRARIES", ("libno_such_library.so.11", "libc.so.6"))
    row = only(libraries.check_tensorrt_libraries())
    assert row.found == "missing: libno_such_library.so.11"


@pytest.mark.parametrize(
    ("version", "status"), [(None, "missing"), ("3.6.0", "ok"), ("3.2.0", "warning"), ("4.0", "warning")]
)
def test_triton(installed: dict[str, str], version: str | None, status: str) -> None:
    if version:
        installed["triton"] = version
    row = only(libraries.check_triton())
    assert row.status == status
    assert row.remedy or status == "ok"


@pytest.mark.parametrize(("printed", "status"), [("2.27.3 (libnccl.so.2)", "ok"), ("", "missing")])
def test_nccl(monkeypatch: pytest.MonkeyPatch, printed: str, status: str) -> None:
    monkeypatch.setattr(libraries, "child_output", lambda code: (printed, ""))
    row = only(libraries.check_nccl())
    assert row.status == status
    assert printed in row.found or status == "missing"


@pytest.mark.parametrize(("free_gib", "status"), [(8, "ok"), (0.0625, "warning")])
def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, status: str) -> None:
    usage = SimpleNamespace(total=2**34, used=0, free=int(free_gib * 2**30))
    monkeypatch.setattr(libraries.shutil, "disk_usage", lambda folder: usage)
    row = only(libraries.check_shared_memory(tmp_path))
    assert row.status == status
    assert ("--shm-size" in str(row.remedy)) is (status == "warning")
    assert only(libraries.check_shared_memory(tmp_path / "none")).status == "missing"


OPEN_MPI = "Open MPI v5.0.11, package: Open MPI root@build Distribution"
MPICH = "MPICH Version:      5.0.2"


@pytest.mark.parametrize(
    ("library", "launcher", "status", "part"),
    [
        ((OPEN_MPI, ""), "echo 'mpiexec (Open MPI) 5.0.11'", "ok", "of one kind"),
        ((OPEN_MPI, ""), "echo 'HYDRA build details: Version: 5.0.2'", "warning", "believe to be alone"),
        ((MPICH, ""), "echo 'mpirun (Open MPI) 4.1.6'", "warning", "believe to be alone"),
        ((MPICH, ""), "echo 'HYDRA build details:'", "ok", "of one kind"),
        ((MPICH, ""), "exit 3", "ok", "of one kind"),
        ((MPICH, ""), None, "ok", "no launcher"),
        (("", "RuntimeError: cannot load MPI library"), None, "warning", "cannot load an MPI library"),
    ],
)
def test_kinds_of_mpi(
    installed: dict[str, str], tool: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch,
    library: tuple[str, str], launcher: str | None, status: str, part: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(mpi_library, "child_output", lambda code, **options: library)
    assert list(mpi_library.check_mpi_library()) == []  # without mpi4py another row says so
    installed["mpi4py"] = "4.1.2"
    if launcher is not None:
        tool("mpiexec", launcher)
    row = only(mpi_library.check_mpi_library())
    assert row.status == status
    assert part in row.meaning
    assert row.remedy or status == "ok"


def test_every_component_is_needed_for_something() -> None:
    assert needed_for("tensorrt") == "TensorRT engines"
    assert needed_for("GPU 0").startswith("TensorRT engines")
    assert needed_for("something else") == ""
    for number, (beginning, _) in enumerate(NEEDED_FOR):  # no entry is hidden by an earlier one
        assert not any(beginning.startswith(earlier) for earlier, _ in NEEDED_FOR[:number])
