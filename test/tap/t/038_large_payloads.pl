# A5: payloads that are large in memory though small on the disk: what one process holds of them at once is bounded, in
# bytes, wherever tasks go in batches. Measured is the most memory that a process has had (VmHWM), of a server whose
# shared buffers are small.
#
# - groups of tasks, by their payload and by their row; batch handlers, likewise; results; claims that are committed
#   first
# - claim(), in both ways, and complete_and_claim()
# - A2: a claim beside rows that somebody has locked, which a server with assertions would not let pass; see also
#   skipped.spec
# - what the scheduler moves: promotion, archive, purge; retry, delete, flows
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'memory can be measured on Linux only' unless -r '/proc/self/status';

# A type is known to be short as soon as a small task of it has run.
my $node = start_node('large', autovacuum => 'off', shared_buffers => '16MB', 'jobqueue.max_workers' => 1,
	'jobqueue.fused_after' => 1, 'jobqueue.fused_time' => '1s', 'jobqueue.worker_idle_timeout' => '10min',
	max_wal_size => '10GB', checkpoint_timeout => '1h', fsync => 'off');
create_queue($node, 'app');
my $megabytes = 20;
my $count = 25;
$node->safe_psql('app', <<'SQL');
	CREATE TABLE seen (what text, bytes bigint);
	CREATE FUNCTION by_payload(p jsonb) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.seen VALUES ('payload', length(p->>'filler')) $$;
	CREATE FUNCTION by_row(t jobqueue.tasks) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.seen VALUES ('row', pg_column_size(t.payload)) $$;
	CREATE FUNCTION by_payloads(p jsonb[]) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.seen SELECT 'payloads', length(one->>'filler') FROM unnest(p) one $$;
	CREATE FUNCTION by_rows(t jobqueue.tasks[]) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.seen SELECT 'rows', length(one.payload->>'filler') FROM unnest(t) one $$;
	CREATE FUNCTION returns_much(p jsonb) RETURNS jsonb LANGUAGE sql AS
		$$ INSERT INTO public.seen VALUES ('result', (p->>'n')::bigint)
			RETURNING jsonb_build_object('r', repeat('x', (p->>'n')::int)) $$;
	CREATE FUNCTION small_row(t jobqueue.tasks) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.seen VALUES ('small', pg_current_xact_id()::text::bigint) $$;
SQL

# The most memory that these processes have had, in MB.
sub peak {
	my ($pid) = @_;
	my ($kilobytes) = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;
	return $kilobytes / 1024;
}

