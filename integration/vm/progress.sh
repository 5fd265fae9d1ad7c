# shellcheck shell=bash
# Says how far a long run is, on stderr. Sourced, never run.
#
#   progress_steps 5
#   progress_step "unpacking"         [2/5] unpacking
#   progress_at 40 156 "packages"     … 25 % (40 of 156 packages)
#
# On a terminal the last line is rewritten in place; otherwise (CI logs) a line
# is written for every quarter, so that a log stays readable.

progress_steps() { progress_total=$1 progress_now=0; }

progress_step() {
	progress_clear
	progress_now=$((progress_now + 1)) progress_quarter=0
	printf '[%d/%d] %s\n' "$progress_now" "$progress_total" "$1" >&2
}

progress_at() {
	local percent=$((100 * $1 / $2))
	if [[ -t 2 ]]; then
		printf '\r      %3d %% (%s of %s %s)\e[K' "$percent" "$1" "$2" "$3" >&2
		progress_open=1
	elif ((percent / 25 > progress_quarter)); then
		progress_quarter=$((percent / 25))
		printf '      %3d %% (%s of %s %s)\n' "$percent" "$1" "$2" "$3" >&2
	fi
}

# progress_clear takes the rewritten line away, so that the next one starts clean.
progress_clear() {
	if [[ ${progress_open:-} ]]; then printf '\r\e[K' >&2; fi
	progress_open=
}
