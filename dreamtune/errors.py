"""Every error that a user can cause or must know about; each message says what is wrong, where, and what to do."""

from __future__ import annotations

from dreamtune.text import bounded, inert


class DreamtuneError(ValueError):
    """Base of all of dreamtune's own errors; the command line prints it in a line or two, without a traceback.

    Its message is inert and of at most 1,000 characters, whatever names and values of others it quotes.
    """

    exit_code = 2
    """Exit status of the command line."""

    def __init__(self, message: str) -> None:
        super().__init__(bounded(inert(message)))


class ConfigError(DreamtuneError):
    """A setting is unknown, of the wrong type, out of range or contradicts another."""


class DatasetError(DreamtuneError):
    """The folder of training images cannot be used."""


class AdapterFileError(DreamtuneError):
    """An adapter file is damaged, incomplete or not one of ours."""


class IncompatibleModelError(DreamtuneError):
    """An adapter does not fit the model it is to be attached to."""


class BaseModelError(DreamtuneError):
    """A base model was not found or cannot be used."""


class RunFolderError(DreamtuneError):
    """A run folder exists already, cannot be written, or does not fit what is to be resumed."""


class JobError(DreamtuneError):
    """A job is unknown, its state does not allow the request, or the job queue cannot be used."""


class TrainingError(DreamtuneError):
    """Training had to stop; the last checkpoint is kept."""

    exit_code = 1


class GenerationError(DreamtuneError):
    """An image could not be generated."""

    exit_code = 1


class Interrupted(DreamtuneError):
    """The user stopped the run; a checkpoint was written."""

    exit_code = 130


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of a foreign error's message, or its name if it has none, to be quoted in one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit].rstrip(".:")
