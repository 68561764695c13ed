"""The console command `allegro-simulator`: builds a world, serves it, says how to point a client at it."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from allegro_simulator import server
from allegro_simulator.world import World

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8090,
    orders: Annotated[int, typer.Option(min=0, help="Orders of each seller.")] = 100,
    sellers: Annotated[int, typer.Option(min=0, help="Sellers.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same world.")] = 1,
    months: Annotated[int, typer.Option(min=1, help="Months of history; beyond 12 nothing is served.")] = 12,
    access_token_seconds: Annotated[int, typer.Option(help="Life of an access token.")] = 43_199,
    refresh_grace: Annotated[float, typer.Option(help="Seconds a used refresh token works on.")] = 60.0,
    device_interval: Annotated[int, typer.Option(help="Seconds between polls of the device flow.")] = 5,
    auto_approve: Annotated[bool, typer.Option(help="Nobody has to allow an application.")] = False,
    client_limit: Annotated[int, typer.Option(help="Requests a minute before the client id is blocked.")] = 9_000,
    event_lag: Annotated[float, typer.Option(help="Seconds before an event is in the journal.")] = 0.0,
    check_user_agent: Annotated[bool, typer.Option(help="Refuse a User-Agent of another form.")] = True,
    client_id: Annotated[str, typer.Option(help="Client id of the one application.")] = "simulator",
    client_secret: Annotated[str, typer.Option(help="Its secret.")] = "simulator-secret",  # noqa: S107
    ahead: Annotated[
        bool, typer.Option(help="Render every order before serving; costs 2 s and 230 MB in 50,000.")
    ] = False,
    live: Annotated[float, typer.Option(min=0, help="Things that happen by themselves, per minute.")] = 0.0,
) -> None:
    """Simulates the Allegro.pl orders API and its OAuth device flow.

    Example: `allegro-simulator --orders 500 --sellers 2 --auto-approve --live 30`
    """
    world = World(
        seed=seed,
        access_token_seconds=access_token_seconds,
        refresh_grace_seconds=refresh_grace,
        device_interval=device_interval,
        device_auto_approve=auto_approve,
        client_limit=client_limit,
        client_id=client_id,
        client_secret=client_secret,
        event_lag=event_lag,
        check_user_agent=check_user_agent,
    )
    for _ in range(sellers):
        seller = world.add_seller(orders, months=months)
        if ahead:
            world.renders(seller.id)
    try:
        asyncio.run(
            server.serve_until_signal(
                world, host=host, port=port, live=live, started=lambda url: _introduce(world, url)
            )
        )
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _introduce(world: World, url: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]Allegro simulator[/bold] listens on [bold]{url}[/bold]  (Ctrl-C ends it)")
    console.print(f"  API base URL    {url}")
    console.print(f"  Auth base URL   {url}")
    console.print(f"  Client id       {world.client_id}")
    console.print(f"  Client secret   {world.client_secret}")
    console.print(f"  Allow an app    {url}/skojarz-aplikacje")
    for seller in world.sellers:
        console.print(f"  Seller          {seller.id}  {seller.login}  {len(world.orders(seller.id))} orders")
    console.print("Point both base URLs of a client here. Make something happen:")
    console.print(f'  curl -X POST {url}/_simulator/happens -d \'{{"seller_id": "99000001", "n": 5}}\'')


def main() -> None:
    """Run the command."""
    app()
