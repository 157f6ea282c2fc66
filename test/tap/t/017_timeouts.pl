# A timeout, and a cancel, really end the work; what cannot be ended is reported, and its place made up for.
#
# - a handler that sleeps: interrupted in time, JQ004; a procedure that commits as it goes, too
# - one that catches every interrupt: its process is terminated after jobqueue.timeout_grace
# - one in C that never looks for interrupts: reported as stuck, in the view and once in the log, while other tasks run
#   even with jobqueue.max_workers = 1; when it ends by itself, its worker leaves
# - the same with jobqueue.kill_stuck: killed, and charged a crash; its neighbours are charged nothing
# - cancel() of such handlers: the task is cancelled at once, whatever the handler does
# - what comes too late never hits the next task of the same worker
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('timeouts', restart_after_crash => 'on', autovacuum => 'off');
create_queue($node, 'app');
create_ledger($node, 'app');
my $dir = PostgreSQL::Test::Utils::tempdir;
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION sleeps(payload jsonb) RETURNS void LANGUAGE sql
		AS $$SELECT pg_sleep(coalesce((payload->>'seconds')::float8, 3600))$$;
	CREATE TABLE steps (task bigint, step int);
	CREATE PROCEDURE commits(payload jsonb) LANGUAGE plpgsql AS $$
	DECLARE
		own bigint := (jobqueue.current_task()).id;
	BEGIN
		FOR step IN 1 .. 1000000 LOOP
			INSERT INTO public.steps VALUES (own, step);
			COMMIT;
			PERFORM pg_sleep(0.001);
		END LOOP;
	END $$;
	-- Says that it runs, and does not care what anybody says; with payload.once, not at first.
	CREATE FUNCTION deaf(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ledger (task) VALUES ((jobqueue.current_task()).id);
		PERFORM pg_advisory_xact_lock_shared((jobqueue.current_task()).id);
		LOOP
			BEGIN
				PERFORM pg_sleep(3600);
			EXCEPTION WHEN query_canceled THEN
				IF payload ? 'once' THEN
					RETURN;
				END IF;
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION bad_spin(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	SELECT jobqueue.register_handler('sleeps', 'sleeps(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('sleeps_1s', 'sleeps(jsonb)', max_attempts => 1, timeout => '1 s');
	SELECT jobqueue.register_handler('commits', 'commits(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('deaf', 'deaf(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('spin', 'bad_spin(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('once', 'note(jsonb)', max_attempts => 1);
SQL

sub set {
	my (%settings) = @_;
	$node->append_conf('postgresql.conf', join '', map { "$_ = $settings{$_}\n" } sort keys %settings);
	$node->reload;
}

sub enqueue {
	my ($type, $payload, $options) = @_;
	return $node->safe_psql('app', "SELECT jobqueue.enqueue('$type', '" . ($payload // '{}') . "'"
		. ($options ? ", $options" : '') . ')');
}

# The process that runs a task. Its handler is certainly under way where that says so by a lock.
sub worker_of {
	my ($id, $locks) = @_;
	my $pid = wait_for(sub {
		$node->safe_psql('app', $locks ? "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $id"
			: "SELECT pid FROM jobqueue.worker_status WHERE task_id = $id AND state = 'running'");
	}) or die "task $id does not run";
	return $pid;
}

sub is_running {
	my ($pid) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid");
}

my $stuck = qr/WARNING: .*responds neither to cancellation nor to termination/;

# Waits until a task is seen to be stuck. Returns its process.
sub wait_stuck {
	my ($id, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT state FROM jobqueue.worker_status WHERE task_id = $id", 'stuck',
		"$what: seen to be stuck");
	return $node->safe_psql('app', "SELECT pid FROM jobqueue.worker_status WHERE task_id = $id");
}

# --------------------------------------------------------------------------------------------------------------------
# In time

my @ids = ((map { enqueue('sleeps', '{}', "timeout => '1 s'") } 1 .. 2), enqueue('sleeps_1s'),
	enqueue('commits', '{}', "timeout => '1 s'"));
my $list = join ',', @ids;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'failed'", 4,
	'timed out: failed');
is($node->safe_psql('app', "SELECT DISTINCT last_sqlstate, last_error, crashes, attempts, jsonb_array_length(failures),
	failures->0->>'sqlstate' FROM jobqueue.tasks WHERE id IN ($list)"), 'JQ004|timed out after 1 s|0|1|1|JQ004',
		'... with JQ004');
my @times = split /\n/,
	$node->safe_psql('app',
		"SELECT t FROM jobqueue.tasks, LATERAL (SELECT extract(epoch FROM finished_at - processed_at)) s (t)
	WHERE id IN ($list) AND (failures->0->>'seconds')::float8 BETWEEN 1 AND t + 1 ORDER BY 1");
is(scalar(@times), 4, '... the failure says how long it took');
note "after @times s";
is($node->safe_psql('app', "SELECT count(*) > 1, count(*) = max(step) FROM steps WHERE task = $ids[3]"), 't|t',
	'a procedure keeps what it had committed');
my $steps = $node->safe_psql('app', 'SELECT count(*) FROM steps');
my $id = enqueue('deaf', '{"once": 1}', "timeout => '0.5 s'");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'who is told that time is up may still finish');
is($node->safe_psql('app', 'SELECT count(*) FROM steps'), $steps, 'the procedure has ended');
is(scalar(log_matches($node, qr/timed out|canceling statement due to user request/)), 4, 'each is one line in the log');

# --------------------------------------------------------------------------------------------------------------------
# Handlers that catch interrupts

set('jobqueue.timeout_grace' => '1500ms');
$id = enqueue('deaf', '{}', "timeout => '1 s'");
my $pid = worker_of($id, 1);
wait_sql($node, 'app',
	"SELECT status, last_sqlstate, last_error ~ 'did not respond to cancellation', attempts, crashes FROM "
		. "jobqueue.tasks WHERE id = $id",
	'failed|JQ004|t|1|0', 'a handler that catches interrupts: its process is terminated');
is(is_running($pid), 0, '... and is gone');
cmp_ok($node->safe_psql('app',
	"SELECT extract(epoch FROM finished_at - processed_at) FROM jobqueue.tasks WHERE id = $id"), '>', 2.4,
	'... after its grace');
is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task = $id"), 0, '... nothing of it is left');

$id = enqueue('deaf');
$pid = worker_of($id, 1);
is($node->safe_psql('app', "SELECT jobqueue.cancel($id, 'enough')"), 't', 'cancel() of such a handler');
is($node->safe_psql('app', "SELECT status, last_error FROM jobqueue.tasks WHERE id = $id"), 'cancelled|enough',
	'... the task is cancelled at once');
my ($row) = split /\n/,
	$node->safe_psql('app', "SELECT count(*) FROM jobqueue.worker_status WHERE pid = $pid AND task_id = $id");
note "its worker went on: $row";
ok(wait_for(sub { !is_running($pid) }), '... its process is terminated');
is($node->safe_psql('app', "SELECT status, crashes, failures IS NULL FROM jobqueue.tasks WHERE id = $id"),
	'cancelled|0|t',
	'... the task stays as it is');
is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task = $id"), 0, '... nothing of it is left');
$id = enqueue('once');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'other tasks run');
is(scalar(log_matches($node, $stuck)), 0, 'nobody was stuck');
is(scalar(log_matches($node, qr/ready to accept connections/)), 1, 'the server has not restarted');

# --------------------------------------------------------------------------------------------------------------------
# Handlers that look for nothing

# A file ends them: then nothing here depends on how fast the machine is.
sub spin {
	my ($name, $options) = @_;
	return enqueue('spin', qq({"until": "$dir/$name", "seconds": 600}), $options);
}

sub end_spin {
	my ($name) = @_;
	PostgreSQL::Test::Utils::append_to_file("$dir/$name", '');
}

set('jobqueue.max_workers' => 1, 'jobqueue.timeout_grace' => '3s');
wait_sql($node, 'app', 'SELECT count(*) <= 1 FROM jobqueue.worker_status', 't', 'one worker');
my $offset = log_size($node);
$id = spin('first', "timeout => '1 s'");
worker_of($id);
my @others = map { enqueue('once') } 1 .. 20;
$list = join ',', @others;
$pid = wait_stuck($id, 'a handler without end');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'completed'", 20,
	'... the only worker there may be has been made up for');
is($node->safe_psql('app',
	"SELECT w.state, t.status FROM jobqueue.worker_status w JOIN jobqueue.tasks t ON t.id = w.task_id WHERE w.pid = "
		. "$pid"),
	'stuck|processing', '... it goes on meanwhile');
my @lines = log_matches($node, $stuck, $offset);
is(scalar(@lines), 1, '... one line in the log');
like($lines[0], qr/worker $pid, which runs task $id, /, '... which names it');
my ($at) = $lines[0] =~ /^(\S+ \S+ \S+) /;
my $took =
	$node->safe_psql('app', "SELECT extract(epoch FROM '$at' - processed_at) FROM jobqueue.tasks WHERE id = $id");
note "after $took s";

# A second one: its place is made up for, too. This one is cancelled.
my $second = spin('second');
worker_of($second);
is($node->safe_psql('app', "SELECT jobqueue.cancel($second)"), 't', 'cancel() of a handler without end');
is($node->safe_psql('app', "SELECT status FROM jobqueue.tasks WHERE id = $second"), 'cancelled',
	'... the task is cancelled at once');
wait_sql($node, 'app', "SELECT state FROM jobqueue.worker_status WHERE task_id = $second", 'stuck',
	'... its worker is stuck');
@others = map { enqueue('once') } 1 .. 3;
$list = join ',', @others;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'completed'", 3,
	'... other tasks run');
is(scalar(log_matches($node, $stuck, $offset)), 2, '... one line in the log for each');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'stuck'"), 2,
	'... both are stuck');

# They end by themselves.
end_spin('first');
ok(wait_for(sub { !is_running($pid) }), 'it ends at last: its worker leaves');
wait_sql($node, 'app', "SELECT status, last_sqlstate, attempts, crashes FROM jobqueue.tasks WHERE id = $id",
	'failed|JQ004|1|0',
	'... the task is charged a timeout, and no crash');
end_spin('second');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'stuck'", 0, 'the other, too');
is($node->safe_psql('app', "SELECT status, crashes, failures IS NULL FROM jobqueue.tasks WHERE id = $second"),
	'cancelled|0|t', '... it stays cancelled');
$id = enqueue('once');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'tasks run as before');
wait_sql($node, 'app', 'SELECT count(*) <= 1 FROM jobqueue.worker_status', 't', '... with one worker');
is(scalar(log_matches($node, qr/ready to accept connections/, $offset)), 0, 'the server has not restarted');

# With attempts left it runs again.
$id = enqueue('spin', qq({"until": "$dir/third", "seconds": 600}), "timeout => '1 s', max_attempts => 2");
wait_stuck($id, 'once more');
$node->safe_psql('app', qq[UPDATE jobqueue.tasks SET timeout = '600 s' WHERE id = $id]);
end_spin('third');
wait_sql($node, 'app', "SELECT status, attempts, crashes, failures->0->>'sqlstate' FROM jobqueue.tasks WHERE id = "
	. "$id", 'completed|2|0|JQ004',
	'... with an attempt left it runs again');

# Killed. Beside it: tasks that may not be charged.
set('jobqueue.max_workers' => 4, 'jobqueue.kill_stuck' => 'on', 'jobqueue.timeout_grace' => '500ms');
$offset = log_size($node);
@others = map { enqueue('once', '{"sleep": 6}') } 1 .. 3;
$list = join ',', @others;
$id = spin('never', "timeout => '1 s'");
ok(wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) }),
	'jobqueue.kill_stuck: the server restarts');
