# pg_dump and pg_restore keep everything, and a restored copy does nothing until adopt() is called.
#
# - tasks of every status, in every leaf; handlers; a paused queue; the sequence: equal after a restore into another
#   database, into another cluster, in plain format and with -Fd -j2
# - the copy says that it is paused, in its view and once in its log; it runs nothing, however long it waits, and
#   neither does it touch leases, due tasks or history; outside programs cannot claim from it either way by accident
# - after adopt() it works: what was being run when the dump was made runs again
# - the original is not disturbed
# - data only, into an existing extension; a dump of the schema alone
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('origin', autovacuum => 'off', 'jobqueue.poll_interval' => '200ms', max_worker_processes => 20);
my $other = start_node('elsewhere', autovacuum => 'off', 'jobqueue.poll_interval' => '200ms');
my $dir = PostgreSQL::Test::Utils::tempdir;

create_queue($node, 'app');
create_ledger($node, 'app');
$_->safe_psql('postgres', 'CREATE ROLE handy NOLOGIN') for ($node, $other);
allow_login($_, 'handy') for ($node, $other);
$node->safe_psql('app', <<'SQL');
	GRANT USAGE, CREATE ON SCHEMA public TO handy;
	SELECT jobqueue.grant_access('handy', 'producer');
	SELECT jobqueue.grant_access('handy', 'manager');
	CREATE FUNCTION fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'it''s "broken"'
		USING ERRCODE = 'AB123'; END $$;
	SELECT jobqueue.register_handler('fails', 'fails(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('retries', 'fails(jsonb)', first_delay => '1 day', max_delay => '1 day');
	CREATE FUNCTION "Odd" (task jobqueue.tasks) RETURNS jsonb LANGUAGE sql AS 'SELECT task.payload';
	SELECT jobqueue.register_handler('odd "type"', '"Odd"(jobqueue.tasks)', queue => 'a queue, é', run_as => 'handy',
		max_attempts => 3);
	CREATE TABLE orders (id int);
	CREATE TRIGGER receipt AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('unhandled');

	-- completed, failed, scheduled (waiting to retry, and for a time), by the engine
	INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 30);
	SELECT jobqueue.enqueue('fails');
	SELECT jobqueue.enqueue('retries', metadata => '{"mine": [1, null]}');
	SELECT jobqueue.enqueue('note', run_at => '2100-01-01', priority => 5::smallint);
	SELECT jobqueue.enqueue('odd "type"', '{"text": "line\nbreak \\ \" ''quoted'' é"}');
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 31, 'completed');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'failed'", 1, 'failed');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE attempts > 0 AND status = 'scheduled'", 1,
	'waiting to retry');
$node->safe_psql('app', <<'SQL');
	-- pending behind a pause, cancelled, claimed from outside with a lease and without; in every leaf of the history
	SELECT jobqueue.pause_queue('held');
	SELECT jobqueue.enqueue('note', queue => 'held') FROM generate_series(1, 5);
	SELECT jobqueue.cancel(jobqueue.enqueue('note', run_at => '2100-01-01'), 'a reason');
	INSERT INTO orders VALUES (1), (2), (3);
	SELECT id FROM jobqueue.claim(types => '{unhandled}', lease => '1 hour');
	UPDATE jobqueue.tasks SET status = 'processing'
		WHERE id = (SELECT min(id) FROM jobqueue.tasks WHERE type = 'unhandled' AND status = 'pending');
	SELECT jobqueue.enqueue('unhandled', priority => -3::smallint, max_attempts => 7);
	INSERT INTO jobqueue.tasks (type, status, slot, finished_at) SELECT 'old',
		CASE WHEN n % 2 = 0 THEN 'completed' ELSE 'cancelled' END, n, now()
		FROM generate_series(1, 8) n, generate_series(1, 3);
	INSERT INTO jobqueue.tasks (type, status) VALUES ('odd', 'blocked');
	SELECT jobqueue.enqueue('note', '{"sleep": 1000}');
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'", 1, 'one is running');
$node->safe_psql('app', "SELECT nextval('jobqueue.tasks_id_seq') FROM generate_series(1, 10)");

# Everything that a dump must keep, as text, in order; each leaf by itself.
my @leaves = ('tasks_live', 'tasks_failed', map { "tasks_history_$_" } 1 .. 8);

sub contents {
	my ($where, $database) = @_;
	my $text = '';
	$text .= "-- $_\n" . $where->safe_psql($database, "SELECT * FROM jobqueue.$_ ORDER BY id") . "\n" for @leaves;
	$text .= $where->safe_psql($database, <<'SQL');
		SELECT * FROM jobqueue.history_ring;
		SELECT type, handler, queue, run_as, max_attempts, incarnation, created_at,
			updated_at FROM jobqueue.handlers ORDER BY type;
		SELECT * FROM jobqueue.queues ORDER BY queue;
		SELECT * FROM jobqueue.unique_keys ORDER BY type, unique_key;
		SELECT last_value, is_called FROM jobqueue.tasks_id_seq;
		SELECT task FROM ledger ORDER BY task;
SQL
	return $text;
}

wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'note' AND status = 'processing'", 1,
	'one that is running');
is($node->safe_psql('app', "SELECT string_agg(DISTINCT status, ' ' ORDER BY status) FROM jobqueue.tasks"),
	'blocked cancelled completed failed pending processing scheduled', 'tasks of every status');
is($node->safe_psql('app', "SELECT count(DISTINCT tableoid) FROM jobqueue.tasks"), 10, 'in every leaf');
my $running =
	$node->safe_psql('app', 'SELECT pid, task_id, state_since FROM jobqueue.worker_status WHERE state = \'running\'');
my $expected = contents($node, 'app');

my $plain = "$dir/plain.sql";
my $directory = "$dir/directory";
$node->command_ok([ 'pg_dump', '-f', $plain, 'app' ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fd', '-j2', '-f', $directory, 'app' ], 'pg_dump -Fd -j2');
$node->command_ok([ 'pg_dump', '-s', '-f', "$dir/schema.sql", 'app' ], 'pg_dump --schema-only');
is(difference(contents($node, 'app'), $expected), '', 'nothing changed meanwhile');

# The first lines that differ, and nothing more.
sub difference {
	my ($got, $want) = map { [ split /\n/ ] } @_;
	for my $n (0 .. (@$got > @$want ? $#$got : $#$want)) {
		my ($one, $two) = map { $_->[$n] // '(nothing)' } $got, $want;
		return "line $n: got $one, expected $two" if $one ne $two;
	}
	return '';
}

sub check_copy {
	my ($where, $database) = @_;
	my $what = $where->name . ' ' . $database;
	is(difference(contents($where, $database), $expected), '', "$what: every row as it was");
	wait_sql($where, $database, 'SELECT bool_and(paused) FROM jobqueue.queue_status', 't',
		"$what: says that it is paused");
	is($where->safe_psql($database, "SELECT nextval('jobqueue.tasks_id_seq') > max(id) FROM jobqueue.tasks"), 't',
		"$what: new ids are new");
}

my $offset = log_size($node);
my $other_offset = log_size($other);
# A parallel restore may bring tasks before the row that pauses the copy: no poll must happen in between.
for my $where ($node, $other) {
	$where->safe_psql('postgres', q{ALTER SYSTEM SET jobqueue.poll_interval = '1h'});
	$where->reload;
}
for my $where ($node, $other) {
	$where->safe_psql('postgres', 'CREATE DATABASE from_plain');
	$where->safe_psql('postgres', 'CREATE DATABASE from_directory');
	$where->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $plain, '-d', 'from_plain' ], 'psql');
	$where->command_ok([ 'pg_restore', '-e', '-j2', '-d', 'from_directory', $directory ], 'pg_restore -j2');
	check_copy($where, $_) for 'from_plain', 'from_directory';
}
my $paused_at = time;
for my $where ($node, $other) {
	$where->safe_psql('postgres', 'ALTER SYSTEM RESET jobqueue.poll_interval');
	$where->reload;
}
# More than ten rounds of the fallback poll; tasks enqueued in the copies must not run either.
my %later;
for my $where ($node, $other) {
	for my $database ('from_plain', 'from_directory') {
		$later{ $where->name }{$database} = $where->safe_psql($database, "SELECT jobqueue.enqueue('note')");
	}
}
for (1 .. 8) {
	my $id = $node->safe_psql('app', "SELECT jobqueue.enqueue('odd \"type\"', queue => 'default')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'the original goes on')
		if $_ == 8;
	$other->safe_psql('postgres', 'SELECT pg_sleep(0.3)');
}
for my $where ($node, $other) {
	for my $database ('from_plain', 'from_directory') {
		my $what = $where->name . ' ' . $database;
		$where->safe_psql($database, "DELETE FROM jobqueue.tasks WHERE id = $later{$where->name}{$database}")
			if $database eq 'from_plain';
		is($where->safe_psql($database, "SELECT count(*), count(DISTINCT task) FROM ledger"), '30|30',
			"$what: nothing ran");
		is($where->safe_psql($database, "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'"), 0,
			"$what: nothing runs");
		is(scalar(log_matches($where, qr/(WARNING|LOG): .*"$database"/, $where == $node ? $offset : $other_offset)), 1,
			"$what: says so once in the log");
	}
	ok(scalar(log_matches($where, qr/HINT: .*adopt\(\)/, $where == $node ? $offset : $other_offset)),
		'with the command to use');
}
is($node->safe_psql('app', 'SELECT pid, task_id, state_since FROM jobqueue.worker_status WHERE state = \'running\''),
	$running,
	'the handler that ran in the original all the time still runs');

# A server's restart changes nothing about it.
$other->restart;
$other->safe_psql('postgres', 'SELECT pg_sleep(1)');
is($other->safe_psql('from_plain', 'SELECT bool_and(paused) FROM jobqueue.queue_status'), 't',
	'paused after a restart, too');
is($other->safe_psql('from_plain', "SELECT count(*) FROM ledger"), 30, 'nothing ran');

# --------------------------------------------------------------------------------------------------------------------
# adopt

# A copy does not wait for a process. After more than ten seconds a warning would say that it has waited.
$node->safe_psql('postgres', "SELECT pg_sleep(greatest(0, 12 - (extract(epoch FROM now()) - $paused_at)))");
for my $where ($node, $other) {
	for my $database ('from_plain', 'from_directory') {
		my $what = $where->name . ' ' . $database;
		# What was being run by the original: runs again here, but not for 1000 s.
		$where->safe_psql($database, "UPDATE jobqueue.tasks SET payload = '{\"sleep\": 0}' WHERE payload ? 'sleep'");
		my $id = $where->safe_psql($database, "SELECT jobqueue.enqueue('note')");
		is($where->safe_psql($database, 'SELECT jobqueue.adopt()'), 't', "$what: adopt()");
		wait_sql($where, $database, "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
			"$what: tasks run");
		wait_sql($where, $database, "SELECT status FROM jobqueue.tasks WHERE payload ? 'sleep'", 'completed',
			"$what: also the one that the original was running");
		is($where->safe_psql($database, "SELECT status FROM jobqueue.tasks WHERE queue = 'held' GROUP BY status"),
			'pending',
			"$what: the queue that was paused still is");
		is($where->safe_psql($database, "SELECT jobqueue.resume_queue('held')"), 't', "$what: until it is resumed");
		wait_sql($where, $database,
			"SELECT count(*) FROM jobqueue.tasks WHERE queue = 'held' AND status <> 'completed'", 0,
			"$what: then its tasks run");
		my $odd = $where->safe_psql($database, "SELECT jobqueue.enqueue('odd \"type\"', '[1]')");
		wait_sql($where, $database, "SELECT status, queue, result FROM jobqueue.tasks WHERE id = $odd",
			'completed|a queue, é|[1]',
			"$what: handlers of other roles, with odd names, work");
		my $receipt = $where->safe_psql($database,
			"INSERT INTO orders VALUES (9); SELECT count(*) FROM jobqueue.tasks WHERE payload->'new'->>'id' = '9'");
		is($receipt, 1, "$what: triggers with enqueue_row() work");
		is($where->safe_psql($database, "SET ROLE handy; SELECT jobqueue.enqueue('unhandled') > 0"), 't',
			"$what: rights were kept");
		is($where->safe_psql($database, "SELECT bool_or(paused) FROM jobqueue.queue_status"), 'f',
			"$what: nothing is paused now");
		is($where->safe_psql($database, "SELECT count(*) FROM jobqueue.tasks WHERE last_sqlstate = '23505'"), 0,
			"$what: nothing ran twice");
	}
}
$other->restart;
my $after = $other->safe_psql('from_plain', "SELECT jobqueue.enqueue('note')");
wait_sql($other, 'from_plain', "SELECT status FROM jobqueue.tasks WHERE id = $after", 'completed', 'adopted for good');

# An adopted copy can be dumped and restored again.
$other->safe_psql('postgres', 'CREATE DATABASE again');
$other->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/again", 'from_plain' ], 'dump of an adopted copy');
$other->command_ok([ 'pg_restore', '-e', '-d', 'again', "$dir/again" ], 'restored');
wait_sql($other, 'again', 'SELECT bool_and(paused) FROM jobqueue.queue_status', 't', 'paused again');
is($other->safe_psql('again', 'SELECT jobqueue.adopt()'), 't', 'adopted again');
$after = $other->safe_psql('again', "SELECT jobqueue.enqueue('note')");
wait_sql($other, 'again', "SELECT status FROM jobqueue.tasks WHERE id = $after", 'completed', 'and works');

# The schema alone is a new, empty installation.
$other->safe_psql('postgres', 'CREATE DATABASE empty');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/schema.sql", '-d', 'empty' ],
	'the schema alone');
is($other->safe_psql('empty', 'SELECT count(*) FROM jobqueue.tasks'), 0, 'has no tasks');
is($other->safe_psql('empty', 'SELECT jobqueue.adopt()'), 'f', 'and is no copy');
create_ledger($other, 'empty') if $other->psql('empty', 'DROP TABLE ledger; DROP FUNCTION note') == 0;
$after = $other->safe_psql('empty', "SELECT jobqueue.enqueue('note')");
wait_sql($other, 'empty', "SELECT status FROM jobqueue.tasks WHERE id = $after", 'completed', 'it works');

is(unexpected_in_log($_, qr/restored or copied database|broken/), '', 'nothing unexpected in the log')
	for ($node, $other);
$_->stop for ($node, $other);
done_testing();
