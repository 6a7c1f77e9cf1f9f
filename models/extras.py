"""Optional packages by extra: the error for a missing one names the extra that installs it."""

from models.errors import MissingExtraError

__all__ = ["EXTRAS", "missing_extra"]

# Import name of each optional package → the extra in pyproject.toml that installs it.
EXTRAS = {
    "art": "attacks",
    "cloudpickle": "attacks",
    "jinja2": "report",
    "joblib": "attacks",
    "matplotlib": "report",
    "opentelemetry": "telemetry",
    "pyautoattack": "attacks",
    "ray": "ray",
    "sklearn": "train",
    "threadpoolctl": "train",
    "tqdm": "train",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error that names the extra of the missing package; None for a package of no extra."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return MissingExtraError(f"the package {package!r} is not installed; run: pip install 'plumbline[{extra}]'")
