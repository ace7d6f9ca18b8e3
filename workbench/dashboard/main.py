"""``panel serve workbench/dashboard`` runs this for every visitor."""

from workbench.dashboard.shell.frame import open_session

open_session()
