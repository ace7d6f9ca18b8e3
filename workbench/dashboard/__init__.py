"""The dashboard: ``panel serve workbench/dashboard``. ``main.py`` is what the server runs for every visitor."""
