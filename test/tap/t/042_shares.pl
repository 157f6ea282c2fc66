# What one tenant does, and what others keep of what all share. There are no polls here: what is seen was not found by a
# poll.
#
# - D1: a handler has a say in queues that are its role's, and in no others: limits, order, who claims what
# - C2: who takes all he can get of the running tasks under limits, and of the names of rates, leaves room for others:
#   in another queue, of another role, in another database; leases and periods that would hold it for ever are refused
# - C6: 65,536 priorities of one queue: the work of a claim does not grow with them, their order is strict, nothing is
#   lost
# - many delayed tasks of one queue do not hold up a task of another, wherever its time is among theirs
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
	CREATE ROLE mallory LOGIN;
	CREATE ROLE victor LOGIN;
	GRANT ALL ON SCHEMA public TO mallory;
	SELECT jobqueue.grant_access('mallory', 'manager', 'm'), jobqueue.grant_access('mallory', 'producer', 'm'),
		jobqueue.grant_access('victor', 'consumer', 'v'), jobqueue.grant_access('victor', 'producer', 'v');
SQL
sql(<<'SQL', 'mallory');
	CREATE FUNCTION public.asleep(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
	SELECT jobqueue.register_handler('post', 'asleep(jsonb)', 'm', max_running => 1, rate_limit => 1,
		rate_period => '30 days', group_limit => 10);
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
	sql("SELECT count(jobqueue.enqueue('$type', to_jsonb(i), queue => '$queue' $more)) FROM generate_series(1, "
		. "$count) i");
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
	sql("SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks WHERE queue = 'v' AND status = 'processing'",
		'victor');
	is(claimed("NULL, 10"), 1, '... the next one after it');
	sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE queue = 'v' AND status IN ('pending', 'processing')");
}
sql("SELECT jobqueue.enqueue(CASE WHEN i % 3 = 0 THEN 'post' ELSE 'other' END, to_jsonb(i), queue => 'v') FROM "
	. "generate_series(1, 10) i");
is(sql("SELECT string_agg(payload::text, ' ' ORDER BY n) FROM jobqueue.claim('v', 6) WITH ORDINALITY AS c(id, type, "
	. "payload, status, created_at, updated_at, processed_at, queue, priority, run_at, attempts, max_attempts, "
	. "finished_at, lease_expires_at, claimed_by, last_error, last_sqlstate, result, unique_key, group_key, "
	. "created_by, metadata, timeout, crashes, failures, origin_queue, progress, progress_message, unique_scope, "
	. "slot, n)", 'victor'),
	'1 2 3 4 5 6', 'D1: nor is the order another');
is(sql("SELECT array_to_string(unhandled_types, ' ') FROM jobqueue.queue_status WHERE queue = 'v'"), 'other post',
	'D1: the type has no handler there');
sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE queue = 'v' AND status IN ('pending', 'processing')");

# alter_handler is another door to the same
sql("SELECT jobqueue.alter_handler('bell', max_running => 1, rate_limit => 1, rate_period => '30 days')", 'mallory');
add('bell', 5, 'v', '');
is(claimed("'v', 10"), 5, 'D1: nor what is said with alter_handler');

# where it has a say, it has it: in its own queue for everybody ...
add('bell', 5, 'm', '');
wait_sql($node, 'app', "SELECT count(*) = 1 FROM jobqueue.running_tasks WHERE type = 'bell' AND queue = 'm'", 't',
	'... its own tasks are limited');
is(claimed("'m', 10, types => '{bell}'", sql('SELECT current_user')), 0, '... for who works outside, too');
is(claimed("NULL, 10", sql('SELECT current_user')), 0,
	'D1: and what it handles there is left to it by who claims from all queues');

# ... and elsewhere for what it runs itself
sql(<<'SQL');
	SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE status IN ('pending', 'processing');
	SELECT jobqueue.grant_access('mallory', 'consumer', 'both');
SQL
sql("SELECT jobqueue.alter_handler('bell', max_running => 2, rate_limit => 0)", 'mallory');
wait_sql($node, 'app', "SELECT count(*) = 0 FROM jobqueue.running_tasks", 't', 'nothing runs');
sql("SELECT count(jobqueue.enqueue('bell', queue => q, group_key => nullif(g, ''))) FROM (VALUES ('m', ''), ('m', "
	. "''), ('both', ''), ('both', ''), ('both', 'g'), ('both', 'g')) v(q, g)");
