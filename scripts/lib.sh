# shellcheck shell=bash
# Sourced by the scripts beside it: packages, a scratch directory, a private copy of the server with jobqueue in it.
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# What the scripts start must not depend on the caller: no flags of an outer make, no connection settings, no language.
unset MAKEFLAGS MFLAGS MAKELEVEL GNUMAKEFLAGS CDPATH
for variable in "${!PG@}"; do
	[[ $variable == PG_* ]] || unset "$variable"
done
unset variable
export LC_ALL=C PSQLRC=/dev/null PGCTLTIMEOUT=${SERVER_TIMEOUT:-60}

die() {
	echo "$*" >&2
	exit 1
}

# The version of jobqueue, from a control file on the standard input.
control_version() {
	sed -n "s/^default_version *= *'\(.*\)'.*/\1/p"
}

# ---------------------------------------------------------------------------------------------------------------------
# Packages
# ---------------------------------------------------------------------------------------------------------------------

# Where Debian keeps server versions side by side, and their common settings. These are variables because test/meta sets
# them.
PG_ROOT=${PG_ROOT:-/usr/lib/postgresql}
PG_SETTINGS=${PG_SETTINGS:-/etc/postgresql-common}

# The major version, from the program pg_config at this path.
major_of() {
	"$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'
}

has_headers() {
	[[ -f $("$1" --includedir-server)/postgres.h && -f $("$1" --pgxs) ]]
}

