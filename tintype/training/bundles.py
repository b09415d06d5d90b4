"""Settings that belong together: how weights are updated, and how long.

What is left open comes from one source. A learning rate means another thing to every optimizer, so
whoever sets one of these fields must not get the rest from settings that were made for another
optimizer. Everything here is a pure function of what was set and of what is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tintype.hardware.device import Choice
from tintype.own_code import called
from tintype.recipe import Recipe

UPDATE = (
    "optimizer",
    "lr",
    "momentum",
    "betas",
    "weight_decay",
    "schedule",
    "milestones",
    "step_factor",
    "warmup",
)
LENGTH = ("epochs", "steps", "batch_size", "patience")

# What an optimizer does well with where nothing else is known: a network from scratch, and one with
# pretrained weights.
USUAL: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-3},
    "adam": {"lr": 1e-3},
    "sgd": {"lr": 0.02, "momentum": 0.9},
    "muon": {"lr": 0.24, "momentum": 0.6, "schedule": "linear"},
}
USUAL_PRETRAINED: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 5e-4, "warmup": 0.1},
    "adam": {"lr": 2e-4, "warmup": 0.1},
    "sgd": {"lr": 0.005, "momentum": 0.9, "warmup": 0.1},
    "muon": {"lr": 0.02, "momentum": 0.6, "warmup": 0.1},
}
ADAPTIVE = ("adam", "adamw")
WITH_MOMENTUM = ("sgd", "muon")
NEAR = 10.0  # a rate within this factor of another one is meant for the same optimizer


@dataclass(frozen=True)
class Source:
    """Settings to take what is left open from: for example what training from scratch uses.

    Attributes:
        name: in the user's words.
        settings: fields with values; those of a bundle that are not named have the recipe's
            defaults.
        pretrained: whether the network starts from pretrained weights.
        stated: whether the user chose the source (a recipe by its name): its optimizer then stands.
    """

    name: str
    settings: Mapping[str, Any]
    pretrained: bool = False
    stated: bool = False


def settled(given: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[Choice]]:
    """Return every setting that is left open, each bundle from one place.

    With them comes what was decided, with reasons.

    Args:
        given: the fields that the user set.
        source: settings made for the case at hand.
    """
    optimizer, why = _optimizer(given, source)
    updates, choices = _updates(given, source, optimizer, why)
    length = _length(given, source)
    rest = {key: value for key, value in source.settings.items() if key not in (*UPDATE, *LENGTH)}
    found = {**rest, **updates, **length}
    return {key: value for key, value in found.items() if key not in given}, choices


def _optimizer(given: Mapping[str, Any], source: Source) -> tuple[str, str]:
    """Return the optimizer that is meant, and the reason where it is not that of the source."""
    own = str(source.settings.get("optimizer", default_of("optimizer")))
    if "optimizer" in given:
        return str(given["optimizer"]), "as asked"
    if source.stated:
        return own, ""
    if "betas" in given and own not in ADAPTIVE:
        return "adamw", "betas are of adam and adamw"
    if "momentum" in given and own not in WITH_MOMENTUM:
        return "sgd", "momentum is of sgd and muon"

    lr, usual = given.get("lr", "auto"), source.settings.get("lr", default_of("lr"))
    if lr == "auto" or own in ADAPTIVE or usual / NEAR <= lr <= usual * NEAR:
        return own, ""
    if "momentum" in given:
        return "sgd", f"lr {lr:g} is no rate for {own}, whose usual one is {usual:g}"

    return "adamw", f"lr {lr:g} is no rate for {own}, whose usual one is {usual:g}"


def _updates(
    given: Mapping[str, Any], source: Source, optimizer: str, why: str
) -> tuple[dict[str, Any], list[Choice]]:
    own = source.settings.get("optimizer", default_of("optimizer"))
    here = source.settings if optimizer == own else _usual(optimizer, pretrained=source.pretrained)
    values = {key: here.get(key, default_of(key)) for key in UPDATE if key != "optimizer"}
    values["optimizer"] = optimizer
    asked = [key for key in UPDATE if key in given]
    choices = []

    if optimizer != own:
        rest = ", ".join(
            f"{key} {_shown(values[key])}" for key in _read_by(optimizer) if key not in asked
        )
        name = called(optimizer)
        reason = f"{why}; the rest is what {name} usually has, not what {source.name} has for {own}"
        choices.append(Choice("optimizer", f"{name} ({rest})" if rest else name, reason))
    for key, readers in (("momentum", WITH_MOMENTUM), ("betas", ADAPTIVE)):
        if key in given and optimizer not in readers:
            choices.append(
                Choice(
                    key,
                    "without effect",
                    f"{called(optimizer)} has none; {' and '.join(readers)} have",
                )
            )

    choices += _strange_rate(given, source, optimizer)
    return values, choices


def _strange_rate(given: Mapping[str, Any], source: Source, optimizer: str) -> list[Choice]:
    """Return a warning where a rate was set that is far from what the optimizer of a stated recipe
    can use.
    """
    lr = given.get("lr", "auto")
    if lr == "auto" or not source.stated or "optimizer" in given or optimizer in ADAPTIVE:
        return []
    usual = source.settings.get("lr", _usual(optimizer, pretrained=source.pretrained)["lr"])
    if usual == "auto" or usual / NEAR <= lr <= usual * NEAR:
        return []
    hint = (
        f"{source.name} trains by {optimizer}, with {usual:g}; "
        "--set optimizer=adamw takes the usual rest as well"
    )
    return [Choice("lr", f"{lr:g}", f"as asked. WARNING: {hint}")]


def _usual(optimizer: str, *, pretrained: bool) -> dict[str, Any]:
    usual = USUAL_PRETRAINED if pretrained else USUAL
    return usual.get(optimizer, usual["adam"])  # for one of the user's own, a common rate


def _read_by(optimizer: str) -> list[str]:
    idle = {"optimizer", "milestones", "step_factor"}
    idle |= set() if optimizer in WITH_MOMENTUM else {"momentum"}
    idle |= set() if optimizer in ADAPTIVE else {"betas"}
    return [key for key in UPDATE if key not in idle]


def _length(given: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the length: epochs or steps, never of both sources; the batch size belongs to the
    source's learning rate.
    """
    values = {key: source.settings.get(key, default_of(key)) for key in LENGTH}
    if given.get("epochs") is not None or given.get("steps") is not None:
        values["epochs"] = values["steps"] = None
    return values