sub is_bounded {
	my ($pid, $most, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $peak = peak($pid);
	cmp_ok($peak, '<', $most, "A5: $what: the process has had less than $most MB") or diag "$peak MB";
	note sprintf '%s: %.0f MB', $what, $peak;
}

# So many large tasks of a type. Copied from a table, they are not compressed again each time.
sub enqueue {
	my ($type, $number, $queue, $delay) = @_;
	$node->safe_psql('app', "INSERT INTO jobqueue.tasks (type, payload, queue, run_at)
		SELECT '$type', payload, '" . ($queue // 'default') . "', " . ($delay ? "now() + interval '$delay'" : 'NULL')
			. "
		FROM kept, generate_series(1, $number)");
}
$node->safe_psql('app',
	"CREATE TABLE kept AS SELECT jsonb_build_object('filler', repeat('x', $megabytes * 1000000)) AS payload");

# Runs them all in one worker, which is new.
sub run_type {
	my ($type, $handler, $what, $number, $batch) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->safe_psql('app', "SELECT jobqueue.pause_queue('default')");
	$node->safe_psql('app', "SELECT jobqueue.register_handler('$type', '$handler', batch_size => $batch)");
	$node->safe_psql('app', "SELECT jobqueue.enqueue('$type', '{\"filler\": \"small\"}')");
	enqueue($type, $number);
	$node->safe_psql('app', 'SELECT pg_terminate_backend(pid) FROM jobqueue.worker_status');
	wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.worker_status', 0, 'no worker');
	$node->safe_psql('app', q[SELECT jobqueue.resume_queue('default')]);
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = '$type' AND status = 'completed'",
		$number + 1, "A5: $what: done")
		or diag $node->safe_psql('app',
		"SELECT status, last_error, count(*) FROM jobqueue.tasks WHERE type = '$type' GROUP BY 1, 2");
	my ($pid) = pids($node, 'worker');
	is_bounded($pid, 250, $what);
}

run_type('by_payload', 'by_payload(jsonb)', 'groups, by payload', $count, 1);
run_type('by_row', 'by_row(jobqueue.tasks)', 'groups, by row', $count, 1);
run_type('by_payloads', 'by_payloads(jsonb[])', 'a batch handler of payloads', $count, 50);
run_type('by_rows', 'by_rows(jobqueue.tasks[])', 'a batch handler of rows', $count, 50);
is($node->safe_psql('app',
	"SELECT string_agg(what || ' ' || n, ', ' ORDER BY what) FROM (SELECT what, count(*) AS n FROM seen WHERE bytes "
		. ">= 200000
	GROUP BY what) s"), "payload $count, payloads $count, row $count, rows $count",
		'A5: each handler has seen what it was sent');

# Alone: the claim is committed first.
$node->append_conf('postgresql.conf', 'jobqueue.fused_time = 0');
$node->reload;
wait_sql($node, 'app', 'SHOW jobqueue.fused_time', 0, 'no groups');
run_type('by_row_alone', 'by_row(jobqueue.tasks)', 'alone, by row', 10, 1);
run_type('by_rows_alone', 'by_rows(jobqueue.tasks[])', 'batches alone, by rows', 20, 50);
$node->append_conf('postgresql.conf', "jobqueue.fused_time = '1s'");
$node->reload;

# Results of 10 MB.
$node->safe_psql('app', "SELECT jobqueue.pause_queue('default')");
$node->safe_psql('app', "SELECT jobqueue.register_handler('returns_much', 'returns_much(jsonb)')");
$node->safe_psql('app',
	"SELECT count(jobqueue.enqueue('returns_much', '{\"n\": 10000000}')) FROM generate_series(1, 30)");
$node->safe_psql('app', 'SELECT pg_terminate_backend(pid) FROM jobqueue.worker_status');
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.worker_status', 0, 'no worker');
$node->safe_psql('app', q[SELECT jobqueue.resume_queue('default')]);
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'returns_much' AND status = 'completed'", 30,
	'A5: results of groups: done');
is($node->safe_psql('app', "SELECT min(length(result->>'r')) FROM jobqueue.tasks WHERE type = 'returns_much'"),
	10000000, 'A5: ... and kept');
is_bounded((pids($node, 'worker'))[0], 250, 'results of groups');

# Small ones still come with their rows, and together: groups are as large as ever.
$node->safe_psql('app',
	"SELECT jobqueue.pause_queue('default'); SELECT jobqueue.register_handler('small', 'small_row(jobqueue.tasks)');
	SELECT count(jobqueue.enqueue('small', '{\"filler\": \"x\"}')) FROM generate_series(1, 200); SELECT "
		. "jobqueue.resume_queue('default')");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'small' AND status = 'completed'", 200,
	'A5: small tasks: done');
cmp_ok($node->safe_psql('app', "SELECT count(DISTINCT bytes) FROM seen WHERE what = 'small'"), '<', 100,
	'A5: ... many to a transaction');

# --------------------------------------------------------------------------------------------------------------------
# From outside

