# Attacks. Each must fail with the right SQLSTATE, or do no harm; after each, or after each group of them, the one line
# of defence is named that stops it.
#
# - a producer, a consumer and a manager of a queue of their own, and roles with rights that were GRANTed by hand,
#   against the tasks, handlers and queues of a neighbour: reading, forging, finishing, managing, changing the tables
# - a handler against the worker that it runs in: back to another identity, code that runs at the commit or when the
#   engine works in the same transaction, settings that last, files and programs, other connections, what is left behind
# - access that was revoked, and names that were given to other roles
# - names made to inject SQL; floods; one tenant that has everything to do against one that has little
#
# Those that are one statement, or a few, are in tables: name, who, what, the SQLSTATE or what the last statement
# returns.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $secret = 'the-secret-of-victor';
my $node = start_node('attacks', autovacuum => 'off', 'jobqueue.max_workers' => 10, max_worker_processes => 24,
	'jobqueue.poll_interval' => '500ms');
create_queue($node, 'app');
my $super = admin('SELECT current_user');

sub admin {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql");
}

# What a role gets for its statements: the SQLSTATE, or what the last of them returns.
sub attempt {
	my ($who, $sql, $database) = @_;
	my ($status, $out, $err) = $node->psql($database // 'app', $sql, on_error_stop => 1,
		extra_params => [ '-U', $who, '-v', 'VERBOSITY=sqlstate' ]);
	return $1 if $err =~ /(?:ERROR|FATAL):\s+(\w{5})/;
	diag "as $who: $sql: $err" if $status != 0;
	return (split /\n/, $out)[-1] // '';
}

sub refuse {
	my @attacks = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for (@attacks) {
		my ($name, $who, $sql, $expected) = @$_;
		is(attempt($who, $sql), $expected, "$who: $name") or diag $sql;
	}
}

# A session that stays open, and what it gets.
sub open_session {
	my ($who) = @_;
	return $node->background_psql('app', on_error_stop => 0, extra_params => [ '-U', $who, '-v',
		'VERBOSITY=sqlstate' ]);
}

sub ask {
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	my $out = $session->query($sql);
	my $err = $session->{stderr};
	$session->{stderr} = '';
	return $err =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : $out;
}

# How tasks ended: "completed RESULT" or "failed SQLSTATE"
sub outcome {
	my ($id) = @_;
	return admin(<<SQL);
		SELECT status || ' ' || coalesce(CASE status WHEN 'completed' THEN result::text ELSE last_sqlstate END, '')
		FROM jobqueue.wait_for($id, '20 s')
SQL
}

sub enqueue {
	my ($type, $payload, $options) = @_;
	return admin("SELECT jobqueue.enqueue('$type', '" . ($payload // '{}') . "'" . ($options ? ", $options" : '')
		. ')');
}

# Nothing is to happen. Whoever could have done it has had the time when another task, added later, was done in a
# process of the same role and the scheduler has looked twice (poll_interval).
sub wait_a_look {
	my $id = enqueue('bystander', '{}', "delay => '1.2 s'");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		'... a bystander is served');
}

# --------------------------------------------------------------------------------------------------------------------
# Who is who