def default_of(field: str) -> Any:
    """Return the value that a field has by itself."""
    return Recipe.model_fields[field].default


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def completed(
    base: Mapping[str, Any], asked: Mapping[str, Any], name: str, *, stands: bool = True
) -> tuple[dict[str, Any], list[Choice]]:
    """Return what must change in a recipe where some settings were set over stated ones.

    With it comes the reason. Another optimizer brings its own rest; so does one that the recipe
    names without a learning rate. Everything else stands as the recipe has it.

    Args:
        base: the fields that the recipe states.
        asked: the fields that were set over it.
        name: of the recipe, in the user's words.
        stands: whether its optimizer is kept under a rate that is none for it, with a warning.
    """
    settings = dict(base)
    optimizer = settings.get("optimizer", default_of("optimizer"))
    pretrained = settings.get("weights") not in (None, "none")
    choices = []

    if "optimizer" in base and "lr" not in base and "lr" not in asked and optimizer not in ADAPTIVE:
        settings = {**_usual(optimizer, pretrained=pretrained), **base}
        reason = f"{name} names {optimizer} without a rate; this is its usual one"
        choices.append(Choice("lr", _shown(settings["lr"]), reason))

    if "optimizer" in asked and asked["optimizer"] != optimizer:
        choices = []
    values, more = settled(asked, Source(name, settings, pretrained=pretrained, stated=stands))
    return {key: values[key] for key in UPDATE if key in values}, choices + more
