"""Recipes: functions → Run, the only place where the parts meet. Importing one loads no torch."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from overnight.errors import UserError

RECIPES = {
    "byte-lm": "overnight.recipes.byte_lm:byte_lm",
    "builtin": "overnight.recipes.builtin:builtin",
    "mnist-lstm": "overnight.recipes.mnist_lstm:mnist_lstm",
    "resnet": "overnight.recipes.resnet:resnet",
    "alexnet": "overnight.recipes.alexnet:alexnet",
    "word-lm": "overnight.recipes.word_lm:word_lm",
    "recommender": "overnight.recipes.recommender:recommender",
    "gnmt": "overnight.recipes.gnmt:gnmt",
    "bert": "overnight.recipes.bert:bert",
    "bert-classify": "overnight.recipes.bert_classify:bert_classify",
    "bert-squad": "overnight.recipes.bert_squad:bert_squad",
}


def find(name: str) -> Callable[..., Any]:
    """The recipe function of a name.

    Raises:
        UserError: if there is none; it names the nearest.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Recipes: {', '.join(RECIPES)} (see: overnight list)."
        raise UserError(f"There is no recipe {name!r}.", remedy)
    module, _, function = RECIPES[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