admin(<<SQL);
	CREATE ROLE eve LOGIN;     -- the attacker: everything, in the queues eve and eves-second
	CREATE ROLE pia LOGIN;     -- only a producer, in the queue eve
	CREATE ROLE victor LOGIN;  -- the neighbour: everything, in the queue victor
	CREATE ROLE hand LOGIN;    -- INSERT into the tables, GRANTed by hand
	CREATE ROLE reader LOGIN;  -- no access
	CREATE ROLE bystander LOGIN;
	CREATE ROLE spare NOLOGIN;
	GRANT spare TO eve;
	SELECT jobqueue.grant_access(r, l, q) FROM (VALUES ('eve'::name, 'eve'), ('eve', 'eves-second'),
		('victor', 'victor')) a(r, q),
		unnest(ARRAY['producer', 'consumer', 'manager']) l;
	SELECT jobqueue.grant_access('pia', 'producer', 'eve');
	GRANT USAGE ON SCHEMA jobqueue TO hand;
	GRANT INSERT ON jobqueue.tasks TO hand;
	GRANT SELECT, INSERT, UPDATE, DELETE ON jobqueue.handlers TO hand;
	GRANT SELECT ON jobqueue.incarnation TO hand;
	GRANT USAGE ON SEQUENCE jobqueue.tasks_id_seq TO hand;
	CREATE SCHEMA eve AUTHORIZATION eve;
	GRANT USAGE ON SCHEMA eve TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO eve, pia, victor, spare;

	CREATE TABLE spied (what text, session_was name DEFAULT session_user, current_was name DEFAULT current_user,
		super text DEFAULT current_setting('is_superuser'));
	GRANT INSERT ON spied TO PUBLIC;
	-- statements, one after the other; in the end who it is, and what the last SELECT returned
	CREATE FUNCTION attack(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
	DECLARE
		command text;
		answer text;
	BEGIN
		FOR command IN SELECT c FROM pg_catalog.jsonb_array_elements_text(payload) WITH ORDINALITY u(c, n) ORDER BY n
			LOOP
			IF command OPERATOR(pg_catalog.~*) '^select' THEN
				EXECUTE command INTO answer;
			ELSE
				EXECUTE command;
			END IF;
		END LOOP;
		RETURN pg_catalog.jsonb_build_array(session_user, current_user, pg_catalog.current_setting('is_superuser'),
			answer);
	END \$\$;
	CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE sql AS '';
	CREATE FUNCTION who(payload jsonb) RETURNS jsonb LANGUAGE sql
		AS 'SELECT jsonb_build_array(session_user, current_user, payload)';
	SELECT jobqueue.register_handler('as eve', 'attack(jsonb)', run_as => 'eve', max_attempts => 1);
	SELECT jobqueue.register_handler('as victor', 'who(jsonb)', queue => 'victor', run_as => 'victor',
		max_attempts => 1);
	SELECT jobqueue.register_handler('bystander', 'nothing(jsonb)', run_as => 'bystander', max_attempts => 1);
SQL
my $identity = '["eve", "eve", "off", null]';

# Tasks of victor's in every state. No handler has their type.
attempt('victor', <<SQL);
	SELECT jobqueue.enqueue('errand', '{"secret": "$secret"}', queue => 'victor', metadata => '"$secret"')
		FROM generate_series(1, 6);
	SELECT jobqueue.enqueue('errand', '{"secret": "$secret"}', queue => 'victor', delay => '1 day');
	SELECT jobqueue.complete(id, attempts, '"$secret"') FROM jobqueue.claim('victor', 1);
	SELECT jobqueue.fail(id, attempts, '$secret', retryable => false) FROM jobqueue.claim('victor', 1);
	SELECT jobqueue.set_progress(id, attempts, 0.5, '$secret') FROM jobqueue.claim('victor', 1, lease => '1 day',
		claimed_by => 'victor');
	SELECT jobqueue.register_handler('victors own', 'who(jsonb)', queue => 'victor', max_attempts => 1);
SQL
is(attempt('victor', 'SELECT jobqueue.cancel(max(id)) FROM jobqueue.tasks WHERE status = \'pending\''), 't',
	'victor has tasks in every state');
my %victors = map { split /\|/ } split /\n/,
	admin("SELECT status, min(id) FROM jobqueue.tasks WHERE queue = 'victor' GROUP BY 1");
is(join(' ', sort keys %victors), 'cancelled completed failed pending processing scheduled', '... namely these');
attempt('eve', "SELECT jobqueue.enqueue('errand', '{\"mine\": true}', queue => 'eve') FROM generate_series(1, 2)");
attempt('pia', "SELECT jobqueue.enqueue('errand', '{\"mine\": true}', queue => 'eve')");
admin('ANALYZE jobqueue.tasks');
my $victors_state =
	'SELECT md5(string_agg(t::text, chr(10) ORDER BY id)) FROM jobqueue.tasks t WHERE queue = \'victor\'';
my $victors_configuration = 'SELECT md5(string_agg(h::text, chr(10) ORDER BY type)) FROM jobqueue.handlers h';
my ($state, $configuration) = (admin($victors_state), admin($victors_configuration));

# --------------------------------------------------------------------------------------------------------------------
# Reading what is not one's own

admin(<<'SQL');
	-- cheaper than any condition, and tells what it is given
	CREATE FUNCTION eve.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.000001 AS $$
	BEGIN
		IF $1 ~ 'secret' OR $1 = 'victor' THEN
			RAISE EXCEPTION 'seen' USING ERRCODE = 'LEAKD';
		END IF;
		RETURN true;
	END $$;
	CREATE FUNCTION eve.is_same(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.000001 AS $$
	BEGIN
		RETURN eve.leak($1);
	END $$;
	CREATE OPERATOR eve.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = eve.is_same, RESTRICT = eqsel);
	CREATE FUNCTION public.counts() RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		RETURN (SELECT count(*) FROM jobqueue.tasks WHERE queue = 'victor');
	END $$;
SQL
my $count = "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'victor'";
# row_policies.cpp, policy_condition(): the default of the switch, which rows a SELECT reaches
refuse(
	[ 'reads', 'eve', $count, 0 ],
	[ '... a payload', 'eve',
		"SELECT count(*) FROM jobqueue.tasks WHERE payload::text ~ 'secret' OR result::text ~ 'secret' OR last_error "
			. "~ 'secret'", 0 ],
	[ '... by place', 'eve',
		"$count AND ctid = ANY (ARRAY(SELECT format('(0,%s)', n)::tid FROM generate_series(1, 100) n))", 0 ],
	[ '... by id', 'eve', "$count AND id IN (" . join(',', values %victors) . ')', 0 ],
	[ '... in an aggregate', 'eve', 'SELECT max(queue COLLATE "C") FROM jobqueue.tasks', 'eve' ],
	[ '... its own', 'eve', 'SELECT count(*), count(DISTINCT queue) FROM jobqueue.tasks', '3|1' ],
	[ 'reads', 'pia', 'SELECT count(*), min(created_by) FROM jobqueue.tasks', '1|pia' ],
	[ 'UPDATE ... RETURNING', 'eve',
		"WITH u AS (UPDATE jobqueue.tasks SET status = status WHERE queue = 'victor' RETURNING payload) SELECT "
			. "count(*) FROM u", 0 ],
	[ 'locks', 'eve', "SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE queue = 'victor' FOR UPDATE) l", 0 ],
	[ 'COPY TO', 'eve', "COPY (SELECT payload FROM jobqueue.tasks WHERE queue = 'victor') TO STDOUT", '' ],
	[ 'subquery in a CTE', 'eve',
		"WITH t AS MATERIALIZED (SELECT * FROM jobqueue.tasks) SELECT count(*) FROM t WHERE queue = 'victor'", 0 ],
	[ 'INSERT ... RETURNING', 'pia',
		"WITH i AS (INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'eve') RETURNING payload, created_by) "
			. "SELECT count(*), min(created_by) FROM i", '1|pia' ],
	[ 'reads handlers', 'eve', 'SELECT count(*) FROM jobqueue.handlers', 0 ],
	[ 'reads queues', 'eve', 'SELECT count(*) FROM jobqueue.queues', 0 ],
);
# rowsecurity.c puts the policy before what is not leakproof; make_policy() gives it as a security qual
refuse(
	[ 'a function that leaks', 'eve',
		'SELECT count(*) FROM jobqueue.tasks WHERE eve.leak(payload::text) AND eve.leak(queue) AND '
			. 'eve.leak(last_error)', 4 ],
	[ 'an operator that leaks', 'eve', "SELECT count(*) FROM jobqueue.tasks WHERE payload::text OPERATOR(eve.===) "
		. "'x'", 4 ],
	[ 'a join that leaks', 'eve',
		'SELECT count(*) FROM jobqueue.tasks t JOIN (VALUES (1)) v ON eve.leak(t.queue) AND '
			. 'eve.leak(t.payload::text)', 4 ],
	[ 'an ORDER BY that leaks', 'eve',
		'SELECT count(*) FROM (SELECT FROM jobqueue.tasks ORDER BY eve.leak(payload::text)) o', 4 ],
	[ 'a cast that fails, and tells why', 'eve',
		"SELECT count(*) FROM jobqueue.tasks WHERE CASE WHEN queue = 'victor' THEN (payload->>'secret')::int > 0 "
			. "ELSE true END", 4 ],
);
# 40_views.sql: WITH (security_barrier), and _watched_queues
refuse(
	[ 'queue_status', 'eve', "SELECT string_agg(queue, ' ') FROM jobqueue.queue_status WHERE eve.leak(queue)", 'eve' ],
	[ 'running_tasks', 'eve',
		'SELECT count(*) FROM jobqueue.running_tasks WHERE eve.leak(queue) AND eve.leak(progress_message)', 0 ],
	[ 'worker_status', 'eve',
		'SELECT count(*) FROM jobqueue.worker_status WHERE eve.leak(queue) AND eve.leak(progress_message) AND queue '
			. 'IS NOT NULL', 0 ],
);
# PostgreSQL's check_enable_rls() refuses, because 50_access.sql has ENABLE ROW LEVEL SECURITY
refuse([ 'row_security = off', 'eve', "SET row_security = off; $count", '42501' ]);
# 50_access.sql: no level has rights to the partitions, nor to these tables
refuse(
	(map { [ "reads $_", 'eve', "SELECT * FROM jobqueue.$_", '42501' ] }
		qw(tasks_live tasks_failed), (map { "tasks_history_$_" } 1 .. 8),
			qw(access limits access_status incarnation history_ring unique_keys)),
	[ 'reads the handlers', 'pia', 'SELECT * FROM jobqueue.handlers', '42501' ],
	[ 'reads a place', 'eve', "SELECT currtid2('jobqueue.tasks_live', '(0,1)')", '42501' ],
	[ 'reads the sequence', 'eve', 'SELECT last_value FROM jobqueue.tasks_id_seq', '42501' ],
	[ 'locks', 'pia', 'SELECT id FROM jobqueue.tasks FOR UPDATE', '42501' ],
	# where in the handler an error was raised, and what else the server said, is for those who look after the queue
	[ 'reads details of errors', 'pia', 'SELECT failures FROM jobqueue.tasks', '42501' ],
	[ '... with all columns', 'pia', 'SELECT * FROM jobqueue.tasks', '42501' ],
	[ '... with the row', 'pia', 'SELECT to_jsonb(t) FROM jobqueue.tasks t', '42501' ],
	[ '... of what it adds', 'pia',
		"INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'eve') RETURNING failures", '42501' ],
	[ 'reads', 'hand', 'SELECT id FROM jobqueue.tasks', '42501' ],
	[ 'INSERT ... RETURNING', 'hand', "INSERT INTO jobqueue.tasks (type) VALUES ('errand') RETURNING payload",
		'42501' ],
	[ 'reads', 'reader', 'SELECT id FROM jobqueue.tasks', '42501' ],
);
# row_policies.cpp, policy_table_of(): the partitions have the same policies, in case a role is granted rights to them
admin("GRANT SELECT ON jobqueue.tasks_live, jobqueue.tasks_failed, jobqueue.tasks_history_1 TO eve");
refuse(map { [ "reads $_ by a GRANT", 'eve',
	"SELECT count(*) FROM jobqueue.$_ WHERE eve.leak(payload::text) AND queue = 'victor'", 0 ] }
	qw(tasks_live tasks_failed tasks_history_1));
admin("REVOKE SELECT ON jobqueue.tasks_live, jobqueue.tasks_failed, jobqueue.tasks_history_1 FROM eve");
# watch.cpp, jobqueue_wait_for: created_by, or visible.contains()
refuse(map { [ "wait_for() of what is $_", 'eve', "SELECT jobqueue.wait_for($victors{$_}, '0 s')",
	'22023' ] } sort keys %victors);
refuse([ 'wait_for()', 'pia', "SELECT jobqueue.wait_for($victors{completed}, '0 s')", '22023' ],
	[ 'wait_for()', 'hand', "SELECT jobqueue.wait_for($victors{completed}, '0 s')", '42501' ]);
my $failed = attempt('pia', "SELECT jobqueue.enqueue('errand', queue => 'eve')");
admin("SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('eve', 1000) WHERE id = "
	. "$failed");
refuse([ 'wait_for() of its own, for details of its error', 'pia',
	"SELECT status, last_error, failures FROM jobqueue.wait_for($failed, '1 s')", 'failed|x|' ]);
admin("UPDATE jobqueue.tasks SET status = 'pending' WHERE queue = 'eve' AND status = 'processing'");
# pg_stats leaves out tables with row-level security: 50_access.sql, ENABLE ROW LEVEL SECURITY
refuse(
	[ 'pg_stats', 'eve', "SELECT count(*) FROM pg_stats WHERE schemaname = 'jobqueue' AND tablename ~ '^tasks'", 0 ],
	[ 'pg_statistic', 'eve', 'SELECT 1 FROM pg_statistic', '42501' ],
);
is(admin("SELECT count(*) > 0 FROM pg_stats WHERE schemaname = 'jobqueue' AND most_common_vals::text ~ 'secret'"), 't',
	'... though there is something in it');
# the functions ask for the caller's queues before they read: tasks.cpp and claim.cpp, require_tasks(); its words name
# no queue that the caller could not know
is(($node->psql('app', "SELECT jobqueue.cancel($victors{pending})", extra_params => [ '-U', 'eve' ]))[2] =~ /victor/
	? 'named' : 'not named',
	'not named', 'eve: a refusal does not say in which queue a task is');

# A plan is made for the role that asks: dependsOnRLS of the plan cache, set where rowsecurity.c finds policies
refuse(
	[ 'executes what was prepared as superuser', $super, "PREPARE p AS $count; EXECUTE p; SET ROLE eve; EXECUTE p", 0 ],
	[ 'calls what has run as superuser', $super, 'SELECT counts(); SELECT counts(); SET ROLE eve; SELECT counts()', 0 ],
	[ 'calls what has run as victor', $super, 'SET ROLE victor; SELECT counts(); SET ROLE eve; SELECT counts()', 0 ],
	[ 'a cursor that eve has opened', $super,
		"BEGIN; SET LOCAL ROLE eve; DECLARE c CURSOR FOR SELECT payload FROM jobqueue.tasks WHERE queue = 'victor'; "
			. "RESET ROLE; FETCH ALL FROM c", '' ],
);
# Views, functions and materialized views of eve's, used by others: row_policies.cpp asks for GetUserId()
attempt('eve', <<'SQL');
	CREATE VIEW eve.peek AS SELECT payload, queue FROM jobqueue.tasks;
	CREATE FUNCTION eve.counts() RETURNS bigint LANGUAGE sql SECURITY DEFINER
		AS 'SELECT count(*) FROM jobqueue.tasks WHERE queue = ''victor''';
	CREATE MATERIALIZED VIEW eve.kept AS SELECT payload, queue FROM jobqueue.tasks;
	CREATE TABLE eve.loot (queue text);
	CREATE RULE steal AS ON INSERT TO eve.loot DO ALSO INSERT INTO jobqueue.tasks (type, queue)
		VALUES ('as victor', NEW.queue);
	GRANT SELECT ON eve.peek TO PUBLIC;
	GRANT INSERT ON eve.loot TO PUBLIC;
SQL
refuse(
	[ 'a view of eve\'s', 'reader', 'SELECT count(*) FROM eve.peek', 0 ],
	[ 'a function of eve\'s', $super, 'SELECT eve.counts()', 0 ],
	[ 'a materialized view of eve\'s', $super,
		"REFRESH MATERIALIZED VIEW eve.kept; SELECT count(*) FROM eve.kept WHERE queue = 'victor'", 0 ],
	[ 'a rule of eve\'s adds tasks', 'reader', "INSERT INTO eve.loot VALUES ('victor')", '42501' ],
	[ 'a rule of eve\'s adds tasks', 'eve', "INSERT INTO eve.loot VALUES ('victor')", '42501' ],
);

# --------------------------------------------------------------------------------------------------------------------
# Forging

# 50_access.sql, _access_rights(): the columns that a producer may INSERT
refuse(map { [ "INSERT of $_->[0]", 'pia',
	"INSERT INTO jobqueue.tasks (type, queue, $_->[0]) VALUES ('errand', 'eve', $_->[1])", '42501' ] }
	[ 'id', 1 ], [ 'created_by', "'victor'" ], [ 'status', "'completed'" ], [ 'attempts', 1 ], [ 'slot', 1 ],
		[ 'created_at', "'epoch'" ],
	[ 'lease_expires_at', "'infinity'" ], [ 'claimed_by', "'me'" ], [ 'result', "'1'" ], [ 'crashes', 1 ],
		[ 'failures', "'[]'" ],
	[ 'origin_queue', "'victor'" ], [ 'unique_key', "'x'" ]);
# row_policies.cpp, as_enqueued: where the right was GRANTed by hand, for all columns
refuse(map { [ "INSERT of $_->[0] = $_->[1]", 'hand',
	"INSERT INTO jobqueue.tasks (type, $_->[0]) VALUES ('errand', $_->[1])", $_->[0] eq 'id' ? '55000' : '42501' ] }
	[ 'created_by', "'victor'" ], [ 'created_by', "'$super'" ], [ 'status', "'completed'" ],
		[ 'status', "'processing'" ], [ 'status', "'blocked'" ],
	[ 'status', "'cancelled'" ], [ 'attempts', 1 ], [ 'attempts', -1 ], [ 'slot', 1 ], [ 'slot', -1 ],
		[ 'processed_at', "'epoch'" ],
	[ 'finished_at', 'now()' ], [ 'lease_expires_at', "'infinity'" ], [ 'claimed_by', "'me'" ], [ 'last_error', "'x'" ],
	[ 'last_sqlstate', "'x'" ], [ 'result', "'1'" ], [ 'crashes', -1000 ], [ 'failures', "'[]'" ],
		[ 'origin_queue', "'victor'" ],
	[ 'progress', 1 ], [ 'progress_message', "'x'" ],
	# another's id, and one that comes before all others; an age that it has not
	[ 'id', $victors{failed} ], [ 'id', $victors{pending} ], [ 'id', '-9223372036854775808' ],
		[ 'id', '9223372036854775807' ],
	[ 'created_at', "'epoch'" ]);
is(attempt('hand', "INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'by hand')"), '',
	'hand: what is not forged is let in');
admin("DELETE FROM jobqueue.tasks WHERE created_by = 'hand' AND queue <> 'by hand'");
# PostgreSQL's copy.c: COPY FROM and row-level security exclude each other; 50_access.sql: USAGE, not UPDATE, of the
# sequence
refuse(
	[ 'COPY FROM', 'pia', "COPY jobqueue.tasks (type, queue) FROM PROGRAM 'true'", '42501' ],
	[ 'COPY FROM STDIN', 'hand', 'COPY jobqueue.tasks (type, queue) FROM STDIN', '0A000' ],
	[ 'sets the sequence', 'pia', "SELECT setval('jobqueue.tasks_id_seq', 1)", '42501' ],
);
# row_policies.cpp, policy_condition(): CMD_INSERT, the queues of a producer
refuse(
	[ 'INSERT into another\'s queue', 'pia', "INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'victor')",
		'42501' ],
	[ 'INSERT ... ON CONFLICT', 'pia',
		"INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'victor') ON CONFLICT DO NOTHING", '42501' ],
	[ 'INSERT of several', 'pia',
		"INSERT INTO jobqueue.tasks (type, queue) VALUES ('errand', 'eve'), ('errand', 'victor')", '42501' ],
	[ 'INSERT without a queue', 'pia', "INSERT INTO jobqueue.tasks (type) VALUES ('errand')", '42501' ],
	[ 'MERGE', 'eve',
		"MERGE INTO jobqueue.tasks t USING (VALUES (1)) v(x) ON false WHEN NOT MATCHED THEN INSERT (type, queue) "
			. "VALUES ('errand', 'victor')", '42501' ],
);
# enqueue.cpp: require(allowed, added.queue)
refuse(
	[ 'enqueue()', 'pia', "SELECT jobqueue.enqueue('errand', queue => 'victor')", '42501' ],
	[ 'enqueue_many()', 'pia', "SELECT jobqueue.enqueue_many('errand', '{1}', queue => 'victor')", '42501' ],
	[ 'enqueue() where a handler\'s queue is another\'s', 'pia', "SELECT jobqueue.enqueue('as victor')", '42501' ],
	[ '... which is not named', 'pia',
		"DO \$\$BEGIN PERFORM jobqueue.enqueue('as victor'); EXCEPTION WHEN OTHERS THEN IF sqlerrm ~ 'queue "
			. "\"?victor' THEN RAISE division_by_zero; END IF; END\$\$", '' ],
);
# enqueue.cpp, jobqueue_enqueue_row: callers_queues() of the table's owner
refuse(
	[ 'enqueue_row()', 'pia',
		"CREATE TEMP TABLE t (a int); CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION "
			. "jobqueue.enqueue_row('as victor'); INSERT INTO t VALUES (1)", '42501' ],
	[ 'enqueue_row() for a table that is given to a role without access', 'eve', <<'SQL', '42501' ],
		CREATE TABLE public.given (a int);
		CREATE TRIGGER t AFTER INSERT ON public.given FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('as victor');
		GRANT INSERT ON public.given TO eve;
		ALTER TABLE public.given OWNER TO spare;
		INSERT INTO public.given VALUES (1);
SQL
);
is(admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'as victor'"), 0, 'eve: ... nothing has come of all that');
admin("SELECT jobqueue.delete_tasks(type => 'as victor')");
admin('DROP TABLE IF EXISTS public.given');
# row_policies.cpp, policy_condition(): CMD_UPDATE; and which columns a consumer may change
refuse(
	(map { [ "UPDATE of $_", 'eve', "UPDATE jobqueue.tasks SET $_ = $_",
		'42501' ] } qw(id type payload queue priority created_by attempts max_attempts claimed_by
		lease_expires_at result slot)),
	[ 'UPDATE', 'eve',
		"WITH u AS (UPDATE jobqueue.tasks SET status = 'completed' WHERE queue = 'victor' RETURNING 1) SELECT "
			. "count(*) FROM u", 0 ],
	[ 'UPDATE', 'pia', "UPDATE jobqueue.tasks SET status = 'completed'", '42501' ],
	[ 'DELETE', 'eve', 'DELETE FROM jobqueue.tasks', '42501' ],
	[ 'TRUNCATE', 'eve', 'TRUNCATE jobqueue.tasks', '42501' ],
);
admin('GRANT UPDATE (queue), DELETE ON jobqueue.tasks TO eve');
refuse(
	[ 'UPDATE of the queue by a GRANT: out', 'eve', "UPDATE jobqueue.tasks SET queue = 'victor' WHERE queue = 'eve'",
		'42501' ],
	[ '... in', 'eve',
		"WITH u AS (UPDATE jobqueue.tasks SET queue = 'eve' WHERE queue = 'victor' RETURNING 1) SELECT count(*) FROM "
			. "u", 0 ],
	[ 'DELETE by a GRANT', 'eve',
		"WITH d AS (DELETE FROM jobqueue.tasks WHERE queue = 'victor' RETURNING 1) SELECT count(*) FROM d", 0 ],
);
admin('REVOKE UPDATE (queue), DELETE ON jobqueue.tasks FROM eve');
# row_policies.cpp, policy_condition() for the handlers: who may write the table may not be anybody
my $forged =
	"INSERT INTO jobqueue.handlers (type, handler, run_as, incarnation) SELECT 'forged', 'public.who(jsonb)', '%s', "
		. "id FROM jobqueue.incarnation";
my $changed = 'BEGIN; WITH c AS (%s RETURNING 1) SELECT count(*) FROM c; ROLLBACK';
refuse(
	[ 'INSERT of a handler that runs as superuser', 'hand', "BEGIN; " . sprintf($forged, $super) . '; ROLLBACK',
		'42501' ],
	[ '... as another', 'hand', 'BEGIN; ' . sprintf($forged, 'victor') . '; ROLLBACK', '42501' ],
	[ 'UPDATE of the role of a handler', 'hand', sprintf($changed,
		"UPDATE jobqueue.handlers SET run_as = '$super' WHERE type = 'bystander'"), 0 ],
	[ 'UPDATE of another\'s function', 'hand', sprintf($changed,
		"UPDATE jobqueue.handlers SET handler = 'pg_catalog.jsonb_pretty(jsonb)' WHERE type = 'as victor'"), 0 ],
	[ 'DELETE of another\'s handler', 'hand', sprintf($changed,
		"DELETE FROM jobqueue.handlers WHERE type = 'bystander'"), 0 ],
);

# --------------------------------------------------------------------------------------------------------------------
# Finishing and managing what is not one's own

# claim.cpp: ClaimSession, and Completions::end(): require_tasks()
my $claimed = $victors{processing};
refuse(map { [ $_, 'eve', "SELECT jobqueue.$_", '42501' ] }
	"complete($claimed, 1)", "complete_many('{$claimed}', '{1}')",
		"complete_and_claim('{$claimed}', '{1}', queue => 'eve')",
	"fail($claimed, 1, 'x')", "extend_lease($claimed, 1)", "release($claimed, 1)", "snooze($claimed, 1, '1 s')",
	"discard($claimed, 1, 'x')", "set_progress($claimed, 1, 0.1)");
# claim.cpp, consumers_queues(), and limit_scope() of the claimer
refuse(
	[ 'claims', 'eve', "SELECT jobqueue.claim('victor')", '42501' ],
	[ 'claims by type', 'eve', "SELECT jobqueue.claim('victor', types => '{errand}')", '42501' ],
	[ 'claims from no queue', 'eve', 'SELECT jobqueue.claim()', '42501' ],
	[ 'claims from all queues', 'eve',
		"BEGIN; SELECT count(*) FILTER (WHERE queue <> 'eve') FROM jobqueue.claim(NULL, 1000); ROLLBACK", 0 ],
	[ 'claims all of a type', 'eve',
		"BEGIN; SELECT count(*) FILTER (WHERE queue <> 'eve') FROM jobqueue.claim(NULL, 1000, types => "
			. "'{errand,as victor,victors own}'); ROLLBACK", 0 ],
	[ 'finishes and claims', 'eve', "SELECT jobqueue.complete_and_claim('{}', '{}', queue => 'victor')", '42501' ],
	[ 'a lease that looks like the server\'s', 'eve', "SELECT jobqueue.claim('eve', lease => '293000 years')",
		'22008' ],
	[ 'drains', 'eve', "SELECT jobqueue.drain('victor')", '42501' ],
	[ 'drains all', 'eve', 'SELECT jobqueue.drain()', '42501' ],
);
# tasks.cpp, queues.cpp, handlers.cpp: require(), require_tasks(), own_handler()
refuse(map { [ $_, 'eve', "SELECT jobqueue.$_", '42501' ] }
	(map { "cancel($victors{$_})" } sort keys %victors), (map { "retry($victors{$_})" } sort keys %victors),
	"cancel_tasks('victor')", "cancel_tasks(type => 'errand')", "retry_failed('victor')",
		"retry_failed(type => 'errand')",
	"delete_tasks('victor')", "delete_tasks(status => 'completed')", "purge_queue('victor')", "pause_queue('victor')",
	'pause_queue(NULL)', "resume_queue('victor')", 'resume_queue(NULL)', 'adopt()', "grant_access('eve', 'manager')",
	"grant_access('eve', 'consumer', 'victor')", "revoke_access('victor', 'producer')", "limit_role('victor', 0)");
refuse(map { [ $_, 'pia', "SELECT jobqueue.$_", '42501' ] }
	"claim('eve')", "complete($claimed, 1)", "cancel($victors{pending})", "retry($victors{failed})",
		"pause_queue('eve')",
	"purge_queue('eve')", "delete_tasks('eve')", "register_handler('x', 'nothing(jsonb)', 'eve')", "drain('eve')");
# taking over a type, and having others run one's code: handlers.cpp, check_owner(), check_role(), check_queues_of()
refuse(
	[ 'registers another\'s type', 'eve', "SELECT jobqueue.register_handler('victors own', 'who(jsonb)', 'eve')",
		'42501' ],
	[ 'alters another\'s handler', 'eve', "SELECT jobqueue.alter_handler('victors own', handler => 'nothing(jsonb)')",
		'42501' ],
	[ 'alters its owner', 'eve', "SELECT jobqueue.alter_handler('victors own', run_as => 'eve')", '42501' ],
	[ 'unregisters it', 'eve', "SELECT jobqueue.unregister_handler('victors own')", '42501' ],
	[ 'registers for another role', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve', run_as => 'victor')", '42501' ],
	[ 'registers for a superuser', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve', run_as => '$super')", '42501' ],
	[ 'registers for a role that it is a member of', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve', run_as => 'spare')", '42501' ],
	[ 'registers for another\'s queue', 'eve', "SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'victor')",
		'42501' ],
	[ 'sends dead letters to another\'s queue', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve', dead_letter_queue => 'victor')", '42501' ],
	[ 'gives a handler away', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve'); SELECT jobqueue.alter_handler('mine', run_as "
			. "=> '$super')", '42501' ],
	[ '... to another queue', 'eve', "SELECT jobqueue.alter_handler('mine', queue => 'victor')", '42501' ],
	[ '... its dead letters', 'eve', "SELECT jobqueue.alter_handler('mine', dead_letter_queue => 'victor')", '42501' ],
	[ 'unregisters its own', 'eve', "SELECT jobqueue.unregister_handler('mine')", 't' ],
);
admin('CREATE FUNCTION not_for_eve(payload jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS $$SELECT '
	. 'to_jsonb(current_user)$$; REVOKE EXECUTE ON FUNCTION not_for_eve FROM PUBLIC;
	CREATE FUNCTION not_for_eve(attempt integer, error text) RETURNS interval LANGUAGE sql SECURITY DEFINER AS '
		. '$$SELECT interval \'1 s\'$$; REVOKE EXECUTE ON FUNCTION not_for_eve(int, text) FROM PUBLIC');
# handlers.cpp, check_role(): may_execute()
refuse(
	[ 'registers a function that it may not execute', 'eve',
		"SELECT jobqueue.register_handler('mine', 'not_for_eve(jsonb)', 'eve')", '42501' ],
	[ '... a back-off function', 'eve',
		"SELECT jobqueue.register_handler('mine', 'who(jsonb)', 'eve', backoff_function => 'not_for_eve(int, text)')",
			'42501' ],
);
# handler_signature.cpp, handler_problem(): what is gone with the session may be anybody's when it is back
refuse([ 'registers a temporary function', 'eve', <<'SQL', '42P13' ]);
	CREATE FUNCTION pg_temp.mine(payload jsonb) RETURNS void LANGUAGE sql AS '';
	SELECT jobqueue.register_handler('mine', 'pg_temp.mine(jsonb)', 'eve');
SQL
# ... which is what it would be: the next session with the same number has a function of that name
my $taken = attempt('eve', "SELECT handler FROM jobqueue.handlers WHERE type = 'mine'");
admin("SELECT jobqueue.unregister_handler('mine')");
is($taken, '', 'eve: ... has registered none');

# A type that has no handler, because victor's own processes work on it outside the server. engine/store/phrases.hpp:
# HAS_SAY_IN()
is(attempt('eve',
	"SELECT jobqueue.register_handler('errand', 'who(jsonb)', 'eve', max_attempts => 1, dead_letter_queue => "
		. "'eves-second', discard_sqlstates => '{P0,JQ}')"),
	'', 'eve: registers a type that others work on outside');
refuse(
	[ '... and gets what names no queue', $super,
		"BEGIN; SELECT jobqueue.enqueue('errand') AS id \\gset\nSELECT queue FROM jobqueue.tasks WHERE id = :id; "
			. "ROLLBACK", 'default' ],
	[ '... hides it from those who work on it', 'victor',
		"BEGIN; SELECT count(*) FROM jobqueue.claim('victor', 1); ROLLBACK", 1 ],
	[ '... says how often it is tried', 'victor',
		"BEGIN; SELECT max_attempts FROM jobqueue.claim('victor', 1, types => '{errand}'); ROLLBACK", 20 ],
	[ '... has its dead letters', 'victor', <<"SQL", 'scheduled|victor' ],
		BEGIN;
		SELECT id, attempts, jobqueue.fail(id, attempts, '$secret')
			FROM jobqueue.claim('victor', 1, types => '{errand}') \\gset
		SELECT status, queue FROM jobqueue.tasks WHERE id = :id;
		ROLLBACK;
SQL
);
is(attempt('eve', $count), 0, 'eve: ... reads nothing of it');
# enqueue.cpp, add_task(): what a session keeps of default queues is for those only who have access to all
refuse([ 'another role of the same session gets eve\'s default queue', $super, <<'SQL', 'default' ]);
	BEGIN;
	SET LOCAL ROLE eve;
	SELECT jobqueue.enqueue('errand');
	RESET ROLE;
	SELECT jobqueue.enqueue('errand') AS id \gset
	SELECT queue FROM jobqueue.tasks WHERE id = :id;
	ROLLBACK;
SQL
admin("SELECT jobqueue.unregister_handler('errand')");

# A producer may choose the type, but not who runs it: scope_of_handlers(), for a handler that its role has registered
my $victim = attempt('pia', "SELECT jobqueue.enqueue('victors own', '\"pia''s\"', queue => 'eve')");
# ... and for one that somebody with access to all queues has registered for it, with a queue: enqueue.cpp
is(attempt('pia', "SELECT jobqueue.enqueue('as victor', '\"pia''s\"', queue => 'eve')"), '42501',
	'pia: a task for victor\'s handler, in a queue of eve\'s');
wait_a_look();
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $victim"), 'pending',
	'pia: a task of victor\'s own type, in a queue of eve\'s, is not for victor');
is(admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'as victor' AND status <> 'pending'"), 0,
	'pia: ... nor is the other');
admin("SELECT jobqueue.cancel_tasks(type => 'as victor'), jobqueue.cancel_tasks(type => 'victors own')");

# --------------------------------------------------------------------------------------------------------------------
# Changing the tables, and what belongs to them

# They belong to the extension's owner: PostgreSQL's own checks of ownership, and 00_guard.sql for the schema
refuse(
	(map { my $table = $_; (
		[ "a trigger on $table", 'eve',
			"CREATE TRIGGER t BEFORE INSERT ON jobqueue.$table FOR EACH ROW EXECUTE FUNCTION "
				. "suppress_redundant_updates_trigger()", '42501' ],
		[ "a rule on $table", 'eve', "CREATE RULE r AS ON INSERT TO jobqueue.$table DO INSTEAD NOTHING", '42501' ],
		[ "a policy on $table", 'eve', "CREATE POLICY p ON jobqueue.$table USING (true)", '42501' ],
		[ "no row-level security on $table", 'eve', "ALTER TABLE jobqueue.$table DISABLE ROW LEVEL SECURITY", '42501' ],
		[ "no triggers on $table", 'eve', "ALTER TABLE jobqueue.$table DISABLE TRIGGER ALL", '42501' ],
		[ "an index on $table", 'eve', "CREATE INDEX ON jobqueue.$table ((eve.leak(queue)))",
			'42501' ] ) } qw(tasks tasks_live handlers queues)),
	[ 'a default', 'eve', 'ALTER TABLE jobqueue.tasks ALTER payload SET DEFAULT to_jsonb(eve.leak(NULL))', '42501' ],
	[ 'a constraint', 'eve', 'ALTER TABLE jobqueue.tasks ADD CHECK (eve.leak(payload::text)) NOT VALID', '42501' ],
	[ 'a partition', 'eve', 'CREATE TABLE eve.leaf PARTITION OF jobqueue.tasks FOR VALUES IN (99)', '42501' ],
	[ 'a child', 'eve', 'CREATE TABLE eve.child () INHERITS (jobqueue.handlers)', '42501' ],
	[ 'a foreign key', 'eve', 'CREATE TABLE eve.mine (id bigint REFERENCES jobqueue.tasks_live)', '42501' ],
	[ 'statistics', 'eve', 'CREATE STATISTICS eve.s ON type, queue FROM jobqueue.tasks', '42501' ],
	[ 'a publication', 'eve', 'CREATE PUBLICATION p FOR TABLE jobqueue.tasks', '42501' ],
	[ 'a lock', 'eve', 'BEGIN; LOCK TABLE jobqueue.tasks IN ACCESS EXCLUSIVE MODE', '42501' ],
	[ 'a lock', 'eve', 'BEGIN; LOCK TABLE jobqueue.tasks IN ROW EXCLUSIVE MODE', '42501' ],
	[ 'a lock', 'eve', 'BEGIN; LOCK TABLE jobqueue.handlers IN SHARE MODE', '42501' ],
	[ 'REINDEX', 'eve', 'REINDEX TABLE jobqueue.tasks_live', '42501' ],
	[ 'a function among ours', 'eve',
		"CREATE FUNCTION jobqueue.enqueue(text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'", '42501' ],
	[ 'a function of ours, replaced', 'eve',
		"CREATE OR REPLACE FUNCTION jobqueue.version() RETURNS text LANGUAGE sql AS 'SELECT 1::text'", '42501' ],
	[ 'a function of ours, altered', 'eve', 'ALTER FUNCTION jobqueue.version() SECURITY DEFINER', '42501' ],
	[ 'the type', 'eve', 'ALTER TYPE jobqueue.governed OWNER TO eve', '42501' ],
	[ 'the extension, dropped', 'eve', 'DROP EXTENSION jobqueue CASCADE', '42501' ],
	[ 'the extension, updated', 'eve', 'ALTER EXTENSION jobqueue UPDATE', '42501' ],
	[ 'the extension, extended', 'eve', 'ALTER EXTENSION jobqueue ADD TABLE eve.loot', '42501' ],
	[ 'the schema, dropped', 'eve', 'DROP SCHEMA jobqueue CASCADE', '42501' ],
	[ 'an event trigger', 'eve',
		'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION suppress_redundant_updates_trigger()', '42501' ],
	[ 'a function that claims not to leak', 'eve', 'ALTER FUNCTION eve.leak(text) LEAKPROOF', '42501' ],
	[ 'a cast of jsonb', 'eve', 'CREATE CAST (jsonb AS text) WITHOUT FUNCTION', '42501' ],
	[ 'passes on what it has', 'eve',
		'GRANT SELECT ON jobqueue.tasks TO reader; SELECT has_table_privilege(\'reader\', \'jobqueue.tasks\', '
			. '\'SELECT\')', 'f' ],
	[ 'passes on its mark', 'eve',
		'GRANT USAGE ON TYPE jobqueue.governed TO reader; SELECT has_type_privilege(\'reader\', '
			. '\'jobqueue.governed\', \'USAGE\')', 'f' ],
	[ 'takes its own mark off', 'eve',
		'REVOKE USAGE ON TYPE jobqueue.governed FROM eve; SELECT has_type_privilege(\'eve\', \'jobqueue.governed\', '
			. '\'USAGE\')', 't' ],
);
# 50_access.sql: REVOKE ALL ON ALL FUNCTIONS, and trigger.hpp, trigger_data()
refuse((map { [ "calls $_", 'eve', "SELECT jobqueue.$_", '42501' ] }
		"_is_wanted('x', true)", '_installed()', "_check_access('eve', 'manager', NULL)", "_levels_of('victor')",
			'_access_rights(NULL)'),
	[ 'calls a trigger function', 'eve', 'SELECT jobqueue.enqueue_row()', '39P01' ],
	(map { [ "makes $_ a trigger", 'eve',
		"CREATE TEMP TABLE t (a int); CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION jobqueue.$_()", '42501' ] }
		qw(_tasks_inserted _task_updated _configuration_changed)));
refuse([ "calls $_", 'pia', "SELECT jobqueue.$_", '42501' ]) for '_workers()';

# Operators and functions planted where a superuser's search_path finds them first: 50_access.sql, SET search_path, and
# OPERATOR(pg_catalog.…) in the views
is(attempt('eve', <<'SQL'), '', 'eve: plants operators and functions');
	CREATE FUNCTION eve.spy(what text) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.spied (what) VALUES (what);
		RETURN true;
	END $$;
	CREATE FUNCTION eve.texts(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT eve.spy('operator of texts')$$;
	CREATE FUNCTION eve.names(name, name) RETURNS boolean LANGUAGE sql AS $$SELECT eve.spy('operator of names')$$;
	CREATE FUNCTION eve.bigints(bigint, bigint) RETURNS boolean LANGUAGE sql
		AS $$SELECT eve.spy('operator of bigints')$$;
	CREATE FUNCTION eve.integers(integer, integer) RETURNS boolean LANGUAGE sql
		AS $$SELECT eve.spy('operator of integers')$$;
	CREATE FUNCTION eve.oids(oid, oid) RETURNS boolean LANGUAGE sql AS $$SELECT eve.spy('operator of oids')$$;
	CREATE OPERATOR eve.= (LEFTARG = text, RIGHTARG = text, FUNCTION = eve.texts);
	CREATE OPERATOR eve.= (LEFTARG = name, RIGHTARG = name, FUNCTION = eve.names);
	CREATE OPERATOR eve.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = eve.bigints);
	CREATE OPERATOR eve.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = eve.integers);
	CREATE OPERATOR eve.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = eve.oids);
	CREATE OPERATOR eve.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = eve.texts);
	CREATE FUNCTION eve.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT pg_catalog.now() FROM eve.spy('now')$$;
	CREATE FUNCTION eve.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT pg_catalog.now()
		FROM eve.spy('clock_timestamp')$$;
	CREATE FUNCTION eve.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$SELECT '1'::jsonb
		FROM eve.spy('to_jsonb')$$;
	CREATE FUNCTION eve.format(text, text, text) RETURNS text LANGUAGE sql AS $$SELECT 'x'::text
		FROM eve.spy('format')$$;
	CREATE FUNCTION eve.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS $$SELECT pg_catalog.unnest($1)
		FROM eve.spy('unnest')$$;
	CREATE FUNCTION eve.left(text, integer) RETURNS text LANGUAGE sql AS $$SELECT 'x'::text FROM eve.spy('left')$$;
	CREATE FUNCTION eve.octet_length(text) RETURNS integer LANGUAGE sql AS $$SELECT 1 FROM eve.spy('octet_length')$$;
SQL
for my $who ($super, 'victor') {
	is(attempt($who, <<'SQL'), '', "$who: works with them in the search_path");
		SET search_path = eve, public, pg_catalog;
		DO $$
		BEGIN
			PERFORM jobqueue.enqueue('planted', queue => 'victor', delay => '1 day');
			PERFORM * FROM jobqueue.tasks;
			PERFORM * FROM jobqueue.queue_status;
			PERFORM * FROM jobqueue.running_tasks;
			PERFORM * FROM jobqueue.worker_status;
			PERFORM * FROM jobqueue.claim('victor', types => ARRAY['planted']);
			PERFORM jobqueue.cancel_tasks('victor', 'planted');
			INSERT INTO jobqueue.tasks (type, queue, run_at) VALUES ('planted', 'victor', 'epoch');
			UPDATE jobqueue.tasks SET status = 'cancelled' WHERE type OPERATOR(pg_catalog.=) 'planted';
			IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' THEN
				PERFORM jobqueue.grant_access('spare', 'producer', 'x'), jobqueue.limit_role('spare', 1),
					jobqueue.limit_role('spare');
				PERFORM * FROM jobqueue.access_status;
				PERFORM jobqueue.revoke_access('spare', 'producer', 'x');
			END IF;
		END $$;
SQL
}
is(admin('SELECT count(*), min(what) FROM spied'), '0|', 'what is planted in a search_path is not run by others');
admin("DELETE FROM jobqueue.tasks WHERE type = 'planted'");

# All of that has changed nothing.
is(admin($victors_state), $state, "victor's tasks are as they were");
is(admin($victors_configuration), $configuration, '... and the handlers');
is(admin('SELECT count(*) FROM jobqueue.queues WHERE paused_at IS NOT NULL'), 0, '... no queue is paused');
is(admin('SELECT jobqueue.adopt()'), 'f', '... and the installation is its own');

# --------------------------------------------------------------------------------------------------------------------
# In a handler

# worker.cpp, jobqueue_worker_main(): connect_as(): the process serves only that role
my @inside = (
	[ 'RESET ROLE', ['RESET ROLE'], $identity ],
	[ 'SET ROLE NONE', ['SET ROLE NONE'], $identity ],
	[ 'RESET SESSION AUTHORIZATION', ['RESET SESSION AUTHORIZATION'], $identity ],
	[ 'SET SESSION AUTHORIZATION DEFAULT', ['SET SESSION AUTHORIZATION DEFAULT'], $identity ],
	[ 'RESET ALL', ['RESET ALL'], $identity ],
	[ 'SET SESSION AUTHORIZATION', ["SET SESSION AUTHORIZATION $super"], '42501' ],
	[ 'SET ROLE', ["SET ROLE $super"], '42501' ],
	[ 'SET ROLE of a neighbour', ['SET LOCAL ROLE victor'], '42501' ],
	[ 'set_config(role)', ["SELECT set_config('role', '$super', false)"], '42501' ],
	[ 'set_config(session_authorization)', ["SELECT set_config('session_authorization', '$super', true)"], '42501' ],
	[ 'SET ROLE of one it is a member of', ['SET ROLE spare'], '["eve", "spare", "off", null]' ],
	[ '... is over with the task', [], $identity ],
	# PostgreSQL's own checks of what the role may do, because it is that role
	[ 'makes itself a superuser', ['ALTER ROLE eve SUPERUSER'], '42501' ],
	[ 'becomes a member', ["GRANT $super TO eve"], '42501' ],
	[ 'makes a role', ['CREATE ROLE mine SUPERUSER'], '42501' ],
	[ 'settings of a superuser', ["ALTER ROLE $super SET search_path = eve"], '42501' ],
	[ 'settings of a neighbour', ['ALTER ROLE victor SET search_path = eve'], '42501' ],
	[ 'settings of all', ['ALTER ROLE ALL SET search_path = eve'], '42501' ],
	[ 'settings of the database', ['ALTER DATABASE app SET search_path = eve'], '42501' ],
	[ 'settings of the server', ["ALTER SYSTEM SET work_mem = '1MB'"], '25001' ],
	[ 'settings of ours', ['SET jobqueue.allow_superuser_handlers = on'], '55P02' ],
	[ '... that last', ['ALTER ROLE eve SET jobqueue.max_workers = 1'], '55P02' ],
	[ 'no triggers', ['SET session_replication_role = replica'], '42501' ],
	[ 'a library', ["SET session_preload_libraries = 'x'"], '42501' ],
	[ 'a library', ["LOAD '/tmp/x.so'"], '42501' ],
	[ 'logs statements', ["SET log_statement = 'all'"], '42501' ],
	[ 'a program', ["COPY (SELECT 1) TO PROGRAM 'cat'"], '42501' ],
	[ 'a program', ['CREATE TEMP TABLE x (a text)', "COPY x FROM PROGRAM 'id'"], '42501' ],
	[ 'a file', ['CREATE TEMP TABLE x (a text)', "COPY x FROM '/etc/passwd'"], '42501' ],
	[ 'a file', ["SELECT pg_read_file('postgresql.conf')"], '42501' ],
	[ 'a file', ["SELECT lo_import('/etc/passwd')"], '42501' ],
	[ 'a directory', ["SELECT pg_ls_dir('.')"], '42501' ],
	[ 'a function in C', ["CREATE FUNCTION eve.c() RETURNS int LANGUAGE c AS '\$libdir/jobqueue', 'jobqueue_adopt'"],
		'42501' ],
	[ 'an event trigger',
		['CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION suppress_redundant_updates_trigger()'], '42501' ],
	[ 'reloads the settings', ['SELECT pg_reload_conf()'], '42501' ],
	[ 'drops the extension', ['DROP EXTENSION jobqueue'], '42501' ],
	# the same lines as outside
	[ 'reads', [$count], '["eve", "eve", "off", "0"]' ],
	[ 'forgets who it is, and reads', [ 'RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET row_security = on', $count ],
		'["eve", "eve", "off", "0"]' ],
	[ 'enqueues', ["SELECT jobqueue.enqueue('as victor', queue => 'victor')"], '42501' ],
	[ 'cancels', ["SELECT jobqueue.cancel($victors{pending})"], '42501' ],
	[ 'waits for', ["SELECT jobqueue.wait_for($victors{completed})"], '22023' ],
	# drain.cpp: in_handler(); claim.cpp: IN_SERVER
	[ 'drains', ["SELECT jobqueue.drain('eve')"], '55000' ],
	[ 'acts as the engine', ["SELECT jobqueue._is_wanted('x', true)"], '42501' ],
	# a transaction that is read-only, and then finished: Session::Writes::always
	[ 'SET TRANSACTION READ ONLY', ['SET TRANSACTION READ ONLY'], $identity ],
);
my $enqueue = join ";\n", map { 'SELECT jobqueue.enqueue(\'as eve\', to_jsonb(ARRAY['
	. join(', ', map { "\$a\$$_\$a\$" } @{ $_->[1] }) . ']::text[]))' } @inside;
my @ids = split /\n/, admin($enqueue);
for my $i (0 .. $#inside) {
	my ($name, undef, $expected) = @{ $inside[$i] };
	is(outcome($ids[$i]), ($expected =~ /^\[/ ? 'completed ' : 'failed ') . $expected, "in a handler: $name");
}

sub inside {
	my ($name, $commands, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = admin('SELECT jobqueue.enqueue(\'as eve\', to_jsonb(ARRAY[' . join(', ', map { "\$a\$$_\$a\$" } @$commands)
		. ']::text[]))');
	return is(outcome($id), ($expected =~ /^\[/ ? 'completed ' : 'failed ') . $expected, "in a handler: $name");
}

# Other processes: pg_signal_backend() compares their roles; a worker's is that of its handlers, and ours are a
# superuser's
admin("SELECT jobqueue.enqueue('bystander')");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE role = 'bystander'", 1,
	'a neighbour has a process');
for my $kind (qw(launcher scheduler worker)) {
	my $pid = admin("SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobqueue $kind'"
		. ($kind eq 'worker' ? " AND usename = 'bystander'" : '') . ' LIMIT 1');
	inside("terminates the $kind", ["SELECT pg_terminate_backend($pid)"], '42501');
	inside("cancels the $kind", ["SELECT pg_cancel_backend($pid)"], '42501');
}
# what a neighbour's process does: pg_stat_activity, for members of the role only
my $long =
	admin("SELECT jobqueue.register_handler('slow', 'attack(jsonb)', run_as => 'victor', queue => 'victor'); SELECT "
		. "jobqueue.enqueue('slow', '[\"SELECT pg_sleep(600)\", \"$secret\"]')");
$long = (split /\n/, $long)[-1];
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE task_id = $long", 1, 'a long task runs');
is(admin("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker' AND query = 'task $long of "
	. "type slow'"), 1, '... whose id and type are shown to a superuser');
is(admin("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'jobqueue' AND query ~ 'secret'"), 0,
	'... but no payload');
refuse(
	[ 'looks at what a neighbour\'s process does', 'eve',
		"SELECT string_agg(DISTINCT query, ' ') FROM pg_stat_activity WHERE usename = 'victor'",
			'<insufficient privilege>' ],
	[ '... in worker_status', 'eve',
		"SELECT count(*) FROM jobqueue.worker_status WHERE task_type = 'slow' OR queue = 'victor'", 0 ],
	[ '... in running_tasks', 'eve', "SELECT count(*) FROM jobqueue.running_tasks WHERE id = $long", 0 ],
	[ 'cancels it', 'eve', "SELECT jobqueue.cancel($long)", '42501' ],
	[ 'finishes it', 'eve', "SELECT jobqueue.complete($long, 1)", '42501' ],
	# claim.cpp, lock_claim(…, false) and the like: what runs in the server is nobody's to finish
	(map { [ "finishes what runs in the server: $_", 'victor', "SELECT coalesce(jobqueue.${_}::text, '-')",
		/^fail/ ? '-' : 'false' ] }
		"complete($long, 1)", "fail($long, 1, 'x')", "extend_lease($long, 1)", "release($long, 1)",
			"snooze($long, 1, '0 s')",
		"discard($long, 1, 'x')", "set_progress($long, 1, 0.5)"),
	[ 'cancels it', 'victor', "SELECT jobqueue.cancel($long)", 't' ],
);

# What runs at the commit, or in the middle of the engine's own statements. transaction.cpp commits as the role; Session
# pins the search path and plans under it; executor.cpp converts the result before there is a Session
attempt('eve', <<'SQL');
	CREATE TABLE eve.late (a int DEFAULT eve.spy('default')::int);
	CREATE FUNCTION eve.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM eve.spy('deferred trigger');
		RESET ROLE;
		RESET SESSION AUTHORIZATION;
		PERFORM eve.spy('deferred trigger, reset');
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON eve.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		EXECUTE FUNCTION eve.at_commit();
	CREATE FUNCTION eve.spy_now(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM eve.spy('index');
		RETURN 1; END$$;
	CREATE TYPE eve.box AS ENUM ('a');
	CREATE FUNCTION eve.box_to_json(eve.box) RETURNS json LANGUAGE plpgsql AS $$BEGIN PERFORM eve.spy('cast to json');
		RETURN '"box"'; END$$;
	CREATE CAST (eve.box AS json) WITH FUNCTION eve.box_to_json(eve.box);
	CREATE FUNCTION eve.boxed(payload jsonb) RETURNS eve.box LANGUAGE sql AS 'SELECT ''a''::eve.box';
	CREATE FUNCTION eve.fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'on purpose'; END$$;
	-- its effects are rolled back, but for sequences
	CREATE SEQUENCE eve.asked;
	CREATE SEQUENCE eve.asked_as_another;
	CREATE FUNCTION eve.backoff(attempt int, error text) RETURNS interval LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nextval('eve.asked');
		RESET ROLE;
		RESET SESSION AUTHORIZATION;
		IF session_user OPERATOR(pg_catalog.<>) 'eve' OR current_user OPERATOR(pg_catalog.<>) 'eve'
			OR current_setting('is_superuser') OPERATOR(pg_catalog.<>) 'off' THEN
			PERFORM nextval('eve.asked_as_another');
		END IF;
		SET search_path = eve, public, pg_catalog;
		PERFORM set_config('statement_timeout', '1', false), pg_advisory_lock(4711);
		RETURN '0 s';
	END $$;
	SELECT jobqueue.register_handler('boxed', 'eve.boxed(jsonb)', 'eve', max_attempts => 1);
	SELECT jobqueue.register_handler('fails', 'eve.fails(jsonb)', 'eve', max_attempts => 2,
		backoff_function => 'eve.backoff(int, text)');
SQL
inside('a deferred trigger', ['INSERT INTO eve.late DEFAULT VALUES'], $identity);
inside('a temporary table, ON COMMIT', [ 'CREATE TEMP TABLE t (a int) ON COMMIT DELETE ROWS',
	'INSERT INTO t SELECT generate_series(1, 3)', 'CREATE INDEX ON t (eve.spy_now(a))' ], $identity);
inside('a temporary table, ON COMMIT DROP', [ 'CREATE TEMP TABLE t (a int) ON COMMIT DROP',
	'CREATE INDEX ON t (eve.spy_now(a))', 'INSERT INTO t SELECT generate_series(1, 3)' ], $identity);
inside('a held cursor', ["DECLARE c CURSOR WITH HOLD FOR SELECT eve.spy('held cursor')"], $identity);
inside('functions in pg_temp',
	[ "CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now() FROM "
		. "eve.spy(''pg_temp'')'",
		"CREATE FUNCTION pg_temp.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS 'SELECT "
			. "pg_catalog.unnest(\$1) FROM eve.spy(''pg_temp'')'",
		'CREATE TEMP TABLE tasks_live (id bigint)', 'SET search_path = pg_temp, eve, public, pg_catalog' ], $identity);
# a cached plan is analysed again when an operator is made: in the middle of the transaction that the engine will finish
inside('operators in the search_path, and the cached plans invalid', [ 'SET search_path = eve, public, pg_catalog',
		'CREATE OPERATOR eve.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = eve.bigints)', 'ANALYZE eve.late',
			'CREATE FUNCTION eve.coalesce(text, text) RETURNS text LANGUAGE sql AS \'SELECT $1\'' ], $identity);
inside('... for good', ['ALTER ROLE eve SET search_path = eve, public, pg_catalog'], $identity);
inside('... and other settings', [ "ALTER ROLE eve SET transform_null_equals = on",
	'ALTER ROLE eve SET standard_conforming_strings = off',
		"ALTER ROLE eve SET plan_cache_mode = force_custom_plan",
			'ALTER ROLE eve SET default_transaction_read_only = on', 'ALTER ROLE eve SET row_security = off',
				'ALTER ROLE eve SET role = spare' ], $identity);
admin("SELECT pg_terminate_backend(pid) FROM jobqueue.worker_status WHERE role = 'eve' AND pid IS NOT NULL");
inside('... in a new process', ['SELECT 1'], '["eve", "eve", "off", "1"]');
my $in_eve = enqueue('boxed', '{}', "queue => 'eve'");
is(outcome($in_eve), 'completed "box"', 'in a handler: a result with a cast of its own to json');
$in_eve = enqueue('fails', '{}', "queue => 'eve'");
is(outcome($in_eve), 'failed P0001', 'in a handler: a back-off function');
is(admin('SELECT s.last_value, s.is_called, a.is_called FROM eve.asked s, eve.asked_as_another a'), '1|t|f',
	'... is asked as the role');
inside('... and leaves nothing',
	["SELECT count(*) FROM pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND objid "
		. "OPERATOR(pg_catalog.=) 4711::oid"], '["eve", "eve", "off", "0"]');
is(admin("SELECT count(*) > 0, string_agg(DISTINCT what, ', ' ORDER BY what) FILTER (WHERE session_was <> 'eve' OR "
	. "current_was <> 'eve' OR super <> 'off') FROM spied"),
	't|', 'in a handler: none of that ran as somebody else');
is(admin("SELECT string_agg(w, ', ' ORDER BY w) FROM "
	. "unnest(ARRAY['deferred trigger', 'deferred trigger, reset', 'held cursor', 'cast to json', 'default']) w "
	. "WHERE w NOT IN (SELECT what FROM spied)"),
	'', '... though all of it ran');
admin('ALTER ROLE eve RESET ALL');
admin("SELECT pg_terminate_backend(pid) FROM jobqueue.worker_status WHERE role = 'eve' AND pid IS NOT NULL");

# Back into the server by another door: dblink asks for a password of those who are no superusers
SKIP: {
	my ($status) = $node->psql('app', 'CREATE EXTENSION dblink');
	skip 'the server has no contrib module dblink', 2 if $status != 0;
	my $back = sprintf 'host=%s port=%d dbname=app user=%s', $node->host, $node->port, $super;
	inside('dblink to itself', ["SELECT dblink_connect('$back')"], '2F003');
	inside('dblink without a password', ["SELECT dblink_connect_u('$back')"], '42501');
}

# Functions replaced. The server's own checks of ownership; and executor.cpp, which knows a handler by its signature:
# who may create a function of that name where it was may not have it run as the one who registered
attempt('victor', <<'SQL');
	CREATE FUNCTION public.deployed(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(current_user)';
	SELECT jobqueue.register_handler('deployed', 'public.deployed(jsonb)', 'victor', max_attempts => 1);
SQL
refuse(
	[ 'replaces a handler\'s function', 'eve',
		"CREATE OR REPLACE FUNCTION public.deployed(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT "
			. "''2''::jsonb'", '42501' ],
	[ 'takes it', 'eve', 'ALTER FUNCTION public.deployed(jsonb) OWNER TO eve', '42501' ],
	[ 'alters it', 'eve', 'ALTER FUNCTION public.deployed(jsonb) SET search_path = eve', '42501' ],
	[ 'drops it', 'eve', 'DROP FUNCTION public.deployed(jsonb)', '42501' ],
	[ 'gives its own away', 'eve', "ALTER FUNCTION eve.boxed(jsonb) OWNER TO $super", '42501' ],
	[ 'makes its own another\'s', 'eve', 'ALTER FUNCTION eve.boxed(jsonb) OWNER TO victor', '42501' ],
);
attempt('victor', 'DROP FUNCTION public.deployed(jsonb)');
attempt('eve',
	q{CREATE FUNCTION public.deployed(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb('eve was ' || }
		. q{current_user)$$});
isnt(outcome(attempt('victor', "SELECT jobqueue.enqueue('deployed')")), 'completed "eve was victor"',
	'eve: a function in the place of the one that victor registered, and dropped');
# A function that was altered after it had been registered, to run as its owner: still only that owner
attempt('eve', 'ALTER FUNCTION eve.boxed(jsonb) SECURITY DEFINER');
is(outcome(enqueue('boxed', '{}', "queue => 'eve'")), 'completed "box"',
	'eve: a function that has become SECURITY DEFINER');
# executor.cpp, require_execute(): EXECUTE is looked at when the task runs
admin('CREATE FUNCTION lent(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT \'1\'::jsonb$$');
attempt('eve', "SELECT jobqueue.register_handler('lent', 'lent(jsonb)', 'eve', max_attempts => 1)");
is(outcome(enqueue('lent', '{}', "queue => 'eve'")), 'completed 1', 'eve: a function that is lent');
admin('REVOKE EXECUTE ON FUNCTION lent(jsonb) FROM PUBLIC');
is(outcome(enqueue('lent', '{}', "queue => 'eve'")), 'failed 42501', '... and not any more');

# --------------------------------------------------------------------------------------------------------------------
# What one task leaves to the next one of its worker: worker.cpp, discard_residue()

my @mess = ('SET work_mem = \'77MB\'', 'SET search_path = eve', 'SET my.own = \'left\'',
	'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY',
	'SET ROLE spare', 'SET lock_timeout = 1', 'SET row_security = off', 'SELECT pg_advisory_lock(4712)',
		'SELECT pg_advisory_lock_shared(4713)', 'SELECT setseed(0.5)',
	'PREPARE left_prepared AS SELECT 1', 'DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1',
		"SET application_name = 'left'", 'SET TIME ZONE \'Asia/Tokyo\'');
my @temporary = ('CREATE TEMP TABLE left_table (a int)',
	'CREATE FUNCTION pg_temp.now() RETURNS int LANGUAGE sql AS \'SELECT 1\'', "SELECT nextval('eve.asked')");
my $tidy = <<'SQL' =~ s/\s+/ /gr;
	SELECT concat_ws(' ', session_user, current_user, current_setting('work_mem'), current_setting('search_path'),
		nullif(current_setting('my.own', true), ''),
		current_setting('transaction_isolation'), current_setting('transaction_read_only'),
			current_setting('default_transaction_isolation'),
		current_setting('lock_timeout'), current_setting('row_security'), current_setting('application_name') = 'left',
			current_setting('TimeZone'), current_setting('role'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
		(SELECT count(*) FROM pg_prepared_statements WHERE name ~ 'left'),
			(SELECT count(*) FROM pg_cursors WHERE name ~ 'left'),
		(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
			(SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
		(SELECT count(*) FROM pg_listening_channels()))
SQL
$tidy =~ s/^\s+//;
# the three numbers that come after setseed(0.5)
my $numbers = admin("SELECT setseed(0.5); SELECT string_agg(random()::text, ' ') FROM generate_series(1, 3)");
$numbers = (split /\n/, $numbers)[-1];
my $random = "SELECT string_agg(random()::text, ' ') FROM generate_series(1, 3)";
admin('GRANT TEMP ON DATABASE app TO eve');
admin("SELECT jobqueue.limit_role('eve', max_workers => 1)");
admin("SELECT pg_terminate_backend(pid) FROM jobqueue.worker_status WHERE role = 'eve' AND pid IS NOT NULL");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE role = 'eve'", 0, 'one process for eve');

sub result_of {
	my ($id) = @_;
	return admin("SELECT coalesce(result->>3, status || ' ' || last_error) FROM jobqueue.wait_for($id, '20 s')");
}

sub commands {
	return 'to_jsonb(ARRAY[' . join(', ', map { "\$a\$$_\$a\$" } @_) . ']::text[])';
}
my $clean = result_of(admin("SELECT jobqueue.enqueue('as eve', " . commands($tidy) . ')'));
like($clean, qr/^eve eve 4MB "\$user", public read committed off read committed 0 on f/, 'a tidy process')
	or diag $clean;
for ([ 'a task', @mess ], [ 'one with temporary objects', @temporary ], [ 'one that fails', @mess, 'SELECT 1/0' ],
	[ 'one that fails, with temporary objects', @temporary, 'SELECT 1/0' ]) {
	my ($name, @commands) = @$_;
	my ($dirty, $after, $numbers_after) = split /\n/, admin(join ";\n",
		map { "SELECT jobqueue.enqueue('as eve', $_)" } commands(@commands), commands($tidy), commands($random));
	like(outcome($dirty), $name =~ /fails/ ? qr/^failed 22012/ : qr/^completed/, "residue: $name");
	is(result_of($after), $clean, '... leaves nothing');
	isnt(result_of($numbers_after), $numbers, '... nor the seed of its random numbers');
}
my ($seeded, $drawn) = split /\n/, admin(join ";\n", map { "SELECT jobqueue.enqueue('as eve', $_)" } commands(
	'SELECT setseed(0.5)'), commands($random));
outcome($seeded);
isnt(result_of($drawn), $numbers, 'residue: the seed of random numbers');
my ($called, $asked) = split /\n/, admin(join ";\n", map { "SELECT jobqueue.enqueue('as eve', $_)" } commands(
	"SELECT nextval('eve.asked')"), commands('SELECT lastval()'));
is(outcome($called) =~ /^completed/ ? outcome($asked) : 'no nextval', 'failed 55000',
	'residue: what a sequence gave last');
# LISTEN: refused in every background process
inside('LISTEN', ['LISTEN something'], '0A000');
# Many short ones: tasks of a type that are run together, in one transaction. fused_batch.cpp, run_members():
# AtEOXact_GUC() and so on
attempt('eve', <<'SQL');
	CREATE FUNCTION eve.either(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		IF payload = '1' THEN
			SET work_mem = '77MB';
			SET search_path = eve;
			SET my.own = 'left';
			PERFORM pg_catalog.setseed(0.5);
			EXECUTE 'PREPARE left_prepared AS SELECT 1';
			PERFORM pg_catalog.nextval('eve.asked');
			SET ROLE spare;
		END IF;
		RETURN pg_catalog.to_jsonb(pg_catalog.concat_ws(' ', session_user, current_user,
			pg_catalog.current_setting('work_mem'), pg_catalog.current_setting('search_path'),
			nullif(pg_catalog.current_setting('my.own', true), ''),
				(SELECT pg_catalog.count(*) FROM pg_prepared_statements WHERE name ~ 'left'),
					pg_catalog.random()::text));
	END $$;
	SELECT jobqueue.register_handler('either', 'eve.either(jsonb)', 'eve', max_attempts => 1);
SQL
admin(<<'SQL');
	SELECT count(jobqueue.enqueue('either', to_jsonb(n % 2), 'eve')) FROM generate_series(1, 100) n;
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'either' AND status = 'completed'", 100,
	'residue: many short tasks');
is(admin(q{SELECT string_agg(DISTINCT regexp_replace(result#>>'{}', ' [0-9.e-]+$', ''), '; ') FROM jobqueue.tasks }
	. q{WHERE type = 'either' AND payload = '0'}),
	'eve eve 4MB "$user", public 0', '... leave nothing to each other');
is(admin(q{SELECT max(n) FROM (SELECT count(*) AS n FROM jobqueue.tasks WHERE type = 'either' AND payload = '0' }
	. q{GROUP BY substring(result#>>'{}' from '[0-9.e-]+$')) d}),
	1, '... nor the seed of their random numbers');
admin("SELECT jobqueue.limit_role('eve')");

# --------------------------------------------------------------------------------------------------------------------
# Names that are made to inject SQL: quote_literal() in row_policies.cpp, in_queues(); format(%I) in 50_access.sql;
# parameters everywhere else

my @names = (q{x'; DROP TABLE jobqueue.tasks; --}, q{a\\'b}, q{quo"ted' OR true --}, q{\\'); SELECT 1; --},
	q{$$ $1 %s %I %L});
for my $name (@names) {
	(my $literal = $name) =~ s/'/''/g;
	(my $role = $name) =~ s/"/""/g;
	admin(<<"SQL");
		CREATE ROLE "$role" LOGIN;
		SELECT jobqueue.grant_access('$literal', l, '$literal') FROM unnest(ARRAY['producer', 'consumer', 'manager']) l;
		SELECT jobqueue.limit_role('$literal', 2, 1000, 1000);
SQL
	for my $strings ('on', 'off') {
		my $quoted = "U&'" . join('', map { sprintf '!%04X', ord } split //, $name) . "' UESCAPE '!'";
		my $prepare =
			"SET standard_conforming_strings = on; CREATE TEMP TABLE n AS SELECT $quoted AS n; SET "
				. "standard_conforming_strings = $strings; SET escape_string_warning = off;";
		my $as = "$name, standard_conforming_strings = $strings";
		is(attempt($name,
			"$prepare SELECT count(*), coalesce(min(queue), '-') FROM jobqueue.tasks WHERE queue <> (SELECT n FROM "
				. "n)"), '0|-', "$as: reads nothing of others");
		is(attempt($name, "$prepare SELECT count(*) FROM n, LATERAL jobqueue.enqueue(n, to_jsonb(n), queue => n)"), 1,
			'... enqueues');
		is(attempt($name,
			"$prepare WITH c AS (SELECT c.* FROM n, LATERAL jobqueue.claim(n, 100, types => ARRAY[n], claimed_by => "
				. "n) c) SELECT count(*), bool_and(type = n AND queue = n) FROM c, n"), '1|t', '... claims');
		is(attempt($name, "$prepare SELECT jobqueue.enqueue('errand', queue => n || ' ') FROM n"), '42501',
			'... in no other queue');
		is(attempt($name,
			"$prepare SELECT jobqueue.pause_queue(n) AND jobqueue.resume_queue(n) FROM n; SELECT count(*) FROM n "
				. "JOIN jobqueue.queue_status q ON q.queue = n"), 1, '... manages');
		is(attempt($name,
			"$prepare SELECT jobqueue.fail(id, attempts, n, retryable => false) FROM jobqueue.tasks, n WHERE status "
				. "= 'processing'"), 'failed', '... fails');
	}
	my $ran =
		attempt($name,
			"SELECT jobqueue.register_handler(current_user::text, 'public.who(jsonb)', current_user::text); SELECT "
				. "jobqueue.enqueue(type) FROM jobqueue.handlers");
	my $json = $name =~ s/(["\\])/\\$1/gr;
	is(outcome($ran), qq{completed ["$json", "$json", {}]}, "$name: runs");
	admin("SELECT jobqueue.unregister_handler('$literal'); SELECT jobqueue.revoke_access('$literal', l) FROM "
		. "unnest(ARRAY['producer', 'consumer', 'manager']) l; SELECT jobqueue.limit_role('$literal')");
	is(attempt($name, 'SELECT jobqueue.version()'), '42501', '... and has nothing when it is taken away');
}
is(admin("SELECT count(*) > 20 FROM jobqueue.tasks"), 't', 'the tables are still there');

# --------------------------------------------------------------------------------------------------------------------
# Limits: quotas.cpp, check_quota()

admin(<<'SQL');
	CREATE ROLE lim LOGIN;
	GRANT CREATE ON SCHEMA public TO lim;
	SELECT jobqueue.grant_access('lim', l, 'lim') FROM unnest(ARRAY['producer', 'manager']) l;
	SELECT jobqueue.limit_role('lim', max_workers => 1, max_queued => 5, max_payload => 200);
SQL
my $long_text = "repeat('x', 10000)";
my $waiting =
	"SELECT count(*) <= 5 FROM jobqueue.tasks WHERE created_by = 'lim' AND status IN ('pending', 'scheduled', "
		. "'blocked')";
# row_policies.cpp, policy_condition(): payload_limit(), is_queue_limited()
refuse(
	[ 'too many', 'lim', "SELECT count(jobqueue.enqueue('flood', queue => 'lim')) FROM generate_series(1, 6)",
		'54000' ],
	[ 'too many at once', 'lim',
		"SELECT jobqueue.enqueue_many('flood', array_fill('1'::jsonb, ARRAY[6]), queue => 'lim')", '54000' ],
	[ 'too many, for later', 'lim',
		"SELECT count(jobqueue.enqueue('flood', queue => 'lim', delay => '1 day')) FROM generate_series(1, 6)",
			'54000' ],
	[ 'INSERT', 'lim', "INSERT INTO jobqueue.tasks (type, queue) VALUES ('flood', 'lim')", '42501' ],
	[ 'too large', 'lim', "SELECT jobqueue.enqueue('flood', to_jsonb($long_text), queue => 'lim')", '54000' ],
	[ 'too large at once', 'lim',
		"SELECT jobqueue.enqueue_many('flood', ARRAY['1', to_jsonb($long_text)], queue => 'lim')", '54000' ],
	[ 'too large, as metadata', 'lim',
		"SELECT jobqueue.enqueue('flood', queue => 'lim', metadata => to_jsonb($long_text))", '54000' ],
	[ 'enqueue_row(): too large', 'lim',
		"CREATE TEMP TABLE t (a text); CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION "
			. "jobqueue.enqueue_row('flood'); INSERT INTO t VALUES ($long_text)", '54000' ],
);
# enqueue_row() puts tasks where the handler of their type says
attempt('lim',
	"SELECT jobqueue.register_handler('flood', 'nothing(jsonb)', 'lim'); SELECT jobqueue.pause_queue('lim')");
refuse(
	[ 'enqueue_row(): too large', 'lim',
		"CREATE TABLE flood (a text); CREATE TRIGGER t AFTER INSERT ON flood FOR EACH ROW EXECUTE FUNCTION "
			. "jobqueue.enqueue_row('flood'); INSERT INTO flood VALUES ($long_text)", '54000' ],
	[ 'enqueue_row(): too many', 'lim', 'INSERT INTO flood SELECT n FROM generate_series(1, 20) n', '54000' ],
);
admin('GRANT spare TO lim');
refuse([ 'enqueue_row(): too many, by the hand of another role', 'lim',
	'GRANT INSERT ON flood TO spare; SET ROLE spare; INSERT INTO flood SELECT n FROM generate_series(1, 20) n',
		'54000' ]);
admin('REVOKE spare FROM lim');
is(admin("SELECT count(*) <= 5 FROM jobqueue.tasks WHERE queue = 'lim' AND status = 'pending'"), 't',
	'lim: no more than five wait');
admin("SELECT jobqueue.cancel_tasks(type => 'flood')");
# one after the other, each in a session of its own; the last one is too much
is(join(' ', map { attempt('lim', "SELECT count(jobqueue.enqueue('flood', queue => 'lim'))") } 1 .. 6),
	'1 1 1 1 1 54000', 'lim: one in each session');
admin("SELECT jobqueue.cancel_tasks(type => 'flood')");
attempt('lim', "SELECT jobqueue.resume_queue('lim')");
# scheduler/worker_pool.hpp, Role::max_workers: also for one that has more already
admin(<<'SQL');
	CREATE ROLE many LOGIN;
	CREATE FUNCTION short(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.2)';
	SELECT jobqueue.register_handler('short', 'short(jsonb)', run_as => 'many', max_attempts => 1);
	SELECT count(jobqueue.enqueue('short')) FROM generate_series(1, 2000);
SQL
wait_sql($node, 'app', "SELECT count(*) >= 3 FROM jobqueue.worker_status WHERE role = 'many'", 't',
	'many: has several processes');
admin("SELECT jobqueue.limit_role('many', max_workers => 1)");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE role = 'many'", 1,
	'many: has one when it may have no more');
admin("SELECT jobqueue.limit_role('many', max_workers => 0)");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE role = 'many'", 0,
	'many: has none when it may have none');
admin("SELECT jobqueue.purge_queue('default'), jobqueue.unregister_handler('short')");

# --------------------------------------------------------------------------------------------------------------------
# Access that is taken away

admin(<<'SQL');
	CREATE ROLE rex LOGIN;
	CREATE ROLE team;
	CREATE ROLE old LOGIN;
	GRANT CREATE ON SCHEMA public TO rex;
	SELECT jobqueue.grant_access('rex', l, q) FROM unnest(ARRAY['producer', 'consumer', 'manager']) l,
		unnest(ARRAY['rex', 'rex2']) q;
	SELECT jobqueue.grant_access('team', l, 'team') FROM unnest(ARRAY['producer', 'consumer', 'manager']) l;
	GRANT team TO rex;
	SELECT jobqueue.enqueue('errand', queue => q) FROM unnest(ARRAY['rex', 'rex2', 'team']) q;
SQL
my $open = open_session('rex');
my $queues = "SELECT string_agg(DISTINCT queue, ' ' ORDER BY queue) FROM jobqueue.tasks";
ask($open, "PREPARE queues AS $queues");
is(ask($open, 'EXECUTE queues'), 'rex rex2 team', 'rex: an open session');
my $snapshot = open_session('rex');
is(ask($snapshot, "BEGIN ISOLATION LEVEL REPEATABLE READ; $queues"), 'rex rex2 team',
	'... one with a transaction that reads from one snapshot');
attempt('rex', <<'SQL');
	CREATE TABLE public.source (a int);
	CREATE TRIGGER t AFTER INSERT ON public.source FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('as victor');
	SELECT jobqueue.register_handler('rex', 'who(jsonb)', 'rex');
SQL
is(attempt('rex', 'INSERT INTO public.source VALUES (1)'), '42501',
	'... and a trigger, which victor\'s queue does not let in');
is(outcome(admin("SELECT jobqueue.enqueue('rex', '1', 'rex')")), 'completed ["rex", "rex", 1]', '... and a handler');
is(outcome(admin("SELECT jobqueue.enqueue('rex', '2', 'team')")), 'completed ["rex", "rex", 2]',
	'... which gets tasks from the queue of its team, too');
admin("SELECT jobqueue.revoke_access('rex', l, 'rex2') FROM unnest(ARRAY['producer', 'consumer', 'manager']) l");
# row_policies.cpp, forget_policies(): plans are made again. access.cpp, callers_queues(): who may do what is read again
is(ask($open, 'EXECUTE queues'), 'rex team', 'rex: a queue that is taken away is gone from a cached plan');
is(ask($open, "SELECT jobqueue.enqueue('errand', queue => 'rex2')"), '42501', '... from enqueue()');
is(ask($open, "SELECT jobqueue.claim('rex2')"), '42501', '... from claim()');
is(ask($snapshot, "SELECT jobqueue.enqueue('errand', queue => 'rex2')"), '42501',
	'... also for who reads from an older snapshot');
ask($snapshot, 'ROLLBACK');
# Membership. PostgreSQL makes plans again for that from these minor releases on (CVE-2026-14666)
my ($major, $minor) = admin('SHOW server_version') =~ /^(\d+)\.(\d+)/;
my %made_again = (15 => 19, 16 => 15, 17 => 11, 18 => 5);
admin('REVOKE team FROM rex');
SKIP: {
	skip 'this minor release of the server keeps cached plans after a REVOKE of a membership', 1
		if $minor < ($made_again{$major} // 0);
	is(ask($open, 'EXECUTE queues'), 'rex', 'rex: a membership that is taken away is gone from a cached plan');
}
is(ask($open, "SELECT jobqueue.enqueue('errand', queue => 'team')"), '42501', '... from enqueue()');
is(ask($open, "SELECT jobqueue.claim('team')"), '42501', '... from claim()');
# A handler that was registered: claimer.cpp, scope_of_handlers(), with what access.cpp says of its role by now
my $elsewhere = admin("SELECT jobqueue.enqueue('rex', '3', 'team')");
is(outcome(admin("SELECT jobqueue.enqueue('rex', '4', 'rex')")), 'completed ["rex", "rex", 4]',
	'... from its handler, which runs in its own queue');
wait_a_look();
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $elsewhere"), 'pending', '... and not in the team\'s');
admin("SELECT jobqueue.revoke_access('rex', l) FROM unnest(ARRAY['producer', 'consumer', 'manager']) l");
is(ask($open, 'EXECUTE queues'), '42501', 'rex: all that it had is taken away, from a cached plan');
is(ask($open, "SELECT jobqueue.enqueue('errand', queue => 'rex')"), '42501', '... from enqueue()');
is(ask($open, 'INSERT INTO public.source VALUES (1)'), '42501', '... from a trigger that it made before');
is(admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'as victor' AND created_by = 'rex'"), 0,
	'... which has added nothing');
my @none = map { admin("SELECT jobqueue.enqueue('rex', '5', '$_')") } qw(rex rex2 team victor);
wait_a_look();
is(admin('SELECT string_agg(DISTINCT status, \' \') FROM jobqueue.tasks WHERE id IN (' . join(',', @none) . ')'),
	'pending', '... from its handler, which gets nothing any more');
$open->quit;
$snapshot->quit;
# watch.cpp, jobqueue_wait_for: what may be seen is asked again when there is something to see
admin("SELECT jobqueue.grant_access('rex', 'consumer', 'rex')");
my $awaited = admin("SELECT jobqueue.enqueue('errand', queue => 'rex')");
my $waits = open_session('rex');
$waits->query_until(qr/begins/, "\\echo begins\nSELECT (jobqueue.wait_for($awaited)).status;\n");
wait_sql($node, 'app', "SELECT count(*) FROM pg_stat_activity WHERE usename = 'rex' AND state = 'active'", 1,
	'rex: waits for a task');
admin("SELECT jobqueue.revoke_access('rex', 'consumer')");
admin("SELECT jobqueue.cancel($awaited)");
unlike($waits->query('SELECT 1'), qr/cancelled/, '... and is not told how it ended when it may not read it any more');
$waits->quit;
admin("SELECT jobqueue.unregister_handler('rex'); DROP TABLE public.source");

# A manager of all queues that becomes one of a single queue: its handlers, too
admin("SELECT jobqueue.grant_access('rex', 'manager')");
attempt('rex', "SELECT jobqueue.register_handler('rex', 'who(jsonb)', 'rex')");
is(outcome(admin("SELECT jobqueue.enqueue('rex', '1', 'victor')")), 'completed ["rex", "rex", 1]',
	'rex: as a manager of all queues, its handler gets tasks of all');
admin("SELECT jobqueue.revoke_access('rex', 'manager'); SELECT jobqueue.grant_access('rex', 'manager', 'rex')");
$elsewhere = admin("SELECT jobqueue.enqueue('rex', '2', 'victor')");
is(outcome(admin("SELECT jobqueue.enqueue('rex', '3', 'rex')")), 'completed ["rex", "rex", 3]',
	'... then of one queue');
wait_a_look();
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $elsewhere"), 'pending', '... only');
# what a role may do by its own hand is lose everything: the mark does not go alone
attempt('rex', 'DROP OWNED BY rex');
is(attempt('rex', "SELECT jobqueue.pause_queue('victor')"), '42501',
	'rex: has dropped what limited it, and has nothing left');
admin("SELECT jobqueue.unregister_handler('rex')");

# --------------------------------------------------------------------------------------------------------------------
# Names that are given to somebody else: access.cpp, queues_among(): an entry counts only for a role that bears the mark

admin(<<'SQL');
	SELECT jobqueue.grant_access('old', l, 'old') FROM unnest(ARRAY['producer', 'consumer', 'manager']) l;
	GRANT CREATE ON SCHEMA public TO old;
SQL
attempt('old',
	"SELECT jobqueue.enqueue('errand', '\"of old\"', queue => 'old'); SELECT jobqueue.register_handler('old', "
		. "'who(jsonb)', 'old')");
is(outcome(admin("SELECT jobqueue.enqueue('old', '1', 'old')")), 'completed ["old", "old", 1]',
	'old: its handler runs');
admin('ALTER ROLE old RENAME TO renamed');
refuse(
	[ 'has access to no queue', 'renamed', "SELECT jobqueue.enqueue('errand', queue => 'old')", '42501' ],
	[ 'reads nothing', 'renamed', 'SELECT count(*) FROM jobqueue.tasks', 0 ],
);
# Another one takes the name: one that has access to a queue of its own
admin("CREATE ROLE other LOGIN; SELECT jobqueue.grant_access('other', l, 'other') FROM "
	. "unnest(ARRAY['producer', 'consumer', 'manager']) l; ALTER ROLE other RENAME TO old");
refuse(
	[ 'who is so called now', 'old', "SELECT jobqueue.enqueue('errand', queue => 'old')", '42501' ],
	[ '... claims nothing', 'old', "BEGIN; SELECT jobqueue.claim('old'); ROLLBACK", '42501' ],
	[ '... manages nothing', 'old', "BEGIN; SELECT jobqueue.pause_queue('old'); ROLLBACK", '42501' ],
	[ '... reads nothing', 'old', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'old' AND created_by <> 'old'",
		0 ],
	[ '... sees nothing', 'old', "SELECT count(*) FROM jobqueue.queue_status WHERE queue = 'old'", 0 ],
);
# ... and is nobody's deputy: scheduler/configuration.cpp, why_not_run(): a handler is for the role that it was
# registered for
my $deputy = admin("SELECT jobqueue.enqueue('old', '2', 'old')");
wait_a_look();
is(admin("SELECT concat_ws(' ', status, result::text) FROM jobqueue.tasks WHERE id = $deputy"), 'pending',
	'old: does not run what another of that name registered');
admin("SELECT jobqueue.unregister_handler('old'); DROP OWNED BY old, renamed; DROP ROLE old; DROP ROLE renamed");
# A new one, a member of a team: it has what the team has
admin('CREATE ROLE old LOGIN IN ROLE team');
refuse(
	[ 'a new one of that name', 'old', "SELECT jobqueue.enqueue('errand', queue => 'old')", '42501' ],
	[ '... claims nothing', 'old', "BEGIN; SELECT jobqueue.claim('old'); ROLLBACK", '42501' ],
	[ '... reads nothing', 'old', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'old' AND created_by <> 'old'",
		0 ],
	[ '... sees nothing', 'old', "SELECT count(*) FROM jobqueue.queue_status WHERE queue = 'old'", 0 ],
	[ '... has what its team has', 'old', "SELECT jobqueue.enqueue('errand', queue => 'team') > 0", 't' ],
);
# A team that has lost everything, and a member with access of its own: 40_views.sql, _watched_queues; access.cpp
admin("SELECT jobqueue.grant_access('old', l, 'olds') FROM unnest(ARRAY['producer', 'consumer', 'manager']) l");
admin('DROP OWNED BY team');
refuse(
	[ 'what its team had', 'old', "SELECT jobqueue.enqueue('errand', queue => 'team')", '42501' ],
	[ '... claims nothing', 'old', "SELECT jobqueue.claim('team')", '42501' ],
	[ '... sees nothing', 'old', "SELECT count(*) FROM jobqueue.queue_status WHERE queue = 'team'", 0 ],
);

# --------------------------------------------------------------------------------------------------------------------
# Roles that change while their tasks run: the process is that of the role as it was when it began

my %changes = (
	changed => 'ALTER ROLE changed RENAME TO changed_since; CREATE ROLE changed SUPERUSER',
	dropped => 'DROP ROLE dropped',
	stripped => 'DROP OWNED BY stripped; REASSIGN OWNED BY stripped TO eve',
	locked =>
		'REVOKE EXECUTE ON FUNCTION attack(jsonb) FROM PUBLIC; GRANT EXECUTE ON FUNCTION attack(jsonb) TO eve, '
			. 'changed_since, stripped',
);
admin("CREATE ROLE $_ LOGIN; SELECT jobqueue.register_handler('of $_', 'attack(jsonb)', run_as => '$_', max_attempts "
	. "=> 1)") for sort keys %changes;
my $gate = $node->background_psql('app');
$gate->query_safe('SELECT pg_advisory_lock(1)');
my %running =
	map { $_ =>
		admin("SELECT jobqueue.enqueue('of $_', '[\"SELECT pg_advisory_xact_lock_shared(1)\", \"SELECT 1\"]')")
	} sort keys %changes;
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.worker_status WHERE task_id IN (' . join(',', values %running)
	. ')', 4, 'four roles run something');
admin($changes{$_}) for sort keys %changes;
$gate->quit;
like(outcome($running{changed}), qr/^(completed \["changed_since", "changed_since", "off", "1"\]|failed )/,
	'changed: who was renamed stays who it was');
like(outcome($running{dropped}), qr/^failed /, 'dropped: who was dropped is nobody');
like(outcome($running{stripped}), qr/^completed \["stripped", "stripped", "off", "1"\]/,
	'stripped: what it had owned is no matter');
like(outcome($running{locked}), qr/^completed \["locked", "locked", "off", "1"\]/, 'locked: what was called may end');
my %after = map { $_ => admin("SELECT jobqueue.enqueue('of $_', '[]')") } sort keys %changes;
is(outcome($after{locked}), 'failed 42501', 'locked: EXECUTE is gone for the next task');
wait_a_look();
is(admin("SELECT status FROM jobqueue.tasks WHERE id = $after{dropped}"), 'pending', 'dropped: the next task waits');
is(admin("SELECT concat_ws(' ', status, result::text) FROM jobqueue.tasks WHERE id = $after{changed}"), 'pending',
	'changed: the next task is not for the superuser who bears that name now');
is(attempt('eve', 'REASSIGN OWNED BY victor TO eve'), '42501', 'eve: REASSIGN OWNED');
is(attempt('eve', 'DROP OWNED BY victor'), '42501', 'eve: DROP OWNED');
is(attempt('eve', 'DROP ROLE victor'), '42501', 'eve: DROP ROLE');
is(attempt('eve', 'ALTER ROLE victor RENAME TO eve2'), '42501', 'eve: ALTER ROLE');
admin("SELECT jobqueue.unregister_handler(type) FROM jobqueue.handlers WHERE type ~ '^of '; DROP ROLE changed");

# --------------------------------------------------------------------------------------------------------------------
# What stands in the way of the installation: 00_guard.sql

$node->safe_psql('postgres', 'CREATE DATABASE planted');
$node->safe_psql('planted', 'GRANT CREATE ON DATABASE planted TO eve');
attempt('eve',
	"CREATE SCHEMA jobqueue; CREATE FUNCTION jobqueue.enqueue(text, text) RETURNS bigint LANGUAGE sql AS 'SELECT "
		. "1::bigint'", 'planted');
isnt(($node->psql('planted', 'CREATE EXTENSION jobqueue'))[0], 0,
	'eve: a schema that was there before, with a function in it, is not adopted');

# --------------------------------------------------------------------------------------------------------------------
# One tenant with much to do, and one with little: scheduler/worker_pool.cpp, is_last_free()

admin(<<'SQL');
	CREATE ROLE big LOGIN;
	CREATE ROLE small LOGIN;
	SELECT jobqueue.grant_access('big', l, 'big'), jobqueue.grant_access('small', l, 'small')
		FROM unnest(ARRAY['producer', 'consumer', 'manager']) l;
	CREATE FUNCTION a_minute(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
	SELECT jobqueue.unregister_handler(type) FROM jobqueue.handlers WHERE run_as NOT IN ('big', 'small');
SQL
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.worker_status', 0, 'nothing runs');
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 3');
$node->reload;
attempt('big', "SELECT jobqueue.register_handler('a minute', 'a_minute(jsonb)', 'big')");
attempt('small', "SELECT jobqueue.register_handler('a moment', 'nothing(jsonb)', 'small')");
attempt('big', "SELECT count(jobqueue.enqueue('a minute')) FROM generate_series(1, 500)");
my $held = "SELECT count(*) FROM jobqueue.worker_status WHERE role = 'big'";
wait_sql($node, 'app', $held, 2, 'big: has all places but one');
my $most = 2;
my $watch = sub {
	my $now = admin($held);
	$most = $now if $now > $most;
};
# long enough for several looks of the scheduler, which would give it the last one
for (my $end = time + 2.5; time < $end; usleep(100_000)) {
	$watch->();
}
my $began = time;
attempt('small', "SELECT count(jobqueue.enqueue('a moment')) FROM generate_series(1, 10)");
my $done =
	wait_for(
		sub { $watch->(); admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'a moment' AND status = "
			. "'completed'") == 10 });
ok($done, 'small: its ten tasks are done at once') and note sprintf 'after %.1f s', time - $began;
is($most, 2, 'big: has never had all places');

# --------------------------------------------------------------------------------------------------------------------

is(scalar(grep { !/(?:STATEMENT|CONTEXT):/ } log_matches($node, qr/\Q$secret\E/)), 0, 'the log has no payloads');
is(join("\n", log_matches($node, qr/PANIC:|TRAP:|was terminated by signal|stuck spinlock/)), '', 'nothing has crashed');
$node->stop('fast');
done_testing();
