"""TrainingArguments become regimes: what is carried, what is said of the rest, what is refused."""

import json
import math
import pickle
import zipfile

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError
from regimes.study.files import read_yaml
from regimes.study.importing import text
from regimes.study.importing.keys import CARRIED, DEFAULTS
from regimes.study.importing.rules import UNDECAYED

T, W, PEAK = 100, 10, 1e-3


def imported(**args):
    return rg.import_training_args({"max_steps": T, "learning_rate": PEAK, **args})


def lr(kind, warmup=W, **kwargs):
    return imported(lr_scheduler_type=kind, warmup_steps=warmup, lr_scheduler_kwargs=kwargs).regime.optimizer.lr


# -- rates -------------------------------------------------------------------------------------------------------------


def ramp(t):
    return t / W


def past(t):
    return (t - W) / (T - W)


def half_cosine(x):
    return 0.5 * (1 + math.cos(math.pi * x))


RATES = {
    "linear": ("linear", {}, lambda t: ramp(t) if t < W else 1 - past(t)),
    "cosine": ("cosine", {}, lambda t: ramp(t) if t < W else half_cosine(past(t))),
    "two and a half swings": ("cosine", {"num_cycles": 2.5}, lambda t: ramp(t) if t < W else half_cosine(5 * past(t))),
    "restarts": ("cosine_with_restarts", {"num_cycles": 3}, lambda t: ramp(t) if t < W else half_cosine((t - W) % 30 / 30)),
    "polynomial": (
        "polynomial", {"power": 2.0, "lr_end": 1e-5},
        lambda t: ramp(t) if t < W else ((PEAK - 1e-5) * (1 - past(t)) ** 2 + 1e-5) / PEAK,
    ),
    "constant": ("constant", {}, lambda t: 1.0),
    "constant with warm-up": ("constant_with_warmup", {}, lambda t: min(ramp(t), 1.0)),
    "inverse sqrt": ("inverse_sqrt", {}, lambda t: ramp(t) if t < W else math.sqrt(W / t)),
    "inverse sqrt, own scale": ("inverse_sqrt", {"timescale": 25}, lambda t: ramp(t) if t < W else math.sqrt(25 / (t - W + 25))),
    "cosine to a floor": ("cosine_with_min_lr", {"min_lr": 1e-4}, lambda t: ramp(t) if t < W else 0.1 + 0.9 * half_cosine(past(t))),
    "one ahead": (
        "cosine_warmup_with_min_lr", {"min_lr_rate": 0.2},
        lambda t: (t + 1) / W if t < W else 0.2 + 0.8 * half_cosine((t + 1 - W) / (T - W)),
    ),
    "one ahead from a height": (
        "cosine_warmup_with_min_lr", {"min_lr": 0.0, "warmup_lr_rate": 0.5},
        lambda t: 0.5 + 0.5 * t / (W - 1) if t < W else half_cosine((t + 1 - W) / (T - W)),
    ),
    "wsd": ("warmup_stable_decay", {"num_decay_steps": 20}, lambda t: ramp(t) if t < W else half_cosine(max(t - 80, 0) / 20)),
    "wsd over a floor": (
        "warmup_stable_decay", {"num_decay_steps": 20, "min_lr_ratio": 0.1, "decay_type": "1-sqrt"},
        lambda t: 0.1 + 0.9 * (ramp(t) if t < W else 1 - math.sqrt(max(t - 80, 0) / 20)),
    ),
    "wsd that ends early": (
        "warmup_stable_decay", {"num_decay_steps": 20, "num_stable_steps": 30, "decay_type": "linear"},
        lambda t: ramp(t) if t < W else 1 - min(max(t - 40, 0) / 20, 1),
    ),
    "wsd with a cosine up": (
        "warmup_stable_decay",
        {"num_decay_steps": 20, "warmup_type": "cosine"},
        lambda t: 1 - half_cosine(ramp(t)) if t < W else half_cosine(max(t - 80, 0) / 20),
    ),
    "wsd with a rounded rise": (
        "warmup_stable_decay", {"num_decay_steps": 20, "num_stable_steps": 30, "warmup_type": "1-sqrt", "min_lr_ratio": 0.1},
        lambda t: 0.1 + 0.9 * (1 - math.sqrt(1 - ramp(t)) if t < W else half_cosine(min(max(t - 40, 0) / 20, 1))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_the_rate_of_every_step_is_that_of_the_formula(name):
    kind, kwargs, formula = RATES[name]
    found = lr(kind, **kwargs)
    for t in range(T):
        value = found if isinstance(found, float) else found(t / T, steps=T)
        assert value == pytest.approx(PEAK * formula(t), rel=1e-12, abs=1e-17), t


def test_without_a_warm_up():
    assert repr(lr("inverse_sqrt", warmup=0)) == "InverseSqrt(0.001, timescale='10000 steps')"
    assert lr("constant_with_warmup", warmup=0) == PEAK
    assert lr("warmup_stable_decay", warmup=0, num_decay_steps=20, min_lr_ratio=0.1)(1.0, steps=T) == pytest.approx(
        PEAK / 10
    )


def test_a_warm_up_longer_than_training_is_a_ramp():
    for kind in ("linear", "cosine", "inverse_sqrt", "constant_with_warmup"):
        found = lr(kind, warmup=400)
        assert [found(t / T, steps=T) for t in (0, 1, 99)] == pytest.approx([0.0, PEAK / 400, PEAK * 99 / 400])


def test_a_share_is_whole_steps_where_they_are_known():
    assert imported(warmup_steps=0.031).regime.optimizer.lr.warmup == rg.steps(4)
    assert imported(warmup_ratio=0.031).regime.optimizer.lr.warmup == rg.steps(4)
    found = rg.import_training_args({"num_train_epochs": 2, "warmup_ratio": 0.25})
    assert repr(found.regime.optimizer.lr) == "Linear(5e-05, warmup='25%')"
    assert "rounds it up" in next(key.said for key in found.different if key.name == "warmup_ratio")


def test_the_plateau_stops_where_torch_does():
    kwargs = {"factor": 0.1, "patience": 0}
    args = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 5}
    control = imported(**args, lr_scheduler_kwargs=kwargs).regime.optimizer.lr.right
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs, state = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **kwargs), control.init()
    for _ in range(12):
        theirs.step(1.0)
        state = control.observe(state, {"val:loss": 1.0}, rg.Progress())
        assert PEAK * control.value(state, rg.Progress()) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert 1e-9 < optimizer.param_groups[0]["lr"] < PEAK / 1e3


def test_the_plateau_reads_what_it_is_told():
    args = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch", "metric_for_best_model": "eval_acc"}
    found = imported(
        **args, lr_scheduler_kwargs={"mode": "max", "min_lr": 1e-4, "cooldown": 2, "threshold_mode": "abs"}
    )
    wanted = rg.Plateau("val:acc", better="higher", low=0.1, cooldown=2, threshold_mode="abs")
    assert found.regime.optimizer.lr.right == wanted
    assert found.regime.evaluate == rg.epochs(1)


# -- the rest ------------------------------------------------------------------------------------------------------------


def test_what_nothing_is_said_of_is_at_the_defaults_of_transformers():
    found = rg.import_training_args({})
    assert repr(found.regime) == (
        "Regime(optimizer=AdamW(lr=Linear(5e-05), weight_decay=0.0), batch_size=8, grad_transforms=[ClipNorm()], "
        "budget='3 epochs')"
    )
    assert (found.seed, found.options, found.left) == (42, {"checkpoint": "500 steps"}, ())
    assert [key.name for key in found.different] == ["num_train_epochs"]


def test_a_file_of_transformers_4_that_says_nothing():
    four = {
        "evaluation_strategy": "no",
        "group_by_length": False,
        "adafactor": False,
        "no_cuda": False,
        "warmup_ratio": 0.0,
    }
    found = rg.import_training_args(
        {**DEFAULTS, **four, "lr_scheduler_kwargs": {}, "average_tokens_across_devices": False}
    )
    assert found.left == ()
    assert [key.name for key in found.different] == ["num_train_epochs"]
    assert rg.import_training_args(DEFAULTS, examples=960).different == ()
    assert found.regime == rg.import_training_args({}).regime


def test_everything_that_has_a_place_is_in_it():
    found = imported(
        optim="adamw_torch", adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, max_grad_norm=0.3, bf16=True, seed=7,
        per_device_train_batch_size=4, gradient_accumulation_steps=3, label_smoothing_factor=0.1, eval_strategy="epoch",
        save_steps=0.2, train_sampling_strategy="sequential", lr_scheduler_type="constant",
    )  # fmt: skip
    assert repr(found.regime) == (
        "Regime(optimizer=AdamW(betas=[0.8, 0.95], eps=1e-06, weight_decay=0.0), batch_size=12, micro_batch=4, "
        "sampler=Sequential(), loss=CrossEntropy(label_smoothing=0.1), grad_transforms=[ClipNorm(max_norm=0.3)], "
        "precision='bfloat16', budget='100 steps')"
    )
    assert (found.seed, found.options) == (7, {"validate": "1 epochs", "checkpoint": "20 steps"})
    assert found.left == ()
    assert {key.name: key.path for key in found.keys}["save_steps"] == "options.checkpoint"


def test_no_clipping_is_none():
    assert (
        imported(max_grad_norm=0.0).regime.grad_transforms == imported(max_grad_norm=None).regime.grad_transforms == ()
    )


def test_several_devices_make_one_batch():
    found = rg.import_training_args({"max_steps": 9, "gradient_accumulation_steps": 2}, devices=4)
    assert (found.regime.batch_size, found.regime.micro_batch) == (64, 8)


@pytest.mark.parametrize(
    ("examples", "drop", "steps", "said"), [(960, False, 60, False), (966, False, 62, True), (966, True, 60, True)]
)
def test_epochs_become_the_steps_that_the_trainer_counts(examples, drop, steps, said):
    args = {"num_train_epochs": 2, "gradient_accumulation_steps": 4, "dataloader_drop_last": drop}
    found = rg.import_training_args(args, examples=examples)
    assert found.regime.budget == rg.steps(steps)
    assert any(key.name == "num_train_epochs" for key in found.different) == said


def test_other_optimizers():
    sgd = imported(optim="sgd", optim_args="momentum=0.9, nesterov=True", lr_scheduler_type="constant").regime.optimizer
    assert repr(sgd) == "SGD(momentum=0.9, nesterov=True)"
    rms = imported(optim="rmsprop", optim_args="alpha=0.9,centered=true", lr_scheduler_type="constant").regime.optimizer
    assert repr(rms) == "Torch('RMSprop', alpha=0.9, centered=True, lr=0.001, weight_decay=0.0)"
    found = imported(optim="sgd", optim_args="weight_decay=0.5")
    assert found.regime.optimizer.weight_decay == 0.0
    assert "the key weight_decay decides" in found.left[0].said
    found = imported(optim="paged_adamw_8bit", adam_beta2=0.99)
    assert isinstance(found.regime.optimizer, rg.AdamW)
    assert [key.name for key in found.different] == ["optim"]
    assert [key.name for key in imported(optim="sgd", adam_beta2=0.99).left] == ["adam_beta2"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.q_norm, self.gn = nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(1, 4, affine=True)
        self.attention, self.RMSNorm, self.normal = nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 4, bias=False)
        self.unbiased_scale = nn.Parameter(torch.ones(4))
        self.input_layernorm = nn.RMSNorm(4)


def test_decay_spares_what_the_trainer_spares():
    model = nn.ModuleDict({"emb": nn.Embedding(3, 4), "blocks": nn.ModuleList([Block()]), "norm": nn.RMSNorm(4)})
    groups = imported(weight_decay=0.1).regime.optimizer
    spared, decayed = groups.assign(dict(model.named_parameters()), rg.groups.roles_of(model))
    assert [group.rule.weight_decay for group in groups.groups] == [0.0, 0.1]
    assert {name.removeprefix("blocks.0.") for name in decayed} == {
        "emb.weight", "attention.weight", "normal.weight", "gn.weight",
    }  # fmt: skip
    assert "blocks.0.unbiased_scale" in spared  # it has "bias" in it, which is all that the Trainer looks for


def test_every_key_that_is_not_carried_has_its_reason():
    found = imported(
        fp16=True, data_seed=3, neftune_noise_alpha=5.0, hub_token="secret", num_train_epochs=7.0, logging_steps=10,
        save_strategy="best", group_by_length=True, gradient_checkpointing=True, lr_scheduler_type="constant", warmup_steps=5,
        eval_steps=20,
    )  # fmt: skip
    said = {key.name: key for key in found.left}
    assert set(said) == {
        "fp16", "data_seed", "neftune_noise_alpha", "hub_token", "num_train_epochs", "logging_steps", "save_strategy",
        "train_sampling_strategy", "gradient_checkpointing", "warmup_steps", "eval_steps",
    }  # fmt: skip
    assert all(key.said for key in said.values())
    assert "secret" not in str(found)
    assert "secret" not in found.yaml()
    assert str(said["num_train_epochs"]) == "num_train_epochs = 7.0: max_steps decides"


def test_the_file_says_the_same():
    found = imported(weight_decay=0.1, lr_scheduler_type="cosine_warmup_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1},
                     warmup_steps=W, gradient_accumulation_steps=4, label_smoothing_factor=0.1, bf16=True)  # fmt: skip
    read = read_yaml(found.yaml("digits_mlp"))
    assert (read.regime, read.seed, read.workload_spec) == (found.regime, 42, "digits_mlp")
    assert read.options["checkpoint"] == "500 steps"
    assert max(map(len, found.yaml().splitlines())) < 200


def test_a_line_of_the_file_is_broken_between_arguments():
    notation = "AdamW(lr=Linear(0.001, warmup='5 steps'), betas=[0.9, 0.95], weight_decay=0.1)"
    for length in range(30, 110):
        lines = text._wrapped(f'optimizer: "{"x" * length}({notation}, {notation})"')
        assert len(lines) > 1
        assert all(line.count("'") % 2 == 0 for line in lines), lines


# -- what is refused -----------------------------------------------------------------------------------------------------

ONE_AHEAD = {"lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0}, "max_steps": 9}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"learning_rat": 1}, "learning_rat: is no key of TrainingArguments; did you mean 'learning_rate'?"),
        ({"max_length": 5, "packing": 1}, "nor are packing; they may be a subclass's; .* --ignore max_length --ignore packing"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: got 'cosin'; did you mean 'cosine'?"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type: got 'greedy'"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"cycles": 1}}, "kwargs.cycles: is no option of 'cosine'; did you"),
        ({"lr_scheduler_kwargs": {"power": 1}}, "is no option of 'linear'; 'linear' takes none"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "got neither of min_lr and min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps: needs a value"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "lr_end: got 1e-07; allowed: less than learning_rate"),
        (ONE_AHEAD, "warmup_steps: got 0"),
        (ONE_AHEAD | {"warmup_steps": 9}, "warmup_steps: got 9; allowed .*: fewer than all 9"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 8}, "max_steps": 9,
             "warmup_steps": 2},
            "num_decay_steps: got 8 beside a warm-up of 2 steps; allowed: no more together than the 9 steps",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "eval_strategy: got 'no'"),
        ({"optim": "adafactor"}, "optim: got 'adafactor', which has no counterpart here; "),
        ({"adafactor": True}, "optim: got 'adafactor'"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "optim_args.momentun: is no option of 'sgd'; did you mean 'momentum'?"),
        ({"optim_args": "momentum"}, "optim_args: got 'momentum'; allowed: 'name=value, name=value'"),
        ({"fp16": True, "bf16": True}, "fp16: got true beside bf16 = true"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"per_device_train_batch_size": 1.5}, "per_device_train_batch_size: got 1.5; allowed: an integer >= 1"),
        ({"adam_beta1": 2}, "adam_beta1: got 2; allowed: a number >= 0 and <= 1"),
        ({"learning_rate": "1e-4"}, "learning_rate: got '1e-4'; allowed: a number"),
        ({"bf16": "yes"}, "bf16: got 'yes'; allowed: true or false"),
        ({"eval_strategy": "step"}, "eval_strategy: got 'step'; did you mean 'steps'?"),
        ({"evaluation_strategy": "epoch", "eval_strategy": "steps"}, "evaluation_strategy: got 'epoch' beside eval_strategy"),
        ({"num_train_epochs": 0}, "num_train_epochs: got 0"),
    ],
)  # fmt: skip
def test_refusals_are_sentences(args, said):
    with pytest.raises(DeclarationError, match=said.replace("?", r"\?").replace("(", r"\(")):
        rg.import_training_args(args)


