"""Functions that run in turns: each in a thread of its own, one at a time, so that they wait for each other at given places.

The layers of a network are fitted in one forward pass, and batches of several shapes can't share a pass. Here each batch has its
pass, and at each layer a pass waits until the others have reached it too. Only one thread runs at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


class StoppedError(Exception):
    """Raised where a function waits and another one fails."""


class Turns:
    """The order in which functions run: each until it passes its turn on or ends.

    Attributes:
        number: of the function that is running.

    Example:
        >>> order, turns = [], Turns()
        >>> def count(name):
        ...     for i in range(2):
        ...         order.append(f"{name}{i}")
        ...         turns.pass_on()
        >>> turns.run([lambda: count("a"), lambda: count("b")])
        >>> order
        ['a0', 'b0', 'a1', 'b1']
    """

    def __init__(self) -> None:
        """Start without functions."""
        self.number = 0
        self._turns: list[threading.Semaphore] = []
        self._running = [True]
        self._failed = False

    def run(self, functions: Sequence[Callable[[], None]]) -> None:
        """Run all functions to their ends; a single one runs in this thread.

        An error of a function is raised here, and the others are stopped where they wait.
        """
        if len(functions) == 1:
            functions[0]()
            return
        self._turns = [threading.Semaphore(0) for _ in functions]
        self._running = [True] * len(functions)
        with ThreadPoolExecutor(len(functions)) as pool:
            results = [pool.submit(self._run_one, i, function) for i, function in enumerate(functions)]
            self._turns[0].release()
        errors = [result.exception() for result in results]
        error = next((e for e in errors if e is not None and not isinstance(e, StoppedError)), None)
        if error is not None:
            raise error

    def pass_on(self) -> None:
        """Let the others run until they pass on or end; returns when it is this function's turn again.

        Raises:
            StoppedError: another function failed.
        """
        own, following = self.number, self._next()
        if following != own:
            self._turns[following].release()
            self._turns[own].acquire()
            self.number = own
        if self._failed:
            raise StoppedError

    def _next(self) -> int:
        """Number of the function that is to run next: the present one where all others have ended."""
        n = len(self._running)
        return next((i % n for i in range(self.number + 1, self.number + n) if self._running[i % n]), self.number)

    def _run_one(self, number: int, function: Callable[[], None]) -> None:
        """The body of a thread."""
        self._turns[number].acquire()
        self.number = number
        ended = False
        try:
            if not self._failed:
                function()
                ended = True
        finally:
            self._failed = self._failed or not ended
            self._running[number] = False
            following = self._next()
            if following != number:
                self._turns[following].release()
