#!/usr/bin/env bash
# Runs all Go tests with the race detector, one line a package as it finishes,
# and what a failed test printed (make race). Arguments go to go test; without
# any it is all packages.
#
# Some packages run without the detector, which would make their tests three times as
# long: integration/crash and integration/cost test the binary as it is shipped, in processes
# of its own, and what they share with other tests is tested there with the detector;
# internal/rules reads sources and starts no goroutine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go build -o bin/testcount ./internal/testcount
# -count=1: a cached result would not have run the test.
race() { CGO_ENABLED=1 go test -race -count=1 -timeout 20m -json "$@"; }
if (($# > 0)); then
	race "$@" | bin/testcount
	exit
fi

plain=(./integration/crash ./integration/cost ./internal/rules)
all=$(go list ./...)
without=$(go list "${plain[@]}")
mapfile -t others < <(grep -vxF "$without" <<<"$all")
{
	status=0
	race "${others[@]}" || status=1
	go test -count=1 -timeout 20m -json "${plain[@]}" || status=1
	exit $status
} | bin/testcount
