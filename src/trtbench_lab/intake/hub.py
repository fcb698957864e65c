"""Fetch a model from a Hugging Face hub or a mirror: pinned, resumable, checked, and only the files needed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import DownloadError, FolderInUseError
from ..progress import ProgressSink, phase
from ..storage import folder_lock, home_dir
from .download_record import DownloadRecord, read_record
from .hub_errors import translate, transport_errors
from .hub_files import HubFile, select_files
from .hub_job import DownloadJob, HubRequest
from .hub_result import DownloadedFile, DownloadResult

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    local_dir: Path | str | None = None,
    mirror: str | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    token: str | bool | None = None,
    max_workers: int = 4,
    progress: ProgressSink | None = None,
) -> DownloadResult:
    """Fetch a model's files and pin its revision.

    Parameters
    ----------
    repo_id
        ``owner/name`` on the hub.
    revision
        Branch, tag or full commit hash; the default branch when None. It is resolved to a commit once, and every file
        comes from that commit.
    local_dir
        Where the files go; otherwise ``models/owner--name/<commit>`` in this project's cache folder, where files that
        the hub's own cache already holds at this commit are linked instead of fetched.
    mirror
        Address of a server with the hub's API; otherwise ``HF_ENDPOINT``, otherwise the hub itself. A token stored on
        this machine is never sent to a `mirror` given here; pass `token` to send one.
    include, exclude
        Shell patterns over the repository's paths; see `hub_files.select_files` for the default selection.
    token
        Access token; None uses the stored one or ``HF_TOKEN``, False none at all.
    max_workers
        Files fetched at the same time.
    progress
        Sink for the phases ``"look up"``, ``"wait for another download"`` and ``"download"`` (in bytes).

    Returns
    -------
    DownloadResult
        The folder, the pinned commit, and the files. `trtbench_download.json` beside them says the same.

    Raises
    ------
    DownloadError
        Unknown, private or gated model, unknown revision, no network, a server that does not behave, damaged bytes.
    StorageError
        Disk full or not writable.
    """
    started = time.monotonic()
    _check_repo_id(repo_id)
    endpoint, token = _endpoint_and_token(mirror, token)
    request = HubRequest(repo_id, revision or DEFAULT_REVISION, endpoint, token, _patterns(include), _patterns(exclude))
    folder = Path(local_dir).expanduser() if local_dir is not None else None

    pinned = _already_here(request, folder, any_commit=False)
    if pinned is not None:  # a commit names its content, so a whole folder of that commit needs no question to the hub
        return _reused_result(request, *pinned, started, ())
    try:
        with phase("look up", progress):
            commit, listing = _look_up(request)
    except DownloadError as fault:
        earlier = _already_here(request, folder, any_commit=True) if isinstance(fault, _Unreachable) else None
        if earlier is None:
            raise
        note = f"The hub could not be asked; this is the download of {earlier[1].downloaded_at[:10]}."
        return _reused_result(request, *earlier, started, (note,))
    chosen = select_files(listing, include=request.include, exclude=request.exclude, repo_id=repo_id)
    directory = folder if folder is not None else _cache_folder(repo_id) / commit
    with _sole_writer(directory, progress):
        job = DownloadJob(request, commit, directory, listing, chosen, link_from_hub_cache=folder is None)
        transferred, files = job.run(max_workers, progress)
    reused = sum(file.bytes for file in files) - transferred
    elapsed_s = time.monotonic() - started
    return DownloadResult(
        directory, repo_id, request.revision, commit, endpoint, files, transferred, max(reused, 0), elapsed_s
    )


class _Unreachable(DownloadError):
    """The hub could not be asked at all, so that an earlier download may serve."""


def _look_up(request: HubRequest) -> tuple[str, list[HubFile]]:
    """Ask the hub for the commit behind the revision and for that commit's files."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    api = huggingface_hub.HfApi(endpoint=request.endpoint, token=request.token)
    told = {"repo_id": request.repo_id, "revision": request.revision, "endpoint": request.endpoint}
    try:
        info = api.model_info(
            request.repo_id, revision=request.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        listing = [_hub_file(item.rfilename, item.size, item.blob_id, item.lfs) for item in info.siblings or ()]
        if any(file.bytes is None for file in listing) or not listing:
            # A mirror that leaves sizes out of the model's page may still give them in the tree.
            tree = api.list_repo_tree(request.repo_id, recursive=True, revision=info.sha)
            files = [item for item in tree if hasattr(item, "size")]  # the others are folders
            listing = [_hub_file(item.path, item.size, item.blob_id, item.lfs) for item in files]
    except (*transport_errors(), errors.OfflineModeIsEnabled) as fault:
        translated = translate(fault, **told)
        raise _Unreachable(
            translated.what, where=translated.where, remedy=translated.remedy, details=translated.details
        ) from fault
    except Exception as fault:  # huggingface_hub lets whatever a foreign server's answer leads to pass through
        raise translate(fault, **told, api=api) from fault
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise translate(ValueError(f"commit {info.sha!r}"), **told)
    return info.sha, listing


def _hub_file(name: str, size: int | None, blob_id: str | None, lfs: Any) -> HubFile:
    sha256 = getattr(lfs, "sha256", None) or (lfs.get("sha256") if isinstance(lfs, dict) else None)
    if sha256:
        return HubFile(name, size, f"sha256:{sha256}")
    is_git = isinstance(blob_id, str) and _COMMIT.fullmatch(blob_id) and lfs is None
    return HubFile(name, size, f"git-sha1:{blob_id}" if is_git else None)


def _already_here(request: HubRequest, folder: Path | None, *, any_commit: bool) -> tuple[Path, DownloadRecord] | None:
    """Find a whole earlier download of the same selection: of the very commit, or of the same revision's name."""
    if folder is None and _COMMIT.fullmatch(request.revision):
        candidates = [_cache_folder(request.repo_id) / request.revision]
    elif folder is None:
        candidates = sorted(_cache_folder(request.repo_id).glob("*")) if any_commit else []
    else:
        candidates = [folder]
    found = []
    for directory in candidates:
        record = read_record(directory)
        if record is None or not record.complete or record.repo_id != request.repo_id:
            continue
        named = record.commit == request.revision or (any_commit and record.revision == request.revision)
        if named and record.same_selection(request.include, request.exclude) and _all_there(directory, record):
            found.append((directory, record))
    return max(found, key=lambda item: item[1].downloaded_at, default=None)


def _all_there(directory: Path, record: DownloadRecord) -> bool:
    try:
        return all((directory / name).stat().st_size == record.files[name].bytes for name in record.wanted)
    except (OSError, KeyError):
        return False


def _reused_result(
    request: HubRequest, directory: Path, record: DownloadRecord, started: float, notes: tuple[str, ...]
) -> DownloadResult:
    files = tuple(DownloadedFile(name, record.files[name].bytes, True) for name in record.wanted)
    reused = sum(file.bytes for file in files)
    elapsed_s = time.monotonic() - started
    return DownloadResult(
        directory, request.repo_id, request.revision, record.commit, record.endpoint, files, 0, reused, elapsed_s, notes
    )


@contextmanager
def _sole_writer(directory: Path, progress: ProgressSink | None) -> Iterator[None]:
    """Wait until no other process downloads into `directory`; what it fetched is then found there."""
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(directory))
        except FolderInUseError as in_use:
            with phase("wait for another download", progress) as waiting:
                waiting.advance(0, message=in_use.what)
                entered = False
                while not entered:
                    with suppress(FolderInUseError):
                        held.enter_context(folder_lock(directory, timeout_s=0.5))
                        entered = True
                    waiting.advance(0)
        yield


