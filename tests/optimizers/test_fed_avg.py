"""Federated averaging against clients trained by hand; one client is training alone; resume inside a client."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import philox
from regimes.testing.resume import resume_chain

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(47, 5, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (47,), generator=GENERATOR)
PARTS = {"ann": slice(0, 20), "bob": slice(20, 27), "cid": slice(27, 47)}
BATCH, EPOCHS, ROUNDS, SEED = 4, 2, 3, 11


def workload(parts=PARTS, x=X):
    return rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double(),
        train={name: (x[rows], Y[rows]) for name, rows in parts.items()},
        loss=nn.CrossEntropyLoss(),
    )


def regime(optimizer=None, **fields):
    rule = rg.FedAvg(rg.SGD(lr=0.3, momentum=0.9), f"{EPOCHS} epochs") if optimizer is None else optimizer
    return rg.Regime(**{"optimizer": rule, "batch_size": BATCH, "budget": f"{ROUNDS} steps", **fields})


def finished(work, declared, seed=SEED):
    run = rg.Run(work, declared, seed)
    first = copy.deepcopy(run.model)
    return run, first, list(run)


def split(records):
    """Records of rounds, and of the clients' steps."""
    return [r for r in records if "trial" not in r.signals], [r for r in records if "trial" in r.signals]


