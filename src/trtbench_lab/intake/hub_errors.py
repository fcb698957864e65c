"""The hub's refusals and the network's faults as sentences that say what to do."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import DownloadError, did_you_mean

_LOCAL = "Or work without the hub: give a local model folder, or use the demo model in this package (`demo`)."


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exception classes of the HTTP library that this huggingface_hub uses (httpx in 1.x, httpx2 in 2.x)."""
    from huggingface_hub import get_session

    for kind in type(get_session()).__mro__:
        library = sys.modules.get(kind.__module__.partition(".")[0])
        found = getattr(library, "TransportError", None)
        if found is not None:
            return (found, ConnectionError, TimeoutError)
    return (ConnectionError, TimeoutError)


def translate(fault: Exception, *, repo_id: str, revision: str, endpoint: str, api: Any = None) -> DownloadError:
    """Return the `DownloadError` for an exception of huggingface_hub or its HTTP library.

    Parameters
    ----------
    fault
        What was raised.
    repo_id, revision, endpoint
        What was asked for and where.
    api
        An ``HfApi`` to look up branches with when the revision is unknown; None to leave that out.
    """
    from huggingface_hub import errors

    where = f"{endpoint}/{repo_id}"
    if isinstance(fault, errors.OfflineModeIsEnabled):
        return _say(fault, "The hub is switched off by HF_HUB_OFFLINE.", where, f"Unset HF_HUB_OFFLINE. {_LOCAL}")
    if isinstance(fault, transport_errors()):
        reason = str(fault).strip() or type(fault).__name__
        remedy = f"Check the network, a proxy (HTTPS_PROXY) or set a mirror (--mirror, HF_ENDPOINT). {_LOCAL}"
        return _say(fault, f"The hub could not be reached: {reason}.", where, remedy)
    if isinstance(fault, errors.GatedRepoError):
        remedy = (
            f"Accept its terms on {endpoint}/{repo_id} with your account, then log in (`hf auth login`) or pass "
            "token=… (HF_TOKEN)."
        )
        return _say(fault, f"{repo_id} is gated: it needs its owner's permission.", where, remedy)
    if isinstance(fault, errors.DisabledRepoError):
        return _say(fault, f"{repo_id} has been disabled by the hub.", where, "Choose another model.")
    if isinstance(fault, errors.RevisionNotFoundError):
        return _say(fault, f"{repo_id} has no revision {revision!r}.", where, _other_revisions(api, repo_id, revision))
    if isinstance(fault, errors.RepositoryNotFoundError):
        remedy = "Check the spelling (owner/name). For a private model log in (`hf auth login`) or set HF_TOKEN."
        return _say(fault, f"There is no model {repo_id!r} there, or it is private.", where, remedy)
    if isinstance(fault, errors.HfHubHTTPError):
        return _by_status(fault, repo_id, where)
    if isinstance(fault, errors.LocalTokenNotFoundError):
        return _say(fault, "No token is stored on this machine.", where, "Log in (`hf auth login`) or set HF_TOKEN.")
    if isinstance(fault, errors.HFValidationError):
        return _say(fault, f"{repo_id!r} is not the name of a model on a hub.", None, "It reads owner/name.")
    remedy = "Check the mirror's address (--mirror, HF_ENDPOINT); it must speak the Hugging Face hub's API."
    return _say(fault, "The server does not answer like a Hugging Face hub.", where, remedy)


def _by_status(fault: Any, repo_id: str, where: str) -> DownloadError:
    status = getattr(fault.response, "status_code", None)
    message = (getattr(fault, "server_message", None) or "").strip().splitlines()
    said = f" ({message[0][:160]})" if message else ""
    if status == 401:
        remedy = "Log in again (`hf auth login`) or renew HF_TOKEN."
        return _say(fault, f"The hub does not accept the token{said}.", where, remedy)
    if status == 403:
        remedy = "Give the token read access to this repository, or use an account that has it."
        return _say(fault, f"Access to {repo_id} is forbidden{said}.", where, remedy)
    if status == 404:
        return _say(fault, f"The hub has no such file or model{said}.", where, "Check repository, revision and mirror.")
    if status == 429:
        remedy = "Wait some minutes and run it again: it continues where it stopped. A token raises the limit."
        return _say(fault, "The hub limits the rate of requests.", where, remedy)
    remedy = f"Try again later: it continues where it stopped, or set a mirror (--mirror, HF_ENDPOINT). {_LOCAL}"
    return _say(fault, f"The hub answered with status {status}{said}.", where, remedy)


def _other_revisions(api: Any, repo_id: str, revision: str) -> str:
    fallback = "Give a branch, a tag or a full commit hash that the model's page lists."
    if api is None:
        return fallback
    try:
        refs = api.list_repo_refs(repo_id)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # a second fault must not hide the first
        return fallback
    return did_you_mean(revision, names) if names else fallback


def _say(fault: Exception, what: str, where: str | None, remedy: str) -> DownloadError:
    return DownloadError(what, where=where, remedy=remedy, details=str(fault) or None)
