"""Run a regime: `run` returns, `stream` yields; with a folder, killed at any moment and continued bitwise."""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.duration import Duration, seconds
from regimes.core.errors import DeclarationError, Interrupted, show
from regimes.core.kinds import Probe
from regimes.core.regime import Regime
from regimes.engine import bursts, distributed, following, index, records
from regimes.engine.folder import Folder
from regimes.engine.identity import identity
from regimes.engine.observation import Observer
from regimes.engine.result import RunResult
from regimes.engine.run import Run
from regimes.engine.step import Record
from regimes.engine.workload import Workload


class Session:
    """Drives one run: folder, records, checkpoints, probes, signals."""

    def __init__(self, workload: Workload, regime: Regime, seed: int, options: dict[str, Any]) -> None:
        self.options = options
        self.checkpoint = cadence("checkpoint", options["checkpoint"])
        try:
            self.limit = seconds(options["max_time"])
        except DeclarationError as why:
            raise why if why.key else why.within("max_time") from None
        if options["validate"] is not None:
            cadence("validate", options["validate"])
        self.world = distributed.join(options["reduce"])
        self.run = Run(
            workload, regime, seed, validate=options["validate"], give_up=options["give_up"], world=self.world
        )
        check_cadences(self.run, checkpoint=options["checkpoint"], validate=options["validate"])
        self.observer = Observer(self.run, options["probes"])
        self.folder = None if options["out"] is None else Folder(options["out"])
        self.content: dict[str, Any] | None = None
        self.writer: records.RecordWriter | None = None
        self.notes: list[str] = []
        self._last: Record | None = None
        self._every: dict[int, float] = {}
        self.stop_code: int | None = None
        #: Whether there are steps to be made.
        self.training = False
        self._marked = 0, 0
        #: Whether somebody looks at every step when it has been made.
        self.looked_at = True
        self._pace = bursts.Pace()
        self._tells: Sequence[Callable[[Record], None]] = ()
        #: The time that the run takes; where several share the machine, its share.
        self.clock: Callable[[], float] = time.perf_counter
        self.began = time.perf_counter()

    @classmethod
    def at(
        cls, workload: Workload, regime: Regime, seed: int, place: Callable[[dict[str, Any]], Path], **given: Any
    ) -> Session:
        """Return the session of a run whose folder is named by what it is.

        Parameters
        ----------
        workload, regime, seed
            As of `run`.
        place : callable
            ``place(content)`` returns the folder of a run of this identity.
        **given
            Arguments of `run`; ``track`` are followers.
        """
        options = {name: p.default for name, p in inspect.signature(run).parameters.items() if p.kind == p.KEYWORD_ONLY}
        session = cls(workload, regime, seed, _options(workload, regime, seed, **options | given | {"track": None}))
        session.content = identity(session.run)
        session.folder = Folder(place(session.content))
        session.options["track"] = following.followers(given.get("track"), session.folder.path)
        return session

    def records(self) -> Iterator[Record]:
        """Yield one record a step until the run is finished or stopped."""
        with self.opened(), stopped_by_signals([self] if self.folder is not None else []):
            while self.training:
                for record in self._steps():
                    yield self.note(record)
                self.settle()

    def _steps(self) -> list[Record]:
        """Make one step, or where nobody looks on as many as take a moment, with their bookkeeping ahead."""
        most = 0 if self.looked_at or self.observer.probes else self._pace.most
        began = time.perf_counter()
        made = bursts.burst(self.run, most, lambda run: self.pauses()) if most > 1 else []
        if not made:
            self.observer.before()
            self.run.looked_at = self.looked_at or bool(self.observer.probes)
            made = [self.run.step()]
        self._pace.note(time.perf_counter() - began, len(made))
        return made

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, the run's folder is this process's, and what is there has been read; whoever follows hears of each record.

        Raises
        ------
        Locked
            If another process has it.
        """
        if self.folder is None:
            self._begin()
            yield
            return
        if self.world.first:
            self.folder.lock()
        try:
            unfinished = self._open()
            with following.told(self) as self._tells:
                if unfinished:
                    self._begin()
                yield
            if unfinished:
                self.world.wait()
        finally:
            self._let_go(self.folder)

    def _let_go(self, folder: Folder) -> None:
        """Give the folder back, with the last checkpoint on disk; that it is not is said before what has come since."""
        with contextlib.ExitStack() as stack:
            if self.world.first:
                stack.callback(folder.unlock)
            if self.writer is not None:
                stack.callback(index.update, folder.path)
                stack.callback(self.writer.close)
            folder.saved()

    def _begin(self) -> None:
        self._marked = self._mark()
        if self.run.finished:  # killed between its last step and its result
            self._finish()
            return
        self.training = True
        if self.folder is not None and self.writer is not None:
            self.folder.reserve(self.run)

    def note(self, record: Record) -> Record:
        """Take in the record of the step that was made: probes that are due, the file, whoever follows."""
        record = self._last = self.observer.noted(record)
        if self.writer is not None:
            self.writer.add(record)
        for tell in self._tells:
            tell(record)
        return record

    def settle(self) -> None:
        """Between two steps: a checkpoint where it is due, an end where it is asked for.

        Raises
        ------
        Interrupted
            Where somebody asked to stop, after a checkpoint.
        ResumeError
            If a checkpoint could not be written: this one, or the one before, which was on its way to disk until now.
        """
        if self.run.finished:
            self.training = False
            self._finish()
            return
        mark = self._mark()
        if mark != self._marked:
            self._marked = mark
            self._save()
        self._stop_if_asked()

    def pauses(self) -> bool:
        """Whether there is something to do before the next step; asked where the run would stand."""
        return self._mark() != self._marked

    def _open(self) -> bool:
        assert self.folder is not None
        folder, run = self.folder, self.run
        content = identity(run) if self.content is None else self.content
        distributed.check_same(self.world, content)
        if self.world.first:
            folder.begin(run, self.options["workload_spec"], _plain_options(self.options), content)
        self.world.wait()
        if folder.result is not None:
            return False
        tree, self.notes = folder.newest()
        if tree is not None:
            run.load(tree["run"])
        if self.world.first:
            self.writer = records.RecordWriter(folder.path, self.clock)
            self.writer.cut(0 if tree is None else tree["records_bytes"])
        self.world.wait()
        return True

    def _mark(self) -> tuple[int, int]:
        run = self.run
        place = run.frame.phase
        if place not in self._every:
            self._every[place] = run.phase.length.amount(self.checkpoint)
        # What trials have used up counts: a kill inside a long one loses no more than any other.
        return place, int((run.consumed + run.frame.tried) / self._every[place] + 1e-9)

    def _save(self) -> None:
        if self.folder is not None and self.writer is not None:
            self.folder.save(self.run, self.writer.mark(), self.writer.sync)

    def _stop_if_asked(self) -> None:
        if self.limit is not None and time.perf_counter() - self.began > self.limit:
            self.stop_code = 0
        self.stop_code = self.world.agreed(self.stop_code)
        if self.stop_code is None:
            return
        self._save()
        where = f"at step {self.run.frame.step}"
        if self.folder is None:
            raise Interrupted(f"stopped {where}; without out= nothing was kept", self.stop_code)
        self.folder.saved()
        raise Interrupted(f"stopped {where}; continue with: regimes resume {self.folder.path}", self.stop_code)

    def _finish(self) -> None:
        if self.folder is None or self.writer is None:
            return
        self._save()
        metrics = final_metrics(self.run, self._last)
        work = self.run.work.state()
        frame = self.run.frame
        totals = {"step": frame.step, "samples": frame.samples, "tokens": frame.tokens}
        skipped = _skipped(self.writer.path)
        self.folder.saved()
        self.folder.finish(
            self.run, {"metrics": metrics, **totals, "skipped": skipped, "work": work, "seams": self.run.seams}
        )


@contextlib.contextmanager
def stopped_by_signals(sessions: Sequence[Session]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM stop the sessions after the step that is running."""
    if not sessions or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        for session in sessions:
            session.stop_code = 128 + number

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def final_metrics(run: Run, last: Record | None) -> dict[str, float]:
    """Loss and metrics at the judged weights, on val and on test where there are any.

    The last record holds the validation of the run's end already, unless it was skipped or read from elsewhere.
    """
    known = last is not None and "trial" not in last.signals
    found = {n: v for n, v in last.signals.items() if n.startswith("val/")} if last is not None and known else {}
    for split in ("val", "test"):
        if split in run.workload.sources and f"{split}/loss" not in found:
            found |= run.validation.measure(split)
    return found


