"""The door to receivers of notices by HTTP: one request each, with bounds on all of it."""

from collections.abc import Mapping

import anyio
import httpx2

from pool_mcp import __version__


async def post(url: str, content: bytes, headers: Mapping[str, str], timeout_s: float) -> str | None:
    """Post to an address; None where it was taken, else why not, in words that hold no part of the address.

    A redirect is not followed: headers with a person's tokens go where the person has written, and nowhere else. Of
    the answer only the status is read.
    """
    sent = {"user-agent": f"pool-mcp/{__version__}", **headers}
    try:
        with anyio.fail_after(timeout_s):
            async with (
                httpx2.AsyncClient(timeout=timeout_s, follow_redirects=False) as client,
                client.stream("POST", url, content=content, headers=sent) as response,
            ):
                status = response.status_code
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError) as error:
        return f"no connection ({type(error).__name__})"
    if 200 <= status < 300:
        return None
    return f"HTTP {status}, a redirect; write the address that it leads to" if 300 <= status < 400 else f"HTTP {status}"
