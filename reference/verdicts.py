"""What the gate says: a row for each property, a report of rows, and what is known not to hold."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WRONG = ("fails", "raises", "hangs", "stale")


class NoSubject(ValueError):  # noqa: N818 - bad input, told in one line
    """What is to be gated cannot be had; the message is one line."""


@dataclass(frozen=True)
class Row:
    """What was found of one property.

    Attributes
    ----------
    name, dtype, device : str
        The property, and where it was tried.
    verdict : str
        "holds"; "fails", "raises" (the subject's own error) or "hangs"; "expected" (fails or raises, as is known),
        "exempt" (so too, and is not meant to hold), "stale" (neither, although the file says so); "not applicable".
    witness : str
        The smallest input that was found, as a list.
    expression, got, want : str
        What of it is what, and what it ought to be.
    again : str
        The call that runs it again, at the witness.
    reason : str
        Why it is not applicable, exempt or expected.
    """

    name: str
    dtype: str
    device: str
    verdict: str
    witness: str = ""
    expression: str = ""
    got: str = ""
    want: str = ""
    again: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        """The property with its dtype, and its device unless that is the CPU: as pytest shows it."""
        return f"{self.name}-{self.dtype}" + (f"-{self.device}" if self.device != "cpu" else "")

    @property
    def said(self) -> str:
        """What was found, as one sentence."""
        if self.verdict in ("fails", "expected", "exempt") and self.expression:
            return f"x = {self.witness}: {self.expression} is {self.got}, expected {self.want}"
        if self.verdict == "raises":
            return f"x = {self.witness}: {self.got}"
        return self.got or self.reason


@dataclass(frozen=True)
class Report:
    """What was found of a quantizer.

    Attributes
    ----------
    name : str
    kin : str
        Which of the suite's methods it was held to, with role and variant.
    others : mapping of str to str
        Of the other roles and variants, what does not fit; empty where all does.
    rows : tuple of Row
    """

    name: str
    rows: tuple[Row, ...]
    kin: str = ""
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows for which a gate is shut."""
        return tuple(row for row in self.rows if row.verdict in WRONG)

    @property
    def ok(self) -> bool:
        """Whether it passes."""
        return not self.wrong

    def __str__(self) -> str:
        width = max((len(row.id) for row in self.rows), default=0)
        lines = [f"{self.name}: {self.summary}"]
        if self.kin:
            lines.append(
                f"held to {self.kin}"
                + "".join(f"; {n} has {w}" if w.startswith("other") else f"; {n} {w}" for n, w in self.others.items())
            )
        for row in self.rows:
            lines.append(f"  {row.id:{width}}  {row.verdict:14}  {row.said}".rstrip())
            if row.again and row.verdict in WRONG:
                lines.append(f"  {'':{width}}  {'again:':14}  {row.again}")
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The verdicts, counted."""
        verdicts = [row.verdict for row in self.rows]
        return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts, key=_order)))

    def raise_if_wrong(self) -> None:
        """Raise AssertionError with the report if anything is wrong."""
        if self.wrong:
            raise AssertionError(str(self))


def _order(verdict: str) -> int:
    return [*WRONG, "holds", "expected", "exempt", "not applicable"].index(verdict)


@dataclass(frozen=True)
class Known:
    """What is known not to hold: properties, by name or with their dtype (nan-float16), and why."""

    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Known:
        """Read a TOML file with the tables ``[expected]`` and ``[exempt]``: a reason for each property.

        Raises
        ------
        NoSubject
            If the file cannot be read, has anything else in it, or a reason is missing.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise NoSubject(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise NoSubject(f"{path}: no TOML: {error}") from None
        unknown = sorted(set(content) - {"expected", "exempt"})
        if unknown or not all(isinstance(table, dict) for table in content.values()):
            raise NoSubject(f"{path}: has [{', '.join(unknown or content)}], where [expected] and [exempt] are known")
        for table in content.values():
            for name, why in table.items():
                if not isinstance(why, str) or not why.strip():
                    raise NoSubject(f"{path}: {name} must have a reason, got {why!r}")
        return cls(content.get("expected", {}), content.get("exempt", {}))

    def of(self, name: str, dtype: str) -> tuple[str, str]:
        """Return the verdict on a failure, and the reason for it; empty if none is known."""
        for verdict, table in (("expected", self.expected), ("exempt", self.exempt)):
            for key in (f"{name}-{dtype}", name):
                if key in table:
                    return verdict, table[key]
        return "", ""

    def refuse_unknown(self, names: Sequence[str], ids: Sequence[str]) -> None:
        """Raise NoSubject if a property is named that there is none of."""
        unknown = sorted({*self.expected, *self.exempt} - {*names, *ids})
        if unknown:
            raise NoSubject(f"expected failures of {', '.join(unknown)}: properties are {', '.join(names)}")
