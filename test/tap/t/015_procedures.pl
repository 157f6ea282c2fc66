# Handlers that do what they like with transactions and with their session, and handlers that are interrupted.
#
# - procedures: without COMMIT all or nothing; with COMMIT what came before stays when it fails later, and comes again
#   with the next attempt; with ROLLBACK
# - constraint triggers that fail at the commit, of a function, of a procedure, of a COMMIT midway: recorded with their
#   SQLSTATE, effects rolled back
# - settings, roles, read-only transactions, temporary tables, prepared statements, advisory locks, held cursors: the
#   task is completed, and the next one finds nothing of it. One worker runs all of them
# - cancel: of a handler's own task, of one that runs (interrupted, rolled back), of a procedure after its COMMIT
# - pg_cancel_backend of a process that is idle, or of launcher and scheduler, changes nothing
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('procedures', autovacuum => 'off', 'jobqueue.max_workers' => 1,
	'jobqueue.poll_interval' => '500ms');
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE ROLE app LOGIN;
	CREATE ROLE other LOGIN;
	GRANT other TO app;
	GRANT ALL ON SCHEMA public TO app, other;
	GRANT TEMP ON DATABASE app TO app, other;
	SELECT jobqueue.grant_access('app', 'manager');
	SELECT jobqueue.grant_access('app', 'producer');
	SELECT jobqueue.grant_access('other', 'producer');
SQL

# Everything below is done by an ordinary role.
sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql", extra_params => [ '-U', 'app' ]);
}
sql('CREATE TABLE effects (task bigint, attempt int, what text, who name DEFAULT current_user); GRANT INSERT ON '
	. 'effects TO other');

