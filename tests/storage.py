"""A real S3 on 127.0.0.1 (`rclone serve s3`): a bucket for each test, its server stopped and started by name."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from orders_backup import store as stores
from orders_backup.local import processes
from orders_backup.settings import Settings
from orders_backup.store import Store

RCLONE = Path(sys.executable).with_name("rclone")
KEY, SECRET = "test-key", "test-secret-key"


@dataclass
class Bucket:
    """A bucket on a server of its own; `folder` holds its objects as files."""

    folder: Path
    port: int
    server: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        options = ["--addr", address, "--auth-key", f"{KEY},{SECRET}"]
        command = [str(RCLONE), "--config", "/dev/null", "serve", "s3", *options, str(self.folder.parent)]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1500):
            if processes.accepts_connections("127.0.0.1", self.port):
                return
            assert self.server.poll() is None, "rclone ended"
            time.sleep(0.02)
        raise AssertionError("rclone does not listen")

    def stop(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def store(self, *, prefix: str = "", secret: str = SECRET, name: str | None = None) -> Store:
        return stores.connect(
            name or self.folder.name,
            prefix=prefix,
            endpoint_url=self.url,
            access_key_id=KEY,
            secret_access_key=secret,
        )

    def settings(self, settings: Settings) -> Settings:
        """The same settings with this bucket."""
        return settings.model_copy(
            update={
                "s3_bucket": self.folder.name,
                "s3_endpoint_url": self.url,
                "aws_access_key_id": KEY,
                "aws_secret_access_key": SecretStr(SECRET),
            }
        )

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """An empty bucket on a server that runs."""
    folder = tmp_path_factory.mktemp("s3") / "bucket"
    folder.mkdir()
    made = Bucket(folder, processes.free_port())
    try:
        made.start()
        yield made
    finally:
        made.stop()
