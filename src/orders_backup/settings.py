"""All configuration: read once, checked, frozen. No other module reads the environment."""

import base64
import binascii
import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orders_backup import channels
from orders_backup.errors import SettingsError

HOSTS = {
    "production": ("https://api.allegro.pl", "https://allegro.pl"),
    "sandbox": ("https://api.allegro.pl.allegrosandbox.pl", "https://allegro.pl.allegrosandbox.pl"),
}
"""API host and authorization host of each environment (Allegro's documentation)."""

OWN_PREFIXES = ("ALLEGRO_", "RATE_LIMIT_")
"""Environment variables with these prefixes are ours alone, so an unknown one is a typing error."""

MOST_SECONDS = 1e9
_UNITS = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_USER_AGENT = re.compile(r"[!-~]+/\d+(\.\d+)* \(\+https?://[!-~]+\)")


def parse_duration(value: object) -> object:
    """Seconds as a number, or a number with s, min, h or d: `150`, `150 s`, `6h`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    if isinstance(value, timedelta):
        return value
    if match is None or match[2] not in _UNITS or float(match[1]) > MOST_SECONDS:
        raise ValueError("must be a number of seconds, or a number with s, min, h or d, such as 150 s or 6 h")
    return timedelta(seconds=min(float(match[1]) * _UNITS[match[2]], 10 * MOST_SECONDS))


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Settings(BaseModel):
    """Every setting with its default. Names in the environment are the same in upper case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path("./.orders-backup")
    database_url: str = Field(default="", repr=False)
    broker_url: str = Field(default="", repr=False)

    allegro_environment: Literal["production", "sandbox"] = "production"
    allegro_api_url: str = ""
    allegro_auth_url: str = ""
    allegro_client_id: str = ""
    allegro_client_secret: SecretStr = SecretStr("")
    allegro_user_agent: str = "allegro-orders-backup/0.1 (+https://example.com/allegro-orders-backup)"

    encryption_keys: SecretStr = SecretStr("")

    s3_bucket: str = ""
    s3_endpoint_url: str = ""
    s3_prefix: str = "orders-backup"
    aws_region: str = ""
    aws_access_key_id: str = ""
    aws_secret_access_key: SecretStr = Field(default=SecretStr(""), validate_default=True)
    aws_session_token: SecretStr = SecretStr("")

    backup_interval: Duration = timedelta(days=1)
    drill_interval: Duration = timedelta(days=1)
    drill_whole_interval: Duration = timedelta(days=7)
    drill_database_url: str = Field(default="", repr=False)
    postgres_bin: str = ""

    events_interval: Duration = timedelta(seconds=150)
    events_interval_shortest: Duration | None = None
    events_interval_longest: Duration | None = None
    sync_interval: Duration = timedelta(hours=6)
    sweep_interval: Duration = timedelta(hours=1)
    device_flow_timeout: Duration = timedelta(hours=1)
    lease: Duration = timedelta(seconds=45)
    export_retention: Duration = timedelta(days=7)

    rate_limit_client: int = 9000
    rate_limit_default: int = 1000
    rate_limit_orders: int = 100
    rate_limit_events: int = 60
    rate_limit_auth: int = 10
    calls_in_flight: int = 4
    rate_limit_extras: int = 750
    rate_limit_api: int = 6000

    webhook_allowed_hosts: str = ""

    alert_urls: SecretStr = SecretStr("")

    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    otel_exporter_otlp_endpoint: str = ""

    @field_validator("allegro_user_agent")
    @classmethod
    def _user_agent_is_what_allegro_asks_for(cls, value: str) -> str:
        if not _USER_AGENT.fullmatch(value):
            raise ValueError("must look like Name/1.0 (+https://your.site/about), in ASCII, without spaces in the name")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _is_a_bucket(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
            raise ValueError("must be a bucket's name: 3 to 63 small letters, digits, dots and hyphens")
        return value

    @field_validator("s3_prefix")
    @classmethod
    def _is_a_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?", value.strip("/")):
            raise ValueError("must be names of letters, digits, dots, hyphens and underscores, with / between them")
        return value.strip("/")

    @field_validator("aws_region", "aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    @classmethod
    def _can_stand_in_a_header(cls, value: Any, info: ValidationInfo) -> Any:
        """Only where we use it: these variables may belong to other programs."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if info.data.get("s3_bucket") and not re.fullmatch(r"[!-~]*", text):
            raise ValueError("must be one word of ASCII, without quotes around it")
        return value

    @field_validator("aws_secret_access_key")
    @classmethod
    def _belongs_to_its_key_id(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        is_half = bool(value.get_secret_value()) != bool(info.data.get("aws_access_key_id"))
        if info.data.get("s3_bucket") and is_half:
            raise ValueError("and AWS_ACCESS_KEY_ID belong together: set both, or none of them")
        return value

    @field_validator("allegro_api_url", "allegro_auth_url", "s3_endpoint_url", "otel_exporter_otlp_endpoint")
    @classmethod
    def _is_a_web_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/]+(/[^\s]*)?", value):
            raise ValueError("must be a web address such as https://api.allegro.pl")
        return value.rstrip("/")

    @field_validator("database_url", "drill_database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        if value and not value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("must be a PostgreSQL address: postgresql://user:password@host:5432/database")
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_a_known_broker(cls, value: str) -> str:
        if value and not value.startswith(("redis://", "rediss://", "amqp://", "amqps://")):
            raise ValueError(
                "must be redis://host:6379/0 (Valkey, Redis) or amqp://user:password@host:5672// (RabbitMQ)"
            )
        return value

    @field_validator(
        "events_interval",
        "events_interval_shortest",
        "events_interval_longest",
        "sync_interval",
        "sweep_interval",
        "device_flow_timeout",
        "lease",
        "export_retention",
    )
    @classmethod
    def _is_positive(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(seconds=1):
            raise ValueError("must be at least 1 second")
        return value

    @field_validator("backup_interval", "drill_interval", "drill_whole_interval")
    @classmethod
    def _is_never_or_not_too_often(cls, value: timedelta) -> timedelta:
        if timedelta(0) != value < timedelta(hours=1):
            raise ValueError("must be at least 1 hour, or 0 for never")
        return value

    @field_validator(
        "rate_limit_client",
        "rate_limit_default",
        "rate_limit_orders",
        "rate_limit_events",
        "rate_limit_auth",
        "rate_limit_extras",
        "rate_limit_api",
    )
    @classmethod
    def _allows_at_least_one_call(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be at least 1 request per minute")
        return value

    @field_validator("rate_limit_client")
    @classmethod
    def _allows_two_calls_in_a_row(cls, value: int) -> int:
        if value < 60:
            raise ValueError(
                "must be at least 60 requests per minute: a journal and an order are read one after the other"
            )
        return value

    @field_validator("calls_in_flight")
    @classmethod
    def _is_a_handful(cls, value: int) -> int:
        if not 1 <= value <= 16:
            raise ValueError("must be 1 to 16 calls")
        return value

    @field_validator("rate_limit_auth")
    @classmethod
    def _leaves_room_for_a_second_try(cls, value: int) -> int:
        if value < 3:
            raise ValueError("must be at least 3 requests per minute: a refresh is repeated within 60 seconds")
        return value

    @field_validator("webhook_allowed_hosts")
    @classmethod
    def _names_hosts(cls, value: str) -> str:
        for host in filter(None, (one.strip() for one in value.split(","))):
            if not re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]|[0-9A-Fa-f]*::?[0-9A-Fa-f:]+)(:\d{1,5})?", host):
                raise ValueError(
                    "must be hosts, or hosts with ports, with commas between: hooks.internal,10.0.0.7:8080"
                )
        return value

    @field_validator("alert_urls")
    @classmethod
    def _names_channels(cls, value: SecretStr) -> SecretStr:
        """Asks Apprise itself: what it does not understand would otherwise show at the first alert."""
        known = channels.are_known(channels.addresses(value.get_secret_value()))
        if False in known:
            raise ValueError(
                f"must be Apprise addresses with spaces between, such as mailto://user:password@example.com; number"
                f" {known.index(False) + 1} is none that Apprise understands, or it needs a package that is missing"
            )
        return value

    @model_validator(mode="after")
    def _keys_are_readable(self) -> Self:
        parse_keys(self.encryption_keys.get_secret_value())
        return self

    @property
    def allowed_webhook_hosts(self) -> frozenset[str]:
        """Hosts, or hosts with ports, that webhooks may go to although they are not of the public internet."""
        return frozenset(filter(None, (one.strip().lower() for one in self.webhook_allowed_hosts.split(","))))

    @property
    def api_url(self) -> str:
        """Base URL of Allegro's REST API."""
        return self.allegro_api_url or HOSTS[self.allegro_environment][0]

    @property
    def auth_url(self) -> str:
        """Base URL of Allegro's authorization server."""
        return self.allegro_auth_url or HOSTS[self.allegro_environment][1]


def parse_keys(text: str) -> list[tuple[str, bytes]]:
    """Key ids with their 32 bytes, in order: `id:base64,id:base64`; the first encrypts, all decrypt.

    Empty for an empty text. Raises ValueError saying what to write.
    """
    keys = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key_id, _, encoded = part.partition(":")
        try:
            key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError):
            key = b""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,16}", key_id) or len(key) != 32:
            raise ValueError(
                "must be a list id:key,id:key with base64 keys of 32 bytes: key1:$(head -c 32 /dev/urandom | base64)"
            )
        keys.append((key_id, key))
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise ValueError("must name each key id once")
    return keys


