# SQL commands as tasks (enqueue_sql): how they run, as whom, and what an attacker gets out of them, which is nothing.
#
# - commands of every kind, and what their result says; the role, its settings, its session
# - those that PostgreSQL refuses in a transaction block: VACUUM, CREATE INDEX CONCURRENTLY ...; CALL and DO that commit
# - errors, deferred constraints, time limits, cancel, the functions for handlers
# - a crash in the middle: what ran in the task's transaction has happened once
# - forged tasks of every kind, rights that are gone, roles that come back, copies of the database
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $secret = 'the-secret-of-the-command';
# every type would run in fused batches from the first task on, except these
my $node = start_node('sql_commands', autovacuum => 'off', 'jobqueue.fused_after' => 0, 'jobqueue.max_workers' => 6,
	max_worker_processes => 24, restart_after_crash => 'on', max_prepared_transactions => 5,
		'jobqueue.poll_interval' => '500ms');
create_queue($node, 'app');

sub admin {
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'app', "SET client_min_messages = error;\n$sql");
}

# What a role gets: the SQLSTATE, or what the last statement returns.
sub attempt {
	my ($who, $sql) = @_;
	my ($status, $out, $err) = $node->psql('app', $sql, on_error_stop => 1,
		extra_params => [ '-U', $who, '-v', 'VERBOSITY=sqlstate' ]);
	return $1 if $err =~ /(?:ERROR|FATAL):\s+(\w{5})/;
	return (split /\n/, $out)[-1] // '';
}

sub enqueue_as {
	my ($who, $command, $options) = @_;
	return attempt($who, "SELECT jobqueue.enqueue_sql(\$_\$$command\$_\$" . ($options ? ", $options" : '') . ')');
}

# "completed TAG ROWS" or "failed SQLSTATE, attempt N". Asked again and again: CREATE INDEX CONCURRENTLY would wait for
# the transaction of wait_for().
sub outcome {
	my ($id, $database) = @_;
	return wait_for(sub { admin(<<SQL, $database) });
		SELECT CASE status WHEN 'completed' THEN concat_ws(' ', status, result->>'command_tag', result->>'rows')
			ELSE format('%s %s, attempt %s', status, last_sqlstate, attempts) END
		FROM jobqueue.tasks WHERE id = $id AND status IN ('completed', 'failed', 'cancelled')
SQL
}

