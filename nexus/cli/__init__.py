"""The command line: `nexus VERB --option value ... [section.key=value ...]`.

Everything heavy is imported inside the commands, so that `nexus --help` answers at once. Whatever goes
wrong becomes one message on standard error and an exit code (`nexus.cli.failures`); `--debug` shows the
traceback.
"""

import os
import sys


def main() -> None:
    """Entry point of the `nexus` command."""
    # DistributedDataParallel warns of a search that we ask for on purpose (nexus.training.parallel).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; see `nexus.cli.failures` for the codes."""
    from nexus.cli.failures import explain

    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    try:
        from nexus.cli.commands import app

        code = app(words, prog_name="nexus", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader left, as in `nexus inspect x | head -1`. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            import traceback

            traceback.print_exc()
        message, code = explain(error)
        if message:
            sys.stderr.write(f"nexus: {message}\n")
        return code
