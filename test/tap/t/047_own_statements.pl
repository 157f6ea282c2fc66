# What a worker does around a handler is its own business: settings of roles, databases and the server are for handlers,
# and a lock on the row of a running task delays no other task.
#
# Nothing here is found by a poll: the interval is an hour.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('own', autovacuum => 'off', 'jobqueue.poll_interval' => "'1h'", 'jobqueue.max_workers' => 1,
	'jobqueue.fused_time' => 0, 'jobqueue.worker_idle_timeout' => "'10min'");
create_queue($node, 'app');
my $version = $node->safe_psql('app', "SELECT current_setting('server_version_num')::int / 10000");

sub sql { return $node->safe_psql('app', $_[0]) }

# What is said of a task: "status attempts failures".
sub state_of {
	my ($id) = @_;
	return sql("SELECT concat_ws(' ', status, attempts, coalesce(jsonb_array_length(failures), 0), last_sqlstate) "
		. "FROM jobqueue.tasks WHERE id = $id");
}

sub becomes {
	my ($id, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app',
		"SELECT concat_ws(' ', status, attempts, coalesce(jsonb_array_length(failures), 0), last_sqlstate)
		FROM jobqueue.tasks WHERE id = $id", $expected, $name, 60) or diag state_of($id);
}

sql(<<'SQL');
	CREATE ROLE app LOGIN;
	CREATE ROLE con LOGIN;
	CREATE ROLE man LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT CREATE ON SCHEMA public TO app, bob;
	SELECT jobqueue.grant_access('app', l) FROM unnest(ARRAY['producer', 'consumer', 'manager']) l;
	SELECT jobqueue.grant_access('con', 'consumer');
	SELECT jobqueue.grant_access('man', 'manager');
	CREATE TABLE gate (name text PRIMARY KEY);
	CREATE TABLE done (task bigint, what text);
	GRANT ALL ON gate, done TO app;
	-- runs until somebody has opened the gate with its name; what it leaves behind is there once, or not at all
	CREATE FUNCTION gated(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT EXISTS (SELECT FROM public.gate g WHERE g.name = payload->>'gate') LOOP
			PERFORM pg_sleep(0.005);
		END LOOP;
		INSERT INTO public.done VALUES ((jobqueue.current_task()).id, 'gated');
		IF payload ? 'fail' THEN
			RAISE EXCEPTION 'as told';
		END IF;
	END $$;
	CREATE FUNCTION gated_many(payloads jsonb[]) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		WHILE cardinality(payloads) > 1 AND NOT EXISTS (SELECT FROM public.gate g WHERE g.name = 'many') LOOP
			PERFORM pg_sleep(0.005);
		END LOOP;
	END $$;
	CREATE FUNCTION quick(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(pg_backend_pid()) $$;
	SELECT jobqueue.register_handler('gated', 'gated(jsonb)', run_as => 'app', max_attempts => 3,
		first_delay => '1 day', jitter => 0);
	SELECT jobqueue.register_handler('gated_many', 'gated_many(jsonb[])', run_as => 'app', batch_size => 10);
	SELECT jobqueue.register_handler('quick', 'quick(jsonb)', run_as => 'app');
	ALTER ROLE app SET lock_timeout = '50ms';
	ALTER ROLE app SET temp_file_limit = 0;
	ALTER ROLE app SET work_mem = '64kB';
	ALTER ROLE app SET row_security = off;
SQL

my $gates = 0;

# A task whose handler is under way, and the name of the gate that it waits for.
sub start_gated {
	my ($more) = @_;
	my $gate = 'gate ' . ++$gates;
	my $id = sql("SELECT jobqueue.enqueue('gated', jsonb_build_object('gate', '$gate')" . ($more ? " || '$more'" : '')
		. ')');
	wait_for(sub { sql("SELECT count(*) FROM jobqueue.worker_status WHERE task_id = $id AND state = 'running'") })
		or die "task $id does not run";
	return ($id, $gate);
}

sub open_gate { sql("INSERT INTO gate VALUES ('$_[0]')") }

# ---------------------------------------------------------------------------------------------------------------------
# E17: settings of the role

my $locker = $node->background_psql('app');
{
	my ($id, $gate) = start_gated();
	$locker->query_safe('BEGIN; LOCK TABLE ' . join(', ', map { "jobqueue.tasks_history_$_" } 1 .. 8)
		. ' IN SHARE MODE');
	open_gate($gate);
	# with the role's setting its wait would be over long ago
	wait_sql($node, 'app',
		"SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'jobqueue "
			. "worker'
		AND NOT l.granted AND clock_timestamp() - l.waitstart > '2 s') OR EXISTS (SELECT FROM jobqueue.tasks WHERE "
			. "id = $id AND failures IS NOT NULL)",
		't', 'E17: the worker waits for a table');
	$locker->query_safe('COMMIT');
	becomes($id, 'completed 1 0', 'E17: a lock_timeout of the role is not for what the worker does itself');
}
{
	sql("CREATE FUNCTION big(jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$ BEGIN RETURN "
		. "to_jsonb(repeat(gen_random_uuid()::text, 60000)); END \$\$");
	sql("SELECT jobqueue.register_handler('big', 'big(jsonb)', run_as => 'app', max_attempts => 1)");
	becomes(sql("SELECT jobqueue.enqueue('big')"), 'completed 1 0', 'E17: nor is a temp_file_limit');
	sql("CREATE FUNCTION waits(jsonb) RETURNS void LANGUAGE sql AS \$\$ UPDATE gate SET name = name || '!' WHERE "
		. "name = 'locked' \$\$");
	sql("SELECT jobqueue.register_handler('waits', 'waits(jsonb)', run_as => 'app', max_attempts => 1)");
	open_gate('locked');
	$locker->query_safe("BEGIN; SELECT FROM gate WHERE name = 'locked' FOR UPDATE");
	becomes(sql("SELECT jobqueue.enqueue('waits')"), 'failed 1 1 55P03',
		'E17: a lock_timeout of the role is for its handlers');
	$locker->query_safe('COMMIT');
}
{
	# its time is up while we wait, but it had returned in time
	my ($id, $gate) = start_gated();
	sql("SELECT jobqueue.register_handler('timed', 'gated(jsonb)', run_as => 'app', max_attempts => 1, timeout => '2 "
		. "s')");
	open_gate($gate);
	becomes($id, 'completed 1 0', '... (bystander)');
	$locker->query_safe('BEGIN; LOCK TABLE ' . join(', ', map { "jobqueue.tasks_history_$_" } 1 .. 8)
		. ' IN SHARE MODE');
	$id = sql("SELECT jobqueue.enqueue('timed', '{\"gate\": \"$gate\"}')");
	wait_sql($node, 'app',
		"SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'jobqueue "
			. "worker'
		AND NOT l.granted AND clock_timestamp() - l.waitstart > '3 s') OR EXISTS (SELECT FROM jobqueue.tasks WHERE "
			. "id = $id AND failures IS NOT NULL)",
		't', 'E17: the worker waits for longer than the handler may take');
	$locker->query_safe('COMMIT');
	becomes($id, 'completed 1 0', 'E17: a timeout is for the handler, not for what the worker waits for after it');
}

# ---------------------------------------------------------------------------------------------------------------------
# C13: running tasks are locked

{
	my ($id, $gate) = start_gated();
	my $consumer = $node->background_psql('app', extra_params => [ '-U', 'con' ]);
	is($consumer->query_safe("BEGIN; SELECT count(*) FROM jobqueue.tasks WHERE status = 'processing'"), 1,
		'C13: a consumer sees a running task');
	for my $how ('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE') {
		is($consumer->query_safe("SELECT id FROM jobqueue.tasks WHERE status = 'processing' FOR $how"), '',
			"C13: it cannot lock it FOR $how");
	}
	is($consumer->query_safe("UPDATE jobqueue.tasks SET updated_at = now() WHERE id = $id RETURNING id"), '',
		'C13: nor change it');
	is($consumer->query_safe("UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $id RETURNING id"), '',
		'C13: nor finish it');
	open_gate($gate);
	becomes($id, 'completed 1 0', 'C13: and is completed while the consumer goes on');
	$consumer->query_safe('COMMIT');
	$consumer->quit;
}

# The roles that can lock it: the superuser, and a manager that cancels and does not commit. While the lock is held, the
# only worker does other work; when it is gone, the task comes to its end.
my $worker = sql("SELECT pid FROM jobqueue.worker_status");
sub others_go_on {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $quick = sql("SELECT jobqueue.enqueue('quick')");
	becomes($quick, 'completed 1 0', "C13: $name, and other tasks run");
	is(sql("SELECT result FROM jobqueue.tasks WHERE id = $quick"), $worker, '... in the same process');
}
{
	my ($id, $gate) = start_gated();
	$locker->query_safe("BEGIN; SELECT FROM jobqueue.tasks_live WHERE id = $id FOR UPDATE");
	open_gate($gate);
	others_go_on('a row is locked when its handler has succeeded');
	is(sql("SELECT count(*) FROM done WHERE task = $id"), 0, 'C13: what the handler has done is undone');
	$locker->query_safe('COMMIT');
	becomes($id, 'completed 2 0', 'C13: it runs again when the lock is gone, and is charged nothing');
	is(sql("SELECT count(*) FROM done WHERE task = $id"), 1, 'C13: it is done once');
}
{
	my ($id, $gate) = start_gated('{"fail": 1}');
	$locker->query_safe("BEGIN; SELECT FROM jobqueue.tasks_live WHERE id = $id FOR SHARE");
	open_gate($gate);
	others_go_on('a row is locked when its handler has failed');
	$locker->query_safe('COMMIT');
	becomes($id, 'scheduled 1 1 P0001', 'C13: its failure is recorded when the lock is gone');
	sql("SELECT jobqueue.cancel($id)");
}
for my $end ('ROLLBACK', 'COMMIT') {
	my ($id, $gate) = start_gated();
	my $manager = $node->background_psql('app', extra_params => [ '-U', 'man' ]);
	$manager->query_safe("BEGIN; SELECT jobqueue.cancel($id)");
	open_gate($gate);
	others_go_on('a manager cancels, and does not commit');
	$manager->query_safe($end);
	$manager->quit;
	becomes($id, $end eq 'COMMIT' ? 'cancelled 1 0' : 'completed 2 0', "C13: then comes $end");
}
{
	$locker->query_safe('BEGIN');
	sql("SELECT jobqueue.enqueue_many('gated_many', array_fill('{}'::jsonb, ARRAY[40]))");
	wait_sql($node, 'app',
		"SELECT count(*) > 1 FROM jobqueue.tasks WHERE type = 'gated_many' AND status = 'processing'", 't',
			'... a batch runs');
	my $locked =
		$locker->query_safe("SELECT id FROM jobqueue.tasks_live WHERE type = 'gated_many' AND status = 'processing' "
			. "ORDER BY id DESC LIMIT 1 FOR UPDATE");
	open_gate('many');
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'gated_many' AND status = 'completed'", 39,
		'C13: one task of a batch is locked, and all others are completed');
	$locker->query_safe('COMMIT');
	becomes($locked, 'completed 2 0', 'C13: then it is, too');
}
{
	# the worker ends while it has something to come back to
	my ($id, $gate) = start_gated();
	$locker->query_safe("BEGIN; SELECT FROM jobqueue.tasks_live WHERE id = $id FOR UPDATE");
	open_gate($gate);
	others_go_on('a row is locked');
	sql("SELECT jobqueue.register_handler('quick', 'quick(jsonb)')"); # of another role: there is one place
	becomes(sql("SELECT jobqueue.enqueue('quick')"), 'completed 1 0',
		'C13: its worker makes room for that of another role');
	$locker->query_safe('COMMIT');
	$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1s'\n");
	$node->reload;
	becomes($id, 'completed 2 0', 'C13: the scheduler gives its task back, and charges nothing');
	$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1h'\n");
	$node->reload;
}

# ---------------------------------------------------------------------------------------------------------------------
# E6: errors of our own

sql(<<'SQL');
	SET SESSION AUTHORIZATION app;
	CREATE FUNCTION mine(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF payload ? 'fail'
		THEN RAISE 'as told'; END IF; END $$;
	CREATE FUNCTION my_wait(attempt integer, error text) RETURNS interval LANGUAGE sql AS $$
		SELECT make_interval(secs => 1000 * attempt) $$;
	SELECT jobqueue.register_handler('mine', 'mine(jsonb)', discard_sqlstates => '{42501}');
	SELECT jobqueue.register_handler('waiting', 'gated(jsonb)', backoff_function => 'my_wait(integer, text)');
	RESET SESSION AUTHORIZATION;
	ALTER FUNCTION mine(jsonb) OWNER TO bob;
	ALTER FUNCTION my_wait(integer, text) OWNER TO bob;
SQL
{
	my $id = sql("SELECT jobqueue.enqueue('mine')");
	becomes($id, 'failed 1 1 42501', 'E6: an error of our own keeps its code, and discard_sqlstates sees it');
	is(sql("SELECT failures->0->>'hint' FROM jobqueue.tasks WHERE id = $id"), 'Register the handler again.',
		'E6: and its hint');
	my $worker = sql('SELECT pid FROM jobqueue.worker_status');
	$id = sql("SELECT jobqueue.enqueue('waiting', jsonb_build_object('gate', 'many', 'fail', 1))");
	becomes($id, 'scheduled 1 1 P0001', 'E6: one in a back-off function leaves the failure of the task what it is');
	is(sql('SELECT pid FROM jobqueue.worker_status'), $worker, 'E6: and its worker alive');
	sql("SELECT jobqueue.cancel($id)");
	is($node->safe_psql('app',
		<<'SQL', extra_params => [ '-U', 'app' ]), 'failed 42501 Register the handler again.', 'E6: drain() likewise');
		BEGIN;
		SELECT jobqueue.enqueue('mine') AS id \gset
		SELECT concat_ws(' ', status, last_sqlstate, failures->0->>'hint') FROM jobqueue.drain() WHERE id = :id;
SQL
	sql('ALTER FUNCTION my_wait(integer, text) OWNER TO app');
}

# ---------------------------------------------------------------------------------------------------------------------
# D2: called by what it is, not by its name

sql(<<'SQL');
	CREATE PROCEDURE steps(payload jsonb) LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.done VALUES ((jobqueue.current_task()).id, 'one');
		COMMIT;
		INSERT INTO public.done VALUES ((jobqueue.current_task()).id, 'two');
	END $$;
	SELECT jobqueue.register_handler('steps', 'steps(jsonb)', run_as => 'app', max_attempts => 1);
	CREATE PROCEDURE steps(payload jsonb, more integer DEFAULT 0) LANGUAGE sql AS '';
	CREATE FUNCTION quick(payload jsonb, more integer DEFAULT 0) RETURNS void LANGUAGE sql AS '';
	CREATE FUNCTION my_wait(attempt integer, error text, more integer DEFAULT 0) RETURNS interval LANGUAGE sql AS $$
		SELECT interval '0' $$;
	CREATE PROCEDURE many_steps(VARIADIC jsonb[]) LANGUAGE sql AS '';
SQL
{
	my $id = sql("SELECT jobqueue.enqueue('steps')");
	becomes($id, 'completed 1 0', 'D2: an overload of a procedure does not make the call of a handler ambiguous');
	is(sql("SELECT string_agg(what, ' ' ORDER BY what) FROM done WHERE task = $id"), 'one two',
		'D2: it may commit, as ever');
	becomes(sql("SELECT jobqueue.enqueue('quick')"), 'completed 1 0', 'D2: likewise of a function');
}
{
	sql(<<'SQL');
		CREATE FUNCTION takes_row(task jobqueue.tasks) RETURNS bigint LANGUAGE sql AS $$ SELECT (task).id $$;
		ALTER DATABASE app SET quote_all_identifiers = on;
		SELECT jobqueue.register_handler('row', 'takes_row(jobqueue.tasks)', run_as => 'app', max_attempts => 1);
SQL
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'");
	becomes(sql("SELECT jobqueue.enqueue('row')"), 'completed 1 0',
		'E15: quote_all_identifiers does not make a handler unusable');
	sql("SELECT jobqueue.register_handler('row again', 'takes_row(jobqueue.tasks)', run_as => 'app', max_attempts => "
		. "1)");
	is(sql("SELECT count(DISTINCT handler) FROM jobqueue.handlers WHERE type LIKE 'row%'"), 1,
		'E15: nor does it change how a handler is stored');
	sql('ALTER DATABASE app RESET quote_all_identifiers');
}

# ---------------------------------------------------------------------------------------------------------------------
# E9: what counts for the wait

sql(<<'SQL');
	CREATE FUNCTION patient(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF (jobqueue.current_task()).attempts <= 6 THEN
			PERFORM jobqueue.snooze('1 ms');
		ELSE
			RAISE 'as told';
		END IF;
	END $$;
	SELECT jobqueue.register_handler('patient', 'patient(jsonb)', run_as => 'app', first_delay => '1000 s',
		max_delay => '10 days', jitter => 0);
	SELECT jobqueue.register_handler('asks', 'patient(jsonb)', run_as => 'app',
		backoff_function => 'my_wait(integer, text)');
SQL
for my $type ('patient', 'asks') {
	my $id = sql("SELECT jobqueue.enqueue('$type')");
	becomes($id, 'scheduled 7 1 P0001', "E9: six snoozes and a failure ($type)");
	is(sql("SELECT round(extract(epoch FROM run_at - updated_at), -1) FROM jobqueue.tasks WHERE id = $id"), '1000',
		'E9: it waits as after one failure');
	sql("SELECT jobqueue.retry($id)");
	becomes($id, 'scheduled 8 2 P0001', 'E9: and fails again');
	is(sql("SELECT round(extract(epoch FROM run_at - updated_at), -1) FROM jobqueue.tasks WHERE id = $id"), '2000',
		'E9: as after two');
	sql("SELECT jobqueue.cancel($id)");
}
{
	# more failures than are kept
	sql(<<'SQL');
		CREATE FUNCTION often(attempt integer, error text) RETURNS interval LANGUAGE sql
			AS $$ SELECT CASE WHEN attempt < 26 THEN interval '0' ELSE make_interval(secs => 100 * attempt) END $$;
		SELECT jobqueue.register_handler('often', 'gated(jsonb)', run_as => 'app',
			backoff_function => 'often(integer, text)', max_attempts => 100);
SQL
	my $id = sql("SELECT jobqueue.enqueue('often', jsonb_build_object('gate', 'many', 'fail', 1))");
	becomes($id, 'scheduled 26 20 P0001', 'E9: many failures');
	is(sql("SELECT round(extract(epoch FROM run_at - updated_at), -1) FROM jobqueue.tasks WHERE id = $id"), 2600,
		'E9: they all count');
	sql("SELECT jobqueue.cancel($id)");
}

# ---------------------------------------------------------------------------------------------------------------------
# E7: transactions that a procedure begins

{
	sql('CREATE DATABASE readonly');
	my $ro = sub { $node->safe_psql('readonly',
		"SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'; $_[0]") };
	$ro->(<<'SQL');
		CREATE EXTENSION jobqueue;
		CREATE TABLE parts (what text);
		CREATE PROCEDURE parts(payload jsonb) LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.parts SELECT 'one ' || concat_ws(' ', current_setting('transaction_isolation'),
				current_setting('transaction_read_only'), current_setting('transaction_deferrable'));
			COMMIT;
			INSERT INTO public.parts SELECT 'two ' || concat_ws(' ', current_setting('transaction_isolation'),
				current_setting('transaction_read_only'), current_setting('transaction_deferrable'));
			ROLLBACK;
			INSERT INTO public.parts SELECT 'three ' || concat_ws(' ', current_setting('transaction_isolation'),
				current_setting('transaction_read_only'), current_setting('transaction_deferrable'));
			COMMIT AND CHAIN;
			SET LOCAL work_mem = '1MB';
		END $$;
		SELECT jobqueue.register_handler('parts', 'parts(jsonb)', max_attempts => 1);
		ALTER DATABASE readonly SET default_transaction_read_only = on;
		ALTER DATABASE readonly SET default_transaction_isolation = 'serializable';
		ALTER DATABASE readonly SET default_transaction_deferrable = on;
SQL
	my $id = $ro->("SELECT jobqueue.enqueue('parts')");
	wait_sql($node, 'readonly', "SELECT concat_ws(' ', status, last_error) FROM jobqueue.tasks WHERE id = $id",
		'completed', 'E7: a procedure that commits runs in a database that is read-only by default');
	is($ro->("SELECT string_agg(what, ', ' ORDER BY what) FROM parts"),
		'one read committed off off, three read committed off off',
		'E7: each of its transactions is like the first');
}

# ---------------------------------------------------------------------------------------------------------------------
# E11: what is added when a task has failed

sub added_for {
	my ($id, $what) = @_;
	return sql("SELECT " . ($what // "string_agg(type, ' ' ORDER BY id)")
		. " FROM jobqueue.tasks WHERE metadata->>'on_failure_of' = '$id'");
}

sql(<<'SQL');
	CREATE FUNCTION raises(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no use'
		USING ERRCODE = 'XX123'; END $$;
	SELECT jobqueue.register_handler('alert', 'quick(jsonb)', run_as => 'app');
	SELECT jobqueue.register_handler('fails', 'raises(jsonb)', run_as => 'app', max_attempts => 2, first_delay => '0',
		on_failure => 'alert');
	SELECT jobqueue.register_handler('dies', 'raises(jsonb)', run_as => 'app', max_attempts => 1, on_failure => 'alert',
		dead_letter_queue => 'dead');
	SELECT jobqueue.register_handler('discards', 'raises(jsonb)', run_as => 'app', discard_sqlstates => '{XX}',
		on_failure => 'dead');
	SELECT jobqueue.register_handler('self', 'raises(jsonb)', run_as => 'app', max_attempts => 1, on_failure => 'self');
	SELECT jobqueue.register_handler('ping', 'raises(jsonb)', run_as => 'app', max_attempts => 1, on_failure => 'pong');
	SELECT jobqueue.register_handler('pong', 'raises(jsonb)', run_as => 'app', max_attempts => 1, on_failure => 'ping');
	SELECT jobqueue.alter_handler('discards', on_failure => 'alert');
SQL
{
	my $id = sql(q(SELECT jobqueue.enqueue('fails', '{"a": 1}')));
	becomes($id, 'failed 2 2 XX123', 'E11: a task fails');
	is(added_for($id), 'alert', 'E11: and with it comes one of the type that its handler names, once');
	is(added_for($id, "concat_ws(' ', queue, created_by, priority, metadata, payload - 'created_by')"),
		qq(default app 0 {"on_failure_of": $id} )
			. qq({"id": $id, "type": "fails", "error": "no use", "queue": "default", "payload": {"a": 1}, )
			. qq("attempts": 2, "sqlstate": "XX123", "dead_letter_queue": null}),
		'E11: which is told about it');
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE metadata->>'on_failure_of' = '$id'", 'completed',
		'E11: it runs');
	becomes($id = sql("SELECT jobqueue.enqueue('dies')"), 'pending 1 1 XX123', 'E11: likewise a dead letter');
	is(added_for($id, "payload->>'dead_letter_queue'"), 'dead', 'E11: ... that is told');
	becomes($id = sql("SELECT jobqueue.enqueue('discards')"), 'failed 1 1 XX123',
		'E11: likewise one that is discarded');
	is(added_for($id), 'alert', 'E11: ... by alter_handler');
	sql("SELECT jobqueue.alter_handler('discards', on_failure => '')");
	becomes($id = sql("SELECT jobqueue.enqueue('discards')"), 'failed 1 1 XX123', 'E11: no more');
	is(added_for($id), '', 'E11: ... nothing is added');
	for my $case ([ 'self', 'self' ], [ 'ping', 'pong' ]) {
		$id = sql("SELECT jobqueue.enqueue('$case->[0]')");
		wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE metadata->>'on_failure_of' = '$id'", 'failed',
			"E11: $case->[0] fails, then $case->[1]");
		is(sql("SELECT count(*) FROM jobqueue.tasks WHERE type = '$case->[1]'"), $case->[0] eq 'self' ? 2 : 1,
			'E11: and that is the end of it');
	}
	# forged: it matters only for types that are added so
	$id = sql(q(SELECT jobqueue.enqueue('fails', metadata => '{"on_failure_of": 1}')));
	becomes($id, 'failed 2 2 XX123', 'E11: one that pretends');
	is(added_for($id), 'alert', 'E11: ... is not believed');
	sql(<<'SQL');
		CREATE ROLE tenant LOGIN;
		SELECT jobqueue.grant_access('tenant', 'manager', 'tenant');
SQL
	my $error = sub {
		my ($code, $stdout, $stderr) = $node->psql('app', "SET SESSION AUTHORIZATION tenant; $_[0]", on_error_stop => 1,
			extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
		return $stderr =~ /ERROR:\s+(\w+)/ ? $1 : 'none';
	};
	is($error->("SELECT jobqueue.register_handler('t', 'raises(jsonb)', 'tenant', on_failure => 'alert')"), '42501',
		'E11: not of a type of others');
	is($error->("SELECT jobqueue.register_handler('t', 'raises(jsonb)', 'tenant', on_failure => 'sql:tenant')"),
		'42939', 'E11: nor an SQL command');
	is($error->("SELECT jobqueue.register_handler('t', 'raises(jsonb)', 'tenant', max_attempts => 1, on_failure => "
		. "'of tenant')"), 'none', 'E11: but of its own');
	$id = sql("SELECT jobqueue.enqueue('t', queue => 'tenant')");
	becomes($id, 'failed 1 1 XX123', 'E11: its task fails');
	is(added_for($id, "queue || ' ' || created_by"), 'tenant tenant', 'E11: one of its own is added in its queue');
	sql("SELECT jobqueue.register_handler('of tenant', 'quick(jsonb)', run_as => 'app')");
	$id = sql("SELECT jobqueue.enqueue('t', queue => 'tenant')");
	becomes($id, 'failed 1 1 XX123', 'E11: the type has come to be somebody else\'s: its task fails');
	is(added_for($id), '', 'E11: and none is added');
	is(scalar(log_matches($node, qr/WARNING:.*no task of type "of tenant" could be added for the failed task $id/)), 1,
		'E11: which the log says');
}

# ---------------------------------------------------------------------------------------------------------------------
# E5: NOTICEs

{
	sql(<<'SQL');
		CREATE FUNCTION notes(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'I say %', payload;
			RETURN to_jsonb(pg_backend_pid()); END $$;
		SELECT jobqueue.register_handler('notes', 'notes(jsonb)', run_as => 'app', max_attempts => 1);
SQL
	becomes(sql("SELECT jobqueue.enqueue('notes', '1')"), 'completed 1 0', 'E5: a handler says something');
	for my $level ('notice', 'error') {
		sql("ALTER ROLE app SET log_min_messages = $level");
		sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'");
		becomes(sql("SELECT jobqueue.enqueue('notes', '\"$level\"')"), 'completed 1 0', "... under $level");
	}
	is(join(' ', map { /I say (.*)/ } log_matches($node, qr/NOTICE:  I say/)), '"notice"',
		'E5: log_min_messages says whether it comes to the log');
	sql('ALTER ROLE app RESET log_min_messages');
}

# ---------------------------------------------------------------------------------------------------------------------
# E13: dblink

SKIP: {
	my ($code) = $node->psql('app', 'CREATE EXTENSION dblink');
	skip 'the server has no contrib module dblink', 4 if $code != 0;
	my $target = $node->connstr('app') =~ s/'/''/gr;
	sql(<<"SQL");
		CREATE FUNCTION links(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
		DECLARE
			found text[] := dblink_get_connections();
			unnamed text := 'none';
		BEGIN
			BEGIN
				PERFORM * FROM dblink('SELECT 1') d(n integer);
				unnamed := 'open';
			EXCEPTION WHEN connection_does_not_exist OR sqlclient_unable_to_establish_sqlconnection OR syntax_error THEN
			END;
			IF payload ? 'open' THEN
				PERFORM dblink_connect('$target');
				PERFORM dblink_connect('idle', '$target');
				PERFORM dblink_exec('idle', 'BEGIN');
				PERFORM dblink_exec('idle', 'LOCK TABLE gate');
				PERFORM dblink_connect('busy', '$target');
				PERFORM dblink_send_query('busy', 'SELECT pg_sleep(3600)');
			END IF;
			RETURN jsonb_build_array(found, unnamed, pg_backend_pid());
		END \$\$;
		SELECT jobqueue.register_handler('links', 'links(jsonb)', max_attempts => 1);
SQL
	my $first = sql("SELECT jobqueue.enqueue('links', '{\"open\": 1}')");
	becomes($first, 'completed 1 0', 'E13: a handler leaves connections behind');
	my $second = sql("SELECT jobqueue.enqueue('links')");
	becomes($second, 'completed 1 0', '... another one comes');
	is(sql("SELECT (result->0)::text FROM jobqueue.tasks WHERE id = $second"), 'null', 'E13: the next task finds none');
	is(sql("SELECT result->>1 FROM jobqueue.tasks WHERE id = $second"), 'none', 'E13: nor the one without a name');
	wait_sql($node, 'app', "SELECT count(*) FROM pg_locks WHERE relation = 'gate'::regclass", 0,
		'E13: what was open in them is over');
	# in a group
	$node->append_conf('postgresql.conf', "jobqueue.fused_after = 0\njobqueue.fused_time = 1000\n");
	$node->reload;
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'");
	my @ids = split /\n/,
		sql("SELECT jobqueue.enqueue_many('links', ARRAY['{\"open\": 1}', '{\"open\": 2}', '{}']::jsonb[])");
	becomes($_, 'completed 1 0', "E13: in a group, $_") for @ids;
	is(sql("SELECT count(*) FILTER (WHERE result->0 = 'null' AND result->>1 = 'none') FROM jobqueue.tasks WHERE id "
		. "IN (" . join(',', @ids) . ')'), 3,
		'E13: tasks of a group leave each other none');
	$node->append_conf('postgresql.conf', "jobqueue.fused_after = 3\njobqueue.fused_time = 0\n");
	$node->reload;
}

# ---------------------------------------------------------------------------------------------------------------------
# D4: transaction_timeout

SKIP: {
	skip 'transaction_timeout came with version 17', 1 if $version < 17;
	sql(<<'SQL');
		CREATE ROLE hasty LOGIN;
		GRANT ALL ON gate, done TO hasty;
		GRANT ALL ON SCHEMA public TO hasty;
		ALTER ROLE hasty SET transaction_timeout = '1s';
		CREATE FUNCTION sleeps(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
		CREATE PROCEDURE naps(payload jsonb) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. 6 LOOP
				PERFORM pg_sleep(0.4);
				COMMIT;
			END LOOP;
			IF payload ? 'sleep' THEN
				PERFORM pg_sleep(3600);
			END IF;
		END $$;
		SELECT jobqueue.register_handler('sleeps', 'sleeps(jsonb)', run_as => 'hasty', max_attempts => 1);
		SELECT jobqueue.register_handler('sleeps long', 'sleeps(jsonb)', run_as => 'hasty', max_attempts => 1,
			timeout => '1 hour');
		SELECT jobqueue.register_handler('sleeps short', 'sleeps(jsonb)', run_as => 'hasty', max_attempts => 1,
			timeout => '10 ms');
		SELECT jobqueue.register_handler('naps', 'naps(jsonb)', run_as => 'hasty', max_attempts => 1);
		SELECT jobqueue.register_handler('who', 'quick(jsonb)', run_as => 'hasty', max_attempts => 1);
SQL
	my $who = sub {
		my $id = sql("SELECT jobqueue.enqueue('who')");
		wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', '... who runs them');
		return sql("SELECT result FROM jobqueue.tasks WHERE id = $id");
	};
	my $pid = $who->();
	for my $case ([ 'sleeps', 'timed out after 1 s (transaction_timeout)' ],
		[ 'sleeps long', 'timed out after 1 s (transaction_timeout)' ],
		[ 'sleeps short', 'timed out after 0.01 s' ]) {
		my $id = sql("SELECT jobqueue.enqueue('$case->[0]')");
		becomes($id, 'failed 1 1 JQ004', "D4: $case->[0] times out");
		is(sql("SELECT last_error || ' ' || crashes FROM jobqueue.tasks WHERE id = $id"), "$case->[1] 0",
			'D4: ... and is charged no crash');
	}
	becomes(sql("SELECT jobqueue.enqueue('naps')"), 'completed 1 0',
		'D4: each transaction of a procedure has that time');
	becomes(sql("SELECT jobqueue.enqueue('naps', '{\"sleep\": 1}')"), 'failed 1 1 JQ004', 'D4: but not more');
	is($who->(), $pid, 'D4: and their process lives');
	# for all processes
	$node->append_conf('postgresql.conf', "transaction_timeout = '200ms'\n");
	$node->restart;
	my $size = log_size($node);
	my $id = sql("SELECT jobqueue.schedule('tick', 'quick', '1 second')");
	my ($scheduler) = wait_for(sub { pids($node, 'scheduler', 'app') });
	# it waits for a lock in a transaction of its own for longer than that
	$locker = $node->background_psql('app');
	$locker->query_safe('SET transaction_timeout = 0; BEGIN; LOCK TABLE jobqueue.schedules');
	wait_sql($node, 'app',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > '50 ms')", 't',
			'... it waits');
	$locker->query_safe('COMMIT');
	wait_sql($node, 'app', "SELECT count(*) >= 3 FROM jobqueue.tasks WHERE type = 'quick' AND status = 'completed'",
		't', 'D4: schedules fire');
	is((pids($node, 'scheduler', 'app'))[0], $scheduler, 'D4: the scheduler lives on');
	is(join("\n", log_matches($node, qr/FATAL:.*transaction timeout/, $size)), '', 'D4: nobody is ended by it');
}

is(unexpected_in_log($node, qr/no task of type "of tenant" could be added/), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
