"""PowerShell scripts, parsed."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

PARSER = Parser(Language(tree_sitter_powershell.language()))
# PowerShell reads these as it reads ', and the grammar knows only '.
LIKE_QUOTE = str.maketrans(dict.fromkeys("‘’‚‛", "'"))


def parsed(script: str) -> Node:
    """The tree of a script as PowerShell reads it."""
    return PARSER.parse(script.removeprefix("\ufeff").translate(LIKE_QUOTE).encode()).root_node


def nodes(root: Node) -> Iterator[Node]:
    """A node and everything in it."""
    yield root
    for child in root.children:
        yield from nodes(child)


def text(node: Node) -> str:
    return (node.text or b"").decode()


def is_faulty(root: Node) -> bool:
    return any(node.is_error or node.is_missing for node in nodes(root))


def strings(root: Node) -> list[str]:
    """The values of the string literals in single quotes, with typographic quotes as plain ones."""
    found = (text(node) for node in nodes(root) if node.type == "verbatim_string_characters")
    return [literal[1:-1].replace("''", "'") for literal in found]


def value_of(root: Node, variable: str) -> Node:
    """What a script first assigns to a variable."""
    return next(
        node
        for node in nodes(root)
        if node.type == "assignment_expression" and text(node.children[0]) == variable
    ).children[-1]


def commands(root: Node) -> Iterator[tuple[str, Node]]:
    """Every command that a script calls, by name."""
    for node in nodes(root):
        if node.type == "command_name":
            yield text(node), node


def conditions(node: Node) -> Iterator[str]:
    """The conditions of the `if` blocks around a node, the nearest first."""
    inner, around = node, node.parent
    while around is not None:
        if around.type == "if_statement":
            condition = text(next(child for child in around.children if child.type == "pipeline"))
            yield f"not {condition}" if inner.type == "else_clause" else condition
        inner, around = around, around.parent
