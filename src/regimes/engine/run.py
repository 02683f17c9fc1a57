"""A run: one execution of (workload, regime, seed), one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core import paths
from regimes.core.errors import DeclarationError, ResumeError, RunFailed
from regimes.core.kinds import Loss, Weights
from regimes.core.progress import Progress
from regimes.core.randomness import Streams, seed32
from regimes.core.regime import Regime
from regimes.engine import ahead, arithmetic, diagnose, distributed, seam, trees, trials
from regimes.engine.buffers import Buffers, load_into, state_of
from regimes.engine.compile import CompiledPhase, compile_regime, epochs
from regimes.engine.distributed import World
from regimes.engine.evaluator import Foreseen
from regimes.engine.forwards import Forward, Unaddressed
from regimes.engine.frames import Frame
from regimes.engine.reading import Reader
from regimes.engine.step import Record, draw, step
from regimes.engine.validate import Validation
from regimes.engine.work import Flops, Work
from regimes.engine.workload import Workload


class Run:
    """The state of one execution; `stream` in `regimes.engine.api` drives it.

    Parameters
    ----------
    workload : Workload
    regime : Regime
    seed : int
        Addresses initial weights, data order and noise.
    validate : Duration, optional
        Cadence of validation that nobody needs, for curves; phase ends are validated anyway.
    probes : sequence of Probe
        Observations; they disturb nothing.
    give_up : int
        Steps in a row that may be skipped before the run stops.
    count_flops : bool
        Whether work is counted in floating-point operations.
    world : World, optional
        The processes that train it together; default this one alone.
    look_ahead : bool
        Evaluate the first micro-batch of every phase, so that what does not fit is refused before anything is spent.
        Default True; False for a run that is not to train.
    """

    def __init__(
        self,
        workload: Workload,
        regime: Regime,
        seed: int = 0,
        *,
        validate: Any = None,
        probes: Any = (),
        give_up: int = 10,
        count_flops: bool = True,
        world: World | None = None,
        look_ahead: bool = True,
    ) -> None:
        self.world = World() if world is None else world
        self.workload, self.regime, self.seed, self.give_up = workload, regime, seed, give_up
        #: The last gradients, until the next backward, as in a loop that reads p.grad: where all memory of a step were
        #: free at its end, the C allocator would give it back to the system and the next begin with 1,000 page faults.
        self.held: tuple[Tensor, ...] = ()
        self.view = workload.view("train")
        self.read = Reader(workload.sources["train"], workload.device, self)
        self.phases = compile_regime(regime, epochs(regime, self.view), workload.example_tokens())
        lengths = [phase.length for phase in self.phases]
        self._totals: list[float] | None = None
        if len({length.unit for length in lengths}) == 1:
            self._totals = [sum(length.total for length in lengths[:i]) for i in range(len(lengths) + 1)]
        self.position = Progress()
        self.consumed = 0.0
        self.work = Work()
        self.flops = Flops() if count_flops else None
        self.validation = Validation(self, validate)
        self.probes = tuple(probes)
        self.frames = [Frame()]
        self.forward, self.autocast = Forward(self), False
        self.loss: Loss = workload.loss
        self.model = workload.build(seed32(seed, "init"))
        diagnose.say_own_generator(self.model)
        self.states: dict[str, Any] = {}
        #: What probes remember, by their printed form: no part of the run's own state.
        self.remembered: dict[str, Any] = {}
        self._edited: CompiledPhase | None = None
        #: Whether somebody may read the weights after every step; else the rule may put off what it writes.
        self.looked_at = True
        self._note_frame()
        self.finished = False
        self.seams: list[dict[str, Any]] = []
        self.enter(first=True)
        ahead.check_phases(self, evaluate=look_ahead)

    # -- phases --------------------------------------------------------------------------------------------

    def push(self, frame: Frame) -> None:
        """Begin an inner frame."""
        self.frames.append(frame)
        self._note_frame()

    def pop(self) -> None:
        """Return to the outer frame."""
        self.frames.pop()
        self._note_frame()

    def _note_frame(self) -> None:
        """Note the innermost frame, and its phase as a trial edits it: they are read fifty times a step."""
        self.frame = self.frames[-1]
        self.phase = self.phases[self.frame.phase] if self._edited is None else self._edited

    def _address(self) -> tuple[str | int, ...]:
        return (*self.frame.prefix, self.phase.name)

    def next_phase(self) -> None:
        """Enter the phase after this one."""
        self.flush()
        self.frame.next_phase()
        self._note_frame()
        self.work.before_phase = self.work.spent
        self.enter(first=False)

    def enter(self, first: bool = False) -> None:
        """Enter the frame's phase: transforms, states, groups, the first plans."""
        phase, old = self.phase, self.states
        self._charge_given(phase)
        self.streams = Streams(self.seed, *self._address())
        carry = phase.declaration.carry
        results = seam.transform_model(self, phase)
        self._settle_phase()
        self.states = seam.fresh_states(self, phase)
        if not first:
            said = seam.carried(old, self.states, carry, results)
            if "model" not in carry and "averaged" not in carry:
                raise DeclarationError(
                    "must name 'model' or 'averaged': a phase starts from weights", f"{phase.name}.carry"
                )
            self.seams.append({"phase": phase.name, "step": self.frame.step, **said})
        if first or "cursor" not in carry:
            self.frame.cursor = seam.fresh_cursor(self, phase, self.streams.prefix)
        self.locate()
        self._fill_queue()
        distributed.check(self)
        if phase.declaration.micro_batch == "auto":
            diagnose.refuse_randomness(self)

    def _charge_given(self, phase: CompiledPhase) -> None:
        """Work of the runs whose weights a phase is given; it is spent before the phase begins."""
        ahead.check_given(phase.declaration)
        for _, value in paths.walk(phase.declaration):
            if isinstance(value, Weights):
                self.work.charge(value.flops(), beside=True)
        self.work.before_phase = self.work.spent

    def begin_trial(self, edited: CompiledPhase) -> None:
        """Go on under an edited phase."""
        self._edited = edited
        self._note_frame()
        self.streams = Streams(self.seed, *self._address())
        self._settle_phase()

    def end_trial(self) -> None:
        """Go on under the phase as declared."""
        self._edited = None
        self._note_frame()
        self.streams = Streams(self.seed, *self._address())
        self._settle_phase()
        self.settle()

    def _settle_phase(self) -> None:
        """Derive what the phase's declaration and the model alone determine."""
        declared, needs = self.phase.declaration, self.phase.needs
        self.parameters = seam.phase_parameters(self.model, declared, self.view)
        self.trained = list(self.parameters.values())
        self._leaves = arithmetic.Leaves(self.trained)
        self.foreseen: dict[int, Foreseen] = {}
        self.buffers = Buffers(self.model)
        self.keep_units = "units" in needs
        self.keep_weights = "weights" in needs
        self.wants_norm = "gradient_norm" in needs or any(getattr(p, "wants_norm", False) for p in self.probes)
        self.example_gradients = "example_gradients" in needs
        self.micro_norms = "micro_batch_gradient_norms" in needs
        self.self_normalised = type(self.phase.slots[declared.data_slot]).self_normalised
        self.loss = declared.loss if declared.loss is not None else self.workload.loss
        self.read.settle(self.loss)
        if declared.micro_batch == "auto":
            diagnose.refuse_interaction(self)
        self._micro = declared.micro_batch
        self.autocast = declared.precision == "bfloat16"

    def _fill_queue(self) -> None:
        while len(self.frame.plans) < self.phase.declaration.lag + 1:
            try:
                self.frame.plans.append(draw(self))
            except DeclarationError as why:
                raise why.within(self.phase.declaration.data_slot) from None

    def redraw(self) -> None:
        """Draw anew what has been drawn but not yet used: whoever draws has learned something since."""
        self.frame.plans = []
        self._fill_queue()

    def settle(self) -> None:
        """After a step: end the phase or draw the next plan; give up after too many skipped steps."""
        frame, length = self.frame, self.phase.length
        if frame.skipped_in_a_row >= self.give_up and frame.trial is None:  # a trial ends, and nothing else
            raise RunFailed(
                f"{frame.skipped_in_a_row} steps in a row were not finite or skipped by a guard, the last at step "
                f"{frame.step - 1} of phase '{self.phase.name}'; lower the learning rate or look at the "
                "examples named in the records"
            )
        frame.spent = self.work.spent - self.work.before_phase
        if length.unit == "flops" and frame.spent == 0.0 and not frame.skipped_in_a_row:
            raise DeclarationError(
                f"got '{length.budget}', but a step of this model uses no floating-point operation that is counted; "
                "give it in steps, samples or tokens",
                "budget",
            )
        self.locate()
        if frame.trial is not None:
            if not trials.over(self):
                self._fill_queue()
        elif self.consumed < length.total * (1.0 - 1e-12):
            self._fill_queue()
        elif frame.phase + 1 < len(self.phases):
            if "averaged" in self.phases[frame.phase + 1].declaration.carry:
                self._write(self.judged_weights()[0] or {})
            self.next_phase()
        else:
            self.flush()
            frame.plans, self.finished = [], True

    # -- position ------------------------------------------------------------------------------------------

    def locate(self) -> None:
        """Work out where the run is, once a step: `position` is what schedules and controllers see."""
        frame, length = self.frame, self.phase.length
        at = frame.counters()
        self.consumed = length.consumed(at, frame.spent)
        fraction = min(self.consumed / length.total, 1.0)
        whole = None
        if self._totals is not None:
            before, total = self._totals[frame.phase], self._totals[-1]
            whole = (before + fraction * length.total) / total
        self.position = Progress(*at[:6], fraction, whole)

    # -- what the evaluator asks for -----------------------------------------------------------------------

    def micro_batches(self, n: int, declared: Any) -> list[int]:
        """Sizes of the micro-batches of a batch of `n`: contiguous runs in plan order."""
        size = self._micro if declared == "auto" else declared
        if size is None or size == "auto" or size >= n:
            return [n]
        return [min(size, n - start) for start in range(0, n, size)]

    def gradients(self, values: Tensor, weights: Tensor | None) -> list[Tensor]:
        """Gradient of the weighted sum of unit losses, zero for parameters that the loss does not reach."""
        if not values.requires_grad:
            raise DeclarationError("the loss depends on no trainable parameter", "trainable")
        seeds = arithmetic.ones(values) if weights is None else weights.to(values.dtype)
        return self._leaves.owned(arithmetic.gradient(values, seeds, self._leaves.tensors), seeds)

    def rule_generator(self, name: str, step: int) -> torch.Generator:
        """Return a torch generator at the start of a rule's stream `name` of a step."""
        generator = torch.Generator(device=self.workload.device)
        return generator.manual_seed(self.streams.seed32("rule", name, step))

    def first_bad_layer(self, live: Any, batch: Any, number: int) -> str | None:
        """Name of the first module whose output is not finite."""
        return diagnose.first_bad_layer(self, live, batch, number)

    def first_bad_gradient(self, gradients: Any) -> str | None:
        """Name of the first parameter whose gradient is not finite."""
        for name, g in zip(self.parameters, gradients):
            if not torch.isfinite(g).all():
                return name
        return None

    # -- weights -------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Have the rule write what it has put off: somebody is about to read the weights."""
        rule = self.phase.declaration.optimizer
        if rule.puts_off:
            self.states["optimizer"] = rule.flush(self.states["optimizer"], self.parameters)

    def evaluation_weights(self) -> Mapping[str, Tensor]:
        """What the optimizer calls its evaluation weights."""
        self.flush()
        return self.phase.declaration.optimizer.evaluation_weights(self.states["optimizer"], self.parameters)

    def judged_weights(self) -> tuple[Mapping[str, Tensor] | None, str]:
        """Weights at which metrics are measured, None where they are the trained ones; and what they are called."""
        self.flush()
        average = self.phase.declaration.average
        if average is not None:
            averaged = average.average(self.states["average"])
            if averaged is not None:
                return averaged, "averaged"
        if self.phase.declaration.optimizer.shared_evaluation_weights():
            return None, "raw"
        return self.evaluation_weights(), "evaluation"

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.parameters[name].copy_(value)

    # -- driving -------------------------------------------------------------------------------------------

    def step(self) -> Record:
        """Train one step; the caller's random state is put back."""
        before = self._callers_state()
        try:
            trials.begin(self)
            record = self._repeated_step()
            if self.looked_at or self.frame.trial is not None or self.phase.proposing:
                self.flush()
            return record if self.frame.trial is None else trials.note(self, record)
        finally:
            self.forward.give_back(before)

    def ready(self) -> None:
        """Begin the trial that the next step is of, if there is one: its plan is then the one that will be trained on."""
        draws, before = self.forward.draws, self._callers_state()
        try:
            trials.begin(self)
        finally:
            self.forward.give_back(before)
        self.forward.draws = self.forward.draws or draws  # where there was no forward, nothing is known yet

    def _callers_state(self) -> Any:
        """The caller's random state, to be given back (without a context manager, which costs a step 6 us)."""
        if self.finished:
            raise RunFailed("the run is finished; fork or extend it to train on")
        return self.forward.callers_state()

    def _repeated_step(self) -> Record:
        """Step, and repeat the same step: where memory is short and the micro-batch ours to choose, with half of it;
        where a forward has drawn from a generator that was not set to its address, with all of them set."""
        work, halved = self.work.state(), False
        while True:
            try:
                record = step(self)
            except Unaddressed:
                self.work = Work.restored(work)
            except torch.OutOfMemoryError as why:
                size = max(self.micro_batches(len(self.frame.plans[0]), self.phase.declaration.micro_batch))
                if self.phase.declaration.micro_batch != "auto" or size == 1:
                    raise RunFailed(
                        f"out of memory at step {self.frame.step} with micro-batches of {size}; give a smaller "
                        "micro_batch, or micro_batch='auto' to let it be halved where nothing interacts"
                    ) from why
                self.work, self._micro, halved = Work.restored(work), (size + 1) // 2, True
            else:
                return record._replace(signals=record.signals | {"micro_batch": self._micro}) if halved else record

    def __iter__(self) -> Iterator[Record]:
        while not self.finished:
            yield self.step()

    # -- state ---------------------------------------------------------------------------------------------

    def tree(self) -> dict[str, Any]:
        """Return the whole state of the run: what a checkpoint holds."""
        self.flush()
        return {
            "seed": self.seed,
            "regime": self.regime.hash,
            "frames": [frame.state() for frame in self.frames],
            "states": self.states,
            "probes": self.remembered,
            "work": self.work.state(),
            "seams": self.seams,
            "sources": {name: source.state() for name, source in self.workload.sources["train"].items()},
            "finished": self.finished,
            "micro": self._micro,
            "flops": {} if self.flops is None else self.flops.state(),
            **state_of(self.model),
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Continue from a state tree.

        Raises
        ------
        ResumeError
            If it belongs to another regime or seed, or does not fit the model.
        """
        if tree["regime"] != self.regime.hash or tree["seed"] != self.seed:
            raise ResumeError("the checkpoint belongs to another regime or seed")
        self.frames, self._edited = [Frame.restored(frame) for frame in tree["frames"]], None
        self._note_frame()
        self.model = seam.replay_structure(
            self.workload.build(seed32(self.seed, "init")), self.regime, self.frame.phase
        )
        try:
            load_into(self.model, {part: tree[part] for part in ("model", "buffers")})
        except RuntimeError as why:
            raise ResumeError(f"the checkpoint does not fit the model: {why}") from None
        if self.frame.trial is not None:
            self._edited = trials.edited(self)
            self._note_frame()
        self.streams = Streams(self.seed, *self._address())
        self._settle_phase()
        self.states = _to_device(trees.clone(tree["states"]), self.workload.device, self.parameters)
        self.remembered = trees.clone(tree.get("probes", {}))
        for name, source in self.workload.sources["train"].items():
            source.load(tree["sources"][name])
        self.work = Work.restored(tree["work"])
        if self.flops is not None:
            self.flops.load(tree["flops"])
        self.seams, self.finished, self._micro = list(tree["seams"]), tree["finished"], tree["micro"]
        self.locate()


def _to_device(states: Any, device: torch.device, parameters: Mapping[str, Tensor]) -> Any:
    """Move per-parameter state to the parameters' device; everything else stays on the CPU."""
    if device.type == "cpu":
        return states

    def moved(tree: Any, inside: bool) -> Any:
        if isinstance(tree, Tensor):
            # torch keeps counters (0-d) on the CPU.
            return tree.to(device) if inside and tree.ndim else tree
        if isinstance(tree, dict):
            return {key: moved(value, inside or key == "slots") for key, value in tree.items()}
        return [moved(value, inside) for value in tree] if isinstance(tree, list) else tree

    return moved(states, False)
