"""The resources of the service, one module a noun."""
