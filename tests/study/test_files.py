"""Declaration files: what they mean, and every refusal with its line, key and sentence."""

import json
import re
import textwrap

import pytest

import regimes as rg
from regimes.core.errors import DeclarationError, UserCodeError
from regimes.study import files
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.problems import FileErrors
from regimes.study.ranges import Range
from regimes.study.specs import load_workload

RUN = """
workload: digits_mlp                       # or package.module:function
seed: 3
regime:
  budget: 6000 steps
  batch_size: 32
  optimizer: SGD(lr=Cosine(0.1, warmup="5%"), momentum=0.9)
"""
STUDY = """
workload: char_lm
compare: {baseline: adamw, metric: val/loss, better: lower, margin: 0.02, equal: tokens, seeds: 8, trials: 4}
tune:
  "*.lr.peak": times(1/8, 8)
arms:
  adamw: {budget: 300k tokens, batch_size: 16, optimizer: 'AdamW(lr=Cosine(1e-3, warmup="5%"), weight_decay=0.1)'}
  wsd:   {like: adamw, optimizer.lr: 'WSD(1e-3, warmup="5%", decay="20%")'}
  two:   {like: adamw, phases: [{name: main, budget: 80%}, {name: anneal, budget: 20%, sampler: LossWeighted}]}
"""
ADAMW = rg.Regime(
    optimizer=rg.AdamW(lr=rg.Cosine(1e-3, warmup="5%"), weight_decay=0.1), batch_size=16, budget="300k tokens"
)
MODULE = """
import torch
from torch import nn
import regimes as rg
from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob, Schedule
from regimes.core.registry import register

def work(width=4, name="tiny"):
    x = torch.arange(40.0).view(20, 2)
    return rg.Workload(model=lambda: nn.Linear(2, width), train=(x, torch.arange(20) % width), name=name,
                       val=(x, torch.arange(20) % width), loss=nn.CrossEntropyLoss())

READY = work(name="ready")

def broken():
    raise KeyError("no data here")

def nothing():
    return 3

class Flat(Schedule):
    peak: float = knob()
    def curve(self, x): return self.peak
"""


def text(source):
    return textwrap.dedent(source).lstrip("\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def _module_on_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("modules")
    (path / "files_test_module.py").write_text(text(MODULE))
    (path / "files_test_package").mkdir()
    (path / "files_test_package" / "__init__.py").write_text("")
    (path / "files_test_package" / "inner.py").write_text("from files_test_module import work as built\n")
    (path / "files_test_fails.py").write_text("import regimes\n1 / 0\n")
    (path / "files_test_lacks.py").write_text("import a_module_that_nobody_has\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        yield


pytestmark = pytest.mark.usefixtures("_module_on_path")


# -- what files mean -----------------------------------------------------------------------------------------------


def test_run_file_of_the_readme():
    found = files.read_yaml(text(RUN))
    assert isinstance(found, RunFile)
    assert (found.workload_spec, found.seed, found.workload) == ("digits_mlp", 3, None)
    assert found.regime == rg.Regime(
        optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="5%"), momentum=0.9), batch_size=32, budget="6000 steps"
    )
    assert found.options == {
        "validate": None,
        "probes": [],
        "checkpoint": "10%",
        "max_time": None,
        "give_up": 10,
        "reduce": "tree",
    }


def test_comparison_of_the_readme():
    found = files.read_yaml(text(STUDY))
    assert isinstance(found, CompareFile)
    assert found.arms == {
        "adamw": ADAMW,
        "wsd": ADAMW.but({"optimizer.lr": rg.WSD(1e-3, warmup="5%", decay="20%")}),
        "two": rg.Regime(
            phases=[rg.Phase("main", budget="80%"), rg.Phase("anneal", budget="20%", sampler=rg.LossWeighted())],
            optimizer=ADAMW.phases[0].optimizer,
            batch_size=16,
            budget="300k tokens",
        ),
    }
    assert list(found.arms) == ["adamw", "wsd", "two"]
    assert found.settings == {
        "baseline": "adamw", "metric": "val/loss", "better": "lower", "margin": 0.02, "equal": "tokens",
        "seeds": 8, "trials": 4, "level": 0.95, "name": "declaration", "validate": "10%",
        "tune": {"*.lr.peak": rg.times(1 / 8, 8)}, "search": "quasi", "until": None, "max_cost": None, "noise": None,
        "assume": None,
    }  # fmt: skip


