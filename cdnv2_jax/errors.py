"""Errors that are the user's to mend."""


class UserError(ValueError):
    """A mistake in what was asked for: a path, a name, a file's contents, a setting.

    Its message is one line that says what is wrong, where, and what to do; the command line prints it and exits
    with status 2.
    """


def shorten(items: list[str], most: int = 8) -> str:
    """The items joined by commas, cut after `most` with the number that is left."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
