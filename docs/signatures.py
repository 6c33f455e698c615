"""Lets Griffe, which reads the reference from the source, see our dataclasses.

`serializable` makes a class a dataclass, and a field specifier such as
`fields.rate(default=0.0)` stands where `dataclasses.field` would be. Griffe knows
neither; put in its own terms, they give the classes their signatures.
"""

import griffe


class Signatures(griffe.Extension):
    """Rewrites what `serializable` decorates; runs before Griffe's own extension."""

    def on_package(self, *, pkg, **arguments):
        """Rewrites all classes of the package."""
        for module in _modules(pkg):
            for cls in module.classes.values():
                if not cls.is_alias:
                    _rewrite(cls)


def _modules(module):
    yield module
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _modules(inner)


def _rewrite(cls):
    for member in [cls, *cls.functions.values()]:
        if not member.is_alias and member.docstring:
            # The name by which Griffe knows a section with doctests.
            text = member.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            member.docstring.value = text
    decorators = [decorator.callable_path for decorator in cls.decorators]
    if not any(path.endswith("serializable") for path in decorators):
        return
    dataclass = griffe.ExprName("dataclasses.dataclass")
    cls.decorators = [griffe.Decorator(dataclass, lineno=None, endlineno=None)]
    for attribute in cls.attributes.values():
        if not attribute.is_alias and isinstance(attribute.value, griffe.ExprCall):
            attribute.value = _default(attribute.value)


def _default(call):
    """The default in a call of a field specifier; None if it is required."""
    for argument in call.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "default":
            return argument.value
    return None
