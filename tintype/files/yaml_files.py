"""YAML from strangers, read within the bounds that `docs/limits.md` states.

Separate from `files/bounded.py`, since exported models also run where PyYAML is not installed.
"""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from typing import Any, ClassVar

import yaml

from tintype.errors import UserError
from tintype.files.bounded import MOST_DEPTH, MOST_DIGITS, read_bytes

MOST_YAML_BYTES = 2_000_000
MOST_NODES = 100_000  # of a YAML file, each alias counted with all that it stands for


class BoundedLoader(yaml.SafeLoader):
    """YAML's safe loader with bounds on nodes and depth; a date stays the word that was written."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of each node that is complete, with all that is in it

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read a node; refuse one that is nested too deep or stands for too many values."""
        is_alias = self.check_event(yaml.AliasEvent)
        is_nest = self.check_event(yaml.CollectionStartEvent)

        self._depth += is_nest
        if self._depth > MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= is_nest

        if is_alias:
            if id(node) not in self._sizes:
                raise yaml.YAMLError("an alias stands inside of what it means")
            return node

        size = 1 + sum(self._sizes[id(inner)] for inner in _children(node))
        if size > MOST_NODES:
            raise yaml.YAMLError(f"it stands for more than {MOST_NODES:,} values")
        self._sizes[id(node)] = size
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """Read a whole number of at most MOST_DIGITS digits."""
        if len(node.value) > MOST_DIGITS:
            raise yaml.YAMLError(f"a number has more than {MOST_DIGITS} digits")
        return super().construct_yaml_int(node)


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_yaml_int)


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [inner for pair in node.value for inner in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def parse_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return the content of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or its content is beyond a bound.
        UserError: what your own `loader` refuses.
    """
    try:
        return loader(text).get_single_data()
    except (yaml.YAMLError, UserError):
        raise
    # constructors raise whatever int, float and others do: "!!int x", "!!timestamp 1"
    except Exception as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


def read_yaml(path: str | os.PathLike[str], loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return the content of a YAML file.

    Raises:
        OSError: it is no regular file, it cannot be read, or it is too large.
        UnicodeDecodeError: it is no UTF-8.
        yaml.YAMLError: it is no YAML, or its content is beyond a bound.
        UserError: what your own `loader` refuses.
    """
    content = read_bytes(path, most=MOST_YAML_BYTES)
    return copy.deepcopy(_parsed(content, loader))


@lru_cache(maxsize=16)
def _parsed(content: bytes, loader: type[BoundedLoader]) -> Any:
    """Parse a file; a recipe, which takes longer than an epoch of a small run, is read often."""
    return parse_yaml(content.decode("utf-8"), loader)