def test_json_is_yaml():
    data = {"workload": "digits_mlp", "regime": {"optimizer": "SGD(lr=0.1)", "batch_size": 4, "budget": "3 steps"}}
    found = files.read_yaml(json.dumps(data))
    assert found.regime == rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="3 steps")


def test_a_printed_regime_is_a_regime():
    found = files.read_yaml(f"workload: digits_mlp\nregime: {json.dumps(repr(ADAMW))}\n")
    assert found.regime == ADAMW


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-3", 3e-3),
        (".003", 3e-3),
        ("+3.0E-3", 3e-3),
        ("1_000", 1000.0),
        ("0x10", 16.0),
        ("1/8", 0.125),
        ("2*3", 6.0),
    ],
)
def test_numbers(written, value):
    head = "workload: a\ncompare: {margin: 1}\n"
    base = "{optimizer: SGD(lr=1), batch_size: 4, budget: 3 steps}"
    found = files.read_yaml(f"{head}arms:\n  a: {base}\n  b: {{like: a, optimizer.lr: {written}}}\n")
    assert found.arms["b"].phases[0].optimizer.lr == value


def test_lists_nulls_and_words_stay_what_they_are():
    found = files.read_yaml(
        text("""
        workload: {name: char_lm, width: 96, note: "no"}
        regime:
          optimizer: SGD(lr=0.1)
          batch_size: 4
          budget: 24 steps
          average: null
          sampler: None
          micro_batch: auto
          trainable: ['*.weight', head]
          grad_transforms: [ClipNorm(1.0), ClipValue(0.5)]
          carry: [model, optimizer]
        """)
    )
    phase = found.regime.phases[0]
    assert found.workload_spec == {"name": "char_lm", "width": 96, "note": "no"}
    assert (phase.average, phase.sampler, phase.micro_batch) == (None, rg.Reshuffle(), "auto")
    assert phase.trainable == ("*.weight", "head")
    assert phase.grad_transforms == (rg.ClipNorm(1.0), rg.ClipValue(0.5))
    assert phase.carry == ("model", "optimizer")


def arms(source):
    head = "workload: a\ncompare: {margin: 1}\narms:\n"
    return files.read_yaml(head + textwrap.indent(text(source), "  ")).arms


def test_arms_are_derived_in_any_order_and_over_several_links():
    found = arms("""
        c: {like: b, batch_size: 8}
        b: {like: a, lr.peak: 0.5, average: EMA(0.9)}
        a: {optimizer: SGD(lr=Cosine(0.1)), batch_size: 4, budget: 3 steps}
    """)
    assert list(found) == ["c", "b", "a"]
    assert found["b"] == found["a"].but({"lr.peak": 0.5, "average": rg.EMA(0.9)})
    assert found["c"] == found["b"].but(batch_size=8)


def test_phases_of_a_derived_arm_take_what_the_base_says():
    found = arms("""
        a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 100 steps, average: EMA(0.9), sampler: LossWeighted}
        b: {like: a, batch_size: 8, phases: [{name: x, budget: 50%}, {name: y, budget: 50%, average: null}],
            "*.optimizer.lr": 0.2}
        c: {like: b, phases: [{name: y, batch_size: 2, budget: 30%}, {name: z, budget: 70%}]}
    """)
    one, two = found["b"].phases
    assert (one.batch_size, one.average, one.sampler, one.optimizer) == (
        8,
        rg.EMA(0.9),
        rg.LossWeighted(),
        rg.SGD(lr=0.2),
    )
    assert (two.batch_size, two.average, two.optimizer) == (8, None, rg.SGD(lr=0.2))
    assert str(found["b"].budget) == "100 steps"
    y, z = found["c"].phases
    assert (y.name, y.average, y.batch_size) == ("y", None, 2)
    assert (z.name, z.sampler, z.batch_size) == ("z", rg.LossWeighted(), 8)


