# 0.1.0 in use is upgraded: tasks are in every state, and clients enqueue, claim and complete all the time, while the
# server is stopped, gets the new library, is started, and while ALTER EXTENSION UPDATE runs. At the end a ledger says
# that nothing is lost, and that each task has had its effect once.
#
# A client notes a task in "wanted" in the transaction that adds it. Whoever runs a task, a handler or a client, notes
# it in "effect" in the transaction that completes it. Neither table has a unique key, so that a second effect shows.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IPC::Run;
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs the git history' unless has_past_library('0.1.0');
plan skip_all => '0.1.0 under load fails an assertion of the server' if `pg_config --configure` =~ /--enable-cassert/;

my $path = copy_installation();
install_version($path, '0.1.0');
my $node = start_node('load', install_path => $path, max_worker_processes => 16, 'jobqueue.max_workers' => 6,
	'jobqueue.poll_interval' => '200ms', deadlock_timeout => '200ms');
create_queue($node, 'app');

$node->safe_psql('app', <<'SQL');
	CREATE TABLE wanted (task bigint, kind text, parent bigint);
	CREATE TABLE effect (task bigint, kind text, started timestamptz DEFAULT clock_timestamp(),
		ended timestamptz DEFAULT clock_timestamp());
	CREATE TABLE upgraded (at timestamptz);

	-- what sleeps for long, or fails, does so only before there is a row in this table
	CREATE FUNCTION work(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		began timestamptz := clock_timestamp();
		task record := jobqueue.current_task();
	BEGIN
		IF NOT EXISTS (SELECT 1 FROM public.upgraded) THEN
			PERFORM pg_sleep((payload->>'sleep')::float8);
			IF payload ? 'fail' THEN
				RAISE EXCEPTION 'not yet';
			END IF;
		END IF;
		IF task.type = 'flaky' AND task.attempts = 1 THEN
			RAISE EXCEPTION 'once more';
		END IF;
		IF task.type IN ('limited', 'grouped') THEN
			PERFORM pg_sleep(0.01);
		END IF;
		INSERT INTO public.effect (task, kind, started) VALUES (task.id, task.type, began);
	END $$;
	SELECT jobqueue.register_handler(type, 'work(jsonb)', max_attempts => CASE type WHEN 'broken' THEN 1 ELSE 10 END,
		first_delay => '1 s', max_running => CASE type WHEN 'limited' THEN 2 END,
		group_limit => CASE type WHEN 'grouped' THEN 1 END,
		dead_letter_queue => CASE type WHEN 'dying' THEN 'dead' END)
	FROM unnest('{work,slow,flaky,broken,limited,grouped,once,tick,dying}'::text[]) type;

	SELECT jobqueue.pause_queue('held');
	SELECT jobqueue.schedule('each second', '1 second', 'tick', on_misfire => 'all');
	SELECT jobqueue.schedule('paused', '1 second', 'tick');
	SELECT jobqueue.pause_schedule('paused');

	INSERT INTO wanted SELECT jobqueue.enqueue('work', queue => 'held'), 'pending' FROM generate_series(1, 5);
	INSERT INTO wanted SELECT id, 'unique' FROM jobqueue.enqueue_unique('work', queue => 'held', unique_key => 'u');
	INSERT INTO wanted SELECT id, 'blocked', lag(id) OVER (ORDER BY name) FROM jobqueue.enqueue_flow('{
		"a": {"type": "work", "queue": "held"}, "b": {"type": "work", "after": ["a"]},
		"c": {"type": "work", "after": ["b"]}}');
	INSERT INTO wanted SELECT jobqueue.enqueue('slow', '{"sleep": 600}'), 'processing' FROM generate_series(1, 2);
	INSERT INTO wanted SELECT jobqueue.enqueue('broken', '{"fail": true}'), 'failed' FROM generate_series(1, 3);
	INSERT INTO wanted SELECT jobqueue.enqueue('dying', '{"fail": true}', max_attempts => 1), 'dead letter';
	INSERT INTO wanted SELECT jobqueue.enqueue('work', delay => '6 s'), 'scheduled' FROM generate_series(1, 5);
	SELECT jobqueue.enqueue('work', run_at => '2100-01-01');
	SELECT jobqueue.cancel(jobqueue.enqueue('work', queue => 'held'));
	INSERT INTO wanted SELECT jobqueue.enqueue('out', queue => 'mine'), 'claimed' FROM generate_series(1, 3);
SQL

# Clients

my $dir = PostgreSQL::Test::Utils::tempdir;
my $psql = $node->installed_command('psql');
my @clients;

# Runs a script in a session, again and again, whatever fails, as long as this test lives.
sub start_client {
	my ($name, $script) = @_;
	append_to_file("$dir/$name.sql", $script);
	push @clients, IPC::Run::start([ 'bash', '-c',
		'exec >>"$1/$2.log" 2>&1
		while [ ! -e "$1/stop" ] && kill -0 "$5"; do "$3" -X -q -d "$4" -f "$1/$2.sql" || sleep 0.2; done',
		'client', $dir, $name, $psql, $node->connstr('app'), $$ ]);
}

start_client($_, <<'SQL' x 10) for qw(producer1 producer2);
INSERT INTO wanted SELECT jobqueue.enqueue('work'), 'work';
INSERT INTO wanted SELECT jobqueue.enqueue('limited'), 'limited';
INSERT INTO wanted SELECT jobqueue.enqueue('grouped', group_key => 'g' || n), 'grouped' FROM generate_series(1, 3) n;
INSERT INTO wanted SELECT jobqueue.enqueue('flaky'), 'flaky';
INSERT INTO wanted SELECT id, 'once'
	FROM jobqueue.enqueue_unique('once', unique_key => 'k' || floor(random() * 30), unique_for => '1 day') WHERE is_new;
INSERT INTO wanted SELECT id, 'flow', lag(id) OVER (ORDER BY name)
	FROM jobqueue.enqueue_flow('{"a": {"type": "work"}, "b": {"type": "work", "after": ["a"]}}');
WITH t AS (INSERT INTO jobqueue.tasks (type) VALUES ('work') RETURNING id) INSERT INTO wanted SELECT id, 'plain' FROM t;
INSERT INTO wanted SELECT jobqueue.enqueue('out', queue => 'out'), 'out' FROM generate_series(1, 3);
SELECT pg_sleep(0.05);
SQL

# In two transactions, so that claims are there when the server stops; and in one.
start_client('consumer1', <<'SQL' x 10);
CREATE TEMP TABLE mine AS SELECT id, attempts FROM jobqueue.claim('out', 3, lease => '3 s');
INSERT INTO effect (task, kind) SELECT id, 'out' FROM mine WHERE jobqueue.complete(id, attempts);
DROP TABLE mine;
SELECT pg_sleep(0.02);
SQL
start_client('consumer2', <<'SQL' x 10);
INSERT INTO effect (task, kind) SELECT c.id, 'out' FROM jobqueue.claim('out', 3) c
	WHERE jobqueue.complete(c.id, c.attempts);
SELECT pg_sleep(0.02);
SQL

# --------------------------------------------------------------------------------------------------------------------
# Before

# How far things have got: effects of handlers, effects of clients, and tasks that plain INSERTs have added.
sub progress {
	return split /\|/, $node->safe_psql('app', <<'SQL');
		SELECT count(*) FILTER (WHERE kind <> 'out'), count(*) FILTER (WHERE kind = 'out'),
			(SELECT count(*) FROM wanted WHERE kind = 'plain')
		FROM effect
SQL
}

# One test: so many more of each.
sub goes_on {
	my ($from, $more, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @now;
	ok(wait_for(sub { @now = progress(); !grep { $now[$_] < $from->[$_] + $more->[$_] } 0 .. 2 }), $name)
	  or diag "from @$from to @now";
}

goes_on([ 0, 0, 0 ], [ 200, 30, 20 ], 'before: tasks run');
wait_sql($node, 'app', 'SELECT count(DISTINCT status) FROM jobqueue.tasks', 7, 'before: all states');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'slow' AND status = 'processing'", 2,
	'before: handlers run');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'failed'", 3, 'before: tasks have failed');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'dead'", 1, 'before: one is a dead letter');