sub runs {
	my ($who, $command, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = enqueue_as($who, $command);
	is($id =~ /^\d+$/ && length $id != 5 ? outcome($id) : $id, $expected, $name // $command)
		or diag admin("SELECT last_error FROM jobqueue.tasks WHERE id = $id");
	return $id;
}

admin(<<'SQL');
	CREATE ROLE app LOGIN;
	CREATE ROLE pia LOGIN;      -- only a producer
	CREATE ROLE eve LOGIN;      -- producer, consumer and manager of all queues
	CREATE ROLE hand LOGIN;     -- rights to the table, GRANTed by hand
	CREATE ROLE part LOGIN;     -- SQL commands in one queue
	GRANT ALL ON SCHEMA public TO app, part, eve;
	GRANT TEMP ON DATABASE app TO app;
	ALTER ROLE app SET work_mem = '5MB';
	ALTER ROLE app SET search_path = public, pg_temp;
	SELECT jobqueue.grant_access('app', 'sql'), jobqueue.grant_access('part', 'sql', 'part'),
		jobqueue.grant_access('pia', 'producer');
	SELECT jobqueue.grant_access('eve', l) FROM unnest('{producer,consumer,manager}'::text[]) l;
	GRANT USAGE ON SCHEMA jobqueue TO hand;
	GRANT SELECT, INSERT, UPDATE, DELETE ON jobqueue.tasks, jobqueue.handlers TO hand;
	GRANT USAGE ON SEQUENCE jobqueue.tasks_id_seq TO hand;
	-- ids of more digits than a SQLSTATE has
	SELECT setval('jobqueue.tasks_id_seq', 1000000);
SQL
my $super = admin('SELECT current_user');

# --------------------------------------------------------------------------------------------------------------------
# What they do, and say

runs('app', 'CREATE TABLE t (a int PRIMARY KEY, b text)', 'completed CREATE TABLE');
runs('app', 'INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n', 'completed INSERT 0 1000 1000');
runs('app', 'UPDATE t SET b = \'x\' WHERE a <= 5', 'completed UPDATE 5 5');
runs('app', 'SELECT * FROM t WHERE a <= 7', 'completed SELECT 7 7');
runs('app', 'WITH d AS (DELETE FROM t WHERE a > 990 RETURNING a) SELECT * FROM d', 'completed SELECT 10 10');
runs('app', 'DELETE FROM t WHERE a > 980 RETURNING a', 'completed DELETE 10 10');
runs('app',
	'MERGE INTO t USING (VALUES (1), (5000)) v(a) ON t.a = v.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT '
		. 'VALUES (v.a, NULL)', 'completed MERGE 2 2');
runs('app', 'CREATE TABLE copy AS TABLE t', 'completed SELECT 980 980');
runs('app', 'EXPLAIN ANALYZE TABLE t;', 'completed EXPLAIN');
runs('app', 'SELECT FROM t WHERE false', 'completed SELECT 0 0');
runs('app', 'TRUNCATE copy', 'completed TRUNCATE TABLE');
runs('app', 'CREATE RULE r AS ON INSERT TO copy DO INSTEAD NOTHING', 'completed CREATE RULE');
runs('app', 'INSERT INTO copy VALUES (1)', 'completed INSERT 0 0 0', 'a rule that leaves nothing to do');
runs('app', 'DROP RULE r ON copy', 'completed DROP RULE');
runs('app', 'ANALYZE t', 'completed ANALYZE');
runs('app', 'NOTIFY n', 'completed NOTIFY');
is(admin('SELECT string_agg(DISTINCT concat(attempts, status), \' \') FROM jobqueue.tasks'), '1completed',
	'each at the first attempt');

# as whom, and where
runs('app',
	'CREATE TABLE seen AS SELECT session_user AS s, current_user AS c, current_setting(\'is_superuser\') AS super, '
		. 'current_setting(\'work_mem\') AS work_mem, current_setting(\'search_path\') AS path, '
		. 'current_setting(\'transaction_isolation\') AS iso',
	'completed SELECT 1 1', 'a command that looks around');
is(admin('SELECT * FROM seen'), 'app|app|off|5MB|public, pg_temp|read committed', '... is the role, with its settings');
runs('app',
	'DO $$BEGIN CREATE TEMP TABLE left_behind (a int); PERFORM pg_advisory_lock(1), set_config(\'work_mem\', '
		. '\'77MB\', false); END$$', 'completed DO');
runs('app',
	'DO $$BEGIN ASSERT to_regclass(\'left_behind\') IS NULL AND current_setting(\'work_mem\') = \'5MB\' AND NOT '
		. 'EXISTS (SELECT FROM pg_locks WHERE locktype = \'advisory\'); END$$', 'completed DO',
		'... and leaves nothing to the next one');
# the functions for handlers
runs('app', 'CREATE TABLE ledger (task bigint PRIMARY KEY)', 'completed CREATE TABLE');
my $current = runs('app', 'INSERT INTO ledger SELECT (jobqueue.current_task()).id FROM jobqueue.set_progress(0.5)',
	'completed INSERT 0 1 1');
is(admin('SELECT task FROM ledger'), $current, 'current_task() is the task');
is(admin('SELECT l.xmin = t.xmin FROM ledger l JOIN jobqueue.tasks t ON t.id = l.task'), 't',
	'what a command does and the completion of its task are one transaction');
runs('app', 'SELECT jobqueue.discard(\'never\')', 'failed JQ003, attempt 1');
my $snoozed = enqueue_as('app', 'SELECT jobqueue.snooze(\'1 day\')');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $snoozed", 'scheduled', 'snooze() puts it off');

# --------------------------------------------------------------------------------------------------------------------
# Those that cannot run in a transaction block

admin('DELETE FROM t; SET ROLE app; CREATE TABLE big AS SELECT n FROM generate_series(1, 20000) n; CREATE '
	. 'MATERIALIZED VIEW m AS SELECT DISTINCT n % 10 AS n FROM big; CREATE UNIQUE INDEX ON m (n)');
runs('app', 'VACUUM t', 'completed VACUUM');
is(admin("SELECT pg_relation_size('t')"), 0,
	'... gave back the pages of rows deleted a moment ago: it held back nothing itself');
runs('app', 'VACUUM (FREEZE, ANALYZE) big', 'completed VACUUM');
is(admin("SELECT relallvisible = relpages AND relpages > 0 AND reltuples = 20000 FROM pg_class WHERE oid = "
	. "'big'::regclass"), 't', '... really did');
runs('app', 'VACUUM (PARALLEL 2) big, t', 'completed VACUUM');
runs('app', 'CREATE INDEX CONCURRENTLY big_n ON big (n)', 'completed CREATE INDEX');
is(admin("SELECT indisvalid FROM pg_index WHERE indexrelid = 'big_n'::regclass"), 't', '... a valid one');
runs('app', 'REINDEX INDEX CONCURRENTLY big_n', 'completed REINDEX');
runs('app', 'DROP INDEX CONCURRENTLY big_n', 'completed DROP INDEX');
is(admin("SELECT to_regclass('big_n') IS NULL"), 't', '... and it is gone');
runs('app', 'INSERT INTO big VALUES (7), (11)', 'completed INSERT 0 2 2');
runs('app', 'REFRESH MATERIALIZED VIEW CONCURRENTLY m', 'completed REFRESH MATERIALIZED VIEW');
admin('SET ROLE app; CREATE TABLE parted (a int) PARTITION BY LIST (a); CREATE TABLE parted_1 PARTITION OF parted '
	. 'FOR VALUES IN (1); CREATE INDEX ON parted (a)');
runs('app', 'REINDEX TABLE parted', 'completed REINDEX',
	'one of which only the catalog tells: REINDEX of a partitioned table');
runs('app', 'ALTER TABLE parted DETACH PARTITION parted_1 CONCURRENTLY', 'completed ALTER TABLE');
runs($super, 'CREATE DATABASE made', 'completed CREATE DATABASE');
runs($super, 'DROP DATABASE made', 'completed DROP DATABASE');
runs($super, 'ALTER SYSTEM SET jobqueue.max_crashes = 4', 'completed ALTER SYSTEM');
runs($super, 'ALTER SYSTEM RESET jobqueue.max_crashes', 'completed ALTER SYSTEM');
runs($super, 'CLUSTER', 'completed CLUSTER');
runs('app', 'CREATE DATABASE made', 'failed 42501, attempt 1', 'its rights are the role\'s: CREATE DATABASE');
runs('app', 'VACUUM pg_authid', 'completed VACUUM');
is(admin('SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND backend_type = \'jobqueue worker\''),
	0, 'no transaction stays open');
runs('app', 'DO $$BEGIN EXECUTE \'VACUUM\'; END$$', 'failed 25001, attempt 1', 'VACUUM in a block of code cannot');
# no snapshot of ours while it runs: it would wait for itself
my @parallel = map { enqueue_as('app', "CREATE INDEX CONCURRENTLY p$_ ON big (n)") } 1 .. 3;
is(join(', ', map { outcome($_) } @parallel), join(', ', ('completed CREATE INDEX') x 3),
	'three CREATE INDEX CONCURRENTLY at once');

# CALL and DO
admin('SET ROLE app; CREATE TABLE steps (a int); CREATE PROCEDURE steps(fails boolean) LANGUAGE plpgsql AS $$BEGIN '
	. 'INSERT INTO steps VALUES (1); COMMIT; INSERT INTO steps VALUES (2); IF fails THEN RAISE \'no\' USING ERRCODE '
	. '= \'42ABC\'; END IF; END$$');
runs('app', 'CALL steps(false)', 'completed CALL');
runs('app', 'CALL steps(true)', 'failed 42ABC, attempt 1', 'a procedure that fails after its COMMIT');
is(admin('SELECT string_agg(a::text, \' \' ORDER BY a) FROM steps'), '1 1 2', '... has done what came before');
runs('app', 'DO $$BEGIN FOR i IN 10..12 LOOP INSERT INTO steps VALUES (i); COMMIT; END LOOP; END$$', 'completed DO');

# --------------------------------------------------------------------------------------------------------------------
# Errors, limits of time, cancel

runs('app', 'INSERT INTO nowhere VALUES (1)', 'failed 42P01, attempt 1',
	'an error that will come again is not tried again');
my $fails = enqueue_as('app', 'INSERT INTO ledger SELECT n / (n - 1) FROM generate_series(3, 1, -1) n');
wait_sql($node, 'app',
	"SELECT concat_ws(' ', status, last_sqlstate, attempts, run_at > now() + '3 s') FROM jobqueue.tasks WHERE id = "
		. "$fails", 'scheduled 22012 1 t', 'another one is, after a while');
is(admin('SELECT count(*) FROM ledger'), 1, '... and is rolled back');
admin("SELECT jobqueue.retry($fails)");
wait_sql($node, 'app', "SELECT attempts FROM jobqueue.tasks WHERE id = $fails AND status = 'scheduled'", 2,
	'... twice');
admin("SELECT jobqueue.retry($fails)");
is(outcome($fails), 'failed 22012, attempt 3', '... three times');
like(admin("SELECT failures->0->>'context' FROM jobqueue.tasks WHERE id = $fails"), qr/task $fails of type "sql:\d+"/,
	'... with its context');
admin('SET ROLE app; CREATE TABLE deferred (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)');
my $deferred = enqueue_as('app', 'INSERT INTO deferred VALUES (1), (1)');
wait_sql($node, 'app', "SELECT concat_ws(' ', status, last_sqlstate) FROM jobqueue.tasks WHERE id = $deferred",
	'scheduled 23505', 'a constraint that is checked at the commit');
admin("SELECT jobqueue.cancel($deferred)");

admin('SET ROLE app; CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM '
	. 'pg_sleep(1000); RETURN 1; END$$; CREATE TABLE one AS SELECT 1 AS a');
for my $case ([ 'inside', 'SELECT pg_sleep(1000) AS %s' ],
	[ 'outside', 'CREATE INDEX CONCURRENTLY slow_%s ON one (slow(a))' ]) {
	my ($where, $command) = @$case;
	my $timed = enqueue_as('app', sprintf($command, 'timed'), "timeout => '300 ms'");
	wait_sql($node, 'app',
		"SELECT concat_ws(' ', status, last_sqlstate, last_error) FROM jobqueue.tasks WHERE id = $timed",
			'scheduled JQ004 timed out after 0.3 s', "$where: a time limit");
	admin("SELECT jobqueue.cancel($timed)");
	my $cancelled = enqueue_as('app', sprintf($command, 'cancelled'));
	wait_sql($node, 'app',
		"SELECT count(*) FROM jobqueue.worker_status w JOIN jobqueue.tasks t ON t.id = w.task_id JOIN "
			. "pg_stat_activity a ON a.pid = w.pid WHERE t.id = $cancelled AND t.status = 'processing' AND "
			. "a.wait_event = 'PgSleep'", 1, "$where: it runs, for all to see");
	unlike(admin("SELECT string_agg(query, '') FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'"),
		qr/slow|pg_sleep/, "$where: ... but for what it does");
	admin("SELECT jobqueue.cancel($cancelled, 'enough')");
	is(outcome($cancelled), 'cancelled , attempt 1', "$where: cancelled");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE task_id = $cancelled", 0,
		"$where: ... and the worker is free");
}
is(admin("SELECT count(*) FROM pg_index WHERE indrelid = 'one'::regclass AND NOT indisvalid"), 2,
	'CREATE INDEX CONCURRENTLY leaves invalid indexes behind, as anywhere');
admin('DROP TABLE one; DROP FUNCTION slow');
admin('ALTER ROLE part SET statement_timeout = \'200ms\'');
my $limited = enqueue_as('part', 'SELECT pg_sleep(1000)', '\'part\'');
wait_sql($node, 'app', "SELECT concat_ws(' ', status, last_sqlstate) FROM jobqueue.tasks WHERE id = $limited",
	'scheduled 57014', 'the statement_timeout of the role');
admin("SELECT jobqueue.cancel($limited); ALTER ROLE part RESET statement_timeout");

# --------------------------------------------------------------------------------------------------------------------
# A crash in the middle

admin('TRUNCATE ledger; SELECT jobqueue.purge_queue(\'default\')');
my $task = '(jobqueue.current_task())';
my @crashed =
	(enqueue_as('app',
		"INSERT INTO ledger SELECT $task.id FROM pg_sleep(CASE WHEN $task.attempts = 1 THEN 1000 ELSE 0 END)"));
admin("SET ROLE app; CREATE TABLE two AS SELECT 1 AS a; CREATE TABLE how_long (seconds int); INSERT INTO how_long "
	. "VALUES (1000); CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \$\$BEGIN PERFORM "
	. "pg_sleep(seconds) FROM public.how_long; RETURN 1; END\$\$");
push @crashed, enqueue_as('app', 'CREATE INDEX CONCURRENTLY IF NOT EXISTS crashed ON two (slow(a))');
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE a.wait_event = "
		. "'PgSleep'", 2, 'two commands run');
