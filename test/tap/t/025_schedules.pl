# Schedules on whole servers: each time is one task, at its time, whatever happens to the server.
#
# - a task starts within milliseconds of its time; one that is held back, when the previous one is finished
# - no time twice and none left out, while the scheduler, workers and the server are killed
# - the server is stopped over three times: skip makes no task of them, once one, all three
# - a database without handlers fires all the same; a retired scheduler is back in time
# - a long transaction that has a schedule's row locked delays no other schedule
# - a restored copy fires nothing until it is adopted; a role that was dropped is reported once
# - a standby that is promoted goes on
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('cron', autovacuum => 'off', restart_after_crash => 'on', init => { allows_streaming => 1 },
	'jobqueue.poll_interval' => '1h');
$node->start;
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE TABLE ran (schedule text NOT NULL, scheduled_for timestamptz NOT NULL,
		at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE FUNCTION note(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO ran SELECT t.metadata->>'schedule', (t.metadata->>'scheduled_for')::timestamptz FROM
			jobqueue.current_task() t;
		PERFORM pg_sleep((payload->>'sleep')::float8);
	END $$;
	SELECT jobqueue.register_handler('note', 'note(jsonb)');
SQL

# -- at its time. The first one starts a worker.
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.schedule('tick', '* * * * * *', 'note');
	SELECT jobqueue.schedule('interval', '1.5 seconds', 'note');
SQL
wait_sql($node, 'app', "SELECT count(*) >= 4 FROM ran WHERE schedule = 'tick'", 't', 'every second');
wait_sql($node, 'app', "SELECT count(*) >= 3 FROM ran WHERE schedule = 'interval'", 't', 'every one and a half');
my $late = $node->safe_psql('app', <<'SQL');
	SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM at - scheduled_for) * 1000) FROM ran
SQL
note "median of $late ms from the time to the start of the handler";
is($node->safe_psql('app', "SELECT bool_and(at >= scheduled_for) FROM ran"), 't', 'none before its time');

# -- one after the other: the second of each pair starts when the first has ended, not at a poll
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.unschedule('interval');
	SELECT jobqueue.schedule('queue', '* * * * * *', 'note', '{"sleep": 1.3}', on_overlap => 'queue');
	SELECT jobqueue.schedule('skip', '* * * * * *', 'note', '{"sleep": 1.3}', on_overlap => 'skip');
SQL
wait_sql($node, 'app', "SELECT count(*) >= 4 FROM ran WHERE schedule = 'queue'", 't', 'overlap: queued');
wait_sql($node, 'app', "SELECT count(*) >= 3 FROM ran WHERE schedule = 'skip'", 't', 'overlap: skipped');
my $pause = $node->safe_psql('app', <<'SQL');
	SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM at - before) * 1000 - 1300)
	FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before FROM ran WHERE schedule = 'queue') r WHERE before IS NOT NULL
SQL
note "median of $pause ms from the end of one to the start of the next";
is($node->safe_psql('app',
	<<'SQL'), 'queue|t, skip|t', '... never two at once; queued ones leave no time out, others do');
	SELECT string_agg(schedule || '|' || ok, ', ' ORDER BY schedule) FROM (
		SELECT schedule, CASE WHEN bool_and(alone) AND (bool_and(next) = (schedule = 'queue')) THEN 't' ELSE 'f' END
			AS ok FROM (
			SELECT schedule, coalesce(at - lag(at) OVER w >= '1.3 s', true) AS alone,
				coalesce(scheduled_for - lag(scheduled_for) OVER w = '1 s', true) AS next
			FROM ran WHERE schedule IN ('queue', 'skip') WINDOW w AS (PARTITION BY schedule ORDER BY at)) r
		GROUP BY schedule) s
SQL

# -- pause and resume
is($node->safe_psql('app',
	"SELECT jobqueue.pause_schedule('queue'), jobqueue.unschedule('skip'), jobqueue.pause_schedule('tick')"), 't|t|t',
		'paused');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status NOT IN ('completed')", 0,
	'what was under way ends');
my $ran = $node->safe_psql('app', "SELECT count(*), now() FROM ran");
my ($count, $now) = split /\|/, $ran;
wait_sql($node, 'app', "SELECT now() > '$now'::timestamptz + interval '2.2 s'", 't', 'two times pass');
is($node->safe_psql('app', "SELECT count(*) FROM ran"), $count, 'a paused schedule does nothing');
$node->safe_psql('app', "SELECT jobqueue.resume_schedule('tick'); SELECT jobqueue.unschedule('queue')");
wait_sql($node, 'app', "SELECT count(*) > $count FROM ran", 't', 'resumed');
is($node->safe_psql('app',
	"SELECT count(*) FROM ran WHERE scheduled_for > '$now'::timestamptz + interval '1 s' AND scheduled_for <= "
		. "'$now'::timestamptz + interval '2 s'"), 0, '... from now on');