def test_steps_beside_epochs_ask_for_the_examples():
    args = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}, "warmup_steps": 10}
    with pytest.raises(DeclarationError, match="max_steps, or examples="):
        rg.import_training_args(args)
    assert rg.import_training_args(args, examples=800).regime.optimizer.lr.period == rg.steps(145)


def test_keys_of_a_subclass_are_passed_over_where_that_is_asked():
    found = rg.import_training_args({"max_length": 5}, ignore=["max_length"])
    assert [str(key) for key in found.left] == ["max_length = 5: passed over, as asked: a key of a subclass"]
    for key in ("seed", "packing"):
        with pytest.raises(DeclarationError, match="allowed: keys of a subclass"):
            rg.import_training_args({"max_length": 5}, ignore=["max_length", key])


# -- files ---------------------------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return print, ("harm",)


class TrainingArguments:
    """What a checkpoint's training_args.bin holds, in the form that pickle gives it."""

    def __init__(self, **values):
        self.__dict__.update(values)


def test_an_archive_is_read_and_nothing_in_it_is_run(tmp_path, capsys):
    torch.save(
        TrainingArguments(learning_rate=3e-4, max_steps=7, harm=Harm(), _n_gpu=2), tmp_path / "training_args.bin"
    )
    with pytest.raises(DeclarationError, match="harm: is no key"):
        rg.import_training_args(tmp_path)
    found = rg.import_training_args(tmp_path / "training_args.bin", ignore=["harm"])
    assert found.regime.optimizer.lr == rg.Linear(3e-4)
    assert capsys.readouterr().out == ""
    torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert capsys.readouterr().out == "harm\n"  # which is what the file does to whoever loads it


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"learning_rate": 1})])
def test_what_is_no_archive_is_told_how_to_write_json(tmp_path, content):
    (tmp_path / "training_args.bin").write_bytes(content)
    with pytest.raises(DeclarationError, match="write the JSON: .*to_json_string"):
        rg.import_training_args(tmp_path)


