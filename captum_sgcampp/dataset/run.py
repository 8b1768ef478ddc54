"""A run over a dataset: which images are left to do, and how their maps get into the folder."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Generator, Tensor
from torch.utils.data import DataLoader

from captum_sgcampp._passes import user_warnings
from captum_sgcampp._passes.noise import even_parts
from captum_sgcampp.dataset.batch_maps import BatchMaps, Map
from captum_sgcampp.dataset.images import FileState, Images
from captum_sgcampp.dataset.loading import Batch, Group, Loading, Task, collate, in_one_line
from captum_sgcampp.dataset.neighbours import depends_on_neighbours
from captum_sgcampp.dataset.progress import Progress
from captum_sgcampp.dataset.shards import Record, Row, RunFolder

FIRST_IMAGES = 8
"""The number of images that must fail before the method's error is that of the run."""


@dataclass
class _OpenShard:
    """A shard at which this process works."""

    rows: dict[str, list[Row]]
    """The rows of the images that are done, by their names."""
    left: int
    """The number of images that are still to do."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """The maps that this process has made."""


class Run:
    """One process's part of a run.

    Args:
        images: The images.
        maps_of: Computes the maps of a batch.
        folder: Where they are written.
        record: What all processes do together.
        batch_size: The number of images that go through the model at once.
    """

    def __init__(self, images: Images, maps_of: BatchMaps, folder: RunFolder, record: Record, batch_size: int) -> None:
        self._images, self._maps_of, self._folder, self._record = images, maps_of, folder, record
        self._batch_size = batch_size
        self._open: dict[int, _OpenShard] = {}
        self._retried: dict[int, object] = {}
        self._visited: set[int] = set()
        self._n_failed = 0
        self._may_share: bool | None = None
        """Whether images may share a pass; not known before the first batch with several."""

    def try_first_images(self) -> None:
        """Raises the method's error if it fails for all of the first images that can be read."""
        loading, errors = Loading(self._images.dataset), list[Exception]()
        for position in range(min(FIRST_IMAGES, len(self._record.names))):
            for group in collate([loading[self._task(0, position)]]).groups:
                try:
                    self._maps_of([self._record.names[position]], group.images, group.labels)
                except Exception as error:  # whatever a model raises
                    errors.append(error)
                else:
                    return
        if errors:
            raise errors[0]

    def retry_failed(self) -> None:
        """Lets :meth:`work` try the images again that have failed so far."""
        self._retried = {shard: self._folder.rows_version(shard) for shard in range(self._record.n_shards)}

    def work(self, rank: int, world_size: int, num_workers: int, *, show_progress: bool) -> None:
        """Does this process's shards, and then those that no other process has done.

        Args:
            rank: The number of this process.
            world_size: The number of all processes.
            num_workers: The number of processes that load images.
            show_progress: Show the progress of the whole run.

        Raises:
            OSError: The folder cannot be written to.
            TypeError: An item of the dataset is not a tensor.
        """
        progress = Progress(len(self._record.names), self._done_by_others, shown=show_progress)
        loader = DataLoader(
            Loading(self._images.dataset),
            batch_sampler=self._batches(shards_in_order(self._record.n_shards, rank, world_size), progress),
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=self._maps_of.device.type == "cuda",
            generator=Generator().manual_seed(self._maps_of.seed),  # so that torch's own is left alone
        )
        try:
            for batch in loader:
                self._do(batch, progress)
        finally:
            progress.close()

    def _task(self, shard: int, position: int) -> Task:
        return Task(shard, position, self._images.indices[position])

    def _batches(self, shards: Iterator[int], progress: Progress) -> Iterator[list[Task]]:
        """The images that are left to do, in batches of even size, each within one shard."""
        for shard in shards:
            done, left = self._look(shard)
            self._visited.add(shard)
            progress.skip(len(done))
            if left:
                self._open[shard] = _OpenShard(done, len(left))
                positions = iter(left)
                for size in even_parts(len(left), self._batch_size):
                    yield [self._task(shard, next(positions)) for _ in range(size)]

    def _look(self, shard: int) -> tuple[dict[str, list[Row]], list[int]]:
        """The rows of a shard that are still right, by image, and the positions of the images that are left to do."""
        rows = self._folder.read_rows(shard)
        retried = shard in self._retried and self._retried[shard] == self._folder.rows_version(shard)
        done, left = {}, []
        for position in self._record.shard(shard):
            name = self._record.names[position]
            if name in rows and self._are_right(rows[name], position, retried):
                done[name] = rows[name]
            else:
                left.append(position)
        return done, left

    def _are_right(self, rows: list[Row], position: int, retried: bool) -> bool:
        state = self._images.file_state(position)
        return all(FileState(row.size, row.modified) == state and not (row.error and retried) for row in rows)

    def _do(self, batch: Batch, progress: Progress) -> None:
        """Does a batch, and writes its shard if that is the last one."""
        shard = self._open.get(batch.shard)
        if shard is None:
            return
        if not self._look(batch.shard)[1]:  # another process has done it meanwhile
            progress.add(shard.left)
            del self._open[batch.shard]
            return
        before = self._n_failed
        for loaded in batch.failed:
            self._add(shard, loaded.task.position, loaded.state, loaded.error)
        for group in batch.groups:
            for position, state, found in zip(group.positions, group.states, self._attribute(group), strict=True):
                self._add(shard, position, state, found)
        n_images = len(batch.failed) + sum(len(group.positions) for group in batch.groups)
        progress.add(n_images, self._n_failed - before)
        shard.left -= n_images
        if not shard.left:
            self._write(batch.shard, shard)

    def _attribute(self, group: Group) -> list[list[Map] | str]:
        """The maps of each image; of each image alone where the model refuses a batch, or its images are not alone."""
        names = [self._record.names[position] for position in group.positions]
        if len(names) == 1 or self._may_share is not False:
            try:
                maps = self._maps_of(names, group.images, group.labels)
                if len(names) == 1 or self._are_alone(group.images, maps.output):
                    return list(map(_finite, maps.of_each))
            except Exception as error:
                if "CUDA error" in str(error):  # after which the device fails for all further images too
                    raise
                if len(names) == 1:
                    return [in_one_line(error)]
        return [found for number in range(len(names)) for found in self._attribute(group.only(number))]

    def _are_alone(self, images: Tensor, output: Tensor) -> bool:
        """Whether the images of the first batch do not influence one another, and so not those of others either."""
        if self._may_share is None:
            self._may_share = not depends_on_neighbours(images, output, self._maps_of.run, self._maps_of.modules)
            if not self._may_share:
                user_warnings.warn(user_warnings.images_influence_one_another())
        return self._may_share

    def _add(self, shard: _OpenShard, position: int, state: FileState, found: list[Map] | str) -> None:
        name = self._record.names[position]
        if isinstance(found, str):
            shard.rows[name] = [Row(name, error=found, size=state.size, modified=state.modified)]
            self._n_failed += 1
        else:
            shard.rows[name] = [_row(name, one, state) for one in found]
            shard.maps.update({_key(name, one): one.values for one in found})

    def _write(self, number: int, shard: _OpenShard) -> None:
        rows = [row for position in self._record.shard(number) for row in shard.rows[self._record.names[position]]]
        kept = {row.key for row in rows if row.key} - set(shard.maps)
        maps = shard.maps | self._folder.read_maps(number, kept)
        self._folder.write_shard(number, rows, maps, self._record.settings)
        del self._open[number]

    def _done_by_others(self) -> int:
        return sum(len(self._record.shard(shard)) for shard in self._folder.complete() - self._visited)


def shards_in_order(n_shards: int, rank: int, world_size: int) -> Iterator[int]:
    """The shards in the order in which a process looks at them: its own, then those of the others, from their ends.

    Where another process has died or is slower, its last shards are done by those that have finished their own.
    """
    yield from range(rank, n_shards, world_size)
    for other in range(1, world_size):
        yield from reversed(range((rank + other) % world_size, n_shards, world_size))


def _finite(maps: list[Map]) -> list[Map] | str:
    """The maps of an image, or an error if one is not finite."""
    return maps if all(one.values.isfinite().all() for one in maps) else "ValueError: the map is not finite"


def _key(name: str, one: Map) -> str:
    return f"{name}/{one.suffix}" if one.suffix else name


def _row(name: str, one: Map, state: FileState) -> Row:
    return Row(
        name,
        _key(name, one),
        one.layer,
        one.of.target,
        one.of.name,
        "" if one.of.probability is None else f"{one.of.probability:.9g}",
        f"{one.values.max():.9g}",
        f"{one.values.double().mean():.9g}",
        str(not one.values.any()),
        "",
        state.size,
        state.modified,
    )
