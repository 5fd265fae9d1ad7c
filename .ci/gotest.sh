#!/usr/bin/env bash
# Runs all Go tests with the race detector, one line a package as it finishes,
# and what a failed test printed (make race). Arguments go to go test; without
# any it is all packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if (($# == 0)); then set -- ./...; fi
go build -o bin/testcount ./internal/testcount
# -count=1: a cached result would not have run the test.
CGO_ENABLED=1 go test -race -count=1 -timeout 20m -json "$@" | bin/testcount
