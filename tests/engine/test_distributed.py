"""Two and four processes give the bits of one: weights, states, order and records, also resumed by another number of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regimes.core.errors import DeclarationError
from regimes.engine.arithmetic import Tree
from regimes.engine.distributed import World, _nodes
from regimes.testing.conformance.tiny import one_thread

sys.path.insert(0, str(Path(__file__).parent))  # also under --import-mode=importlib

from world_worker import CASES, train, write_drawn

WORKER = Path(__file__).parent / "world_worker.py"


def torchrun(processes: int, out: Path, names: list[str], stop: int = 0) -> dict[str, str]:
    """Train cases with several processes; what came of each."""
    said = launch(processes, [str(WORKER), str(out), str(stop), *names])
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


def launch(processes: int, arguments: list[str]) -> str:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    command = [sys.executable, *launcher, "--rdzv-endpoint", "localhost:0", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def alone(out: Path, names: list[str]) -> dict[str, str]:
    with one_thread():
        return {name: train(name, out) for name in names}


def files(folder: Path) -> dict[str, bytes]:
    """What of a run must be equal to the byte: judged and raw weights, records, the result but for nothing."""
    names = ("final/model.safetensors", "final/raw.safetensors", "records.jsonl", "result.json")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def same(left: Path, right: Path, names: list[str]) -> None:
    for name in names:
        one, other = files(left / name), files(right / name)
        assert len(one) >= 3, name
        assert one.keys() == other.keys(), name
        assert [part for part in one if one[part] != other[part]] == [], name


def test_two_processes_give_the_bits_of_one(tmp_path):
    names = list(CASES)
    said = torchrun(2, tmp_path / "two", names)
    assert said == alone(tmp_path / "one", names)
    assert set(said.values()) == {"trained"}
    same(tmp_path / "one", tmp_path / "two", names)
    assert b'"skipped"' in files(tmp_path / "one" / "overflow")["records.jsonl"]


def test_one_all_reduce_agrees_with_distributed_data_parallel(tmp_path):
    launch(2, [str(WORKER.with_name("ddp_worker.py")), str(tmp_path / "found.pt")])
    for text, found in torch.load(tmp_path / "found.pt").items():
        for name, value in found["ddp"].items():
            assert value.dtype is torch.float64
            for how in ("all_reduce", "tree"):
                torch.testing.assert_close(found[how][name], value, rtol=1e-12, atol=1e-14, msg=f"{text} {how} {name}")


@pytest.mark.slow
def test_the_command_line_speaks_once(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(
        "workload: digits_mlp\nregime: {optimizer: SGD(lr=0.1), batch_size: 32, micro_batch: 8, budget: 20 steps}\n"
    )
    out = launch(2, ["-m", "regimes", "run", str(file), "--out", str(tmp_path / "two")])
    assert out.count("digits_mlp, seed 0: 20 steps") == 1
    single = os.environ | {"OMP_NUM_THREADS": "1"}  # as each of several processes has by default
    command = [sys.executable, "-m", "regimes", "run", str(file), "--out", str(tmp_path / "one")]
    subprocess.run(command, check=True, env=single)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow
def test_four_processes_and_another_number_after_a_stop(tmp_path):
    names = [name for name in CASES if name not in ("plain", "overflow")]
    alone(tmp_path / "one", names)
    torchrun(4, tmp_path / "four", names)
    same(tmp_path / "one", tmp_path / "four", names)
    torchrun(4, tmp_path / "resumed", names, stop=5)
    torchrun(2, tmp_path / "resumed", names, stop=7)
    alone(tmp_path / "resumed", names)
    same(tmp_path / "one", tmp_path / "resumed", names)


@pytest.mark.slow
def test_twenty_random_regimes(tmp_path):
    """Drawn from the registry until twenty train; what is refused is refused by every number of processes."""
    numbers = [str(number) for number in range(120) if write_drawn(number, tmp_path)]
    said = alone(tmp_path / "one", numbers)
    able = [number for number in numbers if said[number] == "trained"]
    two = torchrun(2, tmp_path / "two", able)
    four = torchrun(4, tmp_path / "four", able)
    for folder, found in (("two", two), ("four", four)):
        trained = [number for number in able if found[number] == "trained"]
        # A batch of 3 cannot be dealt to 4 processes, and running statistics not to 2.
        assert all(found[n].startswith("refused: ") and "processes" in found[n] for n in able if n not in trained)
        assert len(trained) >= 20
        same(tmp_path / "one", tmp_path / folder, trained)


@pytest.mark.parametrize("count", range(1, 23))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_shares_are_nodes_of_one_tree(count, size):
    """Every process's nodes, pushed in order, merge into the sum that one process makes: the same association."""

    def spelled(tree):
        return [f"({gradients})" for _, _, gradients in tree.nodes]

    def add(left, right):
        left[:] = [f"({left[0]}+{right[0]})"]

    one = Tree(add=add)
    for number in range(count):
        one.push(0, number, [str(number)])
    parts = Tree(add=add)
    for rank in range(size):
        share = World(rank, size).share(count)
        own = Tree(share.start, add=add)
        for number in share:
            own.add([str(number)])
        assert [node[:2] for node in own.nodes] == list(_nodes(share))
        for node in own.nodes:
            parts.push(*node)
    assert spelled(parts) == spelled(one)
    assert parts.total() == one.total()


def test_all_micro_batches_are_dealt_once():
    for count in range(30):
        dealt = [number for rank in range(4) for number in World(rank, 4).share(count)]
        assert dealt == list(range(count))


def test_what_cannot_be_dealt_is_refused():
    import regimes as rg
    from regimes.engine.run import Run
    from regimes.testing.conformance import tiny

    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, micro_batch=4, budget="4 steps")
    work = tiny.workload("values")
    data = torch.randn(16, 3), torch.randn(16, 4)
    plain = rg.Workload(model=lambda: torch.nn.Linear(3, 4), train=data, loss=rg.MSE())
    with pytest.raises(DeclarationError, match="2 micro-batches of a batch of 8; .* 3 processes, for example .*=2"):
        Run(work, base, world=World(0, 3))
    with pytest.raises(DeclarationError, match="got 'auto' with 2 processes; allowed: a number"):
        Run(plain, base.but(micro_batch="auto"), world=World(0, 2))
    norm = rg.Workload(
        model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4), torch.nn.BatchNorm1d(4)),
        train=data, loss=rg.MSE(),
    )  # fmt: skip
    with pytest.raises(DeclarationError, match=r"'2.running_mean', one micro-batch after another"):
        Run(norm, base, world=World(0, 2))
