"""The limit on open files and sockets of the process."""

import logging

__all__ = ["allow_descriptors"]

logger = logging.getLogger("plumbline.server")

_OTHER_FILES = 64  # log, listeners, files of libraries, artifacts


def allow_descriptors(max_connections: int) -> None:
    """Raise the soft limit to the need of both ports, up to the hard limit; log a warning if it stays too low."""
    try:
        import resource  # not available on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = 2 * max_connections + _OTHER_FILES
    if soft != unlimited and soft < wanted:
        raised = wanted if hard == unlimited else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):  # some systems have a lower limit of their own
            pass
    if soft != unlimited and soft < max_connections + _OTHER_FILES:
        logger.warning(
            "expected a limit of at least %d open files for %d connections, got %d; raise it (ulimit -n, LimitNOFILE=) "
            "or lower max_connections",
            max_connections + _OTHER_FILES, max_connections, soft,
        )  # fmt: skip
