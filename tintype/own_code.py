"""Find the user's own code: a network, a loss, a data set and more that are no part of tintype.

A recipe names such code by a *reference*, which is one of

- `my_net.py` or `my_net.py:Net`: a file, and a name in it;
- `package.module:Net`: a name in an installed module;
- `python:Net`: an object that was given in Python, which only this process knows.

What runs, runs because the user named it: `find` refuses a reference that nobody in this process
has named, since a run folder may come from a stranger. Whoever takes a reference from the user says
so with `approve`; a stored run finds its code by `located` alone. Trust is in bytes: code is
trusted once the user has named it in this process, by the hash of its file. The same holds for
programs of torch.export and TorchScript, whose reading can run code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import linecache
import re
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Annotated, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from pydantic import BeforeValidator

from tintype.errors import OwnCodeError, StopTraining, UserError, unknown_name
from tintype.files.bounded import read_bytes

IN_PYTHON = "python:"
PROCESS = uuid.uuid4().hex  # stands for code without a text, which may differ in every process
PROGRAMS = (".pt2", ".ts", ".pt", ".pth")  # files of torch that may hold code

# {reference: object} of what was given in Python, the references that the user has named, and
# {sha256: reference} of all code that was named.
_given: dict[str, Any] = {}
_approved: set[str] = set()
_trusted: dict[str, str] = {}
# Hashes of files of other kinds that were named, or that this process has written.
_trusted_content: set[str] = set()

# {class or function: source} of what was given.
_texts: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

# {reference: reference} of what a stored run names, and where the same code was named here.
_stand_ins: ContextVar[Mapping[str, str]] = ContextVar("_stand_ins", default=MappingProxyType({}))


@runtime_checkable
class _MadeOfParts(Protocol):
    """An object such as a network, which is made of parts."""

    def modules(self) -> Iterable[Any]:
        """Return itself and all parts."""
        ...


@dataclass(frozen=True)
class Code:
    """What a run records of the code that it needs.

    Attributes:
        reference: how the recipe names it.
        sha256: of the file, or of the source of an object that was given in Python; "" where it
            has none.
        source: the text that was hashed.
    """

    reference: str
    sha256: str
    source: str


def is_own(name: object) -> bool:
    """Return whether the value of a field is a reference to the user's own code."""
    if not isinstance(name, str):
        return False
    path, colon, attribute = _parts(name)
    names = [*path.split("."), attribute]
    return path.endswith(".py") or bool(colon and all(part.isidentifier() for part in names))


def is_code(name: object) -> bool:
    """Return whether the value of a field names code in a file or in an installed module."""
    return is_own(name) and not str(name).startswith(IN_PYTHON)


def as_reference(thing: Any) -> Any:
    """Return the reference of an object that was given in Python; a text stays as it is."""
    thing = getattr(thing, "_orig_mod", thing)  # what torch.compile wraps
    return give(thing) if callable(thing) else thing


# A field of a recipe that holds a name or a reference, and takes an object in Python.
Reference = Annotated[str, BeforeValidator(as_reference)]


