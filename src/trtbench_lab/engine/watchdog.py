"""A tiny process beside each build worker: when the owner of the build is gone, it ends the worker's whole group.

The worker cannot do this itself: native code that holds the interpreter's lock would keep its threads from noticing,
and the processes that a backend starts (compilers) have no idea who owns them. A death signal of the kernel
(``PR_SET_PDEATHSIG``) follows the *thread* that started the child and spares grandchildren. So the owner holds the
write end of a pipe that nobody ever writes to, and the watchdog waits for its end.
"""

from __future__ import annotations

import os
import select
import signal

_CHECK_OWNER_S = 2.0  # for an owner whose forked children keep the pipe open after its death


def start_watchdog(life_fd: int, owner_pid: int) -> int | None:
    """Fork the watchdog of this process group; call it first thing, while the process has one thread.

    Parameters
    ----------
    life_fd
        Read end of the pipe whose write end only the owner holds. The caller's copy is closed.
    owner_pid
        Process id of the owner.

    Returns
    -------
    int or None
        The watchdog's process id; None when this process does not lead a group of its own, which is then not ours
        to end.
    """
    if os.getpgrp() != os.getpid():
        return None
    pid = os.fork()
    if pid == 0:
        try:
            _watch(life_fd, owner_pid)
        finally:
            os._exit(0)
    os.close(life_fd)
    return pid


def _watch(life_fd: int, owner_pid: int) -> None:
    os.closerange(0, life_fd)  # above all the log and event pipes, whose end tells the owner that the worker is gone
    os.closerange(life_fd + 1, 1024)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    while True:
        ready, _, _ = select.select([life_fd], [], [], _CHECK_OWNER_S)
        if ready or not _alive(owner_pid):
            break
    os.killpg(0, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
