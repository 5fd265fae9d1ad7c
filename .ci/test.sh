#!/usr/bin/env bash
# Runs everything that is tested here, step by step, and sums it up (make test).
#
# A step is a script whose last line is "N passed, N failed"; a line that starts
# with "note: " on the way goes into the summary. A step that fails does not
# keep the others from running: one run shows all that is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# name of the step, and the command to run
steps=(
	"build" "make --no-print-directory build"
	"lint" ".ci/lint.sh"
	"Go tests, race detector" ".ci/gotest.sh"
	"packaging" "packaging/test.sh"
	"virtual machines" "integration/qemu_test.sh"
	"geometries" "integration/guests/geometries.sh"
	"smallest disks" "integration/guests/small.sh"
	"bad zones" "integration/guests/faults.sh"
	"restarts" "integration/guests/restart.sh bin/zvhost 5"
	"front-ends" "go run ./integration/guests/frontends"
	"moving to another host" "integration/guests/migrate.sh"
	"zoned drives" "integration/drives.sh short"
	"power cuts" "integration/powercut.sh 10"
	"data the kernel has lost" "integration/writeback.sh"
)

log=$(mktemp)
trap 'rm -f "$log"' EXIT
total=$((${#steps[@]} / 2)) all_passed=0 all_failed=0 began=$EPOCHSECONDS
summary=()
for ((i = 0; i < total; i++)); do
	name=${steps[2 * i]} started=$EPOCHSECONDS
	printf '\n== %d/%d %s\n' $((i + 1)) "$total" "$name"
	read -ra command <<<"${steps[2 * i + 1]}"
	verdict=ok
	"${command[@]}" 2>&1 | tee "$log" || verdict=FAILED
	passed=0 failed=0
	if counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1) && [[ $counts ]]; then
		read -r passed _ failed _ <<<"$counts"
	elif [[ $verdict == ok ]]; then
		passed=1 # a step that counts nothing, such as the build
	fi
	if [[ $verdict == FAILED && $failed == 0 ]]; then failed=1; fi
	if ((failed > 0)); then verdict=FAILED; fi
	all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed))
	summary+=("$(printf '  %-26s %-6s %5d s  %6d passed %4d failed  %s' "$name" "$verdict" \
		$((EPOCHSECONDS - started)) "$passed" "$failed" \
		"$(sed -n 's/^note: //p' "$log" | paste -sd ';' | sed 's/;/; /g')")")
done

printf '\n== summary, after %d s\n' $((EPOCHSECONDS - began))
printf '%s\n' "${summary[@]}"
printf '%d passed, %d failed\n' "$all_passed" "$all_failed"
((all_failed == 0))
