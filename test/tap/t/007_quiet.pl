# Processes that have nothing to do use no CPU time, and write nothing.
#
# - a cluster that preloads the library without the extension: only the launcher runs, no database is looked at again
#   and again, nothing is logged repeatedly, even with a short poll interval
# - an idle database with handlers, roles and workers: no CPU time to speak of, no WAL, no log
# - the same with all sorts of tasks that cannot run now: in a paused queue, without handler, far in the future, claimed
#   outside, claimed by hand, locked, of a role that may not connect
# - and then everything still starts at once when it can
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

# No WAL but that of clients: neither checkpoints nor the snapshots that a standby needs.
my %calm = (autovacuum => 'off', wal_level => 'minimal', max_wal_senders => 0, checkpoint_timeout => '1h',
	'jobqueue.worker_idle_timeout' => '1h');
# --------------------------------------------------------------------------------------------------------------------
# Without the extension

my $node = start_node('quiet', %calm, 'jobqueue.poll_interval' => '100ms');
$node->safe_psql('postgres', "CREATE DATABASE $_") for 'one', 'two', 'app';
# Its probes of all databases are over when it is at rest.
my $probed = sub {
	$node->safe_psql('one',
		"SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname IN ('postgres', 'template1', "
			. "'two', 'app')");
};
wait_sql($node, 'one', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue launcher'", 1,
	'the launcher runs');
wait_sql($node, 'one',
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^jobqueue' AND backend_type <> 'jobqueue launcher'", 0,
	'and nobody else');
my $before = $probed->();
my $settled = wait_for(sub { my $last = $before; $node->safe_psql('one', 'SELECT pg_sleep(1.1)');
	($before = $probed->()) == $last });
ok($settled, 'databases are looked at once');
my ($awake, $log) = watch_idle($node, 3);
is($log, '', 'no extension: nothing is logged');
is_seldom_awake($awake, 15, 'no extension: hardly ever awake');
is($probed->(), $before, 'no extension: no database is looked at again');
is(processes($node), 'launcher', 'no extension: only the launcher runs');

# --------------------------------------------------------------------------------------------------------------------
# Idle, with handlers

$node->safe_psql('app', <<'SQL');
	SET client_min_messages = warning;
	CREATE EXTENSION jobqueue;
	CREATE ROLE ann LOGIN;
	CREATE ROLE shut NOLOGIN;
	CREATE FUNCTION work(payload jsonb) RETURNS timestamptz LANGUAGE sql AS $$SELECT clock_timestamp()$$;
	SELECT jobqueue.register_handler('work', 'work(jsonb)');
	SELECT jobqueue.register_handler('work of ann', 'work(jsonb)', run_as => 'ann');
	SELECT jobqueue.register_handler('work elsewhere', 'work(jsonb)', queue => 'elsewhere');
	SELECT count(jobqueue.enqueue(type)) FROM jobqueue.handlers, generate_series(1, 100);
SQL
allow_login($node, 'shut');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 300, 'some tasks first');
# A second scheduler with nothing to do.
$node->safe_psql('two', 'CREATE EXTENSION jobqueue');
create_ledger($node, 'two');

# The position in the WAL, after all that a look at the catalogs might have to write.
sub wal {
	$node->safe_psql('app', 'SELECT count(*) FROM pg_stat_activity');
	return $node->safe_psql('app', 'SELECT pg_current_wal_insert_lsn()');
}

