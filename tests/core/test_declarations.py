"""Declarations: refused with a sentence, edited by path, printed back, hashed by content."""

import functools
import inspect
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regimes as rg
from regimes.core import paths
from regimes.core.component import Component, fixed
from regimes.core.duration import Duration, seconds
from regimes.core.notation import parse

BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-3, warmup="5%")), batch_size=64, budget="10 epochs")
TWO = rg.Regime(
    phases=[rg.Phase("main", budget="80%"), rg.Phase("anneal", budget="20%", optimizer=rg.SGD(lr=rg.Linear(0.1)))],
    optimizer=rg.AdamW(lr=rg.Cosine(1e-3)),
    batch_size=16,
    budget="300k tokens",
)

REFUSALS = [
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=64, budget=500), "budget: got 500, an amount without a unit"),
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=64), "budget: needs a value"),
    (lambda: rg.Regime(optimizer=rg.AdamW(), budget="1 epochs"), "batch_size: a phase needs a batch_size"),
    (lambda: rg.Regime(batch_size=64, budget="1 epoch"), "optimizer: a phase needs an optimizer"),
    (
        lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=0, budget="1 epoch"),
        "batch_size: got 0; allowed: an integer >= 1",
    ),
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=2.5, budget="1 epoch"), "batch_size: got 2.5; allowed"),
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=8, budget="20 min"), "budget: got '20 min', a time"),
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=8, budget="0 steps"), "allowed: more than nothing"),
    (lambda: rg.Regime(optimizer=rg.AdamW(), batch_size=8, max_steps=3), "max_steps: .*here it is called 'budget'"),
    (lambda: rg.Regime(optimizer=rg.AdamW, batch_size=8, budget="1 epoch"), r"got the class AdamW; write AdamW\(...\)"),
    (lambda: rg.Regime(optimizer=rg.Cosine(1), batch_size=8, budget="1 epoch"), "optimizer: got a schedule"),
    (lambda: rg.AdamW(learning_rate=1e-3), "learning_rate: .*here it is called 'lr'"),
    (lambda: rg.AdamW(lr="fast"), "lr: got 'fast'; allowed: a finite number >= 0, a schedule such as Cosine"),
    (lambda: rg.AdamW(lr=True), "lr: got True"),
    (lambda: rg.AdamW(lr=-1), "lr: got -1; allowed: a finite number >= 0"),
    (lambda: rg.AdamW(lr=float("nan")), "lr: got nan"),
    (lambda: rg.AdamW(betas=(0.9,)), "betas: .*allowed: 2 numbers"),
    (lambda: rg.AdamW(betas=(0.9, 1.0)), r"betas\.1: got 1.0; allowed: a finite number >= 0 and < 1"),
    (lambda: rg.Cosine(), "peak: Cosine needs a value"),
    (lambda: rg.Cosine(rg.EMA()), "peak: got"),
    (lambda: rg.Cosine(1, peak=2), "peak: given twice"),
    (lambda: rg.Cosine(1, warmup=100), "warmup: got 100, an amount without a unit"),
    (lambda: rg.SGD(nesterov=True), "nesterov: got True; allowed with momentum"),
    (lambda: rg.Groups([rg.optimizers.groups.Group("*", rg.SAM(rg.SGD()))]), "SAM evaluates more than once"),
    (lambda: BASE.but(lr=1e-3), r"^optimizer\.lr: got 0.001 where Cosine.*Constant\(0.001\)"),
    (lambda: BASE.but(lrr=1e-3), "there is no 'lrr' here; did you mean 'lr'"),
    (lambda: BASE.but({"optimzer.lr": 1e-3}), "there is no 'optimzer.lr' here; did you mean 'optimizer.lr'"),
    (lambda: TWO.but(lr=rg.Constant(1)), r"lr: fits 2 places \(main.optimizer.lr, anneal.optimizer.lr\)"),
    (lambda: BASE.but({"*.momentum": 0.9}), "fits no knob"),
    (lambda: BASE.but({"optimizer.lr.peak": "1e"}), "which is no notation"),
    (
        lambda: rg.Regime(phases=[rg.Phase("a", budget="50%")] * 2, optimizer=rg.SGD(), batch_size=1, budget="1 epoch"),
        "each name once",
    ),
    (lambda: TWO.but({"main.budget": "50%"}), "phases take 70% of it"),
    (lambda: TWO.replace("budget", None), "main.budget: got '80%', a share of the regime's budget"),
    (lambda: rg.Phase("optimizer"), "allowed: a word that is no field"),
    (lambda: BASE.but(grad_clip=1.0), "grad_clip: .*for example grad_transforms=ClipNorm"),
    (lambda: BASE.but(clip_norm=1.0), r"clip_norm: .*write grad_transforms=ClipNorm\(...\)"),
    (
        lambda: rg.Regime(lr=0.1, batch_size=8, budget="1 epoch"),
        r"lr: .*inside a component, for example AdamW\(lr=...\)",
    ),
    (lambda: BASE.but(seed=3), r"seed: .*belongs to the run: rg.run\(workload, regime, seed\)"),
    (lambda: BASE.but(batch_size="x"), "batch_size: got 'x'; allowed: an integer >= 1 .*or a controller$"),
    (lambda: BASE.but(batch_size="Linaer"), "batch_size: got 'Linaer'; .*did you mean 'Linear'"),
    (lambda: BASE.but(optimizer="AdmW"), "there is no component 'AdmW'; did you mean 'AdamW'"),
    (lambda: BASE.but(optimizer="Reshufle"), "there is no component 'Reshufle'; allowed: "),
    (lambda: BASE.but({"lr.peak": "high"}), "lr.peak: got 'high'; allowed: a finite number$"),
    (lambda: BASE.but({"warmup": "500%"}), "^optimizer.lr.warmup: got '500%'; allowed: at most 100% of the stretch"),
    (lambda: TWO.but({"main.optimizer.lr.warmup": "101%"}), "^main.optimizer.lr.warmup: got '101%'; allowed"),
    (lambda: rg.Cosine(1, warmup="-3 steps"), "warmup: got -3.0 steps; allowed: a finite number >= 0"),
    (lambda: rg.EMA(decay=1.0), "decay: got 1.0, with which the average stays at the first weights; allowed: .* < 1"),
    (lambda: rg.SWA(start="100%"), "start: got '100%', where no step begins; allowed: less than 100%"),
    (lambda: rg.LAWA(window=0), "window: got 0; allowed: an integer >= 1"),
]


