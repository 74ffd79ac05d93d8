"""What a planted fault is: operators of cosmic-ray, five more of its kind for wiring, and which faults are none.

cosmic-ray's operators change an operator, a comparison, a number or a constant. What goes wrong in an algorithm's
wiring is rather a name beside the right one: the online critic for the target, the observation before the step for the
one after it, two arguments in the wrong order, a setting that is not passed on, a default that is off by ten, one bound
of two. These are operators here too.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.plugins
import parso
import parso.python.tree
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator

# Of cosmic-ray's own, one or two for a place: those left out (a shift in place of a sum, `is` in place of `==`) end
# before any test could tell, or change nothing.
CORE = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul")),
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("FloorDiv_Mul", "Mod_FloorDiv", "BitAnd_BitOr", "BitOr_BitAnd")
    ),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in ("Lt_LtE", "Lt_Gt", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_Lt")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("GtE_Gt", "GtE_Lt", "Eq_NotEq", "NotEq_Eq")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_Delete_{which}" for which in ("USub", "Not", "Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop", "ExceptionReplacer"),
)
# Names (and words in quotes) that stand for each other in a wrong wiring, where a module has both.
PAIRS = (
    ("obs", "next_obs"),
    ("terminated", "truncated"),
    ("online", "target"),
    ("online_min", "online_mean"),
    ("target_min", "target_mean"),
    ("critic", "target_critic"),
    ("critics", "target_critics"),
    ("min", "mean"),
    ("max", "mean"),
    ("sum", "mean"),
    ("minimum", "maximum"),
    ("explore", "evaluate"),
    ("before", "after"),
    ("old", "new"),
    ("state", "new"),
    ("current", "after"),
    ("policy", "value"),
    ("actor", "average"),
    ("act", "quiet"),
    ("flow", "average"),
    ("low", "high"),
    ("alpha", "sigma"),
    ("data", "noise"),
    ("first", "second"),
    ("weight", "value"),
    ("x", "action"),
    ("mean", "log_std"),
    ("t_min", "t_max"),
    ("source", "target"),
)
PARTNER = {one: other for a, b in PAIRS for one, other in ((a, b), (b, a))}


# Of `dpolicy._checks`: their first argument is a name for the text of an error.
CHECKS = {
    "boolean",
    "critic",
    "fraction",
    "function",
    "in_range",
    "instance",
    "integer",
    "non_negative",
    "one_of",
}
CHECKS |= {"ordered", "positive", "returned", "sizes"}


def _leaves(node: Any, kind: str) -> list[Any]:
    return [leaf for leaf in ast_nodes(node) if leaf.type == kind]


def _is_attribute(leaf: Any) -> bool:
    before = leaf.get_previous_leaf()
    return before is not None and before.value == "."


class SwapName(Operator):
    """One use of a name becomes its partner's: `state.critic` becomes `state.target`."""

    def mutation_positions(self, node):
        if node.type != "name" or node.value not in PARTNER:
            return
        attribute, following = _is_attribute(node), node.get_next_leaf()
        keyword = (
            following is not None and following.value == "=" and node.parent.type in ("argument", "param")
        )
        if keyword or node.is_definition() or node.search_ancestor("import_from", "import_name"):
            return
        # An attribute that the module knows, or a name of the same function.
        within = node.get_root_node() if attribute else node.search_ancestor("funcdef", "lambdef", "classdef")
        others = [] if within is None else _leaves(within, "name")
        if any(leaf.value == PARTNER[node.value] and _is_attribute(leaf) == attribute for leaf in others):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.value = PARTNER[node.value]
        return node

    @classmethod
    def examples(cls):
        return (
            Example("a = s.obs\nb = s.next_obs", "a = s.next_obs\nb = s.next_obs"),
            Example("def f(obs, next_obs):\n    return obs", "def f(obs, next_obs):\n    return next_obs"),
        )


class SwapWord(Operator):
    """One word in quotes becomes its partner: "online_min" becomes "online_mean"."""

    def mutation_positions(self, node):
        if node.type == "string" and node.value[1:-1] in PARTNER and node.value[0] in "'\"":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.value = node.value[0] + PARTNER[node.value[1:-1]] + node.value[-1]
        return node

    @classmethod
    def examples(cls):
        return (Example('f("min")', 'f("mean")'),)


def _arguments(node: Any) -> list[Any]:
    """The arguments of a call, for the node that holds them."""
    if node.type == "arglist" and node.parent.type == "trailer":
        return node.children[::2]
    if node.type == "trailer" and node.children[1].type == "argument":
        return [node.children[1]]
    return []


def _named(node: Any) -> list[Any]:
    return [part for part in _arguments(node) if part.type == "argument" and part.children[1] == "="]


def _is_value(node: Any) -> bool:
    """A name, or one with a path: what may stand in another's place."""
    if node.type not in ("atom_expr", "power"):
        return node.type == "name"
    first, *path = node.children
    return first.type == "name" and all(part.type == "trailer" and part.children[0] == "." for part in path)


