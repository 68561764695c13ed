"""The spool on a disk that takes nothing more."""

import resource
from pathlib import Path

import pytest

from orders_backup.accounts import spool


def test_a_full_disk_is_told_and_leaves_what_was_kept_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    spool.write(target, b"whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.write(target, b"longer" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_bytes() == b"whole"
