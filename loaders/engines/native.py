"""``native``: a peer's own loader, as its documentation advises; see ``loaders.feed``."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch

from loaders.engine import Batch, Engine, Key, Plan
from loaders.feed import FeedStore, chosen, merged
from loaders.store import Reader


class NativeEngine(Engine):
    """Asks the store's feed for whole epochs. The peer reads ahead as it does; nothing of ours reads beside it."""

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        super().__init__(reader, shape, plan)
        assert isinstance(reader.store, FeedStore), f"{reader.store.name} is no feed"
        self.feed = reader.store.feed(reader.split, plan, shape)

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch, None, None]:
        wanted = list(keys)
        asked = Key(wanted[0].epoch, np.concatenate([key.indices for key in wanted]))
        batches = self.feed.batches(asked)
        if self.feed.store.whole:
            batches = chosen(batches, asked.indices, len(self.reader))
        # Models here want channels-last. Peers that deliver so pay nothing; for others their user would copy too.
        for batch in merged(batches, self.plan.batch_size):
            yield batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))

    @property
    def path_taken(self) -> str:
        return self.feed.path_taken

    def close(self) -> None:
        self.feed.close()
        super().close()