@pytest.mark.parametrize(("build", "said"), REFUSALS)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()


@pytest.mark.parametrize("make", [rg.steps, rg.epochs, rg.samples, rg.tokens, rg.flops])
@pytest.mark.parametrize("value", [-3, float("nan"), float("inf"), 10**400, "3", None, True])
def test_amounts_are_finite_and_not_negative(make, value):
    with pytest.raises(rg.DeclarationError, match=f"{make.__name__}; allowed: a finite number >= 0"):
        make(value)


def test_amounts_have_a_unit_of_ours():
    with pytest.raises(rg.DeclarationError, match="got the unit 'step'; did you mean 'steps'"):
        rg.Duration(3, "step")


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, [3], "soon", "1.2.3 s", "-5 s"])
def test_time_limits_are_times(value):
    with pytest.raises(rg.DeclarationError, match="write a time such as '90 s'"):
        seconds(value)


def test_an_average_may_end_where_it_stops():
    assert BASE.but(average=rg.EMA(rg.Cosine(0.9, final=1.0))).average.decay.final == 1.0


@pytest.mark.parametrize("regime", [BASE, TWO, BASE.but(average=rg.EMA(0.9), lag=2, carry=["model", "optimizer"])])
def test_repr_builds_the_same_object(regime):
    again = parse(repr(regime))
    assert again == regime
    assert again.hash == regime.hash
    assert eval(repr(regime), vars(rg)) == regime


def test_equal_content_has_equal_hash_however_it_was_typed():
    one = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(1)), batch_size=8, budget="2k samples")
    other = rg.Regime([rg.Phase("main", optimizer="SGD(lr=Cosine(2/2))", batch_size=8)], budget="2000 samples")
    assert one == other
    assert one.hash == other.hash
    assert one.hash != one.but(batch_size=9).hash


def test_declarations_are_frozen():
    with pytest.raises(AttributeError):
        BASE.budget = "3 epochs"
    with pytest.raises(AttributeError):
        BASE.phases[0].optimizer.lr = 3


def test_edits_reach_every_place_that_fits():
    edited = TWO.but({"*.lr.peak": 5e-4})
    assert [p.optimizer.lr.peak for p in edited.phases] == [5e-4, 5e-4]
    assert TWO.but({"anneal.optimizer.lr.peak": 0.2}).phases[1].optimizer.lr.peak == 0.2
    plain = rg.Regime(optimizer=rg.AdamW(lr=1e-3), batch_size=8, budget="1 epoch")
    assert plain.but({"*.lr.peak": 2e-3}).phases[0].optimizer.lr == 2e-3
    product = plain.but(lr=rg.Cosine(1e-3) * rg.Linear(1.0, 0.5))
    assert product.but(peak=3e-3).phases[0].optimizer.lr.left.peak == 3e-3


def test_fields_of_the_only_phase_are_the_regimes():
    import copy
    import pickle

    assert BASE.optimizer == rg.AdamW(lr=rg.Cosine(1e-3, warmup="5%"))
    assert pickle.loads(pickle.dumps(BASE)) == copy.deepcopy(BASE) == BASE
    with pytest.raises(AttributeError, match="2 phases has no single 'optimizer'"):
        _ = TWO.optimizer


