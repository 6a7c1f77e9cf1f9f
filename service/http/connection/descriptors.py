"""How many files and sockets the process may have open."""

import logging

__all__ = ["allow_descriptors"]

logger = logging.getLogger("plumbline.server")

_OTHER_FILES = 64  # the log, the listeners, what libraries hold, an artifact that is read


def allow_descriptors(max_connections: int) -> None:
    """Raise the soft limit, as far as the hard one lets it, to what both ports' connections need; say if it is low."""
    try:
        import resource  # not on every system
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
        except (OSError, ValueError):  # a system's own bound below its hard limit
            pass
    if soft != unlimited and soft < max_connections + _OTHER_FILES:
        logger.warning(
            "expected a limit of at least %d open files for %d connections, got %d; raise it (ulimit -n, LimitNOFILE=) "
            "or lower max_connections",
            max_connections + _OTHER_FILES, max_connections, soft,
        )  # fmt: skip
