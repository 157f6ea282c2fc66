#!/usr/bin/env bash
# Runs every code block of doc/clients.md: in a program of test/clients/docs, against the server that PGHOST leads to,
# and again through pgbouncer in transaction mode, with the option that the page names for the client. Then what the
# page says about the modes of pgbouncer. A client whose toolchain is missing is skipped; a block that no program runs
# is a failure.
#
#   docs.test.sh [HEADING...]      only the clients below these headings of the page, or pgbouncer
#
# needs: venv node npm pgbouncer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PAGE=$PWD/doc/clients.md
PROGRAMS=$PWD/test/clients/docs
WORK=$(mktemp -d)
RELAYS=()
FAULTS=0
declare -A POOLERS=([session]=6401 [transaction]=6402 [statement]=6403)
CHOSEN=("$@")

finish() {
	local mode
	[[ ${#RELAYS[@]} -eq 0 ]] || kill "${RELAYS[@]}" 2>/dev/null || true
	for mode in "${!POOLERS[@]}"; do
		[[ ! -f $PGHOST/pgbouncer.$mode.pid ]] || kill "$(cat "$PGHOST/pgbouncer.$mode.pid")" 2>/dev/null || true
		rm -f "$PGHOST/pgbouncer.$mode".*
	done
	rm -rf "$WORK"
}
trap finish EXIT

fault() {
	echo "FAILED: $*"
	FAULTS=$((FAULTS + 1))
}

sql() {
	psql -X -q -At -v ON_ERROR_STOP=1 "$@"
}

# until_so WHAT COMMAND...
until_so() {
	local deadline=$((SECONDS + 60)) what=$1
	shift
	until "$@"; do
		((SECONDS < deadline)) || { echo "not within the time: $what"; exit 1; }
		sleep 0.05
	done
}

chosen() {
	[[ ${#CHOSEN[@]} -eq 0 ]] || printf '%s\n' "${CHOSEN[@]}" | grep -qxF -e "$1"
}

section_of() {
	sed -n 's/.*section: //p' "$PROGRAMS/$1"
}

# sections_of DIRECTORY: those that are chosen
sections_of() {
	local program section
	for program in "$PROGRAMS/$1"/*; do
		section=$(section_of "$1/${program##*/}")
		[[ -z $section ]] || ! chosen "$section" || echo "$section"
	done | sort -u
}

# pooler MODE: as the owner of the server, because pgbouncer refuses to be root. Its connections to the server take
# turns, so that a client that relies on one of them is found out.
pooler() {
	local file=$PGHOST/pgbouncer.$1 as=()
	[[ $(id -u) -ne 0 ]] || as=(runuser -u "$(stat -c %U "$PGHOST/data")" --)
	echo '"clients_app" ""' | "${as[@]}" tee "$file.users" >/dev/null
	"${as[@]}" tee "$file.ini" >/dev/null <<-INI
		[databases]
		* = host=$PGHOST port=$PGPORT
		[pgbouncer]
		pool_mode = $1
		unix_socket_dir = $PGHOST
		listen_addr =
		listen_port = ${POOLERS[$1]}
		auth_type = trust
		auth_file = $file.users
		pidfile = $file.pid
		logfile = $file.log
		default_pool_size = 7
		server_idle_timeout = 0
		server_round_robin = 1
		ignore_startup_parameters = extra_float_digits
	INI
	"${as[@]}" env "PATH=$PATH:/usr/sbin" pgbouncer -q -d "$file.ini"
	until_so "pgbouncer in mode $1 answers" answers "${POOLERS[$1]}"
	[[ $1 == session ]] || seven_connections "${POOLERS[$1]}"
}

answers() {
	psql -X -q -p "$1" -U clients_app -c SELECT >/dev/null 2>&1
}

# seven_connections PORT: seven clients that wait for each other make pgbouncer open seven connections, which it keeps.
# What they wait for is a lock that stays with a connection. Seven, because no program has a multiple of seven
# transactions between two runs of a statement.
seven_connections() {
	local number
	for number in {1..7}; do
		psql -X -q -v ON_ERROR_STOP=1 -p "$1" -U clients_app -c "DO \$\$ BEGIN
			PERFORM pg_advisory_lock_shared($1);
			WHILE (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1) < 7 LOOP
				PERFORM pg_sleep(0.05);
			END LOOP; END \$\$" &
	done
	for number in {1..7}; do
		wait -n
	done
}

# relay PORT: sets RELAY to a TCP port that leads to the server or to a pooler
relay() {
	python3 "$PROGRAMS/relay.py" "$PGHOST/.s.PGSQL.$1" >"$WORK/relay.$1" &
	RELAYS+=($!)
	until_so "the relay says its port" test -s "$WORK/relay.$1"
	RELAY=$(cat "$WORK/relay.$1")
}

MODES='direct pooled'
# client PROGRAM TARGET COMMAND...: makes the program, as the file TARGET, and runs the command in its directory
client() {
	local program=$1 target=$WORK/$2 name mode log=$WORK/log variables
	name=$(section_of "$program")
	shift 2
	chosen "$name" || return 0
	for mode in $MODES; do
		sql -c 'DELETE FROM jobqueue.tasks'
		variables=(PGUSER=clients_app PGPORT="$PGPORT")
		[[ $mode == direct ]] || variables=(PGUSER=clients_app PGPORT="${POOLERS[transaction]}" POOLED=1)
		if python3 -B "$PROGRAMS/assemble.py" make "$PAGE" "$program" "$mode" >"$target" 2>"$log" &&
			timeout -k 10 600 env -C "${target%/*}" "${variables[@]}" "$@" >>"$log" 2>&1; then
			echo "ok: clients docs: $name, $mode"
			[[ $program == */serializable.py ]] || check_tasks "$name, $mode"
		else
			tail -n 40 "$log"
			fault "clients docs: $name, $mode"
		fi
	done
}

# what every client does, seen from elsewhere
check_tasks() {
	[[ $(sql -c "SELECT count(*) > 0 AND bool_and(status = 'completed' AND attempts = 1 AND created_by = 'clients_app'
		AND payload = '{\"to\": \"ann@example.org\"}' AND result = '{\"sent\": true}')
		FROM jobqueue.tasks WHERE type = 'send_mail'") == t ]] || fault "clients docs: $1: its tasks are not completed"
}

# skip REASON DIRECTORY: names the clients that are not run
skip() {
	sections_of "$2" | sed "s|.*|skip: clients docs: &: $1|"
}

# install WHAT COMMAND...
install() {
	local what=$1
	shift
	"$@" >"$WORK/log" 2>&1 || { tail -n 40 "$WORK/log"; fault "clients docs: what $what needs"; return 1; }
}

# version TOOL ARGUMENT LEAST: is it there, and new enough?
version() {
	local found
	command -v "$1" >/dev/null || return
	found=$("$1" "$2" 2>&1 | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
	[[ $(printf '%s\n' "$3" "$found" | sort -V | head -n 1) == "$3" ]]
}

# --- the clients, by language

clients_python() {
	local program
	python3 -m venv "$WORK/venv"
	install Python "$WORK/venv/bin/pip" install -q -r "$PROGRAMS/python/requirements.txt" || return 0
	mkdir "$WORK/python"
	cp "$PROGRAMS/python/common.py" "$WORK/python"
	for program in psycopg3 psycopg2 asyncpg sqlalchemy django; do
		client "python/$program.py" python/run.py "$WORK/venv/bin/python" -B run.py
	done
	# it changes a setting of its session
	MODES=direct client python/serializable.py python/run.py "$WORK/venv/bin/python" -B run.py
	pgbouncer_modes
}

pgbouncer_modes() {
	local mode
	chosen pgbouncer || return 0
	for mode in session transaction statement; do
		sql -c 'DELETE FROM jobqueue.tasks'
		if timeout -k 10 600 env PGUSER=clients_app PGPORT="${POOLERS[$mode]}" DIRECT_PORT="$PGPORT" \
			"$WORK/venv/bin/python" -B "$PROGRAMS/python/pgbouncer.py" "$PAGE" "$mode" >"$WORK/log" 2>&1; then
			echo "ok: clients docs: pgbouncer, mode $mode"
		else
			tail -n 40 "$WORK/log"
			fault "clients docs: pgbouncer, mode $mode"
		fi
	done
}

# Prisma's schema engine would be fetched by a script; nothing here needs it.
clients_node() {
	local program
	mkdir "$WORK/node"
	cp "$PROGRAMS"/node/{package.json,common.mjs} "$WORK/node"
	install Node npm install --prefix "$WORK/node" --no-audit --no-fund --ignore-scripts || return 0
	for program in node-pg postgres-js knex drizzle; do
		client "node/$program.mjs" node/run.mjs node run.mjs
	done
	chosen Prisma || return 0
	python3 -B "$PROGRAMS/assemble.py" make "$PAGE" node/schema.prisma direct >"$WORK/node/schema.prisma"
	install Prisma env -C "$WORK/node" PRISMA_SCHEMA_ENGINE_BINARY=/bin/true CHECKPOINT_DISABLE=1 \
		npx prisma generate --schema schema.prisma || return 0
	client node/prisma.mjs node/run.mjs node run.mjs
}

clients_go() {
	local program
	version go version 1.24 || { skip 'no Go 1.24' go; return; }
	mkdir "$WORK/go"
	cp "$PROGRAMS"/go/go.{mod,sum} "$WORK/go"
	for program in pgx database_sql; do
		client "go/$program.go" go/main.go nice -n 10 go run -p 1 .
	done
}

clients_java() {
	version javac -version 17 || { skip 'no JDK 17' java; return; }
	command -v mvn >/dev/null || { skip 'no Maven' java; return; }
	mkdir "$WORK/java"
	install Java nice -n 10 mvn -q -B -f "$PROGRAMS/java/pom.xml" \
		dependency:build-classpath "-Dmdep.outputFile=$WORK/java/path" || return 0
	relay "$PGPORT"
	local direct=$RELAY
	relay "${POOLERS[transaction]}"
	# shellcheck disable=SC2016
	client java/Jdbc.java java/Jdbc.java bash -c '
		nice -n 10 javac -cp "$(cat path)" Jdbc.java && java -cp "$(cat path):." Jdbc ${POOLED:+$1} $0
	' "$direct" "$RELAY"
}

clients_rust() {
	version cargo --version 1.84 || { skip 'no cargo 1.84' rust; return; }
	mkdir -p "$WORK/rust/src"
	cp "$PROGRAMS/rust/Cargo.toml" "$WORK/rust"
	client rust/tokio_postgres.rs rust/src/main.rs nice -n 10 cargo run -q -j 1
	MODES=direct client rust/sqlx.rs rust/src/main.rs nice -n 10 cargo run -q -j 1
}

# ---------------------------------------------------------------------------------------------------------------------

python3 -B "$PROGRAMS/assemble.py" check "$PAGE" || fault "clients docs: each block of the page has a program"
sql -c 'CREATE EXTENSION jobqueue' -c 'CREATE ROLE clients_producer' \
	-c 'CREATE ROLE clients_app LOGIN IN ROLE clients_producer' \
	-c "SELECT jobqueue.grant_access('clients_producer', 'producer'), jobqueue.grant_access('clients_app', level)
		FROM unnest('{producer,consumer,manager}'::text[]) level" >/dev/null
for mode in "${!POOLERS[@]}"; do
	pooler "$mode"
done
for language in python node go java rust; do
	[[ -z $(sections_of "$language") ]] || "clients_$language"
done

[[ $FAULTS -eq 0 ]] || exit 1
echo "the lines of doc/clients.md run"
