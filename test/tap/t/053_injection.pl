# What a process has begun when it fails, exits or is killed at exactly the worst point is done once, and nothing is
# lost. Only in a library that was built with INJECTION=1; see src/pg/injection.hpp.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'the library was built without INJECTION=1' unless $ENV{INJECTION};

my $node = start_node('injection', autovacuum => 'off', 'jobqueue.poll_interval' => '1h', 'jobqueue.max_workers' => 2,
	restart_after_crash => 'on');
create_queue($node, 'app');
create_ledger($node, 'app');
my $points = $node->data_dir . '/jobqueue.injection';
mkdir $points or die;

sub sql {
	my ($sql) = @_;
	my $result = '';
	# the server may just restart
	ok(wait_for(sub { my $code = $node->psql('app', $sql, stdout => \$result, stderr => \my $errors);
		die $errors if $code == 3; $code == 0 }), 'SQL') or diag($sql);
	return $result;
}

sub inject {
	my ($point, $action) = @_;
	open my $file, '>', "$points/new" or die;
	print $file $action;
	close $file;
	chmod 0666, "$points/new"; # the server's user may be another one
	rename "$points/new", "$points/$point" or die;
}

sub is_reached { my ($point) = @_; return wait_for(sub { !-e "$points/$point" }); }

# Alone, in batches, delayed, in groups, one after another; of a handler that is called in a transaction of its own.
sql(<<'SQL');
	CREATE PROCEDURE note_alone(payload jsonb) LANGUAGE sql AS 'SELECT public.note(payload)';
	SELECT jobqueue.register_handler('note', 'note(jsonb)', max_attempts => 20, first_delay => '50 ms',
		max_delay => '100 ms');
	SELECT jobqueue.register_handler('alone', 'note_alone(jsonb)', max_attempts => 20, first_delay => '50 ms',
		max_delay => '100 ms');
	CREATE PROCEDURE add_work() LANGUAGE plpgsql AS $$
	DECLARE
		parent bigint;
	BEGIN
		PERFORM jobqueue.enqueue('note', '{}'), jobqueue.enqueue('alone', '{}'),
			jobqueue.enqueue('note', '{}', delay => '20 ms'), jobqueue.enqueue('note', '{}', group_key => 'g')
			FROM generate_series(1, 5);
		parent := jobqueue.enqueue('note', '{}');
		PERFORM jobqueue.enqueue('note', '{}', after => ARRAY[parent]);
	END $$;
SQL
my $tasks = 0;
for my $point ('worker.before_commit', 'worker.after_commit', 'worker.claimed', 'worker.handled', 'worker.fused',
	'scheduler.before_commit', 'scheduler.after_commit')
{
	for my $action ('error', 'exit', 'kill') {
		inject($point, $action);
		# Not every task comes to the point: one whose type has failed in a batch runs alone for a while.
		my $looks = 0;
		ok(wait_for(sub {
			return 1 if !-e "$points/$point";
			return 0 if $looks++ % 20;
			sql('CALL add_work()');
			$tasks += 22;
			return 0;
		}), "$point: $action");
		# A client that the server's restart cut off does not know of its commit, and adds its tasks once more.
		wait_sql($node, 'app', "SELECT count(*) >= $tasks AND bool_and(status = 'completed') FROM jobqueue.tasks", 't',
			'... every task is completed');
		$tasks = sql('SELECT count(*) FROM jobqueue.tasks');
		is(sql('SELECT count(*) FROM ledger'), $tasks, '... and was run once');
	}
}

# While the scheduler compares what it counts with what is claimed, a claim ends, and begins again: it is counted anew.
sub go { my ($point) = @_; inject("$point.go", ''); return wait_for(sub { !-e "$points/$point.go" }); }
sub claim { return sql("SELECT id, attempts FROM jobqueue.claim('grouped', 1)"); }
sql("INSERT INTO jobqueue.tasks (type, queue, group_key) SELECT 'nobody', 'grouped', 'g' FROM generate_series(1, 2)");
my ($first, $attempt) = split /\|/, claim();
inject('scheduler.listed', 'wait');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
ok(is_reached('scheduler.listed'), 'the scheduler has listed what it counts');
sql("SELECT jobqueue.release($first, $attempt)");
inject('scheduler.compared', 'wait');
ok(go('scheduler.listed') && is_reached('scheduler.compared'), '... and sees that a claim has ended');
($first, $attempt) = split /\|/, claim();
inject('scheduler.after_commit', 'wait');
ok(go('scheduler.compared') && is_reached('scheduler.after_commit'), '... which has begun again meanwhile');
is(claim(), '', 'the group is not free');
go('scheduler.after_commit');
sql("SELECT jobqueue.complete($first, $attempt)");
($first, $attempt) = split /\|/, claim();
sql("SELECT jobqueue.complete($first, $attempt)");
is(sql("SELECT held FROM jobqueue.shared_capacity WHERE resource = 'running tasks' AND database IS NULL"), 0,
	'nothing is counted any more');

$node->stop;
done_testing();