my @mine = map { [ split /\|/ ] } split /\n/,
	$node->safe_psql('app', "SELECT id, attempts FROM jobqueue.claim('mine', 2, lease => '1 day')");
is(scalar(@mine), 2, 'before: claims from outside');
$node->safe_psql('app', <<'SQL');
	UPDATE jobqueue.tasks SET status = 'processing' WHERE queue = 'mine' AND status = 'pending';
	CREATE TABLE before AS SELECT id, status, attempts, result, failures, created_at, finished_at FROM jobqueue.tasks
		WHERE status IN ('completed', 'failed', 'cancelled')
SQL

# --------------------------------------------------------------------------------------------------------------------
# The server is stopped, and gets the new library. The clients go on.

$node->stop('fast');
install_version($path);
my $offset = log_size($node);
$node->start;
ok(wait_for(sub { log_matches($node, qr/the extension has version 0\.1\.0, the library/, $offset) }),
	'between: the log says so');
my @from = progress();
goes_on(\@from, [ 0, 0, 10 ], 'between: clients go on');
is((progress())[0], $from[0], 'between: nothing runs');

$node->safe_psql('app', 'INSERT INTO upgraded VALUES (clock_timestamp())');

# Sessions hold locks that the update needs, and wait for it with others: then one of them fails, and is repeated.
my ($tries, $failed, $error) = (0);
do {
	($failed, undef, $error) = $node->psql('app', "SET lock_timeout = '2 s'; ALTER EXTENSION jobqueue UPDATE;",
		on_error_stop => 1);
} while ($failed && $error =~ /deadlock detected|lock timeout/ && ++$tries < 50);
is($failed, 0, 'the update succeeds') or die $error;
note "the update was repeated $tries times";

