# Whatever ends a process, or the server, the work is either done and recorded, or not done and queued: never twice,
# never lost, and not delayed by a lease that a dead process holds.
#
# - a worker ended by pg_terminate_backend: its task runs again at once
# - a worker killed with SIGKILL: the server comes back by itself, the task runs again; more in 016_crash_charging.pl
# - launcher and scheduler terminated, alone and together: things go on
# - immediate stop and start with tasks processing
# - fast shutdown with a running handler: prompt; afterwards the task runs again, and the attempt was not charged
#
# Every effect is a row with a unique key: an effect done twice would be an error, an attempt would show it. Tasks wait
# for a lock that the test holds, so they are certainly running when something happens to them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('crash', restart_after_crash => 'on', autovacuum => 'off');
create_queue($node, 'app');
create_ledger($node, 'app');
$node->safe_psql('app', <<'SQL');
	-- Writes first, then waits while the test holds the lock.
	CREATE FUNCTION gated(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ledger (task) VALUES ((jobqueue.current_task()).id);
		PERFORM pg_advisory_xact_lock_shared(42);
		RETURN '{"done": true}';
	END $$;
	SELECT jobqueue.register_handler('gated', 'gated(jsonb)');
	-- With this one, an attempt that is charged is the last one.
	SELECT jobqueue.register_handler('gated_once', 'gated(jsonb)', max_attempts => 1);
SQL

my $gate;

sub close_gate {
	$gate = $node->background_psql('app');
	$gate->query_safe('SELECT pg_advisory_lock(42)');
}

sub open_gate {
	$gate->quit;
}

# Enqueues a task, and waits until its handler is behind the closed gate. Returns its id and its worker.
sub run_gated {
	my ($type) = @_;
	$type //= 'gated';
	my $id = $node->safe_psql('app', "SELECT jobqueue.enqueue('$type')");
	return ($id, wait_running($id));
}

sub wait_running {
	my ($id, $not) = @_;
	$not //= 0;
	my $pid = wait_for(sub {
		# the worker's own word, that it has reached the lock, and that it is not in a group, which it will leave soon
		$node->safe_psql('app', <<SQL)
			SELECT w.pid FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
			WHERE w.task_id = $id AND a.wait_event = 'advisory' AND w.pid <> $not
				AND EXISTS (SELECT FROM jobqueue.tasks WHERE id = $id AND status = 'processing')
SQL
	});
	ok($pid, "task $id is running");
	die "task $id does not run: " . $node->safe_psql('app', "SELECT t FROM jobqueue.tasks t WHERE id = $id")
		unless $pid;
	return $pid;
}

sub is_done_once {
	my ($id, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', "$what: completed");
	is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task = $id"), 1, "$what: one effect");
	is($node->safe_psql('app', "SELECT count(*), min(result::text) FROM jobqueue.tasks WHERE id = $id"),
		'1|{"done": true}',
		"$what: one row, with its result");
}

# --------------------------------------------------------------------------------------------------------------------
# pg_terminate_backend

close_gate();
my ($id, $worker) = run_gated();
wait_sql($node, 'app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $id", 'processing|1', 'claimed');
$node->safe_psql('app', "SELECT pg_terminate_backend($worker)");
wait_running($id, $worker);
is($node->safe_psql('app', "SELECT count(*) FROM ledger"), 0, 'nothing of the first try is left');
open_gate();
is_done_once($id, 'worker terminated');
is($node->safe_psql('app', "SELECT attempts FROM jobqueue.tasks WHERE id = $id"), 2, 'a new claim has a new number');

# Several times in a row, from 20 tasks: the others are not disturbed.
close_gate();
($id, $worker) = run_gated();
$node->safe_psql('app', "SELECT count(jobqueue.enqueue('note')) FROM generate_series(1, 20)");
for my $round (1 .. 3) {
	$node->safe_psql('app', "SELECT pg_terminate_backend($worker)");
	$worker = wait_running($id, $worker);
}
open_gate();
is_done_once($id, 'worker terminated again and again');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0, 'so are its neighbours');

# A worker that is idle, and one that has just ended.
wait_sql($node, 'postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'", 't',
	'idle');
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'");
$id = $node->safe_psql('app', "SELECT jobqueue.enqueue('gated')");
is_done_once($id, 'idle workers terminated');

# --------------------------------------------------------------------------------------------------------------------
# Launcher and scheduler

for my $victims ('scheduler', 'launcher', 'launcher|scheduler', 'launcher|scheduler|worker') {
	close_gate();
	($id, $worker) = run_gated();
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ~ '^jobqueue ($victims)'");
	my $other = $node->safe_psql('app', "SELECT jobqueue.enqueue('note')");
	my $later = $node->safe_psql('app', "SELECT jobqueue.enqueue('note', delay => '0.5 s')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $_", 'completed',
		"$victims terminated: things go on")
	  for ($other, $later);
	open_gate();
	is_done_once($id, "$victims terminated");
	wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue launcher'", 1,
		"$victims terminated: there is one launcher");
	wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler'", 1,
		"$victims terminated: there is one scheduler");
	my $attempts = $node->safe_psql('app', "SELECT attempts FROM jobqueue.tasks WHERE id = $id");
	if ($victims =~ /worker/) {
		# more than 2: one that was idle took the task over, and was among the victims
		cmp_ok($attempts, '>=', 2, "$victims terminated: the task was begun anew");
	} else {
		is($attempts, 1, "$victims terminated: a worker that was not meant went on with its task");
	}
}
is(unexpected_in_log($node), '', 'nothing unexpected in the log so far');