# -- refusals ------------------------------------------------------------------------------------------------------

BODY = "workload: digits_mlp\nregime:\n  optimizer: SGD(lr=0.1)\n  batch_size: 4\n  budget: 3 steps\n"
ARMS = "workload: a\ncompare: {margin: 1}\narms:\n  a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 3 steps}\n"
REFUSED = [
    # the skeleton
    ("sed: 3\n" + BODY, r"1: sed: is no key here; did you mean 'seed'\?"),
    ("regime: {budget: 3 steps}\n", r"1: workload: needs a value; write a built-in name such as char_lm"),
    ("workload: a\n", r"1: regime: needs a value"),
    ("workload: a\narms: {}\n", r"1: compare: needs a value"),
    ("workload: a\ncompare: {margin: 1}\narms: {}\n", r"3: arms: got {}; allowed: at least one"),
    ("workload: 3\nregime: {}\n", r"1: workload: got 3; allowed: text or a mapping"),
    (BODY + "seed: three\n", r"6: seed: got 'three'; allowed: an integer"),
    (BODY + "seed: 3.0\n", r"6: seed: got 3.0; allowed: an integer"),
    (BODY + "seed: -1\n", r"6: seed: got -1; allowed: greater than or equal to 0"),
    (BODY + "max_steps: 3\n", r"6: max_steps: stands at the top of the file, but belongs under regime: .*'budget'"),
    (BODY + "lag: 3\n", r"6: lag: stands at the top of the file, but belongs under regime:"),
    (BODY + "checkpoint: 5%\n", r"6: checkpoint: stands at the top of the file, but belongs under options:"),
    (BODY + "arms: {}\n", r"2: regime: stands beside arms: or compare:"),
    (BODY + "options: {probes: [Foo]}\n", r"6: options.probes: got 'Foo': there is no component 'Foo'"),
    (BODY + "options: {probes: EMA}\n", r"6: options.probes: got 'EMA': EMA is an averager; allowed: a probe"),
    (BODY + "options: {validate: 5 parsecs}\n", r"6: options.validate: got '5 parsecs'"),
    (BODY + "options: {max_time: soon}\n", r"6: options.max_time: got 'soon'; write a time"),
    (BODY + "options: {give_up: 0}\n", r"6: options.give_up: got 0; allowed: greater than or equal to 1"),
    (BODY + "options: {check: 5%}\n", r"6: options.check: is no key here; did you mean 'checkpoint'\?"),
    (BODY + "modules: [no_such_module_here]\n", r"6: modules.0: there is no module 'no_such_module_here'"),
    (BODY + "modules: ['os; x']\n", r"6: modules.0: got 'os; x'; allowed: the name of a module"),
    (ARMS.replace("margin: 1", "margin: 0"), r"2: compare.margin: got 0; allowed: greater than 0"),
    (ARMS.replace("margin: 1", "seeds: 8"), r"2: compare.margin: needs a value; write the smallest difference"),
    (ARMS.replace("margin: 1", "margin: 1, equal: time"), r"2: compare.equal: got 'time'; allowed: 'steps', 'samples'"),
    (ARMS.replace("margin: 1", "margin: 1, seeds: 0"), r"2: compare.seeds: got 0; allowed: greater than or equal to 1"),
    (
        ARMS.replace("margin: 1", "margin: 1, tune: {}"),
        r"2: compare.tune: stands under compare:, but belongs at the top",
    ),
    (ARMS.replace("margin: 1", "margin: 1, baselin: a"), r"2: compare.baselin: .*did you mean 'baseline'\?"),
    (ARMS.replace("margin: 1", "margin: 1, baseline: b"), r"2: compare.baseline: there is no arm 'b'; allowed: a"),
    (ARMS + "margin: 3\n", r"5: margin: stands at the top of the file, but belongs under compare:"),
    (ARMS + "batch_size: 3\n", r"5: batch_size: stands at the top of the file, but belongs under an arm"),
    (ARMS + 'tune: {"*.lr": 3}\n', r"5: tune.\*.lr: got 3; allowed: times\(1/8, 8\)"),
    (ARMS + 'tune:\n  "*.lr": times(8, 1)\n', r"6: tune.\*.lr: .*more than low"),
    (
        ARMS + 'tune:\n  "*.momentm": times(1, 8)\n',
        r"6: tune.\*.momentm: in arm 'a': fits no knob; did you mean 'momentum'",
    ),
    # regimes
    (BODY.replace("batch_size", "batchsize"), r"4: regime.batchsize: .*here it is called 'batch_size'"),
    (BODY.replace("3 steps", "3"), r"5: regime.budget: got 3, an amount without a unit"),
    (BODY.replace("3 steps", "20 min"), r"5: regime.budget: got '20 min', a time"),
    (BODY.replace("batch_size: 4", "batch_size: 0"), r"4: regime.batch_size: got 0; allowed: an integer >= 1"),
    (BODY.replace("lr=0.1", "lr=-1"), r"3: regime.optimizer.lr: got -1; allowed: a finite number >= 0"),
    (BODY.replace("lr=0.1", "rate=1"), r"3: regime.optimizer.rate: SGD has no field 'rate'"),
    (BODY.replace("SGD", "AdmW"), r"3: regime.optimizer: .*there is no component 'AdmW'; did you mean 'AdamW'\?"),
    (
        BODY.replace("SGD(lr=0.1)", "Cosine(1)"),
        r"3: regime.optimizer: got 'Cosine.1.': Cosine is a schedule; allowed: an optimizer",
    ),
    (BODY.replace("  budget: 3 steps\n", ""), r"2: regime.budget: needs a value"),
    (
        BODY + "  learning_rate: 1\n",
        r"6: regime.learning_rate: .*here it is called 'lr' and belongs inside a component",
    ),
    (BODY + "  optimizer.lr: 1\n", r"6: regime.optimizer.lr: is a path, which edits a regime that like: names"),
    (BODY + "  like: a\n", r"6: regime.like: is no field of a regime"),
    ("workload: a\nregime: AdamW()\n", r"2: regime: got 'AdamW\(\)'; allowed: a mapping, or Regime\(...\)"),
    # phases
    (BODY + "  phases: 3\n", r"6: regime.phases: got 3; allowed: a list of phases"),
    (BODY + "  phases: [main]\n", r"6: regime.phases.0: got 'main'; allowed: a mapping"),
    (
        BODY + "  phases:\n    - {name: a, budget: 50%}\n    - {name: b, budgt: 1}\n",
        r"8: regime.phases.1.budgt: .*'budget'",
    ),
    (BODY + "  phases:\n    - {name: a, budget: 50%}\n    - {name: b, lag: 99}\n", r"8: regime.phases.1.lag: got 99"),
    (
        BODY + "  phases:\n    - {name: a, budget: 50%}\n    - {name: a, budget: 50%}\n",
        r"6: regime.phases: .*each name once",
    ),
    (BODY + "  phases:\n    - {name: a, budget: 50%}\n    - {name: b}\n", r"8: regime.b.budget: needs a value"),
    (BODY + "  phases:\n    - {name: lag, budget: 50%}\n", r"7: regime.phases.0.name: got 'lag'; allowed: a word"),
    # arms
    (ARMS + "  b: {like: c}\n", r"5: arms.b.like: got 'c', which is no arm; allowed: a"),
    (ARMS + "  b: {like: b}\n", r"5: arms.b.like: got 'b', which is derived from this arm itself \(b -> b\)"),
    (ARMS + "  b: {like: c}\n  c: {like: b}\n", r"6: arms.c.like: .*\(b -> c -> b\)"),
    (ARMS + "  b: {lik: a}\n", r"5: arms.b.lik: .*did you mean 'like'\?"),
    (ARMS + "  b: {like: a, lrr: 2}\n", r"5: arms.b.lrr: there is no 'lrr' here; did you mean 'lr'\?"),
    (ARMS + "  b: {like: a, optimizer.momentum: -2}\n", r"5: arms.b.optimizer.momentum: got -2; allowed: .* >= 0"),
    (ARMS + "  b: 3\n", r"5: arms.b: got 3; allowed: text or a mapping"),
    (ARMS.replace("lr=0.1", "lr=Cosine(1)") + "  b: {like: a, lr: 2}\n", r"5: arms.b.optimizer.lr: got 2 where Cosine"),
]


