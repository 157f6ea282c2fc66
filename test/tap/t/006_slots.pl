# When worker slots are short, tasks wait: none fails, nothing spins, nothing floods the log, and work goes on by itself
# when there is room again.
#
# - max_worker_processes used up by other processes: before the scheduler could start, with room for the scheduler
#   alone, and while the scheduler runs
# - jobqueue.max_workers = 1, two roles with backlogs of short tasks: both make progress, again and again; an idle
#   worker of one role makes room for another role; max_workers = 0 and back without a restart
# - five databases on max_worker_processes = 8: a long backlog in one does not starve the others
# - more databases than slots: all tasks are done in the end
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

# --------------------------------------------------------------------------------------------------------------------
# Slots held by others

# 4 slots: for the launcher, a scheduler, and two workers.
my $node = start_node('slots', max_worker_processes => 4, max_logical_replication_workers => 0,
	max_parallel_workers => 0, autovacuum => 'off', 'jobqueue.poll_interval' => '100ms');
$node->safe_psql('postgres', "CREATE FUNCTION hold_slots(integer) RETURNS integer LANGUAGE c AS 'hold_slots'");

# How many could be had.
sub hold_slots {
	return $node->safe_psql('postgres', 'SELECT hold_slots(100)');
}

sub free_slots {
	my ($n) = @_;
	my @ended = split /\n/, $node->safe_psql('postgres', <<SQL);
		WITH holder AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE backend_type = 'slot holder' LIMIT $n)
		SELECT pid FROM holder WHERE pg_terminate_backend(pid)
SQL
	is(scalar @ended, $n, "slots are freed: $n");
}

sub terminate {
	my ($types) = @_;
	$node->safe_psql('postgres', <<SQL);
		WITH ours AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE backend_type ~ '^jobqueue ($types)')
		SELECT pg_terminate_backend(pid, 10000) FROM ours
SQL
}

sub lines { return scalar(split /\n/, $_[0]); }

# All that was enqueued waits, at no cost. $done tasks were completed before.
sub waits_quietly {
	my ($name, $processes, $done) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($awake, $log) = watch_idle($node, 3);
	is(processes($node), $processes, "$name: $processes");
	# a message about the shortage, and its hint, is welcome
	cmp_ok(lines($log), '<=', 4, "$name: the log does not grow") or diag $log;
	is_seldom_awake($awake, 300, "$name: seldom awake");
	is($node->safe_psql('postgres', <<'SQL'), "$done|0", "$name: nothing has run, failed, or counted as an attempt");
		SELECT count(*) FILTER (WHERE status = 'completed'),
			count(*) FILTER (WHERE status <> 'completed'
				AND (attempts > 0 OR last_error IS NOT NULL OR status NOT IN ('pending', 'scheduled')))
		FROM jobqueue.tasks
SQL
}

sub all_done {
	my ($n, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'postgres', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", $n, $name);
}

wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue launcher'", 1,
	'launcher');
is(hold_slots(), 3, 'all other slots are held');
create_queue($node, 'postgres');
create_ledger($node, 'postgres');
$node->safe_psql('postgres',
	'SELECT jobqueue.enqueue(\'note\', delay => make_interval(secs => n % 2)) FROM generate_series(1, 20) n');
waits_quietly('no slot at all', 'launcher', 0);

# The scheduler takes it. It cannot start a worker, and must not try again and again.
free_slots(1);
wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler'", 1,
	'with one slot the scheduler starts');
waits_quietly('room for the scheduler only', 'launcher, scheduler postgres', 0);

# Nothing is enqueued now: jobqueue must notice by itself.
free_slots(1);
all_done(20, 'with one more, all run by themselves');

# The worker ends, and another process takes the slot before the next worker.
ok(wait_for(sub { terminate('worker'); hold_slots() > 0 }), 'the slot of a worker that ended is taken');
$node->safe_psql('postgres', "SELECT jobqueue.enqueue('note') FROM generate_series(1, 20)");
waits_quietly('no slot for a worker', 'launcher, scheduler postgres', 20);
free_slots(2);
all_done(40, 'work goes on by itself');
is($node->safe_psql('postgres',
	'SELECT max(attempts), count(last_error), (SELECT count(*) FROM ledger) FROM jobqueue.tasks'),
	'1|0|40', 'each ran once');

# Nor a slot for the scheduler, which is wanted again.
ok(wait_for(sub {
	terminate('worker|scheduler');
	hold_slots();
	processes($node) eq 'launcher'
}), 'the slot of the scheduler is taken');
$node->safe_psql('postgres', "SELECT jobqueue.enqueue('note') FROM generate_series(1, 20)");
waits_quietly('no slot for the scheduler', 'launcher', 40);
free_slots(3);
all_done(60, 'so it does after that');
is(unexpected_in_log($node, qr/no process for/), '', 'nothing unexpected in the log');

# --------------------------------------------------------------------------------------------------------------------
# One worker, two roles

