"""The house rules: what is documented, authenticated, migrated, placed and named stays so."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from sqlalchemy.engine import Engine
from starlette.routing import BaseRoute

from orders_backup import api, bell, errors, log, rest, tables, worker
from orders_backup import db as database
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OPEN_TO_ALL = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_ONE_PAGE = 900
"""For what is read as one page: all tables, which are declarations only, and all verbs of the simulator."""
ON_ONE_PAGE = {"orders_backup/tables.py", "allegro_simulator/world.py"}
MOST_LINES_OF_A_FUNCTION = 60


# The database


def test_there_is_one_newest_revision() -> None:
    assert len(ScriptDirectory(str(ROOT / "migrations")).get_heads()) == 1


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
def test_a_migrated_database_is_what_tables_says(db: Engine) -> None:
    with database.transaction(db) as tx:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(tx, opts=options)
        assert compare_metadata(context, tables.metadata) == []


# What is documented


def page(name: str) -> str:
    found = ROOT / "docs" / name
    assert found.is_file(), f"docs/{name} is missing"
    return found.read_text()


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    of_the_service = page("settings.md").partition("\n## ")[0]
    documented = set(re.findall(r"^\|\s*`([A-Z][A-Z0-9_]+)`", of_the_service, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_error_code_is_documented() -> None:
    codes = {error.code for error in error_classes()}
    text = page("api.md")
    assert {code for code in codes if f"`{code}`" not in text} == set()


def error_classes() -> Iterator[type[errors.OrdersBackupError]]:
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, errors.OrdersBackupError):
            yield found


def test_every_error_has_a_code_of_its_own_a_status_and_a_title() -> None:
    classes = list(error_classes())
    assert len({error.code for error in classes}) == len(classes)
    for error in classes:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
        assert 400 <= error.status <= 599
        assert error.title[0].isupper()
        assert error.__doc__


# The API and the worker


def routes(app: FastAPI) -> dict[str, Dependant | None]:
    """Each path with what its route depends on; None for what FastAPI and Starlette add themselves."""

    def walk(found: list[BaseRoute]) -> Iterator[Any]:
        for route in found:
            inner = getattr(route, "original_router", None)
            yield from walk(inner.routes) if inner is not None else [route]

    return {route.path: getattr(route, "dependant", None) for route in walk(app.routes)}


def is_authenticated(dependant: Dependant) -> bool:
    return dependant.call is rest.caller or any(is_authenticated(inner) for inner in dependant.dependencies)


def test_every_route_is_authenticated_or_on_the_short_list(runtime: Runtime) -> None:
    app = api.create_app(runtime)
    found = routes(app)
    assert set(app.openapi()["paths"]) <= set(found)
    assert len(found) > len(OPEN_TO_ALL) + 5
    assert {path for path, needs in found.items() if needs is None or not is_authenticated(needs)} == OPEN_TO_ALL


def test_every_route_that_says_it_is_authenticated_refuses_a_caller_without_a_key(runtime: Runtime) -> None:
    for path, operations in api.create_app(runtime).openapi()["paths"].items():
        for operation in operations.values():
            assert ("401" in operation["responses"]) is (path not in OPEN_TO_ALL), path


@pytest.mark.filterwarnings("ignore:Task name")
def test_every_task_that_is_rung_is_registered(runtime: Runtime) -> None:
    app = bell.celery_app(runtime.settings)
    worker.register(app, runtime)
    own = {name for name in app.tasks if not name.startswith("celery.")}
    assert own == set(worker.TABLES)


@pytest.mark.filterwarnings("ignore:Task name")
def test_every_task_takes_the_key_of_its_table(runtime: Runtime) -> None:
    app = bell.celery_app(runtime.settings)
    worker.register(app, runtime)
    for name, table in worker.TABLES.items():
        code = app.tasks[name].run.__code__
        assert list(code.co_varnames[: code.co_argcount]) == [column.name for column in table.primary_key.columns]


def test_every_table_of_claimable_work_is_rung() -> None:
    claimable = {table for table in tables.metadata.tables.values() if "lease_generation" in table.columns}
    assert claimable == set(worker.TABLES.values())


# Imports

PLANTED = [
    ("settings.py", "from orders_backup import budget", "imports point down"),
    ("newcomer.py", "", "imports point down"),
    ("orders/changes.py", "from orders_backup import db", "pure modules do no input or output"),
    ("orders/projection.py", "import httpx", "pure modules do no input or output"),
    ("sync/state.py", "import fastapi", "only the edges know FastAPI"),
    ("sync/pull.py", "import celery", "only the worker knows Celery"),
    ("orders/queries.py", "import typer", "only the command line knows Typer"),
    ("api.py", "from orders_backup.orders import archive", "only the sync writes the archive"),
    ("sync/pull.py", "from orders_backup.orders import heads", "only the archive writes heads"),
    ("local/server.py", "from orders_backup.orders import http", "routes are mounted, never called"),
    ("worker.py", "import allegro_simulator.world", "the product and the simulator do not know each other"),
    ("accounts/spool.py", "from orders_backup.accounts import connect", "no import cycles"),
]


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources and the contracts, to plant violations in."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def contracts_broken(folder: Path) -> list[str]:
    """The names of the contracts that the sources in this folder break."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    environment = {"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "COLUMNS": "200"}
    ended = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    broken = re.findall(r"^(.+) BROKEN$", ended.stdout, re.MULTILINE)
    assert (ended.returncode == 0) is (not broken), ended.stdout + ended.stderr
    assert "Contracts:" in ended.stdout, ended.stdout + ended.stderr
    return broken


