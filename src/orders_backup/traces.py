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

_tracer: Any = None


def configure(endpoint: str, *, service: str) -> Callable[[], None]:
    """From now on spans go to this OTLP/HTTP address; the answer sends what is left and ends it.

    Raises SettingsError where OpenTelemetry is not installed.
    """
    try:
        provider = _provider(endpoint, service)
    except ImportError:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed:"
            " pip install 'allegro-orders-backup[traces]'."
        ) from None
    global _tracer  # noqa: PLW0603 - one for the process, as the log is
    _tracer = provider.get_tracer("orders_backup")

    def close() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = None
        provider.shutdown()

    return close


def _provider(endpoint: str, service: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class OurTraceIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            bound = structlog.contextvars.get_contextvars().get("trace_id")
            return int(bound, 16) if bound else super().generate_trace_id()

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), id_generator=OurTraceIds(), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return provider


@contextmanager
def span(name: str, kind: str, **told: str | int | None) -> Iterator[Told]:
    """Around a request (SERVER), a task (CONSUMER) or a call (CLIENT); the block adds to what the span tells."""
    if _tracer is None:
        yield told
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

    with _tracer.start_as_current_span(
        name, kind=SpanKind[kind], record_exception=False, set_status_on_exception=False
    ) as one:
        try:
            yield told
        except BaseException as error:
            told["error.type"] = type(error).__name__
            raise
        finally:
            one.update_name(str(told.pop("name", name)))
            one.set_attributes({key: value for key, value in told.items() if value is not None})
            if told.get("error.type"):
                one.set_status(Status(StatusCode.ERROR))
