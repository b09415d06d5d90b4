"""What a run minimises, as equations: in the report's section "How it learns", and in
docs/objectives.md.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from tintype.own_code import name_of
from tintype.pages.section import Section


@dataclass(frozen=True)
class Equation:
    """One equation: who minimises it, the formula in LaTeX (what matplotlib's mathtext knows), and
    what to know of it.
    """

    who: str
    latex: str
    note: str = ""

    @property
    def svg(self) -> str:
        """The formula as a data URI of an SVG picture, in black on a transparent ground."""
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.font_manager import FontProperties
        from matplotlib.mathtext import MathTextParser

        formula, font = f"${self.latex}$", FontProperties(size=13)
        width, height, depth, _, _ = MathTextParser("path").parse(formula, dpi=72, prop=font)
        figure = Figure(figsize=(width / 72, height / 72))
        figure.text(0, depth / height, formula, fontproperties=font)

        out = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "tintype"}):  # the same bytes each time
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def own_equation(who: str, reference: str) -> Equation:
    """Return what stands in place of the formula of a loss of the user's own."""
    name = name_of(reference)
    spelled = name.replace("_", r"\_")
    note = (
        f"The own loss {name} ({reference}) says how far the outputs of the network are from the "
        "targets of a batch. tintype does not know its formula."
    )
    return Equation(
        f"{who[:1].upper()}{who[1:]} minimises the own loss {name}",
        rf"L = \mathrm{{{spelled}}}(\mathrm{{outputs}}, \mathrm{{targets}})",
        note,
    )


def equations_section(equations: Sequence[Equation]) -> Section | None:
    """Show equations, or nothing where the objective has none."""
    if not equations:
        return None
    return Section("learning", "How it learns", "equations.html", {"equations": equations})
