"""The web page at ``/console``: its files are in ``static``, served by :mod:`gateway_http.routes_console`."""
