"""What the service counts, for Prometheus to collect at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """The figures of one service; each has its own, so that several can live in a process."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

        self._requests = Counter(
            "tintype_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "tintype_request_seconds",
            "Until the answer was out.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )

        self._images = Counter(
            "tintype_images", "Images classified, made or enlarged.", ["model"], registry=registry
        )
        self._batches = Histogram(
            "tintype_batch_size", "Photos computed at once.", buckets=SIZES, registry=registry
        )
        self._computing = Counter(
            "tintype_compute_seconds", "Time spent on batches.", registry=registry
        )

        gauge = Gauge(
            "tintype_images_waiting", "Images accepted and not yet answered.", registry=registry
        )
        gauge.set_function(waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        known = self._known.get((route, status))
        if known is None:  # looking labels up costs as much as the counting
            known = self._known[route, status] = (
                self._requests.labels(route, status),
                self._seconds.labels(route),
            )
        known[0].inc()
        known[1].observe(seconds)

    def images(self, model: str, count: int) -> None:
        """Count images that a model answered."""
        self._images.labels(model).inc(count)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(size)
        self._computing.inc(seconds)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
