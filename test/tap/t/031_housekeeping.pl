# Nothing that the scheduler does keeps it from the rest of its work, and nothing ends it. The fallback poll is an hour
# away: what is waited for here comes about without one, and without anybody's commit.
#
# B1: schedules whose tasks never end; B5: tables and catalogs that somebody has locked, a scheduler that is ended again
# and again; C4: many rows finished by hand; C9: a reader who never leaves the history; C11: tasks of a dead worker that
# somebody has locked; C15: recent failures with low ids; E10: a NOTIFY that fails.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = start_node('housekeeping', init => { allows_streaming => 1 }, autovacuum => 'off',
	'jobqueue.poll_interval' => '1h', 'jobqueue.max_workers' => 2, log_lock_waits => 'on', deadlock_timeout => '20ms');
create_queue($node, 'app');

sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', $sql);
}

# A task without a handler: it becomes pending when the scheduler handles it.
sub delayed {
	my ($delay) = @_;
	return sql("SELECT jobqueue.enqueue('nobody', delay => '$delay')");
}

sub becomes_due {
	my ($id, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'pending', $name, $seconds // 20);
}

# A session whose time limit is for each query, not for all of the test.
sub session {
	my $session = $node->background_psql('app', @_);
	$session->set_query_timer_restart;
	return $session;
}

sub poll {
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}

becomes_due(delayed('1 s'), 'a delayed task');
my ($scheduler) = pids($node, 'scheduler', 'app');

# -- B1
sql("SELECT jobqueue.schedule('waits', '* * * * * *', 'nobody', on_overlap => 'queue')");
wait_sql($node, 'app', "SELECT cardinality(held) >= 2 FROM jobqueue.schedules WHERE name = 'waits'", 't',
	'B1: a schedule that queues holds back what comes while its task waits');
becomes_due(delayed('2 s'), 'B1: a schedule that queues behind a waiting task lets delayed tasks run');
sql("SELECT jobqueue.unschedule('waits')");
sql("SELECT jobqueue.schedule('skips ' || n, '*/2 * * * * *', 'nobody', on_overlap => 'skip') FROM "
	. "generate_series(1, 120) n");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.schedules WHERE last_task_id IS NOT NULL", 120,
	'B1: 120 schedules whose tasks do not end have fired');
becomes_due(delayed('5 s'), 'B1: they skip their times from then on, and delayed tasks run');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.schedules WHERE next_run_at < now() - interval '10 s'", 0,
	'B1: and none of them is left behind');
sql("SELECT jobqueue.unschedule(name) FROM jobqueue.schedules");
# a failing schedule is passed over, not tried without a pause
sql("SELECT jobqueue.schedule('fails ' || n, '* * * * * *', 'nobody') FROM generate_series(1, 110) n; UPDATE "
	. "jobqueue.schedules SET time_zone = 'nowhere at all'");
becomes_due(delayed('3 s'), 'B1: 110 schedules that fail, more than are fired in one step');
sql("SELECT jobqueue.unschedule(name) FROM jobqueue.schedules");

# -- B5
my $offset = log_size($node);
my $locker = session();
$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '100ms'");
$node->reload;
for my $table (
	qw(jobqueue.handlers jobqueue.queues jobqueue.access jobqueue.limits jobqueue.incarnation jobqueue.schedules
	jobqueue.history_ring pg_catalog.pg_authid pg_catalog.pg_extension pg_catalog.pg_namespace pg_catalog.pg_proc))
{
	my $id = $table =~ /pg_|schedules|incarnation/ ? undef : delayed('500 ms');
	$locker->query_safe("BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.7)");
	becomes_due($id, "B5: with $table locked, delayed tasks go on") if defined $id;
	$locker->query_safe('COMMIT');
}
is(join(',', pids($node, 'scheduler', 'app')), $scheduler, 'B5: no lock has ended the scheduler');
is(join("\n", log_matches($node, qr/ERROR|FATAL|WARNING|exit code/, $offset)), '',
	'B5: nor written anything into the log');
cmp_ok(scalar(log_matches($node, qr/could not/, $offset)), '<', 3, 'B5: where a lock lasts, that is said once');
$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1h'");
$node->reload;