@pytest.mark.parametrize("made", [b"\x80\x02]q\x00.", b"\x80\x02cbuiltins\nprint\n)R.", b"\x80\x02R."])
def test_an_archive_of_something_else_is_refused(tmp_path, made):
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        archive.writestr("archive/data.pkl", made)
    with pytest.raises(DeclarationError, match="write the JSON"):
        rg.import_training_args(tmp_path)


def test_files_that_are_none(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    for name, said in (
        ("list.json", "holds"),
        ("broken.json", "cannot be read as JSON"),
        ("no.json", "there is no file"),
    ):
        with pytest.raises(DeclarationError, match=said):
            rg.import_training_args(tmp_path / name)
    with pytest.raises(DeclarationError, match="holds no training_args.json"):
        rg.import_training_args(tmp_path)
    with pytest.raises(DeclarationError, match="allowed: a path, a dict"):
        rg.import_training_args(3)


# -- the command ---------------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(group, ["import", *map(str, arguments)], prog_name="regimes")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def file(tmp_path):
    (tmp_path / "training_args.json").write_text(json.dumps({"max_steps": 50, "fp16": True, "weight_decay": 0.1}))
    return tmp_path / "training_args.json"


def test_the_command_prints_a_file_that_runs(file, tmp_path):
    text = run(file, "--no-check", "--workload", "digits_mlp").stdout
    assert "#   fp16 = true: precision here is" in text
    assert read_yaml(text).regime == rg.import_training_args(file).regime
    facts = json.loads(run(file, "--no-check", "--json").stdout)
    assert facts["not_carried"] == [
        {
            "key": "fp16",
            "value": True,
            "path": "",
            "said": "precision here is float32 or bfloat16; float32 stands in its place",
        }
    ]
    assert facts["check"] is None


def test_the_command_writes_no_file_over_another(file, tmp_path):
    out = tmp_path / "base.yaml"
    assert f"written to {out}" in run(file, "--no-check", "--out", out).stdout
    before = out.read_text()
    assert "allowed: a file that is new" in run(file, "--no-check", "--out", out, code=2).output
    assert out.read_text() == before
    assert run(tmp_path / "none.json", code=2).output == f"there is no file '{tmp_path / 'none.json'}'\n"


def test_without_transformers_it_says_so(file, monkeypatch):
    monkeypatch.setattr("regimes.study.importing.proof.installed", lambda: False)
    assert "not compared with transformers' Trainer" in run(file).output
    assert "pip install 'regimes[transformers]'" in run(file, "--check", code=2).output


def test_the_tables_agree():
    assert set(CARRIED) < set(DEFAULTS)
    assert UNDECAYED.startswith("@layer_norms|")