$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 1');
$node->restart;
$node->safe_psql('postgres', <<'SQL');
	CREATE ROLE ann LOGIN;
	CREATE ROLE bea LOGIN;
	CREATE FUNCTION brief(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT session_user || pg_sleep(0.005)$$;
	SELECT jobqueue.register_handler('of ann', 'brief(jsonb)', run_as => 'ann');
	SELECT jobqueue.register_handler('of bea', 'brief(jsonb)', run_as => 'bea');
	-- half a minute of work for each, first all of one, then all of the other
	INSERT INTO jobqueue.tasks (type) SELECT type FROM (VALUES ('of ann'), ('of bea')) v(type),
		generate_series(1, 4000) ORDER BY type;
SQL
my %done = ('of ann' => 0, 'of bea' => 0);
for my $round (1 .. 3) {
	for my $type (sort keys %done) {
		wait_sql($node, 'postgres',
			"SELECT count(*) > $done{$type} FROM jobqueue.tasks WHERE status = 'completed' AND type = '$type'", 't',
			"one worker, two roles, round $round: the tasks $type make progress");
	}
	$done{$_} = $node->safe_psql('postgres',
		"SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed' AND type = '$_'") for keys %done;
	note "completed: $done{'of ann'} and $done{'of bea'}";
}
is($node->safe_psql('postgres', "SELECT count(DISTINCT type) FROM jobqueue.tasks_live WHERE status = 'pending'"), 2,
	'both have a backlog still');
is($node->safe_psql('postgres', <<'SQL'), 0, 'each ran as its own role');
	SELECT count(*) FROM jobqueue.tasks
	WHERE type LIKE 'of%' AND status = 'completed' AND result <> to_jsonb(substr(type, 4))
SQL
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM jobqueue.worker_status WHERE pid IS NOT NULL'), '<=', 1,
	'one worker at most');
$node->safe_psql('postgres', "DELETE FROM jobqueue.tasks_live WHERE status = 'pending'");

# The worker of one role is idle; it would stay for 60 s if no other role needed it.
for my $type ('of ann', 'of bea', 'note', 'of ann') {
	my $id = $node->safe_psql('postgres', "SELECT jobqueue.enqueue('$type')");
	wait_sql($node, 'postgres', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		"an idle worker makes room for a task '$type'");
}

# No worker at all, and back.
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$node->reload;
wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'", 0,
	'max_workers = 0: workers leave');
$node->safe_psql('postgres', "SELECT jobqueue.enqueue('note') FROM generate_series(1, 10)");
my ($awake, $log) = watch_idle($node, 2);
is($node->safe_psql('postgres', "SELECT count(*) FROM jobqueue.tasks_live WHERE status = 'pending' AND attempts = 0"),
	10,
	'tasks wait');
cmp_ok(lines($log), '<=', 2, 'the log does not grow') or diag $log;
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 1');
$node->reload;
wait_sql($node, 'postgres', 'SELECT count(*) FROM jobqueue.tasks_live', 0, 'max_workers = 1 again: they run');
$node->stop;

# --------------------------------------------------------------------------------------------------------------------
# Many databases

# The logical replication launcher has a slot, too: room for five schedulers, and one worker.
my $many = start_node('many', max_worker_processes => 8, autovacuum => 'off');
my @databases = map { "app$_" } 1 .. 5;
create_queue($many, @databases);
create_ledger($many, @databases);
$many->safe_psql('app3',
	qq{INSERT INTO jobqueue.tasks (type, payload) SELECT 'note', '{"sleep": 0.005}' FROM generate_series(1, 20000)});
wait_sql($many, 'app3', 'SELECT count(*) > 20 FROM jobqueue.tasks_history_1', 't', 'a backlog is being worked off');
for my $round (1 .. 2) {
	$many->safe_psql($_, "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 10)")
	  for grep { $_ ne 'app3' } @databases;
	wait_sql($many, $_, "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 10 * $round,
		"$_, round $round: not starved")
	  for grep { $_ ne 'app3' } @databases;
}
my $rest = $many->safe_psql('app3', 'SELECT count(*) FROM jobqueue.tasks_live');
cmp_ok($rest, '>', 0, 'the backlog is not done yet');
wait_sql($many, 'app3', "SELECT count(*) < $rest FROM jobqueue.tasks_live", 't', 'and not starved either');
$many->safe_psql('app3', "DELETE FROM jobqueue.tasks_live WHERE status = 'pending'");

# Nine databases with tasks: not every one can have a scheduler, and a slot must be left for a worker.
my @more = map { "more$_" } 1 .. 4;
create_queue($many, @more);
create_ledger($many, @more);
for my $round (1 .. 2) {
	my @ids = map { [ $_, $many->safe_psql($_, "SELECT jobqueue.enqueue('note')") ] } @databases, @more;
	wait_sql($many, $_->[0], "SELECT status FROM jobqueue.tasks WHERE id = $_->[1]", 'completed',
		"more databases than slots, round $round: the task in $_->[0] is done")
	  for @ids;
}
is($many->safe_psql($_, 'SELECT count(*) FROM jobqueue.tasks WHERE last_error IS NOT NULL'), 0, "$_: no error")
  for @databases, @more;
cmp_ok(scalar(log_matches($many, qr/jobqueue/)), '<=', 30, 'the shortage is not reported over and over');
is(unexpected_in_log($many, qr/no process for/), '', 'nothing unexpected in the log');
$many->stop;
done_testing();