wait_sql($node, 'app',
	"SELECT status, last_sqlstate, attempts, crashes, last_error ~ 'kill_stuck', jsonb_array_length(failures)
	FROM jobqueue.tasks WHERE id = $id", 'failed|JQ005|1|1|t|1', '... the task is charged a crash, and says why');
is(scalar(log_matches($node, $stuck, $offset)), 1, '... one warning in the log');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'completed'", 3,
	'... those beside it are completed');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND (crashes > 0 OR failures IS NOT NULL)"), 0,
		'... charged nothing');
is(scalar(log_matches($node, qr/ready to accept connections/, $offset)), 1, '... one restart');

# Also one that has been seen to be stuck before.
set('jobqueue.kill_stuck' => 'off');
$id = spin('never', "timeout => '1 s'");
wait_stuck($id, 'and once more');
$offset = log_size($node);
set('jobqueue.kill_stuck' => 'on');
ok(wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) }),
	'jobqueue.kill_stuck, set afterwards: the server restarts');
wait_sql($node, 'app', "SELECT status, last_sqlstate, crashes FROM jobqueue.tasks WHERE id = $id", 'failed|JQ005|1',
	'... the task is charged a crash');

# --------------------------------------------------------------------------------------------------------------------
# Too late

# One worker, tasks that time out when they are nearly done, and after each of them a task that must not be hit.
set('jobqueue.max_workers' => 1, 'jobqueue.kill_stuck' => 'off', 'jobqueue.timeout_grace' => '3s');
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.enqueue('sleeps', jsonb_build_object('seconds', 0.012 + random() * 0.012), timeout => '22 ms',
		metadata => '"timed"'),
		jobqueue.enqueue('once', '{"sleep": 0.002}', metadata => '"bystander"')
	FROM generate_series(1, 200);
