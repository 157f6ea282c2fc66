# Workers that have nothing to do give way: to a role that has a worker and could do with another one, although none of its
# workers is missing; and by themselves after jobqueue.worker_idle_timeout, also where tasks that nobody handles wake them
# at every poll.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('idle', 'jobqueue.max_workers' => 2, 'jobqueue.worker_idle_timeout' => '10min', 'jobqueue.poll_interval' => '200ms');
create_queue($node, 'busy', 'lazy');
create_ledger($node, 'busy', 'lazy');

# One idle worker here, one busy one there: all that there may be.
$node->safe_psql('lazy', "SELECT jobqueue.enqueue('note')");
wait_sql($node, 'lazy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'idle', 'an idle worker', 20);
$node->safe_psql('busy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 600}')");
wait_sql($node, 'busy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'running', 'a busy one in another database', 20);
$node->safe_psql('busy', "SELECT jobqueue.enqueue('note', '{\"sleep\": 600}')");
wait_sql($node, 'busy', "SELECT string_agg(state, ',') FROM jobqueue.worker_status", 'running,running', 'the idle one makes room for its colleague', 20);
is(join(',', pids($node, 'worker', 'lazy')), '', 'by leaving');

# A task that nobody handles is found by every poll; that does not keep a worker busy.
$node->append_conf('postgresql.conf', "jobqueue.worker_idle_timeout = '2s'");
$node->reload;
$node->safe_psql('busy', 'SELECT jobqueue.cancel(task_id) FROM jobqueue.worker_status');
wait_sql($node, 'busy', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'", 0, 'cancelled', 20);
$node->safe_psql('lazy', "SELECT jobqueue.enqueue('nobody'), jobqueue.enqueue('note')");
wait_sql($node, 'lazy', "SELECT string_agg(status, ',' ORDER BY id) FROM jobqueue.tasks", 'completed,pending,completed', 'done', 20);
wait_sql($node, 'lazy', "SELECT count(*) FROM jobqueue.worker_status", 0, 'the worker leaves although a task waits', 20);

is(unexpected_in_log($node), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
