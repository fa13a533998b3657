"""Where a ccxt client sends its requests. No exchange library here: only the rewriting of its address table."""

import re
from typing import Any


def at_base_url(api_urls: dict[str, Any], base_url: str) -> dict[str, Any]:
    """ccxt's `exchange.urls["api"]` with scheme and host of every address replaced by `base_url`; paths stay."""
    return {
        name: re.sub(r"^(https?|wss?)://[^/]+", base_url, url) if isinstance(url, str) else at_base_url(url, base_url)
        for name, url in api_urls.items()
    }
