"""The campaign's database, in which time stands in its hand."""

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Engine

from .__main__ import database
from .hand import in_hand
from .stage import watched_files


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """One database for all stories, emptied before each."""
    with database() as connected:
        yield connected


@pytest.fixture(autouse=True)
def _time_in_hand() -> Iterator[None]:
    with in_hand(), watched_files():
        yield
