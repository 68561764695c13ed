"""OpenTelemetry traces of requests, tasks and calls, where an endpoint is set; nothing of it is imported otherwise.

A span has the trace id that the log's lines have, and tells no more than they do: no texts of failures, no addresses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from orders_backup.errors import SettingsError

Told = dict[str, str | int | None]
"""What a span tells; `name` names it anew."""

_open: Callable[..., Any] | None = None


def configure(endpoint: str, *, service: str) -> Callable[[], None]:
    """From now on spans go to this OTLP/HTTP address; the answer sends what is left and ends it.

    Raises SettingsError where OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed:"
            " pip install 'allegro-orders-backup[traces]'."
        ) from None

    class OurTraceIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            bound = structlog.contextvars.get_contextvars().get("trace_id")
            return int(bound, 16) if bound else super().generate_trace_id()

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), id_generator=OurTraceIds(), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    tracer = provider.get_tracer("orders_backup")

    @contextmanager
    def opened(name: str, kind: str, told: Told) -> Iterator[None]:
        with tracer.start_as_current_span(
            name, kind=SpanKind[kind], record_exception=False, set_status_on_exception=False
        ) as one:
            try:
                yield
            except BaseException as error:
                told["error.type"] = type(error).__name__
                raise
            finally:
                one.update_name(str(told.pop("name", name)))
                one.set_attributes({key: value for key, value in told.items() if value is not None})
                if told.get("error.type"):
                    one.set_status(Status(StatusCode.ERROR))

    global _open  # noqa: PLW0603 - one for the process, as the log is
    _open = opened

    def close() -> None:
        global _open  # noqa: PLW0603
        _open = None
        provider.shutdown()

    return close


@contextmanager
def span(name: str, kind: str, **told: str | int | None) -> Iterator[Told]:
    """Around a request (SERVER), a task (CONSUMER) or a call (CLIENT); the block adds to what the span tells."""
    if _open is None:
        yield told
        return
    with _open(name, kind, told):
        yield told
