"""Tab completion of the magics: options, choices, folders, and the notebook's variables."""

from __future__ import annotations

import glob
import os
import re
from typing import TYPE_CHECKING, Any

from ..specs.command_line import VERBS, request_type
from ..specs.completion import Completion, complete, option_at
from ..specs.flags import flag_table
from .face import FACE

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MAGIC = re.compile(r"(?:^|=)\s*%{0,2}trt_(?P<verb>[a-z]+)\s(?P<rest>.*)\Z", re.DOTALL)
_PATHS = frozenset({"DIR", "FILE", "PATH"})
_MOST_PATHS = 200


def add_completer(ipython: InteractiveShell) -> None:
    """Add the magics' completion to IPython's matchers."""
    from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

    @context_matcher()
    def trtbench_matcher(context: CompletionContext) -> Any:
        prefix, found = completions(context.line_with_cursor[: context.cursor_position], ipython)
        return {
            "completions": [SimpleCompletion(text=one.text, type="option") for one in found],
            "matched_fragment": prefix,
            # Python's names mean nothing on such a line, and looking for them can take a second.
            "suppress": bool(found),
            "ordered": True,
        }

    ipython.Completer.custom_matchers.append(trtbench_matcher)


def completions(line: str, shell: InteractiveShell) -> tuple[str, list[Completion]]:
    """Return the word at the end of `line` and how it may go on; nothing outside the magics."""
    match = _MAGIC.search(line)
    if match is None or match.group("verb") not in VERBS:
        return "", []
    verb, rest = match.group("verb"), match.group("rest")
    words = rest.split()
    prefix = words.pop() if words and not rest[-1].isspace() else ""
    found = complete(verb, words, prefix, FACE)
    is_choice = bool(found) and bool(words) and words[-1].startswith("-") and not found[0].text.startswith("-")
    return prefix, found if is_choice else found + _from_notebook(verb, words, prefix, shell)


def _from_notebook(verb: str, words: list[str], prefix: str, shell: InteractiveShell) -> list[Completion]:
    """Return variables and folders that fit the place of the cursor."""
    if prefix.startswith("$"):
        return [Completion(f"${name}", "variable") for name in _variables(shell) if name.startswith(prefix[1:])]
    head, equals, typed = prefix.rpartition("=")
    option = option_at(flag_table(request_type(verb)), words, prefix)
    if option is None or (option.words and not option.is_list):
        return []
    found = []
    if option.meta.metavar in _PATHS:
        found += [Completion(f"{head}{equals}{path}", "path") for path in _paths(typed)]
    if equals and not head.startswith("-"):
        found += [Completion(f"{head}={name}", "variable") for name in _variables(shell) if name.startswith(typed)]
    elif not typed:
        found += [Completion(f"${name}", "variable") for name in _variables(shell)]
    return found


def _variables(shell: InteractiveShell) -> list[str]:
    hidden = shell.user_ns_hidden
    return sorted(name for name in shell.user_ns if not name.startswith("_") and name not in hidden)


def _paths(typed: str) -> list[str]:
    if "'" in typed or '"' in typed:
        return []
    pattern = glob.escape(os.path.expanduser(typed)) + "*"
    found = sorted(glob.glob(pattern))[:_MOST_PATHS]
    return [path + "/" if os.path.isdir(path) else path for path in found if " " not in path]
