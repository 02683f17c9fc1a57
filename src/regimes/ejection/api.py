"""`eject` writes the script of a regime; `check` runs it beside the engine and compares."""

from __future__ import annotations

import itertools
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch

from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.core.regime import Regime
from regimes.ejection.script import Script
from regimes.ejection.source import Source, source_of, source_of_file
from regimes.engine import trees
from regimes.engine.buffers import state_of
from regimes.engine.run import Run
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.specs import load_workload

#: Steps that a check compares.
STEPS = 200


class Checked(NamedTuple):
    """What a check found.

    Parameters
    ----------
    steps : int
        How many were compared.
    finished : bool
        Whether that was the whole run: then the judged weights and the metrics were compared, too.
    differing : list of str
        Parameters, buffers and metrics that are not bitwise equal; empty is what it should be.
    """

    steps: int
    finished: bool
    differing: list[str]

    def __str__(self) -> str:
        what = f"{self.steps} steps" + (" (the whole run, metrics included)" if self.finished else "")
        if not self.differing:
            return f"{what} agree bitwise"
        return f"{what} do not agree: {', '.join(self.differing[:5])}" + (" ..." if len(self.differing) > 5 else "")


def eject(workload: Any, regime: Regime | None = None, seed: int | None = None) -> str:
    """Return the plain PyTorch loop of a regime, as a script that imports regimes only for what torch lacks.

    Parameters
    ----------
    workload : str, mapping or RunFile
        What names a workload (``"digits_mlp"``, ``{"name": "char_lm", "width": 96}``, ``"package.module:function"``), or
        a whole run file as `regimes.study.files.read` gives it.
    regime : Regime, optional
        Left out with a run file.
    seed : int, optional
        Of the run. Default that of the file, else 0.

    Returns
    -------
    str
        Python. Run, it prints losses, metrics at the end, and saves the weights beside itself.

    Raises
    ------
    DeclarationError
        For what no script can repeat, with its key and what is allowed.

    Examples
    --------
    >>> import regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=32, budget="100 steps")
    >>> print(eject("digits_mlp", regime).split("def train(model):")[1].split("def ")[0])
    <BLANKLINE>
        \"\"\"Yield the number and the loss of each step, for 100 steps.\"\"\"
        streams = Streams(SEED, "main")
        parameters = list(model.parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.1, fused=True)
        order = shuffled(len(train_data), streams)
        for step in range(100):
            rows = np.array(list(itertools.islice(order, 32)))
            model.zero_grad()
            x, y = train_data.fetch(rows, {})
            losses = F.cross_entropy(model(x), y, reduction="none")
            loss = losses.mean()
            loss.backward()
            optimizer.step()
            yield step, loss.item()
    <BLANKLINE>
    <BLANKLINE>
    @torch.no_grad()
    <BLANKLINE>
    """
    return Script(*_given(workload, regime, seed)).text()


def check(workload: Any, regime: Regime | None = None, seed: int | None = None, steps: int = STEPS) -> Checked:
    """Run the script of a regime beside the engine, and compare weights and buffers after so many steps, bitwise.

    Parameters
    ----------
    workload, regime, seed
        As for `eject`.
    steps : int
        How many. Default 200; a shorter run is compared to its end, metrics included.

    Raises
    ------
    DeclarationError
        For what cannot be ejected.
    RegimesError
        If a step is not finite: the engine skips it, a script stops.

    Examples
    --------
    >>> import regimes as rg
    >>> check("digits_mlp", rg.Regime(optimizer=rg.Lion(), batch_size=30, budget="40 steps"))
    Checked(steps=40, finished=True, differing=[])
    """
    run, source = _given(workload, regime, seed)
    module = loaded(Script(run, source).text())
    run = Run(run.workload, run.regime, run.seed, count_flops=False)
    model = module.work.build(module.seed32(module.SEED, "init"))
    made = _stepped(run, steps)
    # To its end, so that what follows the last step of a run is done.
    trained = sum(1 for _ in itertools.islice(module.train(model), None if run.finished else made))
    return Checked(made, run.finished, ["steps"] if trained != made else _differing(run, model, module))


def _stepped(run: Run, steps: int) -> int:
    """Make so many steps, or all; return how many."""
    made = 0
    while made < steps and not run.finished:
        record = run.step()
        if "skipped" in record.signals:
            raise RegimesError(
                f"step {record.at.step} is not finite ({record.signals['skipped']}): the engine skips it, a script stops"
            )
        made += 1
    return made


def _given(workload: Any, regime: Regime | None, seed: int | None) -> tuple[Run, Source]:
    if isinstance(workload, CompareFile):
        raise DeclarationError(f"{workload.path} declares a comparison; allowed: a file that declares one run")
    if isinstance(workload, RunFile):
        source = source_of_file(workload)
        regime, seed = workload.regime, workload.seed if seed is None else seed
        made = workload.workload if workload.workload is not None else load_workload(workload.workload_spec)
    else:
        source, made = source_of(workload), load_workload(workload)
    if not isinstance(regime, Regime):
        raise DeclarationError(f"got {show(regime)}; allowed: a Regime", "regime")
    return Run(made, regime, 0 if seed is None else seed, count_flops=False), source


def loaded(text: str) -> Any:
    """Return a script's names as a module, without running its `main`."""
    module = types.ModuleType("ejected")
    module.__file__ = str(Path("ejected.py").resolve())
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def _differing(run: Run, model: torch.nn.Module, module: Any) -> list[str]:
    ours: dict[str, float] = {}
    if run.finished:
        if run.validation.present:
            ours = run.validation.measure("val")
        run._write(run.judged_weights()[0] or {})
    found = trees.differences(_tree(run.model), _tree(model))
    theirs = module.validate(model) if ours else {}
    return found + [name for name, value in theirs.items() if not _equal(ours[name], value)]


def _tree(model: torch.nn.Module) -> dict[str, Any]:
    state = state_of(model)
    return {
        "weights": {k: v for k, v in state["model"].items() if isinstance(v, torch.Tensor)},
        "buffers": state["buffers"],
    }


def _equal(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
