"""An httpx transport that asks a world directly, without a socket, and a client that is already linked."""

import time
from urllib.parse import parse_qsl

import httpx

from allegro_simulator.http import Request, Response
from allegro_simulator.world import World


class WorldTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=WorldTransport(world))`. A slow answer waits, or times out at once if it would."""

    def __init__(self, world: World) -> None:
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        query = request.url.query.decode("ascii")
        response = self._world.handle(
            Request(
                method=request.method,
                path=request.url.path,
                query=parse_qsl(query, keep_blank_values=True),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=request.read(),
            )
        )
        _fail(request, response)
        return httpx.Response(response.status, headers=response.headers, content=response.body, request=request)


def linked_client(
    world: World,
    seller_id: str,
    *,
    user_agent: str = "simulator-client/1.0 (+https://shop.example/info)",
    scope: str = "",
) -> httpx.Client:
    """A client with an access token of this seller and the right headers; its requests go through WorldTransport."""
    headers = {
        "authorization": f"Bearer {_access_token(world, seller_id, scope)}",
        "accept": "application/vnd.allegro.public.v1+json",
        "user-agent": user_agent,
    }
    return httpx.Client(transport=WorldTransport(world), base_url=world.base_url, headers=headers)


def _access_token(world: World, seller_id: str, scope: str) -> str:
    secrets = (world.client_id, world.client_secret)
    with httpx.Client(transport=WorldTransport(world), base_url=world.base_url, auth=secrets) as client:
        asked = client.post("/auth/oauth/device", data={"client_id": world.client_id, "scope": scope})
        device = asked.raise_for_status().json()
        if any(waiting["user_code"] == device["user_code"] for waiting in world.devices()):
            world.approves(device["user_code"], seller_id)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device["device_code"]}
        given = client.post("/auth/oauth/token", data=form).raise_for_status()
    return str(given.json()["access_token"])


def _fail(request: httpx.Request, response: Response) -> None:
    fault = response.fault
    if fault is None:
        return
    if fault.kind == "reset":
        raise httpx.ReadError("Connection reset by peer", request=request)
    if fault.kind == "truncated":
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body", request=request)
    patience = request.extensions.get("timeout", {}).get("read")
    if patience is not None and patience < fault.seconds:
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    time.sleep(fault.seconds)
