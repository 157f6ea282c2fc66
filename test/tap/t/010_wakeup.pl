# Workers, and programs that LISTEN, are woken when there are tasks. The fallback poll is an hour away, except where
# it is what is tested.
#
# - notify_mode coalesced: the scheduler notifies, not often, and always after the last commit; also in a database
#   without handlers; immediate: the enqueuing transaction; off: nobody
# - not preloaded: NOTIFY in the transaction, all functions work, CREATE EXTENSION says how to enable workers
# - prepared transactions, savepoints, rollbacks: what is committed runs, what is given back is there again
# - scheduled tasks run when due, whatever put the time there; rows that are not announced are found by the fallback
#   poll
# - CREATE EXTENSION in a long transaction, while the launcher looks for it too early
# - the server log: messages of handlers with the task's id, one entry for each attempt that failed
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = start_node('wakeup', autovacuum => 'off', max_prepared_transactions => 10, max_worker_processes => 20,
	'jobqueue.poll_interval' => '1h', log_line_prefix => "'%m [%p] %e %b: '");

sub sql {
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'app', $sql);
}

sub runs {
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', $name);
}

# Changes a setting for all, and waits until this session has seen it.
sub set_everywhere {
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	wait_sql($node, 'app', "SELECT current_setting('$name')", $value, "$name = $value");
}

# What a session has heard so far, as "queue:pid"; it must be asked to look.
sub heard {
	my ($session) = @_;
	my $output = $session->query_safe('SELECT 1');
	my @heard;
	push @heard,
		[ $1, $2 ] while $output
			=~ /"task_queue"(?: with payload "([^"]*)")? received from server process with PID (\d+)/g;
	return @heard;
}

