"""Sources as skills that help each other: weights by whom a source helps, and by how much help is still needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Draw, DrawContext, Knob, SourceView, State
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.mixtures.mixture import Mixture

#: Five skills, each a step more than the one before; sources in the alphabetical order of a declaration.
_SKILLS = "skill1=1, skill2=1, skill3=1, skill4=1, skill5=1"
_CHAIN = "[[1, 0.5, 0, 0, 0], [0, 1, 0.5, 0, 0], [0, 0, 1, 0.5, 0], [0, 0, 0, 1, 0.5], [0, 0, 0, 0, 1]]"
_ALONE = "[[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]"


def _study(baseline: str, mixture: str) -> dict[str, Any]:
    """3,000 steps on five skills that build on each other, six rounds."""
    return {
        "workload": "skill_chain",
        "compare": {
            "baseline": "baseline",
            "metric": "acc",
            "better": "higher",
            "margin": 0.05,
            "seeds": 12,
            "trials": 4,
        },
        "tune": {"*.lr": "times(1/4, 4)"},
        "arms": {
            "baseline": {
                "optimizer": "AdamW(lr=6e-3)",
                "batch_size": 32,
                "budget": "3000 steps",
                "evaluate": "500 steps",
                "mixture": baseline,
            },
            "skills": {"like": "baseline", "mixture": mixture},
        },
    }


@register
class SkillIt(Mixture):
    r"""Skill-it: in rounds, more of those sources that help where the loss is high.

    A graph says how much training on source i helps with target j, :math:`A_{ij} \ge 0`. A round ends when validation
    comes (the phase's ``evaluate``), with a loss :math:`L_j` for every target. The shares of the next round are computed
    from scratch, from the losses of the last w rounds:

    .. math:: p_i \propto v_i \exp\Big(\eta \sum_{\tau = t - w + 1}^{t} \sum_j A_{ij} L_j(\tau)\Big)

    The first round takes every loss for 1. Sources are dealt and drawn as in `Mixture`, whose weights v_i are here what
    the shares are without feedback.

    Parameters
    ----------
    **sources : knob
        v_i of each source by name, usually 1. A source of weight 0 is not drawn.
    eta : knob
        How strongly losses count. 0 leaves the shares at v. Default 0.5 (reference code, LEGO).
    window : int
        w. Default 3 (reference code).
    graph : matrix or "learn"
        A, a row for each source and a column for each target, both in alphabetical order (targets in the order in which
        they are given). "learn", the default, trains for `trial` on each source alone, from the weights with which the
        phase begins, before anything else, and takes for A_ij the share of its loss there that target j loses, but no
        less than 0.
    targets : tuple of str
        Validation sources whose losses count. Default the sources themselves.
    trial : Duration
        How long a graph is learned on each source. Default 5% of the phase (ours); it is charged.
    sampler, random
        As in `Mixture`.

    Raises
    ------
    DeclarationError
        For a graph that does not fit sources and targets, or beside sources that are not written in alphabetical order;
        where the workload has no validation by source, or the phase does not say how often it comes.

    References
    ----------
    M. F. Chen, N. Roberts, K. Bhatia, J. Wang, C. Zhang, F. Sala and C. Ré, Skill-it! A Data-Driven Skills Framework for
    Understanding and Training Language Models, NeurIPS 2023, arXiv:2307.14430.

    Examples
    --------
    >>> skills = SkillIt(add=1, multiply=1, eta=1.0, window=1, graph=[[1, 0.5], [0, 1]])
    >>> state = skills.init(SourceView({"add": 6, "multiply": 6}, lambda source, name: None))
    >>> skills.shares(state).round(4).tolist()
    [0.6225, 0.3775]
    >>> losses = {"val:add:loss": 0.0, "val:multiply:loss": 2.0}
    >>> skills.shares(skills.observe(state, losses, Progress())).round(4).tolist()
    [0.2689, 0.7311]
    """

    eta: Knob = knob(0.5, low=0, kw_only=True)
    window: int = fixed(3, low=1, kw_only=True)
    graph: tuple[tuple[float, ...], ...] | Literal["learn"] = fixed("learn", low=0, kw_only=True)
    targets: tuple[str, ...] = fixed((), kw_only=True)
    trial: Duration = fixed(Duration(5, "%"), kw_only=True)

    trial_lengths = ("trial",)

    card = Card(
        title="More of the sources that help where the loss is high",
        axes=("distribution", "order"),
        source="Chen et al. 2023, arXiv:2307.14430; its code",
        when="Data of several kinds that build on each other, with validation data of each.",
        cost="validation by source every round; a learned graph: a trial for each source",
        shelf="atlas",
        rows=("skill-it",),
        defaults={
            "eta": "0.5, the reference code (LEGO pre-training)",
            "window": "3, the reference code",
            "trial": "ours",
        },
        deviations=(
            "A round has one validation, at its end; the code validates more often than it changes the shares, and its "
            "window counts validations.",
            "Losses are summed over the window throughout; the code takes their mean where there are targets.",
            "The graph is learned by the cheaper of the paper's two ways: training on i, looking at j. The other trains "
            "on every pair.",
            "The code's options of normalized losses, an eta that follows the loss, halved edges and shares set aside "
            "for isolated sources are not built; eta may be scheduled.",
        ),
        claims=(
            Claim(
                "On five skills that build on each other it is more right, over all of them, than equal shares.",
                _study(f"Mixture({_SKILLS})", f"SkillIt({_SKILLS}, graph={_CHAIN})"),
                paper_scale="GPT-Neo 125M on LEGO (five skills, 6,000 steps): 36.5 points over random sampling",
            ),
            Claim(
                "So it is than with losses alone: it is the graph.",
                _study(f"SkillIt({_SKILLS}, graph={_ALONE})", f"SkillIt({_SKILLS}, graph={_CHAIN})"),
                paper_scale="GPT-Neo 125M on LEGO and addition",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[SkillIt]:
        """A given graph, a learned one, and a single target."""
        return [
            cls(a=1.0, b=1.0, eta=2.0, window=2, graph=[[1, 0.5], [0, 1]]),
            cls(a=1.0, b=2.0, eta=3.0, window=1, trial="3 steps"),
            cls(a=1.0, b=1.0, eta=2.0, window=2, targets=["b"], trial="2 steps", random=True),
        ]

    @classmethod
    def check_written(cls, names: list[str], given: Mapping[str, Any]) -> None:
        """Refuse a graph beside sources in another order than that of its rows."""
        if given.get("graph", "learn") != "learn" and names != sorted(names):
            raise DeclarationError(
                f"got sources in the order {', '.join(names)}, but the rows of a graph are theirs in alphabetical order; "
                f"write them, and the graph, in the order {', '.join(sorted(names))}",
                "graph",
            )

    def validate(self) -> None:
        """Refuse a graph that does not fit, and doubled targets."""
        super().validate()
        if len(set(self.targets)) < len(self.targets):
            raise DeclarationError(f"got {list(self.targets)}; allowed: each name once", "targets")
        if self.trial.value <= 0:
            raise DeclarationError(f"got '{self.trial}'; allowed: more than nothing", "trial")
        if self.graph == "learn":
            return
        rows, columns = len(self.sources), len(self.aims)
        if len(self.graph) != rows or any(len(row) != columns for row in self.graph):
            sizes = [len(row) for row in self.graph]
            raise DeclarationError(
                f"got {len(self.graph)} rows of {sizes} numbers; allowed: {rows} rows, one a source, of {columns} "
                "numbers, one a target",
                "graph",
            )

    @property
    def aims(self) -> tuple[str, ...]:
        """The targets: those given, or the sources."""
        return self.targets or tuple(name for name, _ in self.sources)

    def all_needs(self) -> frozenset[str]:
        """The losses of the targets, beside what the inner sampler needs."""
        return super().all_needs() | {f"val:{name}:loss" for name in self.aims}

    def init(self, view: SourceView) -> State:
        """No losses yet; of a graph that is learned, no row."""
        return super().init(view) | {"losses": [], "rows": [], "initial": None}

    # -- shares --------------------------------------------------------------------------------------------

    def shares(self, state: State) -> np.ndarray:
        """p of every source, in alphabetical order, summing to 1; the weights' own while no graph is known."""
        weights = np.array([value for _, value in self.sources], dtype=np.float64)
        graph = state["rows"] if self.graph == "learn" else self.graph
        if len(graph) < len(self.sources):
            return weights / weights.sum()
        losses = np.array(state["losses"]).sum(0) if state["losses"] else np.ones(len(self.aims))
        exponents = self.eta * (np.array(graph) @ losses)
        # Only differences count; the largest drawn one is made 0, so that nothing overflows.
        raised = weights * np.exp(np.minimum(exponents - exponents[weights > 0].max(), 0.0))
        return raised / raised.sum()

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Draw as the mixture with these shares does."""
        names = [name for name, _ in self.sources]
        weighted = self.with_values({"sources": tuple(zip(names, self.shares(state).tolist()))})
        return super(SkillIt, weighted).draw(state, cursor, n, ctx)

    def observe(self, state: State, signals: Mapping[str, Any], at: Progress) -> State:
        """End the round, where the losses have come."""
        state = super().observe(state, signals, at)
        found = [signals.get(f"val:{name}:loss") for name in self.aims]
        if any(loss is None or not math.isfinite(loss) for loss in found):
            return state
        return state | {"losses": [*state["losses"], found][-self.window :]}

    # -- the graph -----------------------------------------------------------------------------------------

    def propose(self, state: State, at: Progress) -> Trial | None:
        """Where the graph is learned: a trial on the next source alone; then what the inner sampler asks for."""
        place = len(state["rows"])
        if self.graph != "learn" or place == len(self.sources):
            return super().propose(state, at)
        names = [name for name, _ in self.sources]
        alone = {name: float(name == names[place]) for name in names}
        address = ("skill-graph", names[place])
        return Trial(
            alone,
            self.trial,
            address=address,
            validate=True,
            validate_before=state["initial"] is None,
        )

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Write a row of the graph; the trial of an inner sampler is handed on."""
        if end.owner:
            return super().absorb(state, end)
        initial = state["initial"]
        if initial is None:
            initial = [end.before[f"val/{name}/loss"] for name in self.aims]
        last = end.records[-1]
        after = [last.get(f"val/{name}/loss", math.nan) for name in self.aims]
        return state | {"initial": initial, "rows": [*state["rows"], helped(initial, after)]}


def helped(before: list[float], after: list[float]) -> list[float]:
    """Share of its loss that each target has lost; 0 where it gained, had none, or came out as no number.

    Examples
    --------
    >>> helped([2.0, 1.0, 0.0, 1.0], [0.5, 1.5, 0.0, float("nan")])
    [0.75, 0.0, 0.0, 0.0]
    """
    shares = [(b - a) / b if b > 0 else 0.0 for b, a in zip(before, after)]
    return [max(share, 0.0) if math.isfinite(share) else 0.0 for share in shares]
