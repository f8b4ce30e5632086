"""The ways in: the flows, the command line and the HTTP API."""

import logging

# At DEBUG, websockets logs the headers of its requests, and one of them holds the Prefect login.
for _name in ("websockets.client", "websockets.server"):
    logging.getLogger(_name).addFilter(lambda record: record.levelno > logging.DEBUG)
