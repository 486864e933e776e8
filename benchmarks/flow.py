"""Maximal flow (Dinic's algorithm), for the bound that no policy can pass."""

from collections import deque


class Flow:
    """A network of nodes and edges with integer capacities."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = []
        self._to: list[int] = []
        self._left: list[int] = []

    def node(self) -> int:
        """A new node."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, begin: int, end: int, capacity: int) -> None:
        """An edge, and its reverse without capacity."""
        for a, b, left in ((begin, end, capacity), (end, begin, 0)):
            self._edges[a].append(len(self._to))
            self._to.append(b)
            self._left.append(left)

    def maximum(self, source: int, sink: int) -> int:
        """The most that can flow from source to sink."""
        total = 0
        while (levels := self._levels(source))[sink] >= 0:
            at = [0] * len(self._edges)
            while pushed := self._push(source, sink, levels, at):
                total += pushed
        return total

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self._edges)
        levels[source] = 0
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for edge in self._edges[node]:
                end = self._to[edge]
                if self._left[edge] > 0 and levels[end] < 0:
                    levels[end] = levels[node] + 1
                    queue.append(end)
        return levels

    def _push(self, source: int, sink: int, levels: list[int], at: list[int]) -> int:
        """Find one path along the levels and fill it; what was pushed, 0 where there is none left."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self._edges[node]
            while at[node] < len(edges):
                edge = edges[at[node]]
                if self._left[edge] > 0 and levels[self._to[edge]] == levels[node] + 1:
                    break
                at[node] += 1
            else:
                if not path:
                    return 0
                node = self._to[path.pop() ^ 1]
                at[node] += 1
                continue
            path.append(edge)
            node = self._to[edge]
        amount = min(self._left[edge] for edge in path)
        for edge in path:
            self._left[edge] -= amount
            self._left[edge ^ 1] += amount
        return amount
