"""``panel serve workbench/dashboard`` runs this for every visitor."""

from workbench.dashboard.shell import open_session

open_session()