# -- a row that is locked for long
$node->safe_psql('app', "SELECT jobqueue.schedule('locked', '* * * * * *', 'note')");
my $session = $node->background_psql('app');
$session->query_safe(q{BEGIN; SELECT jobqueue.schedule('locked', '1 year', 'note')});
$now = $node->safe_psql('app', 'SELECT now()');
wait_sql($node, 'app', "SELECT count(*) >= 2 FROM ran WHERE schedule = 'tick' AND scheduled_for > '$now'", 't',
	'the others go on');
is($node->safe_psql('app', "SELECT count(*) FROM ran WHERE schedule = 'locked' AND scheduled_for > '$now'"), 0,
	'it waits');
$session->query_safe('ROLLBACK');
$session->quit;
wait_sql($node, 'app', "SELECT count(*) >= 2 FROM ran WHERE schedule = 'locked' AND scheduled_for > '$now'", 't',
	'and makes up for it');
$node->safe_psql('app', "SELECT jobqueue.unschedule('locked')");

# -- exactly once, while processes are killed. "all": what falls into a crash is made up for.
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.schedule('tick', '* * * * * *', 'note', on_misfire => 'all', misfire_limit => 100);
	DELETE FROM ran;
SQL
my ($from) = split /\|/, $node->safe_psql('app', 'SELECT now()');
# It has fired for another second since.
sub goes_on {
	my ($name) = @_;
	my ($last) = split /\n/, $node->safe_psql('app', "SELECT coalesce(max(scheduled_for), '-infinity') FROM ran");
	return wait_sql($node, 'app', "SELECT count(*) > 0 FROM ran WHERE scheduled_for > '$last'", 't', $name);
}
for my $round (1 .. 2) {
	goes_on("round $round: at work");
	for my $kind ('scheduler', 'launcher') {
		kill 'TERM', pids($node, $kind);
		goes_on("round $round: without that $kind");
	}
	kill 'KILL', pids($node, 'scheduler');
	wait_for(sub { $node->psql('app', 'SELECT 1') == 0 });
	goes_on("round $round: after a crash");
	$node->stop('immediate');
	$node->start;
	goes_on("round $round: after a restart");
}
my $check = <<'SQL';
	SELECT count(*) >= 8, count(*) = count(DISTINCT scheduled_for),
		count(*) = extract(epoch FROM max(scheduled_for) - min(scheduled_for)) + 1,
			min(scheduled_for) <= '%s'::timestamptz + interval '1 s'
	FROM ran WHERE schedule = 'tick'
SQL
is($node->safe_psql('app', sprintf $check, $from), 't|t|t|t', 'each second was one task');

# -- missed: what "all" makes up for, and "skip" does not
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.unschedule('tick');
	DELETE FROM ran;
	SELECT jobqueue.schedule(policy, '*/4 * * * * *', 'note', on_misfire => policy)
		FROM unnest('{skip,once,all}'::text[]) policy;
SQL
wait_sql($node, 'app', "SELECT count(DISTINCT schedule) FROM ran", 3, 'all fire');
$node->stop;
my $stopped = time;
wait_for(sub { time > $stopped + 13 });
my $started = time;
$node->start;
wait_sql($node, 'app',
	<<"SQL", 't', 'several times were missed: skip makes no task of them, once one, for the latest, all one each');
	WITH missed AS (SELECT scheduled_for FROM ran WHERE schedule = 'all' EXCEPT SELECT scheduled_for FROM ran
		WHERE schedule = 'skip')
	SELECT count(*) >= 3 AND count(*) = extract(epoch FROM max(scheduled_for) - min(scheduled_for)) / 4 + 1
		AND array_agg(scheduled_for) FILTER (WHERE scheduled_for IN (SELECT scheduled_for FROM ran
		WHERE schedule = 'once')) = ARRAY[max(scheduled_for)]
		AND (SELECT count(DISTINCT schedule) = 3 FROM ran WHERE scheduled_for > to_timestamp($started + 4))
	FROM missed
SQL
$node->safe_psql('app', 'SELECT jobqueue.unschedule(name) FROM jobqueue.schedules');

