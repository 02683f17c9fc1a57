"""`import_training_args` beside transformers: its arguments, its schedules, its groups, its Trainer."""

import dataclasses
import json

import pytest
import torch

import regimes as rg
from regimes.study.importing import courses, proof, rates, rules, tiny
from regimes.study.importing.keys import DEFAULTS, OLD, asks_for_nothing

transformers = pytest.importorskip(
    "transformers.trainer", reason="transformers is not installed: pip install 'regimes[transformers]'"
)
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'regimes[transformers]'")
from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    get_scheduler,
)


def arguments(folder, **more):
    return TrainingArguments(str(folder), use_cpu=True, **more)


# -- the keys ----------------------------------------------------------------------------------------------------------


def test_every_key_is_known_with_its_default():
    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    assert set(theirs) <= set(DEFAULTS)
    for name, field in theirs.items():
        made = field.default_factory() if field.default is dataclasses.MISSING else field.default
        assert made is None or asks_for_nothing(name, getattr(made, "value", made)), name
    assert not set(OLD) & set(theirs)


def test_arguments_that_say_nothing_are_told_as_nothing(tmp_path):
    assert {key.name for key in rg.import_training_args(arguments(tmp_path)).left} == {"output_dir", "use_cpu"}


def test_object_json_and_archive_say_the_same(tmp_path):
    args = arguments(
        tmp_path, learning_rate=2e-4, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1},
        max_steps=300, warmup_steps=0.05, weight_decay=0.1, eval_strategy="steps", eval_steps=20, bf16=True, adam_beta2=0.95,
    )  # fmt: skip
    (tmp_path / "args.json").write_text(args.to_json_string())
    torch.save(args, tmp_path / "training_args.bin")
    found = [rg.import_training_args(got) for got in (args, tmp_path / "args.json", tmp_path / "training_args.bin")]
    assert found[0].regime == found[1].regime == found[2].regime
    assert found[0].keys == found[1].keys == found[2].keys
    assert found[0].options == {"validate": "20 steps", "checkpoint": "500 steps"}


# -- rates -------------------------------------------------------------------------------------------------------------

KINDS = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"num_cycles": 4}),
    ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
    ("polynomial", {}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 50}),
    ("cosine_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.3, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.3}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-4, "warmup_lr_rate": 0.25}),
    *(
        ("warmup_stable_decay", {"num_decay_steps": 20, "warmup_type": rise, "decay_type": fall, **more})
        for rise in ("linear", "cosine", "1-sqrt")
        for fall in ("linear", "cosine", "1-sqrt")
        for more in ({}, {"min_lr_ratio": 0.1}, {"num_stable_steps": 25}, {"num_stable_steps": 25, "min_lr_ratio": 0.1})
    ),
]


#: Refused with another warm-up, for which tests/study/test_importing.py looks; 300 is longer than training.
WARMUPS = {"cosine_warmup_with_min_lr": (12,), "warmup_stable_decay": (0, 12)}


@pytest.mark.parametrize(
    ("kind", "kwargs", "warmup"),
    [(kind, kwargs, warmup) for kind, kwargs in KINDS for warmup in WARMUPS.get(kind, (0, 12, 300))],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
def test_the_rate_of_every_step(kind, kwargs, warmup):
    total, peak = 120, 1e-3
    args = {"learning_rate": peak, "max_steps": total, "warmup_steps": warmup, "lr_scheduler_type": kind}
    found = rg.import_training_args({**args, "lr_scheduler_kwargs": kwargs}).regime.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = get_scheduler(kind, optimizer, warmup, total, kwargs).lr_lambdas[0]
    for step in range(total):
        ours = found if isinstance(found, float) else found(step / total, steps=total)
        assert ours == pytest.approx(peak * theirs(step), rel=1e-9, abs=1e-15), step


# -- groups ------------------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=4)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=11)
    ),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_parameters_are_decayed(name, tmp_path):
    model = MODELS[name]()
    groups = rg.import_training_args({"weight_decay": 0.1}).regime.optimizer
    spared, decayed = groups.assign(dict(model.named_parameters()), rg.groups.roles_of(model))
    theirs = set(Trainer(model, arguments(tmp_path)).get_decay_parameter_names(model))
    assert set(decayed) == theirs & set(dict(model.named_parameters()))
    assert not set(spared) & theirs


# -- the Trainer -------------------------------------------------------------------------------------------------------

GRID = {
    "linear": {},
    "cosine": {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.1},
    "constant_with_warmup": {"weight_decay": 0.1, "max_grad_norm": 0.0},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "gradient_accumulation_steps": 2},
    "cosine_warmup_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-5}, "weight_decay": 0.01},
    "warmup_stable_decay": {"lr_scheduler_kwargs": {"num_decay_steps": 15}, "gradient_accumulation_steps": 3},
    "inverse_sqrt": {"max_grad_norm": 0.05, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6},
    "polynomial": {
        "lr_scheduler_kwargs": {"power": 0.5},
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 0.1,
    },
    "cosine_with_restarts": {"lr_scheduler_kwargs": {"num_cycles": 3}, "optim": "rmsprop", "optim_args": "alpha=0.9"},
    "constant": {
        "label_smoothing_factor": 0.1,
        "gradient_accumulation_steps": 2,
        "optim": "adagrad",
        "weight_decay": 0.1,
    },
}


