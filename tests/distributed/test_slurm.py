"""Ranks in a Slurm job: a stand-in for Slurm that really starts them, and two hosts where the machine lends them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtbench_lab import workbench
from trtbench_lab.distributed import mpi
from trtbench_lab.distributed.faults import DeadRankError
from trtbench_lab.distributed.keeper import processes_of
from trtbench_lab.distributed.slurm import SlurmOptions
from trtbench_lab.distributed.world import World
from trtbench_lab.errors import WorldError
from trtbench_lab.specs.command_line import parse
from trtbench_lab.workbench.ranks import started_world

from .conftest import wait_for

pytestmark = pytest.mark.mpi

SBATCH = r"""#!/bin/sh
# Starts a batch script at once, in a session of its own, with the variables of a job.
for script in "$@"; do :; done
grep -q REFUSE "$script" && { echo "sbatch: error: Invalid account" >&2; exit 1; }
cp "$script" "$SLURM_STATE/script"
asked() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
nodes=$(asked nodes); each=$(asked ntasks-per-node); output=$(asked output)
export SLURM_JOB_ID=4242 SLURM_NNODES=$nodes SLURM_NTASKS=$((nodes * each))
setsid sh "$script" > "$output" 2>&1 < /dev/null &
echo $! > "$SLURM_STATE/job"
echo "Submitted batch job 4242"
"""
SRUN = r"""#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec $SLURM_STARTS -n "$SLURM_NTASKS" "$@"
"""
SQUEUE = r"""#!/bin/sh
kill -0 "$(cat "$SLURM_STATE/job")" 2>/dev/null && echo RUNNING
exit 0
"""
SCANCEL = r"""#!/bin/sh
echo "$@" >> "$SLURM_STATE/cancelled"
kill -KILL -- "-$(cat "$SLURM_STATE/job")" 2>/dev/null
exit 0
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on PATH; return its folder of notes."""
    programs, state = tmp_path / "bin", tmp_path / "slurm"
    programs.mkdir()
    state.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STATE", str(state))
    launcher = mpi.local_launcher()
    monkeypatch.setenv("SLURM_STARTS", " ".join(launcher.command))
    for name, value in launcher.environment.items():  # what Slurm's own start would not need
        monkeypatch.setenv(name, value)
    return state


def test_ranks_of_a_job_behave_as_ranks_of_this_machine(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UCX_TLS", "self,sm")
    line = "start --launcher slurm --nodes 2 --ntasks-per-node 1 --account lab --interface 127.0.0.1 --shared_dir "
    line += str(tmp_path / "s")
    world = started_world(parse("mpi", line.split()).spec)
    try:
        report = workbench.mpi(parse("mpi", ["status"]).spec)
        assert [one.state for one in report.ranks] == ["idle", "idle"]
        assert "in a Slurm job" in repr(report)
        assert world.run("comm.allreduce(rank + 1)").values == [3, 3]
        submitted = (slurm / "script").read_text()
        assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --account=lab\n" in submitted
        # A rank dies: the job is cancelled, and the next cell brings another.
        with pytest.raises(DeadRankError):
            world.run("import os\nif rank == 1: os.kill(os.getpid(), 9)\ncomm.Barrier()", timeout_s=60)
        assert (slurm / "cancelled").read_text() == "4242\n"
        assert world.run("rank").values == [0, 1]
    finally:
        workbench.mpi(parse("mpi", ["stop"]).spec)
    assert wait_for(lambda: not processes_of(world.id), 5)
    assert (slurm / "cancelled").read_text() == "4242\n4242\n"


def test_what_slurm_says_is_passed_on(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SlurmOptions(account="REFUSE", interface="127.0.0.1", shared_dir=str(tmp_path / "s"))
    with pytest.raises(WorldError, match=r"sbatch refused the job: .*Invalid account"):
        World(launcher="slurm", slurm=options).start()
    (slurm / "fails").write_text("#!/bin/sh\necho srun: error: no such image\nexit 1\n")
    (slurm / "fails").chmod(0o755)
    monkeypatch.setenv("SLURM_STARTS", str(slurm / "fails"))
    options = SlurmOptions(interface="127.0.0.1", shared_dir=str(tmp_path / "s"))
    with pytest.raises(WorldError, match=r"Slurm's job 4242 has ended[\s\S]*no such image"):
        World(launcher="slurm", slurm=options).start()
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(WorldError, match="no sbatch on this machine"):
        World(launcher="slurm", slurm=options).start()
    assert not list((tmp_path / "s").iterdir())


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, list[str], list[str]]]:
    """Lend two hosts: address of this one, theirs, and what runs a program on each.

    Where this machine allows it they are network namespaces with names of their own, joined by a bridge that leads
    nowhere else; otherwise two addresses of the loopback interface.
    """
    names, bridge = ["trtbench-a", "trtbench-b"], "trtbench0"
    try:
        _ip(f"link add {bridge} type bridge")
    except (OSError, subprocess.CalledProcessError):
        yield "127.0.0.1", ["127.0.0.2", "127.0.0.3"], ["", ""]
        return
    try:
        _ip(f"addr add 10.213.77.1/24 dev {bridge}")
        _ip(f"link set {bridge} up")
        for number, name in enumerate(names):
            _ip(f"netns add {name}")
            _ip(f"link add trtb{number} type veth peer name eth0 netns {name}")
            _ip(f"link set trtb{number} master {bridge} up")
            _ip(f"-n {name} addr add 10.213.77.{number + 2}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {name} link set lo up")
        enter = [f"ip netns exec {name} unshare --uts sh -c 'hostname {name}; exec \"$@\"' sh" for name in names]
        yield "10.213.77.1", ["10.213.77.2", "10.213.77.3"], enter
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def test_ranks_on_two_hosts(
    slurm: Path, two_hosts: tuple[str, list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, addresses, enter = two_hosts
    beside = Path(sys.executable).with_name("mpiexec.hydra")
    hydra = str(beside) if beside.exists() else shutil.which("mpiexec.hydra")
    if hydra is None:
        pytest.skip("ranks of several hosts are started here by MPICH's mpiexec.hydra")
    # In place of ssh: HOST PROGRAM …, run in that host's namespace.
    remote = tmp_path / "bin" / "remote"
    cases = "".join(f'{address}) exec {way} "$@";;\n' for address, way in zip(addresses, enter, strict=True))
    remote.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
        f'set -- sh -c "$*"\ncase $host in\n{cases}esac\n'
    )
    remote.chmod(0o755)
    starts = f"{hydra} -localhost {here} -launcher ssh -launcher-exec {remote} -hosts {','.join(addresses)} -ppn 1"
    monkeypatch.setenv("SLURM_STARTS", starts)
    monkeypatch.setenv("UCX_TLS", "self,tcp")
    options = SlurmOptions(nodes=2, ntasks_per_node=1, interface=here, shared_dir=str(tmp_path / "s"))
    with World(launcher="slurm", slurm=options) as world:
        hosts = [one.host for one in world.status()]
        assert hosts == (["trtbench-a", "trtbench-b"] if enter[0] else [os.uname().nodename] * 2)
        assert world.run("comm.allreduce(rank + 1)").values == [3, 3]
        total = world.run("import numpy\nx = numpy.ones(1 << 20)\ncomm.Allreduce(numpy.copy(x), x)\nfloat(x.sum())")
        assert total.values == [2.0 * (1 << 20)] * 2
        # A rank of another host is interrupted, and its stack is read, through its own machine.
        with pytest.raises(Exception, match=r"within its 1 s[\s\S]*line 2 of the cell: comm.Barrier\(\)"):
            world.run("if rank == 0:\n    comm.Barrier()\nimport time\ntime.sleep(60)", timeout_s=1)
        assert world.run("rank").values == [0, 1]
    assert wait_for(lambda: not processes_of(world.id), 5)
