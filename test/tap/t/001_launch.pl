# Processes are where they are needed, and nowhere else: five databases on a server with eight worker slots, of which
# the logical replication launcher and ours take one each. Five schedulers and a single worker fit into the rest.
#
# - CREATE EXTENSION is noticed at its commit, without a restart, and not when it is rolled back; so is a handler that
#   is registered after the tasks
# - tasks of all five databases are completed, also while one of them has a backlog that keeps the worker busy
# - a start of the server finds the databases, and the tasks that wait in them
# - templates, and databases that allow no connections, are not touched
# - a database without handlers, and one without the extension, costs no process
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('launch', max_worker_processes => 8, autovacuum => 'off');
my @databases = map { "app$_" } 1 .. 5;

# An installation that is rolled back leaves nothing running, and the next one works.
$node->safe_psql('postgres', "CREATE DATABASE $_") for @databases;
$node->safe_psql('app1', 'BEGIN; CREATE EXTENSION jobqueue; ROLLBACK');
is(processes($node), 'launcher', 'only the launcher runs at first');

# Three databases in the usual order, two with the tasks before the handler.
for my $database (@databases[0 .. 2]) {
	$node->safe_psql($database, 'CREATE EXTENSION jobqueue');
	create_ledger($node, $database);
	$node->safe_psql($database, "SELECT count(jobqueue.enqueue('note')) FROM generate_series(1, 20)");
}
for my $database (@databases[3, 4]) {
	$node->safe_psql($database, 'CREATE EXTENSION jobqueue');
	$node->safe_psql($database, "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 20)");
	create_ledger($node, $database);
}
wait_sql($node, $_, "SELECT count(*) FILTER (WHERE status = 'completed') FROM jobqueue.tasks", 20,
	"$_: noticed without a restart, tasks completed")
  for @databases;

# All five at once.
$node->safe_psql($_, "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 200)") for @databases;
wait_sql($node, $_, "SELECT count(*) FILTER (WHERE status = 'completed') FROM jobqueue.tasks", 220,
	"$_: all tasks completed while the others had some, too")
  for @databases;
for my $database (@databases) {
	is(statuses($node, $database), 'completed 220', "$database: nothing else is there");
	is($node->safe_psql($database, 'SELECT count(*) FROM ledger'), 220, "$database: each task had its effect");
}

# The one worker stays idle somewhere: it makes room for another role, at once and not after its idle time (60 s).
for my $database (@databases) {
	my $id = $node->safe_psql($database, "SELECT jobqueue.enqueue('note')");
	wait_sql($node, $database, "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		"$database: an idle worker elsewhere gives its slot away");
}

# A backlog of about half a minute in one database does not keep the others waiting until it is done.
$node->safe_psql('app1', qq{SELECT count(jobqueue.enqueue('note', '{"sleep": 0.1}')) FROM generate_series(1, 300)});
wait_sql($node, 'app1', "SELECT count(*) > 222 FROM jobqueue.tasks WHERE status = 'completed'", 't',
	'the backlog is being worked off');
my %waiting = map { $_ => $node->safe_psql($_, "SELECT jobqueue.enqueue('note')") } @databases[1 .. 4];
for my $database (sort keys %waiting) {
	wait_sql($node, $database, "SELECT status FROM jobqueue.tasks WHERE id = $waiting{$database}", 'completed',
		"$database: served beside a backlog in another database");
}
is($node->safe_psql('app1', "SELECT count(*) > 0 FROM jobqueue.tasks WHERE status IN ('pending', 'processing')"), 't',
	'the backlog is not done yet');
$node->safe_psql('app1',
	"SELECT count(jobqueue.cancel(id)) FROM jobqueue.tasks WHERE status IN ('pending', 'processing')");

# Databases that are not to be touched, with the extension and tasks that would be run.
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->safe_psql('postgres', 'CREATE DATABASE closed');
$node->safe_psql('postgres', 'CREATE DATABASE mould');
for my $database ('closed', 'mould') {
	$node->safe_psql($database, 'CREATE EXTENSION jobqueue');
	$node->safe_psql($database, "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
}
create_queue($node, 'unused');
$node->safe_psql('template1', 'CREATE EXTENSION jobqueue');
wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('unused', 'plain')", 0,
	'a database without handlers costs no process');
$node->safe_psql('postgres', 'ALTER DATABASE mould IS_TEMPLATE true');
$node->safe_psql('postgres', 'ALTER DATABASE closed ALLOW_CONNECTIONS false');

# Tasks wait over a restart, in all five. Nothing can run between the change of the setting and the stop.
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$node->restart;
# Handlers in the template and the closed database, too: a probe must not even look at them.
create_ledger($node, 'mould');
$node->safe_psql($_, "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 10)") for @databases;
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 4');
$node->stop;
my $offset = log_size($node);
$node->start;
my $before = $node->safe_psql('postgres', <<'SQL');
	SELECT string_agg(datname || ' ' || xact_commit + xact_rollback, ', ' ORDER BY datname)
	FROM pg_stat_database WHERE datname IN ('template0', 'template1', 'mould', 'closed')
SQL
wait_sql($node, $_, "SELECT count(*) FROM jobqueue.tasks WHERE status NOT IN ('completed', 'cancelled')", 0,
	"$_: found at the start of the server")
  for @databases;
is($node->safe_psql('postgres', <<'SQL'), 0, 'no process in a template, or where no connection is allowed');
	SELECT count(*) FROM pg_stat_activity WHERE datname IN ('template0', 'template1', 'mould', 'closed')
SQL
is($node->safe_psql('postgres', <<'SQL'), $before, 'and none was there');
	SELECT string_agg(datname || ' ' || xact_commit + xact_rollback, ', ' ORDER BY datname)
	FROM pg_stat_database WHERE datname IN ('template0', 'template1', 'mould', 'closed')
SQL
is(statuses($node, 'mould'), 'pending 1', 'the task in the template was not run');
is(unexpected_in_log($node, undef, $offset), '', 'nothing to complain about after the start');

# No longer a template: served after the next start at the latest.
$node->safe_psql('postgres', 'ALTER DATABASE mould IS_TEMPLATE false');
$node->restart;
wait_sql($node, 'mould', 'SELECT status FROM jobqueue.tasks', 'completed', 'a template no more: its task is run');

wait_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('unused', 'plain')", 0,
	'still no process where there is nothing to do, once all are looked at')
  or diag processes($node);
is(unexpected_in_log($node, qr/no process for a worker/), '', 'nothing unexpected in the log');
cmp_ok(scalar(log_matches($node, qr/no process for a worker/)), '<=', 10,
	'a shortage of slots is not reported over and over');

# Why nothing happens can be seen.
# A restart, not a reload: a scheduler that sees the pause before it has read the setting says nothing later.
$node->safe_psql('postgres', 'ALTER SYSTEM SET log_min_messages = debug3');
$node->restart;
$offset = log_size($node);
$node->safe_psql('app1', "SELECT jobqueue.pause_queue('default'); SELECT jobqueue.enqueue('note')");
for ([ qr/queue "default" is skipped: it is paused/, 'a queue that is skipped' ],
	[ qr/jobqueue scheduler: look for work: done/, 'a step of a chore' ])
{
	my ($message, $name) = @$_;
	ok(wait_for(sub { log_matches($node, $message, $offset) }), "debug messages: $name");
}

$node->stop;
done_testing();
