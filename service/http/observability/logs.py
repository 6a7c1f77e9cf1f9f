"""The log: lines for people, or one JSON object a line for programs."""

import logging
import logging.config
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

from service.http.settings import Settings

__all__ = ["JsonFormatter", "set_up_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# Line ends to some readers, though JSON lets them stand in a text as they are.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, exception, and what it was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return _json(fields).translate(_LINE_ENDS)


def _json(fields: dict[str, Any]) -> str:
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a file's name that is no UTF-8, or a number of more than 64 bits
        texts = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in fields.items()}
        return orjson.dumps(texts).decode()


def set_up_logging(settings: Settings) -> None:
    """Send the server's log to stderr, as the settings say, and what libraries warn of in the same form."""
    level = settings.log_level.upper()
    text = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    loggers = {name: {"handlers": ["stderr"], "level": level, "propagate": False} for name in ("plumbline", "uvicorn")}
    # One line per request is either asked for or not; how much else is logged does not decide it.
    loggers["plumbline.access"] = {
        "handlers": ["stderr"], "level": "INFO" if settings.access_log else "CRITICAL", "propagate": False,
    }  # fmt: skip
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": JsonFormatter} if settings.log_format == "json" else text},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "loggers": loggers,
            "root": {"handlers": ["stderr"], "level": "ERROR" if level == "ERROR" else "WARNING"},
        }
    )
    if settings.log_format == "json":
        logging.captureWarnings(True)  # Python's own warnings are no JSON