# Sets FOUND_PG_CONFIG, PG_MAJOR and the server's directories: PG_CONFIG if given, else the newest server of version 15
# or later that has its headers, else the newest without. Where there is none, PG_MAJOR is empty.
find_server() {
	local candidate
	FOUND_PG_CONFIG=
	PG_MAJOR=
	if [[ -n ${PG_CONFIG:-} ]]; then
		FOUND_PG_CONFIG=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG: no such program"
	else
		while IFS= read -r candidate; do
			[[ -x $candidate && $(major_of "$candidate") -ge 15 ]] || continue
			if has_headers "$candidate"; then
				FOUND_PG_CONFIG=$candidate
				break
			fi
			FOUND_PG_CONFIG=${FOUND_PG_CONFIG:-$candidate}
		done < <(
			printf '%s\n' "$PG_ROOT"/*/bin/pg_config | sort -rV
			command -v pg_config
		)
	fi
	[[ -n $FOUND_PG_CONFIG ]] || return 0
	PG_MAJOR=$(major_of "$FOUND_PG_CONFIG")
	[[ $PG_MAJOR -ge 15 ]] || die "$FOUND_PG_CONFIG belongs to PostgreSQL $PG_MAJOR; 15 or newer is needed"
	BINDIR=$("$FOUND_PG_CONFIG" --bindir)
	PKGLIBDIR=$("$FOUND_PG_CONFIG" --pkglibdir)
	SHAREDIR=$("$FOUND_PG_CONFIG" --sharedir)
}

find_clangxx() {
	[[ -n ${CLANGXX:-} ]] || CLANGXX=$(compgen -c clang++ | grep -xE 'clang\+\+(-[0-9]+)?' | sort -V | head -n 1)
	[[ -n $CLANGXX ]]
}

# find_python [MODULE]: sets PYTHON to an interpreter that has the module. Debian's modules belong to Debian's python3,
# which need not be the first in PATH.
find_python() {
	for PYTHON in /usr/bin/python3 python3; do
		! "$PYTHON" -c "import ${1:-psycopg2}" 2>/dev/null || return 0
	done
	return 1
}

# have TOOL: is it installed?   package_of TOOL: the package that contains it
have() {
	case $1 in
	server-headers) [[ -n $PG_MAJOR ]] && has_headers "$FOUND_PG_CONFIG" ;;
	server) [[ -n $PG_MAJOR && -x $BINDIR/postgres && -x $BINDIR/initdb ]] ;;
	pgtap) [[ -n $PG_MAJOR && -f $SHAREDIR/extension/pgtap.control ]] ;;
	IPC::Run | JSON::PP) perl "-M$1" -e 1 2>/dev/null ;;
	clang++) find_clangxx ;;
	psycopg2) find_python ;;
	venv) find_python ensurepip ;;
	pgq) [[ -n $PG_MAJOR && -f $SHAREDIR/extension/pgq.control ]] ;;
	clang-format) command -v clang-format-14 clang-format >/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

package_of() {
	case $1 in
	server-headers) echo "postgresql-server-dev-$2" ;;
	server) echo "postgresql-$2" ;;
	pgtap) echo "postgresql-$2-pgtap" ;;
	pg_prove) echo libtap-parser-sourcehandler-pgtap-perl ;;
	IPC::Run) echo libipc-run-perl ;;
	prove | JSON::PP) echo perl ;;
	clang++) echo clang ;;
	node) echo nodejs ;;
	psycopg2) echo python3-psycopg2 ;;
	venv) echo python3-venv ;;
	pgq) echo "postgresql-$2-pgq3" ;;
	python3 | npm | pgqd | redis-server | g++ | make | perl | clang-format | clang-tidy | curl | valgrind) echo "$1" ;;
	unzip) echo "$1" ;;
	*) die "no package is known that brings $1: extend package_of in scripts/lib.sh" ;;
	esac
}

# The tools that each purpose needs. A purpose that is not listed is itself a tool.
tools_for() {
	local purpose
	for purpose in "$@"; do
		case $purpose in
		format) echo clang-format ;;
		layers) echo perl ;;
		meta) echo prove JSON::PP ;;
		spot) echo venv ;;
		build) echo g++ make server-headers server clang++ python3 ;;
		server | regress | isolation | examples | demo) echo g++ make server-headers server ;;
		cron) echo g++ make server-headers server node npm ;;
		bench) echo g++ make server-headers server python3 ;;
		bench-peers) echo npm pgq pgqd redis-server ;;
		fuzz | torture | hostile) echo g++ make server-headers server psycopg2 ;;
		tap | ubsan) echo g++ make server-headers server prove IPC::Run ;;
		fused) echo g++ make server-headers server prove IPC::Run psycopg2 ;;
		pgtap) echo g++ make server-headers server prove pg_prove pgtap ;;
		*) echo "$purpose" ;;
		esac
	done | tr ' ' '\n' | sort -u
}

missing_tools() {
	local tool
	for tool in $(tools_for "$@"); do
		have "$tool" || echo "$tool"
	done
}

# The server version to install where there is none: the distribution's default.
default_major() {
	local major
	major=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	echo "${major:-15}"
}

# As root. When Debian's server packages are first installed, they create and start a cluster "main", which is not
# wanted here. A configuration file of postgresql-common can switch this off. Therefore that package is installed first,
# the switch is off during the installation of the server, and then the file is restored to what the package or the
# administrator had in it. policy-rc.d would only prevent the start, and may already be in use. For other packages that
# start a service, policy-rc.d is the only way.
# shellcheck disable=SC2016
INSTALL_PACKAGES='
	export DEBIAN_FRONTEND=noninteractive
	install() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"; }
	apt-get update -q || echo "apt-get update failed: trying with the package lists there are"
	conf=$0 saved= policy=
	trap "[ -z \"\$saved\" ] || { cat \"\$saved\" >\"\$conf\"; rm -f \"\$saved\"; }; rm -f \$policy" EXIT
	trap "exit 1" HUP INT TERM
	for package in "$@"; do
		case $package in
		postgresql-[0-9][0-9])
			dpkg -s "$package" >/dev/null 2>&1 && continue
			install postgresql-common || exit
			original=$(mktemp) && cp -p "$conf" "$original" || exit
			saved=$original
			printf "\ncreate_main_cluster = false\n" >>"$conf" ;;
		pgqd | redis-server)
			[ -z "$policy" ] && [ ! -e "${POLICY:=/usr/sbin/policy-rc.d}" ] || continue
			policy=$POLICY
			printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 755 "$policy" || exit ;;
		esac
	done
	install "$@"
'

# ensure_packages PURPOSE...: installs the packages that these purposes need; or says which to install, and exits.
ensure_packages() {
	local missing packages=() tool sudo=() log command
	find_server
	mapfile -t missing < <(missing_tools "$@")
	[[ ${#missing[@]} -gt 0 ]] || return 0

	local major=${PG_MAJOR:-$(default_major)}
	mapfile -t packages < <(for tool in "${missing[@]}"; do package_of "$tool" "$major"; done | sort -u)
	command="apt-get install -y --no-install-recommends ${packages[*]}"

	[[ $(id -u) -eq 0 ]] || sudo=(sudo -n)
	if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
		die "missing: ${missing[*]}. Install them (as root) with:
$command"
	fi

	echo "missing: ${missing[*]}: $command"
	log=$(mktemp)
	# The lock (on a directory that every apt has) is for two runs side by side.
	if ! "${sudo[@]}" flock /etc/apt bash -c "$INSTALL_PACKAGES" "$PG_SETTINGS/createcluster.conf" "${packages[@]}" \
		>"$log" 2>&1 </dev/null; then
		tail -n 30 "$log"
		rm -f "$log"
		die "could not install them. Try (as root):
apt-get update && $command"
	fi
	rm -f "$log"

	hash -r
	find_server
	mapfile -t missing < <(missing_tools "$@")
	[[ ${#missing[@]} -eq 0 ]] || die "still missing after \"$command\": ${missing[*]}"
}

# ---------------------------------------------------------------------------------------------------------------------
# The scratch directory
# ---------------------------------------------------------------------------------------------------------------------

SCRATCH=
JOB=

# Chooses the user that servers run as, because they refuse to run as root, and creates the scratch directory: SCRATCH,
# which everybody may read, and SCRATCH/run, which belongs to the server user (data, sockets, output). Both are removed
# when the script ends.
make_scratch() {
	local base user
	AS_SERVER_USER=(env)
	if [[ $(id -u) -eq 0 ]]; then
		user=$(id -un postgres 2>/dev/null || echo nobody)
		SERVER_USER=$user
		AS_SERVER_USER=(runuser -u "$user" -- env)
	else
		SERVER_USER=
	fi
	trap cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	for base in "${TMPDIR:-/tmp}" /tmp; do
		SCRATCH=$(mktemp -d "$base/jobqueue.XXXXXX")
		chmod 755 "$SCRATCH"
		# A socket's path has at most 107 bytes; and a TMPDIR may be closed to the server user.
		if [[ ${#SCRATCH} -le 60 ]] && (cd / && "${AS_SERVER_USER[@]}" test -x "$SCRATCH"); then
			break
		fi
		rmdir "$SCRATCH"
		SCRATCH=
	done
	[[ -n $SCRATCH ]] || die "no usable scratch directory in ${TMPDIR:-/tmp} or /tmp"
	mkdir -p "$SCRATCH/run/home" "$SCRATCH/run/tmp"
	chmod 700 "$SCRATCH/run"
	hand_over "$SCRATCH/run"
	AS_SERVER_USER=(env -C "$SCRATCH/run" "${AS_SERVER_USER[@]}" "HOME=$SCRATCH/run/home" "TMPDIR=$SCRATCH/run/tmp")
}

cleanup() {
	local status=$? pidfile
	trap '' HUP INT TERM
	[[ -z $JOB ]] || { kill -- "-$JOB" && wait "$JOB"; } 2>/dev/null || true
	if [[ -n $SCRATCH ]]; then
		# also the servers that tests started and did not stop, and those of a run within this one
		while IFS= read -r pidfile; do
			as_server_user "$BINDIR/pg_ctl" -D "$(dirname "$pidfile")" -m immediate -t 20 stop >/dev/null 2>&1 || true
		done < <(find "$SCRATCH" -name postmaster.pid 2>/dev/null)
		if [[ -n ${KEEP:-} ]]; then
			echo "kept: $SCRATCH" >&2
		else
			rm -rf "$SCRATCH"
		fi
	fi
	exit "$status"
}

# as_server_user CMD...: never as root, in SCRATCH/run, with a HOME of its own. Whatever CMD reads must be in SCRATCH.
as_server_user() {
	"${AS_SERVER_USER[@]}" "$@"
}

# hand_over PATH: gives it to the server user
hand_over() {
	[[ -z $SERVER_USER ]] || chown -R "$SERVER_USER:" "$1"
}

# run LOG CMD...: runs CMD, which is no shell function. Its output goes to the file LOG, or to ours if LOG is -. CMD has
# a process group of its own and a time limit, so that neither Ctrl-C nor a hanging test leaves anything behind.
run() {
	local log=$1 status=0 output
	shift
	if [[ $log == - ]]; then exec {output}>&1; else exec {output}>>"$log"; fi
	setsid timeout -k 10 "${TEST_TIMEOUT:-900}" "$@" >&"$output" 2>&1 {output}>&- </dev/null &
	JOB=$!
	wait "$JOB" || status=$?
	kill -- "-$JOB" 2>/dev/null || true
	JOB=
	[[ $status -ne 124 ]] || echo "stopped: it took longer than ${TEST_TIMEOUT:-900} s (TEST_TIMEOUT)" >&"$output"
	exec {output}>&-
	return "$status"
}

# ---------------------------------------------------------------------------------------------------------------------
# The private installation and its servers
# ---------------------------------------------------------------------------------------------------------------------

make_here() {
	local arguments=("PG_CONFIG=$FOUND_PG_CONFIG")
	[[ -z ${CXX:-} ]] || arguments+=("CXX=$CXX")
	[[ -z ${SANITIZE:-} ]] || arguments+=("SANITIZE=$SANITIZE")
	[[ -z ${INJECTION:-} ]] || arguments+=(INJECTION=1)
	[[ -z ${COVERAGE:-} ]] || arguments+=(COVERAGE=1)
	run "$SCRATCH/build.log" make -s -C "$SCRATCH/build" -j"$(nproc)" "${arguments[@]}" "$@"
}

# Copies the sources, not what a build in place left there, to SCRATCH/build.
copy_sources() {
	mkdir -p "$SCRATCH/build"
	tar -C "$REPO" --exclude=./.git --exclude=./regions --exclude=./odr --exclude=node_modules \
		--exclude='*.o' --exclude='*.d' --exclude='*.so' -cf - . |
		tar -C "$SCRATCH/build" --no-same-owner -xf -
	find "$SCRATCH/build" -maxdepth 1 -name 'jobqueue--*.sql' ! -name 'jobqueue--*--*.sql' -delete
	chmod -R a+rX "$SCRATCH/build"
}

# Builds in SCRATCH/build and installs into a copy of the server below SCRATCH/root: no root is needed, no system
# directory is written, and runs side by side do not meet. The server finds its directories relative to where its own
# program really is: so programs are copied, everything else is linked, all at their usual places below SCRATCH/root.
# SERVER_UNDER is a command that servers are to run under, SERVER_OPTIONS are options of theirs. Sets PRIVATE_BINDIR.
# The output is in SCRATCH/build.log.
private_install() {
	local root=$SCRATCH/root dir
	PRIVATE_BINDIR=$root$BINDIR
	copy_sources
	make_here all test-modules || return
	for dir in "$PKGLIBDIR" "$SHAREDIR"; do
		mkdir -p "$root$dir"
		cp -rs "$dir/." "$root$dir/" || return
	done
	mkdir -p "$PRIVATE_BINDIR"
	cp -RL "$BINDIR/." "$PRIVATE_BINDIR/" || return
	# an installed jobqueue is not the one to test
	rm -f "$root$PKGLIBDIR/jobqueue.so" "$root$SHAREDIR/extension/jobqueue"[.-]*
	make_here install install-test-modules "DESTDIR=$root" || return
	[[ -z ${SERVER_UNDER:-} ]] || wrap_server || return
	hand_over "$root"
	hand_over "$SCRATCH/build"
}

# Replaces the server's program by a script. Calls that only print something, or that are part of initdb, do not begin
# with -D, and run the program as usual.
wrap_server() {
	local program=$PRIVATE_BINDIR/postgres
	mv "$program" "$program.bin"
	cat >"$program" <<-SH
		#!/bin/sh
		case \$1 in
		-D) exec $SERVER_UNDER '$program.bin' "\$@" ${SERVER_OPTIONS:-} ;;
		*) exec '$program.bin' "\$@" ;;
		esac
	SH
	chmod 755 "$program"
}

# start_server NAME [LINE OF postgresql.conf...]: in SCRATCH/run/NAME (data, log, and the socket: nothing listens on
# TCP), with jobqueue preloaded unless a line says otherwise. From then on PGHOST, PGPORT, PGUSER, PGDATABASE lead to
# it. Fast rather than safe, except for what the lines say. TEMP_CONFIG names a file with more lines, as for the
# server's own test tools.
start_server() {
	local dir=$SCRATCH/run/$1
	shift
	as_server_user mkdir "$dir"
	as_server_user "$PRIVATE_BINDIR/initdb" -D "$dir/data" -U postgres -A trust --locale=C -E UTF8 -N \
		>"$SCRATCH/initdb.log" 2>&1 || { cat "$SCRATCH/initdb.log"; return 1; }
	as_server_user tee -a "$dir/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$dir'
		port = 5432
		shared_preload_libraries = 'jobqueue'
		fsync = off
		max_connections = 100
		max_worker_processes = 32
		max_prepared_transactions = 10
		log_line_prefix = '%m %b[%p] %q%a '
		$(printf '%s\n' "$@")
		$([[ -z ${TEMP_CONFIG:-} ]] || cat "$TEMP_CONFIG")
	CONF
	if ! as_server_user "$PRIVATE_BINDIR/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null; then
		tail -n 30 "$dir/log"
		return 1
	fi
	export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

stop_server() {
	as_server_user "$PRIVATE_BINDIR/pg_ctl" -D "$SCRATCH/run/$1/data" -m fast -w stop >/dev/null
}
