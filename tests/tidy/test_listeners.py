"""Every class that listens on a socket is attacked by `tests/attack`."""

import ast

from tests.attack.harness import unattacked
from tests.attack.servers import LISTENERS
from tests.tidy.sources import modules, name

PRIMITIVES = ("pyspark_theflash/net/bind.py", "pyspark_theflash/net/listen.py")
"""Modules whose functions listen for the classes that call them."""
CALLS = {"bind", "bind_server", "create_server", "listen", "server", "start_server"}
CALLS |= {
    "_BoundedServer",
    "HTTPServer",
    "ThreadingHTTPServer",
    "TCPServer",
    "add_insecure_port",
    "add_secure_port",
}


def _called(node: ast.AST) -> set[str]:
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    names = {
        each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in calls
    }
    return names & CALLS


def _listeners() -> set[str]:
    """Names of the classes that listen, and of functions that do outside of classes."""
    names: set[str] = set()
    for path in modules():
        if name(path) not in PRIMITIVES:
            names |= {
                node.name
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and _called(node)
            }
    return names


def _subclasses(names: set[str]) -> set[str]:
    return {
        node.name
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and names & {base.id for base in node.bases if isinstance(base, ast.Name)}
    }


def test_every_listener_is_in_the_campaign() -> None:
    """A new listener is added to `LISTENERS`, with a configuration that starts it."""
    listeners = _listeners()
    assert listeners | _subclasses(listeners) == set(LISTENERS)


def test_every_listener_is_attacked() -> None:
    assert list(unattacked()) == []
