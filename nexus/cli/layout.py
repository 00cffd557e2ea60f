"""Help that groups the options of a command, one line each, within 80 columns."""

from typing import Any

from typer.core import TyperCommand

WHAT, LENGTH, MACHINE, RESULT = "What", "How", "Machine", "Result"
GROUPS = (WHAT, LENGTH, MACHINE, RESULT, "Other")


class GroupedCommand(TyperCommand):
    """A command whose `--help` shows its options under the headings of their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one block for each heading, the columns aligned over all of them."""
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                term = str(parameter.metavar) if argument else record[0]
                groups[getattr(parameter, "rich_help_panel", None) or "Other"].append((term, record[1]))
        width = max(len(term) for records in groups.values() for term, _ in records)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl([(term.ljust(width), text) for term, text in records])
