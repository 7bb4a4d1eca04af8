"""How the steps of a recurrent layer are spread over a GPU: a search among plans by estimated cycles a step. Floor 1.

The estimate counts what recurrent.cu says in its head: multiply-adds, reads of shared memory, the way between blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tensorlite import config

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
WARPS = 8
THREADS = 32 * WARPS
MEMORY, SHARED, REGISTERS = 0, 1, 2  # where the weights are
MOST_HELD = 144  # registers of weights and sums a thread
MOST_TILES = 8  # of 16 rows and 8 samples that a warp sums at once
MOST_PAIRS = 4  # samples x units that a thread finishes
STATIC = 1024  # bytes of shared memory that the driver keeps for itself
# of an H100, in cycles: to other blocks and back, bytes a cycle of a block from L2, what a step takes besides, an mma
EXCHANGE, FROM_L2, STEP, MMA_LATENCY = 1500, 32, 250, 35


class Plan(NamedTuple):
    """Blocks, what each works on, and the macros of recurrent.cu."""

    groups: int  # blocks that share the units; more than 1 exchange states
    units: int
    slices: int
    slice: int
    tile: int  # samples of a slice that are worked on at once
    where: int
    staged: bool
    kl: int  # lanes, warps on the inner index; warps on different units
    wk: int
    wu: int
    ur: int  # units of a lane, samples at once
    rb: int
    chunks: int
    pitch: int
    nk: int
    nu: int
    pairs: int
    shared: int  # bytes
    mma: bool  # by tensor cores
    hidden: int
    cycles: float

    @property
    def macros(self) -> dict:
        """The macros of recurrent.cu that depend on the plan."""
        held = dict(NK=self.nk) if self.where == REGISTERS else {}
        held |= dict(NU=self.nu) if self.where == REGISTERS or self.mma else {}
        return dict(
            KL=self.kl, WK=self.wk, WU=self.wu, UR=self.ur, RB=self.rb, PAIRS=self.pairs,
            ALONE=int(self.groups == 1), STAGED=int(self.staged), WHERE=self.where, MMA=int(self.mma), **held,
        )  # fmt: skip

    @property
    def sizes(self) -> tuple:
        """The last arguments of the kernels."""
        return self.hidden, self.units, self.slice, self.tile, self.pitch, self.chunks


# What plans must have, by name of the field: for tests, and to compare plans on a GPU.
FORCED: dict = {}


def device_limits() -> tuple[int, int]:
    """(multiprocessors, bytes of shared memory a block) of the current GPU."""
    if config.CUDA_EMULATION.value:
        from tensorlite.backends.emulator import MULTIPROCESSORS, SHARED_LIMIT

        return MULTIPROCESSORS, SHARED_LIMIT
    from tensorlite.backends import cuda

    return _limits(cuda.current_device())


@cache
def _limits(index: int) -> tuple[int, int]:
    from tensorlite.backends import cuda

    found = cuda.arrays().cuda.Device(index).attributes
    return found["MultiProcessorCount"], found["MaxSharedMemoryPerBlockOptin"]


def plan_of(cell: str, back: bool, itemsize: int, batch: int, hidden: int, blocks: int, shared: int) -> Plan:
    """The plan of fewest cycles a step, for a GPU of so many multiprocessors with so much shared memory a block.

    ``itemsize`` 2 wants tensor cores; where these have no room, and for 4 and 8, sums are made in float32 or float64.
    """
    return _best(cell, back, itemsize, batch, hidden, blocks, shared, tuple(sorted(FORCED.items())))


@cache
def _best(
    cell: str, back: bool, itemsize: int, batch: int, hidden: int, blocks: int, shared: int, forced: tuple
) -> Plan:
    # few blocks for very many units: each thread finishes more
    ways = ([(2, MOST_PAIRS)] if itemsize == 2 else []) + [(max(itemsize, 4), n) for n in (MOST_PAIRS, hidden * batch)]
    for size, most in ways:
        plans = _plans(cell, back, size, batch, hidden, blocks, shared - STATIC, most)
        found = [p for p in plans if all(getattr(p, name) == value for name, value in forced)]
        if found:
            break
    else:
        raise ValueError(f"recurrent: no plan for {hidden} units, {batch} samples with {dict(forced)}")
    return min(found, key=lambda p: p.cycles)


def _powers(most: int) -> list[int]:
    return [1 << k for k in range(max(1, most).bit_length())]


def _plans(
    cell: str, back: bool, itemsize: int, batch: int, hidden: int, blocks: int, room: int, most_pairs: int
) -> Iterator[Plan]:
    for want in sorted({*(g for g in _powers(blocks) if g <= hidden), min(blocks, hidden)}):
        units = -(-hidden // want)
        groups = -(-hidden // units)
        many = min(batch, blocks // groups)
        for slices in {many, -(-many // 2)}:
            most = -(-batch // slices)
            top = min(8, 1 << (most - 1).bit_length())
            tops = {top, -(-top // 2)} if itemsize > 2 else {8 * n for n in (1, 2, 4) if n == 1 or 4 * n < most}
            for rb in tops if most_pairs == MOST_PAIRS else {1}:
                size = -(-most // rb) * rb
                for tile in (rb * k for k in range(size // rb, 0, -1) if size % (rb * k) == 0):
                    if -(-tile * units // THREADS) > most_pairs or tile != FORCED.get("tile", tile):
                        continue
                    shape = groups, units, -(-batch // size), size, tile, rb
                    spread = _spread_mma if itemsize == 2 else _spread
                    found = list(spread(cell, back, itemsize, hidden, room, *shape))
                    yield from found
                    if any(p.where != MEMORY and p.staged for p in found):  # smaller tiles gain nothing
                        break


def _spread(
    cell: str, back: bool, itemsize: int, hidden: int, room: int,
    groups: int, units: int, slices: int, size: int, tile: int, rb: int,
) -> Iterator[Plan]:  # fmt: skip
    """Plans for blocks of ``units`` units and slices of ``size`` samples, of which ``tile`` are worked on at once."""
    gates, rows = GATES[cell], 1 if back else GATES[cell]
    inner, v = hidden * (gates if back else 1), 16 // itemsize
    pairs = -(-tile * units // THREADS)
    tiles, passes = -(-tile // rb), -(-size // tile)
    biases = 0 if back else 4 * units
    for kl in _powers(32):
        for ur in (1, 2, 4) if rows == 1 else (1,):
            if kl < 32 and 32 // kl * ur >= 2 * units:
                continue  # half of the lanes would have no unit
            unit_tiles = -(-units * kl // (32 * ur))
            for wk in _powers(WARPS):
                chunks = -(-inner // (kl * wk * v))
                pitch = _pitch(chunks * kl * wk, kl) * v
                sums = wk * rows * tile * units
                for wu in [w for w in _powers(WARPS // wk) if w == 1 or w < 2 * unit_tiles]:
                    mine = -(-unit_tiles // wu)
                    jobs = mine * -(-tiles * wk * wu // WARPS) * passes
                    held = rows * ur * (chunks * v * mine + rb) * itemsize // 4
                    for where in (REGISTERS, SHARED, MEMORY):  # the first that has room
                        if where != FORCED.get("where", where):
                            continue
                        if where == REGISTERS and held > MOST_HELD:
                            continue
                        weights = rows * units * pitch if where == SHARED else 0
                        for staged in (True,) if groups == 1 else (True, False):
                            if staged != FORCED.get("staged", staged):
                                continue
                            states = pitch * (2 * size if groups == 1 else tile if staged else 0)
                            parts = (states, -(-sums // v) * v, -(-biases // v) * v, weights)
                            if sum(parts) * itemsize > room:
                                continue
                            cycles = _cycles(
                                itemsize, rows * ur, rb, kl, chunks, v, jobs, where, pairs * passes,
                                size * inner * itemsize if groups > 1 else 0, staged,
                            )  # fmt: skip
                            kept = (chunks, mine) if where == REGISTERS else (0, 0)
                            yield Plan(
                                groups, units, slices, size, tile, where, staged, kl, wk, wu, ur, rb, chunks, pitch,
                                *kept, pairs, sum(parts) * itemsize, False, hidden, cycles,
                            )  # fmt: skip
                            break


def _spread_mma(
    cell: str, back: bool, itemsize: int, hidden: int, room: int,
    groups: int, units: int, slices: int, size: int, tile: int, rb: int,
) -> Iterator[Plan]:  # fmt: skip
    """The same with tensor cores: tiles of 16 rows of weights, 8 samples, 16 of the inner index."""
    rows, inner = units * (1 if back else GATES[cell]), hidden * (GATES[cell] if back else 1)
    pairs, nb = -(-tile * units // THREADS), rb // 8
    tiles, passes, row_tiles = -(-tile // rb), -(-size // tile), -(-rows // 16)
    biases = 0 if back else 4 * units
    for wk in _powers(WARPS):
        nk = -(-inner // (16 * wk))
        pitch = 16 * wk * nk + 8  # rows of 16 bytes, an odd number of them: eight rows are in different banks
        sums = 4 * (-(-wk * rows * tile // 4) * 4 + -(-biases // 4) * 4)
        for wu in [w for w in _powers(WARPS // wk) if w == 1 or w < 2 * row_tiles]:
            nu = -(-row_tiles // wu)
            if nu * nb > MOST_TILES:
                continue
            for where in (REGISTERS, SHARED, MEMORY):  # the first that has room
                weights = row_tiles * 16 * pitch * itemsize if where == SHARED else 0
                held = 4 * nu * (nk + nb) if where == REGISTERS else 0
                shared = pitch * itemsize * (2 * size if groups == 1 else tile) + sums + weights
                if where != FORCED.get("where", where) or held > MOST_HELD or shared > room:
                    continue
                turns = -(-tiles * wk * wu // WARPS) * passes * nk
                reads = WARPS * turns * (2 * nb + (4 * nu if where == SHARED else 0))
                streamed = WARPS * turns * nu * 512 / FROM_L2 if where == MEMORY else 0
                between = EXCHANGE + size * inner * itemsize / FROM_L2 if groups > 1 else 0
                summed = max(2 * WARPS * turns * nu * nb, turns * MMA_LATENCY, reads) + streamed
                last = STEP + 60 * pairs * passes + 2 * wk * rows * tile * passes / 32
                yield Plan(
                    groups, units, slices, size, tile, where, True, 1, wk, wu, 1, rb, nk, pitch,
                    nk if where == REGISTERS else 0, nu, pairs, shared, True, hidden, summed + between + last,
                )  # fmt: skip
                break


def _pitch(vectors: int, kl: int) -> int:
    """Vectors of a row of weights: lanes on neighbouring rows read from different banks of shared memory."""
    while kl < 8 and vectors % 8 != kl:
        vectors += 1
    return vectors


def _cycles(
    itemsize: int, r: int, rb: int, kl: int, chunks: int, v: int, jobs: int, where: int, pairs: int, received: int,
    staged: bool,
) -> float:  # fmt: skip
    fma = WARPS * jobs * chunks * v * r * rb / (4 if itemsize == 4 else 2)
    reads = chunks * (rb * max(1, kl / 8) * (1 if staged else 4) + (4 * r if where == SHARED else 0))
    sums = r * rb * (2 - 1 / kl) if kl > 1 else r * rb
    shared = WARPS * jobs * (reads + sums)
    streamed = WARPS * jobs * chunks * r * 512 / FROM_L2 if where == MEMORY else 0
    between = EXCHANGE + received / FROM_L2 if received else 0
    return max(fma, shared) + 0.25 * min(fma, shared) + streamed + between + STEP + 60 * pairs
