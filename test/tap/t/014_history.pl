# What is finished goes, when its time has come and not before, and costs the living nothing until then.
#
# - completed_retention: the ring of history turns, each leaf is emptied in its turn, no row goes before the retention
#   is over, and none stays for much longer
# - meanwhile clients with hand-written statements, which lock every leaf, see no error
# - a transaction that has read the table keeps its leaves from being emptied at once, and nothing else: claims,
#   enqueues and workers go on without a pause, and old tasks go one by one
# - completed_retention = 0: completed and cancelled tasks are gone at once, the history of before is emptied; whoever
#   waits for such a task is told
# - failed_retention: failed tasks go after it, and stay with -1
# - an old snapshot, and 20,000 dead rows that it keeps, do not make a claim dearer, neither the workers' nor claim()
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Seven seconds: a leaf is filled for one.
my $retention = 7;
my $node = start_node('history', autovacuum => 'off', 'jobqueue.poll_interval' => '200ms',
	'jobqueue.completed_retention' => $retention);
create_queue($node, 'app', 'decay');
$node->safe_psql('app', <<'SQL');
	CREATE ROLE clerk LOGIN;
	SELECT jobqueue.grant_access('clerk', 'consumer');
	-- What was seen finished: what is missing from the table later has been removed.
	CREATE TABLE finished (task bigint PRIMARY KEY, status text, at timestamptz NOT NULL);
	CREATE FUNCTION note_finished() RETURNS void LANGUAGE sql AS $$
		INSERT INTO finished SELECT id, status, finished_at FROM jobqueue.tasks WHERE finished_at IS NOT NULL
			ON CONFLICT DO NOTHING
	$$;
SQL
$node->safe_psql($_, <<'SQL') for 'app', 'decay';
	CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION boom(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$boom$$; END';
	SELECT jobqueue.register_handler('nothing', 'nothing(jsonb)');
	SELECT jobqueue.register_handler('boom', 'boom(jsonb)', max_attempts => 1);
SQL

sub set {
	my (%settings) = @_;
	$node->append_conf('postgresql.conf', join '', map { "$_ = $settings{$_}\n" } sort keys %settings);
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}

# --------------------------------------------------------------------------------------------------------------------
# The ring turns, under way

my $dir = PostgreSQL::Test::Utils::tempdir;
append_to_file("$dir/by_hand.sql", <<'SQL');
\set id 0
INSERT INTO jobqueue.tasks (type, queue) VALUES ('by hand', 'old_style');
UPDATE jobqueue.tasks SET status = 'processing', processed_at = now()
WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' AND queue = 'old_style' ORDER BY created_at LIMIT 1
FOR UPDATE SKIP LOCKED)
RETURNING id \aset
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id;
SQL
my $by_hand = '';
my $clients = IPC::Run::start(
	[ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 3, '-T', 12, '-R', 60, '-f', "$dir/by_hand.sql",
		'app' ],
	'<', '/dev/null', '>', \$by_hand, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

my $session = $node->background_psql('app', on_error_stop => 0);
$session->query_safe("SET statement_timeout = '100s'; SET client_min_messages = error");
my (%leaves, %ended, $too_soon, $left);
$session->query_safe("SELECT jobqueue.cancel(jobqueue.enqueue('nothing', delay => '1 hour'))");
my $start = time;
while (time - $start < 12) {
	# by a worker, from outside, and cancelled
	my $id = $session->query_safe("SELECT jobqueue.enqueue('nothing')");
	$ended{ $session->query_safe("SELECT status FROM jobqueue.wait_for($id, '90 s')") }++;
	$session->query_safe("SELECT count(jobqueue.complete(id, attempts)) FROM (SELECT jobqueue.enqueue('outside', "
		. "queue => 'outside')) e, jobqueue.claim('outside')");
	$session->query_safe("SELECT jobqueue.cancel(jobqueue.enqueue('nothing', delay => '1 hour'))");
	$session->query_safe('SELECT note_finished()');
	$leaves{ $session->query_safe('SELECT coalesce(min(slot), 0) FROM jobqueue.history_ring') } = 1;
	$too_soon = $session->query_safe(<<"SQL");
		SELECT string_agg(concat_ws(' ', f.task, f.status, f.at, clock_timestamp()), E'\\n') FROM finished f
		WHERE f.at > now() - interval '$retention s' AND f.task NOT IN (SELECT id FROM jobqueue.tasks)
SQL
	last if $too_soon;
}
$clients->finish;
# one may have met nothing but tasks that the others had locked
$session->query_safe("UPDATE jobqueue.tasks SET status = 'completed' WHERE type = 'by hand' AND status IN "
	. "('pending', 'processing')");
ok($by_hand =~ /failed transactions: 0 / && !$clients->result(0), 'clients by hand had no error while the ring '
	. 'turned') or diag $by_hand;
is($too_soon, '', "nothing goes before its retention of $retention s is over");
is(join(' ', keys %ended), 'completed', 'every task runs meanwhile');
cmp_ok(scalar(keys %leaves), '>=', 6, 'the ring turns') or diag join ' ', sort keys %leaves;
is($session->query_safe("SELECT count(*) > 0, count(DISTINCT f.status) FROM finished f WHERE f.task NOT IN (SELECT "
	. "id FROM jobqueue.tasks)"), 't|2',
	'the first completed and cancelled ones are gone by now');
is($session->query_safe('SELECT count(*) > 0 FROM jobqueue.tasks WHERE finished_at IS NOT NULL'), 't',
	'others are still there');
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.tasks WHERE status IN ('completed', 'cancelled') AND slot NOT BETWEEN 1 AND 8",
	0, 'all that is finished is in the history');
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.tasks WHERE finished_at < now() - interval '1 s' * ($retention * 8 / 7.0)", 0,
	'and nothing for much longer than the retention');
