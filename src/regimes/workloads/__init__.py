"""Built-in workloads, without downloads: `load(name)`."""

from __future__ import annotations

import importlib
from typing import Any

from regimes.core.errors import DeclarationError, nearest

#: name -> "module:function"; imported when asked for.
BUILT_IN = {
    "digits_mlp": "regimes.workloads.builtin:digits_mlp",
    "digits_cnn": "regimes.workloads.builtin:digits_cnn",
    "digits_noprop": "regimes.workloads.builtin:digits_noprop",
    "digits_rotated": "regimes.workloads.digits:digits_rotated",
    "digits_vit": "regimes.workloads.digits:digits_vit",
    "digits_residual": "regimes.workloads.residual:digits_residual",
    "digits_clients": "regimes.workloads.builtin:digits_clients",
    "digits_stream": "regimes.workloads.builtin:digits_stream",
    "char_lm": "regimes.workloads.builtin:char_lm",
    "masked_lm": "regimes.workloads.masked_lm:masked_lm",
    "tabular": "regimes.workloads.builtin:tabular",
    "teacher_student": "regimes.workloads.builtin:teacher_student",
    "quadratic": "regimes.workloads.builtin:quadratic",
    "perceptron": "regimes.workloads.perceptron:perceptron",
    "feature_noise": "regimes.workloads.feature_noise:feature_noise",
    "two_moons_diffusion": "regimes.workloads.builtin:two_moons_diffusion",
    "skill_chain": "regimes.workloads.builtin:skill_chain",
    "hedging": "regimes.workloads.hedging:hedging",
    "arithmetic_lm": "regimes.workloads.arithmetic_lm:arithmetic_lm",
    "modular_arithmetic": "regimes.workloads.builtin:modular_arithmetic",
}


def names() -> list[str]:
    """Names of the built-in workloads."""
    return sorted(BUILT_IN)


def load(name: str, **arguments: Any) -> Any:
    """Return a Workload by name.

    Parameters
    ----------
    name : str
        One of `names()`.
    **arguments
        Passed to the workload's function (``load("char_lm", width=96)``).

    Raises
    ------
    DeclarationError
        If no workload is called so, or it does not take an argument.
    """
    if name not in BUILT_IN:
        raise DeclarationError(f"there is no built-in workload '{name}'; {nearest(name, BUILT_IN)}", "workload")
    module, _, function = BUILT_IN[name].partition(":")
    build = getattr(importlib.import_module(module), function)
    try:
        return build(**arguments)
    except TypeError as why:
        if "unexpected keyword" not in str(why):
            raise
        raise DeclarationError(f"workload '{name}': {why}", "workload") from None