@pytest.mark.parametrize(("source", "said"), REFUSED)
def test_refusals_name_line_key_and_what_is_allowed(source, said):
    with pytest.raises(FileErrors) as caught:
        files.read_yaml(source, "f.yaml")
    assert re.search(f"^f.yaml:{said}", str(caught.value), re.MULTILINE), str(caught.value)


MANGLED = [
    ("{optimizer: AdamW(lr=Cosine(1e-3, warmup=\"5%\")), batch_size: 4, budget: 3 steps}",
     "2: regime.optimizer: YAML split this value at a comma; .* single quotes: "
     r"'AdamW\(lr=Cosine\(1e-3, warmup=\"5%\"\)\)'$"),
    ("{grad_transforms: [Noise(eta=1, gamma=2)]}", r"2: regime.grad_transforms.0: YAML.*'Noise\(eta=1, gamma=2\)'$"),
    ("\n  optimizer: SGD(lr=0.1, #momentum=0.9)", r"3: regime.optimizer: YAML cut .* ' #'.*'SGD\(lr=0.1, #mom"),
    ("\n  optimizer: SGD(lr: 0.1)", r"3: a ': ' in a value without quotes"),
    ("\n  optimizer: {AdamW: {lr: 1e-3}}", r"3: regime.optimizer: got a mapping .* example 'AdamW\(lr=0.001\)'"),
    ("\n  optimizer: {type: SGD, lr: Cosine(0.1)}", r"3: regime.optimizer: .*'SGD\(lr=Cosine\(0.1\)\)'"),
    ("\n  optimizer: {lr: 0.1}", r"3: regime.optimizer: got a mapping where notation is expected, for example"),
    ("\n  average: no", r"3: regime.average: got no, which YAML 1.2 reads as text; to leave 'average' out write null"),
    ("\n  average: off", r"3: regime.average: got off, which YAML 1.2 reads as text"),
    ("\n  average: false", r"3: regime.average: got false; to leave 'average' out write null"),
    ("\n  average: on", r"3: regime.average: got on, .*write what 'average' shall be"),
    ("\n  compile: on", r"3: regime.compile: got on; allowed: true, false"),
    ("\n  trainable: [yes]", r"3: regime.trainable.0: got yes"),
    ("\n  average: *ema", r"3: YAML takes '\*ema' for an alias; write it in quotes: \"\*ema\""),
    ("\n  trainable: @matrices", r"3: a value may not begin with '@' without quotes"),
    ("\n\toptimizer: SGD", r"3: a tab stands here"),
    ("\n  optimizer: 'AdamW(lr=Cosine(1, warmup='5%'))'", r"3: text goes on behind a closing quote"),
    ("\n  optimizer: 'AdamW(", r"\d: a quote is opened and not closed"),
    ("\n  lag: 1\n  lag: 2", r"4: lag: is given twice, first on line 3"),
    ("\n  <<: {lag: 1}", r"3: <<: merge keys are not read"),
    ("\n  lag: !!python/int 3", r"3: the tag .*python/int' is not read"),
    ("\n  lag: !int 3", r"3: the tag '!int' is not read"),
    ("\n  ? [a]\n  : 3", r"3: a list or mapping stands where a key is expected"),
    ("\n  lag: 1\n---\nregime: 2", r"4: a second document"),
    ("\n  batch_size=4: 3", r"3: regime.batch_size=4: .*a piece of notation that YAML split"),
]  # fmt: skip


