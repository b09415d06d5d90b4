"""References to the user's own code: what they name, and when that code may run."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

from tintype import own_code
from tintype.errors import OwnCodeError, UserError

NET = "def build(spec):\n    return ('net', spec)\n\n\nclass Other:\n    pass\n"


@pytest.fixture
def net(tmp_path, monkeypatch):
    file = tmp_path / "my_net.py"
    file.write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_trusted", {})
    monkeypatch.setattr(own_code, "_approved", set())
    return file


def named(reference: str, kind: str = "model", usual: str = "build"):
    """Find the code of a reference that the user has typed."""
    own_code.approve([reference])
    return own_code.find(reference, kind, usual)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("my_net.py", True),
        ("my_net.py:Net", True),
        ("package.module:factory", True),
        ("python:Net", True),
        ("C:\\nets\\my_net.py", True),
        ("cnn", False),
        ("timm/resnet50d", False),
        ("photos", False),
        (None, False),
    ],
)
def test_what_is_a_reference(name, own):
    assert own_code.is_own(name) is own


def test_a_file_is_found_by_the_usual_name_or_by_a_given_one(net):
    assert named("my_net.py")("spec") == ("net", "spec")
    assert named(f"{net}:Other").__name__ == "Other"
    assert own_code.absolute("my_net.py:Other") == f"{net}:Other"


def test_an_installed_module_is_found():
    import json

    assert named("json:dumps", "loss", "loss") is json.dumps


@pytest.mark.parametrize("reference", ["my_net.py", "my_net.py:Other", "os:system", "bomb:build"])
def test_what_nobody_has_named_does_not_run(net, monkeypatch, reference):
    (net.parent / "bomb.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(net.parent)
    with pytest.raises(UserError, match="opening a run executes no code"):
        own_code.find(reference, "model", "build")


def test_an_object_keeps_its_reference():
    thing = object()
    assert own_code.give(thing) == own_code.give(thing)
    assert own_code.give(object()) != own_code.give(thing)
    assert own_code.find(own_code.give(thing), "data set", "load") is thing


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("absent.py", "absent.py (looked from"),
        ("no_such_package.here:Net", "there is no module no_such_package.here"),
        ("my_net.py:Nett", "unknown model in my_net.py: 'Nett'"),
        ("python:Gone", "this process does not know it"),
        ("broken.py", "fails with ZeroDivisionError: division by zero"),
        ("two.py", "which model of two.py? It has a, b"),
        ("none.py", "It has nothing that could be one"),
    ],
)
def test_what_cannot_be_found_is_said(net, reference, says):
    (net.parent / "broken.py").write_text("1 / 0", encoding="utf-8")
    (net.parent / "two.py").write_text("def a(): ...\ndef b(): ...\n", encoding="utf-8")
    (net.parent / "none.py").write_text("from math import sqrt\n", encoding="utf-8")
    with pytest.raises(UserError, match=r".") as error:
        named(reference)
    assert says in str(error.value)


def test_trust_is_in_bytes(net):
    code = own_code.code_of("my_net.py")
    assert not own_code.is_trusted("my_net.py", code.sha256)
    own_code.trust(net)
    assert own_code.is_trusted("elsewhere.py", code.sha256)

    net.write_text(NET + "x = 1\n", encoding="utf-8")
    assert not own_code.is_trusted("my_net.py", own_code.code_of("my_net.py").sha256)
    named("my_net.py")  # the user names it
    assert own_code.is_trusted("my_net.py", own_code.code_of("my_net.py").sha256)
    assert not own_code.is_trusted("my_net.py", "")


def test_looking_at_code_does_not_run_it(net):
    (net.parent / "bomb.py").write_text("raise SystemExit", encoding="utf-8")
    assert own_code.code_of("bomb.py").source == "raise SystemExit"
    assert own_code.trust("bomb.py").sha256


def test_the_traceback_of_own_code_begins_in_it(net):
    (net.parent / "broken.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n", encoding="utf-8")
    with pytest.raises(OwnCodeError, match=r"broken\.py fails with ZeroDivisionError") as error:
        named("broken.py")
    shown = error.value.own_traceback()
    assert "return 1 / 0" in shown
    assert shown.endswith("ZeroDivisionError: division by zero\n")
    assert "own_code.py" not in shown
    assert "importlib" not in shown

    # what the user's code says to the user stays as it is
    with pytest.raises(UserError, match="as it is"), own_code.running("the loss"):
        raise UserError("as it is")


def test_an_object_becomes_a_reference():
    def thing(): ...

    assert own_code.as_reference(thing) == own_code.give(thing)
    assert own_code.as_reference("cnn") == "cnn"
    assert own_code.as_reference({"flip": True}) == {"flip": True}
    assert own_code.name_of("my_net.py") == "my_net"
    assert own_code.name_of("my_net.py:Net") == "Net"


def test_a_class_of_a_notebook_has_its_source():
    cell = "import math\n\n\n@staticmethod\ndef f(): ...\n\n\nclass Net:\n    depth = 3\n\n    def forward(self): ...\n"
    lines: list[str] = list(cell.splitlines(keepends=True))
    linecache.cache["<cell 1>"] = (len(cell), None, lines, "<cell 1>")
    names: dict[str, Any] = {"__name__": "no_such_notebook"}
    exec(compile(cell, "<cell 1>", "exec"), names)
    code = own_code.code_of(own_code.give(names["Net"]))
    assert code.source == "class Net:\n    depth = 3\n\n    def forward(self): ..."


def test_the_only_object_of_a_kind_comes_before_others_that_fit(net):
    text = "def helper(): ...\ndef other(): ...\nclass Net: ...\n"
    (net.parent / "one_class.py").write_text(text, encoding="utf-8")
    own_code.approve(["one_class.py"])
    found = own_code.find(
        "one_class.py", "model", "build", first=lambda each: isinstance(each, type)
    )
    assert found.__name__ == "Net"
