# Unique tasks under load, and what they outlive.
#
# - 64 clients enqueue the same 1,000 keys 100,000 times: exactly 1,000 tasks, 1,000 calls that were told theirs is new,
#   and every other call was given the id of the task that has the key. Then, with fewer calls: the other scopes,
#   rollbacks in between, and replace, after which each payload is one of those that were written for its key
# - the same with the server killed in the middle
# - with workers: each task that was added runs once, and a replaced one runs with the last payload, when that is due
# - a task that gave up its key, and then its worker, or the server, does not get in the way of the one that took it
# - pg_dump and pg_restore keep the keys; the scheduler removes those whose period is over
# - another tenant's keys
#
# JOBQUEUE_CALLS=1000000 for a long run; fewer than 100,000 may not come to every key.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IPC::Run;
use JobQueueTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $calls = $ENV{JOBQUEUE_CALLS} // 100_000;
my $clients = 64;
my $keys = 1_000;
my $node = start_node('unique', max_connections => 100, max_worker_processes => 16, 'jobqueue.poll_interval' => '200ms',
	restart_after_crash => 'on');
my $dir = PostgreSQL::Test::Utils::tempdir;
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.pause_queue('paused');
	CREATE TABLE returned (test text, key int, id bigint, is_new boolean, payload jsonb);
	CREATE TABLE runs (task bigint, key text, payload jsonb);
	CREATE INDEX ON runs (task);
	CREATE FUNCTION run(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.runs VALUES (task.id, task.unique_key, task.payload);
		PERFORM pg_sleep(3600) WHERE task.payload ? 'hangs' AND task.attempts = 1;
	END $$;
	SELECT jobqueue.register_handler('runs', 'run(jobqueue.tasks)');
SQL

# The command that makes so many calls for a test; $options are arguments of enqueue_unique.
sub bench {
	my ($test, $n, $options, $queue) = @_;
	my $call =
		"INSERT INTO returned SELECT '$test', :key, e.id, e.is_new, to_jsonb(:value::int) FROM "
			. "jobqueue.enqueue_unique('$test', "
	  . "to_jsonb(:value::int), queue => '" . ($queue // 'paused') . "', unique_key => 'key ' || :key, $options) e;\n";
	# every client walks over the keys, from one of a few places on, so that many are at the same key all the time
	my $each = int($n / $clients) + 1;
	my $places = POSIX::ceil($keys / $each);
	my $apart = POSIX::ceil($keys / $places);
	my $choose =
		"\\set n :n + 1\n\\set key 1 + (:client_id % $places * $apart + :n) % $keys\n\\set value random(1, "
			. "1000000000)\n";
	append_to_file("$dir/$test", "$choose$call");
	append_to_file("$dir/$test.back", "${choose}BEGIN;\n${call}ROLLBACK;\n");
	return ('pgbench', '-n', '-D', 'n=0', '-c', $clients, '-j', 2, '-t', $each, '-f', "$dir/$test\@9", '-f',
		"$dir/$test.back\@" . ($n == $calls ? 0 : 1),
		$node->connstr('app'));
}

# Whether there are as many tasks as keys, and all calls know them. $kept: nobody's payload was replaced.
sub check_exact {
	my ($test, $least, $kept) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('app', "SELECT count(*), count(DISTINCT unique_key) FROM jobqueue.tasks WHERE type = '$test'"),
		"$keys|$keys",
		"$test: exactly $keys tasks");
	my ($n, $new, $distinct) = split /\|/, $node->safe_psql('app',
		"SELECT count(*), count(*) FILTER (WHERE is_new), count(DISTINCT (key, id)) FROM returned WHERE test = "
			. "'$test'");
	cmp_ok($n, '>=', $least, "$test: after $n calls");
	is($new, $keys, "$test: so many were told that theirs is new");
	is($distinct, $keys, "$test: one id for each key");
	is($node->safe_psql('app',
		"SELECT count(*) FROM returned r LEFT JOIN jobqueue.tasks t ON t.id = r.id AND t.unique_key = 'key ' || r.key
		WHERE test = '$test' AND t.id IS NULL"), 0, "$test: that of its task");
	is($node->safe_psql('app',
		"SELECT count(*) FROM jobqueue.tasks t WHERE type = '$test' AND NOT EXISTS (SELECT 1 FROM returned r
		WHERE r.id = t.id AND r.payload = t.payload" . ($kept ? ' AND r.is_new)' : ')')), 0,
		"$test: " . ($kept ? 'with the payload of the first call' : 'with a payload that was written for this key'));
}

# --------------------------------------------------------------------------------------------------------------------
# Many clients, few keys

my $begin = time;
$node->command_ok([ bench('live', $calls, "unique_scope => 'live'") ],
	"$clients clients enqueue $keys keys $calls times");
diag sprintf '%d calls in %.1f s', $calls, time - $begin;
check_exact('live', $calls, 1);
my %variants = (
	waiting => "unique_scope => 'waiting'",
	period => "unique_for => '1 hour'",
	replace => "on_conflict => 'replace', delay => '1 hour'",
	replace_waiting => "on_conflict => 'replace', unique_scope => 'waiting'",
	replace_period => "on_conflict => 'replace', unique_for => '1 hour'");
for my $test (sort keys %variants) {
	$node->command_ok([ bench($test, $calls / 4, $variants{$test}) ], "$test: likewise, with rollbacks in between");
	check_exact($test, $calls / 5, $test !~ /replace/);
}
is($node->safe_psql('app',
	"SELECT count(*), count(DISTINCT status) FROM jobqueue.tasks WHERE type = 'replace' AND status = 'scheduled' AND "
		. "run_at > now()"),
	"$keys|1", 'replace: they are due when the last call said');

# --------------------------------------------------------------------------------------------------------------------
# The server is killed in the middle

for my $test (qw(killed_live killed_period)) {
	my @bench = bench($test, $calls / 4, $test eq 'killed_live' ? "unique_scope => 'live'" : "unique_for => '1 hour'");
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start(\@bench, '>', \$out, '2>', \$err);
	ok(wait_for(sub { $node->safe_psql('app', "SELECT count(*) > $keys / 2 FROM returned WHERE test = '$test'")
		eq 't' }), "$test: in the middle");
	my @processes = ($node->{_pid}, JobQueueTest::children($node, qr/./));
	$node->kill9;
	$run->finish;
	wait_for(sub { !grep { kill 0, $_ } @processes }) or die 'the server is still there';
	$node->start;
	my $before = $node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE type = '$test'");
	note "$before tasks survived";
	is($node->safe_psql('app', "SELECT count(DISTINCT key) FROM returned WHERE test = '$test' AND is_new"), $before,
		"$test: every call that was committed is there");
	$node->command_ok(\@bench, "$test: again");
	check_exact($test, $calls / 5, 1);
}

# --------------------------------------------------------------------------------------------------------------------
# With workers

$keys = 50;
for my $scope (qw(live waiting)) {
	my $type = "runs_$scope";
	$node->safe_psql('app', "SELECT jobqueue.register_handler('$type', 'run(jobqueue.tasks)')");
	$node->command_ok([ bench($type, $calls / 10, "unique_scope => '$scope', on_conflict => 'replace'", 'default') ],
		"$scope: while they are run");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = '$type'", 0, "$scope: all are done");
	is($node->safe_psql('app',
		"SELECT count(*) FROM jobqueue.tasks t FULL JOIN (SELECT id FROM returned WHERE test = '$type' AND is_new) r "
			. "USING (id)
		WHERE (t.type = '$type' OR t.id IS NULL) AND (t.status IS DISTINCT FROM 'completed' OR r.id IS NULL)"), 0,
		"$scope: each task that was added was run");
	is($node->safe_psql('app',
		"SELECT count(*) FROM jobqueue.tasks t WHERE type = '$type' AND (SELECT array_agg(r.payload) FROM runs r "
			. "WHERE r.task = t.id)
		IS DISTINCT FROM ARRAY[t.payload]"), 0, "$scope: once, with the payload that it had at last");
	is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE type = '$type' AND last_error IS NOT NULL"),
		0, "$scope: without error");
}

# Debounce: each call moves the time. Only the last one sets a time that may come before the next call.
$node->safe_psql('app',
	"SELECT jobqueue.enqueue('runs', to_jsonb($_), unique_key => 'debounce', on_conflict => 'replace', delay => '"
		. ($_ < 10 ? '1 hour' : '1 s') . "')") for 1 .. 10;
my ($debounced, $due) = split /\|/, $node->safe_psql('app',
	"SELECT id, run_at - created_at > '1 s' FROM jobqueue.tasks WHERE unique_key = 'debounce'");
is($due, 't', 'the time has moved');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $debounced", 'completed', 'debounced: it runs');
is($node->safe_psql('app',
	"SELECT count(*), min(runs.payload::text), bool_and(t.processed_at >= t.run_at) FROM runs JOIN jobqueue.tasks t "
		. "ON t.id = task
	WHERE key = 'debounce'"), '1|10|t', '... once, with the last payload, when that was due')
	or diag $node->safe_psql('app', 'SELECT * FROM runs WHERE key = \'debounce\'');
# and one that waited for long is hurried
my $hurried = $node->safe_psql('app', "SELECT jobqueue.enqueue('runs', '1', unique_key => 'hurried', delay => '1 day');
	SELECT jobqueue.enqueue('runs', '2', unique_key => 'hurried', on_conflict => 'replace')") =~ s/.*\n//sr;
wait_sql($node, 'app', "SELECT status, payload FROM jobqueue.tasks WHERE id = $hurried", 'completed|2',
	'replaced without delay: it runs at once');

# --------------------------------------------------------------------------------------------------------------------
# A task whose key another task has by now comes back, from a worker that was terminated, and from one that crashed.

for my $signal (qw(TERM KILL)) {
	my $start =
		"SELECT jobqueue.enqueue('runs', '{\"hangs\": true}', unique_key => '$signal', unique_scope => 'waiting')";
	my $first = $node->safe_psql('app', $start);
	wait_sql($node, 'app', "SELECT status, unique_scope FROM jobqueue.tasks WHERE id = $first", 'processing|started',
		"$signal: one has started");
	my $second =
		$node->safe_psql('app',
			"SELECT jobqueue.enqueue('runs', '{}', unique_key => '$signal', unique_scope => 'waiting', delay => '2 "
				. "s')");
	cmp_ok($second, '>', $first, "$signal: another has its key");
	my $pid = $node->safe_psql('app', "SELECT pid FROM jobqueue.worker_status WHERE task_id = $first");
	my $offset = log_size($node);
	kill $signal, $pid;
	ok(wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) }), 'the server is back') if $signal
		eq 'KILL';
	wait_for(sub { $node->psql('app', 'SELECT 1') == 0 });
	wait_sql($node, 'app',
		"SELECT string_agg(concat_ws(' ', status, attempts, unique_scope), ', ' ORDER BY id) FROM jobqueue.tasks "
			. "WHERE id IN ($first, $second)",
		'completed 2 started, completed 1 started', "$signal: both are done");
}

# --------------------------------------------------------------------------------------------------------------------
# Dump and restore

$node->safe_psql('app',
	"SELECT jobqueue.enqueue_unique('kept', queue => 'paused', unique_key => 'é \"', unique_for => '1 day');
	SELECT jobqueue.enqueue('kept', queue => 'paused', unique_key => 'live')");
my $kept = 'SELECT * FROM jobqueue.unique_keys ORDER BY type, unique_key';
my $expected = $node->safe_psql('app', $kept);
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'app' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-e', '-d', 'copy', "$dir/dump" ], 'pg_restore');
is($node->safe_psql('copy', $kept), $expected, 'restored: the keys');
is($node->safe_psql('copy',
	"SELECT is_new FROM jobqueue.enqueue_unique('kept', unique_key => 'é \"', unique_for => '1 day');
	SELECT is_new FROM jobqueue.enqueue_unique('kept', unique_key => 'live');
	SELECT is_new FROM jobqueue.enqueue_unique('kept', unique_key => 'free', unique_for => '1 day')"), "f\nf\nt",
		'restored: they are taken');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# Expired ones are removed, however many, and no others.
$node->safe_psql('app',
	"DELETE FROM jobqueue.unique_keys; INSERT INTO jobqueue.unique_keys SELECT 'x', n, n, now() + make_interval(secs "
		. "=> 0.0001 * n) FROM generate_series(1, 3000) n;
	INSERT INTO jobqueue.unique_keys SELECT 'y', n, n, now() + '1 day' FROM generate_series(1, 3) n");
wait_sql($node, 'app', "SELECT string_agg(type, '') FROM jobqueue.unique_keys", 'yyy',
	'the scheduler removes keys whose period is over');

# --------------------------------------------------------------------------------------------------------------------
# Another tenant's keys

$node->safe_psql('app', <<'SQL');
	CREATE ROLE eve LOGIN;
	CREATE ROLE victor LOGIN;
	CREATE ROLE vera LOGIN;             -- another producer in victor's queue
	CREATE ROLE valet LOGIN IN ROLE victor;
	CREATE ROLE overseer LOGIN;         -- a consumer of victor's queue, and a producer elsewhere
	SELECT jobqueue.grant_access(r, l, q) FROM (VALUES ('eve'::name, 'eve'), ('victor', 'victor')) a(r, q),
		unnest(ARRAY['producer', 'consumer', 'manager']) l;
	SELECT jobqueue.grant_access('vera', 'producer', 'victor');
	SELECT jobqueue.grant_access('overseer', 'producer', 'elsewhere');
	SELECT jobqueue.grant_access('overseer', 'consumer', 'victor');
	GRANT CREATE ON SCHEMA public TO victor;
	SELECT jobqueue.pause_queue('victor');
SQL

# The SQLSTATE, with whatever the message and its detail say, or what the last statement returns.
sub as {
	my ($who, $sql) = @_;
	my ($status, $out, $err) = $node->psql('app', $sql, on_error_stop => 1,
		extra_params => [ '-U', $who, '-v', 'VERBOSITY=verbose' ]);
	return $err =~ s/.*?ERROR:\s+(\w{5}):/$1/sr if $err =~ /ERROR:/;
	return (split /\n/, $out)[-1] // '';
}

sub enqueue {
	my ($who, $type, $more) = @_;
	return as($who, "SELECT is_new, id FROM jobqueue.enqueue_unique('$type', '\"$who\"', $more)");
}

as('victor',
	"CREATE FUNCTION victors(jsonb) RETURNS void LANGUAGE sql AS ''; SELECT jobqueue.register_handler('victors', "
		. "'victors(jsonb)', queue => 'victor')");
for my $scope ("unique_scope => 'live'", "unique_scope => 'waiting'", "unique_for => '1 hour'") {
	my $key = "unique_key => 'daily', $scope";
	# A type with a handler: its keys are for those who may enqueue for that.
	like(enqueue('eve', 'victors', "queue => 'eve', $key"), qr/^42501/,
		"$scope: eve cannot take keys of a type that victor handles");
	my ($new, $id) = split /\|/, enqueue('victor', 'victors', $key);
	is($new, 't', "$scope: they are his");
	like(enqueue('eve', 'victors', "queue => 'eve', $key, on_conflict => '$_'"), qr/^42501(?!.*\b$id\b)/s,
		"$scope: ... and she is told nothing: $_")
	  for qw(keep replace error);
	# A type without: first come, first served, but no more than that.
	($new, $id) = split /\|/, enqueue('victor', 'anybodys', "queue => 'victor', $key");
	is($new, 't', "$scope: a type of nobody's");
	like(enqueue('eve', 'anybodys', "queue => 'eve', $key, on_conflict => '$_'"),
		$_ eq 'replace' ? qr/^42501(?!.*\b$id\b)(?!.*queue "victor")/s : qr/^23505(?!.*\b$id\b)/s,
		"$scope: that it is taken is all that eve learns: $_") for qw(keep error replace);
	like(enqueue('eve', 'anybodys', "queue => 'victor', $key, on_conflict => '$_'"), qr/^42501(?!.*\b$id\b)/s,
		"$scope: not even that of victor's queue: $_")
	  for qw(keep replace error);
	is($node->safe_psql('app', "SELECT payload, status FROM jobqueue.tasks WHERE id = $id"), '"victor"|pending',
		"$scope: his task is as it was");
	is(enqueue('vera', 'anybodys', "queue => 'victor', $key"), "f|$id",
		"$scope: another producer of the queue is told the id");
	like(enqueue('vera', 'anybodys', "queue => 'victor', $key, on_conflict => 'replace'"), qr/^42501/,
		"$scope: ... but replaces nothing");
	is(enqueue('overseer', 'anybodys', "queue => 'elsewhere', $key"), "f|$id", "$scope: so is a consumer of the queue");
	like(enqueue('overseer', 'anybodys', "queue => 'elsewhere', $key, on_conflict => 'replace'"), qr/^42501/,
		"$scope: ... who replaces nothing either");
	is(enqueue('valet', 'anybodys', "queue => 'victor', $key, on_conflict => 'replace'"), "f|$id",
		"$scope: a member of his role may");
	is($node->safe_psql('app', "SELECT payload, created_by FROM jobqueue.tasks WHERE id = $id"), '"valet"|victor',
		"$scope: ... and it stays his");
	is(enqueue('victor', 'anybodys', "queue => 'victor', $key, on_conflict => 'replace'"), "f|$id",
		"$scope: so may he");
	# one that has lost the queue can no longer replace what it has there
	$node->safe_psql('app',
		"SELECT jobqueue.grant_access('victor', 'producer', 'second'), jobqueue.revoke_access('victor', 'producer', "
			. "'victor')");
	like(enqueue('victor', 'anybodys', "queue => 'second', $key, on_conflict => 'replace'"), qr/^42501/,
		"$scope: unless the queue is his no more");
	$node->safe_psql('app',
		"SELECT jobqueue.grant_access('victor', 'producer', 'victor'), jobqueue.revoke_access('victor', 'producer', "
			. "'second')");
	# while it runs it is not replaced, by nobody
	$node->safe_psql('app', 'SELECT jobqueue.resume_queue(\'victor\')');
	is(as('victor', "SELECT count(*) FROM jobqueue.claim('victor', types => '{anybodys}')"), 1, "$scope: it runs");
	like(enqueue('eve', 'anybodys', "queue => 'eve', $key, on_conflict => 'replace'"),
		$scope =~ /waiting/ ? qr/^t/ : qr/^23505(?!.*\b$id\b)/s,
		"$scope: eve is told no more while it does, or has the key");
	$node->safe_psql('app',
		"SELECT jobqueue.pause_queue('victor'); DELETE FROM jobqueue.tasks WHERE type = 'anybodys'");
}
like(as('eve', "INSERT INTO jobqueue.tasks (type, queue, unique_key) VALUES ('anybodys', 'eve', 'k')"), qr/^42501/,
	'no key with INSERT');
like(as('eve', "UPDATE jobqueue.tasks SET unique_key = 'k'"), qr/^42501/, 'nor with UPDATE');
like(as('eve', $_), qr/^42501/, $_) for 'SELECT * FROM jobqueue.unique_keys', 'DELETE FROM jobqueue.unique_keys',
	'TRUNCATE jobqueue.unique_keys',
  "INSERT INTO jobqueue.unique_keys VALUES ('a', 'k', 1, 'infinity')";

is(unexpected_in_log($node,
	qr/\(PID\ \d+\)\ was\ terminated\ by\ signal\ 9:\ Killed|terminating\ connection\ because\ of\ crash
		|restored\ or\ copied\ database/x), '',
	'nothing unexpected in the log');
$node->stop;
done_testing();
