# A switch to another server by logical replication, without a stop of the writers until the last moment, as
# doc/copies.md says it: from an older server, if one is at hand.
#
# - while the subscription brings tasks, the new server runs none of them
# - after the switch every task has run on one server or on the other, once; none is lost
# - no id comes again, although sequences are not replicated; attempts and failures go on
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = start_node('blue', older_server(), init => { allows_streaming => 'logical' }, 'jobqueue.max_workers' => 2);
my $new = start_node('green', 'jobqueue.max_workers' => 2);
note 'from version ' . $old->pg_version . ' to ' . $new->pg_version;
for my $node ($old, $new) {
	create_queue($node, 'app');
	create_ledger($node, 'app');
	$node->safe_psql('app', <<'SQL');
		CREATE FUNCTION fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END $$;
		SELECT jobqueue.register_handler('fails', 'fails(jsonb)', max_attempts => 2, backoff => 'fixed',
			first_delay => '1 day', max_delay => '1 day');
SQL
}
$old->safe_psql('app', "SELECT jobqueue.enqueue('note', metadata => '\"before\"') FROM generate_series(1, 100)");
my $failing = $old->safe_psql('app', "SELECT jobqueue.enqueue('fails')");
wait_sql($old, 'app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $failing", 'scheduled|1',
	'one waits for its second attempt');
$old->safe_psql('app', 'CREATE PUBLICATION queue FOR TABLE jobqueue.tasks');

# The writer, and the workers, go on while the new server gets its copy.
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $script = PostgreSQL::Test::Utils::tempdir . '/write.sql';
append_to_file($script, <<'SQL');
\set ON_ERROR_STOP on
SELECT jobqueue.enqueue('note', metadata => '"written"') \g /dev/null
SQL
my $output = '';
my $writer = IPC::Run::start(
	[ 'sh', '-c', 'while [ ! -e "$0" ]; do psql -X -q -d "$1" -f "$2" || exit; done', $stop, $old->connstr('app'),
		$script ], '>', \$output, '2>&1');
my $connection = $old->connstr('app') =~ s/'/''/gr;
$new->safe_psql('app', "CREATE SUBSCRIPTION queue CONNECTION '$connection' PUBLICATION queue");
$new->wait_for_subscription_sync($old, 'queue', 'app');
wait_sql($new, 'app', "SELECT count(*) > 20 FROM jobqueue.tasks WHERE metadata = '\"written\"'", 't',
	'tasks that are written meanwhile arrive');

# 1. The workers end first: so there are tasks that neither server has run.
$old->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$old->reload;
my $written = "SELECT count(*) FROM jobqueue.tasks WHERE metadata = '\"written\"'";
my $so_far = $old->safe_psql('app', $written);
wait_sql($old, 'app', "SELECT count(*) > $so_far + 20 FROM jobqueue.tasks WHERE metadata = '\"written\"'", 't',
	'the writer goes on');
append_to_file($stop, '');
$writer->finish;
is($output, '', 'the writer saw no error');
wait_sql($old, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'processing'", 0, 'no task runs any more');
cmp_ok($old->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'pending'"), '>=', 20, 'some wait');

# 2. and 3.
$old->wait_for_catchup('queue');
my $rows = 'SELECT id, type, status, attempts, failures, metadata FROM jobqueue.tasks ORDER BY id';
my $expected = $old->safe_psql('app', $rows);
is($new->safe_psql('app', $rows), $expected, 'the new server has every task as it is');
is($new->safe_psql('app', 'SELECT count(*) FROM ledger'), 0, 'and has run none');
$new->safe_psql('app', 'DROP SUBSCRIPTION queue');
my $last = $old->safe_psql('app', 'SELECT max(id) FROM jobqueue.tasks');
is($new->safe_psql('app', 'SELECT jobqueue.adopt()'), 't', 'adopted');
cmp_ok($new->safe_psql('app', "SELECT jobqueue.enqueue('note', metadata => '\"after\"')"), '>', $last,
	'no id comes again');
wait_sql($new, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'note' AND status <> 'completed'", 0,
	'all are completed');
my %runs;
$runs{$_}++ for map { split /\n/, $_->safe_psql('app', 'SELECT task FROM ledger') } $old, $new;
is_deeply([ sort { $a <=> $b } keys %runs ],
	[ split /\n/, $new->safe_psql('app', "SELECT id FROM jobqueue.tasks WHERE type = 'note' ORDER BY id") ],
	'every task has run');
is_deeply([ grep { $runs{$_} != 1 } keys %runs ], [], '... once, on one server or on the other');
is($new->safe_psql('app', "SELECT jobqueue.retry($failing)"), 't', 'what waited for its second attempt');
wait_sql($new, 'app',
	"SELECT status, attempts, jsonb_array_length(failures) FROM jobqueue.tasks WHERE id = $failing", 'failed|2|2',
	'... has it here, and no third');
is(unexpected_in_log($new, qr/runs no tasks in database "app": a subscription/), '', 'nothing unexpected in the log');
$old->stop;
$new->stop;
done_testing();
