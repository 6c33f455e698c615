"""Lets Griffe, which reads the reference from the source, see our dataclasses.

`serializable` makes a class a dataclass, and a field specifier such as
`fields.rate(default=0.0)` stands where `dataclasses.field` would be. Griffe knows
neither; put in its own terms, they give the classes their signatures.

The reference has what users call: a method that overrides one of our base classes, or
of Keras's, is a hook that something else calls, and is described with the base class.
"""

import re

import griffe

# What Keras calls; `apply` and `build` are for loops of the user's, too.
KERAS = {
    *("set_model", "get_config", "from_config"),
    *("finalize_variable_values", "save_own_variables", "load_own_variables"),
}
# A call of a class returns an object of it, whatever its docstring says of that.
RETURNS = re.compile(r"\nReturns:\n(?: .*\n|\n)*")

# Needed by the package itself only.
INTERNAL = {"PerVariable.check_paths", "Scheduled.__getattr__"}


class Signatures(griffe.Extension):
    """Rewrites what `serializable` decorates; runs before Griffe's own extension."""

    def on_package(self, *, pkg, **arguments):
        """Rewrites all docstrings and classes of the package."""
        for module in list(pkg["tuning"].members.values()):
            _show_function(module)
        for member in _members(pkg):
            if member.docstring:
                # The name by which Griffe knows a section with doctests.
                text = member.docstring.value.replace("\nExample:\n", "\nExamples:\n")
                member.docstring.value = (
                    RETURNS.sub("\n", text) if member.is_class else text
                )
            if member.is_class:
                _make_dataclass(member)
        for cls in [member for member in _members(pkg) if member.is_class]:
            for name in _hooks(cls):
                cls.members[name].docstring = None  # Then it is not shown.


def _show_function(module):
    """Puts a function where Griffe sees the module that has the same name."""
    if module.is_module and module.name in module.members:
        module.parent.set_member(module.name, module.members[module.name])


def _members(member):
    yield member
    for inner in member.members.values():
        if not inner.is_alias:
            yield from _members(inner)


def _hooks(cls):
    """The methods and properties of a class that something else than a user calls."""
    above = {name for base in cls.mro() for name in base.members}
    for name, member in cls.members.items():
        is_method = member.is_function or "property" in member.labels
        overrides = name in above or name in KERAS or name.startswith("on_")
        is_hook = is_method and overrides and not name.startswith("__")
        if is_hook or f"{cls.name}.{name}" in INTERNAL:
            yield name


def _make_dataclass(cls):
    decorators = [decorator.callable_path for decorator in cls.decorators]
    if not any(path.endswith("serializable") for path in decorators):
        return
    # By its full name Griffe takes it for what it is, wherever it is imported.
    dataclass = griffe.ExprName("dataclasses.dataclass")
    cls.decorators = [griffe.Decorator(dataclass, lineno=None, endlineno=None)]
    for attribute in cls.attributes.values():
        if isinstance(attribute.value, griffe.ExprCall):
            attribute.value = _default(attribute.value)


def _default(call):
    """The default in a call of a field specifier; None if it is required."""
    for argument in call.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "default":
            return argument.value
    return None