# All that a session hears until it has heard something for this queue; then for another moment, to hear too much.
sub hear_until {
	my ($session, $queue, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @all;
	ok(wait_for(sub { push @all, heard($session); grep { ($_->[0] // '') eq $queue } @all }), $name)
	  or diag 'heard: ', join ' ', map { "'" . ($_->[0] // '') . "' from $_->[1]" } @all;
	$session->query_safe('SELECT pg_sleep(0.3)');
	return (@all, heard($session));
}

# --------------------------------------------------------------------------------------------------------------------
# CREATE EXTENSION in a long transaction; others wake the launcher, which finds nothing yet

$node->safe_psql('postgres', 'CREATE DATABASE app');
my $long = $node->background_psql('app');
$long->query_safe('SET client_min_messages = error');
$long->query_safe('BEGIN; CREATE EXTENSION jobqueue');
create_queue($node, 'other');
$long->query_safe('CREATE FUNCTION work(payload jsonb) RETURNS timestamptz LANGUAGE sql AS $$SELECT '
	. 'clock_timestamp()$$');
$long->query_safe("SELECT jobqueue.register_handler('work', 'work(jsonb)')");
$node->safe_psql('postgres', 'CREATE DATABASE woken');
my $id = $long->query_safe("SELECT jobqueue.enqueue('work')");
# The launcher was here in between: the other database, created after ours, is served.
create_ledger($node, 'other');
$node->safe_psql('other', "SELECT jobqueue.enqueue('note')");
wait_sql($node, 'other', 'SELECT status FROM jobqueue.tasks', 'completed', 'another database is served meanwhile');
$node->safe_psql('postgres', 'DROP DATABASE woken');
$long->query_safe('COMMIT');
runs($id, 'CREATE EXTENSION, handler and task in one long transaction');
$long->quit;

# In a transaction that is prepared, while others come and go.
$node->safe_psql('postgres', 'CREATE DATABASE prepared');
$node->safe_psql('prepared', <<'SQL');
	SET client_min_messages = error;
	BEGIN;
	CREATE EXTENSION jobqueue;
	CREATE FUNCTION work(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	SELECT jobqueue.register_handler('work', 'work(jsonb)');
	SELECT jobqueue.enqueue('work');
	PREPARE TRANSACTION 'installation';
SQL
$node->safe_psql('postgres', 'CREATE DATABASE woken');
$node->safe_psql('prepared', "COMMIT PREPARED 'installation'");
wait_sql($node, 'prepared', 'SELECT status FROM jobqueue.tasks', 'completed', 'the same in a prepared transaction');

create_ledger($node, 'app');

# --------------------------------------------------------------------------------------------------------------------
# notify_mode

# A database without handlers: notifications must be sent though there is nothing else to do.
create_queue($node, 'listened');
my $listener = $node->background_psql('listened');
$listener->query_safe('LISTEN task_queue');
my $enqueuer = $node->background_psql('listened');
my $me = $enqueuer->query_safe('SELECT pg_backend_pid()');

my $start = time;
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'a')");
my @heard = hear_until($listener, 'a', 'coalesced: the listener hears of a task');
isnt($heard[0][1], $me, 'coalesced: not from the session that enqueued it');
is($heard[0][1], (pids($node, 'scheduler', 'listened'))[0], 'but from the scheduler');
is(scalar @heard, 1, 'coalesced: one notification');

$enqueuer->query_safe(q{BEGIN; SELECT jobqueue.enqueue('outside', queue => 'never'); ROLLBACK});
$enqueuer->query_safe(q{BEGIN; SELECT jobqueue.enqueue('outside', queue => q) FROM unnest('{x,y,z}'::text[]) q, }
	. q{generate_series(1, 500); COMMIT});
@heard = hear_until($listener, 'z', 'coalesced: many tasks for three queues');
is(join(' ', sort map { $_->[0] } @heard), 'x y z',
	'coalesced: one notification for each queue, none for what was rolled back');

$enqueuer->query_safe("INSERT INTO jobqueue.tasks (type, queue) SELECT 'outside', 'b' FROM generate_series(1, 500)");
@heard = hear_until($listener, '', 'coalesced: a plain INSERT');
is(scalar @heard, 1, 'coalesced: one notification');
$enqueuer->query_safe("SELECT jobqueue.enqueue_many('outside', array_fill('{}'::jsonb, '{500}'), queue => 'c')");
@heard = hear_until($listener, 'c', 'coalesced: enqueue_many');
is(scalar @heard, 1, 'coalesced: one notification');

# 200 commits as fast as they can.
$enqueuer->query_safe(q{DO $$BEGIN FOR i IN 1 .. 200 LOOP PERFORM jobqueue.enqueue('outside', queue => 'fast'); }
	. q{COMMIT; END LOOP; END$$});
@heard = hear_until($listener, 'fast', 'coalesced: many commits');
cmp_ok(scalar @heard, '<=', 100, 'coalesced: far fewer notifications than commits') or diag scalar @heard;
$enqueuer->query_safe("DELETE FROM jobqueue.tasks");

# No commit is the last one of a series without being heard of: whoever claims all there is, and only when notified,
# gets everything. Pairs of commits, with every distance around that of the notifications.
my ($enqueued, $claimed) = (0, 0);
for my $round (1 .. 40) {
	$enqueuer->query_safe(sprintf q{DO $$BEGIN
			PERFORM jobqueue.enqueue('outside', queue => 'pairs'); COMMIT;
			PERFORM pg_sleep(%f);
			PERFORM jobqueue.enqueue('outside', queue => 'pairs'); COMMIT;
		END$$}, $round % 20 / 1000);
	$enqueued += 2;
	my $all = wait_for(sub {
		if (heard($listener)) {
			$claimed += grep { /^\d+$/ } split /\n/, $listener->query_safe("SELECT id FROM jobqueue.claim('pairs', "
				. "100)");
		}
		$claimed >= $enqueued
	});
	last unless $all;
}
is($claimed, 80, 'coalesced: no commit goes unheard');
is($enqueued, 80, 'in 40 rounds');

# Tasks that can be claimed again, and for other reasons than a commit.
my ($a, $attempt) = split /\|/,
	$enqueuer->query_safe("SELECT id, attempts FROM jobqueue.tasks_live WHERE queue = 'pairs' ORDER BY id LIMIT 1");
$listener->query_safe('SELECT pg_sleep(0.1)');
heard($listener);
is($enqueuer->query_safe("SELECT jobqueue.release($a, $attempt)"), 't', 'release');
hear_until($listener, 'pairs', 'coalesced: a task that was released');
$enqueuer->query_safe("SELECT id FROM jobqueue.claim('pairs')");
$enqueuer->query_safe("SELECT jobqueue.fail($a, attempts, 'no', retry_in => '0.5 s') FROM jobqueue.tasks_live WHERE "
	. "id = $a");
hear_until($listener, 'pairs', 'coalesced: a task that is due again');
$enqueuer->query_safe("SELECT id FROM jobqueue.claim('pairs', lease => '0.5 s')");
hear_until($listener, 'pairs', 'coalesced: a task whose lease ended');
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'late', delay => '0.5 s')");
hear_until($listener, 'late', 'coalesced: a task that is due');
$enqueuer->query_safe("SELECT jobqueue.cancel($a)");
$enqueuer->query_safe("SELECT jobqueue.retry($a)");
hear_until($listener, 'pairs', 'coalesced: a task that is retried');

set_everywhere('jobqueue.notify_mode', 'immediate');
wait_for(sub { $enqueuer->query_safe('SHOW jobqueue.notify_mode') eq 'immediate' });
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'i')");
@heard = hear_until($listener, 'i', 'immediate: the listener hears of a task');
is(join(' ', map { "$_->[0] $_->[1]" } @heard), "i $me", 'immediate: from the session that enqueued it, once');
$enqueuer->query_safe("BEGIN; SELECT jobqueue.enqueue('outside', queue => 'never'); ROLLBACK");
$enqueuer->query_safe("BEGIN; SELECT jobqueue.enqueue('outside', queue => q) FROM unnest('{x,y,z}'::text[]) q, "
	. "generate_series(1, 500); COMMIT");
@heard = hear_until($listener, 'z', 'immediate: many tasks for three queues');
is(join(' ', sort map { "$_->[0] $_->[1]" } @heard), "x $me y $me z $me", 'immediate: one notification for each queue');
$enqueuer->query_safe("INSERT INTO jobqueue.tasks (type, queue) SELECT 'outside', 'b' FROM generate_series(1, 500)");
@heard = hear_until($listener, '', 'immediate: a plain INSERT');
is(join(' ', map { $_->[1] } @heard), $me, 'immediate: once');
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'late', delay => '0.5 s')");
hear_until($listener, 'late', 'immediate: a task that is due');

set_everywhere('jobqueue.notify_mode', 'off');
wait_for(sub { $enqueuer->query_safe('SHOW jobqueue.notify_mode') eq 'off' });
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'o')");
$enqueuer->query_safe("INSERT INTO jobqueue.tasks (type, queue) VALUES ('outside', 'o')");
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'o', delay => '0.1 s')");
$listener->query_safe('SELECT pg_sleep(1)');
is(scalar(heard($listener)), 0, 'off: nobody says a word');
my $note = sql("SELECT jobqueue.enqueue('note')");
runs($note, 'off: workers of the server are woken all the same');

set_everywhere('jobqueue.notify_mode', 'coalesced');
wait_for(sub { $enqueuer->query_safe('SHOW jobqueue.notify_mode') eq 'coalesced' });
$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'again')");
@heard = hear_until($listener, 'again', 'coalesced again: the listener hears of a task');
is(join(' ', map { $_->[0] } @heard), 'again', 'and of nothing else');
$_->quit for $listener, $enqueuer;

# --------------------------------------------------------------------------------------------------------------------
# Transactions

# Savepoints: the commit announces what is left, whichever of them the first announcement was in.
for my $case (
	[ 'first kept', 'SELECT jobqueue.enqueue(%s); SAVEPOINT s; SELECT jobqueue.enqueue(%s); ROLLBACK TO s;', 1 ],
	[ 'last kept', 'SAVEPOINT s; SELECT jobqueue.enqueue(%s); ROLLBACK TO s; SELECT jobqueue.enqueue(%s);', 2 ],
	[ 'last kept, inside',
		'SAVEPOINT s; SELECT jobqueue.enqueue(%s); ROLLBACK TO s; SELECT jobqueue.enqueue(%s); RELEASE s;', 2 ],
	[ 'released',
		'SAVEPOINT s; SELECT jobqueue.enqueue(%s); RELEASE s; SAVEPOINT s; SELECT jobqueue.enqueue(%s); ROLLBACK TO '
			. 's; RELEASE s;', 1 ],
	[ 'plain SQL', 'SAVEPOINT s; INSERT INTO jobqueue.tasks (type, payload) VALUES (%s) RETURNING id; ROLLBACK TO s; '
		  . 'INSERT INTO jobqueue.tasks (type, payload) VALUES (%s) RETURNING id;', 2 ],
  )
{
	my ($name, $statements, $kept) = @$case;
	my @ids = split /\n/, sql('BEGIN; ' . sprintf($statements, "'note', '{}'", "'note', '{}'") . ' COMMIT');
	runs($ids[ $kept - 1 ], "savepoints, $name: it runs");
	is(sql("SELECT count(*) FROM jobqueue.tasks WHERE id = $ids[2 - $kept]"), 0,
		"savepoints, $name: the other one is not there");
}
$id = sql(<<'SQL');
	DO $$
	BEGIN
		PERFORM jobqueue.enqueue('note', '{"kept": true}');
		BEGIN
			PERFORM jobqueue.enqueue('note');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM jobqueue.enqueue('note', '{"kept": true}');
		END;
	END $$;
	SELECT array_to_string(array_agg(id), ',') FROM jobqueue.tasks WHERE payload->>'kept' = 'true';
SQL
runs($_, 'exception block: the rest runs') for split /,/, $id;

# A number that is committed late, below those that are done already.
my $slow = $node->background_psql('app');
my $low = $slow->query_safe("BEGIN; SELECT jobqueue.enqueue('note')");
runs(sql("SELECT max(e) FROM (SELECT jobqueue.enqueue('note') AS e FROM generate_series(1, 100)) s"),
	'higher numbers run');
$slow->query_safe('COMMIT');
runs($low, 'so does the lower one, when it is committed');
$slow->quit;
sql("COPY jobqueue.tasks (type) FROM STDIN;\nnote\nnote\n\\.\n");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0, 'COPY');
sql(<<'SQL');
	CREATE FUNCTION chain(payload jsonb) RETURNS bigint LANGUAGE sql AS $$SELECT jobqueue.enqueue('note')$$;
	SET client_min_messages = error;
	SELECT jobqueue.register_handler('chain', 'chain(jsonb)');
SQL
my $parent = sql("SELECT jobqueue.enqueue('chain')");
runs($parent, 'a handler that enqueues');
runs(sql("SELECT result FROM jobqueue.tasks WHERE id = $parent"), 'what a handler enqueued');

# Prepared transactions: the session that enqueued a task is as good as gone; another one commits.
for my $statement ("SELECT jobqueue.enqueue('note')", "INSERT INTO jobqueue.tasks (type) VALUES ('note')") {
	sql("BEGIN; $statement; PREPARE TRANSACTION 'p'");
	# other tasks make the workers look meanwhile, and pass it by
	runs(sql("SELECT jobqueue.enqueue('note')"), 'others run meanwhile');
	is(sql("SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'"), 0, 'a prepared task is not there yet');
	sql("COMMIT PREPARED 'p'");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0,
		"COMMIT PREPARED: runs ($statement)");
}
sql("BEGIN; SELECT jobqueue.enqueue('note', '{\"never\": 1}'); PREPARE TRANSACTION 'p'");
sql("ROLLBACK PREPARED 'p'");
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE payload ? 'never'"), 0, 'ROLLBACK PREPARED: nothing is enqueued');
sql("BEGIN; SELECT jobqueue.enqueue('note'); PREPARE TRANSACTION 'p'");
$node->restart;
sql("COMMIT PREPARED 'p'");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0,
	'COMMIT PREPARED after a restart: runs');
