"""The closed list of signals that a component may need, with what each costs."""

from __future__ import annotations

from regimes.core.errors import DeclarationError, nearest

#: name -> (what it is, cost in words). A name ending in ':' takes arguments.
SIGNALS = {
    "loss": ("weighted mean loss of the first evaluation", "free"),
    "units": ("unit losses of the first evaluation, with example indices and sources", "free"),
    "weights": ("evaluation weights after the step, by parameter name", "free"),
    "gradient_norm": (
        "norm of the final gradient, before gradient transforms",
        "one pass over the gradients",
    ),
    "micro_batch_gradient_norms": (
        "gradient norm of each micro-batch",
        "one pass per micro-batch; two or more",
    ),
    "example_gradients": (
        "gradient of each example of the step, by parameter name, shape (n, *shape); their mean is the gradient before "
        "gradient transforms",
        "a forward and a backward per example more, and n gradients in memory",
    ),
    "val:": (
        "val:<source>:<metric>, or val:<metric>",
        "one validation pass at the phase's `evaluate` cadence",
    ),
}


def check(name: str) -> str:
    """Return `name` if it is a signal; refuse it otherwise.

    Raises
    ------
    DeclarationError
        If no such signal exists, or it names test data, which may steer nothing.

    Examples
    --------
    >>> check("val:loss")
    'val:loss'
    >>> check("test:loss")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: signal 'test:loss' reads test data, which may steer nothing; use val:
    """
    head = name.split(":", 1)[0] + ":" if ":" in name else name
    if head == "test:" or name.startswith("test/"):
        raise DeclarationError(f"signal '{name}' reads test data, which may steer nothing; use val:")
    if head not in SIGNALS or (head.endswith(":") and name == head):
        raise DeclarationError(f"there is no signal '{name}'; {nearest(name, SIGNALS)}")
    return name
