"""The command line: `nexus VERB --option value ... [section.key=value ...]`.

Everything heavy is imported inside the commands, so that `nexus --help` answers at once. A `NexusError`
becomes one message on standard error and exit code 2; `--debug` shows the traceback.
"""

import sys


def main() -> None:
    """Entry point of the `nexus` command."""
    from nexus.errors import NexusError

    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        from nexus.cli.commands import app

        app()
    except NexusError as error:
        if debug:
            raise
        sys.stderr.write(f"nexus: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("nexus: interrupted\n")
        sys.exit(130)
