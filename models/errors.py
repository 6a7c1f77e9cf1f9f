"""The exceptions that Plumbline raises on purpose.

    PlumblineError
    ├── InputError            (ValueError)    an argument, a file or an array that cannot be used as given
    │   ├── UnknownNameError  (LookupError)   no network, data set, attack, detector or objective of that name
    │   ├── DatasetError                      a data set that is missing, misshapen or mislabelled
    │   └── ImageError                        one image that cannot be decoded or is outside the stated limits
    ├── NetworkError          (RuntimeError)  a network that cannot be built, read or recorded
    │   └── CheckpointError                   a checkpoint that is damaged, of an unknown protocol or of another network
    ├── AttackError           (RuntimeError)  an attack that failed or left its threat model
    ├── ArtifactError         (RuntimeError)  an artifact that is damaged, tampered with or of an unknown protocol
    ├── RunnerError           (RuntimeError)  work that cannot be sent to a process, or a process that died
    └── MissingExtraError     (ImportError)   an optional package that is not installed

Each message states the fault and the remedy. The command line prints it and exits with 2; the server responds with a
4xx status. Every other exception is a defect of Plumbline.
"""

__all__ = [
    "ArtifactError",
    "AttackError",
    "CheckpointError",
    "DatasetError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "NetworkError",
    "NotFittedError",
    "PlumblineError",
    "RunnerError",
    "UnknownNameError",
]


class PlumblineError(Exception):
    """Base of every error that Plumbline raises on purpose."""


class InputError(PlumblineError, ValueError):
    """An argument, a file or an array that cannot be used as given."""


class UnknownNameError(InputError, LookupError):
    """No plug-in of that name; the message lists the known ones."""


class DatasetError(InputError):
    """A data set that is missing, misshapen or mislabelled."""


class ImageError(InputError):
    """One image that cannot be decoded or is outside the stated limits."""


class NetworkError(PlumblineError, RuntimeError):
    """A network that cannot be built, read or recorded."""


class CheckpointError(NetworkError):
    """A checkpoint that is damaged, of an unknown protocol, or of another network."""


class AttackError(PlumblineError, RuntimeError):
    """An attack that failed, or whose images are outside its threat model."""


class ArtifactError(PlumblineError, RuntimeError):
    """An artifact that is damaged, tampered with, or of an unknown protocol."""


class RunnerError(PlumblineError, RuntimeError):
    """Work that cannot be sent to a worker process, or a worker process that died."""


class MissingExtraError(PlumblineError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class NotFittedError(ValueError, AttributeError):
    """A detector is used before `prepare` or `fit`: a defect of the calling code, as in scikit-learn."""