SQL
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks_live', 0, 'all come to an end');
my $count =
	$node->safe_psql('app',
		"SELECT count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed')
	FROM jobqueue.tasks WHERE metadata = '\"timed\"'");
note "completed|timed out: $count";
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE metadata = '\"timed\"' AND NOT (status = 'completed' AND failures IS NULL
	OR status = 'failed' AND last_sqlstate = 'JQ004')"), 0,
	'those whose time was up are completed, or have failed with JQ004');
is($node->safe_psql('app',
	"SELECT DISTINCT status, crashes, attempts, last_error FROM jobqueue.tasks WHERE metadata = '\"bystander\"'"),
		'completed|0|1|',
	'a timeout that comes too late hits nobody else');

# Short tasks, and a session that cancels what runs, which often has just ended.
$node->safe_psql('app', <<'SQL');
	CREATE TABLE cancelled (task bigint);
	SELECT count(jobqueue.enqueue('once', jsonb_build_object('sleep', random() * 0.004), metadata => '"short"'))
		FROM generate_series(1, 1500);
	DO $$
	DECLARE
		victim bigint;
	BEGIN
		FOR i IN 1 .. 5000 LOOP
			SELECT task_id INTO victim FROM jobqueue._workers() WHERE task_id IS NOT NULL;
			IF victim IS NOT NULL THEN
				PERFORM pg_sleep(random() * 0.004);
				IF jobqueue.cancel(victim) THEN
					INSERT INTO cancelled VALUES (victim);
				END IF;
			END IF;
			COMMIT;
			EXIT WHEN NOT EXISTS (SELECT FROM jobqueue.tasks_live);
			PERFORM pg_sleep(random() * 0.01);
		END LOOP;
	END $$;
SQL
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks_live', 0, 'all come to an end');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks t WHERE metadata = '\"short\"' AND (crashes > 0 OR failures IS NOT NULL OR
	status <> CASE WHEN EXISTS (SELECT FROM cancelled WHERE task = t.id) THEN 'cancelled' ELSE 'completed' END)"), 0,
	'a cancel that comes too late hits nobody else');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks t FULL JOIN ledger l ON l.task = t.id
	WHERE metadata = '\"short\"' AND (status = 'completed') <> (l.task IS NOT NULL)"), 0,
	'what was cancelled has no effect, what was completed has');
note 'cancelled in time: ' . $node->safe_psql('app', 'SELECT count(*) FROM cancelled') . '; given back unharmed: '
  . $node->safe_psql('app',
  "SELECT count(*) FROM jobqueue.tasks WHERE metadata = '\"short\"' AND status = 'completed' AND attempts > 1");

is(join("\n", log_matches($node, qr/PANIC:|TRAP:|signal (?!9\b)\d+:/)), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
