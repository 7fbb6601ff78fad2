"""Which borders become cuts: those that nothing near them outranks, and between these as few and as good as will do.

The first are found by local maximum chunking: N. Bjørner, A. Blass and Y. Gurevich, "Content-dependent chunking for
differential compression, the local maximum approach", Journal of Computer and System Sciences 79 (2013), 154-203.
There every byte may be a cut; here only borders of units are, and the rank of a border goes before its hash.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app.model.borders import Rank
from app.model.priorities import HASH_BITS, Hashes

_LEAST_RATIO = 1 / 3  # of the room, for a piece: what is shorter says little, and costs a vector all the same
_REACH_RATIO = 0.5  # of the room: how far a local maximum looks, and the least length of a segment; ADR 13 has others
# What a piece costs, and the border after it: a paragraph kept whole is worth a quarter of a vector
_PIECE_COST = 1000
_SMALL_PIECE_COST = 2500
_LIKING_COST = 100  # between equal borders the hash decides, so that pieces find back to the same borders
_BORDER_COSTS = {
    Rank.TOKEN: 800,
    Rank.WORD: 700,
    Rank.CLAUSE: 600,
    Rank.LINE: 450,
    Rank.SENTENCE: 250,
    Rank.BLOCK: 100,
    Rank.PARAGRAPH: 0,
}
_HEADING_COST = -200

Numbers = NDArray[np.int64]
Range = tuple[int, int]  # half-open, of units


@dataclass(frozen=True, slots=True)
class Layout:
    """n units side by side; sizes are in any unit of their own, the same for all.

    starts: where each begins, ascending from 0. sizes: of each alone; the next may begin further on, after space.
    rooms: how much may be in a piece that begins with it. priorities: of the border before it. All of shape (n,).
    """

    starts: Numbers
    sizes: Numbers
    rooms: Numbers
    priorities: Hashes

    def size(self, first: int, last: int) -> int:
        """Of units first to last - 1 together."""
        return int(self.starts[last - 1] + self.sizes[last - 1] - self.starts[first])


def pieces(layout: Layout, room: int) -> list[Range]:
    """Ranges of units, in order: each fits its room, or is one unit that does not.

    room: that of a piece which has nothing before it. Linear.
    """
    maxima = _local_maxima(layout, int(_REACH_RATIO * room))
    segments = pairwise((0, *maxima, len(layout.starts)))
    return [piece for segment in segments for piece in _packed(layout, segment, int(_LEAST_RATIO * room))]


def _local_maxima(layout: Layout, reach: int) -> list[int]:
    """Borders that are higher than all others less than `reach` away, and than equal ones before them.

    So whether a border is one depends on nothing further away. The ends of the text are higher than any.
    Kept on a stack: borders that nothing higher has followed yet.
    """
    places, heights = layout.starts.tolist(), layout.priorities.tolist()
    end = layout.size(0, len(places))
    is_maximum = [False] + [True] * (len(places) - 1)
    waiting = [0]
    for at in range(1, len(places)):
        while len(waiting) > 1 and heights[waiting[-1]] < heights[at]:
            lower = waiting.pop()
            if places[at] - places[lower] < reach:
                is_maximum[lower] = False
        if places[at] - places[waiting[-1]] < reach or end - places[at] < reach:
            is_maximum[at] = False
        waiting.append(at)
    return [at for at, found in enumerate(is_maximum) if found]


def _packed(layout: Layout, segment: Range, least: int) -> list[Range]:
    """The pieces of a segment that cost least together: few, of `least` size at least, cut at good borders.

    Dynamic programming over the borders: cheapest[n] is the cost of the first n units, begins[n] the beginning of the
    last piece of them. window: where that may begin, ascending, so that the first is the cheapest.
    """
    first, last = segment
    starts, sizes = layout.starts[first:last].tolist(), layout.sizes[first:last].tolist()
    rooms, border_costs = layout.rooms[first:last].tolist(), _border_costs(layout.priorities[first:last])
    cheapest, begins = [0], [0]
    window: deque[int] = deque()
    entered = 0
    for count in range(1, last - first + 1):
        end = starts[count - 1] + sizes[count - 1]
        while entered < count and end - starts[entered] >= least:
            while window and cheapest[window[-1]] > cheapest[entered]:
                window.pop()
            window.append(entered)
            entered += 1
        while window and end - starts[window[0]] > rooms[window[0]]:
            window.popleft()
        begin = window[0] if window else count - 1
        cost = _PIECE_COST if window else _SMALL_PIECE_COST
        begins.append(begin)
        cheapest.append(cheapest[begin] + cost + (border_costs[count] if count < last - first else 0))
    return _traced(begins, first)


def _traced(begins: list[int], first: int) -> list[Range]:
    """The pieces from where each begins, going back from the end."""
    found = []
    end = len(begins) - 1
    while end > 0:
        found.append((first + begins[end], first + end))
        end = begins[end]
    return found[::-1]


def _border_costs(priorities: Hashes) -> list[int]:
    by_rank = np.full(1 << (64 - HASH_BITS), _HEADING_COST, np.int64)
    by_rank[list(_BORDER_COSTS)] = list(_BORDER_COSTS.values())
    liking = (priorities >> np.uint64(HASH_BITS - 16)) & np.uint64(0xFFFF)  # the first bits of the hash
    costs: list[int] = (
        by_rank[priorities >> np.uint64(HASH_BITS)] + _LIKING_COST - (liking.astype(np.int64) * _LIKING_COST >> 16)
    ).tolist()
    return costs