sql("BEGIN; SELECT jobqueue.enqueue('note', delay => '0.2 s'); PREPARE TRANSACTION 'p'");
sql("COMMIT PREPARED 'p'");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0,
	'COMMIT PREPARED of a scheduled task: runs');
sql("BEGIN; SELECT jobqueue.pause_queue('default'); PREPARE TRANSACTION 'p'");
sql("COMMIT PREPARED 'p'");
my $held = sql("SELECT jobqueue.enqueue('note')");
sql("BEGIN; SELECT jobqueue.resume_queue('default'); PREPARE TRANSACTION 'p'");
is(sql("SELECT status FROM jobqueue.tasks WHERE id = $held"), 'pending',
	'COMMIT PREPARED of pause_queue: it is paused');
sql("COMMIT PREPARED 'p'");
runs($held, 'COMMIT PREPARED of resume_queue: it runs');

# A claim that is given back, whichever way, is there for the next one, though others were claimed after it.
for my $way (
	[ 'ROLLBACK', 'BEGIN; %s; %s', 'ROLLBACK' ],
	[ 'ROLLBACK TO', 'BEGIN; SAVEPOINT s; %s; %s', 'ROLLBACK TO s; COMMIT' ],
	[ 'ROLLBACK PREPARED', "BEGIN; %s; PREPARE TRANSACTION 'p'; %s", "ROLLBACK PREPARED 'p'" ],
  )
{
	my ($name, $before, $after) = @$way;
	(my $queue = lc $name) =~ s/ /_/g;
	my $first =
		sql("SELECT min(e) FROM jobqueue.enqueue_many('outside', array_fill('{}'::jsonb, '{20}'), queue => '$queue') "
			. "e");
	my $session = $node->background_psql('app');
	$session->query_safe(sprintf $before, "SELECT id FROM jobqueue.claim('$queue', 3)", 'SELECT 1');
	is(sql("SELECT array_agg(id - $first) FROM jobqueue.claim('$queue', 5)"), '{3,4,5,6,7}',
		"$name: others claim beyond");
	$session->query_safe($after);
	$session->quit;
	wait_sql($node, 'app', "SELECT array_agg(id - $first) FROM jobqueue.claim('$queue', 3)", '{0,1,2}',
		"$name: a claim is given back");
	is(sql("SELECT array_agg(id - $first) FROM jobqueue.claim('$queue', 100)"), '{8,9,10,11,12,13,14,15,16,17,18,19}',
		"$name: the rest");
}
# and runs in the server, where it has a handler
$id = sql("SELECT jobqueue.pause_queue('mine'); SELECT jobqueue.enqueue('note', queue => 'mine'); SELECT "
	. "jobqueue.resume_queue('nothing')");