wait_sql($node, 'app', "SELECT count(*) = 2 FROM jobqueue.running_tasks WHERE type = 'bell'", 't',
	'D1: the tasks that it runs count together, wherever they are from');
my $others =
	sql("SELECT count(*) FROM jobqueue.tasks WHERE queue = 'both' AND status = 'pending' AND group_key IS NULL");
is(claimed("'both', 10, types => '{bell}'", sql('SELECT current_user')) >= $others, 1,
	'... and others take what is left in a queue that is not its own');
is(sql("SELECT count(*) <= 1 FROM jobqueue.tasks WHERE queue = 'both' AND status = 'processing' AND group_key = 'g'"),
	't', '... where a group is one after the other');
sql("SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE status IN ('pending', 'processing')");

# C2

my $error;
is($node->psql('app', $_->[1], extra_params => [ '-v', 'VERBOSITY=sqlstate' ], stderr => \$error) && $error
	=~ /ERROR:  22008/, 1, "C2: refused: $_->[0]")
	for (['a lease of 200 years', "SELECT jobqueue.claim('v', lease => '200 years')"],
		['... for the next ones', "SELECT jobqueue.complete_and_claim('{}', '{}', queue => 'v', lease => '200 years')"],
		['... afterwards', "SELECT jobqueue.extend_lease(1, 1, '200 years')"],
		['a rate of one in 10,000 days',
			"SELECT jobqueue.alter_queue('v', rate_limit => 1, rate_period => '10000 days')"],
		['... for groups',
			"SELECT jobqueue.alter_queue('v', group_rate_limit => 1, group_rate_period => '10000 days')"],
		['... of a handler', "SELECT jobqueue.alter_handler('bell', rate_limit => 1, rate_period => '10000 days')"]);
is($node->psql('app', $_->[1], extra_params => [ '-v', 'VERBOSITY=sqlstate' ], stderr => \$error) && $error
	=~ /ERROR:  23514/, 1, "C2: refused: $_->[0]")
	for (['... by hand', "INSERT INTO jobqueue.queues (queue, rate_limit, rate_period) VALUES ('x', 1, '10000 days')"],
		['... for groups',
			"INSERT INTO jobqueue.queues (queue, group_rate_limit, group_rate_period) VALUES ('x', 1, '10000 days')"],
		['... of a handler', "UPDATE jobqueue.handlers SET rate_period = '10000 days'"]);

create_queue($node, 'second');
sql(<<'SQL', undef, $_) for 'app', 'second';
	SELECT jobqueue.alter_queue('m', max_running => 1000000);
	SELECT jobqueue.alter_queue('v', max_running => 1000000);
SQL
sql("SELECT jobqueue.grant_access('mallory', 'consumer', 'm')");
sql("INSERT INTO jobqueue.tasks (type, queue) SELECT 'hog', 'm' FROM generate_series(1, 70000)");
my $got = sql("SELECT count(*) FROM jobqueue.claim('m', 70000, lease => '1 year')", 'mallory');
cmp_ok($got, '>', 32000, 'C2: somebody runs many tasks under limits');
cmp_ok($got, '<', 60000, '... and not as many as there is room for');
is(sql("SELECT count(*) FROM jobqueue.claim('m', 70000)", 'mallory'), 0, '... and that is all');
is(sql("SELECT count(*) FROM jobqueue.claim('m', 70000)") > 0, 1, '... but another role may still, in the same queue');
add('v-task', 200, 'v', ", group_key => i::text");
is(claimed("'v', 200"), 200, 'C2: another one runs his in his queue');
sql("SELECT jobqueue.enqueue('t', queue => 'v', group_key => i::text) FROM generate_series(1, 200) i", undef, 'second');
is(sql("SELECT count(*) FROM jobqueue.claim('v', 200)", undef, 'second'), 200, '... and in another database');
is(sql("SELECT concat_ws(' ', database, queue, held, share > 0, held < capacity) FROM jobqueue.shared_capacity WHERE "
	. "resource = 'running tasks' AND role = 'mallory'"),
	"app m $got t t", 'C2: a view says who holds what');
