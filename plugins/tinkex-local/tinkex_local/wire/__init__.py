"""The HTTP interface of the service: routes, bodies and responses."""

#: The prefix of every route.
PREFIX = "/api/v1"
#: Key in the WSGI environment: seconds a caller waits for a response, if less than a long poll.
PATIENCE = "tinkex_local.patience"
