# Workers that have nothing to do give way: to a role that has a worker and could do with another one, but for the last
# place that a role could have without waiting; and by themselves after jobqueue.worker_idle_timeout, also where tasks
# that nobody handles wake them at every poll.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('idle', 'jobqueue.max_workers' => 3, 'jobqueue.worker_idle_timeout' => '10min',
	'jobqueue.poll_interval' => '200ms');
create_queue($node, 'busy', 'lazy');
create_ledger($node, 'busy', 'lazy');

# Two idle workers here, one busy one there: all that there may be.
$node->safe_psql('lazy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 1}') FROM generate_series(1, 2)");
wait_sql($node, 'lazy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'idle,idle', 'two idle workers');
$node->safe_psql('busy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 600}')");
wait_sql($node, 'busy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'running',
	'a busy one in another database');
$node->safe_psql('busy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 600}')");
wait_sql($node, 'busy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'running,running',
	'the idle one makes room for its colleague');
my @left = pids($node, 'worker', 'lazy');
is(scalar @left, 1, 'by leaving');
# The other stays, however many tasks there are elsewhere.
$node->safe_psql('busy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 600}') FROM generate_series(1, 3)");
for my $task (1 .. 20) {
	my $id = $node->safe_psql('lazy', "SELECT jobqueue.enqueue('note')");
	is($node->safe_psql('lazy', "SELECT status FROM jobqueue.wait_for($id, '20 s')"), 'completed',
		"task $task of the lazy one") or last;
}
is(join(',', pids($node, 'worker', 'lazy')), join(',', @left), '... all by the worker that stayed');
is($node->safe_psql('busy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status"), 'running,running',
	'and no third one was started');

# Every poll finds a task that has no handler; that does not keep a worker busy.
$node->append_conf('postgresql.conf', "jobqueue.worker_idle_timeout = '2s'");
$node->reload;
$node->safe_psql('busy', "SELECT jobqueue.cancel_tasks(type => 'note')");
wait_sql($node, 'busy', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'", 0, 'cancelled');
$node->safe_psql('lazy', "SELECT jobqueue.enqueue('nobody'), jobqueue.enqueue('note')");
wait_sql($node, 'lazy',
	"SELECT string_agg(status, ',' ORDER BY id) FROM (SELECT id, status FROM jobqueue.tasks ORDER BY id DESC LIMIT "
		. "2) t", 'pending,completed', 'done');
wait_sql($node, 'lazy', "SELECT count(*) FROM jobqueue.worker_status", 0, 'the worker leaves although a task waits');

is(unexpected_in_log($node), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
