"""The cache folder, and model folders in it that are made once: whole or not there, checked when they are used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

MANIFEST = "faithgen.json"


def cache_folder() -> Path:
    """Where converted models and detected head sets are kept: `FAITHGEN_CACHE`, or the platform's cache folder."""
    import platformdirs

    return Path(os.environ.get("FAITHGEN_CACHE") or platformdirs.user_cache_dir("faithgen", appauthor=False))


def made_once(name: str, write: Callable[[Path], None], source: str, checksum: str) -> Path:
    """Folder of a model in the cache, made on first use.

    It is written to a temporary folder and renamed; a lock makes a second process wait for the first. A folder whose files
    no longer match their recorded checksums is made again.

    Args:
        name (`str`): of the folder; it must change with what the folder is made from.
        write (`Callable[[Path], None]`): writes the files into the folder that it is given.
        source (`str`), checksum (`str`): what the folder is made from, for the record in it (`source_sha256`).

    Raises:
        OSError: If the cache folder cannot be written.
    """
    from filelock import FileLock

    root = cache_folder() / "models"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    if intact(folder):
        return folder
    with FileLock(root / f"{name}.lock"):
        if intact(folder):
            return folder
        for left in (folder, *root.glob(f".{name}-*")):  # broken, or of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
        temporary.chmod(0o755)
        try:
            write(temporary)
            _write_manifest(temporary, source, checksum)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_manifest(folder: Path, source: str, checksum: str) -> None:
    files = {
        path.name: {"sha256": sha256(path), "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
        for path in sorted(folder.iterdir())
    }
    manifest = {"source": source, "source_sha256": checksum, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def intact(folder: Path) -> bool:
    """Every file has its recorded size and, unless its time stamp is the recorded one, its recorded checksum."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, recorded in files.items():
            stat = (folder / name).stat()
            if stat.st_size != recorded["size"]:
                return False
            if stat.st_mtime_ns != recorded["mtime_ns"] and sha256(folder / name) != recorded["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
