# Batch handlers: f(payloads jsonb[]) and f(tasks jobqueue.tasks[]) get up to batch_size tasks in one call.
#
# Everything is done twice: fused (row locks, the handler is known to be short) and durably (all tasks of the batch are
# processing, as everybody sees)
# - how many, in which order, whose, what of their rows; results, null and void; an array of the wrong length
# - an error: the batch is split until the culprit is alone; only that one is charged
# - snooze, discard, current_task, with one task and with several
# - tasks with unique_key, timeout, an earlier failure
# - timeouts, cancel() of one of a running batch, of all of it
# - a worker that ends in a batch of several charges nobody, and the culprit is found
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('batches', autovacuum => 'off', restart_after_crash => 'on', 'jobqueue.max_workers' => 1);
create_queue($node, 'app');

sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql", extra_params => [ '-U', 'app' ]);
}

$node->safe_psql('app', <<'SQL');
	CREATE ROLE app LOGIN;
	GRANT ALL ON SCHEMA public TO app;
	GRANT pg_signal_backend TO app;
	SELECT jobqueue.grant_access('app', a) FROM unnest('{manager,producer}'::text[]) a;
	CREATE FUNCTION bad_crash(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_vanish(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
SQL
sql(<<'SQL');
	CREATE TABLE effects (task bigint, n int, call bigint, size int, xid xid8 DEFAULT pg_current_xact_id(),
		pid int DEFAULT pg_backend_pid(), seq bigserial);
	CREATE SEQUENCE calls;
	CREATE TABLE gate (name text);
	CREATE TABLE checked (bad boolean);
	-- One row for each task of a call; without tasks, their payloads.
	CREATE FUNCTION note(payloads jsonb[], tasks jobqueue.tasks[] DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
		WITH c AS MATERIALIZED (SELECT nextval('public.calls') AS call)
		INSERT INTO public.effects (task, n, call, size)
			SELECT (tasks[i]).id, (coalesce(payloads[i], (tasks[i]).payload)->>'n')::int, call,
				greatest(cardinality(payloads), cardinality(tasks))
			FROM c, generate_series(1, greatest(cardinality(payloads), cardinality(tasks))) i ORDER BY i;
		SELECT currval('public.calls')
	$$;
	CREATE FUNCTION numbers(payloads jsonb[]) RETURNS jsonb[] LANGUAGE sql
		AS 'SELECT array_agg(p->$$n$$ ORDER BY i) FROM unnest(payloads) WITH ORDINALITY u (p, i)';
SQL
sql($check_at_commit);

# handler(type, body, options): takes payloads, or tasks if the body uses them
sub handler {
	my ($type, $body, %how) = @_;
	my $argument = $how{tasks} ? 'tasks jobqueue.tasks[]' : 'payloads jsonb[]';
	my $options = join '', map { ", $how{options}{$_}" =~ s/^, /, $_ => /r } sort keys %{ $how{options} // {} };
	$body = "BEGIN $body END" unless $body =~ /^\s*(DECLARE|BEGIN)\b/;
	my $returns = $how{returns} // 'jsonb[]';
	sql("CREATE FUNCTION h_$type($argument) RETURNS $returns LANGUAGE plpgsql AS \$handler\$ $body \$handler\$;
		SELECT jobqueue.register_handler('$type', 'h_$type(" . ($how{tasks} ? 'jobqueue.tasks[]' : 'jsonb[]')
			. ")', batch_size => " . ($how{size} // 10) . "$options)");
}

sub fresh_worker {
	my $workers = q[SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'];
	$node->safe_psql('postgres', $workers =~ s/count\(\*\)/pg_terminate_backend(pid)/r);
	poll_sql($node, 'postgres', $workers, 0) or die 'the worker does not end';
}

sub set {
	my (%changed) = @_;
	$node->append_conf('postgresql.conf', join '', map { "$_ = $changed{$_}\n" } sort keys %changed);
	$node->reload;
	fresh_worker();
}

# Enqueues count tasks, numbered, while nothing runs. Returns their ids.
sub fill {
	my ($type, $count, $more) = @_;
	return split /\n/, sql(<<SQL);
		SELECT FROM jobqueue.pause_queue(NULL);
		SELECT jobqueue.enqueue('$type', jsonb_build_object('n', n) || '@{[ $more // '{}' ]}')
			FROM generate_series(1, $count) n;
SQL
}

sub resume {
	sql('SELECT FROM jobqueue.resume_queue(NULL)');
}

my $rest =
	"SELECT count(*) FROM jobqueue.tasks_live WHERE status IN ('pending', 'processing') OR run_at < now() + interval "
		. "'1 minute'";

sub at_rest {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node, 'app', $rest, 0, "$name: all are done") || diag $node->safe_psql('app',
		'SELECT t FROM jobqueue.tasks_live t ORDER BY id LIMIT 5');
}

sub run {
	my ($name, @what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @ids = fill(@what);
	resume();
	at_rest($name);
	return @ids;
}

# What has become of these tasks: "1 completed 1/20 - result", one for each kind, with their numbers
sub become {
	my (@ids) = @_;
	return sql(<<SQL);
		SELECT string_agg(n || ': ' || what, '; ' ORDER BY first) FROM (
			SELECT min(id) AS first, CASE WHEN count(*) > 3 THEN 'others'
				ELSE string_agg(payload->>'n', ',' ORDER BY id) END AS n, what FROM (
				SELECT id, payload, concat_ws(' ', status, attempts || '/' || max_attempts,
					coalesce(last_sqlstate, '-'), CASE WHEN result = payload->'n' THEN 'own'
						ELSE coalesce(result::text, '-') END,
					'failures ' || coalesce(jsonb_array_length(failures), 0),
						CASE WHEN crashes > 0 THEN 'crashes ' || crashes END) AS what
				FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1]) t
			GROUP BY what) s
SQL
}

# Each task has its effect, in the calls that count; these have had one each.
sub has_effects {
	my ($name, $first, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM effects WHERE seq > $first"), join(' ', @expected),
		"$name: one effect each");
}

sub mark {
	return sql('SELECT coalesce(max(seq), 0) FROM effects');
}

# One of: the sizes of the batches, in order; how many transactions.
sub sizes {
	my ($mark) = @_;
	return sql("SELECT string_agg(size::text, ' ' ORDER BY call) FROM (SELECT DISTINCT call, size FROM effects WHERE "
		. "seq > $mark) c");
}

sub failures_in_log {
	my ($offset, @ids) = @_;
	my $ids = join '|', @ids;
	return scalar(log_matches($node, qr/jobqueue worker: [A-Z]+: .*task (?:$ids) .*failed/, $offset));
}

handler('numbers', q[PERFORM note(payloads); RETURN numbers(payloads);], options => { max_attempts => 1 });
handler('rows',
	q[PERFORM note(NULL, tasks); RETURN ARRAY(SELECT to_jsonb(t) - ]
		. q['{id,created_at,updated_at,processed_at,payload}'::text[]
	|| jsonb_build_object('n', t.payload->'n', 'times', t.processed_at BETWEEN t.created_at AND clock_timestamp(), ]
		. q['claimed_by', t.claimed_by ~ 'worker') FROM unnest(tasks) t);], tasks => 1);
handler('nothing', q[PERFORM note(payloads);], returns => 'void', options => { max_attempts => 1 });
handler('some_null',
	q[PERFORM note(payloads); RETURN (numbers(payloads))[1:1] || array_fill(NULL::jsonb, ]
		. q[ARRAY[cardinality(payloads) - 1]);], options => { max_attempts => 1 });
handler('null', q[PERFORM note(payloads); RETURN NULL;], options => { max_attempts => 1 });
handler('too_few', q[PERFORM note(payloads); RETURN '{}';], options => { max_attempts => 1 });
handler('too_many', q[PERFORM note(payloads); RETURN payloads || payloads;], options => { max_attempts => 1 });
handler('lucky',
	<<'SQL', tasks => 1, options => { max_attempts => 2, first_delay => "'0'", jitter => 0, backoff => "'fixed'" });
	DECLARE
		task jobqueue.tasks;
	BEGIN
		PERFORM note(NULL, tasks);
		FOREACH task IN ARRAY tasks LOOP
			IF (task.payload->>'n')::int = 7 OR (task.payload->>'n')::int = 17 AND task.attempts = 1 THEN
				RAISE EXCEPTION 'no luck with %', task.payload->'n' USING ERRCODE = 'XY123';
			END IF;
		END LOOP;
		RETURN numbers(ARRAY(SELECT t.payload FROM unnest(tasks) t));
	END
SQL
handler('checked',
	q[PERFORM note(payloads); INSERT INTO checked SELECT p->>'n' = '7' FROM unnest(payloads) p; RETURN ]
		. q[numbers(payloads);], options => { max_attempts => 1 });
handler('snoozes',
	q[PERFORM note(payloads); IF payloads[1]->>'n' = '3' OR cardinality(payloads) > 3 THEN PERFORM ]
		. q[jobqueue.snooze('1 hour'); END IF; RETURN numbers(payloads);], options => { max_attempts => 1 });
handler('discards',
	q[PERFORM note(payloads); IF payloads @> ARRAY['{"n": 3}'::jsonb] THEN PERFORM jobqueue.discard('no use'); END ]
		. q[IF; RETURN numbers(payloads);], options => { max_attempts => 1 });
handler('current',
	q[PERFORM note(payloads); RETURN ARRAY(SELECT to_jsonb((jobqueue.current_task()).payload) || ]
		. q[jsonb_build_object('of', cardinality(payloads)) FROM unnest(payloads));], options => { max_attempts => 1 });
handler('progresses', q[PERFORM note(payloads); PERFORM jobqueue.set_progress(0.5); RETURN numbers(payloads);],
	options => { max_attempts => 1 });
handler('leaves',
	q[PERFORM note(payloads), set_config('work_mem', '1MB', false), pg_advisory_lock(1); CREATE TEMP TABLE ]
		. q[left_here (); RETURN array_fill(to_jsonb(0), ARRAY[cardinality(payloads)]);],
		options => { max_attempts => 1 });
handler('finds',
	q[PERFORM note(payloads); RETURN array_fill(to_jsonb(format('%s %s %s', current_setting('work_mem'), (SELECT ]
		. q[count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
	to_regclass('pg_temp.left_here'))), ARRAY[cardinality(payloads)]);], options => { max_attempts => 1 });
sql(q[CREATE FUNCTION single(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT public.note(ARRAY[payload]); ]
	. q[SELECT payload->$$n$$'; SELECT jobqueue.register_handler('single', 'single(jsonb)')]);

# Once with fused batches, and once with those of a worker that fuses nothing.
for my $mode ('fused', 'durable') {
	set('jobqueue.fused_after' => 0, 'jobqueue.fused_time' => $mode eq 'fused' ? 1000 : 0);
	my $offset = log_size($node);

	my $mark = mark();
	my @ids = run("$mode, numbers", 'numbers', 95);
	has_effects("$mode, numbers", $mark, 1 .. 95);
	is(become(@ids), 'others: completed 1/1 - own failures 0', "$mode: each gets its own result");
	cmp_ok(sql("SELECT max(size) FROM effects WHERE seq > $mark"), '<=', 10, "$mode: at most batch_size to a call");
	cmp_ok(sql("SELECT count(DISTINCT call) FROM effects WHERE seq > $mark"), '<=', 30, "$mode: they come in batches")
		or diag sizes($mark);
	is(sql("SELECT array_agg(n ORDER BY seq) = array_agg(n ORDER BY n) FROM effects WHERE seq > $mark"), 't',
		"$mode: first in, first out");
	note "$mode: batches of " . sizes($mark);
	note "$mode: transactions: " . sql("SELECT count(DISTINCT xid) FROM effects WHERE seq > $mark");

	$mark = mark();
	@ids = run("$mode, rows", 'rows', 30);
	is(sql("SELECT count(*), count(DISTINCT result - 'n') FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1] "
		. "AND status = 'completed' AND result->'n' = payload->'n'"), '30|1',
		"$mode: rows of tasks");
	is(sql("SELECT result->>'status', result->>'attempts', result->>'max_attempts', result->>'times', "
		. "result->>'claimed_by', result->>'type', result->>'queue' FROM jobqueue.tasks WHERE id = $ids[3]"),
		'processing|1|20|true|true|rows|default', "$mode: ... as claimed");
	is(sql("SELECT count(*) FROM effects WHERE seq > $mark AND task BETWEEN $ids[0] AND $ids[-1]"), 30,
		"$mode: ... with their ids");
	is(sql("SELECT count(*) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1] AND attempts = 1 AND "
		. "max_attempts = 20 AND processed_at BETWEEN created_at AND finished_at AND claimed_by ~ 'worker'
		AND lease_expires_at IS NULL AND run_at IS NULL"), 30,
		"$mode: ... and their rows are what they are for single tasks")
			or diag sql("SELECT t FROM jobqueue.tasks t WHERE id = $ids[3]");

	@ids = run("$mode, nothing", 'nothing', 25);
	is(become(@ids), 'others: completed 1/1 - - failures 0', "$mode: void gives no results");
	@ids = run("$mode, null", 'null', 12);
	is(become(@ids), 'others: completed 1/1 - - failures 0', "$mode: null gives no results");
	@ids = run("$mode, some null", 'some_null', 12);
	like(sql("SELECT count(result), count(*) FILTER (WHERE status = 'completed') FROM jobqueue.tasks WHERE id "
		. "BETWEEN $ids[0] AND $ids[-1]"), qr/^[2-9]\|12$/, "$mode: some null");
	for my $type ('too_few', 'too_many') {
		$mark = mark();
		@ids = run("$mode, $type", $type, 5);
		like(become(@ids), qr/^others: failed 1\/1 (?!-)\S+ - failures 1$/, "$mode: $type results are an error");
		has_effects("$mode, $type", $mark);
		note sql("SELECT DISTINCT last_sqlstate, last_error FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1]");
	}

	# an error
	$mark = mark();
	my $here = log_size($node);
	@ids = run("$mode, error", 'lucky', 30);
	is(become(@ids),
		'others: completed 1/2 - own failures 0; 7: failed 2/2 XY123 - failures 2; 17: completed 2/2 XY123 own '
			. 'failures 1', "$mode: an error: only the culprits are charged");
	has_effects("$mode, error", $mark, 1 .. 6, 8 .. 30);
	is(failures_in_log($here, @ids), 3, "$mode: an error: a line in the log for each failed attempt");
	is(sql("SELECT string_agg(f->>'attempt' || ' ' || (f->>'message'), ', ') FROM jobqueue.tasks, "
		. "jsonb_array_elements(failures) f WHERE id = $ids[6]"), '1 no luck with 7, 2 no luck with 7',
		"$mode: an error: the failed attempts are kept");
	cmp_ok(sql("SELECT count(DISTINCT call) FROM effects WHERE seq > $mark"), '<', 25,
		"$mode: an error: the others still come in batches") or diag sizes($mark);
	$mark = mark();
	@ids = run("$mode, commit", 'checked', 12);
	is(become(@ids), 'others: completed 1/1 - own failures 0; 7: failed 1/1 XC001 - failures 1',
		"$mode: an error at the commit: likewise");
	has_effects("$mode, commit", $mark, 1 .. 6, 8 .. 12);

	# what a handler may say of one task only
	fresh_worker();
	$mark = mark();
	@ids = run("$mode, snooze", 'snoozes', 12);
	like(sql("SELECT string_agg(payload->>'n' || ' ' || status || ' ' || attempts || '/' || max_attempts, ', ' ORDER "
		. "BY id) FILTER (WHERE status <> 'completed'), count(*) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND "
		. "$ids[-1] AND failures IS NULL"),
		qr/^(3 scheduled 1\/2)?\|12$/, "$mode: snooze() splits a batch, and is charged to nobody");
	has_effects("$mode, snooze", $mark, 1 .. 12);
	cmp_ok(sql("SELECT max(size) FROM effects WHERE seq > $mark"), '<=', 3, "$mode: ... not in a batch of several");
	$mark = mark();
	@ids = run("$mode, discard", 'discards', 12);
	is(become(@ids), 'others: completed 1/1 - own failures 0; 3: failed 1/1 JQ003 - failures 1',
		"$mode: discard() is of one task");
	has_effects("$mode, discard", $mark, 1, 2, 4 .. 12);
	$mark = mark();
	@ids = run("$mode, current_task", 'current', 6);
	is(sql("SELECT count(*) FILTER (WHERE result IS NULL), count(failures) FROM jobqueue.tasks WHERE id BETWEEN "
		. "$ids[0] AND $ids[-1]"), '6|0', "$mode: current_task() of several is null");
	@ids = run("$mode, progress", 'progresses', 12);
	is(become(@ids), 'others: completed 1/1 - own failures 0', "$mode: set_progress() does no harm");

	# what is left behind
	sql(q[SELECT FROM jobqueue.pause_queue(NULL); SELECT jobqueue.enqueue(CASE n % 4 WHEN 0 THEN 'leaves' ELSE ]
		. q['finds' END, jsonb_build_object('n', n)) FROM generate_series(1, 40) n]);
	resume();
	at_rest("$mode, leaves");
	is(sql("SELECT DISTINCT status, result FROM jobqueue.tasks WHERE type = 'finds'"), 'completed|"4MB 0 "',
		"$mode: a batch finds nothing of those before it");
	$node->safe_psql('app', q[DELETE FROM jobqueue.tasks WHERE type IN ('leaves', 'finds')]);

	# those that are run alone, and those of other types between them
	$mark = mark();
	@ids = fill('numbers', 24);
	$node->safe_psql('app',
		"UPDATE jobqueue.tasks SET unique_key = id WHERE id = $ids[2]; UPDATE jobqueue.tasks SET timeout = '1 min' "
			. "WHERE id = $ids[9];
		UPDATE jobqueue.tasks SET attempts = 1, max_attempts = 2, failures = '[{\"attempt\": 1}]', last_sqlstate = "
			. "'XX000' WHERE id = $ids[14]");
	resume();
	at_rest("$mode, alone");
	is(become(@ids), 'others: completed 1/1 - own failures 0; 15: completed 2/2 XX000 own failures 1',
		"$mode: some that are run alone");
	is(sql("SELECT string_agg(n || ' ' || size, ', ' ORDER BY n) FROM effects WHERE seq > $mark AND n IN (3, 10, 15)"),
		'3 1, 10 1, 15 1', "$mode: ... are");
	has_effects("$mode, alone", $mark, 1 .. 24);
	$mark = mark();
	sql(q[SELECT FROM jobqueue.pause_queue(NULL); SELECT ]
		. q[jobqueue.enqueue((ARRAY['numbers', 'single', 'nothing'])[1 + n % 3], jsonb_build_object('n', n), ]
		. q[priority => n % 2, queue => (ARRAY['default', 'q2'])[1 + n % 2]) FROM generate_series(1, 60) n]);
	@ids = split /\n/, sql("SELECT id FROM jobqueue.tasks WHERE status = 'pending' ORDER BY id");
	sql(q[SELECT jobqueue.alter_handler('single', queue => 'q2')]);
	resume();
	at_rest("$mode, mixed");
	is(sql("SELECT count(*) FILTER (WHERE status = 'completed' AND result IS NOT DISTINCT FROM CASE WHEN type <> "
		. "'nothing' THEN payload->'n' END) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1]"), 60,
		"$mode: several types and queues, each gets its own result");
	has_effects("$mode, mixed", $mark, 1 .. 60);
	is(unexpected_in_log($node, qr/FATAL:  terminating background worker/, $offset), '',
		"$mode: nothing unexpected in the log");
	$node->safe_psql('app', "DELETE FROM jobqueue.tasks WHERE status = 'scheduled'");
}
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE status NOT IN ('completed', 'failed')"), 0, 'nothing is left');

# Other batch sizes
set('jobqueue.fused_time' => 10, 'jobqueue.fused_after' => 3);
handler('big', q[PERFORM note(payloads); RETURN numbers(payloads);], size => 1000, options => { max_attempts => 1 });
my $mark = mark();
my @ids = run('1000 at once', 'big', 3000);
is(become(@ids), 'others: completed 1/1 - own failures 0', '1000 at once: completed');
is(sql("SELECT count(*), count(DISTINCT n), max(size) > 60, max(size) <= 1000 FROM effects WHERE seq > $mark"),
	'3000|3000|t|t', '1000 at once: each once, in large batches') or diag sizes($mark);
note '1000 at once: ' . sizes($mark);
sql(q[SELECT jobqueue.alter_handler('big', batch_size => 3)]);
$mark = mark();
@ids = run('altered', 'big', 30);
cmp_ok(sql("SELECT max(size) FROM effects WHERE seq > $mark"), '<=', 3, 'a smaller batch_size holds at once');
sql(q[SELECT jobqueue.alter_handler('big', batch_size => 1)]);
$mark = mark();
@ids = run('one', 'big', 10);
is(sizes($mark), join(' ', (1) x 10), 'batch_size 1: arrays of one');

# --------------------------------------------------------------------------------------------------------------------
# Slow ones: the batch is claimed durably

handler('gated', <<'SQL', tasks => 1, size => 6, options => { max_attempts => 2, first_delay => "'0'", jitter => 0 });
	BEGIN
		PERFORM note(NULL, tasks);
		IF cardinality(tasks) > 1 OR (tasks[1]).payload ? 'wait' THEN
			PERFORM set_config('application_name', 'gated', true);
			WHILE NOT EXISTS (SELECT FROM gate WHERE name = 'open') LOOP
				PERFORM pg_sleep(0.005);
			END LOOP;
		END IF;
		RETURN numbers(ARRAY(SELECT t.payload FROM unnest(tasks) t));
	END
SQL
set('jobqueue.fused_time' => 0);

# Runs six of them, up to the gate. Returns the process, and the ids.
sub run_gated {
	open_gate(); # a worker begins with small batches
	fill('gated', 40);
	resume();
	poll_sql($node, 'app', $rest, 0);
	sql('DELETE FROM gate');
	my (@ids) = fill('gated', 6);
	$mark = mark();
	resume();
	my $pid;
	wait_for(sub {
		$pid = sql("SELECT w.pid FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE w.task_type "
			. "= 'gated' AND a.wait_event = 'PgSleep'")
			&& sql("SELECT count(*) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1] AND status = "
				. "'processing'") > 1
			&& sql("SELECT pid FROM jobqueue.worker_status WHERE task_type = 'gated'");
	}) or die 'it does not run: ' . $node->safe_psql('app', 'SELECT t FROM jobqueue.tasks_live t');
	return ($pid, @ids);
}

sub open_gate { sql(q[INSERT INTO gate VALUES ('open')]) }

my $pid;
($pid, @ids) = run_gated();
is(sql("SELECT string_agg(DISTINCT concat_ws(' ', status, attempts, lease_expires_at, claimed_by IS NOT NULL, "
	. "processed_at IS NOT NULL), ', ') FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1]"),
	'processing 1 infinity t t', 'durable: all tasks of the batch are processing');
is(sql("SELECT count(*), count(DISTINCT pid) FROM jobqueue.running_tasks WHERE id BETWEEN $ids[0] AND $ids[-1]"), '6|1',
	'... and in running_tasks, with their worker');
is(sql("SELECT jobqueue.cancel($ids[2], 'enough')"), 't', 'cancel() of one of a running batch');
is(sql("SELECT status FROM jobqueue.tasks WHERE id = $ids[2]"), 'cancelled', '... it is');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE task_type = 'gated'", 1, '... others go on');
open_gate();
at_rest('cancelled');
is(become(@ids), 'others: completed 1/2 - own failures 0; 3: cancelled 1/2 - - failures 0',
	'... the others are completed, charged nothing')
  or diag sql("SELECT id, status, attempts, max_attempts FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1]");
has_effects('cancelled', $mark, 1, 2, 4 .. 6);
($pid, @ids) = run_gated();
is(sql("SELECT jobqueue.cancel_tasks(type => 'gated')"), 6, 'cancel() of all of a running batch');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE task_type = 'gated'", 0,
	'... the handler is interrupted');
is(become(@ids), 'others: cancelled 1/2 - - failures 0', '... all are cancelled');
has_effects('all cancelled', $mark);

# A fast shutdown, an immediate stop: no task is charged.
for my $how ('fast', 'immediate') {
	($pid, @ids) = run_gated();
	is_prompt(sub { $node->stop($how) }, "$how stop: prompt");
	$node->start;
	open_gate();
	at_rest("$how stop");
	like(become(@ids), qr/^others: completed (1\/2|2\/3) - own failures 0$/, "$how stop: nobody is charged");
	has_effects("$how stop", $mark, 1 .. 6);
}

# A timeout is one of the call.
handler('sleeps',
	q[PERFORM note(payloads); PERFORM pg_sleep(CASE WHEN payloads @> ARRAY['{"n": 3}'::jsonb] THEN 60 ELSE 0.01 ]
		. q[END); RETURN numbers(payloads);],
	size => 5, options => { max_attempts => 1, timeout => "'0.7 s'" });
for my $mode ('fused', 'durable') {
	set('jobqueue.fused_after' => 0, 'jobqueue.fused_time' => $mode eq 'fused' ? 1000 : 0);
	$mark = mark();
	my $offset = log_size($node);
	@ids = run("$mode, timeout", 'sleeps', 10);
	is(become(@ids), 'others: completed 1/1 - own failures 0; 3: failed 1/1 JQ004 - failures 1',
		"$mode: a timeout: only the culprit is charged");
	has_effects("$mode, timeout", $mark, 1, 2, 4 .. 10);
	is(failures_in_log($offset, @ids), 1, "$mode: a timeout: one line in the log");
}

# --------------------------------------------------------------------------------------------------------------------
# The end of a worker in a batch

handler('ends', <<'SQL', tasks => 1, size => 5, options => { max_attempts => 3 });
	BEGIN
		PERFORM note(NULL, tasks);
		IF EXISTS (SELECT FROM unnest(tasks) t WHERE t.payload->>'n' = '3' AND t.payload ? 'crash') THEN
			PERFORM public.bad_crash('{}');
		ELSIF EXISTS (SELECT FROM unnest(tasks) t WHERE t.payload->>'n' = '3' AND t.payload ? 'vanish') THEN
			PERFORM public.bad_vanish('{"code": 1}');
		ELSIF EXISTS (SELECT FROM unnest(tasks) t WHERE t.payload->>'n' = '3' AND t.payload ? 'terminate'
			AND t.crashes = 0 AND t.failures IS NULL) THEN
			PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
		END IF;
		RETURN numbers(ARRAY(SELECT t.payload FROM unnest(tasks) t));
	END
SQL
# Without the numbers of attempts: how often the others were begun depends on where they were in their batches.
sub become_whatever_it_took {
	my (@ids) = @_;
	return sql(<<SQL);
		SELECT string_agg(what, '; ' ORDER BY first) FROM (
			SELECT min(id) AS first, CASE payload->>'n' WHEN '3' THEN 'culprit' ELSE 'others'
				END || ': ' || concat_ws(' ', status, coalesce(last_sqlstate, '-'),
				CASE WHEN result = payload->'n' THEN 'own' ELSE coalesce(result::text, '-') END, 'failures',
					coalesce(jsonb_array_length(failures), 0), 'crashes', crashes) AS what
			FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1] GROUP BY what) s
SQL
}

for my $mode ('fused', 'durable') {
	# what, jobqueue.max_crashes, what becomes of the culprit, how often the server restarts: once with the batch, and
	# then with the culprit alone
	for my $case ([ terminate => 100, 'completed JQ002 own failures 1 crashes 0', 0 ],
		[ crash => 1, 'failed JQ005 - failures 1 crashes 1', 2 ],
		[ vanish => 2, 'failed JQ005 - failures 2 crashes 2', 0 ]) {
		my ($how, $most, $expected, $restarts) = @$case;
		my $what = "$mode, $how";
		set('jobqueue.fused_after' => 0, 'jobqueue.fused_time' => $mode eq 'fused' ? 1000 : 0,
			'jobqueue.max_crashes' => $most);
		$node->restart; # nothing is remembered of those before
		run("$what, before", 'ends', 40); # a worker begins with small batches
		$mark = mark();
		my $offset = log_size($node);
		@ids = fill('ends', 5, "{\"$how\": 1}");
		# the server may crash before it can say so
		eval { $node->psql('app', 'SELECT FROM jobqueue.resume_queue(NULL)') };
		ok(wait_for(sub { my (undef, $out) = eval { $node->psql('app', $rest) }; ($out // '') eq '0' }),
			"$what: all are done") or diag $node->psql('app', 'SELECT t FROM jobqueue.tasks_live t');
		poll_sql($node, 'app', 'SELECT true');
		is(become_whatever_it_took(@ids), "others: completed - own failures 0 crashes 0; culprit: $expected",
			"$what: only the culprit is charged");
		is(sql("SELECT bool_and(max_attempts - attempts = 2) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND "
			. "$ids[-1] AND id <> $ids[2]"), 't', "$what: the others have all their attempts");
		has_effects($what, $mark, grep { $_ != 3 || $how eq 'terminate' } 1 .. 5);
		is(scalar(log_matches($node, qr/database system is ready to accept connections/, $offset)), $restarts,
			"$what: $restarts restarts");
		next if $how ne 'vanish'; # the crash of the culprit alone is the end of it
		is(sizes($mark), '1 1 1 1', "$what: the batch was run again one by one");
		$mark = mark();
		run("$what, afterwards", 'ends', 12);
		is(sizes($mark), join(' ', (1) x 12), "$what: for some minutes tasks of that type run alone");
		$mark = mark();
		run("$what, others afterwards", 'numbers', 12);
		isnt(sizes($mark), join(' ', (1) x 12), "$what: ... and those of others do not");
	}
}

# Killed from outside, in a batch of several: no task is charged.
set('jobqueue.fused_time' => 0, 'jobqueue.max_crashes' => 1);
for my $how ('TERM', 'KILL') {
	$node->restart;
	($pid, @ids) = run_gated();
	my $offset = log_size($node);
	if ($how eq 'TERM') {
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
		wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", 0,
			'SIGTERM: the worker ends');
	} else {
		kill('KILL', $pid) == 1 or die 'it is gone';
		ok(wait_for(sub { log_matches($node, qr/database system is ready to accept connections/, $offset) }),
			'SIGKILL: the server comes back');
		poll_sql($node, 'app', 'SELECT true');
	}
	open_gate();
	at_rest("SIG$how");
	like(become_whatever_it_took(@ids),
		qr/^others: completed - own failures 0 crashes 0; culprit: completed - own failures 0 crashes 0$/,
			"SIG$how: nobody is charged");
	has_effects("SIG$how", $mark, 1 .. 6);
	is(sizes($mark), '1 1 1 1 1 1', "SIG$how: ... and they have run alone") if $how ne 'TERM';
}

is(join("\n", log_matches($node, qr/TRAP:|stuck spinlock|leaked|reference leak|PANIC:/)), '',
	'nothing unexpected in the log');
$node->stop;
done_testing();