def test_diff_is_knob_paths():
    assert BASE.diff(BASE) == []
    assert [d.path for d in BASE.diff(BASE.but(batch_size=8, peak=1.0))] == ["optimizer.lr.peak", "batch_size"]
    assert paths.diff(BASE, TWO) != []


def test_phases_inherit_and_say_only_what_differs():
    assert TWO.phases[0].optimizer == rg.AdamW(lr=rg.Cosine(1e-3))
    assert repr(TWO) == (
        "Regime(phases=[Phase('main', budget='80%', optimizer=AdamW(lr=Cosine(0.001))), "
        "Phase('anneal', budget='20%', optimizer=SGD(lr=Linear(0.1)))], batch_size=16, budget='300000 tokens')"
    )


@given(st.floats(1e-9, 1e12, allow_nan=False), st.sampled_from(["steps", "epochs", "samples", "tokens", "flops", "%"]))
def test_durations_print_back(value, unit):
    duration = Duration(value, unit)
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "().__class__",
        "[].append",
        "{'a': 1}",
        "lambda: 1",
        "Cosine(*[1])",
        "Cosine(**x)",
        "1 ** 9",
        "9e999",
        "1/0",
        "'a' * 3",
        "(" * 60 + "1" + ")" * 60 + " + [" * 60 + "]" * 60,
        "SGD() + 1",
        "x" * 30_000,
        "torch:nn.Module()",
        "-Cosine(1)",
        "f'{1}'",
        "1 if True else 2",
        "\x00",
    ],
)
def test_notation_refuses_everything_else(text):
    with pytest.raises(rg.DeclarationError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("groups.muon(Muon(lr=0.02), rest=groups.no_decay(AdamW(weight_decay=0.1)))",
         lambda: rg.groups.muon(rg.Muon(lr=0.02), rest=rg.groups.no_decay(rg.AdamW(weight_decay=0.1)))),
        ("groups.layerwise(SGD(lr=0.1), 0.5, ['a.*', '*'])", lambda: rg.groups.layerwise(rg.SGD(lr=0.1), 0.5, ["a.*", "*"])),
    ],
)  # fmt: skip
def test_presets_of_groups_that_need_no_model_may_be_written(text, built):
    assert parse(text, ("optimizer",)) == built()
    assert parse(repr(built())) == built()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rg.AdamW(lr=1e-3)", "only registered names may be called, and 'rg.AdamW' is none; write AdamW(...)"),
        ("rg.groups.muon(Muon())", "and 'rg.groups.muon' is none; write groups.muon(...)"),
        ("groups.mup(AdamW())", "only registered names may be called, and 'groups.mup' is none"),
        ("groups.no_decay(3)", "rule: got 3; allowed: an Optimizer"),
        ("groups.layerwise(3, 0.5, ['*'])", "rule: got 3; allowed: an Optimizer"),
        ("groups.muon(3, 4)", "rule: got 3; allowed: an Optimizer"),
    ],
)
def test_what_is_called_with_a_dot_is_refused_with_the_registered_name(text, said):
    with pytest.raises(rg.DeclarationError) as why:
        parse(text)
    assert str(why.value).endswith(said)


@given(st.recursive(st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda v: f"{v!r}"),
                    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
                    max_leaves=8))  # fmt: skip
def test_notation_numbers_are_pythons(text):
    try:
        expected = eval(text)
        assert abs(expected) < 1e300
    except (ZeroDivisionError, AssertionError, OverflowError):
        return
    try:
        assert parse(text) == expected
    except rg.DeclarationError as why:
        assert "too large" in str(why)  # noqa: PT017 (an intermediate number was out of range)


def test_signatures_show_names_and_defaults():
    shown = inspect.signature(rg.WSD)
    assert next(iter(shown.parameters)) == "peak"
    assert shown.parameters["peak"].default is inspect.Parameter.empty
    assert shown.parameters["warmup"].kind is inspect.Parameter.KEYWORD_ONLY
    assert {name: p.default for name, p in inspect.signature(rg.AdamW).parameters.items()} == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01,
    }  # fmt: skip


# -- functions of the person's own in a declaration ------------------------------------------------------------------


def squares(model, batch):
    return model(batch[0]).square().mean(1)


def cubes(model, batch):
    return model(batch[0]).pow(3).mean(1)


class Squares:
    def __call__(self, model, batch):
        return model(batch[0]).square().mean(1)


def with_loss(function):
    return rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="3 steps", loss=rg.FromFunction(function))


