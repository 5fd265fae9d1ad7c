#!/usr/bin/env bash
# Searches with every fuzz target, found by its name, for FUZZTIME (2m) each (make fuzz,
# and the end of make robust). What a target finds is written to testdata/fuzz/ of its
# package: commit it with the fix, and make test tries it from then on.
#
# Before Go 1.27 the end of the time itself may be told as a failure (go.dev/issue/75804):
# a run whose whole complaint is that, and which wrote nothing down, has found
# nothing, and its executions count.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# only_the_end TARGET   whether the failure in $log is that of Go's coordinator, line for line
only_the_end() {
	local said
	said=$(grep -v '^fuzz: elapsed: ' "$log" | sed -E 's/ \([0-9.]+s\)$//; s/\t.*//')
	[[ $said == "--- FAIL: $1"$'\n    context deadline exceeded\nFAIL\nexit status 1\nFAIL' ]]
}

passed=0 failed=0 executions=0
while IFS=$'\t' read -r dir target; do
	if go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-2m}" "$dir" >"$log" 2>&1 || only_the_end "$target"; then
		# fuzz: elapsed: 10s, execs: 325017 (33229/sec), new interesting: 11 (total: 202)
		n=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
		printf 'ok    %-34s %s, %d executions\n' "$target" "$dir" "${n:-0}"
		passed=$((passed + 1)) executions=$((executions + ${n:-0}))
	else
		cat "$log"
		printf 'FAIL  %-34s %s\n' "$target" "$dir"
		failed=$((failed + 1))
	fi
done < <(
	git ls-files --cached --others --exclude-standard -- '*_test.go' | while read -r file; do
		sed -n "s,^func \(Fuzz[A-Za-z0-9_]*\)(.*,./$(dirname "$file")\t\1,p" "$file"
	done | sort
)
if ((passed + failed == 0)); then
	echo "fuzz.sh: no fuzz target found: something is wrong with this script" >&2
	exit 1
fi
printf 'note: %d executions of %d targets\n' "$executions" $((passed + failed))
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