my $pid = admin("SELECT pid FROM jobqueue.worker_status WHERE task_id = $crashed[0]");
kill 9, $pid;
ok(wait_for(sub { log_matches($node, qr/all server processes terminated; reinitializing/)
	&& ($node->psql('app', 'SELECT 1'))[0] == 0 }), 'the server comes back');
admin('UPDATE how_long SET seconds = 0');
is(outcome($crashed[0]), 'completed INSERT 0 1 1', 'killed with -9: it is done after all');
is(admin("SELECT count(*), min(task) = $crashed[0] FROM ledger"), '1|t', '... once');
is(admin("SELECT attempts || ' ' || crashes FROM jobqueue.tasks WHERE id = $crashed[0]"), '2 1',
	'... at the second attempt, and is charged');
is(outcome($crashed[1]), 'completed CREATE INDEX', 'one that ran outside of the transaction is run again');
is(admin("SELECT crashes FROM jobqueue.tasks WHERE id = $crashed[1]"), 0, '... and not charged for its neighbour');
admin('DROP TABLE two');

# --------------------------------------------------------------------------------------------------------------------
# Attacks: everybody is after the rights of app, or of the superuser

runs('app', 'CREATE TABLE spied (what text, who name DEFAULT current_user)', 'completed CREATE TABLE');
runs('app', 'GRANT INSERT ON spied TO PUBLIC', 'completed GRANT');
runs($super, 'SELECT 1', 'completed SELECT 1 1', 'the superuser has such tasks, too');
my %type = map { split /\|/ } split /\n/, admin('SELECT run_as, type FROM jobqueue.handlers');
like($type{app}, qr/^sql:\d+$/, 'the type of app\'s commands');
my $payload = '{"command": "INSERT INTO public.spied VALUES (\'\'evil\'\')"}';

