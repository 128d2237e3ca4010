"""A decoding step of fixed shapes, compiled: preallocated keys and values, slots that are filled anew, no host sync in it.

On a GPU a step is one CUDA graph (`torch.compile` in mode `"reduce-overhead"`). The branches are read by
[`RowBranches`] or [`TreeBranches`] and move in here; all rows write at the same column, so that a new question is put where
it ends with the others.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from faithgen import hf
from faithgen.decoding.branches import Branches
from faithgen.decoding.few_rows import inductor_for_few_rows
from faithgen.decoding.step_attention import product, reads_half
from faithgen.heads.head_set import by_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

_BUCKET = 512
"""Fewest columns of a table; see [`_columns`]."""
_FEWEST_PARTS = 16
"""Parts of documents that a table tells apart at the least, if it tells them apart."""
_KEPT_BYTES = 2**30
"""Free tables of a model hold at most this together, or the newest alone if it is larger."""
_KEPT_TABLES = 8
"""Most free tables of a model: the memory of their graphs cannot be counted."""


@dataclass(eq=False)
class Table:
    """What a compiled step reads and writes in place; the tensors keep their addresses.

    Attributes:
        cache (`Cache`): keys and values `[R, H_kv, S, D]` a layer, in transformers' static layers.
        seen (`torch.BoolTensor` of shape `[R, Q, S]`): what the next queries of a row may see.
        positions (`torch.LongTensor` of shape `[R]`): of the next token; 0 in the rows of free slots.
        live (`torch.LongTensor` of shape `[R]`): 1 in the rows of live questions, else 0: how far a step takes `positions`.
        documents (`torch.Tensor` of shape `[R, S, P]`): 1 where a column belongs to the part; P is padded ([`_parts`]).
        attention (`torch.Tensor` of shape `[W, R, P]`): of each watched head at the last token.
        kept (`dict[int, torch.Tensor]`): by layer, a factor `[R, H, Q, 1]`: 0 for masked heads, else 1.
        watched (`dict[int, tuple[torch.Tensor, int]]`): by layer, its watched heads, and where they begin in `attention`.
        uniform (`bool`): masked heads attend evenly; else they add nothing.
        run: [`step`], compiled for this table.
    """

    cache: Any
    seen: torch.Tensor
    positions: torch.Tensor
    live: torch.Tensor
    documents: torch.Tensor
    attention: torch.Tensor
    kept: dict[int, torch.Tensor]
    watched: dict[int, tuple[torch.Tensor, int]]
    uniform: bool
    run: Any

    @property
    def columns(self) -> int:
        """Positions that a row has room for."""
        return self.seen.shape[-1]

    @property
    def nbytes(self) -> int:
        """Memory of what grows with the columns."""
        return hf.cache_bytes(self.cache) + self.seen.nbytes + self.documents.nbytes


def attend(module, query, key, value, attention_mask, *, scaling=None, table: Table | None = None, **kwargs: Any):
    """Softmax attention of a few queries a row over all columns, each KV head's keys and values read once.

    Args:
        query (`torch.Tensor` of shape `[R, H, Q, D]`), key, value (`torch.Tensor` of shape `[R, H_kv, S, D]`)
        attention_mask (`torch.BoolTensor` of shape `[R, 1, Q, S]`)
        table ([`Table`]): which heads are masked and watched.

    Returns:
        `torch.Tensor` of shape `[R, Q, H, D]`, and `None` for the weights.
    """
    assert table is not None
    rows, heads, count, width = query.shape
    groups = key.shape[1]
    kept = table.kept.get(module.layer_idx)
    if kept is not None and table.uniform:
        query = query * kept
    scale = width**-0.5 if scaling is None else scaling
    grouped = (query * scale).reshape(rows, groups, heads // groups * count, width)
    scores = product(grouped, key.mT) if reads_half(key) else grouped.float() @ key.mT.float()
    scores = scores.view(rows, heads, count, -1)
    weights = scores.masked_fill(~attention_mask, -torch.inf).softmax(-1)
    watched = table.watched.get(module.layer_idx)
    if watched is not None:
        chosen, place = watched
        looked = weights[:, chosen, -1].float() @ table.documents  # [R, W, P]
        table.attention[place : place + chosen.shape[0]] = looked.transpose(0, 1)
    output = weights.to(value.dtype).view(rows, groups, -1, scores.shape[-1]) @ value
    output = output.view(rows, heads, count, value.shape[-1])
    if kept is not None and not table.uniform:
        output = output * kept
    return output.transpose(1, 2), None


def step(model: Any, table: Table, ids: torch.Tensor) -> torch.Tensor:
    """Feed `ids` `[R, Q]`, the branches of a row in turns; returns logits `[R, Q, V]`."""
    count = ids.shape[1]
    own = torch.eye(count, dtype=torch.bool, device=ids.device).expand(len(ids), -1, -1)
    columns = hf.static_column(table.cache) + torch.arange(count, device=ids.device)
    table.seen.index_copy_(2, columns, own)
    output = model(
        input_ids=ids,
        attention_mask=table.seen[:, None],
        position_ids=table.positions[:, None].expand(-1, count),
        past_key_values=table.cache,
        use_cache=True,
        table=table,
    )
    table.positions.add_(table.live)
    return output.logits


class CompiledBranches:
    """The branches of the questions in a fixed number of slots; made of [`Branches`] that were read, with their interface.

    Args:
        first ([`Branches`]): the branches of the first questions.
        slots (`int`): most questions at a time.
        room (`int`): tokens that a question may get.

    Attributes:
        logits (`torch.Tensor` of shape `[B, branches, V]`), attention (`torch.Tensor` of shape `[B, P]`, *optional*):
            Of the live questions, as in [`Branches`].
    """

    logits: torch.Tensor
    attention: torch.Tensor | None

    def __init__(self, first: Branches, slots: int, room: int):
        self.through, self.rows_a_question = first.through, first.rows_a_question
        self.kind, self.slots, self.queries = type(first), slots, first.seen.shape[1]
        self.room = (room + 1) * self.queries
        self.live: list[int] = []
        self._give_back: Any = None
        self.table = self._take_table(first.cache, first.seen.shape[-1])
        self.column = 0
        self.admit(first)

    # --- questions come and go ----------------------------------------------------------------------------------------

    def admit(self, new: Branches) -> None:
        """Take in more questions; there must be slots for them."""
        count = len(new.logits)
        free = [slot for slot in range(self.slots) if slot not in self.live][:count]
        self._make_room(new.seen.shape[-1])
        rows, table = self._rows(free), self.table
        start = self.column - new.seen.shape[-1]
        hf.copy_into_static(new.cache, table.cache, rows, start)
        table.seen[rows] = False
        table.seen[rows, :, start : self.column] = new.seen
        table.positions[rows], table.live[rows] = new.lengths, 1
        table.documents[rows] = 0
        if new.segments is not None:
            parts = torch.arange(table.documents.shape[-1], device=rows.device)
            table.documents[rows, start : start + new.segments.shape[1]] = (new.segments[..., None] == parts).float()
        old = [] if not self.live else [self.logits]
        self.logits = torch.cat([*old, new.logits])
        if new.attention is not None:
            self.attention = torch.cat([*([self.attention] if self.live else []), new.attention])  # type: ignore[list-item]
        elif not self.live:
            self.attention = None
        self.live += free

    def select(self, questions: Sequence[int]) -> None:
        """Keep some questions; the slots of the others are free."""
        chosen = torch.tensor(list(questions), device=self.logits.device, dtype=torch.long)
        before, self.live = self.live, [self.live[i] for i in questions]
        freed = self._rows([slot for slot in before if slot not in self.live])
        # Steps run the free rows, too: a position that went on would leave the window and turn longrope to its long factors.
        self.table.positions[freed] = self.table.live[freed] = 0
        self.logits = self.logits[chosen]
        self.attention = None if self.attention is None else self.attention[chosen]

    def _rows(self, slots: Sequence[int]) -> torch.Tensor:
        """The rows of these slots, a slot's one after the other."""
        size = self.rows_a_question
        rows = [slot * size + row for slot in slots for row in range(size)]
        return torch.tensor(rows, device=self.table.seen.device, dtype=torch.long)

    def _make_room(self, width: int) -> None:
        """Let the rows end at a column with `width` columns before it and room for the answers after it."""
        seen = self.table.seen
        used = self.column - int(seen[self._rows(self.live)].flatten(0, 1).any(0).int().argmax()) if self.live else 0
        column = max(used, width)
        if self.column >= width and self.column + self.room <= seen.shape[-1]:
            return
        if column + self.room > seen.shape[-1]:
            self._grow(column)
        hf.shift_static(self.table.cache, column - self.column)
        for tensor, axis in ((self.table.seen, 2), (self.table.documents, 1)):
            tensor.copy_(tensor.roll(column - self.column, axis))
        self.table.seen[:, :, column:] = False
        self.column = column
        hf.set_static_column(self.table.cache, column)

    # --- a step -------------------------------------------------------------------------------------------------------

    def advance(self, tokens: torch.Tensor) -> None:
        """Feed a token `[B]` to the branches of each question."""
        slots = torch.tensor(self.live, device=tokens.device)
        fed = tokens.new_zeros(self.slots).index_copy(0, slots, tokens)
        ids = fed[:, None].expand(-1, self.rows_a_question).reshape(-1, 1).expand(-1, self.queries).contiguous()
        with hf.attention_through(self.through.model, "faithgen_compiled", attend):
            logits = self.table.run(self.through.model, self.table, ids)
        self.column += self.queries
        if self.queries == 2:
            self.logits = logits[slots].flip(1)  # a tree's faithful query is the last
        else:
            self.logits = logits[:, 0].unflatten(0, (self.slots, self.rows_a_question))[slots]
        if self.attention is not None:
            faithful = slots * self.rows_a_question
            self.attention = self.table.attention[:, faithful, : self.through.parts].mean(0)

    # --- tables -------------------------------------------------------------------------------------------------------

    def _take_table(self, like: Cache, width: int) -> Table:
        """A table for prompts of this many columns: the smallest that is free and fits, so that its graphs serve again, or
        a new one. All columns are read in each step, the empty ones too: one of over twice the columns does not fit."""
        through, needed = self.through, width + self.room
        masked, watched = tuple(through.masked_heads), tuple(through.watched_heads)
        shape = (self.slots, self.rows_a_question, self.queries, _parts(through.parts))
        key = (*shape, masked, watched, through.ablation, through.model.dtype, through.device)
        free = _free.setdefault(through.model, [])
        most = 2 * max(needed, _BUCKET)
        fitting = [table for other, table in free if other == key and needed <= table.columns <= most]
        found = min(fitting, key=lambda table: table.columns, default=None)
        if found is None:
            found = self._table(like, _columns(needed))
        else:
            free[:] = [pair for pair in free if pair[1] is not found]
            for tensor in (found.seen, found.positions, found.live):
                tensor.zero_()
        if self._give_back is not None:
            self._give_back()
        self._give_back = weakref.finalize(self, _put_back, free, key, found)
        return found

    def _table(self, like: Cache, columns: int) -> Table:
        through, device = self.through, self.through.device
        rows, places, watched = self.slots * self.rows_a_question, 0, {}
        parts = _parts(through.parts)
        for layer, heads in by_layer(through.watched_heads).items():
            watched[layer] = (torch.tensor(heads, device=device), places)
            places += len(heads)
        table = Table(
            hf.static_cache(like, rows, columns),
            torch.zeros(rows, self.queries, columns, dtype=torch.bool, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros(rows, columns, parts, device=device),
            torch.zeros(places, rows, parts, device=device),
            self._kept(rows, device),
            watched,
            through.ablation == "uniform",
            _compiled(device),
        )
        for tensor in (
            table.seen,
            table.positions,
            table.live,
            table.documents,
            table.attention,
            *table.kept.values(),
        ):
            torch._dynamo.mark_static_address(tensor)
        return table

    def _kept(self, rows: int, device: torch.device) -> dict[int, torch.Tensor]:
        """Factors that mask the heads: in a tree's first query, in a pair's second rows, or everywhere."""
        model, found = self.through.model, {}
        for layer, heads in by_layer(self.through.masked_heads).items():
            factor = torch.ones(
                rows, hf.head_shape(model).num_heads, self.queries, 1, device=device, dtype=model.dtype
            )
            masked = slice(1, None, 2) if self.rows_a_question == 2 else slice(None)
            for head in heads:
                factor[masked, head, 0] = 0
            found[layer] = factor
        return found

    def _grow(self, width: int) -> None:
        """Move into a larger table."""
        old = self.table
        new = self.table = self._take_table(old.cache, width)
        columns = old.columns
        hf.copy_static(old.cache, new.cache, columns)
        new.seen[..., :columns], new.documents[:, :columns] = old.seen, old.documents
        new.positions.copy_(old.positions)
        new.live.copy_(old.live)


def _columns(needed: int) -> int:
    """At least as many columns as needed, of few numbers for few compiled shapes: 512, 768, 1024, 1536, 2048, ..."""
    full = _BUCKET << ((needed - 1) // _BUCKET).bit_length()
    return full * 3 // 4 if full > _BUCKET and needed <= full * 3 // 4 else full


def _parts(needed: int) -> int:
    """At least as many parts of documents as needed, of few numbers: 1, 16, 32, 64, ..."""
    return 1 if needed == 1 else max(_FEWEST_PARTS, 1 << (needed - 1).bit_length())


_free: weakref.WeakKeyDictionary[PreTrainedModel, list[tuple[tuple[Any, ...], Table]]] = weakref.WeakKeyDictionary()
"""Tables that no branches use, with the graphs that were made for them, the newest last."""


def _put_back(free: list[tuple[tuple[Any, ...], Table]], key: tuple[Any, ...], table: Table) -> None:
    free.append((key, table))
    while len(free) > 1 and (len(free) > _KEPT_TABLES or sum(table.nbytes for _, table in free) > _KEPT_BYTES):
        del free[0]


def _compiled(device: torch.device) -> Any:
    """[`step`], compiled for one table at its first call. A copy of its code: PyTorch counts recompilations by code, and
    gives up after eight."""
    own = types.FunctionType(step.__code__.replace(), step.__globals__)
    ways: dict[str, dict[str, Any]] = {"cuda": {"mode": "reduce-overhead"}, "cpu": {"backend": inductor_for_few_rows}}
    return torch.compile(own, **ways.get(device.type, {}), dynamic=False, fullgraph=True)