@pytest.mark.parametrize(("regime", "said"), MANGLED)
def test_what_yaml_mangles_has_a_message_of_its_own(regime, said):
    with pytest.raises(FileErrors) as caught:
        files.read_yaml(f"workload: a\nregime: {regime}\n", "f.yaml")
    assert re.search(f"^f.yaml:{said}", str(caught.value), re.MULTILINE), str(caught.value)


def test_a_key_with_a_star_needs_quotes():
    with pytest.raises(
        FileErrors, match=r"f.yaml:6: YAML takes '\*.lr.peak' for an alias; write it in quotes: \"\*.lr.peak\""
    ):
        files.read_yaml(ARMS + "tune:\n  *.lr.peak: times(1/8, 8)\n", "f.yaml")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "f.yaml:1: the file is empty"),
        ("- 1\n", r"f.yaml:1: got \[1\]; allowed: a mapping"),
        ("%YAML 1.1\n---\na: no\n", r"f.yaml:1: got '%YAML 1.1'; allowed: YAML 1.2"),
        ("[" * 3000, "f.yaml:1: nested deeper"),
        ("a: &x [*x]\n", "f.yaml:1: nested deeper"),
        ("a: " + "x" * 1_000_001, "f.yaml:1: got 1000004 characters"),
        ("- &a [1]\n" + "".join(f"- &{b} [{', '.join(['*' + a] * 4)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
         r"f.yaml:\d: has more than 20000 parts"),
        ("a: \x00\n", "f.yaml:1: is no YAML: unacceptable character"),
    ],
)  # fmt: skip
def test_what_is_no_declaration(source, said):
    with pytest.raises(FileErrors, match=said):
        files.read_yaml(source, "f.yaml")


