"""Messages are spelled for whoever asks: flags in a shell, arguments in Python."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tintype
from tintype.errors import UserError
from tintype.interface.spelling import on_the_command_line, spelled

PACKAGE = Path(tintype.__file__).parent


@pytest.mark.parametrize(
    ("typed", "in_python"),
    [
        ("Choose another --out.", "Choose another out=."),
        ("Choose another --name or --out.", "Choose another name= or out=."),
        ("Leave --device out.", "Leave device= out."),
        ("Leave out --device to choose automatically.", "Leave out device= to choose automatically."),
        ("If you want it, add --yes; it is long.", "If you want it, add yes=True; it is long."),
        ("Try --lr 0.02, --set clip=1 or a lower --set warmup=0.1.", "Try lr=0.02, clip=1 or a lower warmup=0.1."),
        ("Try --set model.norm=none --set task.r1=1", "Try model_options={'norm': 'none'} r1=1"),
        ("--set task.diff_augment=[translation,cutout]", "diff_augment=['translation', 'cutout']"),
        ("Leave --test none out.", "Leave test_fraction='none' out."),
        ("Give --weights FILE, or --weights none.", "Give weights='FILE', or weights='none'."),
        ("Type: tintype train --resume runs/a.b", "Type: tt.train(resume='runs/a.b')"),
        ("it is: tintype train --resume 'my runs/a' --data NEW (or --data-root NEW)",
         "it is: tt.train(resume='my runs/a', data='NEW') (or data_root='NEW')"),
        ("Type: tintype evaluate runs/a --data b.csv.", "Type: tt.load('runs/a').evaluate(data='b.csv')."),
        ("Type: tintype compare RUN RUN", "Type: tt.compare(['RUN', 'RUN'])"),
        ("`tintype list runs` shows them.", "`tt.runs()` shows them."),
        ("`tintype list models` shows them; pip install --upgrade x",
         "`tintype list models` shows them; pip install --upgrade x"),
        ("it fails with KeyError: x. --debug shows where.", "it fails with KeyError: x."),
    ],
)  # fmt: skip
def test_a_message_is_spelled_for_whoever_asks(typed: str, in_python: str) -> None:
    assert spelled(typed) == in_python
    assert spelled(in_python) == in_python
    assert str(UserError(typed)) == in_python
    with on_the_command_line():
        assert str(UserError(typed)) == typed


def written(node: ast.AST) -> str:
    """Return the text of a string as it may look when its values are filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "x1" for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_message_speaks_of_flags_in_python() -> None:
    errors = ("UserError", "OwnCodeError", "unknown_name")
    found: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in errors:
                found += [spelled(written(argument)) for argument in call.args]
    assert len(found) > 400
    assert not [message for message in found if "--" in message and "pip install" not in message]
