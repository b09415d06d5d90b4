"""What a recipe says of augmentations: presets, short forms, values of the options."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from tintype import plugins
from tintype.augment import operations
from tintype.errors import UserError, unknown_name
from tintype.files.yaml_files import parse_yaml
from tintype.own_code import name_of

# Fractions rather than pixels, so that a preset suits digits of 8x8 and photos of 224x224.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # Safe where a mirror image means something else: digits, letters, signs.
    "light": {"crop": 0.0625},
    "standard": {"flip": True, "crop": 0.125},
    "strong": {
        "flip": True,
        "crop": 0.125,
        "affine": True,
        "colour_jitter": 0.3,
        "erase": {"probability": 0.5},
    },
    # For photos and pretrained backbones: a mirrored, slightly closer look in another light.
    "photos": {"flip": True, "resized_crop": {"scale": (0.5, 1.0)}, "colour_jitter": 0.2},
    # The pipelines of the study faces-pipelines: one change at a time, then all together.
    "flips": {"flip": True, "vertical_flip": True},
    "rotations": {"flip": True, "rotate": 20},
    "shifts": {"flip": True, "affine": True},
    "colours": {"flip": True, "colour_jitter": {"strength": 0.3, "hue": 0.05}},
    "all": {
        "flip": True,
        "vertical_flip": True,
        "rotate": 20,
        "affine": True,
        "colour_jitter": {"strength": 0.3, "hue": 0.05},
    },
}

ALIASES = {
    "color_jitter": "colour_jitter",
    "cutout": "erase",
    "gray": "grey",
    "greyscale": "grey",
    "grayscale": "grey",
    "hflip": "flip",
    "horizontal_flip": "flip",
    "vflip": "vertical_flip",
    "random_resized_crop": "resized_crop",
}


def names() -> dict[str, str]:
    """Return every augmentation with a line that describes it, in the order of application."""
    return plugins.augmentation_names()


def is_foreign(name: str) -> bool:
    """Return whether an augmentation is no part of tintype: the user's own, or a plug-in."""
    return plugins.reference("augmentations", name) is not None


def parse_augment(text: str) -> dict[str, Any]:
    """Return the mapping that a command line's text stands for.

    Parts are joined by commas: a preset, `name`, `name=value` (its first option),
    `name.option=value`, or one of the user's own, `my_aug.py:noisy`. Values are numbers, words,
    true, false (which takes a preset's part away), ranges `low:high`, or options and lists as YAML
    has them in brackets.

    >>> parse_augment("standard,mixup=0.2,flip.mode=alternate")
    {'preset': 'standard', 'mixup': 0.2, 'flip': {'mode': 'alternate'}}
    >>> parse_augment("resized_crop={scale: [0.5, 1.0]}, flip")
    {'resized_crop': {'scale': [0.5, 1.0]}, 'flip': True}

    Raises:
        UserError: an unknown name, or a part that cannot be read. Values are checked by `resolve`.
    """
    spec: dict[str, Any] = {}
    for part in _parts(text):
        if is_foreign(part):
            spec[part] = True
            continue
        left, equals, right = (piece.strip() for piece in part.partition("="))
        if equals and is_foreign(left):
            spec[left] = _value(right)
            continue
        if left in PRESETS and left not in names() and not equals:
            if "preset" in spec:
                raise UserError(
                    f"augment: two presets, '{spec['preset']}' and '{left}'. "
                    "Expected one, then additions."
                )
            spec["preset"] = left
            continue
        if equals and not right:
            raise UserError(f"augment: '{part}' has no value. Type e.g. flip,crop=4,rotate=15.")
        name, dot, option = left.partition(".")
        name = _canonical(name)
        value = _value(right) if equals else True
        if not dot and not isinstance(value, dict):
            given = spec.get(name)
            spec[name] = {**given, _first_option(name): value} if isinstance(given, dict) else value
            continue

        given = spec.get(name, {})
        if given is True:
            given = {}
        elif not isinstance(given, dict):
            given = {_first_option(name): given}
        alone = {option.replace("-", "_"): value}
        options = value if isinstance(value, dict) and not dot else alone
        spec[name] = {**given, **options}

    return spec