# -- C4. An archived row has the transaction that archived it, a delayed one the transaction that made it due. So many
# delayed tasks that some become due during the archive, however late that begins.
sql(<<'SQL');
	INSERT INTO jobqueue.tasks (type, queue, payload) SELECT 'by hand', 'by_hand',
		jsonb_build_object('text', repeat('x', 300)) FROM generate_series(1, 20000);
	BEGIN;
	UPDATE jobqueue.tasks SET status = 'completed' WHERE type = 'by hand';
	SELECT max(jobqueue.enqueue('meanwhile', delay => n * interval '10 ms')) FROM generate_series(1, 3000) n;
	COMMIT;
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = 'by hand'", 0,
	'C4: tasks finished by hand are archived');
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE type = 'by hand'"), 20000, 'C4: ... all of them');
is(sql(<<'SQL'), 't', 'C4: delayed tasks become due while thousands are being archived');
	SELECT count(*) > 0 FROM jobqueue.tasks
	WHERE type = 'meanwhile' AND status = 'pending' AND xmin::text::bigint BETWEEN
		(SELECT min(xmin::text::bigint) FROM jobqueue.tasks WHERE type = 'by hand') AND
		(SELECT max(xmin::text::bigint) FROM jobqueue.tasks WHERE type = 'by hand')
SQL
is(sql("SELECT count(DISTINCT xmin::text) >= 20 FROM jobqueue.tasks WHERE type = 'by hand'"), 't',
	'C4: ... in many steps');
sql("DELETE FROM jobqueue.tasks WHERE type = 'meanwhile'");

# -- What a poll asks for too soon after the latest time is done later, without another poll. A pass over 9,000 claims
# takes long enough for that. A claim that somebody deletes is found by no other means, and holds its group until then.
sql(<<'SQL');
	CREATE TABLE followed (of text);
	CREATE FUNCTION follow(payload jsonb) RETURNS void LANGUAGE sql
		AS $$ INSERT INTO public.followed VALUES (payload ->> 0) $$;
	SELECT jobqueue.register_handler('follows', 'follow(jsonb)');
	INSERT INTO jobqueue.tasks (type, queue, group_key) SELECT 'leads', 'counted', 'group ' || n FROM
		generate_series(1, 9000) n;
SQL
is(sql("SELECT count(*) FROM jobqueue.claim('counted', 9000, lease => '1 h')"), 9000, '9,000 claims');
sql("INSERT INTO jobqueue.tasks (type, queue, group_key, payload) SELECT 'follows', 'counted', 'group ' || n, "
	. "jsonb_build_array('group ' || n) FROM generate_series(1, 2) n");
for my $group ('group 1', 'group 2') {
	sql("DELETE FROM jobqueue.tasks WHERE type = 'leads' AND group_key = '$group'");
	poll();
	wait_sql($node, 'app', "SELECT count(*) FROM followed WHERE of = '$group'", 1,
		"a poll, and another one soon after it: $group goes on when a claim of it was deleted");
}
sql("DELETE FROM jobqueue.tasks WHERE type = 'leads'");

# -- C15
sql(<<'SQL');
	INSERT INTO jobqueue.tasks_failed (type, status, attempts, finished_at, slot) SELECT 'recent', 'failed', 1, now(),
		-1 FROM generate_series(1, 1500);
	INSERT INTO jobqueue.tasks_failed (type, status, attempts, finished_at, slot) SELECT 'old', 'failed', 1,
		now() - interval '2 h', -1 FROM generate_series(1, 1500);
SQL
$node->append_conf('postgresql.conf', "jobqueue.failed_retention = '1h'");
$node->reload;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_failed WHERE type = 'old'", 0,
	'C15: old failures with high ids are purged');
is(sql("SELECT count(*) FROM jobqueue.tasks_failed WHERE type = 'recent'"), 1500, 'C15: recent ones are not');

# -- C11. As a worker of an earlier start would have left them.
sql(<<'SQL');
	INSERT INTO jobqueue.tasks_live (type, status, attempts, processed_at, lease_expires_at, claimed_by)
	SELECT 'orphan', 'processing', 1, now(), 'infinity', 'worker 0.0.' || n % 3 FROM generate_series(1, 1000) n
SQL
$locker->query_safe("BEGIN; SELECT count(*) FROM (SELECT 1 FROM jobqueue.tasks_live WHERE type = 'orphan' AND id % "
	. "50 <> 0 FOR UPDATE) l");
my $id = delayed('1 s');
$offset = log_size($node);
poll();
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = 'orphan' AND status = 'pending'", 20,
	'C11: those that nobody has locked are given back');
becomes_due($id, 'C11: a delayed task does not wait for those that somebody has locked', 30);
$id = delayed('1 s');
becomes_due($id, 'C11: nor does the next');
is(scalar(log_matches($node, qr/scheduler: LOG:  process \d+ still waiting/, $offset)), 0,
	'C11: the scheduler has waited for none of their locks');
$locker->query_safe('COMMIT');
$locker->quit;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = 'orphan' AND status = 'pending'", 1000,
	'C11: when they are free they are given back, without a poll');
is(join(',', pids($node, 'scheduler', 'app')), $scheduler, 'the scheduler is still the first one');