my $wal;
ok(wait_for(sub { my $last = $wal // ''; $node->safe_psql('app', 'SELECT pg_sleep(0.5)'); ($wal = wal()) eq $last }),
	'at rest');
($awake, $log) = watch_idle($node, 3);
is(wal(), $wal, 'idle, looking every 100 ms: no WAL');
is($log, '', 'idle, looking every 100 ms: no log');
# Half a dozen processes, each ten times a second; one in a loop would be awake thousands of times.
is_seldom_awake($awake, 600, 'idle, looking every 100 ms: awake for that only');

# As it comes out of the box.
$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '5s'");
$node->reload;
($awake, $log) = watch_idle($node, 10);
unlike($log, qr/jobqueue .*(?:launcher|scheduler|worker)/, 'idle: nothing of ours is logged');
is(wal(), $wal, 'idle: no WAL');
is_seldom_awake($awake, 50, 'idle: hardly ever awake');

# --------------------------------------------------------------------------------------------------------------------
# Tasks that cannot run

$node->safe_psql('app', <<'SQL');
	SET client_min_messages = warning;
	SELECT jobqueue.pause_queue('paused');
	SELECT jobqueue.enqueue('work', queue => 'paused') FROM generate_series(1, 100);
	SELECT jobqueue.enqueue('work of ann', queue => 'paused', priority => -7);
	SELECT jobqueue.enqueue('work', queue => 'paused', delay => '1 s');
	SELECT jobqueue.enqueue('nobody', priority => p) FROM generate_series(-50, 50) p;
	SELECT jobqueue.enqueue('work', run_at => '2100-01-01');
	INSERT INTO jobqueue.tasks (type, run_at) VALUES ('work', '2100-01-01');
	INSERT INTO jobqueue.tasks (type, status) VALUES ('work', 'blocked');
	SELECT jobqueue.enqueue('outside', queue => 'elsewhere') FROM generate_series(1, 10);
	SELECT count(*) FROM jobqueue.claim('elsewhere', 5, '1 hour');
	UPDATE jobqueue.tasks SET status = 'processing' WHERE id = (SELECT id FROM jobqueue.tasks
		WHERE status = 'pending' AND type = 'outside' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED);
SQL
# A role that may no longer connect has tasks, and so has a role whose task is locked.
$node->safe_psql('app', <<'SQL');
	SET client_min_messages = warning;
	REVOKE CONNECT ON DATABASE app FROM PUBLIC;
	GRANT CONNECT ON DATABASE app TO ann;
	SELECT jobqueue.register_handler('work of shut', 'work(jsonb)', run_as => 'shut');
	SELECT jobqueue.enqueue('work of shut') FROM generate_series(1, 10);
SQL
my $holder = $node->background_psql('app');
my $locked =
	$node->safe_psql('app', "BEGIN; SELECT jobqueue.pause_queue('default'); SELECT jobqueue.enqueue('work'); COMMIT");
$locked =~ s/^t\n//;
$holder->query_safe("BEGIN; SELECT id FROM jobqueue.tasks WHERE id = $locked FOR UPDATE");
$node->safe_psql('app', "SELECT jobqueue.resume_queue('default')");

# Others in the same queue are run.
my $id = $node->safe_psql('app', "SELECT jobqueue.enqueue('work')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'a task runs beside all that cannot');
$id = $node->safe_psql('app', "SELECT jobqueue.enqueue('work of ann')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'and one of another role');
# the one with a delay is due, and waits now like the others
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'paused' AND status = 'pending'", 102,
	'a paused task became due');

ok(wait_for(sub { my $last = $wal; $node->safe_psql('app', 'SELECT pg_sleep(0.5)'); ($wal = wal()) eq $last }),
	'at rest');
($awake, $log) = watch_idle($node, 6, 1);
unlike($log, qr/jobqueue/, 'tasks that cannot run: nothing of ours is logged');
is_seldom_awake($awake, 50, 'tasks that cannot run: hardly ever awake');
is(wal(), $wal, 'tasks that cannot run: no WAL');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks_live WHERE queue = 'paused' AND status = 'pending' AND attempts = 0"), 102,
	'paused tasks wait');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE type = 'work of shut' AND status = 'pending' AND attempts = 0"), 10,
	'tasks of a role without rights wait unharmed');

# A lock is released, and a role gets its rights. Neither is announced: the fallback poll finds it.
$holder->query_safe('COMMIT');
$holder->quit;
$node->safe_psql('app', 'GRANT CONNECT ON DATABASE app TO shut');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $locked", 'completed',
	'a task that was locked runs');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'work of shut' AND status = 'completed'", 10,
	'so do those of a role that may connect again');

# --------------------------------------------------------------------------------------------------------------------
# Everything starts when it can; no fallback poll would help.

$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1h'");
$node->reload;

is($node->safe_psql('app', "SELECT jobqueue.resume_queue('paused')"), 't', 'resume_queue');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'paused' AND status = 'completed'", 102,
	'what waited runs');
for my $type ('work', 'work of ann', 'work elsewhere') {
	for my $queue ('paused', 'default') {
		$id = $node->safe_psql('app', "SELECT jobqueue.enqueue('$type', queue => '$queue')");
		wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
			"$type in $queue: runs");
	}
}
for my $what ("'paused'", 'NULL') {
	my @ids = split /\n/, $node->safe_psql('app', <<SQL);
		SELECT 'x' FROM jobqueue.pause_queue($what);
		SELECT jobqueue.enqueue('work', queue => 'paused') FROM generate_series(1, 2);
SQL
	shift @ids;
	($awake, $log) = watch_idle($node, 2);
	is_seldom_awake($awake, 15, "paused ($what) with tasks: hardly ever awake");
	is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'paused' AND status = 'pending'"), 2,
		"paused ($what): they wait");
	$node->safe_psql('app', "SELECT jobqueue.resume_queue($what)");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $_", 'completed', "resumed ($what)") for @ids;
	$id = $node->safe_psql('app', "SELECT jobqueue.enqueue('work', queue => 'paused')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		"resumed ($what): a new task");
}
# A pause that is rolled back, and one that overlaps with enqueuing.
$node->safe_psql('app', "BEGIN; SELECT jobqueue.pause_queue('paused'); ROLLBACK");
$id = $node->safe_psql('app', "SELECT jobqueue.enqueue('work', queue => 'paused')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'a pause that was rolled back is none');
$id = $node->safe_psql('app', <<'SQL');
	BEGIN; SELECT FROM jobqueue.pause_queue('paused'); SELECT jobqueue.enqueue('work', queue => 'paused');
	SELECT FROM jobqueue.resume_queue('paused'); COMMIT;
SQL
$id =~ s/\s//g;
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'paused and resumed in one transaction');

is(unexpected_in_log($node, qr/"shut"/), '', 'nothing unexpected in the log');
cmp_ok(scalar(log_matches($node, qr/"shut"/)), '<=', 2, 'the role without rights is mentioned, once');
$node->stop;
done_testing();
