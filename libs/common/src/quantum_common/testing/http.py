"""Whether a process of a test is up. Apart from the rest of the package, because it needs an HTTP client."""

import httpx


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
