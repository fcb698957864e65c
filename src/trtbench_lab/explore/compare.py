"""Two engines side by side: layers aligned by the nodes they compute, else by equal work in the same module."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from .layer import Layer
from .result import AlignedLayers, ExplorationPair, ExploreResult


def compare_explorations(first: ExploreResult, second: ExploreResult, *, name: str | None = None) -> ExplorationPair:
    """Align two explorations and return both with what differs."""
    notes = []
    if first.phase != second.phase:
        notes.append(
            f"The first shows the {first.phase or 'unknown'} phase and the second the "
            f"{second.phase or 'unknown'} phase."
        )
    for what, a, b in (
        ("batch size", first.batch_size, second.batch_size),
        ("input length", first.input_length, second.input_length),
    ):
        if None not in (a, b) and a != b:
            notes.append(f"The {what} differs: {a} and {b}.")
    if first.backend != second.backend:
        notes.append(
            f"The engines are of two backends, {first.backend} and {second.backend}: their profilers cost "
            "differently, so "
            "compare whole runs before layers."
        )
    if (first.total_ms is None) != (second.total_ms is None):
        notes.append("Only one of the two has recorded times: run both with --profile to compare time.")
    backend = first.backend if first.backend == second.backend else f"{first.backend} and {second.backend}"
    return ExplorationPair(
        backend=backend,
        model=first.model,
        name=name,
        first=first,
        second=second,
        layers=tuple(align(first.layers, second.layers)),
        modules=tuple(align_modules(first.layers, second.layers)),
        notes=notes,
    )


def align(first: Sequence[Layer], second: Sequence[Layer]) -> list[AlignedLayers]:
    """Return the layers of two engines in pairs, in the order of the first.

    Layers that share a node of our network belong together, however many there are on a side (a fusion is beside its
    parts). The others pair by kind within the module, in order; what is left has nothing on the other side.
    """
    groups_first, groups_second = _fused_groups(first, second)
    rows: list[tuple[float, AlignedLayers]] = []
    place = {id(layer): float(number) for number, layer in enumerate(first)}
    for key in dict.fromkeys([*groups_first, *groups_second]):
        left, right = groups_first.get(key, []), groups_second.get(key, [])
        position = place[id(left[0])] if left else _position_of(right[0], first)
        rows.append((position, _row(left, right)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def align_modules(first: Sequence[Layer], second: Sequence[Layer]) -> list[AlignedLayers]:
    """Return what both engines do in each module."""
    sides: list[dict[str | None, list[Layer]]] = []
    for layers in (first, second):
        members: dict[str | None, list[Layer]] = defaultdict(list)
        for layer in layers:
            members[layer.module].append(layer)
        sides.append(members)
    return [
        _row(sides[0].get(module, []), sides[1].get(module, []), where=module or "not attributed")
        for module in dict.fromkeys([*sides[0], *sides[1]])
    ]


def _fused_groups(
    first: Sequence[Layer], second: Sequence[Layer]
) -> tuple[dict[Hashable, list[Layer]], dict[Hashable, list[Layer]]]:
    """Return each side's layers by a key that is equal for layers that do the same."""
    shared = {node for layer in first for node in layer.nodes} & {node for layer in second for node in layer.nodes}
    leader: dict[str, str] = {}

    def find(node: str) -> str:
        while leader.get(node, node) != node:
            node = leader[node]
        return node

    for layer in (*first, *second):
        nodes = [node for node in layer.nodes if node in shared]
        for node in nodes[1:]:
            leader[find(node)] = find(nodes[0])

    def keyed(layers: Sequence[Layer]) -> dict[Hashable, list[Layer]]:
        groups: dict[Hashable, list[Layer]] = defaultdict(list)
        seen: Counter[tuple[str | None, str]] = Counter()
        for layer in layers:
            nodes = [node for node in layer.nodes if node in shared]
            if nodes:
                groups["node", find(nodes[0])].append(layer)
            else:
                place = layer.module, layer.kind if layer.module is not None else layer.name
                groups["work", *place, seen[place]].append(layer)
                seen[place] += 1
        return groups

    return keyed(first), keyed(second)


def _position_of(layer: Layer, others: Sequence[Layer]) -> float:
    """Return where a layer that only the second engine has belongs in the first one's order: after its module's."""
    places = [number for number, other in enumerate(others) if other.module == layer.module]
    return places[-1] + 0.5 if places and layer.module is not None else float(len(others))


def _row(left: Sequence[Layer], right: Sequence[Layer], *, where: str | None = None) -> AlignedLayers:
    both = [*left, *right]
    return AlignedLayers(
        where=where or both[0].module or "not attributed",
        first=tuple(layer.name for layer in left),
        second=tuple(layer.name for layer in right),
        first_ms=_time(left),
        second_ms=_time(right),
        first_precision=_precision(left),
        second_precision=_precision(right),
    )


def _time(layers: Sequence[Layer]) -> float | None:
    times = [layer.time_ms for layer in layers if layer.time_ms is not None]
    return sum(times) if times else None


def _precision(layers: Sequence[Layer]) -> str:
    return ", ".join(dict.fromkeys(layer.precision for layer in layers if layer.precision))