def test_a_function_counts_by_name_and_source():
    name, source = paths.canonical(squares).values()
    assert name.endswith(":squares")
    assert source == "def squares(model, batch):\n    return model(batch[0]).square().mean(1)\n"
    assert with_loss(squares).hash == with_loss(squares).hash != with_loss(cubes).hash
    made = [eval(f"lambda model, batch: model(batch[0]).pow({power}).mean(1)") for power in (2, 2, 3)]
    assert with_loss(made[0]).hash == with_loss(made[1]).hash != with_loss(made[2]).hash
    assert with_loss(Squares()).hash == with_loss(Squares()).hash
    halves = [functools.partial(lambda model, batch, by: model(batch[0]).mean(1) * by, by=by) for by in (0.5, 0.25)]
    assert with_loss(halves[0]).hash != with_loss(halves[1]).hash
    [found] = with_loss(squares).diff(with_loss(cubes))
    assert (found.path, found.old, found.new) == ("loss.function", f"{__name__}:squares", f"{__name__}:cubes")


def test_a_run_with_a_function_in_its_regime_lives_in_a_folder(tmp_path):
    x = torch.linspace(-1, 1, 16).view(-1, 1)
    work = rg.Workload(model=lambda: torch.nn.Linear(1, 1), train=(x, x), val=(x, x), loss=squares)
    first = rg.run(work, with_loss(squares), out=tmp_path)
    again = rg.run(work, with_loss(squares), out=tmp_path)
    assert again.metrics == first.metrics
    with pytest.raises(rg.ResumeError, match="another regime.*FromFunction"):
        rg.run(work, with_loss(cubes), out=tmp_path)


def test_a_bare_function_is_refused_with_what_wraps_it():
    with pytest.raises(
        rg.DeclarationError, match=r"loss: got <function squares.*allowed: a Loss: FromFunction\(...\) of"
    ):
        BASE.but(loss=squares)


class Chosen(Component):
    rows: tuple[tuple[float, ...], ...] | Literal["all"] = fixed("all", low=0)


def test_a_word_may_stand_where_else_a_tuple_does():
    assert Chosen().rows == Chosen(rows="all").rows == "all"
    assert Chosen(rows="[[1, 0.5], [0]]").rows == Chosen([[1, 0.5], [0]]).rows == ((1.0, 0.5), (0.0,))
    with pytest.raises(rg.DeclarationError, match="rows: got 'al'; did you mean 'all'?"):
        Chosen(rows="al")
    with pytest.raises(rg.DeclarationError, match=r"rows\.1\.0: got -1.0; allowed: a finite number >= 0"):
        Chosen(rows=[[1], [-1]])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: rg.KFAC(lr=0.1), "lr: KFAC has no field 'lr'; it belongs to its base: KFAC(AdamW(lr=...))"),
        (
            lambda: rg.MKOR(rg.SGD(), momentum=0.9),
            "momentum: MKOR has no field 'momentum'; it belongs to its base: MKOR(SGD(",
        ),
        (
            lambda: rg.MFAC(rg.SGD(), learning_rate=0.1),
            "learning_rate: MFAC has no field 'learning_rate'; it belongs to its base",
        ),
        (
            lambda: rg.ZerothOrder(rg.SGD(), queries=2),
            "queries: ZerothOrder has no field 'queries'; it belongs to its estimator",
        ),
        (lambda: rg.SAM(rg.SGD(), betas=(0.9, 0.9)), "betas: SAM has no field 'betas'; did you mean 'eta'?"),
        (
            lambda: rg.SGD(rg.Cosine(0.1), warmup="5%"),
            "warmup: SGD has no field 'warmup'; it belongs to its lr: SGD(lr=Cosine(",
        ),
        (lambda: rg.SGD(0.1, beta=0.9), "beta: SGD has no field 'beta'; allowed: "),
        (lambda: rg.SAM(rg.SGD(), roh=0.1), "roh: SAM has no field 'roh'; did you mean 'rho'?"),
    ],
)
def test_a_field_of_a_part_is_sent_to_the_part(build, said):
    with pytest.raises(rg.DeclarationError) as why:
        build()
    assert str(why.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("E4M3", "did you mean 'e4m3'?"),
        ("bf16", "did you mean 'bfloat16'?"),
        ("fp8", "allowed: 'e4m3' or 'e5m2' or 'bfloat16' or 'float16' or a FloatFormat"),
        (8, "allowed: 'e4m3' or 'e5m2' or 'bfloat16' or 'float16' or a FloatFormat"),
    ],
)
def test_words_beside_a_component_are_named(given, said):
    with pytest.raises(rg.DeclarationError) as why:
        rg.EmulatePrecision(given)
    assert str(why.value) == f"format: got {given!r}; {said}"
    assert rg.EmulatePrecision("FloatFormat(4, 3)").format == rg.FloatFormat(4, 3)
