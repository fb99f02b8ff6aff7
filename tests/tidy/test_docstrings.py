"""Every public function has a docstring."""

import ast
import re

from tests.tidy.sources import ROOT, modules, name

PROTO = ROOT / "protos" / "theflash" / "v1" / "theflash.proto"
OVERRIDES = {"do_GET", "find_spec", "intercept_service", "writer"}
"""Methods of classes of other libraries, which document them."""


def _calls():
    """Methods that answer a call of the API, documented in its protocol."""
    names = re.findall(r"^ *rpc (\w+)", PROTO.read_text(), re.MULTILINE)
    return {re.sub(r"(?<!^)([A-Z])", r"_\1", each).lower() for each in names}


def _is_public(node):
    """Whether a statement defines a public function; a property is an attribute."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
        return False
    return "property" not in {each.id for each in node.decorator_list if isinstance(each, ast.Name)}


def test_public_functions_are_documented():
    """A method may be documented where its protocol or base class declares it.

    One that consists of a single statement may do without.
    """
    documented, others = OVERRIDES | _calls(), {}
    for path in modules():
        tree = ast.parse(path.read_text())
        for owner in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]:
            for function in filter(_is_public, owner.body):
                if ast.get_docstring(function):
                    documented.add(function.name)
                elif owner is tree or (owner.name[0] != "_" and len(function.body) > 1):
                    others[f"{name(path)}: {function.name}"] = function.name
    assert [where for where, function in others.items() if function not in documented] == []
