"""Ways out for alerts: the only place that knows Apprise. Sends what it is given by each channel, and says how it went.

A channel that hangs keeps nobody waiting: each has a thread of its own and SEND_WITHIN seconds, and while it still
hangs it is not tried again. Apprise follows no redirect, keeps nothing on the disk, links to no picture, and reads no
file of configuration: a message goes where ALERT_URLS says. docs/decisions/0019-alerts.md tells more.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

SEND_WITHIN = 20.0
"""Seconds in which a channel has to take all that it is given."""

_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
log = structlog.get_logger()


class Told(Protocol):
    """What a channel is given. `tone`: failure, warning, success or info."""

    @property
    def title(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def tone(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`taken`: how many of the messages were taken, in their order; `error`: why not all, in a word of ours."""

    taken: int
    error: str | None


def addresses(text: str) -> list[str]:
    """The Apprise URLs of a setting: spaces, line ends or commas between them."""
    return [one.strip() for one in _BETWEEN.split(text.strip()) if one.strip()]


def are_known(urls: Sequence[str]) -> list[bool]:
    """Whether Apprise understands each of them."""
    return [re.search(r"\s", url) is None and _plugin(url) is not None for url in urls]


@dataclass(slots=True)
class Channels:
    """The channels that are set, by name: place and kind (`1-mailto`), because addresses are secrets."""

    urls: Mapping[str, str] = field(repr=False, default_factory=dict)
    hanging: dict[str, threading.Thread] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.urls)

    def send(self, given: Mapping[str, Sequence[Told]]) -> dict[str, Outcome]:
        """Gives each channel its messages, all channels at once. Takes SEND_WITHIN seconds at most."""
        attempts = {name: _Attempt(self.urls[name], messages) for name, messages in given.items() if messages}
        threads: dict[str, threading.Thread] = {}
        for name, attempt in attempts.items():
            if name in self.hanging and self.hanging[name].is_alive():
                attempt.error = "hangs"
                continue
            threads[name] = threading.Thread(target=attempt.run, name="alert", daemon=True)
            threads[name].start()
        deadline = time.monotonic() + SEND_WITHIN
        for thread in threads.values():
            thread.join(max(deadline - time.monotonic(), 0))
        self.hanging |= {name: thread for name, thread in threads.items() if thread.is_alive()}
        return {name: attempt.outcome(threads.get(name)) for name, attempt in attempts.items()}


def connect(text: str) -> Channels:
    """The channels of the setting ALERT_URLS."""
    urls = addresses(text)
    return Channels({f"{place}-{url.partition('://')[0].lower()}": url for place, url in enumerate(urls, 1)})


@dataclass(slots=True)
class _Attempt:
    url: str = field(repr=False)
    messages: Sequence[Told]
    taken: int = 0
    error: str | None = None

    def run(self) -> None:
        try:
            for message in self.messages:
                plugin = _plugin(self.url)  # each time anew: it would pause between two messages otherwise
                if plugin is None or not _notify(plugin, message):
                    self.error = "refused"
                    return
                self.taken += 1
        except Exception:
            log.exception("alert_channel_crashed")
            self.error = "crashed"

    def outcome(self, thread: threading.Thread | None) -> Outcome:
        taken, error = self.taken, self.error
        if thread is not None and thread.is_alive():
            error = "hangs"
        return Outcome(taken, error)


def _plugin(url: str) -> Any:
    """What sends to this address; None where Apprise does not understand it."""
    import apprise  # noqa: PLC0415 - a fifth of a second, and most processes never send

    logging.getLogger("apprise").disabled = True  # its lines hold parts of addresses
    asset = apprise.AppriseAsset(
        app_id="Allegro Orders Backup",
        app_desc="Allegro Orders Backup",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode="memory",
    )
    return apprise.Apprise.instantiate(url, asset=asset)


def _notify(plugin: Any, message: Told) -> bool:
    from apprise import NotifyFormat, NotifyType  # noqa: PLC0415

    tone = NotifyType(message.tone)
    return bool(plugin.notify(body=message.body, title=message.title, notify_type=tone, body_format=NotifyFormat.TEXT))
