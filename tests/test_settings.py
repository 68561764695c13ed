"""Settings: where they come from, which wins, and the one sentence for each that is wrong."""

import base64
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup import settings
from orders_backup.errors import SettingsError
from orders_backup.settings import Settings

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty environment and an empty directory to stand in."""
    for name in os.environ:
        if name.lower() in Settings.model_fields or name.startswith(settings.OWN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets environment variables."""

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def in_env_file(*lines: str) -> None:
    Path(".env").write_text("\n".join(lines))


def in_data_dir(folder: str, name: str, text: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    Path(folder, name).write_text(text)


def test_nothing_needs_to_be_set() -> None:
    found = settings.load()
    assert found == Settings()
    assert (found.api_url, found.auth_url) == ("https://api.allegro.pl", "https://allegro.pl")


def test_an_argument_wins_over_the_environment_over_the_file_over_the_data_directory(
    environment: Callable[..., None],
) -> None:
    names = ("running", "file", "environment", "argument")
    values = {name: f"redis://{name}:6379/0" for name in names}

    def chosen(**overrides: Any) -> str:
        return settings.load(**overrides).broker_url.removeprefix("redis://").removesuffix(":6379/0")

    in_data_dir(".orders-backup", "running.json", json.dumps({"broker_url": values["running"]}))
    assert chosen() == "running"
    in_env_file(f"BROKER_URL={values['file']}")
    assert chosen() == "file"
    environment(BROKER_URL=values["environment"])
    assert chosen() == "environment"
    assert chosen(broker_url=values["argument"]) == "argument"
    assert chosen(broker_url=None) == "environment"


def test_an_empty_value_counts_as_not_set(environment: Callable[..., None]) -> None:
    in_data_dir(".orders-backup", "running.json", '{"broker_url": "redis://running:6379/0"}')
    in_env_file("BROKER_URL=", "EVENTS_INTERVAL")
    environment(BROKER_URL="", ALLEGRO_ENVIRONMENT="")
    assert settings.load().broker_url == "redis://running:6379/0"


@pytest.mark.parametrize("how", ["argument", "environment", "file"])
def test_the_data_directory_is_found_wherever_it_is_named(environment: Callable[..., None], how: str) -> None:
    in_data_dir("elsewhere", "running.json", '{"broker_url": "redis://here:1/0", "pid": 7}')
    in_data_dir("elsewhere", "secrets.json", json.dumps({"encryption_keys": f"k:{KEY}"}))
    if how == "environment":
        environment(DATA_DIR="elsewhere")
    if how == "file":
        in_env_file("DATA_DIR=elsewhere")
    found = settings.load(data_dir=Path("elsewhere") if how == "argument" else None)
    assert (found.broker_url, found.data_dir) == ("redis://here:1/0", Path("elsewhere"))
    assert found.encryption_keys.get_secret_value() == f"k:{KEY}"


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"broker_url": "'])
def test_a_half_written_file_in_the_data_directory_is_no_setting(text: str) -> None:
    in_data_dir(".orders-backup", "running.json", text)
    assert settings.load() == Settings()


def test_no_env_file_is_read_where_none_is_wanted() -> None:
    in_env_file("ALLEGRO_NONSENSE=1")
    assert settings.load(env_file=None) == Settings()


@pytest.mark.parametrize("name", ["ALLEGRO_CLIENT_IDD", "ALLEGRO_", "RATE_LIMIT_CLIENTS"])
def test_a_mistyped_environment_variable_is_named(environment: Callable[..., None], name: str) -> None:
    environment(**{name: "1"})
    assert complaint() == f"{name} is not a setting. docs/settings.md lists them all."


@pytest.mark.parametrize("name", ["ALLEGRO_CLIENT_IDD", "DATABSE_URL", "LEASES", "PATH"])
def test_a_mistyped_line_of_the_env_file_is_named(name: str) -> None:
    in_env_file("LEASE=30", f"{name}=1")
    assert complaint() == f"{name} is not a setting. docs/settings.md lists them all."


def test_other_peoples_environment_variables_are_left_alone(environment: Callable[..., None]) -> None:
    environment(DATABASE_URLS="x", LEASES="x", allegro_lower_case="x")
    assert settings.load() == Settings()


WRONG = [
    ("allegro_environment", "test", "'production' or 'sandbox'"),
    ("allegro_api_url", "api.allegro.pl", "web address such as https://api.allegro.pl"),
    ("allegro_api_url", "ftp://api.allegro.pl", "web address"),
    ("allegro_auth_url", "https://a b", "web address"),
    ("allegro_user_agent", "shop", "Name/1.0 (+https://your.site/about)"),
    ("allegro_user_agent", "My Shop/1.0 (+https://a.pl)", "without spaces"),
    ("allegro_user_agent", "Żółw/1.0 (+https://a.pl)", "ASCII"),
    ("allegro_user_agent", "a/1 (+https://a.pl)\r\nX-Header: 1", "Name/1.0"),
    ("database_url", "mysql://localhost/x", "postgresql://user:password@host:5432/database"),
    ("database_url", "localhost", "postgresql://"),
    ("broker_url", "http://localhost", "redis://host:6379/0"),
    ("broker_url", "localhost:6379", "amqp://"),
    ("encryption_keys", "no-colon", "base64 keys of 32 bytes"),
    ("encryption_keys", "k:c2hvcnQ=", "base64 keys of 32 bytes"),
    ("encryption_keys", f"a name:{KEY}", "id:key"),
    ("encryption_keys", f":{KEY}", "id:key"),
    ("encryption_keys", f"{'k' * 17}:{KEY}", "id:key"),
    ("encryption_keys", f"k:{KEY},k:{KEY}", "each key id once"),
    ("events_interval", "soon", "must be a number of seconds"),
    ("events_interval", "0", "at least 1 second"),
    ("sync_interval", "-5", "must be a number of seconds"),
    ("sync_interval", "6 hours", "must be a number of seconds"),
    ("device_flow_timeout", "0.5 s", "at least 1 second"),
    ("lease", "nan", "must be a number of seconds"),
    ("lease", "1 s 2 s", "must be a number of seconds"),
    ("rate_limit_client", "59", "at least 60 requests per minute"),
    ("rate_limit_default", "-1", "at least 1 request"),
    ("rate_limit_orders", "many", "integer"),
    ("rate_limit_events", "1.5", "integer"),
    ("rate_limit_auth", "1e3", "integer"),
    ("s3_bucket", "My_Bucket", "3 to 63 small letters"),
    ("s3_bucket", "s3://bucket", "bucket's name"),
    ("s3_endpoint_url", "s3.example.com", "web address"),
    ("s3_prefix", "../other", "names of letters"),
    ("s3_prefix", "a//b", "with / between them"),
    ("log_format", "xml", "'json' or 'console'"),
    ("log_level", "LOUD", "'DEBUG', 'INFO'"),
]


@pytest.mark.parametrize("how", ["environment", "file", "argument"])
@pytest.mark.parametrize(("name", "value", "told"), WRONG, ids=[f"{name}={value[:12]}" for name, value, _ in WRONG])
def test_a_malformed_value_is_one_sentence_that_names_its_setting(
    environment: Callable[..., None], how: str, name: str, value: str, told: str
) -> None:
    if how == "environment":
        environment(**{name.upper(): value})
    if how == "file":
        in_env_file(f"{name.upper()}='{value}'")
    said = complaint(**({name: value} if how == "argument" else {}))
    assert said.startswith(f"{name.upper()} ")
    assert told in said
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 200


def test_the_keys_of_a_bucket_belong_together_and_stand_in_no_complaint() -> None:
    assert complaint(s3_bucket="shop", aws_access_key_id="AKIA").startswith(
        "AWS_SECRET_ACCESS_KEY and AWS_ACCESS_KEY_ID"
    )
    assert complaint(s3_bucket="shop", aws_secret_access_key="hunter2").endswith("set both, or none of them.")
    said = complaint(s3_bucket="shop", aws_access_key_id="AKIA", aws_secret_access_key="'hunter2 '")
    assert said.startswith("AWS_SECRET_ACCESS_KEY must be one word of ASCII")
    assert "hunter2" not in said


def test_without_a_bucket_the_keys_are_other_peoples() -> None:
    assert settings.load(aws_access_key_id="AKIA", aws_region="any where").s3_bucket == ""


def test_a_prefix_is_given_with_slashes_or_without() -> None:
    assert settings.load(s3_prefix="/shop/production/").s3_prefix == "shop/production"


def test_a_duration_beyond_all_calendars_is_one_sentence() -> None:
    assert complaint(events_interval="99999999999d").startswith("EVENTS_INTERVAL ")


@pytest.mark.parametrize("value", ["rubbish", "k:c2hvcnQ=", f"k:{KEY},k:{KEY}"])
def test_no_complaint_about_keys_repeats_them(value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.load(encryption_keys=value)
    told = f"{refused.value!s}{refused.value!r}{refused.value.args}"
    assert value not in told
    assert KEY not in told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("150", 150),
        (" 150 ", 150),
        ("150s", 150),
        ("150 s", 150),
        ("2.5min", 150),
        ("6h", 21_600),
        ("6 h", 21_600),
        ("2d", 172_800),
        ("1m", 60),
        (90, 90),
        (timedelta(minutes=3), 180),
    ],
)
def test_durations_are_seconds_or_a_number_with_its_unit(text: object, seconds: int) -> None:
    assert settings.load(events_interval=text).events_interval == timedelta(seconds=seconds)


