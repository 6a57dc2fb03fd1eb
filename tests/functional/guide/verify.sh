#!/usr/bin/env bash
# Is the program there, and which one is it?
set -eu
tinkex version
tinkex --version
tinkex version --json
