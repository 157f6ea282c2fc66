# The boundary between C++ and the server (src/pg/guard.hpp), through a library of its own, test/modules/guard_test.cpp.
#
# - an error's SQLSTATE, message, detail, hint, context and the other fields are the same on the other side, once and
#   through several layers of C++ and SQL
# - exceptions of C++: our own with hint, bad_alloc (53200), the standard library's, an int; too long ones are cut
#   between two characters; a % in them is not interpreted
# - whatever ends a call, destructors have run
# - statement_timeout, pg_cancel_backend and pg_terminate_backend reach guarded code
# - after an error the session is as good as new: in a PL/pgSQL EXCEPTION block, in a caught subtransaction
# - 100,000 errors leave nothing behind, neither in memory contexts nor in the heap; 5,000 under Valgrind
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Not preloaded: only the guard is meant. An error must not end the server, which a crash would.
my $node = start_node('guard', init => { extra => [ '--locale=C', '--encoding=UTF8' ] },
	shared_preload_libraries => undef,
	autovacuum => 'off', restart_after_crash => 'off');

$node->safe_psql('postgres', <<'SQL');
	CREATE FUNCTION guard_throw(text) RETURNS void LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_sql(text) RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_try(text) RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_try_throw(text) RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_rethrow(text) RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_nested(int, text) RETURNS void LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_sleep(float8) RETURNS void LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_spin(float8) RETURNS void LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_in_context() RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_caught(bigint) RETURNS text LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_heap() RETURNS bigint LANGUAGE C AS 'guard_test';
	CREATE FUNCTION guard_objects() RETURNS text LANGUAGE C AS 'guard_test';

	-- What reaches the caller of a statement: all fields that PL/pgSQL can read.
	CREATE FUNCTION outcome(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text,
		OUT context text,
		OUT rest text) LANGUAGE plpgsql AS $$
	DECLARE
		s text; t text; c text; n text; d text;
	BEGIN
		EXECUTE statement;
		message := 'no error';
	EXCEPTION WHEN OTHERS OR QUERY_CANCELED OR ASSERT_FAILURE THEN
		GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
			hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT, s = SCHEMA_NAME, t = TABLE_NAME, c = COLUMN_NAME,
			n = CONSTRAINT_NAME, d = PG_DATATYPE_NAME;
		rest := concat_ws('/', s, t, c, n, d);
	END $$;
	CREATE FUNCTION raise_all() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION USING ERRCODE = 'JQ123', MESSAGE = 'all fields: 100%', DETAIL = E'two\nlines',
			HINT = 'a hint: %s',
			SCHEMA = 'a schema', TABLE = 'a table', COLUMN = 'a column', CONSTRAINT = 'a constraint',
				DATATYPE = 'a type';
	END $$;
	CREATE TABLE kept (x int PRIMARY KEY);
SQL

my $session;

sub new_session {
	$session->quit if $session;
	$session = $node->background_psql('postgres', on_error_stop => 0);
}
new_session();

sub query {
	my ($sql) = @_;
	my $out = $session->query($sql);
	$session->{stderr} = '';
	return $out;
}

