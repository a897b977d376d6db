"""A function as a tool: types and docstring are all that a model learns of it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

OPERATIONS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> float:
    """Work out an expression of numbers with + - * / and parentheses, for instance (3 + 4) * 2."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp() if type(node.op) in OPERATIONS:
                return OPERATIONS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp() if type(node.op) in OPERATIONS:
                return OPERATIONS[type(node.op)](value(node.operand))
        raise ValueError(f"only numbers and + - * /, not `{ast.unparse(node)}`")

    return value(ast.parse(expression, mode="eval").body)
