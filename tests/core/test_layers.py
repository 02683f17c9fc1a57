"""core <- components <- engine <- study <- cli; lower never imports upper; core and engine name no method."""

import ast
import re
from pathlib import Path

import regimes.core
from regimes.core.registry import REGISTRY

SRC = Path(regimes.core.__file__).parent.parent
LAYERS = {
    "core": 0,
    "schedules controllers averagers losses selectors grad_transforms augment optimizers sources samplers mixtures "
    "model_transforms probes weights optim groups integrations scaling": 1,
    "engine workloads": 2,
    "study report recipes diagnosis atlas testing claims ejection track": 3,
    "cli __main__": 4,
}
LEVEL = {name: level for names, level in LAYERS.items() for name in names.split()}


def imports(file):
    """Module-level and function-level imports of our own packages, as (package, name)."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("regimes."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "regimes":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("regimes."))


def test_lower_layers_never_import_upper_ones():
    wrong = []
    for file in SRC.rglob("*.py"):
        own = file.relative_to(SRC).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imports(file):
            if LEVEL[other] > LEVEL[own]:
                wrong.append(f"{file.relative_to(SRC)} imports {other}")
    assert wrong == [], wrong


def test_core_and_engine_name_no_method():
    import regimes  # noqa: F401 (registers everything)

    plain = {"Phase", "Regime", "Pair", "Then", "Clip", "Sampled", "Window", "times", "between"}
    # Words that name a role in contracts as well as a component.
    methods = sorted(cls.__name__ for cls in REGISTRY.classes() if cls.__name__ not in plain)
    pattern = re.compile(rf"\b({'|'.join(methods)})\(")
    wrong = []
    for folder in ("core", "engine"):
        for file in (SRC / folder).rglob("*.py"):
            code = _without_strings(file)
            wrong += [f"{folder}/{file.name}: {match[1]}" for match in pattern.finditer(code)]
    assert wrong == [], wrong


def _without_strings(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)