def resolve(spec: str | Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return the augmentations of a recipe with all options, in the order of application.

    A mapping holds names with true (defaults), false (not this one), a value of the first option,
    or a mapping of options; `preset` names a preset that the rest adds to or overrides. A range
    given as one number ends at 1. Those of the user's own come first; they have true, or a mapping
    of options.

    Raises:
        UserError: an unknown name or option, or a value out of range.
    """
    given = parse_augment(spec) if isinstance(spec, str) else dict(spec or {})
    preset = given.pop("preset", "none")
    if preset not in PRESETS:
        raise unknown_name("augmentation preset", str(preset), PRESETS)

    own = {name: given.pop(name) for name in list(given) if is_foreign(str(name))}
    chosen: dict[str, dict[str, Any]] = {}
    for name, value in [*PRESETS[preset].items(), *given.items()]:
        name = _canonical(str(name))
        if value is False or value is None:
            chosen.pop(name, None)
            continue
        if value is True:
            value = {}
        elif not isinstance(value, Mapping):
            value = {_first_option(name): value}
        chosen[name] = {**chosen.get(name, {}), **value}

    if "mixup" in chosen and "cutmix" in chosen:
        chosen["mixup"].setdefault("probability", 0.5)
    built_in = {name: _checked(name, chosen[name]) for name in names() if name in chosen}
    return {**_own_options(own), **built_in}


def _own_options(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of augmentations of the user's own.

    Raises:
        UserError: a value that is neither true, false nor a mapping.
    """
    for name, value in given.items():
        if not isinstance(value, bool | Mapping):
            raise UserError(
                f"augment: {name_of(name)} is {value!r}. Expected true, or a mapping of its "
                "options such as {strength: 0.2}."
            )
    return {
        name: dict(value) if isinstance(value, Mapping) else {}
        for name, value in given.items()
        if value is not False
    }


def _canonical(name: str) -> str:
    plain = name.strip().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in names():
        raise unknown_name(
            "augmentation",
            name,
            {*names(), *PRESETS, *plugins.installed("augmentations")},
            "`tintype list augmentations` shows them.",
        )
    return plain


def _first_option(name: str) -> str:
    return next(iter(_options(name).model_fields))


@lru_cache
def _options(name: str) -> type[BaseModel]:
    """Return a model of the options of an augmentation, made from the signature of its function."""
    function = getattr(operations, name)
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        option: (hints[option], parameter.default)
        for option, parameter in signature(function).parameters.items()
        if option != "canvas"
    }
    config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(name, __config__=config, **fields)


def _checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every option of an augmentation.

    Raises:
        UserError: an unknown option, or a value out of range.
    """
    model = _options(name)
    for option in given:
        if option not in model.model_fields:
            raise unknown_name(f"option of {name}", str(option), model.model_fields)

    try:
        options = model(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        schema = model.model_json_schema()["properties"][option]
        expected = _expected(schema) or first["msg"].removeprefix("Input should be ")
        raise UserError(
            f"augment: {name}.{option} is {given[option]!r}. Expected {expected}."
        ) from None

    # A whole number stays one, because what is returned here may become the recipe of a run.
    return {
        option: given[option] if option in given and isinstance(value, float) else value
        for option, value in options
    }


def _expected(schema: Mapping[str, Any]) -> str:
    """Say in words which values an option takes, from its JSON schema, or return ""."""
    kind = schema.get("anyOf", [schema])[0]  # where there are several, the others are null
    if "enum" in kind:
        return " or ".join(map(str, kind["enum"]))

    limited = kind.get("prefixItems", [kind])[0]
    if not {"minimum", "maximum"} <= limited.keys():
        return ""
    low, high = limited["minimum"], limited["maximum"]
    if limited is kind:
        return f"a number from {low:g} to {high:g}"
    return f"low:high (in YAML [low, high]) within {low:g} and {high:g}"


def _parts(text: str) -> list[str]:
    """Return the parts that commas join, except for those within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter

    return [part.strip() for part in parts if part.strip()]


def _value(text: str) -> Any:
    """Return a number, a pair low:high of numbers, true or false, what brackets hold, or the word
    itself.

    Raises:
        UserError: brackets hold no YAML.
    """
    if text[:1] in ("{", "["):
        try:
            return parse_yaml(text)
        except yaml.YAMLError:
            raise UserError(
                f"augment: '{text}' cannot be read. Type e.g. "
                "'resized_crop={scale: [0.5, 1.0]},flip', or resized_crop.scale=0.5:1,flip."
            ) from None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if ":" in text:
        return [_value(part) for part in text.split(":")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
