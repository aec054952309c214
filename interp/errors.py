"""What can be wrong with what a user brought. The command prints the message alone and exits 2."""


class InterpError(Exception):
    """Base of the errors that a user can mend. The message is one line: what, where, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ModelError(InterpError):
    """A model that cannot be loaded or trusted, or that an analysis cannot use."""


class PromptError(InterpError):
    """Prompts, roles, answers or pairs that do not fit together or do not fit the model."""


class ConfigError(InterpError):
    """An option, a YAML key, a layer, a head or an analysis that does not exist."""


class DataError(InterpError):
    """A file or folder that is missing, unreadable, malformed or not writable."""


class RankWarning(UserWarning):
    """Vectors span few directions because the data have few distinct contexts, not because the model made them so."""
