"""A batch's neighbours, wherever the bank is: with actors, or on the workers' own devices."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.on_workers.rank_bank import GraphQuery, RankBank
from ldlva_dist.bank.session import PendingIds, PendingRows, StepLookup
from ldlva_dist.messages import BankUpdate, Batch
from ldlva_dist.method.row_routes import Route
from ldlva_dist.method.step import TensorNeighbors
from ldlva_dist.training.device.copies import DeviceCopies, NoCopies
from ldlva_dist.training.device.tensors import neighbor_tensors
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, PendingImages
from ldlva_dist.training.optimizer_step import StepOutputs


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A batch's place at the bank: its neighbours are here, its outputs are still to be written."""

    near: Callable[[], TensorNeighbors | None]
    """Gives the neighbours on the device, without the table's logits; None where there is no bank."""
    route: Route | None
    """The way of the rows of batch and neighbours of the uncertainty table; None without a table."""
    coming_versions: Callable[[], NDArray[np.int64]]
    """Gives :attr:`versions`."""
    graph: int
    """The graph that the neighbours come from."""
    write: Callable[[StepOutputs], None]
    """Stores the batch's outputs."""

    @property
    def versions(self) -> NDArray[np.int64]:
        """[b, K] steps at which the neighbours' rows were written; after the forward nothing is waited for."""
        return self.coming_versions()


class Lookups(Protocol):
    """One rank's way to the bank, in three stages; each is given what the one before it gave."""

    def find(self, batch: Batch) -> Any:
        """Ask who the neighbours of a batch are."""
        ...

    def ask(self, batch: Batch, found: Any) -> Any:
        """Ask what they said last."""
        ...

    def collect(self, batch: Batch, asked: Any) -> Lookup:
        """Wait for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ActorLookups:
    """To actors: questions travel in a thread while batches are trained on."""

    client: NeighborClient
    images: NeighborImages | None = None
    """Where they are wanted, reads the neighbours' images, once the neighbours are known."""
    graph_of: Callable[[int], int] = lambda step: 0
    """Number of the graph that the neighbours of a step come from."""
    route_of: Callable[[NDArray[np.int64], int], Route | None] = lambda ids, batch_rows: None
    """Begins the way of a batch's rows of the uncertainty table, and its neighbours'."""
    copies: DeviceCopies = NoCopies()  # noqa: RUF009  it holds nothing
    """Way to the device."""
    keeps_features: bool = True
    """Whether the bank reads features back, and so is given some."""

    def find(self, batch: Batch) -> PendingIds:
        """Travels with the next call."""
        return self.client.find(batch.step, batch.ids, self.graph_of(batch.step))

    def ask(self, batch: Batch, found: PendingIds) -> "_Asked":
        """The answer goes to the device as soon as it is here."""
        rows = found.ask()
        route = self.route_of(np.concatenate([batch.ids, rows.ids.ravel()]), len(batch.ids))
        images = self.images.ask(batch.step, rows.ids) if self.images else None
        return _Asked(rows, route, images, self.copies.ahead(partial(self._near, rows, images)))

    def collect(self, batch: Batch, asked: "_Asked") -> Lookup:
        """Wait for the rows, and for the images."""
        lookup = asked.rows.collect()
        neighbors = asked.images.add_to(lookup.neighbors) if asked.images else lookup.neighbors
        return Lookup(
            near=asked.near,
            route=asked.route,
            coming_versions=lambda: neighbors.versions,
            graph=neighbors.graph,
            write=partial(self._write, batch, lookup),
        )

    def _near(self, rows: PendingRows, images: PendingImages | None) -> TensorNeighbors:
        neighbors = rows.found.result()
        return neighbor_tensors(images.add_to(neighbors) if images else neighbors, self.copies)

    def _write(self, batch: Batch, lookup: StepLookup, outputs: StepOutputs) -> None:
        features = outputs.features if self.keeps_features else outputs.features[:, :0]
        lookup.write(
            BankUpdate(
                step=batch.step,
                positions=batch.positions,
                ids=batch.ids,
                probs=outputs.probs.numpy(),
                features=features.numpy(),
            )
        )


class _Asked(NamedTuple):
    rows: PendingRows
    route: Route | None
    images: PendingImages | None
    near: Callable[[], TensorNeighbors]


@dataclass(frozen=True, kw_only=True)
class RankLookups:
    """To the workers' devices: ids travel ahead, rows when the step begins; all ranks make the same calls."""

    bank: RankBank
    expect: Callable[[Route], None] = lambda route: None
    """Tells the uncertainty table, where there is one, that the rows of a route will be read."""

    def find(self, batch: Batch) -> GraphQuery:
        """The batch's ids set out."""
        return self.bank.find(batch.step, batch.ids)

    def ask(self, batch: Batch, found: GraphQuery) -> Route:
        """The neighbours' ids are here, and theirs set out."""
        route = self.bank.route(np.concatenate([batch.ids, self.bank.ask(found).ravel()]), len(batch.ids))
        self.expect(route)
        return route

    def collect(self, batch: Batch, asked: Route) -> Lookup:
        """Read the rows from device to device."""
        rows = self.bank.read(batch.step, asked)

        def write(outputs: StepOutputs) -> None:
            self.bank.write(batch.step, asked, batch.positions, (outputs.probs, outputs.features))

        return Lookup(near=lambda: rows.near, route=asked, coming_versions=rows.versions, graph=0, write=write)


@dataclass(frozen=True, kw_only=True)
class TableLookups:
    """To the table alone, for a recipe that keeps something of each sample and has no bank."""

    route_of: Callable[[NDArray[np.int64], int], Route]
    """Begins the way of a batch's rows of the table."""

    def find(self, batch: Batch) -> None:
        """There is nobody to ask."""

    def ask(self, batch: Batch, found: None) -> Route:
        """The batch's ids set out."""
        return self.route_of(batch.ids, len(batch.ids))

    def collect(self, batch: Batch, asked: Route) -> Lookup:
        """No neighbours, and nothing to write."""
        nothing = np.empty((len(batch.ids), 0), dtype=np.int64)
        return Lookup(
            near=lambda: None, route=asked, coming_versions=lambda: nothing, graph=0, write=lambda outputs: None
        )
