"""Sets up the tracer provider of a worker that was started without one."""

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)


def ensure_provider(*, console: bool) -> TracerProvider | None:
    """Set up OpenTelemetry's global provider from the environment, unless there is one.

    Args:
        console: Write the spans to the standard output, instead of sending them by OTLP over HTTP.

    Returns:
        The new provider; None if the application has set one up.

    Raises:
        ImportError: The exporter is not installed.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return None
    resource = Resource.create()  # it reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "keywheel"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(_processor(console=console))
    trace.set_tracer_provider(provider)
    return provider


def _processor(*, console: bool) -> SpanProcessor:
    if console:
        return SimpleSpanProcessor(ConsoleSpanExporter())
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - it is slow
        OTLPSpanExporter,
    )

    return BatchSpanProcessor(OTLPSpanExporter())