def _skipped(path: Path) -> int:
    """Count the skipped steps of a run in its records, those of trials apart."""
    with path.open("rb") as file:
        return sum(b'"skipped": ' in row and b'"trial": ' not in row for row in file)


def cadence(key: str, value: Any) -> Duration:
    """Read how often something is done.

    Raises
    ------
    DeclarationError
        For what is no amount of training, or none at all.
    """
    try:
        found = Duration.parse(value)
    except DeclarationError as why:
        raise why.within(key) from None
    if found.value <= 0:
        raise DeclarationError(f"got '{found}'; allowed: more than nothing", key)
    return found


def check_cadences(run: Run, **cadences: Any) -> None:
    """Refuse a cadence of a run, or of one of its phases, that is nothing or cannot be told in its budget's unit.

    Raises
    ------
    DeclarationError
        Naming it.
    """
    for phase in run.phases:
        lead = f"{phase.name}." if len(run.phases) > 1 else ""
        for key, value in (cadences | {f"{lead}evaluate": phase.declaration.evaluate}).items():
            if value is not None:
                try:
                    phase.length.amount(cadence(key, value))
                except DeclarationError as why:
                    raise (why if why.key else why.within(key)) from None


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "validate": options["validate"] and str(options["validate"]),
        "probes": [repr(probe) for probe in options["probes"]],
        "give_up": options["give_up"],
        "reduce": options["reduce"],
        "checkpoint": str(options["checkpoint"]),
    }