def test_the_sources_keep_every_contract(copied_sources: Path) -> None:
    assert contracts_broken(copied_sources) == []


@pytest.mark.parametrize(("place", "line", "contract"), PLANTED, ids=[f"{row[0]}: {row[1]}" for row in PLANTED])
def test_a_planted_violation_breaks_its_contract(copied_sources: Path, place: str, line: str, contract: str) -> None:
    file = copied_sources / "src" / "orders_backup" / place
    before = file.read_text() if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n")
    try:
        assert contract in contracts_broken(copied_sources)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)


def test_every_contract_was_seen_to_fail() -> None:
    names = set(
        re.findall(r'\[\[tool\.importlinter\.contracts\]\]\nname = "(.+)"', (ROOT / "pyproject.toml").read_text())
    )
    assert names == {contract for _, _, contract in PLANTED}


# The code itself

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
IRREGULAR = {"lost", "gone", "set_aside", "found", "cut_short"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Where something is logged in the product, and the call."""
    for file in SOURCES:
        if "orders_backup" not in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id in {"log", "logger", "_log"}:
                yield f"{file.name}:{node.lineno}", node


def log_events() -> list[tuple[str, ast.expr | None]]:
    """The first argument of each."""
    return [(where, call.args[0] if call.args else None) for where, call in log_calls()]


def test_every_log_event_is_a_constant_name_in_the_past_tense() -> None:
    found = log_events()
    assert len(found) > 15
    for where, argument in found:
        assert isinstance(argument, ast.Constant), where
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", str(argument.value)), where
        name = str(argument.value)
        is_past = name.endswith(("ed", *(f"_{word}" for word in IRREGULAR)))
        assert is_past, f"{where} {name}"


def test_every_log_event_is_documented_and_nothing_else_is() -> None:
    table = page("operating.md").partition("### Events\n")[2].partition("\n#")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = re.findall(r"`([a-z_]+)`", " ".join(first_cells))
    assert len(documented) == len(set(documented))
    written = {str(argument.value) for _, argument in log_events() if isinstance(argument, ast.Constant)}
    assert set(documented) == written | {"library_complained"}


def test_every_field_that_is_logged_by_name_is_allowed() -> None:
    for where, call in log_calls():
        names = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info"}
        assert names <= set(log.FIELDS), where


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT / "src")))
def test_no_file_and_no_function_is_too_long(file: Path) -> None:
    text = file.read_text()
    on_one_page = file.relative_to(ROOT / "src").as_posix() in ON_ONE_PAGE
    assert len(text.splitlines()) <= (MOST_LINES_OF_ONE_PAGE if on_one_page else MOST_LINES_OF_A_FILE)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {length} lines"