def _endpoint_and_token(mirror: str | None, token: str | bool | None) -> tuple[str, str | bool | None]:
    # Read now, not through huggingface_hub.constants: a notebook sets HF_ENDPOINT after the import.
    endpoint = (mirror or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(
            f"The mirror's address {endpoint!r} is not a web address.",
            where="--mirror" if mirror else "HF_ENDPOINT", remedy="It reads like https://huggingface.co.",
        )  # fmt: skip
    if token is None and mirror is not None and endpoint != DEFAULT_ENDPOINT:
        token = False
    return endpoint, token


def _check_repo_id(repo_id: str) -> None:
    if re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", repo_id, re.ASCII) and not repo_id.startswith((".", "-")):
        return
    if Path(repo_id).expanduser().is_dir():
        remedy = "This is a local folder: it needs no download, give it to `convert` as it is."
    else:
        remedy = "It reads owner/name, for example openai-community/gpt2-medium."
    raise DownloadError(f"{repo_id!r} is not the name of a model on a hub.", remedy=remedy)


def _cache_folder(repo_id: str) -> Path:
    return home_dir() / "models" / repo_id.replace("/", "--")


def _patterns(patterns: str | Sequence[str] | None) -> list[str] | None:
    if patterns is None:
        return None
    return [patterns] if isinstance(patterns, str) else list(patterns)