is(unexpected_in_log($node), '', 'nothing unexpected in the log');

# --------------------------------------------------------------------------------------------------------------------
# A reader holds the leaves

my $reader = $node->background_psql('app');
$reader->query_safe("SELECT count(jobqueue.cancel(jobqueue.enqueue('nothing', delay => '1 hour'))) FROM "
	. "generate_series(1, 100)");
$reader->query_safe('BEGIN');
my $oldest = $reader->query_safe('SELECT min(id) FROM jobqueue.tasks WHERE finished_at IS NOT NULL');
is($reader->query_safe("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation::regclass::text LIKE "
	. "'jobqueue.tasks_history__' AND mode = 'AccessShareLock'"),
	8, 'a reader holds all leaves of the history');
my $held = $reader->query_safe('SELECT count(*) FROM jobqueue.tasks WHERE finished_at IS NOT NULL');
cmp_ok($held, '>', 50, 'with something in them');
my $offset = log_size($node);
$start = time;
my $went_on = eval {
	while (time - $start < $retention + 3) {
		my $id = $session->query_safe("SELECT jobqueue.enqueue('nothing')");
		my $ended = $session->query_safe("SELECT status FROM jobqueue.wait_for($id, '90 s')");
		die "task $id is " . ($ended || 'not done') . "\n" if $ended ne 'completed';
		$session->query_safe("SELECT count(jobqueue.complete(id, attempts)) FROM (SELECT jobqueue.enqueue('outside', "
			. "queue => 'outside')) e, jobqueue.claim('outside')");
		$session->query_safe("SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'");
	}
	1;
};
ok($went_on, 'a reader blocks nobody: enqueue, run, claim, complete, read') or diag $@;
$session->{stderr} = '';
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id <= $oldest AND finished_at IS NOT NULL", 0,
	'the retention is kept all the same: rows go one by one');
is(unexpected_in_log($node, undef, $offset), '', 'what cannot be emptied now is no error');
cmp_ok(length(log_since($node, $offset)), '<', 5000, 'and does not fill the log');
$reader->query_safe('COMMIT');
$reader->quit;

# --------------------------------------------------------------------------------------------------------------------
# No retention

set('jobqueue.completed_retention' => 0);
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status IN ('completed', 'cancelled')", 0,
	'retention 0: the history of before is emptied');
