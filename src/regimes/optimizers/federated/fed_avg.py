"""Federated averaging: clients train apart from the same weights, and the average of theirs is the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import Stateful, fixed, knob, round_half_up
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, NonFinite
from regimes.core.kinds import Knob, Optimizer, Sampler, State
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.mixtures.mixture import Mixture
from regimes.samplers.reshuffle import Reshuffle


@register
class FedAvg(Optimizer):
    r"""A step is a round: every client trains for a while from the present weights, and the weights become the average.

    With the weights w_t before round t, and w_k those that client k ends at on its n_k examples

    .. math:: w_{t+1} = \sum_k \frac{n_k}{n} w_k, \qquad n = \sum_k n_k

    The clients are the workload's sources by name (those of the phase's mixture, where it has one). Each trains in a trial
    with the rule `client` from a fresh state, on batches of the phase's ``batch_size`` of its own examples alone, in an order
    of that client and round. Schedules and controllers in `client` go by rounds: a rate holds for a round.

    Where `share` is below 1 the server ranks clients by the mean loss of w_t on their examples (a look, charged) and admits that
    share of them, easy or hard ones first: a curriculum of clients, where `share` is a schedule.

    Buffers (running statistics) are averaged as the weights are; those that are no
    floating-point numbers, or of another shape, are the first client's.

    The step itself evaluates the loss at w_t on a batch of the phase's data, without a gradient: what the record of a round
    shows. A client whose training is not finite is left out of its round's average, and the record says how many
    (``clients_left_out``); a round that all are left out of is a skipped step.

    Parameters
    ----------
    client : Optimizer
        The rule with which clients train.
    local : Duration
        How long in a round: epochs of the client's own data (E), samples or steps. Default 5 epochs (paper, section 3). A
        client's last step may go beyond.
    sampler : Sampler
        Order of a client's examples; `OrderedPrefix` makes a curriculum of it. Default Reshuffle().
    share : knob
        Share of the clients that take part in a round, one at least. Default 1.
    first : "easy" or "hard"
        Whom the server admits first: those of least or of largest loss. Default easy.

    Raises
    ------
    DeclarationError
        If `local` is nothing or in another unit, or `client` is federated itself: a trial has no trials. If the phase has
        a sampler of its own, or a mixture that learns: clients are drawn by this rule's `sampler`.

    Notes
    -----
    Give the budget in steps, which are rounds; the work of the clients is charged as that of trials. Inside a trial of another
    component (a scoring run) no round can be made: there a step is one of the client's rule.

    References
    ----------
    H. B. McMahan, E. Moore, D. Ramage, S. Hampson and B. Agüera y Arcas, Communication-Efficient Learning of Deep Networks
    from Decentralized Data, AISTATS 2017, arXiv:1602.05629.

    Examples
    --------
    >>> import regimes as rg
    >>> from regimes.optimizers import SGD
    >>> work = rg.workloads.load("digits_clients", clients=3, alpha=1.0)
    >>> rule = FedAvg(SGD(lr=0.1), local="1 epochs")
    >>> run = rg.Run(work, rg.Regime(optimizer=rule, batch_size=32, budget="2 steps"))
    >>> rounds = [record for record in run if "trial" not in record.signals]
    >>> len(rounds), rounds[0].loss > rounds[1].loss, run.states["optimizer"]["round"]
    (2, True, 2)
    """

    client: Optimizer = fixed()
    local: Duration = fixed(Duration(5, "epochs"))
    sampler: Sampler = fixed(Reshuffle())
    share: Knob = knob(1.0, above=0, high=1)
    first: Literal["easy", "hard"] = fixed("easy")

    single_evaluation = False
    uses_gradients = False
    source_by_source = True
    trial_lengths = ("local",)
    exempt = {"lets its parts observe": "client and sampler work inside trials, each from a fresh state"}
    card = Card(
        title="Federated averaging of clients that train apart",
        axes=("regime", "distribution"),
        source="McMahan et al. 2017, arXiv:1602.05629",
        when="Data that cannot leave where they are, or communication that costs more than computing.",
        cost="a round: `local` training on every client, and one forward on a batch",
        shelf="atlas",
        rows=("fl-curricula",),
        defaults={"local": "5 epochs, the paper's E for its convolutional network"},
        deviations=(
            "The paper draws a share C of the clients at random; here a share is that of the easiest or hardest.",
            "A client's batch may span two of its epochs; the paper ends an epoch with a smaller batch.",
            "Buffers (statistics of BatchNorm) are averaged, too, with the same weights; the paper's models have none.",
            "The phase's averager sees rounds, not the steps of clients.",
            "Gradient transforms on the clients are refused.",
            "Clients are ranked anew in every round, by the loss of the weights it begins with.",
        ),
        claims=(
            Claim(
                "After 10 rounds on ten clients of skewed classes, five local epochs a round are right more often than one "
                "(and cost five times as much computing).",
                {
                    "workload": {"name": "digits_clients", "clients": 10, "alpha": 0.05},
                    "compare": {
                        "baseline": "one",
                        "metric": "acc",
                        "better": "higher",
                        "margin": 0.02,
                        "equal": "steps",
                        "seeds": 8,
                        "trials": 3,
                    },
                    "tune": {"*.lr": "times(1/4, 4)"},
                    "arms": {
                        "one": {
                            "optimizer": "FedAvg(SGD(lr=0.1), local='1 epochs')",
                            "batch_size": 32,
                            "budget": "10 steps",
                        },
                        "five": {"like": "one", "optimizer": "FedAvg(SGD(lr=0.1), local='5 epochs')"},
                    },
                },
                paper_scale="MNIST on 100 clients of two digits each: 2 to 3 times fewer rounds to 99% (CNN, E of 1 against 5)",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[FedAvg]:
        """Short rounds, in which every setting shows."""
        from regimes.optimizers.tensorwise.sgd import SGD

        rule = SGD(lr=0.05, momentum=0.9)
        return [cls(rule, "2 steps"), cls(SGD(lr=0.05), "6 samples"), cls(rule, "2 steps", first="easy", share=0.5)]

    def validate(self) -> None:
        """Refuse rounds of nothing, or of an amount that clients cannot count."""
        if self.local.unit not in ("epochs", "samples", "steps") or self.local.value <= 0:
            raise DeclarationError(
                f"got '{self.local}'; allowed: more than nothing, in epochs, samples or steps", "local"
            )
        if self.first is None and self.share != 1.0:
            raise DeclarationError(
                "got a share of clients, but not which; allowed: beside first='easy' or 'hard'", "share"
            )
        if isinstance(self.client, FedAvg):
            raise DeclarationError("got a FedAvg inside a FedAvg; allowed: the rule of one machine", "client")

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Before the first round: nobody has come in."""
        places = getattr(parameters, "buffers", {})
        return {
            "sizes": dict(getattr(parameters, "sources", {})),
            "round": 0,
            "done": 0,
            "examples": 0,
            "losses": {},
            "left_out": 0,
            "buffers": {name: b.detach().clone() for name, place in places.items() if (b := place.get()) is not None},
            "slots": {name: {"average": torch.zeros_like(p)} for name, p in parameters.items()},
        }

    def _places(self, state: State) -> int:
        """How many clients take part."""
        return max(round_half_up(self.share * len(state["sizes"])), 1)

    def admitted(self, state: State) -> list[str]:
        """Return the names of the clients of the round, in the order in which they come."""
        names, losses = list(state["sizes"]), state["losses"]
        if losses:
            sign = {"easy": 1.0, "hard": -1.0}[self.first]
            names.sort(key=lambda name: (not math.isfinite(losses[name]), sign * losses[name]))
        return names[: self._places(state)]

    def propose(self, state: State, at: Progress) -> Trial | None:
        """A look at all clients, where not all take part; then the next client of the round; None when all have come in."""
        if not state["losses"] and self._places(state) < len(state["sizes"]):
            return Trial({}, Duration(0, "steps"), score=True)
        clients = self.admitted(state)
        if state["done"] == len(clients):
            return None
        name = clients[state["done"]]
        budget = (
            Duration(self.local.value * state["sizes"][name], "samples") if self.local.unit == "epochs" else self.local
        )
        data = {"/mixture": Mixture(sources=((name, 1.0),), sampler=self.sampler), "/sampler": None}
        address = ("client", name, "round", state["round"])
        # What comes in is what a client has trained; rounds are averaged, not its steps.
        return Trial({"": self.client, "/average": None, **data}, budget, address=address, past_end=True)

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Take the client's weights into the average of those that have come in; of a look the loss of each client."""
        if end.scores:
            return state | {"losses": {name: float(losses.mean()) for name, losses in end.scores.items()}}
        size = state["sizes"][self.admitted(state)[state["done"]]]
        state["done"] += 1
        # A last step may have left what no loss has seen.
        if end.failed is not None or not all(bool(end.weights[name].isfinite().all()) for name in state["slots"]):
            return state | {"left_out": state["left_out"] + 1}
        if not state["examples"]:
            state["buffers"] = {name: end.weights[name] for name in state["buffers"]}
        state["examples"] += size
        averages = {name: slot["average"] for name, slot in state["slots"].items()} | state["buffers"]
        for name, average in averages.items():
            if average.is_floating_point() and average.shape == end.weights[name].shape:
                # A running mean: of one client it is that client, bitwise.
                average.lerp_(end.weights[name], size / state["examples"])
        return state

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate at the weights of the round's beginning, then write the average."""
        if state["done"] == 0:
            inner = state.get("client") or self.client.init(parameters)
            return state | {"client": self.client.step(inner, parameters, evaluate)}
        evaluate(grad=False)
        evaluate.log("clients_left_out", state["left_out"])
        came = state["examples"]
        state |= {"round": state["round"] + 1, "done": 0, "examples": 0, "left_out": 0, "losses": {}}
        if not came:  # the round is over all the same: the next one has other batches
            raise NonFinite("training: that of every client")
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(state["slots"][name]["average"])
            for name, value in state["buffers"].items():
                parameters.buffers[name].put(value)  # type: ignore[attr-defined]
        return state

    def parts(self) -> Iterator[tuple[str, Stateful]]:
        """None: the client's rule and its sampler are parts of the trials, where their states begin anew."""
        return iter(())