def _options(workload: Any, regime: Any, seed: Any, **options: Any) -> dict[str, Any]:
    if not isinstance(workload, Workload):
        raise DeclarationError(f"got {show(workload)}; allowed: a Workload", "workload")
    if not isinstance(regime, Regime):
        raise DeclarationError(f"got {show(regime)}; allowed: a Regime", "regime")
    _whole("seed", seed, 0, 2**63 - 1)
    _whole("give_up", options["give_up"], 1, 2**63 - 1)
    if options["reduce"] not in ("tree", "all_reduce"):
        raise DeclarationError(f"got {show(options['reduce'])}; allowed: 'tree' or 'all_reduce'", "reduce")
    if not isinstance(options["probes"], list | tuple):
        raise DeclarationError(f"got {show(options['probes'])}; allowed: a list of probes", "probes")
    for place, probe in enumerate(options["probes"]):
        if not isinstance(probe, Probe):
            raise DeclarationError(f"got {show(probe)}; allowed: a Probe, such as GradientNorm()", f"probes.{place}")
    out = options["out"]
    if out is not None and (not isinstance(out, str | Path) or not str(out)):
        raise DeclarationError(f"got {show(out)}; allowed: a folder, or None for none", "out")
    if out is not None and Path(out).is_file():
        raise DeclarationError(f"got '{out}', which is a file; allowed: a folder, new or of this run", "out")
    return options | {"track": following.followers(options["track"], out)}