@given(st.integers(1, 10**5), st.sampled_from([("", 1), ("s", 1), ("min", 60), ("h", 3600), ("d", 86400)]))
def test_every_whole_number_with_every_unit_is_a_duration(number: int, unit: tuple[str, int]) -> None:
    assert settings.parse_duration(f"{number}{unit[0]}") == timedelta(seconds=number * unit[1])


def test_keys_keep_their_order_and_may_be_of_either_base64() -> None:
    odd = bytes(range(221, 253))
    plain, web = base64.b64encode(odd).decode(), base64.urlsafe_b64encode(odd).decode().rstrip("=")
    assert plain != web
    assert settings.parse_keys(f" new:{plain}, old_1:{web} ,") == [("new", odd), ("old_1", odd)]
    assert settings.parse_keys("") == settings.parse_keys(" , ") == []


def test_no_secret_shows_in_a_repr_or_a_dump() -> None:
    found = settings.load(encryption_keys=f"k:{KEY}", allegro_client_secret="hunter2")
    shown = f"{found!r}{found!s}{found.model_dump()}{found.model_dump_json()}"
    assert "hunter2" not in shown
    assert KEY not in shown
    assert found.allegro_client_secret.get_secret_value() == "hunter2"


def test_no_password_of_an_address_shows_in_a_repr() -> None:
    found = settings.load(database_url="postgresql://u:hunter2@h/x", broker_url="amqp://u:hunter2@h//")
    assert "hunter2" not in repr(found)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load().lease = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("environment_name", "api", "auth"),
    [
        ("production", "https://api.allegro.pl", "https://allegro.pl"),
        ("sandbox", "https://api.allegro.pl.allegrosandbox.pl", "https://allegro.pl.allegrosandbox.pl"),
    ],
)
def test_each_environment_has_its_hosts_unless_others_are_named(environment_name: str, api: str, auth: str) -> None:
    found = settings.load(allegro_environment=environment_name)
    assert (found.api_url, found.auth_url) == (api, auth)
    named = settings.load(allegro_environment=environment_name, allegro_api_url="http://127.0.0.1:8080/")
    assert (named.api_url, named.auth_url) == ("http://127.0.0.1:8080", auth)


def complaint(**overrides: Any) -> str:
    """What is said when the settings are loaded."""
    with pytest.raises(SettingsError) as refused:
        settings.load(**overrides)
    return str(refused.value)
