#!/usr/bin/env bash
# Help is there for the program, every noun and every command, and needs no service.
set -eu
for words in "" checkpoint "checkpoint list" run "run list" version; do
  # shellcheck disable=SC2086 - several words are meant
  tinkex $words --help >help.txt
  # shellcheck disable=SC2086
  tinkex $words -h | cmp - help.txt
  sed -n 1p help.txt
done