def client_by_hand(model, name, number, lr, x=X, parts=PARTS):
    """A copy of the model after the client's round in a loop of torch's own."""
    model = copy.deepcopy(model)
    rule = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    inputs, labels = x[parts[name]], Y[parts[name]]
    key = ("client", name, "round", number, "main", name)
    steps = -(-EPOCHS * len(labels) // BATCH)
    orders = [philox(SEED, *key, "epoch", epoch).permutation(len(labels)) for epoch in range(EPOCHS + 1)]
    order = torch.cat([torch.from_numpy(one) for one in orders])[: steps * BATCH]
    for rows in order.split(BATCH):
        rule.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        rule.step()
    return model


def averaged(models, sizes):
    """The mean of the models' weights, weighted by sizes."""
    whole = copy.deepcopy(models[0])
    with torch.no_grad():
        for tensors in zip(whole.parameters(), *(model.parameters() for model in models)):
            tensors[0].copy_(sum(n * p for n, p in zip(sizes, tensors[1:])) / sum(sizes))
    return whole


def assert_equal_weights(run, model):
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.exact("FedAvg")
def test_rounds_are_the_weighted_averages_of_clients_trained_by_hand():
    rule = rg.FedAvg(rg.SGD(lr=rg.Linear(0.3, 0.0), momentum=0.9), f"{EPOCHS} epochs")
    run, model, records = finished(workload(), regime(rule))
    for number in range(ROUNDS):
        lr = 0.3 * (1 - number / ROUNDS)  # the client's rate goes by rounds
        models = [client_by_hand(model, name, number, lr) for name in PARTS]
        model = averaged(models, [20, 7, 20])
    assert_equal_weights(run, model)
    rounds, clients = split(records)
    assert (len(rounds), len(clients)) == (ROUNDS, ROUNDS * (10 + 4 + 10))


@pytest.mark.exact("FedAvg")
def test_one_client_and_one_round_is_training_alone_bitwise():
    one = {"all": slice(0, 47)}
    rule = rg.AdamW(lr=0.05)
    federated, _, records = finished(
        workload(one), regime(rg.FedAvg(rule, "9 steps", rg.Sequential()), budget="1 steps", batch_size=5)
    )
    alone, _, steps = finished(workload(one), regime(rule, sampler=rg.Sequential(), budget="9 steps", batch_size=5))
    assert [r.loss for r in split(records)[1]] == [r.loss for r in steps]
    for ours, theirs in zip(federated.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.exact("FedAvg")
def test_one_step_on_all_of_every_client_is_a_step_on_all_data():
    """Gradients are linear: with SGD's single full step, averaging weights by n_k / n averages gradients."""
    rule = rg.FedAvg(rg.SGD(lr=0.7), "1 steps", rg.Sequential())
    even = {"ann": slice(0, 20), "cid": slice(20, 40)}
    run, model, _ = finished(workload(even), regime(rule, budget="1 steps", batch_size=20))
    nn.functional.cross_entropy(model(X[:40]), Y[:40]).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.7 * p.grad
    assert_equal_weights(run, model)


def test_a_round_shows_the_loss_at_its_beginning_and_asks_for_no_gradient():
    run = rg.Run(workload(), regime(), SEED)
    before = copy.deepcopy(run.model)
    while True:
        plan = run.frames[0].plans[0]
        record = run.step()
        if "trial" not in record.signals:
            break
    batch = run.read(plan)
    expected = nn.functional.cross_entropy(before(batch[0]), batch[1]).item()
    assert record.loss == pytest.approx(expected, rel=1e-12)
    assert record.at.step == 0


def test_a_client_that_breaks_off_is_left_out():
    x = X.clone()
    x[22] = float("nan")
    run, model, records = finished(workload(x=x), regime(budget="1 steps"))
    rounds, clients = split(records)
    assert (len(rounds), "skipped" in rounds[0].signals) == (1, False)
    assert sum("skipped" in r.signals for r in clients) == 1
    assert rounds[0].signals["clients_left_out"] == 1
    models = [client_by_hand(model, name, 0, 0.3) for name in ("ann", "cid")]
    assert_equal_weights(run, averaged(models, [20, 20]))


def test_clients_are_the_sources_of_the_mixture():
    run, _, records = finished(workload(), regime(mixture=rg.Mixture(ann=1, cid=1), budget="1 steps"))
    assert run.states["optimizer"]["sizes"] == {"ann": 20, "cid": 20}
    assert len(split(records)[1]) == 20


def test_resume_in_the_middle_of_a_client_is_bitwise():
    rule = rg.FedAvg(rg.AdamW(lr=0.05), "1 epochs")
    found = resume_chain(lambda: rg.Run(workload(), regime(rule, budget="2 steps"), 0), 26)
    assert not found, found


def test_in_a_trial_of_another_a_step_is_the_clients_rule():
    teacher = rg.Distillation("self", 0.5)
    one = {"all": slice(0, 47)}
    _, _, records = finished(workload(one), regime(rg.FedAvg(rg.SGD(lr=0.3), "2 steps"), loss=teacher))
    _, _, plain = finished(workload(one), regime(rg.SGD(lr=0.3), loss=teacher))
    ours, theirs = ([r.loss for r in found if r.signals.get("trial") == "loss"] for found in (records, plain))
    assert len(ours) == 3
    assert ours == theirs


@pytest.mark.parametrize("local", ["0 epochs", "10%", "100 tokens"])
def test_local_is_an_amount_that_clients_can_count(local):
    with pytest.raises(rg.DeclarationError, match=r"local: got .* allowed: more than nothing, in epochs"):
        rg.FedAvg(rg.SGD(lr=0.1), local)


def test_no_federation_of_federations():
    with pytest.raises(rg.DeclarationError, match="client: got a FedAvg inside a FedAvg"):
        rg.FedAvg(rg.FedAvg(rg.SGD(lr=0.1)))


def test_gradient_transforms_are_refused():
    with pytest.raises(rg.DeclarationError, match="FedAvg makes no gradient"):
        rg.Run(workload(), regime(grad_transforms=[rg.ClipNorm(1.0)]), 0)


def losses_of(model):
    return {n: nn.functional.cross_entropy(model(X[rows]), Y[rows]).item() for n, rows in PARTS.items()}


@pytest.mark.exact("FedAvg")
@pytest.mark.parametrize("first", ["easy", "hard"])
def test_the_admitted_are_those_of_the_least_or_the_largest_loss_by_hand(first):
    """One client in the first round, two in the second, three in the third: ranked anew by the weights of each round."""
    share = rg.Piecewise(1 / 3, at=["33%", "66%"], factors=[2.0, 3.0])
    rule = rg.FedAvg(rg.SGD(lr=0.3, momentum=0.9), f"{EPOCHS} epochs", first=first, share=share)
    run, model, records = finished(workload(), regime(rule))
    counts = []
    for number in range(ROUNDS):
        losses = losses_of(model)
        names = sorted(losses, key=losses.get, reverse=first == "hard")[: number + 1]
        model = averaged([client_by_hand(model, n, number, 0.3) for n in names], [len(X[PARTS[n]]) for n in names])
        counts.append(sum(-(-EPOCHS * len(X[PARTS[n]]) // BATCH) for n in names))
    assert_equal_weights(run, model)
    assert len(split(records)[1]) == sum(counts)


def test_ranking_is_charged_and_resumes():
    rule = rg.FedAvg(rg.SGD(lr=0.3), "2 steps", first="easy", share=0.67)
    ranked, plain = (finished(workload(), regime(r))[0] for r in (rule, rg.FedAvg(rg.SGD(lr=0.3), "2 steps")))
    assert ranked.states["optimizer"]["losses"] == {}
    steps = len(PARTS) * 2 * ROUNDS
    assert ranked.work.side_flops > plain.work.side_flops * (steps * 2 // 3) / steps
    assert resume_chain(lambda: rg.Run(workload(), regime(rule), SEED), 14) == []


@pytest.mark.exact("FedAvg")
def test_running_statistics_are_averaged_as_weights_are_and_counters_are_the_first_clients():
    def work(parts):
        return rg.Workload(
            model=lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double(),
            train={name: (X[rows], Y[rows]) for name, rows in parts.items()},
            loss=nn.CrossEntropyLoss(),
        )

    def ended(parts):
        rule = rg.FedAvg(rg.SGD(lr=0.3, momentum=0.9), "2 epochs")
        run, first, _ = finished(work(parts), regime(rule, budget="1 steps"))
        return dict(run.model.named_buffers()), dict(first.named_buffers())

    whole, first = ended(PARTS)
    alone = [ended({name: rows})[0] for name, rows in PARTS.items()]
    for key in ("1.running_mean", "1.running_var"):
        wanted = sum(n * one[key] for n, one in zip((20, 7, 20), alone)) / 47
        torch.testing.assert_close(whole[key], wanted, rtol=1e-12, atol=1e-13)
        assert not torch.equal(whole[key], first[key])
    assert whole["1.num_batches_tracked"] == alone[0]["1.num_batches_tracked"] == 10


def test_what_comes_in_is_what_a_client_has_trained_and_rounds_are_averaged():
    run, model, _ = finished(workload(), regime(average=rg.EMA(0.5), budget="1 steps"))
    models = [client_by_hand(model, name, 0, 0.3) for name in PARTS]
    assert_equal_weights(run, averaged(models, [20, 7, 20]))
    assert run.states["average"]["count"] == 1


def test_a_round_that_all_are_left_out_of_is_skipped_and_ten_in_a_row_end_the_run():
    diverging = regime(rg.FedAvg(rg.SGD(lr=1e30), "4 steps"), budget="30 steps")
    work = rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)),
        train={name: (X[rows].float(), Y[rows]) for name, rows in PARTS.items()},
        loss=nn.CrossEntropyLoss(),
    )
    run = rg.Run(work, diverging, SEED)
    before, rounds = copy.deepcopy(run.model.state_dict()), []
    with pytest.raises(rg.RunFailed, match="10 steps in a row were not finite"):
        rounds.extend(r for r in run if "trial" not in r.signals)
    assert [r.signals["skipped"] for r in rounds] == ["training: that of every client"] * 9
    assert run.states["optimizer"]["round"] == 10  # every one with clients of its own
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampler": rg.Sequential()}, r"^sampler: got Sequential\(\), but FedAvg .*write FedAvg\(..., sampler=Sequen"),
        (
            {"mixture": rg.Mixture(ann=1, bob=1, sampler=rg.Sequential())},
            r"^mixture.sampler: got Sequential\(\), but Fed",
        ),
        ({"mixture": rg.SkillIt(ann=1, bob=1, graph=[[1, 0], [0, 1]]), "evaluate": "1 steps"}, "learns nothing"),
    ],
)
def test_an_order_of_the_data_that_no_client_would_follow_is_refused(fields, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.Run(workload(), regime(**fields), 0)
