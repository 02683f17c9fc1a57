"""regimes: declare, run, compare, diagnose and verify training regimes.

Names are imported when they are first used, so that ``import regimes`` costs nothing and the command line can
answer ``--help`` without torch.
"""

# ruff: noqa: F401 (what is imported for type checkers is what users import from here)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regimes.core.display import RENDERERS
from regimes.engine.following import FOLLOWERS

if TYPE_CHECKING:
    from regimes import groups, optim
    from regimes.augment import *  # noqa: F403
    from regimes.averagers import *  # noqa: F403
    from regimes.controllers import *  # noqa: F403
    from regimes.core.card import Card, Claim
    from regimes.core.duration import Duration, epochs, flops, samples, steps, tokens
    from regimes.core.errors import DeclarationError, Interrupted, RegimesError, ResumeError, RunFailed, UserCodeError
    from regimes.core.progress import Progress
    from regimes.core.regime import Phase, Regime
    from regimes.core.registry import register
    from regimes.ejection.api import eject
    from regimes.engine.api import run, stream
    from regimes.engine.batches import Batches
    from regimes.engine.metrics import Accuracy
    from regimes.engine.run import Run
    from regimes.engine.workload import Workload
    from regimes.grad_transforms import *  # noqa: F403
    from regimes.integrations.lr_scheduler import lr_scheduler
    from regimes.integrations.offload import offload
    from regimes.losses import *  # noqa: F403
    from regimes.mixtures import *  # noqa: F403
    from regimes.model_transforms import *  # noqa: F403
    from regimes.optimizers import *  # noqa: F403
    from regimes.probes import *  # noqa: F403
    from regimes.recipes.resnet_rs import regularized_decay, resnet_rs, resnet_rs_ablation
    from regimes.samplers import *  # noqa: F403
    from regimes.scaling.batch import ScaledBatch, scale_batch
    from regimes.scaling.proxies import PowerLaw, lr_sensitivity
    from regimes.schedules import *  # noqa: F403
    from regimes.selectors import *  # noqa: F403
    from regimes.sources import *  # noqa: F403
    from regimes.study.audit import Audit, audit
    from regimes.study.branches import extend, fork
    from regimes.study.calibrate import Calibration, calibrate
    from regimes.study.command import Command
    from regimes.study.compare import compare
    from regimes.study.decay_branches import branch
    from regimes.study.early_signal import EarlySignal, early_signal
    from regimes.study.effective_schedule import effective_schedule
    from regimes.study.evaluation_noise import EvaluationNoise, evaluation_noise
    from regimes.study.foreign.verdict import verdict
    from regimes.study.guard import Guarded, guard
    from regimes.study.importing import Imported, import_training_args
    from regimes.study.ladder import Ladder, ladder
    from regimes.study.late_forks import LateForks, late_forks
    from regimes.study.plan import Plan, plan
    from regimes.study.profiles import Profile, performance_profile, profile_score
    from regimes.study.ranges import between, times
    from regimes.study.replays import Replay, replay
    from regimes.study.schedule_fit import fit_schedule
    from regimes.study.schedule_tables import from_table
    from regimes.study.shootout import Shootout, shootout
    from regimes.study.study import Study
    from regimes.study.tune_lr import TunedRate, tune_lr
    from regimes.study.two_phase import TwoPhase, two_phase
    from regimes.study.until_fitted import Fitted, until_fitted
    from regimes.weights import *  # noqa: F403

