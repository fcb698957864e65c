"""The files of one commit into one folder: what is there already, what is fetched, and the record of both."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import DownloadError, StorageError
from ..progress import Phase, ProgressSink, phase
from ..storage import storage_error
from .download_record import DownloadRecord, RecordedFile, read_record
from .hub_errors import translate
from .hub_files import HubFile
from .hub_result import DownloadedFile, format_bytes
from .hub_transfer import Transfer, TransferStopped, digest_like

PARTIALS = ".trtbench-download"  # folder of unfinished files inside the model's folder


@dataclass(frozen=True)
class HubRequest:
    """What was asked for, with the endpoint settled and the patterns as lists."""

    repo_id: str
    revision: str
    endpoint: str
    token: str | bool | None
    include: list[str] | None
    exclude: list[str] | None


class DownloadJob:
    """The files of one commit into one folder, with the right to write it held."""

    def __init__(
        self, request: HubRequest, commit: str, directory: Path, listing: list[HubFile],
        chosen: list[HubFile], *,
        link_from_hub_cache: bool,
    ):  # fmt: skip
        self.request, self.commit, self.directory, self.chosen = request, commit, directory, chosen
        self.link_from_hub_cache = link_from_hub_cache
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reused: set[str] = set()
        self._transferred = 0
        self.record = self._begin({file.name for file in listing})

    def _begin(self, listed: set[str]) -> DownloadRecord:
        """Take over what an earlier download of the same model left, and remove its files that are gone or changed."""
        request = self.request
        earlier = read_record(self.directory)
        if earlier is not None and earlier.repo_id != request.repo_id:
            raise DownloadError(
                f"The folder holds a download of {earlier.repo_id}, not of {request.repo_id}.",
                where=str(self.directory), remedy="Choose another folder (--local-dir).",
            )  # fmt: skip
        record = DownloadRecord(
            request.repo_id, request.revision, self.commit, request.endpoint, request.include, request.exclude,
            wanted=[file.name for file in self.chosen],
        )  # fmt: skip
        if earlier is not None and earlier.commit == self.commit:
            record.files = dict(earlier.files)
        elif earlier is not None:
            kept = {file.name: file.digest for file in self.chosen}
            for name, file in earlier.files.items():
                if kept.get(name) is not None and kept[name] == file.digest:
                    record.files[name] = file
                elif name in kept or name not in listed or _is_weight(name):
                    # Left in place, a shard of the old commit would be read beside those of the new one.
                    (self.directory / name).unlink(missing_ok=True)
        return record

    def run(self, max_workers: int, progress: ProgressSink | None) -> tuple[int, tuple[DownloadedFile, ...]]:
        """Fetch what is missing; return bytes transferred and the files."""
        total = sum(file.bytes or 0 for file in self.chosen)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.record.downloaded_at = datetime.now(UTC).isoformat(timespec="seconds")
            self.record.write(self.directory)
        except OSError as error:
            raise storage_error(error, self.directory, "write the download") from error
        with phase("download", progress, total=total, unit="B") as counter:
            missing = [file for file in self.chosen if not self._is_here(file, counter)]
            self._check_space(missing)
            self._fetch_all(missing, max_workers, counter)
        self.record.complete = True
        self.record.write(self.directory)
        shutil.rmtree(self.directory / PARTIALS, ignore_errors=True)
        files = tuple(
            DownloadedFile(file.name, self.record.files[file.name].bytes, file.name in self._reused)
            for file in self.chosen
        )
        return self._transferred, files

    def _is_here(self, file: HubFile, counter: Phase) -> bool:
        """Whether the file is whole already: recorded with its digest and size, or of the right content."""
        path = self.directory / file.name
        recorded = self.record.files.pop(file.name, None)
        if not path.is_file() and self.link_from_hub_cache:
            self._link(file, path)
        if not path.is_file():
            return False
        size = path.stat().st_size
        if file.bytes is not None and size != file.bytes:
            return False
        trusted = recorded is not None and recorded.bytes == size and recorded.digest == file.digest
        if not trusted and (file.digest is None or digest_like(file.digest, path) != file.digest):
            return False
        self.record.files[file.name] = RecordedFile(size, file.digest)
        self._reused.add(file.name)
        counter.advance(size, message=file.name)
        return True

    def _link(self, file: HubFile, path: Path) -> None:
        """Take the file from the hub's own cache when it holds it at this commit."""
        import huggingface_hub

        found = huggingface_hub.try_to_load_from_cache(self.request.repo_id, file.name, revision=self.commit)
        if not isinstance(found, str):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(found), path)
        except OSError:
            shutil.copyfile(found, path)

    def _check_space(self, missing: list[HubFile]) -> None:
        partial_bytes = sum(path.stat().st_size for path in (self.directory / PARTIALS).glob("*"))
        needed = sum(file.bytes or 0 for file in missing) - partial_bytes
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise StorageError(
                f"The disk is too full: the download takes {format_bytes(needed)} more, {format_bytes(free)} are free.",
                where=str(self.directory), remedy="Free some disk space or choose another folder (--local-dir).",
            )  # fmt: skip

    def _fetch_all(self, missing: list[HubFile], max_workers: int, counter: Phase) -> None:
        from huggingface_hub.utils import build_hf_headers

        from .._version import __version__

        headers = build_hf_headers(token=self.request.token, library_name="trtbench-lab", library_version=__version__)
        pool = ThreadPoolExecutor(max(1, max_workers), thread_name_prefix="trtbench-download")
        try:
            pending = {pool.submit(self._fetch, file, headers, counter) for file in missing}
            done, _ = wait(pending, return_when=FIRST_EXCEPTION)
            for future in done:
                fault = future.exception()
                if fault is not None and not isinstance(fault, TransferStopped):
                    raise fault
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, file: HubFile, headers: dict[str, str], counter: Phase) -> None:
        from huggingface_hub import hf_hub_url

        request = self.request
        url = hf_hub_url(request.repo_id, file.name, revision=self.commit, endpoint=request.endpoint)
        tag = (file.digest or self.commit).partition(":")[2][:16] or self.commit[:16]
        partial = self.directory / PARTIALS / f"{file.name.replace('/', '--')}.{tag}"
        transfer = Transfer(
            file, url, headers, partial, self.directory / file.name,
            count=lambda change: counter.advance(change, message=file.name), stop=self._stop,
        )  # fmt: skip
        try:
            transfer.run()
        except (DownloadError, StorageError, TransferStopped):
            raise
        except Exception as fault:
            raise translate(
                fault, repo_id=request.repo_id, revision=request.revision, endpoint=request.endpoint
            ) from fault
        finally:
            with self._lock:
                self._transferred += transfer.transferred
        with self._lock:
            self.record.files[file.name] = RecordedFile(transfer.target.stat().st_size, file.digest)
            self.record.write(self.directory)


def _is_weight(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".index.json"))
