"""Sources of settings: the configuration file, HTTP pools and API keys."""