# --------------------------------------------------------------------------------------------------------------------
# After

@from = progress();
goes_on(\@from, [ 300, 50, 30 ], 'after: tasks run');
is($node->safe_psql('app', "SELECT is_new FROM jobqueue.enqueue_unique('work', queue => 'held', unique_key => 'u')"),
	'f', 'after: a unique key is still held');
is($node->safe_psql('app', "SELECT jobqueue.resume_queue('held')"), 't', 'after: a paused queue was still paused');
is($node->safe_psql('app', <<"SQL"), 't', 'after: a claim is still valid') for @mine;
	INSERT INTO effect (task, kind) VALUES ($_->[0], 'claimed');
	SELECT jobqueue.complete($_->[0], $_->[1]);
SQL
is($node->safe_psql('app', <<'SQL'), 't', 'after: so is one by hand');
	INSERT INTO effect (task, kind) SELECT id, 'claimed' FROM jobqueue.tasks
		WHERE queue = 'mine' AND status = 'processing';
	UPDATE jobqueue.tasks SET status = 'completed' WHERE queue = 'mine' AND status = 'processing' RETURNING true;
SQL
is($node->safe_psql('app', "SELECT jobqueue.retry_failed(type => 'broken')"), 3, 'after: failed tasks are retried');
is($node->safe_psql('app', "SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE queue = 'dead'"), 't',
	'after: and a dead letter');

