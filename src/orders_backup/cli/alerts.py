"""Alerts: listed, silenced, tried."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from orders_backup.cli.shared import AsJson, DataDir, acting, opened, print_rows

alerts = typer.Typer(help="What is wrong.", epilog="Example: orders-backup alerts list --open", no_args_is_help=True)

Rule = Annotated[str | None, typer.Option(help="Of this rule only; docs/operating.md lists them.")]


@alerts.command("list", epilog="Example: orders-backup alerts list --open --json")
def list_alerts(
    *,
    is_open: Annotated[bool | None, typer.Option("--open/--over", help="Only those; else both.")] = None,
    rule: Rule = None,
    account_id: Annotated[uuid.UUID | None, typer.Option("--account", help="Of this account only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most, newest first.")] = 100,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List what is wrong, and was."""
    from orders_backup import db
    from orders_backup.alerts import queries

    wanted: dict[str, Any] = {"is_open": is_open, "rule": rule, "account_id": account_id}
    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found, _ = queries.page(tx, seen_by=None, after=None, limit=limit, **wanted)
    lines = [
        f"{one.opened_at:%Y-%m-%d %H:%M}  {f'over {one.recovered_at:%m-%d %H:%M}' if one.recovered_at else 'open':16}"
        f"{one.severity:9}{one.rule:18}{one.subject}  {one.detail}".rstrip()
        for one in found
    ]
    print_rows(found, lines, as_json=as_json)


@alerts.command("silence", epilog="Example: orders-backup alerts silence --rule webhook_failing --hours 4")
def silence(
    *,
    rule: Rule = None,
    subject: Annotated[str | None, typer.Option(help="Of this account, webhook … only, as `list` names it.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="For how long.")] = 1.0,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Tell nothing of a rule, a subject, or both together, for a while."""
    from orders_backup import db
    from orders_backup.alerts import queries, rules, state

    if (rule is None and subject is None) or (rule is not None and rule not in rules.BY_NAME):
        raise typer.BadParameter(f"Name a --subject, or a --rule among {', '.join(rules.BY_NAME)}.")
    until = datetime.now(UTC) + timedelta(hours=hours)
    about = {"rule": rule, "subject": subject, "until": f"{until:%Y-%m-%dT%H:%M:%SZ}", "reason": reason or None}
    with acting(data_dir, "silence_alerts", **about) as runtime, db.transaction(runtime.db) as tx:
        made = state.silence(tx, rule=rule, subject=subject, until=until, reason=reason)
        shown = queries.silence(tx, made, seen_by=None)
    print_rows(shown, [f"Silent until {until:%Y-%m-%d %H:%M} UTC: {made}"], as_json=as_json)


@alerts.command("silences", epilog="Example: orders-backup alerts silences --json")
def list_silences(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List of what nothing is, or was, told."""
    from orders_backup import db
    from orders_backup.alerts import queries

    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found, _ = queries.silences(tx, seen_by=None, after=None, limit=1000)
    lines = [
        f"{one.id}  until {one.until:%Y-%m-%d %H:%M}  {one.rule or 'any rule'}  {one.subject or 'any subject'}"
        for one in found
    ]
    print_rows(found, lines, as_json=as_json)


@alerts.command("unsilence", epilog="Example: orders-backup alerts unsilence 6b1f…")
def end_silence(
    silence_id: Annotated[uuid.UUID, typer.Argument(help="As `alerts silences` prints it.")], data_dir: DataDir = None
) -> None:
    """Tell of it again from now on."""
    from orders_backup import db
    from orders_backup.alerts import state

    with acting(data_dir, "end_silence", silence_id=silence_id) as runtime, db.transaction(runtime.db) as tx:
        state.end_silence(tx, silence_id)
    typer.echo("It is told of again.")


@alerts.command("test", epilog="Example: orders-backup alerts test --json")
def try_channels(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Send a test message by each channel of ALERT_URLS. Exit code 0 only where all took it. Needs no database."""
    from orders_backup import channels, local
    from orders_backup.alerts import texts
    from orders_backup.cli.shared import log_to_stderr
    from orders_backup.errors import SettingsError

    log_to_stderr()
    settings = local.current_settings(data_dir)
    ways_out = channels.connect(settings.alert_urls.get_secret_value())
    if not ways_out.names:
        raise SettingsError("ALERT_URLS is not set: nobody is told. docs/settings.md says what to write.")
    message = texts.test_message(installation=f"Allegro Orders Backup ({settings.allegro_environment})")
    outcomes = ways_out.send({name: [message] for name in ways_out.names})
    found = [{"channel": name, "error": one.error} for name, one in outcomes.items()]
    print_rows(found, [f"{one['channel']}: {one['error'] or 'taken'}" for one in found], as_json=as_json)
    if any(one.error for one in outcomes.values()):
        raise typer.Exit(1)