def as_references(thing: Any) -> Any:
    """Return the text or the mapping of a field that takes several names, objects among them.

    A list of names, objects and mappings is joined by commas; in a mapping they are the keys.
    """
    if isinstance(thing, Mapping):
        return {as_reference(key): value for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return ",".join(_as_text(each) for each in thing)
    return as_reference(thing)


def _as_text(thing: Any) -> str:
    """Return an element of a list as one types it; options of a mapping as JSON, which is YAML."""
    if not isinstance(thing, Mapping):
        return str(as_reference(thing))

    values = {
        as_reference(key): value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in thing.items()
    }
    return ",".join(f"{key}={value}" for key, value in values.items())


def as_list(things: Any) -> Any:
    """Return the references of a field that holds a list: of one object or name, of several by
    commas, of a list, or of a mapping of names to objects.
    """
    if isinstance(things, Mapping):
        return [give(thing, name) if callable(thing) else thing for name, thing in things.items()]
    if isinstance(things, str):
        return [part.strip() for part in things.split(",") if part.strip()]
    if isinstance(things, list | tuple):
        return [as_reference(thing) for thing in things]
    return [as_reference(things)] if callable(things) else things


def references_in(value: Any) -> list[str]:
    """Return the references in what a field holds: a name, several by commas, a list, or keys."""
    names = value.split(",") if isinstance(value, str) else list(value or ())
    return [name.strip() for name in names if isinstance(name, str) and is_own(name.strip())]


def with_references(value: Any, change: Callable[[str], str]) -> Any:
    """Return what a field holds, with each of its references changed."""

    def changed(name: Any) -> Any:
        own = isinstance(name, str) and is_own(name.strip())
        return change(name.strip()) if own else name

    if isinstance(value, str):
        return ",".join(changed(name) for name in value.split(","))
    if isinstance(value, Mapping):
        return {changed(key): inner for key, inner in value.items()}
    return [changed(name) for name in value]


def give(thing: Any, name: str = "") -> str:
    """Take an object from Python, and return the reference by which `find` knows it.

    The same object has the same reference, unless it is given another name. `name` is its own or
    that of its type by default; `name_of` returns it.
    """
    for reference, other in _given.items():
        if other is thing and name in ("", name_of(reference)):
            return reference

    name = name or getattr(thing, "__name__", type(thing).__name__).strip("<>")
    number = 1
    while (reference := f"{IN_PYTHON}{name}" + ("" if number == 1 else f"__{number}")) in _given:
        number += 1
    _given[reference] = thing
    return reference


def is_in_python(name: str) -> bool:
    """Return whether a name is the reference of an object that was given in Python."""
    return name.startswith(IN_PYTHON)


def is_given(reference: str) -> bool:
    """Return whether this process has the object of a reference."""
    return reference in _given


def plain_name(reference: str) -> str:
    """Return what an object that was given in Python is called, without hashes."""
    return reference.removeprefix(IN_PYTHON).partition("_")[0]


def refuse_given(references: Iterable[tuple[str, str]], what: str) -> None:
    """Raise where code was given in Python, for work that other processes do.

    Args:
        references: each after its field of the recipe.
        what: is trained there, such as "the runs of a study".

    Raises:
        UserError: a reference is to an object of this process.
    """
    for field, reference in references:
        if reference.startswith(IN_PYTHON):
            name = name_of(reference)
            raise UserError(
                f"the {field} {name} is an object of this process, and {what} are trained by "
                f"others. Put it into a file, and name that: {field}='FILE.py:{name}'."
            )


def forget(reference: str) -> None:
    """Let go of an object that was given in Python, so that its memory can be freed."""
    _given.pop(reference, None)


@contextmanager
def given(thing: Any, name: str = "") -> Iterator[str]:
    """Take an object for the time of the block, and yield its reference, as `give` does."""
    known = any(other is thing for other in _given.values())
    reference = give(thing, name)
    try:
        yield reference
    finally:
        if not known:
            forget(reference)


def absolute(reference: str) -> str:
    """Return a reference with the whole path of its file, so that it holds from every folder."""
    path, colon, attribute = _parts(reference)
    if not path.endswith(".py"):
        return reference
    return f"{Path(path).expanduser().resolve()}{colon}{attribute}"


def approve(references: Iterable[str]) -> None:
    """Let `find` run the code of references that the user has named in this process."""
    _approved.update(map(absolute, references))


def find(
    reference: str,
    kind: str,
    usual: str,
    fits: Callable[[Any], bool] = callable,
    first: Callable[[Any], bool] | None = None,
) -> Any:
    """Run the code of a reference and return what it names; the code is trusted from then on.

    Args:
        reference: as the user wrote it.
        kind: what it is for, in the user's words: "model", "loss".
        usual: the name that is looked for where the reference names a file alone, such as "build";
            without one, the only object of the file that `fits`.
        fits: whether an object can be what is looked for.
        first: whether it is meant before others that fit, if it is the only one.

    Raises:
        UserError: the user has not named it, there is no such file, module or name, or its code
            fails.
    """
    reference = _stand_ins.get().get(reference, reference)
    path, _, attribute = _parts(reference)
    if reference.startswith(IN_PYTHON):
        if reference not in _given:
            raise UserError(
                f"the {kind} {attribute} was given in Python, and this process does not know it. "
                f"Give it again, or put it into a file: {kind}='FILE.py:{attribute}'."
            )
        return _given[reference]

    _refuse_unnamed(reference, kind)
    module = _module(path, kind)
    _trusted[code_of(reference).sha256] = absolute(reference)
    name = attribute or _only_name(module, path, kind, usual, fits, first)
    if not hasattr(module, name):
        raise unknown_name(f"{kind} in {path}:", name, _names_in(module, fits))
    return getattr(module, name)


@contextmanager
def running(whose: str) -> Iterator[None]:
    """Run the user's own code in the block: what it raises becomes an error that says whose it is.

    Args:
        whose: what begins the message, such as "the loss focal".

    Raises:
        OwnCodeError: the code raised an exception, which is the cause of this one.
        UserError, StopTraining: as the code raised it.
    """
    try:
        yield
    except (UserError, StopTraining):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise OwnCodeError(f"{whose} fails with {reason.rstrip('.')}.") from error


def name_of(reference: str) -> str:
    """Return what own code is called in a sentence: the name of the object, or of its file."""
    path, _, attribute = _parts(reference)
    if reference.startswith(IN_PYTHON):  # without the number that `give` adds
        return re.sub(r"__\d+$", "", attribute)
    return attribute or Path(path).stem


def called(name: str) -> str:
    """Return a name of a recipe as a sentence has it: of own code, what `name_of` returns."""
    return name_of(name) if is_own(name) else name


def code_of(reference: str) -> Code:
    """Return what a run records of the code behind a reference; none of it is executed.

    Raises:
        UserError: the file or module cannot be found or read.
    """
    path, _, _ = _parts(reference)
    live = reference.startswith(IN_PYTHON)
    source = _source_of_given(_given.get(reference)) if live else _read(_file_of(path))
    return Code(reference, hashlib.sha256(source.encode()).hexdigest() if source else "", source)


def trust(what: str | Path | Any) -> Code:
    """Trust a file, a module or an object that the user names for runs that need its code.

    A file that is not Python, such as a program of torch.export, is trusted by its bytes.

    Raises:
        UserError: there is no such file or module.
    """
    reference = str(what) if isinstance(what, str | Path) else give(what)
    if not is_own(reference) and _is_file(reference):
        sha256 = trust_content(_read_bytes(Path(reference).expanduser()))
        return Code(reference, sha256, "")

    code = code_of(reference)
    _trusted[code.sha256] = absolute(reference)
    return code


def trust_all(references: Iterable[tuple[str, str]]) -> None:
    """Trust the code of a recipe that the user has named, as it now is.

    Args:
        references: each after its field of the recipe.
    """
    for _, reference in references:
        if not reference.startswith(IN_PYTHON):
            trust(reference)


def trust_content(content: bytes | memoryview) -> str:
    """Trust a file that is not Python by its bytes, and return their hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    _trusted_content.add(sha256)
    return sha256


def is_trusted_content(content: bytes) -> bool:
    """Return whether the user has named, or this process has written, a file of these bytes."""
    return hashlib.sha256(content).hexdigest() in _trusted_content


def located(reference: str, sha256: str) -> str | None:
    """Return how this process finds the code that a stored run needs, None where it may not run.

    That is a file or an object with the same bytes that the user has named, wherever it is.

    Args:
        reference: of the code, from the run.
        sha256: of the code, from the run.
    """
    if reference.startswith(IN_PYTHON):
        if not sha256:
            return reference if reference in _given and not code_of(reference).sha256 else None
        same = [known for known in _given if code_of(known).sha256 == sha256]
        return reference if reference in same else next(iter(same), _renamed(reference, sha256))
    return _renamed(reference, sha256)


def named_like(reference: str) -> list[str]:
    """Return the references of trusted code with the name of another, as an edited file has."""
    return [other for other in _trusted.values() if _label(other) == _label(reference)]


@contextmanager
def standing_in(references: Mapping[str, str]) -> Iterator[None]:
    """Let `find` take other references for those that a stored run names, as `located` has them."""
    token = _stand_ins.set(MappingProxyType({**_stand_ins.get(), **references}))
    try:
        yield
    finally:
        _stand_ins.reset(token)


def is_trusted(reference: str, sha256: str) -> bool:
    """Return whether the user named the code that a stored run needs, in this process.

    Args:
        reference: of the code, from the run.
        sha256: of the code, from the run.
    """
    return located(reference, sha256) is not None


def is_stood_in_for(reference: str) -> bool:
    """Return whether `find` takes another reference for this one, in a block of `standing_in`."""
    return reference in _stand_ins.get()


def may_run(reference: str) -> bool:
    """Return whether the user has named code in this process, so that `find` runs it."""
    reference = _stand_ins.get().get(reference, reference)
    if reference.startswith(IN_PYTHON):
        return reference in _given
    whole = absolute(reference)
    path, _, _ = _parts(whole)
    return whole in _approved or path in {_parts(trusted)[0] for trusted in _trusted.values()}


def _refuse_unnamed(reference: str, kind: str) -> None:
    """Raise where a reference comes from a file alone, and not from the user."""
    if may_run(reference):
        return
    raise UserError(
        f"the {kind} is your own code, {reference}, and opening a run executes no code. If you "
        f"trust it: --trust FILE"
    )


def _label(reference: str) -> str:
    path, _, attribute = _parts(reference)
    return Path(path).name if path.endswith(".py") else attribute or path


def _renamed(reference: str, sha256: str) -> str | None:
    """Return the reference of trusted code with the name that `reference` asks of it."""
    trusted = _trusted.get(sha256) if sha256 else None
    if trusted is None or trusted.startswith(IN_PYTHON):
        return trusted
    try:
        edited = code_of(trusted).sha256 != sha256
    except UserError:  # removed since
        return None
    if edited:
        return None
    path, _, _ = _parts(trusted)
    _, _, name = _parts(reference)
    return f"{path}:{name}" if name else path


def _parts(reference: str) -> tuple[str, str, str]:
    """Divide a reference into file or module, colon, and name; `C:\\net.py` is a file."""
    if reference.endswith(".py"):
        return reference, "", ""
    path, colon, attribute = reference.rpartition(":")
    return (path, colon, attribute) if colon else (reference, "", "")


def _file_of(path: str) -> Path:
    """Return the file of a path or of a module's dotted name; packages above it are imported."""
    if path.endswith(".py"):
        return Path(path).expanduser()
    try:
        spec = importlib.util.find_spec(path)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise UserError(
            f"there is no module {path}. Expected FILE.py:NAME, or MODULE:NAME of a package that "
            "is installed."
        )
    return Path(spec.origin)


def _is_file(reference: str) -> bool:
    """Return whether a reference that names no Python names a file, and not a module."""
    path = Path(reference).expanduser()
    return path.is_file() or path.suffix in PROGRAMS or len(path.parts) > 1


def _read_bytes(file: Path) -> bytes:
    try:
        return read_bytes(file)
    except FileNotFoundError:
        raise UserError(f"there is no file {file} (looked from {Path.cwd()}).") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no file {file} (looked from {Path.cwd()}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} ({error}). Expected a Python file.") from None


def _module(path: str, kind: str) -> ModuleType:
    """Import a file or a module; a file is imported once for each text that it has had."""
    if not path.endswith(".py"):
        _file_of(path)  # which says what is wrong with the name
        with running(f"the {kind} cannot be read: {path}"):
            return importlib.import_module(path)

    file = Path(path).expanduser().resolve()
    source = _read(file)
    digest = hashlib.sha256(f"{file}\n{source}".encode()).hexdigest()[:16]
    name = f"tintype_own_{file.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]

    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(file.parent))  # a file imports what lies beside it, as a script does
    try:
        with running(f"the {kind} cannot be read: {path}"):
            spec.loader.exec_module(module)
    except OwnCodeError:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(file.parent))
    return module


