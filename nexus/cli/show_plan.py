"""What `nexus plan` prints: tables that fit on a screen, and the command to copy."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from nexus.training.planning import Plan

_GIB = 1 << 30


def plan_tables(plan: "Plan") -> None:
    """Data and settings, what a step takes, what budgets give, what could be changed, how to start."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    say = console.print
    say(_facts(plan))
    if plan.choices:
        say(_choices(plan))
    if plan.rehearsal:
        say(_budgets(plan))
    if plan.changes:
        say(_changes(plan))
    for sentence in plan.advice:
        say(f"! {sentence}")
    if plan.suggestion:
        name = plan.suggestion
        say(f"recipe {name} was made for data like these: nexus plan with --recipe {name}")
    if plan.fits:
        say("to start it:")
        say(f"  {plan.command}")


def _facts(plan: "Plan") -> Table:
    table = Table(title="the run", show_header=False)
    table.add_column()
    table.add_column()
    table.add_row("data", plan.description)
    table.add_row("recipe", plan.recipe or "none: automatic settings")
    for name, sentence in plan.sentences().items():
        table.add_row(name, sentence)
    found = plan.rehearsal
    if found:
        rate = plan.config.schedule.batch_size / found.step
        scaled = f", scaled up from steps of {found.batch} images" if found.scaled else ""
        table.add_row(
            "a step takes",
            f"{_length(found.step)}, {rate:,.3g} images/s, {found.waiting:.0%} of it waiting for images "
            f"(measured: median of {found.steps} steps on {plan.config.compute.device}{scaled})",
        )
        table.add_row("to the end of step 1", _length(found.start))
        table.add_row("the whole run", _length(plan.seconds or 0.0))
    source = "measured" if found and not found.scaled else "scaled up" if found else "estimated"
    has = f" of {plan.available / _GIB:,.1f}" if plan.available else ""
    table.add_row("memory", f"{plan.memory / _GIB:,.1f}{has} GiB ({source}; {_parts(plan)})")
    return table


def _parts(plan: "Plan") -> str:
    parts = ", ".join(f"{name} {size / _GIB:,.2f}" for name, size in plan.estimate.items())
    return f"estimate: {parts}"


def _choices(plan: "Plan") -> Table:
    table = Table(title="chosen for you")
    for column in ("setting", "value", "reason"):
        table.add_column(column)
    for choice in plan.choices:
        table.add_row(choice.key, str(choice.value), choice.reason)
    return table


def _budgets(plan: "Plan") -> Table:
    table = Table(title="what time gives", caption="evaluations and checkpoints come on top")
    table.add_column("time")
    for column in ("steps", "images shown", "passes"):
        table.add_column(column, justify="right")
    table.add_column("setting")
    for budget in plan.budgets:
        setting = f"schedule.steps={budget.steps}" if budget.steps else "not one step"
        table.add_row(
            budget.name, f"{budget.steps:,}", f"{budget.images:,}", f"{budget.passes:,.1f}", setting
        )
    return table


def _changes(plan: "Plan") -> Table:
    table = Table(title="what a change would bring", caption="estimates: plan with the change measures it")
    table.add_column("change")
    for column in ("images/s", "GiB"):
        table.add_column(column, justify="right")
    table.add_column("fits")
    table.add_column("what it is")
    for change in plan.changes:
        rate = "" if change.images_per_second is None else f"{change.images_per_second:,.3g}"
        fits = "yes" if change.fits else "no"
        table.add_row(change.overrides, rate, f"{change.memory / _GIB:,.1f}", fits, change.why)
    return table


def _length(seconds: float) -> str:
    """`0.21 s`, `3 min 20 s`, `5 h 10 min`, `12 days`."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{seconds / 86400:,.0f} days"
