"""How much a schedule adds to a compiled program."""

from contenders import ROWS, schedules


def measure(backend):
    """Sizes of the programs: `{row: {contender: number}}`; none where all is eager."""
    if backend == "torch":
        return {}
    count = {"tensorflow": graph_nodes, "jax": equations}[backend]
    return {
        row.name: {name: count(schedule) for name, schedule in schedules(row, backend)}
        for row in ROWS
    }


def graph_nodes(schedule):
    """Nodes of the concrete function, those of its branches included."""
    import tensorflow as tf

    function = tf.function(lambda step: schedule(step), autograph=False)
    step = tf.TensorSpec([], tf.int64)
    graph = function.get_concrete_function(step).graph.as_graph_def()
    branches = graph.library.function
    return len(graph.node) + sum(len(branch.node_def) for branch in branches)


def equations(schedule):
    """Equations of the jaxpr, those of inner jaxprs included."""
    import jax
    import jax.numpy as jnp

    jaxpr = jax.make_jaxpr(lambda step: schedule(step))(jnp.int32(0)).jaxpr
    return len(list(inner_equations(jaxpr)))


def inner_equations(jaxpr):
    """All equations but those that only call an inner jaxpr."""
    import jax

    for equation in jaxpr.eqns:
        inner = list(jax.core.jaxprs_in_params(equation.params))
        if not inner:
            yield equation
        for each in inner:
            yield from inner_equations(each)