def _only_name(
    module: ModuleType,
    path: str,
    kind: str,
    usual: str,
    fits: Callable[[Any], bool],
    first: Callable[[Any], bool] | None = None,
) -> str:
    """Return the name that is meant where a reference names a file alone."""
    if hasattr(module, usual):
        return usual
    names = _names_in(module, fits)
    before = _names_in(module, first) if first is not None else []
    for only in (names, before):
        if len(only) == 1:
            return only[0]
    found = f"It has {', '.join(names)}" if names else "It has nothing that could be one"
    expected = f"a function `{usual}`, or {path}:NAME" if usual else f"{path}:NAME"
    raise UserError(f"which {kind} of {path}? {found}. Expected {expected}.")


def _names_in(module: ModuleType, fits: Callable[[Any], bool]) -> list[str]:
    """Return the public names that a module defines itself, and that fit."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", None) == module.__name__
        and fits(thing)
    ]


def _source_of_given(thing: Any) -> str:
    """Return the source of an object, of a class or a function as it was when it was first asked
    for: a notebook may define another of that name since.
    """
    if not isinstance(thing, type | FunctionType):
        return _source_of(thing)
    if thing not in _texts:
        _texts[thing] = _source_of(thing)
    return _texts[thing]


def _source_of(thing: Any) -> str:
    """Return the source of an object that was given in Python, "" where it has none.

    Of an object that is made of parts, as a network is, it is what it is made of, and the source of
    those kinds of part that are no part of an installed package.
    """
    if isinstance(thing, _MadeOfParts) and not isinstance(thing, type):
        kinds = dict.fromkeys(type(part) for part in thing.modules())
        written = [_source_of(kind) for kind in kinds if not _is_installed(kind)]
        made_of = "".join(f"# {line}\n" for line in repr(thing).splitlines())
        return "\n\n".join([made_of, *written])

    for candidate in (thing, type(thing)):
        try:
            return textwrap.dedent(inspect.getsource(candidate))
        except (OSError, TypeError):
            continue
    return _source_by_methods(thing) if isinstance(thing, type) else ""


def _source_by_methods(kind: type) -> str:
    """Return the source of a class in a notebook, where only its methods know the cell; or ""."""
    for method in vars(kind).values():
        if not isinstance(method, FunctionType):
            continue
        code = method.__code__
        text = "".join(linecache.getlines(code.co_filename))
        try:
            nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
        except SyntaxError:
            continue
        for node in nodes:
            inside = node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)
            if inside and node.name == kind.__name__:
                return textwrap.dedent(ast.get_source_segment(text, node, padded=True) or "")
    return ""


def _is_installed(kind: type) -> bool:
    """Return whether a class is part of an installed package, which a run does not keep."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or ""
    return any(place in Path(file).parts for place in ("site-packages", "dist-packages"))
