"""Find models, data sets and recipes by file name.

Nothing is registered: to add one is to add one file. Listing reads source text only (no plug-in is
imported), so that `tintype list` answers at once.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from tintype.errors import UserError, unknown_name
from tintype.own_code import approve, called, is_own, may_run, name_of, running
from tintype.own_tasks import OwnTask, own_part

PACKAGE = Path(__file__).parent

# Where the files of each kind lie. A file that nobody is to name begins with an underscore, stands
# in NOT_PLUGINS, or lies in another folder.
PLACES = {
    "models": ("models/*.py",),
    "data": ("data/sets/*.py", "tasks/*/sets/*.py"),
    "tasks": ("tasks/*/task.py",),
    "tracking": ("tracking/*.py",),
}
NOT_PLUGINS = {"tracking": {"tracker"}}

# Kinds that an installed package may add to, by an entry point of the group `tintype.KIND`.
OPEN_KINDS = ("models", "losses", "augmentations", "data", "tasks", "tracking")
LOSSES = {
    "cross-entropy": "Cross-entropy of classes, with weights and label smoothing.",
    "huber": "Smooth absolute error of numbers.",
    "mae": "Absolute error of numbers.",
    "mse": "Squared error of numbers.",
}


@dataclass(frozen=True)
class Installed:
    """A plug-in of an installed package, of which nothing has been imported.

    Attributes:
        name: what a recipe calls it.
        reference: where it is, see `tintype.own_code`; of a task its class, or the package that
            holds task.py.
        package: that declares it.
        version: of the package.
    """

    name: str
    reference: str
    package: str
    version: str


@lru_cache
def installed(kind: str) -> dict[str, Installed]:
    """Return the plug-ins of installed packages of a kind, by name; nothing is imported.

    Of names that tintype has itself the built-in thing is meant; they are left out.
    """
    return {each.name: each for each in _declared(kind) if each.name not in _built_in(kind)}


def hidden(kind: str) -> dict[str, str]:
    """Return the packages whose plug-ins have the name of a built-in thing, by that name."""
    return {each.name: each.package for each in _declared(kind) if each.name in _built_in(kind)}


def reference(kind: str, name: str) -> str | None:
    """Return where to find what is no part of tintype: the user's own code, or a plug-in.

    A plug-in may run: the user has installed its package, as with the packages that tintype needs.
    """
    if is_own(name):
        return name
    if name not in installed(kind):
        return None
    found = installed(kind)[name].reference
    approve([found])
    return found


def _declared(kind: str) -> list[Installed]:
    found = _entry_points().select(group=f"tintype.{kind}")
    return [
        Installed(each.name, each.value, each.dist.name, each.dist.version)
        for each in sorted(found, key=lambda each: each.name)
        if each.dist is not None
    ]


@lru_cache(maxsize=1)
def _entry_points() -> EntryPoints:
    """Read what all packages declare, once, since that takes a tenth of a second."""
    found: Any = entry_points()  # of another type in Python 3.11, with the same `select`
    return found


@lru_cache
def _built_in(kind: str) -> dict[str, str]:
    """Return every name of a kind that tintype has itself, with a line on each."""
    if kind == "losses":
        return LOSSES
    if kind == "augmentations":
        return augmentation_names() | dict.fromkeys(augmentation_presets(), "")
    return {name: line for offered in _offers(kind).values() for name, line in offered.items()}


@lru_cache
def names(kind: str, task: str | None = None) -> dict[str, str]:
    """Return every name of a kind ("models", "data", "tasks", "tracking") with a line on each.

    With `task`, only those that serve this task: models that name it in a literal `TASK`, or, where
    none does, those that name no task; data sets that offer a kind of target that it asks for, see
    `sets_with`.

    A file `small_filters.py` offers the name `small-filters`, described by the first line of its
    docstring; a file that serves several names declares them in a literal `NAMES = {"name":
    "description", ...}`, in which "prefix/NAME" stands for every name that begins with the prefix.
    Files of one name come first.
    """
    offers = _offers(kind)
    stems = sorted(offers, key=lambda stem: stem.replace("_", "-") not in offers[stem])
    if task is not None:
        stems = [stem for stem in stems if _serves(kind, stem, task)]
    built_in = {name: line for stem in stems for name, line in offers[stem].items()}
    return {**built_in, **of_packages(kind)}


def of_packages(kind: str) -> dict[str, str]:
    """Return the plug-ins of installed packages of a kind, each with a line that says whose."""
    return {
        name: f"Of the package {each.package} {each.version}: {each.reference}."
        for name, each in installed(kind).items()
    }


def data_sets(task: str) -> dict[str, str]:
    """Return the data sets that a task can open, with a line on each."""
    return names("data", task)


def sets_with(offer: str) -> dict[str, str]:
    """Return the data sets that have one kind of target, each with one line that describes it.

    A file says which it offers in a literal such as `TARGETS = ("class", "numbers")`, the `offer`
    of the kinds in `data/targets.py`; without it, there is one class for each image.
    """
    offers = _offers("data")
    lines = names("data")
    stems = [stem for stem in offers if offer in _targets("data", stem)]
    return {name: lines[name] for stem in stems for name in offers[stem]}


def canonical(kind: str, name: str) -> str:
    """Return a name as it is listed: capitals, and hyphens for underscores, are as good.

    A reference to the user's own code stands for itself.

    Raises:
        UserError: no file offers the name; the message suggests the nearest ones.
    """
    known = names(kind)
    own = kind in ("models", "tasks", "tracking") and is_own(name)
    if own or name in known or _pattern(name) in known:
        return name
    alike = {other.replace("-", "_"): other for other in known}
    written = name.lower().replace("-", "_")
    if written in alike:
        return alike[written]

    singular = {"models": "model", "tasks": "task", "data": "data set", "tracking": "tracker"}[kind]
    raise unknown_name(singular, name, known, hint=f"`tintype list {kind}` shows them.")


def own_task(task: str) -> str | None:
    """Return the reference of a task that is a class of the user's own or of a package, or None."""
    if is_own(task):
        return task
    found = installed("tasks").get(task)
    if found is None or not is_own(found.reference):
        return None
    approve([found.reference])
    return found.reference


