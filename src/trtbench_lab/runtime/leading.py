"""Rank 0 leads, the others follow: it alone runs the program, and tells the others each step of their engines.

So nothing that differs from rank to rank (a clock, a seed, a rounding in sampling) can make ranks part ways and wait
for each other for ever, and all that is made for one process runs over several as it is. A call that every rank makes
(`together`) is run by rank 0; the others follow its orders until it is done and return what it returned.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from ..errors import EngineError, EngineMismatchError, TrtbenchError
from ..ranks import Control, control

Result = TypeVar("Result")


class _Leads(threading.local):
    """Whether this thread of rank 0 is within a call that all ranks make."""

    within = False


_leads = _Leads()

one_at_a_time = threading.RLock()
"""Held on rank 0 from telling the others something until its own part is queued: a running batch leads from a thread of
its own, and two that led at once would mix the sums of two calls."""

_one_follows = threading.RLock()
_kept: deque[tuple[Any, ...]] = deque()
_left: deque[Control] = deque()
"""An entry for each stream that was not read to its end: rank 0's last words of it come before the next call's."""
_lost = threading.Event()
_ENDS = ("end", "yield", "return", "raise")

ORDERS: dict[str, Callable[..., Any]] = {}
"""What a follower does by the name of the order; each takes the objects it holds by key, then the order's arguments."""


def order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let rank 0 order `function`, by its name."""
    ORDERS[function.__name__] = function
    return function


def together(body: Callable[[], Result]) -> Result:
    """Run `body` on rank 0 while the others follow; every rank returns its result, or raises its error.

    A process of its own just runs `body`; so does rank 0 within such a call.
    """
    world = control()
    if world is None:
        return body()
    if world.rank != 0:
        return last_of(follow(world))  # type: ignore[no-any-return]
    if _leads.within:
        return body()
    _leads.within = True
    try:
        result = body()
    except BaseException as error:
        world.post(("raise", _portable_error(error)))
        raise
    finally:
        _leads.within = False
    world.post(("return", result))
    return result


def together_each(body: Callable[[], Iterator[Result]]) -> Iterator[Result]:
    """`together` for a body that yields: each of its values goes to every rank."""
    world = control()
    if world is None or (world.rank == 0 and _leads.within):
        yield from body()
        return
    if world.rank != 0:
        yield from follow(world)
        return
    try:
        for value in body():
            world.post(("yield", value))
            yield value
    except GeneratorExit:  # whoever read it went away, as on the other ranks
        world.post(("end",))
        raise
    except BaseException as error:
        world.post(("raise", _portable_error(error)))
        raise
    world.post(("end",))


def follow(world: Control) -> Iterator[Any]:
    """Do what rank 0 orders until its call ends; yields what it yields, and what it returns."""
    while _left:
        if _next_word(world)[0] != "yield":
            _left.pop()
    while True:
        name, *arguments = _next_word(world)
        if name == "end":
            return
        if name in ("yield", "return"):
            try:
                yield arguments[0]
            except GeneratorExit:
                if name == "yield":
                    _left.append(world)
                raise
            if name == "return":
                return
        else:
            told = arguments[0]
            if isinstance(told, TrtbenchError):
                told.led = True  # whoever shows errors shows rank 0's alone
            raise told


def follow_until(world: Control, found: Callable[[], Result | None]) -> Result:
    """Do what rank 0 orders until `found` returns something, which is returned; any thread may."""
    while (result := found()) is None:
        with _one_follows:
            if (result := found()) is not None:
                break
            words = world.take()
            if words[0] in _ENDS:
                _kept.append(words)  # of a call that another thread, or a later line, makes
            else:
                _obey(words)
    return result


def is_within() -> bool:
    """Whether this thread of rank 0 is within a call that all ranks make, so that the others follow it all the time."""
    return _leads.within


def has_failed() -> bool:
    """Whether this rank has failed by itself in an order: it follows no more."""
    return _lost.is_set()


def _next_word(world: Control) -> tuple[Any, ...]:
    """Do what rank 0 orders until it says how a call goes on."""
    while True:
        with _one_follows:
            words = _kept.popleft() if _kept else world.take()
            if words[0] in _ENDS:
                return words
            _obey(words)


def _obey(words: tuple[Any, ...]) -> None:
    from . import ranked, ranked_llm  # noqa: F401 - their orders

    name, *arguments = words
    try:
        ORDERS[name](*arguments)
    except BaseException as error:
        if isinstance(error, TrtbenchError) and error.agreed:
            return  # rank 0 raises it too, and says so next
        _lost.set()
        raise


def last_of(values: Iterator[Any]) -> Any:
    """Return the last of the values."""
    found = None
    for value in values:
        found = value
    return found


def agreed(world: Control, body: Callable[[], Result], facts: Callable[[Result], Any]) -> Result:
    """Run `body` on every rank; when one raises all raise, and all must find the same `facts` in what it returns.

    Raises
    ------
    TrtbenchError
        The first rank's that failed, with its number; an `EngineError` in place of an error of another kind.
    EngineMismatchError
        When facts differ.
    """
    result, problem = None, None
    try:
        result = body()
    except TrtbenchError as error:
        problem = error
    except Exception as error:  # no memory, say: the others wait for this rank's word
        problem = EngineError(
            f"{type(error).__name__}: {error}",
            remedy="The details tell where this rank failed.",
            details=traceback.format_exc(),
        )
    shared = world.share((problem, None if problem else facts(result)))  # type: ignore[arg-type]
    for rank, (found_error, _) in enumerate(shared):
        if found_error is not None:
            if rank:
                where = f", {found_error.where}" if found_error.where else ""
                found_error.where = f"rank {rank}{where}"
            found_error.agreed = True
            raise found_error
    for rank, (_, found) in enumerate(shared):
        for name, value in found.items():
            if value != shared[0][1][name]:
                differing = EngineMismatchError(
                    f"Rank {rank} has {name} {value!r}; rank 0 has {shared[0][1][name]!r}.",
                    where="ranks",
                    remedy="Give every rank the same engine folder, packages and kind of machine.",
                )
                differing.agreed = True
                raise differing
    return result  # type: ignore[return-value]


class Led:
    """An object of rank 0 whose twins on the other ranks are called with it.

    Parameters
    ----------
    target
        The object.
    order
        Name of the order that calls the twin.
    key
        Which twin.
    methods
        The calls that are passed on; tensors among their arguments must not be needed by the others on a GPU. Where the
        target has a ``check_`` of a call's name it refuses before anybody is told: later it would find the others in
        the midst of the call.
    """

    def __init__(self, target: Any, order: str, key: int, methods: frozenset[str]) -> None:
        self._target, self._order, self._key, self._methods = target, order, key, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in self._methods:
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            world = control()
            if world is None:
                return found(*arguments, **keywords)
            if (check := getattr(self._target, f"check_{name}", None)) is not None:
                check(*arguments, **keywords)
            sent = [argument.cpu() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
            with one_at_a_time:
                world.post((self._order, self._key, name, sent, keywords))
                return found(*arguments, **keywords)

        return call


def _portable_error(error: BaseException) -> BaseException:
    """What other processes can be told of an error."""
    if isinstance(error, TrtbenchError | KeyboardInterrupt):
        return error
    return RuntimeError(f"rank 0: {type(error).__name__}: {error}")
