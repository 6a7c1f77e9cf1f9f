"""Addresses of the two ports: the check before listening, and the log line after it."""

import ipaddress
import logging

import uvicorn

from models.errors import InputError
from service.http.paths import PREDICT_PATH
from service.http.settings import Settings

__all__ = ["check_exposure", "log_addresses"]

logger = logging.getLogger("plumbline.server")


def check_exposure(settings: Settings) -> None:
    """Check that each address is loopback, has API keys, or is allowed by `insecure`.

    Raises:
        InputError: an address is reachable by others without keys.
    """
    for host, keys, option in (
        (settings.host, settings.api_keys_file, "--keys FILE"),
        (settings.admin_host, settings.admin_keys_file, "--admin-keys FILE"),
    ):
        if keys is None and not settings.insecure and not _is_loopback(host):
            raise InputError(
                f"{host} is reachable by others, and no API keys are configured; give {option}, listen on 127.0.0.1, "
                "or give --insecure if the network in front restricts access"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a host name may resolve to any address


def log_addresses(server: uvicorn.Server, admin: uvicorn.Server, settings: Settings) -> None:
    """Log the addresses that both servers listen on, and a command to try."""
    url, admin_url = _url(server), _url(admin)
    key = ' -H "X-API-Key: $KEY"' if settings.api_keys_file else ""
    addresses = f"web page: {url}/, API: {url}/docs, metrics: {admin_url}/metrics"
    logger.info("serving on %s (%s); try", url, addresses)
    logger.info("curl%s --data-binary @image.png '%s%s?path=true'", key, url, PREDICT_PATH)


def _url(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
