"""Which kind of operation an instruction of 64-bit ARM is, as far as the counts tell kinds apart.

The encodings are those of the Arm Architecture Reference Manual for A-profile (DDI 0487), section "A64 instruction set
encoding": *Loads and Stores* and *Data Processing -- Scalar Floating-Point and Advanced SIMD*.
"""

from __future__ import annotations

from functools import cache

#: NEON operations on data, by what they do; "other" are moves, permutations, shifts, conversions between widths.
ARITHMETIC = ("mla", "mul", "smull", "smlal", "sadalp", "and", "cnt", "add", "compare", "other")
KINDS = (*ARITHMETIC, "load", "store", "scalar")

_THREE_SAME = {
    0b10010: "mla",  # MLA, MLS
    0b10011: "mul",
    0b10000: "add",  # ADD, SUB
    0b10111: "add",  # ADDP
    0b00110: "compare",
    0b00111: "compare",
    0b10001: "compare",
}
_THREE_DIFFERENT = {0b1100: "smull", 0b1000: "smlal", 0b1010: "smlal", 0b0000: "add", 0b0001: "add", 0b0011: "add"}
_INDEXED = {0b0000: "mla", 0b0100: "mla", 0b1000: "mul", 0b1010: "smull", 0b0010: "smlal", 0b0110: "smlal"}
_TWO_REGISTERS = {0b00010: "add", 0b00110: "sadalp", 0b01000: "compare", 0b01001: "compare", 0b01010: "compare"}


@cache
def kind(word: int) -> str:
    """Return the kind of an instruction, one of `KINDS`.

    Kinds are named after one of their members: "mla" is MLA and MLS; "smull" and "smlal" are the widening products with
    and without addition, signed or not, low half or high; "sadalp" is SADALP and UADALP; "and" are all bitwise
    operations of three registers; "add" are ADD and SUB, of pairs, of neighbours and widening, too; "load" and "store"
    are those of NEON registers, a pair or a list of them being one instruction. "scalar" is everything else.

    Parameters
    ----------
    word : int
        The instruction, 32 bits.

    >>> kind(0x4E229420), kind(0x4E205800), kind(0xD65F03C0)  # mla v0.16b, v1.16b, v2.16b; cnt v0.16b, v0.16b; ret
    ('mla', 'cnt', 'scalar')
    """
    if word >> 25 & 0b101 == 0b100:  # loads and stores
        if not word >> 26 & 1:
            return "scalar"
        return "load" if _loads(word) else "store"
    if word >> 25 & 0b111 != 0b111:
        return "scalar"
    if word >> 28 & 1 and word >> 30 & 1 == 0:
        return "scalar"  # floating point
    if word >> 31:
        return "scalar"  # conversions from and to general registers
    return _vector(word)


def _loads(word: int) -> bool:
    if word >> 27 & 0b111 == 0b011 and not word >> 24 & 1:  # literal
        return True
    if word >> 27 & 0b111 == 0b111:  # one register: opc has 1 for a load in its low bit, for 128 bits too
        return bool(word >> 22 & 1)
    return bool(word >> 22 & 1)  # pairs, and lists of structures


def _vector(word: int) -> str:
    upper, size = word >> 29 & 1, word >> 22 & 3
    if word >> 24 & 1:
        if word >> 10 & 1:
            return "other"  # shifts by a constant, and constants
        return _indexed(word)
    if not word >> 21 & 1:
        return "other"  # copies, permutations, tables
    if word >> 10 & 1:  # three of the same width
        code = word >> 11 & 0b11111
        if code == 0b00011:
            return "other" if upper == 0 and size == 2 and word >> 16 & 31 == word >> 5 & 31 else "and"  # MOV is ORR
        if code == 0b10011 and upper:
            return "other"  # PMUL
        return _THREE_SAME.get(code, "other")
    if not word >> 11 & 1:  # three of different widths
        return _THREE_DIFFERENT.get(word >> 12 & 0b1111, "other")
    code, group = word >> 12 & 0b11111, word >> 17 & 0b11111
    if group == 0b11000:
        return "add" if code == 0b11011 else "other"  # ADDV; the other reductions
    if group != 0b10000:
        return "other"
    if code == 0b00101:
        return "other" if upper else "cnt"  # NOT, RBIT; CNT
    return _TWO_REGISTERS.get(code, "other")


def _indexed(word: int) -> str:
    code = word >> 12 & 0b1111
    upper = word >> 29 & 1
    if code in (0b0000, 0b0100) and not upper:
        return "other"  # of floating-point numbers
    return _INDEXED.get(code, "other")


@cache
def is_half(word: int) -> bool:
    """Return whether an operation takes and gives NEON data of 64 bits, so that two go where one of 128 bits does.

    Only operations on three registers of one width are told apart: what widens, narrows or reduces never is half.

    >>> is_half(0x0E229420), is_half(0x4E229420)  # mla of v0.8b and of v0.16b
    (True, False)
    """
    same = word >> 24 & 1 == 0 and word >> 21 & 1 == 1 and word >> 10 & 1 == 1
    return kind(word) in ARITHMETIC and same and not word >> 30 & 1
