"""How many list pages the simulator serves on one core: what the other benches may ask of it without waiting for it."""

import time

import httpx
from bench import scene as scenes
from bench.figures import Bound, Outcome
from bench.scene import Scene

from orders_backup.allegro import client

PAGES = 2_000
PAGES_PER_SECOND = 500.0
DEEPEST = 9_900


def measure(scene: Scene) -> Outcome:
    """Pages of a hundred orders for each second of the simulator's own CPU; its clients run on other cores."""
    settings = scene.runtime.settings
    headers = {
        "Accept": client.ACCEPT,
        "User-Agent": settings.allegro_user_agent,
        "Authorization": f"Bearer {scenes.access_token(scene)}",
    }
    deepest = max(min(scene.orders - client.LIST_LIMIT, DEEPEST), client.LIST_LIMIT)
    with httpx.Client(base_url=settings.api_url, headers=headers, trust_env=False) as http:
        began, cpu = time.monotonic(), scenes.cpu_seconds(scene.simulator.child.pid)
        served = 0
        for number in range(PAGES):
            offset = number * client.LIST_LIMIT % deepest
            answer = http.get("/order/checkout-forms", params={"offset": offset, "limit": client.LIST_LIMIT})
            served += len(answer.raise_for_status().content)
        wall, cpu = time.monotonic() - began, scenes.cpu_seconds(scene.simulator.child.pid) - cpu
    bounds = {"pages_per_cpu_s": Bound(PAGES / cpu, PAGES_PER_SECOND, at_least=True)}
    figures: dict[str, object] = {"pages_per_wall_s": PAGES / wall, "kb_per_page": served / PAGES / 1024}
    return Outcome("simulator", scene.orders, bounds, figures, is_informative=True)
