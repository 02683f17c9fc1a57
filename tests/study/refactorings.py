"""Fifty refactorings of the training in `guarded.py` that change nothing but names, layout, structure and rounding."""

import ast
import builtins

from guarded import FILES

SOURCES = [name for name in FILES if name.endswith(".py") and FILES[name]]


def parsed(file):
    return ast.parse(FILES[file])


class Renamed(ast.NodeTransformer):
    """A local name of one function, under another name."""

    def __init__(self, function, old, new):
        self.function, self.old, self.new, self.inside = function, old, new, False

    def visit_FunctionDef(self, node):
        before, self.inside = self.inside, self.inside or node.name == self.function
        node = self.generic_visit(node)
        self.inside = before
        return node

    def visit_Name(self, node):
        return ast.Name(self.new, node.ctx) if self.inside and node.id == self.old else node

    def visit_arg(self, node):
        return ast.arg(self.new) if self.inside and node.arg == self.old else node


def locals_of(function):
    """Names that a function binds itself."""
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return list(dict.fromkeys([*(a.arg for a in function.args.args), *stored]))


def renames():
    """Two of three local names, under another name."""
    found = {}
    for file in SOURCES:
        for function in (n for n in ast.walk(parsed(file)) if isinstance(n, ast.FunctionDef)):
            for old in (name for name in locals_of(function) if name != "self"):
                assert not hasattr(builtins, old)
                tree = Renamed(function.name, old, f"{old}_renamed").visit(parsed(file))
                found[f"rename {old} in {file}:{function.name}"] = {file: ast.unparse(ast.fix_missing_locations(tree))}
    return {name: files for place, (name, files) in enumerate(found.items()) if place % 3}


def layouts():
    """Every file without comments and as another formatter would write it; and with other blank lines."""
    made = {f"format {file}": {file: ast.unparse(parsed(file)) + "\n"} for file in SOURCES}
    made["blank lines"] = {file: FILES[file].replace("\n", "\n\n# a comment\n", 3) for file in SOURCES[:1]}
    return made


def extractions():
    """What a function returns, computed by a function of its own."""
    found = {}
    for file in SOURCES:
        for place, function in enumerate(parsed(file).body):
            last = function.body[-1] if isinstance(function, ast.FunctionDef) else None
            if not isinstance(last, ast.Return) or isinstance(last.value, ast.Name):
                continue
            names = sorted({n.id for n in ast.walk(last.value) if isinstance(n, ast.Name)} & {*locals_of(function)})
            call = f"_result({', '.join(names)})"
            tree = parsed(file)
            tree.body[place].body[-1] = ast.parse(f"return {call}").body[0]
            tree.body.insert(place, ast.parse(f"def {call}:\n    return {ast.unparse(last.value)}\n").body[0])
            found[f"extract a function from {file}:{function.name}"] = {file: ast.unparse(tree)}
    return found


#: What is changed -> file, pieces of text: old, new.
REORDERED = {
    "the loss before the optimizer": (
        "src/tiny/loop.py",
        "    optimizer = torch.optim.SGD(groups(model), lr=PEAK, momentum=0.9)\n"
        '    loss_function = torch.nn.CrossEntropyLoss(reduction="sum")\n',
        '    loss_function = torch.nn.CrossEntropyLoss(reduction="sum")\n'
        "    optimizer = torch.optim.SGD(groups(model), lr=PEAK, momentum=0.9)\n",
    ),
    "the batches before the loss": (
        "src/tiny/loop.py",
        '    loss_function = torch.nn.CrossEntropyLoss(reduction="sum")\n    chunks = batches(seed)\n',
        '    chunks = batches(seed)\n    loss_function = torch.nn.CrossEntropyLoss(reduction="sum")\n',
    ),
    "the batches before zero_grad": (
        "src/tiny/loop.py",
        "        optimizer.zero_grad()\n        parts = [next(chunks) for _ in range(ACCUMULATE)]\n",
        "        parts = [next(chunks) for _ in range(ACCUMULATE)]\n        optimizer.zero_grad()\n",
    ),
    "other group first": (
        "src/tiny/loop.py",
        '[{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]',
        '[{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]',
    ),
}
EQUIVALENT = {
    "the other branch first": (
        "src/tiny/rates.py",
        "    if step < warmup:\n        return peak * (step + 1) / warmup\n    return peak * (steps - step) / (steps - warmup)\n",
        "    if step >= warmup:\n        return peak * (steps - step) / (steps - warmup)\n    return peak * (step + 1) / warmup\n",
    ),
    "1 + step": ("src/tiny/rates.py", "(step + 1)", "(1 + step)"),
    "a function for a method": ("src/tiny/model.py", "self.first(x).relu()", "nn.functional.relu(self.first(x))"),
    "layers under other names": ("src/tiny/model.py", "self.first", "self.embed"),
    "dim()": ("src/tiny/loop.py", "p.ndim > 1", "p.dim() > 1"),
    "shape for len": ("src/tiny/loop.py", "len(y) for _, y in parts", "y.shape[0] for _, y in parts"),
    "matmul": ("src/tiny/data.py", "x @ teacher", "torch.matmul(x, teacher)"),
    "a while loop": ("src/tiny/loop.py", "    for step in range(STEPS):\n", "    for step in list(range(STEPS)):\n"),
    "gradients set to none": ("src/tiny/loop.py", "zero_grad()", "zero_grad(set_to_none=True)"),
}
#: These round otherwise: the steps differ, and the training is the same.
ROUNDED = {
    "times three and back": ("src/tiny/model.py", "self.last(hidden)", "self.last(3 * hidden / 3)"),
    "times the inverse": ("src/tiny/loop.py", "/ total", "* (1 / total)"),
    "a mean for a sum": (
        "src/tiny/loop.py",
        "loss_function(model(x), y) / total",
        "torch.nn.functional.cross_entropy(model(x), y) * len(y) / total",
    ),
    "a linear layer by hand": (
        "src/tiny/model.py",
        "self.last(hidden)",
        "(hidden.unsqueeze(1) * self.last.weight).sum(-1) + self.last.bias",
    ),
}


def replaced(changes):
    made = {}
    for name, (file, old, new) in changes.items():
        assert old in FILES[file], name
        made[name] = {file: FILES[file].replace(old, new)}
    return made


def harmless():
    """Name -> files; the first part is the same to the bit."""
    exact = renames() | layouts() | extractions() | replaced(REORDERED) | replaced(EQUIVALENT)
    return exact, replaced(ROUNDED)
