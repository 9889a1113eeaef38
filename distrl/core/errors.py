"""The errors that a user may meet: each message says what was required, what came and what to change."""


class DistrlError(Exception):
    """Base of every error that distrl raises on purpose. The command line prints it as one sentence, without a
    traceback.
    """


class ConfigError(DistrlError):
    """A run configuration, a preset or a command-line override is wrong."""


class EnvironmentFault(DistrlError):
    """An environment raised, returned something outside its spaces, hung or died.

    Attributes:
        kind: of a Fault (core/contracts.py): what an outcome table groups by.
    """

    def __init__(self, message: str, kind: str = "error"):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.kind)


class StorageError(DistrlError):
    """A run directory, log or checkpoint cannot be written, or what is there cannot be read."""


class RunFailed(DistrlError):
    """A run ended before its goal; what was secured is in the run directory and ``--resume`` continues it."""