# One test: all fields but the context, as "sqlstate|message|detail|hint".
sub outcome_is {
	my ($statement, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	(my $quoted = $statement) =~ s/'/''/g;
	is(query("SELECT code, message, detail, hint FROM outcome('$quoted')"), $expected, $name);
	# objects of frames that an error went through
	is(query('SELECT guard_objects()'), '0 of some', "$name: destructors have run");
}

# --------------------------------------------------------------------------------------------------------------------
# Errors of the server

query("SELECT guard_sql('SELECT 1')");
outcome_is("SELECT guard_throw('fields')", 'P0002|the message: 17|the detail|the hint', 'ereport below the guard');
like(query("SELECT context FROM outcome('SELECT guard_throw(''fields'')')"),
	qr/\Athe context\nguard test, callback\nSQL statement "SELECT guard_throw/,
	'with its own context, that of a callback, and that of the caller');
outcome_is("SELECT guard_sql('SELECT raise_all()')", "JQ123|all fields: 100%|two\nlines|a hint: %s",
	'an error in SQL below the guard');
is(query("SELECT rest FROM outcome('SELECT guard_sql(''SELECT raise_all()'')')"),
	'a schema/a table/a column/a constraint/a type', 'every field of it');
like(query("SELECT context FROM outcome('SELECT guard_sql(''SELECT raise_all()'')')"),
	qr/\APL\/pgSQL\ function\ raise_all\(\)\ line\ 3\ at\ RAISE\nSQL\ statement\ "SELECT\ raise_all\(\)"
		\nSQL\ statement\ "SELECT\ guard_sql/x,
	'its context has each caller once');
query("INSERT INTO kept VALUES (1)");
outcome_is("SELECT guard_sql('INSERT INTO kept VALUES (1)')",
	'23505|duplicate key value violates unique constraint "kept_pkey"|Key (x)=(1) already exists.|',
		'an error of the executor');
is(query("SELECT rest FROM outcome('SELECT guard_sql(''INSERT INTO kept VALUES (1)'')')"), 'public/kept//kept_pkey/',
	'and its fields');
outcome_is("SELECT guard_sql('SELECT 1 +')", '42601|syntax error at end of input||', 'a syntax error');
outcome_is("SELECT guard_rethrow('SELECT raise_all()')", "JQ123|all fields: 100%|two\nlines|a hint: %s",
	'caught, thrown again, copied');
outcome_is("SELECT guard_throw('palloc')", 'XX000|invalid memory alloc request size 1073741824||',
	'too large for palloc');
like(query("SELECT code, message, detail FROM outcome('SELECT guard_throw(''malloc'')')"),
	qr/\A53200\|out of memory\|Failed on request of size 1152921504606846976 in memory context/,
	'no memory for the server: its message and detail');

# The position of a syntax error within a query that the server ran for us is a matter of the client's protocol.
my (undef, undef, $err) =
	$node->psql('postgres', "\\set VERBOSITY verbose\nSELECT guard_sql('SELECT nonsense FROM kept');");
like($err, qr/ERROR:  42703: column "nonsense" does not exist\n.*^QUERY:  SELECT nonsense FROM kept$/ms,
	'the internal query is shown');
like($err, qr/^LINE 1: SELECT nonsense/m, 'with the position of the error');
like($err, qr/^LOCATION:  errorMissingColumn, parse_relation\.c:/m, 'the place in the source is that of the error');

# --------------------------------------------------------------------------------------------------------------------
# Exceptions of C++

outcome_is("SELECT guard_throw('hint')", '22012|our own: %s||try %d', 'jobqueue::Error with a hint');
outcome_is("SELECT guard_throw('no hint')", '55P03|our own||', 'jobqueue::Error without one');
outcome_is("SELECT guard_throw('bad_alloc')", '53200|out of memory||', 'bad_alloc');
# Valgrind's operator new ends the process where it should throw.
unless ($ENV{SERVER_UNDER}) {
	outcome_is("SELECT guard_throw('new')", '53200|out of memory||', 'new really had no memory');
	outcome_is("SELECT guard_throw('vector')", '53200|out of memory||', 'and nor had a container');
}
outcome_is("SELECT guard_throw('int')", 'XX000|unknown C++ exception||', 'an int');
outcome_is("SELECT guard_throw('text')", 'XX000|unknown C++ exception||', 'a string literal');
outcome_is("SELECT guard_throw('runtime_error')", 'XX000|100% of it failed: %s %n||',
	'runtime_error: not taken for a format');
is(query("SELECT code, message ~ '^m{100,}\$', hint ~ '^h{100,}\$' FROM outcome('SELECT guard_throw(''long'')')"),
	'22000|t|t',
	'a message of 100,000 bytes is cut');
# convert_from checks what it is given
is(query("SELECT code, convert_from(convert_to(message, 'UTF8'), 'UTF8') ~ '^m\x{c3}\x{a9}{50,}\$', "
	. "convert_from(convert_to(hint, 'UTF8'), 'UTF8') ~ '^\x{c3}\x{a9}{50,}\$' FROM outcome('SELECT "
	. "guard_throw(''long text'')')"),
	'22000|t|t', 'between two characters');
is(query("SELECT code FROM outcome('SELECT guard_throw(''empty'')')"), '22000', 'an empty message');
is(query("SELECT guard_objects()"), '0 of some', 'destructors have run');

# --------------------------------------------------------------------------------------------------------------------
# Layers of C++ and SQL

outcome_is("SELECT guard_nested(4, 'hint')", '22012|our own: %s||try %d', 'C++, SQL, C++, SQL …: an exception');
outcome_is("SELECT guard_nested(4, 'int')", 'XX000|unknown C++ exception||', 'an int');
outcome_is("SELECT guard_nested(4, 'fields')", 'P0002|the message: 17|the detail|the hint', "the server's error");
my $context = query("SELECT context FROM outcome('SELECT guard_nested(4, ''fields'')')");
is(join(' ', $context =~ /SQL statement "SELECT guard_nested\((\d)/g), '0 1 2 3 4',
	'the context has each layer once, in order') or diag $context;
is(query("SELECT guard_try('SELECT guard_nested(3, ''hint'')')"), '22012: our own: %s', 'caught on the way');
is(query("SELECT guard_try('SELECT guard_try(''SELECT guard_nested(1, ''''int'''')'')')"),
	'ok: XX000: unknown C++ exception', 'caught in the middle, gone on with');
is(query("SELECT guard_try('SELECT guard_sql(''SELECT 6 * 7'')')"), 'ok: 42', 'nothing to catch');
is(query("SELECT guard_try_throw('int')"), 'int: 42', 'an exception that never left C++ stays what it is');
is(query("SELECT guard_try_throw('hint')"), 'exception: our own: %s', 'so does one of ours');
is(query("SELECT guard_try_throw('fields')"), 'P0002: the message: 17', "and the server's becomes one");
is(query('SELECT guard_in_context()'), 'XX000: the second one, context kept',
	'the memory context is that of the caller again');
is(query('SELECT guard_objects()'), '0 of some', 'destructors have run');

# A subtransaction caught in C++ takes its effects with it, and no others.
query('TRUNCATE kept');
is(query("BEGIN; INSERT INTO kept VALUES (1); SELECT guard_try('WITH i AS (INSERT INTO kept VALUES (2)) SELECT "
	. "guard_throw(''int'')'); SELECT guard_try('INSERT INTO kept VALUES (3)'); COMMIT; SELECT string_agg(x::text, ' "
	. "' ORDER BY x) FROM kept"),
	"XX000: unknown C++ exception\nok: \n1 3", 'effects of what was caught are gone, those around it stay');

# A PL/pgSQL block goes on, with everything that it may want to do: also with SPI, cursors, other blocks.
query('TRUNCATE kept');
query(<<'SQL');
DO $$
DECLARE
	c CURSOR FOR SELECT x FROM kept ORDER BY x;
	kind text;
	n int := 0;
BEGIN
	FOREACH kind IN ARRAY '{int,bad_alloc,hint,fields,malloc,long text,empty}'::text[] LOOP
		BEGIN
			INSERT INTO kept VALUES (-1);
			PERFORM guard_sql('INSERT INTO kept VALUES (-2)');
			PERFORM guard_nested(2, kind);
			RAISE EXCEPTION 'not reached';
		EXCEPTION WHEN raise_exception THEN
			RAISE;
		WHEN OTHERS THEN
			n := n + 1;
			INSERT INTO kept VALUES (n);
			PERFORM guard_sql('INSERT INTO kept VALUES (' || n + 100 || ')');
		END;
	END LOOP;
	FOR r IN c LOOP
		n := n + 1;
	END LOOP;
	INSERT INTO kept VALUES (1000 + n);
END $$;
SQL
is(query("SELECT string_agg(x::text, ' ' ORDER BY x) FROM kept"), '1 2 3 4 5 6 7 101 102 103 104 105 106 107 1021',
	'a session goes on after EXCEPTION blocks');

# --------------------------------------------------------------------------------------------------------------------
# Interrupts

for my $call ('guard_sleep(600)', 'guard_spin(600)', q{guard_sql('SELECT guard_sleep(600)')}) {
	query("SET statement_timeout = '300ms'");
	outcome_is("SELECT $call", '57014|canceling statement due to statement timeout||', "$call: statement_timeout");
	query('RESET statement_timeout');
}
query("SET statement_timeout = '300ms'");
is(query("SELECT guard_try('SELECT guard_sleep(600)')"), '57014: canceling statement due to statement timeout',
	'a cancel can be caught');
query('RESET statement_timeout');

my $pid = query('SELECT pg_backend_pid()');
# The message of the client is the outcome, \echo says when it has come.
sub interrupt {
	my ($function, $call) = @_;
	$session->query_until(qr/started/, "\\echo started\nSELECT $call;\n\\echo ended\n");
	wait_sql($node, 'postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND state = 'active' AND query LIKE '%guard_s%'", 1,
			"$call: runs");
	$node->safe_psql('postgres', "SELECT $function($pid)");
}
interrupt('pg_cancel_backend', $_), query('SELECT 1'), is(query('SELECT guard_objects()'), '0 of some',
	"$_: cancelled, destructors have run")
  for 'guard_sleep(600)', 'guard_spin(600)';
is(query('SELECT pg_backend_pid()'), $pid, 'it is still the same session');

for my $call ('guard_sleep(600)', 'guard_spin(600)', q{guard_try('SELECT guard_sleep(600)')}) {
	new_session();
	$pid = query('SELECT pg_backend_pid()');
	my $offset = log_size($node);
	interrupt('pg_terminate_backend', $call);
	wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", 0, "$call: terminated");
	ok(wait_for(sub { log_matches($node, qr/\[$pid\].*FATAL:  terminating connection due to administrator command/,
		$offset) }),
		"$call: in the orderly way");
	eval { $session->{run}->kill_kill };
	undef $session;
}
new_session();

# --------------------------------------------------------------------------------------------------------------------
# Memory

my $many = $ENV{SERVER_UNDER} ? 5000 : 100_000;
query("SELECT guard_caught(2000)");
my ($in_contexts, $in_heap) = split ' ', query("SELECT guard_caught($many)");
cmp_ok($in_contexts, '<', 100_000, "flat over $many errors caught in C++: memory contexts");
cmp_ok($in_heap, '<', 200_000, 'and the heap');

# Across the boundary, caught in PL/pgSQL; measured within the statement, whose end would free much, and after it. The
# server's own errors, caught in the same loop, are the measure.
query(<<'SQL');
CREATE TEMP TABLE measured (kind text, at int, contexts bigint, heap bigint);
CREATE FUNCTION many(kinds text[], n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	caught int := 0;
BEGIN
	FOR i IN 1..n LOOP
		IF i IN (2000, n) THEN
			INSERT INTO measured SELECT kinds[1], i, sum(total_bytes), guard_heap() FROM pg_backend_memory_contexts;
		END IF;
		BEGIN
			IF kinds[1] = 'raise' THEN
				RAISE division_by_zero USING MESSAGE = 'a message';
			ELSE
				PERFORM guard_throw(kinds[1 + i % array_length(kinds, 1)]);
			END IF;
		EXCEPTION WHEN OTHERS THEN
			caught := caught + 1;
		END;
	END LOOP;
	IF caught <> n THEN
		RAISE EXCEPTION 'only % caught', caught;
	END IF;
END $$;
SELECT many('{raise}', 3000), many('{int,hint,fields,bad_alloc}', 3000);
TRUNCATE measured;
SQL

# Growth from the 2000th to the last error within a statement, and from before the statement until after it.
sub growth {
	my ($kinds) = @_;
	my $measure = 'SELECT sum(total_bytes), guard_heap() FROM pg_backend_memory_contexts';
	query($measure);
	my @before = split /\|/, query($measure);
	query("SELECT many('{$kinds}', $many)");
	my @after = split /\|/, query($measure);
	my ($n, @within) = split /\|/,
		query('SELECT count(*), max(contexts) - min(contexts), max(heap) - min(heap) FROM measured');
	is($n, 2, "$kinds: all caught");
	query('TRUNCATE measured');
	return (@within, $after[0] - $before[0], $after[1] - $before[1]);
}
my @usual = growth('raise');
my @growth = growth('int,hint,fields,bad_alloc');
my @what = ('memory contexts, within', 'heap, within', 'memory contexts, afterwards', 'heap, afterwards');
cmp_ok($growth[$_], '<', $usual[$_] + 100_000, "$many errors caught in PL/pgSQL: $what[$_]") for 0 .. 3;
# Errors that end their transaction, one by one: nothing of them stays in the session.
query(join '', map { "SELECT guard_nested(1, '$_');\n" } ('int', 'fields') x 100);
my $before = query('SELECT sum(total_bytes) FROM pg_backend_memory_contexts');
query(join '', map { "SELECT guard_nested(1, '$_');\n" } ('int', 'fields') x 1000);
cmp_ok(query('SELECT sum(total_bytes) FROM pg_backend_memory_contexts') - $before, '<', 100_000,
	'flat over 2,000 failed transactions');
is(query('SELECT guard_objects()'), '0 of some', 'no object is left');

is(join("\n", log_matches($node, qr/WARNING:  |PANIC:  |TRAP:|was terminated by signal|terminate called/)), '',
	'no warning in the log, and no crash');
$session->quit;
$node->stop;
done_testing();
