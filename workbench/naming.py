"""What things are called: one name for people, in every table, legend and figure, in the terminal, too.

Methods have titles, their papers say them; implementations are called as their methods say. Names by which code calls
them appear in code, in links and in the columns of CSV files, nowhere else.
"""

from collections.abc import Mapping
from typing import Any

from workbench import catalog


def method(name: str) -> str:
    """The title of a method; of what is none, the name with spaces."""
    known = catalog.methods().get(name)
    return plain(name) if known is None else known.title


def implementation(name: str, of: str = "") -> str:
    """What an implementation is called: as the method ``of`` says, or, where none is named, the first one that has
    it. A method that another is compared with keeps its title."""
    known = catalog.methods()
    if name in known:
        return known[name].title
    owner = known.get(of) or next((each for each in known.values() if name in each.baselines), None)
    return plain(name) if owner is None else owner.title_of(name)


def cell(column: str, row: Mapping[str, Any]) -> str:
    """What a table's row says in a column, for people."""
    if column == "method":
        return method(row["method"])
    if column == "implementation":
        return implementation(row["implementation"], row.get("method", ""))
    return str(row[column])


def plain(name: str) -> str:
    """A name without a title: underscores are spaces."""
    return name.replace("_", " ")
