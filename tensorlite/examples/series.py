"""Tomorrow from the days before: the program behind ``tensorlite train series``. Floor 7.

Two LSTMs, one on the other, read a window of a series and give its next value. They learn the change from the last
value that is known, so that a net that has learnt nothing makes the naive forecast: as it was, it will be.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import Schedule
from tensorlite.errors import DataError
from tensorlite.examples.program import Result, Run, say
from tensorlite.examples.sources import POLLUTION, TEMPERATURE
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, TensorDataset
from tensorlite.utils.data.tables import read_csv_series

SERIES = ("temperature", "pollution")


class Table(NamedTuple):
    """A series with what is known beside it: values (N,), NaN where missing; features (N, F); steps a year; a unit."""

    values: np.ndarray
    features: np.ndarray
    year: float
    unit: str


def read(series: str, data: str | os.PathLike | None = None) -> Table:
    """The daily temperatures, or the hourly fine dust with the weather."""
    if series == "temperature":
        (path,) = TEMPERATURE.find(data)
        values = read_csv_series(path, "Temp")
        return Table(values, np.empty((len(values), 0)), 365.25, "degrees")
    (path,) = POLLUTION.find(data)
    table = read_csv_series(path, ["pm2.5", "DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"])
    return Table(table[:, 0], table[:, 1:], 365.25 * 24, "ug/m3")


def filled(values: np.ndarray) -> np.ndarray:
    """``values`` with every NaN replaced by the last number before it (at the start, by the first number)."""
    known = ~np.isnan(values)
    if not known.any():
        raise DataError("the series has no values at all; wanted some")
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return values[np.where(last < 0, np.argmax(known), last)]


class Windows(NamedTuple):
    """Windows (N, T, F) of a series, the last known value (N,) of each, the value (N,) that follows, and where."""

    inputs: np.ndarray
    last: np.ndarray
    target: np.ndarray
    where: np.ndarray


def windows(table: Table, length: int, mean: float, deviation: float, features: tuple) -> Windows:
    """All windows whose next value is known, scaled. Beside the values stand the season and whether each was there."""
    missing = np.isnan(table.values)
    series = (filled(table.values) - mean) / deviation
    angle = 2 * np.pi * np.arange(len(series)) / table.year
    weather = (table.features - features[0]) / features[1]
    columns = np.column_stack([series, missing, np.sin(angle), np.cos(angle), weather])
    if table.year > 1000:  # hours: the time of day, too
        day = 2 * np.pi * np.arange(len(series)) / 24
        columns = np.column_stack([columns, np.sin(day), np.cos(day)])
    where = np.flatnonzero(~missing[length:]) + length
    inputs = np.lib.stride_tricks.sliding_window_view(columns.astype(np.float32), length, axis=0)
    return Windows(inputs[where - length].transpose(0, 2, 1).copy(), series[where - 1], series[where], where)


class Forecast(nn.Module):
    """LSTM(64) - LSTM(32) - Linear(1) on a window (B, T, F) -> the change (B,) from its last value to the next."""

    def __init__(self, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.LSTM(features, 64, batch_first=True)
        self.second = nn.LSTM(64, 32, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(32, 1)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        steps, _ = self.first(x)
        _, (h, _) = self.second(self.dropout(steps))
        return self.linear(self.dropout(h[-1])).squeeze(1)


def rmse(errors: np.ndarray) -> float:
    """The square root of the mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def train(
    series: str = "temperature",
    window: int = 30,
    epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    dropout: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    workers: int = 0,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
) -> Result:
    """Train on the first 70 % of a series, watch the next 15 %, test on the rest; print both forecasts' errors.

    Args:
        series: ``"temperature"`` (a day a step) or ``"pollution"`` (an hour a step).
        window: steps that the net sees.
        data: the folder with the series; default: where ``TENSORLITE_DATA`` says, the cache, or the internet.
        plot: a file for the curves of loss, and for the end of the series beside both forecasts.
        epochs, batch_size, lr, dropout, seed, device, workers, out, resume, checkpoint_every: as in
            ``tensorlite.examples.mnist.train``.
    """
    epochs = epochs or (20 if series == "temperature" else 3)
    run = Run("series", out or f"series-{series}.safetensors", plot, resume, checkpoint_every, series=series,
              window=window, epochs=epochs, batch_size=batch_size, lr=lr, dropout=dropout, seed=seed)  # fmt: skip

    # The data. Whatever is learnt from it (mean and deviation, too) is learnt from the first part.
    table = read(series, data)
    n = len(table.values)
    if n < 10 * window:
        raise DataError(f"{series}: {n} steps; wanted at least 10 windows of {window}")
    ends = (n * 70 // 100, n * 85 // 100, n)
    mean, deviation = float(np.nanmean(table.values[: ends[0]])), float(np.nanstd(table.values[: ends[0]]))
    spread = table.features[: ends[0]].std(0)
    weather = table.features[: ends[0]].mean(0), np.where(spread > 0, spread, 1.0)
    every = windows(table, window, mean, deviation, weather)

    def part(start: int, end: int) -> TensorDataset:
        rows = (every.where >= start) & (every.where < end)
        change = (every.target - every.last)[rows].astype(np.float32)
        return TensorDataset(tl.from_numpy(every.inputs[rows]), tl.from_numpy(change))

    training, validation, test = part(0, ends[0]), part(ends[0], ends[1]), part(ends[1], ends[2])

    tl.manual_seed(seed)
    net = Forecast(every.inputs.shape[2], dropout).to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(training, batch_size=batch_size, shuffle=True, num_workers=workers)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    say(f"{series}: {len(training):,} windows to train, {len(validation):,} to validate, {len(test):,} to test; "
        f"{int(np.isnan(table.values).sum()):,} of {n:,} values are missing")  # fmt: skip
    say(f"LSTM: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    trainer = Trainer(net, optimizer, F.mse_loss, clip_grad_norm=1.0, device=device,
                      callbacks=[Schedule(schedule, every="step")])  # fmt: skip
    rows = every.where >= ends[1]
    truth, naive = (mean + deviation * v[rows] for v in (every.target, every.last))
    forecast = naive

    def measure() -> dict[str, float]:
        nonlocal forecast
        forecast = naive + deviation * trainer.predict(DataLoader(test, batch_size=500)).cpu().numpy()
        return {"rmse": rmse(forecast - truth), "naive": rmse(naive - truth)}

    result = run.fit(
        trainer, loader, epochs, DataLoader(validation, batch_size=500), measure, data=[table.values, table.features],
        config={"series": series, "window": window, "features": every.inputs.shape[2], "mean": mean,
                "deviation": deviation},
    )  # fmt: skip
    shown = slice(-min(len(truth), 120), None)
    where = every.where[rows][shown]
    lines = {f"{series}, {table.unit}": (where, truth[shown]), "naive forecast": (where, naive[shown])}
    if not result.interrupted:
        lines["forecast"] = (where, forecast[shown])
    run.draw(f"{series}: the next step", loss="mean squared error", series=lines)
    t = result.test
    return run.last_line("" if result.interrupted else f"test RMSE {t['rmse']:.4f} {table.unit}, naive forecast "
                                                       f"{t['naive']:.4f},")  # fmt: skip