enqueue('outside', 20, 'outside');
my $session = $node->background_psql('app', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $claimed =
	$session->query_safe("SELECT count(*), bool_and(length(payload->>'filler') = $megabytes * 1000000) FROM "
		. "jobqueue.claim('outside', 100)");
is($claimed, '3|t', 'A5: a claim takes 64 MB, and no more');
is($session->query_safe("SELECT count(*) FROM jobqueue.claim('outside', 2)"), 2, 'A5: two are two');
is($session->query_safe("SELECT count(*) FROM jobqueue.claim('outside', 100, types => '{outside}')"), 3,
	'A5: a claim by type, likewise');
is($session->query_safe("SELECT count(*) FROM jobqueue.complete_and_claim('{}', '{}', queue => 'outside', max_tasks "
	. "=> 100)"), 3, 'A5: complete_and_claim, likewise');
is($session->query_safe("BEGIN; SELECT count(*) FROM jobqueue.claim('outside', 100); SELECT count(*) FROM "
	. "jobqueue.claim('outside', 100); COMMIT"),
	"3\n3", 'A5: twice in one transaction');
is($session->query_safe("SELECT count(*) FROM jobqueue.claim('outside', 100)"), 3, 'A5: the last');
is($session->query_safe("SELECT count(*) FROM jobqueue.claim('outside', 100)"), 0,
	'A5: nobody is left, or comes twice');
is($node->safe_psql('app',
	"SELECT count(*), max(attempts) FROM jobqueue.tasks WHERE type = 'outside' AND status = 'processing'"), '20|1',
	'A5: each is claimed once');
is_bounded($pid, 300, 'claims from outside');
$session->quit;

# --------------------------------------------------------------------------------------------------------------------
# A2. What would fail on a server with assertions only: an update that does not wait, of a row that is locked.

my @locked = split /\n/,
	$node->safe_psql('app', "SELECT jobqueue.enqueue('locked', queue => 'locked') FROM generate_series(1, 6)");
my $holder = $node->background_psql('app', on_error_stop => 0);
$holder->query_safe("BEGIN;
	SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE id = $locked[0] FOR UPDATE) x;
	SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE id = $locked[1] FOR KEY SHARE) x;
	UPDATE jobqueue.tasks SET metadata = '{}' WHERE id = $locked[2];
	DELETE FROM jobqueue.tasks WHERE id = $locked[3]");
$session = $node->background_psql('app', on_error_stop => 0);
is($session->query_safe("SELECT string_agg(id::text, ' ') FROM jobqueue.claim('locked', 10)"), "$locked[4] $locked[5]",
	'A2: a claim passes over what somebody has locked, changed or removed');
$holder->query_safe('ROLLBACK');
# It is not announced that a lock is released: the scheduler's sweep finds them.
my %got;
ok(wait_for(sub { $got{$_}++ for split /\n/, $session->query_safe("SELECT id FROM jobqueue.claim('locked', 10)");
	return keys %got == 4 }),
	'A2: ... and takes it when he is gone') or diag join ' ', %got;
$holder->quit;
$session->quit;

# A5 again: one that is larger than what is taken at once is taken, too, alone.
$node->safe_psql('app',
	"SELECT jobqueue.enqueue('huge', jsonb_build_object('filler', repeat('x', 100000000)), queue => 'outside') FROM "
		. "generate_series(1, 2)");
is($node->safe_psql('app', "SELECT count(*), sum(length(payload->>'filler')) FROM jobqueue.claim('outside', 100)"),
	'1|100000000',
	'A5: a task that is larger comes alone');

# --------------------------------------------------------------------------------------------------------------------
# What the scheduler does, and people

$node->restart;
my $scheduler = wait_for(sub { (pids($node, 'scheduler', 'app'))[0] }) or die 'no scheduler';
enqueue('later', 20, 'outside', '1 second');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'later' AND status = 'pending'", 20,
	'A5: promotion: done');
$node->safe_psql('app', "UPDATE jobqueue.tasks SET status = 'failed' WHERE type = 'later'");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_failed WHERE type = 'later'", 20, 'A5: archive: done');
is_bounded($scheduler, 150, 'promotion and archive');
$session = $node->background_psql('app', on_error_stop => 0);
$pid = $session->query_safe('SELECT pg_backend_pid()');
is($session->query_safe("SELECT jobqueue.retry_failed(type => 'later')"), 20, 'A5: retry_failed');
is($session->query_safe("SELECT jobqueue.delete_tasks(type => 'later')"), 20, 'A5: delete_tasks');
is_bounded($pid, 150, 'retry_failed and delete_tasks');
$session->quit;
is(unexpected_in_log($node, qr/terminating background worker/), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