($id) = $id =~ /^(\d+)$/m;
my $claimer = $node->background_psql('app');
$claimer->query_safe("BEGIN; UPDATE jobqueue.tasks SET status = 'processing' WHERE id = $id; PREPARE TRANSACTION 'p'");
sql("SELECT jobqueue.resume_queue('mine')");
runs(sql("SELECT jobqueue.enqueue('note', queue => 'mine')"), 'a task passes by one that a prepared transaction holds');
$claimer->query_safe("ROLLBACK PREPARED 'p'");
$claimer->quit;
runs($id, 'ROLLBACK PREPARED of a claim: it runs in the server');

# --------------------------------------------------------------------------------------------------------------------
# Scheduled tasks, while no poll helps

# The first is a long way off: the scheduler, asleep until then, must learn of the nearer ones.
sql("SELECT jobqueue.enqueue('work', delay => '1 hour')");
my %due = (
	'delay' => sql("SELECT jobqueue.enqueue('work', delay => '1.5 s')"),
	'run_at, sooner than the one before' =>
		sql("SELECT jobqueue.enqueue('work', run_at => clock_timestamp() + interval '0.7 s')"),
	'plain INSERT' =>
		sql("INSERT INTO jobqueue.tasks (type, run_at) VALUES ('work', clock_timestamp() + interval '1 s') RETURNING "
			. "id"),
	'enqueue_many' => sql("SELECT jobqueue.enqueue_many('work', '{\"{}\"}', delay => '0.9 s')"),
	'retry, sooner' =>
		sql("SELECT jobqueue.enqueue('work', delay => '1 hour') AS id \\gset\nSELECT jobqueue.retry(:id, "
			. "clock_timestamp() + interval '0.8 s') \\gset\n\\echo :id"),
	'in the past' => sql("SELECT jobqueue.enqueue('work', run_at => '2001-01-01')"),
	'at once, beside those with a time' => sql("SELECT jobqueue.enqueue('work')"),
);
for my $how (sort keys %due) {
	runs($due{$how}, "scheduled ($how): runs");
	my ($early, $late) = split /\|/, sql(<<SQL);
		SELECT started < due, started > due + interval '2 s'
		FROM (SELECT (result #>> '{}')::timestamptz AS started, greatest(run_at, created_at) AS due FROM jobqueue.tasks
		WHERE id = $due{$how}) t
SQL
	is($early, 'f', "scheduled ($how): not early");
	is($late, 'f', "scheduled ($how): in time");
}
$id = sql("SELECT jobqueue.enqueue('work', delay => '0.6 s') AS id \\gset\nSELECT jobqueue.retry(:id, "
	. "clock_timestamp() + interval '1.8 s') \\gset\n\\echo :id");
runs($id, 'scheduled (retry, later): runs');
is(sql("SELECT (result #>> '{}')::timestamptz >= run_at FROM jobqueue.tasks WHERE id = $id"), 't',
	'scheduled (retry, later): not early');
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE run_at > now() AND status = 'scheduled'"), 1,
	'the one that is not due waits');