# -- E10. Somebody's commit holds what every NOTIFY needs: it waits for a standby that is not there.
my $listener = session();
$listener->query_safe('LISTEN task_queue');
sql('CREATE TABLE notified (n integer)');
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
wait_sql($node, 'app', 'SHOW synchronous_standby_names', 'nobody', 'E10: commits wait for a standby');
my $notifier = session(on_error_stop => 0);
my $stuck = $notifier->query_safe('SELECT pg_backend_pid()');
$offset = log_size($node);
# not waited for: the first of these after the change hangs
$notifier->{stdin} .= "BEGIN; INSERT INTO notified VALUES (1); NOTIFY others; COMMIT; SELECT pg_sleep(0.05);\n" x 400;
$notifier->{run}->pump_nb;
wait_sql($node, 'app', "SELECT count(*) FROM pg_stat_activity WHERE pid = $stuck AND wait_event = 'SyncRep'", 1,
	'E10: one with a NOTIFY does');
sql("SET synchronous_commit = off; SELECT jobqueue.enqueue('nobody', queue => 'heard')");
ok(wait_for(sub { log_matches($node, qr/scheduler: LOG:  .* still waiting for \w+ on object 0 of class 1262/,
	$offset) }), 'E10: the scheduler waits to send its own, in vain');
# it does one thing after the other: it has given up for now when it does this
becomes_due(sql("SET synchronous_commit = off; SELECT jobqueue.enqueue('nobody', delay => '10 ms')"),
	'E10: it goes on without');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
my $heard = '';
ok(wait_for(sub { $heard .= $listener->query_safe('SELECT 1'); $heard =~ /"task_queue" with payload "heard"/ }),
	'E10: a NOTIFY that failed is sent later');
kill 'TERM', $stuck;
$listener->quit;
eval { $notifier->quit };

# -- C9
$node->append_conf('postgresql.conf', "jobqueue.completed_retention = '7s'\njobqueue.poll_interval = '200ms'");
$node->reload;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'by hand'", 0, 'the history is emptied');
# It is said once a minute. A new scheduler has not said it of our own queries, which read the history for a moment.
my $reader = session();
$reader->query_safe('BEGIN; SELECT count(*) FROM jobqueue.tasks');
($scheduler) = pids($node, 'scheduler', 'app');
kill 'TERM', $scheduler;
ok(wait_for(sub { !kill 0, $scheduler }), 'C9: another scheduler');
$offset = log_size($node);
sql("INSERT INTO jobqueue.tasks (type, queue) SELECT 'read', 'by_hand' FROM generate_series(1, 2500)");
sql("UPDATE jobqueue.tasks SET status = 'completed' WHERE type = 'read'");
my $ring = sql('SELECT slot FROM jobqueue.history_ring');
is(sql("SELECT bool_and(" . $reader->query_safe('SELECT pg_backend_pid()')
	. " = ANY (held_by)) FROM jobqueue.history_status"), 't', 'C9: a view shows who holds it');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'read'", 0,
	'C9: retention is kept though somebody reads the history all the time');
wait_sql($node, 'app', "SELECT slot <> $ring FROM jobqueue.history_ring", 't', 'C9: and the ring turns');
my $pid = $reader->query_safe('SELECT pg_backend_pid()');
is(scalar(log_matches($node, qr/removes old tasks from jobqueue.tasks_history_\d one by one/, $offset)), 1,
	'C9: that is said once');
like(log_since($node, $offset),
	qr/It is locked by .*process $pid \(role "\w+", application "[^"]*", transaction since [^)]+\)/,
		'C9: ... and who it is');
is($reader->query_safe("SELECT count(*) FROM jobqueue.tasks WHERE type = 'read'"), 0, 'C9: who has not been disturbed');
$reader->query_safe('COMMIT');
$reader->quit;

# -- B5: a scheduler that is ended again and again
sql("SELECT jobqueue.schedule('yearly', '\@yearly', 'nobody')"); # else it would go when there is nothing to do
wait_for(sub { ($scheduler) = pids($node, 'scheduler', 'app') });
my $took;
for my $round (1 .. 9) {
	my $began = time;
	kill 'TERM', $scheduler;
	my ($next) = @{ wait_for(sub { my @is = pids($node, 'scheduler', 'app');
		@is && $is[0] != $scheduler ? \@is : undef }) // [] };
	ok($next, "B5: death $round: another one") or last;
	$scheduler = $next;
	$took = time - $began;
}
# a pause that doubles each time would be 25 seconds by now
cmp_ok($took, '<', 20, 'B5: the pause before the next one does not grow beyond a few seconds');

is(unexpected_in_log($node, qr/could not fire schedule "fails|canceling the wait for synchronous/), '',
	'nothing unexpected in the log');
$node->stop;
done_testing();