is(sql("SELECT sum(held) FILTER (WHERE database IS NOT NULL) = sum(held) FILTER (WHERE database IS NULL) FROM "
	. "jobqueue.shared_capacity WHERE resource = 'running tasks'"), 't', '... which is all of it');
is(sql("SELECT count(*) FROM jobqueue.shared_capacity WHERE when_full IS NULL OR held > capacity OR resource IS NULL"),
	'0', '... and what happens when it is full');

# after a restart it is counted again
$node->restart;
wait_sql($node, 'app',
	"SELECT held >= $got FROM jobqueue.shared_capacity WHERE resource = 'running tasks' AND database IS NULL", 't',
		'C2: over a restart ...');
add('v-task', 200, 'v', ", group_key => 'again ' || i");
is(claimed("'v', 200"), 200, '... there is room for others');
sql("DELETE FROM jobqueue.tasks WHERE queue IN ('m', 'v')");
# This is not announced. The next poll finds it; the longer a count takes, the less often it is made.
$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1s'");
$node->reload;
wait_sql($node, 'app',
	"SELECT coalesce(sum(held), 0) < 1000 FROM jobqueue.shared_capacity WHERE resource = 'running tasks' AND "
		. "database = 'app'", 't', 'what was deleted is not counted any more');
$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1h'");
$node->reload;

# names: tokens that do not come back for long
sql("SELECT jobqueue.alter_queue('m', max_running => 0, group_rate_limit => 1, group_rate_period => '30 days')");
sql("SELECT jobqueue.alter_queue('v', group_rate_limit => 1, group_rate_period => '30 days')");
sql("INSERT INTO jobqueue.tasks_live (type, payload, queue, priority, run_at, status, created_by, group_key) SELECT "
	. "'hog', '1', 'm', 0, now(), 'pending', 'mallory', 'g' || i FROM generate_series(1, 80000) i");
my $names = 0;
while (1) {
	my $more =
		sql("CREATE TEMP TABLE c AS SELECT id, attempts FROM jobqueue.claim('m', 20000);\nSELECT count(*) FROM "
			. "jobqueue.complete_many(ARRAY(SELECT id FROM c ORDER BY id), ARRAY(SELECT attempts FROM c ORDER BY "
			. "id))", 'mallory');
	last if $more == 0;
	$names += $more;
}
cmp_ok($names, '>', 49152, 'C2: somebody uses many rates');
cmp_ok($names, '<', 80000, '... and not as many as he likes');
add('v-task', 100, 'v', ", group_key => 'rate ' || i");
is(claimed("'v', 100"), 100, '... and another one has his');
is(sql("SELECT max(held) FROM jobqueue.shared_capacity WHERE resource = 'names' AND role = 'mallory' AND queue = 'm'"),
	$names, '... as can be seen');
is($node->psql('app', 'SET ROLE victor; SELECT * FROM jobqueue.shared_capacity', stderr => \$error) && $error
	=~ /permission denied/, 1, '... by the owner only');
sql("DELETE FROM jobqueue.tasks");

# C6

# What a statement touches, in buffers, and what it returns.
sub buffers {
	my ($claim, $session) = @_;
	my $plan =
		sql("EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off, SUMMARY off, FORMAT json) SELECT * FROM "
			. "jobqueue.claim($claim)");
	my ($hit) = $plan =~ /"Shared Hit Blocks": (\d+)/;
	my ($read) = $plan =~ /"Shared Read Blocks": (\d+)/;
	my ($rows) = $plan =~ /"Actual Rows": ([0-9.]+)/;
	return ($hit + $read, int $rows);
}
sql("SELECT jobqueue.alter_queue('v', max_running => 0, group_rate_limit => 0)");
sql("SELECT jobqueue.unregister_handler('post'), jobqueue.unregister_handler('bell')");
sql("INSERT INTO jobqueue.tasks (type, queue, priority) SELECT 'nobody', 'wide', i FROM generate_series(-32768, "
	. "32766) i");
