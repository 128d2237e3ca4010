"""Pages in one file that need nothing else and trust no text in them.

What they show (documents, answers, names of models) is hostile: the template escapes all of it, `clean` takes control
characters and direction overrides out, and a content security policy lets the page run its own script, known by its
hash, and load nothing. Each of these holds without the others.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithgen.report.look import DARK, LIGHT, css_steps, css_variables

_TEMPLATES = Path(__file__).parent / "templates"
_LINE_END = re.compile(r"\r\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def clean(text: Any) -> str:
    """Text without control characters, direction overrides and what HTML cannot hold."""
    return _CONTROL.sub("\ufffd", _LINE_END.sub("\n", str(text)))


def script_json(data: Any) -> str:
    """JSON that can stand in a `<script>` element: ASCII, and no `<`, `>` or `&`; its strings are cleaned."""
    text = json.dumps(_clean_strings(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean_strings(data: Any) -> Any:
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, Mapping):
        return {_clean_strings(key): _clean_strings(value) for key, value in data.items()}
    return [_clean_strings(value) for value in data] if isinstance(data, list | tuple) else data


def render_page(name: str, context: Mapping[str, Any], data: Any = None) -> str:
    """Render `<name>.html.j2` with `<name>.css` and `<name>.js` in line, and a policy that names their hashes.

    Args:
        name (`str`): of the page's files in `templates/`.
        context (`Mapping`): what the template shows; it escapes and cleans all of it.
        data (*optional*): what the script reads, as JSON from the element `data`.
    """
    from markupsafe import Markup

    style, script = _assets(name)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    own = {
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(script_json(data)),
        "policy": Markup(policy),
    }
    return _environment().get_template(f"{name}.html.j2").render({**context, **own})


@functools.cache
def _assets(name: str) -> tuple[str, str]:
    """Style and script of a page, as they stand between their tags."""
    style, script = (
        (_TEMPLATES / f"{name}.{suffix}").read_text(encoding="utf-8").replace("\r\n", "\n") for suffix in ("css", "js")
    )
    themes = f":root {{ {css_variables(LIGHT)} }}\n"
    themes += f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}\n"
    return f"\n{themes}{css_steps()}{style}", f"\n{script}"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "number": number}
    return environment


def percent(share: float) -> str:
    """A share as a text: no 0 % or 100 % that is not one."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{share:.0%}".replace("%", " %")


def number(value: float) -> str:
    """A figure with two digits behind the point."""
    return f"{value + 0.0:.2f}"
