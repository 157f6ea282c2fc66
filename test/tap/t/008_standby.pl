# A physical standby that preloads jobqueue is quiet; when it is promoted, it takes over without a command.
#
# - on the standby: no scheduler, no worker, not a word in the log
# - after promotion: what was pending, and what was being run on the primary, runs there; what was completed does not
#   run again; it is no "copy" that waits for adopt(): a failover must not need a person
# - the SQL functions that write are refused on a standby with the server's own error
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', autovacuum => 'off', init => { allows_streaming => 1 },
	'jobqueue.poll_interval' => '200ms', 'jobqueue.max_workers' => 2);
$primary->start;
create_queue($primary, 'app');
create_ledger($primary, 'app');
$primary->safe_psql('app', "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 50)");
wait_sql($primary, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 50,
	'completed on the primary');

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'hot_standby = on');
$standby->start;

# Long tasks fill the workers, others wait behind them, one is scheduled, one is paused.
$primary->safe_psql('app', <<'SQL');
	SELECT jobqueue.enqueue('note', '{"sleep": 1000}') FROM generate_series(1, 2);
SQL
wait_sql($primary, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'processing'", 2,
	'both workers are busy');
$primary->safe_psql('app', <<'SQL');
	SELECT jobqueue.enqueue('note') FROM generate_series(1, 30);
	SELECT jobqueue.enqueue('note', delay => '1 hour');
	SELECT jobqueue.pause_queue('paused');
	SELECT jobqueue.enqueue('note', queue => 'paused');
SQL
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

is(processes($standby), '', 'none of our processes on the standby');
my ($status, $out, $error) = $standby->psql('app', "SELECT jobqueue.enqueue('note')");
like($error, qr/cannot execute .* in a read-only transaction|cannot execute .* during recovery/,
	'enqueue on a standby: refused');
is($standby->safe_psql('app', 'SELECT count(*) FROM jobqueue.tasks'), 84, 'the tasks can be read on the standby');
is($standby->safe_psql('app', "SELECT waiting, running, paused FROM jobqueue.queue_status WHERE queue = 'default'"),
	'30|2|f', 'so can the views');
is($standby->safe_psql('app', 'SELECT count(*) FROM jobqueue.worker_status'), 0, 'which show no worker there');
# Quiet through many rounds of the fallback poll, were there any; the primary's handlers set the pace.
$primary->safe_psql('app', "SELECT pg_sleep(3)");
is(processes($standby), '', 'still none');
is_deeply([ log_matches($standby, qr/jobqueue (launcher|scheduler|worker)/) ], [], 'and not a word in its log');

# The primary is gone; the standby is told to be one.
$primary->stop('immediate');
my $offset = log_size($standby);
$standby->promote;
wait_sql($standby, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running' AND task_type = "
	. "'note'", 2,
	'promoted: takes over, and begins with what the primary was running');
is($standby->safe_psql('app',
	"SELECT bool_or(jobqueue.cancel(id, 'they would take too long')) FROM jobqueue.tasks WHERE payload ? 'sleep'"),
	't', 'the long tasks are cancelled');
is($standby->safe_psql('app',
	"SELECT jobqueue.retry(id, now() + '1 s') FROM jobqueue.tasks WHERE status = 'scheduled'"), 't',
		'the scheduled one gets a time that comes soon');
wait_sql($standby, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 81,
	'the waiting and the scheduled ones run');
wait_sql($standby, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'cancelled'", 2, 'the long ones do not');
is(statuses($standby, 'app'), 'cancelled 2, completed 81, pending 1', 'the paused one waits');
is($standby->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE last_sqlstate = '23505'"), 0,
	'nothing ran again');
is($standby->safe_psql('app',
	"SELECT count(*) FROM ledger l JOIN jobqueue.tasks t ON t.id = l.task WHERE t.status = 'completed'"), 81,
	'each completed task had its effect');
is($standby->safe_psql('app', "SELECT count(*) FROM ledger"), 81, 'and no other');
is($standby->safe_psql('app', "SELECT jobqueue.adopt()"), 'f', 'there is nothing to adopt');
my $id = $standby->safe_psql('app', "SELECT jobqueue.enqueue('note')");
wait_sql($standby, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'new tasks run');
is(unexpected_in_log($standby, qr/canceling statement|task \d+ .*cancel/, $offset), '',
	'nothing unexpected in the log');
$standby->stop;
done_testing();