is($session->query_safe("SELECT sum(pg_relation_size(c)) FROM pg_inherits i, LATERAL (SELECT i.inhrelid::regclass AS "
	. "c) r WHERE inhparent = 'jobqueue.tasks'::regclass AND c::text LIKE '%history%'"),
	0, 'retention 0: it takes no space');
# A session waits before the task ends, in each of the ways; a session that comes too late gets the answer, too.
$session->query_safe('CREATE FUNCTION gated(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '
	. 'pg_advisory_xact_lock_shared(42); SELECT payload $$');
$session->query_safe("SELECT jobqueue.register_handler('gated', 'gated(jsonb)')");
for my $way (
	[ 'a worker', 'gated', sub { $session->query_safe('SELECT pg_advisory_unlock(42)') }, 'completed' ],
	[ 'complete()', 'outside', sub { $session->query_safe("SELECT jobqueue.complete(id, attempts) FROM "
		. "jobqueue.claim('outside')") }, 'completed' ],
	[ 'UPDATE', 'outside',
		sub { $session->query_safe("UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $_[0]") }, 'completed' ],
	[ 'cancel()', 'outside', sub { $session->query_safe("SELECT jobqueue.cancel($_[0])") }, 'cancelled' ])
{
	my ($name, $type, $end, $status) = @$way;
	$session->query_safe('SELECT pg_advisory_lock(42)') if $type eq 'gated';
	my $id = $session->query_safe("SELECT jobqueue.enqueue('$type', queue => '$type')");
	my ($out, $err) = ('', '');
	my $waiter = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('app'), '-c',
		"SELECT status FROM jobqueue.wait_for($id, '30 s')" ],
		'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	wait_sql($node, 'app',
		"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%wait_for($id,%' AND state = 'active' AND pid <> "
			. "pg_backend_pid() AND wait_event IS NOT NULL",
		1, "retention 0, $name: somebody waits");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'processing',
		"retention 0, $name: and the task runs") if $type eq 'gated';
	$end->($id);
	is_prompt(sub { eval { $waiter->finish } }, "retention 0, $name: who waits is told at once");
	like("$out$err", qr/\A(?:$status\n\z|ERROR:  P0002: .*\b$id\b)/, "retention 0, $name: and told something clear");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id = $id", 0, "retention 0, $name: gone");
	(undef, undef, $err) = $node->psql('app', "\\set VERBOSITY verbose\nSELECT jobqueue.wait_for($id, '90 s')");
	like($err, qr/ERROR:  (?:P0002|22023): .*\b$id\b/, "retention 0, $name: who comes too late is told, too");
}
my $bad = $session->query_safe("SELECT jobqueue.enqueue('boom')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $bad", 'failed', 'retention 0: failed tasks stay');
$session->query_safe("SELECT count(jobqueue.enqueue('nothing')) FROM generate_series(1, 200)");
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks', 1, 'retention 0: nothing else is left of many');

# --------------------------------------------------------------------------------------------------------------------
# Failed tasks

$session->query_safe("SELECT count(jobqueue.enqueue('boom')) FROM generate_series(1, 20)");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'failed'", 21, 'failed tasks');
$session->query_safe('TRUNCATE finished; SELECT note_finished()');
set('jobqueue.failed_retention' => 3);
$start = time;
while (time - $start < 20) {
	$too_soon =
		$session->query_safe("SELECT count(*) FROM finished f WHERE f.at > now() - interval '3 s' AND f.task NOT IN "
			. "(SELECT id FROM jobqueue.tasks)");
	last if $too_soon || $session->query_safe('SELECT count(*) FROM jobqueue.tasks') == 0;
}
is($too_soon, 0, 'failed tasks do not go before their retention is over');
is($session->query_safe('SELECT count(*) FROM jobqueue.tasks'), 0, 'and then they go');
set('jobqueue.failed_retention' => -1);
wait_sql($node, 'app', 'SHOW jobqueue.failed_retention', '-1', 'kept for ever');
$bad = $session->query_safe("SELECT jobqueue.enqueue('boom')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $bad", 'failed', 'a failed task');
$session->quit;

# --------------------------------------------------------------------------------------------------------------------
# An old snapshot

