"""The log: text lines, or one JSON object per line."""

import logging
import logging.config
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

from service.http.settings import Settings

__all__ = ["JsonFormatter", "set_up_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# JSON allows these characters in strings, but some readers treat them as line ends.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, exception, and the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line end."""
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
    except TypeError:  # a file name that is not UTF-8, or a number of more than 64 bits
        texts = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in fields.items()}
        return orjson.dumps(texts).decode()


def set_up_logging(settings: Settings) -> None:
    """Send the logs of the server, and the warnings of libraries, to stderr in the form of `settings`."""
    level = settings.log_level.upper()
    text = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    loggers = {name: {"handlers": ["stderr"], "level": level, "propagate": False} for name in ("plumbline", "uvicorn")}
    # The access log has a setting of its own, independent of the level.
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
        logging.captureWarnings(True)  # Python prints warnings as text
