"""Passes: small changes of a recorded program that keep what it computes. Floor 4."""

from __future__ import annotations

from collections.abc import Callable

from tensorlite.program.passes import dead, elementwise, epilogue, layout, winners
from tensorlite.program.plan import Plan

# in this order; each takes a plan and says how much it did. All but the winners leave every bit as it was
PASSES: dict[str, Callable[[Plan], int]] = {
    "layout": layout.run,
    "dead": dead.run,
    "epilogue": epilogue.run,
    "winners": winners.run,
    "elementwise": elementwise.run,
}
PASSES["reuse"] = lambda plan: 0  # a matter of placing buffers, which comes last


def apply(plan: Plan, on: dict[str, bool]) -> None:
    """Run the passes that are on, then give every buffer its place."""
    for name, run in PASSES.items():
        if on[name] and (n := run(plan)):
            plan.applied.append(f"{name} {n}")
    plan.place(reuse=on["reuse"])