def load(*, data_dir: Path | None = None, env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """The settings: what is given here, then the environment, then `.env`, then what `up` wrote in the data directory.

    Raises SettingsError with one sentence that names the setting.
    """
    names = set(Settings.model_fields)
    from_file = {name.lower(): value for name, value in dotenv_values(env_file).items()} if env_file else {}
    for name in [*from_file, *(name.lower() for name in os.environ if name.startswith(OWN_PREFIXES))]:
        if name not in names and not name.upper().startswith("AWS_"):
            raise SettingsError(f"{name.upper()} is not a setting. docs/settings.md lists them all.")
    given = {name: value for name, value in overrides.items() if value is not None}
    given |= {"data_dir": data_dir} if data_dir else {}
    chosen_dir = Path(
        given.get("data_dir") or os.environ.get("DATA_DIR") or from_file.get("data_dir") or "./.orders-backup"
    )
    merged = {
        **_running(chosen_dir),
        **{name: value for name, value in from_file.items() if value},
        **{name: os.environ[name.upper()] for name in names if os.environ.get(name.upper())},
        **given,
    }
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "ENCRYPTION_KEYS"
        raise SettingsError(f"{name} {first['msg'].removeprefix('Value error, ')}.") from None


def _running(data_dir: Path) -> dict[str, str]:
    """What the embedded default wrote down: addresses of its database and broker, and its encryption key."""
    found: dict[str, str] = {}
    for name in ("secrets.json", "running.json"):
        try:
            values = json.loads((data_dir / name).read_text())
        except (OSError, ValueError):
            continue
        found |= {key: value for key, value in values.items() if key in Settings.model_fields}
    return found