class SwapArguments(Operator):
    """Two arguments of a call that are values change places: the first two, or what `where` chooses from."""

    @staticmethod
    def _pair(node: Any) -> list[Any]:
        given = [part for part in _arguments(node) if part.type != "argument"]
        called = node.get_first_leaf().get_previous_leaf().get_previous_leaf() if len(given) > 1 else None
        if called is not None and called.value == "where":
            return given[1:3] if len(given) == 3 else []
        return given[:2] if len(given) > 1 and all(map(_is_value, given[:2])) else []

    def mutation_positions(self, node):
        if pair := self._pair(node):
            yield pair[0].start_pos, pair[1].end_pos

    def mutate(self, node, index):
        first, second = self._pair(node)
        at = [node.children.index(part) for part in (first, second)]
        prefixes = first.get_first_leaf().prefix, second.get_first_leaf().prefix
        for place, part, prefix in zip(at, (second, first), prefixes, strict=True):
            node.children[place] = part
            part.get_first_leaf().prefix = prefix
        return node

    @classmethod
    def examples(cls):
        return (Example("f(a, b.c, d)", "f(b.c, a, d)"), Example("where(a > 0, b, 0)", "where(a > 0, 0, b)"))


class DropKeyword(Operator):
    """A keyword argument is not passed on."""

    def mutation_positions(self, node):
        for part in _named(node):
            yield part.start_pos, part.end_pos

    def mutate(self, node, index):
        at = node.children.index(_named(node)[index])
        if node.type == "trailer":
            del node.children[at]
        else:  # with the comma before it, or after it where it comes first
            del node.children[max(at - 1, 0) : max(at + 1, 2)]
        return node

    @classmethod
    def examples(cls):
        return (
            Example("f(a, b=1)", "f(a)"),
            Example("f(a=1, b=2)", "f( b=2)"),
            Example("f(b=1)", "f()"),
        )


class TenTimes(Operator):
    """A number with a point or an exponent becomes ten times as large."""

    def mutation_positions(self, node):
        if node.type == "number" and not node.value.isdigit() and float(node.value):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.value = repr(10 * float(node.value))
        return node

    @classmethod
    def examples(cls):
        return (Example("x = 0.5", "x = 5.0"),)


class OneSided(Operator):
    """`clip` loses its bound from below, or from above."""

    @staticmethod
    def _bounds(node: Any) -> list[Any]:
        if len(given := _arguments(node)) != 3:
            return []
        return (
            given[1:] if node.get_first_leaf().get_previous_leaf().get_previous_leaf().value == "clip" else []
        )

    def mutation_positions(self, node):
        for bound in self._bounds(node):
            yield bound.start_pos, bound.end_pos

    def mutate(self, node, index):
        bound = self._bounds(node)[index]
        at, prefix = node.children.index(bound), bound.get_first_leaf().prefix
        node.children[at] = parso.python.tree.Keyword("None", bound.start_pos, prefix=prefix)
        return node

    @classmethod
    def examples(cls):
        return (
            Example("clip(a, -1, 1)", "clip(a, None, 1)"),
            Example("clip(a, -1, 1)", "clip(a, -1, None)", 1),
        )


OWN: dict[str, type[Operator]] = {
    operator.__name__: operator
    for operator in (SwapName, SwapWord, SwapArguments, DropKeyword, TenTimes, OneSided)
}
# Where cosmic-ray looks for the operator of a name.
cosmic_ray.plugins.OPERATOR_PROVIDERS["wiring"] = OWN
OPERATORS = (*(f"core/{name}" for name in CORE), *(f"wiring/{name}" for name in OWN))


class Fault(NamedTuple):
    """One change of one place."""

    module: str
    operator: str
    occurrence: int
    line: int


def faults_in(root: Path, module: str, pattern: str = "*") -> Iterator[Fault]:
    """Every fault that the operators of that pattern can plant in a module, the equivalent ones included."""
    nodes = list(ast_nodes(get_ast_from_path(root / module)))
    for name in (name for name in OPERATORS if fnmatch(name, pattern)):
        operator = cosmic_ray.plugins.get_operator(name)()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            yield Fault(module, name, occurrence, start[0])


class _Behaviour(ast.NodeTransformer):
    """The code without what does not decide what it does.

    That is docstrings, annotations, types, the texts of errors and the names in them, which arguments are given by
    name, and which stream of a key is drawn from, where that is a number.
    """

    def _function(self, node: Any) -> Any:
        self.generic_visit(node)
        node.returns = None
        given = node.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if argument is not None:
                argument.annotation = None
        # Cosmic-ray takes the star of keyword-only arguments for a product.
        given.args = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        given.defaults = [*given.defaults, *given.kw_defaults]
        given.posonlyargs, given.kwonlyargs, given.kw_defaults = [], [], []
        return node

    visit_FunctionDef = _function

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias":
            return None
        self.generic_visit(node)
        node.annotation = ast.Constant(0)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [argument for argument in node.args if isinstance(argument, ast.Constant)]
        if called == "fold_in":
            node.args = [argument for argument in node.args if argument not in words]
        elif called in CHECKS and words and isinstance(words[0].value, str):
            node.args.remove(words[0])
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        if isinstance(node.exc, ast.Call):
            node.exc.args = []
        return node


def behaviour(source: str) -> str | None:
    """What a module does, as text to compare; None for one that does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    return ast.dump(_Behaviour().visit(tree))


def planted(fault: Fault, source: str) -> str | None:
    """The module with the fault, or None where that is no Python or does the same as the module itself."""
    changed = mutate_code(source, cosmic_ray.plugins.get_operator(fault.operator)(), fault.occurrence)
    found = None if changed is None else behaviour(changed)
    return None if found is None or found == behaviour(source) else changed


def check_operators() -> None:
    """Every operator here does what its examples say.

    Raises:
        AssertionError: if one does not.
    """
    for operator in OWN.values():
        for example in operator.examples() or ():
            changed = mutate_code(example.pre_mutation_code, operator(), example.occurrence)
            assert changed == example.post_mutation_code, (operator.__name__, changed)
            assert parso.parse(changed).get_code() == changed
