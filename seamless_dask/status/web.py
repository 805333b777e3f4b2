"""Asks the dashboard of a scheduler, where only its port can be reached."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

from .address import NotFound

#: {what a question is about: page below the dashboard}
PAGES = {
    "status": "state.json",
    "why": "why/{}.json",
    "failures": "failures.json",
    "report": "report.json",
}
#: What people copy from the address line of a browser, after the prefix of a proxy
_PAGE = re.compile(r"/(?:seamless(?:/.*)?|status|individual-[^/]*|info/.*)?/*$")
#: Bytes of an answer at the most
_MOST = 1 << 28


def is_web(address: str) -> bool:
    """Whether an address is that of a dashboard."""
    return address.startswith(("http://", "https://"))


def ask(address: str, about: str, what: str, timeout: float) -> dict[str, Any]:
    """Return an answer like that of the scheduler, with its ``status``.

    Parameters
    ----------
    address
        Of any page of the dashboard.
    about, what
        See `seamless_dask.status.Question`.
    timeout
        In seconds.

    Raises
    ------
    NotFound
        If there is no answer, or if it is not that of a dashboard with our plugin.
    """
    if about not in PAGES:
        raise NotFound(
            f"{address} is the address of a dashboard, which does not answer {about!r}: "
            "use the address of the scheduler, such as tcp://host:port."
        )
    try:
        page = f"{_base(address)}/seamless/{PAGES[about].format(quote(what, safe=''))}"
        request = urllib.request.Request(page, headers={"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            content = reply.read(_MOST)
    except urllib.error.HTTPError as error:
        content = error.read(_MOST)
    except http.client.InvalidURL as error:
        raise NotFound(f"{address} is no address of a dashboard: {error}.") from None
    except http.client.HTTPException as error:  # such as the port of the scheduler
        raise NotFound(
            f"{address} is no dashboard: its answer is no HTTP ({type(error).__name__}). "
            "Is that the port of the scheduler? Its address is tcp://host:port."
        ) from None
    except (OSError, ValueError, ssl.SSLError) as error:
        cause = getattr(error, "reason", error)
        raise NotFound(f"{address} cannot be reached: {cause}.") from None
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NotFound(
            f"{address} is no dashboard of a Dask scheduler with the Seamless plugin: "
            f"{page} gives no JSON."
        )
    answer["status"] = "error" if "errors" in answer else "ok"
    return answer


def _base(address: str) -> str:
    """The address without the page."""
    parts = urlsplit(address)
    path = _PAGE.sub("", parts.path)
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"
