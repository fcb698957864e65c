"""One file over HTTP: continued where it stopped, in this process or an earlier one, and checked against its digest.

The hub's own client keeps partial files only within a process (since huggingface_hub 2.0 a killed download of a 10 GB
shard starts again at zero), so the transfer is done here, over the client's HTTP session.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import DownloadError
from ..storage import storage_error
from .hub_errors import transport_errors
from .hub_files import HubFile

ATTEMPTS = 5  # attempts in a row that bring no new byte, before the transfer is given up
FIRST_WAIT_S = 1.0  # doubled from attempt to attempt
LONGEST_WAIT_S = 30.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class TransferStopped(Exception):
    """A signal between threads, never shown: another file failed, or the user interrupted."""


@dataclass
class Transfer:
    """The transfer of one file.

    Attributes
    ----------
    file
        What the hub lists.
    url, headers
        Where from; the headers may carry a token, which the HTTP library drops when redirected to another host.
    partial, target
        Where the bytes gather, and where the whole file is renamed to (same file system).
    count
        Called with the change in bytes that are there; negative when bytes had to be given up.
    stop
        Set to end the transfer at the next chunk.
    """

    file: HubFile
    url: str
    headers: dict[str, str]
    partial: Path
    target: Path
    count: Callable[[int], None]
    stop: threading.Event
    transferred: int = 0

    def run(self) -> None:
        """Fetch, check and put into place; raises `DownloadError`, `StorageError` or the HTTP library's exceptions."""
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.target.parent.mkdir(parents=True, exist_ok=True)
            continued = self._fill()
            if not self._is_right():
                self._discard()
                if not continued:
                    raise self._wrong_content()
                # The bytes of an earlier run may have been damaged with it; one fresh start tells.
                self._fill()
                if not self._is_right():
                    self._discard()
                    raise self._wrong_content()
            os.replace(self.partial, self.target)
        except OSError as error:
            if isinstance(error, transport_errors()) or _is_http(error):
                raise
            raise storage_error(error, self.target, "write the download") from error

    def _fill(self) -> bool:
        """Bring the partial file to its full length; return whether it began with bytes of an earlier run."""
        with open(self.partial, "ab") as handle:
            have = handle.tell()
            if self.file.bytes is not None and have > self.file.bytes:
                handle.truncate(0)
                have = 0
            started_with, furthest, idle = have, have, 0
            self.count(have)
            while self.file.bytes is None or have < self.file.bytes:
                self._check_stop()
                fault: Exception | None = None
                wait_s = 0.0
                finished = False
                try:
                    have, finished, wait_s = self._request(handle, have)
                except transport_errors() as dropped:
                    fault = dropped
                    have = handle.tell()
                if finished and self.file.bytes is None:
                    break
                idle = 0 if have > furthest else idle + 1
                furthest = max(furthest, have)
                if idle >= ATTEMPTS:
                    raise self._gave_up(have, fault)
                if idle and (self.file.bytes is None or have < self.file.bytes):
                    self._wait(max(wait_s, min(FIRST_WAIT_S * 2 ** (idle - 1), LONGEST_WAIT_S)))
            handle.flush()
            os.fsync(handle.fileno())  # the network is slower than the disk, so this costs next to nothing
        return started_with > 0

    def _request(self, handle: IO[bytes], have: int) -> tuple[int, bool, float]:
        """Send one request from byte `have` on; return bytes there, whether the body ended, seconds to wait."""
        import huggingface_hub
        from huggingface_hub import constants

        headers = {**self.headers, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        session = huggingface_hub.get_session()
        timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with session.stream("GET", self.url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
            if response.status_code in _TRY_AGAIN:
                return have, False, _retry_after_s(response)
            self._check_size(response)
            if response.status_code == 416 or (have and not _continues_at(response, have)):
                # The server cannot continue there: begin again, with this answer when it brings the whole file.
                self._give_up_bytes(handle, have)
                have = 0
                if response.status_code != 200:
                    return 0, False, 0.0
            if response.status_code >= 400:
                response.read()
                huggingface_hub.hf_raise_for_status(response)
            for chunk in self._chunks(response):
                if self.file.bytes is not None and have + len(chunk) > self.file.bytes:
                    self._give_up_bytes(handle, have)
                    raise DownloadError(
                        f"The server sends more than the {self.file.bytes:,} bytes that the hub lists.",
                        where=self.file.name, remedy="The mirror may be stale: try again, or without the mirror.",
                    )  # fmt: skip
                handle.write(chunk)
                have += len(chunk)
                self.transferred += len(chunk)
                self.count(len(chunk))
        return have, True, 0.0

    def _check_size(self, response: Any) -> None:
        """Refuse a server whose copy has another size before its bytes are fetched."""
        there = _whole_size(response)
        if there is not None and self.file.bytes is not None and there != self.file.bytes:
            cut = "truncated" if there < self.file.bytes else "too long"
            raise DownloadError(
                f"The server's copy is {cut}: it has {there:,} bytes, and the hub lists {self.file.bytes:,}.",
                where=self.file.name, remedy="The mirror may be stale or damaged: try later, or without the mirror.",
            )  # fmt: skip

    def _chunks(self, response: Any) -> Iterator[bytes]:
        # Pieces as they come (64 KiB): with a size given, the library gathers, and a drop loses what it has gathered.
        for chunk in response.iter_bytes():
            self._check_stop()
            yield chunk

    def _give_up_bytes(self, handle: IO[bytes], have: int) -> None:
        handle.truncate(0)
        handle.seek(0)
        self.count(-have)

    def _discard(self) -> None:
        self.count(-self.partial.stat().st_size)
        self.partial.unlink()

    def _is_right(self) -> bool:
        return self.file.digest is None or digest_like(self.file.digest, self.partial) == self.file.digest

    def _wrong_content(self) -> DownloadError:
        return DownloadError(
            "The bytes that arrived are not the ones the hub lists (digest differs); they were removed.",
            where=self.file.name, remedy="Try again; if it repeats, the mirror or a proxy alters files: avoid it.",
        )  # fmt: skip

    def _gave_up(self, have: int, fault: Exception | None) -> DownloadError:
        of = f" of {self.file.bytes:,}" if self.file.bytes is not None else ""
        reason = f": {str(fault).strip() or type(fault).__name__}" if fault is not None else ""
        return DownloadError(
            f"The transfer stopped at byte {have:,}{of} and {ATTEMPTS} attempts brought no more{reason}.",
            where=self.file.name,
            remedy="What arrived is kept: run the same download again and it continues there.",
            details=str(fault) if fault is not None else None,
        )

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise TransferStopped

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise TransferStopped


def digest_like(digest: str, path: Path) -> str:
    """Return the digest of the file at `path` in the same kind as `digest` (``sha256:…`` or ``git-sha1:…``)."""
    kind = digest.partition(":")[0]
    if kind == "sha256":
        state = hashlib.sha256()
    else:  # git names a file by the SHA-1 of a small header and its content; that is an identity here, not a safeguard
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb", buffering=0) as handle:
        while chunk := handle.read(1 << 22):
            state.update(chunk)
    return f"{kind}:{state.hexdigest()}"


def _continues_at(response: Any, offset: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _whole_size(response: Any) -> int | None:
    """Return the size of the whole file that an answer speaks of, or None when it does not say."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    if response.status_code in (206, 416):
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    elif response.status_code == 200:
        text = response.headers.get("Content-Length", "")
    else:
        return None
    return int(text) if text.isdigit() else None


def _retry_after_s(response: Any) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 120.0) if value.isdigit() else 0.0


def _is_http(error: OSError) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError)
