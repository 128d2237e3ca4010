"""Rows of data sets on the Hugging Face hub, or in a folder that the `datasets` library reads like one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faithgen.errors import FaithgenError, MissingExtraError

from .rows import Row

PREFIX = "hub:"
_SPLITS = ("train", "dev", "validation", "test")
_ALIASES = {"dev": ("dev", "validation"), "validation": ("validation", "dev")}


@dataclass(frozen=True)
class HubName:
    """`hub:org/name[@revision][:config][:split]` in parts; an empty config is the set's only one."""

    path: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read the parts. One part after the name is a split where it is called like one, else a config.

        Raises:
            FaithgenError: If the name is empty or has too many parts.
        """
        name, *parts = text.removeprefix(PREFIX).split(":")
        path, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
        if not path.strip() or len(parts) > 2:
            raise FaithgenError(
                f"cannot read {text!r}; write hub:org/name, hub:org/name:config:split or hub:org/name::split"
            )
        if len(parts) == 1:
            parts = ["", parts[0]] if parts[0] in _SPLITS else [parts[0], ""]
        config, split = parts or ["", ""]
        return cls(path, revision or None, config or None, split or None)

    def __str__(self) -> str:
        name = self.path + (f"@{self.revision}" if self.revision else "")
        parts = ":".join([name, self.config or "", self.split or ""]) if self.config or self.split else name
        return PREFIX + parts


def read_hub(hub: HubName, wanted: Sequence[str]) -> tuple[list[Row], str]:
    """Read one split with `datasets.load_dataset`.

    Args:
        hub ([`HubName`]): what to read; the split in the name is taken where there is one.
        wanted (`Sequence[str]`): splits to choose from otherwise, best first. `dev` stands for `validation` too.

    Returns:
        The rows, and the name of their split.

    Raises:
        FaithgenError: If the library cannot read it, or it has none of the splits.
        MissingExtraError: If `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"reading {hub}", "eval") from error
    try:
        split = hub.split
        if split is None:
            found = datasets.get_dataset_split_names(hub.path, config_name=hub.config, revision=hub.revision)
            names = [name for want in wanted for name in _ALIASES.get(want, (want,))]
            split = next((name for name in names if name in found), None)
            if split is None:
                mend = f"name one of its splits ({', '.join(found)}), e.g. {replace(hub, split=found[0])}"
                raise FaithgenError(f"{hub} has no split {' or '.join(dict.fromkeys(names))}; {mend}")
        table = datasets.load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
        return [Row(dict(values), f"{hub} ({split}), row {n}", n) for n, values in enumerate(table, 1)], split
    except FaithgenError:
        raise
    except Exception as error:  # what the library raises is not one family
        cause = error.__cause__ or error  # its own errors say only that something went wrong
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        mend = "check the name, its config and split, and the network"
        if "script" in lines[0].lower():
            mend = f"try its Parquet copy: hub:{hub.path}@refs/convert/parquet"
        raise FaithgenError(f"cannot read {hub} ({lines[0][:200]}); {mend}, or give a local file") from error
