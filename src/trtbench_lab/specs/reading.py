"""Reads the words of one line into values, and collects everything that is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import SpecError, suggest
from .coerce import Unfit, shown
from .flags import NO_VALUE, FlagTable, FlatOption, normalized, placeholder, text_from_value
from .legacy import BENCH_WORDS, ENVIRONMENT, LEGACY, Legacy
from .spec import Spec

FLAG = re.compile(r"--?[A-Za-z][\w-]*(=.*)?\Z", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w-]*)=(.*)\Z", re.DOTALL)


@dataclass
class LineReader:
    """State of reading one line: values found so far and everything wrong with it."""

    verb: str
    table: FlagTable
    notes: list[str]
    values: dict[tuple[str, ...], Any] = field(default_factory=dict)
    named: set[tuple[str, ...]] = field(default_factory=set)
    positional: list[Any] = field(default_factory=list)
    problems: list[SpecError] = field(default_factory=list)
    has_unknown_flag: bool = False

    @property
    def legacy(self) -> Mapping[str, Legacy]:
        return LEGACY[self.verb]

    def read(self, tokens: list[Any]) -> None:
        position = 0
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if not isinstance(token, str):
                self.positional.append(token)
            elif token == "--":  # noqa: S105 - the mark that ends the flags
                self.positional += tokens[position:]
                break
            elif FLAG.match(token):
                position = self._read_flag(token, tokens, position)
            elif not self._read_assignment(token):
                self.positional.append(token)

    def _read_flag(self, token: str, tokens: list[Any], position: int) -> int:
        typed, equals, attached = token.partition("=")
        name = normalized(typed)
        following: list[Any] = [attached] if equals else tokens[position:]
        flag = self.table.flags.get(name)
        if flag is None and name in self.legacy:
            used = self._read_legacy(typed, self.legacy[name], following, attached=bool(equals))
        elif flag is None and name.removeprefix("--") in self.table.nested and following and _is_object(following[0]):
            used = self._take_nested(name.removeprefix("--"), following[0])
        elif flag is None:
            self.problems.append(self._unknown_flag(typed))
            self.has_unknown_flag = True
            return position
        elif flag.constant is not NO_VALUE:
            self._set(flag.option, flag.constant, typed)
            used = 0
            if equals:
                self.problems.append(SpecError(f"{typed} takes no value.", where=typed, remedy=f"Write {typed} alone."))
        else:
            used = self._take(flag.option, typed, following, attached=bool(equals))
        return position if equals else position + used

    def _take(self, option: FlatOption, typed: str, following: list[Any], *, attached: bool) -> int:
        """Read the value of an option from the words after its flag; return how many of them it took."""
        if following and _is_object(following[0]):
            return self._take_objects(option, typed, following)
        if option.takes_optional_value:
            return self._take_optional(option, typed, following, attached=attached)
        texts = following[:1] if attached else _until_flag(following)
        if option.meta.nargs != "+":
            wanted = int(option.meta.nargs)
            texts = texts[:1] if texts and wanted > 1 and re.search(r"[\s,=]", texts[0].strip()) else texts[:wanted]
        if not texts:
            hint = f" Values that begin with a dash are written {typed}=VALUE." if following else ""
            remedy = f"Write {typed} {placeholder(option)}.{hint}"
            self.problems.append(SpecError(f"{typed} needs a value.", where=typed, remedy=remedy))
            return 0
        self._set_text(option, texts, typed)
        return len(texts)

    def _take_optional(self, option: FlatOption, typed: str, following: list[Any], *, attached: bool) -> int:
        word = following[0] if following and isinstance(following[0], str) else None
        if word is not None and (attached or option.accepts(word)):
            self._set_text(option, [word], typed)
            return 1
        nearest = None if word is None or FLAG.match(word) else suggest(word, option.words)
        if nearest is not None and word is not None:
            self._set_text(option, [word], typed)  # "--gemm_plugin float61": say so rather than take it for a folder
            return 1
        self._set(option, True if option.is_switch else option.meta.bare, typed)
        return 0

    def _take_objects(self, option: FlatOption, typed: str, following: list[Any]) -> int:
        self._set(option, following[0], typed)
        return 1

    def _take_nested(self, name: str, value: Any) -> int:
        self.values[self.table.nested[name]] = value
        return 1

    def _read_legacy(self, typed: str, entry: Legacy, following: list[Any], *, attached: bool) -> int:
        if entry.words == "?":
            word = following[0] if following and isinstance(following[0], str) else None
            known = _OPTIONAL_WORDS | frozenset(entry.harmless)
            texts = [word] if word is not None and (attached or word.lower() in known) else []
        else:
            texts = [str(word) for word in (following[:1] if attached else _until_flag(following))]
            texts = texts if entry.words == "+" else texts[: int(entry.words)]
        if entry.refused and not (texts and all(text.lower() in entry.harmless for text in texts)):
            self.problems.append(SpecError(f"{typed} cannot be used here.", where=typed, remedy=entry.sentence))
        elif entry.sets is not None:
            self._set_legacy(typed, entry, texts)
        else:
            self.notes.append(f"{' '.join([typed, *texts])} does nothing here: {entry.sentence}")
        return len(texts)

    def _set_legacy(self, typed: str, entry: Legacy, texts: list[str]) -> None:
        try:
            sets = entry.sets(" ".join(texts)) if callable(entry.sets) else entry.sets or {}
        except Unfit as unfit:
            self.problems.append(SpecError(f"{typed} {unfit.reason}.", where=typed, remedy=unfit.remedy))
            return
        for name, value in sets.items():
            self._set(self.table.names[name], value, typed)
        self.notes.append(f"{' '.join([typed, *texts])}: {entry.sentence}")

    def _read_assignment(self, token: str) -> bool:
        """Read ``name=value``; return whether it was one."""
        match = _ASSIGNMENT.match(token)
        if match is None:
            return False
        name, value = match.group(1), match.group(2)
        variable = ENVIRONMENT.get(self.verb, {}).get(name)
        option = self.table.names.get(variable or name.replace("-", "_"))
        if option is not None:
            self._set_text(option, [value], name)
            return True
        nearest = suggest(name, list(self.table.names))
        if nearest is not None and not any(letter.isspace() for letter in name):
            remedy = f"Did you mean {nearest}={value}?"
            self.problems.append(SpecError(f"{self.verb} has no option {name!r}.", where=name, remedy=remedy))
            return True
        return False

    def fill_positional(self) -> None:
        """Give the words without a flag to the options that take them, in their order."""
        if self.has_unknown_flag:
            return  # a word after an unknown flag is most likely its value, and the line is refused for the flag
        words = self.positional
        if self.verb == "bench" and words and isinstance(words[0], str) and words[0] in BENCH_WORDS:
            self._set_text(self.table.names["mode"], [BENCH_WORDS[words[0]]], "--mode")
            words = words[1:]
        for option in self.table.positional:
            if not words:
                return
            if option.path in self.named:
                continue
            if option.is_list and option.meta.nargs == "+":
                taken, words = words, []
            else:
                taken, words = words[:1], words[1:]
            label = option.info.flag
            if all(isinstance(word, str) for word in taken):
                self._set_text(option, taken, label)
            else:
                self._set(option, taken[0] if len(taken) == 1 else taken, label)
        self.problems += [self._unexpected_word(word) for word in words]

    def fill_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Give options that the line does not name the caller's own defaults."""
        for name, value in defaults.items():
            option = self.table.names.get(name)
            if option is None or option.info.name != name or option.path in self.named:
                continue  # "--dtype" is the checkpoint's for one verb and the computation's for another
            if value is not None:
                if isinstance(value, str):
                    self._set_text(option, [value], name)
                else:
                    self._set(option, value, name)

    def request(self, spec_type: type[Spec]) -> Spec:
        """Return the request, or raise one error that names everything wrong with the line."""
        missing = [option for option in self.table.options if option.info.required and option.path not in self.values]
        for option in missing if not self.has_unknown_flag else ():
            remedy = f"Add {option.info.flag} {placeholder(option)}: {option.meta.help}"
            self.problems.append(
                SpecError(f"{self.verb} needs {option.info.flag}.", where=option.info.flag, remedy=remedy)
            )
        if not self.problems:
            try:
                return _built(spec_type, (), self.values)
            except SpecError as error:
                self.problems.append(error)
        raise _one_error(self.verb, self.problems)

    def _set_text(self, option: FlatOption, texts: list[str], typed: str) -> None:
        remark = option.meta.remarks.get(" ".join(texts))
        if remark is not None:
            self.notes.append(f"{typed} {' '.join(texts)}: {remark}")
        try:
            self._set(option, option.value_from_text(texts), typed)
        except Unfit as unfit:
            self.named.add(option.path)
            self.values[option.path] = None  # counts as given: it is wrong, not missing
            self.problems.append(SpecError(f"{typed} {unfit.reason}.", where=typed, remedy=unfit.remedy))

    def _set(self, option: FlatOption, value: Any, typed: str) -> None:
        again = option.path in self.named
        if again and option.is_list and option.meta.nargs == "+":
            value = [*_as_list(self.values[option.path]), *_as_list(value)]
        elif again and not _same(self.values[option.path], value):
            before = "the first" if option.meta.secret else text_from_value(self.values[option.path])
            self.notes.append(f"{typed} was given more than once; the last value counts, not {before}.")
        self.values[option.path] = value
        self.named.add(option.path)

    def _unknown_flag(self, typed: str) -> SpecError:
        known = [*self.table.flags, *self.legacy]
        nearest = suggest(normalized(typed), known)
        remedy = f"Did you mean {nearest}?" if nearest else f"trtbench {self.verb} --help lists the options."
        return SpecError(f"{self.verb} has no flag {typed}.", where=typed, remedy=remedy)

    def _unexpected_word(self, word: Any) -> SpecError:
        nearest = None
        if isinstance(word, str):
            nearest = suggest(normalized(f"--{word}"), list(self.table.flags))
        remedy = f"Did you mean {nearest}?" if nearest else "Texts with spaces need quotes around them."
        return SpecError(f"{self.verb} does not expect {shown(word)} here.", where=self.verb, remedy=remedy)


