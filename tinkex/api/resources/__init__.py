"""The resources of the service, one module per noun."""
