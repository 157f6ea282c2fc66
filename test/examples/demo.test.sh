#!/usr/bin/env bash
# Runs examples/demo.ts against the server that PGHOST leads to, restarts that server under it, and interrupts it.
# (E18) It ends by SIGTERM as by Ctrl-C, and leaves no task claimed.
# needs: node npm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../examples"

PID=
LOG=$(mktemp)
trap '[[ -z $PID ]] || kill -KILL "$PID" 2>/dev/null || true; rm -f "$LOG"' EXIT

fail() {
	echo "FAILED: $*"
	echo "--- the output of demo.ts:"
	cat "$LOG"
	exit 1
}

sql() {
	psql -X -q -At -v ON_ERROR_STOP=1 "$@"
}

# pg_ctl COMMAND...: as the owner of the server, which is never root
server() {
	local as=()
	[[ $(id -u) -ne 0 ]] || as=(runuser -u "$(stat -c %U "$PGHOST/data")" --)
	"${as[@]}" pg_ctl -D "$PGHOST/data" -l "$PGHOST/log" -w -t 60 "$@" >/dev/null
}

# until_so SECONDS WHAT COMMAND...
until_so() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		((SECONDS < deadline)) || fail "not within the time: $what"
		[[ -z $PID ]] || kill -0 "$PID" 2>/dev/null || "$@" || fail "it ended before: $what"
		sleep 0.05
	done
}

# says PATTERN [SECONDS]
says() {
	until_so "${2:-20}" "it says \"$1\"" grep -qE "$1" "$LOG"
}

# is QUERY EXPECTED
is() {
	local got
	got=$(sql -c "$1")
	[[ $got == "$2" ]] || fail "$1: $got instead of $2"
}

# start [VARIABLE=VALUE...]
start() {
	: >"$LOG"
	env PGUSER=example "$@" node "$program" >"$LOG" 2>&1 &
	PID=$!
	says ' connected$'
}

# interrupt [SIGNAL]: as Ctrl-C does; it must end, with success
interrupt() {
	local status=0 signal=${1:-INT}
	kill "-$signal" "$PID"
	until_so 20 "it ends after SIG$signal" gone
	wait "$PID" || status=$?
	PID=
	[[ $status -eq 0 ]] || fail "exit code $status after SIG$signal"
	grep -q ' stopped$' "$LOG" || fail "it did not say that it stopped"
}

# ended, if not yet waited for
gone() {
	[[ ! -d /proc/$PID || $(cut -d' ' -f3 "/proc/$PID/stat" 2>/dev/null) =~ ^(Z|)$ ]]
}

enqueue() {
	sql -c "SELECT jobqueue.enqueue('demo', '{\"n\": $1}', queue => 'demo')"
}

sql -c 'CREATE EXTENSION jobqueue' -c 'DROP ROLE IF EXISTS example' -c 'CREATE ROLE example LOGIN' \
	-c "SELECT jobqueue.grant_access('example', 'producer'), jobqueue.grant_access('example', 'consumer')"

npm ci --no-audit --no-fund
program=demo.ts
if [[ -z $(node -p 'process.features.typescript || ""') ]]; then
	npm run build
	program=dist/demo.js
fi

# it enqueues at its interval, is notified, claims, works, completes
start INTERVAL_MS=300 WORK_MS=10
for task in 1 2 3; do
	says "enqueued task $task\$"
	says "working on task $task, attempt 1: the square of $task\$"
	says "completed task $task\$"
done
interrupt
is "SELECT count(*) >= 3 FROM jobqueue.tasks WHERE type = 'demo' AND status = 'completed' AND created_by = 'example'
	AND attempts = 1 AND (result->>'square')::int = (payload->>'n')::int ^ 2 AND claimed_by LIKE 'demo.ts (%'" t
is "SELECT count(*) FROM jobqueue.tasks WHERE status NOT IN ('completed', 'pending')" 0

# by itself it enqueues nothing now, and looks every 30 s only: what wakes it is the notification
start INTERVAL_MS=0 WORK_MS=10
task=$(enqueue 12)
says "completed task $task\$" 15

# the server is stopped, and it is there again, with tasks that came meanwhile
server stop -m fast
says ': connecting again in 500 ms$'
server start
task=$(enqueue 13)
says "completed task $task\$" 25
task=$(enqueue 14)
says "completed task $task\$" 15
interrupt

# the server is restarted while a task is in hand: it is reported over the next connection, with no second attempt
start INTERVAL_MS=0 WORK_MS=1500
task=$(enqueue 15)
says "working on task $task,"
server restart -m fast
says "completed task $task\$" 25
is "SELECT status, attempts, result FROM jobqueue.tasks WHERE id = $task" 'completed|1|{"square": 225}'

# interrupted with a task in hand: it finishes that, and leaves the next one alone
task=$(enqueue 16)
says "working on task $task,"
next=$(enqueue 17)
interrupt
is "SELECT status, attempts FROM jobqueue.tasks WHERE id = $task" 'completed|1'
is "SELECT status, attempts FROM jobqueue.tasks WHERE id = $next" 'pending|0'

# E18: likewise by SIGTERM
start INTERVAL_MS=0 WORK_MS=1500
says "working on task $next,"
interrupt TERM
is "SELECT status, attempts FROM jobqueue.tasks WHERE id = $next" 'completed|1'

# E18: what takes too long is given back, and costs no attempt
task=$(enqueue 18)
start INTERVAL_MS=0 WORK_MS=600000 GRACE_MS=100
says "working on task $task,"
interrupt TERM
is "SELECT status, max_attempts - attempts FROM jobqueue.tasks WHERE id = $task" 'pending|20'
next=$task

# interrupted while there is no server
start INTERVAL_MS=0 WORK_MS=10
says "completed task $next\$"
server stop -m fast
says ': connecting again in 1000 ms$'
interrupt
server start

echo "demo.ts enqueues, listens, claims, completes, survives restarts, and ends when told to" \
	"($program, node $(node --version))"
