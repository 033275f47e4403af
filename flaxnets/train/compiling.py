"""Compiled functions that know how long they compiled and when they compile again."""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax


class RecompilationWarning(UserWarning):
    """A function was compiled a second time; the message names what changed."""


class Compiled:
    """A jitted function, compiled once for each set of argument shapes and types.

    Args:
        function: of trees of arrays.
        name: what a warning calls it.
        donate_argnums, out_shardings: as for `jax.jit`.

    Attributes:
        compile_seconds: time spent in tracing and compiling so far.
    """

    def __init__(
        self,
        function: Callable,
        *,
        name: str,
        donate_argnums: Sequence[int] = (),
        out_shardings: jax.sharding.Sharding | None = None,
    ) -> None:
        self.compile_seconds = 0.0
        self._jitted = jax.jit(
            function, donate_argnums=tuple(donate_argnums), out_shardings=out_shardings
        )
        self._name = name
        self._executables: dict[tuple, Any] = {}
        self._lock = threading.Lock()

    def compile(self, *args: Any) -> Callable:
        """The executable for arguments shaped and typed like `args`."""
        # Leaf types alone tell calls apart cheaply; names are built only to warn.
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, *(_kind(leaf) for leaf in leaves))
        with self._lock:
            if signature not in self._executables:
                if self._executables:
                    self._warn(args)
                start = time.perf_counter()
                self._executables[signature] = self._jitted.lower(*args).compile()
                self.compile_seconds += time.perf_counter() - start
                self._last = _describe(args)
        return self._executables[signature]

    def __call__(self, *args: Any) -> Any:
        return self.compile(*args)(*args)

    def _warn(self, args: Any) -> None:
        new = _describe(args)
        changes = [
            f"{name}: {self._last.get(name, 'absent')} -> {new.get(name, 'absent')}"
            for name in {**self._last, **new}
            if self._last.get(name) != new.get(name)
        ]
        warnings.warn(
            f"{self._name} compiles again, since its arguments changed: "
            f"{'; '.join(changes[:3])}. Keep shapes and types constant, e.g. by "
            "padding or dropping the last batch",
            RecompilationWarning,
            stacklevel=4,
        )


def sharding_of(leaf: Any) -> jax.sharding.Sharding | None:
    """Where an array, or what stands for one, has to be; None if anywhere will do."""
    placed = getattr(leaf, "committed", isinstance(leaf, jax.ShapeDtypeStruct))
    return leaf.sharding if placed else None


def _kind(leaf: Any) -> tuple:
    return leaf.shape, leaf.dtype, sharding_of(leaf)


def _describe(args: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): _described(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(args)
    }


def _described(leaf: Any) -> str:
    sharding = sharding_of(leaf)
    places = sorted(map(str, sharding.device_set)) if sharding else []
    place = f" on {', '.join(places)}" if places else ""
    return f"{leaf.dtype}{list(leaf.shape)}{place}"
