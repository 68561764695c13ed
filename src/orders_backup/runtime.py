"""Composition root: settings become real things here and nowhere else."""

import threading
from dataclasses import dataclass, field

import httpx
from sqlalchemy.engine import Engine

from orders_backup import channels as ways_out
from orders_backup import db as database
from orders_backup import store as stores
from orders_backup import vault as vaults
from orders_backup.allegro import client, oauth
from orders_backup.channels import Channels
from orders_backup.codec import Codec
from orders_backup.drift import Drift
from orders_backup.errors import SettingsError
from orders_backup.latency import Latencies
from orders_backup.settings import Settings, parse_keys


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a process works with. `clock` runs with the database's time once a claim has set it; `store` is None
    where no bucket is set; jobs stop at their next page once `stopping` is set."""

    settings: Settings
    db: Engine
    vault: vaults.Vault
    codec: Codec
    clock: database.Clock
    allegro: client.Client
    oauth: oauth.OAuth
    store: stores.Store | None
    channels: Channels = field(default_factory=Channels)
    latencies: Latencies = field(default_factory=Latencies)
    drift: Drift = field(default_factory=Drift)
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
        store=_store(settings),
        channels=ways_out.connect(settings.alert_urls.get_secret_value()),
    )


def _store(settings: Settings) -> stores.Store | None:
    if not settings.s3_bucket:
        return None
    return stores.connect(
        settings.s3_bucket,
        prefix=settings.s3_prefix,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.aws_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        session_token=settings.aws_session_token.get_secret_value(),
    )
