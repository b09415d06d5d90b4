"""What a run minimises, as equations: in the report's section "How it learns", and in
docs/objectives.md.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tintype.pages.section import Section
from tintype.runs.reading import RunFiles


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


CROSS_ENTROPY = {
    "plain": r"L = -\frac{1}{N} \sum_{i=1}^{N} \log\, p_{i,y_i}",
    "weights": r"L = -\frac{1}{\sum_i w_{y_i}} \sum_{i=1}^{N} w_{y_i} \log\, p_{i,y_i}",
    "smoothing": r"L = -\frac{1}{N} \sum_{i=1}^{N} \left[ (1 - \epsilon) \log\, p_{i,y_i}"
    r" + \frac{\epsilon}{K} \sum_{k=1}^{K} \log\, p_{i,k} \right]",
    "both": r"L = -\frac{1}{\sum_i w_{y_i}} \sum_{i=1}^{N} \left[ (1 - \epsilon)\, w_{y_i} \log\, p_{i,y_i}"
    r" + \frac{\epsilon}{K} \sum_{k=1}^{K} w_k \log\, p_{i,k} \right]",
}

CLASSIC_DISCRIMINATOR = (
    r"L_D = -\mathbb{E}_{x}\left[\log D(x)\right] - \mathbb{E}_{z}\left[\log(1 - D(G(z)))\right]"
)

# The discriminator's and the generator's loss. D is a probability in the first two, and a real
# number in the others.
ADVERSARIAL = {
    "bce": (CLASSIC_DISCRIMINATOR, r"L_G = -\mathbb{E}_{z}\left[\log D(G(z))\right]"),
    "minimax": (CLASSIC_DISCRIMINATOR, r"L_G = \mathbb{E}_{z}\left[\log(1 - D(G(z)))\right]"),
    "hinge": (
        r"L_D = \mathbb{E}_{x}\left[\max(0, 1 - D(x))\right] + \mathbb{E}_{z}\left[\max(0, 1 + D(G(z)))\right]",
        r"L_G = -\mathbb{E}_{z}\left[D(G(z))\right]",
    ),
    "wasserstein": (
        r"L_D = \mathbb{E}_{z}\left[D(G(z))\right] - \mathbb{E}_{x}\left[D(x)\right]",
        r"L_G = -\mathbb{E}_{z}\left[D(G(z))\right]",
    ),
    "relativistic": (
        r"L_D = \mathbb{E}_{x,z}\left[\log(1 + e^{D(G(z)) - D(x)})\right]",
        r"L_G = \mathbb{E}_{x,z}\left[\log(1 + e^{D(x) - D(G(z))})\right]",
    ),
}

PENALTIES = {
    "r1": r"R_1 = \frac{\gamma_1}{2}\, \mathbb{E}_{x}\left[\Vert \nabla_x D(x) \Vert^2\right]",
    "r2": r"R_2 = \frac{\gamma_2}{2}\, \mathbb{E}_{z}\left[\Vert \nabla D(G(z)) \Vert^2\right]",
    "gradient_penalty": r"P = \lambda\, \mathbb{E}_{\hat{x}}\left[(\Vert \nabla D(\hat{x}) \Vert - 1)^2\right]",
}

FLOW = r"L = \mathbb{E}_{x,z,t}\left[\Vert v(x_t, t) - (x - z) \Vert^2\right],\quad x_t = (1 - t)\,z + t\,x"

RESTORATION = {
    "mse": r"L_{mse} = \frac{1}{n} \sum_j (\hat{y}_j - y_j)^2",
    "l1": r"L_{1} = \frac{1}{n} \sum_j \vert \hat{y}_j - y_j \vert",
    "charbonnier": r"L_{charbonnier} = \frac{1}{n} \sum_j \sqrt{(\hat{y}_j - y_j)^2 + 10^{-6}}",
    "ssim": r"L_{ssim} = 1 - SSIM(\hat{y}, y)",
    "perceptual": r"L_{perceptual} = \frac{1}{M} \sum_{l=1}^{M}"
    r" \frac{\Vert \phi_l(\hat{y}) - \phi_l(y) \Vert^2}{\Vert \phi_l(y) \Vert^2}",
    "adversarial": r"L_{adversarial} = \mathbb{E}\left[\log(1 + e^{D(y) - D(\hat{y})})\right]",
}


def learning(run: RunFiles) -> Section | None:
    """Show what the run minimises, as equations."""
    arrange = {"classify": _classification, "generate": _generation, "upscale": _upscaling}.get(
        run.task
    )
    equations = arrange(run.recipe) if arrange else []
    if not equations:
        return None
    return Section("learning", "How it learns", "objectives.html", {"equations": equations})


def _classification(recipe: Mapping[str, Any]) -> list[Equation]:
    weights, smoothing = recipe.get("class_weights"), recipe.get("label_smoothing")
    kind = {
        (False, False): "plain",
        (True, False): "weights",
        (False, True): "smoothing",
        (True, True): "both",
    }
    note = "p is the softmax of the network's output: the probability of class k for image i, whose true class is y."
    if weights:
        note += " Classes are weighted by w."
    if smoothing:
        note += f" Labels are smoothed by ε = {smoothing:g} over the K classes."
    latex = CROSS_ENTROPY[kind[bool(weights), bool(smoothing)]]

    return [Equation("The network minimises the cross-entropy", latex, note)]


def _generation(recipe: Mapping[str, Any]) -> list[Equation]:
    options = recipe.get("task_options") or {}
    loss = _OTHER_NAMES.get(str(options.get("loss") or ""), str(options.get("loss") or ""))
    if loss == "flow" or str(recipe.get("model", "")).startswith("flow"):
        note = "z is noise, x an image, and v the network: the velocity on the straight line from z to x at time t."
        return [Equation("The network minimises", FLOW, note)]

    pair = ADVERSARIAL.get(loss or "bce")
    if pair is None:
        return []
    is_probability = loss in ("", "bce", "minimax")
    judge = "D is the probability that an image is real" if is_probability else "D scores images"
    note = f"{judge}, G turns noise z into an image, and x is a real image."
    equations = [
        Equation("The discriminator minimises", pair[0], note),
        Equation("The generator minimises", pair[1]),
    ]
    for name, latex in PENALTIES.items():
        weight = options.get(name) or (
            10 if name == "gradient_penalty" and options.get("loss") == "wgan-gp" else 0
        )
        if weight:
            symbol = {"r1": "γ₁", "r2": "γ₂", "gradient_penalty": "λ"}[name]
            equations.append(
                Equation("To the discriminator's loss is added", latex, f"{symbol} = {weight:g}.")
            )
    return equations


_OTHER_NAMES = {"wgan-gp": "wasserstein", "non-saturating": "bce", "saturating": "minimax"}


def _upscaling(recipe: Mapping[str, Any]) -> list[Equation]:
    chosen = (recipe.get("task_options") or {}).get("loss", "l1")
    weights = {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)

    equations = []
    for name, weight in weights.items():
        if name not in RESTORATION:
            return []
        share = "" if len(weights) == 1 else f"Its weight in the sum is {weight:g}. "
        equations.append(
            Equation(
                "The network minimises" if not equations else "plus",
                RESTORATION[name],
                share + _OF[name],
            )
        )

    return equations


_PIXELS = "ŷ is the enlarged picture and y the original, with values from 0 to 1."
_OF = {
    **dict.fromkeys(("mse", "l1", "charbonnier", "ssim"), _PIXELS),
    "perceptual": "φ are the features of a pretrained network in M of its layers.",
    "adversarial": "D is a discriminator that is trained beside it.",
}