# row_policies.cpp, no_sql_command, and the rights to columns; enqueue.cpp, refuse_sql_type()
for my $target ($type{app}, $type{$super}, 'sql:1') {
	is(attempt('pia', "INSERT INTO jobqueue.tasks (type, payload) VALUES ('$target', '$payload')"), '42501',
		"pia: INSERT of a task of type $target");
	is(attempt('pia', "INSERT INTO jobqueue.tasks (type, payload, created_by) VALUES ('$target', '$payload', 'app')"),
		'42501', '... as somebody else');
	is(attempt('hand', "INSERT INTO jobqueue.tasks (type, payload, created_by) VALUES ('$target', '$payload', 'app')"),
		'42501', 'hand: likewise, with rights to all columns');
	is(attempt('hand', "INSERT INTO jobqueue.tasks (type, payload) VALUES ('$target', '$payload')"), '42501',
		'... as itself');
	is(attempt('pia', "SELECT jobqueue.enqueue('$target', '$payload')"), '42939', 'pia: enqueue()');
	is(attempt('pia', "SELECT jobqueue.enqueue_many('$target', ARRAY['$payload'::jsonb])"), '42939',
		'pia: enqueue_many()');
}
is(enqueue_as('pia', 'SELECT 1'), '42501', 'pia: a producer may not enqueue commands');
is(enqueue_as('eve', 'SELECT 1'), '42501', 'eve: neither may a consumer and manager');
is(enqueue_as('part', 'SELECT 1'), '42501', 'part: nor who has the right for another queue only');
# changing what app has enqueued, or making it of another task
admin('SELECT jobqueue.pause_queue(\'held\'), jobqueue.pause_queue(\'part\')');
my $victim = enqueue_as('app', 'SELECT 1', '\'held\'');
my $own =
	attempt('hand',
		"INSERT INTO jobqueue.tasks (type, payload, queue) VALUES ('x', '$payload', 'held'); SELECT max(id) FROM "
			. "jobqueue.tasks WHERE created_by = 'hand'");