def test_every_problem_of_a_file_is_said_at_once_in_the_order_of_lines():
    source = text("""
        workload: digits_mlp
        sed: 3
        regime:
          optimizer: SDG(lr=0.1)
          batch_size: 0
          budget: 3
          lag: -1
          averge: EMA
        """)
    with pytest.raises(FileErrors) as caught:
        files.read_yaml(source, "f.yaml")
    assert [(p.line, p.key) for p in caught.value.problems] == [
        (2, "sed"), (4, "regime.optimizer"), (5, "regime.batch_size"), (6, "regime.budget"), (7, "regime.lag"),
        (8, "regime.averge"),
    ]  # fmt: skip


# -- workloads -----------------------------------------------------------------------------------------------------


def test_workload_specifications():
    assert load_workload("files_test_module:work").name == "tiny"
    assert load_workload("files_test_module:READY").name == "ready"
    assert load_workload("files_test_package.inner:built").name == "tiny"
    made = load_workload({"name": "files_test_module:work", "width": 3})
    assert made.build(0).out_features == 3


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digit_mlp", "workload: there is no workload 'digit_mlp'; did you mean 'digits_mlp'"),
        ("files_test_nowhere:work", "workload: there is no module 'files_test_nowhere' here"),
        ("files_test_module:wrk", "workload: 'files_test_module' has no 'wrk'; did you mean 'work'"),
        ("files_test_module:nothing", "workload: 'files_test_module:nothing' returned 3; allowed: a Workload"),
        ("files_test_module:torch", "allowed: a function that returns a Workload"),
        (":work", "workload: got ''; allowed: the name of a module"),
        (
            {"name": "files_test_module:work", "widht": 3},
            "workload.widht: .* takes no argument 'widht'; did you mean 'width'",
        ),
        ({"nam": "x"}, "workload: got .*allowed: a name, or a mapping"),
        (3, "workload: got 3; allowed"),
    ],
)
def test_workloads_that_cannot_be(spec, said):
    with pytest.raises(DeclarationError, match=said):
        load_workload(spec)


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("files_test_module:broken", KeyError),
        ("files_test_fails:work", ZeroDivisionError),
        ("files_test_lacks:work", ModuleNotFoundError),
    ],
)
def test_errors_of_the_users_own_code_keep_their_cause(spec, cause):
    with pytest.raises(UserCodeError, match=spec.split(":")[0]) as caught:
        load_workload(spec)
    assert isinstance(caught.value.__cause__, cause)


