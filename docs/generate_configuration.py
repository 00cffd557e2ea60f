"""Write docs/configuration.md from the code: every setting, its default, and the sentence that documents it.

    python docs/generate_configuration.py            # a test says when this is due

The sentences are those under the fields of `nexus.training.TrainConfig`; nothing is written twice.
"""

import json
import sys
from pathlib import Path
from typing import Any

from nexus.config import Config, fields
from nexus.training import TrainConfig
from nexus.training.auto import automatic
from nexus.training.choices import DataFacts
from nexus.training.recipes import read_recipe, recipe_names

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """\
# Configuration

<!-- Written by docs/generate_configuration.py from the code; do not edit. -->

Every setting of `nexus train`. Any of them can be given after the options, as `section.key=value`, or in a
YAML file with `--config` or `--recipe`:

```
nexus train --data FOLDER --out runs/a optim.lr=1e-3 crops.local_number=4
```

In Python: `nexus.train(data="FOLDER", out="runs/a", overrides={"optim.lr": 1e-3})`.

What wins, from weak to strong: the defaults below, automatic choices, the recipe, the file, the command
line. A setting marked **auto** is chosen for the data and the machine unless you set it, and the choice is
printed with its reason ([training.md](training.md)); its default is used where `TrainConfig` is built by
hand. The value `auto` leaves a setting out again. The defaults are those of the official ViT-L/16 recipe,
with the exceptions that [fidelity.md](fidelity.md) lists. A misspelt key is an error that names the nearest
one.

The run folder's `config.yaml` holds every resolved value, and runs again as it is.
"""


def default_of(tree: dict[str, Any], dotted: str) -> Any:
    """The default of a dotted key in a dumped configuration."""
    value: Any = tree
    for part in dotted.split("."):
        value = value[part]
    return value


def chosen_automatically() -> set[str]:
    """The settings that `nexus train` chooses where they are left out."""
    _, choices = automatic({}, DataFacts(images=1000, short_side=96, labelled=True))
    return {choice.key for choice in choices}


def section_doc(section: str) -> str:
    """The first line of the docstring of a section's class."""
    kind = TrainConfig.model_fields[section].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Config)
    return (kind.__doc__ or "").strip().splitlines()[0]


def render() -> str:
    """The whole page."""
    defaults = json.loads(TrainConfig().model_dump_json())
    sentences, auto = fields(TrainConfig), chosen_automatically()
    parts = [HEAD]
    section = None
    for key, sentence in sentences.items():
        here = key.partition(".")[0] if "." in key else ""
        if here != section:
            section = here
            title = f"## {here}\n\n{section_doc(here)}" if here else "## The run"
            parts.append(f"\n{title}\n\n| setting | default | meaning |\n|---|---|---|\n")
        value = json.dumps(default_of(defaults, key)).replace('""', "(empty)")
        mark = ", **auto**" if key in auto else ""
        parts.append(f"| `{key}` | `{value}`{mark} | {sentence.replace('|', chr(92) + '|')} |\n")
    parts.append("\n## Recipes\n\nShort YAML files with only what differs: `--recipe NAME`, or a path.\n\n")
    for name in recipe_names():
        parts.append(f"* `{name}`: sets {', '.join(f'`{key}`' for key in sorted(read_recipe(name)))}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stderr.write(f"{PAGE}\n")
