"""Settings: the configuration file, values, pools and where a key comes from."""
