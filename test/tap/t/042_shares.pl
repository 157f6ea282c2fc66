# What one tenant does, and what others keep of what all share. Nobody polls here: what is seen was not brought by a poll.
#
# - D1: a handler has a say in queues that are its role's, and in no others: limits, order, who claims what
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('shares', autovacuum => 'off', fsync => 'off', max_worker_processes => 20,
	'jobqueue.max_workers' => 4, 'jobqueue.poll_interval' => '1h');
create_queue($node, 'app');

sub sql {
	my ($sql, $who, $database) = @_;
	my $role = $who ? "SET ROLE $who;\n" : '';
	return $node->safe_psql($database // 'app', "SET client_min_messages = error;\n$role$sql");
}

# D1

sql(<<'SQL');
	CREATE ROLE mallory;
	CREATE ROLE victor;
	GRANT ALL ON SCHEMA public TO mallory;
	SELECT jobqueue.grant_access('mallory', 'manager', 'm'), jobqueue.grant_access('mallory', 'producer', 'm'),
		jobqueue.grant_access('victor', 'consumer', 'v'), jobqueue.grant_access('victor', 'producer', 'v');
SQL
sql(<<'SQL', 'mallory');
	CREATE FUNCTION public.asleep(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
	SELECT jobqueue.register_handler('post', 'asleep(jsonb)', 'm', max_running => 1, rate_limit => 1, rate_period => '30 days', group_limit => 10);
	SELECT jobqueue.enqueue('post');
	SELECT jobqueue.register_handler('bell', 'asleep(jsonb)', 'm', group_limit => 10);
SQL
wait_sql($node, 'app', "SELECT count(*) = 1 FROM jobqueue.running_tasks WHERE type = 'post'", 't', 'a handler sleeps');

sub claimed {
	my ($arguments, $who) = @_;
	return sql("SELECT count(*) FROM jobqueue.claim($arguments)", $who // 'victor');
}
sub add {
	my ($type, $count, $queue, $more) = @_;
	sql("SELECT count(jobqueue.enqueue('$type', to_jsonb(i), queue => '$queue' $more)) FROM generate_series(1, $count) i");
}

for my $type ('post', 'bell') {
	add($type, 5, 'v', '');
	is(claimed("'v', 10"), 5, "D1: what a handler says of type $type does not hold for claims from another queue");
	add($type, 5, 'v', '');
	is(claimed("'v', 10, types => '{$type}'"), 5, '... of that type');
	add($type, 5, 'v', '');
	is(claimed("NULL, 10"), 5, '... from all queues');
	add($type, 5, 'v', ", group_key => '$type'");
	is(claimed("'v', 10"), 1, '... and one of a group at once is one');
	is(claimed("'v', 10, types => '{$type}'"), 0, '... also of that type');
	is(claimed("NULL, 10, types => '{$type}'"), 0, '... from all queues');
	sql("SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks WHERE queue = 'v' AND status = 'processing'", 'victor');
	is(claimed("NULL, 10"), 1, '... the next one after it');
	sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE queue = 'v' AND status IN ('pending', 'processing')");
}
sql("SELECT jobqueue.enqueue(CASE WHEN i % 3 = 0 THEN 'post' ELSE 'other' END, to_jsonb(i), queue => 'v') FROM generate_series(1, 10) i");
is(sql("SELECT string_agg(payload::text, ' ' ORDER BY n) FROM jobqueue.claim('v', 6) WITH ORDINALITY AS c(id, type, payload, status, created_at, updated_at, processed_at, queue, priority, run_at, attempts, max_attempts, finished_at, lease_expires_at, claimed_by, last_error, last_sqlstate, result, unique_key, group_key, created_by, metadata, timeout, crashes, failures, origin_queue, progress, progress_message, unique_scope, slot, n)", 'victor'),
	'1 2 3 4 5 6', 'D1: nor is the order another');
is(sql("SELECT array_to_string(unhandled_types, ' ') FROM jobqueue.queue_status WHERE queue = 'v'"), 'other post', 'D1: the type has no handler there');
sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE queue = 'v' AND status IN ('pending', 'processing')");

# alter_handler is another door to the same
sql("SELECT jobqueue.alter_handler('bell', max_running => 1, rate_limit => 1, rate_period => '30 days')", 'mallory');
add('bell', 5, 'v', '');
is(claimed("'v', 10"), 5, 'D1: nor what is said with alter_handler');

# where it has a say, it has it: in its own queue for everybody ...
add('bell', 5, 'm', '');
wait_sql($node, 'app', "SELECT count(*) = 1 FROM jobqueue.running_tasks WHERE type = 'bell' AND queue = 'm'", 't', '... its own tasks are limited');
is(claimed("'m', 10, types => '{bell}'", sql('SELECT current_user')), 0, '... for who works outside, too');
is(claimed("NULL, 10", sql('SELECT current_user')), 0, 'D1: and what it handles there is left to it by who claims from all queues');

# ... and elsewhere for what it runs itself
sql(<<'SQL');
	SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE status IN ('pending', 'processing');
	SELECT jobqueue.grant_access('mallory', 'consumer', 'both');
SQL
sql("SELECT jobqueue.alter_handler('bell', max_running => 2, rate_limit => 0)", 'mallory');
wait_sql($node, 'app', "SELECT count(*) = 0 FROM jobqueue.running_tasks", 't', 'nothing runs');
sql("SELECT count(jobqueue.enqueue('bell', queue => q, group_key => nullif(g, ''))) FROM (VALUES ('m', ''), ('m', ''), ('both', ''), ('both', ''), ('both', 'g'), ('both', 'g')) v(q, g)");
wait_sql($node, 'app', "SELECT count(*) = 2 FROM jobqueue.running_tasks WHERE type = 'bell'", 't', 'D1: the tasks that it runs count together, wherever they are from');
my $others = sql("SELECT count(*) FROM jobqueue.tasks WHERE queue = 'both' AND status = 'pending' AND group_key IS NULL");
is(claimed("'both', 10, types => '{bell}'", sql('SELECT current_user')) >= $others, 1, '... and others take what is left in a queue that is not its own');
is(sql("SELECT count(*) <= 1 FROM jobqueue.tasks WHERE queue = 'both' AND status = 'processing' AND group_key = 'g'"), 't', '... where a group is one after the other');
sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE status IN ('pending', 'processing')");

$node->stop;
done_testing();
