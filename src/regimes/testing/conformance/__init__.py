"""The contracts of a component, checked without knowing the method; for ours, for yours, counted.

In a test file of your own::

    from mypackage import MySampler, MyRule
    from regimes.testing import conformance

    @conformance.parametrize_with_checks([MySampler, MyRule(lr=0.1)])
    def test_conformance(check):
        check()

Each check is one contract of the component's kind: it prints itself back, it is frozen, its state is plain and survives
a resume bitwise at every step, it observes once a step, it leaves a skipped step untouched, every knob takes a schedule
and acts ... Checks run on tiny workloads and take about a second for a component.

An instance is tried as it is. Of a class, the suite tries what the classmethod ``example()`` returns (one or several);
without it the default, the instances that its docstring's examples build, and one made up from the types of its
fields. What a component cannot keep it says in writing, and the check is then expected to fail::

    class MyRule(Optimizer):
        exempt = {"leaves a skipped step untouched": "weights return to rounding: no copy of them is kept"}

`report` counts checks and lists exemptions; ``python -m regimes.testing.conformance`` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from regimes.core.component import Component
from regimes.core.registry import REGISTRY
from regimes.testing.conformance import (  # noqa: F401 (importing them declares their rules)
    by_kind,
    declared,
    knobs,
    optimizers,
    probes,
    schedules,
    stacking,
    training,
)
from regimes.testing.conformance.harness import RULES, Check, NonConformance, bound
from regimes.testing.conformance.report import Report, Row, report
from regimes.testing.conformance.stand import Stand
from regimes.testing.conformance.tiny import one_thread

__all__ = ["RULES", "Check", "NonConformance", "Report", "Row", "checks", "parametrize_with_checks", "report"]


def checks(component: Any, kind: str | None = None, *, steps: int = 8) -> Iterator[Check]:
    """Yield the checks of a component.

    Parameters
    ----------
    component : Component or subclass
        An instance is tried as it is; of a class, its examples.
    kind : str, optional
        Its plug-in kind, where the class does not say.
    steps : int
        Length of the resume chains. Default 8; from 9 on, every step is a link.

    Raises
    ------
    TypeError
        If it is no component.

    Examples
    --------
    >>> from regimes.schedules import Cosine
    >>> found = list(checks(Cosine))
    >>> [check.name for check in found[:4]]
    ['exemptions are in order', 'an example can be made', 'prints itself back', 'refuses unknown fields']
    >>> found[2]()
    """
    cls = component if isinstance(component, type) else type(component)
    if not issubclass(cls, Component):
        raise TypeError(f"got {component!r}; allowed: a component or a class of components")
    instance = None if isinstance(component, type) else component
    with one_thread():
        stand = Stand(cls, kind or cls.kind, instance, steps)
    yield from bound(stand)


def parametrize_with_checks(components: Iterable[Any] | None = None, *, steps: int = 8) -> Any:
    """Decorate a pytest function with one argument ``check``: it runs once for every check of every component.

    An exempted check is expected to fail, and is a failure itself if it passes: the exemption is stale.

    Parameters
    ----------
    components : iterable, optional
        Classes or instances. Default: everything that is registered.
    steps : int
        Length of the resume chains.
    """
    import pytest

    def params() -> Iterator[Any]:
        for component in REGISTRY.classes() if components is None else components:
            for check in checks(component, steps=steps):
                marks = [pytest.mark.xfail(reason=check.exempt, strict=True)] if check.exempt else []
                yield pytest.param(check, id=f"{check.component}-{check.name}", marks=marks)

    return pytest.mark.parametrize("check", list(params()))
