"""What a generator and its discriminator minimise, as equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.pages.equations import Equation, equations_section
from tintype.pages.section import Section
from tintype.runs.reading import RunFiles

CLASSIC_DISCRIMINATOR = (
    r"L_D = -\mathbb{E}_{x}\left[\log D(x)\right] - \mathbb{E}_{z}\left[\log(1 - D(G(z)))\right]"
)


# The discriminator's and the generator's loss. D is a probability in the first two, and a real
# number in the others.
ADVERSARIAL = {
    "bce": (CLASSIC_DISCRIMINATOR, r"L_G = -\mathbb{E}_{z}\left[\log D(G(z))\right]"),
    "minimax": (CLASSIC_DISCRIMINATOR, r"L_G = \mathbb{E}_{z}\left[\log(1 - D(G(z)))\right]"),
    "hinge": (
        r"L_D = \mathbb{E}_{x}\left[\max(0, 1 - D(x))\right] "
        r"+ \mathbb{E}_{z}\left[\max(0, 1 + D(G(z)))\right]",
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
    "gradient_penalty": r"P = \lambda\, "
    r"\mathbb{E}_{\hat{x}}\left[(\Vert \nabla D(\hat{x}) \Vert - 1)^2\right]",
}


FLOW = (
    r"L = \mathbb{E}_{x,z,t}\left[\Vert v(x_t, t) - (x - z) \Vert^2\right],"
    r"\quad x_t = (1 - t)\,z + t\,x"
)


OTHER_NAMES = {"wgan-gp": "wasserstein", "non-saturating": "bce", "saturating": "minimax"}


def equations_of(recipe: Mapping[str, Any]) -> list[Equation]:
    options = recipe.get("task_options") or {}
    loss = OTHER_NAMES.get(str(options.get("loss") or ""), str(options.get("loss") or ""))
    if loss == "flow" or str(recipe.get("model", "")).startswith("flow"):
        note = (
            "z is noise, x an image, and v the network: "
            "the velocity on the straight line from z to x at time t."
        )
        return [Equation("The network minimises", FLOW, note)]

    pair = ADVERSARIAL.get(loss or "bce")
    if pair is None:
        return []
    is_probability = loss in ("", "bce", "minimax")
    role = "D is the probability that an image is real" if is_probability else "D scores images"
    note = f"{role}, G turns noise z into an image, and x is a real image."
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


def learning(run: RunFiles) -> Section | None:
    """Show what the run minimises, as equations."""
    return equations_section(equations_of(run.recipe))
