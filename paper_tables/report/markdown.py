"""``report.md``: one page, and where the rest is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from paper_tables.report import views
from paper_tables.report.findings import findings
from paper_tables.report.views import About, Figure
from paper_tables.tables import Table

OPENING = (
    "Distance-aware Quantization (DAQ, ICCV 2021) and Differentiable Soft Quantization (DSQ, ICCV 2019) train neural "
    "networks with weights and activations of a few bits. What they print is set beside what is computed and measured "
    "here. This page is the summary; [report.html](report.html) has every number, with where it comes from."
)


def markdown(tables: Sequence[Table], figures: Sequence[Figure], about: About) -> str:
    """Return the summary: scope, findings, verdicts by table, and what was not run."""
    lines = ["# What holds of DAQ and DSQ", "", OPENING, ""]
    counted = views.scope(tables)
    if counted.printed:
        single = counted.measured == 1
        said = (
            f"Of {views.plural(counted.printed, 'printed number')}, {counted.measured} {'has' if single else 'have'} a "
            f"measurement beside {'it' if single else 'them'}"
        )
        if counted.checked:
            said += f"; {counted.checked} of {counted.differences} printed differences were recomputed"
        lines += [f"{said}.", ""]
    lines += [f"{escape('; '.join(about.facts.values()))}.", ""]
    if found := findings(tables):
        lines += ["## Findings", ""]
        for number, one in enumerate(found, 1):
            lines.append(
                f"{number}. **{escape(one.title)}** ({one.verdict or 'measured'}). *Printed:* {escape(one.printed)} "
                f"*Found:* {escape(one.found)}"
            )
        lines.append("")
    if counted.judged:
        lines += ["## Verdicts", "", "| | |", "|---|---|"]
        lines += [
            f"| {escape(title)} | {', '.join(f'{count} {name}' for name, count in counts.items())} |"
            for title, counts in counted.judged.items()
        ]
        lines.append("")
    else:
        lines += ["Nothing was judged in this run.", ""]
    if figures:
        lines += ["## Figures", ""]
        lines += [f"- [Figure {f.number}: {escape(f.title)}](figures/figure{f.number}.png)" for f in figures]
        lines.append("")
    if missing := _missing(tables):
        lines += ["## Not measured", "", *missing, ""]
    return "\n".join(lines).rstrip() + "\n"


def _missing(tables: Sequence[Table]) -> list[str]:
    """List why numbers were not measured, each reason once."""
    return [
        f"- {views.plural(one.count, 'number')}: {escape(one.reason)}" + (f": `{one.command}`" if one.command else "")
        for one in views.unmeasured(tables)
    ]


def escape(text: str) -> str:
    r"""Keep Markdown from reading a formula as emphasis, a table's border or HTML.

    >>> print(escape("beta* s_f < |x| & `y`"))
    beta\* s\_f &lt; \|x\| &amp; \`y\`
    """
    plain = re.sub(r"([*_|`\[\]\\])", r"\\\1", " ".join(text.split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;")
