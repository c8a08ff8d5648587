"""Make public names say where users import them from.

An object defined in ``aspf.ranges._range_map`` and re-exported by ``aspf`` would call itself
``aspf.ranges._range_map.RangeMap`` in tracebacks, in pickles and in Sphinx. `publish` renames it
to the module that a reader can import.
"""

from __future__ import annotations

from typing import Any

__all__ = ("publish",)


def publish(module: str, namespace: dict[str, Any]) -> None:
    """Set ``__module__`` of everything of aspf's that *namespace* exports to *module*.

    Where two packages export a name, the outer one imports last and wins.

    Args:
        module: The public module's ``__name__``.
        namespace: Its ``globals()``; every name in its ``__all__`` must be there.
    """
    for name in namespace["__all__"]:
        thing = namespace[name]
        # Not what belongs to others: an exported alias may be `typing.Any` itself.
        if callable(thing) and thing.__module__.startswith("aspf"):
            thing.__module__ = module