def test_classes_of_listed_modules_may_be_named():
    head = "workload: files_test_module:work\nmodules: [files_test_module]\n"
    regime = "regime: {optimizer: 'SGD(lr=files_test_module:Flat(0.5))', batch_size: 4, budget: 3 steps}\n"
    found = files.read_yaml(head + regime)
    assert repr(found.regime.phases[0].optimizer.lr) == "files_test_module:Flat(0.5)"
    with pytest.raises(FileErrors, match="is imported only where the file's `modules:` list names 'json'"):
        files.read_yaml(head + regime.replace("files_test_module", "json"))


# -- files on disk, and edits --------------------------------------------------------------------------------------


def test_reading_builds_the_workload_with_its_arguments(folder):
    (folder / "a.yaml").write_text(
        text("""
        workload: {name: files_test_module:work, width: 3}
        regime: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 3 steps}
        """)
    )
    assert files.read("a.yaml").workload.build(0).out_features == 3
    assert files.read("a.yaml", workload=False).workload is None


def test_a_module_beside_the_file_is_found(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "files_test_beside.py").write_text(text(MODULE))
    (folder / "sub" / "a.yaml").write_text(
        "workload: files_test_beside:work\nregime: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 3 steps}\n"
    )
    assert files.read(folder / "sub" / "a.yaml").workload.name == "tiny"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", b"workload: \xff\n", "is no UTF-8 text"),
        ("a.toml", b"", "allowed: a file that ends in .yaml, .yml or .py"),
        ("missing.yaml", None, "there is no file 'missing.yaml'"),
        ("a.yaml", b"workload: nope\nregime: {optimizer: SGD, batch_size: 4, budget: 3 steps}\n",
         "^a.yaml:1: workload: there is no workload 'nope'"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(folder, name, content, said):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DeclarationError, match=said):
        files.read(name)


def test_edits_of_a_run(folder):
    (folder / "a.yaml").write_text(BODY.replace("lr=0.1", "lr=Cosine(0.1)"))

    def edited(*edits):
        return files.read("a.yaml", edits, workload=False).regime

    base = edited()
    assert edited("optimizer.lr.peak=3e-2", "batch_size = 8") == base.but({"optimizer.lr.peak": 3e-2, "batch_size": 8})
    assert edited("lr=WSD(1e-3, decay='20%')") == base.but(lr=rg.WSD(1e-3, decay="20%"))
    assert edited("average=EMA(0.9)", "average=None") == base
    for edit, said in [
        ("lr=3", r"--set lr=3: optimizer.lr: got 3 where Cosine\(0.1\) stands; to change its height edit '.peak'"),
        ("lrr=3", "--set lrr=3: lrr: there is no 'lrr' here; did you mean 'lr'"),
        ("batch_size", "--set: got 'batch_size'; allowed: path=value"),
        ("=3", "--set: got '=3'; allowed: path=value"),
        ("batch_size=x", "--set batch_size=x: batch_size: got 'x'; allowed: an integer >= 1"),
    ]:
        with pytest.raises(DeclarationError, match=said):
            edited(edit)


def test_edits_of_arms(folder):
    (folder / "s.yaml").write_text(text(STUDY))

    def edited(*edits):
        return files.read("s.yaml", edits, workload=False).arms

    base = edited()
    every = edited("*.lr.peak=2e-3")
    assert every == {name: arm.but({"*.lr.peak": 2e-3}) for name, arm in base.items()}
    assert edited("wsd:batch_size=8") == base | {"wsd": base["wsd"].but(batch_size=8)}
    # Only those that have the path: `decay` is WSD's.
    assert edited("*.lr.decay=10%") == base | {"wsd": base["wsd"].but({"*.lr.decay": "10%"})}
    for edit, said in [("wsx:batch_size=8", "there is no arm 'wsx'; did you mean 'wsd'"), ("*.zzz=1", "fits no knob")]:
        with pytest.raises(DeclarationError, match=said):
            edited(edit)


# -- Python files --------------------------------------------------------------------------------------------------

