"""Whether the fast tests notice faults: a seeded sample of small changes to the sources.

``python tools/mutate.py --per-file 15 --seed 0 --out report.md`` changes one place of one file at
a time, in a copy of the tree, and runs the tests that reach the changed lines. A change is killed
if a test fails, or if the tests take too long. The report has the share that was killed, and
every change that survived. Paths under ``src/cantata`` restrict the run to these files.

It is a mutator of our own since cosmic-ray and mutmut sample neither by file nor reproducibly,
run one command for all of a project, and start an interpreter for each change, which would import
torch and scvi-tools for most of the time. Here the dependencies are imported once, and each run
is a fork that imports cantata anew.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/cantata")
DEPENDENCIES = ("hypothesis", "matplotlib.pyplot", "muon", "numba", "scanpy", "scvi", "sklearn")
"""Imported once, for all runs."""
SLOW = 5.0
"""Tests that take longer, in seconds, are left out."""
BUDGET = 25.0
"""Seconds of the processor that tests of one change may take, the fastest first."""
TIMEOUT = 120.0
"""Seconds beyond thrice the time of the tests after which a change counts as killed."""


def of_models(*names: str) -> list[str]:
    """Test files of models."""
    return [f"tests/model/test_{name}.py" for name in names]


CLUE = of_models("clue_plan", "clue_module", "clue_lifecycle", "clue_impute")
SCMODAL = of_models("scmodal_module", "scmodal_lifecycle", "scmodal_impute", "scmodal_refine")
APOLLO = of_models(
    "apollo_module", "apollo_plan", "apollo_batches", "apollo_lifecycle", "apollo_resume"
)
TL = ["tests/tl/test_arguments.py"]
LATENT, LINKS, DIM = ([*TL, f"tests/tl/{part}"] for part in ("latent", "links", "dimensions"))
NUMERIC = ["tests/_numeric", "tests/test_feature_statistics.py", "tests/test_ground_rooms.py"]

TARGETS: dict[str, list[str]] = {
    "losses": ["tests/losses"],
    "metrics": ["tests/metrics"],
    **{
        f"data/_{name}.py": ["tests/data"]
        for name in ("fields", "loader", "query", "splitter", "unpaired")
    },
    "data": ["tests/data", *of_models("clue_lifecycle", "inputs", "given_data")],
    "model/_plan.py": of_models("clue_plan", "clue_lifecycle", "given_data"),
    "model/clue/_module.py": CLUE,
    "model/clue/_plan.py": CLUE,
    "model/scmodal/_module.py": SCMODAL,
    "model/scmodal/_plan.py": SCMODAL,
    "model/apollo/_module.py": APOLLO,
    "model/apollo/_plan.py": APOLLO,
    "tl/_latent/_differences.py": LATENT,
    "tl/_latent/_latent_association.py": LATENT,
    "tl/_links/_correlation.py": LINKS,
    "tl/_dimensions/_parallel_analysis.py": DIM,
    "tl/_dimensions/_shared_variates.py": DIM,
    "_numeric/batches.py": [*NUMERIC, "tests/metrics", "tests/pp/test_preprocess.py"],
    "_numeric/canonical.py": [*NUMERIC, *DIM, *of_models("apollo_start")],
    "_numeric/components.py": [*NUMERIC, "tests/pp/test_normalise.py", *DIM],
    "_numeric/normalise.py": [*NUMERIC, "tests/pp/test_normalise.py"],
    "_numeric": [*NUMERIC, *LINKS, "tests/metrics"],
}
"""Files, or folders of files, that are changed, and the tests that have to notice."""


# Changes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """Characters `start` to `stop` of a file, and what takes their place."""

    line: int
    last: int
    start: int
    stop: int
    text: str


COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
SKIPPED_CALLS = ("self.log", "logger.", "warnings.", "warn", "print", "TypeVar", "ValueError")
"""Beginnings of calls whose arguments are messages, or say how something is shown."""
SYMMETRIC_CALLS = {"max", "min", "maximum", "minimum", "isinstance", "getattr", "cast"}
"""Calls whose arguments cannot be swapped, or in vain."""
SKIPPED_KEYWORDS = {"strict", "stacklevel", "copy", "non_blocking"}
"""Arguments without an effect on results."""
LARGE = 20
"""Integers from here on are doubled, smaller ones are one more."""
GRADIENT_GUARDS = {"no_grad", "inference_mode"}


def called(node: ast.AST) -> str:
    """Last part of the name of what a call calls."""
    function = node.func if isinstance(node, ast.Call) else node
    return getattr(function, "attr", getattr(function, "id", ""))


def is_skipped(node: ast.Call) -> bool:
    """Whether a call is one of :data:`SKIPPED_CALLS`."""
    return ast.unparse(node.func).startswith(SKIPPED_CALLS)


class Mutations(ast.NodeVisitor):
    """Collects the changes to a file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[Mutant] = []
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line.encode()))
        self._encoded = source.encode()
        self._assigned: set[str] = set()
        self.visit(ast.parse(source))

    def _add(self, node: Any, text: str) -> None:
        start = self._line_starts[node.lineno - 1] + node.col_offset
        stop = self._line_starts[node.end_lineno - 1] + node.end_col_offset
        start, stop = (len(self._encoded[:i].decode()) for i in (start, stop))
        self.found.append(Mutant(node.lineno, node.end_lineno, start, stop, text))

    def _replace(self, node: ast.expr, new: ast.expr) -> None:
        self._add(node, f"({ast.unparse(new)})")

    # what is left as it is

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Messages."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Help for the type checker."""

    def visit_arg(self, node: ast.arg) -> None:
        """Names and types of parameters."""
        self._assigned.add(node.arg)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Decorators of classes are left out."""
        for part in node.body:
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Defaults and body; decorators and types are left out, but for gradient guards."""
        outer, self._assigned = self._assigned, set()
        for decorator in node.decorator_list:
            if called(decorator) in GRADIENT_GUARDS:
                self._add(decorator, "torch.enable_grad()")
        self.visit(node.args)
        for part in node.body:
            self.visit(part)
        self._assigned = outer

    # what is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        """Another comparison."""
        for i, op in enumerate(node.ops):
            ops = [*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]]
            self._replace(node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Another operator."""
        is_text = any(
            isinstance(side, ast.JoinedStr)
            or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not is_text:
            self._replace(node, ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """``or`` for ``and`` and the reverse."""
        op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, ast.BoolOp(op, node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without ``not``, or the sign."""
        self._replace(node, node.operand)
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Another number or truth value."""
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, str(node.value + 1 if node.value < LARGE else 2 * node.value))
        elif isinstance(node.value, float):
            self._add(node, str(node.value * 2 or 1.0))

    def _condition(self, node: Any) -> None:
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            self._replace(node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """The opposite condition; what only type checkers see is left out."""
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self._condition(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The opposite condition."""
        self._condition(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Without a call."""
        if isinstance(node.value, ast.Call) and not is_skipped(node.value):
            if ast.unparse(node.value) != "super().__init__()":
                self._add(node, "pass")
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Without an assignment to what has a value already, or is an item or an attribute."""
        names = [ast.unparse(target) for target in node.targets]
        if names == ["__all__"]:
            return
        target = node.targets[0]
        is_name = isinstance(target, ast.Name)
        if (is_name and names[0] in self._assigned) or isinstance(target, ast.Subscript):
            self._add(node, "pass")
        self._assigned.update(names)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value."""
        if node.value is not None:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Without it."""
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        """With gradients."""
        for item in node.items:
            if called(item.context_expr) in GRADIENT_GUARDS:
                self._add(item.context_expr, "torch.enable_grad()")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Without ``detach``, or with its first two arguments swapped."""
        if is_skipped(node):
            return
        if called(node) == "detach" and isinstance(node.func, ast.Attribute):
            self._replace(node, node.func.value)
        first = node.args[:2]
        if (
            len(first) == 2
            and not any(isinstance(a, ast.Starred) for a in first)
            and called(node) not in SYMMETRIC_CALLS
            and ast.dump(first[0]) != ast.dump(first[1])
        ):
            args = [first[1], first[0], *node.args[2:]]
            self._replace(node, ast.Call(node.func, args, node.keywords))
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """The value."""
        if node.arg not in SKIPPED_KEYWORDS:
            self.visit(node.value)


# Runs -------------------------------------------------------------------------------------------


@dataclass
class Baseline:
    """Seconds of the processor of each test, and the tests that reach each line of sources."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class Recorder:
    """Plugin of pytest that tells coverage which test is run, and its time."""

    def __init__(self, baseline: Baseline, cover: coverage.Coverage) -> None:
        self.baseline, self.cover = baseline, cover

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Start the clock of the processor, which other processes do not slow down."""
        self.baseline.seconds[nodeid] = -time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Stop it."""
        self.baseline.seconds[nodeid] += time.process_time()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """What fixtures reach."""
        self.cover.switch_context(f"{item.nodeid}|setup")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """What the test reaches."""
        self.cover.switch_context(f"{item.nodeid}|call")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Leave out what fails or is skipped."""
        if report.failed or report.skipped:
            self.baseline.failed.append(report.nodeid)


def run_pytest(tree: Path, tests: list[str], plugins: list[Any]) -> int:
    """Run tests on a copy of the tree, without output."""
    os.chdir(tree)
    sys.path.insert(0, str(tree / "src"))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
        if plugins:
            options.remove("-x")
        return int(pytest.main([*options, *tests], plugins=plugins))


def measure(pipe: Connection, tree: Path, tests: list[str]) -> None:
    """Send the :class:`Baseline` of tests."""
    cover = coverage.Coverage(data_file=None, source=[str(tree / PACKAGE)], config_file=False)
    baseline = Baseline()
    cover.start()
    run_pytest(tree, tests, [Recorder(baseline, cover)])
    cover.stop()
    data = cover.get_data()
    for name in data.measured_files():
        lines = data.contexts_by_lineno(name)
        path = Path(name).relative_to(tree).as_posix()
        baseline.reached[path] = {n: {c for c in found if c} for n, found in lines.items()}
    pipe.send(baseline)


def judge(pipe: Connection, tree: Path, tests: list[str]) -> None:
    """Send whether a test failed."""
    sys.dont_write_bytecode = True
    pipe.send(run_pytest(tree, tests, []) != 0)


def forked(function: Callable[..., None], *args: Any, timeout: float | None = None) -> Any:
    """What a function sends from a fork; None if it sends nothing in time."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(timeout) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def noticing(baseline: Baseline, path: str, mutant: Mutant) -> list[str]:
    """Fast tests that reach a change, the fastest first."""
    reached = baseline.reached.get(path, {})
    contexts = set().union(*(reached.get(n, set()) for n in range(mutant.line, mutant.last + 1)))
    tests = {c.rpartition("|")[0] for c in contexts}
    # a fixture of a file is charged to the first of its tests
    files = {c.partition("::")[0] for c in contexts if c.endswith("|setup")}
    if not contexts and any(n in reached for n in range(mutant.line, mutant.last + 1)):
        files = {test.partition("::")[0] for test in baseline.seconds}
    tests |= {test for test in baseline.seconds if test.partition("::")[0] in files}
    return fast(baseline, tests)


def fast(baseline: Baseline, tests: set[str]) -> list[str]:
    """Those of the tests that there is time for, the fastest first."""
    chosen, total = [], 0.0
    for test in sorted(tests - set(baseline.failed), key=baseline.seconds.__getitem__):
        total += baseline.seconds[test]
        if baseline.seconds[test] < SLOW and total < BUDGET:
            chosen.append(test)
    return chosen


def difference(source: str, mutant: Mutant) -> str:
    """The first lines of a change, before and after."""
    mutated = source[: mutant.start] + mutant.text + source[mutant.stop :]
    old = source.splitlines()[mutant.line - 1 : mutant.last]
    n_new = mutated.count("\n") - source.count("\n") + len(old)
    new = mutated.splitlines()[mutant.line - 1 :][:n_new]
    old_line, new_line = (" ".join(line.strip() for line in lines) for lines in (old, new))
    return f"L{mutant.line} `{old_line}` -> `{new_line}`"


def targets(paths: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Files that are changed, and their tests."""
    taken: set[Path] = set()
    for name, tests in TARGETS.items():
        place = ROOT / PACKAGE / name
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            relative = path.relative_to(ROOT / PACKAGE).as_posix()
            chosen = not paths or any(relative.startswith(p.rstrip("/")) for p in paths)
            if path.name != "__init__.py" and path not in taken and chosen:
                yield path.relative_to(ROOT), tests
            taken.add(path)


def run(paths: list[str], per_file: int, seed: int, out: Path | None) -> None:
    """Change every target and write the report."""
    for name in DEPENDENCIES:
        import_module(name)
    baselines: dict[tuple[str, ...], Baseline] = {}
    killed: dict[str, tuple[int, int]] = {}
    survivors: dict[str, list[str]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        for part in ("src", "tests", "tutorials"):
            shutil.copytree(ROOT / part, tree / part)
        shutil.copy(ROOT / "pyproject.toml", tree)
        for path, tests in targets(paths):
            if tuple(tests) not in baselines:
                baselines[tuple(tests)] = baseline = forked(measure, tree, tests)
                if forked(judge, tree, fast(baseline, set(baseline.seconds))) is not False:
                    raise SystemExit(f"{tests} fail without a change.")
            baseline = baselines[tuple(tests)]
            source = (ROOT / path).read_text(encoding="utf-8")
            found = Mutations(source).found
            sample = random.Random(f"{seed} {path}").sample(found, min(per_file, len(found)))
            n_killed, start = 0, time.monotonic()
            for mutant in sorted(sample, key=lambda m: m.start):
                text = source[: mutant.start] + mutant.text + source[mutant.stop :]
                (tree / path).write_text(text, encoding="utf-8")
                chosen = noticing(baseline, path.as_posix(), mutant)
                limit = TIMEOUT + 3 * sum(baseline.seconds[t] for t in chosen)
                # a fork that ends without a word was broken by the change
                survives = not chosen or forked(judge, tree, chosen, timeout=limit) is False
                n_killed += not survives
                if survives:
                    note = "" if chosen else " (no fast test reaches it)"
                    survivors[path.as_posix()].append(difference(source, mutant) + note)
            (tree / path).write_text(source, encoding="utf-8")
            killed[path.as_posix()] = n_killed, len(sample)
            seconds = time.monotonic() - start
            print(f"{path}: {n_killed}/{len(sample)} in {seconds:.0f} s", file=sys.stderr)
            text = report(killed, survivors)
            if out is not None:
                out.write_text(text, encoding="utf-8")
    print(text)


def report(killed: dict[str, tuple[int, int]], survivors: dict[str, list[str]]) -> str:
    """Markdown with a table of the files, and the survivors."""
    n_killed, n = (sum(pair[i] for pair in killed.values()) for i in (0, 1))
    lines = ["| file | killed | changes |", "|---|---|---|"]
    lines += [f"| {path} | {k} | {total} |" for path, (k, total) in killed.items()]
    lines += [f"| all | {n_killed} ({n_killed / max(n, 1):.0%}) | {n} |"]
    for path, changes in survivors.items():
        lines += ["", f"{path}:", "", *(f"- {change}" for change in changes)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="files or folders, under src/cantata")
    parser.add_argument("--per-file", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run(options.paths, options.per_file, options.seed, options.out)
