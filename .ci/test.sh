#!/usr/bin/env bash
# Runs everything that is tested here, step by step, and sums it up (make test).
#
# A step is a script whose last line is "N passed, N failed"; a line that starts
# with "note: " on the way goes into the summary. A step that fails does not
# keep the others from running: one run shows all that is wrong.
#
# The steps of the first list run one after the other. Those of the second list boot
# virtual machines and wait for them most of the time: two run at once, and what a step
# prints is shown when it has ended.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# name of the step, and the command to run
alone=(
	"build" "make --no-print-directory build"
	"lint" ".ci/lint.sh"
	"Go tests, race detector" ".ci/gotest.sh"
	"packaging" "packaging/test.sh"
)
# the longest first, so that none is left over at the end
machines=(
	"moving to another host" "integration/guests/migrate.sh"
	"front-ends" "go run ./integration/guests/frontends"
	"virtual machines" "integration/qemu_test.sh"
	"geometries" "integration/guests/geometries.sh"
	"zoned drives" "integration/drives.sh short"
	"data the kernel has lost" "integration/writeback.sh"
	"restarts" "integration/guests/restart.sh bin/zvhost 5"
	"bad zones" "integration/guests/faults.sh"
	"vfio-user" "integration/guests/vfio.sh"
	"power cuts" "integration/powercut.sh 10"
	"the host itself (VDUSE)" "integration/guests/vduse.sh"
	"smallest disks" "integration/guests/small.sh"
)

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
total=$(((${#alone[@]} + ${#machines[@]}) / 2)) number=0 all_passed=0 all_failed=0 began=$EPOCHSECONDS
summary=()

# run NAME COMMAND: runs a step; its exit status, seconds and output are files in $logs.
run() {
	local words status=0 started=$EPOCHSECONDS
	read -ra words <<<"$2"
	"${words[@]}" 2>&1 || status=$?
	printf '%d %d\n' "$status" $((EPOCHSECONDS - started)) >"$logs/$1.end"
}

# account NAME: adds what a step that has ended counted to the summary.
account() {
	local status seconds counts passed=0 failed=0 verdict=ok
	read -r status seconds <"$logs/$1.end"
	if counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$logs/$1" | tail -n 1) && [[ $counts ]]; then
		read -r passed _ failed _ <<<"$counts"
	elif ((status == 0)); then
		passed=1 # a step that counts nothing, such as the build
	fi
	if ((status != 0 && failed == 0)); then failed=1; fi
	if ((failed > 0)); then verdict=FAILED; fi
	all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed))
	summary+=("$(printf '  %-26s %-6s %5d s  %6d passed %4d failed  %s' "$1" "$verdict" "$seconds" "$passed" "$failed" \
		"$(sed -n 's/^note: //p' "$logs/$1" | paste -sd ';' | sed 's/;/; /g')")")
}

for ((i = 0; i < ${#alone[@]}; i += 2)); do
	name=${alone[i]} number=$((number + 1))
	printf '\n== %d/%d %s\n' $number "$total" "$name"
	run "$name" "${alone[i + 1]}" | tee "$logs/$name"
	account "$name"
done

# Job control gives each step a process group of its own, with the signals as this script
# got them, so that the end of this script can end a step with all that it has started.
set -m
declare -A running=() # process group -> name of its step
end_running() {
	local group
	for group in "${!running[@]}"; do kill -TERM -- "-$group" || true; done
	wait
	rm -rf "$logs"
}
trap end_running EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# ended: waits for one of the steps that run, and shows it.
ended() {
	local process name
	wait -n -p process || true # its status is in its file
	name=${running[$process]}
	unset "running[$process]"
	printf '\n== %s\n' "$name"
	cat "$logs/$name"
	account "$name"
}
for ((i = 0; i < ${#machines[@]}; i += 2)); do
	if ((${#running[@]} == 2)); then ended; fi
	name=${machines[i]} number=$((number + 1))
	printf '\n== %d/%d %s begins\n' $number "$total" "$name"
	run "$name" "${machines[i + 1]}" >"$logs/$name" </dev/null &
	running[$!]=$name
done
while ((${#running[@]} > 0)); do ended; done

printf '\n== summary, after %d s\n' $((EPOCHSECONDS - began))
printf '%s\n' "${summary[@]}"
printf '%d passed, %d failed\n' "$all_passed" "$all_failed"
((all_failed == 0))