my $affected = 'WITH u AS (%s RETURNING 1) SELECT count(*) FROM u';
is(attempt('hand', sprintf($affected, "UPDATE jobqueue.tasks SET payload = '$payload' WHERE id = $victim")), 0,
	'hand: UPDATE of the command');
is(attempt('hand',
	sprintf($affected,
		"UPDATE jobqueue.tasks SET lease_expires_at = 'infinity', status = 'processing' WHERE id = $victim")), 0,
			'hand: ... of the rest');
is(attempt('hand',
	sprintf($affected, "UPDATE jobqueue.tasks SET type = '$type{app}', created_by = 'app' WHERE id = $own")), '42501',
		'hand: UPDATE of a task of its own');
is(attempt('hand',
	sprintf($affected, "INSERT INTO jobqueue.tasks (type, queue) VALUES ('x', 'held') ON CONFLICT DO NOTHING")), 1,
		'hand: has the right to write, otherwise');
is(attempt('hand', "UPDATE jobqueue.handlers SET run_as = '$super' RETURNING 1"), '',
	'hand: UPDATE of the role of a handler');
is(attempt('eve', sprintf($affected, "UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $victim")), 0,
	'eve: UPDATE of the status');
# claiming it: claim.cpp, refuse_sql_type(); engine/store/type_filter.cpp, is_wanted()
is(attempt('eve', "SELECT jobqueue.claim('default', types => ARRAY['$type{app}'])"), '42939', 'eve: claim() by type');
is(attempt('eve', "SELECT jobqueue.unregister_handler('$type{app}')"), '42501', 'eve: unregister_handler()');
is(attempt('eve', "SELECT jobqueue.register_handler('$type{app}', 'jsonb_pretty(jsonb)')"), '42939',
	'eve: register_handler()');