# --------------------------------------------------------------------------------------------------------------------
# SIGKILL

my $offset = log_size($node);
close_gate();
($id, $worker) = run_gated();
my ($other) = run_gated('gated_once');
is(kill('KILL', $worker), 1, 'killed a worker');
$gate->{run}->finish; # the crash ends it
ok(wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) }), 'the server comes back');
is_done_once($id, 'killed worker');
is_done_once($other, 'neighbour of a killed worker');
is($node->safe_psql('app',
	"SELECT crashes, failures->0->>'sqlstate' FROM jobqueue.tasks WHERE id IN ($id, $other) ORDER BY id"),
		"1|JQ005\n0|",
	'the one is charged a crash, the other nothing, though it had one attempt only');

# With tasks still being claimed while it happens, and while it comes back.
$node->safe_psql('app',
	"INSERT INTO jobqueue.tasks (type, payload) SELECT 'note', '{\"sleep\": 0.002}' FROM generate_series(1, 1000)");
wait_sql($node, 'app',
	"SELECT count(*) > 50 FROM ledger WHERE task IN (SELECT id FROM jobqueue.tasks WHERE status = 'completed')",
	't', 'under way');
$offset = log_size($node);
is(kill('KILL', (pids($node, 'worker', 'app'))[0] // 0), 1, 'killed a busy worker');
ok(wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) }), 'the server comes back again');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0, 'all completed');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE last_sqlstate = '23505'"), 0,
	'none was run twice');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks t FULL JOIN ledger l ON l.task = t.id WHERE t.id IS NULL OR l.task IS NULL"),
	0, 'each task has its effect, each effect its task');

# --------------------------------------------------------------------------------------------------------------------
# Immediate stop

close_gate();
my @ids = map { (run_gated('gated_once'))[0] } 1 .. 3;
$node->stop('immediate');
eval { $gate->quit };
$node->start;
is_done_once($_, 'immediate stop') for @ids;

# --------------------------------------------------------------------------------------------------------------------
# Fast shutdown: an interrupted attempt costs nothing

close_gate();
($id) = run_gated('gated_once');
my $attempt = $node->safe_psql('app', "SELECT attempts FROM jobqueue.tasks WHERE id = $id");
$offset = log_size($node);
is_prompt(sub { $node->stop('fast') }, 'a running handler does not hold up a fast shutdown');
eval { $gate->quit };
unlike(log_since($node, $offset), qr/was terminated by signal|PANIC|ERROR/, 'an orderly shutdown');
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$node->start;
# The order of termination is not fixed: if the gate ends first, the handler may still get through and complete.
if ($node->safe_psql('app', "SELECT status FROM jobqueue.tasks WHERE id = $id") eq 'completed') {
	note 'the gate fell before the handler was interrupted';
	$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 4');
	$node->reload;
} else {
	wait_sql($node, 'app', "SELECT status, attempts < max_attempts FROM jobqueue.tasks WHERE id = $id", 'pending|t',
		'after the shutdown it waits again, though max_attempts was 1');
	is($node->safe_psql('app', "SELECT last_error IS NULL FROM jobqueue.tasks WHERE id = $id"), 't',
		'an interruption is no error');
	$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 4');
	$node->reload;
	is_done_once($id, 'fast shutdown');
	cmp_ok($node->safe_psql('app', "SELECT attempts FROM jobqueue.tasks WHERE id = $id"), '>', $attempt,
		'attempts only ever grow');
}

# A smart shutdown waits for clients, not for us.
is_prompt(sub { $node->stop('smart') }, 'idle processes do not hold up a smart shutdown');
$node->start;

is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed' OR last_sqlstate = '23505'"), 0,
	'all tasks are completed, no effect was done twice');
is(unexpected_in_log($node, qr/\(PID \d+\) was terminated by signal 9: Killed|terminating connection because of crash/),
	'',
	'nothing unexpected in the log');
$node->stop;
done_testing();
