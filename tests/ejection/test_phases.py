"""Several phases: what is carried goes from function to function."""

import pytest
from watched_scripts import dead_lines, ruff

import regimes as rg
from regimes.core.notation import parse
from regimes.ejection import check, eject
from regimes.testing.conformance.tiny import one_thread

SHOWN = {
    "optimizer = yield from warm(model)": (
        {"optimizer": "AdamW(lr=0.01)"},
        {"optimizer": "AdamW(lr=Cosine(0.01), weight_decay=0.1)", "carry": ["model", "optimizer"]},
    ),
    "optimizers, averaged = yield from warm(model)": (
        {"optimizer": "Groups([Group('*.bias', SGD(lr=0.1)), Group('*', Lion(lr=0.01))])", "average": "EMA(0.9)"},
        {
            "optimizer": "Groups([Group('*.bias', SGD(lr=0.2)), Group('*', Lion(lr=0.02, weight_decay=0.1))])",
            "average": "EMA(0.8)",
            "carry": ["model", "optimizer", "average"],
        },
    ),
    "cursor, learned = yield from warm(model)": (
        {"sampler": "LossWeighted()"},
        {"sampler": "LossWeighted(0.5)", "carry": ["model", "cursor", "sampler"]},
    ),
    "cursor=cursor": ({"lag": 2}, {"carry": ["model", "cursor"], "lag": 1}),
    "p.copy_(value)": ({"average": "SWA(start='50%', every='1 steps')"}, {"carry": ["averaged"]}),
    "run_done = (12 + done * 28) / 40": ({}, {"optimizer": "SGD(lr=Linear(0.1, over='run'))"}),
    "model.requires_grad_(True)": ({"on_entry": ["Freeze('0.*')"]}, {"on_entry": ["Unfreeze()"]}),
    "if (step - 11) % 5 == 0:": ({}, {"optimizer": "SGD(lr=0.1 * Plateau(patience=0))", "evaluate": "5 steps"}),
    "* (step - 11) ** (-0.5 / 2)": ({}, {"grad_transforms": ["Noise(0.01, decay=0.5)"]}),
}


def of(fields, **more):
    given = {"optimizer": "SGD(lr=0.05, momentum=0.9)", "batch_size": 4} | fields | more
    made = {k: [parse(one) for one in v] if isinstance(v, list) and k != "carry" else v for k, v in given.items()}
    return rg.Phase(**{k: parse(v) if isinstance(v, str) and "(" in v else v for k, v in made.items()})


def regime(first, second):
    return rg.Regime(
        phases=[of(first, name="warm", budget="30%"), of(second, name="main-run", budget="70%")], budget="40 steps"
    )


SPEC = {"name": "regimes.testing.conformance.tiny:workload", "task": "classes", "sources": ()}


@pytest.mark.parametrize("shown", SHOWN)
def test_what_a_phase_hands_on(shown, tmp_path):
    declared = regime(*SHOWN[shown])
    with one_thread():
        text = eject(SPEC, declared, 7)
        assert shown in text
        assert check(SPEC, declared, 7) == (40, True, [])
        file = tmp_path / "train.py"
        file.write_text(text)
        assert ruff(file) == []
        assert dead_lines(text, file) == []


def test_a_check_of_fewer_steps_stops_there():
    with one_thread():
        assert check(SPEC, regime({}, {}), 7, steps=17) == (17, False, [])


def test_phases_are_called_as_they_are_unless_that_means_something_else():
    phases = [of({}, name=name, budget="50%") for name in ("lr", "train")]
    declared = rg.Regime(phases=phases, budget="8 steps").but({"lr.optimizer.lr": "Linear(0.1)"})
    text = eject(SPEC, declared)
    assert "yield from lr_phase(model)" in text
    assert "yield from train_phase(model)" in text
    assert check(SPEC, declared) == (8, True, [])


def test_a_wrong_script_is_found(monkeypatch):
    """The check itself: a rate that is off in the sixth digit is seen."""
    from regimes.ejection import api

    right = api.Script.text
    monkeypatch.setattr(api.Script, "text", lambda self: right(self).replace("lr=0.05", "lr=0.0500001"))
    with one_thread():
        found = check(SPEC, regime({}, {}), 7)
    assert "weights.0.weight" in found.differing
    assert "val/loss" in found.differing
    assert str(found).startswith("40 steps (the whole run, metrics included) do not agree: weights.0.weight, ")