#: What is not exported by one of the packages of components: module -> names.
_ELSEWHERE = {
    "regimes.core.card": ("Card", "Claim"),
    "regimes.core.duration": ("Duration", "epochs", "flops", "samples", "steps", "tokens"),
    "regimes.core.errors": (
        "DeclarationError",
        "Interrupted",
        "RegimesError",
        "ResumeError",
        "RunFailed",
        "UserCodeError",
    ),
    "regimes.core.progress": ("Progress",),
    "regimes.core.regime": ("Phase", "Regime"),
    "regimes.core.registry": ("register",),
    "regimes.ejection.api": ("eject",),
    "regimes.engine.api": ("run", "stream"),
    "regimes.engine.batches": ("Batches",),
    "regimes.engine.metrics": ("Accuracy",),
    "regimes.engine.run": ("Run",),
    "regimes.engine.workload": ("Workload",),
    "regimes.integrations.lr_scheduler": ("lr_scheduler",),
    "regimes.integrations.offload": ("offload",),
    "regimes.recipes.resnet_rs": ("regularized_decay", "resnet_rs", "resnet_rs_ablation"),
    "regimes.scaling.batch": ("ScaledBatch", "scale_batch"),
    "regimes.scaling.proxies": ("PowerLaw", "lr_sensitivity"),
    "regimes.study.audit": ("Audit", "audit"),
    "regimes.study.branches": ("extend", "fork"),
    "regimes.study.decay_branches": ("branch",),
    "regimes.study.early_signal": ("EarlySignal", "early_signal"),
    "regimes.study.effective_schedule": ("effective_schedule",),
    "regimes.study.calibrate": ("Calibration", "calibrate"),
    "regimes.study.command": ("Command",),
    "regimes.study.compare": ("compare",),
    "regimes.study.foreign.verdict": ("verdict",),
    "regimes.study.evaluation_noise": ("EvaluationNoise", "evaluation_noise"),
    "regimes.study.ladder": ("Ladder", "ladder"),
    "regimes.study.late_forks": ("LateForks", "late_forks"),
    "regimes.study.guard": ("Guarded", "guard"),
    "regimes.study.importing": ("Imported", "import_training_args"),
    "regimes.study.plan": ("Plan", "plan"),
    "regimes.study.profiles": ("Profile", "performance_profile", "profile_score"),
    "regimes.study.ranges": ("between", "times"),
    "regimes.study.replays": ("Replay", "replay"),
    "regimes.study.schedule_fit": ("fit_schedule",),
    "regimes.study.schedule_tables": ("from_table",),
    "regimes.study.shootout": ("Shootout", "shootout"),
    "regimes.study.study": ("Study",),
    "regimes.study.tune_lr": ("TunedRate", "tune_lr"),
    "regimes.study.two_phase": ("TwoPhase", "two_phase"),
    "regimes.study.until_fitted": ("Fitted", "until_fitted"),
}
_MODULES = {name: module for module, names in _ELSEWHERE.items() for name in names}
#: Submodules that people reach as attributes.
_SUBMODULES = ("groups", "optim", "schedules", "testing", "workloads")

# How things show themselves in notebooks is decided above core and engine.
RENDERERS.update(
    {
        "Plan": "regimes.report.notebook:plan_html",
        "Regime": "regimes.report.notebook:regime_html",
        "RunResult": "regimes.report.notebook:run_html",
        "Study": "regimes.report.notebook:study_html",
    }
)

FOLLOWERS.update(dict.fromkeys(("tensorboard", "wandb", "mlflow", "trackio"), "regimes.track.tracking:follower"))


def __getattr__(name: str) -> Any:
    """Import what is called `name` on first use, and keep it."""
    if name == "__version__":
        from importlib.metadata import version

        return globals().setdefault(name, version("regimes"))
    if name.startswith("_"):
        raise AttributeError(f"module 'regimes' has no attribute '{name}'")
    import importlib

    module = _MODULES.get(name) or _exports().get(name)
    value = getattr(importlib.import_module(module), name) if module else _unlisted(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List every public name."""
    return sorted({*_MODULES, *_SUBMODULES, *_exports()})


def _exports() -> dict[str, str]:
    """Exported components by name, from the generated index."""
    from regimes.atlas import load

    return load()["exports"]


def _unlisted(name: str) -> Any:
    """Find a submodule, or an export newer than the index."""
    import importlib
    from importlib.util import find_spec

    if find_spec(f"regimes.{name}") is not None:
        return importlib.import_module(f"regimes.{name}")
    from regimes.core.registry import PACKAGES, elsewhere

    for package in map(importlib.import_module, PACKAGES):
        if name in getattr(package, "__all__", ()):
            return getattr(package, name)
    written = elsewhere(name)
    raise AttributeError(f"module 'regimes' has no attribute '{name}'{f'; {written}' if written else ''}")
