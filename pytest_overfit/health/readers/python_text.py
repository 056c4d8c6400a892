"""Objects as Python prints them: a dictionary of lists (`{'loss': [3.1, 2.0]}`), or RETURNN's
`newbob.data`, which has an `EpochData(learningRate=..., error={...})` under each epoch.

Text is parsed and never evaluated.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

LARGEST = 16 << 20
"""Bytes of a text that is parsed as one object: its tree takes a hundred times as much."""
OPENED = re.compile(r"\{\s*(?:['\"]|\d{1,9}\s*:)")
NUMBERS = {"nan": math.nan, "inf": math.inf}
SCORE = re.compile(r"(dev|train)_(?:score|loss)(?:_(.+))?")
ERROR = re.compile(r"(dev|train)_error(?:_(.+))?")
NORM = "grad_norm"
"""What newer versions tell among the losses."""
OUTPUTS = ("", "output/output_prob", "output_prob", "ctc")
"""RETURNN's names of the output that a loss is of, the plainest first."""


def python_object(text: str) -> dict[Any, Any] | None:
    """The dictionary that a text is, as JSON would hold it; None where it is none, or is larger
    than `LARGEST`.
    """
    if len(text) > LARGEST or OPENED.match(text) is None:
        return None
    try:
        content = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(content, dict):
        return None
    return {
        key: _epoch_data(one) if isinstance(one, dict) and "learningRate" in one else one
        for key, one in content.items()
    }


def _value(node: ast.expr) -> Any:
    """What a node of the tree is. Of a call, as `float32(0.5)` or `EpochData(error={})`, its one
    argument, or its keywords. Raises ValueError or TypeError for what is no literal.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.Name(id=name) if name in NUMBERS:
            return NUMBERS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_value(k): _value(v) for k, v in zip(keys, values, strict=True) if k}
        case ast.Call(args=[], keywords=keywords):
            return {keyword.arg: _value(keyword.value) for keyword in keywords}
        case ast.Call(args=[argument, *_]):
            return _value(argument)
    raise ValueError(f"{type(node).__name__} is no literal")


def _epoch_data(one: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch of RETURNN under usual names: what it calls a score is a loss; of several outputs
    the plainest gives the loss of its split.
    """
    told: Mapping[str, Any] = one.get("error") or {}
    named: dict[str, Any] = {"lr": told.get(":meta:effective_learning_rate", one["learningRate"])}
    for pattern, measure in ((SCORE, "loss"), (ERROR, "error")):
        found = {
            (match[1], match[2] or ""): value
            for name, value in told.items()
            if isinstance(name, str) and (match := pattern.fullmatch(name)) and NORM not in name
        }
        for split in ("train", "dev"):
            outputs = [output for of, output in found if of == split]
            outputs.sort(key=lambda output: OUTPUTS.index(output) if output in OUTPUTS else 9)
            if outputs:
                named[f"{split}_{measure}"] = found[split, outputs[0]]
            named |= {f"{split}_{measure}_{name}": found[split, name] for name in outputs[1:]}
    return named
