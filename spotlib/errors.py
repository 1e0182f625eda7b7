"""Errors that are one sentence: what, the value seen, what is allowed, what to do."""


class OneSentence(Exception):
    """An error of which a notebook shows only the sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it by this name
        return [f"{type(self).__name__}: {self}"]


class ParameterError(OneSentence, ValueError):
    """A value that is refused."""