def find(kind: str, name: str) -> Any:
    """Import and return the module that offers `name`; no other file of the kind is imported.

    A task of the user's own is an `OwnTask`.

    Raises:
        UserError: no file offers the name; the message suggests the nearest ones.
    """
    if kind == "tasks" and (own := own_task(name)) is not None:
        return OwnTask(own)
    if kind == "tasks" and name in installed(kind):
        return _part_of_package(name, "task")
    path = _files(kind)[_stem(kind, name)].relative_to(PACKAGE).with_suffix("")
    return importlib.import_module(".".join(("tintype", *path.parts)))


def find_part(task: str, part: str, purpose: str) -> Any:
    """Import and return what a task offers to a verb: `tintype.tasks.TASK.PART`.

    Args:
        part: "compare", "export" and so on; the file of that name in the folder of the task.
        purpose: what runs of a task without this part cannot do, such as "be compared".

    Raises:
        UserError: there is no such task, or it does not offer this part; or it is the user's own,
            and not named in this process.
    """
    own = own_task(task)
    if own is not None and (found := own_part(own, part)) is not None:
        return found
    if own is not None and not may_run(own):
        OwnTask(own)  # which says how it is named
    if not has_part(task, part):
        able = [other for other in names("tasks") if has_part(other, part)]
        which = f" Expected a run of task {' or '.join(able)}." if able else ""
        raise UserError(f"runs of task {called(task)} cannot {purpose}.{which}")
    if task in installed("tasks"):
        return _part_of_package(task, part)
    return importlib.import_module(f"tintype.tasks.{_stem('tasks', task)}.{part}")


