"""Things of which there is one each: pickled by name, never copied."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any


class ByName:
    """Pickled as functions are, by the module and the name under which it stands there; a copy is the thing itself.

    ``module`` and ``path`` say where that is, once it is known: a name, or ``PAPER.method:name`` for what a paper gives
    out by name. Before, it is looked for in ``defined_in``, the module that its functions come from.
    """

    module: str | None = None
    path: str | None = None
    defined_in: str | None = None

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        places = [(self.module, self.path)] if self.module else []
        names = vars(sys.modules[self.defined_in]) if self.defined_in in sys.modules else {}
        places += [(self.defined_in, name) for name, value in names.items() if value is self]
        for place in places:
            try:
                found = find_by_name(*place)
            except (ImportError, AttributeError, KeyError):
                continue
            if found is self:
                return find_by_name, place
        raise pickle.PicklingError(f"{self!r} cannot be pickled: it stands in no module under a name of its own.")


def find_by_name(module: str, path: str) -> Any:
    """What stands in ``module`` at ``path``."""
    path, _, key = path.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found(key) if key else found