is(attempt('eve', "SELECT jobqueue.alter_handler('$type{app}', run_as => 'eve')"), '42939', 'eve: alter_handler()');
is(attempt('eve', "SELECT jobqueue.complete($victim, 0), jobqueue.complete($victim, 1)"), 'f|f', 'eve: complete()');
admin('SELECT jobqueue.resume_queue(\'held\')');
is(outcome($victim), 'completed SELECT 1 1', 'app: the command runs as it was enqueued');

# If such a row gets into the table all the same (here, the superuser): server/sql_command.cpp,
# genuine_command()
my $forge = sub {
	my ($type, $created_by, $json, $queue) = @_;
	return admin("INSERT INTO jobqueue.tasks (type, created_by, payload, queue) VALUES ('$type', '$created_by', "
		. "'$json', '" . ($queue // 'default') . "'); SELECT max(id) FROM jobqueue.tasks");
};
for my $case (
	[ 'another\'s', $type{app}, 'pia', $payload, '42501' ],
	[ 'another\'s, for the superuser', $type{$super}, 'app', $payload, '42501' ],
	[ 'the superuser\'s, for app', $type{app}, $super, $payload, '42501' ],
	[ 'that of a role that is not there', $type{app}, 'nobody', $payload, '42501' ],
	[ 'that of a role that differs in case', $type{app}, 'App', $payload, '42501' ],
	[ 'that of a role with a space', $type{app}, 'app ', $payload, '42501' ],
	[ 'one without command', $type{app}, 'app', '{}', '42501' ],
	[ 'one that is no object', $type{app}, 'app', '["command"]', '42501' ],
	[ 'one that is null', $type{app}, 'app', '{"command": null}', '42501' ],
	[ 'one that is a number', $type{app}, 'app', '{"command": 1}', '42601' ],
	[ 'two statements', $type{app}, 'app', '{"command": "SELECT 1; INSERT INTO public.spied VALUES (1)"}', '42601' ],
	[ 'transaction control', $type{app}, 'app', '{"command": "COMMIT"}', '0A000' ],
	[ 'two-phase commit', $type{app}, 'app', '{"command": "PREPARE TRANSACTION \'\'x\'\'"}', '0A000' ],
	[ 'COPY FROM STDIN', $type{app}, 'app', '{"command": "COPY public.spied FROM STDIN"}', '0A000' ],
	[ 'nothing', $type{app}, 'app', '{"command": ""}', '42601' ],
) {
	my ($name, $type, $created_by, $json, $sqlstate) = @$case;
	is(outcome($forge->($type, $created_by, $json)), "failed $sqlstate, attempt 1", "a forged task: $name");
}
is(admin('SELECT count(*) FROM spied'), 0, '... nothing of that has run');
my $unserved = $forge->('sql:1', 'app', $payload);
my $again =
	admin("SELECT id FROM jobqueue.tasks WHERE status = 'failed' AND created_by = 'pia' AND type = '$type{app}'");
admin("SELECT jobqueue.retry($again)");
is(outcome($again), 'failed 42501, attempt 2', '... also not when a manager retries it');

# Rights that are gone by the time it runs
my $part = enqueue_as('part', 'INSERT INTO spied VALUES (1)', '\'part\'');
admin("SELECT jobqueue.revoke_access('part', 'sql', 'part'), jobqueue.grant_access('part', 'sql', 'elsewhere'), "
	. "jobqueue.resume_queue('part')");
is(outcome($part), 'failed 42501, attempt 1', 'part: the queue has been taken away');
is(outcome(enqueue_as('part', 'SELECT 1', '\'elsewhere\'')), 'completed SELECT 1 1', '... and another one given');
admin('SELECT jobqueue.pause_queue(\'elsewhere\')');
$part = enqueue_as('part', 'INSERT INTO spied VALUES (1)', '\'elsewhere\'');
admin("SELECT jobqueue.revoke_access('part', 'sql'), jobqueue.resume_queue('elsewhere')");
is(outcome($part), 'failed 42501, attempt 1', 'part: the right has been taken away');
is(admin('SELECT count(*) FROM spied'), 0, '... nothing has run');
# ... by hand: a member of a role that has the right
admin('CREATE ROLE team; SELECT jobqueue.grant_access(\'team\', \'sql\', \'team\'); GRANT team TO part');
my $members = enqueue_as('part', 'INSERT INTO spied SELECT session_user', '\'team\'');
is(outcome($members), 'completed INSERT 0 1 1', 'part: has the right as a member');
is(admin('SELECT what, who FROM spied'), 'part|part', '... and is itself all the same');
admin('TRUNCATE spied; SELECT jobqueue.pause_queue(\'team\')');
$members = enqueue_as('part', 'INSERT INTO spied VALUES (1)', '\'team\'');
admin('REVOKE team FROM part; SELECT jobqueue.resume_queue(\'team\')');
is(outcome($members), 'failed 42501, attempt 1', 'part: is a member no more');
is(admin('SELECT count(*) FROM spied'), 0, '... nothing has run');

# Out of the session of the worker
for my $command ('SET SESSION AUTHORIZATION ' . $super, 'SET ROLE ' . $super, 'RESET SESSION AUTHORIZATION',
	'RESET ROLE') {
	my $id = enqueue_as('app',
		"DO \$\$BEGIN EXECUTE '$command'; INSERT INTO spied VALUES (session_user || current_user || "
			. "current_setting('is_superuser')); END\$\$");
	like(outcome($id), qr/^(failed 42501|completed DO)/, "app: $command");
}
is(admin("SELECT count(*) FROM spied WHERE what <> 'appappoff'"), 0, 'app: ... has become nobody else');
runs('app', 'UPDATE jobqueue.handlers SET run_as = \'app\'', 'failed 42501, attempt 1', 'app: has no rights of ours');
runs('app', 'ALTER SYSTEM SET jobqueue.max_workers = 1', 'failed 42501, attempt 1');
runs('app', 'COPY spied FROM PROGRAM \'id\'', 'failed 42501, attempt 1');
runs('app', 'DROP EXTENSION jobqueue CASCADE', 'failed 42501, attempt 1');
# what it does at its commit, and names that it plants in front of ours
admin(<<'SQL');
	SET ROLE app;
	CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.spied
		VALUES (session_user || current_user || current_setting('is_superuser')); RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER spy AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		EXECUTE FUNCTION spy();
SQL
runs('app', 'INSERT INTO deferred VALUES (99)', 'completed INSERT 0 1 1', 'app: what is deferred to the commit');
is(admin("SELECT count(*) > 0 AND bool_and(what = 'appappoff') FROM spied"), 't', '... is app\'s, too');
admin(<<'SQL');
	CREATE SCHEMA planted AUTHORIZATION app;
	ALTER ROLE app SET search_path = planted, pg_catalog, public;
	SET ROLE app;
	TRUNCATE spied;
	CREATE FUNCTION planted.same(name, name) RETURNS boolean LANGUAGE sql AS $$INSERT INTO public.spied
		VALUES (current_user) RETURNING true$$;
	CREATE OPERATOR planted.= (LEFTARG = name, RIGHTARG = name, FUNCTION = planted.same);
	CREATE FUNCTION planted.get(jsonb, text) RETURNS text LANGUAGE sql AS $$INSERT INTO public.spied
		VALUES (current_user) RETURNING 'SELECT 2'$$;
	CREATE OPERATOR planted.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = planted.get);
SQL
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.worker_status WHERE role = \'app\' AND '
	. 'pg_terminate_backend(pid)', 0, 'app: gets a new process, with another path');