def has_part(task: str, part: str) -> bool:
    """Return whether a task offers a part; a folder counts as well as a file.

    A task of the user's own, which is not named in this process, offers none.

    Raises:
        UserError: there is no such task.
    """
    if (own := own_task(task)) is not None:
        return own_part(own, part) is not None
    if task in installed("tasks"):
        return _file_in_package(task, part) is not None
    folder = _files("tasks")[_stem("tasks", task)].parent
    return (folder / f"{part}.py").is_file() or (folder / part / "__init__.py").is_file()


def is_there(task: str, part: str) -> bool:
    """Return whether a task offers a part, of a task that may not be installed here."""
    return (is_own(task) or task in names("tasks")) and has_part(task, part)


def task_of_model(name: str) -> str:
    """Return the task that a model is there for alone, "" for one that any task may take.

    Raises:
        UserError: no file offers the name; the message suggests the nearest ones.
    """
    if reference("models", name) is not None:
        return ""
    return _task_of("models", _stem("models", name))


def check_model_is_for(name: str, task: str) -> None:
    """Raise where a model is there for another task alone.

    Raises:
        UserError: it is, or there is no such model.
    """
    other = task_of_model(name)
    if other not in ("", task):
        raise UserError(
            f"model {name} is there to {other}, not to {task}. Expected one such as cnn "
            f"(`tintype list models`), or a recipe of task {other} (`tintype list recipes`)."
        )


@lru_cache
def default_task() -> str:
    """Return the task of what names none: that whose options.py says `DEFAULT = True`."""
    for stem, path in _files("tasks").items():
        options = path.with_name("options.py")
        if options.is_file() and _literal(options, "DEFAULT"):
            return stem
    raise AssertionError("no task is the default one")


@lru_cache
def task_of_target(offer: str) -> str:
    """Return the task that learns one kind of target, by the kind's `offer`: the default one, or
    the only one that names no other.
    """
    if offer in _targets("tasks", default_task()):
        return default_task()
    return next(stem for stem in _files("tasks") if _targets("tasks", stem) == {offer})


@lru_cache
def task_title(task: str) -> str:
    """Return what a task is called in a heading, as "Super-resolution".

    It is what stands before the colon in the first line of `tasks/NAME/__init__.py`; of a task of
    the user's own, its name.
    """
    if is_own(task):
        words = name_of(task).replace("_", " ")
        return f"{words[:1].upper()}{words[1:]}"
    path = _files("tasks").get(task)
    if path is None:  # a task that is not installed here
        return task.capitalize()
    title, colon, _ = _summary(_head(path.with_name("__init__.py"))).partition(":")
    return title if colon else task.capitalize()


def study_names() -> dict[str, str]:
    """Return every built-in study with the first sentence of its head comment."""
    return {path.stem: head_sentence(path) for path in sorted((PACKAGE / "studies").glob("*.yaml"))}


def head_sentence(path: Path, beginning: str = "") -> str:
    """Return the first sentence of a YAML file's head comment that starts with `beginning`.

    A sentence ends with a full stop at the end of a line. Returns "" where there is none.
    """
    words: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("#"):
                break

            text = line.lstrip("# ").strip()
            if words or text.startswith(beginning):
                words.append(text)
            if words and words[-1].endswith("."):
                break
    return " ".join(words)