# handler(name, body, options): a function or procedure with that body, registered under its name.
sub handler {
	my ($name, $kind, $body, $options) = @_;
	my $returns = $kind eq 'FUNCTION' ? 'RETURNS jsonb' : '';
	sql("CREATE $kind $name(task jobqueue.tasks) $returns LANGUAGE plpgsql AS \$handler\$ $body \$handler\$;
		SELECT jobqueue.register_handler('$name', '$name(jobqueue.tasks)'" . ($options ? ", $options" : '') . ')');
}

sub enqueue {
	my ($type, $payload) = @_;
	return sql("SELECT jobqueue.enqueue('$type', '" . ($payload // '{}') . "')");
}

sub ends {
	my ($id, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node, 'app',
		"SELECT concat_ws(' ', status, attempts, last_sqlstate) FROM jobqueue.tasks WHERE id = $id AND status NOT IN "
			. "('pending', 'processing')", $expected, $name);
}

sub effects {
	my ($id) = @_;
	return sql("SELECT coalesce(string_agg(attempt || ' ' || what, ', ' ORDER BY attempt, what), 'none') FROM "
		. "effects WHERE task = $id");
}

# What a task can see of those before it: itself, from a process that never ran anything, is what it must always be.
handler('look', 'FUNCTION', <<'SQL');
	DECLARE
		settings jsonb;
	BEGIN
		SELECT jsonb_object_agg(name, setting) INTO settings FROM pg_settings WHERE name NOT
			IN ('transaction_deferrable');
		CREATE TEMP TABLE mine (x int) ON COMMIT DROP; -- a temporary schema is left from those before: an empty one
		INSERT INTO effects VALUES (task.id, task.attempts, 'look');
		RETURN jsonb_build_object(
			'settings', settings,
			'own', nullif(current_setting('my.own', true), ''),
			'who', format('%s %s', session_user, current_user),
			'temporary', (SELECT array_agg(relname ORDER BY relname) FROM pg_catalog.pg_class
				WHERE relnamespace = pg_my_temp_schema()),
			'functions', (SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = pg_my_temp_schema()),
			'prepared', (SELECT array_agg(name) FROM pg_catalog.pg_prepared_statements WHERE from_sql),
			'cursors', (SELECT array_agg(name) FROM pg_catalog.pg_cursors WHERE is_holdable),
			'locks', (SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
			'channels', (SELECT array_agg(c) FROM pg_catalog.pg_listening_channels() c));
	END
SQL
my $first = enqueue('look');
ends($first, 'completed 1', 'a fresh process');
my $clean = sql("SELECT jsonb_pretty(result) FROM jobqueue.tasks WHERE id = $first");
like($clean, qr/"who": "app app"/, 'it is the role');
my $worker = sql('SELECT pid FROM jobqueue.worker_status');

# The next task, in the same process, sees what the first one saw.
sub leaves_nothing {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = enqueue('look');
	ends($id, 'completed 1', "$name: the next task");
	is(sql(<<SQL), '', "$name: it finds nothing of it");
		WITH a AS (SELECT result AS r FROM jobqueue.tasks WHERE id = $first),
			b AS (SELECT result AS r FROM jobqueue.tasks WHERE id = $id)
		SELECT string_agg(format('%s: %s, was %s', key, b.r->key, a.r->key), E'\\n')
		FROM a, b, jsonb_object_keys(a.r) key
			WHERE key <> 'settings' AND a.r->key IS DISTINCT FROM b.r->key
		UNION ALL
		SELECT string_agg(format('%s: %s, was %s', key, b.r->'settings'->key, a.r->'settings'->key), E'\\n')
			FROM a, b, jsonb_object_keys(a.r->'settings' || (b.r->'settings')) key
			WHERE a.r->'settings'->key IS DISTINCT FROM b.r->'settings'->key
		HAVING count(*) > 0
SQL
	is(sql('SELECT pid FROM jobqueue.worker_status'), $worker, "$name: in the same process");
}

# --------------------------------------------------------------------------------------------------------------------
# Transactions

sql(<<'SQL');
	CREATE FUNCTION effect(task jobqueue.tasks, what text) RETURNS void LANGUAGE sql AS
		'INSERT INTO public.effects (task, attempt, what) VALUES (task.id, task.attempts, what)';
SQL
handler('plain', 'PROCEDURE', <<'SQL');
	BEGIN
		PERFORM effect(task, 'a');
		PERFORM effect(task, 'b');
		IF task.payload ? 'fail' THEN
			RAISE EXCEPTION 'plain' USING ERRCODE = 'JQ900';
		END IF;
	END
SQL
my $id = enqueue('plain');
ends($id, 'completed 1', 'a procedure without COMMIT');
is(effects($id), '1 a, 1 b', 'a procedure without COMMIT: its effects');
$id = enqueue('plain', '{"fail": 1}');
ends($id, 'scheduled 1 JQ900', 'a procedure without COMMIT that fails: it will be retried');
is(effects($id), 'none', 'a procedure without COMMIT that fails: no effects');

handler('midway', 'PROCEDURE', <<'SQL');
	BEGIN
		PERFORM effect(task, 'before');
		COMMIT;
		PERFORM effect(task, 'after');
		-- still the same task, in another transaction
		IF (jobqueue.current_task()).id IS DISTINCT FROM task.id OR (jobqueue.current_task()).attempts <> task.attempts
			THEN
			RAISE EXCEPTION 'current_task() is %', jobqueue.current_task();
		END IF;
		IF task.attempts <= (task.payload->>'failures')::int THEN
			RAISE EXCEPTION 'midway' USING ERRCODE = 'JQ901';
		END IF;
	END
SQL
$id = enqueue('midway', '{"failures": 0}');
ends($id, 'completed 1', 'COMMIT midway');
is(effects($id), '1 after, 1 before', 'COMMIT midway: all effects');
$id = enqueue('midway', '{"failures": 1}');
ends($id, 'scheduled 1 JQ901', 'COMMIT midway, fails later: will be retried');
is(effects($id), '1 before', 'COMMIT midway, fails later: what was committed stays, the rest does not');
sql("SELECT jobqueue.retry($id)");
ends($id, 'completed 2 JQ901', 'COMMIT midway: retried');
is(effects($id), '1 before, 2 after, 2 before', 'COMMIT midway: retried from its beginning');
# Killed between its COMMIT and its end: the same, and it costs an attempt.
handler('dies', 'PROCEDURE', <<'SQL');
	BEGIN
		PERFORM effect(task, 'before');
		COMMIT;
		PERFORM effect(task, 'after');
		IF task.attempts = 1 THEN
			PERFORM pg_terminate_backend(pg_backend_pid());
			PERFORM pg_sleep(60);
		END IF;
	END
SQL
$id = enqueue('dies');
ends($id, 'completed 2 JQ002', 'terminated after its COMMIT: runs again at once');
is(effects($id), '1 before, 2 after, 2 before', 'terminated after its COMMIT: what was committed stays');
($first, $worker) = (enqueue('look'), undef);
ends($first, 'completed 1', 'another fresh process');
$worker = sql('SELECT pid FROM jobqueue.worker_status');

handler('back', 'PROCEDURE', <<'SQL');
	BEGIN
		PERFORM effect(task, 'gone');
		ROLLBACK;
		PERFORM effect(task, 'kept');
		COMMIT AND CHAIN;
		PERFORM effect(task, 'gone, too');
		ROLLBACK AND CHAIN;
		ROLLBACK;
		PERFORM effect(task, 'last');
	END
SQL
$id = enqueue('back');
ends($id, 'completed 1', 'ROLLBACK');
is(effects($id), '1 kept, 1 last', 'ROLLBACK: takes what came before it, and nothing else');
handler('only_back', 'PROCEDURE', q{BEGIN PERFORM effect(task, 'gone'); ROLLBACK; END});
$id = enqueue('only_back');
ends($id, 'completed 1', 'ends with ROLLBACK');
is(effects($id), 'none', 'ends with ROLLBACK: no effects');
handler('loops', 'PROCEDURE',
	q{BEGIN FOR i IN 1..500 LOOP PERFORM effect(task, i::text); IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; }
		. q{END LOOP; END});
$id = enqueue('loops');
ends($id, 'completed 1', '500 transactions');
is(sql("SELECT count(*) FROM effects WHERE task = $id"), 250, '500 transactions: half of them committed');
handler('catches', 'PROCEDURE', q{
	BEGIN
		FOR i IN 1..3 LOOP
			BEGIN
				PERFORM effect(task, 'gone');
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN
				PERFORM effect(task, i::text);
			END;
			COMMIT;
		END LOOP;
	END});
$id = enqueue('catches');
ends($id, 'completed 1', 'EXCEPTION and COMMIT by turns');
is(effects($id), '1 1, 1 2, 1 3', 'EXCEPTION and COMMIT by turns: effects');
handler('function_commits', 'FUNCTION', q{BEGIN PERFORM effect(task, 'a'); COMMIT; RETURN NULL; END},
	'max_attempts => 1');
$id = enqueue('function_commits');
ends($id, 'failed 1 2D000', 'COMMIT in a function is an error');
is(effects($id), 'none', 'COMMIT in a function: no effects');
# From without, the task is processing all the time.
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE type IN ('midway', 'back', 'loops', 'catches') AND (status <> "
	. "'completed' OR finished_at < processed_at OR result IS NOT NULL)"),
	0, 'procedures have no result');
leaves_nothing('procedures');

# --------------------------------------------------------------------------------------------------------------------
# Failures at the commit

sql(<<'SQL');
	CREATE TABLE late (task bigint, ref int, x int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.ref < 0 THEN
			RAISE EXCEPTION 'refused at the commit' USING ERRCODE = 'JQ902';
		END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		EXECUTE FUNCTION refuse();
	INSERT INTO late (x) VALUES (1);
SQL
handler('late_function', 'FUNCTION',
	q{BEGIN PERFORM effect(task, 'a'); INSERT INTO late (task, ref) VALUES (task.id, (task.payload->>'ref')::int); }
		. q{RETURN '"done"'; END}, 'max_attempts => 1');
handler('late_procedure', 'PROCEDURE',
	q{BEGIN PERFORM effect(task, 'a'); INSERT INTO late (task, ref) VALUES (task.id, (task.payload->>'ref')::int); }
		. q{END}, 'max_attempts => 1');
handler('late_midway', 'PROCEDURE',
	q{BEGIN PERFORM effect(task, 'a'); COMMIT; PERFORM effect(task, 'b'); INSERT INTO late (task, ref) VALUES }
		. q{(task.id, (task.payload->>'ref')::int); COMMIT; PERFORM effect(task, 'c'); END}, 'max_attempts => 1');
handler('late_unique', 'FUNCTION',
	q{BEGIN PERFORM effect(task, 'a'); INSERT INTO late (task, x) VALUES (task.id, 1); RETURN NULL; END},
		'max_attempts => 1');
my %late = (late_function => 'none', late_procedure => 'none', late_midway => '1 a', late_unique => 'none');
for my $type (sort keys %late) {
	$id = enqueue($type, '{"ref": -1}');
	ends($id, 'failed 1 ' . ($type eq 'late_unique' ? '23505' : 'JQ902'), "$type fails at the commit: recorded");
	is(effects($id), $late{$type}, "$type fails at the commit: effects rolled back");
	is(sql("SELECT last_error, result IS NULL, (SELECT count(*) FROM late WHERE task = t.id) FROM jobqueue.tasks t "
		. "WHERE id = $id"),
		($type eq 'late_unique' ? 'duplicate key value violates unique constraint "late_x_key"'
			: 'refused at the commit') . '|t|0', "$type: the error");
	next if $type eq 'late_unique';
	$id = enqueue($type, '{"ref": 1}');
	ends($id, 'completed 1', "$type: passes");
}
ok(log_matches($node, qr/refused at the commit/), 'in the log, too');
leaves_nothing('failures at the commit');

# --------------------------------------------------------------------------------------------------------------------
# What is left of a session. All are completed.

my %mess = (
	settings =>
		q{SET work_mem = '77MB'; SET search_path = nowhere; SET TIME ZONE 'Asia/Tokyo'; SET statement_timeout = }
			. q{'1h'; SET lock_timeout = '1h';
		SET default_transaction_isolation = 'serializable'; SET DateStyle = 'German'; SET my.own = 'left'; SET }
			. q{client_min_messages = error;
		SET default_transaction_deferrable = on; SET idle_in_transaction_session_timeout = '1h'; SET }
			. q{application_name = 'left'; SET enable_indexscan = off;
		SET check_function_bodies = off; SET row_security = off; SET synchronous_commit = remote_write;},
	set_local => q{SET LOCAL work_mem = '78MB'; SET LOCAL search_path = pg_catalog; SET LOCAL my.own = 'left';},
	statement_timeout => q{SET statement_timeout = '1ms'; SET lock_timeout = '1ms';},
	set_role => q{SET ROLE other; PERFORM current_user;},
	set_local_role => q{SET LOCAL ROLE other;},
	session_read_only => q{SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;},
	session_serializable =>
		q{SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;},
	read_only => q{SET TRANSACTION READ ONLY;},
	read_only_setting => q{SET transaction_read_only = on;},
	temporary =>
		q{CREATE TEMP TABLE left_behind (x int); CREATE TEMP TABLE tasks (x int); CREATE TEMP VIEW left_view AS }
			. q{SELECT 1 AS x; CREATE TEMP SEQUENCE left_seq;
		CREATE FUNCTION pg_temp.left_function() RETURNS int LANGUAGE sql AS 'SELECT 1';},
	prepared => q{EXECUTE 'PREPARE left_prepared AS SELECT 1'; EXECUTE 'EXECUTE left_prepared';},
	advisory =>
		q{PERFORM pg_advisory_lock(7); PERFORM pg_advisory_lock(7); PERFORM pg_advisory_lock_shared(8, 9); PERFORM }
			. q{pg_advisory_xact_lock(10);},
	cursor =>
		q{EXECUTE 'DECLARE left_cursor CURSOR WITH HOLD FOR SELECT * FROM pg_class'; EXECUTE 'FETCH 3 FROM }
			. q{left_cursor';},
	notifies => q{NOTIFY left_channel, 'x';},
	constraints => q{SET CONSTRAINTS ALL IMMEDIATE;},
	large_object => q{PERFORM lo_open(lo_create(0), 131072);},
);
for my $mess (sort keys %mess) {
	handler($mess, 'FUNCTION', "BEGIN $mess{$mess} RETURN '\"$mess\"'; END");
	handler("p_$mess", 'PROCEDURE', "BEGIN $mess{$mess} END");
	handler("c_$mess", 'PROCEDURE', "BEGIN $mess{$mess} COMMIT; $mess{$mess} END") if $mess
		!~ /^(?:temporary|prepared|cursor)$/;
	handler("cc_$mess", 'PROCEDURE', "BEGIN $mess{$mess} COMMIT; END");
	handler("f_$mess", 'PROCEDURE',
		"BEGIN $mess{$mess} COMMIT; RAISE EXCEPTION 'on purpose' USING ERRCODE = 'JQ903'; END", 'max_attempts => 1');
	for my $type (split /\n/,
		sql("SELECT type FROM jobqueue.handlers WHERE type ~ '^(p_|c_|cc_|f_|)$mess\$' ORDER BY type")) {
		$id = enqueue($type);
		ends($id, $type =~ /^f_/ ? 'failed 1 JQ903' : 'completed 1',
			"$type: " . ($type =~ /^f_/ ? 'failed, later' : 'completed'))
			or diag sql("SELECT last_error FROM jobqueue.tasks WHERE id = $id");
	}
	is(sql("SELECT result FROM jobqueue.tasks WHERE type = '$mess'"), qq("$mess"), "$mess: with its result");
	leaves_nothing($mess);
}

# --------------------------------------------------------------------------------------------------------------------
# Cancelled

handler('cancels_itself', 'FUNCTION',
	q{BEGIN PERFORM effect(task, 'a'); PERFORM jobqueue.cancel(task.id, 'by itself'); PERFORM effect(task, 'b'); }
		. q{RETURN '"done"'; END});
handler('cancels_itself_p', 'PROCEDURE',
	q{BEGIN PERFORM effect(task, 'a'); PERFORM jobqueue.cancel(task.id, 'by itself'); COMMIT; FOR i IN 1..100 LOOP }
		. q{PERFORM pg_sleep(0.01); END LOOP; PERFORM effect(task, 'b'); END});
for my $type ('cancels_itself', 'cancels_itself_p') {
	$id = enqueue($type);
	ends($id, 'cancelled 1', "$type: cancelled");
	is(sql("SELECT count(*), min(last_error), bool_and(finished_at IS NOT NULL) FROM jobqueue.tasks WHERE id = $id"),
		'1|by itself|t', "$type: once");
	unlike(effects($id), qr/1 b/, "$type: what comes after a cancel that is committed does not happen") if $type
		=~ /_p/;
	leaves_nothing($type);
	is(sql("SELECT status, attempts FROM jobqueue.tasks WHERE id = $id"), 'cancelled|1', "$type: and it stays so");
}

handler('sleeps', 'FUNCTION', q{BEGIN PERFORM effect(task, 'a'); PERFORM pg_sleep(600); RETURN NULL; END});
handler('sleeps_p', 'PROCEDURE',
	q{BEGIN PERFORM effect(task, 'a'); COMMIT; PERFORM effect(task, 'b'); PERFORM pg_sleep(600); END});
handler('spins', 'FUNCTION', q{BEGIN PERFORM effect(task, 'a'); LOOP NULL; END LOOP; END});
handler('stubborn', 'FUNCTION',
	q{BEGIN LOOP BEGIN PERFORM effect(task, 'a'); PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN RETURN }
		. q{'"caught"'; END; END LOOP; END});

sub running {
	my ($task, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app',
		"SELECT count(*) FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE w.task_id = "
			. "$task AND w.state = 'running'"
		. ' AND (w.task_type IN ($$spins$$) OR a.wait_event = $$PgSleep$$)', 1, "$name: runs", 20);
}
my %after = (sleeps => 'none', sleeps_p => '1 a', spins => 'none', stubborn => 'none');
for my $type (sort keys %after) {
	$id = enqueue($type);
	running($id, $type);
	# not before it is committed, and not at all if it never is
	sql("BEGIN; SELECT jobqueue.cancel($id); ROLLBACK");
	my $next = enqueue('look');
	is_prompt(sub { is(sql("SELECT jobqueue.cancel($id, 'enough')"), 't', "$type: cancelled while it runs") },
		"$type: nobody waits for that");
	is_prompt(sub { ends($id, 'cancelled 1', "$type: it is cancelled") }, "$type: interrupted at once");
	is(effects($id), $after{$type}, "$type: its effects are rolled back");
	is(sql("SELECT last_error FROM jobqueue.tasks WHERE id = $id"), 'enough', "$type: with the reason");
	ends($next, 'completed 1', "$type: the next one is not hit");
	is(sql("SELECT jobqueue.cancel($id)"), 'f', "$type: no second time");
	leaves_nothing($type);
}

# --------------------------------------------------------------------------------------------------------------------
# pg_cancel_backend: nobody's task is meant by it

my $offset = log_size($node);
for my $round (1 .. 3) {
	for my $kind ('worker', 'scheduler', 'launcher') {
		my @pids = pids($node, $kind);
		is(scalar(@pids), 1, "$kind: there is one");
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($pids[0])") for 1 .. 3;
		# at once: the signal may hit a process that has just begun with something
		$id = enqueue('plain');
		my $later = sql("SELECT jobqueue.enqueue('plain', delay => '0.1 s')");
		ends($_, 'completed 1', "$kind was cancelled: things go on") for $id, $later;
		is(join(' ', pids($node, $kind)), $pids[0], "$kind was cancelled: it is the same process");
		is(effects($id), '1 a, 1 b', "$kind was cancelled: the task had its effects once");
	}
}
# One that is running is another matter: an error of the handler, as anywhere, or ignored; but never a lost task.
$id = enqueue('sleeps');
running($id, 'pg_cancel_backend of a busy worker');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)");
my $how =
	wait_for(
		sub { sql("SELECT status || ' ' || coalesce(last_sqlstate, '') FROM jobqueue.tasks WHERE id = $id AND "
			. "(status <> 'processing' OR processed_at < now() - interval '3 s')") });
like($how // '', qr/^(?:scheduled 57014|processing )$/,
	'pg_cancel_backend of a busy worker: the error of an attempt, or nothing');
sql("SELECT jobqueue.cancel($id)");
leaves_nothing('pg_cancel_backend');
is(unexpected_in_log($node, qr/on purpose|ERROR:  canceling statement due to user request/, $offset), '',
	'nothing unexpected in the log');

# In general: a handler's error is one line of the log, and nothing else is worth a warning.
is(unexpected_in_log($node,
	qr/ERROR:\ \ |(?:WARNING|LOG):.*(?:on\ purpose|refused\ at\ the\ commit|plain|midway|late_x_key
		|invalid\ transaction\ termination|task\ \d+)|terminating\ background\ worker/x), '',
	'nothing unexpected in all the log');
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE status IN ('pending', 'processing')"), 0, 'nothing is left');
$node->stop;
done_testing();
