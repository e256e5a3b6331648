"""How many instructions of which kind were executed, and the modelled bound in cycles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from arm import decode


@dataclass(frozen=True)
class Counts:
    """Executed instructions.

    Attributes
    ----------
    kinds : mapping from str to int
        Instructions of each kind that occurs (`arm.decode.KINDS`).
    halves : int
        Those of the NEON operations on data that work on 64 bits only (`arm.decode.is_half`).

    >>> counts = Counts({"mla": 24, "load": 5, "scalar": 3})
    >>> counts.instructions, counts.neon, counts.cycles
    (32, 24, 24)
    >>> (counts + counts).kinds["mla"]
    48
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    halves: int = 0

    @property
    def instructions(self) -> int:
        """All of them."""
        return sum(self.kinds.values())

    @property
    def neon(self) -> int:
        """NEON operations on data: without loads and stores."""
        return sum(self.kinds.get(kind, 0) for kind in decode.ARITHMETIC)

    @property
    def cycles(self) -> int:
        """A model, no time: what Cortex-A53 needs at the very least to issue these instructions.

        It starts two instructions a cycle, and among them one NEON operation on 128 bits of data, or two on 64 bits;
        loads and stores go beside it. Nothing is said of dependencies, caches and memory.
        """
        return max(self.neon - self.halves // 2, -(-self.instructions // 2))

    def __add__(self, other: Counts) -> Counts:
        return Counts(dict(Counter(self.kinds) + Counter(other.kinds)), self.halves + other.halves)

    def __mul__(self, times: int) -> Counts:
        return Counts({kind: count * times for kind, count in self.kinds.items()}, self.halves * times)


def of_blocks(blocks: Iterable[tuple[bytes, int]]) -> Counts:
    """Count blocks of machine code, each executed so many times, from the first instruction to the last.

    >>> of_blocks([(0x4E229420.to_bytes(4, "little"), 3)]).kinds
    {'mla': 3}
    """
    kinds: Counter[str] = Counter()
    halves = 0
    for code, times in blocks:
        words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)]
        for word in words:
            kinds[decode.kind(word)] += times
            halves += times * decode.is_half(word)
    return Counts({kind: kinds[kind] for kind in decode.KINDS if kinds[kind]}, halves)