set('jobqueue.completed_retention' => '7d', 'jobqueue.poll_interval' => '5s');
my $snapshot = $node->background_psql('decay');
$snapshot->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobqueue.tasks');

# Counters of a process are complete when it has gone.
sub blocks {
	wait_sql($node, 'decay',
		"SELECT count(*) FROM pg_stat_activity WHERE datname = 'decay' AND backend_type = 'jobqueue worker'", 0,
			'workers have left');
	return split /\|/, $node->safe_psql('decay', <<'SQL');
		SELECT (SELECT idx_blks_hit + idx_blks_read FROM pg_statio_all_indexes WHERE schemaname = 'jobqueue'
			AND indexrelname = 'tasks_live_next'),
			(SELECT heap_blks_hit + heap_blks_read FROM pg_statio_all_tables WHERE schemaname = 'jobqueue'
				AND relname = 'tasks_live')
SQL
}

# Index and table blocks that a task costs, all in all, done by a worker; or by claim() and complete().
sub cost_by_workers {
	my ($n) = @_;
	set('jobqueue.max_workers' => 0);
	my @from = blocks();
	my $last = $node->safe_psql('decay', "SELECT max(jobqueue.enqueue('nothing')) FROM generate_series(1, $n)");
	set('jobqueue.max_workers' => 1);
	# by its id, or looking would cost more than what is measured
	wait_sql($node, 'decay', "SELECT count(*) FROM jobqueue.tasks_live WHERE id = $last", 0, "$n tasks are done");
	set('jobqueue.max_workers' => 0);
	my @to = blocks();
	return map { ($to[$_] - $from[$_]) / $n } 0, 1;
}

sub cost_by_claims {
	my ($n) = @_;
	my @from = blocks();
	$node->safe_psql('decay', "SELECT count(jobqueue.enqueue('outside')) FROM generate_series(1, $n)");
	$node->safe_psql('decay', "SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim();\n" x $n);
	my @to = blocks();
	return map { ($to[$_] - $from[$_]) / $n } 0, 1;
}

my @workers_before = cost_by_workers(2000);
my @claims_before = cost_by_claims(2000);
cmp_ok($workers_before[0], '>', 0, 'the counters count');
# 20,000 dead rows that cannot be removed; half of them were claimed in the server, half outside.
cost_by_workers(10000);
$node->safe_psql('decay', "SELECT count(jobqueue.enqueue('outside')) FROM generate_series(1, 10000)");
$node->safe_psql('decay', <<'SQL') for 1 .. 10;
	WITH mine AS (SELECT array_agg(id) AS ids, array_agg(attempts) AS attempts FROM jobqueue.claim(max_tasks => 1000))
	SELECT count(*) FROM mine, jobqueue.complete_many(ids, attempts);
SQL
is($node->safe_psql('decay', 'SELECT count(*) FROM jobqueue.tasks_live'), 0, '20,000 tasks were processed');
$node->safe_psql('decay', 'VACUUM jobqueue.tasks_live');
my @workers_after = cost_by_workers(2000);
my @claims_after = cost_by_claims(2000);
is($snapshot->query_safe('SELECT count(*) FROM jobqueue.tasks'), 0, 'the snapshot is that of the beginning');
for my $i (0, 1) {
	my ($of, $spare) = @{ ([ 'index', 5 ], [ 'table', 100 ])[$i] };
	note sprintf "%s blocks a task: workers %.1f, then %.1f; claim() %.1f, then %.1f", $of, $workers_before[$i],
		$workers_after[$i], $claims_before[$i], $claims_after[$i];
	# From time to time a claim reads from the start, for safety, and so does a new process: 20,000 dead
	# rows on a hundred pages of the index. A few times among 2000 tasks are a few dozen a task; at each claim it would
	# be thousands.
	cmp_ok($workers_after[$i], '<', 3 * $workers_before[$i] + $spare,
		"an old snapshot does not make the workers' claims dearer: $of blocks");
	cmp_ok($claims_after[$i], '<', 3 * $claims_before[$i] + $spare, "nor those by claim(): $of blocks");
}
$snapshot->quit;

is(unexpected_in_log($node, qr/boom/), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
