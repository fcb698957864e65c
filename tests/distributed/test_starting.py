"""What ranks are started with: the launcher of each MPI, its environment, the GPU of a rank, the job of Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trtbench_lab import workbench
from trtbench_lab.distributed import engine, mpi
from trtbench_lab.distributed.cell import ranks_from
from trtbench_lab.distributed.slurm import SlurmOptions
from trtbench_lab.distributed.world import World
from trtbench_lab.errors import SpecError, WorldError
from trtbench_lab.ranks.launch import OWN_GPU
from trtbench_lab.specs.command_line import parse
from trtbench_lab.specs.requests import MpiSpec


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("mpiexec (Open MPI) 5.0.11", "Open MPI"),
        ("mpiexec (OpenRTE) 4.1.6", "Open MPI"),
        ("prterun (PRRTE) 3.0.13", "Open MPI"),
        ("HYDRA build details:", "MPICH"),
        ("Intel(R) MPI Library for Linux", "MPICH"),
        ("something else", None),
    ],
)
def test_kinds_of_mpi(says: str, kind: str | None) -> None:
    assert mpi.kind_of(says) == kind


def test_mpich_is_started_by_the_launcher_that_opens_no_port(tmp_path: Path) -> None:
    mpiexec = program(tmp_path / "mpiexec", "echo HYDRA build details:")
    assert mpi.local_launcher(mpiexec).command == (mpiexec,)
    fork = program(tmp_path / "mpiexec.gforker", "true")
    launcher = mpi.local_launcher(mpiexec)
    assert launcher.command == (fork,)
    assert launcher.environment["UCX_TLS"] == "self,sm"


def test_open_mpi_is_told_what_root_and_one_machine_need(tmp_path: Path) -> None:
    mpiexec = program(tmp_path / "mpiexec", "echo 'mpiexec (Open MPI) 5.0.11'")
    assert mpi.local_launcher(mpiexec).kind == "Open MPI"
    root, other = (mpi.open_mpi_environment("mpiexec (Open MPI) 5.0.11", is_root=is_root) for is_root in (True, False))
    assert root["OMPI_ALLOW_RUN_AS_ROOT"] == root["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in other
    assert other["OMPI_MCA_btl"] == "self,sm"
    assert other["PRTE_MCA_rmaps_default_mapping_policy"] == ":oversubscribe"
    # Before 5, shared memory had another name, and this one ended the ranks' start.
    old = program(tmp_path / "old mpiexec", "echo 'mpiexec.openmpi (OpenRTE) 4.1.6'")
    assert mpi.local_launcher(old).environment["OMPI_MCA_btl"] == "self,vader"


def test_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "find_mpiexec", lambda: None)
    with pytest.raises(WorldError, match=r"no mpiexec"):
        mpi.local_launcher()


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({"MPI_LOCALRANKID": "1", "CUDA_VISIBLE_DEVICES": "4,6"}, "6,4"),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "4,6"}, "4,6"),
        ({"SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": "4,6,7"}, "7,4,6"),
        ({"SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": "4,6"}, "4,6"),  # more ranks than GPUs share them
        ({"PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": "GPU-aa, GPU-bb"}, "GPU-bb,GPU-aa"),
        ({"PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": "3"}, "3"),  # Slurm has given each its own
        ({"PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1", "TRTBENCH_WORLD_GPUS": "5,7"}, "7,5"),
        ({"PMI_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1", "TRTBENCH_WORLD_GPUS": ""}, "0,1"),
    ],
)
def test_each_rank_sees_its_gpu_first(
    environment: dict[str, str], visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
    for name in (*variables, OWN_GPU):
        monkeypatch.setenv(name, "")  # what is set by the rank itself goes, too, when the test ends
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    engine.pin_gpu()
    assert engine.os.environ["CUDA_VISIBLE_DEVICES"] == visible
    dealt = visible and environment.get("TRTBENCH_WORLD_GPUS") != ""
    assert engine.os.environ[OWN_GPU] == (visible.split(",")[0] if dealt else "")


LINE = (
    "start --launcher slurm --nodes 2 --ntasks-per-node 8 --gpus_per_node 8 --account research --partition gpu "
    "--time 02:00:00 --container_image nvcr.io/x:1 --container_mounts /data:/data --srun_mpi pmix --dry-run"
)


def test_a_dry_run_shows_profile_batch_script_and_script(tmp_path: Path) -> None:
    plan = workbench.mpi(parse("mpi", LINE.split()).spec)
    script = plan.batch_script
    for asked in (
        "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--account=research", "--partition=gpu",
        "--time=02:00:00",
    ):  # fmt: skip
        assert f"#SBATCH {asked}\n" in script
    last = script.splitlines()[-1]
    assert last.startswith("srun --kill-on-bad-exit=1 --mpi=pmix --container-image=nvcr.io/x:1")
    assert "--container-mounts=/data:/data" in last
    assert "-m trtbench_lab.distributed.engine --mpi" in last
    assert plan.srun_script.splitlines()[-1].endswith("trtbench run --engine_dir ENGINE")
    for text in (script, plan.srun_script):
        (tmp_path / "script").write_text(text)
        subprocess.run(["sh", "-n", str(tmp_path / "script")], check=True)
    # The profile is one that ipyparallel reads, with the very script that sbatch would get.
    from traitlets.config.loader import PyFileConfigLoader

    (tmp_path / "ipcluster_config.py").write_text(plan.profile)
    config = PyFileConfigLoader("ipcluster_config.py", path=str(tmp_path)).load_config()
    assert config.Cluster.n == 16
    settings = config.SlurmEngineSetLauncher
    words = " ".join([*settings.engine_cmd, *settings.engine_args])
    assert settings.batch_template.format(program_and_args=words) == script


def test_words_of_a_job_are_checked() -> None:
    with pytest.raises(WorldError, match="cannot stand in a line"):
        SlurmOptions(account="a\n#SBATCH --wrap=x").batch_script()
    with pytest.raises(WorldError, match="quotation mark"):
        SlurmOptions().srun_script("trtbench run 'x")
    assert SlurmOptions(container_image="a;rm b").srun_script("x").splitlines()[-1] == (
        "srun --kill-on-bad-exit=1 '--container-image=a;rm b' x"
    )
    braces = SlurmOptions(partition="a{b}").batch_script()
    assert "--partition=a{b}\n" in braces


def test_a_dry_run_is_of_slurm_alone() -> None:
    with pytest.raises(SpecError, match="--launcher slurm"):
        workbench.mpi(MpiSpec(action="start", dry_run=True))


def test_ranks_of_a_cell() -> None:
    assert parse("mpi", ["--ranks", "0,2-3"]).spec.ranks == (0, 2, 3)
    assert ranks_from((2, 0, 2), 3) == (0, 2)
    assert ranks_from(None, 2) == (0, 1)
    with pytest.raises(SpecError, match="no ranks 5, 9 in a world of 2"):
        ranks_from((0, 5, 9), 2)
    with pytest.raises(SpecError, match="must be ranks such as"):
        parse("mpi", ["--ranks", "0-x"])


def test_without_a_world_there_is_nothing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtbench_lab.distributed.world._current", None)
    report = workbench.mpi(MpiSpec())
    assert report.ranks == ()
    assert "%trt_mpi start" in repr(report)
    with pytest.raises(WorldError, match="There are no ranks"):
        World(2).run("1")
