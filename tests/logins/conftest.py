"""Tells the tally of the campaign, also when all went well."""

import pytest

from . import test_logins


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in test_logins.TOLD:
        terminalreporter.write_line(f"logins, seed {test_logins.SEED}: {line}")
