"""Errors cross process borders, so each survives pickle unchanged."""

import inspect
import pickle

import pytest

from pyspark_theflash import errors

SAMPLES = {str: "text", int: 7, tuple[str, ...]: ("a", "b")}


def _family(root):
    return [root, *(c for child in root.__subclasses__() for c in _family(child))]


CLASSES = [c for c in _family(errors.TheFlashError) if c.__module__.startswith(errors.__name__)]


def _sample(error_class):
    """An instance with an argument of the right type for each parameter."""
    if error_class.__init__ is Exception.__init__:
        return error_class("text")
    parameters = inspect.signature(error_class).parameters.values()
    return error_class(*(SAMPLES[p.annotation] for p in parameters))


@pytest.mark.parametrize("error_class", CLASSES)
def test_error_survives_pickle(error_class):
    error = _sample(error_class)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


def test_names_end_in_error():
    assert [c.__name__ for c in CLASSES if c.__name__[-5:] != "Error"] == []
