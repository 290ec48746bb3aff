"""A run's status at an address of one's own choice: `edgerig status --serve PORT`.

The same server as the coordinator's, with the same bounds, on 127.0.0.1; each page is fetched from wherever the run's
coordinator listens by then, so one scrape target serves `latest` for good.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from coordinator.status.pages import TEXT, Page, error_page

FETCH_S_MAX = 5.0  # two for the picture, and the way there and back on this host
BODY_BYTES_MAX = 16 << 20  # thirty times the status of 2,000 devices


def forwarded(path: str, url_of: Callable[[], str]) -> Page:
    """The coordinator's page, or why there is none. `url_of`: empty while nobody serves one."""
    url = url_of()
    if not url:
        return error_page(HTTPStatus.BAD_GATEWAY, "no coordinator of this run serves a status now")
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=FETCH_S_MAX)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(BODY_BYTES_MAX)
        return Page(HTTPStatus(response.status), response.getheader("Content-Type", TEXT), body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return error_page(HTTPStatus.BAD_GATEWAY, f"the coordinator at {url} does not answer: {error}")
    finally:
        connection.close()