_OPTIONAL_WORDS = frozenset(
    {"enable", "disable", "true", "false", "on", "off", "auto", "none", "float16", "bfloat16", "float32", "fp8"}
    | {"int8", "int4", "int4_awq", "int4_gptq"}
)


def _same(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except Exception:  # an array compares element by element and has no single answer
        return False


def _until_flag(following: Iterable[Any]) -> list[Any]:
    texts = []
    for word in following:
        if not isinstance(word, str) or FLAG.match(word):
            break
        texts.append(word)
    return texts


def _is_object(value: Any) -> bool:
    return not isinstance(value, str)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _built(spec_type: type[Spec], above: tuple[str, ...], values: Mapping[tuple[str, ...], Any]) -> Spec:
    """Return the spec at path `above`, made of the flat values."""
    fields: dict[str, Any] = {}
    for info in spec_type.options():
        path = (*above, info.name)
        below = {
            inner: value for inner, value in values.items() if inner[: len(path)] == path and len(inner) > len(path)
        }
        if below and path in values and isinstance(values[path], Spec):
            changes = {inner[-1]: value for inner, value in below.items() if len(inner) == len(path) + 1}
            fields[info.name] = values[path].replace(**changes)
        elif below:
            fields[info.name] = _built(info.annotation, path, values)
        elif path in values:
            fields[info.name] = values[path]
    return spec_type(**fields)


def _one_error(verb: str, problems: list[SpecError]) -> SpecError:
    if len(problems) == 1:
        return problems[0]
    lines = "".join(
        f"\n  {number}. {problem.what}{' ' + problem.remedy if problem.remedy else ''}"
        for number, problem in enumerate(problems, 1)
    )
    return SpecError(f"{len(problems)} things are wrong with this line:{lines}", where=verb)
