"""Control messages where torchrun, not MPI, has started the ranks: through torch's key-value store."""

from __future__ import annotations

import os
import pickle
import threading
import time
from datetime import timedelta
from typing import Any, NoReturn

from .distributed import start_process_group

_LONG = timedelta(days=30)


class StoreControl:
    """See `protocol.Control`. A message costs about 0.1 ms, against 5 µs by MPI."""

    def __init__(self) -> None:
        import torch.distributed as dist

        start_process_group()
        self._dist: Any = dist
        self._store = dist.PrefixStore("trtbench-control", dist.distributed_c10d._get_default_store())
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._lock = threading.Lock()
        self._number = self._shared = self._heard = 0

    def post(self, message: Any) -> None:
        with self._lock:
            self._store.set(f"message/{self._number}", pickle.dumps(message))
            self._number += 1

    def take(self) -> Any:
        key = f"message/{self._number}"
        self._number += 1
        self._store.wait([key], _LONG)
        return _loaded(self._store.get(key))

    def share(self, value: Any) -> list[Any]:
        number, self._shared = self._shared, self._shared + 1
        self._store.set(f"share/{number}/{self.rank}", pickle.dumps(value))
        keys = [f"share/{number}/{rank}" for rank in range(self.size)]
        self._store.wait(keys, _LONG)
        return [_loaded(self._store.get(key)) for key in keys]

    def confirm(self) -> None:
        self._heard += 1
        self._store.set(f"heard/{self._heard}/{self.rank}", "1")

    def confirmed(self, timeout_s: float) -> bool:
        self._heard += 1
        keys = [f"heard/{self._heard}/{rank}" for rank in range(1, self.size)]
        until = time.monotonic() + timeout_s
        while not self._store.check(keys):
            if time.monotonic() > until:
                return False
            time.sleep(1e-3)
        return True

    def abort(self, code: int = 1) -> NoReturn:
        os._exit(code)  # the launcher ends the others when one fails


def _loaded(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - from the ranks of this very job