# -- a database with nothing but a schedule; the scheduler comes and goes
create_queue($node, 'bare');
$node->safe_psql('bare', "SELECT jobqueue.schedule('bare', '1 second', 'nobody')");
wait_sql($node, 'bare', "SELECT count(*) >= 2 FROM jobqueue.tasks WHERE type = 'nobody'", 't',
	'no handler: tasks are added');
$node->restart;
my $tasks = $node->safe_psql('bare', 'SELECT count(*) FROM jobqueue.tasks');
wait_sql($node, 'bare', "SELECT count(*) >= $tasks + 3 FROM jobqueue.tasks", 't', '... after a restart as well');
$node->safe_psql('bare', "SELECT jobqueue.unschedule('bare'); DELETE FROM jobqueue.tasks");

# -- a role that is dropped: its schedule stops, with one message
my $offset = log_size($node);
$node->safe_psql('bare', <<'SQL');
	CREATE ROLE leaver LOGIN;
	SELECT jobqueue.grant_access('leaver', 'manager');
	SET ROLE leaver;
	SELECT jobqueue.schedule('leaver', '1 second', 'nobody');
	RESET ROLE;
	SELECT jobqueue.revoke_access('leaver', 'manager');
	DROP ROLE leaver;
SQL
wait_sql($node, 'bare', "SELECT last_error FROM jobqueue.schedules", 'its role "leaver" no longer exists',
	'the owner is gone');
wait_sql($node, 'bare', "SELECT now() > updated_at + interval '6 s' FROM jobqueue.schedules", 't', 'some tries later');
is(scalar(log_matches($node, qr/could not fire schedule "leaver": its role "leaver" no longer exists/, $offset)), 1,
	'said once');
is($node->safe_psql('bare', 'SELECT count(*) FROM jobqueue.tasks'), 0, 'and nothing was added');
$node->safe_psql('bare', "SELECT jobqueue.unschedule('leaver')");

# -- a restored copy
$node->safe_psql('app', "SELECT jobqueue.schedule('tick', '* * * * * *', 'note', on_misfire => 'skip')");
wait_sql($node, 'app', "SELECT count(*) > 0 FROM ran WHERE schedule = 'tick'", 't', 'fires here');
my $dump = "${PostgreSQL::Test::Utils::tmp_check}/app.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, 'app' ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'copy', '-f', $dump ], 'restored');
my $dumped = $node->safe_psql('copy', 'SELECT max(run_at) FROM jobqueue.tasks');
my $known = $node->safe_psql('copy', 'SELECT count(*) FROM jobqueue.tasks');
$ran = $node->safe_psql('app', 'SELECT count(*) FROM ran');
wait_sql($node, 'app', "SELECT count(*) >= $ran + 3 FROM ran", 't', 'three more in the original');
is($node->safe_psql('copy', 'SELECT count(*) FROM jobqueue.tasks'), $known, 'none in the copy');
my $adopted = $node->safe_psql('copy', 'SELECT now()');
is($node->safe_psql('copy', 'SELECT jobqueue.adopt()'), 't', 'adopted');
wait_sql($node, 'copy', "SELECT count(*) >= $known + 2 FROM jobqueue.tasks", 't', 'it fires there, too')
  or diag join "\n", processes($node), $node->safe_psql('copy', 'SELECT now(), s FROM jobqueue.schedules s'),
  statuses($node, 'copy'), log_since($node);
is($node->safe_psql('copy', "SELECT count(*) FROM jobqueue.tasks WHERE run_at > '$dumped' AND run_at < '$adopted'"), 0,
	'... not for the time before');
$node->safe_psql('copy', "SELECT jobqueue.unschedule('tick')");

# -- a standby goes on
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('cron_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('app',
	"DELETE FROM ran; SELECT jobqueue.schedule('tick', '* * * * * *', 'note', on_misfire => 'all', misfire_limit => "
		. "100)");
wait_sql($node, 'app', "SELECT count(*) > 1 FROM ran", 't', 'the primary fires');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$node->stop('immediate');
$standby->promote;
my $promoted = $standby->safe_psql('app', 'SELECT now()');
wait_sql($standby, 'app', "SELECT count(*) >= 3 FROM ran WHERE scheduled_for > '$promoted'", 't',
	'the promoted standby fires');
is($standby->safe_psql('app', <<'SQL'), 't|t', 'each second was one task');
	SELECT count(*) = count(DISTINCT scheduled_for), count(*) = extract(epoch FROM max(scheduled_for) -
		min(scheduled_for)) + 1 FROM ran
SQL
$standby->stop;
done_testing();
