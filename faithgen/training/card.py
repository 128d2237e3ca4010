"""The model card of a trained checkpoint: data, heads, recipe and results, from its training record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError

_PAPERS = {
    "rhio": ("RHIO", "https://arxiv.org/abs/2501.13573"),
    "retmask": ("RetMask", "https://arxiv.org/abs/2601.11020"),
}
_TEMPLATE = """\
---
{% if base_model %}base_model: {{ base_model }}
{% endif %}library_name: {{ "transformers" if merged else "peft" }}
pipeline_tag: text-generation
tags:
- faithgen
- {{ record.method }}
---

# {{ name }}

{{ record.base.model_id }}{% if record.base.revision %} (revision {{ record.base.revision }}){% endif %} trained with
[{{ paper[0] }}]({{ paper[1] }}) to answer from the documents it is given, by
[faithgen](https://pypi.org/project/faithgen/) {{ record.versions.faithgen }}.
{% if record.control %}
The control tokens {{ record.control.control_tokens | join(" and ") }} stand at the {{ record.control.control_position }} of
the user turn. `FaithfulGenerator` finds them by itself and contrasts the two branches
{%- if record.control.alpha is defined %}, by default with alpha {{ record.control.alpha }}{% endif %}.
{% endif %}
```python
from faithgen import FaithfulGenerator

generator = FaithfulGenerator.from_pretrained("{{ name }}"){% if not merged %}  # a folder on this machine{% endif %}
answer = generator.generate("Who built it?", documents=[{"text": "Ada built it in 1921."}])
```
{% if not merged %}
This is an adapter: faithgen reads it from a local folder (`hf download ORG/{{ name }} --local-dir {{ name }}` where it is on
the hub) and puts it on its base model. By a hub name, and in other engines (vLLM, plain transformers), it works merged:
`faithgen export --checkpoint {{ name }} --output merged --merge`.
{% endif %}
## Data

| | |
|---|---|
{% for key, value in data %}| {{ key }} | {{ value }} |
{% endfor %}
## Heads masked for the unfaithful answers

{% if heads %}| | |
|---|---|
{% for key, value in heads %}| {{ key }} | {{ value }} |
{% endfor %}{% else %}The data does not say how they were made.
{% endif %}
## Recipe

Settings that differ from `{{ paper[0] }}Config`'s defaults:

```yaml
{% for key, value in settings %}{{ key }}: {{ value }}
{% endfor %}```
{% if record.adapter %}
Adapter: {{ record.adapter.peft_type }}, r {{ record.adapter.r }}, alpha {{ record.adapter.lora_alpha }}.
{% endif %}
{{ record.steps }} steps.{% if record.log %} Last log: {{ log }}.{% endif %}

Versions: {{ versions }}.

## Results

{% if results %}{{ results }}{% else %}Not measured.
{% endif %}"""


def model_card(name: str, record: dict[str, Any], *, merged: bool, results: str | Path | None = None) -> str:
    """Write the model card.

    Args:
        name (`str`): of the checkpoint.
        record (`dict`): its training record.
        merged (`bool`): a whole model, not an adapter.
        results (`str` or `Path`, *optional*): JSON of figures: a list of rows (objects) or one object of name to figure.

    Returns:
        `str`: Markdown with the hub's front matter.

    Raises:
        FaithgenError: If the results cannot be read, or the record lacks what the card states.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )  # Markdown, not HTML
    data = record["data"]
    lengths = _object(_object(data.get("lengths")).get("train"))
    samples = _object(data.get("samples"))
    made = _object(samples.get("settings"))
    base = record["base"]["name"]
    log = {key: round(value, 4) for key, value in (record["log"] or {}).items() if isinstance(value, float)}
    values = {
        "name": name,
        "record": record,
        "merged": merged,
        "base_model": base if base.count("/") == 1 and not base.startswith(("/", ".")) else None,
        "paper": _PAPERS[record["method"]],
        "data": _table(
            {
                "description": data.get("description"),
                "source": data.get("source"),
                "sha256": data.get("sha256"),
                "rows": data.get("rows"),
                **lengths,
            }
        ),
        "heads": _table(
            {
                "head set": made.get("head_set"),
                "masked heads": made.get("masked_heads"),
                "random heads (control)": made.get("random_heads"),
                "ablation": made.get("ablation"),
                "sampling": f"temperature {made.get('temperature')}, top-p {made.get('top_p')}" if made else None,
                "seed": made.get("seed"),
                "kept": samples.get("kept"),
                "dropped": samples.get("dropped"),
            }
        ),
        "settings": [
            (key, json.dumps(value, ensure_ascii=False)) for key, value in sorted(record["settings"].items())
        ],
        "log": ", ".join(f"{key} {value}" for key, value in log.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in record["versions"].items()),
        "results": None if results is None else _results(Path(results)),
    }
    try:
        return environment.from_string(_TEMPLATE).render(values)
    except (jinja2.TemplateError, TypeError) as error:
        raise FaithgenError(
            f"the training record is damaged ({error}); give a folder that faithgen train wrote"
        ) from error


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _table(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, _cell(value)) for key, value in values.items() if value not in (None, {}, "")]


def _cell(value: Any) -> str:
    text = ", ".join(f"{key}: {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _results(path: Path) -> str:
    """A Markdown table of the figures in a JSON file."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        rows = figures if isinstance(figures, list) else [{"": key, "result": value} for key, value in figures.items()]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [
            columns,
            ["---"] * len(columns),
            *([_cell(row.get(column, "")) for column in columns] for row in rows),
        ]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a list of rows or an object of figures"
        raise FaithgenError(f"cannot read --results {str(path)!r} ({reason}); give the figures as JSON") from error
