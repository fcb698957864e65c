"""The doctor's look at ranks, with launchers that say what those of real installations say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtbench_lab.distributed.mpi import Launcher
from trtbench_lab.doctor import mpi_preflight
from trtbench_lab.doctor.report import DoctorRow
from trtbench_lab.errors import WorldError
from trtbench_lab.ranks.shared_names import FOLDER, PREFIX


def only(rows: object) -> DoctorRow:
    (row,) = rows  # type: ignore[misc]
    return row


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_preflight, "installed_version", lambda name: "9.9")


def launcher(tmp_path: Path, script: str, kind: str = "MPICH") -> Launcher:
    path = tmp_path / "mpiexec"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Launcher((str(path),), kind, {})


@pytest.mark.parametrize(
    ("script", "status", "part"),
    [
        ("echo size 2 sum 3", "ok", "Started by"),
        ("echo size 1 sum 1; echo size 1 sum 1", "error", "believes to be alone"),
        ("echo 'no slots left on this host' >&2; exit 213", "error", "no slots left on this host"),
        ("exit 7", "error", "status 7"),
    ],
)
def test_a_trial_of_two_ranks(tmp_path: Path, script: str, status: str, part: str) -> None:
    row = only(mpi_preflight.check_ranks(launcher(tmp_path, script)))
    assert row.status == status
    assert part in row.meaning
    assert row.status == "ok" or row.remedy


def test_ranks_that_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_preflight, "_TRIAL_S", 0.2)
    row = only(mpi_preflight.check_ranks(launcher(tmp_path, "exec sleep 30")))
    assert (row.status, row.found) == ("error", "no answer")
    assert "firewall" in str(row.remedy)


def test_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Launcher:
        raise WorldError("There is no mpiexec.", remedy="Install one.")

    monkeypatch.setattr(mpi_preflight, "local_launcher", none)
    assert only(mpi_preflight.check_ranks()).status == "missing"
    assert list(mpi_preflight.check_root()) == [] or mpi_preflight.os.geteuid() != 0
    assert only(mpi_preflight.check_interfaces()).status == "ok"


@pytest.mark.parametrize(
    ("user", "kind", "allowed", "status"),
    [(1000, "Open MPI", "", "ok"), (0, "MPICH", "", "ok"), (0, "Open MPI", "", "warning"), (0, "Open MPI", "1", "ok")],
)
def test_rules_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, kind: str, allowed: str, status: str
) -> None:
    monkeypatch.setattr(mpi_preflight.os, "geteuid", lambda: user)
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", allowed)
    assert only(mpi_preflight.check_root(launcher(tmp_path, "true", kind))).status == status


def test_launchers_that_listen_beyond_this_machine_are_named(tmp_path: Path) -> None:
    for kind in ("MPICH", "Open MPI"):
        row = only(mpi_preflight.check_interfaces(launcher(tmp_path, "true", kind)))
        assert row.status == "warning"
        assert "every interface" in row.meaning
    fork = Launcher(("/opt/mpich/bin/mpiexec.gforker",), "MPICH", {})
    row = only(mpi_preflight.check_interfaces(fork))
    assert row.status == "ok"
    assert "lo" in row.found


@pytest.mark.parametrize(
    ("text", "status", "part"),
    [
        ("", "missing", "two GPUs"),
        ("1", "missing", "two GPUs"),
        ("4", "ok", "each other's memory"),
        ("4 0-2 2-0", "warning", "0-2, 2-0"),
    ],
)
def test_peer_access(monkeypatch: pytest.MonkeyPatch, text: str, status: str, part: str) -> None:
    monkeypatch.setattr(mpi_preflight, "child_output", lambda code: (text, ""))
    row = only(mpi_preflight.check_peers())
    assert row.status == status
    assert part in row.meaning


def test_slots_ipyparallel_and_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mpi_preflight.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert only(mpi_preflight.check_slots()).status == "warning"
    monkeypatch.setattr(mpi_preflight.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert only(mpi_preflight.check_slots()).found == "3"
    assert only(mpi_preflight.check_ipyparallel()).status == "ok"
    monkeypatch.setattr(mpi_preflight, "installed_version", lambda name: None)
    assert "trtbench-lab[mpi]" in str(only(mpi_preflight.check_ipyparallel()).remedy)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch" in only(mpi_preflight.check_slurm()).found


@pytest.mark.mpi
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_ranks_lines_do_not_run_into_each_other(monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    # Unbuffered, two ranks that each printed a line mixed them in half of all starts; now rank 0 alone answers.
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    left = FOLDER / f"{PREFIX}{os.getpid():x}_left{unbuffered}"  # a killed world's: a start that met it would fail
    left.touch()
    os.utime(left, (0, 0))
    rows = [only(mpi_preflight.check_ranks()) for _ in range(2)]
    assert not left.exists()
    assert [(row.status, row.meaning) for row in rows if row.status != "ok"] == []


@pytest.mark.mpi
def test_this_machine_starts_ranks() -> None:
    report = mpi_preflight.examine_mpi()
    assert report.row("MPI ranks").status == "ok"
    assert report.row("MPI library").status == "ok"
    assert report.row("interfaces").status in ("ok", "warning")
    assert report.exit_code == 0
