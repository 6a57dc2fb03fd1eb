"""Requests and responses: transport, retries, errors, pagination."""
