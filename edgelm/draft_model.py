"""A second, cheaper decoder of the same vocabulary that guesses what another one will choose (speculation.Drafter)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgelm.errors import InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.prefix_cache import shared
from edgelm.protocols import DecoderRows, Logits
from edgelm.sampling import Sampler
from edgelm.speculation import Drafter
from edgelm.tokenizer import Tokenizer

# Most tokens that are guessed at a time where nobody says how many.
ASSISTANT_TOKENS = 16

# What a guess is not worth: functions that may count their calls, draws of a stream of its own, a state that learns.
_PLAIN = {"logits_processors": (), "xtc_probability": 0.0, "mirostat_tau": 0.0}


class DraftModel:
    """The decoder, and one row of it for all sequences, of which only one at a time has guesses made for it.

    The row goes back to where it agrees with the sequence it is asked about, so a chat that goes on is read once.

    Attributes:
        limit: most tokens it can read.
    """

    def __init__(self, new_row: Callable[[], DecoderRows], limit: int, vocab_sizes: tuple[int, int]) -> None:
        """Computes nothing yet.

        Args:
            new_row: makes the row, when it is first needed.
            limit: most positions that the row has.
            vocab_sizes: of this decoder and of the one it guesses for, which may be padded differently.
        """
        self.limit = limit
        self._new_row = new_row
        self._row: DecoderRows | None = None
        own, other = vocab_sizes
        self._shared_ids = min(own, other)
        self._all_shared = own >= other

    def drafter(self, config: GenerationConfig, sampler: Sampler) -> Drafter:
        """Guesses for a sequence with these settings, by the numbers with which `sampler` is about to draw."""
        return _ModelDrafter(self, config, sampler, self._shared_ids)

    def reads(self, ids: Sequence[int]) -> bool:
        """Whether it can be fed these."""
        return len(ids) <= self.limit and (self._all_shared or max(ids) < self._shared_ids)

    def row_after(self, ids: Sequence[int], total: int) -> tuple[DecoderRows, Logits]:
        """The row, fed these ids and able to go on to `total`, and the logits [vocab_size] after them."""
        if self._row is None:
            self._row = self._new_row()
        row = self._row
        known = min(shared(row.ids[0], ids), len(ids) - 1)
        row.truncate(0, known if row.holds(0, known, total) else 0)
        return row, row.prefill(0, ids[len(row.ids[0]) :])


class _ModelDrafter:
    """Draws from the cheaper model with the numbers that decide the real draws: alike distributions give the same tokens."""

    def __init__(self, model: DraftModel, config: GenerationConfig, sampler: Sampler, vocab_size: int) -> None:
        self._model = model
        self._ids: Sequence[int] = ()
        self._size, self._place = vocab_size, 0
        self._choose = Sampler(config.replace(**_PLAIN), vocab_size, uniform=lambda: sampler.upcoming(self._place))

    def grade(self, ids: Sequence[int]) -> int:
        """Always the same, but 0 where the cheaper model cannot read these ids."""
        self._ids = ids
        return int(self._model.reads(ids))

    def propose(self, count: int) -> list[int]:
        """What the cheaper model chooses, up to the end of its context."""
        ids = list(self._ids)
        begin, end = len(ids), min(len(ids) + count, self._model.limit + 1)
        row, logits = self._model.row_after(ids, end)
        while True:
            self._place = len(ids) - begin
            ids.append(self._choose(ids, logits[: self._size]))
            if len(ids) == end:
                return ids[begin:]
            logits = row.step(ids[-1:])[0]


def check_vocabulary(ours: Tokenizer, drafts: Tokenizer, name: str) -> None:
    """Both must mean the same by an id.

    Raises:
        InvalidOption: a token has another id there, or is not there.
    """
    one, other = ours.ids, drafts.ids
    if one == other:
        return
    token = min(token for token, _ in one.items() ^ other.items())
    raise InvalidOption(
        f"draft_model {name} has another vocabulary: the id of {token!r} is {other.get(token, 'missing')} there and "
        f"{one.get(token, 'missing')} here; give a package of the same family, whose tokenizer is the same"
    )
