"""Programs: steps that were recorded once and are replayed without Python's bookkeeping. Floor 4.

A call of a compiled function goes to ``compiled``; ``capture`` records two runs (``record`` writes the steps down,
``explore`` finds what the function reaches), ``passes`` change the ``plan``, ``program`` writes its guards and lines
out (``executor``), and ``backward`` is the way back of a forward.
"""

from tensorlite.program.compiled import Compiled as Compiled, compile as compile
