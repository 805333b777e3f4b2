"""What a scheduler says on /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient


async def fetch(scheduler, path, method="GET"):
    """Status and body of a page."""
    reply = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{scheduler.http_server.port}/{path}",
        method=method,
        body="" if method == "POST" else None,
        raise_error=False,
    )
    return reply.code, reply.body.decode()


async def metrics_of(scheduler):
    """Our samples on /metrics: {name, with labels: value}."""
    code, text = await fetch(scheduler, "metrics")
    assert code == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name.startswith("seamless_"):
                labels = ",".join(each.labels.values())
                name = f"{each.name}[{labels}]" if labels else each.name
                assert name not in found, "shown twice"
                found[name] = each.value
    return found