# --------------------------------------------------------------------------------------------------------------------
# Rows that are not announced

# A shorter interval counts at once, also for those who are asleep.
set_everywhere('jobqueue.poll_interval', '500ms');
runs(sql("SET session_replication_role = replica; INSERT INTO jobqueue.tasks (type) VALUES ('note') RETURNING id"),
	'replicated: found when poll_interval was lowered by a reload');
$node->restart;
my $early = sql("SELECT nextval('jobqueue.tasks_id_seq')");
runs(sql("SELECT jobqueue.enqueue('note')"), 'tasks run') for 1 .. 3;
for my $case (
	[ 'a new one', "INSERT INTO jobqueue.tasks (type) VALUES ('note') RETURNING id" ],
	[ 'one with an old number', "INSERT INTO jobqueue.tasks (id, type) VALUES ($early, 'note') RETURNING id" ],
	[ 'an urgent one', "INSERT INTO jobqueue.tasks (type, priority) VALUES ('note', -5) RETURNING id" ],
	[ 'one in another queue', "INSERT INTO jobqueue.tasks (type, queue) VALUES ('note', 'unheard of') RETURNING id" ],
	[ 'a scheduled one',
		"INSERT INTO jobqueue.tasks (type, status, run_at) VALUES ('note', 'scheduled', now() + interval '0.5 s') "
			. "RETURNING id" ],
  )
{
	my ($name, $statement) = @$case;
	$id = sql("SET session_replication_role = replica; $statement");
	runs($id, "replicated: $name");
}
# With no worker there to look.
sql("SELECT pg_terminate_backend(pid, 10000) FROM jobqueue.worker_status");
$id = sql("SET session_replication_role = replica; INSERT INTO jobqueue.tasks (type) VALUES ('note') RETURNING id");
runs($id, 'replicated: found when no worker is there');
set_everywhere('jobqueue.poll_interval', '1h');

