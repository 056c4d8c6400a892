"""What is refused of a subject or its samples. Readers of files, which raise it too, need no torch."""


class BadSample(ValueError):
    """A sample that cannot be trained on; the message names it and the field."""


class TooFewSamples(BadSample):
    """A rung asks for more samples than there are: `available`."""

    def __init__(self, message: str, available: int) -> None:
        super().__init__(message)
        self.available = available


class BadSubject(ValueError):
    """A subject whose description contradicts itself or its network; the message names the
    field.
    """