PYTHON = """
import regimes as rg
from files_test_module import work
workload = work
regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="3 steps")
seed = 5
options = {"probes": [rg.GradientNorm()], "validate": "50%"}
"""


def python_file(folder, source):
    (folder / "a.py").write_text(text(source))
    return files.read("a.py")


def test_python_run_file(folder):
    found = python_file(folder, PYTHON)
    assert (found.workload.name, found.workload_spec, found.seed) == ("tiny", None, 5)
    assert found.options["probes"] == [rg.GradientNorm()]
    assert found.options["validate"] == "50%"
    assert python_file(folder, PYTHON.replace("= work\n", "= work(name='x')\n")).workload.name == "x"
    named = python_file(folder, PYTHON.replace("= work\n", "= 'files_test_module:work'\n"))
    assert (named.workload.name, named.workload_spec) == ("tiny", "files_test_module:work")


def test_python_comparison(folder):
    found = python_file(
        folder,
        PYTHON.replace("regime = ", "base = ")
        + "arms = {'a': base, 'b': base.but(lr=0.2)}\ncompare = {'margin': 0.1, 'trials': 2}\n"
        "tune = {'*.lr': rg.times(1/2, 2)}\n",
    )
    assert found.arms["b"] == found.arms["a"].but(lr=0.2)
    assert (found.settings["margin"], found.settings["trials"]) == (0.1, 2)
    assert isinstance(found.settings["tune"]["*.lr"], Range)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import regimes as rg\nx = 1\nr = rg.AdamW(lr=-1)\n", r"^a.py:3: lr: got -1; allowed"),
        ("x = (\n", r"^a.py:1: is no Python"),
        ("workload = 'digits_mlp'\n", r"^a.py: regime: needs a value"),
        ("regime = 3\n", r"a.py: regime: got 3; write regime = Regime"),
        (PYTHON + "options = {'vali': 3}\n", r"^a.py: options.vali: is no key here; did you mean 'validate'"),
        (PYTHON + "options = 3\n", r"^a.py: options: got 3"),
        (PYTHON + "seed = 'x'\n", r"^a.py: seed: got 'x'; allowed: an integer"),
        (PYTHON + "arms = {}\ncompare = {'margin': 1}\n", r"^a.py: arms: got \{\}; allowed: a dict of names"),
        (PYTHON + "arms = {'a': 3}\ncompare = {'margin': 1}\n", r"^a.py: arms.a: got 3; allowed: a Regime"),
        (PYTHON + "arms = {'a': regime}\nfrom regimes import compare\n", r"^a.py: compare: got <function compare"),
        (PYTHON + "arms = {'a': regime}\ncompare = {'margn': 1}\n", r"a.py: compare.margn: .*did you mean 'margin'"),
        (PYTHON + "arms = {'a': regime}\ncompare = {'margin': 1}\ntune = {'*.lr': 3}\n", r"^a.py: tune.\*.lr: got 3"),
        (PYTHON + "workload = lambda: 3\n", r"workload: got 3; allowed: a Workload, or a function that builds one"),
    ],
)
def test_python_refusals(folder, source, said):
    with pytest.raises(DeclarationError) as caught:
        python_file(folder, source)
    assert re.search(said, str(caught.value), re.MULTILINE), str(caught.value)


def test_an_error_in_a_python_file_is_the_users_with_its_line(folder):
    with pytest.raises(UserCodeError, match=r"a.py:2: ZeroDivisionError: division by zero") as caught:
        python_file(folder, "x = 1\nx / 0\n")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(UserCodeError, match="building the workload failed: KeyError"):
        python_file(folder, PYTHON + "from files_test_module import broken as workload\n")


def test_a_python_file_finds_its_neighbours_and_has_one_name_everywhere(folder):
    (folder / "files_test_neighbour.py").write_text("width = 7\n")
    source = PYTHON + "from files_test_neighbour import width\nclass Own: pass\nseed = width\n"
    assert python_file(folder, source).seed == 7
    from regimes.study.python_file import load

    assert load(folder / "a.py").__name__ == load("a.py").__name__
