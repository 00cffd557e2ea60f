"""What the command line says and returns when something goes wrong.

| exit code | for                                                                              |
|-----------|----------------------------------------------------------------------------------|
| 0         | done                                                                             |
| 1         | a bug of nexus                                                                   |
| 2         | something that the user can mend: options, settings, data, files, memory         |
| 3         | training was stopped by a signal after it had saved; `nexus train --resume`      |
| 4         | training was saved and stopped by `health.policy=stop`: it is ill                |
| 130       | interrupted with Ctrl-C                                                          |
"""

import errno

import typer

from nexus.errors import IllRun, NexusError, SaidElsewhere, nearest

UsageError = typer.BadParameter.__mro__[1]
"""Base of everything that typer says about options (typer does not export it)."""

_ENVIRONMENT = {
    errno.EACCES: "mend the permissions, or choose another path",
    errno.EPERM: "mend the permissions, or choose another path",
    errno.EROFS: "choose another path",
    errno.ENOSPC: "free space, or choose another disk",
    errno.EDQUOT: "free space, or choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENOTDIR: "choose another path",
    errno.EEXIST: "choose another path",
    errno.EISDIR: "choose another path",
    errno.EIO: "check the disk",
}
"""What the system may refuse without nexus being wrong, and what helps."""


def explain(error: BaseException) -> tuple[str, int]:
    """The message for the user, and the exit code; no message where another process says it."""
    if isinstance(error, SaidElsewhere):
        return "", error.code
    if isinstance(error, IllRun):
        return str(error), 4
    if isinstance(error, NexusError):
        return str(error), 2
    if isinstance(error, UsageError):
        return _usage(error), 2
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", 130
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory; use a smaller batch (--batch-size), smaller images or a smaller model; training "
            "can also split the batch with schedule.accumulation=2",
            2,
        )
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        where = f" {error.filename}" if error.filename else ""
        return f"the system refuses{where}: {error.strerror}; {_ENVIRONMENT[error.errno]}", 2
    kind, text = type(error).__name__, str(error).strip().partition("\n")[0]
    return f"nexus hit a bug: {kind}: {text}; please report it with the output of --debug", 1


def _usage(error: BaseException) -> str:
    """What typer says about an option, in one line."""
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "nexus"
    option = getattr(error, "option_name", "")
    if "." in option:
        return f"no option {option}; settings are written without dashes: {option.lstrip('-')}=VALUE"
    named = option.lstrip("-")
    if context and named in (one.name for one in context.command.params if one.param_type_name == "argument"):
        text = f"no option {option}; this command takes its {named} without a name before it"
    elif option and context:
        known = [name for parameter in context.command.params for name in parameter.opts]
        guess = nearest(option, [name for name in known if name.startswith("--")])
        text = f"no option {option}" + (f"; did you mean {guess}?" if guess else "")
    else:
        text = error.format_message().strip().rstrip(".")  # type: ignore[attr-defined]
        text = text[:1].lower() + text[1:]
        for long, short in _TYPER_WORDS.items():
            text = text.replace(long, short)
    return f"{text} (`{verb} --help` lists the options)"


_TYPER_WORDS = {
    "Input should be a valid integer, unable to parse string as an integer": "it should be a whole number",
    "Input should be a valid integer, got a number with a fractional part": "it should be a whole number",
    "Input should be ": "it should be ",
}
"""How typer's and pydantic's words are said here."""
