#!/usr/bin/env bash
# Does the documentation say what is there? README.md and doc/reference.md against the catalog, and every SQL block in
# them is run as written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

FAULTS=0
REFERENCE=doc/reference.md

fault() {
	echo "FAILED: $*"
	FAULTS=$((FAULTS + 1))
}

sql() {
	psql -X -q -At -F $'\t' -v ON_ERROR_STOP=1 "$@"
}

# has WHAT TEXT: is it in the reference, whatever the line breaks?
has() {
	[[ $FLAT == *"$2"* ]] || fault "$REFERENCE: $1: should say \"$2\""
}

# section HEADING: the text below it
section() {
	awk -v heading="$1" '/^##/ { inside = ($0 == "### " heading || $0 == "## " heading) } inside' "$REFERENCE"
}

# blocks FILE: its SQL
blocks() {
	awk '/^```sql$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$1"
}

# --- every SQL block runs
sql -c 'DROP ROLE IF EXISTS app' -c 'CREATE ROLE app'
for file in README.md "$REFERENCE"; do
	[[ $(blocks "$file" | wc -l) -gt 0 ]] || fault "$file has no SQL"
	echo "-- the SQL of $file:"
	if ! { echo "SET statement_timeout = '60s';"; blocks "$file"; } |
		psql -X -e -P pager=off -v ON_ERROR_STOP=1 2>&1; then
		fault "$file: its SQL does not run as written"
	fi
	if [[ $file == README.md ]]; then
		[[ $(sql -c "SELECT count(*) > 0 AND bool_and(status = 'completed') FROM jobqueue.tasks") == t ]] ||
			fault "README.md: its task is not completed"
		sql -c "CREATE DATABASE ${PGDATABASE}_reference"
		PGDATABASE=${PGDATABASE}_reference
		sql -c 'CREATE EXTENSION jobqueue'
	fi
done

# --- everything that is there is documented
FLAT=$(tr -s ' \t\n' ' ' <"$REFERENCE")
FLAT=${FLAT//\( /\(}

while IFS=$'\t' read -r name signature arguments; do
	has "$name" "$signature"
	text=$(section "$name")
	[[ -n $text ]] || { fault "$REFERENCE: no section \"### $name\""; continue; }
	for argument in $arguments; do
		grep -q "^|.*\`$argument\`.*|" <<<"$text" || fault "$REFERENCE: $name: argument $argument is not explained"
	done
	[[ $text == *Errors:* ]] || fault "$REFERENCE: $name: nothing about errors"
	[[ $text == *'```sql'* ]] || fault "$REFERENCE: $name: no example"
done < <(sql <<-'SQL'
	SELECT proname, 'jobqueue.' || proname || '(' ||
		replace(regexp_replace(pg_get_function_arguments(oid), '::[a-z ]+(\[\])?', '', 'g'),
			'timestamp with time zone', 'timestamptz') ||
		') RETURNS ' || replace(pg_get_function_result(oid), 'timestamp with time zone', 'timestamptz'),
		array_to_string(proargnames, ' ')
	FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace AND proname !~ '^_' ORDER BY proname
SQL
)

# shellcheck disable=SC2016
# columns RELATION HEADING: the first table in the section has these rows and no others
columns() {
	local documented actual
	documented=$(section "$2" | awk '/^\|/ && !over { table = 1; print } table && !/^\|/ { over = 1 }' |
		sed -n 's/^| `\([a-z_]*\)` | \([a-z]*\(\[\]\)\{0,1\}\) |.*/\1 \2/p')
	actual=$(sql -F ' ' -c "SELECT attname,
		replace(format_type(atttypid, NULL), 'timestamp with time zone', 'timestamptz')
		FROM pg_attribute WHERE attrelid = '$1'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum")
	[[ $documented == "$actual" ]] || {
		diff <(echo "$documented") <(echo "$actual") || true
		fault "$REFERENCE: the columns of $1 (< documented, > there)"
	}
}
columns jobqueue.tasks "The table jobqueue.tasks"
while read -r view; do
	columns "$view" "The view $view"
done < <(sql -c "SELECT 'jobqueue.' || relname FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind = 'v' AND relname !~ '^_'")

while IFS=$'\t' read -r row name; do
	has "$name" "$row"
done < <(sql -c "SELECT '| \`' || name || '\` | \`' || boot_val || '\` | ' || coalesce(unit || ' |', '|'), name
	FROM pg_settings WHERE name LIKE 'jobqueue.%'")
[[ $(grep -c '^| `jobqueue\.' "$REFERENCE") -eq \
	$(sql -c "SELECT count(*) FROM pg_settings WHERE name LIKE 'jobqueue.%'") ]] ||
	fault "$REFERENCE: there are other settings than those documented"

# functions of a level of access, those of all levels apart; forms of one name may belong to different levels
# shellcheck disable=SC2016
while IFS=$'\t' read -r level functions; do
	documented=$(section Access | sed -n "s/^| \(\`$level\`\|$level\) | \([^|]*\) |.*/\2/p" |
		grep -o '`[a-z_]*`' | tr -d '`' | sort | tr '\n' ' ')
	[[ $documented == "$functions " ]] ||
		fault "$REFERENCE: access of $level: \"$documented\", and in fact \"$functions\""
done < <(sql <<-'SQL'
	WITH rights AS (
		SELECT level, substring(what FROM 'FUNCTION jobqueue\.([a-z].*)') AS signature
		FROM unnest('{producer,consumer,manager,sql}'::text[]) level, jobqueue._access_rights(level) what
	), grouped AS (
		SELECT CASE WHEN count(*) OVER (PARTITION BY signature) = 4 THEN 'all levels' ELSE level END AS level,
			split_part(signature, '(', 1) COLLATE "C" AS function
		FROM rights WHERE signature IS NOT NULL
	)
	SELECT level, string_agg(DISTINCT function, ' ' ORDER BY function) FROM grouped GROUP BY level
SQL
)

for sqlstate in $(grep -rohE --include='*.cpp' '"JQ[0-9A-Z]{3}"' src | tr -d '"' | sort -u); do
	has "SQLSTATE" "| $sqlstate |"
done
for status in $(sed -n '/is_one_of(status_now, {"pending".*"failed"/s/[^"]*"\([a-z]*\)"[^"]*/\1 /gp' \
	src/api/check_task.cpp); do
	has "status" "| \`$status\` |"
done

# --- links lead somewhere
for file in *.md doc/*.md clients/*.md clients/*/README.md; do
	while read -r link; do
		target=${link%%#*}
		anchor=${link#"$target"}
		path=$file
		[[ -z $target ]] || path=$(dirname "$file")/$target
		[[ -e $path ]] || { fault "$file: a link to $target, which is not there"; continue; }
		[[ -z $anchor ]] ||
			sed -n 's/^##* //p' "$path" | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9_\n-' |
			grep -x -- "${anchor#\#}" >/dev/null ||
			fault "$file: a link to $link, where there is no such heading"
	done < <(grep -oE '\]\([^)]+\)' "$file" | sed 's/^](//; s/)$//' | grep -v '^https\{0,1\}:')
done

[[ $FAULTS -eq 0 ]] || exit 1
echo "the documentation agrees with the catalog, and its SQL runs"