sql("VACUUM ANALYZE jobqueue.tasks_live");
for my $case (["NULL, 1, types => '{none}'", 0], ["'wide', 1, types => '{none}'", 0],
	["'wide', 1, types => '{nobody}'", 1], ["'other', 1", 0]) {
	my ($touched, $rows) = buffers($case->[0]);
	is($rows, $case->[1], "C6: claim($case->[0])");
	cmp_ok($touched, '<', 40000, '... does not go from priority to priority') or diag $touched;
}
sql(<<'SQL');
	CREATE TABLE done (n bigserial, priority int, payload jsonb);
	CREATE FUNCTION note_done(payload jsonb) RETURNS void LANGUAGE sql
		AS 'INSERT INTO public.done (priority, payload) VALUES ((jobqueue.current_task()).priority, payload)';
	SELECT jobqueue.register_handler('deep', 'note_done(jsonb)');
	SELECT jobqueue.enqueue('deep', queue => 'wide', priority => 32767), jobqueue.enqueue('deep', queue => 'narrow'),
		jobqueue.enqueue('deep', queue => 'wide', priority => 7, group_key => 'g');
	INSERT INTO jobqueue.tasks (type, queue, priority) VALUES ('deep', 'wide', 20000);
SQL
wait_sql($node, 'app', 'SELECT count(*) = 4 FROM done', 't', 'C6: handlers find what is theirs behind all that');
is(sql("SELECT array_to_string(types, ' ') FROM (SELECT array_agg(DISTINCT type) AS types FROM "
	. "jobqueue.claim('wide', 3)) c"), 'nobody', '... and others what is not');
sql("DELETE FROM jobqueue.tasks; TRUNCATE done");

# order, and nothing lost: outside ...
sql("INSERT INTO jobqueue.tasks (type, queue, priority) SELECT (ARRAY['a', 'b'])[1 + i % 2], 'wide', i % 1500 FROM "
	. "generate_series(1, 4500) i");
sql("SELECT count(jobqueue.enqueue('g', queue => 'wide', priority => i % 1500, group_key => 'g' || i)) FROM "
	. "generate_series(1, 1500, 3) i");
is(sql(<<'SQL'), '5000 t', 'C6: claims come in strict order of priority, and to an end');
	CREATE TEMP TABLE taken (n serial, priority int);
	DO $$
	BEGIN
		LOOP
			INSERT INTO taken (priority) SELECT priority FROM jobqueue.claim('wide', 70);
			EXIT WHEN NOT FOUND;
		END LOOP;
	END $$;
	SELECT concat_ws(' ', count(*), bool_and(priority >= before))
		FROM (SELECT priority, lag(priority, 1, 0) OVER (ORDER BY n) AS before FROM taken) t;
SQL
is(sql(<<'SQL'), '1500 t', '... of one type behind another');
	DELETE FROM jobqueue.tasks;
	INSERT INTO jobqueue.tasks (type, queue, priority) SELECT (ARRAY['a', 'b'])[1 + i / 1500], 'wide',
		i FROM generate_series(0, 2999) i;
	CREATE TEMP TABLE taken (n serial, priority int);
	DO $$
	BEGIN
		LOOP
			INSERT INTO taken (priority) SELECT priority FROM jobqueue.claim('wide', 70, types => '{b}');
			EXIT WHEN NOT FOUND;
		END LOOP;
	END $$;
	SELECT concat_ws(' ', count(*), bool_and(priority >= before))
		FROM (SELECT priority, lag(priority, 1, 0) OVER (ORDER BY n) AS before FROM taken) t;
SQL
# ... and in the server, with one worker, with a type under limits and groups between them
sql("DELETE FROM jobqueue.tasks");
$node->safe_psql('postgres', 'ALTER SYSTEM SET jobqueue.max_workers = 1');
$node->reload;
sql("SELECT jobqueue.pause_queue('wide'), jobqueue.register_handler('slow', 'note_done(jsonb)', max_running => 1)");
sql("INSERT INTO jobqueue.tasks (type, queue, priority, payload) SELECT "
	. "(ARRAY['deep', 'slow'])[1 + (i % 50 = 0)::int], 'wide', i, '0' FROM generate_series(1, 1200) i");
sql("SELECT count(jobqueue.enqueue('deep', '1', queue => 'wide', priority => i, group_key => 'g' || i % 7)) FROM "
	. "generate_series(1, 1200, 3) i");
sql("SELECT jobqueue.resume_queue('wide')");
wait_sql($node, 'app', 'SELECT count(*) = 1600 FROM done', 't', 'C6: a worker comes to the end of many priorities');
is(sql("SELECT count(*) FROM (SELECT priority, max(priority) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS highest "
	. "FROM done WHERE payload = '0' AND priority % 50 <> 0) d WHERE priority < highest"), '0', '... in strict order');