append_to_file("$dir/stop", '');
$_->finish for @clients;
$node->safe_psql('app', "SELECT jobqueue.unschedule('each second')");
my $unfinished = "status NOT IN ('completed', 'failed', 'cancelled') AND run_at IS DISTINCT FROM '2100-01-01'";
# what the clients have left behind
ok(wait_for(sub {
	$node->safe_psql('app', "INSERT INTO effect (task, kind) SELECT c.id, 'out' FROM jobqueue.claim('out', 50) c
		WHERE jobqueue.complete(c.id, c.attempts)");
	$node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE $unfinished") == 0;
}), 'all is done');

# The ledger
sub is_in_ledger {
	my ($query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('app', $query), $expected, "ledger: $name");
}
is_in_ledger(<<'SQL', '', 'nothing is lost');
	SELECT w.* FROM wanted w WHERE NOT EXISTS (SELECT 1 FROM effect e WHERE e.task = w.task) ORDER BY 1 LIMIT 10
SQL
is_in_ledger('SELECT task, count(*) FROM effect GROUP BY 1 HAVING count(*) > 1 LIMIT 10', '', 'nothing ran twice');
is_in_ledger(<<'SQL', '', 'nothing ran that nobody wanted');
	SELECT e.task, e.kind FROM effect e
	WHERE e.kind <> 'tick' AND NOT EXISTS (SELECT 1 FROM wanted w WHERE e.task = w.task) ORDER BY 1 LIMIT 10
SQL
is_in_ledger('SELECT task FROM wanted GROUP BY 1 HAVING count(*) > 1', '', 'no id came twice');
is_in_ledger(<<'SQL', "cancelled 1\ncompleted\nscheduled 1", 'the tasks say the same');
	SELECT concat_ws(' ', status, CASE WHEN status <> 'completed' THEN count(*) END) FROM jobqueue.tasks
	GROUP BY status ORDER BY status
SQL
is_in_ledger(<<'SQL', '', 'tasks that had ended are as they were');
	SELECT * FROM before WHERE status <> 'failed' EXCEPT
	SELECT id, status, attempts, result, failures, created_at, finished_at FROM jobqueue.tasks
SQL
is_in_ledger("SELECT max(crashes), bool_or(failures IS NOT NULL) FROM jobqueue.tasks WHERE type = 'slow'", '0|f',
	'who was stopped is not charged');
is_in_ledger("SELECT unique_key, count(*) FROM jobqueue.tasks WHERE type = 'once' GROUP BY 1 HAVING count(*) > 1", '',
	'one task for each unique key');
is_in_ledger(<<'SQL', 't|t|t', 'one task for each scheduled time');
	SELECT count(*) = count(DISTINCT metadata->>'scheduled_for'), count(*) = count(e.task), count(*) >= 3
	FROM jobqueue.tasks t LEFT JOIN effect e ON e.task = t.id WHERE t.metadata->>'schedule' = 'each second'
SQL
is_in_ledger("SELECT count(*) FROM jobqueue.tasks WHERE metadata->>'schedule' = 'paused'", 0,
	'a paused schedule is paused');
is_in_ledger(<<'SQL', '', 'limits are kept');
	SELECT e.kind, e.task FROM effect e JOIN jobqueue.tasks t ON t.id = e.task
	JOIN effect o ON o.kind = e.kind AND o.started <= e.started AND o.ended > e.started
	JOIN jobqueue.tasks u ON u.id = o.task AND u.group_key IS NOT DISTINCT FROM t.group_key
	WHERE e.kind IN ('limited', 'grouped') AND e.started > (SELECT at FROM upgraded)
	GROUP BY e.kind, e.task HAVING count(*) > CASE e.kind WHEN 'limited' THEN 2 ELSE 1 END
SQL
is_in_ledger(<<'SQL', '', 'nothing ran before what it ran after');
	SELECT c.task FROM wanted w JOIN effect c ON c.task = w.task JOIN effect p ON p.task = w.parent
	WHERE p.ended > c.started
SQL
is(unexpected_in_log($node, qr/the extension has version 0\.1\.0|not yet|once more/, $offset), '',
	'nothing unexpected in the log');
note $node->safe_psql('app', 'SELECT kind, count(*) FROM effect GROUP BY 1 ORDER BY 1');
my %errors;
$errors{$_}++ for map { /ERROR:  (.*)/ } map { split /\n/, slurp_file($_) } glob "$dir/*.log";
note "clients: $_: $errors{$_} times" for sort keys %errors;
$node->stop;

done_testing();
