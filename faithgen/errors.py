"""Errors a user can make and mend: one line saying what is wrong and what to do about it."""


class FaithgenError(ValueError):
    """Wrong input, with the mend in its message.

    The message is one line that names the input and how to mend it. The command line prints it without a traceback
    and exits with code 2; from Python it is an ordinary `ValueError`.
    """


class DetectionError(FaithgenError):
    """No instance of the detection data could be used; the message counts the reasons."""


class MissingExtraError(FaithgenError, ImportError):
    """An optional dependency is needed and not installed.

    Args:
        purpose (`str`): what needs it, as the start of a sentence, e.g. `"reading .pdf files"`.
        extra (`str`): the extra of this package that brings it, e.g. `"files"`.
    """

    def __init__(self, purpose: str, extra: str):
        super().__init__(f"{purpose} needs an optional dependency; install it with: pip install 'faithgen[{extra}]'")