@pytest.mark.parametrize("kind", GRID)
def test_the_first_fifty_losses_are_the_trainers(kind):
    args = {"max_steps": 60, "warmup_steps": 6, "learning_rate": 3e-3, "lr_scheduler_type": kind, **GRID[kind]}
    found = rg.import_training_args({"per_device_train_batch_size": 4, **args}).check()
    assert (found.steps, found.same) == (50, True), found
    assert max(found.rates, found.schedule) < 1e-12
    assert found.compared_with == ()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_decay_accumulation_and_clipping_together(decay, accumulation, clip):
    found = rg.import_training_args(
        {"num_train_epochs": 3, "warmup_steps": 0.1, "weight_decay": decay, "gradient_accumulation_steps": accumulation,
         "max_grad_norm": clip, "lr_scheduler_type": "cosine", "learning_rate": 3e-3}
    ).check(25)  # fmt: skip
    assert found.same, found


def test_a_plateau_falls_when_the_trainers_does():
    args = {
        "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0},
        "eval_strategy": "steps", "eval_steps": 3, "max_steps": 60, "learning_rate": 0.05,
    }  # fmt: skip
    fallen, course = [], courses.by_the_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courses, "by_the_trainer", lambda made: fallen.append(course(made)) or fallen[0])
        found = rg.import_training_args(args).check()
    assert found.same, found
    assert found.schedule is None
    assert len(set(fallen[0].rates)) > 3


WRONG = {
    "decay on norms": (rules, "UNDECAYED", "*.bias"),
    "no decay on embeddings": (rules, "UNDECAYED", "@layer_norms|*bias*|@embeddings"),
    "a step late": (rates, "_linear", lambda peak, clock, options: rg.Linear(peak, inclusive=True, **clock.kwargs)),
    "a step of warm-up less": (
        rates, "_linear", lambda peak, clock, options: rg.Linear(peak, warmup=rg.steps(clock.rise - 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_seen(name, monkeypatch):
    module, attribute, wrong = WRONG[name]
    monkeypatch.setattr(module, attribute, wrong)
    if module is rates:
        monkeypatch.setitem(rates._SCHEDULES, "linear", (wrong, ()))
    found = rg.import_training_args({"max_steps": 2000, "warmup_steps": 100, "weight_decay": 0.01}).check()
    assert not found.same
    assert max(found.losses, found.rates, found.weights, found.schedule) > 100 * found.bar
    assert "NOT the same" in str(found)


def test_a_mean_over_micro_batches_is_seen(monkeypatch):
    plain = tiny._in_float64
    monkeypatch.setattr(
        tiny, "_in_float64", lambda logits, labels, num_items_in_batch=None, **more: plain(logits, labels) / 2
    )
    found = rg.import_training_args({"max_steps": 60, "gradient_accumulation_steps": 2}).check(5)
    assert found.losses > 1e-3


def test_the_check_leaves_random_states_and_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rg.import_training_args({"max_steps": 60}).check(2)
    assert torch.equal(before, torch.get_rng_state())
    assert not list(tmp_path.iterdir())


def test_large_batches_and_devices_are_compared_small():
    args = {"max_steps": 60, "gradient_accumulation_steps": 2, "adam_epsilon": 1e-12, "bf16": True}
    found = rg.import_training_args(args, devices=8).check(2)
    taken = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "adam_epsilon": 1e-08}
    assert found.compared_with == tuple(f"{key} = {value}" for key, value in taken.items())
    assert found.same


def test_a_metric_that_the_tiny_model_lacks_is_its_loss():
    args = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "metric_for_best_model": "f1",
        "max_steps": 9,
    }
    found = rg.import_training_args({**args, "eval_steps": 2, "per_device_train_batch_size": 4}).check()
    assert (found.steps, found.same, found.compared_with) == (9, True, ("metric_for_best_model = loss",))


def test_examples_are_carried_into_the_check():
    found = rg.import_training_args({"num_train_epochs": 2, "warmup_ratio": 0.1}, examples=83).check(3)
    assert found.same


def test_the_command_proves_it(tmp_path):
    from click.testing import CliRunner

    from regimes.cli import group

    file = tmp_path / "training_args.json"
    file.write_text(arguments(tmp_path / "out", max_steps=60, weight_decay=0.01).to_json_string())
    done = CliRunner().invoke(group, ["import", str(file), "--json"], prog_name="regimes")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)["check"]
    assert (facts["same"], facts["steps"]) == (True, 50)
    assert facts["bar"] == proof.BAR


def test_models_whose_class_does_not_say_causal_are_divided_by_first_tokens_too(tmp_path):
    """What docs/migrating.md says of GPT2LMHeadModel: its loss shifts labels, and the count does not."""
    model = MODELS["gpt2"]()
    trainer = Trainer(model, arguments(tmp_path))
    labels = torch.ones(2, 5, dtype=torch.long)
    counted = trainer._get_num_items_in_batch([{"labels": labels}], torch.device("cpu"))
    assert counted == labels.numel()
    shifted = Trainer(MODELS["llama"](), arguments(tmp_path))._get_num_items_in_batch(
        [{"labels": labels}], torch.device("cpu")
    )
    assert shifted == labels.numel() - len(labels)