def _whole(key: str, value: Any, low: int, high: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise DeclarationError(f"got {show(value)}; allowed: an integer from {low} on", key)


def stream(
    workload: Workload,
    regime: Regime,
    seed: int = 0,
    *,
    out: str | Path | None = None,
    validate: str | None = None,
    probes: Sequence[Any] = (),
    checkpoint: str = "10%",
    max_time: str | float | None = None,
    give_up: int = 10,
    reduce: str = "tree",
    workload_spec: Any = None,
    track: Any = None,
) -> Iterator[Record]:
    """Yield one record a step; the same run as `run`, for those who want to look on.

    Parameters are those of `run`.
    """
    options = _options(
        workload,
        regime,
        seed,
        out=out,
        validate=validate,
        probes=probes,
        checkpoint=checkpoint,
        max_time=max_time,
        give_up=give_up,
        reduce=reduce,
        workload_spec=workload_spec,
        track=track,
    )
    yield from Session(workload, regime, seed, options).records()


def run(
    workload: Workload,
    regime: Regime,
    seed: int = 0,
    *,
    out: str | Path | None = None,
    validate: str | None = None,
    probes: Sequence[Any] = (),
    checkpoint: str = "10%",
    max_time: str | float | None = None,
    give_up: int = 10,
    reduce: str = "tree",
    progress: bool | None = None,
    workload_spec: Any = None,
    track: Any = None,
) -> RunResult:
    """Train, and return what came of it.

    With ``out=`` the run lives in a folder: killed at any moment, the same call (or ``regimes resume``) continues it
    and ends in the same bits; finished, it is not trained again.

    Parameters
    ----------
    workload : Workload
        What is trained.
    regime : Regime
        How.
    seed : int
        Addresses initial weights, data order and noise.
    out : path, optional
        The run's folder.
    validate : Duration, optional
        Cadence of validation for curves ("5%"); the end of every phase is validated anyway.
    probes : sequence of Probe
        Observations; they change no bit.
    checkpoint : Duration
        Cadence of checkpoints, of each phase. Default 10%. They are written while the run goes on, from a copy of its
        state, which stays in memory beside it.
    max_time : str or float, optional
        A limit ("20 min") that stops cleanly, with a checkpoint.
    give_up : int
        Skipped steps in a row, non-finite or left out by a guard, after which the run stops. Default 10.
    reduce : "tree" or "all_reduce"
        How several processes (``torchrun``) add gradients: to the bit as one does, or faster and equal to rounding.
    progress : bool, optional
        A progress bar on stderr; default where stderr is a terminal.
    workload_spec : str or mapping, optional
        What builds the workload again, kept in run.json for ``regimes resume``.
    track : str, or sequence of str, optional
        Trackers that hold a copy of the records (`regimes.track`): tensorboard, wandb, mlflow, trackio. What curves stand
        over is said behind an @, steps where nothing is: "mlflow@tokens". They change no bit, and one that fails is a note.

    Returns
    -------
    RunResult
        Metrics, records, the trained model.

    Raises
    ------
    DeclarationError
        For a declaration that does not hold, before anything is spent.
    ResumeError
        If the folder holds another run, or is being trained by another process; if a checkpoint could not be written.
    RunFailed
        If too many steps in a row were skipped.
    Interrupted
        On Ctrl-C, SIGTERM or the time limit, after a checkpoint.

    Examples
    --------
    >>> import torch, regimes as rg
    >>> x = torch.linspace(-1, 1, 64).view(-1, 1); y = (x.view(-1) > 0).long()
    >>> work = rg.Workload(model=lambda: torch.nn.Linear(1, 2), train=(x, y), val=(x, y),
    ...                    loss=torch.nn.CrossEntropyLoss(), metrics={"acc": rg.Accuracy()})
    >>> result = rg.run(work, rg.Regime(optimizer=rg.SGD(lr=1.0), batch_size=16, budget="20 epochs"))
    >>> result.steps, result.metrics["val/acc"] > 0.9
    (80, True)
    """
    options = _options(
        workload,
        regime,
        seed,
        out=out,
        validate=validate,
        probes=probes,
        checkpoint=checkpoint,
        max_time=max_time,
        give_up=give_up,
        reduce=reduce,
        workload_spec=workload_spec,
        track=track,
    )
    session, kept = Session(workload, regime, seed, options), []
    session.looked_at = False
    began = time.perf_counter()
    with _bar(session.run, progress if session.world.first else False) as tick:
        for record in session.records():
            tick(record)
            if out is None:
                kept.append(record)
    return RunResult.of(session.run, kept, session.folder, time.perf_counter() - began, session.notes)


@contextlib.contextmanager
def _bar(run: Run, wanted: bool | None) -> Iterator[Any]:
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(run.phase.name, total=1.0, said="")

        def tick(record: Record) -> None:
            loss = record.loss
            said = f"step {record.at.step}  loss {loss:.4f}" if loss is not None else f"step {record.at.step}  skipped"
            whole = record.at.run_fraction if record.at.run_fraction is not None else record.at.fraction
            bar.update(task, completed=whole, description=record.phase, said=said)

        yield tick
        bar.update(task, completed=1.0)