sql("INSERT INTO jobqueue.tasks (type, queue, priority, payload) SELECT 'deep', 'wide', i, '2' FROM "
	. "generate_series(1000, 1, -1) i");
wait_sql($node, 'app', 'SELECT count(*) = 2600 FROM done', 't', '... of those that come afterwards as well');

# --------------------------------------------------------------------------------------------------------------------
# Delayed tasks

my $many = 60_000;
sql("DELETE FROM jobqueue.tasks");
sql(<<"SQL");
	SELECT count(jobqueue.enqueue('nobody', queue => CASE WHEN i = $many * 3 / 4 THEN 'one' ELSE 'many' END,
		run_at => now() + '3 s'::interval))
	FROM generate_series(1, $many) i;
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'pending'", $many,
	'delayed tasks: all become pending', 120);
cmp_ok(
	sql("SELECT count(*) FROM jobqueue.tasks WHERE updated_at < (SELECT updated_at FROM jobqueue.tasks WHERE queue = "
		. "'one')"),
	'<', $many / 2, 'delayed tasks: the only one of its queue, due among the last of all, becomes pending early');

# Rows that somebody has locked are passed over some at a time: a statement that locks them all costs its time there.
sql("DELETE FROM jobqueue.tasks");
my $lockers = $node->background_psql('app');
sql("SELECT count(jobqueue.enqueue('nobody', queue => 'many', delay => '2 s')) FROM generate_series(1, 3000)");
$lockers->query_safe("BEGIN; SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE queue = 'many' FOR UPDATE) t");
sql("SELECT jobqueue.enqueue('nobody', queue => 'one', delay => '2 s')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE queue = 'one'", 'pending',
	'delayed tasks: one that is due behind 3,000 locked ones', 30);
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE queue = 'many' AND status = 'scheduled'"), 3000,
	'delayed tasks: ... which still wait');
$lockers->query_safe('ROLLBACK');
# the lease of one task ends behind those of 3,000 locked ones, and they are taken back once they are free
sql("SELECT count(jobqueue.enqueue('nobody', queue => 'leases')) FROM generate_series(1, 3000)");
sql("SELECT count(*) FROM jobqueue.claim('leases', 1000, '1 s', '{nobody}')") for 1 .. 3;
$lockers->query_safe("BEGIN; SELECT count(*) FROM (SELECT FROM jobqueue.tasks WHERE queue = 'leases' FOR UPDATE) t");
sql("SELECT jobqueue.enqueue('nobody', queue => 'lease')");
sql("SELECT count(*) FROM jobqueue.claim('lease', 1, '1.5 s', '{nobody}')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE queue = 'lease'", 'pending',
	'leases: one that ends behind 3,000 locked ones', 30);
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE queue = 'leases' AND status = 'processing'"), 3000,
	'leases: ... which are still claimed');
$lockers->query_safe('ROLLBACK');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'leases' AND status = 'pending'", 3000,
	'leases: and are taken back when they are free', 30);
$lockers->quit;

# A task that was finished by hand before others, but is committed when these are being archived already.
sql("DELETE FROM jobqueue.tasks");
my $first = sql("SELECT jobqueue.enqueue('nobody', queue => 'first')");
sql("SELECT count(jobqueue.enqueue('nobody', queue => 'others')) FROM generate_series(1, $many)");
my $late = $node->background_psql('app');
$late->query_safe("BEGIN; UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $first");
sql("UPDATE jobqueue.tasks SET status = 'completed' WHERE queue = 'others'");
wait_sql($node, 'app', "SELECT count(*) > 0 FROM jobqueue.tasks WHERE queue = 'others' AND slot > 0", 't',
	'archive: it has begun');
$late->query_safe('COMMIT');
$late->quit;
{
	local $PostgreSQL::Test::Utils::timeout_default = 30; # after a minute a scheduler looks by itself
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE status = 'completed'", 0,
		'archive: one that was committed behind the place of the pass is archived, too');
}

# times before the year 2000 are negative in the server
my $old = sql("SELECT jobqueue.enqueue('nobody', delay => '1 day')");
sql("UPDATE jobqueue.tasks SET run_at = '1999-01-01' WHERE id = $old");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $old", 'pending',
	'a task that is set to the year 1999 becomes pending', 20);

$node->stop;
done_testing();
