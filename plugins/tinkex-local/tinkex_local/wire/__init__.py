"""The service over HTTP: routes, and what is common to them."""

#: Of every route.
PREFIX = "/api/v1"
