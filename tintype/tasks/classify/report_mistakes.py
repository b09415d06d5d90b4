"""The sections on a classifier's mistakes: pairs, worst mistakes, slices, map.

They are made from analysis.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.pages import figures, print_figures, words
from tintype.pages.pictures import data_uri
from tintype.pages.section import Chart, Section, in_script
from tintype.runs.reading import RunFiles
from tintype.tasks.class_counts import class_names_of
from tintype.tasks.classify import charts, print_charts
from tintype.tasks.classify.cards import Card, print_grid, read_cards

SMALL = 128  # pixels, of pictures that stand in rows
Format = Callable[[float], str]


def pairs(run: RunFiles) -> Section | None:
    """Show the most confused pairs side by side."""
    shown = []
    for pair in run.analysis.get("pairs") or []:
        groups = {
            key: _cards(run, pair.get(key)) for key in ("mistakes", "of_target", "of_prediction")
        }
        if groups["mistakes"]:
            shown.append({**pair, **groups})
    if not shown:
        return None
    return Section("pairs", "Confused pairs", "classify/pairs.html", {"pairs": shown})


def _cards(run: RunFiles, entries: Any) -> list[Card]:
    return read_cards(run.folder / "samples", entries or [], SMALL)


@dataclass(frozen=True)
class Neighbour:
    """A training image near a mistake."""

    card: Card
    similarity: float
    same: bool


@dataclass(frozen=True)
class Mistake:
    """A mistake with its heat map, if there is one, and its nearest training images."""

    card: Card
    heat: Card | None
    neighbours: Sequence[Neighbour]

    @property
    def remark(self) -> str:
        """Tell of a training image that is the same picture; that all neighbours bear the wrong
        label is no news.
        """
        labels = [n.card.target for n in self.neighbours if n.same]
        if not labels:
            return ""
        if labels[0] == self.card.target:
            return "A training image is almost identical."
        return (
            f"A training image is almost identical, but is labelled {labels[0]}: "
            "one of the labels is wrong."
        )


def worst_mistakes(run: RunFiles) -> Section | None:
    """Show the mistakes that the model was surest of, where it looked, and what is near them in
    training.
    """
    entries = run.samples.get("worst") or []
    cards = read_cards(run.folder / "samples", entries)
    worst = run.analysis.get("worst") or {}
    rows = [row for item in worst.get("items") or [] if (row := _mistake(run, item))]
    if not rows and not cards:
        return None

    in_rows = {item.get("file") for item in worst.get("items") or []} if rows else set()
    context = {
        "rows": rows,
        "cards": read_cards(
            run.folder / "samples", [e for e in entries if e.get("file") not in in_rows]
        ),
        "heat": any(row.heat for row in rows),
        "layer": worst.get("layer"),
        "num_searched": worst.get("num_searched"),
    }
    static = {"worst_mistakes": print_figures.png(print_grid(cards))} if cards else {}

    return Section(
        "worst-mistakes", "Most confident mistakes", "classify/worst_mistakes.html", context, static
    )


def _mistake(run: RunFiles, item: Mapping[str, Any]) -> Mistake | None:
    own = _cards(run, [item])
    if not own:
        return None
    heat = _cards(run, [{**item, "file": item["heat"]}]) if item.get("heat") else []
    neighbours = [
        Neighbour(card, float(entry.get("similarity") or 0.0), bool(entry.get("same")))
        for entry in item.get("neighbours") or []
        for card in _cards(run, [entry])
    ]
    return Mistake(own[0], heat[0] if heat else None, neighbours)


@dataclass(frozen=True)
class Attribute:
    """How an attribute of images is named, and the ends of its scale.

    Without `text` its values mean nothing to people.
    """

    title: str
    unit: str
    first: str
    last: str
    text: Format | None


ATTRIBUTES = {
    "brightness": Attribute(
        "Brightness", "% of white", "darkest", "brightest", lambda v: f"{100 * v:.0f}"
    ),
    "contrast": Attribute(
        "Contrast", "% of white", "flattest", "strongest", lambda v: f"{100 * v:.0f}"
    ),
    "sharpness": Attribute("Sharpness", "", "most blurred", "sharpest", None),
    "size": Attribute("Shorter side", "pixels", "smallest", "largest", lambda v: f"{v:,.0f}"),
    "aspect": Attribute(
        "Aspect", "longer by shorter side", "nearest to square", "longest", lambda v: f"{v:.2f}"
    ),
}
QUARTERS = ("first", "second", "third", "fourth")
LEVELS = {
    2: ("low", "high"),
    3: ("low", "middle", "high"),
    4: ("low", "lower middle", "upper middle", "high"),
}


def slices(run: RunFiles) -> Section | None:
    """Show the error rate by attributes of the images, and claim only what is beyond chance."""
    found = run.analysis.get("slices") or {}
    known = [
        a for a in found.get("attributes") or [] if a.get("name") in ATTRIBUTES and a.get("bins")
    ]
    if not known:
        return None

    top = max(bounds[1] for a in known for bounds in (b["error_rate_ci95"] for b in a["bins"]))
    claims = [_claim(attribute) for attribute in known if attribute.get("significant")]
    context = {
        "panels": [_panel(attribute, top) for attribute in known],
        "claims": claims,
        "tested": sum(attribute.get("p") is not None for attribute in known),
        "num_wrong": found.get("num_wrong"),
        "num_images": found.get("num_images"),
    }

    return Section("slices", "Where errors concentrate", "classify/slices.html", context)


def _panel(attribute: Mapping[str, Any], top: float) -> dict[str, Any]:
    how = ATTRIBUTES[attribute["name"]]
    bins = attribute["bins"]
    rows = []
    for number, each in enumerate(bins):
        low, high = (100 * bound / top for bound in each["error_rate_ci95"])
        label = how.last if number == len(bins) - 1 else ""
        rows.append(
            {
                "label": how.first if number == 0 else label,
                "range": _range(how, bins, number),
                "rate": each["error_rate"],
                "counts": f"{each['num_wrong']:,} of {each['num_images']:,} wrong",
                "dot": round(100 * each["error_rate"] / top, 2),
                "left": round(low, 2),
                "width": round(high - low, 2),
            }
        )

    return {
        "title": how.title,
        "unit": how.unit,
        "rows": rows,
        "significant": bool(attribute.get("significant")),
        "p": _p_text(attribute["p_holm"]) if attribute.get("p") is not None else "",
    }


def _range(how: Attribute, bins: Sequence[Mapping[str, Any]], number: int) -> str:
    """Return the range of a bin; it begins where the one before it ends, so that rounding leaves no
    gaps.
    """
    if how.text is None:
        return (
            LEVELS[len(bins)][number]
            if len(bins) in LEVELS
            else f"part {number + 1} of {len(bins)}"
        )
    low = bins[number - 1]["high"] if number else bins[number]["low"]
    return " – ".join(dict.fromkeys(how.text(value) for value in (low, bins[number]["high"])))


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _claim(attribute: Mapping[str, Any]) -> str:
    how, bins = ATTRIBUTES[attribute["name"]], attribute["bins"]
    names = [how.first, *QUARTERS[1 : len(bins) - 1], how.last]
    order = sorted(range(len(bins)), key=lambda i: bins[i]["error_rate"])
    worst, best = order[-1], order[0]
    part = "quarter" if len(bins) == 4 else "part"
    return (
        f"{how.title}: the error rate is {words.percent(bins[worst]['error_rate'])} in the "
        f"{names[worst]} {part} and {words.percent(bins[best]['error_rate'])} in the {names[best]} "
        f"({_p_text(attribute['p_holm'])})."
    )


def embedding(run: RunFiles) -> Section | None:
    """Show the test images on a map, near to each other what looks alike to the network."""
    found, names = run.analysis.get("map") or {}, class_names_of(run)
    if not found.get("x") or not names or max(found["target"] + found["prediction"]) >= len(names):
        return None

    sheet = dict(found.get("sheet") or {})
    uri = _sheet_uri(run, str(sheet.get("file", "")))
    chart = Chart(
        "map",
        charts.embedding(found, names),
        print_figures.png(print_charts.embedding(found, names)),
        f"Map of {len(found['x'])} test images by {found.get('method')}, "
        "coloured by class, mistakes ringed.",
    )
    context = {
        "chart": chart,
        "sheet": {**sheet, "uri": uri} if uri else None,
        "names_json": in_script(names),
        "method": found.get("method"),
        "share": sum(found.get("share_of_variance") or []),
        "shown": len(found["x"]),
        "of": found.get("num_images"),
        "many": len(names) > figures.MAX_LEGEND,
    }

    return Section(
        "map", "Map of the test images", "classify/map.html", context, {chart.name: chart.png}
    )


def _sheet_uri(run: RunFiles, file: str) -> str:
    if file not in ("map.png", "map.jpg"):
        return ""
    try:
        content = (run.folder / "samples" / file).read_bytes()
    except OSError:
        return ""
    return data_uri(content, "image/png" if file.endswith("png") else "image/jpeg")
