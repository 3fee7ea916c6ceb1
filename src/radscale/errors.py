"""The one exception for a user's mistake. It may be imported from every layer."""


class InputError(ValueError):
    """Bad input from the user: one line that names the thing, its value, the rule and the next step.

    The command line prints it without a traceback and exits with code 2.
    """


class OtherProcessError(InputError):
    """This process ends because another one of its run did. The command line leaves it to that one to say why."""