# --------------------------------------------------------------------------------------------------------------------
# The server log

my $offset = log_size($node);
sql(<<'SQL');
	SET client_min_messages = error;
	CREATE FUNCTION talk(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE NOTICE 'a notice: %', payload->>'word' USING HINT = 'its hint';
		RAISE LOG 'a log line: %', payload->>'word';
		RAISE WARNING 'a warning: %', payload->>'word';
		RAISE DEBUG 'a debug line: %', payload->>'word';
	END $$;
	SELECT jobqueue.register_handler('talk', 'talk(jsonb)');
	CREATE FUNCTION stumble(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION 'tripped over %', payload->>'word' USING ERRCODE = 'JQ777', DETAIL = 'It lay there.';
	END $$;
	SELECT jobqueue.register_handler('stumble', 'stumble(jsonb)', max_attempts => 1);
SQL
is(sql('SHOW log_min_messages'), 'warning', 'with the settings that everybody has');

# The entries of the log, each with its DETAIL, HINT, CONTEXT and so on, that match. A process writes them in one piece.
sub entries {
	my ($regexp) = @_;
	my @entries;
	for my $line (split /\n/, log_since($node, $offset)) {
		if (@entries && ($line =~ /^\t/ || $line =~ /: (?:DETAIL|HINT|CONTEXT|STATEMENT|LOCATION|QUERY):  /)) {
			$entries[-1] .= "\n$line";
		}
		else {
			push @entries, $line;
		}
	}
	return grep { /$regexp/ } @entries;
}

$id = sql(q{SELECT jobqueue.enqueue('talk', '{"word": "quiet"}')});
runs($id, 'a handler that talks');
is(scalar(entries(qr/a notice: quiet/)), 0, 'RAISE NOTICE: not in the log, as log_min_messages says');
is(scalar(entries(qr/a warning: quiet/)), 1, '... but a warning');
set_everywhere('log_min_messages', 'notice');
$id = sql(q{SELECT jobqueue.enqueue('talk', '{"word": "alpha"}')});
runs($id, 'a handler that talks, and is heard');
for my $case ([ 'NOTICE', 'a notice' ], [ 'LOG', 'a log line' ], [ 'WARNING', 'a warning' ]) {
	my ($level, $text) = @$case;
	my @entries = entries(qr/$text: alpha/);
	is(scalar @entries, 1, "RAISE $level: once in the log");
	like($entries[0] // '', qr/jobqueue worker: $level:  $text: alpha/, "RAISE $level: at its level");
	like($entries[0] // '', qr/CONTEXT:  .*\btask $id\b/s, "RAISE $level: with the task's id");
	like($entries[0] // '', qr/PL\/pgSQL function .*talk/s, "RAISE $level: and where it was");
}
is(scalar(entries(qr/a debug line/)), 0, 'RAISE DEBUG: not in the log');
set_everywhere('log_min_messages', 'warning');

my $failing = sql(q{SELECT jobqueue.enqueue('stumble', '{"word": "beta"}')});
for my $attempt (1 .. 3) {
	wait_sql($node, 'app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $failing", "failed|$attempt",
		"attempt $attempt fails");
	my @entries = entries(qr/tripped over beta/);
	is(scalar @entries, $attempt, "one entry in the log for each of $attempt attempts") or diag join "\n\n", @entries;
	my $entry = $entries[-1] // '';
	like($entry, qr/jobqueue worker: LOG:  .*tripped over beta/, 'at level LOG');
	like($entry, qr/JQ777/, 'with the SQLSTATE');
	like($entry, qr/\btask $failing\b/, "with the task's id");
	like($entry, qr/CONTEXT:  .*PL\/pgSQL function .*stumble.* at RAISE/s, 'with the context of the error');
	like($entry, qr/It lay there/, 'with its detail');
	sql("SELECT jobqueue.retry($failing)") if $attempt < 3;
}
is(sql("SELECT last_error, last_sqlstate FROM jobqueue.tasks WHERE id = $failing"), 'tripped over beta|JQ777',
	'and recorded in the task');

# An attempt that will be repeated leaves one entry, too.
sql('SELECT jobqueue.register_handler(\'stumble\', \'stumble(jsonb)\', max_attempts => 5)');
$failing = sql(q{SELECT jobqueue.enqueue('stumble', '{"word": "gamma"}')});
wait_sql($node, 'app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $failing", 'scheduled|1',
	'an attempt that will be repeated');
is(scalar(entries(qr/tripped over gamma/)), 1, 'one entry in the log for it');
# A message must not be taken for a format.
$failing = sql(q{SELECT jobqueue.enqueue('stumble', '{"word": "100%s %n"}')});
wait_sql($node, 'app', "SELECT last_error FROM jobqueue.tasks WHERE id = $failing", 'tripped over 100%s %n',
	'percent signs');
is(scalar(entries(qr/tripped over 100%s %n/)), 1, 'in the log as well');

is(unexpected_in_log($node, qr/a warning: (?:alpha|quiet)/), '', 'nothing unexpected in the log');
$node->stop;

# --------------------------------------------------------------------------------------------------------------------
# Not preloaded

my $bare = start_node('bare', shared_preload_libraries => "''", max_prepared_transactions => 10, autovacuum => 'off');
my ($out, $err);
$bare->psql('postgres', 'CREATE EXTENSION jobqueue', stdout => \$out, stderr => \$err);
like($err, qr/NOTICE: .*\n(?:.*\n)*?.*shared_preload_libraries/,
	'not preloaded: CREATE EXTENSION says how to enable workers');
is(processes($bare) // '', '', 'not preloaded: no processes');
$listener = $bare->background_psql('postgres');
$listener->query_safe('LISTEN task_queue');
$enqueuer = $bare->background_psql('postgres');
$me = $enqueuer->query_safe('SELECT pg_backend_pid()');
$enqueuer->query_safe('SET client_min_messages = error');

$enqueuer->query_safe("SELECT jobqueue.enqueue('outside', queue => 'n')");
@heard = hear_until($listener, 'n', 'not preloaded: the listener hears of a task');
is(join(' ', map { "$_->[0] $_->[1]" } @heard), "n $me", 'from the session that enqueued it, once');
$enqueuer->query_safe("BEGIN; SELECT jobqueue.enqueue('outside', queue => 'never'); ROLLBACK");
$enqueuer->query_safe("INSERT INTO jobqueue.tasks (type, queue) VALUES ('outside', 'n')");
@heard = hear_until($listener, '', 'not preloaded: a plain INSERT');
is(scalar @heard, 1, 'once, and nothing of what was rolled back');
$enqueuer->query_safe("SELECT jobqueue.enqueue_many('outside', '{\"{}\", \"{}\"}', queue => 'n')");
hear_until($listener, 'n', 'not preloaded: enqueue_many');
$enqueuer->query_safe("CREATE TABLE orders (id int); CREATE TRIGGER ordered AFTER INSERT ON orders FOR EACH ROW "
	. "EXECUTE FUNCTION jobqueue.enqueue_row('ordered')");
$enqueuer->query_safe('INSERT INTO orders VALUES (1)');
hear_until($listener, 'default', 'not preloaded: enqueue_row');
is($enqueuer->query_safe('SELECT count(*) FROM jobqueue.tasks'), 5, 'they are all there');

sub bare { return $enqueuer->query_safe($_[0]); }
is(bare("SELECT count(*) FROM jobqueue.claim('n', 2)"), 2, 'claim');
my ($one, $two) = split /\n/, bare("SELECT id FROM jobqueue.tasks WHERE status = 'processing' ORDER BY id");
is(bare("SELECT jobqueue.extend_lease($one, 1, '1 hour')"), 't', 'extend_lease');
is(bare("SELECT jobqueue.complete($one, 1, '{\"a\": 1}')"), 't', 'complete');
is(bare("SELECT jobqueue.complete($one, 1)"), 'f', 'only once');
is(bare("SELECT status, result FROM jobqueue.wait_for($one, '10 s')"), 'completed|{"a": 1}',
	'wait_for a finished task');
is(bare("SELECT jobqueue.release($two, 1)"), 't', 'release');
hear_until($listener, 'n', 'not preloaded: a task that was released');
is(bare("SELECT id = $two FROM jobqueue.claim('n')"), 't', 'a released task is the next one');
bare("SELECT jobqueue.cancel(id) FROM jobqueue.tasks_live WHERE queue = 'n'");
is(bare("SELECT jobqueue.complete($two, 2)"), 'f', 'complete() of a task that was cancelled');
$two = bare("SELECT jobqueue.enqueue('outside', queue => 'n')");
is(bare("SELECT id FROM jobqueue.claim('n')"), $two, 'claim');
is(bare("SELECT jobqueue.release($two, 1)"), 't', 'release');
is(bare("SELECT id FROM jobqueue.claim('n')"), $two, 'claim again');
is(bare("SELECT jobqueue.fail($two, 2, 'no', retry_in => '0.3 s')"), 'scheduled', 'fail');
wait_sql($bare, 'postgres', "SELECT count(*) FROM jobqueue.claim('n', 1) WHERE id = $two", 1,
	'claim makes scheduled tasks due');
is(bare("SELECT jobqueue.fail($two, 3, 'no', retryable => false)"), 'failed', 'failed for good');
is(bare("SELECT jobqueue.retry($two)"), 't', 'retry');
is(bare("SELECT jobqueue.cancel($two, 'why not')"), 't', 'cancel');
is(bare("SELECT status, last_error FROM jobqueue.tasks WHERE id = $two"), 'cancelled|why not', 'cancelled');
my $third = bare("SELECT jobqueue.enqueue('outside', queue => 'n')");
is(bare("SELECT id FROM jobqueue.claim('n', lease => '0.2 s')"), $third, 'claim with a short lease');
wait_sql($bare, 'postgres', "SELECT count(*) FROM jobqueue.claim('n', 100, lease => '1 hour') WHERE id = $third", 1,
	'claim ends expired leases');
is(bare("SELECT count(*) FROM jobqueue.complete_many(ARRAY[$third], ARRAY[2])"), 1, 'complete_many');
is(bare("SELECT jobqueue.pause_queue('default')"), 't', 'pause_queue');
is(bare("SELECT count(*) FROM jobqueue.claim()"), 0, 'holds claims back');
is(bare("SELECT jobqueue.resume_queue('default')"), 't', 'resume_queue');
is(bare("SELECT payload->>'op' FROM jobqueue.claim()"), 'INSERT', 'lets them go on');
bare('CREATE FUNCTION f(payload jsonb) RETURNS void LANGUAGE sql AS $$SELECT$$');
bare("SELECT jobqueue.register_handler('handled', 'f(jsonb)')");
my $handled = bare("SELECT jobqueue.enqueue('handled')");
is(bare("SELECT count(*) FROM jobqueue.claim()"), 0, 'a type with a handler is not claimed unasked');
is(bare("SELECT count(*) FROM jobqueue.claim(types => '{handled}')"), 1, 'but by name');
is(bare("SELECT status FROM jobqueue.wait_for($handled, '0.1 s')"), '', 'wait_for gives up');
# wait_for polls: another session completes the task
my $waiter = $bare->background_psql('postgres');
$waiter->{stdin} .= "SELECT 'was ' || status FROM jobqueue.wait_for($handled);\n";
$waiter->{run}->pump_nb;
wait_sql($bare, 'postgres',
	"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''was%' AND state = 'active'", 1, 'somebody waits');
bare("SELECT jobqueue.complete($handled, 1)");
like($waiter->query_until(qr/was completed/, ''), qr/was completed/, 'wait_for without preloading');
is(bare("SELECT jobqueue.unregister_handler('handled')"), 't', 'unregister_handler');
is(bare('SELECT jobqueue.current_task() IS NULL'), 't', 'current_task');
is(bare('SELECT jobqueue.adopt()'), 'f', 'adopt');
like(bare('SELECT jobqueue.version()'), qr/^\d+\.\d+/, 'version');
is(bare('SELECT count(*) FROM jobqueue.worker_status'), 0, 'worker_status');
is(bare("SELECT count(*) FROM jobqueue.queue_status WHERE queue = 'default'"), 1, 'queue_status');
bare("CREATE ROLE app LOGIN; SELECT jobqueue.grant_access('app', 'producer'); SELECT jobqueue.revoke_access('app', "
	. "'producer')");

# A claim in a prepared transaction, given back.
$two = bare("SELECT jobqueue.enqueue('outside', queue => 'p')");
heard($listener);
bare("BEGIN; SELECT id FROM jobqueue.claim('p'); PREPARE TRANSACTION 'p'");
is(bare("SELECT count(*) FROM jobqueue.claim('p')"), 0, 'a prepared claim holds the task');
bare("ROLLBACK PREPARED 'p'");
is(bare("SELECT id FROM jobqueue.claim('p')"), $two, 'ROLLBACK PREPARED of a claim gives it back');
$_->quit for $listener, $enqueuer, $waiter;
is(unexpected_in_log($bare), '', 'nothing unexpected in the log');
$bare->stop;
done_testing();
