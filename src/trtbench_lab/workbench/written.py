"""A result as a file: the ending says in which form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..storage import staged_file

ENDINGS = (".html", ".json", ".txt")


def check_ending(path: Path) -> None:
    """Refuse a file name that says no form, before any work is done for it."""
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(
            f"A report is written as {', '.join(ENDINGS)}, not as {path.suffix or 'a name without an ending'!r}.",
            where=str(path),
            remedy=f"Write it to {str(path.with_suffix('.html'))!r}.",
        )


def write_result(path: Path, result: Any, html: Callable[[Path], Any]) -> None:
    """Write `result` to `path` in the form that its ending says; `html` writes the HTML form."""
    check_ending(path)
    if path.suffix.lower() == ".html":
        html(path)
        return
    text = (
        json.dumps(result.to_dict(), indent=1, ensure_ascii=False) if path.suffix.lower() == ".json" else repr(result)
    )
    with staged_file(path) as staging:
        staging.write_text(f"{text}\n", encoding="utf-8")
