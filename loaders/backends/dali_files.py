"""``dali_files``: the tree of ``filesystem``, read, shuffled and decoded by DALI's own file reader, as its manual shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import nvidia.dali
import torch
from nvidia.dali import fn, types

from datasets.errors import SampleCorrupt
from loaders.backends.dali import check_process
from loaders.backends.filesystem import FilesystemStore
from loaders.feed import Feed, FeedStore, Promise
from loaders.sizing import EVALUATION_MARGIN

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

# DALI's default: the number of files that the next one is drawn from.
SHUFFLED = 1024


class DaliFilesStore(FilesystemStore, FeedStore):
    """The files of ``filesystem``; order and crops are DALI's."""

    name = "dali_files"
    engines = ("native",)
    whole = True

    @property
    def differences(self) -> Mapping[Promise, str]:
        found: dict[Promise, str] = {"order": f"DALI draws each file from a buffer of the next {SHUFFLED:,}"}
        if self.content.shape is None:
            found["pixels"] = "crops are drawn and resized by DALI"
        return found

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> DaliFilesFeed:
        return DaliFilesFeed(self, split, plan, shape)


class DaliFilesFeed(Feed):
    """DALI's file reader, its labels being the pictures' places in the split."""

    path_taken = f"DALI {nvidia.dali.__version__}, readers.file"

    def _made(self) -> Any:
        check_process(self.store.name)
        labels = self.store.reader(self.split).labels
        assert isinstance(self.store, DaliFilesStore)
        top = self.store.root / self.split
        files = [os.fspath(top / self.store.relative(int(label), index)) for index, label in enumerate(labels)]
        pipeline = nvidia.dali.Pipeline(
            batch_size=self.plan.batch_size, num_threads=self.plan.workers or 1, device_id=None, seed=self.plan.seed
        )
        with pipeline:
            pipeline.set_outputs(*self._graph(files))
        pipeline.build()
        return pipeline

    def _graph(self, files: list[str]) -> tuple[Any, Any]:
        """(pictures, places): decoded, and cropped and resized where sizes differ."""
        encoded, places = fn.readers.file(
            files=files,
            labels=list(range(len(files))),
            random_shuffle=self.plan.shuffle,
            initial_fill=SHUFFLED,
            pad_last_batch=True,  # with its last picture again, which is cut off: else the next epoch's would come
        )
        pictures = fn.decoders.image(encoded, output_type=types.RGB if self.content.channels == 3 else types.GRAY)
        if self.content.shape is None:
            pictures = self._fitted(pictures)
        return pictures, places

    def _fitted(self, pictures: Any) -> Any:
        height, width = self.shape[:2]
        if self.plan.training:
            return fn.random_resized_crop(pictures, size=(height, width))
        larger = (round(height * EVALUATION_MARGIN), round(width * EVALUATION_MARGIN))
        return fn.crop(fn.resize(pictures, size=larger, mode="not_smaller"), crop=(height, width))

    def batches(self, _: Key) -> Iterator[Batch]:
        """The split whole, whatever part was asked for, in DALI's order.

        Raises:
            SampleCorrupt: a picture can't be decoded.
        """
        from loaders.engine import Batch

        labels = self.store.reader(self.split).labels
        left = len(labels)
        try:
            while left > 0:
                pictures, indices = self._run()
                pictures, indices = pictures[:left], indices[:left]
                left -= len(indices)
                found = torch.from_numpy(np.asarray(labels[indices], dtype=np.int64))
                if self.plan.pin_memory:
                    pictures, found = pictures.pin_memory(), found.pin_memory()
                yield Batch(pictures.permute(0, 3, 1, 2), found, indices)
        finally:
            if left > 0:  # left early: the reader stands amid an epoch
                self._loader = None

    def _run(self) -> tuple[torch.Tensor, Any]:
        try:
            pictures, places = self.loader.run()
        except RuntimeError as error:
            what = f"or another: DALI can't read it ({str(error).strip().splitlines()[-1]})"
            raise SampleCorrupt(self.store.root, self.split, 0, what) from None
        # DALI writes its buffers again at the next run.
        return torch.from_numpy(pictures.as_array().copy()), places.as_array().reshape(-1).astype(np.int64)