@lru_cache
def augmentation_names() -> dict[str, str]:
    """Return every augmentation with one line that describes it, in the order of application.

    An augmentation is a public function in `augment/operations.py` whose first argument is
    `canvas`.
    """
    source = (PACKAGE / "augment/operations.py").read_text(encoding="utf-8")
    return {
        node.name: _summary(node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and [argument.arg for argument in node.args.args[:1]] == ["canvas"]
    }


@lru_cache
def augmentation_presets() -> dict[str, dict[str, object]]:
    """Return the named presets of `augment/spec.py` with what each contains."""
    for node in ast.parse((PACKAGE / "augment/spec.py").read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "PRESETS"
        ):
            return ast.literal_eval(node.value) if node.value else {}
    raise AssertionError("augment/spec.py holds no PRESETS")


def _serves(kind: str, stem: str, task: str) -> bool:
    """Return whether a file serves a task, as `names` says."""
    if kind == "data":
        return not _asked_by(task).isdisjoint(_targets(kind, stem))

    tasks_with_their_own = {_task_of(kind, other) for other in _offers(kind)}
    wanted = task if task in tasks_with_their_own else ""
    return _task_of(kind, stem) == wanted


def _asked_by(task: str) -> frozenset[str]:
    """Return the kinds of target that a task asks for."""
    if (own := own_task(task)) is not None:
        found = OwnTask(own) if may_run(own) else None
        return frozenset(getattr(found, "TARGETS", ("class",)))
    if task not in installed("tasks"):
        return _targets("tasks", _stem("tasks", task))
    file = _file_in_package(task, "task")
    return frozenset((_literal(file, "TARGETS") if file else None) or ("class",))


def _file_in_package(task: str, part: str) -> Path | None:
    """Return the file of a part of an installed task, None where it has none."""
    try:
        spec = importlib.util.find_spec(f"{installed('tasks')[task].reference}.{part}")
    except ImportError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _part_of_package(task: str, part: str) -> ModuleType:
    found = installed("tasks")[task]
    with running(f"task {task} of the package {found.package}"):
        return importlib.import_module(f"{found.reference}.{part}")


@lru_cache
def _targets(kind: str, stem: str) -> frozenset[str]:
    """Return the kinds of target that a data set offers, or that a task asks for."""
    return frozenset(_literal(_files(kind)[stem], "TARGETS") or ("class",))


@lru_cache
def _task_of(kind: str, stem: str) -> str:
    return _literal(_files(kind)[stem], "TASK") or ""


def _stem(kind: str, name: str) -> str:
    """Return the stem of the file that offers a name; raises as `canonical` does."""
    name = canonical(kind, name)
    for stem, offered in _offers(kind).items():
        if name in offered or _pattern(name) in offered:
            return stem
    raise AssertionError(f"no file offers {name}")  # which `canonical` has refused


def _pattern(name: str) -> str:
    """Return what stands in NAMES for all names of a prefix: "timm/NAME" for "timm/resnet50d"."""
    prefix, slash, _ = name.partition("/")
    return f"{prefix}/NAME" if slash else name


@lru_cache
def _offers(kind: str) -> dict[str, dict[str, str]]:
    """Return what each file of a kind offers, {stem: {name: description}}, without an import."""
    found: dict[str, dict[str, str]] = {}
    for stem, path in _files(kind).items():
        found[stem] = _literal(path, "NAMES") or {stem.replace("_", "-"): _summary(_head(path))}
    return found


@lru_cache
def _files(kind: str) -> dict[str, Path]:
    """Return {stem: file} of a kind; the stem of a task is the name of its folder."""
    paths = [path for pattern in PLACES[kind] for path in PACKAGE.glob(pattern)]
    stems = {path.parent.name if kind == "tasks" else path.stem: path for path in paths}
    return {
        stem: stems[stem]
        for stem in sorted(stems)
        if not stem.startswith("_") and stem not in NOT_PLUGINS.get(kind, ())
    }


def _literal(path: Path, name: str) -> Any:
    """Return the literal that a file assigns to a name, None where it does not."""
    source = path.read_text(encoding="utf-8")
    if not re.search(rf"^{name}\b", source, re.MULTILINE):
        return None
    for tree in (_head(path), None):
        for node in (tree or ast.parse(source)).body:
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
                return ast.literal_eval(node.value)
    return None


@lru_cache
def _head(path: Path) -> ast.Module:
    """Return what a file says before its first function or class: a fifth of the work of parsing
    it whole, and enough for nearly all that is asked of it.
    """
    source = path.read_text(encoding="utf-8")
    head = _DEFINITION.split(source, maxsplit=1)[0]
    try:
        return ast.parse(head)
    except SyntaxError:  # the docstring has such a line
        return ast.parse(source)


_DEFINITION = re.compile(r"^(?:@|def |class |async def )", re.MULTILINE)


def _summary(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first paragraph of a docstring as one line."""
    docstring = ast.get_docstring(node) or ""
    return " ".join(docstring.split("\n\n")[0].split())
