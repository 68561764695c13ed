"""Composition root: settings become real things here and nowhere else."""

import threading
from dataclasses import dataclass, field

import httpx
from sqlalchemy.engine import Engine

from orders_backup import db as database
from orders_backup import vault as vaults
from orders_backup.allegro import client, oauth
from orders_backup.codec import Codec
from orders_backup.errors import SettingsError
from orders_backup.settings import Settings, parse_keys


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a process works with. `clock` runs with the database's time once a claim has set it; `stopping` is set
    when the process is asked to end, and jobs stop at their next page."""

    settings: Settings
    db: Engine
    vault: vaults.Vault
    codec: Codec
    clock: database.Clock
    allegro: client.Client
    oauth: oauth.OAuth
    stopping: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.allegro.close()
        self.oauth.close()
        self.db.dispose()


def build(settings: Settings, *, pool_size: int = 10, transport: httpx.BaseTransport | None = None) -> Runtime:
    """Everything a process needs, not yet connected to anything. Raises SettingsError naming what is missing.

    `transport` carries the calls to Allegro instead of the network.
    """
    if not settings.database_url:
        raise SettingsError(
            "DATABASE_URL is not set, and no running `orders-backup up` was found"
            f" in {settings.data_dir}. Set it, or start `orders-backup up`."
        )
    clock = database.Clock()
    return Runtime(
        settings=settings,
        db=database.connect(settings.database_url, pool_size=pool_size),
        vault=vaults.from_keys(parse_keys(settings.encryption_keys.get_secret_value())),
        codec=Codec(),
        clock=clock,
        allegro=client.connect(settings.api_url, settings.allegro_user_agent, clock.now, transport=transport),
        oauth=oauth.connect(
            settings.auth_url,
            settings.allegro_client_id,
            settings.allegro_client_secret.get_secret_value(),
            settings.allegro_user_agent,
            transport=transport,
        ),
    )