runs('app', 'SELECT 1 AS a UNION SELECT 2', 'completed SELECT 2 2', 'app: operators in its own path');
is(admin('SELECT count(*) FROM spied'), 0, '... are not called by us');
admin('ALTER ROLE app RESET search_path');

# --------------------------------------------------------------------------------------------------------------------
# Names: a role that comes back, one that is renamed; first calls at once

admin('SELECT jobqueue.pause_queue(\'names\'); CREATE ROLE phoenix LOGIN; SELECT jobqueue.grant_access(\'phoenix\', '
	. '\'sql\')');
my $old = enqueue_as('phoenix', 'INSERT INTO spied VALUES (\'old\')', '\'names\'');
admin('DROP OWNED BY phoenix; DROP ROLE phoenix; CREATE ROLE phoenix LOGIN; SELECT '
	. 'jobqueue.grant_access(\'phoenix\', \'sql\'), jobqueue.resume_queue(\'names\')');
is(outcome(enqueue_as('phoenix', 'INSERT INTO spied VALUES (\'new\')', '\'names\'')), 'completed INSERT 0 1 1',
	'phoenix: comes back, and has commands of its own');
is(admin("SELECT string_agg(what, ' ') FROM spied"), 'new', '... and does not do what the old one wanted');
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $old"), 'pending', '... which waits');
is(admin("SELECT unhandled_types = ARRAY[(SELECT type FROM jobqueue.tasks WHERE id = $old)] FROM "
	. "jobqueue.queue_status WHERE queue = 'names'"), 't', '... and can be seen to');
