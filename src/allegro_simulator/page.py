"""The page where a person allows or denies an application; HTML in, HTML out."""

from html import escape
from typing import Any, Protocol
from urllib.parse import parse_qsl

from allegro_simulator import answers
from allegro_simulator.http import Request, Response
from allegro_simulator.state import Seller, UnknownInSimulatorError

_FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Allegro simulator</title>
<style>body{{font:16px/1.5 sans-serif;max-width:30em;margin:4em auto;padding:0 1em}}
input,select,button{{font:inherit;padding:.3em .6em;margin:.2em 0}}</style>
<h1>Link an application</h1>{content}</html>"""
_FORM = """<p>An application asks to read your orders. This is a simulator: no password is needed.</p>
<form method="post"><p><label>Code<br><input name="user_code" value="{code}" required></label></p>
<p><label>Seller<br><select name="seller_id">{options}</select></label></p>
<button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button></form>
<p>Waiting codes: {waiting}</p>"""


class Verified(Protocol):
    """What the page needs of a world."""

    @property
    def sellers(self) -> list[Seller]: ...
    def devices(self) -> list[dict[str, Any]]: ...
    def approves(self, user_code: str, seller_id: str) -> None: ...
    def denies(self, user_code: str) -> None: ...


def answer(world: Verified, request: Request) -> Response:
    """The form on GET, the decision on POST."""
    if request.method != "POST":
        return _form(world, dict(request.query).get("code", ""))
    given = dict(parse_qsl(request.body.decode("utf-8", "replace")))
    try:
        if given.get("decision") == "allow":
            world.approves(given.get("user_code", ""), given.get("seller_id", ""))
            return _page(200, "<p>Allowed. You may close this page.</p>")
        world.denies(given.get("user_code", ""))
    except UnknownInSimulatorError as unknown:
        return _page(404, f"<p>{escape(str(unknown))}</p>")
    return _page(200, "<p>Denied. You may close this page.</p>")


def _form(world: Verified, code: str) -> Response:
    options = "".join(
        f'<option value="{escape(seller.id)}">{escape(seller.login)} ({escape(seller.id)})</option>'
        for seller in world.sellers
    )
    waiting = ", ".join(device["user_code"] for device in world.devices()) or "none"
    return _page(200, _FORM.format(code=escape(code), options=options, waiting=waiting))


def _page(status: int, content: str) -> Response:
    return answers.answer(status, _FRAME.format(content=content).encode(), "text/html; charset=utf-8")
