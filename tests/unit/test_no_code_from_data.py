"""Nothing that comes in is ever run, unpickled, or put into SQL: the sources are searched for every way to do so."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

import pytest

from tests.unit.test_layers import FILES

NEVER_IMPORTED = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "jsonpickle",
}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}
NEVER_CALLED_OF = {
    "os": {"system", "popen"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
    "hnswlib": {"load_index"},
}
SQL_METHODS = {"execute", "executemany", "executescript"}
# SQL that is put together of parts that are no constants, and why no input can be one of them
SQL_FROM_PARTS = {
    # as many question marks as there are labels, or ids
    "SQL: f'SELECT label, first, last, {_DOCUMENT} FROM chunks JOIN documents USING (doc) WHERE label IN ({marks})'",
    "SQL: f'{_DOCUMENTS} WHERE id IN ({marks})'",
}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def owner(function: ast.expr) -> str | None:
    """`np` of `np.load`."""
    return function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else None


def constants(body: Iterable[ast.AST]) -> dict[str, ast.expr]:
    """Names that are bound once, to which expression."""
    found: dict[str, list[ast.expr]] = {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def is_constant(node: ast.expr, names: dict[str, ast.expr]) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.Name():
            return node.id in names and is_constant(names[node.id], names)
        case ast.BinOp(op=ast.Add()):
            return is_constant(node.left, names) and is_constant(node.right, names)
        case ast.JoinedStr():
            parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            return all(is_constant(part.value, names) for part in parts)
        case _:
            return False


def sql_from_parts(tree: ast.Module) -> set[str]:
    """What goes to SQLite and is no constant, as the function writes it that calls SQLite."""
    found = set()
    module = constants(tree.body)
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]:
        known = module | constants(ast.walk(scope)) if scope is not tree else module
        for call in calls(scope):
            if getattr(call.func, "attr", "") not in SQL_METHODS or not call.args:
                continue
            sql = call.args[0]
            if scope is tree and any(call in ast.walk(node) for node in tree.body if not isinstance(node, ast.Expr)):
                continue  # inside of a function or class, which is looked at by itself
            if not is_constant(sql, known):
                found.add(ast.unparse(known.get(sql.id, sql) if isinstance(sql, ast.Name) else sql))
    return found


def faults(source: str) -> list[str]:
    """What is not allowed anywhere in a file, with its line."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{node.lineno}: imports {name}" for name in names if name.partition(".")[0] in NEVER_IMPORTED]  # type: ignore[attr-defined]
    for call in calls(tree):
        function, name = call.func, getattr(call.func, "attr", getattr(call.func, "id", ""))
        if isinstance(function, ast.Name) and name in NEVER_CALLED:
            found.append(f"{call.lineno}: calls {name}")
        if name in NEVER_CALLED_OF.get(owner(function) or "", ()) or name == "load_index":
            found.append(f"{call.lineno}: calls {owner(function)}.{name}")
        for keyword in call.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and not off:
                found.append(f"{call.lineno}: {keyword.arg} is not False")
        if (
            owner(function) in ("np", "numpy")
            and name == "load"
            and not any(k.arg == "allow_pickle" for k in call.keywords)
        ):
            found.append(f"{call.lineno}: np.load without allow_pickle=False")
    found += [f"SQL: {sql}" for sql in sql_from_parts(tree)]
    return found


@pytest.mark.parametrize("module", FILES)
def test_a_module_runs_nothing_that_is_data(module: str) -> None:
    assert set(faults(FILES[module].read_text())) <= SQL_FROM_PARTS


def test_every_exception_is_still_needed() -> None:
    found = [fault for path in FILES.values() for fault in faults(path.read_text())]
    assert sorted(found) == sorted(SQL_FROM_PARTS)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import yaml",
        "eval(x)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "index.load_index(path)",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=maybe)",
        "os.system(line)",
        "connection.execute(f'SELECT {name}')",
        "connection.execute('SELECT ' + name)",
        "connection.execute('SELECT %s' % name)",
        "A = 'x'\nconnection.execute(f'SELECT {A} {b}')",
        "def f(name):\n    sql = 'SELECT ' + name\n    connection.execute(sql)",
        "class A:\n    def f(self, sql):\n        self.writer.executemany(sql, ())",
        "connection.execute(sql)",
        "Model(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert len(faults(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "A = 'x'\nB = f'SELECT {A} ' 'FROM t'\nconnection.execute(B, (value,))",
        "subprocess.run(['ls'], shell=False)",
        "pattern = re.compile(text)",
        "orjson.loads(value)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_the_search_does_not_complain_about_what_is_right(source: str) -> None:
    assert faults(source) == []