is(attempt('eve', 'SELECT count(*) FROM jobqueue.claim(\'names\', 10)'), 0, '... nobody else gets it');
admin('ALTER ROLE phoenix RENAME TO ash; CREATE ROLE phoenix LOGIN');
my $ash = $forge->(admin("SELECT type FROM jobqueue.handlers WHERE run_as = 'phoenix'"), 'phoenix', $payload);
is(outcome(enqueue_as('app', 'SELECT 1')), 'completed SELECT 1 1', 'app: is served');
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $ash"), 'pending',
	'phoenix: who is so called now, without access, does nothing for the one that was renamed');

admin('CREATE ROLE twin LOGIN; SELECT jobqueue.grant_access(\'twin\', \'sql\')');
my @sessions = map { $node->background_psql('app', extra_params => [ '-U', 'twin' ]) } 1 .. 2;
my @twins = map { $_->query_safe('BEGIN; SELECT jobqueue.enqueue_sql(\'INSERT INTO spied VALUES (1)\')') } @sessions;
ok($twins[0] > 0 && $twins[1] > 0, 'twin: two first calls, neither waits for the other');
$sessions[0]->query_safe('ROLLBACK');
$sessions[1]->query_safe('COMMIT');
is(outcome($twins[1]), 'completed INSERT 0 1 1', '... and the one that is committed runs');
$_->quit for @sessions;
is(outcome(enqueue_as('twin', 'SELECT 1')), 'completed SELECT 1 1', '... as do later ones');

# --------------------------------------------------------------------------------------------------------------------
# A copy of the database

admin('CREATE ROLE mover LOGIN; SELECT jobqueue.grant_access(\'mover\', \'sql\'), jobqueue.pause_queue(\'moved\'); '
	. 'CREATE TABLE moved (who name DEFAULT session_user); GRANT INSERT ON moved TO PUBLIC');
my $moved = enqueue_as('mover', 'INSERT INTO moved DEFAULT VALUES', '\'moved\'');
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', 'app', '-f', $dump ], 'dumped');
admin('DROP OWNED BY mover; DROP ROLE mover; CREATE ROLE mover LOGIN');
$node->safe_psql('postgres', 'CREATE DATABASE copied');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'copied', '-f', $dump ],
	'restored, and the role is another one by now');
admin('SELECT jobqueue.resume_queue(\'moved\')', 'copied');
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $moved", 'copied'), 'pending', 'nothing runs in the copy');
admin('SELECT jobqueue.adopt()', 'copied');
is(outcome($moved, 'copied'), 'completed INSERT 0 1 1', 'after adopt() it does');
is(admin('SELECT who FROM moved', 'copied'), 'mover', '... as the role of that name');
is(admin('SELECT count(*) FROM moved'), 0, '... in the copy only');
is(admin("SELECT count(*) FROM spied WHERE what = 'old'", 'copied'), 0,
	'... and not what an older role of a name wanted');

# --------------------------------------------------------------------------------------------------------------------

my $offset = log_size($node);
my $logged =
	enqueue_as('app',
		"DO \$\$BEGIN RAISE NOTICE 'noted'; PERFORM '$secret'; RAISE 'broken' USING ERRCODE = '42XXX'; END\$\$");
is(outcome($logged), 'failed 42XXX, attempt 1', 'one that fails');
my @lines = log_matches($node, qr/worker/, $offset);
ok((grep { /task $logged of type "$type{app}" failed, attempt 1 of 3: broken/ } @lines), '... is logged');
is(scalar(grep { /\Q$secret\E/ } @lines), 0, '... without the command');
is(join("\n", grep { !/terminated by signal 9/ } log_matches($node,
	qr/PANIC:|TRAP:|was terminated by signal|stuck spinlock|snapshot .* still active|WARNING:.*leak/)), '',
		'nothing else has crashed, or leaks');
$node->stop('fast');
done_testing();
