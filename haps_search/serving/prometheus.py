"""What Prometheus sees of the service. No label is a client's own text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from haps_search.serving.exchange import Decided, Reply

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Seconds, of the histograms."""
UNKNOWN = "unknown"
"""The model of a request that names none that is served."""


class ServiceMeters:
    """One service's own; `open` is how many requests are being answered or wait for that."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("haps_requests", "By model and HTTP status.", ("model", "status"), registry=own)
        self._seconds = Histogram(
            "haps_request_seconds", "Until the answer was whole.", ("model",), buckets=BOUNDS, registry=own
        )
        self._first = Histogram(
            "haps_first_piece_seconds", "Until a stream's first piece.", ("model",), buckets=BOUNDS, registry=own
        )
        self._chosen = Counter(
            "haps_chosen", "Roles that candidates play in routed requests.", ("candidate", "escalated"), registry=own
        )
        self._tokens = Counter("haps_tokens", "Tokens read and written.", ("candidate", "kind"), registry=own)
        self._cost = Counter("haps_cost", "By the candidates' prices.", registry=own)
        self.open = Gauge("haps_open_requests", "Requests that are being answered or wait for it.", registry=own)

    def ended(self, model: str, status: int, seconds: float) -> None:
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)

    def began_to_tell(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def routed(self, decided: Decided) -> None:
        for name in decided.assignment:
            self._chosen.labels(name, str(decided.escalated).lower()).inc()

    def replied(self, reply: Reply) -> None:
        for each in reply.spoken:
            self._tokens.labels(each.candidate, "read").inc(each.prompt_tokens)
            self._tokens.labels(each.candidate, "written").inc(each.completion_tokens)
        self._cost.inc(reply.cost)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
