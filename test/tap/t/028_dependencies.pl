# Tasks that run after others, on whole servers
# - a graph of 1,000 by 100: everything runs once, after all that it waits for
# - random graphs, with failures, cancellations and retries, against a model
# - the server is killed again and again while a graph runs: the ledger says that each task ran once, after its parents
# - jobqueue.completed_retention = 0: results are there nevertheless
# - a prepared transaction; dump, restore and adopt()
# - what is kept for all this is removed in the end
# Nothing is found by polling: the interval is an hour.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('dependencies', restart_after_crash => 'on', max_prepared_transactions => 5, fsync => 'off',
	'jobqueue.poll_interval' => "'1h'");
create_queue($node, 'app');

sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql");
}

# A task notes the order in which it ran and what it saw of its parents; a second effect would violate the key.
sql(<<'SQL');
	CREATE TABLE ran (task bigint PRIMARY KEY, n bigserial, missing bigint, parents text);
	CREATE TABLE edges (child text, parent text);
	CREATE TABLE names (name text, id bigint);
	CREATE FUNCTION step(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $$
	BEGIN
		INSERT INTO public.ran (task, missing, parents)
			SELECT task.id, count(*) FILTER (WHERE NOT EXISTS (SELECT FROM public.ran p WHERE p.task = r.parent_id)),
				string_agg(r.name || '=' || r.status || coalesce(r.result #>> '{}', ''), ' '
					ORDER BY r.name COLLATE "C")
			FROM jobqueue.parent_results() r;
		RETURN '!';
	END $$;
	CREATE FUNCTION stride(task jobqueue.tasks) RETURNS void LANGUAGE sql
		AS 'INSERT INTO public.ran (task) VALUES (task.id)';
	SELECT jobqueue.register_handler('stride', 'stride(jobqueue.tasks)');
	CREATE FUNCTION misstep(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF task.metadata IS NULL THEN
			RAISE EXCEPTION 'told to' USING ERRCODE = 'XX999';
		END IF;
		RETURN public.step(task);
	END $$;
	SELECT jobqueue.register_handler('step', 'step(jobqueue.tasks)');
	SELECT jobqueue.register_handler('misstep', 'misstep(jobqueue.tasks)', max_attempts => 1);
SQL

# A reload makes the scheduler look at everything; but not twice within fifty times what that took.
sub swept {
	my ($query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got;
	ok(wait_for(sub { sql('SELECT pg_reload_conf()'); $got = sql($query); return $got eq $expected }), $name)
		or diag $got;
}

my $idle = 'SELECT NOT EXISTS (SELECT FROM jobqueue.tasks_live)';

# In the middle of a restore: what is older than the installation is left alone, for its tasks may be still to come.
sql(q{INSERT INTO jobqueue.dependencies VALUES (1000000001, 1000000002, '2020-01-01'); INSERT INTO }
	. q{jobqueue.dependents VALUES (1000000002, '{1000000001}', NULL, 1, 'cancel', '2020-01-01');
	INSERT INTO jobqueue.parents VALUES (1000000001, 'completed', '1', '2020-01-01'); SELECT }
		. q{jobqueue.enqueue('step', after => ARRAY[jobqueue.enqueue('step')])});
wait_sql($node, 'app', $idle, 't', 'others go on');
swept('SELECT (SELECT count(*) FROM jobqueue.dependencies), (SELECT count(*) FROM jobqueue.dependents), (SELECT '
	. 'count(*) FROM jobqueue.parents)', '1|1|1',
	'what is kept for them is removed, and what a restore has brought is not');
sql('DELETE FROM jobqueue.dependencies; DELETE FROM jobqueue.dependents; DELETE FROM jobqueue.parents');
sql('TRUNCATE ran');

# 1,000 wide, 100 deep: each task waits for two of the layer before
sql(<<'SQL');
	CREATE TABLE flow AS SELECT jsonb_agg(jsonb_build_object('name', l || '_' || i, 'type', 'stride',
		'after', CASE WHEN l > 1 THEN jsonb_build_array((l - 1) || '_' || i, (l - 1) || '_' || (i % 1000 + 1)) ELSE '[]'
			END) ORDER BY l, i) AS flow
	FROM generate_series(1, 100) l, generate_series(1, 1000) i;
	INSERT INTO names SELECT f.name, f.id FROM flow, jobqueue.enqueue_flow(flow.flow) f;
SQL
wait_sql($node, 'app', $idle, 't', '1,000 by 100: everything has ended');
is(sql('SELECT count(*), count(DISTINCT task) FROM ran'), '100000|100000', '... has run, once');
is(sql(<<'SQL'), '198000|0', '... and after what it waited for');
	WITH r AS (SELECT split_part(name, '_', 1)::int AS l, split_part(name, '_', 2)::int AS i,
		n FROM ran JOIN names ON id = task)
	SELECT count(*), count(*) FILTER (WHERE p.n > c.n) FROM r c JOIN r p ON p.l = c.l - 1 AND p.i
		IN (c.i, c.i % 1000 + 1)
SQL
is(sql(q{SELECT DISTINCT status FROM jobqueue.tasks}), 'completed', '... and is completed');
swept('SELECT (SELECT count(*) FROM jobqueue.dependencies) + (SELECT count(*) FROM jobqueue.dependents) + (SELECT '
	. 'count(*) FROM jobqueue.parents)', '0', 'nothing is kept for them');
sql('TRUNCATE ran, names');

# Random graphs against a model. Outcomes by name: what a task does by itself, and what people do to it.
my $seed = $ENV{SEED} // int(rand(1e9));
diag "seed $seed (SEED repeats)";
srand($seed);
for my $round (1 .. 12) {
	my $size = 5 + int rand 60;
	my (%after, %policy, %does, @names);
	for my $i (0 .. $size - 1) {
		my $name = sprintf 't%03d', $i;
		push @names, $name;
		my %parents;
		$parents{ $names[ int rand $i ] } = 1 for $i ? 1 .. int rand 4 : ();
		$after{$name} = [ sort keys %parents ];
		$policy{$name} = (qw(cancel run wait))[ int rand 3 ];
		$does{$name} = rand() < 0.15 ? 'fail' : rand() < 0.1 ? 'cancel' : 'complete';
	}
	# The model: how each one ends, before anybody retries anything, and after failed ones were retried and completed. A
	# retried task does not go through its parents again, nor do those that were cancelled because of it come back.
	my (%end, %later);
	for my $pass (\%end, \%later) {
		for my $name (@names) {
			my $own = $does{$name} eq 'cancel' ? 'cancelled' : $does{$name} eq 'fail'
				? ($pass == \%later ? 'completed' : 'failed') : 'completed';
			if ($pass == \%later && $end{$name} ne 'blocked') {
				$pass->{$name} = $end{$name} eq 'failed' ? 'completed' : $end{$name};
				next;
			}
			if ($does{$name} eq 'cancel') {
				$pass->{$name} = 'cancelled';
				next;
			}
			my @states = map { $pass->{$_} } @{ $after{$name} };
			my $bad = grep { /failed|cancelled/ } @states;
			my $blocked = grep { $_ eq 'blocked' } @states;
			if ($policy{$name} eq 'cancel' && $bad) { $pass->{$name} = 'cancelled' }
			elsif ($blocked || ($policy{$name} eq 'wait' && $bad)) { $pass->{$name} = 'blocked' }
			else { $pass->{$name} = $own }
		}
		# those that failed in this pass wait for a retry of their own
		if ($pass == \%later) {
			# what was blocked and fails when it runs at last is failed
			for my $name (@names) {
				next unless $end{$name} eq 'blocked' && $does{$name} eq 'fail' && $later{$name} eq 'completed';
				$later{$name} = 'failed';
			}
		}
	}
	my @flow;
	for my $name (@names) {
		my $type = $does{$name} eq 'fail' ? 'misstep' : 'step';
		my $queue = $does{$name} eq 'cancel' ? ', "queue": "paused"' : '';
		my $list = join ', ', map { qq("$_") } @{ $after{$name} };
		push @flow,
			qq({"name": "$name", "type": "$type"$queue, "after": [$list], "on_parent_failure": "$policy{$name}"});
	}
	my $flow = join ', ', sort { rand() <=> 0.5 } @flow;
	my $cancelled = join ', ', map { "'$_'" } 'nobody', grep { $does{$_} eq 'cancel' } @names;
	# some are enqueued all at once, and some are cancelled in the same transaction
	my $apart = rand() < 0.5 ? "COMMIT; BEGIN;" : '';
	sql(qq{SELECT jobqueue.pause_queue('paused'); BEGIN;
		INSERT INTO names SELECT name, id FROM jobqueue.enqueue_flow('[$flow]'); $apart
		SELECT jobqueue.cancel(id) FROM names WHERE name IN ($cancelled); COMMIT});
	my $states =
		q{SELECT string_agg(n.name || ' ' || t.status, ', ' ORDER BY n.name) FROM names n JOIN jobqueue.tasks t }
			. q{USING (id)};
	my $expected = join ', ', map { "$_ $end{$_}" } @names;
	wait_sql($node, 'app', $states, $expected, "random graph $round, $size tasks: as in the model")
	  or diag join "\n", (map { "$_ ($does{$_}, $policy{$_}) after @{$after{$_}}: $end{$_}" } @names), sql($states);
	# Retries: only once, of what failed; the model is simple because nothing fails again.
	if (!grep { $end{$_} eq 'blocked' && $does{$_} eq 'fail' } @names) {
		sql(q{UPDATE jobqueue.tasks_failed SET metadata = '{}'; SELECT jobqueue.retry(id) FROM jobqueue.tasks_failed});
		$expected = join ', ', map { "$_ $later{$_}" } @names;
		wait_sql($node, 'app', $states, $expected, "... and after the failed ones were retried")
		  or diag join "\n", (map { "$_ ($does{$_}, $policy{$_}) after @{$after{$_}}: $end{$_}, $later{$_}" } @names),
		  sql($states);
	}
	is(sql(q{SELECT count(*) FROM ran WHERE missing > 0 AND parents !~ 'failed|cancelled|pending|processing'}), '0',
		'... in order');
	sql(q{SELECT jobqueue.cancel_tasks(status => 'blocked'); SELECT jobqueue.delete_tasks(status => 'failed'); }
		. q{TRUNCATE ran, names});
	wait_sql($node, 'app', $idle, 't', '... and nothing is left');
}
sql(q{SELECT jobqueue.resume_queue('paused')});

# Killed while a graph runs: 40 by 200, with a closing task for each layer.
sql(<<'SQL');
	INSERT INTO names SELECT f.name, f.id FROM jobqueue.enqueue_flow(
		(SELECT jsonb_agg(jsonb_build_object('name', l || '_' || i, 'type', 'step',
		'after', CASE WHEN i = 0 THEN (SELECT jsonb_agg(l || '_' || k) FROM generate_series(1, 200) k)
			WHEN l > 1 THEN jsonb_build_array((l - 1) || '_0', (l - 1) || '_' || i) ELSE '[]' END) ORDER BY l, i)
		FROM generate_series(1, 40) l, generate_series(0, 200) i)) f;
SQL
for my $kill (1 .. 4) {
	my $done = sql('SELECT count(*) FROM ran');
	wait_sql($node, 'app', "SELECT count(*) > least($done + 1000, 8000) FROM ran", 't', "it goes on ($kill)");
	my ($pid) = pids($node, $kill % 2 ? 'worker' : 'scheduler', 'app');
	kill 'KILL', $pid;
	wait_sql($node, 'app', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", '0', '... after a crash');
}
wait_sql($node, 'app', $idle, 't', 'after four crashes everything has ended');
is(sql('SELECT count(*), count(*) FILTER (WHERE missing > 0), count(*) FILTER (WHERE parents !~ $$=completed!$$) '
	. 'FROM ran'), '8040|0|0', '... has run once, after its parents, whose results it had');
is(sql(q{SELECT count(*) FROM names JOIN jobqueue.tasks USING (id) WHERE status <> 'completed'}), '0',
	'... and is completed');
sql('TRUNCATE ran, names');

# Results without history
$node->append_conf('postgresql.conf', 'jobqueue.completed_retention = 0');
$node->restart;
sql('SELECT jobqueue.pause_queue(NULL); INSERT INTO names SELECT * FROM jobqueue.enqueue_flow($${
	"a": {"type": "step"}, "b": {"type": "step"}, "c": {"type": "step", "queue": "never"}, "d": {"type": "step", '
		. '"after": ["c"]},
	"e": {"type": "step", "after": ["a", "b", "d"], "on_parent_failure": "run"}}$$)');
sql(q{SELECT jobqueue.cancel(id) FROM names WHERE name = 'c'; SELECT jobqueue.resume_queue(NULL)});
wait_sql($node, 'app', $idle, 't', 'without history everything has ended');
is(sql('SELECT r.parents FROM ran r JOIN names ON id = task WHERE name = $$e$$'),
	'a=completed! b=completed! d=cancelled', '... and results were there');
is(sql('SELECT count(*) FROM jobqueue.tasks t JOIN names USING (id)'), '0', '... of tasks that are gone');
sql('INSERT INTO names SELECT $$f$$, jobqueue.enqueue($$step$$, after => ARRAY(SELECT id FROM names WHERE name = '
	. '$$a$$))');
wait_sql($node, 'app', 'SELECT count(*) FROM ran JOIN names ON id = task WHERE name = $$f$$', '1',
	'a parent that is gone holds nobody up');
$node->append_conf('postgresql.conf', "jobqueue.completed_retention = '7d'");
$node->restart;
sql('TRUNCATE ran, names');

# A parent that nobody can see yet, for it is prepared, or its transaction is open; and a child that is
sql(q{BEGIN; INSERT INTO names SELECT 'p', jobqueue.enqueue('step'); PREPARE TRANSACTION 'parent'});
sql(q{INSERT INTO names SELECT 'c', jobqueue.enqueue('step', after => }
	. q{ARRAY[(SELECT last_value FROM jobqueue.tasks_id_seq)])});
sql(q{INSERT INTO names SELECT 'q', jobqueue.enqueue('step', after => ARRAY(SELECT id FROM names WHERE name = }
	. q{'none' UNION SELECT jobqueue.enqueue('step')))});
wait_sql($node, 'app', 'SELECT count(*) FROM ran JOIN names ON id = task WHERE name = $$q$$', '1',
	'the scheduler has looked since');
is(sql(q{SELECT status FROM jobqueue.tasks JOIN names USING (id) WHERE name = 'c'}), 'blocked',
	'a task waits for one whose transaction has not ended');
sql(q{COMMIT PREPARED 'parent'});
wait_sql($node, 'app', 'SELECT string_agg(name, $$ $$ ORDER BY n) FROM ran JOIN names ON id = task', 'q p c',
	'... and runs after it');
sql(q{BEGIN; INSERT INTO names SELECT 'd', jobqueue.enqueue('step', after => ARRAY(SELECT id FROM names WHERE name }
	. q{= 'c')); PREPARE TRANSACTION 'child'});
sql(q{COMMIT PREPARED 'child'});
wait_sql($node, 'app', 'SELECT string_agg(name, $$ $$ ORDER BY n) FROM ran JOIN names ON id = task', 'q p c d',
	'a child that was prepared');

# Dump and restore
sql(q{SELECT jobqueue.pause_queue('default'); TRUNCATE ran, names;
	INSERT INTO names SELECT * FROM jobqueue.enqueue_flow('{"a": {"type": "step"},
		"b": {"type": "step", "after": ["a"]}, "c": {"type": "step", "after": ["a", "b"]}}')});
$node->command_ok([ 'pg_dump', '-Fc', '-f', $node->basedir . '/app.dump', $node->connstr('app') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $node->basedir . '/app.dump' ], 'restore');
$node->safe_psql('copy', q{SELECT jobqueue.resume_queue('default')});
is($node->safe_psql('copy', 'SELECT count(*) FROM jobqueue.dependencies'), '3', 'the dependencies are there');
$node->safe_psql('copy', 'SET client_min_messages = error; SELECT jobqueue.adopt()');
wait_sql($node, 'copy', 'SELECT string_agg(name, $$ $$ ORDER BY n) FROM ran JOIN names ON id = task', 'a b c',
	'after adopt() the flow goes on');
is($node->safe_psql('copy', 'SELECT parents FROM ran JOIN names ON id = task WHERE name = $$c$$'),
	'a=completed! b=completed!', '... with results');

$node->stop;
done_testing();
